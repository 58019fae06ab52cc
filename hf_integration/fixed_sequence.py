"""Fixed-sequence testing: settings in an order chosen beforehand, one after the other until one fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hf_integration.exit_selection import RecordedExits
from hf_integration.risk_bounds import loss_p_value

__all__ = ["NUISANCE_SHARE", "PassedSetting", "largest_passing", "passing_settings"]

NUISANCE_SHARE = 0.2
"""Share of the allowed error that bounding the nuisance parameter may take; from 1/10 to 1/4 it hardly matters."""


@dataclass(frozen=True)
class PassedSetting:
    """A setting that passed its test.

    Attributes:
        keep_scale: strength of pruning.
        exit_threshold: the largest one that passed at this strength.
        p_value: of a larger loss.
        failed: the threshold that ended the walk; ``None`` if all passed.
    """

    keep_scale: float
    exit_threshold: float
    p_value: float
    failed: float | None


def passing_settings(
    records: Mapping[float, RecordedExits], thresholds: Sequence[float], max_loss: float, level: float
) -> list[PassedSetting]:
    """Walk through the thresholds at each strength of pruning, every walk with an equal share of ``level``.

    Args:
        records: what every exit says, by strength of pruning; without a ``reference`` at that of the full model.
        thresholds: from the safest to the fastest.
        max_loss: tolerated loss.
        level: allowed chance that any setting passes that loses more.

    Returns:
        The fastest setting of each walk; none where pruning alone loses too much.
    """
    passed = []
    for keep_scale, recorded in records.items():
        # The full model's own setting loses nothing and needs no test; pruning alone does.
        sequence = thresholds if recorded.reference is None else [0.0, *thresholds]
        threshold, p_value, failed = largest_passing(recorded, sequence, max_loss, level / len(records))
        if failed != 0:
            passed.append(PassedSetting(keep_scale, threshold, p_value, failed))
    return passed


def largest_passing(
    recorded: RecordedExits, thresholds: Iterable[float], max_loss: float, level: float
) -> tuple[float, float, float | None]:
    """Test thresholds in the given order until one fails.

    Args:
        recorded: what every exit says.
        thresholds: from the safest to the fastest.
        max_loss: tolerated loss.
        level: allowed chance of passing a threshold that loses more.

    Returns:
        The last one that passed (0 if none did), its p-value, and the one that failed (``None`` if none did).
    """
    passed, p_value = 0.0, 0.0
    counts, current = (-1, -1), 0.0
    for threshold in thresholds:
        found = recorded.harmed_and_gained(threshold)
        # Neighbours often differ in nothing, and a test costs more than the count.
        if found != counts:
            counts = found
            current = loss_p_value(*counts, len(recorded.labels), max_loss, nuisance_level=level * NUISANCE_SHARE)
        if current > level:
            return passed, p_value, threshold
        passed, p_value = threshold, current
    return passed, p_value, None
