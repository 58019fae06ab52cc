"""Indexes that go through files and pickle, in our format and in hnswlib's."""

import copy
import pickle
import warnings

import hnswlib
import numpy as np
import pytest

import knn_adapters
import mp_plugins
from knn_adapters import hnswlib as stand_in
from knn_adapters.recall import recall_at_k

SPACES = ("l2", "ip", "cosine")


def built(module, vectors, space="l2", labels=None, **options):
    index = module.Index(space=space, dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors) + 10, M=16, ef_construction=100, **options)
    index.add_items(vectors, labels)
    index.set_ef(64)
    return index


@pytest.fixture(scope="module", params=[(300, "l2"), (300, "cosine"), *((3000, space) for space in SPACES)])
def index(request, words):
    """Before and after its quantizer is trained, with labels, deleted elements and replaced ones."""
    count, space = request.param
    made = built(stand_in, words[:count], space, np.arange(count) * 3 + 2**40, allow_replace_deleted=True)
    for label in range(2**40, 2**40 + 90, 3):
        made.mark_deleted(label)
    made.add_items(words[4000:4010], np.arange(10), replace_deleted=True)
    return made


def assert_equal(one, other, queries):
    for name in ("space", "dim", "M", "ef_construction", "element_count", "max_elements", "num_threads"):
        assert getattr(one, name) == getattr(other, name), name
    one.set_ef(80)
    other.set_ef(80)
    for part, expected in zip(one.knn_query(queries, k=5), other.knn_query(queries, k=5), strict=True):
        np.testing.assert_array_equal(part, expected)
    assert one.get_ids_list() == other.get_ids_list()
    live = [label for label in one.get_ids_list() if label < 10 or label >= 2**40 + 90]
    np.testing.assert_array_equal(one.get_items(live), other.get_items(live))
    assert repr(one) == repr(other)


def test_save_and_load(index, words, tmp_path):
    index.save_index(str(tmp_path / "index"))
    assert (tmp_path / "index").stat().st_size == index.index_file_size()
    loaded = stand_in.Index(index.space, index.dim)
    loaded.set_ef(77)
    loaded.load_index(tmp_path / "index")
    assert loaded.ef == 10  # as hnswlib has it
    assert_equal(loaded, index, words[4000:4100])
    for other in (loaded, copied := copy.deepcopy(index)):
        other.resize_index(4000)
        other.add_items(words[4100:4200], np.arange(100, 200), num_threads=1)
    assert_equal(loaded, copied, words[4100:4200])  # they grow alike
    with pytest.raises(RuntimeError, match="Replacement of deleted elements is disabled"):
        loaded.add_items(words[0], [1], replace_deleted=True)
    loaded = stand_in.Index(index.space, index.dim)
    loaded.load_index(tmp_path / "index", max_elements=9000, allow_replace_deleted=True)
    assert loaded.max_elements == 9000
    loaded.add_items(words[0], [1], replace_deleted=True)


def test_pickle_and_copies(index, words):
    for copied in (pickle.loads(pickle.dumps(index)), copy.deepcopy(index), copy.copy(index)):  # noqa: S301
        assert copied.ef == index.ef
        assert_equal(copied, index, words[4000:4100])
        count = index.element_count
        copied.mark_deleted(copied.get_ids_list()[-1])
        copied.add_items(words[1], [5 * 10**6])
        assert index.element_count == count
        assert 5 * 10**6 not in index.get_ids_list()


def test_export_is_read_by_hnswlib(index, words, tmp_path):
    """It finds the same neighbours in what the codes stand for, and keeps labels, marks and parameters."""
    knn_adapters.export(index, tmp_path / "plain")
    plain = hnswlib.Index(index.space, index.dim)
    plain.load_index(str(tmp_path / "plain"), allow_replace_deleted=True)
    for name in ("M", "ef_construction", "element_count", "max_elements"):
        assert getattr(plain, name) == getattr(index, name), name
    assert sorted(plain.get_ids_list()) == sorted(index.get_ids_list())
    live = [label for label in index.get_ids_list() if label < 10 or label >= 2**40 + 90]
    np.testing.assert_array_equal(plain.get_items(live), index.get_items(live))
    with pytest.raises(RuntimeError, match="Label not found"):
        plain.get_items([2**40 + 60])
    plain.set_ef(200)
    index.set_ef(200)
    labels, distances = plain.knn_query(words[4000:4100], k=5)
    found, ours = index.knn_query(words[4000:4100], k=5)
    # Beside deleted elements we may scan, and find what no link of these words leads to for "l2".
    assert recall_at_k(found.astype(np.int64), labels.astype(np.int64), 5) > (0.9 if index.space == "l2" else 0.97)
    assert (ours <= distances * 1.01 + 2e-2).all()
    plain.add_items(words[100], [77])  # and goes on growing


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("count", [1, 300, 2500])
def test_files_of_hnswlib_are_read(words, tmp_path, space, count):
    original = built(hnswlib, words[:count], space, np.arange(count) + 5)
    original.mark_deleted(5)
    original.save_index(str(tmp_path / "theirs"))
    loaded = stand_in.Index(space, 384)
    loaded.load_index(str(tmp_path / "theirs"), max_elements=4000)
    assert (loaded.element_count, loaded.max_elements, loaded.ef) == (count, 4000, 10)
    assert sorted(loaded.get_ids_list()) == list(range(5, count + 5))
    if count > 1:
        held, wanted = loaded.get_items([6, 7]), original.get_items([6, 7])
        assert np.abs(held - wanted).mean() < 0.01
    loaded.add_items(words[3000:3100], np.arange(9000, 9100))
    assert loaded.element_count == count + 100


