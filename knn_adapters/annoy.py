"""Stands in for the module ``annoy``: an ``AnnoyIndex`` with Annoy's whole API, over coded items and split planes.

``from knn_adapters import annoy`` in place of ``import annoy`` is all that a program has to change. Annoy itself takes
the items and builds the trees; then the forest is taken over as codes and Annoy's memory is given back. What differs:

- An index of fewer than 2048 items stays Annoy's own and exact, as does one of the metrics manhattan and hamming. So
  does its file: Annoy maps it, and processes share it, as they share ours, and Annoy itself reads it. Nothing else
  would: Annoy cannot be given nodes that lie behind a header, nor answers from another place. Such a file has no
  checksum; dimension and nodes are looked at when it is loaded.
- Vectors that are read back from a built index are those that the codes stand for, and :meth:`AnnoyIndex.unbuild` goes
  on with these, unless the vectors are kept (``rescore="original"``, see :func:`knn_adapters.configure`).
- ``save()`` writes a file of ours, which ``load()`` maps; Annoy's files are read too, in the layout of 1.17 and in that
  of the development version, and :func:`knn_adapters.export` writes them.
- Values that are not finite, items added to a built index, and numbers that make Annoy crash or hang are errors. A call
  that fails changes nothing.
"""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from knn_adapters import storage
from knn_adapters._unsupported import reject_methods
from knn_adapters.annoy_arguments import (
    as_finite_vector,
    as_flag,
    as_int,
    as_item,
    as_jobs,
    as_new_item,
    as_path,
    as_trees,
    file_error,
    opening,
    packer,
    refused,
)
from knn_adapters.annoy_coded import CodedForest
from knn_adapters.annoy_nodes import METRICS, Nodes, detect_metric, native_dtype, opened_copy
from knn_adapters.annoy_plain import MOST_DIMENSIONS, BuildingForest, PlainForest, Settings
from knn_adapters.elements import CALIBRATION_ROWS
from knn_adapters.evaluation import IndexStats
from knn_adapters.libraries import original
from knn_adapters.wrapping import WrapOptions
from mp_plugins import ArgumentTypeError, UnsupportedError, argument_error

__all__ = ["AnnoyIndex", "held_vectors", "quantizer_metric", "wrapped"]

if TYPE_CHECKING:
    import annoy
else:
    annoy = original("annoy")

_OMITTED: Any = object()
_SUPPORTED = ", ".join(METRICS)


