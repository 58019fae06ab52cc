"""Indexes of FAISS that are built in place, grow, shrink and are trained anew, beside FAISS' own."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest

import knn_adapters
from knn_adapters import faiss as stand_in
from knn_adapters.faiss_contents import CALIBRATION_ROWS
from knn_adapters.recall import exact_neighbours, recall_at_k

METRICS = ("l2", "ip")
BOTH = (stand_in, faiss)
FLOATS = ("IndexFlat", "IndexHNSWFlat", "IndexIVFFlat")
CODED = ("IndexScalarQuantizer", "IndexHNSWSQ", "IndexIVFScalarQuantizer")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", FLOATS + CODED)
def test_what_is_built_in_place_finds_what_faiss_does(made_faiss, vectors, queries, kind, metric):
    true, recalls = exact_neighbours(vectors, queries, 10, metric), []
    for module in BOTH:
        index = made_faiss(module, kind, vectors.shape[1], metric)
        if not index.is_trained:
            index.train(vectors)
        for part in np.array_split(vectors, 7):
            index.add(part)
            index.search(queries[:1], 1)  # opened in between
        recalls.append(recall_at_k(index.search(queries, 10)[1], true, 10))
        assert (index.ntotal, index.is_trained) == (len(vectors), True)
        if module is stand_in:
            assert isinstance(index, getattr(faiss, kind))
            assert isinstance(index, getattr(stand_in, kind))
            assert "bits=8" in repr(index)
            assert knn_adapters.stats(index).ratio < (0.45 if kind in FLOATS else 1.2)
    assert recalls[1] - recalls[0] <= 0.03


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["IndexFlat", "IndexHNSWFlat"])
def test_few_vectors_are_held_exactly(made_faiss, small, kind, metric):
    ours, theirs = (made_faiss(module, kind, 24, metric) for module in BOTH)
    for index in (ours, theirs):
        assert (index.search(small[:2], 3)[1] == -1).all()
        index.add(small)
    for k in (1, 7, 400):
        (distances, ids), (expected, expected_ids) = (index.search(small[:50] + 0.1, k) for index in (ours, theirs))
        if k < 400:
            np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_allclose(distances[:, :7], expected[:, :7], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(ours.reconstruct_n(), small)
    np.testing.assert_array_equal(ours.reconstruct(7), theirs.reconstruct(7))
    assert knn_adapters.stats(ours).bits == 32
    assert "bits" not in repr(ours)
    # C++ code sees the same vectors in 16 bits.
    clone = faiss.clone_index(ours)
    np.testing.assert_allclose(clone.reconstruct_n(0, 300), small, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["IndexFlat", "IndexHNSWFlat"])
def test_the_quantizer_comes_with_enough_vectors(made_faiss, words, kind):
    index = made_faiss(stand_in, kind, words.shape[1])
    index.add(words[: CALIBRATION_ROWS - 1])
    before = index.search(words[:200], 10)
    pointer = int(index.this)
    index.add(words[CALIBRATION_ROWS - 1 : CALIBRATION_ROWS])
    assert "bits=8" in repr(index)
    assert int(index.this) == pointer  # what points to it in C++ stays right
    distances, ids = index.search(words[:200], 10)
    # FAISS' own graph over these words reaches no more than 93 % at this breadth.
    assert recall_at_k(ids, before[1], 10) > (0.95 if kind == "IndexFlat" else 0.9)
    same = ids == before[1]
    np.testing.assert_allclose(distances[same], before[0][same], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", FLOATS)
def test_later_data_outside_the_range_trains_anew(made_faiss, kind, metric):
    """The first vectors lie in a corner; of what comes then, most values would be cut off."""
    rng = np.random.default_rng(0)
    near, far = (rng.standard_normal((3000, 16)).astype(np.float32) for _ in range(2))
    near = near * np.float32(0.3) + np.float32(1.0)
    far *= 2
    every, queries = np.concatenate([near, far]), far[:100] + np.float32(0.01)
    true = exact_neighbours(every, queries, 10, metric)
    index = made_faiss(stand_in, kind, 16, metric)
    index.train(near)
    index.add(near)
    clip = index._quantizer.scale.copy()
    for part in np.array_split(far, 20):
        index.add(part)
    assert index._quantizer.scale.max() > clip.max()
    if hasattr(index, "hnsw"):
        index.hnsw.efSearch = 300
    if hasattr(index, "nprobe"):
        index.nprobe = 16
    assert recall_at_k(index.search(queries, 10)[1], true, 10) > 0.9
    plain = faiss.deserialize_index(faiss.serialize_index(index))
    assert recall_at_k(plain.search(queries, 10)[1], true, 10) > 0.9 or kind != "IndexFlat"


def test_the_range_of_codes_stays_what_training_made_it(made_faiss, small):
    index = made_faiss(stand_in, "IndexScalarQuantizer", 24)
    index.train(small)
    before = index._quantizer.scale.copy()
    index.add(small * 100)
    np.testing.assert_array_equal(index._quantizer.scale, before)


@pytest.mark.parametrize("kind", CODED)
def test_training_again_keeps_the_vectors(made_faiss, small, kind):
    index = made_faiss(stand_in, kind, 24, n_lists=4)
    index.train(small)
    index.add(small)
    before = index.search(small, 5)[1]
    index.train(small * 3)
    assert recall_at_k(index.search(small, 5)[1], before, 5) > 0.9


@pytest.mark.parametrize("kind", ["IndexIVFFlat", *CODED])
def test_an_untrained_index_says_so(made_faiss, small, kind):
    index = made_faiss(stand_in, kind, 24)
    assert not index.is_trained
    for call in (lambda: index.add(small), lambda: index.search(small, 1)):
        with pytest.raises(RuntimeError, match="`index` must be trained"):
            call()
    if "IVF" in kind:
        with pytest.raises(RuntimeError):
            index.train(small[:3])
        assert not index.is_trained
    index.train(small)
    index.add(small)
    assert index.search(small, 1)[1].shape == (300, 1)


def test_the_coarse_quantizer_is_the_callers(small):
    coarse = stand_in.IndexFlatL2(24)
    index = stand_in.IndexIVFFlat(coarse, 24, 4)
    index.train(small)
    assert type(coarse) is faiss.IndexFlatL2
    assert coarse.ntotal == 4
    assert index.quantizer.ntotal == 4
    del coarse
    index.add_with_ids(small, np.arange(300) + 1000)
    assert index.search(small[:3], 1)[1].min() >= 1000


@pytest.mark.parametrize("metric", METRICS)
def test_ids_of_lists(made_faiss, small, metric):
    ours, theirs = (made_faiss(module, "IndexIVFFlat", 24, metric, n_lists=4) for module in BOTH)
    ids = np.arange(300, dtype=np.int64) * 7
    for index in (ours, theirs):
        index.train(small)
        index.nprobe = 4
        index.add_with_ids(small, ids)
        assert index.remove_ids(ids[:100]) == 100
        assert index.remove_ids(faiss.IDSelectorRange(700, 1400)) == 100
        assert index.ntotal == 100
        index.set_direct_map_type(faiss.DirectMap.Hashtable)
        index.update_vectors(ids[200:202], small[:2])
        np.testing.assert_allclose(index.reconstruct(int(ids[200])), small[0], atol=0.05)
        assert 1400 in index.search(small[:1], 100)[1]
    np.testing.assert_array_equal(np.sort(ours.search(small[:20], 100)[1]), np.sort(theirs.search(small[:20], 100)[1]))
    for index in (ours, theirs):
        index.reset()
        assert (index.ntotal, index.is_trained) == (0, True)
        assert (index.search(small[:1], 1)[1] == -1).all()


@pytest.mark.parametrize("kind", ["IndexFlat", "IndexScalarQuantizer", "IndexIVFFlat", "IndexIVFScalarQuantizer"])
@pytest.mark.parametrize("other_is_ours", [True, False])
def test_merging(made_faiss, words, kind, other_is_ours):
    rows = np.ascontiguousarray(words[:4000, :32])
    index, other = (made_faiss(module, kind, 32) for module in (stand_in, stand_in if other_is_ours else faiss))
    true = exact_neighbours(rows, rows[:100], 5, "l2")
    for part, filled in ((rows[:2500], index), (rows[2500:], other)):
        filled.train(rows[:2500] * (1 if filled is index else 2))  # other ranges
        if filled is other and "IVF" in kind:
            other.quantizer.reset()
            other.quantizer.add(index.quantizer.reconstruct_n(0, 16))
        filled.add(part)
    index.merge_from(other, *([2500] if "IVF" in kind else []))
    assert (index.ntotal, other.ntotal) == (4000, 0)
    if "IVF" in kind:
        index.nprobe = 16
    assert recall_at_k(index.search(rows[:100], 5)[1], true, 5) > 0.9
    with pytest.raises(RuntimeError, match="otherIndex"):
        index.merge_from(stand_in.IndexFlatL2(31))


def test_graphs_neither_merge_nor_remove(made_faiss, small):
    index, other = (made_faiss(module, "IndexHNSWFlat", 24) for module in BOTH)
    index.add(small)
    other.add(small)
    for call in (lambda: index.merge_from(other), lambda: index.remove_ids(np.arange(2))):
        with pytest.raises(RuntimeError):
            call()
    assert index.ntotal == 300


def test_c_code_that_fills_the_index_is_noticed(words, small):
    """Whatever holds a pointer adds by itself, here FAISS' clustering and its own IndexIDMap."""
    centroids = stand_in.IndexFlatL2(24)
    clustering = faiss.Clustering(24, 8)
    clustering.train(small, centroids)
    assert centroids.search(small, 1)[1].max() == 7
    outer = faiss.IndexIDMap(inner := stand_in.IndexFlatL2(32))
    rows = np.ascontiguousarray(words[:, :32])
    for start in range(0, 5000, 1000):
        outer.add_with_ids(rows[start : start + 1000], np.arange(start, start + 1000) + 7)
        assert (
            recall_at_k(inner.search(rows[start : start + 50], 1)[1][:, 0:], np.arange(start, start + 50)[:, None], 1)
            > 0.9
        )
        assert outer.search(rows[start : start + 1], 1)[1] == start + 7
    assert "bits=8" in repr(inner)
    outer.remove_ids(np.arange(7, 1007))
    assert recall_at_k(inner.search(rows[1000:1050], 1)[1], np.arange(50)[:, None], 1) > 0.9


