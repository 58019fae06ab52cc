from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest

import knn_adapters
import mp_plugins
from knn_adapters.recall import exact_neighbours, recall_at_k

KINDS = ("IndexFlat", "IndexFlatL2", "IndexFlatIP", "IndexHNSWFlat", "IndexHNSWFlatIP")


def metric_of(kind):
    return "ip" if kind.endswith("IP") else "l2"


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def pair(kind, build, vectors):
    original = build["faiss"](vectors, kind)
    if hasattr(original, "hnsw"):
        original.hnsw.efSearch = 64
    return original, knn_adapters.wrap(original)


def test_recall_is_close_to_the_originals(pair, kind, vectors, queries):
    true = exact_neighbours(vectors, queries, 10, metric_of(kind))
    recalls = [recall_at_k(index.search(queries, 10)[1], true, 10) for index in pair]
    # Flat L2 search of these words is exact in the original, and their tenth and eleventh neighbours are closer to each
    # other than 8 bits tell: the best of all clip ranges loses 2 points there.
    assert recalls[0] - recalls[1] <= (0.03 if metric_of(kind) == "l2" else 0.02)


def test_the_wrapped_index_is_of_the_originals_class(pair):
    original, wrapped = pair
    assert isinstance(wrapped, type(original))
    assert isinstance(wrapped, faiss.Index)
    for name in ("d", "ntotal", "metric_type", "is_trained", "verbose"):
        assert getattr(wrapped, name) == getattr(original, name), name
    assert "bits=8" in repr(wrapped)


def test_results_have_faiss_types_and_units(pair, queries):
    (expected, expected_ids), (distances, ids) = (index.search(queries, 5) for index in pair)
    assert (ids.dtype, ids.shape) == (expected_ids.dtype, expected_ids.shape)
    assert (distances.dtype, distances.shape) == (expected.dtype, expected.shape)
    # A clipped range moves the few vectors far outside it.
    assert np.isclose(distances, expected, rtol=0.05, atol=0.05).mean() >= 0.995


def test_plain_faiss_reads_the_file_and_finds_the_same(pair, queries, tmp_path):
    _, wrapped = pair
    faiss.write_index(wrapped, str(tmp_path / "index"))
    plain = faiss.read_index(str(tmp_path / "index"))
    assert type(plain) in (faiss.IndexScalarQuantizer, faiss.IndexHNSWSQ)
    assert plain.ntotal == wrapped.ntotal
    np.testing.assert_allclose(plain.reconstruct_n(0, plain.ntotal), wrapped._vectors()[1], atol=1e-5)
    ids, plain_ids = wrapped.search(queries, 10)[1], plain.search(queries, 10)[1]
    assert recall_at_k(ids, plain_ids, 10) > 0.98


def test_functions_in_c_take_the_wrapped_index(pair):
    _, wrapped = pair
    assert faiss.clone_index(wrapped).ntotal == wrapped.ntotal
    assert faiss.downcast_index(wrapped).ntotal == wrapped.ntotal


def test_memory_is_at_most_45_percent(pair):
    figures = knn_adapters.stats(pair[1])
    assert figures.ratio <= 0.45
    assert figures.original_bytes >= 4 * 384


def test_flat_search_is_exact_over_the_decoded_vectors(build, small):
    for kind in ("IndexFlatL2", "IndexFlatIP"):
        wrapped = knn_adapters.wrap(build["faiss"](small, kind))
        assert knn_adapters.estimate_recall(wrapped, small[:50], k=10) > 0.99


def test_ef_search_is_read_at_each_search(build, vectors, queries):
    wrapped = knn_adapters.wrap(build["faiss"](vectors, "IndexHNSWFlat"))
    true = exact_neighbours(vectors, queries, 10, "l2")
    recalls = []
    for ef in (10, 400):
        wrapped.hnsw.efSearch = ef
        recalls.append(recall_at_k(wrapped.search(queries, 10)[1], true, 10))
    assert recalls[0] < recalls[1]


def test_missing_results_are_filled_as_by_faiss(build, small):
    for kind in KINDS:
        original = build["faiss"](small[:5], kind)
        expected, expected_ids = original.search(small[:2], 8)
        distances, ids = knn_adapters.wrap(original).search(small[:2], 8)
        np.testing.assert_array_equal(ids == -1, expected_ids == -1)
        np.testing.assert_array_equal(distances[ids == -1], expected[expected_ids == -1])


def test_results_are_written_to_given_arrays(build, small):
    wrapped = knn_adapters.wrap(build["faiss"](small))
    expected, expected_ids = wrapped.search(small[:4], 3)
    distances, ids = np.empty((4, 3), np.float32), np.empty((4, 3), np.int64)
    returned = wrapped.search(small[:4], 3, D=distances, I=ids)
    assert returned[0] is distances
    assert returned[1] is ids
    np.testing.assert_array_equal(distances, expected)
    np.testing.assert_array_equal(ids, expected_ids)
    assert wrapped.search(small[:0], 3)[1].shape == (0, 3)


