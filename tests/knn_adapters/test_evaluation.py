import numpy as np
import pytest

import knn_adapters
import mp_plugins
from knn_adapters.recall import exact_neighbours, normalised, recall_at_k

BUILDS = [
    ("hnswlib", "l2"),
    ("hnswlib", "ip"),
    ("hnswlib", "cosine"),
    ("faiss", "IndexFlatIP"),
    ("faiss", "IndexHNSWFlat"),
    ("annoy", "angular"),
    ("annoy", "euclidean"),
    ("annoy", "dot"),
]


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_exact_neighbours_agree_with_a_loop(small, metric):
    for query, found in zip(small[:5], exact_neighbours(small, small[:5], 4, metric), strict=True):
        items, target = small.astype(np.float64), query.astype(np.float64)
        cost = {
            "l2": ((items - target) ** 2).sum(axis=1),
            "ip": -items @ target,
            "cosine": -items @ target / np.linalg.norm(items, axis=1),
        }[metric]
        np.testing.assert_array_equal(found, np.argsort(cost)[:4])


def test_exact_neighbours_are_the_same_in_blocks(small, monkeypatch):
    expected = exact_neighbours(small, small, 5, "l2")
    monkeypatch.setattr("knn_adapters.recall._BLOCK_BYTES", 4 * len(small) * 7)
    np.testing.assert_array_equal(exact_neighbours(small, small, 5, "l2"), expected)
    assert exact_neighbours(small[:3], small, 5, "l2").shape == (len(small), 3)


def test_recall_counts_shared_ids_and_no_missing_ones():
    true = np.array([[1, 2], [3, 4]])
    assert recall_at_k(np.array([[2, 1], [3, 9]]), true, 2) == 0.75
    assert recall_at_k(np.array([[2, -1], [-1, -1]]), true, 2) == 0.25


@pytest.mark.parametrize("factor", [1e-30, 1.0, 1e30])
def test_vectors_of_any_size_are_normalised(small, factor):
    data = np.concatenate([small[:3] * np.float32(factor), np.zeros((1, 24), np.float32)])
    lengths = np.linalg.norm(normalised(data).astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, [1, 1, 1, 0], rtol=1e-5)
    np.testing.assert_allclose(normalised(data[:1]), normalised(data)[:1], rtol=1e-5)


@pytest.mark.parametrize(("library", "kind"), BUILDS)
def test_recall_of_original_and_wrapped_is_estimated_alike(build, small, library, kind):
    original = build[library](small, kind)
    wrapped = knn_adapters.wrap(original)
    estimates = [knn_adapters.estimate_recall(index, small[:60], k=5) for index in (original, wrapped)]
    assert all(0.5 < estimate <= 1.0 for estimate in estimates)
    assert abs(estimates[0] - estimates[1]) < 0.05


@pytest.mark.parametrize(("library", "kind"), BUILDS)
def test_figures_are_complete_and_readable(build, small, library, kind):
    figures = knn_adapters.stats(knn_adapters.wrap(build[library](small, kind)))
    assert (figures.n_vectors, figures.dim, figures.bits) == (*small.shape, 8)
    assert figures.simd_level == knn_adapters.simd_level()
    assert figures.codes_bytes >= figures.dim
    assert figures.metric in ("l2", "ip", "cosine")
    for part in (figures.kind, figures.clip, figures.simd_level, f"{figures.total_bytes:.1f}"):
        assert part in str(figures)
    with pytest.raises(AttributeError):
        figures.bits = 4


@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        (np.zeros((2, 23)), 3, "`queries` must have dimension 24, got 23"),
        (np.zeros((0, 24)), 3, "`queries` must hold at least one vector"),
        (np.full((2, 24), np.nan), 3, "`queries` must hold finite numbers"),
        (np.zeros((2, 24)), 0, "`k` must be at least 1, got 0"),
        (np.zeros((2, 24)), 301, "`k` must be at most the 300 vectors of the index, got 301"),
    ],
)
def test_bad_input_is_named(build, small, queries, k, message):
    with pytest.raises(mp_plugins.ArgumentError, match=message):
        knn_adapters.estimate_recall(build["hnswlib"](small), queries, k)


def test_figures_of_an_original_are_refused(build, small):
    with pytest.raises(mp_plugins.ArgumentError, match="`index` must be wrapped"):
        knn_adapters.stats(build["hnswlib"](small))
