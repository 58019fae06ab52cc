"""The layout in which what is pruned is masked, for training; see :mod:`hf_integration.layouts`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hf_integration.attention import Importance, padded_attention
from hf_integration.layouts import Layout
from hf_integration.model_family import ModelFamily
from hf_integration.packing import Packing, pad, segment_max, segment_mean, select_samples, select_tokens
from hf_integration.places import Places

__all__ = ["MaskedLayout"]


class MaskedLayout(Layout):
    """Padded: ``hidden`` stays ``[batch, seq, hidden_size]``, what left is hidden from attention. Differentiable.

    Args:
        family: where the leaves are.
        num_heads: attention heads.
        packing: live tokens of the running samples.
        hidden: embeddings ``[batch, seq, hidden_size]``.
        protected: bool ``[batch, seq]``.
        live: the padding mask, bool ``[batch, seq]``.
        backbone: the model without its head.
        places: where the tokens stand, for a family that asks at every layer.
        soft: tokens are weighted by :meth:`weigh_tokens` instead of dropped.
        retain: keep the last states of dropped tokens.
    """

    def __init__(
        self,
        family: ModelFamily,
        num_heads: int,
        packing: Packing,
        hidden: Tensor,
        protected: Tensor,
        live: Tensor,
        *,
        backbone: nn.Module,
        soft: bool,
        places: Places | None = None,
        retain: bool = False,
    ) -> None:
        super().__init__(family, num_heads, packing, hidden, protected, backbone=backbone, places=places, retain=retain)
        self.live = self.words = live
        self.dropped = hidden
        self.running = torch.ones_like(live[:, 0])
        self.token_weights = live.float() if soft else None

    def attend(self, layer: nn.Module, *, importance: Importance | None) -> Tensor | None:
        """See :meth:`Layout.attend`."""

        def attention(hidden: Tensor, live: Tensor, token_weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
            query, key, value = self.family.query_key_value(layer, hidden)
            bias = None
            if self.places is not None:
                query, key, bias = self.places.prepare(layer, query, key)
            return padded_attention(
                query,
                key,
                value,
                live,
                token_weights,
                num_heads=self.num_heads,
                dropout=self.family.attention_dropout(layer),
                importance=importance,
                bias=bias,
            )

        # Given and not read inside, because they change before a second run.
        self.context, found = self.call(attention, self.hidden, self.live, self.token_weights)
        return None if found is None else self._at_tokens(found)

    def protected_tokens(self) -> Tensor:
        """See :meth:`Layout.protected_tokens`."""
        return self._at_tokens(self.protected).index_fill(0, self.packing.first_tokens, 1)

    def weigh_tokens(self, weights: Tensor) -> None:
        """Multiply the weights of the live tokens by ``weights``, float32 ``[T]``."""
        if self.token_weights is None:
            raise RuntimeError("weigh_tokens needs a layout made with soft=True")
        self.token_weights = self.token_weights * pad(weights, self._tokens())

    def keep_tokens(self, keep: Tensor) -> None:
        """See :meth:`Layout.keep_tokens`."""
        gone = pad(~keep, self._tokens())
        if self.retain:
            self.dropped = torch.where(gone[..., None], self.hidden, self.dropped)
        self.live = self.live & ~gone
        _, self.packing = select_tokens(self.packing, keep)

    def leave(self, stay: Sequence[bool]) -> Tensor:
        """See :meth:`Layout.leave`. The tokens stay live: a row without keys would turn into NaN."""
        places, _, self.packing = select_samples(self.packing, stay)
        self.running = torch.zeros_like(self.running).index_fill(0, self.packing.sample_ids, value=True)
        return places

    def live_states(self) -> Tensor:
        """See :meth:`Layout.live_states`."""
        return self._at_tokens(self.hidden)

    def last_states(self) -> Tensor:
        """See :meth:`Layout.last_states`."""
        return self.final_norm(torch.where(self.live[..., None], self.hidden, self.dropped)[self.words])

    def mean(self, states: Tensor) -> Tensor:
        """See :meth:`Layout.mean`."""
        if self.token_weights is None:
            return segment_mean(states, self.packing)
        samples = torch.split(states, list(self.packing.lengths))
        live = self.token_weights[self._tokens()].to(states.dtype)
        weights = torch.split(live, list(self.packing.lengths))
        pairs = zip(samples, weights, strict=True)
        return torch.stack([torch.matmul(weight, sample) / weight.sum() for sample, weight in pairs])

    def pool(self) -> Tensor:
        """See :meth:`Layout.pool`. What a token adds to the maximum sinks with the logarithm of its weight."""
        if self.token_weights is None:
            return super().pool()
        states, weights = self.final_norm(self.live_states()), self.token_weights[self._tokens()].to(self.hidden.dtype)
        # As in attention: a weight of 0 is removal, and the floor keeps its gradient finite.
        largest = segment_max(states + weights.clamp_min(1e-6).log()[:, None], self.packing)
        return torch.cat((states[self.packing.first_tokens], self.mean(states), largest), dim=1)

    def last_layer(self, layer: nn.Module) -> Tensor:
        """See :meth:`Layout.last_layer`."""
        self.attend(layer, importance=None)
        self.transform(layer)
        return self.live_states()[self.packing.first_tokens]

    def _at_tokens(self, values: Tensor) -> Tensor:
        """Return what ``values``, ``[batch, seq, ...]``, are at the live tokens, ``[T, ...]``."""
        return values[self._tokens()]

    def _tokens(self) -> Tensor:
        return self.live & self.running[:, None]
