"""magic-pyramid bench index: an index file of each kind beside its quantized form."""

from __future__ import annotations

import json

import annoy
import faiss
import hnswlib
import numpy as np
import pytest

from mp_plugins import cli

N, DIM = 2500, 16
RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((N, DIM), np.float32)
QUERIES = RNG.standard_normal((12, DIM), np.float32)


def faiss_index(description):
    def write(path):
        index = faiss.index_factory(DIM, description)
        index.train(VECTORS)
        if "IDMap" in description:
            index.add_with_ids(VECTORS, np.arange(N) + 10_000)
        else:
            index.add(VECTORS)
        faiss.write_index(index, str(path))

    return write


def hnswlib_index(path):
    index = hnswlib.Index("l2", DIM)
    index.init_index(N, ef_construction=60, M=8)
    index.add_items(VECTORS, np.arange(N) + 500)
    index.save_index(str(path))


def annoy_index(path):
    index = annoy.AnnoyIndex(DIM, "euclidean")
    for item, vector in enumerate(VECTORS):
        index.add_item(item, vector)
    index.build(10)
    index.save(str(path))


CASES = {
    "flat": (faiss_index("Flat"), [], ""),
    "graph": (faiss_index("HNSW8,Flat"), [], "efSearch"),
    "lists": (faiss_index("IVF8,Flat"), [], "nprobe"),
    "ids": (faiss_index("IDMap,HNSW8,Flat"), [], "efSearch"),
    "hnswlib": (hnswlib_index, ["--metric", "l2"], "ef"),
    "annoy": (annoy_index, ["--metric", "euclidean", "--dim", str(DIM)], "search_k"),
}


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr("knn_adapters.comparison._SECONDS", 0.0)
    monkeypatch.setattr("knn_adapters.comparison._ROUNDS", 1)


def bench(capsys, tmp_path, *arguments):
    np.save(tmp_path / "queries.npy", QUERIES)
    capsys.readouterr()
    code = cli.main(["bench", "index", str(tmp_path / "index"), str(tmp_path / "queries.npy"), *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("case", sorted(CASES))
def test_every_kind_is_measured_as_its_knob_is_turned(capsys, tmp_path, case):
    write, flags, knob = CASES[case]
    write(tmp_path / "index")
    code, out, error = bench(capsys, tmp_path, *flags, "--json")
    assert code == 0, error
    figures = json.loads(out)
    assert figures["effort_name"] == knob
    assert figures["stats"]["n_vectors"] == N
    for original, wrapped in zip(figures["curves"]["original"], figures["curves"]["wrapped"], strict=True):
        assert original["effort"] == wrapped["effort"]
        assert wrapped["recall"] == pytest.approx(original["recall"], abs=0.1)
    # With the most effort the index finds what exact search over its own vectors does, under their ids.
    assert figures["curves"]["original"][-1]["recall"] > 0.9
    if knob:
        assert figures["curves"]["original"][0]["recall"] < figures["curves"]["original"][-1]["recall"]


def test_the_table_names_knob_recall_and_speed(capsys, tmp_path):
    hnswlib_index(tmp_path / "index")
    code, out, _ = bench(capsys, tmp_path, "--metric", "l2", "--k", "20", "--rescore", "residual")
    assert code == 0
    assert "recall@20" in out
    assert "rescore: residual" in out
    assert "One batch at ef 64:" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--metric", "l2", "--k", "0"], 2, "`--k` must be at least 1"),
        (["--metric", "l2", "--max-queries", "0"], 2, "`--max-queries` must be at least 1"),
        (["--metric", "l2", "--k", "2501"], 1, "`--k` must be at most the 2500 vectors"),
        ([], 2, "`--metric` must be one of"),
    ],
)
def test_wrong_arguments_are_named(capsys, tmp_path, arguments, code, message):
    hnswlib_index(tmp_path / "index")
    found, out, error = bench(capsys, tmp_path, *arguments)
    assert (found, out) == (code, "")
    assert message in error


def test_queries_of_another_kind_are_refused(capsys, tmp_path):
    hnswlib_index(tmp_path / "index")
    (tmp_path / "text.npy").write_text("no numbers", encoding="utf-8")
    np.save(tmp_path / "narrow.npy", QUERIES[:, :3])
    for name, message in (("text.npy", "must be a .npy file"), ("narrow.npy", "dimension")):
        capsys.readouterr()
        arguments = ["bench", "index", str(tmp_path / "index"), str(tmp_path / name), "--metric", "l2"]
        assert cli.main(arguments) == 1
        error = capsys.readouterr().err
        assert "`QUERIES`" in error
        assert message in error
