"""The same calls on Annoy and on what stands in for it: results, settings, exceptions, and what a failure leaves."""

import inspect
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import annoy
import numpy as np
import pytest

import knn_adapters
import mp_plugins
from knn_adapters import annoy as stand_in
from knn_adapters.annoy_coded import CodedForest
from knn_adapters.elements import CALIBRATION_ROWS
from knn_adapters.recall import exact_neighbours, recall_at_k

METRICS = {"angular": "cosine", "euclidean": "l2", "dot": "ip"}
BOTH = (stand_in, annoy)
NOT_QUANTIZED = "ignore:an AnnoyIndex of dimension .* is not quantized"


def filled(module, vectors, metric="angular", step=1):
    index = module.AnnoyIndex(vectors.shape[1], metric)
    index.set_seed(5)
    for item, vector in enumerate(vectors.tolist()):
        index.add_item(step * item, vector)
    return index


def built(module, vectors, metric="angular", n_trees=10, step=1, n_jobs=-1):
    index = filled(module, vectors, metric, step)
    assert index.build(n_trees, n_jobs)
    return index


def outcome(call):
    """What a call returns, or the first words of what it raises."""
    try:
        return call()
    except Exception as error:
        return type(error).__mro__[-3 if type(error) is Exception else -4], str(error)


def test_every_public_name_is_ours():
    """What Annoy has and we neither support nor pass on to the empty base would run on the wrong object."""
    for member in (member for member in dir(annoy.AnnoyIndex) if not member.startswith("_")):
        own = inspect.getattr_static(stand_in.AnnoyIndex, member)
        assert own is not inspect.getattr_static(annoy.AnnoyIndex, member), member
        assert "not yet supported" not in own.__doc__, member
    assert issubclass(stand_in.AnnoyIndex, annoy.AnnoyIndex)
    names = {name for name in dir(annoy) if inspect.isclass(getattr(annoy, name))}
    assert names <= set(stand_in.__all__)


ARGUMENTS = {
    "add_item": {"i": 0, "vector": [1.0, 2.0]},
    "build": {"n_trees": 3, "n_jobs": 1},
    "get_nns_by_item": {"i": 0, "n": 1, "search_k": -1, "include_distances": False},
    "get_nns_by_vector": {"vector": [1.0, 2.0], "n": 1, "search_k": -1, "include_distances": False},
    "load": {"fn": "x", "prefault": False},
    "on_disk_build": {"fn": "x"},
    "save": {"fn": "x", "prefault": False},
    "get_item_vector": ["i"],
    "get_distance": ["i", "j"],
    "set_seed": ["s"],
    "verbose": ["v"],
    "get_n_items": [],
    "get_n_trees": [],
    "unbuild": [],
    "unload": [],
}
"""Annoy's parsers tell nobody what they take: keywords, in order, or names that are no keywords."""


@pytest.mark.parametrize("name", sorted(member for member in dir(annoy.AnnoyIndex) if member[0] != "_" != member))
def test_arguments_are_annoys(name, tmp_path):
    if name == "f":
        return
    expected = ARGUMENTS[name]
    parameters = list(inspect.signature(getattr(stand_in.AnnoyIndex, name)).parameters.values())[1:]
    assert [parameter.name for parameter in parameters] == list(expected)
    for parameter in parameters:
        keyword_only_here = parameter.kind is inspect.Parameter.POSITIONAL_ONLY
        assert keyword_only_here == isinstance(expected, list)
        if parameter.default is not inspect.Parameter.empty:
            assert parameter.default == {"n_jobs": -1}.get(parameter.name, expected[parameter.name])
    if isinstance(expected, dict):
        given = {key: str(tmp_path / "x") if key == "fn" else value for key, value in expected.items()}
        required = [p.name for p in parameters if p.default is inspect.Parameter.empty]
        for module in BOTH:
            index = (
                filled(module, np.eye(2, dtype=np.float32)) if name != "on_disk_build" else module.AnnoyIndex(2, "dot")
            )
            if name == "save":
                index.build(1)
            if name == "load":
                built(annoy, np.eye(2, dtype=np.float32)).save(given["fn"])
            getattr(index, name)(**given)
            for missing in required:
                with pytest.raises(TypeError):
                    getattr(index, name)(**{key: value for key, value in given.items() if key != missing})
            with pytest.raises(TypeError):
                getattr(index, name)(**given, other=1)


