"""The same calls on hnswlib and on what stands in for it: results, settings, exceptions, and what a failure leaves."""

import inspect
from concurrent.futures import ThreadPoolExecutor

import hnswlib
import numpy as np
import pytest

import knn_adapters
from knn_adapters import hnswlib as stand_in
from knn_adapters.coded_graph import CodedGraph
from knn_adapters.elements import CALIBRATION_ROWS
from knn_adapters.recall import exact_neighbours, recall_at_k

SPACES = ("l2", "ip", "cosine")
IS_0_7 = "return_type" not in hnswlib.Index.get_items.__doc__
BOTH = (hnswlib, stand_in)


def built(module, vectors, space="l2", labels=None, ef=64, room=10, **options):
    index = module.Index(space=space, dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors) + room, **{"M": 16, "ef_construction": 100, **options})
    index.add_items(vectors, labels)
    index.set_ef(ef)
    return index


def test_every_public_name_is_ours():
    """What hnswlib has and we neither support nor pass on to the empty base would run on the wrong object."""
    passed_on = {"Index": {"dim", "space", "ef", "num_threads"}, "BFIndex": {"num_threads"}}
    for name, of_the_base in passed_on.items():
        library, ours = getattr(hnswlib, name), getattr(stand_in, name)
        for member in (member for member in dir(library) if not member.startswith("_")):
            own = inspect.getattr_static(ours, member) is not inspect.getattr_static(library, member)
            assert own != (member in of_the_base), member
            if own and callable(getattr(library, member)):
                doc = inspect.getattr_static(ours, member).__doc__
                assert "not yet supported" not in doc, member
        assert issubclass(ours, library)
    assert {name for name in dir(hnswlib) if inspect.isclass(getattr(hnswlib, name))} <= set(stand_in.__all__)


@pytest.mark.parametrize("name", ["Index", "BFIndex"])
def test_signatures_are_hnswlibs(name):
    """pybind11 writes them into the documentation: names and defaults."""
    for member in dir(getattr(hnswlib, name)):
        theirs, ours = getattr(getattr(hnswlib, name), member), getattr(getattr(stand_in, name), member)
        if member.startswith("_") or not callable(theirs):
            continue
        inside = theirs.__doc__.split("(", 1)[1].split(") ->")[0]
        expected = [part.split(":")[0].strip() for part in inside.split(",") if ":" in part][1:]
        parameters = list(inspect.signature(ours).parameters.values())[1:]
        if IS_0_7:
            # What came with 0.8 is there too.
            later = {"get_items": "return_type", "knn_query": "num_threads"}.get(member)
            parameters = [each for each in parameters if each.name in expected or each.name != later]
        assert [parameter.name for parameter in parameters] == expected, member
        for parameter in parameters:
            if parameter.default is not inspect.Parameter.empty:
                assert f"= {parameter.default!r}" in inside, (member, parameter)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("n_batches", "most"), [(1, 0.02), (10, 0.03)])  # the first five batches train
def test_recall_is_near_hnswlibs(vectors, queries, space, n_batches, most):
    true, recalls = exact_neighbours(vectors, queries, 10, space), []
    for module in BOTH:
        index = module.Index(space, vectors.shape[1])
        index.init_index(len(vectors), ef_construction=100)
        for part in np.array_split(vectors, n_batches):
            index.add_items(part)
        index.set_ef(64)
        recalls.append(recall_at_k(index.knn_query(queries, k=10)[0].astype(np.int64), true, 10))
    assert recalls[0] - recalls[1] <= most
    figures = knn_adapters.stats(index)
    assert (figures.n_vectors, figures.bits) == (len(vectors), 8)
    assert figures.ratio <= 0.45


@pytest.mark.parametrize("space", SPACES)
def test_few_vectors_are_searched_exactly(small, space):
    """Below the number that a quantizer is trained on; distances are then hnswlib's to float32."""
    ours, theirs = (built(module, small, space, ef=400) for module in (stand_in, hnswlib))
    assert knn_adapters.stats(ours).bits == 32
    for k in (1, 7):
        labels, distances = ours.knn_query(small[:50] + 0.1, k=k)
        expected_labels, expected = theirs.knn_query(small[:50] + 0.1, k=k)
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_allclose(distances, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.get_items(range(300)), theirs.get_items(range(300)), rtol=1e-6)
    np.testing.assert_array_equal(ours.knn_query(np.zeros(24))[1], theirs.knn_query(np.zeros(24))[1])


