"""One run: build the engines of each group, sweep their knobs, time them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from mp_bench.curves import exact
from mp_bench.data import Data
from mp_bench.engines import Engine
from mp_bench.measuring import Subject, measure, sweep
from mp_bench.ours import built_or_wrapped, wrapped
from mp_bench.plan import PAIRED, peers_of
from mp_plugins import MagicPyramidError

__all__ = ["run_groups"]

# Wall clock, or what the process used of its cores.
_CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_SECONDS, _QUICK_SECONDS = 0.5, 0.15  # of one setting, one by one, in one round


def run_groups(data: Data, given: argparse.Namespace) -> tuple[dict[str, Subject], list[str]]:
    """Return what was measured, by engine name, and what was skipped and why."""
    true = exact(data.base, data.queries, given.k, data.metric)
    subjects: dict[str, Subject] = {}
    skipped: list[str] = []
    for group in given.groups:
        built = _build(group, data, given, skipped)
        for subject in tqdm(built, desc=f"{group}: recall", unit="engine"):
            sweep(subject, data.queries, true)
        for mode in ("one", "batch"):
            timed = [subject for subject in built if mode == "one" or subject.engine.has_batch]
            turns = given.rounds * sum(len(subject.recalls) for subject in timed)
            with tqdm(total=turns, desc=f"{group}: {mode}", unit="setting") as progress:
                seconds = _QUICK_SECONDS if given.quick else _SECONDS
                measure(
                    timed, data.queries, given.k, mode,
                    rounds=given.rounds, seconds=seconds, clock=_CLOCKS[given.clock], advance=progress.update,
                )  # fmt: skip
        subjects |= {subject.engine.name: subject for subject in built}
        for subject in built:
            subject.engine.index = None  # the next group should have the memory
    return subjects, skipped


def _build(group: str, data: Data, given: argparse.Namespace, skipped: list[str]) -> list[Subject]:
    wanted = {word.lower() for word in given.peers} if given.peers else None
    peers = peers_of(group, wanted, data.metric, given.threads)
    names = {peer: ours for ours, peer in PAIRED[group].items()}
    built: list[Subject] = []
    for peer in tqdm(peers, desc=f"{group}: building", unit="engine"):
        seconds = _try(lambda peer=peer: _timed_build(peer, data, _CLOCKS[given.clock]), peer.name, skipped)
        if seconds is None:
            continue
        built.append(Subject(peer, seconds, peer.bytes_a_vector(len(data.base))))
        if peer.name in names:
            made = _try(
                lambda peer=peer, seconds=seconds: _ours(names[peer.name], peer, data, seconds, _CLOCKS[given.clock]),
                names[peer.name],
                skipped,
            )
            if made is not None:
                built.append(Subject(*made, made[0].bytes_a_vector(len(data.base))))
    return built


def _timed_build(engine: Engine, data: Data, clock: Callable[[], float]) -> float:
    started = clock()
    engine.build(data.base)
    return clock() - started


def _ours(name: str, peer: Engine, data: Data, peer_seconds: float, clock: Callable[[], float]) -> tuple[Engine, float]:
    if peer.package == "hnswlib":
        return built_or_wrapped(name, peer, data.base, peer_seconds, clock)
    return wrapped(name, peer, peer_seconds, clock)


def _try(make: Any, name: str, skipped: list[str]) -> Any:
    """Return what ``make`` gives; None, with the reason noted, where a library or a feature of ours is missing."""
    try:
        return make()
    except ImportError as error:
        skipped.append(f"{name}: not available here ({error})")
    except MagicPyramidError as error:
        skipped.append(f"{name}: {error}")
    return None
