"""magic-pyramid wrap: files of the three libraries in, files of codes out, which the stand-ins search."""

from __future__ import annotations

import json

import annoy
import faiss
import hnswlib
import numpy as np
import pytest

from knn_adapters import annoy as our_annoy
from knn_adapters import faiss as our_faiss
from knn_adapters import hnswlib as our_hnswlib
from mp_plugins import cli

N, DIM, K = 600, 24, 10
RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((N, DIM), np.float32)
QUERIES = RNG.standard_normal((20, DIM), np.float32)


def write_faiss(path):
    index = faiss.IndexFlatL2(DIM)
    index.add(VECTORS)
    faiss.write_index(index, str(path))
    return index.search(QUERIES, K)[1]


def write_hnswlib(path):
    index = hnswlib.Index("cosine", DIM)
    index.init_index(N, ef_construction=60, M=8)
    index.add_items(VECTORS)
    index.set_ef(80)
    index.save_index(str(path))
    return index.knn_query(QUERIES, K)[0]


def write_annoy(path):
    index = annoy.AnnoyIndex(DIM, "angular")
    for item, vector in enumerate(VECTORS):
        index.add_item(item, vector)
    index.build(10)
    index.save(str(path))
    return [index.get_nns_by_vector(query, K, search_k=4000) for query in QUERIES]


def search_faiss(path):
    # A stock file: the library itself and its stand-in find the same, but for the order of near ties.
    found = faiss.read_index(str(path)).search(QUERIES, K)[1]
    assert np.mean(found == our_faiss.read_index(str(path)).search(QUERIES, K)[1]) > 0.95
    return found


def search_hnswlib(path):
    index = our_hnswlib.Index("cosine", DIM)
    index.load_index(str(path))
    index.set_ef(80)
    return index.knn_query(QUERIES, K)[0]


def search_annoy(path):
    index = our_annoy.AnnoyIndex(DIM, "angular")
    index.load(str(path))
    return [index.get_nns_by_vector(query, K, search_k=4000) for query in QUERIES]


LIBRARIES = {
    "faiss": (write_faiss, search_faiss, []),
    "hnswlib": (write_hnswlib, search_hnswlib, ["--metric", "cosine"]),
    "annoy": (write_annoy, search_annoy, ["--metric", "angular", "--dim", str(DIM)]),
}


@pytest.fixture(params=sorted(LIBRARIES))
def library(request):
    return request.param


@pytest.fixture
def source(library, tmp_path):
    path = tmp_path / "index"
    LIBRARIES[library][0](path)
    return path


def test_what_is_written_is_smaller_and_finds_the_same(library, tmp_path, capsys):
    write, search, options = LIBRARIES[library]
    source, target = tmp_path / "plain", tmp_path / "codes"
    expected = write(source)
    before = source.read_bytes()
    assert cli.main(["wrap", str(source), str(target), *options, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["library"], printed["n_vectors"], printed["dim"], printed["bits"]) == (library, N, DIM, 8)
    assert (printed["bytes_in"], printed["bytes_out"]) == (len(before), target.stat().st_size)
    assert target.stat().st_size < 0.8 * len(before)
    assert source.read_bytes() == before
    found = search(target)
    recall = np.mean([len(set(ours) & set(theirs)) / K for ours, theirs in zip(found, expected, strict=True)])
    assert recall > 0.95


def test_the_figures_are_printed_for_people_too(library, source, tmp_path, capsys):
    options = [*LIBRARIES[library][2], "--bits", "4", "--library", library]
    assert cli.main(["wrap", str(source), str(tmp_path / "codes"), *options]) == 0
    printed = capsys.readouterr()
    assert "4 bits" in printed.out
    assert f"{source.stat().st_size:,} bytes" in printed.out
    assert printed.err.startswith(f"reading {source} as a file of {library} ...\nquantizing ...\n")


def test_a_file_is_not_overwritten_unasked(library, source, tmp_path, capsys):
    target = tmp_path / "codes"
    target.write_text("mine")
    call = ["wrap", str(source), str(target), *LIBRARIES[library][2]]
    assert cli.main(call) == 2
    assert "`OUT` must not exist" in capsys.readouterr().err
    assert target.read_text() == "mine"
    assert cli.main([*call, "--overwrite"]) == 0
    assert target.stat().st_size > 4


def test_a_damaged_file_is_one_line(library, source, tmp_path, capsys):
    content = source.read_bytes()
    # Annoy's files have no end of their own: only a part of a node shows.
    source.write_bytes(content[: len(content) // 2 - 1])
    assert cli.main(["wrap", str(source), str(tmp_path / "codes"), *LIBRARIES[library][2]]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("magic-pyramid: error: `IN` cannot be read as a file of")
    assert not (tmp_path / "codes").exists()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("hnswlib", [], "`--metric` must be one of l2, ip, cosine for hnswlib, got none"),
        ("hnswlib", ["--metric", "angular"], "`--metric` must be one of l2, ip, cosine for hnswlib, got angular"),
        ("hnswlib", ["--metric", "l2", "--dim", "24"], "`--dim` must be left out for hnswlib"),
        ("annoy", ["--metric", "hamming", "--dim", "24"], "`--metric` must be one of angular, euclidean, dot"),
        ("annoy", ["--metric", "dot"], "`--dim` must be at least 1 for annoy, got none"),
        ("annoy", ["--metric", "dot", "--dim", "0"], "`--dim` must be at least 1 for annoy, got 0"),
        ("faiss", ["--metric", "l2"], "`--metric` must be left out for FAISS"),
        ("faiss", ["--dim", "24"], "`--dim` must be left out for faiss"),
    ],
)
def test_wrong_options_are_wrong_usage(tmp_path, capsys, kind, options, message):
    LIBRARIES[kind][0](tmp_path / "index")
    assert cli.main(["wrap", str(tmp_path / "index"), str(tmp_path / "codes"), *options]) == 2
    assert message in capsys.readouterr().err


def test_what_holds_codes_already_is_refused(tmp_path, capsys):
    write_hnswlib(tmp_path / "index")
    call = ["wrap", str(tmp_path / "index"), str(tmp_path / "codes"), "--metric", "cosine"]
    assert cli.main(call) == 0
    assert cli.main(["wrap", str(tmp_path / "codes"), str(tmp_path / "again"), "--metric", "cosine"]) == 2
    assert "which holds codes already" in capsys.readouterr().err


def test_there_must_be_a_file(tmp_path, capsys):
    assert cli.main(["wrap", str(tmp_path), str(tmp_path / "codes")]) == 2
    assert "`IN` must be a file" in capsys.readouterr().err
