"""What an index of the stand-in for hnswlib costs."""

from __future__ import annotations

from knn_adapters import _core
from knn_adapters.coded_graph import CodedGraph
from knn_adapters.elements import Elements
from knn_adapters.evaluation import IndexStats
from knn_adapters.hnswlib_snapshot import KIND
from knn_adapters.hnswlib_state import held_bytes

__all__ = ["figures"]


def figures(elements: Elements) -> IndexStats:
    """Return the figures of ``elements``: of float vectors as long as there is no quantizer."""
    rows, settings = elements.rows, elements.settings
    coded = rows if isinstance(rows, CodedGraph) else None
    count, room = max(rows.count, 1), max(elements.capacity, 1)  # memory of a graph is there for all that fit
    floats = 4.0 * settings.dim
    return IndexStats(
        kind=KIND,
        metric=settings.space,
        n_vectors=rows.count,
        dim=settings.dim,
        bits=coded.quantizer.bits if coded else 32,
        clip=coded.quantizer.clip if coded else "none yet",
        simd_level=_core.simd_level(),
        codes_bytes=coded.graph.nbytes_codes / room if coded else floats,
        graph_bytes=coded.graph.nbytes_graph / room if coded else 0.0,
        other_bytes=8.0 + (elements.labels.nbytes + (coded.nbytes_other if coded else 0)) / count,
        original_bytes=held_bytes(settings.dim, settings.graph.max_m),
        rescore=elements.options.rescore,
        kept_bytes=floats if coded and coded.settings.keep_originals else 0.0,
    )
