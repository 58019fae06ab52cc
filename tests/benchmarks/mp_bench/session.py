"""One group of the run: build its engines, sweep their knobs, time them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from mp_bench.ceiling import ceiling_rows
from mp_bench.curves import Truth
from mp_bench.data import Data
from mp_bench.engines import Engine
from mp_bench.keeping import Build, Shelf
from mp_bench.measuring import Subject, measure, sweep
from mp_bench.ours import built_or_wrapped, wrapped
from mp_bench.overhead import overhead_rows
from mp_bench.plan import PAIRED, peers_of
from mp_bench.rows import Row, target_rows
from mp_plugins import MagicPyramidError

__all__ = ["CLOCKS", "Outcome", "build_pairs", "release", "run_group", "timed_sweep"]

# Wall clock, or what the process used of its cores.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
_SECONDS, _QUICK_SECONDS = 0.5, 0.15  # of one setting, one by one, in one round
_MODES = ("one", "batch")


@dataclass
class Outcome:
    """What a group gave: rows of the table, the engines behind them by name, and what was skipped and why."""

    rows: list[Row] = field(default_factory=list)
    subjects: dict[str, Subject] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def run_group(group: str, data: Data, truth: Truth, given: argparse.Namespace, shelf: Shelf) -> Outcome:
    """Measure a group of the plan, or ``"ceiling"`` or ``"overhead"``; ``truth`` holds the exact neighbours."""
    outcome = Outcome()
    if group == "ceiling":
        outcome.rows = _try(lambda: ceiling_rows(data, truth, given.threads), group, outcome.skipped) or []
    elif group == "overhead":
        outcome.rows = overhead_rows(data, given.k, given.rounds)
    else:
        peers = peers_of(group, given.peers, data.metric, given.threads)
        names = {peer: ours for ours, peer in PAIRED[group].items()}
        built = build_pairs(group, peers, names, data, shelf, outcome.skipped)
        timed_sweep(group, built, data.queries, truth, given)
        outcome.subjects = {subject.engine.name: subject for subject in built}
        outcome.rows = target_rows(outcome.subjects)
        release(built)
    return outcome


def build_pairs(
    title: str, peers: Sequence[Engine], names: dict[str, str], data: Data, shelf: Shelf, skipped: list[str]
) -> list[Subject]:
    """Build each peer and, where ``names`` has one for it, ours; note in ``skipped`` what is missing."""
    built: list[Subject] = []
    for peer in tqdm(peers, desc=f"{title}: building", unit="engine"):
        build = _try(lambda peer=peer: shelf.build(peer, data), peer.name, skipped)
        if build is None:
            continue
        built.append(Subject(peer, build.seconds, peer.bytes_a_vector(len(data.base)), built_at=build.built_at))
        ours = names.get(peer.name)
        if ours is not None:
            made = _try(lambda peer=peer, ours=ours, build=build: _ours(ours, peer, data, build, shelf), ours, skipped)
            if made is not None:
                built.append(Subject(*made, made[0].bytes_a_vector(len(data.base))))
    return built


def timed_sweep(
    title: str,
    built: list[Subject],
    queries: npt.NDArray[np.float32],
    truth: Truth,
    given: argparse.Namespace,
    modes: Sequence[str] = _MODES,
) -> None:
    """Find the recall of every setting of every engine, then time those worth it in interleaved rounds."""
    for subject in tqdm(built, desc=f"{title}: recall", unit="engine"):
        sweep(subject, queries, truth)
    for mode in modes:
        timed = [subject for subject in built if mode == "one" or subject.engine.has_batch]
        turns = given.rounds * sum(len(subject.recalls) for subject in timed)
        with tqdm(total=turns, desc=f"{title}: {mode}", unit="setting") as progress:
            measure(
                timed, queries, truth.k, mode,
                rounds=given.rounds, seconds=_QUICK_SECONDS if given.quick else _SECONDS,
                clock=CLOCKS[given.clock], advance=progress.update,
            )  # fmt: skip


def release(built: list[Subject]) -> None:
    """Drop the indexes: the next group should have the memory."""
    for subject in built:
        subject.engine.index = None


def _ours(name: str, peer: Engine, data: Data, build: Build, shelf: Shelf) -> tuple[Engine, float]:
    if peer.package == "hnswlib":
        return built_or_wrapped(name, peer, data.base, build.seconds, shelf.clock)
    return wrapped(name, peer, build.seconds, shelf.clock)


def _try(make: Callable[[], Any], name: str, skipped: list[str]) -> Any:
    """Return what ``make`` gives; None, with the reason noted, where a library or a feature of ours is missing."""
    try:
        return make()
    except ImportError as error:
        skipped.append(f"{name}: not available here ({error})")
    except MagicPyramidError as error:
        skipped.append(f"{name}: {error}")
    return None
