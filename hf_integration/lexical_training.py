"""Solving for the table of a lexical classifier: a convex problem, so its solution depends on the data alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hf_integration.lexical import Bags, LexicalClassifier, make_bags, token_rarity
from hf_integration.packing import Packing

__all__ = ["LexicalLoss", "cross_fitted_logits", "fit_lexical", "weigh_texts"]

LexicalLoss = Callable[[Tensor, Tensor], Tensor]
"""Mean loss, scalar, from logits ``[n, labels]`` and the rows (int64 ``[n]``) of the texts that they are of."""

# Weight of the texts against the squares of the table. Of 10, 30 and 100 it is right most often among the texts that
# it is surest of (Reuters R8 and 20 Newsgroups), which are those that leave.
_STRENGTH = 100.0
_ITERATIONS = 100
_FOLDS = 5


def weigh_texts(classifier: LexicalClassifier, token_ids: Tensor, lengths: Tensor) -> Bags:
    """Take the rarities from the training texts and return their bags.

    Args:
        classifier: its rarities are filled in place, on whatever device it is.
        token_ids: int64 ``[T]``, packed, on the host.
        lengths: of the texts, int64 ``[n]``.
    """
    packing = Packing(tuple(lengths.tolist()), torch.arange(len(lengths)))
    rarity = token_rarity(token_ids, packing, len(classifier.rarity))
    classifier.rarity.copy_(rarity)
    return make_bags(token_ids, packing, rarity)


def fit_lexical(classifier: LexicalClassifier, bags: Bags, loss: LexicalLoss) -> None:
    """Solve for table and bias by L-BFGS.

    Args:
        classifier: both are filled in place, on whatever device it is.
        bags: of the training texts, see :func:`weigh_texts`.
        loss: convex in the logits.
    """
    table, bias = _solve(bags, torch.arange(len(bags.sizes)), classifier.table.shape, loss)
    classifier.table.copy_(table)
    classifier.bias.copy_(bias)


def cross_fitted_logits(classifier: LexicalClassifier, bags: Bags, loss: LexicalLoss) -> Tensor:
    """Return for each text the logits of a classifier that was solved for without it, float32 ``[n, labels]``.

    Those of the classifier that has seen a text are surer than it will ever be of a new one: beside them there would be
    nothing left to learn.

    Args:
        classifier: gives the sizes, and stays as it is.
        bags: as for :func:`fit_lexical`.
        loss: as for :func:`fit_lexical`.
    """
    texts = len(bags.sizes)
    folds = torch.arange(texts) % min(_FOLDS, texts)
    found = torch.zeros(texts, classifier.table.shape[1])
    for fold in range(min(_FOLDS, texts)):
        inside = folds == fold
        # A single text has no others to learn from.
        if bool(inside.all()):
            break
        rows = (~inside).nonzero().flatten()
        table, bias = _solve(_some(bags, ~inside), rows, classifier.table.shape, loss)
        found[inside] = classifier.of_bags(_some(bags, inside), table) + bias
    return found


def _some(bags: Bags, chosen: Tensor) -> Bags:
    entries = chosen[bags.texts]
    return Bags(bags.tokens[entries], bags.weights[entries], bags.sizes[chosen])


def _solve(bags: Bags, rows: Tensor, shape: torch.Size, loss: LexicalLoss) -> tuple[Tensor, Tensor]:
    """Return table and bias with the least ``loss + |table|^2 / (2 * strength * n)``."""
    used, columns = torch.unique(bags.tokens, return_inverse=True)
    dense = Bags(columns, bags.weights, bags.sizes)
    by_token = _transposed(dense, len(used))
    weight, bias = torch.zeros(len(used), shape[1]), torch.zeros(shape[1])
    decay = 1 / (_STRENGTH * len(rows))
    solver: Any = torch.optim.LBFGS(
        [weight, bias], max_iter=_ITERATIONS, history_size=10, line_search_fn="strong_wolfe"
    )

    def evaluate() -> float:
        logits = (LexicalClassifier.of_bags(dense, weight) + bias).requires_grad_()
        with torch.enable_grad():
            value = loss(logits, rows)
            (slope,) = torch.autograd.grad(value, logits)
        weight.grad = LexicalClassifier.of_bags(by_token, slope) + decay * weight
        bias.grad = slope.sum(0)
        return float(value.detach()) + 0.5 * decay * float(weight.square().sum())

    with torch.no_grad():
        solver.step(evaluate)
    table = torch.zeros(shape)
    table[used] = weight
    return table, bias


def _transposed(bags: Bags, tokens: int) -> Bags:
    """Return the texts that each token is in, as bags of texts."""
    order = bags.tokens.argsort(stable=True)
    return Bags(bags.texts[order], bags.weights[order], torch.bincount(bags.tokens, minlength=tokens))
