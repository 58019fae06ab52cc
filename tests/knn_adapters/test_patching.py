"""patch(): programs that import a library before or after get the stand-in, and the library's own names come back."""

import ast
import copy
import importlib
import pickle
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import annoy
import faiss
import hnswlib
import numpy as np
import pytest

import knn_adapters
import mp_plugins
from knn_adapters import hnswlib as stand_in
from knn_adapters import patching
from knn_adapters.libraries import original
from knn_adapters.wrapping import find_adapter

OWN = {module: dict(vars(module)) for module in (hnswlib, faiss, annoy)}


@pytest.fixture(autouse=True)
def _all_is_undone():
    yield
    for module, names in OWN.items():
        assert [name for name, value in names.items() if vars(module).get(name) is not value] == []


def python(program):
    """Run a program of its own, in which nothing is imported yet; its warnings are errors.

    Isolated: a checkout that tests are started in must not stand before what is installed.
    """
    # FAISS before 1.11 asks NumPy 2 for names that it deprecates; up to 1.13 it crashes where this of SWIG is an error.
    own = ("default:numpy.core:DeprecationWarning", "default:builtin type:DeprecationWarning")
    warnings = ("-W", "error", *(word for warning in own for word in ("-W", warning)))
    command = [sys.executable, "-I", *warnings, "-c", textwrap.dedent(program)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_a_program_that_imported_the_library_before():
    with knn_adapters.patched():
        index = hnswlib.Index("l2", 3)
        assert type(index) is stand_in.Index
        assert hnswlib.BFIndex is stand_in.BFIndex
        from hnswlib import Index

        assert Index is stand_in.Index
    assert type(hnswlib.Index("l2", 3)) is original("hnswlib").Index
    index.init_index(5)  # what was made within goes on
    index.add_items(np.eye(3))
    assert index.knn_query(np.eye(3)[1])[0].tolist() == [[1]]


@pytest.mark.parametrize("says", ["import hnswlib; Index = hnswlib.Index", "from hnswlib import Index"])
def test_a_program_that_imports_the_library_later(says):
    printed = python(
        f"""
        import sys, knn_adapters
        assert "hnswlib" not in sys.modules
        knn_adapters.patch()
        {says}
        import hnswlib
        print(Index.__module__, hnswlib.BFIndex.__module__)
        index = Index("cosine", 2)
        index.init_index(3)
        index.add_items([[1, 0], [0, 1]])
        print(index.knn_query([3, 1])[0][0][0])
        knn_adapters.unpatch()
        print(hnswlib.Index.__module__, hnswlib.BFIndex.__module__)
        """
    )
    assert printed == ["knn_adapters.hnswlib", "knn_adapters.hnswlib_bruteforce", "0", "hnswlib", "hnswlib"]


def test_what_is_missing_is_skipped():
    printed = python(
        """
        import sys, knn_adapters
        sys.modules["faiss"] = None
        knn_adapters.patch()
        import hnswlib, annoy
        print(hnswlib.Index.__module__, annoy.AnnoyIndex.__module__, "knn_adapters.faiss" in sys.modules)
        """
    )
    assert printed == ["knn_adapters.hnswlib", "knn_adapters.annoy", "False"]
    assert not patching._is_installed("no_such_library")


def test_wrapping_goes_on(build, small):
    made = build["hnswlib"](small)
    with knn_adapters.patched():
        assert isinstance(knn_adapters.wrap(made), stand_in.Index)
        inside = build["hnswlib"](small)  # says hnswlib.Index
        with pytest.raises(mp_plugins.ArgumentError, match="must not be wrapped already"):
            knn_adapters.wrap(inside)
        copied = hnswlib.Index(index=made)  # takes an index of the library over
        assert type(copied) is stand_in.Index
        assert sorted(copied.get_ids_list()) == list(range(len(small)))


def test_files_of_both_formats_are_read(build, small, tmp_path):
    build["hnswlib"](small).save_index(str(tmp_path / "theirs"))
    with knn_adapters.patched():
        index = hnswlib.Index("l2", small.shape[1])
        index.load_index(str(tmp_path / "theirs"))
        index.save_index(str(tmp_path / "ours"))
        knn_adapters.export(index, tmp_path / "exported")
        again = hnswlib.Index("l2", small.shape[1])
        again.load_index(str(tmp_path / "ours"))
    plain = hnswlib.Index("l2", small.shape[1])
    plain.load_index(str(tmp_path / "exported"))
    assert plain.element_count == again.element_count == len(small)


def test_calls_are_counted():
    knn_adapters.patch()
    knn_adapters.patch(libraries=["hnswlib"])
    with knn_adapters.patched(libraries=("faiss",)):
        assert hnswlib.Index is stand_in.Index
    knn_adapters.unpatch()
    assert hnswlib.Index is stand_in.Index
    knn_adapters.unpatch()
    assert hnswlib.Index is OWN[hnswlib]["Index"]
    with pytest.raises(mp_plugins.MagicPyramidError, match="found nothing to undo"):
        knn_adapters.unpatch()


def test_blocks_may_end_in_any_order():
    one, other = knn_adapters.patched(libraries=["hnswlib"]), knn_adapters.patched(libraries=["annoy"])
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert hnswlib.Index is OWN[hnswlib]["Index"]
    assert annoy.AnnoyIndex is not OWN[annoy]["AnnoyIndex"]
    other.__exit__(None, None, None)


def test_an_error_undoes_it():
    with pytest.raises(KeyError), knn_adapters.patched():
        raise KeyError


def test_other_libraries_are_refused():
    for libraries in (["numpy"], "numpy", ["hnswlib", "numpy"]):
        with pytest.raises(mp_plugins.ArgumentError, match="`libraries` must be among hnswlib, faiss, annoy, got 'n"):
            knn_adapters.patch(libraries=libraries)


def test_a_name_that_somebody_else_gave_a_value_keeps_it(monkeypatch):
    marker = object()
    with knn_adapters.patched():
        monkeypatch.setattr(hnswlib, "Index", marker)
    assert hnswlib.Index is marker
    hnswlib.Index = OWN[hnswlib]["Index"]
    monkeypatch.undo()
    hnswlib.Index = OWN[hnswlib]["Index"]


def test_threads():
    """While any thread is within a block it sees ours, whatever the others do."""
    wrong, start = [], threading.Barrier(4)

    def work():
        start.wait()
        for _ in range(300):
            with knn_adapters.patched():
                if hnswlib.Index is not stand_in.Index:
                    wrong.append(hnswlib.Index)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("library", patching.LIBRARIES)
def test_every_name_that_both_have_is_replaced(library):
    """None is skipped, and none of ours is left behind in the library."""
    module, ours = sys.modules[library], importlib.import_module(f"knn_adapters.{library}")
    shared = {name for name in ours.__all__ if name in OWN[module]}
    assert shared
    before = set(vars(module))
    with knn_adapters.patched():
        for name in shared:
            assert getattr(module, name) is getattr(ours, name), name
        assert set(vars(module)) == before


def test_our_modules_take_the_library_from_where_it_stays_as_it_is():
    """A module of ours that said `import hnswlib` would get its own classes while a program is patched."""
    folder = Path(stand_in.__file__).parent
    for path in sorted(path for library in patching.LIBRARIES for path in folder.glob(f"{library}*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported = {alias.name for alias in node.names}
                assert node.col_offset > 0 or imported.isdisjoint(patching.LIBRARIES), path.name  # for type checkers
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in patching.LIBRARIES, path.name
    for library in patching.LIBRARIES:
        for name in [name for name in sys.modules if name.startswith(f"knn_adapters.{library}")]:
            assert getattr(sys.modules[name], library, original(library)) is original(library), name


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """A library that is a package, what stands in for it, and a patcher for both; a broken stand-in too."""
    (tmp_path / "fakelib").mkdir()
    (tmp_path / "fakelib" / "__init__.py").write_text(
        "class Kind: pass\nclass Other: pass\ndef make(): return Kind()\n"
    )
    (tmp_path / "fakelib" / "extra.py").write_text("import fakelib\ndef kind(): return fakelib.Kind\n")
    (tmp_path / "fakelib_ours.py").write_text(
        "import fakelib\n__all__ = ['Kind', 'Other', 'Mine']\nOther = fakelib.Other\n"
        "class Kind(fakelib.Kind): pass\nclass Mine: pass\n"
    )
    (tmp_path / "lib_broken.py").write_text("class Kind: pass\n")
    (tmp_path / "lib_broken_ours.py").write_text("raise ImportError('no such thing')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield patching._Patcher({"fakelib": "fakelib_ours", "lib_broken": "lib_broken_ours"})
    for name in ("fakelib", "fakelib.extra", "fakelib_ours", "lib_broken", "lib_broken_ours"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("before", ["", "fakelib", "fakelib_ours", "fakelib.extra"])
def test_packages_and_what_the_stand_in_passes_on(fakes, before):
    if before:
        importlib.import_module(before)
    request = patching._Request(["fakelib"])
    fakes.add(request)
    library, ours = importlib.import_module("fakelib"), importlib.import_module("fakelib_ours")
    extra = importlib.import_module("fakelib.extra")
    assert library.Kind is extra.kind() is ours.Kind
    assert type(library.make()) is ours.Kind
    assert library.Other is ours.Other
    assert not hasattr(library, "Mine")
    fakes.remove(request)
    assert library.Kind is extra.kind() is not ours.Kind
    assert library.Kind.__module__ == "fakelib"


def test_a_stand_in_that_cannot_be_imported_says_so_and_leaves_nothing(fakes):
    importlib.import_module("fakelib")
    broken = importlib.import_module("lib_broken")
    own = broken.Kind
    with pytest.raises(ImportError, match="no such thing"):
        fakes.add(patching._Request(["fakelib", "lib_broken"]))
    assert broken.Kind is own
    assert sys.modules["fakelib"].Kind.__module__ == "fakelib"


def test_imports_in_other_threads_end(fakes):
    """One imports the library, one its stand-in, a third patches: none waits for another in a circle."""
    start, failed = threading.Barrier(3), []

    def imports(name):
        start.wait()
        try:
            importlib.import_module(name)
        except BaseException as error:
            failed.append(error)

    for _ in range(50):
        threads = [threading.Thread(target=imports, args=[name]) for name in ("fakelib", "fakelib_ours")]
        for thread in threads:
            thread.start()
        start.wait()
        request = patching._Request(["fakelib"])
        fakes.add(request)
        for thread in threads:
            thread.join()
        assert sys.modules["fakelib"].Kind is sys.modules["fakelib_ours"].Kind
        fakes.remove(request)
        for name in ("fakelib", "fakelib_ours"):
            sys.modules.pop(name)
    assert not failed


def faiss_kinds(module):
    """Ways in which programs make indexes, by name, from what `import faiss` gave them."""
    return {
        "flat": module.IndexFlatL2(24),
        "factory": module.index_factory(24, "HNSW8,Flat"),
        "lists": module.IndexIVFFlat(module.IndexFlatL2(24), 24, 4),
        "ids": module.IndexIDMap(module.IndexFlatIP(24)),
    }


def filled_faiss(module, vectors):
    indexes = faiss_kinds(module)
    for name, index in indexes.items():
        index.train(vectors)
        if name == "ids":
            index.add_with_ids(vectors, np.arange(len(vectors)))
        else:
            index.add(vectors)
    return indexes


@pytest.fixture(scope="module")
def many():
    return np.random.default_rng(3).standard_normal((2200, 24)).astype(np.float32)


def test_a_program_that_uses_faiss(many, tmp_path):
    """Made, searched, saved, read and pickled within, by a program that imported FAISS before; used afterwards."""
    plain = filled_faiss(faiss, many)
    with knn_adapters.patched():
        indexes = filled_faiss(faiss, many)
        for name, index in indexes.items():
            assert type(index).__module__.startswith("knn_adapters.faiss"), name
            assert isinstance(index, faiss.Index)
            assert knn_adapters.stats(index).bits == 8
            faiss.write_index(index, str(tmp_path / name))
            read = faiss.read_index(str(tmp_path / name))
            for twin in (read, pickle.loads(pickle.dumps(index)), faiss.clone_index(index)):  # noqa: S301
                assert type(twin).__module__.startswith("knn_adapters.faiss"), name
                np.testing.assert_array_equal(twin.search(many[:20], 5)[1], index.search(many[:20], 5)[1])
    for name, index in indexes.items():
        assert type(plain[name]).__module__.startswith("faiss")
        assert type(faiss.read_index(str(tmp_path / name))).__module__.startswith("faiss")
        found, true = index.search(many[:200], 5)[1], plain[name].search(many[:200], 5)[1]
        assert np.mean(found == true) > 0.8, name  # graphs differ in their links
        assert np.linalg.norm(index.reconstruct(7) - many[7]) < 0.1 if name in ("flat", "factory") else True
    merged, other = indexes["flat"], plain["flat"]
    merged.merge_from(other)
    assert (merged.ntotal, other.ntotal) == (4400, 0)


def test_a_program_that_imports_faiss_and_annoy_later():
    printed = python(
        """
        import sys, knn_adapters
        assert not {"faiss", "annoy"} & set(sys.modules)
        knn_adapters.patch()
        import faiss, numpy as np
        from annoy import AnnoyIndex
        index = faiss.IndexIDMap(faiss.IndexFlatIP(4))
        index.add_with_ids(np.eye(4, dtype=np.float32), np.arange(4) + 10)
        forest = AnnoyIndex(4, "angular")
        for item, row in enumerate(np.eye(4)):
            forest.add_item(item, row)
        forest.build(2)
        print(type(index).__module__, AnnoyIndex.__module__)
        print(index.search(np.eye(4, dtype=np.float32)[2:3], 1)[1][0, 0], forest.get_nns_by_item(3, 1)[0])
        knn_adapters.unpatch()
        print(faiss.IndexFlatL2.__module__, __import__("annoy").AnnoyIndex.__module__)
        """
    )
    assert printed[:4] == ["knn_adapters.faiss_id_map", "knn_adapters.annoy", "12", "3"]
    assert not any(name.startswith("knn_adapters") for name in printed[4:])


def test_a_program_that_uses_annoy(many, tmp_path):
    def filled():
        index = annoy.AnnoyIndex(24, "angular")
        for item, vector in enumerate(many):
            index.add_item(item, vector)
        index.build(5)
        return index

    plain = filled()
    with knn_adapters.patched():
        index = filled()
        assert type(index).__module__ == "knn_adapters.annoy"
        index.save(str(tmp_path / "index"))
        knn_adapters.export(index, tmp_path / "exported")
        read = annoy.AnnoyIndex(24, "angular")
        read.load(str(tmp_path / "index"))
        assert knn_adapters.stats(read).bits == 8
    again = annoy.AnnoyIndex(24, "angular")
    again.load(str(tmp_path / "exported"))
    for item in range(20):
        true = set(plain.get_nns_by_item(item, 10, 3000))
        for other in (index, read, again):
            assert len(true & set(other.get_nns_by_item(item, 10, 3000))) >= 8


def test_indexes_of_the_library_stay_so_within(many):
    """FAISS' pickling makes its objects through the names of its own module."""
    plain = filled_faiss(faiss, many)
    pickled = {name: pickle.dumps(index) for name, index in plain.items()}
    with knn_adapters.patched():
        for name, index in plain.items():
            for twin in (pickle.loads(pickled[name]), copy.deepcopy(index)):  # noqa: S301
                assert type(twin).__module__.startswith("faiss"), name
                np.testing.assert_array_equal(twin.search(many[:20], 5)[1], index.search(many[:20], 5)[1])
        clusters = faiss.Kmeans(24, 3, niter=2)
        clusters.train(many)
        assert clusters.assign(many)[1].shape == (2200,)


def test_adapters_know_both_within(build, small):
    outside = {library: build[library](small) for library in patching.LIBRARIES}
    wrapped = {library: knn_adapters.wrap(index) for library, index in outside.items()}
    with knn_adapters.patched(), knn_adapters.patched(libraries=["faiss"]):
        inside = {library: build[library](small) for library in patching.LIBRARIES}
        for library in patching.LIBRARIES:
            for index in (outside[library], wrapped[library], inside[library]):
                assert type(find_adapter(index)).__name__.lower() == f"{library}adapter"
            assert not find_adapter(outside[library]).is_wrapped(outside[library])
            assert find_adapter(inside[library]).is_wrapped(inside[library])
            assert knn_adapters.stats(knn_adapters.wrap(outside[library])).bits == 8
            with pytest.raises(mp_plugins.ArgumentError, match="must not be wrapped already"):
                knn_adapters.wrap(inside[library])
