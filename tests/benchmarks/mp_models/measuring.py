"""Seconds of several contenders in interleaved rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from mp_models.contenders import Contender
from mp_models.tasks import Rows

__all__ = ["Timing", "time_in_turns"]


@dataclass(frozen=True)
class Timing:
    """Seconds that one contender took for all documents, by round."""

    documents: int
    rounds: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """Their median."""
        return statistics.median(self.rounds)

    @property
    def speed(self) -> float:
        """Documents a second, by the median."""
        return self.documents / self.seconds


def time_in_turns(
    contenders: Sequence[Contender], rows: Rows, batch_size: int, *, rounds: int, title: str
) -> dict[str, Timing]:
    """Time every contender over all of ``rows``, one after the other in each round, by the wall clock.

    What else the machine does meets all alike. One batch of each, of the longest documents, runs before the clock
    starts.
    """
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    longest = sorted(rows, key=lambda row: -len(row["input_ids"]))[:batch_size]
    turns = rounds * len(contenders)
    with torch.inference_mode(), tqdm(total=turns, desc=title, unit="run") as progress:
        for contender in contenders:
            _exhaust(contender, longest, batch_size)
        for _ in range(rounds):
            for contender in contenders:
                started = time.perf_counter()
                _exhaust(contender, rows, batch_size)
                seconds[contender.name].append(time.perf_counter() - started)
                progress.update()
    return {name: Timing(len(rows), tuple(values)) for name, values in seconds.items()}


def _exhaust(contender: Contender, rows: Rows, batch_size: int) -> None:
    for _ in contender.run(rows, batch_size):
        pass
