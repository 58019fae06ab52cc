"""The quantizer: float vectors to 8-bit or 4-bit codes whose distances keep the order of neighbours."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters import _core, quantizer_file
from knn_adapters._validation import as_vectors, check_choice, number_error
from knn_adapters.calibration import choose_clip, choose_clip_with_feedback
from knn_adapters.feedback import feedback_of
from knn_adapters.recall import normalised
from mp_plugins import argument_error

__all__ = ["METRICS", "Quantizer", "check_bits", "quantizer_bytes"]

METRICS = ("l2", "ip", "cosine")


class Quantizer:
    """Affine scalar quantizer, per dimension or uniform: ``x_i ~ offset_i + scale_i * code_i``, codes 0..255 or 0..15.

    A metric of its own decides about the range that the codes cover: :meth:`train` tries several on a sample and keeps
    the one whose quantized distances give the neighbours that exact distances give. ``"cosine"`` normalises vectors
    before they are encoded, so its codes are compared by inner product.

    Trained on 20 vectors or more for each dimension, codes are rounded with feedback (:mod:`knn_adapters.feedback`)
    where this keeps the order better: they keep inner products and not each value, which may be more than half a step
    off. With a residual level, which wins back more, values are rounded one by one.

    Args:
        metric: ``"l2"``, ``"ip"`` or ``"cosine"``.
        bits: bits per dimension, 8 or 4; codes of 4 bits are packed, two dimensions a byte.
        seed: picks the calibration sample; equal seeds and vectors give equal quantizers.
        residual: whether what the codes leave over gets 8 bits of its own, see :meth:`encode_residuals`.

    Raises:
        ArgumentError: an unknown metric, or bits that are neither 8 nor 4.

    Example:
        >>> quantizer = Quantizer("cosine").train(vectors)
        >>> codes = quantizer.encode(vectors)
    """

    def __init__(self, metric: str = "l2", *, bits: int = 8, seed: int = 0, residual: bool = False) -> None:
        self.metric = check_choice("metric", metric, METRICS)
        self.bits = check_bits("bits", bits)
        self.seed = seed
        self.residual = residual
        self._affine: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None
        self._clip = ""
        self._span = 0.0
        self._feedback: npt.NDArray[np.uint16] | None = None

    def train(self, vectors: npt.ArrayLike) -> Quantizer:
        """Pick scale and offset from ``vectors`` ``(n, d)``; a sample of them is used, so n may be large.

        Returns:
            The quantizer itself, trained. A failed call leaves it as it was.

        Raises:
            ArgumentError: empty, not a matrix of numbers, or holding NaN or infinity.
        """
        checked = self._prepared(as_vectors("vectors", vectors))
        if self.residual:
            clip, feedback = choose_clip(checked, self.core_metric, self.seed, self.bits, residual=True), None
        else:
            feedback = feedback_of(checked, self.core_metric, self.seed)
            clip, feedback = choose_clip_with_feedback(checked, self.core_metric, self.seed, self.bits, feedback)
        self._affine, self._clip, self._span, self._feedback = clip.affine(), clip.name, clip.span, feedback
        return self

    def encode(self, vectors: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """Return the codes ``(n, d)`` of ``vectors`` ``(n, d)``; values beyond the range take its nearest end.

        Codes of 4 bits are ``(n, (d + 1) // 2)``, the even dimension in the low half of a byte.

        Raises:
            ArgumentError: not trained, another dimension than in training, or NaN or infinity.
        """
        scale, offset = self._trained()
        prepared = self._prepared(as_vectors("vectors", vectors, dim=len(scale)))
        return _core.encode(prepared, scale, offset, self.bits, self._feedback)

    def encode_residuals(self, vectors: npt.ArrayLike, codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return what ``codes``, those of ``vectors``, leave over, ``(n, d)`` in bytes.

        A residual r stands for ``scale * span / 255 * (r - 127.5)``, to be added to what the code stands for.

        Raises:
            ArgumentError: made without ``residual=True``, not trained, or arguments that don't fit each other.
        """
        scale, offset = self._trained()
        if not self.residual:
            raise argument_error("quantizer", "must have a residual level", repr(self), "make it with residual=True")
        prepared = self._prepared(as_vectors("vectors", vectors, dim=len(scale)))
        received = self._checked_codes(codes)
        if len(received) != len(prepared):
            raise argument_error("codes", f"must have {len(prepared)} rows", len(received), "pass those of `vectors`")
        return _core.encode_residuals(prepared, received, scale, offset, self._span, self.bits)

    def decode(
        self, codes: npt.NDArray[np.uint8], residuals: npt.NDArray[np.uint8] | None = None
    ) -> npt.NDArray[np.float32]:
        """Return ``offset + scale * code``, ``(n, d)``, for ``codes`` that :meth:`encode` returned.

        With ``residuals`` (those of :meth:`encode_residuals`) what they stand for is added.

        Raises:
            ArgumentError: not trained, another dtype, or another dimension than in training.
        """
        scale, offset = self._trained()
        received = self._checked_codes(codes)
        if residuals is None:
            return _core.decode(received, scale, offset, self.bits)
        return _core.decode_residuals(residuals, received, scale, offset, self._span, self.bits)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trained quantizer to ``path``, in the format of :mod:`knn_adapters.quantizer_file`.

        Raises:
            ArgumentError: not trained.
            OSError: the file cannot be written.
        """
        scale, offset = self._trained()
        fields = {"metric": self.metric, "bits": self.bits, "seed": self.seed, "clip": self._clip}
        if self.residual:
            fields["span"] = self._span
        quantizer_file.write(path, fields, scale, offset, self._feedback)

    @classmethod
    def from_affine(
        cls,
        metric: str,
        scale: npt.NDArray[np.float32],
        offset: npt.NDArray[np.float32],
        clip: str,
        *,
        bits: int = 8,
        span: float = 0.0,
        feedback: npt.NDArray[np.uint16] | None = None,
    ) -> Quantizer:
        """Return a quantizer of given ``scale`` and ``offset`` ``(d,)``, for codes that exist already.

        Args:
            metric: ``"l2"``, ``"ip"`` or ``"cosine"``.
            scale: the steps, finite and not negative.
            offset: the values of code 0.
            clip: where the range comes from, in words.
            bits: of the codes.
            span: steps that the residual level covers, 0 without one.
            feedback: what encoding makes up for, if it does.
        """
        quantizer = cls(metric, bits=bits, residual=span > 0)
        quantizer._affine, quantizer._clip, quantizer._span = (scale, offset), clip, span
        quantizer._feedback = feedback
        return quantizer

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Quantizer:
        """Return the quantizer that :meth:`save` wrote to ``path``.

        Raises:
            ArgumentError: not a quantizer file, damaged, or of a later version.
            OSError: the file cannot be read.
        """
        fields, scale, offset, feedback = quantizer_file.read(path)
        quantizer = cls(fields["metric"], bits=fields["bits"], seed=fields["seed"], residual="span" in fields)
        quantizer._affine, quantizer._clip, quantizer._feedback = (scale, offset), fields["clip"], feedback
        quantizer._span = fields.get("span", 0.0)
        return quantizer

    @property
    def is_trained(self) -> bool:
        """Whether scale and offset are known."""
        return self._affine is not None

    @property
    def scale(self) -> npt.NDArray[np.float32]:
        """The step of each dimension, ``(d,)``; all equal when uniform, 0 where the data are constant."""
        return self._trained()[0]

    @property
    def offset(self) -> npt.NDArray[np.float32]:
        """The value of code 0 in each dimension, ``(d,)``."""
        return self._trained()[1]

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return len(self.scale)

    @property
    def clip(self) -> str:
        """How the range was found, for example ``"quantile 0.9999, uniform"``."""
        self._trained()
        return self._clip

    @property
    def span(self) -> float:
        """Steps that residuals cover: 1 is what rounding leaves, more keeps what clipping cuts off; 0 without them."""
        self._trained()
        return self._span

    @property
    def feedback(self) -> npt.NDArray[np.uint16] | None:
        """What encoding makes up for, ``(d * (d - 1) / 2,)`` in bfloat16; None where values are rounded one by one."""
        self._trained()
        return self._feedback

    @property
    def is_uniform(self) -> bool:
        """Whether all dimensions share one scale and one offset."""
        scale, offset = self._trained()
        return bool(np.all(scale == scale[0]) and np.all(offset == offset[0]))

    @property
    def core_metric(self) -> str:
        """The metric under which the codes are compared: ``"l2"`` or ``"ip"``."""
        return "l2" if self.metric == "l2" else "ip"

    def __repr__(self) -> str:
        state = f"dim={self.dim}, clip={self.clip!r}" if self.is_trained else "not trained"
        return f"Quantizer({self.metric!r}, bits={self.bits}, {state})"

    def _prepared(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return normalised(vectors) if self.metric == "cosine" else vectors

    def _checked_codes(self, codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        dim = len(self._trained()[0])
        width = dim if self.bits == 8 else (dim + 1) // 2
        received = np.asarray(codes)
        if received.dtype != np.uint8 or received.ndim != 2 or received.shape[1] != width:
            raise argument_error(
                "codes",
                f"must be uint8 of shape (n, {width})",
                f"{received.dtype} of shape {received.shape}",
                "pass what encode() returned",
            )
        return np.ascontiguousarray(received)

    def _trained(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        if self._affine is None:
            raise argument_error("quantizer", "must be trained", "an untrained one", "call train(vectors) first")
        return self._affine


def quantizer_bytes(quantizer: Any) -> int:
    """Return the bytes of scale, offset and feedback of a trained quantizer, ours or a plug-in's."""
    parts = (quantizer.scale, quantizer.offset, getattr(quantizer, "feedback", None))
    return sum(part.nbytes for part in parts if part is not None)


def check_bits(argument: str, value: Any) -> int:
    """Return ``value`` if this release can encode with so many bits."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise number_error(argument, value)
    if value not in (8, 4):
        raise argument_error(argument, "must be 8 or 4", value, "use 8")
    return int(value)
