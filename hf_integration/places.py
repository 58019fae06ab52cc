"""Where tokens stood before any was pruned, for attention that asks at every layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from hf_integration.attention import PlacedBias
from hf_integration.model_family import RelativePositions

__all__ = ["Places"]


@dataclass(frozen=True)
class Places:
    """Where tokens stood at the start, for attention that asks.

    Attributes:
        relative: what distances do in this pass.
        slots: columns of the padded batch, int64 ``[T]`` or, padded, ``[seq]``.
        positions: position ids, int64 ``[T]`` or, padded, ``[batch, seq]``.
    """

    relative: RelativePositions
    slots: Tensor
    positions: Tensor

    def select(self, rows: Tensor) -> Places:
        """Return those of some packed tokens."""
        return Places(self.relative, self.slots.index_select(0, rows), self.positions.index_select(0, rows))

    def prepare(
        self, layer: nn.Module, query: Tensor, key: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor, PlacedBias | None]:
        """Return queries and keys with their positions worked in, and the bias; ``rows`` ask, or all."""
        asking = self if rows is None else self.select(rows)
        query = self.relative.place_queries(layer, query, asking.positions)
        key = self.relative.place_keys(layer, key, self.positions)
        bias = self.relative.score_bias(layer)
        return query, key, None if bias is None else PlacedBias(bias, asking.slots, self.slots)
