"""Which engines meet which, and the targets that the project set itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mp_bench.engines import AnnoyForest, Engine, FaissIndex, Hnswlib
from mp_bench.intel_svs import Svs
from mp_bench.rivals import Usearch, Voyager

__all__ = [
    "CEILINGS",
    "GROUPS",
    "LEVELS",
    "OVERHEAD_MICROSECONDS",
    "PAIRED",
    "TARGETS",
    "Ceiling",
    "Target",
    "peers_of",
]

LEVELS = (0.95, 0.98)

_Make = Callable[[str, str, int], Engine]


def _faiss(kind: str) -> _Make:
    return lambda name, metric, threads: FaissIndex(name, kind, metric, threads)


def _voyager(storage: str) -> _Make:
    return lambda name, metric, threads: Voyager(name, storage, metric, threads)


# Peers by group; those of a group are timed together.
GROUPS: dict[str, dict[str, _Make]] = {
    "graph": {
        "hnswlib": Hnswlib,
        "FAISS HNSWFlat": _faiss("HNSWFlat"),
        "FAISS HNSWSQ8": _faiss("HNSWSQ8"),
        "usearch i8": Usearch,
        "voyager E4M3": _voyager("E4M3"),
        "voyager Float8": _voyager("Float8"),
        "SVS LVQ8": Svs,
    },
    "flat": {"FAISS Flat": _faiss("Flat"), "FAISS SQ8": _faiss("SQ8")},
    "ivf": {"FAISS IVF256 Flat": _faiss("IVF256Flat"), "FAISS IVF256 SQ8": _faiss("IVF256SQ8")},
    "forest": {"Annoy 20 trees": AnnoyForest},
}

# Ours and the peer whose index it is made of.
PAIRED: dict[str, dict[str, str]] = {
    "graph": {
        "ours (hnswlib)": "hnswlib",
        "ours (FAISS HNSWFlat)": "FAISS HNSWFlat",
        "ours (FAISS HNSWSQ8)": "FAISS HNSWSQ8",
    },
    "flat": {"ours (FAISS Flat)": "FAISS Flat", "ours (FAISS SQ8)": "FAISS SQ8"},
    "ivf": {"ours (FAISS IVF256 Flat)": "FAISS IVF256 Flat", "ours (FAISS IVF256 SQ8)": "FAISS IVF256 SQ8"},
    "forest": {"ours (Annoy)": "Annoy 20 trees"},
}


@dataclass(frozen=True)
class Target:
    """Least speed ratio, and largest ratios of size and build time; None where nothing was promised.

    ``levels`` are the recalls at which speeds are compared; none for exhaustive search, which has no knob.
    """

    group: str
    peer: str
    ours: str
    mode: str
    speed: float
    size: float | None = None
    build: float | None = None
    levels: tuple[float, ...] = LEVELS


TARGETS: tuple[Target, ...] = (
    Target("graph", "hnswlib", "ours (hnswlib)", "one", 3.0, 0.36, 0.5),
    Target("graph", "hnswlib", "ours (hnswlib)", "batch", 3.0),
    Target("graph", "FAISS HNSWFlat", "ours (FAISS HNSWFlat)", "one", 3.0, 0.36),
    Target("graph", "FAISS HNSWSQ8", "ours (FAISS HNSWSQ8)", "one", 3.0, 1.0),
    Target("graph", "usearch i8", "ours (hnswlib)", "one", 1.0, 1.0, 1.0),
    Target("graph", "voyager E4M3", "ours (hnswlib)", "one", 1.0, 1.0, 1.0),
    Target("graph", "voyager Float8", "ours (hnswlib)", "one", 1.0, 1.0, 1.0),
    Target("graph", "SVS LVQ8", "ours (hnswlib)", "one", 1.3, 1.0, 1.0),
    Target("graph", "SVS LVQ8", "ours (hnswlib)", "batch", 1.3),
    Target("ivf", "FAISS IVF256 Flat", "ours (FAISS IVF256 Flat)", "one", 4.0),
    Target("ivf", "FAISS IVF256 Flat", "ours (FAISS IVF256 Flat)", "batch", 4.0),
    Target("ivf", "FAISS IVF256 SQ8", "ours (FAISS IVF256 SQ8)", "one", 2.0),
    Target("ivf", "FAISS IVF256 SQ8", "ours (FAISS IVF256 SQ8)", "batch", 2.0),
    Target("flat", "FAISS Flat", "ours (FAISS Flat)", "one", 5.0, 0.25, levels=()),
    Target("flat", "FAISS Flat", "ours (FAISS Flat)", "batch", 3.0, levels=()),
    Target("flat", "FAISS SQ8", "ours (FAISS SQ8)", "one", 3.0, 1.0, levels=()),
    Target("flat", "FAISS SQ8", "ours (FAISS SQ8)", "batch", 30.0, levels=()),
    Target("forest", "Annoy 20 trees", "ours (Annoy)", "one", 4.0, 0.35),
)


@dataclass(frozen=True)
class Ceiling:
    """Least recall of exhaustive search over codes, the highest that any index over them can reach."""

    ours: str
    bits: int
    rescore: str
    recall: float


CEILINGS: tuple[Ceiling, ...] = (
    Ceiling("8 bits", 8, "none", 0.993),
    Ceiling("8 bits, residual level", 8, "residual", 0.999),
    Ceiling("4 bits, residual level", 4, "residual", 0.98),
)

OVERHEAD_MICROSECONDS = 5.0  # that a call may add to that of the compiled core


def peers_of(group: str, wanted: Sequence[str] | None, metric: str, threads: int) -> list[Engine]:
    """Return the peers of ``group``, those whose name holds one of the words ``wanted``, in any case, if given."""
    return [
        make(name, metric, threads)
        for name, make in GROUPS[group].items()
        if wanted is None or any(word.lower() in name.lower() for word in wanted)
    ]
