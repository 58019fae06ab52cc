"""ModernBERT: layers that norm their input, rotated positions, and windows of attention in most layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_integration import compatibility
from hf_integration.attention import ScoreBias
from hf_integration.model_family import ModelFamily, Pooling, RelativePositions
from mp_plugins import UnsupportedError

__all__ = ["ModernBertFamily"]


class ModernBertFamily(ModelFamily):
    """ModernBERT. Windows are of the tokens there were at the start: pruning does not bring far tokens into one."""

    feed_forward_matrices = 3
    fused_projections = True
    dense_token_heads = True

    def check(self, config: Any) -> None:
        """See :meth:`ModelFamily.check`."""
        kinds = compatibility.rotary_kinds(config)
        if changing := kinds & {"dynamic", "longrope"}:
            raise UnsupportedError(
                f"Magic Pyramid supports rotated positions that are the same in every batch, got rope_type="
                f"{sorted(changing)[0]!r}: it follows the longest text of a batch. Use 'default', 'linear' or 'yarn'"
            )

    def pooling(self, config: Any) -> Pooling:
        """See :meth:`ModelFamily.pooling`."""
        return "mean" if config.classifier_pooling == "mean" else "first"

    def relative_positions(self, backbone: Any, position_ids: Tensor, like: Tensor) -> RelativePositions:
        """See :meth:`ModelFamily.relative_positions`."""
        return _RotatedWindows(backbone, position_ids, like)

    def embed(self, backbone: Any, **inputs: Tensor) -> Tensor:
        """See :meth:`ModelFamily.embed`."""
        # Positions are not embedded.
        tokens = {name: given for name, given in inputs.items() if name != "position_ids"}
        embedded: Tensor = backbone.embeddings(**tokens)
        return embedded

    def layers(self, backbone: Any) -> Sequence[nn.Module]:
        """See :meth:`ModelFamily.layers`."""
        return list(backbone.layers)

    def query(self, layer: Any, hidden: Tensor) -> Tensor:
        """See :meth:`ModelFamily.query`."""
        return self.query_key_value(layer, hidden)[0]

    def key_value(self, layer: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`ModelFamily.key_value`."""
        return self.query_key_value(layer, hidden)[1:]

    def query_key_value(self, layer: Any, hidden: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`ModelFamily.query_key_value`."""
        query, key, value = layer.attn.Wqkv(layer.attn_norm(hidden)).chunk(3, dim=-1)
        return query if rows is None else query.index_select(0, rows), key, value

    def attention_dropout(self, layer: Any) -> float:
        """See :meth:`ModelFamily.attention_dropout`."""
        return float(layer.attn.attention_dropout) if layer.training else 0.0

    def attention_output(self, layer: Any, context: Tensor, hidden: Tensor) -> Tensor:
        """See :meth:`ModelFamily.attention_output`."""
        output: Tensor = hidden + layer.attn.out_drop(layer.attn.Wo(context))
        return output

    def feed_forward(self, layer: Any, hidden: Tensor) -> Tensor:
        """See :meth:`ModelFamily.feed_forward`."""
        output: Tensor = hidden + layer.mlp(layer.mlp_norm(hidden))
        return output

    def final_norm(self, backbone: Any, states: Tensor) -> Tensor:
        """See :meth:`ModelFamily.final_norm`."""
        normed: Tensor = backbone.final_norm(states)
        return normed

    def classify(self, model: Any, first: Tensor) -> Tensor:
        """See :meth:`ModelFamily.classify`."""
        logits: Tensor = model.classifier(model.drop(model.head(first)))
        return logits

    def classify_tokens(self, model: Any, states: Tensor) -> Tensor:
        """See :meth:`ModelFamily.classify_tokens`."""
        return self.classify(model, states)

    def score_spans(self, model: Any, states: Tensor) -> Tensor:
        """See :meth:`ModelFamily.score_spans`."""
        return self.classify(model, states)


class _RotatedWindows(RelativePositions):
    """ModernBERT's: queries and keys turn by their position ids, and local layers hide far tokens from each other."""

    def __init__(self, backbone: Any, position_ids: Tensor, like: Tensor) -> None:
        self.backbone, self.like = backbone, like
        self.heads = backbone.config.num_attention_heads
        # Half of the window; a text that it holds whole needs no mask.
        self.window = int(backbone.config.local_attention) // 2
        # A graph of fixed shape is for texts of any length, and cannot ask for the last position.
        static = torch.compiler.is_exporting()
        self.masks = static or position_ids.shape[1] - 1 > self.window
        end = backbone.config.max_position_embeddings if static else int(position_ids.max()) + 1
        self.positions = torch.arange(end, device=position_ids.device)[None]
        self.tables: dict[bool, tuple[Tensor, Tensor]] = {}

    def place_queries(self, layer: nn.Module, queries: Tensor, positions: Tensor) -> Tensor:
        """See :meth:`RelativePositions.place_queries`."""
        cosine, sine = (table[positions].unsqueeze(-2) for table in self._table(layer))
        states = queries.view(*queries.shape[:-1], self.heads, -1).float()
        left, right = states.chunk(2, dim=-1)
        turned: Tensor = states * cosine + torch.cat((-right, left), dim=-1) * sine
        return turned.flatten(-2).to(queries.dtype)

    def place_keys(self, layer: nn.Module, keys: Tensor, positions: Tensor) -> Tensor:
        """See :meth:`RelativePositions.place_keys`."""
        return self.place_queries(layer, keys, positions)

    def score_bias(self, layer: nn.Module) -> ScoreBias | None:
        """See :meth:`RelativePositions.score_bias`."""
        return self._hide_far if self.masks and compatibility.attends_locally(layer) else None

    def _hide_far(self, query: Tensor, key: Tensor, query_slots: Tensor, key_slots: Tensor) -> Tensor:
        far = (query_slots[..., :, None] - key_slots[..., None, :]).abs() > self.window
        hidden = torch.zeros_like(far, dtype=query.dtype).masked_fill(far, torch.finfo(query.dtype).min)
        return hidden.unsqueeze(-3)

    def _table(self, layer: nn.Module) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of every position, ``[positions, head_dim]`` each, for the layer's kind."""
        kind = compatibility.attends_locally(layer)
        if kind not in self.tables:
            cosine, sine = compatibility.rotary_table(self.backbone, layer, self.like, self.positions)
            self.tables[kind] = cosine[0], sine[0]
        return self.tables[kind]