def test_the_quantizer_comes_with_enough_vectors(words):
    index = built(stand_in, words[: CALIBRATION_ROWS - 1], "cosine", room=10)
    index.mark_deleted(3)
    assert "bits" not in repr(index)
    before = index.knn_query(words[:200], k=10)
    index.add_items(words[CALIBRATION_ROWS])
    assert "bits=8" in repr(index)
    assert index.element_count == CALIBRATION_ROWS
    index.set_ef(300)
    labels, distances = index.knn_query(words[:200], k=10)
    assert recall_at_k(labels.astype(np.int64), before[0].astype(np.int64), 10) > 0.97
    assert 3 not in labels
    same = labels == before[0]
    np.testing.assert_allclose(distances[same], before[1][same], atol=0.02)
    np.testing.assert_array_equal(sorted(index.get_ids_list()), range(CALIBRATION_ROWS))
    with pytest.raises(RuntimeError, match="Label not found"):
        index.get_items([3])


@pytest.mark.parametrize("space", SPACES)
def test_later_data_outside_the_range_trains_anew(monkeypatch, space):
    """The first vectors lie in a corner; of what comes then, most values would be cut off."""
    rng = np.random.default_rng(0)
    near, far = (rng.standard_normal((3000, 16)).astype(np.float32) for _ in range(2))
    near = near * np.float32(0.3) + np.float32(1.0)
    far *= 2
    queries = rng.standard_normal((100, 16)).astype(np.float32) * 2
    every = np.concatenate([near, far])
    every[5] = far[0]
    true = exact_neighbours(every, queries, 10, space)
    for trains in (False, True):
        if not trains:
            monkeypatch.setattr(CodedGraph, "outgrown_by", lambda *_: False)
        index = stand_in.Index(space, 16)
        index.init_index(6000)
        index.add_items(near)
        index.mark_deleted(5)
        for part in np.array_split(far, 60):
            index.add_items(part)
        index.set_ef(300)
        recall = recall_at_k(index.knn_query(queries, k=10)[0].astype(np.int64), true, 10)
        assert recall > 0.9 if trains else recall < 0.8
        monkeypatch.undo()
    held = index.get_items(np.arange(3000, 6000))
    wanted = far / np.linalg.norm(far, axis=1, keepdims=True) if space == "cosine" else far
    assert np.abs(held - wanted).mean() < 0.05
    assert 5 not in index.knn_query(near[5], k=5)[0]


@pytest.mark.parametrize("bits_of_code", [200, 3000])
def test_metadata(words, bits_of_code):
    for module in BOTH:
        index = module.Index(space="cosine", dim=384)
        assert (index.space, index.dim, index.ef, index.M, index.ef_construction) == ("cosine", 384, 10, 0, 0)
        assert (index.max_elements, index.element_count) == (0, 0)
        index.set_ef(33)
        index.init_index(max_elements=5000, M=12, ef_construction=5, random_seed=7)
        index.num_threads = 3
        index.add_items(words[:bits_of_code])
        assert (index.ef, index.M, index.ef_construction, index.num_threads) == (33, 12, 12, 3)
        assert (index.max_elements, index.get_max_elements()) == (5000, 5000)
        assert (index.element_count, index.get_current_count()) == (bits_of_code, bits_of_code)
        index.set_num_threads(2)
        assert index.num_threads == 2
        for value in (index.M, index.max_elements, index.element_count, index.ef_construction):
            assert type(value) is int
        with pytest.raises(AttributeError):
            index.max_elements = 3


