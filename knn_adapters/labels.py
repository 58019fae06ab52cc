"""Labels: the callers' names for vectors whose own numbers are 0, 1, 2, ..."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from mp_plugins import ArgumentTypeError

__all__ = ["LabelTable"]

_RECENT = 1024  # entries that wait in a dict at least; beyond, a sixteenth of the table

_Labels = npt.NDArray[np.uint64]
_Ids = npt.NDArray[np.int64]


class LabelTable:
    """Both ways between ``uint64`` labels and ids, for batches in numpy and without an object an entry.

    Labels that equal their ids from 0 on, which is what automatic numbering gives, need no table. The others are held
    sorted; a dict takes what came last, and is merged when it has grown to a sixteenth of the rest, so that adding one
    by one costs a constant time on average. Safe for threads.
    """

    def __init__(self, capacity: int) -> None:
        self.by_id: _Labels = np.empty(capacity, np.uint64)
        self.count = 0  # ids in use
        self._n_plain = 0  # labels 0 to here are their own ids
        self._sorted: _Labels = np.empty(0, np.uint64)
        self._sorted_ids = np.empty(0, np.int32)  # -1: no longer in use
        self._recent: dict[int, int] = {}
        self._lock = threading.Lock()

    def find(self, labels: _Labels) -> _Ids:
        """Return the ids of ``labels`` ``(n,)``, -1 where one is unknown."""
        with self._lock:
            return self._find(labels)

    def assign(self, labels: _Labels, ids: _Ids) -> None:
        """Give ``ids`` their ``labels``, both ``(n,)`` and distinct; the labels that they had are forgotten.

        The labels are unknown, or those that the ids have already.
        """
        with self._lock:
            changes = self._find(labels) != ids
            if not changes.all():
                labels, ids = labels[changes], ids[changes]
            if len(labels):
                self._assign(labels, ids)

    def move(self, label: int, to: int, last: int) -> None:
        """Forget ``label`` of id ``to``; the label of id ``last`` belongs to ``to`` from now on."""
        with self._lock:
            moved = self.by_id[last : last + 1].copy()
            self._forget(np.array([label], np.uint64))
            self.count -= 1
            if to != last:
                self._forget(moved)
                self._insert(moved, np.array([to], np.int64))
                self.by_id[to] = moved[0]

    def resize(self, capacity: int) -> None:
        """Make room for ``capacity`` ids, all that are in use at least."""
        grown = np.empty(capacity, np.uint64)
        least = min(capacity, len(self.by_id))
        grown[:least] = self.by_id[:least]
        self.by_id = grown

    def allowed(self, wanted: Any, count: int) -> Any:
        """Return ``wanted``, a filter over labels, as one over the first ``count`` ids that the searchers take.

        Args:
            wanted: a callable that is asked for a label, a boolean array that is indexed by label (those behind its end
                are refused), or labels; those that are unknown are nobody's.
            count: ids in use.

        Raises:
            ArgumentTypeError: anything else.
        """
        if callable(wanted):
            return lambda position: wanted(int(self.by_id[position]))
        array = np.asarray(wanted)
        allowed = np.zeros(count, np.bool_)
        if array.ndim == 1 and array.dtype == np.bool_:
            labels = self.by_id[:count]
            within = labels < len(array)
            allowed[within] = array[labels[within]]
        elif array.ndim == 1 and (array.dtype.kind in "iu" or not len(array)):
            ids = self.find(array.astype(np.uint64))
            allowed[ids[(ids >= 0) & (ids < count)]] = True
        else:
            raise ArgumentTypeError(
                "`filter` must be a callable, a boolean array over labels or an array of labels, got "
                f"{type(wanted).__name__} of {array.dtype} and shape {array.shape}: pass numpy.array(labels), for one"
            )
        return allowed

    @property
    def nbytes(self) -> int:
        """Bytes that the way from labels to ids takes, by a rough count for what waits to be merged."""
        return self._sorted.nbytes + self._sorted_ids.nbytes + 100 * len(self._recent)

    def _find(self, labels: _Labels) -> _Ids:
        if len(labels) == 1:
            return np.array([self._find_one(labels.item())])
        found = np.full(len(labels), -1, np.int64)
        if len(self._sorted):
            places = np.minimum(np.searchsorted(self._sorted, labels), len(self._sorted) - 1)
            hits = self._sorted[places] == labels
            found[hits] = self._sorted_ids[places[hits]]
        plain = labels < self._n_plain
        found[plain] = labels[plain]
        if self._recent:
            missing = np.flatnonzero(found < 0)
            recent = self._recent
            found[missing] = [recent.get(label, -1) for label in labels[missing].tolist()]
        return found

    def _find_one(self, label: int) -> int:
        # As for many, without a dozen arrays of one entry.
        if label < self._n_plain:
            return label
        place = np.searchsorted(self._sorted, np.uint64(label)) if len(self._sorted) else 0
        if place < len(self._sorted) and self._sorted[place] == label and self._sorted_ids[place] >= 0:
            return int(self._sorted_ids[place])
        return self._recent.get(label, -1)

    def _assign(self, labels: _Labels, ids: _Ids) -> None:
        if ids.min() < self.count:
            self._forget(self.by_id[ids[ids < self.count]])
        self.by_id[ids] = labels
        self.count = max(self.count, int(ids.max()) + 1)
        if self._goes_on_plainly(labels, ids):
            self._n_plain += len(ids)
        else:
            self._insert(labels, ids)

    def _goes_on_plainly(self, labels: _Labels, ids: _Ids) -> bool:
        if len(self._sorted) or self._recent or ids[0] != self._n_plain or labels[0] != self._n_plain:
            return False
        if len(ids) == 1:
            return True
        plain = np.arange(self._n_plain, self._n_plain + len(ids))
        return bool((ids == plain).all() and (labels == plain).all())

    def _forget(self, labels: _Labels) -> None:
        """Take labels that are known out."""
        if (labels < self._n_plain).any():
            plain = np.arange(self._n_plain, dtype=np.uint64)
            self._n_plain = 0
            self._merge(plain, plain.astype(np.int32))
        for label in labels.tolist():
            if self._recent.pop(label, None) is None:
                self._sorted_ids[np.searchsorted(self._sorted, np.uint64(label))] = -1

    def _insert(self, labels: _Labels, ids: _Ids) -> None:
        if len(self._recent) + len(labels) > max(_RECENT, len(self._sorted) // 16):
            self._merge(labels, ids.astype(np.int32))
        else:
            self._recent.update(zip(labels.tolist(), ids.tolist(), strict=True))

    def _merge(self, labels: _Labels, ids: npt.NDArray[np.int32]) -> None:
        used = self._sorted_ids >= 0
        waiting = np.fromiter(self._recent, np.uint64, len(self._recent))
        waiting_ids = np.fromiter(self._recent.values(), np.int32, len(self._recent))
        every = np.concatenate([self._sorted[used], waiting, labels])
        order = np.argsort(every, kind="stable")
        self._sorted = every[order]
        self._sorted_ids = np.concatenate([self._sorted_ids[used], waiting_ids, ids])[order]
        self._recent = {}
