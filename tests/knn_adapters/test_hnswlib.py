import pickle
from concurrent.futures import ThreadPoolExecutor

import hnswlib
import numpy as np
import pytest

import knn_adapters
import mp_plugins
from knn_adapters.recall import exact_neighbours, recall_at_k

SPACES = ("l2", "ip", "cosine")


@pytest.fixture(scope="module", params=SPACES)
def pair(request, build, vectors):
    original = build["hnswlib"](vectors, request.param)
    return original, knn_adapters.wrap(original)


def found_by(index, queries, k=10):
    return index.knn_query(queries, k=k)[0].astype(np.int64)


def test_recall_is_within_two_points_of_the_originals(pair, vectors, queries):
    original, wrapped = pair
    true = exact_neighbours(vectors, queries, 10, original.space)
    loss = recall_at_k(found_by(original, queries), true, 10) - recall_at_k(found_by(wrapped, queries), true, 10)
    assert loss <= 0.02


def test_the_wrapped_index_is_an_hnswlib_index(pair):
    original, wrapped = pair
    assert isinstance(wrapped, hnswlib.Index)
    for name in ("space", "dim", "M", "ef_construction", "ef", "num_threads", "element_count", "max_elements"):
        assert getattr(wrapped, name) == getattr(original, name), name
    assert wrapped.get_current_count() == original.get_current_count()
    assert wrapped.get_max_elements() == original.get_max_elements()
    assert sorted(wrapped.get_ids_list()) == sorted(original.get_ids_list())
    assert "bits=8" in repr(wrapped)


def test_results_have_hnswlibs_types_and_units(pair, queries):
    original, wrapped = pair
    expected_labels, expected = original.knn_query(queries, k=5)
    labels, distances = wrapped.knn_query(queries, k=5)
    assert (labels.dtype, labels.shape) == (expected_labels.dtype, expected_labels.shape)
    assert (distances.dtype, distances.shape) == (expected.dtype, expected.shape)
    assert np.all(np.diff(distances, axis=1) >= 0)
    np.testing.assert_allclose(distances, expected, rtol=0.05, atol=0.02)


def test_distances_are_those_of_the_decoded_vectors(build, small):
    for space in SPACES:
        wrapped = knn_adapters.wrap(build["hnswlib"](small, space))
        labels, distances = wrapped.knn_query(small[:20], k=3)
        held = dict(zip(*wrapped._vectors(), strict=True))
        for query, row, values in zip(small[:20].astype(np.float64), labels, distances, strict=True):
            if space == "cosine":
                query = query / np.linalg.norm(query)
            items = np.array([held[int(label)] for label in row], np.float64)
            exact = ((items - query) ** 2).sum(axis=1) if space == "l2" else 1 - items @ query
            np.testing.assert_allclose(values, exact, rtol=1e-3, atol=2e-3)


def test_memory_is_at_most_45_percent(pair):
    figures = knn_adapters.stats(pair[1])
    assert figures.dim == 384
    assert figures.ratio <= 0.45
    assert figures.total_bytes == pytest.approx(figures.codes_bytes + figures.graph_bytes + figures.other_bytes)


def test_labels_of_any_size_come_back(build, small):
    labels = np.arange(len(small), dtype=np.uint64) * 7 + 2**62
    wrapped = knn_adapters.wrap(build["hnswlib"](small, "l2", labels))
    found, _ = wrapped.knn_query(small, k=1)
    assert np.mean(found[:, 0] == labels) > 0.99
    assert sorted(wrapped.get_ids_list()) == labels.tolist()


def test_one_vector_and_lists_are_taken_as_by_hnswlib(build, small):
    wrapped = knn_adapters.wrap(build["hnswlib"](small))
    expected = wrapped.knn_query(small[:1], k=4)[0]
    for query in (small[0], small[0].tolist(), small[:1].astype(np.float64), small[:1].astype(np.float16)):
        np.testing.assert_array_equal(wrapped.knn_query(query, 4)[0], expected)
    assert wrapped.knn_query(np.empty((0, small.shape[1])), k=4)[0].shape == (0, 4)


