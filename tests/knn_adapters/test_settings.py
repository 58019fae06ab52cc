"""Defaults for new indexes: configure(), environment variables, and which of them counts."""

import pickle
import threading

import faiss
import hnswlib
import numpy as np
import pytest

import knn_adapters
import mp_plugins
from knn_adapters import annoy as annoy_stand_in
from knn_adapters import faiss as faiss_stand_in
from knn_adapters import faiss_searching, faiss_threads
from knn_adapters import hnswlib as stand_in
from knn_adapters.settings import Settings, current_settings
from knn_adapters.wrapping import WrapOptions


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    for name in ("MP_KNN_BITS", "MP_KNN_RESCORE", "MP_KNN_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    with knn_adapters.configure():
        yield


def options_of(index):
    return index._options.bits, index._options.rescore


def filled(vectors, room=3000):
    index = stand_in.Index("l2", vectors.shape[1])
    index.init_index(room)
    index.add_items(vectors)
    return index


def test_the_call_of_the_contract():
    knn_adapters.configure(bits=8, rescore="none", num_threads=None)
    assert current_settings() == Settings(8, "none", None) == Settings()


def test_new_and_wrapped_indexes_take_the_defaults(build, words):
    original = build["hnswlib"](words[:300])
    knn_adapters.configure(bits=4, rescore="residual")
    for index in (knn_adapters.wrap(original), filled(words[:2100])):
        assert options_of(index) == (4, "residual")
        assert knn_adapters.stats(index).bits == 4
    assert options_of(knn_adapters.wrap(original, bits=8, rescore="none")) == (8, "none")
    assert knn_adapters.stats(knn_adapters.wrap(build["annoy"](words[:300], n_trees=2))).bits == 4
    knn_adapters.configure(bits=8)  # what is left out stays
    assert current_settings() == Settings(8, "residual", None)


def test_a_mode_that_an_index_does_not_have_is_refused(build, small):
    knn_adapters.configure(rescore="original")
    assert options_of(stand_in.Index("l2", 24)) == (8, "original")
    assert options_of(knn_adapters.wrap(build["annoy"](small))) == (8, "original")
    lists = faiss.index_factory(24, "IVF4,Flat")
    for call in (lambda: knn_adapters.wrap(lists), lambda: WrapOptions.configured(("none", "residual"))):
        with pytest.raises(mp_plugins.UnsupportedError, match=r"'original' is not yet .*: use rescore='none'"):
            call()


@pytest.mark.parametrize("kind", ["IndexFlatL2", "IndexFlatIP", "IndexHNSWFlat", "IndexIVFFlat", "IDMap,Flat"])
def test_the_stand_in_for_faiss_takes_the_defaults(words, kind):
    rows = np.ascontiguousarray(words[:2500, :32])

    def made():
        if kind == "IndexIVFFlat":
            return faiss_stand_in.IndexIVFFlat(faiss_stand_in.IndexFlatL2(32), 32, 8)
        if kind == "IndexHNSWFlat":
            return faiss_stand_in.IndexHNSWFlat(32, 8)
        return faiss_stand_in.index_factory(32, kind) if "," in kind else getattr(faiss_stand_in, kind)(32)

    with knn_adapters.configure(bits=4):
        index = made()
    index.train(rows)
    index.add_with_ids(rows, np.arange(2500)) if "," in kind else index.add(rows)
    assert knn_adapters.stats(index).bits == 4
    with knn_adapters.configure(rescore="residual"):
        if kind == "IndexIVFFlat":
            with pytest.raises(mp_plugins.UnsupportedError, match=r"'residual' is not yet .*: use rescore='none'"):
                made()
            return
        index = made()
    index.add_with_ids(rows, np.arange(2500)) if "," in kind else index.add(rows)
    assert knn_adapters.stats(index).codes_bytes >= 2 * 32
    with knn_adapters.configure(rescore="original"):
        index = made()
    index.add_with_ids(rows, np.arange(2500)) if "," in kind else index.add(rows)
    assert (knn_adapters.stats(index).rescore, knn_adapters.stats(index).kept_bytes) == ("original", 4.0 * 32)


def test_codes_that_exist_keep_their_bits(words):
    rows, kinds = np.ascontiguousarray(words[:500, :32]), {8: "SQ8", 4: "SQ4"}
    knn_adapters.configure(bits=4)
    for bits, kind in kinds.items():
        plain = faiss.index_factory(32, kind)
        plain.train(rows)
        plain.add(rows)
        index = faiss_stand_in.index_factory(32, kind)
        index.train(rows)
        for one in (knn_adapters.wrap(plain), knn_adapters.wrap(plain, bits=bits), index):
            assert knn_adapters.stats(one).bits == bits
        with pytest.raises(mp_plugins.ArgumentError, match=f"`bits` must be left out or {bits}, got {12 - bits}"):
            knn_adapters.wrap(plain, bits=12 - bits)


def test_the_stand_in_for_annoy_takes_the_defaults(words, monkeypatch):
    monkeypatch.setenv("MP_KNN_BITS", "4")
    index = annoy_stand_in.AnnoyIndex(384, "angular")
    for item, vector in enumerate(words[:2100]):
        index.add_item(item, vector)
    index.build(1)
    assert knn_adapters.stats(index).bits == 4
    monkeypatch.setenv("MP_KNN_RESCORE", "original")
    assert options_of(annoy_stand_in.AnnoyIndex(384, "angular")) == (4, "original")
    with knn_adapters.configure(rescore="residual"):
        assert options_of(annoy_stand_in.AnnoyIndex(384, "angular")) == (4, "residual")


def test_what_wrap_is_told_counts_for_annoy_too(build, small):
    original = build["annoy"](small)
    knn_adapters.configure(rescore="original")
    assert options_of(knn_adapters.wrap(original, rescore="none")) == (8, "none")


def test_an_index_keeps_what_it_was_made_with(words):
    index = filled(words[:100])
    knn_adapters.configure(bits=4)
    index.add_items(words[100:2100], range(100, 2100))
    assert knn_adapters.stats(index).bits == 8


def test_threads(build, small):
    default = hnswlib.Index("l2", 24).num_threads
    untouched, chosen = build["hnswlib"](small), build["hnswlib"](small)
    chosen.set_num_threads(default + 5)
    knn_adapters.configure(num_threads=default + 1)
    assert stand_in.Index("l2", 24).num_threads == default + 1
    assert knn_adapters.wrap(untouched).num_threads == default + 1
    assert knn_adapters.wrap(chosen).num_threads == default + 5  # somebody set it
    knn_adapters.configure(num_threads=None)
    assert stand_in.Index("l2", 24).num_threads == knn_adapters.wrap(untouched).num_threads == default


def threads_told(index, queries, monkeypatch):
    """How many threads the core is told to search with."""
    told, search = [], faiss_searching._answer

    def watched(*arguments, **named):
        told.append(named["num_threads"])
        return search(*arguments, **named)

    monkeypatch.setattr(faiss_searching, "_answer", watched)
    index.search(queries, 1)
    index.range_search(queries, 0.0)
    monkeypatch.undo()
    assert told[0] == told[1]
    return told[0]


@pytest.mark.parametrize("text", ["Flat", "HNSW8", "IVF4,Flat", "SQ8"])
def test_threads_of_faiss(small, text, monkeypatch):
    """Of an index that was made with a number, this; else as many as FAISS is set to at the moment."""
    usual, chosen = faiss_stand_in.index_factory(24, text), None
    with knn_adapters.configure(num_threads=3):
        chosen = faiss_stand_in.index_factory(24, text)
    before = faiss.omp_get_max_threads()
    try:
        for index in (usual, chosen):
            index.train(small)
            index.add(small)
            assert faiss.omp_get_max_threads() == before
            assert threads_told(index, small[:1], monkeypatch) == 1
        assert threads_told(chosen, small, monkeypatch) == 3
        for threads in (1, 2):
            faiss.omp_set_num_threads(threads)
            assert threads_told(usual, small, monkeypatch) == threads
            assert threads_told(chosen, small, monkeypatch) == 3
            assert threads_told(pickle.loads(pickle.dumps(chosen)), small, monkeypatch) == 3  # noqa: S301
            assert faiss.omp_get_max_threads() == threads
    finally:
        faiss.omp_set_num_threads(before)
    with knn_adapters.configure(num_threads=2):
        wrapped = knn_adapters.wrap(faiss_stand_in.IndexFlatL2(24)._stock())
    wrapped.add(small)
    assert threads_told(wrapped, small, monkeypatch) == 2


def test_library_threads_are_those_of_the_index_inside(small):
    with knn_adapters.configure(num_threads=5):
        index = faiss_stand_in.index_factory(24, "IDMap,PCA8,Flat")
    before = faiss.omp_get_max_threads()
    with faiss_threads.library_threads(index):
        assert faiss.omp_get_max_threads() == 5
    with pytest.raises(ZeroDivisionError), faiss_threads.library_threads(index):
        _ = 1 / 0
    assert faiss.omp_get_max_threads() == before


def test_threads_that_build_a_forest(small, monkeypatch):
    told, plain = [], annoy_stand_in.PlainForest

    class Watched(plain):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.index = _Noting(self.index, told)

    monkeypatch.setattr(annoy_stand_in, "PlainForest", Watched)
    for threads, asked, wanted in ((None, -1, -1), (2, -1, 2), (2, 1, 1)):
        with knn_adapters.configure(num_threads=threads):
            index = annoy_stand_in.AnnoyIndex(24, "dot")
        index.add_item(0, small[0])
        index.build(1, asked)
        assert told.pop() == wanted


class _Noting:
    """Annoy's index, which notes what it is built with."""

    def __init__(self, index, told):
        self._index, self._told = index, told

    def build(self, n_trees, n_jobs):
        self._told.append(n_jobs)
        return self._index.build(n_trees, n_jobs)

    def __getattr__(self, name):
        return getattr(self._index, name)


def test_environment_variables_come_second(monkeypatch):
    monkeypatch.setenv("MP_KNN_BITS", " 4 ")
    monkeypatch.setenv("MP_KNN_RESCORE", "residual")
    monkeypatch.setenv("MP_KNN_NUM_THREADS", "3")
    assert current_settings() == Settings(4, "residual", 3)
    index = stand_in.Index("l2", 24)
    assert (*options_of(index), index.num_threads) == (4, "residual", 3)
    with knn_adapters.configure(bits=8, num_threads=None) as inside:
        assert inside == current_settings() == Settings(8, "residual", None)
    assert current_settings() == Settings(4, "residual", 3)
    monkeypatch.setenv("MP_KNN_BITS", "")
    assert current_settings().bits == 8


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("MP_KNN_BITS", "eight", "`MP_KNN_BITS` must be an integer, got 'eight'"),
        ("MP_KNN_BITS", "5", "`MP_KNN_BITS` must be 8 or 4, got 5"),
        ("MP_KNN_RESCORE", "twice", "`MP_KNN_RESCORE` must be one of none, residual, original, got 'twice'"),
        ("MP_KNN_NUM_THREADS", "0", "`MP_KNN_NUM_THREADS` must be at least 1, or None, got 0"),
        ("MP_KNN_NUM_THREADS", "2.5", "`MP_KNN_NUM_THREADS` must be an integer, got '2.5'"),
    ],
)
def test_a_bad_variable_is_named(monkeypatch, build, small, variable, value, message):
    original = build["hnswlib"](small)
    monkeypatch.setenv(variable, value)
    for call in (lambda: knn_adapters.wrap(original), lambda: stand_in.Index("l2", 24)):
        with pytest.raises(mp_plugins.ArgumentError, match=message):
            call()
    knn_adapters.configure(bits=8, rescore="none", num_threads=None)  # then it does not count
    assert stand_in.Index("l2", 24).dim == 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 16}, "`bits` must be 8 or 4, got 16"),
        ({"bits": None}, "`bits` must be an integer, got None"),
        ({"rescore": "all"}, "`rescore` must be one of none, residual, original, got 'all'"),
        ({"num_threads": 0}, "`num_threads` must be at least 1, or None, got 0"),
        ({"num_threads": True}, "`num_threads` must be an integer, got True"),
    ],
)
def test_a_bad_argument_sets_nothing(arguments, message):
    knn_adapters.configure(num_threads=2)
    with pytest.raises(mp_plugins.ArgumentError, match=message):
        knn_adapters.configure(**{"bits": 4, **arguments})
    assert current_settings() == Settings(8, "none", 2)


def test_a_block_ends_with_the_settings_before_it_even_on_error():
    knn_adapters.configure(rescore="residual")
    with pytest.raises(ZeroDivisionError), knn_adapters.configure(bits=4):
        assert current_settings() == Settings(4, "residual", 1 // 0)
    assert current_settings() == Settings(8, "residual", None)


def test_threads_see_whole_settings():
    """Two settings that always change together are never seen apart."""
    wrong, done = [], threading.Event()

    def watch():
        while not done.is_set():
            seen = current_settings()
            if (seen.bits == 4) != (seen.rescore == "residual"):
                wrong.append(seen)

    watchers = [threading.Thread(target=watch) for _ in range(3)]
    for watcher in watchers:
        watcher.start()
    for _ in range(2000):
        knn_adapters.configure(bits=4, rescore="residual")
        knn_adapters.configure(bits=8, rescore="none")
    done.set()
    for watcher in watchers:
        watcher.join()
    assert not wrong
