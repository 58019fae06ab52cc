"""Search parameters and selectors of FAISS, beside FAISS' own search of the same codes."""

import threading

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import knn_adapters
import mp_plugins
from knn_adapters.recall import recall_at_k

SQ = faiss.ScalarQuantizer
METRICS = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}
FAR = 1 << 30  # FAISS' selectors that call Python refuse what 32 bits cannot hold
N_LISTS = 6


def vectors_of(n, dim, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def sq_index(kind, vectors, metric="l2", ids=None, coarse=None):
    """An index of FAISS with 8-bit codes."""
    dim, number = vectors.shape[1], METRICS[metric]
    if kind == "flat":
        index = faiss.IndexScalarQuantizer(dim, SQ.QT_8bit, number)
    elif kind == "graph":
        index = faiss.IndexHNSWSQ(dim, SQ.QT_8bit, 16, number)
        index.hnsw.efSearch = 200
    else:
        coarse = coarse or faiss.IndexFlat(dim, number)
        index = faiss.IndexIVFScalarQuantizer(coarse, dim, N_LISTS, SQ.QT_8bit, number, kind == "residual lists")
        index.nprobe = 3
    index.train(vectors)
    if ids is None:
        index.add(vectors)
    else:
        index.add_with_ids(vectors, ids)
    return index


KINDS = ("flat", "graph", "lists", "residual lists")


def parameters(kind, **given_):
    if "lists" in kind:
        return faiss.SearchParametersIVF(**{"nprobe": 3, **given_})
    if kind == "graph":
        return faiss.SearchParametersHNSW(**{"efSearch": 200, **given_})
    return faiss.SearchParameters(**given_)


def assert_same(found, expected, tolerance=2e-3):
    """The same ids where distances differ by more than both roundings, and the same distances."""
    (distances, ids), (wanted, wanted_ids) = found, expected
    np.testing.assert_array_equal(ids == -1, wanted_ids == -1)
    scale = max(1.0, float(np.abs(wanted[wanted_ids >= 0]).max(initial=0)))
    np.testing.assert_allclose(distances, wanted, rtol=0, atol=tolerance * scale)
    for row, wanted_row in zip(ids, wanted_ids, strict=True):
        assert len(set(row[row >= 0])) == (row >= 0).sum() == (wanted_row >= 0).sum()


# Selectors as descriptions, so that hypothesis can shrink them: what makes one, and what it accepts.
LEAVES = st.one_of(
    st.tuples(st.just("range"), st.integers(-5, 80), st.integers(-5, 80)),
    st.tuples(st.sampled_from(["array", "batch"]), st.lists(st.integers(-3, 90) | st.just(FAR), max_size=30)),
    st.tuples(st.just("bitmap"), st.binary(max_size=14)),
    st.tuples(st.just("callback"), st.integers(1, 4)),
    st.just(("all",)),
)
SELECTORS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(st.just("not"), inner), st.tuples(st.sampled_from(["and", "or", "xor"]), inner, inner)
    ),
    max_leaves=5,
)


def made(description):
    name, *rest = description
    if name in ("not", "and", "or", "xor"):
        kind = {"not": "Not", "and": "And", "or": "Or", "xor": "XOr"}[name]
        return getattr(faiss, f"IDSelector{kind}")(*map(made, rest))
    return {
        "range": lambda: faiss.IDSelectorRange(*rest),
        "array": lambda: faiss.IDSelectorArray(np.array(rest[0], np.int64)),
        "batch": lambda: faiss.IDSelectorBatch(np.array(rest[0], np.int64)),
        "bitmap": lambda: faiss.IDSelectorBitmap(np.frombuffer(rest[0], np.uint8).copy()),
        "callback": lambda: faiss.PyCallbackIDSelector(lambda number: number % rest[0] == 0),
        "all": faiss.IDSelectorAll,
    }[name]()


