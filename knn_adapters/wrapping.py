"""``wrap()`` and the contract of the adapters that it finds through the plug-ins."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from knn_adapters._validation import as_vectors
from knn_adapters.quantizer import Quantizer, check_bits
from knn_adapters.settings import RESCORE_MODES, check_rescore, current_settings
from mp_plugins import UnsupportedError, argument_error, load_registry

if TYPE_CHECKING:
    from knn_adapters.evaluation import IndexStats

__all__ = ["IndexAdapter", "WrapOptions", "find_adapter", "wrap"]


@dataclass(frozen=True)
class WrapOptions:
    """What the caller of :func:`wrap` asked for, checked.

    Attributes:
        bits: bits per dimension of the codes.
        rescore: where rescoring reads from.
        calibration: vectors ``(m, d)`` to pick the clip range from, instead of the index's own.
        quantizer: the registered quantizer class.
        quantizer_name: the name that it is registered by.
        num_threads: threads for a large batch, None for the library's own default.
        asks_for_bits: whether the caller named ``bits``; else codes that exist stay as they are.
    """

    bits: int = 8
    rescore: str = "none"
    calibration: npt.NDArray[np.float32] | None = None
    quantizer: type[Any] = field(default=Quantizer)
    quantizer_name: str = "scalar"
    num_threads: int | None = None
    asks_for_bits: bool = False

    @classmethod
    def configured(cls, rescore_modes: tuple[str, ...] = RESCORE_MODES) -> WrapOptions:
        """Return what :func:`knn_adapters.configure` and the environment say, for an index that is made from nothing.

        Args:
            rescore_modes: what that kind of index can be rescored by.

        Raises:
            ArgumentError: an environment variable has a value that is not allowed.
            UnsupportedError: they say another mode than those.
        """
        settings = current_settings()
        made = cls(bits=settings.bits, rescore=settings.rescore, num_threads=settings.num_threads)
        return made.checked_for(rescore_modes)

    def checked_for(self, rescore_modes: tuple[str, ...]) -> WrapOptions:
        """Return these options; raise an ``UnsupportedError`` if ``rescore`` is none of ``rescore_modes``."""
        if self.rescore not in rescore_modes:
            raise UnsupportedError(
                f"`rescore` of {self.rescore!r} is not yet supported for this kind of index: use "
                + " or ".join(f"rescore={mode!r}" for mode in rescore_modes)
            )
        return self

    def train_quantizer(self, metric: str, vectors: npt.NDArray[np.float32]) -> Any:
        """Return a quantizer for ``metric``, trained on the calibration vectors or, without them, on ``vectors``."""
        quantizer = self._made_quantizer(metric)
        if self.calibration is None:
            return quantizer.train(vectors)
        return quantizer.train(as_vectors("calibration", self.calibration, dim=vectors.shape[1]))

    def _made_quantizer(self, metric: str) -> Any:
        if self.rescore != "residual":
            return self.quantizer(metric, bits=self.bits)
        if not issubclass(self.quantizer, Quantizer):
            raise UnsupportedError(
                f"`rescore` of 'residual' is not supported by the quantizer {self.quantizer.__name__}: "
                "use quantizer='scalar' or rescore='none'"
            )
        return self.quantizer(metric, bits=self.bits, residual=True)


class IndexAdapter(ABC):
    """Puts the quantized metric under the indexes of one library.

    Register an instance in the hook ``mp_register_index_adapters``. Ids are what the library calls them: FAISS' and
    Annoy's item numbers, hnswlib's labels.
    """

    supported: str
    """What can be wrapped, in words, for error messages."""

    rescore_modes: tuple[str, ...] = ("none", "residual")
    """What ``rescore`` may be."""

    @abstractmethod
    def handles(self, index: object) -> bool:
        """Whether ``index`` is of this library, wrapped or not; must not import the library."""

    @abstractmethod
    def is_wrapped(self, index: Any) -> bool:
        """Whether ``index`` came out of :meth:`wrap`."""

    @abstractmethod
    def wrap(self, index: Any, options: WrapOptions) -> Any:
        """Return the quantized index; ``index`` is only read.

        Raises:
            UnsupportedError: a type, metric or state of index that cannot be wrapped.
            ArgumentError: nothing in the index.
        """

    @abstractmethod
    def stats(self, index: Any) -> IndexStats:
        """Return the figures of a wrapped index."""

    @abstractmethod
    def metric(self, index: Any) -> str:
        """Return ``"l2"``, ``"ip"`` or ``"cosine"``, for an index wrapped or not."""

    @abstractmethod
    def vectors(self, index: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return ids ``(n,)`` and vectors ``(n, d)`` that the index holds: decoded codes where it is wrapped."""

    @abstractmethod
    def search(self, index: Any, queries: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
        """Return the ids ``(q, k)`` that the index's own search finds with its present settings, -1 where too few."""

    def export(self, index: Any, path: str | os.PathLike[str]) -> None:
        """Write a wrapped index to a file of its library; refused unless an adapter can."""
        raise UnsupportedError(f"export() of {index!r} to {os.fspath(path)} is not yet supported: keep the original")


def wrap(
    index: Any,
    *,
    bits: int | None = None,
    rescore: str | None = None,
    calibration: npt.ArrayLike | None = None,
    quantizer: str = "scalar",
) -> Any:
    """Return a quantized index that answers in place of ``index``.

    The result passes ``isinstance`` for the class of ``index`` and is searched by the same calls, with the same units
    of distance. Indexes of hnswlib and FAISS go on growing, an ``annoy.AnnoyIndex`` can be unbuilt and built again.
    ``index`` is read, never changed, and may be dropped. An ``annoy.AnnoyIndex`` of another metric is returned as it
    is, with a warning.

    Args:
        index: a ``faiss.IndexFlat*``, ``IndexHNSWFlat`` or ``IndexIVFFlat`` (L2, inner product), or a
            ``faiss.IndexScalarQuantizer``, ``IndexHNSWSQ`` or ``IndexIVFScalarQuantizer`` of 8 or 4 bits, whose codes
            are searched as they are, alone or inside ``IndexIDMap``, ``IndexIDMap2``, ``IndexPreTransform`` or
            ``IndexRefine*``; or an ``hnswlib.Index`` or a built ``annoy.AnnoyIndex`` (angular, euclidean, dot) that
            holds at least one vector.
        bits: bits per dimension, 8 or 4; :func:`knn_adapters.configure` says which by default: 8 at first.
        rescore: what the last candidates are compared by: ``"none"``, their codes; ``"residual"``, their codes and 8
            bits a dimension of what the codes leave over, which costs as many bytes; ``"original"``, the vectors
            themselves, kept beside the codes, so that distances are exact. FAISS' inverted lists, and codes that exist,
            have ``"none"`` alone. :func:`knn_adapters.configure` says which by default: ``"none"`` at first.
        calibration: vectors ``(m, d)`` to pick the clip range from; the index's own by default. Where later data leave
            that range, it is picked anew for what there is then.
        quantizer: name of a registered quantizer.

    Raises:
        UnsupportedError: another kind of index, or an option that this release lacks.
        ArgumentError: an empty index or a bad option.

    Example:
        >>> index = knn_adapters.wrap(index)
        >>> labels, distances = index.knn_query(queries, k=10)
    """
    settings = current_settings()
    options = WrapOptions(
        bits=settings.bits if bits is None else check_bits("bits", bits),
        rescore=settings.rescore if rescore is None else check_rescore("rescore", rescore),
        calibration=None if calibration is None else as_vectors("calibration", calibration),
        quantizer=load_registry("quantizers")[quantizer],
        quantizer_name=quantizer,
        num_threads=settings.num_threads,
        asks_for_bits=bits is not None,
    )
    adapter = find_adapter(index)
    options.checked_for(adapter.rescore_modes)
    if adapter.is_wrapped(index):
        raise argument_error("index", "must not be wrapped already", repr(index), "use it as it is")
    return adapter.wrap(index, options)


def find_adapter(index: object) -> IndexAdapter:
    """Return the registered adapter for ``index``.

    Raises:
        UnsupportedError: no adapter handles it; the message names what the registered ones support.
    """
    adapters: list[IndexAdapter] = list(load_registry("index_adapters").values())
    for adapter in adapters:
        if adapter.handles(index):
            return adapter
    supported = "; ".join(adapter.supported for adapter in adapters)
    kind = type(index)
    raise UnsupportedError(f"`index` of type {kind.__module__}.{kind.__qualname__} cannot be wrapped: use {supported}")
