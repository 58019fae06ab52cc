"""Attention on packed and on padded tokens, with the importance that it gives to each token.

On packed tokens the samples are taken one after the other, on views of the packed tensors. Gathering them into length
buckets was measured too: on a CPU it costs 1.2 to 3.5 times as much (32 samples of 5 to 128 tokens, 12 heads), because
the copies and the padded rows outweigh the calls that they save. Elsewhere a call costs more than the padding: on CUDA
devices one kernel takes them all (:mod:`hf_integration.varlen`), and where it does not take them many samples go padded
in each call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from hf_integration.attention_dropout import drop_weights
from hf_integration.varlen import suits_varlen, varlen_attention

__all__ = [
    "Importance",
    "PlacedBias",
    "ScoreBias",
    "first_attention",
    "grouped_attention",
    "packed_attention",
    "padded_attention",
    "received_attention",
]

Importance = Literal["received", "first"]
"""How attention tells the importance of tokens: by what all queries give them, or by what [CLS], the first, does.
Tokens that a window hides from [CLS] are infinitely important by the second, because it cannot judge them."""

ScoreBias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""What is added to scores: from queries ``[..., heads, q, head_dim]``, keys and the slots of both, ``[..., q]`` and
``[..., k]``, to ``[..., heads, q, k]`` in the dtype of the queries."""


@dataclass(frozen=True)
class PlacedBias:
    """A bias of the scores, with where its tokens stood before any was pruned.

    Attributes:
        bias: the function.
        query_slots: of the queries, int64 ``[T_q]`` for packed ones and ``[seq]`` for padded ones.
        key_slots: of the keys, likewise.
    """

    bias: ScoreBias
    query_slots: Tensor
    key_slots: Tensor

    def by_sample(self, query_lengths: Sequence[int], lengths: Sequence[int]) -> list[PlacedBias | None]:
        """Return that of each sample of a packed batch."""
        queries = torch.split(self.query_slots, list(query_lengths))
        keys = torch.split(self.key_slots, list(lengths))
        return [PlacedBias(self.bias, own, other) for own, other in zip(queries, keys, strict=True)]

    def of(self, query: Tensor, key: Tensor) -> Tensor:
        """Return the numbers for all queries and keys."""
        return self.bias(query, key, self.query_slots, self.key_slots)


# Scores of one sample held at once, 1 MiB in float32: the allocator keeps so much instead of asking the system for it
# anew each time. For 12 heads with 256 to 512 tokens that is 2.0 to 2.5 times as fast as 256 queries at once.
_BLOCK_SCORES = 2**18

