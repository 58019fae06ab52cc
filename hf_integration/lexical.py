"""What the words of a text say by themselves: a linear classifier on its bag of tokens.

It needs no layer, not even the embeddings: one look-up for each token. Topics are mostly told by words, so its logits
count at every exit (``config.lexical_exits``, :class:`~hf_integration.early_exit.InternalClassifiers`). Solved for
on the training documents of Reuters R8, it alone is right for 97.2 % of the test documents, and for 99.9 % of the surer
half of them; six fine-tuned layers are for 97.9 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_integration.compatibility import init
from hf_integration.packing import Packing

__all__ = ["Bags", "LexicalClassifier", "make_bags", "token_rarity"]


@dataclass(frozen=True)
class Bags:
    """The different tokens of each text, text after text, with a weight for each.

    Attributes:
        tokens: ids, int64 ``[U]``, ascending within a text.
        weights: float32 ``[U]``; the squares of those of a text add up to 1.
        sizes: different tokens of each text, int64 ``[n]``.
    """

    tokens: Tensor
    weights: Tensor
    sizes: Tensor

    @property
    def offsets(self) -> Tensor:
        """Where each text begins, int64 ``[n]``."""
        return self.sizes.cumsum(0) - self.sizes

    @property
    def texts(self) -> Tensor:
        """Text of each entry, int64 ``[U]``."""
        return torch.repeat_interleave(self.sizes)


def make_bags(token_ids: Tensor, packing: Packing, rarity: Tensor) -> Bags:
    """Count and weigh the tokens of texts: ``log(1 + count) * rarity``, over the length of that vector.

    Args:
        token_ids: int64 ``[T]``, packed.
        packing: which text each is of.
        rarity: of each token of the vocabulary, positive, ``[vocab]``.
    """
    texts, vocabulary = len(packing.lengths), len(rarity)
    if texts == 1:
        # Half as many operations, which one text waits for.
        tokens, counts = torch.unique(token_ids, return_counts=True)
        weights = torch.log1p(counts.float()) * rarity[tokens].float()
        return Bags(tokens, weights / weights.norm(), torch.tensor([len(tokens)], device=tokens.device))
    keys, counts = torch.unique(packing.segment_ids * vocabulary + token_ids, return_counts=True)
    owners, tokens = keys.div(vocabulary, rounding_mode="floor"), keys % vocabulary
    weights = torch.log1p(counts.float()) * rarity[tokens].float()
    squares = torch.zeros(texts, device=weights.device).index_add_(0, owners, weights.square())
    return Bags(tokens, weights / squares.sqrt()[owners], torch.bincount(owners, minlength=texts))


def token_rarity(token_ids: Tensor, packing: Packing, vocabulary: int) -> Tensor:
    """Return the smoothed inverse document frequency of every token, ``1 + log((1 + texts) / (1 + texts with it))``.

    Args:
        token_ids: int64 ``[T]``, packed.
        packing: which text each is of.
        vocabulary: how many tokens there are.

    Returns:
        float32 ``[vocabulary]``, at least 1.
    """
    different = torch.unique(packing.segment_ids * vocabulary + token_ids) % vocabulary
    found = torch.bincount(different, minlength=vocabulary)
    return 1 + ((1 + len(packing.lengths)) / (1 + found)).log()


class LexicalClassifier(nn.Module):
    """Logits from the tokens of a text, without their order.

    Buffers, because they are solved for (:mod:`hf_integration.lexical_training`) and not trained by steps.

    Args:
        vocabulary: number of token ids.
        labels: numbers that it gives.
    """

    table: Tensor
    bias: Tensor
    rarity: Tensor

    def __init__(self, vocabulary: int, labels: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(vocabulary, labels))
        self.register_buffer("bias", torch.zeros(labels))
        self.register_buffer("rarity", torch.ones(vocabulary))

    def reset_parameters(self) -> None:
        """Say nothing: all logits are 0."""
        init.zeros_(self.table)
        init.zeros_(self.bias)
        init.ones_(self.rarity)

    def is_trained(self) -> bool:
        """Tell whether it has left its neutral start."""
        return bool(self.table.any())

    def forward(self, token_ids: Tensor, packing: Packing) -> Tensor:
        """Return logits ``[texts, labels]`` of packed tokens; see :func:`make_bags` for the arguments."""
        bags = make_bags(token_ids, packing, self.rarity)
        return self.of_bags(bags, self.table) + self.bias

    def of_padded(self, token_ids: Tensor, live: Tensor) -> Tensor:
        """Return the same logits, ``[batch, labels]``, from a padded batch and without a number of different tokens.

        For graphs of fixed shape; takes ``batch * seq * seq`` comparisons.

        Args:
            token_ids: int64 ``[batch, seq]``.
            live: bool ``[batch, seq]``.
        """
        same = (token_ids[:, :, None] == token_ids[:, None, :]) & live[:, None, :]
        counts = same.sum(2).clamp_min(1).float()
        weights = torch.log1p(counts) * self.rarity[token_ids].float() * live
        # A token that occurs so many times stands for itself in as many parts.
        norm = (weights.square() / counts).sum(1, keepdim=True).sqrt()
        shares = (weights / counts / norm).to(self.table.dtype)
        return torch.einsum("bs,bsl->bl", shares, self.table[token_ids]) + self.bias

    @staticmethod
    def of_bags(bags: Bags, table: Tensor) -> Tensor:
        """Return the weighted sums of the rows of ``table``, ``[n, labels]``."""
        weights = bags.weights.to(table.dtype)
        return functional.embedding_bag(bags.tokens, table, bags.offsets, mode="sum", per_sample_weights=weights)
