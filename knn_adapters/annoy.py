"""Stands in for the module ``annoy``: an ``AnnoyIndex`` with Annoy's whole API, over coded items and split planes.

``from knn_adapters import annoy`` in place of ``import annoy`` is all that a program has to change. Annoy itself takes
the items and builds the trees; then the forest is taken over as codes and Annoy's memory is given back. What differs:

- An index of fewer than 2048 items stays Annoy's own, exact and with Annoy's file, as does one of the metrics manhattan
  and hamming.
- Vectors that are read back from a built index are those that the codes stand for, and :meth:`AnnoyIndex.unbuild` goes
  on with these.
- ``save()`` writes a file of ours, which ``load()`` maps; Annoy's files are read too, in the layout of 1.17 and in that
  of the development version, and :func:`knn_adapters.export` writes them.
- Values that are not finite, items added to a built index, and numbers that make Annoy crash or hang are errors. A call
  that fails changes nothing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from knn_adapters import storage
from knn_adapters._unsupported import reject_methods
from knn_adapters.annoy_arguments import (
    FileArgumentError,
    as_finite_vector,
    as_flag,
    as_int,
    as_item,
    as_jobs,
    as_new_item,
    as_path,
    as_trees,
    as_vector,
    file_error,
    opening,
    packer,
    refused,
)
from knn_adapters.annoy_coded import CodedForest
from knn_adapters.annoy_nodes import METRICS, Nodes, detect_metric, native_dtype, opened_copy
from knn_adapters.elements import CALIBRATION_ROWS
from knn_adapters.evaluation import IndexStats
from knn_adapters.wrapping import WrapOptions
from mp_plugins import ArgumentTypeError, UnsupportedError, argument_error, missing_dependency

try:
    import annoy
except ImportError as error:
    raise missing_dependency("annoy", "annoy", wanted_by="knn_adapters.annoy") from error

__all__ = ["AnnoyIndex", "held_vectors", "quantizer_metric", "wrapped"]

_MOST_DIMENSIONS = 65_536
_SUPPORTED = ", ".join(METRICS)
_UNBUILT = "call unbuild() first, or make another index"


class AnnoyIndex(annoy.AnnoyIndex):
    """An ``annoy.AnnoyIndex`` whose items and planes are codes once it is built or loaded.

    Made as Annoy's, by ``f``, the dimension, and ``metric``, or by :func:`knn_adapters.wrap`. Any number of threads may
    search it, while others load and unload too: a search goes on with what it began with.
    """

    _metric: Any

    def __new__(cls, f: int, metric: str | None = None) -> AnnoyIndex:
        """Return an empty index.

        Args:
            f: dimension of the vectors, at least 1.
            metric: ``"angular"``, ``"euclidean"`` or ``"dot"``; ``"manhattan"`` and ``"hamming"`` are not quantized.

        Raises:
            TypeError: arguments of another type, in Python's words as Annoy has it.
            ValueError: another metric.
        """
        if metric is None:
            warnings.warn(
                "The default argument for metric will be removed in future version of Annoy: pass metric='angular'",
                FutureWarning, stacklevel=2,
            )  # fmt: skip
            metric = "angular"
        create: Any = super().__new__  # Annoy's stubs leave its __new__ out
        self: AnnoyIndex = create(cls, f, metric)  # stays empty: it answers for f
        if self.f < 1:
            raise argument_error("f", "must be at least 1", self.f, "pass the dimension of the vectors")
        self._begin(metric, WrapOptions(), CALIBRATION_ROWS)
        if not self._quantizes:
            _warn_not_quantized(self.f, metric, stacklevel=3)
        return self

    @classmethod
    def _wrapping(cls, original: Any, metric: str, options: WrapOptions) -> AnnoyIndex:
        """Return an index over the encoded items and planes of ``original``, however few they are."""
        create: Any = cls
        self: AnnoyIndex = create(original.f, metric)
        self._begin(metric, options, 1)
        with opened_copy(original, metric) as nodes:
            self._served = CodedForest.of(nodes, options)
        self._is_built = True
        return self

    def _begin(self, metric: str, options: WrapOptions, least: int) -> None:
        self._metric, self._options, self._least = metric, options, least
        self._pack = packer(self.f)
        self._quantizes = metric in METRICS and self.f <= _MOST_DIMENSIONS
        self._verbose, self._n_added = False, 0
        self._seed: int | None = None
        self._is_built = self._is_loaded = False
        self._disk: str | None = None
        self._writing = threading.RLock()
        self._served: Any = self._new_plain()
        """What answers: Annoy's own index, or a ``CodedForest``. A method reads it once."""

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
        values = as_finite_vector(vector, self.f, self._pack).tolist() if self._quantizes else vector
        with self._writing:
            self._refuse_loaded("You can't add an item to a loaded index")
            if self._is_built:
                raise refused("You can't add an item to a built index", "must not be built", "a built one", _UNBUILT)
            self._served.add_item(item, values)
            self._n_added += 1

    def build(self, n_trees: int, n_jobs: int = -1) -> Literal[True]:
        """Build a forest of ``n_trees`` trees and return True; -1 takes as many as need the room of the items.

        Annoy builds it; of 2048 items and more everything is encoded then. For the time of that its nodes lie in a
        file in the directory for temporary files.

        Args:
            n_trees: number of trees.
            n_jobs: threads that build, -1 for one a processor.

        Raises:
            ArgumentError: the index is built or loaded, or a number out of range.
            OSError: the temporary file cannot be written.
        """
        trees, jobs = as_trees(n_trees), as_jobs(n_jobs)
        with self._writing:
            self._refuse_loaded("You can't build a loaded index")
            if self._is_built:
                raise refused("You can't build a built index", "must not be built", "a built one", _UNBUILT)
            plain = self._served
            plain.build(trees, jobs)
            if self._quantizes and min(self._n_added, plain.get_n_items()) >= self._least and plain.get_n_trees():
                try:
                    self._served = self._encode(plain)
                except BaseException:
                    if self._served is plain:
                        plain.unbuild()
                    raise
            self._is_built = True
        return True

    def unbuild(self) -> Literal[True]:
        """Take the trees away, so that items can be added again, and return True.

        The original vectors of an encoded index are gone: those that the codes stand for take their places, and are
        encoded anew by the next :meth:`build`, which adds a second, smaller rounding. Add the items again to avoid it.

        Raises:
            ArgumentError: the index is loaded.
        """
        with self._writing:
            self._refuse_loaded("You can't unbuild a loaded index")
            served = self._served
            if isinstance(served, CodedForest):
                self._refill(served.present_items(), served.vectors)
            else:
                served.unbuild()
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
        path = as_path(fn)
        with self._writing:
            if self._is_built or self.get_n_items():
                raise refused(
                    "on_disk_build() comes too late", "must be empty", repr(self), "call it before add_item()"
                )
            plain = self._new_plain()
            with opening(path):
                plain.on_disk_build(path)
            self._served, self._disk = plain, path
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
            if self._disk is not None and os.path.realpath(self._disk) == os.path.realpath(path):
                return True
            with opening(path):
                self._write(path)
                self._take_loaded(self._opened(path, populate))
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
            self._take_loaded(self._opened(path, populate))
        return True

    def unload(self) -> Literal[True]:
        """Drop everything and return True; the index is as new, its seed too. Annoy wants an ``unbuild()`` as well."""
        with self._writing:
            self._seed = None
            self._is_built, self._is_loaded, self._disk, self._n_added = False, False, None, 0
            self._served = self._new_plain()
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
        served = self._served
        if isinstance(served, CodedForest):
            values = as_vector(vector, self.f, self._pack)
            return _search(served, values[np.newaxis], n, search_k, include_distances)
        if self._quantizes:
            vector = as_finite_vector(vector, self.f, self._pack).tolist()
        return served.get_nns_by_vector(vector, n, search_k, include_distances)

    def get_nns_by_item(self, i: int, n: int, search_k: int = -1, include_distances: bool = False) -> Any:
        """Return the items nearest to item i; else as :meth:`get_nns_by_vector`.

        Raises:
            ItemError: i is negative or no item (an ``IndexError``, as Annoy has it).
        """
        served = self._served
        item = as_item("i", i, _n_items(served))
        if isinstance(served, CodedForest):
            return _search(served, served.directions([item]), n, search_k, include_distances)
        return served.get_nns_by_item(item, n, search_k, include_distances)

    def get_item_vector(self, i: int, /) -> list[float]:
        """Return the vector of item i, decoded where it is a code, at its original length; zeros for a gap.

        Raises:
            ItemError: i is negative or no item (an ``IndexError``).
        """
        served = self._served
        item = as_item("i", i, _n_items(served))
        values: list[float] = (
            served.vectors([item])[0].tolist() if isinstance(served, CodedForest) else served.get_item_vector(item)
        )
        return values

    def get_distance(self, i: int, j: int, /) -> float:
        """Return the distance between the items i and j, decoded where they are codes, in Annoy's units.

        Raises:
            ItemError: i or j is negative or no item (an ``IndexError``).
        """
        served = self._served
        first, second = (as_item(name, value, _n_items(served)) for name, value in (("i", i), ("j", j)))
        if isinstance(served, CodedForest):
            return served.distance(first, second)
        return float(served.get_distance(first, second))

    def get_n_items(self) -> int:
        """Return the number of items, ids that were never added included."""
        return _n_items(self._served)

    def get_n_trees(self) -> int:
        """Return the number of trees, 0 before :meth:`build`."""
        served = self._served
        return served.n_trees if isinstance(served, CodedForest) else int(served.get_n_trees())

    def verbose(self, v: bool, /) -> Literal[True]:
        """Set whether Annoy says what it builds, and return True."""
        with self._writing:
            self._verbose = as_flag("v", v)
            if not isinstance(self._served, CodedForest):
                self._served.verbose(self._verbose)
        return True

    def set_seed(self, s: int, /) -> None:
        """Set the seed of the trees; it counts for the next :meth:`build`."""
        with self._writing:
            self._seed = as_int("s", s)
            if not isinstance(self._served, CodedForest):
                self._served.set_seed(self._seed)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse to be pickled or copied, as Annoy does."""
        raise ArgumentTypeError(f"cannot pickle {type(self).__name__!r} object: save() it to a file and load() that")

    def __repr__(self) -> str:
        served = self._served
        bits = f" bits={served.setup.bits}" if isinstance(served, CodedForest) else ""
        return f"<knn_adapters.annoy.AnnoyIndex f={self.f} metric={self._metric!r}{bits}>"

    def _refuse_loaded(self, says: str) -> None:
        if self._is_loaded:
            raise refused(says, "must not come from a file", "a loaded one", "call unload() first, or make another")

    def _new_plain(self) -> Any:
        """Return an empty index of Annoy's with our settings."""
        plain = annoy.AnnoyIndex(self.f, self._metric)
        if self._verbose:
            plain.verbose(True)
        if self._seed is not None:
            plain.set_seed(self._seed)
        return plain

    def _refill(self, items: npt.NDArray[np.int64], vectors: Callable[[Any], npt.NDArray[np.float32]]) -> None:
        """Put ``items`` back into an index of Annoy's; ``vectors`` gives those of some of them."""
        plain = self._new_plain()
        if self._disk is not None:
            plain.on_disk_build(self._disk)
        for part in np.array_split(items, len(items) // CALIBRATION_ROWS + 1):
            for item, vector in zip(part.tolist(), vectors(part), strict=True):
                plain.add_item(item, vector.tolist())
        self._served, self._n_added = plain, len(items)

    def _encode(self, plain: Any) -> CodedForest:
        """Return the forest of ``plain``, which is just built; if that fails, ``plain`` gets its items back."""
        if self._disk is not None:
            forest = CodedForest.of(self._nodes_on_disk(plain), self._options)
            forest.save(self._disk)
            return CodedForest.load(self._disk, self.f, self._metric, prefault=False)
        with tempfile.TemporaryDirectory(prefix="magic-pyramid-") as directory:
            path = Path(directory) / "forest.ann"
            try:
                plain.save(str(path))
            except OSError as error:
                raise FileArgumentError(
                    f"the forest cannot be written to {directory} ({error}): free space there, or set TMPDIR"
                ) from error
            nodes = Nodes.of_file(path, self.f, self._metric, plain.get_n_trees())
            try:
                return CodedForest.of(nodes, self._options)
            except BaseException:
                self._refill(np.flatnonzero(nodes.present), nodes.item_vectors)
                raise

    def _nodes_on_disk(self, plain: Any) -> Nodes:
        return Nodes.of_file(Path(str(self._disk)), self.f, self._metric, plain.get_n_trees())

    @contextmanager
    def _nodes(self, plain: Any) -> Iterator[Nodes]:
        """Give the nodes of a built index of Annoy's."""
        if self._disk is not None:
            yield self._nodes_on_disk(plain)
        else:
            with opened_copy(plain, self._metric) as nodes:
                yield nodes

    def _write(self, path: str) -> None:
        """Write what is served, and leave the old file if that fails."""
        if not path or Path(path).is_dir():
            raise file_error("Unable to open", "must be the name of a file", repr(path), "pass another name")
        served = self._served
        if isinstance(served, CodedForest):
            served.save(path)
            return
        with storage.replacing(path) as partial:
            if self._disk is not None:
                shutil.copyfile(self._disk, partial)
            else:
                served.save(str(partial))

    def _opened(self, path: str, prefault: bool) -> Any:
        """Return what answers for the index in the file."""
        if self._quantizes and storage.is_ours(path):
            return CodedForest.load(path, self.f, self._metric, prefault=prefault)
        if self._quantizes:
            nodes = Nodes.of_file(Path(path), self.f, self._metric)
            is_native = nodes.records.dtype == native_dtype(self.f, self._metric)
            if int(nodes.present.sum()) >= (self._least if is_native else 1):
                return CodedForest.of(nodes, self._options)
        plain = self._new_plain()
        plain.load(path, prefault)
        return plain

    def _take_loaded(self, served: Any) -> None:
        self._served, self._is_built, self._is_loaded, self._disk = served, True, True, None

    def _stats(self) -> IndexStats:
        served = self._served
        if isinstance(served, CodedForest):
            return served.stats()
        items = f"{served.get_n_items()} items, which Annoy itself serves"
        remedy = f"ask for the figures of a built index of {self._least} items and more"
        raise argument_error("index", "must be encoded", items, remedy)

    def _vectors(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        served = self._served
        if isinstance(served, CodedForest):
            items = served.present_items()
            return items, served.vectors(items)
        with self._nodes(served) as nodes:
            items = np.flatnonzero(nodes.present)
            return items, nodes.item_vectors(items)

    def _export(self, path: str | os.PathLike[str]) -> None:
        """Write Annoy's own file."""
        served = self._served
        if isinstance(served, CodedForest):
            served.export(path)
            return
        if not self._is_built:
            raise argument_error("index", "must be built", repr(self), "call build() first")
        with self._nodes(served) as nodes, storage.replacing(path) as partial:
            nodes.records.tofile(partial)


def wrapped(index: Any, options: WrapOptions) -> Any:
    """Return ``index``, an ``annoy.AnnoyIndex``, over codes; one of a metric that has none as it is, with a warning."""
    metric = detect_metric(index)
    if metric not in METRICS or index.f > _MOST_DIMENSIONS:
        _warn_not_quantized(index.f, metric, stacklevel=5)
        return index
    return AnnoyIndex._wrapping(index, metric, options)


def quantizer_metric(index: Any) -> str:
    """Return what the quantizer calls the metric of an index, ours or Annoy's.

    Raises:
        UnsupportedError: it has none for it.
    """
    metric = index._metric if isinstance(index, AnnoyIndex) else detect_metric(index)
    if metric not in METRICS:
        raise UnsupportedError(f"the recall of an AnnoyIndex of metric {metric} is not estimated: use {_SUPPORTED}")
    return METRICS[metric]


def held_vectors(index: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return ids and vectors of an index, ours or Annoy's: decoded where it holds codes."""
    quantizer_metric(index)
    if isinstance(index, AnnoyIndex):
        return index._vectors()
    with opened_copy(index, detect_metric(index)) as nodes:
        items = np.flatnonzero(nodes.present)
        return items, nodes.item_vectors(items)


def _warn_not_quantized(f: int, metric: str, stacklevel: int) -> None:
    warnings.warn(
        f"an AnnoyIndex of dimension {f} and metric {metric} is not quantized, Annoy itself serves it: "
        f"use {_SUPPORTED} and at most {_MOST_DIMENSIONS} dimensions to save memory",
        stacklevel=stacklevel,
    )


def _n_items(served: Any) -> int:
    return served.n_items if isinstance(served, CodedForest) else int(served.get_n_items())


def _search(
    forest: CodedForest, queries: npt.NDArray[np.float32], n: Any, search_k: Any, include_distances: Any
) -> list[int] | tuple[list[int], list[float]]:
    return forest.search(
        queries, as_int("n", n), as_int("search_k", search_k), as_flag("include_distances", include_distances)
    )


reject_methods(AnnoyIndex, annoy.AnnoyIndex)