@pytest.mark.parametrize("module", BOTH)
def test_making_an_index(module):
    for index in (module.AnnoyIndex(7, "dot"), module.AnnoyIndex(f=7, metric="dot")):
        assert (index.f, index.get_n_items(), index.get_n_trees()) == (7, 0, 0)
        assert isinstance(index, annoy.AnnoyIndex)
    with pytest.warns(FutureWarning, match="default argument for metric will be removed") as warned:
        index = module.AnnoyIndex(3)
    assert warned[0].filename == __file__
    index.add_item(0, [0, 0, 2])
    index.add_item(1, [0, 2, 2])
    assert index.get_distance(0, 1) == pytest.approx((2 - 2**0.5) ** 0.5)
    for arguments in ((), ("a", "dot"), (3, 7), (3.5, "dot"), (3, "dot", 1), (3, None)):
        with pytest.raises(TypeError):
            module.AnnoyIndex(*arguments)
    with pytest.raises(TypeError):
        module.AnnoyIndex(3, metrik="dot")
    with pytest.raises(ValueError, match="No such metric"):
        module.AnnoyIndex(3, "cosine")


def test_a_dimension_below_one_is_refused():
    for f in (0, -5):
        with pytest.raises(mp_plugins.ArgumentError, match="`f` must be at least 1"):
            stand_in.AnnoyIndex(f, "dot")


def test_the_dimension_stays():
    """Annoy lets it be set, and then reads memory that is not there."""
    index = stand_in.AnnoyIndex(3, "dot")
    with pytest.raises(AttributeError):
        index.f = 8
    assert index.f == 3


def test_subclasses_need_not_call_init():
    class Named(stand_in.AnnoyIndex):
        def __init__(self, f, metric):
            self.name = "x"

    index = Named(3, "dot")
    index.add_item(0, [1, 2, 3])
    assert (index.name, index.get_n_items()) == ("x", 1)


@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize("search_k", [-1, 300, 1500])
def test_recall_is_near_annoys(vectors, queries, metric, search_k):
    true, recalls = exact_neighbours(vectors, queries, 10, METRICS[metric]), []
    indexes = [built(module, vectors, metric, n_jobs=1) for module in BOTH]
    for index in indexes:
        found = np.full((len(queries), 10), -1)
        for row, query in enumerate(queries.tolist()):
            ids = index.get_nns_by_vector(query, 10, search_k)
            found[row, : len(ids)] = ids
        recalls.append(recall_at_k(found, true, 10))
    assert recalls[1] > 0.05
    assert recalls[1] - recalls[0] <= 0.02
    figures = knn_adapters.stats(indexes[0])
    assert (figures.n_vectors, figures.bits) == (len(vectors), 8)
    assert figures.ratio <= 0.45


@pytest.mark.parametrize("metric", list(METRICS))
def test_few_items_are_annoys_own(small, metric):
    """Below the number that a quantizer is trained on everything is exact."""
    ours, theirs = (built(module, small, metric, n_jobs=1) for module in BOTH)
    assert "bits" not in repr(ours)
    for row in range(0, 300, 30):
        arguments = ((small[row] + np.float32(0.1)).tolist(), 10, -1, True)
        assert ours.get_nns_by_vector(*arguments) == theirs.get_nns_by_vector(*arguments)
        assert ours.get_nns_by_item(row, 7) == theirs.get_nns_by_item(row, 7)
        assert ours.get_item_vector(row) == theirs.get_item_vector(row)
        assert ours.get_distance(row, 3) == theirs.get_distance(row, 3)
    with pytest.raises(mp_plugins.ArgumentError, match="`index` must be encoded, got 300 items"):
        knn_adapters.stats(ours)
    assert knn_adapters.estimate_recall(ours, small[:20]) == knn_adapters.estimate_recall(theirs, small[:20])