def test_settings_are_the_wrapped_indexs_own(build, small):
    original = build["hnswlib"](small, ef=30)
    wrapped = knn_adapters.wrap(original)
    wrapped.set_ef(80)
    wrapped.set_num_threads(2)
    assert (wrapped.ef, wrapped.num_threads, original.ef) == (80, 2, 30)
    wrapped.ef = 90
    assert wrapped.ef == 90


def test_more_effort_finds_more(pair, vectors, queries):
    original, wrapped = pair
    true = exact_neighbours(vectors, queries, 10, original.space)
    recalls = []
    for ef in (10, 400):
        wrapped.set_ef(ef)
        recalls.append(recall_at_k(found_by(wrapped, queries), true, 10))
    wrapped.set_ef(original.ef)
    assert recalls[0] < recalls[1]


def test_the_original_stays_as_it_was(build, small):
    original = build["hnswlib"](small)
    before = pickle.dumps(original)
    knn_adapters.wrap(original)
    assert pickle.dumps(original) == before
    original.add_items(small[:1], [10_000])
    assert original.element_count == len(small) + 1


def test_the_original_may_go(build, small):
    wrapped = knn_adapters.wrap(build["hnswlib"](small.copy()))
    assert np.mean(found_by(wrapped, small, 1)[:, 0] == np.arange(len(small))) > 0.99


def test_threads_of_python_and_of_the_search_agree(pair, queries):
    _, wrapped = pair
    expected = wrapped.knn_query(queries, k=10, num_threads=1)[0]
    np.testing.assert_array_equal(wrapped.knn_query(queries, k=10, num_threads=4)[0], expected)
    with ThreadPoolExecutor(4) as pool:
        for labels in pool.map(lambda _: wrapped.knn_query(queries, k=10, num_threads=1)[0], range(12)):
            np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda index: index.knn_query(np.zeros(23)), ValueError, "`data` must have dimension 24, got 23"),
        (lambda index: index.knn_query(np.zeros(0)), ValueError, "`data` must have dimension 24, got 0"),
        (lambda index: index.knn_query(np.zeros((1, 1, 24))), ValueError, "`data` must be a matrix"),
        (lambda index: index.knn_query(np.full(24, np.nan)), ValueError, "`data` must hold finite numbers, got nan"),
        (lambda index: index.knn_query(np.full(24, np.inf)), ValueError, "`data` must hold finite numbers, got inf"),
        (lambda index: index.knn_query("text"), ValueError, "`data` must be numbers"),
        (lambda index: index.knn_query(np.zeros(24), k=0), ValueError, "`k` must be at least 1, got 0"),
        (lambda index: index.knn_query(np.zeros(24), k=-3), ValueError, "`k` must be at least 1, got -3"),
        (lambda index: index.knn_query(np.zeros(24), k=1.5), ValueError, "`k` must be an integer, got 1.5"),
        (lambda index: index.knn_query(np.zeros(24), k=301), RuntimeError, "contiguous 2D array"),
        (lambda index: index.set_num_threads("2"), ValueError, "`num_threads` must be an integer"),
    ],
)
def test_bad_input_is_named(build, small, call, error, message):
    wrapped = knn_adapters.wrap(build["hnswlib"](small))
    before = wrapped.knn_query(small[:3], k=3)
    with pytest.raises(error, match=message):
        call(wrapped)
    np.testing.assert_array_equal(wrapped.knn_query(small[:3], k=3), before)


def test_empty_indexes_are_refused():
    index = hnswlib.Index("l2", 4)
    with pytest.raises(mp_plugins.ArgumentError, match="`index` must hold at least one vector"):
        knn_adapters.wrap(index)
    index.init_index(10)
    with pytest.raises(mp_plugins.ArgumentError, match="add_items"):
        knn_adapters.wrap(index)


def test_one_element_is_enough(build):
    wrapped = knn_adapters.wrap(build["hnswlib"](np.ones((1, 3), np.float32), "ip"))
    labels, distances = wrapped.knn_query(np.ones(3), k=1)
    assert labels.tolist() == [[0]]
    assert distances[0, 0] == pytest.approx(-2.0, abs=0.05)


def test_vectors_that_are_not_finite_are_refused(build, small):
    data = small.copy()
    data[7, 3] = np.nan
    with pytest.raises(mp_plugins.ArgumentError, match="finite"):
        knn_adapters.wrap(build["hnswlib"](data))
