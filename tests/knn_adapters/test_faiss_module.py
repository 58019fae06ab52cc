"""The stand-in as a module, and a contract with every public name of the classes that it stands for."""

import inspect

import faiss
import numpy as np
import pytest

import knn_adapters
import mp_plugins
from knn_adapters import faiss as stand_in
from knn_adapters import faiss_classes
from knn_adapters import faiss_passing as passing
from knn_adapters.faiss_classes import STAND_INS

NESTED = ("IndexIDMap", "IndexIDMap2", "IndexPreTransform", "IndexRefine", "IndexRefineFlat")
# What FAISS' own wrappers of C++ do for a nested index as well: by pointers, and with C++ searches of what is inside.
NESTED_PASSED = passing.READS | passing.CHANGES | {
    "apply_chain", "check_consistency", "construct_rev_map", "prepend_transform", "reverse_chain", "sa_code_size",
    "add_sa_codes", "merge_from", "update_vectors",
}  # fmt: skip


def test_every_public_name_of_faiss_is_there():
    names = {name for name in dir(faiss) if not name.startswith("_")}
    assert names <= set(dir(stand_in))
    assert names <= set(stand_in.__all__)
    for name in names - {shown.__name__ for shown in STAND_INS}:
        mine, its = getattr(stand_in, name), getattr(faiss, name)
        assert mine is its or mine.__module__ == "knn_adapters.faiss_module", name
    for shown, ours in STAND_INS.items():
        assert getattr(stand_in, shown.__name__) is ours
        assert issubclass(ours, shown)
    assert stand_in.__version__ == faiss.__version__
    with pytest.raises(AttributeError):
        _ = stand_in.no_such_name


@pytest.mark.parametrize("name", sorted(shown.__name__ for shown in STAND_INS if shown.__name__ not in NESTED))
def test_every_method_is_ours_passed_on_or_refused_with_a_reason(name):
    """A method that a new release brings is none of these until somebody has looked at it."""
    ours, shown = getattr(stand_in, name), getattr(faiss, name)
    library = [base for base in ours.__mro__ if base.__module__.startswith("faiss")]
    for member in (member for member in dir(shown) if not member.startswith("_")):
        static = inspect.getattr_static(ours, member)
        if not callable(inspect.getattr_static(shown, member)) or inspect.isclass(getattr(shown, member)):
            continue
        owner = next(base for base in ours.__mro__ if member in vars(base))
        assert owner not in library, f"{member} would run on an object of another C++ class"
        assert "not yet supported" not in (static.__doc__ or ""), member
        refused = "Raise ``UnsupportedError``: " in (static.__doc__ or "")
        assert refused == (member in passing.REFUSED), member
        passed = "FAISS' own method" in (static.__doc__ or "")
        assert passed == (member in passing.READS | passing.CHANGES), member


@pytest.mark.parametrize("name", NESTED)
def test_every_method_of_a_nested_index_is_ours_or_passed_on(name):
    ours, shown = getattr(stand_in, name), getattr(faiss, name)
    for member in (member for member in dir(shown) if not member.startswith("_")):
        if not callable(inspect.getattr_static(shown, member)) or inspect.isclass(getattr(shown, member)):
            continue
        owner = next(base for base in ours.__mro__ if member in vars(base))
        assert owner.__module__.startswith("knn_adapters") or member in NESTED_PASSED, member


@pytest.mark.parametrize("name", sorted(shown.__name__ for shown in STAND_INS if shown.__name__ not in NESTED))
def test_signatures_are_faisss(name):
    for member in ("train", "add", "add_with_ids", "remove_ids", "reconstruct", "reconstruct_batch", "reconstruct_n",
                   "search_and_reconstruct", "sa_encode", "sa_decode", "add_sa_codes", "reset", "search"):  # fmt: skip
        if not hasattr(getattr(faiss, name), member):
            continue  # not in this release
        ours, theirs = (inspect.signature(getattr(getattr(m, name), member)).parameters for m in (stand_in, faiss))
        positional = [parameter for parameter in theirs if theirs[parameter].kind is not inspect.Parameter.KEYWORD_ONLY]
        assert list(ours)[: len(positional)] == positional, member
        assert set(theirs) <= set(ours), member


def takes_any_name(index):
    try:
        index.nporbe = 3
    except AttributeError:
        return False
    return True