# The same where many samples go in one call: 512 MiB in float32.
_GROUP_SCORES = 2**27


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    *,
    num_heads: int,
    query_lengths: Sequence[int] | None = None,
    dropout: float = 0.0,
    importance: Importance | None = None,
    bias: PlacedBias | None = None,
    begins: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attend within each sample of a packed batch.

    Args:
        query: ``[T_q, heads * head_dim]``.
        key: ``[T, heads * head_dim]``.
        value: as ``key``.
        lengths: keys of each sample.
        num_heads: number of heads.
        query_lengths: queries of each sample; as many as keys by default.
        dropout: probability with which attention weights are dropped.
        importance: also return that of the keys; needs as many queries as keys.
        bias: added to the scores.
        begins: offsets of the queries and of the keys, int32 ``[n + 1]`` each, where they are at hand.

    Returns:
        The context ``[T_q, heads * head_dim]`` and the importance ``r`` float32 ``[T]`` (or ``None``): the mean over
        heads and queries (or of the first query) of the attention that a token receives, times the length, so that it
        is 1 on average.
    """
    query_lengths = query_lengths or lengths
    if dropout == 0 and bias is None and suits_varlen(query, num_heads, importance):
        return varlen_attention(
            query, key, value, query_lengths, lengths, num_heads, begins=begins, importance=importance
        )
    if bias is None and query.device.type != "cpu":
        return grouped_attention(
            query, key, value, query_lengths, lengths, num_heads=num_heads, dropout=dropout, importance=importance
        )
    queries = _split_heads(query, query_lengths, num_heads)
    keys, values = _split_heads(key, lengths, num_heads), _split_heads(value, lengths, num_heads)
    biases = [None] * len(lengths) if bias is None else bias.by_sample(query_lengths, lengths)
    contexts: list[Tensor] = []
    importances: list[Tensor] = []
    for q, k, v, own in zip(queries, keys, values, biases, strict=True):
        mask = None
        if importance == "received" or dropout > 0:
            # SDPA has no fused CPU kernel with dropout; its fallback measured 4 to 8 times slower than this.
            context, received = _attend_in_blocks(q, k, v, dropout, own)
        else:
            mask = None if own is None else own.of(q, k)
            added = None if mask is None else mask[None]
            context = functional.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=added)[0]
        if importance is not None:
            importances.append(received if importance == "received" else _first_row(q.detach(), k.detach(), own, mask))
        contexts.append(context.transpose(0, 1))
    merged = torch.cat(contexts).flatten(1)
    return merged, None if importance is None else torch.cat(importances)


def grouped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_lengths: Sequence[int],
    lengths: Sequence[int],
    *,
    num_heads: int,
    dropout: float = 0.0,
    importance: Importance | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attend within each sample of a packed batch, with as many samples padded in a call as memory should hold.

    Arguments and result as of :func:`packed_attention`.
    """
    size = max(1, _GROUP_SCORES // (num_heads * max(query_lengths) * max(lengths)))
    contexts: list[Tensor] = []
    importances: list[Tensor] = []
    first_query = first_key = 0
    for start in range(0, len(lengths), size):
        queries, keys = query_lengths[start : start + size], lengths[start : start + size]
        asking = slice(first_query, first_query + sum(queries))
        asked = slice(first_key, first_key + sum(keys))
        first_query, first_key = asking.stop, asked.stop
        query_slots, key_slots = _slots(queries, query.device), _slots(keys, key.device)
        live = _spread(torch.ones_like(key_slots, dtype=torch.bool), key_slots, keys)
        context, found = padded_attention(
            _spread(query[asking], query_slots, queries),
            _spread(key[asked], key_slots, keys),
            _spread(value[asked], key_slots, keys),
            live,
            None,
            num_heads=num_heads,
            dropout=dropout,
            importance=importance,
        )
        contexts.append(context.flatten(0, 1).index_select(0, query_slots))
        if found is not None:
            # Decisions carry no gradient here: learned thresholds are trained in masked execution.
            importances.append(found.detach().flatten().index_select(0, key_slots))
    return torch.cat(contexts), torch.cat(importances) if importances else None


def _slots(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Return where packed rows go in a padded batch whose first two axes are flattened, int64 ``[T]``."""
    counts = torch.tensor(lengths, device=device)
    owners = torch.repeat_interleave(counts, output_size=sum(lengths))
    gaps = torch.arange(len(lengths), device=device) * max(lengths) - (counts.cumsum(0) - counts)
    return torch.arange(len(owners), device=device) + gaps[owners]


def _spread(packed: Tensor, slots: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return packed rows ``[T, ...]`` as a padded batch ``[n, longest, ...]``, with zeros elsewhere."""
    flat = packed.new_zeros((len(lengths) * max(lengths), *packed.shape[1:]))
    return flat.index_copy(0, slots, packed).view(len(lengths), max(lengths), *packed.shape[1:])


def padded_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    live: Tensor,
    token_weights: Tensor | None,
    *,
    num_heads: int,
    dropout: float = 0.0,
    importance: Importance | None = None,
    bias: PlacedBias | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attend within each sample of a padded batch, differentiably in everything.

    Args:
        query: ``[batch, seq, heads * head_dim]``.
        key: as ``query``.
        value: as ``query``.
        live: keys that there are, bool ``[batch, seq]``.
        token_weights: float32 ``[batch, seq]`` of soft masks, by which keys count less.
        num_heads: number of heads.
        dropout: probability with which attention weights are dropped.
        importance: also return that of the keys.
        bias: added to the scores.

    Returns:
        The context ``[batch, seq, heads * head_dim]`` and the importance ``r`` float32 ``[batch, seq]`` (or ``None``),
        as of :func:`packed_attention`.
    """
    q, k, v = (part.view(*part.shape[:2], num_heads, -1).transpose(1, 2) for part in (query, key, value))
    scaled_query = q * q.shape[-1] ** -0.5
    added = _key_bias(live, token_weights, q.dtype)
    placed = None if bias is None else bias.of(q, k)
    if placed is not None:
        added = added + placed
    query_weights = live if token_weights is None else token_weights
    found = None
    if importance != "received" and token_weights is None and dropout == 0:
        mask = live[:, None, None, :] if bias is None else added
        context = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    else:
        probabilities = torch.softmax(torch.matmul(scaled_query, k.transpose(2, 3)) + added, dim=-1)
        if importance == "received":
            found = received_attention(probabilities, query_weights)
        context = torch.matmul(drop_weights(probabilities, dropout).to(v.dtype), v)
    if importance == "first":
        first = live.long().argmax(1)
        rows = first[:, None, None, None].expand(-1, num_heads, 1, q.shape[3])
        scores = torch.matmul(scaled_query.gather(2, rows), k.transpose(2, 3))
        scores = scores + _key_bias(live, token_weights, q.dtype)
        if placed is not None:
            placed = placed.expand(len(first), *placed.shape[-3:])
            placed = placed.gather(2, first[:, None, None, None].expand(-1, placed.shape[1], 1, placed.shape[3]))
            scores = scores + placed
        found = first_attention(torch.softmax(scores, dim=-1)[:, :, 0], query_weights)
        if placed is not None:
            found = found.masked_fill(_hidden(placed), torch.inf)
    return context.transpose(1, 2).flatten(2), found


def received_attention(probabilities: Tensor, query_weights: Tensor) -> Tensor:
    """Return the importance ``r`` of the tokens of a padded batch.

    Args:
        probabilities: attention ``[batch, heads, seq, seq]``, rows are queries.
        query_weights: weight of each query, ``[batch, seq]``: 1 = live, 0 = absent.

    Returns:
        float32 ``[batch, seq]``; its mean over live tokens is 1.
    """
    mean_of_heads = probabilities.float().mean(1)
    # n * (1/n) * sum over live queries: the length cancels.
    return torch.einsum("bqk,bq->bk", mean_of_heads, query_weights.float())


def first_attention(probabilities: Tensor, query_weights: Tensor) -> Tensor:
    """Return the importance of the tokens of a padded batch to its first ones.

    Args:
        probabilities: attention of the first token of each sample, ``[batch, heads, seq]``.
        query_weights: as for :func:`received_attention`.

    Returns:
        float32 ``[batch, seq]``; its mean over live tokens is 1.
    """
    return probabilities.float().mean(1) * query_weights.float().sum(1, keepdim=True)


def _key_bias(live: Tensor, token_weights: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return what is added to the scores, ``[batch, 1, 1, seq]``: the logarithm of the weight of each key."""
    bias = torch.zeros_like(live, dtype=dtype).masked_fill(~live, torch.finfo(dtype).min)
    if token_weights is not None:
        # log of the weight, so that a weight of 0 is removal; the floor keeps its gradient finite.
        bias = bias + token_weights.clamp_min(1e-6).log().to(dtype)
    return bias[:, None, None, :]


def _split_heads(packed: Tensor, lengths: Sequence[int], num_heads: int) -> tuple[Tensor, ...]:
    heads = packed.view(packed.shape[0], num_heads, -1).transpose(0, 1)
    return torch.split(heads, list(lengths), dim=1)


def _first_row(q: Tensor, k: Tensor, bias: PlacedBias | None, known: Tensor | None) -> Tensor:
    """Return the importance to the first token of one sample, ``[heads, n, head_dim]`` each, as float32 ``[n]``.

    ``known`` is what the bias came to for all queries, if that was asked already.
    """
    scores = torch.matmul(q[:, :1] * q.shape[-1] ** -0.5, k.transpose(1, 2))
    if bias is None:
        return scores[:, 0].softmax(-1).float().mean(0) * k.shape[1]
    placed = known[:, :1] if known is not None else bias.bias(q[:, :1], k, bias.query_slots[:1], bias.key_slots)
    placed = placed.detach()
    importance = (scores + placed)[:, 0].softmax(-1).float().mean(0) * k.shape[1]
    return importance.masked_fill(_hidden(placed), torch.inf)


def _hidden(bias: Tensor) -> Tensor:
    """Return which keys a bias of one query, ``[..., heads, 1, k]``, hides from it, ``[..., k]``."""
    return (bias <= torch.finfo(bias.dtype).min / 2).all(-3).squeeze(-2)


def _attend_in_blocks(
    q: Tensor, k: Tensor, v: Tensor, dropout: float, bias: PlacedBias | None
) -> tuple[Tensor, Tensor]:
    """Attend for one sample, ``[heads, n, head_dim]`` each; the importance is of float32 ``[n]``."""
    scaled_query = q * q.shape[-1] ** -0.5
    contexts: list[Tensor] = []
    received = torch.zeros(k.shape[1], dtype=torch.float32, device=k.device)
    blocks = math.ceil(q.shape[0] * q.shape[1] * k.shape[1] / _BLOCK_SCORES)
    size = math.ceil(q.shape[1] / blocks)
    for start in range(0, q.shape[1], size):
        rows = slice(start, start + size)
        scores = torch.matmul(scaled_query[:, rows], k.transpose(1, 2))
        if bias is not None:
            scores = scores + bias.bias(q[:, rows], k, bias.query_slots[rows], bias.key_slots)
        probabilities = torch.softmax(scores, dim=-1)
        # Decisions carry no gradient here: learned thresholds are trained in masked execution.
        received = received + probabilities.detach().sum((0, 1), dtype=torch.float32)
        weights = drop_weights(probabilities, dropout)
        contexts.append(torch.matmul(weights.to(v.dtype), v))
    # n * (1/n) * sum over queries: the length cancels, only the mean over heads is left to take.
    return torch.cat(contexts, dim=1), received / q.shape[0]