@pytest.mark.parametrize("module", BOTH)
def test_labels_marks_and_updates(module):
    """hnswlib's rules, on either of the two."""
    vectors = np.eye(8, dtype=np.float32)
    index = module.Index("l2", 8)
    index.init_index(12)
    index.add_items(vectors[:4], (2**62, 7, 2**60 + 1, 3))
    assert sorted(index.get_ids_list()) == [3, 7, 2**60 + 1, 2**62]
    index.add_items(vectors[4])  # counted on from the number of vectors that came
    assert 4 in index.get_ids_list()
    labels, _ = index.knn_query(vectors[:5], k=1)
    assert labels.dtype == np.uint64
    assert labels[:, 0].tolist() == [2**62, 7, 2**60 + 1, 3, 4]
    index.add_items(vectors[5], [7])
    assert index.element_count == 5
    assert index.knn_query(vectors[5])[0][0, 0] == 7
    np.testing.assert_array_equal(index.get_items([7, 3]), vectors[[5, 3]])
    if IS_0_7:
        assert index.get_items([7]) == [vectors[5].tolist()]
    else:
        assert index.get_items([7], return_type="list") == [vectors[5].tolist()]
        assert index.get_items([7]).dtype == np.float32
        assert index.get_items().shape == (0,)
    index.mark_deleted(7)
    assert 7 not in index.knn_query(vectors[5], k=4)[0]
    assert 7 in index.get_ids_list()
    assert index.element_count == 5
    index.unmark_deleted(7)
    assert index.knn_query(vectors[5])[0][0, 0] == 7
    index.mark_deleted(7)
    index.add_items(vectors[6], np.uint64(7))  # an update takes the mark away
    assert index.knn_query(vectors[6])[0][0, 0] == 7
    index.add_items(np.stack([vectors[0], vectors[7]]), [50, 50])
    assert index.element_count == 6
    assert index.knn_query(vectors[7])[0][0, 0] == 50


