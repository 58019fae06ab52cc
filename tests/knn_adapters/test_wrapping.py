import inspect

import annoy
import faiss
import hnswlib
import numpy as np
import pluggy
import pytest

import knn_adapters
import mp_plugins
from knn_adapters import IndexAdapter, Quantizer, wrapping
from knn_adapters._unsupported import public_methods
from knn_adapters.recall import exact_neighbours, recall_at_k

SUPPORTED = {
    "hnswlib": set(public_methods(hnswlib.Index)),
    "annoy": set(public_methods(annoy.AnnoyIndex)),
}
CLASSES = [
    ("hnswlib", "l2", hnswlib.Index),
    ("faiss", "IndexFlatL2", faiss.IndexFlatL2),
    ("faiss", "IndexFlatIP", faiss.IndexScalarQuantizer),
    ("faiss", "IndexHNSWFlat", faiss.IndexHNSWFlat),
    ("faiss", "IndexHNSWFlat", faiss.IndexHNSWSQ),
    ("annoy", "angular", annoy.AnnoyIndex),
]


# Those of FAISS are in test_faiss_module.py.
@pytest.mark.parametrize(("library", "kind", "library_class"), [row for row in CLASSES if row[0] in SUPPORTED])
def test_every_public_method_is_answered_or_refused_by_name(build, small, library, kind, library_class):
    wrapped = knn_adapters.wrap(build[library](small, kind))
    names = set(public_methods(library_class))
    assert SUPPORTED[library] <= names
    for name in sorted(names - SUPPORTED[library]):
        with pytest.raises(mp_plugins.UnsupportedError, match=f"{name}\\(\\) is not yet supported"):
            getattr(wrapped, name)()
    for name in SUPPORTED[library]:
        assert inspect.getattr_static(type(wrapped), name) is not inspect.getattr_static(library_class, name)


@pytest.mark.parametrize(("library", "kind", "library_class"), CLASSES)
def test_every_public_property_still_reads(build, small, library, kind, library_class):
    wrapped = knn_adapters.wrap(build[library](small, kind))
    properties = {name for name in dir(library_class) if not name.startswith("_")} - set(public_methods(library_class))
    absent = {name for name in properties if not hasattr(wrapped, name)}
    # What IndexFlatL2 keeps beside its vectors is not there.
    assert absent <= {"cached_l2norms"}


@pytest.mark.parametrize("index", [3, None, "index", np.zeros((3, 4)), hnswlib.BFIndex("l2", 4)])
def test_other_objects_are_refused_with_what_is_supported(index):
    with pytest.raises(mp_plugins.UnsupportedError, match=r"faiss.IndexFlat.*hnswlib.Index"):
        knn_adapters.wrap(index)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bits": 0}, ValueError, "`bits` must be 8 or 4, got 0"),
        ({"bits": True}, ValueError, "`bits` must be an integer, got True"),
        ({"rescore": "twice"}, ValueError, "`rescore` must be one of none, residual, original, got 'twice'"),
        ({"calibration": np.zeros((0, 24))}, ValueError, "`calibration` must be a matrix of at least one vector"),
        ({"calibration": np.zeros((5, 23))}, ValueError, "`calibration` must have dimension 24, got 23"),
        ({"calibration": np.full((5, 24), np.nan)}, ValueError, "`calibration` must hold finite numbers, got nan"),
        ({"quantizer": "unknown"}, mp_plugins.PluginError, "unknown quantizer `unknown`: known names are .*scalar"),
    ],
)
@pytest.mark.parametrize("library", ["hnswlib", "faiss", "annoy"])
def test_bad_options_are_named(build, small, library, options, error, message):
    with pytest.raises(error, match=message):
        knn_adapters.wrap(build[library](small), **options)


@pytest.mark.parametrize(("library", "kind", "library_class"), CLASSES)
def test_original_vectors_are_kept_where_asked_for(build, small, library, kind, library_class):
    wrapped = knn_adapters.wrap(build[library](small, kind), rescore="original")
    assert isinstance(wrapped, library_class)
    figures = knn_adapters.stats(wrapped)
    assert (figures.rescore, figures.kept_bytes) == ("original", 4.0 * 24)