def accepts(description, number):
    name, *rest = description
    if name in ("array", "batch"):
        return number in rest[0]
    return {
        "range": lambda: rest[0] <= number < rest[1],
        "bitmap": lambda: 0 <= number < 8 * len(rest[0]) and bool(rest[0][number // 8] >> number % 8 & 1),
        "callback": lambda: number % rest[0] == 0,
        "all": lambda: True,
        "not": lambda: not accepts(rest[0], number),
        "and": lambda: accepts(rest[0], number) and accepts(rest[1], number),
        "or": lambda: accepts(rest[0], number) or accepts(rest[1], number),
        "xor": lambda: accepts(rest[0], number) != accepts(rest[1], number),
    }[name]()


@pytest.fixture(scope="module", params=[(kind, metric) for kind in KINDS for metric in METRICS], ids="-".join)
def pair(request):
    """An index of 70 vectors, FAISS' and ours over the same codes, searched exhaustively; ids are not rows in lists."""
    kind, metric = request.param
    vectors = vectors_of(70, 17)
    ids = np.random.default_rng(2).permutation(np.r_[np.arange(69), FAR]) if "lists" in kind else None
    original = sq_index(kind, vectors, metric, ids)
    wrapped = knn_adapters.wrap(original)
    for index in (original, wrapped):
        if "lists" in kind:
            index.nprobe = N_LISTS
    return kind, original, wrapped, np.arange(70) if ids is None else ids


@settings(max_examples=60, deadline=None)
@given(description=SELECTORS)
def test_every_selector_filters_as_in_faiss(pair, description):
    kind, original, wrapped, ids = pair
    queries = vectors_of(5, 17, seed=1)
    allowed = {number for number in ids.tolist() if accepts(description, number)}
    params = parameters(kind, sel=made(description), **({"nprobe": N_LISTS} if "lists" in kind else {}))
    distances, found = wrapped.search(queries, 70, params=params)
    for row in found:
        assert set(row[row >= 0].tolist()) == allowed
    assert_same((distances, found), original.search(queries, 70, params=params))
    everything = np.inf if wrapped.metric_type == faiss.METRIC_L2 else -np.inf
    lims, _, inside = wrapped.range_search(queries, everything, params=params)
    for first, last in zip(lims[:-1].tolist(), lims[1:].tolist(), strict=True):
        assert set(inside[first:last].tolist()) == allowed


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    metric=st.sampled_from(sorted(METRICS)),
    n=st.sampled_from([20, 61, 300]),
    dim=st.sampled_from([1, 3, 17, 64, 100]),
    n_queries=st.sampled_from([0, 1, 7, 30]),
    k=st.sampled_from([1, 5, 40, 400]),
    share=st.sampled_from([0.0, 0.1, 0.7]),
    seed=st.integers(0, 1000),
)
def test_filtered_searches_are_those_of_faiss_over_the_same_codes(kind, metric, n, dim, n_queries, k, share, seed):
    vectors, queries = vectors_of(n, dim, seed), vectors_of(n_queries, dim, seed + 1)
    original = sq_index(kind, vectors, metric)
    named = np.flatnonzero(np.random.default_rng(seed).random(n) < share)
    params = parameters(kind, sel=faiss.IDSelectorBatch(named))
    found, expected = (i.search(queries, k, params=params) for i in (knn_adapters.wrap(original), original))
    if kind == "graph":  # walks that differ; ours scores all that pass where few do
        assert set(found[1].ravel()) <= {-1, *named.tolist()}
        assert ((found[1] >= 0).sum(1) >= (expected[1] >= 0).sum(1)).all()
    else:
        assert_same(found, expected)


def test_translated_selectors(pair):
    kind, _, wrapped, _ = pair
    if "lists" in kind:
        pytest.skip("ids are not rows")
    names = faiss.Int64Vector()
    faiss.copy_array_to_vector(np.arange(70, dtype=np.int64) * 10, names)
    selector = faiss.IDSelectorTranslated(names, faiss.IDSelectorNot(faiss.IDSelectorRange(100, 680)))
    found = wrapped.search(vectors_of(2, 17), 70, params=parameters(kind, sel=selector))[1]
    assert set(found.ravel().tolist()) == {-1, *range(10), 68, 69}
    faiss.copy_array_to_vector(np.arange(69, dtype=np.int64), names)
    with pytest.raises(ValueError, match=r"`params.sel` must translate every id of the index, got an id_map of 69"):
        wrapped.search(vectors_of(2, 17), 70, params=parameters(kind, sel=selector))


def test_a_selector_of_which_python_has_no_object_of_its_class_is_asked(pair):
    kind, _, wrapped, _ = pair
    selector = faiss.IDSelectorNot(faiss.IDSelectorRange(3, 1000))
    params = parameters(kind)
    params.sel = selector.sel  # FAISS shows it as a plain IDSelector
    found = wrapped.search(vectors_of(2, 17), 70, params=params)[1]
    assert (set(found.ravel().tolist()) - {-1}).isdisjoint({0, 1, 2, FAR})


def test_a_callback_that_raises_raises_and_is_asked_about_candidates_only(pair):
    kind, _, wrapped, _ = pair
    asked = []

    def refuse(number):
        asked.append(number)
        raise KeyError("no such id")

    query = vectors_of(1, 17)
    for selector in (faiss.PyCallbackIDSelector(refuse), faiss.IDSelectorNot(faiss.PyCallbackIDSelector(refuse))):
        asked.clear()
        with pytest.raises(KeyError, match="no such id"):
            wrapped.search(query, 3, params=parameters(kind, sel=selector))
        assert len(asked) == 1
    far = 0.0 if wrapped.metric_type == faiss.METRIC_L2 else np.inf
    params = parameters(kind, sel=faiss.PyCallbackIDSelector(refuse))
    assert len(wrapped.range_search(query, far, params=params)[2]) == 0


def test_parameters_of_other_kinds_are_taken_or_refused_as_by_faiss(pair):
    kind, original, wrapped, _ = pair
    selector = faiss.IDSelectorRange(10, 30)
    query = vectors_of(3, 17)
    for make in (
        faiss.SearchParameters,
        faiss.SearchParametersHNSW,
        faiss.SearchParametersIVF,
        faiss.SearchParametersPQ,
    ):
        params = make(sel=selector)
        if "lists" in kind and make is not faiss.SearchParametersIVF:
            for index in (original, wrapped):
                for call in (index.search, index.range_search):
                    with pytest.raises(RuntimeError, match="IndexIVF params have incorrect type"):
                        call(query, 3, params=params)
            continue
        found = wrapped.search(query, 3, params=params)
        try:
            expected = original.search(query, 3, params=params)
        except RuntimeError:  # graphs of FAISS 1.8 refuse those of others; later ones take the selector
            assert kind == "graph"
        else:
            assert_same(found, expected)
    for wrong in (3, {}, selector):
        for index in (original, wrapped):
            with pytest.raises(TypeError):
                index.search(query, 3, params=wrong)


def test_breadth_is_that_of_the_call_only(vectors, queries):
    graph = faiss.IndexHNSWFlat(vectors.shape[1], 8)
    graph.add(vectors)
    lists = faiss.IndexIVFFlat(faiss.IndexFlatL2(vectors.shape[1]), vectors.shape[1], 40)
    lists.cp.niter = 3
    lists.train(vectors)
    lists.add(vectors)
    for index, params, setting in (
        (knn_adapters.wrap(graph), lambda n: faiss.SearchParametersHNSW(efSearch=n), "efSearch"),
        (knn_adapters.wrap(lists), lambda n: faiss.SearchParametersIVF(nprobe=n), "nprobe"),
    ):
        owner = index.hnsw if setting == "efSearch" else index
        setattr(owner, setting, 40)
        wide = index.search(queries, 5)
        np.testing.assert_array_equal(index.search(queries, 5, params=params(40))[1], wide[1])
        narrow = index.search(queries, 5, params=params(1))[1]
        assert recall_at_k(narrow, wide[1], 5) < 0.95
        assert getattr(owner, setting) == 40
        np.testing.assert_array_equal(index.search(queries, 5)[1], wide[1])
        setattr(owner, setting, 1)  # read live
        np.testing.assert_array_equal(index.search(queries, 5)[1], narrow)


def test_the_flags_of_graph_searches_change_nothing(pair):
    kind, _, wrapped, _ = pair
    if kind != "graph":
        pytest.skip("not a graph")
    if not hasattr(faiss.SearchParametersHNSW(), "bounded_queue"):
        pytest.skip("not in this release of FAISS")
    query = vectors_of(4, 17)
    expected = wrapped.search(query, 9, params=faiss.SearchParametersHNSW(efSearch=12))
    for check in (True, False):
        for bounded in (True, False):
            params = faiss.SearchParametersHNSW(efSearch=12, check_relative_distance=check, bounded_queue=bounded)
            np.testing.assert_array_equal(wrapped.search(query, 9, params=params)[1], expected[1])


def test_a_coarse_graph_and_its_parameters():
    vectors = vectors_of(600, 8)
    coarse = faiss.IndexHNSWFlat(8, 8)
    original = sq_index("residual lists", vectors, coarse=coarse)
    original.nprobe = N_LISTS
    wrapped = knn_adapters.wrap(original)
    assert_same(wrapped.search(vectors[:20], 5), original.search(vectors[:20], 5))
    inner = faiss.SearchParametersHNSW(efSearch=4, sel=faiss.IDSelectorRange(2, 4))
    params = faiss.SearchParametersIVF(nprobe=4, quantizer_params=inner)
    assert_same(wrapped.search(vectors[:20], 5, params=params), original.search(vectors[:20], 5, params=params))
    lists = {int(number) for number in original.quantizer.search(vectors[:20], 4, params=inner)[1].ravel()}
    assert lists == {-1, 2, 3}
    lims, _, ids = wrapped.range_search(vectors[:20], np.inf, params=params)
    sizes = sum(original.invlists.list_size(number) for number in (2, 3))
    np.testing.assert_array_equal(lims, np.arange(21) * sizes)
    assert len(ids) == 20 * sizes


@pytest.mark.parametrize("selected", [False, True])
def test_max_codes_ends_after_the_list_that_uses_it_up(selected):
    if not hasattr(faiss.SearchParametersIVF(), "ensure_topk_full"):
        pytest.skip("not in this release of FAISS")
    vectors = vectors_of(500, 8)
    original = sq_index("lists", vectors)
    wrapped = knn_adapters.wrap(original)
    selector = {"sel": faiss.IDSelectorRange(0, 250)} if selected else {}
    for budget in (1, 40, 120, 10_000):
        how = {"nprobe": N_LISTS, "max_codes": budget, **selector}
        exactly = faiss.SearchParametersIVF(**how, ensure_topk_full=True)  # whole lists, at least k codes
        assert_same(wrapped.search(vectors[:30], 4, params=exactly), original.search(vectors[:30], 4, params=exactly))
        params = faiss.SearchParametersIVF(**how)
        ours, cut = wrapped.search(vectors[:30], 4, params=params), original.search(vectors[:30], 4, params=params)
        missing = cut[1] < 0
        assert (ours[0][~missing] <= cut[0][~missing] + 1e-2).all()
    wrapped.max_codes = 1
    wrapped.nprobe = N_LISTS
    params = faiss.SearchParametersIVF(nprobe=1)
    np.testing.assert_array_equal(wrapped.search(vectors[:30], 4)[1], wrapped.search(vectors[:30], 4, params=params)[1])


@pytest.mark.parametrize("metric", METRICS)
def test_max_codes_of_the_original_is_kept(metric):
    original = sq_index("lists", vectors_of(300, 8), metric)
    original.max_codes = 7
    assert knn_adapters.wrap(original).max_codes == 7
    flat = faiss.IndexIVFFlat(faiss.IndexFlatL2(8), 8, 4)
    flat.train(vectors_of(300, 8))
    flat.add(vectors_of(300, 8))
    flat.max_codes = 7
    assert knn_adapters.wrap(flat).max_codes == 7


def test_assign_is_a_search_without_distances(pair):
    _, _, wrapped, _ = pair
    queries = vectors_of(5, 17, seed=1)
    expected = wrapped.search(queries, 4)[1]
    np.testing.assert_array_equal(wrapped.assign(queries, 4), expected)
    np.testing.assert_array_equal(wrapped.assign(queries), expected[:, :1])
    labels = np.empty((5, 4), np.int64)
    assert wrapped.assign(queries, 4, labels) is labels
    np.testing.assert_array_equal(labels, expected)
    with pytest.raises(mp_plugins.ArgumentError, match=r"`labels` must be int64 of shape \(5, 3\)"):
        wrapped.assign(queries, 3, labels)


def test_queries_of_any_type_and_layout(pair):
    _, _, wrapped, _ = pair
    queries = np.rint(20 * vectors_of(6, 17, seed=1))
    expected = wrapped.search(queries.astype(np.float32), 4)
    wide = np.zeros((12, 34))
    wide[::2, ::2] = queries
    for same in (queries, queries.astype(np.float16), np.asfortranarray(queries), wide[::2, ::2], queries.astype(int)):
        for part, wanted in zip(wrapped.search(same, 4), expected, strict=True):
            np.testing.assert_array_equal(part, wanted)
    for name in ("Float32", "Float16", "Int8"):
        if hasattr(faiss, name):
            for part, wanted in zip(
                wrapped.search(queries, 4, numeric_type=getattr(faiss, name)), expected, strict=True
            ):
                np.testing.assert_array_equal(part, wanted)
    if hasattr(faiss, "UInt8"):
        with pytest.raises(mp_plugins.ArgumentError, match="`x` must hold whole numbers from 0 to 255"):
            wrapped.search(queries, 4, numeric_type=faiss.UInt8)
    with pytest.raises(mp_plugins.ArgumentError, match="`numeric_type` must be"):
        wrapped.search(queries, 4, numeric_type="float64")


def test_more_than_there_are_and_none_at_all(pair):
    _, original, wrapped, _ = pair
    assert_same(wrapped.search(vectors_of(3, 17), 100), original.search(vectors_of(3, 17), 100))
    distances, ids = wrapped.search(vectors_of(0, 17), 100)
    assert distances.shape == ids.shape == (0, 100)
    assert wrapped.assign(vectors_of(0, 17), 2).shape == (0, 2)


def test_lists_chosen_before(pair):
    kind, original, wrapped, _ = pair
    if "lists" not in kind:
        assert not hasattr(original, "search_preassigned")
        assert not hasattr(wrapped, "search_preassigned")
        return
    queries = vectors_of(5, 17, seed=1)
    far, lists = original.quantizer.search(queries, N_LISTS)
    lists[:, 2:4] = -1
    for distances in (far, None):
        assert_same(
            wrapped.search_preassigned(queries, 4, lists, distances),
            original.search_preassigned(queries, 4, lists, far),
        )
    from faiss.contrib.ivf_tools import search_preassigned

    assert_same(search_preassigned(wrapped, queries, 4, lists), wrapped.search_preassigned(queries, 4, lists, None))
    lims, _, ids = wrapped.range_search_preassigned(queries, 20.0, lists, None)
    wanted_lims, _, wanted_ids = original.range_search_preassigned(queries, 20.0, lists, far)
    np.testing.assert_array_equal(lims, wanted_lims)
    np.testing.assert_array_equal(ids, wanted_ids)
    with pytest.raises(NotImplementedError, match="leave `params` out"):
        wrapped.search_preassigned(queries, 4, lists, None, params=faiss.SearchParametersIVF())
    with pytest.raises(ValueError, match=r"`Iq` must have shape \(5, 6\)"):
        wrapped.search_preassigned(queries, 4, lists[:, :5], None)
    with pytest.raises(ValueError, match=r"`Dq` must have shape \(5, 6\)"):
        wrapped.search_preassigned(queries, 4, lists, far[:, :5])
    with pytest.raises(ValueError, match="`assignment` must name lists below 6, or -1 for none, got 6"):
        wrapped.search_preassigned(queries, 4, np.full((5, 6), 6), None)


def test_counters_of_faiss_stay_as_they_are():
    wrapped = knn_adapters.wrap(sq_index("graph", vectors_of(100, 8)))
    faiss.cvar.hnsw_stats.reset()
    wrapped.search(vectors_of(3, 8), 2)
    assert faiss.cvar.hnsw_stats.ndis == 0


def test_parameters_are_shared_by_threads(pair):
    kind, _, wrapped, _ = pair
    params = parameters(
        kind, sel=faiss.IDSelectorOr(faiss.IDSelectorBatch(np.arange(9)), faiss.IDSelectorRange(20, 40))
    )
    queries, failed = vectors_of(30, 17), []
    expected = wrapped.search(queries, 4, params=params)[1]

    def work():
        failed.extend(1 for _ in range(10) if (wrapped.search(queries, 4, params=params)[1] != expected).any())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.parametrize(
    ("kind", "call", "error", "message"),
    [
        (
            "graph",
            lambda i, q: i.search(q, 1, params=faiss.SearchParametersHNSW(efSearch=0)),
            ValueError,
            "`params.efS",
        ),
        (
            "lists",
            lambda i, q: i.search(q, 1, params=faiss.SearchParametersIVF(nprobe=0)),
            RuntimeError,
            "`params.npro",
        ),
        ("lists", lambda i, q: i.range_search(q, 1, params=faiss.SearchParametersIVF(nprobe=0)), RuntimeError, "npro"),
        ("flat", lambda i, q: i.search(q, 1, D=[[0.0]]), ValueError, "`D` must be float32 of shape .*, got a list"),
        (
            "flat",
            lambda i, q: i.search(q, 1, I=np.broadcast_to(np.int64(0), (1, 1))),
            ValueError,
            "`I` must be writeab",
        ),
        ("flat", lambda i, q: i.assign(q, 0), ValueError, "`k` must be at least 1, got 0"),
    ],
)
def test_bad_input_is_named(kind, call, error, message):
    wrapped, query = knn_adapters.wrap(sq_index(kind, vectors_of(100, 8))), vectors_of(1, 8)
    before = wrapped.search(query, 3)
    with pytest.raises(error, match=message):
        call(wrapped, query)
    np.testing.assert_array_equal(wrapped.search(query, 3), before)


def test_n_probe_of_none_is_an_error():
    wrapped = knn_adapters.wrap(sq_index("lists", vectors_of(100, 8)))
    wrapped.nprobe = 0
    with pytest.raises(RuntimeError, match=r"'cur_nprobe > 0' failed: `nprobe` must be at least 1, got 0"):
        wrapped.search(vectors_of(1, 8), 1)
