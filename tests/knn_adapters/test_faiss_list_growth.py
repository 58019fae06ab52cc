"""Inverted lists that grow: what is looked at anew, and how what comes by C++ code is rounded."""

import copy
import pickle

import faiss
import numpy as np
import pytest

import knn_adapters
from knn_adapters import faiss as stand_in
from knn_adapters import faiss_ivf


@pytest.fixture(scope="module")
def rows():
    """Variance that falls off along random directions, as that of embeddings does: rounding takes feedback."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.standard_normal((32, 32)))[0]
    return ((rng.standard_normal((3000, 32)) / np.sqrt(1 + np.arange(32))) @ directions).astype(np.float32)


def filled(rows, text="IVF16,Flat", metric=faiss.METRIC_L2, count=2500):
    index = stand_in.index_factory(32, text, metric)
    index.train(rows[:count])
    index.add(rows[:count])
    index.nprobe = 16
    return index


def assert_as_opened_anew(index, queries):
    found, expected = index.search(queries, 10), copy.deepcopy(index).search(queries, 10)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("text", ["IVF16,Flat", "IVF16,SQ8", "IVF16,SQ4"])
@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
def test_only_lists_that_grew_are_looked_at_anew(rows, text, metric, monkeypatch):
    index = filled(rows, text, metric)
    index.search(rows[:1], 1)
    viewed, views = [], faiss_ivf.list_views

    def watched(owner, number, count):
        viewed.append(number)
        return views(owner, number, count)

    monkeypatch.setattr(faiss_ivf, "list_views", watched)
    for row in range(2500, 2530):
        index.add(rows[row : row + 1])
        index.add_with_ids(rows[row : row + 1], np.array([row + 7000]))
        viewed.clear()
        index.search(rows[:1], 1)
        assert len(set(viewed)) == 1
    viewed.clear()
    assert_as_opened_anew(index, rows[2500:2600])
    assert len(viewed) == 16  # those of the copy
    index.remove_ids(np.arange(5))
    viewed.clear()
    index.search(rows[:1], 1)
    assert len(viewed) == 16  # any list may have lost one


def test_whatever_is_done_searches_see_it(rows):
    index, queries = filled(rows), rows[2600:2700]
    index.set_direct_map_type(faiss.DirectMap.Hashtable)
    for change in (
        lambda: index.add_with_ids(rows[2500:2600], np.arange(2500, 2600)),
        lambda: index.update_vectors(np.arange(10), rows[2700:2710]),
        lambda: index.add_with_ids(rows[2600:2601] * 30, np.array([2600])),
        lambda: faiss.downcast_index(index).add_with_ids(rows[2601:2603], np.array([2601, 2602])),
        lambda: index.remove_ids(np.arange(100, 200)),
        lambda: index.add_with_ids(rows[2800:3000] * np.float32(9), np.arange(2800, 3000)),
        lambda: index.add_with_ids(rows[2800:3000] * np.float32(9), np.arange(3800, 4000)),  # trains anew
        index.reset,
        lambda: index.add_with_ids(rows[:500], np.arange(500)),
    ):
        change()
        assert_as_opened_anew(index, queries)
    assert_as_opened_anew(pickle.loads(pickle.dumps(index)), queries)  # noqa: S301


def codes_by_id(index):
    codes, ids = zip(*faiss_ivf.list_arrays(index), strict=True)
    return dict(zip(np.concatenate(ids).tolist(), np.concatenate(codes), strict=True))


@pytest.mark.parametrize("text", ["IDMap,IVF16,Flat", "IDMap2,IVF16,Flat", "L2norm,IVF16,Flat"])
def test_what_comes_through_an_index_around_is_rounded_with_feedback(rows, text):
    index = stand_in.index_factory(32, text, faiss.METRIC_INNER_PRODUCT)
    index.train(rows[:2500])
    for part in np.array_split(np.arange(2700), 7):
        if "IDMap" in text:
            index.add_with_ids(rows[part], part + 10_000)
        else:
            index.add(rows[part])
        if part[0] == 1000:
            index.search(rows[:1], 1)  # opened in between, or not
    inner = stand_in.extract_index_ivf(index)
    quantizer = inner._quantizer
    assert quantizer.feedback is not None
    held = rows / np.linalg.norm(rows, axis=1, keepdims=True) if "norm" in text else rows
    wanted, found = quantizer.encode(held[:2700]), codes_by_id(inner)
    assert sorted(found) == list(range(2700))
    same = np.array([(found[number] == wanted[number]).all() for number in range(2700)])
    assert same.mean() > (0.95 if "norm" in text else 0.9999)  # lengths are divided by in another order
    alone = np.clip(np.rint((held[:2700] - quantizer.offset) / quantizer.scale), 0, 255)
    assert (wanted != alone).any(axis=1).mean() > 0.9
    assert_as_opened_anew(inner, rows[2700:2800])


def test_ids_of_the_callers_keep_c_codes(rows):
    """An inner index that was filled under ids of the caller's before: which entries are new is not sure."""
    inner = filled(rows, metric=faiss.METRIC_INNER_PRODUCT)
    assert inner._quantizer.feedback is not None
    inner.add_with_ids(rows[2500:2502], np.array([2502, 2503]))  # the next ids, by chance
    faiss.downcast_index(inner).add(rows[2502:2504])
    before = [codes.copy() for codes, _ in faiss_ivf.list_arrays(inner)]
    inner._contents.encode_added(inner, rows[2502:2504])
    for (codes, _), held in zip(faiss_ivf.list_arrays(inner), before, strict=True):
        np.testing.assert_array_equal(codes, held)


def test_updated_vectors_are_rounded_with_feedback(rows):
    for kind in (faiss.DirectMap.Array, faiss.DirectMap.Hashtable):
        index = filled(rows, metric=faiss.METRIC_INNER_PRODUCT)
        index.set_direct_map_type(kind)
        keys = np.array([5, 2000, 77])
        index.update_vectors(keys, rows[2700:2703])
        found, wanted = codes_by_id(index), index._quantizer.encode(rows[2700:2703])
        assert index._quantizer.feedback is not None
        for key, code in zip(keys.tolist(), wanted, strict=True):
            np.testing.assert_array_equal(found[key], code)
        np.testing.assert_array_equal(found[6], index._quantizer.encode(rows[6:7])[0])
        assert 5 in index.search(rows[2700:2701], 10)[1]
    assert knn_adapters.stats(index).n_vectors == 2500