def test_an_empty_index_goes_through(tmp_path, small):
    for module in (stand_in, hnswlib):
        index = module.Index("l2", 24)
        index.init_index(7, M=5)
        index.save_index(str(tmp_path / "empty"))
        loaded = stand_in.Index("l2", 24)
        loaded.load_index(str(tmp_path / "empty"), max_elements=10)
        assert (loaded.element_count, loaded.max_elements, loaded.M) == (0, 10, 5)
        loaded.add_items(small[:10])
        assert loaded.knn_query(small[3])[0].tolist() == [[3]]
    fresh = pickle.loads(pickle.dumps(stand_in.Index("ip", 3)))  # noqa: S301
    assert (fresh.space, fresh.dim, fresh.element_count) == ("ip", 3, 0)
    empty = stand_in.Index("l2", 24)
    empty.init_index(3)
    knn_adapters.export(empty, tmp_path / "plain")
    plain = hnswlib.Index("l2", 24)
    plain.load_index(str(tmp_path / "plain"))
    assert plain.element_count == 0


def test_files_that_do_not_fit_are_refused_and_change_nothing(small, tmp_path):
    index = built(stand_in, small)
    before = index.knn_query(small, k=2)
    index.save_index(tmp_path / "ours")
    built(hnswlib, small).save_index(str(tmp_path / "theirs"))
    built(hnswlib, small[:, :20].copy()).save_index(str(tmp_path / "narrow"))
    content, theirs = (tmp_path / "ours").read_bytes(), (tmp_path / "theirs").read_bytes()
    (tmp_path / "cut").write_bytes(content[:-5])
    (tmp_path / "changed").write_bytes(content[:-50] + b"x" + content[-49:])
    (tmp_path / "cut theirs").write_bytes(theirs[:-50])
    (tmp_path / "short").write_bytes(b"short")
    (tmp_path / "text").write_text("text that is long enough to be taken for a header " * 10)
    (tmp_path / "none").write_bytes(b"")
    brute = stand_in.BFIndex("l2", 24)
    brute.init_index(3)
    brute.save_index(tmp_path / "brute")
    other = built(stand_in, small, "ip")
    other.save_index(tmp_path / "ip")
    for name, message in (
        ("cut", "must be an index file"),
        ("changed", "checksum"),
        ("cut theirs", "corrupted"),
        ("short", "corrupted"),
        ("text", "corrupted"),
        ("none", "corrupted"),
        ("narrow", "must hold vectors of dimension 24, got 20"),
        ("brute", "must be of kind hnswlib.Index, got hnswlib.BFIndex"),
        ("ip", "must be of space l2, got ip"),
        ("absent", "Cannot open file: `path_to_index` must be a file that can be read"),
    ):
        with pytest.raises(RuntimeError, match=message):
            index.load_index(tmp_path / name)
        np.testing.assert_array_equal(index.knn_query(small, k=2), before)
    with pytest.warns(UserWarning, match="drops what it held"):
        index.load_index(tmp_path / "theirs")
    with pytest.raises(OSError, match="folder"):
        index.save_index(tmp_path / "no folder" / "index")


def test_export_refuses(small, tmp_path):
    with pytest.raises(mp_plugins.ArgumentError, match="`index` must be wrapped"):
        knn_adapters.export(built(hnswlib, small), tmp_path / "plain")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("bits", "rescore"), [(4, "none"), (4, "residual"), (8, "residual")])
def test_every_kind_of_code_goes_through(words, tmp_path, bits, rescore):
    index = knn_adapters.wrap(built(hnswlib, words[:1000], "cosine"), bits=bits, rescore=rescore)
    index.resize_index(1200)
    index.add_items(words[1000:1200])
    index.save_index(tmp_path / "index")
    loaded = stand_in.Index("cosine", 384)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded.load_index(tmp_path / "index")
    assert_equal(loaded, index, words[1000:1100])
    assert np.mean(loaded.knn_query(words[1000:1200])[0][:, 0] == np.arange(1000, 1200)) > 0.95
    assert knn_adapters.stats(loaded).bits == bits
