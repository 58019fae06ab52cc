"""Stands in for ``hnswlib.BFIndex``, whose answers are exact by definition: vectors stay ``float32``."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from knn_adapters import _core, storage
from knn_adapters._unsupported import reject_methods
from knn_adapters._validation import RuntimeArgumentError, as_queries, check_finite, check_k, runtime_error
from knn_adapters.evaluation import IndexStats
from knn_adapters.exact_vectors import ExactVectors
from knn_adapters.hnswlib_arguments import (
    as_items,
    as_label,
    as_labels,
    as_size,
    as_threads,
    check_dim,
    not_contiguous,
    not_initiated,
    reading,
)
from knn_adapters.labels import LabelTable
from knn_adapters.libraries import original

__all__ = ["BFIndex"]

if TYPE_CHECKING:
    import hnswlib
else:
    hnswlib = original("hnswlib")

_KIND = "hnswlib.BFIndex"


class BFIndex(hnswlib.BFIndex):  # type: ignore[misc]  # a class without stubs
    """An ``hnswlib.BFIndex``, faster for batches, with filters that may be arrays, and safe for threads.

    Distances for cosine are those of queries brought to length 1, as hnswlib documents them; its own search leaves the
    queries as they are. It is what recall is measured against, so it has no codes: wrap a ``faiss.IndexFlat`` for an
    exhaustive search over codes.
    """

    def __init__(self, space: str, dim: int) -> None:
        self._begin(space, check_dim(dim))

    def _begin(self, space: str, dim: int) -> None:
        super().__init__(space, dim)  # the base stays empty
        if not hasattr(self, "num_threads"):  # hnswlib 0.7's has none
            self.num_threads = -1
        self._space, self._dim = space, dim
        self._rows: ExactVectors | None = None
        self._next_label = 0
        self._turn = threading.RLock()  # positions move on deletion: searches and changes take turns

    def init_index(self, max_elements: int) -> None:
        """Make room for ``max_elements``.

        Raises:
            RuntimeArgumentError: called a second time.
        """
        capacity = as_size("max_elements", max_elements)
        with self._turn:
            if self._rows is not None:
                raise RuntimeArgumentError("The index is already initiated: make another one")
            self._rows, self._labels = ExactVectors(self._dim, self._space), LabelTable(0)
            self._capacity = capacity

    def add_items(self, data: npt.ArrayLike, ids: npt.ArrayLike | None = None) -> None:
        """Add vectors ``(n, d)`` or one ``(d,)``, or change those whose labels are there: all or none.

        Raises:
            RuntimeArgumentError: another dimension, labels that don't fit, or no room.
            ArgumentError: NaN or infinity, or a label that is none.
        """
        rows = self._started("add_items")
        items = as_items(data, self._space, self._dim)
        with self._turn:
            labels = as_labels(ids, len(items), self._next_label)
            if len(items):
                self._add(rows, items, labels)
            self._next_label += len(items)

    def delete_vector(self, label: int) -> None:
        """Take a vector out; an unknown label is nothing to do, as hnswlib has it."""
        rows, checked = self._started("delete_vector"), as_label(label)
        with self._turn:
            position = int(self._labels.find(np.array([checked], np.uint64))[0])
            if position >= 0:
                self._labels.move(checked, position, rows.count - 1)
                rows.remove(position)

    def knn_query(
        self,
        data: npt.ArrayLike,
        k: int = 1,
        num_threads: int | Callable[[int], bool] = -1,
        filter: Callable[[int], bool] | npt.ArrayLike | None = None,  # noqa: A002  # hnswlib's name
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]:
        """Return labels ``(q, k)`` ``uint64`` and distances ``(q, k)`` ``float32`` of the k nearest vectors.

        Args:
            data: queries ``(q, d)`` or one ``(d,)``.
            k: number of neighbours.
            num_threads: taken and left: the threads are those of the library behind numpy. A callable here is the
                filter, which had this place in hnswlib 0.7.
            filter: as in :meth:`knn_adapters.hnswlib.Index.knn_query`.

        Raises:
            ArgumentError: a wrong dimension, NaN or infinity, k below 1.
            RuntimeError: fewer than k vectors are there or pass the filter; hnswlib returns numbers from nowhere.
        """
        if callable(num_threads):
            filter = num_threads  # noqa: A001  # hnswlib's name
        else:
            as_threads(num_threads)
        rows, queries, count = self._started("knn_query"), as_queries("data", data, self._dim), check_k("k", k)
        check_finite("data", queries)
        with self._turn:
            id_filter = None if filter is None else self._labels.allowed(filter, rows.count)
            distances, ids = rows.search(queries, count, id_filter=id_filter)
            if (ids[:, -1] < 0).any():
                raise not_contiguous()
            return self._labels.by_id[ids], distances if self._space == "l2" else 1.0 - distances

    def save_index(self, path_to_index: str | os.PathLike[str]) -> None:
        """Write the index to a file in the format of :mod:`knn_adapters.storage`.

        Raises:
            OSError: it cannot be written.
        """
        self._started("save_index")
        storage.write(path_to_index, _KIND, *self._snapshot())

    def load_index(self, path_to_index: str | os.PathLike[str], max_elements: int = 0) -> None:
        """Read what :meth:`save_index` or hnswlib wrote; ``max_elements`` is without effect, as hnswlib has it.

        Raises:
            RuntimeArgumentError: it cannot be opened, is damaged, or holds vectors of another dimension or space.
        """
        as_size("max_elements", max_elements)
        with reading():
            fields, arrays = self._read(path_to_index)
        with self._turn:
            if self._rows is not None:
                warnings.warn("load_index() on an index that is initiated drops what it held", stacklevel=2)
            self._restore(fields, arrays)

    def set_num_threads(self, num_threads: int) -> None:
        """Set the property ``num_threads``."""
        self.num_threads = num_threads

    def get_max_elements(self) -> int:
        """Return the capacity."""
        self._started("get_max_elements")
        return self._capacity

    def get_current_count(self) -> int:
        """Return the number of vectors."""
        return self._started("get_current_count").count

    def __getstate__(self) -> dict[str, Any]:
        """Return what ``__setstate__`` takes."""
        fields, arrays = self._snapshot()
        return {"fields": fields, "arrays": arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become what ``__getstate__`` returned."""
        fields = state["fields"]
        self._begin(fields["space"], fields["dim"])
        if state["arrays"]:
            self._restore(fields, state["arrays"])

    def __repr__(self) -> str:
        return f"<knn_adapters.hnswlib.BFIndex(space={self._space!r}, dim={self._dim})>"

    def _started(self, method: str) -> ExactVectors:
        if self._rows is None:
            raise not_initiated(method)
        return self._rows

    def _add(self, rows: ExactVectors, items: npt.NDArray[np.float32], labels: npt.NDArray[np.uint64]) -> None:
        latest = {label: row for row, label in enumerate(labels.tolist())}
        kept = np.fromiter(latest.values(), np.int64, len(latest))
        labels, items = labels[kept], items[kept]
        ids = self._labels.find(labels)
        new = np.flatnonzero(ids < 0)
        room = self._capacity - rows.count
        if len(new) > room:
            raise runtime_error(
                "The number of elements exceeds the specified limit", "data", f"must bring at most {room} new vectors",
                len(new), "make a larger index",
            )  # fmt: skip
        old = np.flatnonzero(ids >= 0)
        rows.replace(ids[old], items[old])
        ids[new] = np.arange(rows.count, rows.count + len(new))
        if rows.count + len(new) > len(self._labels.by_id):
            self._labels.resize(min(self._capacity, max(rows.count + len(new), 2 * rows.count)))
        rows.append(items[new])
        self._labels.assign(labels, ids)

    def _snapshot(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        fields = {"space": self._space, "dim": self._dim}
        with self._turn:
            if self._rows is None:
                return fields, {}
            labels = self._labels.by_id[: self._rows.count].copy()
            vectors = self._rows.vectors(np.arange(self._rows.count))
            return {**fields, "max_elements": self._capacity}, {"labels": labels, "vectors": vectors}

    def _export(self, path: str | os.PathLike[str]) -> None:
        """Write hnswlib's own file, see :func:`_read_hnswlib`, with a record for all that there is room for."""
        self._started("export")
        fields, arrays = self._snapshot()
        records = np.zeros(fields["max_elements"], _record(self._dim))
        records["vector"][: len(arrays["labels"])] = arrays["vectors"]
        records["label"][: len(arrays["labels"])] = arrays["labels"]
        header = np.array([len(records), records.itemsize, len(arrays["labels"])], "<u8")
        with storage.replacing(path) as partial, partial.open("wb") as file:
            header.tofile(file)
            records.tofile(file)

    def _stats(self) -> IndexStats:
        rows, floats = self._started("stats"), 4.0 * self._dim
        return IndexStats(
            kind=_KIND, metric=self._space, n_vectors=rows.count, dim=self._dim, bits=32, clip="none",
            simd_level=_core.simd_level(), codes_bytes=floats, graph_bytes=0.0,
            other_bytes=8.0 + self._labels.nbytes / max(rows.count, 1), original_bytes=floats + 8.0 + 24 + 8,
        )  # fmt: skip

    def _vectors(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        self._started("vectors")
        _, arrays = self._snapshot()
        return arrays["labels"].astype(np.int64), arrays["vectors"]

    def _restore(self, fields: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        self._rows, self._labels = ExactVectors(self._dim, self._space), LabelTable(len(arrays["labels"]))
        self._rows.append(arrays["vectors"])
        if len(arrays["labels"]):
            self._labels.assign(np.array(arrays["labels"]), np.arange(self._rows.count))
        self._capacity, self._next_label = int(fields["max_elements"]), self._rows.count

    def _read(self, path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        if not storage.is_ours(path):
            return _read_hnswlib(path, self._dim)
        kind, fields, arrays = storage.read(path)
        own = (_KIND, self._space, self._dim)
        if (kind, fields.get("space"), fields.get("dim")) != own:
            raise _unsupported_file(f"one of {kind}, {fields.get('space')}, {fields.get('dim')}", self._dim)
        return fields, arrays


def _record(dim: int) -> np.dtype[np.void]:
    return np.dtype([("vector", "<f4", (dim,)), ("label", "<u8")])


def _read_hnswlib(path: str | os.PathLike[str], dim: int) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Return fields and arrays of hnswlib's file: three ``uint64``, then records of vector and label."""
    content = np.fromfile(path, np.uint8)
    record = _record(dim)
    header = content[:24].view("<u8").tolist() if len(content) >= 24 else [0, 0, 0]
    capacity, size, count = header
    if size != record.itemsize or count > capacity or len(content) != 24 + capacity * size:
        raise _unsupported_file(f"one of {len(content)} bytes whose header says {header}", dim)
    records = content[24 : 24 + count * size].view(record)
    vectors, labels = np.ascontiguousarray(records["vector"]), np.ascontiguousarray(records["label"])
    return {"max_elements": capacity}, {"vectors": vectors, "labels": labels}


def _unsupported_file(received: str, dim: int) -> RuntimeArgumentError:
    return runtime_error(
        "Index seems to be corrupted or unsupported", "path_to_index", f"must be a BFIndex of dimension {dim}",
        received, "load it into an index of that kind, or save it again",
    )  # fmt: skip


reject_methods(BFIndex, hnswlib.BFIndex)
