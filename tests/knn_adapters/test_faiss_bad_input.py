"""What FAISS asserts, or does not look at, is an error that names argument, rule and value, and changes nothing."""

import faiss
import numpy as np
import pytest

import mp_plugins
from knn_adapters import faiss as stand_in

TEXTS = (
    "Flat", "HNSW8", "IVF4,Flat", "SQ8", "HNSW8,SQ8", "IVF4,SQ8", "IDMap,Flat", "IDMap2,SQ8", "PCA8,Flat", "Flat,RFlat",
)  # fmt: skip
GOOD = np.zeros((2, 16), np.float32)
NARROW, NAN = np.zeros((2, 8), np.float32), np.full((1, 16), np.nan, np.float32)


def add(index, rows):
    return index.add_with_ids(rows, np.arange(len(rows))) if "IDMap" in type(index).__name__ else index.add(rows)


CALLS = {
    "search: dimension": (lambda i: i.search(NARROW, 1), "`x` must have dimension 16, got 8"),
    "search: one vector": (lambda i: i.search(GOOD[0], 1), "`x` must be a matrix of vectors"),
    "search: text": (lambda i: i.search("far", 1), "`x` must be"),
    "search: k": (lambda i: i.search(GOOD, 0), "`k` must be at least 1, got 0"),
    "search: no number": (lambda i: i.search(NAN, 1), "`x` must hold finite numbers, got nan"),
    "search: D": (
        lambda i: i.search(GOOD, 1, D=np.zeros((3, 1), np.float32)),
        r"`D` must be float32 of shape \(2, 1\)",
    ),
    "search: I": (lambda i: i.search(GOOD, 1, I=np.zeros((2, 1), np.int32)), r"`I` must be int64 of shape \(2, 1\)"),
    "assign: dimension": (lambda i: i.assign(NARROW, 1), "`x` must have dimension 16, got 8"),
    "range_search: dimension": (lambda i: i.range_search(NARROW, 1.0), "`x` must have dimension 16, got 8"),
    "range_search: radius": (lambda i: i.range_search(GOOD, "far"), "`thresh` must be a number, got 'far'"),
    "add: dimension": (lambda i: add(i, NARROW), "`x` must have dimension 16, got 8"),
    "add: no number": (lambda i: add(i, NAN), r"`x` must hold finite numbers, got nan at \[0, 0\]"),
    "train: dimension": (lambda i: i.train(NARROW), "`x` must have dimension 16, got 8"),
    "add_with_ids: too few": (
        lambda i: i.add_with_ids(GOOD, [1]),
        r"`ids` must be integers of shape \(2,\)|not implemented",
    ),
}


@pytest.fixture(scope="module", params=[(text, count) for text in TEXTS for count in (300, 2200)], ids=str)
def index(request):
    text, count = request.param
    rows = np.random.default_rng(0).standard_normal((count, 16)).astype(np.float32)
    made = stand_in.index_factory(16, text)
    made.train(rows)
    add(made, rows)
    return made


@pytest.mark.parametrize("name", CALLS)
def test_a_bad_call_is_named_and_changes_nothing(index, name):
    call, message = CALLS[name]
    count, before = index.ntotal, index.search(np.ones((5, 16)), 3)
    with pytest.raises((mp_plugins.ArgumentError, RuntimeError), match=message):
        call(index)
    assert index.ntotal == count
    np.testing.assert_array_equal(index.search(np.ones((5, 16)), 3), before)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("remove_ids", lambda i: i.remove_ids("all")),
        ("reconstruct", lambda i: i.reconstruct(10**6)),
        ("reconstruct_batch", lambda i: i.reconstruct_batch(np.array([10**6]))),
        ("reconstruct_n", lambda i: i.reconstruct_n(5, 10**6)),
        ("sa_decode", lambda i: i.sa_decode(np.zeros((2, 3), np.uint8))),
        ("sa_encode", lambda i: i.sa_encode(NARROW)),
        ("merge_from", lambda i: i.merge_from(faiss.IndexFlatL2(3))),
        ("search_and_reconstruct", lambda i: i.search_and_reconstruct(NARROW, 1)),
        ("params", lambda i: i.search(GOOD, 1, params=7)),
    ],
)
def test_nothing_ends_in_an_assertion(index, name, call):
    count, before = index.ntotal, index.search(np.ones((5, 16)), 3)
    with pytest.raises((mp_plugins.ArgumentError, RuntimeError, TypeError)):
        call(index)
    assert index.ntotal == count
    np.testing.assert_array_equal(index.search(np.ones((5, 16)), 3), before)