@pytest.mark.parametrize("module", BOTH)
@pytest.mark.parametrize("n", [20, 2500])
def test_replacement_of_deleted_elements(module, n):
    rng = np.random.default_rng(3)
    vectors, others = (rng.standard_normal((n, 16)).astype(np.float32) for _ in range(2))
    index = module.Index("l2", 16)
    index.init_index(n, allow_replace_deleted=True)
    index.add_items(vectors)
    for label in range(n // 2):
        index.mark_deleted(label)
    index.add_items(others[: n // 2], np.arange(n, n + n // 2), replace_deleted=True)
    assert index.element_count == n
    assert sorted(index.get_ids_list()) == list(range(n // 2, n + n // 2))
    index.set_ef(100)
    labels = index.knn_query(np.concatenate([vectors[n // 2 :], others[: n // 2]]), k=1)[0][:, 0]
    assert np.mean(labels == np.arange(n // 2, n + n // 2)) > 0.98
    with pytest.raises(RuntimeError, match="exceeds the specified limit"):
        index.add_items(others[-1], [5 * n], replace_deleted=True)
    index.mark_deleted(n)
    with pytest.raises(RuntimeError, match="Can't use addPoint to update deleted elements"):
        index.add_items(others[:1], [n])


def test_a_deleted_label_that_comes_back_takes_its_own_place(small):
    """hnswlib gives it some other place, and two elements have the label then."""
    index = built(stand_in, small, room=0, allow_replace_deleted=True)
    for label in (3, 9, 200):
        index.mark_deleted(label)
    index.add_items(small[[9, 5, 0]], [9, 5, 1000], replace_deleted=True)
    assert sorted(index.get_ids_list()) == sorted({*range(300), 1000} - {3})
    np.testing.assert_array_equal(index.get_items([9, 1000]), small[[9, 0]])
    with pytest.raises(RuntimeError, match="Label not found"):
        index.get_items([200])


@pytest.mark.parametrize("n", [300, 2500])
def test_capacity(words, n):
    index = built(stand_in, words[:n], "cosine", room=0)
    before = index.knn_query(words[:20], k=1)
    with pytest.raises(RuntimeError, match=r"exceeds the specified limit: `data` must bring at most 0 new elements"):
        index.add_items(words[n : n + 5])
    with pytest.raises(RuntimeError, match="Cannot resize, max element is less than the current number"):
        index.resize_index(n - 1)
    index.add_items(words[:5], range(5))  # no new ones
    assert index.element_count == n
    index.resize_index(n + 5)
    np.testing.assert_array_equal(index.knn_query(words[:20], k=1), before)
    index.add_items(words[n : n + 5], range(n, n + 5))
    assert (index.element_count, index.max_elements) == (n + 5, n + 5)
    assert index.knn_query(words[n : n + 5])[0][:, 0].tolist() == list(range(n, n + 5))


@pytest.mark.parametrize("n", [300, 2500])
@pytest.mark.parametrize("shift", [0, 10**12])
def test_filters_of_every_kind_agree(words, n, shift):
    labels = np.arange(n, dtype=np.uint64) + np.uint64(shift)
    index = built(stand_in, words[:n], "cosine", labels, ef=n)
    theirs = built(hnswlib, words[:n], "cosine", labels, ef=n)
    theirs.set_num_threads(1)
    wanted = labels[labels % 3 == 0]
    found, distances = index.knn_query(words[:20], k=5, filter=lambda label: label % 3 == 0)
    assert (found % 3 == 0).all()
    expected = theirs.knn_query(words[:20], k=5, filter=lambda label: label % 3 == 0)[0]
    assert recall_at_k(found.astype(np.int64), expected.astype(np.int64), 5) > 0.95
    kinds = [wanted, wanted.tolist(), np.append(wanted, np.uint64(2**63))]
    if not shift:
        kinds += [np.arange(n) % 3 == 0, (np.arange(n + 50) % 3 == 0).tolist()]
    for kind in kinds:
        again = index.knn_query(words[:20], k=5, filter=kind)
        np.testing.assert_array_equal(again[0], found)
        np.testing.assert_array_equal(again[1], distances)
    short = np.ones(10, bool)
    with pytest.raises(RuntimeError, match="contiguous 2D array"):
        index.knn_query(words[:20], k=11, filter=short)
    for wrong in (np.ones((2, 2)), ["a"], np.ones(3)):
        with pytest.raises(TypeError, match="`filter` must be a callable, a boolean array"):
            index.knn_query(words[0], filter=wrong)
    with pytest.raises(ZeroDivisionError):
        index.knn_query(words[0], filter=lambda label: 1 // 0)


CALLS = [
    ("Index", lambda m, i, x: m.Index("l3", 4)),
    ("Index", lambda m, i, x: m.Index(3, 4)),
    ("Index", lambda m, i, x: m.Index("l2", "four")),
    ("init_index", lambda m, i, x: i.init_index(5)),
    ("init_index", lambda m, i, x: m.Index("l2", 4).init_index(-1)),
    ("init_index", lambda m, i, x: m.Index("l2", 4).init_index(5, "M")),
    ("add_items", lambda m, i, x: i.add_items(x[:, :5])),
    ("add_items", lambda m, i, x: i.add_items(x[0, 0])),
    ("add_items", lambda m, i, x: i.add_items(x[np.newaxis])),
    ("add_items", lambda m, i, x: i.add_items("text")),
    ("add_items", lambda m, i, x: i.add_items(x[:2], [1])),
    ("add_items", lambda m, i, x: i.add_items(x[:2], 1)),
    ("add_items", lambda m, i, x: i.add_items(x[:2], [[1, 2]])),
    ("add_items", lambda m, i, x: i.add_items(x[:11], range(1000, 1011))),
    ("add_items", lambda m, i, x: i.add_items(x[0], [1], replace_deleted=True)),
    ("get_items", lambda m, i, x: i.get_items([5, 1000])),
    ("get_items", lambda m, i, x: i.get_items(5)),
    *([] if IS_0_7 else [("get_items", lambda m, i, x: i.get_items([5], return_type="rows"))]),
    ("mark_deleted", lambda m, i, x: i.mark_deleted(1000)),
    ("mark_deleted", lambda m, i, x: i.mark_deleted(4)),
    ("mark_deleted", lambda m, i, x: i.mark_deleted(-4)),
    ("mark_deleted", lambda m, i, x: i.mark_deleted("four")),
    ("unmark_deleted", lambda m, i, x: i.unmark_deleted(1000)),
    ("unmark_deleted", lambda m, i, x: i.unmark_deleted(5)),
    ("get_items", lambda m, i, x: i.get_items([4])),
    ("resize_index", lambda m, i, x: i.resize_index(5)),
    ("resize_index", lambda m, i, x: i.resize_index(-5)),
    ("knn_query", lambda m, i, x: i.knn_query(x, k=301)),
    ("knn_query", lambda m, i, x: i.knn_query(x[:5], k=5, filter=lambda label: label < 3)),
    ("load_index", lambda m, i, x: m.Index("l2", 24).load_index("/does/not/exist")),
]


@pytest.mark.parametrize(("name", "call"), CALLS)
def test_exceptions_are_of_hnswlibs_types_and_change_nothing(small, name, call):
    states = []
    for module in BOTH:
        index = built(module, small)
        index.mark_deleted(4)
        before = index.knn_query(small, k=3), index.get_ids_list(), index.max_elements
        with pytest.raises((RuntimeError, ValueError, TypeError)) as caught:
            call(module, index, small)
        states.append((index, before, caught))
    theirs, ours = states[0][2], states[1][2]
    assert issubclass(ours.type, theirs.type)
    phrase = str(theirs.value).strip().split(".")[0].split(":")[0].replace("contigious", "contiguous")
    if theirs.type is RuntimeError and "shape" not in phrase:
        assert phrase in str(ours.value)
    index, before, _ = states[1]
    np.testing.assert_array_equal(index.knn_query(small, k=3), before[0])
    assert (index.get_ids_list(), index.max_elements) == before[1:]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda i, x: i.add_items(np.full((2, 24), np.nan)),
            ValueError,
            r"`data` must hold finite numbers, got nan at",
        ),
        (lambda i, x: i.add_items(x[:2], [1, -2]), ValueError, "`ids` must hold whole numbers .*, got -2"),
        (lambda i, x: i.add_items(x[:2], [1, 2.5]), ValueError, "`ids` must hold whole numbers .*, got 2.5"),
        (lambda i, x: i.add_items(x[:2], ["a", "b"]), ValueError, "`ids` must hold whole numbers .*, got 'a'"),
        (lambda i, x: i.add_items([[1, 2], [3]]), ValueError, "`data` must be numbers in a rectangular array"),
        (lambda i, x: i.knn_query(x[:, :5]), ValueError, "`data` must have dimension 24, got 5"),
        (lambda i, x: i.init_index(-1), TypeError, "`max_elements` must be an integer from 0"),
        (lambda i, x: i.add_items(x[:2], num_threads="two"), ValueError, "`num_threads` must be an integer"),
        (lambda i, x: stand_in.Index("l2", 0), ValueError, "`dim` must be 1 to 65536, got 0"),
        (lambda i, x: stand_in.Index("l2", 24).init_index(9, M=1), ValueError, "`M` must be at least 2, got 1"),
        (lambda i, x: stand_in.Index("l2", 24).init_index(2**31), ValueError, "`max_elements` must be at most"),
        (lambda i, x: i.resize_index(2**31), ValueError, "`new_size` must be at most 2147483647"),
    ],
)
def test_what_hnswlib_lets_pass_is_named(small, call, error, message):
    index = built(stand_in, small)
    with pytest.raises(error, match=message):
        call(index, small)
    assert index.element_count == 300


@pytest.mark.parametrize(
    "name", ["add_items", "knn_query", "get_items", "get_ids_list", "mark_deleted", "unmark_deleted", "resize_index",
             "save_index", "index_file_size", "get_current_count", "get_max_elements"],
)  # fmt: skip
def test_calls_before_init_are_errors(name):
    """hnswlib ends the process."""
    index = stand_in.Index("l2", 3)
    arguments = {"add_items": (np.ones(3),), "knn_query": (np.ones(3),), "mark_deleted": (1,), "unmark_deleted": (1,),
                 "resize_index": (4,), "save_index": ("nowhere",)}  # fmt: skip
    with pytest.raises(RuntimeError, match=f"not initiated: `self` must be initiated before {name}"):
        getattr(index, name)(*arguments.get(name, ()))


def test_empty_batches_and_an_empty_index(small):
    index = stand_in.Index("l2", 24)
    index.init_index(0)
    index.add_items(np.empty((0, 24)))
    assert index.get_ids_list() == []
    assert index.knn_query(np.empty((0, 24)), k=2)[0].shape == (0, 2)
    with pytest.raises(RuntimeError, match="contiguous"):
        index.knn_query(small[0])
    with pytest.raises(RuntimeError, match="exceeds"):
        index.add_items(small[0])
    index.resize_index(1)
    index.add_items(small[0])
    assert index.knn_query(small[0])[0].tolist() == [[0]]


def test_copies_are_independent(small):
    index = built(stand_in, small)
    index.mark_deleted(7)
    for copied in (stand_in.Index(index=index), stand_in.Index(index), stand_in.Index(params=index.__getstate__()[0])):
        np.testing.assert_array_equal(copied.knn_query(small, k=3), index.knn_query(small, k=3))
        copied.add_items(small[0], [5000])
        assert (copied.element_count, index.element_count, copied.ef) == (301, 300, 64)
    theirs = built(hnswlib, small, "ip")
    for copied in (stand_in.Index(index=theirs), stand_in.Index(params=theirs.__getstate__()[0])):
        assert (copied.space, copied.element_count, copied.ef) == ("ip", 300, 64)
    assert stand_in.Index(index=hnswlib.Index("l2", 3)).element_count == 0


@pytest.mark.parametrize("space", SPACES)
def test_a_wrapped_index_goes_on_growing(words, space):
    """Made by hnswlib with deleted elements, wrapped, filled up, enlarged: one class for all."""
    original = built(hnswlib, words[:3000], space, allow_replace_deleted=True)
    for label in range(0, 3000, 10):
        original.mark_deleted(label)
    index = knn_adapters.wrap(original)
    assert type(index) is stand_in.Index
    assert not np.isin(index.knn_query(words[:3000:10], k=5)[0], np.arange(0, 3000, 10)).any()
    index.add_items(words[3000:3300], np.arange(9000, 9300), replace_deleted=True)
    index.resize_index(6000)
    index.add_items(words[3300:5000], np.arange(3300, 5000))
    assert index.element_count == 3000 + 1700
    live = np.concatenate([words[:3000][np.arange(3000) % 10 > 0], words[3000:5000]])
    labels = np.concatenate([np.flatnonzero(np.arange(3000) % 10), np.arange(9000, 9300), np.arange(3300, 5000)])
    index.set_ef(100)
    true = labels[exact_neighbours(live, words[5000:], 10, space)]
    plain = built(hnswlib, live, space, labels, ef=100)
    found, expected = (i.knn_query(words[5000:], k=10)[0].astype(np.int64) for i in (index, plain))
    # Vectors of very different lengths lose up to three points by 8 bits.
    assert recall_at_k(expected, true, 10) - recall_at_k(found, true, 10) <= (0.03 if space == "l2" else 0.02)


def test_adding_marking_and_searching_at_once(words):
    """Searches see whole elements only; afterwards everything is there."""
    index = stand_in.Index("cosine", 384)
    index.init_index(len(words))
    index.add_items(words[:500])
    index.set_ef(50)
    parts = np.array_split(np.arange(500, len(words)), 60)

    def add(labels):
        index.add_items(words[labels], labels, num_threads=2)
        index.mark_deleted(int(labels[0]))
        index.unmark_deleted(int(labels[0]))

    def search(seed):
        rows = np.random.default_rng(seed).integers(0, 500, 20)
        labels, distances = index.knn_query(words[rows], k=3, num_threads=1)
        assert np.mean(labels[:, 0] == rows) > 0.9
        assert (np.diff(distances, axis=1) >= 0).all()

    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(job, part) for i, part in enumerate(parts) for job, part in ((add, part), (search, i))]
        for job in jobs:
            job.result()
    assert sorted(index.get_ids_list()) == list(range(len(words)))
    index.set_ef(200)
    assert np.mean(index.knn_query(words, k=1)[0][:, 0] == np.arange(len(words))) > 0.99