def test_the_original_stays_as_it_was(build, small):
    for kind in KINDS:
        original = build["faiss"](small, kind)
        before = faiss.serialize_index(original)
        wrapped = knn_adapters.wrap(original)
        np.testing.assert_array_equal(faiss.serialize_index(original), before)
        original.add(small[:3])
        assert (original.ntotal, wrapped.ntotal) == (len(small) + 3, len(small))


def test_the_original_may_go(build, small):
    for kind in KINDS:
        wrapped = knn_adapters.wrap(build["faiss"](small.copy(), kind))
        expected = exact_neighbours(small, small, 1, metric_of(kind))
        assert np.mean(wrapped.search(small, 1)[1] == expected) > 0.95


def test_threads_of_python_and_of_the_search_agree(pair, queries):
    _, wrapped = pair
    expected = wrapped.search(queries, 10)[1]
    with ThreadPoolExecutor(4) as pool:
        for ids in pool.map(lambda _: wrapped.search(queries, 10)[1], range(12)):
            np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize("kind", ["IndexFlatIP", "IndexHNSWFlat"])
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda index: index.search(np.zeros((1, 23)), 1), ValueError, "`x` must have dimension 24, got 23"),
        (lambda index: index.search(np.zeros(24), 1), ValueError, "`x` must be a matrix of vectors"),
        (lambda index: index.search(np.full((1, 24), np.nan), 1), ValueError, "`x` must hold finite numbers, got nan"),
        (lambda index: index.search(np.full((1, 24), -np.inf), 1), ValueError, "got -inf at \\[0, 0\\]"),
        (lambda index: index.search(np.zeros((1, 24)), 0), ValueError, "`k` must be at least 1, got 0"),
        (lambda index: index.search(np.zeros((1, 24)), "a"), ValueError, "`k` must be an integer"),
        (lambda index: index.search(np.zeros((1, 24)), 2, D=np.zeros((1, 3))), ValueError, "`D` must be float32"),
        (lambda index: index.search(np.zeros((1, 24)), 1, I=np.zeros((1, 1), int).astype("i4")), ValueError, "`I`"),
        (lambda index: index.search(np.zeros((1, 24)), 1, params=3), TypeError, "`params` must be faiss.SearchParam"),
        (lambda index: setattr(index, "ntotal", 7), NotImplementedError, "ntotal"),
        (lambda index: index.add(np.zeros((2, 23))), ValueError, "`x` must have dimension 24, got 23"),
        (lambda index: index.add(np.full((2, 24), np.nan)), ValueError, "`x` must hold finite numbers, got nan"),
        (lambda index: index.train(np.zeros(24)), ValueError, "`x` must be a matrix of vectors"),
        (lambda index: index.reconstruct(300), RuntimeError, "`key` must be within 0..299, got 300"),
        (lambda index: index.reconstruct("a"), ValueError, "`key` must be an integer"),
        (lambda index: index.reconstruct_batch([[1]]), ValueError, "`key` must be integers"),
        (lambda index: index.reconstruct_n(299, 2), RuntimeError, "`ni` must end within 300"),
        (lambda index: index.add_with_ids(np.zeros((2, 24)), np.arange(2)), RuntimeError, "add_with_ids not impl"),
        (lambda index: index.add_with_ids(np.zeros((2, 24)), np.arange(3)), ValueError, "`ids` must be integers"),
        (lambda index: index.merge_from(index), RuntimeError, "`otherIndex` must be another index"),
        (lambda index: index.merge_from(7), TypeError, "`otherIndex` must be a faiss.Index"),
        (lambda index: index.permute_entries(np.zeros(300, int)), RuntimeError, "`perm` must hold each of"),
    ],
)
def test_bad_input_is_named(build, small, kind, call, error, message):
    wrapped = knn_adapters.wrap(build["faiss"](small, kind))
    before = wrapped.search(small[:3], 3)
    with pytest.raises(error, match=message):
        call(wrapped)
    np.testing.assert_array_equal(wrapped.search(small[:3], 3), before)


def test_float_vectors_that_are_not_there_are_refused(build, small):
    with pytest.raises(mp_plugins.UnsupportedError, match="get_xb"):
        knn_adapters.wrap(build["faiss"](small)).get_xb()


def test_the_graph_cannot_be_replaced_under_the_search(build, small):
    original = build["faiss"](small, "IndexHNSWFlat")
    with pytest.raises(mp_plugins.UnsupportedError, match="hnsw"):
        knn_adapters.wrap(original).hnsw = original.hnsw


@pytest.mark.parametrize(
    "make",
    [
        lambda: faiss.IndexFlat(8, faiss.METRIC_L1),
        lambda: faiss.IndexScalarQuantizer(8, faiss.ScalarQuantizer.QT_fp16),
        lambda: faiss.IndexIDMap(faiss.IndexPQ(8, 2, 4)),
        lambda: faiss.IndexPQ(8, 2, 4),
    ],
)
def test_other_indexes_cannot_be_wrapped(make):
    with pytest.raises(mp_plugins.UnsupportedError):
        knn_adapters.wrap(make())
