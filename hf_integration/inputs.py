"""The inputs of one forward pass: checked, then laid out for either execution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from hf_integration.layouts import CompactLayout, Layout
from hf_integration.masked_layout import MaskedLayout
from hf_integration.model_family import ModelFamily
from hf_integration.packing import Packing, pack_all, pad, unpad
from hf_integration.places import Places
from hf_integration.static_layout import StaticLayout
from mp_plugins import argument_error

__all__ = ["BatchInputs"]


@dataclass(frozen=True)
class BatchInputs:
    """Inputs of one pass, all padded to ``[batch, seq]``.

    Attributes:
        fields: what the embeddings take: ``input_ids`` int64 ``[batch, seq]`` or ``inputs_embeds``
            ``[batch, seq, width]``, ``position_ids`` and the family's token inputs, int64 ``[batch, seq]``.
        attention_mask: ``[batch, seq]``, non-zero = live; ``None`` = all are.
        static: they pass through a graph of fixed shape, so that nothing can be told by their values.
    """

    fields: dict[str, Tensor]
    attention_mask: Tensor | None
    static: bool = False

    @classmethod
    def checked(cls, family: ModelFamily, config: Any, **given: Tensor | None) -> BatchInputs:
        """Fill in the defaults and check the shapes.

        Args:
            family: tells which inputs there are and what the positions are.
            config: the model's configuration.
            **given: the model's inputs. DistilBERT and RoBERTa checkpoints come with tokenizers that make token types
                all the same, so those that the family has no embeddings for are left out.

        Raises:
            mp_plugins.ArgumentError: a shape is wrong, an id or a position is out of range, or the texts have more
                tokens than the model has positions.
        """
        static = torch.compiler.is_exporting()
        tokens = _tokens(given.get("input_ids"), given.get("inputs_embeds"))
        positions = given.get("position_ids")
        limit = family.max_positions(config)
        if tokens.shape[1] > limit and positions is None:
            raise argument_error(
                "input_ids", f"must have at most {limit} positions", tokens.shape[1], "truncate with the tokenizer"
            )
        if tokens.dim() == 2 and not static:
            _check_range("input_ids", tokens, config.vocab_size, "use the tokenizer of this checkpoint")
        if positions is not None and not static:
            _check_range("position_ids", positions, config.max_position_embeddings, "leave them out for the default")
        zeros = torch.zeros(tokens.shape[:2], dtype=torch.int64, device=tokens.device)
        fields = {name: _filled(name, given.get(name), zeros) for name in family.token_inputs}
        fields["position_ids"] = _filled("position_ids", positions, family.position_ids(config, tokens))
        fields["input_ids" if tokens.dim() == 2 else "inputs_embeds"] = tokens
        mask = given.get("attention_mask")
        return cls(fields, None if mask is None else _filled("attention_mask", mask, zeros), static)

    @cached_property
    def live(self) -> Tensor:
        """The tokens that are no padding, bool ``[batch, seq]``."""
        if self.attention_mask is None:
            return torch.ones_like(self.fields["position_ids"], dtype=torch.bool)
        return self.attention_mask != 0

    @property
    def packing(self) -> Packing:
        """Which live tokens belong to which sample."""
        return self._unpadded[1]

    @property
    def lengths(self) -> Tensor:
        """Live tokens of each sample, int64 ``[batch]``, where the counts are: on the host, or in the graph."""
        return self.live.sum(1) if self.static else self.packing.host_lengths

    def padded(self, values: Tensor) -> Tensor:
        """Return ``values`` of the tokens, ``[T, n]``, as ``[batch, seq, n]`` with zeros at the padding.

        Static ones have that shape already.
        """
        if not self.static:
            return pad(values, self.live)
        return values.masked_fill(~self.live[..., None], 0.0)

    def packed(self, field: Tensor) -> Tensor:
        """Return the values at the live tokens, ``[T, ...]``, of ``[batch, seq, ...]``."""
        return field.flatten(0, 1)[self._unpadded[0]]

    @cached_property
    def _unpadded(self) -> tuple[Tensor | slice, Packing]:
        if self.static:
            return slice(None), pack_all(self.live)
        positions = self.fields["position_ids"]
        if self.attention_mask is None and positions.numel():
            # Nothing to count, and no device to wait for.
            texts, tokens = positions.shape
            return slice(None), Packing((tokens,) * texts, torch.arange(texts, device=positions.device))
        return unpad(self.live)

    def lay_out(
        self,
        family: ModelFamily,
        backbone: nn.Module,
        num_heads: int,
        *,
        compact: bool,
        protected_ids: Sequence[int] = (),
        soft: bool = False,
        retain: bool = False,
    ) -> Layout:
        """Embed the live tokens (``compact``) or all of them.

        Args:
            family: where the leaves are.
            backbone: the model without its head.
            num_heads: attention heads.
            compact: drop the padding before the embeddings.
            protected_ids: tokens of these ids are never pruned; those of ``inputs_embeds`` have none.
            soft: the tokens get weights (not with ``compact``).
            retain: keep the last states of dropped tokens.

        Raises:
            mp_plugins.ArgumentError: a sample has no live token.
        """
        # First, as it refuses samples without a token, of which nothing below could say so.
        packing = self.packing
        protected, compact = self._protected(protected_ids), compact and not self.static
        packed = {name: self.packed(field)[None] for name, field in self.fields.items()} if compact else {}
        hidden = family.embed(backbone, **(packed or self.fields))
        relative = family.relative_positions(backbone, self.fields["position_ids"], hidden)
        places = None
        if relative is not None:
            slots = torch.arange(self.live.shape[1], device=hidden.device)
            slots = self.packed(slots.expand(self.live.shape)) if compact else slots
            positions = packed["position_ids"][0] if compact else self.fields["position_ids"]
            places = Places(relative, slots, positions)
        if not compact:
            kind = StaticLayout if self.static else MaskedLayout
            return kind(
                family,
                num_heads,
                packing,
                hidden,
                protected,
                self.live,
                backbone=backbone,
                places=places,
                soft=soft and not self.static,
                retain=retain,
            )
        return CompactLayout(
            family,
            num_heads,
            packing,
            hidden[0],
            self.packed(protected),
            backbone=backbone,
            places=places,
            retain=retain,
        )

    def _protected(self, ids: Sequence[int]) -> Tensor:
        tokens = self.fields.get("input_ids")
        if tokens is None or not ids:
            return torch.zeros_like(self.fields["position_ids"], dtype=torch.bool)
        if self.static:
            # Formats for graphs have no isin.
            return (tokens[..., None] == torch.tensor(ids, device=tokens.device)).any(-1)
        return torch.isin(tokens, torch.tensor(ids, device=tokens.device))


def _tokens(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
    if input_ids is not None and inputs_embeds is not None:
        raise argument_error("input_ids", "must not be given together with `inputs_embeds`", "both", "pass one of them")
    tokens = inputs_embeds if input_ids is None else input_ids
    if tokens is None:
        raise argument_error("input_ids", "or `inputs_embeds` must be given", None, "pass the tokenizer's output")
    dimensions = 3 if input_ids is None else 2
    if tokens.dim() != dimensions:
        argument, rule = (
            ("inputs_embeds", "[batch, seq, hidden_size]") if input_ids is None else ("input_ids", "[batch, seq]")
        )
        raise argument_error(argument, f"must have the shape {rule}", tuple(tokens.shape), "pass a batch")
    return tokens


def _check_range(argument: str, values: Tensor, end: int, remedy: str) -> None:
    """Check indices into an embedding: beyond it there is an abort without a name on a GPU."""
    if values.numel() == 0:
        return
    low, high = (int(bound) for bound in values.aminmax())
    if low < 0 or high >= end:
        raise argument_error(argument, f"must be from 0 to {end - 1}", f"{low} to {high}", remedy)


def _filled(argument: str, given: Tensor | None, default: Tensor) -> Tensor:
    if given is None:
        return default
    if given.dim() != 2 or given.shape[1] != default.shape[1] or given.shape[0] not in (default.shape[0], 1):
        raise argument_error(
            argument, f"must have the shape {tuple(default.shape)}", tuple(given.shape), "pass one value per token"
        )
    return given.expand(default.shape)