def test_items_are_encoded_from_a_number_on(words):
    for count in (CALIBRATION_ROWS - 1, CALIBRATION_ROWS):
        index = built(stand_in, words[:count])
        assert ("bits" in repr(index)) == (count == CALIBRATION_ROWS)
    assert isinstance(index._served, CodedForest)
    assert index.get_n_trees() == 10


@pytest.mark.filterwarnings(NOT_QUANTIZED)
@pytest.mark.parametrize("metric", ["manhattan", "hamming"])
def test_other_metrics_are_annoys_own(words, metric, tmp_path):
    with pytest.warns(UserWarning, match=f"metric {metric} is not quantized") as warned:
        stand_in.AnnoyIndex(3, metric)
    assert len(warned) == 1
    assert warned[0].filename == __file__
    ours, theirs = (built(module, words[:2500], metric, n_jobs=1) for module in BOTH)
    for row in (3, 2600):
        arguments = (words[row].tolist(), 10, -1, True)
        assert ours.get_nns_by_vector(*arguments) == theirs.get_nns_by_vector(*arguments)
    assert ours.get_item_vector(5) == theirs.get_item_vector(5)
    ours.save(str(tmp_path / "ours"))
    theirs.save(str(tmp_path / "theirs"))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    ours.unload()
    assert ours.load(str(tmp_path / "theirs"), prefault=True)
    assert ours.get_nns_by_vector(*arguments) == theirs.get_nns_by_vector(*arguments)


@pytest.mark.parametrize("n", [3, 2100])
def test_calls_that_the_state_forbids(words, n, tmp_path):
    """The exception's class and first words are Annoy's in every state."""
    path = str(tmp_path / "index")
    calls = {
        "add": lambda index: index.add_item(0, words[0].tolist()),
        "build": lambda index: index.build(2),
        "unbuild": lambda index: index.unbuild(),
        "save": lambda index: index.save(path),
    }
    for steps in (
        ["save", "add", "build", "build", "unbuild", "add", "build", "save", "add", "build", "unbuild", "save"],
        ["unbuild", "build", "save", "save"],
    ):
        ours, theirs = (filled(module, words[:n]) for module in BOTH)
        for step in steps:
            got, wanted = (outcome(lambda index=index: calls[step](index)) for index in (ours, theirs))  # noqa: B023
            if isinstance(wanted, tuple):
                assert got[1].startswith(wanted[1].split(":")[0]), step
                assert issubclass(wanted[0], Exception)
                assert (wanted[0] is OSError) == (got[0] is OSError or "save" in step), step
            else:
                assert got is wanted or got == wanted, step
            assert (ours.get_n_items(), ours.get_n_trees()) == (theirs.get_n_items(), theirs.get_n_trees()), step


def test_before_it_is_built_an_index_holds_items(words):
    for module in BOTH:
        index = filled(module, words[:2500])
        assert index.get_nns_by_vector(words[0], 5) == []
        assert index.get_nns_by_item(0, 5, include_distances=True) == ([], [])
        assert index.get_item_vector(7) == words[7].tolist()
        index.add_item(7, words[8])
        assert index.get_item_vector(7) == words[8].tolist()
        assert index.get_distance(7, 8) == pytest.approx(0, abs=1e-3)
        assert (index.get_n_items(), index.get_n_trees()) == (2500, 0)


