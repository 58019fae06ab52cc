"""A plug-in's quantizer goes through what an index goes through: growth, training anew, files, pickles."""

import copy
import pickle

import faiss
import numpy as np
import pluggy
import pytest

import knn_adapters
import mp_plugins
from knn_adapters import elements_snapshot, storage, wrapping
from knn_adapters import hnswlib as stand_in
from knn_adapters.quantizer import Quantizer


class Wide(Quantizer):
    """Covers twice the range that ours would."""

    def train(self, vectors):
        super().train(vectors)
        self._affine = self.scale * 2, self.offset - self.scale * np.float32((2**self.bits - 1) / 2)
        return self


class Bare:
    """What a plug-in needs to be wrapped with, and no more: it cannot be made of its steps again."""

    def __init__(self, metric, *, bits):
        self._inner = Quantizer(metric, bits=bits)

    def train(self, vectors):
        self._inner.train(vectors)
        return self

    def __getattr__(self, name):
        if name in ("_inner", "from_affine"):
            raise AttributeError(name)
        return getattr(self._inner, name)


class Plugin:
    @mp_plugins.hookimpl
    def mp_register_quantizers(self, registry):
        registry.register("wide", Wide)
        registry.register("bare", Bare)


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    manager: pluggy.PluginManager = mp_plugins.create_plugin_manager()
    manager.register(Plugin())
    for module in (wrapping, elements_snapshot):
        monkeypatch.setattr(module, "load_registry", lambda kind: mp_plugins.load_registry(kind, manager))


@pytest.mark.parametrize("bits", [8, 4])
def test_hnswlib_s_index_names_it_in_files_and_pickles(build, words, bits, tmp_path):
    index = knn_adapters.wrap(build["hnswlib"](words[:300]), quantizer="wide", bits=bits)
    index.save_index(tmp_path / "index")
    assert storage.read(tmp_path / "index").fields["quantizer"] == "wide"
    assert (tmp_path / "index").stat().st_size == index.index_file_size()
    loaded = stand_in.Index("l2", 384)
    loaded.load_index(tmp_path / "index")
    loaded.set_ef(index.ef)
    for one in (loaded, pickle.loads(pickle.dumps(index)), copy.deepcopy(index), index):  # noqa: S301
        assert type(one._quantizer) is Wide
        before = one._quantizer.scale
        np.testing.assert_array_equal(before, index._quantizer.scale)
        np.testing.assert_array_equal(one.knn_query(words[:20], k=5), index.knn_query(words[:20], k=5))
        one.resize_index(1000)
        one.add_items(words[300:600] * np.float32(30), np.arange(300, 600))
        assert type(one._quantizer) is Wide
        assert one._quantizer.scale.max() > 5 * before.max()


def test_a_file_whose_quantizer_is_not_installed_says_so(build, words, tmp_path, monkeypatch):
    index = knn_adapters.wrap(build["hnswlib"](words[:300]), quantizer="wide")
    index.save_index(tmp_path / "index")
    monkeypatch.setattr(elements_snapshot, "load_registry", mp_plugins.load_registry)
    with pytest.raises(mp_plugins.PluginError, match="unknown quantizer `wide`: known names are"):
        stand_in.Index("l2", 384).load_index(tmp_path / "index")


def test_a_quantizer_that_cannot_be_made_again_says_so(build, words, tmp_path):
    index = knn_adapters.wrap(build["hnswlib"](words[:300]), quantizer="bare")
    assert (index.knn_query(words[:20], k=1)[0][:, 0] == np.arange(20)).mean() > 0.9
    index.save_index(tmp_path / "index")
    with pytest.raises(mp_plugins.UnsupportedError, match="the quantizer 'bare' has no from_affine"):
        stand_in.Index("l2", 384).load_index(tmp_path / "index")


@pytest.mark.parametrize("text", ["Flat", "HNSW16", "IVF4,Flat"])
def test_faiss_trains_it_anew_and_copies_it(small, text):
    plain = faiss.index_factory(24, text)
    plain.train(small)
    plain.add(small)
    index = knn_adapters.wrap(plain, quantizer="wide")
    for one in (index, pickle.loads(pickle.dumps(index)), copy.deepcopy(index)):  # noqa: S301
        one.add(small * np.float32(30))
        assert type(one._quantizer) is Wide


@pytest.mark.parametrize("text", ["SQ8", "SQ4", "HNSW16,SQ8"])
def test_codes_of_faiss_are_calibrated_by_it(small, text):
    index = knn_adapters.wrap(faiss.index_factory(24, text), quantizer="wide")
    index.train(small)
    assert type(index._quantizer) is Wide
    index.add(small)
    assert (index.search(small, 1)[1][:, 0] == np.arange(300)).mean() > (0.9 if "SQ8" in text else 0.5)


@pytest.mark.parametrize("library", ["hnswlib", "faiss"])
def test_data_outside_of_calibration_vectors_range_train_anew(build, small, library):
    """As they do without such vectors: those count for the first training."""
    index = knn_adapters.wrap(build[library](small), calibration=small)
    before = index._quantizer.scale.max()
    if library == "hnswlib":
        index.resize_index(1000)
        index.add_items(small * np.float32(30))
    else:
        index.add(small * np.float32(30))
    assert index._quantizer.scale.max() > 5 * before
