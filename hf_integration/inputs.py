"""The inputs of one forward pass: checked, then laid out for either execution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hf_integration.families import ModelFamily
from hf_integration.layouts import CompactLayout, Layout, MaskedLayout
from hf_integration.packing import unpad
from mp_plugins import argument_error

__all__ = ["BatchInputs"]


@dataclass(frozen=True)
class BatchInputs:
    """Inputs of BERT, all padded to ``[batch, seq]``.

    Attributes:
        tokens: ids int64 ``[batch, seq]``, or embeddings ``[batch, seq, hidden_size]``.
        attention_mask: ``[batch, seq]``, non-zero = live.
        token_type_ids: int64 ``[batch, seq]``.
        position_ids: int64 ``[batch, seq]``.
    """

    tokens: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor
    position_ids: Tensor

    @classmethod
    def checked(
        cls,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        *,
        max_positions: int,
    ) -> BatchInputs:
        """Fill in the defaults and check the shapes.

        Raises:
            mp_plugins.ArgumentError: a shape is wrong, or the texts have more than ``max_positions`` tokens.
        """
        tokens = _tokens(input_ids, inputs_embeds)
        batch, seq = tokens.shape[:2]
        if seq > max_positions and position_ids is None:
            raise argument_error(
                "input_ids", f"must have at most {max_positions} positions", seq, "truncate with the tokenizer"
            )
        indices = torch.arange(seq, device=tokens.device).expand(batch, seq)
        return cls(
            tokens,
            _filled("attention_mask", attention_mask, torch.ones_like(indices)),
            _filled("token_type_ids", token_type_ids, torch.zeros_like(indices)),
            _filled("position_ids", position_ids, indices),
        )

    def lay_out(
        self, family: ModelFamily, backbone: nn.Module, num_heads: int, *, compact: bool, soft: bool = False
    ) -> Layout:
        """Embed the live tokens (``compact``) or all of them.

        Args:
            family: where the leaves are.
            backbone: the model without its head.
            num_heads: attention heads.
            compact: drop the padding before the embeddings.
            soft: the tokens get weights (not with ``compact``).
        """
        rows, packing = unpad(self.attention_mask)
        fields = {
            "input_ids" if self.tokens.dim() == 2 else "inputs_embeds": self.tokens,
            "token_type_ids": self.token_type_ids,
            "position_ids": self.position_ids,
        }
        if not compact:
            hidden = family.embed(backbone, **fields)
            return MaskedLayout(family, num_heads, packing, hidden, self.attention_mask != 0, soft=soft)
        packed = {name: field.flatten(0, 1)[rows][None] for name, field in fields.items()}
        return CompactLayout(family, num_heads, packing, family.embed(backbone, **packed)[0])


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


def _filled(argument: str, given: Tensor | None, default: Tensor) -> Tensor:
    if given is None:
        return default
    if given.dim() != 2 or given.shape[1] != default.shape[1] or given.shape[0] not in (1, default.shape[0]):
        raise argument_error(
            argument, f"must have the shape {tuple(default.shape)}", tuple(given.shape), "pass one value per token"
        )
    return given.expand(default.shape)
