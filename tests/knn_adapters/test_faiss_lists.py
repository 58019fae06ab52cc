"""Indexes of inverted lists, and indexes that have 8-bit codes already."""

import faiss
import numpy as np
import pytest

import knn_adapters
import mp_plugins
from knn_adapters.recall import exact_neighbours, recall_at_k

METRICS = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}
SQ = faiss.ScalarQuantizer
N_LISTS = 20


def make(kind, vectors, metric="l2", qtype=SQ.QT_8bit, ids=None):
    dim, number = vectors.shape[1], METRICS[metric]
    coarse = faiss.IndexFlat(dim, number)
    index = {
        "IndexIVFFlat": lambda: faiss.IndexIVFFlat(coarse, dim, N_LISTS, number),
        "IndexIVFScalarQuantizer": lambda: faiss.IndexIVFScalarQuantizer(coarse, dim, N_LISTS, qtype, number, True),
        "raw": lambda: faiss.IndexIVFScalarQuantizer(coarse, dim, N_LISTS, qtype, number, False),
        "IndexScalarQuantizer": lambda: faiss.IndexScalarQuantizer(dim, qtype, number),
        "IndexHNSWSQ": lambda: faiss.IndexHNSWSQ(dim, qtype, 16, number),
    }[kind]()
    index.train(vectors)
    if ids is None:
        index.add(vectors)
    else:
        index.add_with_ids(vectors, ids)
    if hasattr(index, "nprobe"):
        index.nprobe = 8
    if hasattr(index, "hnsw"):
        index.hnsw.efSearch = 64
    return index


KINDS = ("IndexIVFFlat", "IndexIVFScalarQuantizer", "raw", "IndexScalarQuantizer", "IndexHNSWSQ")


@pytest.fixture(scope="module", params=[(kind, metric) for kind in KINDS for metric in METRICS], ids="-".join)
def pair(request, vectors):
    kind, metric = request.param
    original = make(kind, vectors, metric)
    return original, knn_adapters.wrap(original), metric


def test_recall_is_close_to_the_originals(pair, vectors, queries):
    *indexes, metric = pair
    true = exact_neighbours(vectors, queries, 10, metric)
    recalls = [recall_at_k(index.search(queries, 10)[1], true, 10) for index in indexes]
    assert recalls[0] - recalls[1] <= 0.03


def test_existing_codes_give_the_originals_answers(pair, queries):
    original, wrapped, _ = pair
    if type(original) is faiss.IndexIVFFlat:
        pytest.skip("encoded anew")
    (expected, expected_ids), (distances, ids) = (index.search(queries, 10) for index in (original, wrapped))
    assert recall_at_k(ids, expected_ids, 10) > 0.985
    same = ids == expected_ids
    np.testing.assert_allclose(distances[same], expected[same], rtol=2e-3, atol=2e-3)


def test_the_wrapped_index_is_of_the_originals_class(pair):
    original, wrapped, _ = pair
    assert isinstance(wrapped, type(original))
    for name in ("d", "ntotal", "metric_type", "is_trained", "nprobe", "nlist"):
        assert getattr(wrapped, name, None) == getattr(original, name, None), name


def test_one_query_gives_what_a_batch_gives(pair, queries):
    _, wrapped, _ = pair
    distances, ids = wrapped.search(queries, 10)
    single = [wrapped.search(query[None], 10) for query in queries[:20]]
    # FAISS' coarse quantizer adds up one query in another order than a batch, so equal distances may change places.
    assert recall_at_k(np.concatenate([row for _, row in single]), ids[:20], 10) > 0.99
    np.testing.assert_allclose(np.concatenate([row for row, _ in single]), distances[:20], rtol=1e-3, atol=1e-3)


def test_plain_faiss_reads_the_file(pair, queries, tmp_path):
    _, wrapped, _ = pair
    faiss.write_index(wrapped, str(tmp_path / "index"))
    plain = faiss.read_index(str(tmp_path / "index"))
    if hasattr(plain, "nprobe"):
        plain.nprobe = wrapped.nprobe
    if hasattr(plain, "hnsw"):
        plain.hnsw.efSearch = wrapped.hnsw.efSearch
    assert recall_at_k(wrapped.search(queries, 10)[1], plain.search(queries, 10)[1], 10) > 0.98


def test_estimates_and_figures(pair, queries):
    original, wrapped, _ = pair
    for index in (original, wrapped):
        assert 0.5 < knn_adapters.estimate_recall(index, queries[:50]) <= 1.0
    figures = knn_adapters.stats(wrapped)
    assert figures.original_bytes >= original.d
    assert figures.total_bytes <= figures.original_bytes * (0.45 if type(original) is faiss.IndexIVFFlat else 1.15)


