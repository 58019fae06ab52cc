"""The elements of a growing index: vectors under labels, kept exactly until there are enough to train a quantizer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters._validation import RuntimeArgumentError, runtime_error
from knn_adapters.coded_graph import CodedGraph, GraphSettings
from knn_adapters.exact_vectors import ExactVectors
from knn_adapters.labels import LabelTable
from knn_adapters.wrapping import WrapOptions

__all__ = ["CALIBRATION_ROWS", "ElementSettings", "Elements"]

CALIBRATION_ROWS = 2048
"""Vectors that a quantizer is trained on at least.

From here on the trial of a clip range has all of its 512 queries: a quarter of the vectors. An exhaustive search over
as many ``float32`` vectors takes no longer than a graph search over a large index.
"""

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]
_Labels = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class ElementSettings:
    """What ``init_index`` fixes, but for the capacity."""

    space: str
    dim: int
    graph: GraphSettings
    allow_replace_deleted: bool = False


class Elements:
    """Vectors, their labels and deletion marks. Writers take turns, which is the caller's part; searches need not wait.

    Attributes:
        rows: the vectors: :class:`ExactVectors` below :data:`CALIBRATION_ROWS`, then :class:`CodedGraph`.
        labels: the labels.
        capacity: number of elements that may be there.
    """

    def __init__(self, settings: ElementSettings, options: WrapOptions, capacity: int) -> None:
        self.settings = settings
        self.options = options
        self.capacity = capacity
        self.labels = LabelTable(capacity)
        self.rows: ExactVectors | CodedGraph = ExactVectors(settings.dim, settings.space)

    def add(self, vectors: _Floats, labels: _Labels, *, replace_deleted: bool, num_threads: int) -> None:
        """Add ``vectors`` ``(n, d)``, or change those whose ``labels`` ``(n,)`` are there: all or none.

        Args:
            vectors: finite, normalised already for cosine.
            labels: where one comes twice, the last counts.
            replace_deleted: whether newcomers take the places of deleted elements first.
            num_threads: of the insertion.

        Raises:
            RuntimeArgumentError: no room, or a deleted label where replacement is allowed but not asked for.
        """
        vectors, labels = _last_of_each(vectors, labels)
        ids = self._ids_for(labels, replace_deleted)
        is_new, rows = ids >= self.rows.count, self.rows
        n_new = np.count_nonzero(is_new)
        if 0 < n_new < len(ids):  # those that are new first, in the order of their ids
            order = np.concatenate([np.flatnonzero(is_new), np.flatnonzero(~is_new)])
            vectors, labels, ids = vectors[order], labels[order], ids[order]
        appended, replaced = vectors[:n_new], vectors[n_new:]
        outside = rows.are_outside(vectors) if isinstance(rows, CodedGraph) else None
        trained = self._newly_trained(rows, appended, replaced, outside)
        if trained is None:
            self.labels.assign(labels, ids)  # first: a search may find an element as soon as its vector is there
            self._write(rows, ids[n_new:], replaced, appended, num_threads)
            if isinstance(rows, CodedGraph) and outside is not None and outside.any():
                rows.keep_outside(ids[outside], vectors[outside])
        else:
            self._write(trained, ids[n_new:], replaced, appended, num_threads)
            self.labels.assign(labels, ids)
            self.rows = trained

    def mark(self, label: int, is_deleted: bool) -> None:
        """Mark the element as deleted, or take the mark back.

        Raises:
            RuntimeArgumentError: an unknown label, or one in that state.
        """
        ids = self.known(np.array([label], np.uint64))
        if bool(self.rows.deleted()[ids[0]]) == is_deleted:
            raise RuntimeArgumentError(
                f"The requested to {'delete element is already' if is_deleted else 'undelete element is not'} deleted: "
                f"`label` must be one that is {'not ' if is_deleted else ''}deleted, got {label}"
            )
        self.rows.mark(ids, is_deleted)

    def known(self, labels: _Labels) -> _Ids:
        """Return the ids of ``labels``; raise a ``RuntimeArgumentError`` if one is unknown."""
        ids = self.labels.find(labels)
        if (ids < 0).any():
            raise _label_not_found(int(labels[np.argmax(ids < 0)]))
        return ids

    def vectors(self, labels: _Labels) -> _Floats:
        """Return what is held of the elements ``(len(labels), d)``, deleted ones not among them."""
        ids = self.known(labels)
        if self.rows.n_deleted:
            gone = self.rows.deleted()[ids]
            if gone.any():
                raise _label_not_found(int(labels[np.argmax(gone)]))
        return self.rows.vectors(ids)

    def resize(self, capacity: int) -> None:
        """Make room for ``capacity`` elements."""
        if capacity < self.rows.count:
            raise runtime_error(
                "Cannot resize, max element is less than the current number of elements",
                "new_size", f"must be at least {self.rows.count}", capacity, "elements can be marked, but not removed",
            )  # fmt: skip
        if isinstance(self.rows, CodedGraph):
            self.rows.graph.resize(capacity)
        self.labels.resize(capacity)
        self.capacity = capacity

    def take_graph(
        self,
        vectors: _Floats,
        labels: _Labels,
        level0: npt.NDArray[np.uint32],
        element_levels: npt.NDArray[np.int32],
        link_lists: npt.NDArray[np.uint32],
        entry_point: int,
        max_level: int,
    ) -> None:
        """Put the elements of a graph that exists into this empty object, encoded however few they are."""
        quantizer = self._train(vectors)
        rows = CodedGraph.trained_on(quantizer, vectors, self.settings.graph, self.capacity)
        codes = quantizer.encode(vectors)
        residuals = quantizer.encode_residuals(vectors, codes) if getattr(quantizer, "residual", False) else None
        rows.fill(
            codes, residuals, level0=level0, element_levels=element_levels, link_lists=link_lists,
            entry_point=entry_point, max_level=max_level,
            originals=vectors if self.settings.graph.keep_originals else None,
        )  # fmt: skip
        self.labels.assign(labels, np.arange(len(labels)))
        self.rows = rows

    def _ids_for(self, labels: _Labels, replace_deleted: bool) -> _Ids:
        """Return the id that each label has or is going to have."""
        ids, count = self.labels.find(labels), self.rows.count
        new = np.flatnonzero(ids < 0)
        reused: _Ids = np.empty(0, np.int64)
        if self.rows.n_deleted:
            deleted = self.rows.deleted()
            known = ids[ids >= 0]
            if replace_deleted:
                deleted[known] = False
                reused = np.flatnonzero(deleted)[: len(new)]
            elif self.settings.allow_replace_deleted and deleted[known].any():
                raise RuntimeArgumentError(
                    "Can't use addPoint to update deleted elements if replacement of deleted elements is enabled: "
                    f"`ids` must not hold {int(labels[ids >= 0][deleted[known]][0])}, which is deleted; unmark it "
                    "first, or pass replace_deleted=True"
                )
        room = self.capacity - count + len(reused)
        if len(new) > room:
            raise runtime_error(
                "The number of elements exceeds the specified limit",
                "data", f"must bring at most {room} new elements of {self.capacity}", len(new), "call resize_index()",
            )  # fmt: skip
        behind = np.arange(count, count + len(new) - len(reused))
        ids[new] = np.concatenate([reused, behind]) if len(reused) else behind
        return ids

    def _newly_trained(
        self,
        rows: ExactVectors | CodedGraph,
        appended: _Floats,
        replaced: _Floats,
        outside: npt.NDArray[np.bool_] | None,
    ) -> CodedGraph | None:
        """Return what the vectors are to be written to where a quantizer has to be trained for them."""
        if isinstance(rows, CodedGraph):
            if outside is None or not rows.outgrown_by(outside):
                return None
            return rows.retrained(self._train, _both(appended, replaced))
        if rows.count + len(appended) < CALIBRATION_ROWS:
            return None
        held = rows.vectors(np.arange(rows.count))
        sample = _both(appended, _both(held, replaced))
        made = CodedGraph.trained_on(self._train(sample), sample, self.settings.graph, self.capacity)
        if rows.count:
            made.append(held)
            made.mark(np.flatnonzero(rows.deleted()), True)
        return made

    def _train(self, vectors: _Floats) -> Any:
        quantizer = self.options.train_quantizer(self.settings.space, vectors)
        self.options = replace(self.options, calibration=None)  # data that leave its range have outgrown it
        return quantizer

    @staticmethod
    def _write(
        rows: ExactVectors | CodedGraph, ids: _Ids, replaced: _Floats, appended: _Floats, num_threads: int
    ) -> None:
        threads = {} if isinstance(rows, ExactVectors) else {"num_threads": num_threads}
        if len(replaced):
            rows.replace(ids, replaced, **threads)
        if len(appended):
            rows.append(appended, **threads)


def _both(some: _Floats, others: _Floats) -> _Floats:
    """Return all rows, without a copy where one side has none."""
    if not len(some) or not len(others):
        return some if len(some) else others
    return np.concatenate([some, others])


def _last_of_each(vectors: _Floats, labels: _Labels) -> tuple[_Floats, _Labels]:
    """Return the last vector of each label, in order."""
    if len(labels) == 1 or bool((labels[1:] > labels[:-1]).all()):
        return vectors, labels
    _, from_the_end = np.unique(labels[::-1], return_index=True)
    if len(from_the_end) == len(labels):
        return vectors, labels
    kept = np.sort(len(labels) - 1 - from_the_end)
    return vectors[kept], labels[kept]


def _label_not_found(label: int) -> RuntimeArgumentError:
    return runtime_error(
        "Label not found", "label", "must be in the index and not deleted", label, "see get_ids_list()"
    )