@pytest.mark.parametrize("library", ["hnswlib", "faiss", "annoy"])
def test_a_wrapped_index_is_not_wrapped_again(build, small, library):
    wrapped = knn_adapters.wrap(build[library](small))
    with pytest.raises(mp_plugins.ArgumentError, match="must not be wrapped already"):
        knn_adapters.wrap(wrapped)


@pytest.mark.parametrize("library", ["hnswlib", "faiss", "annoy"])
def test_the_range_comes_from_the_calibration_vectors(build, small, library):
    wrapped = knn_adapters.wrap(build[library](small), calibration=small * np.float32(3))
    usual = knn_adapters.wrap(build[library](small))
    if library != "annoy":  # angular ranges don't depend on lengths
        assert wrapped._quantizer.scale.mean() > 2 * usual._quantizer.scale.mean()
    assert knn_adapters.stats(wrapped).n_vectors == len(small)


@pytest.mark.parametrize("rescore", ["none", "residual"])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("library", "kind", "library_class"), CLASSES)
def test_bits_and_rescoring(build, vectors, queries, library, kind, library_class, bits, rescore):
    original = build[library](vectors[:1500], kind)
    wrapped = knn_adapters.wrap(original, bits=bits, rescore=rescore)
    assert isinstance(wrapped, library_class)
    adapter = wrapping.find_adapter(wrapped)
    ids, held = adapter.vectors(original)
    true_ids = ids[exact_neighbours(held, queries, 10, adapter.metric(original))]
    found, before = (recall_at_k(adapter.search(index, queries, 10), true_ids, 10) for index in (wrapped, original))
    # A graph whose pool holds 16 candidates, FAISS' default, has few for the residual level to choose from.
    loss = {(8, "none"): 0.05, (8, "residual"): 0.02, (4, "none"): 0.5, (4, "residual"): 0.2}
    assert found > before - loss[bits, rescore]
    if rescore == "residual":  # both levels are what a wrapped index says that it holds
        _, kept = adapter.vectors(wrapped)
        _, kept_by_codes = adapter.vectors(knn_adapters.wrap(original, bits=bits))
        norm = np.linalg.norm
        scaled = held / norm(held, axis=1, keepdims=True) if adapter.metric(original) == "cosine" else held
        assert norm(kept - scaled) < norm(kept_by_codes - scaled)
    figures, width = knn_adapters.stats(wrapped), vectors.shape[1]
    least = (width if bits == 8 else (width + 1) // 2) + width * (rescore == "residual")
    assert figures.bits == bits
    assert least <= figures.codes_bytes < least + 72


def test_a_residual_level_needs_a_quantizer_that_has_one(small):
    options = wrapping.WrapOptions(rescore="residual", quantizer=dict)
    with pytest.raises(mp_plugins.UnsupportedError, match="'residual' is not supported by the quantizer dict"):
        options.train_quantizer("l2", small)


class ListAdapter(IndexAdapter):
    """A stranger's adapter, for lists."""

    supported = "list"

    def handles(self, index):
        return isinstance(index, list)

    def is_wrapped(self, index):
        return bool(index) and index[0] == "wrapped"

    def wrap(self, index, options):
        return ["wrapped", options.train_quantizer("l2", np.asarray(index, np.float32))]

    def stats(self, index):
        raise NotImplementedError

    metric = vectors = search = stats


def test_a_strangers_adapter_and_quantizer_are_found_by_the_same_door(monkeypatch):
    class OtherQuantizer(Quantizer):
        pass

    class Plugin:
        @mp_plugins.hookimpl
        def mp_register_index_adapters(self, registry):
            registry.register("lists", ListAdapter())

        @mp_plugins.hookimpl
        def mp_register_quantizers(self, registry):
            registry.register("other", OtherQuantizer)

    manager: pluggy.PluginManager = mp_plugins.create_plugin_manager()
    manager.register(Plugin())
    monkeypatch.setattr(wrapping, "load_registry", lambda kind: mp_plugins.load_registry(kind, manager))
    word, quantizer = knn_adapters.wrap([[1.0, 2.5], [2.0, 3.0]], quantizer="other")
    assert word == "wrapped"
    assert isinstance(quantizer, OtherQuantizer)
