"""What a call of ours costs beside the compiled core: one query, with and without what Python does around it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

import knn_adapters
from mp_bench.data import Data
from mp_bench.engines import AnnoyForest, Engine, FaissIndex, Hnswlib
from mp_bench.plan import OVERHEAD_MICROSECONDS
from mp_bench.rows import Row

__all__ = ["overhead_rows"]

_VECTORS = 2_000  # few: what is sought is microseconds beside a search, not the search
_QUERIES = 200

_Call = Callable[[], object]


class _Recorder:
    """Stands before a compiled searcher, or its method, and keeps the arguments that it is called with."""

    def __init__(self, searcher: Any) -> None:
        self._search = getattr(searcher, "search", searcher)
        self.calls: list[_Call] = []

    def search(self, *arguments: Any, **options: Any) -> Any:
        self.calls.append(lambda: self._search(*arguments, **options))
        return self._search(*arguments, **options)

    __call__ = search


def overhead_rows(data: Data, k: int, rounds: int) -> list[Row]:
    """Return the microseconds that each of our indexes adds to the core's search of one query."""
    engines: tuple[tuple[Engine, int], ...] = (
        (Hnswlib("hnswlib", data.metric), max(10, k)),
        (FaissIndex("FAISS HNSWFlat", "HNSWFlat", data.metric), max(10, k)),
        (FaissIndex("FAISS IVF16 Flat", "IVF16Flat", data.metric), 2),
        (FaissIndex("FAISS Flat", "Flat", data.metric), 0),
        (AnnoyForest("Annoy 20 trees", data.metric), 200),
    )
    made: list[Row] = []
    for engine, effort in tqdm(engines, desc="overhead", unit="engine"):
        try:
            engine.build(data.base[:_VECTORS])
        except ImportError:
            continue
        engine.index = knn_adapters.wrap(engine.index)
        engine.set_effort(effort)
        core, whole = _microseconds(engine, data, k, rounds)
        what = "microseconds added to a call"
        made.append(
            Row(
                "compiled core",
                f"ours ({engine.name})",
                what,
                core,
                whole,
                whole - core,
                OVERHEAD_MICROSECONDS,
                False,
                1,
            )
        )
    return made


def _microseconds(engine: Engine, data: Data, k: int, rounds: int) -> tuple[float, float]:
    """Return the medians of the core's call and of ours, over queries that take turns."""
    prepared = [engine.prepared(query) for query in data.queries[:_QUERIES]]
    engine.one(prepared[0], k)  # the first search sets up what the core reads
    holder, attribute = _searcher_place(engine.index)
    searcher = getattr(holder, attribute)
    recorder = _Recorder(searcher)
    setattr(holder, attribute, recorder)
    for query in prepared:
        engine.one(query, k)
    setattr(holder, attribute, searcher)
    coarse = _coarse_search(engine)
    core: list[float] = []
    whole: list[float] = []
    for _ in range(rounds):
        for query, call in zip(prepared, recorder.calls, strict=True):
            core.append(_seconds(call) + coarse(query))
            whole.append(_seconds(lambda query=query: engine.one(query, k)))
    return 1e6 * statistics.median(core), 1e6 * statistics.median(whole)


def _coarse_search(engine: Engine) -> Callable[[Any], float]:
    """Return what times FAISS' C call that picks the lists of a query; 0 for an index without lists."""
    if not (isinstance(engine, FaissIndex) and engine.kind.startswith("IVF")):
        return lambda _: 0.0
    import faiss

    coarse, n_probe = faiss.downcast_index(engine.index.quantizer), engine.index.nprobe
    distances, ids = np.empty((1, n_probe), np.float32), np.empty((1, n_probe), np.int64)
    outputs = faiss.swig_ptr(distances), faiss.swig_ptr(ids)

    def timed(query: npt.NDArray[np.float32]) -> float:
        pointer = faiss.swig_ptr(query)
        return _seconds(lambda: coarse.search_c(1, pointer, n_probe, *outputs))

    return timed


def _searcher_place(index: Any) -> tuple[Any, str]:
    """Return what holds the compiled searcher of a wrapped index, or its method, and the name of the attribute."""
    if hasattr(index, "_elements"):
        return index._elements.rows, "search"
    if hasattr(index, "_served"):
        return index._served, "_searcher"
    lists = index._lists
    return (index._contents if lists is None else lists), "searcher"


def _seconds(call: _Call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