@pytest.mark.parametrize("kind", FLOATS)
def test_searches_of_many_threads_open_the_searcher_together(made_faiss, words, kind):
    rows = np.ascontiguousarray(words[:, :32])
    index = made_faiss(stand_in, kind, 32)
    index.train(rows[:2500])
    index.add(rows[:2500])
    for start in range(2500, 2800, 20):
        index.add(rows[start : start + 20])
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: index.search(rows[:40], 3)[1], range(16)))
        for ids in found:
            np.testing.assert_array_equal(ids, found[0])
        assert index.search(rows[start : start + 20], 1)[1].max() >= 2500


@pytest.mark.parametrize("kind", ["IndexFlat", "IndexHNSWFlat"])
def test_the_second_level_grows_too(made_faiss, words, kind):
    original = made_faiss(faiss, kind, words.shape[1])
    original.add(words[:3000])
    plain, index = (knn_adapters.wrap(original, rescore=mode) for mode in ("none", "residual"))
    for each in (plain, index):
        each.add(words[3000:5000])
    true = exact_neighbours(words[:5000], words[5000:], 10, "l2")
    recalls = [recall_at_k(each.search(words[5000:], 10)[1], true, 10) for each in (plain, index)]
    assert recalls[1] >= recalls[0]
    error = [np.abs(each.reconstruct_n(0, 5000) - words[:5000]).mean() for each in (plain, index)]
    assert error[1] < error[0] / 10
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(index)).search(words[:20], 5), index.search(words[:20], 5))  # noqa: S301
    if kind == "IndexFlat":
        index.remove_ids(np.arange(1000))
        assert np.abs(index.reconstruct_n() - words[1000:5000]).mean() < error[0] / 10


