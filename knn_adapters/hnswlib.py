"""Stands in for the module ``hnswlib``: its classes with their whole API, over 8-bit codes and our own engine.

``from knn_adapters import hnswlib`` in place of ``import hnswlib`` is all that a program has to change. What differs:
vectors that are read back are those that the codes stand for, unless they are kept (``rescore="original"``, see
:func:`knn_adapters.configure`); queries of a wrong dimension, values that are not finite,
and calls before ``init_index()`` are errors here; a call that fails changes nothing; a filter may be an array; adding
and searching at the same time is safe; files of hnswlib are read, ours are written (:func:`knn_adapters.export` writes
theirs).
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from knn_adapters import storage
from knn_adapters._unsupported import reject_methods
from knn_adapters._validation import (
    RuntimeArgumentError,
    as_queries,
    check_choice,
    check_finite,
    check_k,
    has_missing,
    runtime_error,
)
from knn_adapters.coded_graph import CodedGraph, GraphSettings
from knn_adapters.elements import Elements, ElementSettings
from knn_adapters.elements_snapshot import sections_of
from knn_adapters.evaluation import IndexStats
from knn_adapters.hnswlib_arguments import (
    as_items,
    as_known_labels,
    as_label,
    as_labels,
    as_size,
    as_threads,
    check_dim,
    not_contiguous,
    not_initiated,
    reading,
    threads_for,
)
from knn_adapters.hnswlib_bruteforce import BFIndex
from knn_adapters.hnswlib_figures import figures
from knn_adapters.hnswlib_snapshot import KIND, Snapshot, described, export, load, restored, snapshot, taken_over
from knn_adapters.hnswlib_state import HnswState
from knn_adapters.libraries import original
from knn_adapters.wrapping import WrapOptions
from mp_plugins import argument_error

__all__ = ["BFIndex", "HnswState", "Index"]

if TYPE_CHECKING:
    import hnswlib
else:
    hnswlib = original("hnswlib")

_LINKS = (2, 10_000)
_MOST_ELEMENTS = 2**31 - 1
_RETURN_TYPE = "numpy" if "return_type" in (hnswlib.Index.get_items.__doc__ or "") else "list"  # 0.8, and before
_DEFAULT_THREADS = hnswlib.Index("l2", 1).num_threads
_DEFAULT_EF = 10  # hnswlib's after loading, whatever was set before

_Labels = npt.NDArray[np.uint64]
_Floats = npt.NDArray[np.float32]


class Index(hnswlib.Index):  # type: ignore[misc]  # a class without stubs
    """An ``hnswlib.Index`` whose vectors are codes.

    Made as hnswlib's (``space`` and ``dim``; ``index=`` to copy one, ours or hnswlib's; ``params=`` for what
    ``__getstate__`` returned) or by :func:`knn_adapters.wrap`. Vectors are kept as they come until there are 2048 of
    them; then a quantizer is trained on them and the graph is built over codes. It is trained anew when an eighth of
    the vectors lies outside of its range by then: that encodes everything again, and the links stay.

    Any number of threads may search while others add, mark or resize; these take turns.
    """

    def __init__(
        self,
        space: Any = None,
        dim: Any = None,
        *,
        params: dict[str, Any] | None = None,
        index: hnswlib.Index | None = None,
    ) -> None:
        if isinstance(space, hnswlib.Index):
            index = space
        elif isinstance(space, dict):
            params = space
        if index is not None:
            (params,) = index.__getstate__()
        if params is None:
            self._begin(space, check_dim(dim))
        else:
            self._resume(params)

    @classmethod
    def _wrapping(cls, state: HnswState, options: WrapOptions) -> Index:
        """Return an index over the graph and the encoded vectors of ``state``."""
        self = cls.__new__(cls)
        self._begin(state.space, state.vectors.shape[1], options)
        self._take(state)
        return self

    def _begin(self, space: str, dim: int, options: WrapOptions | None = None) -> None:
        # The base stays empty: it answers for space, dim, ef and num_threads.
        super().__init__(space, dim)
        self._options = options or WrapOptions.configured()
        if self._options.num_threads is not None:
            self.num_threads = self._options.num_threads
        self._elements: Elements | None = None
        self._next_label = 0
        self._writing = threading.RLock()

    def init_index(
        self,
        max_elements: int,
        M: int = 16,  # noqa: N803  # hnswlib's name
        ef_construction: int = 200,
        random_seed: int = 100,
        allow_replace_deleted: bool = False,
    ) -> None:
        """Make room for ``max_elements``.

        Args:
            max_elements: capacity; :meth:`resize_index` changes it.
            M: links of an element above level 0; level 0 has twice as many.
            ef_construction: breadth of the search that finds links.
            random_seed: of the levels that elements get.
            allow_replace_deleted: whether :meth:`add_items` may put new elements in the places of deleted ones.

        Raises:
            RuntimeArgumentError: called a second time.
            ArgumentError: a number out of range.
        """
        capacity, links, seed = (
            as_size("max_elements", max_elements),
            as_size("M", M),
            as_size("random_seed", random_seed),
        )
        if capacity > _MOST_ELEMENTS:
            raise argument_error("max_elements", f"must be at most {_MOST_ELEMENTS}", capacity, "split the index")
        if links < _LINKS[0]:
            raise argument_error("M", f"must be at least {_LINKS[0]}", links, "pass 16, for one")
        if links > _LINKS[1]:
            warnings.warn(f"M of {links} exceeds {_LINKS[1]}, which is taken instead", stacklevel=2)
        links = min(links, _LINKS[1])
        breadth = max(as_size("ef_construction", ef_construction), links)
        graph = GraphSettings(links, breadth, seed, keep_originals=self._options.rescore == "original")
        settings = ElementSettings(self.space, self.dim, graph, bool(allow_replace_deleted))
        with self._writing:
            if self._elements is not None:
                raise RuntimeArgumentError("The index is already initiated: make another, or call resize_index()")
            self._elements = Elements(settings, self._options, capacity)

    def add_items(
        self,
        data: npt.ArrayLike,
        ids: npt.ArrayLike | None = None,
        num_threads: int = -1,
        replace_deleted: bool = False,
    ) -> None:
        """Add vectors, or change those whose labels are there: all or, with an exception, none.

        Args:
            data: vectors ``(n, d)`` or one ``(d,)``.
            ids: their labels, 0 to 2^64 - 1, counted on from the number of vectors that were ever added by default.
            num_threads: threads for a large batch; ``set_num_threads`` by default.
            replace_deleted: whether new elements take the places of deleted ones first.

        Raises:
            RuntimeArgumentError: another dimension, labels that don't fit, no room, or replacement that
                :meth:`init_index` did not allow.
            ArgumentError: NaN or infinity, or a label that is none.
        """
        elements = self._started("add_items")
        if replace_deleted and not elements.settings.allow_replace_deleted:
            raise runtime_error(
                "Replacement of deleted elements is disabled in constructor", "replace_deleted",
                "must be allowed when the index is made", True, "call init_index(allow_replace_deleted=True)",
            )  # fmt: skip
        items = as_items(data, self.space, self.dim)
        threads = threads_for(len(items), num_threads, self.num_threads)
        with self._writing:
            labels = as_labels(ids, len(items), self._next_label)
            if len(items):
                elements.add(items, labels, replace_deleted=replace_deleted, num_threads=threads)
            self._next_label += len(items)

    def knn_query(
        self,
        data: npt.ArrayLike,
        k: int = 1,
        num_threads: int = -1,
        filter: Callable[[int], bool] | npt.ArrayLike | None = None,  # noqa: A002  # hnswlib's name
    ) -> tuple[_Labels, _Floats]:
        """Return labels ``(q, k)`` ``uint64`` and distances ``(q, k)`` ``float32`` of the k nearest elements.

        Distances are in hnswlib's units: squared Euclidean for ``"l2"``, 1 - dot for ``"ip"`` and ``"cosine"``.

        Args:
            data: queries ``(q, d)`` or one ``(d,)``.
            k: number of neighbours.
            num_threads: threads for a large batch; ``set_num_threads`` by default.
            filter: which labels may be results: a callable that is asked for each candidate, a boolean array that is
                indexed by label, or an array of labels.

        Raises:
            ArgumentError: a wrong dimension (which hnswlib leaves unchecked), NaN or infinity, k below 1.
            RuntimeError: fewer than k elements were found, as hnswlib has it.
        """
        elements = self._started("knn_query")
        queries = as_queries("data", data, self.dim)
        count = check_k("k", k)
        threads = threads_for(len(queries), num_threads, self.num_threads)
        rows = elements.rows
        id_filter = None if filter is None else elements.labels.allowed(filter, rows.count)
        try:
            distances, ids = rows.search(queries, count, max(self.ef, count), num_threads=threads, id_filter=id_filter)
        except ValueError:
            check_finite("data", queries)
            raise
        if has_missing(ids):
            raise not_contiguous()
        return elements.labels.by_id[ids], distances if self.space == "l2" else 1.0 - distances

    def get_items(self, ids: npt.ArrayLike | None = None, return_type: str = _RETURN_TYPE) -> Any:
        """Return the vectors of ``ids`` as an array ``(n, d)`` or, for ``return_type="list"``, as lists.

        The default is what the installed hnswlib returns, an array since 0.8. They are what the codes stand for, or
        what was added if the vectors are kept; of length 1 for cosine.

        Raises:
            ArgumentError: another ``return_type``, or a single label.
            RuntimeArgumentError: a label that is unknown or deleted.
        """
        if not isinstance(return_type, str) or return_type not in ("numpy", "list"):
            check_choice("return_type", return_type, ("numpy", "list"))
        elements, labels = self._started("get_items"), as_known_labels(ids)
        with self._writing:
            vectors = elements.vectors(labels) if len(labels) else np.empty(0, np.float32)
        return vectors.tolist() if return_type == "list" else vectors

    def get_ids_list(self) -> list[int]:
        """Return the labels, deleted ones among them, in order of insertion (hnswlib: of its hash map)."""
        elements = self._started("get_ids_list")
        with self._writing:
            labels: list[int] = elements.labels.by_id[: elements.rows.count].tolist()
        return labels

    def mark_deleted(self, label: int) -> None:
        """Take an element out of the results; it stays in the graph.

        Raises:
            RuntimeArgumentError: an unknown label, or one that is deleted already.
        """
        self._mark(label, True, "mark_deleted")

    def unmark_deleted(self, label: int) -> None:
        """Take a deleted element back into the results.

        Raises:
            RuntimeArgumentError: an unknown label, or one that is not deleted.
        """
        self._mark(label, False, "unmark_deleted")

    def resize_index(self, new_size: int) -> None:
        """Make room for ``new_size`` elements.

        Raises:
            RuntimeArgumentError: fewer than there are.
        """
        elements, capacity = self._started("resize_index"), as_size("new_size", new_size)
        if capacity > _MOST_ELEMENTS:
            raise argument_error("new_size", f"must be at most {_MOST_ELEMENTS}", capacity, "split the index")
        with self._writing:
            elements.resize(capacity)

    def save_index(self, path_to_index: str | os.PathLike[str]) -> None:
        """Write the index to a file in the format of :mod:`knn_adapters.storage`; it is complete or as it was before.

        Raises:
            RuntimeArgumentError: the index is not initiated.
            OSError: the file cannot be written.
        """
        self._started("save_index")
        storage.write(path_to_index, KIND, *self._snapshot())

    def load_index(
        self, path_to_index: str | os.PathLike[str], max_elements: int = 0, allow_replace_deleted: bool = False
    ) -> None:
        """Read what :meth:`save_index` or hnswlib wrote; ``ef`` is 10 then, as hnswlib has it.

        A file of ours is mapped and checked, and what it holds is put into the records of a graph that grows: each has
        links, code and norm of an element side by side, and there is room for those to come. So an index takes its
        memory itself, and the file may go. Annoy's forests, which never grow, stay in the file.

        Args:
            path_to_index: the file.
            max_elements: capacity; that of the file if it is below the number of elements.
            allow_replace_deleted: as in :meth:`init_index`.

        Raises:
            RuntimeArgumentError: it cannot be opened, is damaged, or holds vectors of another dimension or space.
        """
        asked = as_size("max_elements", max_elements)
        with reading():
            made = load(
                path_to_index, self.space, self.dim, self._options, max_elements=asked,
                allow_replace_deleted=bool(allow_replace_deleted),
            )  # fmt: skip
        with self._writing:
            if self._elements is not None:
                warnings.warn("load_index() on an index that is initiated drops what it held", stacklevel=2)
            self._elements, self._next_label = made, made.rows.count
            self.ef = _DEFAULT_EF

    def index_file_size(self) -> int:
        """Return the bytes of the file that :meth:`save_index` would write."""
        elements = self._started("index_file_size")
        with self._writing:
            return storage.size_of(KIND, {**self._fields(), **described(elements)}, sections_of(elements))

    def set_ef(self, ef: int) -> None:
        """Set the breadth of the search; at least k is used."""
        self.ef = ef

    def set_num_threads(self, num_threads: int) -> None:
        """Set the threads that a large batch is worked on with."""
        self.num_threads = as_threads(num_threads)

    def get_current_count(self) -> int:
        """Return the number of elements, deleted ones among them."""
        return self._started("get_current_count").rows.count

    def get_max_elements(self) -> int:
        """Return the capacity."""
        return self._started("get_max_elements").capacity

    @property
    def element_count(self) -> int:
        """Number of elements, deleted ones among them; 0 before ``init_index()``."""
        return 0 if self._elements is None else self._elements.rows.count

    @property
    def max_elements(self) -> int:
        """Capacity; 0 before ``init_index()``."""
        return 0 if self._elements is None else self._elements.capacity

    @property
    def M(self) -> int:  # noqa: N802  # hnswlib's name
        """Links of an element on the upper levels; 0 before ``init_index()``."""
        return 0 if self._elements is None else self._elements.settings.graph.max_m

    @property
    def ef_construction(self) -> int:
        """Breadth of the search that finds links; 0 before ``init_index()``."""
        return 0 if self._elements is None else self._elements.settings.graph.ef_construction

    def __getstate__(self) -> tuple[dict[str, Any]]:
        """Return what ``params=`` and unpickling take."""
        fields, arrays = self._snapshot()
        return ({"magic_pyramid": 1, "fields": fields, "arrays": arrays},)

    def __setstate__(self, state: tuple[dict[str, Any]]) -> None:
        """Become what ``__getstate__`` returned."""
        self._resume(*state)

    def __repr__(self) -> str:
        parts, elements = [f"space={self.space!r}", f"dim={self.dim}"], self._elements
        if elements is not None:
            parts.append(f"elements={elements.rows.count}, max_elements={elements.capacity}")
            quantizer = self._quantizer
            parts.append(f"bits={quantizer.bits}" if quantizer else "exact so far")
            parts.append(f"rescore={elements.options.rescore!r}")
        return f"<knn_adapters.hnswlib.Index({', '.join(parts)})>"

    @property
    def _quantizer(self) -> Any:
        """The quantizer, None before it is trained."""
        rows = None if self._elements is None else self._elements.rows
        return rows.quantizer if isinstance(rows, CodedGraph) else None

    def _started(self, method: str) -> Elements:
        if self._elements is None:
            raise not_initiated(method)
        return self._elements

    def _mark(self, label: int, is_deleted: bool, method: str) -> None:
        elements, checked = self._started(method), as_label(label)
        with self._writing:
            elements.mark(checked, is_deleted)

    def _fields(self) -> dict[str, Any]:
        return {
            "space": self.space, "dim": self.dim, "ef": self.ef, "num_threads": self.num_threads,
            "initiated": self._elements is not None,
        }  # fmt: skip

    def _snapshot(self) -> Snapshot:
        fields = self._fields()
        with self._writing:
            if self._elements is None:
                return Snapshot(fields, {})
            held = snapshot(self._elements)
        return Snapshot({**fields, **held.fields}, held.arrays)

    def _resume(self, params: dict[str, Any]) -> None:
        """Become what ``params`` describe: our state or hnswlib's."""
        if "magic_pyramid" in params:
            fields = params["fields"]
            self._begin(fields["space"], fields["dim"])
            if fields["initiated"]:
                self._elements = restored(fields, params["arrays"], self._options)
                self._next_label = self._elements.rows.count
            self.set_ef(fields["ef"])
            self.set_num_threads(fields["num_threads"])
        else:
            self._begin(params["space"], params["dim"])
            if params["index_inited"]:
                self._take(HnswState.of_dict(params))
            else:
                self.set_ef(params["ef"])

    def _take(self, state: HnswState) -> None:
        self._elements = taken_over(state, self._options)
        self._next_label = self._elements.rows.count
        self.set_ef(state.settings["ef"])
        threads = state.settings["num_threads"]
        if self._options.num_threads is None or threads != _DEFAULT_THREADS:  # what somebody set counts
            self.set_num_threads(threads)

    def _export(self, path: str | os.PathLike[str]) -> None:
        """Write hnswlib's own file, with the vectors that the codes stand for."""
        elements = self._started("export")
        with self._writing:
            export(path, elements)

    def _stats(self) -> IndexStats:
        return figures(self._started("stats"))

    def _vectors(self) -> tuple[npt.NDArray[np.int64], _Floats]:
        elements = self._started("vectors")
        with self._writing:
            ids = np.flatnonzero(~elements.rows.deleted())
            return elements.labels.by_id[ids].astype(np.int64), elements.rows.vectors(ids)


reject_methods(Index, hnswlib.Index)
