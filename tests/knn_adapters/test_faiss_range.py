"""Searches by radius, beside FAISS' own of the same codes and an exhaustive one of what the codes stand for."""

import itertools

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import knn_adapters

SQ = faiss.ScalarQuantizer
METRICS = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}
KINDS = ("flat", "graph", "lists", "residual lists")
N_LISTS = 5


def vectors_of(n, dim, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def sq_index(kind, vectors, metric, qtype=SQ.QT_8bit):
    """An index of FAISS with codes of 8 bits."""
    dim, number = vectors.shape[1], METRICS[metric]
    coarse = faiss.IndexFlat(dim, number)
    index = {
        "flat": lambda: faiss.IndexScalarQuantizer(dim, qtype, number),
        "graph": lambda: faiss.IndexHNSWSQ(dim, qtype, 16, number),
        "lists": lambda: faiss.IndexIVFScalarQuantizer(coarse, dim, N_LISTS, qtype, number, False),
        "residual lists": lambda: faiss.IndexIVFScalarQuantizer(coarse, dim, N_LISTS, qtype, number, True),
    }[kind]()
    index.train(vectors)
    index.add(vectors)
    if hasattr(index, "nprobe"):
        index.nprobe = 2
    return index


def rows(answer):
    lims, distances, ids = answer
    assert (lims.dtype, distances.dtype) == (np.uint64, np.float32)
    ends = lims.astype(np.int64)
    assert ends[0] == 0
    assert ends[-1] == len(distances) == len(ids)
    return [(distances[a:b], ids[a:b].astype(np.int64)) for a, b in itertools.pairwise(ends)]


def assert_same(found, expected, radius, *, ordered=True, may_miss=False):
    """The same ids and distances, in the same order, but for what lies on the radius to within the roundings."""
    assert len(found) == len(expected)
    for (distances, ids), (wanted, wanted_ids) in zip(found, expected, strict=True):
        tolerance = 2e-3 * max(1.0, float(np.abs(wanted).max(initial=0)), abs(radius))
        by_id = dict(zip(ids.tolist(), distances.tolist(), strict=True))
        by_wanted = dict(zip(wanted_ids.tolist(), wanted.tolist(), strict=True))
        assert len(by_id) == len(ids)
        for number in by_id.keys() & by_wanted.keys():
            assert abs(by_id[number] - by_wanted[number]) <= tolerance
        alone = by_wanted.keys() - by_id.keys() if may_miss else by_id.keys() ^ by_wanted.keys()
        for number in alone:
            assert abs((by_id | by_wanted)[number] - radius) <= tolerance
        if ordered:
            both = [number for number in ids.tolist() if number in by_wanted]
            assert both == [number for number in wanted_ids.tolist() if number in by_id]


def compared_with_faiss():
    """What the release of FAISS searches by radius itself: 1.8 leaves out flat codes, and graphs below 0."""
    return [(kind, metric) for kind in KINDS for metric in sorted(METRICS) if finds_its_only_vector(kind, metric)]


def finds_its_only_vector(kind, metric):
    vectors = np.full((20, 1), -1, np.float32)
    try:
        return sq_index(kind, vectors, metric).range_search(-vectors[:1], 5.0 if metric == "l2" else -5.0)[0][1] > 0
    except RuntimeError:
        return False


@settings(max_examples=60, deadline=None)
@given(
    compared=st.sampled_from(compared_with_faiss()),
    n=st.sampled_from([20, 61, 300]),
    dim=st.sampled_from([1, 3, 17, 64, 100]),
    n_queries=st.sampled_from([0, 1, 7, 40]),
    share=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    selected=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_results_are_those_of_faiss_over_the_same_codes(compared, n, dim, n_queries, share, selected, seed):
    kind, metric = compared
    vectors, queries = vectors_of(n, dim, seed), vectors_of(n_queries, dim, seed + 1)
    original = sq_index(kind, vectors, metric)
    values = ((queries[:, None] - vectors) ** 2).sum(2) if metric == "l2" else queries @ vectors.T
    radius = float(np.quantile(values, share if metric == "l2" else 1 - share)) if n_queries else 1.0
    params = None
    if selected:
        selector = faiss.IDSelectorBatch(np.arange(0, n, 3))
        # FAISS 1.8 takes no other kind of parameters for a graph.
        params = (
            faiss.SearchParametersHNSW(sel=selector)
            if kind == "graph"
            else faiss.SearchParametersIVF(nprobe=2, sel=selector)
        )
    found, expected = (
        rows(index.range_search(queries, radius, params=params)) for index in (knn_adapters.wrap(original), original)
    )
    # FAISS walks a graph, which finds some of what lies inside, and in another order.
    assert_same(found, expected, radius, ordered=kind != "graph", may_miss=kind == "graph")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["IndexFlatL2", "IndexFlatIP", "IndexHNSWFlat", "IndexIVFFlat"])
def test_everything_inside_is_found_whatever_the_breadth(small, kind, metric):
    number = METRICS[metric]
    if kind.startswith("IndexFlat"):
        original = getattr(faiss, kind)(24)
        number = original.metric_type
    elif kind == "IndexHNSWFlat":
        original = faiss.IndexHNSWFlat(24, 4, number)
        original.hnsw.efSearch = 1
    else:
        original = faiss.IndexIVFFlat(faiss.IndexFlat(24, number), 24, 4, number)
        original.train(small)
        original.nprobe = 4
    original.add(small)
    wrapped = knn_adapters.wrap(original)
    ids, held = wrapped._vectors()
    held = held[np.argsort(ids)]
    queries = small[:20]
    is_l2 = number == faiss.METRIC_L2
    values = ((queries[:, None] - held) ** 2).sum(2) if is_l2 else queries @ held.T
    radius = 30.0 if is_l2 else 4.0
    expected = []
    for row in values:
        inside = np.flatnonzero(row < radius if is_l2 else row > radius)
        expected.append((row[inside], inside))
    assert sum(len(inside) for _, inside in expected) > 100
    assert_same(rows(wrapped.range_search(queries, radius)), expected, radius, ordered=kind != "IndexIVFFlat")


def test_4_bits_and_a_second_level(small):
    original = faiss.IndexFlatL2(24)
    original.add(small)
    for options in ({"bits": 4}, {"bits": 4, "rescore": "residual"}, {"bits": 8, "rescore": "residual"}):
        wrapped = knn_adapters.wrap(original, **options)
        distances, ids = wrapped.search(small[:10], 300)
        for row, (found, inside) in enumerate(rows(wrapped.range_search(small[:10], 30.0))):
            near = ids[row][distances[row] < 30.0]
            np.testing.assert_array_equal(inside, np.sort(near))
            np.testing.assert_array_equal(np.sort(found), distances[row][distances[row] < 30.0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_radius_itself_is_outside(kind):
    wrapped = knn_adapters.wrap(sq_index(kind, vectors_of(80, 8), "l2"))
    query = vectors_of(1, 8, seed=1)
    distance, nearest = (part[0, 0] for part in wrapped.search(query, 1, params=None))
    ids = wrapped.range_search(query, np.nextafter(distance, np.float32(np.inf)))[2]
    if kind == "graph":  # the walk may have missed a nearer one
        assert nearest in ids
    else:
        assert ids.tolist() == [nearest]
    assert nearest not in wrapped.range_search(query, distance)[2]


def test_empty_lists_end_a_search():
    vectors = vectors_of(400, 8)
    original = sq_index("lists", vectors, "l2")
    wrapped = knn_adapters.wrap(original)
    for limit in (0, 1, 2):
        params = faiss.SearchParametersIVF(nprobe=N_LISTS)
        if not hasattr(params, "max_empty_result_buckets"):
            pytest.skip("a newer FAISS has it")
        params.max_empty_result_buckets = limit
        found, expected = (rows(i.range_search(vectors[:60], 1.5, params=params)) for i in (wrapped, original))
        assert_same(found, expected, 1.5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda i: i.range_search(np.zeros((1, 7)), 1.0), ValueError, "`x` must have dimension 8, got 7"),
        (lambda i: i.range_search(np.zeros(8), 1.0), ValueError, "`x` must be a matrix of vectors"),
        (lambda i: i.range_search(np.full((1, 8), np.nan), 1.0), ValueError, "`x` must hold finite numbers, got nan"),
        (lambda i: i.range_search(np.zeros((1, 8)), np.nan), ValueError, "`thresh` must be a number, got nan"),
        (lambda i: i.range_search(np.zeros((1, 8)), "far"), ValueError, "`thresh` must be a number, got 'far'"),
        (lambda i: i.range_search(np.zeros((1, 8)), 1.0, params=7), TypeError, "`params` must be faiss.SearchParam"),
    ],
)
def test_bad_input_is_named(kind, call, error, message):
    wrapped = knn_adapters.wrap(sq_index(kind, vectors_of(80, 8), "l2"))
    with pytest.raises(error, match=message):
        call(wrapped)
    assert len(wrapped.range_search(np.zeros((1, 8)), 1e300)[2]) > 0