class AnnoyIndex(annoy.AnnoyIndex):
    """An ``annoy.AnnoyIndex`` whose items and planes are codes once it is built or loaded.

    Made as Annoy's, by ``f``, the dimension, and ``metric``, or by :func:`knn_adapters.wrap`. Any number of threads may
    search it, while others load and unload too: a search goes on with what it began with.
    """

    _settings: Settings
    _options: WrapOptions
    _least: int
    """Items from which on a built or loaded index is encoded."""
    _served: PlainForest | CodedForest | BuildingForest
    """What answers; a method reads it once."""
    _is_built: bool
    _is_loaded: bool
    _disk: str | None
    """The file of ``on_disk_build()``."""
    _writing: threading.RLock

    def __new__(cls, f: int, metric: str = _OMITTED) -> AnnoyIndex:
        """Return an empty index.

        Args:
            f: dimension of the vectors, at least 1.
            metric: ``"angular"``, ``"euclidean"`` or ``"dot"``; ``"manhattan"`` and ``"hamming"`` are not quantized.

        Raises:
            TypeError: arguments of another type, in Python's words as Annoy has it.
            ValueError: another metric.
        """
        if metric is _OMITTED:
            warnings.warn(
                "The default argument for metric will be removed in future version of Annoy: pass metric='angular'",
                FutureWarning, stacklevel=2,
            )  # fmt: skip
            metric = "angular"
        return cls._empty(f, metric, WrapOptions.configured())

    @classmethod
    def _empty(cls, f: int, metric: str, options: WrapOptions) -> AnnoyIndex:
        create: Any = super().__new__  # Annoy's stubs leave its __new__ out
        self: AnnoyIndex = create(cls, f, metric)  # the base stays empty
        member: Any = annoy.AnnoyIndex.f
        dim = int(member.__get__(self))
        if dim < 1:
            raise argument_error("f", "must be at least 1", dim, "pass the dimension of the vectors")
        self._settings = Settings(dim, metric, packer(dim))
        if not self._settings.quantizes:
            _warn_not_quantized(dim, metric, stacklevel=4)
        self._options, self._least = options, CALIBRATION_ROWS
        self._is_built = self._is_loaded = False
        self._disk, self._writing = None, threading.RLock()
        self._served = PlainForest(self._settings)
        return self

    @classmethod
    def _wrapping(cls, original: Any, metric: Any, options: WrapOptions) -> AnnoyIndex:
        """Return an index over the encoded items and planes of ``original``, however few they are."""
        self = cls._empty(original.f, metric, options)
        self._least = 1
        with opened_copy(original, metric) as nodes:
            self._served = CodedForest.of(nodes, options)
        self._is_built = True
        return self

    @property
    def f(self) -> int:  # type: ignore[override]  # Annoy lets it be set, and reads other memory then
        """Dimension of the vectors."""
        return self._settings.f

    def add_item(self, i: int, vector: Any) -> None:
        """Add item ``i``, or change it; memory is taken for all ids up to the largest.

        Args:
            i: 0 to 2^31 - 2; ids need not be without gaps.
            vector: f numbers, in anything that has a length and items.

        Raises:
            ArgumentError: the index is built (where Annoy overwrites its trees) or loaded; or NaN or infinity.
            ItemError: a negative id, or a wrong number of values (an ``IndexError``).
            TypeError: what is no vector, in Python's own words as Annoy has it.
        """
        item = as_new_item(i)
        settings = self._settings
        values = as_finite_vector(vector, settings.f, settings.pack).tolist() if settings.quantizes else vector
        with self._writing:
            self._without_trees("add an item to").add(item, values)

    def build(self, n_trees: int, n_jobs: int = -1) -> Literal[True]:
        """Build a forest of ``n_trees`` trees and return True; -1 takes as many as need the room of the items.

        Annoy builds it; of 2048 items and more everything is encoded then. For the time of that its nodes lie in a
        file in the directory for temporary files.

        Args:
            n_trees: number of trees.
            n_jobs: threads that build; -1 for as many as :func:`knn_adapters.configure` said when the index was made,
                else for one a processor.

        Raises:
            ArgumentError: the index is built or loaded, or a number out of range.
            OSError: the temporary file cannot be written.
        """
        trees, jobs = as_trees(n_trees), as_jobs(n_jobs)
        with self._writing:
            plain = self._without_trees("build")
            self._served = BuildingForest(plain.n_items, self._waited_for)
            try:
                self._served = self._built(plain, trees, jobs)
            except BaseException:
                self._served = plain.unbuilt() if plain.n_trees else plain
                raise
            self._is_built = True
        return True

    def unbuild(self) -> Literal[True]:
        """Take the trees away, so that items can be added again, and return True.

        The original vectors of an encoded index are gone, unless they are kept: those that the codes stand for take
        their places, and are encoded anew by the next :meth:`build`, which adds a second, smaller rounding. Add the
        items again to avoid it.

        Raises:
            ArgumentError: the index is loaded.
        """
        with self._writing:
            self._refuse_loaded("unbuild")
            served = self._served
            if isinstance(served, CodedForest):
                self._served = PlainForest.holding(self._settings, self._disk, served.present_items(), served.vectors)
            elif isinstance(served, PlainForest) and served.n_trees:
                self._served = served.unbuilt()
            elif isinstance(served, PlainForest):
                served.index.unbuild()
            self._is_built = False
        return True

    def on_disk_build(self, fn: str) -> Literal[True]:
        """Keep items and trees in the file ``fn`` while they come, and return True; to be called first of all.

        :meth:`build` leaves the index there, encoded if it is large enough, and maps it; :meth:`save` to the same name
        has nothing to do.

        Raises:
            FileArgumentError: the file cannot be written (an ``OSError``).
            ArgumentError: there are items already, which Annoy loses.
        """
        path = str(Path(as_path(fn)).absolute())
        with self._writing:
            if self._is_built or self.get_n_items():
                raise refused(
                    "on_disk_build() comes too late", "must be empty", repr(self), "call it before add_item()"
                )
            with opening(path):
                self._served = PlainForest(self._settings, path)
            self._disk = path
        return True

    def save(self, fn: str, prefault: bool = False) -> Literal[True]:
        """Write the index to a file, map that in place of what was in memory, and return True.

        The index counts as loaded then: it can be searched, saved and unloaded only. The file is complete or as it was
        before, and processes that map it share it. Its format is that of :mod:`knn_adapters.storage`, or Annoy's where
        the index is Annoy's own.

        Args:
            fn: name of the file.
            prefault: whether all of it is read into memory at once.

        Raises:
            FileArgumentError: not built, or the file cannot be written (an ``OSError``).
        """
        path, populate = as_path(fn), as_flag("prefault", prefault)
        with self._writing:
            if not self._is_built:
                raise file_error(
                    "You can't save an index that hasn't been built", "must get a built index", "one without trees",
                    "call build() first",
                )  # fmt: skip
            if self._disk is not None and Path(self._disk).resolve() == Path(path).resolve():
                return True
            if not path or Path(path).is_dir():
                raise file_error("Unable to open", "must be the name of a file", repr(path), "pass another name")
            with opening(path):
                self._served.save(path)
                self._take(self._opened(path, populate))
        return True

    def load(self, fn: str, prefault: bool = False) -> Literal[True]:
        """Map an index from a file that :meth:`save` or Annoy wrote, in place of what there was, and return True.

        A file of ours is read where searches get to, and shared with other processes. Annoy's is encoded, which takes
        memory and time; saving it again spares both.

        Args:
            fn: name of the file.
            prefault: whether all of the file is read into memory at once; its checksums are all looked at then.

        Raises:
            FileArgumentError: it cannot be read, is damaged, or of another dimension or metric (an ``OSError``).
        """
        path, populate = as_path(fn), as_flag("prefault", prefault)
        with self._writing, opening(path):
            self._take(self._opened(path, populate))
        return True

    def unload(self) -> Literal[True]:
        """Drop everything and return True; the index is as new, its seed too. Annoy wants an ``unbuild()`` as well."""
        with self._writing:
            self._settings = self._settings._replace(seed=None)
            self._is_built, self._is_loaded, self._disk = False, False, None
            self._served = PlainForest(self._settings)
        return True

    def get_nns_by_vector(self, vector: Any, n: int, search_k: int = -1, include_distances: bool = False) -> Any:
        """Return the ids of the n nearest items, or ``(ids, distances)``; fewer where the trees give fewer.

        Distances are in Annoy's units: ``sqrt(2 - 2 cos)`` for angular, Euclidean, inner product (descending) for dot.

        Args:
            vector: f numbers, in anything that has a length and items.
            n: number of neighbours; all for a number below 0.
            search_k: items to look at, ``n * n_trees`` for -1; all for a smaller number.
            include_distances: whether distances are returned too.

        Raises:
            ItemError: a wrong number of values (an ``IndexError``, as Annoy has it).
            ArgumentError: NaN or infinity.
            TypeError: what is no vector or no integer.
        """
        return self._served.by_vector(vector, n, search_k, include_distances)

    def get_nns_by_item(self, i: int, n: int, search_k: int = -1, include_distances: bool = False) -> Any:
        """Return the items nearest to item i; else as :meth:`get_nns_by_vector`.

        Raises:
            ItemError: i is negative or no item (an ``IndexError``, as Annoy has it).
        """
        served = self._served
        return served.by_item(as_item("i", i, served.n_items), n, search_k, include_distances)

    def get_item_vector(self, i: int, /) -> list[float]:
        """Return the vector of item i, decoded where it is a code, at its original length; zeros for a gap.

        Of the metric angular, vectors that are kept come back to within the last digit.

        Raises:
            ItemError: i is negative or no item (an ``IndexError``).
        """
        served = self._served
        return served.item_vector(as_item("i", i, served.n_items))

    def get_distance(self, i: int, j: int, /) -> float:
        """Return the distance between the items i and j, decoded where they are codes, in Annoy's units.

        Raises:
            ItemError: i or j is negative or no item (an ``IndexError``).
        """
        served = self._served
        return served.distance(as_item("i", i, served.n_items), as_item("j", j, served.n_items))

    def get_n_items(self) -> int:
        """Return the number of items, ids that were never added included."""
        return self._served.n_items

    def get_n_trees(self) -> int:
        """Return the number of trees, 0 before :meth:`build`."""
        return self._served.n_trees

    def verbose(self, v: bool, /) -> Literal[True]:
        """Set whether Annoy says what it builds, and return True."""
        with self._writing:
            self._set(self._settings._replace(verbose=as_flag("v", v)))
        return True

    def set_seed(self, s: int, /) -> None:
        """Set the seed of the trees; it counts for the next :meth:`build`."""
        with self._writing:
            self._set(self._settings._replace(seed=as_int("s", s)))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse to be pickled or copied, as Annoy does."""
        raise ArgumentTypeError(f"cannot pickle {type(self).__name__!r} object: save() it to a file and load() that")

    def __repr__(self) -> str:
        bits = f" bits={self._served.bits}" if self._served.bits else ""
        return f"<knn_adapters.annoy.AnnoyIndex f={self.f} metric={self._settings.metric!r}{bits}>"

    def _built(self, plain: PlainForest, n_trees: int, n_jobs: int) -> PlainForest | CodedForest:
        plain.index.build(n_trees, n_jobs if n_jobs > 0 else self._options.num_threads or n_jobs)
        enough = min(plain.n_added, plain.n_items) >= self._least
        return plain.encoded(self._options) if self._settings.quantizes and enough and plain.n_trees else plain

    def _waited_for(self) -> PlainForest | CodedForest:
        with self._writing:
            served = self._served
        if isinstance(served, BuildingForest):  # the thread that builds asks, from a signal handler for one
            raise refused("The index is being built", "must be built", repr(self), "wait for build() to return")
        return served

    def _set(self, settings: Settings) -> None:
        self._settings = settings
        if isinstance(self._served, PlainForest):
            self._served.set(settings)

    def _refuse_loaded(self, what: str) -> None:
        if self._is_loaded:
            raise refused(
                f"You can't {what} a loaded index", "must not come from a file", repr(self),
                "call unload() first, or make another index",
            )  # fmt: skip

    def _without_trees(self, what: str) -> PlainForest:
        """Return what holds the items, before it is built."""
        self._refuse_loaded(what)
        if self._is_built or not isinstance(self._served, PlainForest):
            raise refused(
                f"You can't {what} a built index", "must not be built", repr(self),
                "call unbuild() first, or make another index",
            )  # fmt: skip
        return self._served

    def _opened(self, path: str, prefault: bool) -> PlainForest | CodedForest:
        """Return what answers for the index in the file."""
        f, metric, *_ = self._settings
        if self._settings.quantizes:
            if storage.is_ours(path):
                return CodedForest.load(path, f, metric, prefault=prefault)
            nodes = Nodes.of_file(Path(path), f, metric)
            is_native = nodes.records.dtype == native_dtype(f, metric)
            if int(nodes.present.sum()) >= (self._least if is_native else 1):
                return CodedForest.of(nodes, self._options)
        return PlainForest.load(path, self._settings, prefault=prefault)

    def _take(self, served: PlainForest | CodedForest) -> None:
        self._served, self._is_built, self._is_loaded, self._disk = served, True, True, None

    def _stats(self) -> IndexStats:
        return self._served.stats()


def wrapped(index: Any, options: WrapOptions) -> Any:
    """Return ``index``, an ``annoy.AnnoyIndex``, over codes; one of a metric that has none as it is, with a warning."""
    metric = detect_metric(index)
    if metric not in METRICS or index.f > MOST_DIMENSIONS:
        _warn_not_quantized(index.f, metric, stacklevel=5)
        return index
    return AnnoyIndex._wrapping(index, metric, options)


def quantizer_metric(index: Any) -> str:
    """Return what the quantizer calls the metric of an index, ours or Annoy's.

    Raises:
        UnsupportedError: it has none for it.
    """
    metric = index._settings.metric if isinstance(index, AnnoyIndex) else detect_metric(index)
    if metric not in METRICS:
        raise UnsupportedError(f"the recall of an AnnoyIndex of metric {metric} is not estimated: use {_SUPPORTED}")
    return METRICS[metric]


def held_vectors(index: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return ids and vectors of an index, ours or Annoy's: decoded where it holds codes."""
    quantizer_metric(index)
    if isinstance(index, AnnoyIndex):
        return index._served.held()
    with opened_copy(index, detect_metric(index)) as nodes:
        items = np.flatnonzero(nodes.present)
        return items, nodes.item_vectors(items)


def _warn_not_quantized(f: int, metric: str, stacklevel: int) -> None:
    warnings.warn(
        f"an AnnoyIndex of dimension {f} and metric {metric} is not quantized, Annoy itself serves it: "
        f"use {_SUPPORTED} and at most {MOST_DIMENSIONS} dimensions to save memory",
        stacklevel=stacklevel,
    )


reject_methods(AnnoyIndex, annoy.AnnoyIndex)
