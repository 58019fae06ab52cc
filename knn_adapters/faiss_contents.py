"""What an index of ours knows beside its C++ object, and keeps in step with it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters import faiss_storage as storage
from knn_adapters.faiss_drift import Drift
from knn_adapters.quantizer import quantizer_bytes
from knn_adapters.wrapping import WrapOptions

__all__ = ["CALIBRATION_ROWS", "TRAINING_ROWS", "Contents", "Untrained"]

CALIBRATION_ROWS = 2048
"""Vectors that a quantizer is trained on at least, where none is made to by ``wrap()`` or ``train()``."""

TRAINING_ROWS = 65_536
"""Vectors that a quantizer is trained anew on, at most, beside those outside its range."""

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]


class Contents(ABC):
    """Quantizer, searcher and what is kept of the vectors, for one index, which every method is given.

    Args:
        metric: ``"l2"`` or ``"ip"``.
        options: of the quantizer that is trained.
        follows_data: whether the range follows what is added, as it has to where calling code never trains; else it is
            what training, or the codes that were there, made it.

    Attributes:
        quantizer: None before it is trained.
        opened: number of vectors that the searcher sees; another than the index has: it must be opened again.
        lock: held by whoever changes any of this.
    """

    def __init__(self, metric: str, options: WrapOptions, *, follows_data: bool) -> None:
        self.metric, self.options, self.follows_data = metric, options, follows_data
        self.quantizer: Any = None
        self.drift: Drift | None = None
        self.opened = -1
        self.lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        """Return everything but the lock and what reads the memory of one C++ object."""
        state = vars(self) | self._closed() | {"opened": -1}
        del state["lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.lock = threading.RLock()

    @property
    def is_trained(self) -> bool:
        """Whether vectors can be added."""
        return self.quantizer is not None

    @abstractmethod
    def open(self, index: Any) -> None:
        """Set the searcher up over the memory that the C++ object has now, whatever was done to it in C++."""

    @abstractmethod
    def calibrate(self, index: Any, vectors: _Floats) -> None:
        """Train the quantizer on ``vectors``, or take over what FAISS trained; what the index holds stays in it."""

    @abstractmethod
    def retrain(self, index: Any, newcomers: _Floats) -> None:
        """Train the quantizer anew for what the index holds and ``newcomers``, and encode everything again."""

    def prepare(self, index: Any, newcomers: _Floats) -> None:
        """Do what has to be done before C++ adds ``newcomers`` ``(m, d)``.

        Raises:
            RuntimeArgumentError: the index is not trained.
        """
        if not self.is_trained:
            raise storage.untrained_error(type(index).__name__)
        if self.follows_data and self.drift is not None and self.drift.outgrown(index.ntotal, newcomers):
            self.retrain(index, newcomers)

    @abstractmethod
    def took(self, index: Any, vectors: _Floats, ids: _Ids | None) -> None:
        """Note that C++ has added ``vectors`` ``(m, d)`` under ``ids``, or under those that follow."""

    @abstractmethod
    def emptied(self, index: Any) -> None:
        """Note that C++ has removed everything."""

    def changed(self) -> None:
        """Note that something in C++ moved: the searcher has to be opened again."""
        self.opened = -1

    def reread(self, index: Any) -> None:
        """Take over the range that C++ code has trained or changed."""
        if storage.sq_is_trained(index):
            found = storage.existing_quantizer(index, self.metric)
            if self.quantizer is None or not _agree(found, self.quantizer):
                self.quantizer = found
        self.changed()

    @property
    def nbytes_beside(self) -> int:
        """Bytes of the ranges, FAISS' pair and ours, and of vectors that are kept outside of them."""
        kept = self.drift.nbytes if self.drift else 0
        if self.quantizer is None:
            return kept
        ranges: int = quantizer_bytes(self.quantizer) + self.quantizer.scale.nbytes + self.quantizer.offset.nbytes
        return kept + ranges

    @abstractmethod
    def _closed(self) -> dict[str, Any]: ...

    def _trained_anew(self, vectors: _Floats) -> Any:
        """Return a quantizer for ``vectors``, which the range of calibration vectors, if any, does not fit."""
        return replace(self.options, calibration=None).train_quantizer(self.metric, vectors)

    def _watch(self, trained_on: _Floats) -> None:
        copies = self.options.rescore != "original"
        self.drift = Drift(self.quantizer, trained_on[:TRAINING_ROWS], copies=copies) if self.follows_data else None


class Untrained:
    """Stands in for the searcher of an index of class ``kind`` that is not trained."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def search(self, *_: Any, **__: Any) -> Any:
        """Raise a ``RuntimeArgumentError``."""
        raise storage.untrained_error(self._kind)

    range_search = search


def _agree(some: Any, other: Any) -> bool:
    """Whether two quantizers decode alike, but for what FAISS' other form of a range loses."""
    return bool(
        np.allclose(some.scale, other.scale, rtol=1e-4, atol=0)
        and (np.abs(some.offset - other.offset) <= 1e-2 * other.scale + 1e-6 * np.abs(other.offset)).all()
    )