def test_the_original_stays_as_it_was_and_may_go(small):
    for kind in KINDS:
        original = make(kind, small)
        before = faiss.serialize_index(original)
        wrapped = knn_adapters.wrap(original)
        np.testing.assert_array_equal(faiss.serialize_index(original), before)
        expected = wrapped.search(small, 3)[1]
        original.reset()
        del original
        np.testing.assert_array_equal(wrapped.search(small, 3)[1], expected)


def test_nprobe_is_read_at_each_search(small):
    wrapped = knn_adapters.wrap(make("IndexIVFFlat", small))
    true = exact_neighbours(small, small, 5, "l2")
    recalls = []
    for n_probe in (1, 20, 1000):
        wrapped.nprobe = n_probe
        recalls.append(recall_at_k(wrapped.search(small, 5)[1], true, 5))
    assert recalls[0] < recalls[1] == recalls[2]


def test_ids_are_those_that_were_added(small):
    ids = np.arange(len(small), dtype=np.int64) * 1_000_003
    for kind in ("IndexIVFFlat", "IndexIVFScalarQuantizer"):
        wrapped = knn_adapters.wrap(make(kind, small, ids=ids))
        wrapped.nprobe = N_LISTS
        assert np.mean(wrapped.search(small, 1)[1][:, 0] == ids) > 0.95


def test_missing_results_are_filled_as_by_faiss(small):
    for kind in ("IndexIVFFlat", "IndexIVFScalarQuantizer"):
        for metric in METRICS:
            original = make(kind, small, metric)
            original.nprobe = 1
            expected, expected_ids = original.search(small[:9], 200)
            distances, ids = knn_adapters.wrap(original).search(small[:9], 200)
            np.testing.assert_array_equal(ids == -1, expected_ids == -1)
            np.testing.assert_array_equal(distances[ids == -1], expected[expected_ids == -1])


@pytest.mark.parametrize("name", ["QT_8bit", "QT_8bit_uniform", "QT_8bit_direct", "QT_8bit_direct_signed"])
@pytest.mark.parametrize("metric", METRICS)
def test_all_8_bit_types(name, metric):
    qtype = getattr(SQ, name, None)
    if qtype is None:
        pytest.skip("not in this release of FAISS")
    rng = np.random.default_rng(0)
    low = -128 if name == "QT_8bit_direct_signed" else 0
    rows = rng.integers(low, low + 256, (400, 32)).astype(np.float32)
    original = make("IndexScalarQuantizer", rows, metric, qtype)
    expected, expected_ids = original.search(rows[:50], 10)
    distances, ids = knn_adapters.wrap(original).search(rows[:50], 10)
    assert recall_at_k(ids, expected_ids, 10) > 0.97
    np.testing.assert_allclose(distances[:, 1:], expected[:, 1:], rtol=0.01)


@pytest.mark.parametrize("qtype", [SQ.QT_fp16, SQ.QT_6bit])
def test_codes_of_other_widths_cannot_be_wrapped(small, qtype):
    with pytest.raises(mp_plugins.UnsupportedError, match="qtype"):
        knn_adapters.wrap(make("IndexScalarQuantizer", small, qtype=qtype))


@pytest.mark.parametrize("kind", ["IndexIVFScalarQuantizer", "raw", "IndexScalarQuantizer", "IndexHNSWSQ"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("qtype", [SQ.QT_4bit, SQ.QT_4bit_uniform])
def test_codes_of_4_bits(words, kind, metric, qtype):
    rows = np.ascontiguousarray(words[:1500, :33])
    original = make(kind, rows, metric, qtype)
    expected, expected_ids = original.search(rows[:100], 10)
    wrapped = knn_adapters.wrap(original)
    distances, ids = wrapped.search(rows[:100], 10)
    assert "bits=4" in repr(wrapped)
    assert recall_at_k(ids, expected_ids, 10) > 0.97
    same = ids == expected_ids
    np.testing.assert_allclose(distances[same], expected[same], rtol=2e-3, atol=2e-3)


def test_lists_of_4_bit_codes(words):
    rows = np.ascontiguousarray(words[:2000, :33])
    original = make("IndexIVFFlat", rows)
    true = original.search(rows[:200], 10)[1]
    recalls = [recall_at_k(knn_adapters.wrap(original, bits=b).search(rows[:200], 10)[1], true, 10) for b in (4, 8)]
    assert 0.7 < recalls[0] < recalls[1]


def test_a_range_for_codes_that_exist_is_refused(small):
    with pytest.raises(mp_plugins.ArgumentError, match="`calibration` must be left out"):
        knn_adapters.wrap(make("IndexScalarQuantizer", small), calibration=small)


def test_changes_of_the_lists_are_refused(small):
    wrapped = knn_adapters.wrap(make("IndexIVFFlat", small))
    with pytest.raises(mp_plugins.UnsupportedError):
        wrapped.invlists = None
