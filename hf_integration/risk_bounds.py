"""Exact tests of a loss in accuracy, from the answers that two models gave to the same texts.

A text is *harmed* if only the full model is right and *gained* if only the fast model is right. With probabilities
``a`` and ``b`` the accuracy falls by ``a - b``. Counting harm alone would be simpler, but with 5000 texts and half a
point tolerated it allows 16 harmed texts whatever was gained, where the difference allows some 80 of each kind.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["binomial_upper_bound", "loss_p_value", "samples_needed"]

# Cells of the nuisance parameter are this wide, in units of the tolerated loss, but never more than so many.
_CELL_WIDTH = 1 / 25
_MAX_CELLS = 512
_MAX_SAMPLES = 10_000_000
# With fewer harmed texts than this to be expected at the tolerated loss, counting harm alone decides sooner.
_FEW_HARMED = 6


def binomial_upper_bound(successes: int, samples: int, level: float) -> float:
    """Return the Clopper-Pearson upper bound of a probability: too low with a chance of at most ``level``.

    Args:
        successes: out of ``samples`` independent trials.
        samples: at least 1.
        level: in (0, 1).
    """
    if successes >= samples:
        return 1.0
    low, high = successes / samples, 1.0
    # 60 halvings reach the resolution of a double; the upper end is the one that errs on the safe side.
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _binomial_lower_tail(successes, samples, middle) <= level else (middle, high)
    return high


def loss_p_value(harmed: int, gained: int, samples: int, max_loss: float, *, nuisance_level: float) -> float:
    """Return a p-value of the hypothesis that the accuracy falls by more than ``max_loss``.

    With few texts (a choice that must not look at the answers) it is the chance of at most ``harmed`` harmed texts
    at ``a = max_loss``, which is enough because the loss is at most ``a``. Otherwise it weighs gains against harm:
    With ``q = a + b``, the chance of at most ``harmed - gained`` grows with ``b`` and falls with ``a``, so it is
    largest at ``a - b = max_loss``, and over ``q`` in ``[u, v]`` it is at most its value at
    ``a = (u + max_loss) / 2``, ``b = (v - max_loss) / 2``. ``q`` itself is unknown: the largest value over a
    confidence interval for it, plus the chance that the interval misses it, is a valid p-value
    (Berger and Boos 1994, JASA 89, 1012-1016). Nothing is approximated by a normal distribution.

    Args:
        harmed: texts that only the full model answers rightly.
        gained: texts that only the fast model answers rightly.
        samples: all texts, drawn independently.
        max_loss: in (0, 1).
        nuisance_level: chance that the interval for ``q`` misses it; well below the level of the test.
    """
    if samples * max_loss <= _FEW_HARMED:
        return _binomial_lower_tail(harmed, samples, max_loss)
    highest = binomial_upper_bound(harmed + gained, samples, nuisance_level)
    if highest <= max_loss:
        # The accuracy cannot fall by more than the share of texts that are answered differently.
        return nuisance_level
    cells = min(_MAX_CELLS, math.ceil((highest - max_loss) / (max_loss * _CELL_WIDTH)))
    edges = torch.linspace(max_loss, highest, cells + 1, dtype=torch.float64)
    tails = _difference_lower_tail((edges[:-1] + max_loss) / 2, (edges[1:] - max_loss) / 2, samples, harmed - gained)
    return min(1.0, float(tails.max()) + nuisance_level)


def samples_needed(
    max_loss: float, level: float, *, nuisance_level: float, harm_rate: float = 0.0, gain_rate: float = 0.0
) -> int | None:
    """Return about how many texts it takes to show that the loss is below ``max_loss``.

    Args:
        max_loss: in (0, 1).
        level: of the test, 1 - confidence.
        nuisance_level: as for :func:`loss_p_value`.
        harm_rate: share of harmed texts that is expected; with none of either kind the result is the fewest texts
            that can ever do.
        gain_rate: share of gained texts that is expected.

    Returns:
        ``None`` if no number is enough, or only one beyond ten million.
    """
    if harm_rate - gain_rate >= max_loss:
        return None

    def enough(samples: int) -> bool:
        # Rounded against the claim.
        harmed, gained = math.ceil(harm_rate * samples), math.floor(gain_rate * samples)
        return loss_p_value(harmed, gained, samples, max_loss, nuisance_level=nuisance_level) <= level

    high = 1
    while not enough(high):
        high *= 2
        if high > _MAX_SAMPLES:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _binomial_lower_tail(successes: int, samples: int, probability: float) -> float:
    """Return P(X <= successes) for X ~ Binomial(samples, probability), 0 < probability <= 1."""
    if probability >= 1:
        return float(successes >= samples)
    counts = torch.arange(successes + 1, dtype=torch.float64)
    rest = samples - counts
    choices = math.lgamma(samples + 1) - torch.lgamma(counts + 1) - torch.lgamma(rest + 1)
    return float((choices + counts * math.log(probability) + rest * math.log1p(-probability)).exp().sum())


def _difference_lower_tail(a: Tensor, b: Tensor, samples: int, difference: int) -> Tensor:
    """Return P(A - B <= difference) for trinomial counts (A, B, rest) with each pair of probabilities.

    The generating function ``(1 - a - b + a z + b / z) ** samples`` at the roots of unity is the discrete Fourier
    transform of the distribution.

    Args:
        a: float64 ``[cells]``.
        b: float64 ``[cells]``.
        samples: number of trials.
        difference: may be negative.

    Returns:
        float64 ``[cells]``, exact to about 1e-12.
    """
    expected = samples * float((a + b).max())
    # Counts beyond this have a chance below 1e-16 (Bernstein's inequality), so the transform does not wrap around.
    reach = min(samples, math.ceil(expected + 12 * math.sqrt(expected) + 60))
    if difference < -reach:
        return torch.zeros_like(a)
    size = 2 ** math.ceil(math.log2(2 * reach + 2))
    roots = torch.exp(-2j * math.pi * torch.arange(size, dtype=torch.float64) / size)
    transform = (1 - a - b)[:, None] + a[:, None] * roots + b[:, None] * roots.conj()
    # Negative differences lie at the end; rolled, the distribution starts at -size / 2.
    masses = torch.fft.ifft(transform**samples).real.roll(size // 2, dims=1)
    tails: Tensor = masses[:, : size // 2 + min(difference, reach) + 1].sum(1).clamp(0, 1)
    return tails
