"""Peers' indexes on disk, with the time that building them took, so that a later run need not build them again."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from mp_bench.data import Data
from mp_bench.engines import Engine
from mp_bench.machine import load_average, processor

__all__ = ["Build", "Shelf"]

_DISTRIBUTIONS = {"faiss": "faiss-cpu"}


@dataclass(frozen=True)
class Build:
    """Seconds that a build took; ``built_at`` is empty for one of this run. ``load`` is the machine's, afterwards."""

    seconds: float
    built_at: str = ""
    load: float | None = None


class Shelf:
    """A folder of indexes, named by what decides about them: vectors, parameters, version, processor and clock.

    Args:
        folder: where they are; None keeps nothing.
        clock: returns seconds.
        clock_name: times of different clocks are not mixed up.
    """

    def __init__(self, folder: Path | None, clock: Callable[[], float], clock_name: str) -> None:
        self._folder, self.clock, self._clock_name = folder, clock, clock_name
        self._fingerprint: tuple[Data, str] | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def build(self, engine: Engine, data: Data) -> Build:
        """Build ``engine`` over ``data``, or load what an earlier run built."""
        if self._folder is None or not engine.suffix:
            return self._built(engine, data)
        path = self._folder / f"{self._name(engine, data)}.{engine.suffix}"
        record = path.with_suffix(".json")
        if record.exists():
            engine.load(path, data.base.shape[1])
            return Build(**json.loads(record.read_text(encoding="utf-8"))["build"])
        build = self._built(engine, data)
        # The record comes last: a run killed here leaves an index that none names.
        engine.save(path)
        facts = {
            "build": asdict(build) | {"built_at": time.strftime("%Y-%m-%d %H:%M"), "load": load_average()},
            "data": data.label, "shape": data.base.shape, "parameters": engine.parameters,
        }  # fmt: skip
        record.write_text(json.dumps(facts, indent=2), encoding="utf-8")
        return build

    def _built(self, engine: Engine, data: Data) -> Build:
        started = self.clock()
        engine.build(data.base)
        return Build(self.clock() - started)

    def _name(self, engine: Engine, data: Data) -> str:
        version = metadata.version(_DISTRIBUTIONS.get(engine.package, engine.package))
        facts = engine.parameters | {"version": version, "processor": processor(), "clock": self._clock_name}
        known = json.dumps(facts, sort_keys=True) + self._fingerprint_of(data)
        slug = re.sub(r"\W+", "-", engine.name.lower())
        return f"{slug}-{len(data.base)}x{data.base.shape[1]}-{hashlib.sha256(known.encode()).hexdigest()[:16]}"

    def _fingerprint_of(self, data: Data) -> str:
        if self._fingerprint is None or self._fingerprint[0] is not data:
            self._fingerprint = data, hashlib.sha256(data.base).hexdigest()
        return self._fingerprint[1]
