"""A file written by each side is read by the other with the same neighbours: every library, class and format."""

import annoy
import faiss
import hnswlib
import numpy as np
import pytest

import knn_adapters
from knn_adapters import annoy as our_annoy
from knn_adapters import annoy_nodes
from knn_adapters import faiss as our_faiss
from knn_adapters import hnswlib as our_hnswlib
from knn_adapters.recall import recall_at_k

K = 10


@pytest.fixture(scope="module")
def rows(words):
    return np.ascontiguousarray(words[:3000, :96])


@pytest.fixture(scope="module")
def asked(words):
    return np.ascontiguousarray(words[4000:4100, :96])


def hnswlib_ids(index, queries):
    if hasattr(index, "set_ef"):
        index.set_ef(200)
    return index.knn_query(queries, k=K)[0].astype(np.int64)


def filled_hnswlib(module, cls, space, rows, count):
    index = getattr(module, cls)(space, 96)
    index.init_index(count + 10)
    index.add_items(rows[:count], np.arange(count) * 3 + 2)
    return index


@pytest.mark.parametrize("count", [200, 3000])
@pytest.mark.parametrize("space", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("cls", ["Index", "BFIndex"])
def test_hnswlib(rows, asked, cls, space, count, tmp_path):
    ours, theirs = (filled_hnswlib(module, cls, space, rows, count) for module in (our_hnswlib, hnswlib))
    ours.save_index(tmp_path / "ours")
    knn_adapters.export(ours, tmp_path / "exported")
    theirs.save_index(str(tmp_path / "theirs"))
    for name, module, source in (
        ("ours", our_hnswlib, ours),
        ("exported", hnswlib, ours),
        ("exported", our_hnswlib, ours),
        ("theirs", our_hnswlib, theirs),
    ):
        read = getattr(module, cls)(space, 96)
        read.load_index(str(tmp_path / name))
        assert read.get_current_count() == count
        assert recall_at_k(hnswlib_ids(read, asked), hnswlib_ids(source, asked), K) > (
            0.95 if name != "ours" else 0.999
        )
        assert (hnswlib_ids(read, asked) % 3 == 2).all()


FAISS_TEXTS = (
    "Flat", "SQ8", "SQ4", "IVF16,Flat", "IVF16,SQ8", "IVF16,SQ4", "HNSW16,Flat", "HNSW16,SQ8", "HNSW16,SQ4",
    "IDMap,Flat", "IDMap2,SQ8", "IDMap,HNSW16", "IDMap2,IVF16,Flat", "PCA64,Flat", "PCA64,IVF16,SQ8", "L2norm,HNSW16",
    "Flat,RFlat", "SQ8,RFlat", "IVF16,SQ8,RFlat",
)  # fmt: skip


def faiss_ids(index, queries):
    inner = index
    while inner is not None:
        for owner, name, value in ((getattr(inner, "hnsw", None), "efSearch", 200), (inner, "nprobe", 16)):
            if owner is not None and hasattr(owner, name):
                setattr(owner, name, value)
        nested = getattr(inner, "index", getattr(inner, "base_index", None))
        is_stock = type(nested).__module__.startswith("faiss")
        inner = faiss.downcast_index(nested) if nested is not None and is_stock else nested
    return index.search(queries, K)[1]


@pytest.mark.parametrize("count", [300, 3000])
@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT], ids=["l2", "ip"])
@pytest.mark.parametrize("text", FAISS_TEXTS)
def test_faiss(rows, asked, text, metric, count, tmp_path):
    ours, theirs = (module.index_factory(96, text, metric) for module in (our_faiss, faiss))
    for index in (ours, theirs):
        index.train(rows[:count])
        if "IDMap" in text:
            index.add_with_ids(rows[:count], np.arange(count) * 3 + 2)
        else:
            index.add(rows[:count])
    our_faiss.write_index(ours, str(tmp_path / "ours"))
    faiss.write_index(theirs, str(tmp_path / "theirs"))
    for name, module, source in (("ours", our_faiss, ours), ("ours", faiss, ours), ("theirs", our_faiss, theirs)):
        read = module.read_index(str(tmp_path / name))
        assert read.ntotal == count
        assert (type(read).__module__.startswith("knn_adapters")) == (module is our_faiss)
        least = 0.8 if "SQ4" in text else 0.95
        assert recall_at_k(faiss_ids(read, asked), faiss_ids(source, asked), K) > least


def annoy_ids(index, queries):
    return np.array([index.get_nns_by_vector(query, K, 20_000) for query in queries.tolist()])


def filled_annoy(module, metric, rows, count):
    index = module.AnnoyIndex(96, metric)
    index.set_seed(3)
    for item, row in enumerate(rows[:count].tolist()):
        index.add_item(item, row)
    index.build(8, 1)
    return index


def opened_annoy(module, metric, path):
    index = module.AnnoyIndex(96, metric)
    index.load(str(path))
    return index


@pytest.mark.filterwarnings("ignore:an AnnoyIndex of dimension")
@pytest.mark.parametrize("count", [200, 3000])
@pytest.mark.parametrize("metric", ["angular", "euclidean", "dot", "manhattan", "hamming"])
def test_annoy(rows, asked, metric, count, tmp_path):
    ours, theirs = (filled_annoy(module, metric, rows, count) for module in (our_annoy, annoy))
    before = {"ours": annoy_ids(ours, asked), "theirs": annoy_ids(theirs, asked)}
    knn_adapters.export(ours, tmp_path / "exported")
    ours.save(str(tmp_path / "ours"))
    theirs.save(str(tmp_path / "theirs"))
    for name, module, source in (
        ("ours", our_annoy, "ours"),
        ("exported", annoy, "ours"),
        ("exported", our_annoy, "ours"),
        ("theirs", our_annoy, "theirs"),
    ):
        found = annoy_ids(opened_annoy(module, metric, tmp_path / name), asked)
        # Many items are equally far by hamming, which then are in any order.
        assert metric == "hamming" or recall_at_k(found, before[source], K) > (0.95 if name != "ours" else 0.9999)


@pytest.mark.parametrize("count", [200, 3000])
def test_both_layouts_of_annoys_dot(rows, asked, count, tmp_path, monkeypatch):
    """The one that is not the installed library's, by export; and what is read of it."""
    ours = knn_adapters.wrap(filled_annoy(annoy, "dot", rows, count))
    expected = annoy_ids(ours, asked)
    for header in (16, 24):
        with monkeypatch.context() as patched:
            patched.setattr(annoy_nodes, "_installed_dot_header", lambda header=header: header)
            knn_adapters.export(ours, tmp_path / f"{header}")
        assert (tmp_path / f"{header}").stat().st_size % (header + 4 * 96) == 0
        # Planes count in another way in the development version, which a broad search evens out.
        assert recall_at_k(annoy_ids(opened_annoy(our_annoy, "dot", tmp_path / f"{header}"), asked), expected, K) > 0.93
    native = opened_annoy(annoy, "dot", tmp_path / f"{annoy_nodes._installed_dot_header()}")
    assert recall_at_k(annoy_ids(native, asked), expected, K) > 0.95