@pytest.mark.parametrize("kind", FLOATS)
def test_what_comes_later_is_rounded_with_feedback_too(made_faiss, kind):
    """By a live index, a pickled one and a copy alike; what they round with counts in the figures."""
    rng = np.random.default_rng(0)  # variance that falls off along random directions, as that of embeddings does
    directions = np.linalg.qr(rng.standard_normal((32, 32)))[0]
    rows = ((rng.standard_normal((2700, 32)) / np.sqrt(1 + np.arange(32))) @ directions).astype(np.float32)
    index = made_faiss(stand_in, kind, 32, "ip")
    index.train(rows[:2500])
    index.add(rows[:2500])
    quantizer = index._quantizer
    assert quantizer.feedback is not None
    twins = (index, pickle.loads(pickle.dumps(index)), copy.deepcopy(index))  # noqa: S301
    for twin in twins:
        if kind == "IndexIVFFlat":
            twin.add_with_ids(rows[2500:2600], np.arange(9000, 9100))
            twin.add(rows[2600:2700])
        else:
            twin.add(rows[2500:2700])
        assert twin._quantizer.feedback.tobytes() == quantizer.feedback.tobytes()
        held, vectors = twin._vectors()
        wanted = quantizer.decode(quantizer.encode(rows[:2700]))
        assert not np.array_equal(wanted[2500:], stock_rounding(quantizer, rows[2500:2700]))
        places = {2500 + row: 9000 + row for row in range(100)} if kind == "IndexIVFFlat" else {}
        order = {int(number): row for row, number in enumerate(held)}
        found = vectors[[order[places.get(row, row)] for row in range(2700)]]
        np.testing.assert_array_equal(found, wanted)
    sizes = knn_adapters.stats(index)
    assert sizes.other_bytes * 2700 >= quantizer.feedback.nbytes + 2 * quantizer.scale.nbytes


def stock_rounding(quantizer, vectors):
    """What each value becomes when it is rounded by itself."""
    steps = np.clip(np.rint((vectors - quantizer.offset) / quantizer.scale), 0, 255)
    return (quantizer.offset + quantizer.scale * steps).astype(np.float32)