def test_properties_are_read_and_only_harmless_ones_written(small):
    index = stand_in.IndexHNSWFlat(24, 8)
    index.add(small)
    for name in ("d", "ntotal", "metric_type", "is_trained", "verbose", "metric_arg", "own_fields"):
        assert hasattr(index, name), name
    assert type(stand_in.downcast_index(index.storage)) is faiss.IndexScalarQuantizer
    for name in ("ntotal", "hnsw", "storage", "d"):
        with pytest.raises(AttributeError):
            setattr(index, name, getattr(index, name))
    for name in ("verbose", "nprobe"):
        target = index if name == "verbose" else stand_in.IndexIVFFlat(stand_in.IndexFlatL2(24), 24, 4)
        setattr(target, name, True if name == "verbose" else 3)
        assert getattr(target, name) in (True, 3)
    assert takes_any_name(index) == takes_any_name(faiss.IndexFlatL2(24))  # until FAISS 1.12


def test_an_empty_index_is_true_and_may_be_asked():
    for index in (stand_in.IndexFlatL2(8), stand_in.IndexHNSWFlat(8, 4), stand_in.index_factory(8, "IDMap,Flat")):
        assert bool(index)
        assert (index.ntotal, index.is_trained) == (0, True)
        assert (index.search(np.zeros((2, 8), np.float32), 3)[1] == -1).all()
        repr(index)
        knn_adapters.stats(index)


def test_arguments_are_those_of_faiss():
    with pytest.raises((TypeError, NotImplementedError)):
        stand_in.IndexFlatL2("a")
    with pytest.raises((TypeError, IndexError)):
        stand_in.IndexIVFFlat()
    assert stand_in.IndexFlat(4).metric_type == faiss.METRIC_L2
    assert stand_in.IndexFlatIP(4).metric_type == faiss.METRIC_INNER_PRODUCT
    assert stand_in.IndexHNSWFlat(4, 8).hnsw.efConstruction == 40
    index = stand_in.IndexHNSWSQ(4, faiss.ScalarQuantizer.QT_8bit, 5, faiss.METRIC_INNER_PRODUCT)
    assert (index.sq if hasattr(index, "sq") else faiss.downcast_index(index.storage).sq).qtype == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: stand_in.IndexFlat(8, faiss.METRIC_L1),
        lambda: stand_in.IndexScalarQuantizer(8, faiss.ScalarQuantizer.QT_fp16),
        lambda: stand_in.IndexHNSWFlat(8, 4, faiss.METRIC_Linf),
    ],
)
def test_what_ours_cannot_do_is_faisss_own(make, monkeypatch):
    monkeypatch.setattr(faiss_classes, "_warned", set())
    with pytest.warns(UserWarning, match="FAISS' own"):
        index = make()
    assert type(index).__module__.startswith("faiss")
    index.add(np.eye(8, dtype=np.float32))
    assert index.ntotal == 8


def test_pointers_in_and_out_still_work(small):
    """Calls of the C++ interface: FAISS' code over the codes, and searches of ours afterwards see what they did."""
    index = stand_in.IndexScalarQuantizer(24, faiss.ScalarQuantizer.QT_8bit)
    index.train_c(300, faiss.swig_ptr(small))
    index.add_c(300, faiss.swig_ptr(small))
    distances, ids = np.empty((300, 3), np.float32), np.empty((300, 3), np.int64)
    index.search_c(300, faiss.swig_ptr(small), 3, faiss.swig_ptr(distances), faiss.swig_ptr(ids))
    np.testing.assert_array_equal(index.search(small, 3)[1][:, 0], ids[:, 0])
    computer = index.get_distance_computer()
    computer.set_query(faiss.swig_ptr(small[0]))
    assert computer(0) < 0.01
    graph = stand_in.IndexHNSWFlat(24, 8)
    graph.add(small)
    graph.reorder_links()
    assert (graph.search(small, 1)[1][:, 0] == np.arange(300)).mean() > 0.9


def test_wrapping_what_is_empty(small):
    for make in (faiss.IndexFlatL2, lambda d: faiss.IndexHNSWFlat(d, 8), lambda d: faiss.index_factory(d, "IVF4,Flat")):
        index = knn_adapters.wrap(make(24), bits=4)
        if not index.is_trained:
            index.train(small)
        index.add(np.tile(small, (8, 1)))
        assert "bits=4" in repr(index)
    with pytest.raises(mp_plugins.ArgumentError, match="wrapped already"):
        knn_adapters.wrap(index)


def test_lists_that_are_trained_but_empty(small):
    original = faiss.index_factory(24, "IVF4,Flat")
    original.train(small)
    index = knn_adapters.wrap(original)
    assert (index.is_trained, index.ntotal) == (True, 0)
    assert (index.search(small[:2], 1)[1] == -1).all()
    index.add(small)
    index.nprobe = 4
    assert (index.search(small, 1)[1][:, 0] == np.arange(300)).mean() > 0.99