class Sized:
    """A vector that is no sequence of Python's."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, place):
        return self.values[place]


@pytest.mark.parametrize("n", [3, 2500])
def test_whatever_has_a_length_and_numbers_is_a_vector(n):
    wanted = [3.0, -1.0, 2.0, 7.0]
    rows = np.random.default_rng(0).integers(-9, 9, (n, 4)).astype(np.float32)
    ours, theirs = (built(module, rows, "euclidean") for module in BOTH)
    array = np.array(wanted)
    given = [wanted, tuple(wanted), Sized(wanted), array, array.astype(np.float32), array.astype(np.int16), range(4)]
    given += [np.array(wanted * 2)[::2], memoryview(array), [np.float32(1), True, 2, 3.5], np.ones((4, 1))[:, 0]]
    for vector in given:
        for index in (ours, theirs):
            assert index.get_nns_by_vector(vector, 3, 10**6, True)[1] == pytest.approx(
                theirs.get_nns_by_vector(vector, 3, 10**6, True)[1], abs=0.1
            )
    wrong = [[1, 2, 3], [], np.ones(5), np.ones((1, 4)), 5, None, object(), ["1"] * 4, "1234", [None] * 4, {1, 2, 3, 4}]
    wrong += [{"a": 1, "b": 2, "c": 3, "d": 4}, [1j] * 4, np.array(["1", "2", "3", "4"])]
    for vector in wrong:
        got, expected = (outcome(lambda index=index: index.get_nns_by_vector(vector, 3)) for index in (ours, theirs))  # noqa: B023
        assert got[1].startswith(expected[1]), vector
        assert got[0] is expected[0], vector
        with pytest.raises(expected[0]):
            stand_in.AnnoyIndex(4, "dot").add_item(0, vector)


@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize("n", [300, 2500])
def test_numbers_of_neighbours_and_items_to_look_at(words, metric, n):
    """0 of either finds nothing; below 0 (search_k: below -1) all are meant."""
    ours, theirs = (built(module, words[:n], metric) for module in BOTH)
    for k, search_k in ((0, -1), (5, 0), (-1, -1), (-3, 10**6), (3, -2), (2**31 - 1, -2), (1, 2**31 - 1)):
        found, expected = (len(index.get_nns_by_vector(words[0], k, search_k)) for index in (ours, theirs))
        assert found == expected
        ids, distances = ours.get_nns_by_item(3, k, search_k, True)
        assert len(ids) == len(distances) == len(theirs.get_nns_by_item(3, k, search_k))
    few, many = (len(ours.get_nns_by_vector(words[0], 100, search_k)) for search_k in (1, 10**5))
    assert few <= many == 100


@pytest.mark.parametrize("metric", list(METRICS))
def test_gaps_between_ids(words, metric):
    ours, theirs = (built(module, words[:2200], metric, step=3) for module in BOTH)
    assert "bits" in repr(ours)
    assert ours.get_n_items() == theirs.get_n_items() == 3 * 2199 + 1
    for gap in (1, 500, 6596):
        assert ours.get_item_vector(gap) == theirs.get_item_vector(gap) == [0.0] * 384
        assert ours.get_distance(gap, 3) == pytest.approx(theirs.get_distance(gap, 3), rel=0.02)
        assert all(item % 3 == 0 for item in ours.get_nns_by_item(gap, 100))
    assert sorted(ours.get_nns_by_vector(words[0], -1)) == list(range(0, 3 * 2200, 3))


def test_one_item_behind_a_long_gap():
    for module in BOTH:
        for count in (1, 2):
            index = module.AnnoyIndex(10, "angular")
            for item in range(count):
                index.add_item(100_000 + item, np.arange(10) + item)
            index.build(5)
            assert sorted(index.get_nns_by_item(100_000, 9)) == list(range(100_000, 100_000 + count))


def test_values_that_are_not_finite_are_refused(small):
    index = filled(stand_in, small)
    for value in (np.nan, np.inf, 1e39):
        for vector in ([value] + [0.0] * 23, np.full(24, value)):
            with pytest.raises(mp_plugins.ArgumentError, match="`vector` must hold finite numbers"):
                index.add_item(3, vector)
    assert index.get_item_vector(3) == small[3].tolist()
    for item in (-1, 2**31 - 1):
        with pytest.raises(IndexError, match=r"`i` must be 0\.\.2147483646"):
            index.add_item(item, small[0])
    with pytest.raises(OverflowError):
        index.add_item(2**31, small[0])


def test_equal_seeds_give_equal_indexes(words):
    for seeds in ((42, 42), (42, 43)):
        pair = []
        for seed in seeds:
            index = filled(stand_in, words[:2500])
            index.set_seed(seed)
            index.build(3, n_jobs=1)
            pair.append([index.get_nns_by_vector(query, 20, 200) for query in words[4000:4040]])
        assert (pair[0] == pair[1]) == (seeds[0] == seeds[1])
    index = built(stand_in, words[:2500], n_trees=3, n_jobs=1)
    first = [index.get_nns_by_vector(query, 20, 200) for query in words[4000:4040]]
    index.unbuild()
    for item in range(2500):
        index.add_item(item, words[item])
    index.build(3, 1)  # the seed outlives unbuild(), as Annoy has it
    assert [index.get_nns_by_vector(query, 20, 200) for query in words[4000:4040]] == first


def test_annoy_says_what_it_builds(words, capfd):
    index = stand_in.AnnoyIndex(384, "angular")
    assert index.verbose(True) is True
    for item in range(2100):
        index.add_item(item, words[item])
    index.build(1)
    assert "pass 0" in capfd.readouterr().err
    index.unbuild()
    index.build(1)
    assert "pass 0" in capfd.readouterr().err
    index.verbose(False)
    index.unbuild()
    index.build(1)
    assert capfd.readouterr().err == ""


def test_as_many_trees_as_the_items_have_room_for(words):
    ours, theirs = (built(module, words[:2500], n_trees=-1, n_jobs=1) for module in BOTH)
    assert ours.get_n_trees() == theirs.get_n_trees() > 1
    empty = built(stand_in, words[:2500], n_trees=0)
    assert (empty.get_n_trees(), empty.get_nns_by_item(0, 3)) == (0, [])


def test_a_build_that_fails_leaves_the_items(words, monkeypatch):
    index = filled(stand_in, words[:2500])
    for name, error in (("tempfile.tempdir", "/nowhere"), ("knn_adapters.annoy_coded.Forest.of", None)):
        with monkeypatch.context() as patch:
            patch.setattr(name, error)
            with pytest.raises((OSError, TypeError)):
                index.build(3)
        assert (index.get_n_trees(), index.get_nns_by_item(0, 3)) == (0, [])
        assert [index.get_item_vector(item) for item in range(2500)] == words[:2500].tolist()
        index.add_item(2500, words[2500])
        assert index.get_n_items() == 2501
    assert index.build(3)
    assert "bits" in repr(index)


def test_searching_while_others_load_and_unload(words, tmp_path):
    path, plain = str(tmp_path / "index"), str(tmp_path / "plain")
    built(stand_in, words[:2500]).save(path)
    built(annoy, words[:300]).save(plain)
    index = stand_in.AnnoyIndex(384, "angular")
    index.load(path)

    def change(turn):
        for step in range(20):
            index.load((path, plain)[(turn + step) % 2], prefault=bool(step % 3))
            if step % 5 == 4:
                index.unload()

    def search(turn):
        for row in range(turn, 300, 7):
            items = index.get_nns_by_vector(words[row], 3, 10**5)
            assert items == [] or items[0] == row

    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(job, turn) for turn in range(12) for job in (search, search, change)]
        for job in jobs:
            job.result()


def test_searching_while_an_index_is_built_and_saved(words, tmp_path):
    """Until it is built nothing is found; what looks at vectors waits; a search never sees a half of it."""
    for count in (500, 2500):
        index = filled(stand_in, words[:count])
        done = threading.Event()

        def search(index=index, done=done):
            answers = []
            while not done.is_set():
                items = index.get_nns_by_vector(words[3], 1, 10**5)
                assert items in ([], [3])
                assert index.get_nns_by_item(3, 1, 10**5, True)[0] in ([], [3])
                assert index.get_item_vector(3) == pytest.approx(words[3], abs=0.02)
                assert index.get_distance(3, 3) == pytest.approx(0, abs=1e-3)
                assert index.get_n_items() in (500, 2500)
                answers.append(len(items))
            return answers

        with ThreadPoolExecutor(3) as pool:
            jobs = [pool.submit(search) for _ in range(3)]
            index.build(5, 1)
            for name in ("first", "second"):
                index.save(str(tmp_path / name))
            done.set()
            for job in jobs:
                assert job.result() == sorted(job.result())
        assert index.get_nns_by_vector(words[3], 1) == [3]


def test_no_warning_comes_from_ordinary_use(words, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index = built(stand_in, words[:2100])
        index.save(str(tmp_path / "index"))
        index.unload()
        index.load(str(tmp_path / "index"))
        assert index.get_nns_by_item(5, 1) == [5]
