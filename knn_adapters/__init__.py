"""Quantized metrics under FAISS, hnswlib and Annoy indexes; works with numpy alone until an index is wrapped."""

from knn_adapters._core import simd_level
from knn_adapters.evaluation import IndexStats, estimate_recall, stats
from knn_adapters.exporting import export
from knn_adapters.patching import patch, patched, unpatch
from knn_adapters.quantizer import Quantizer
from knn_adapters.settings import configure
from knn_adapters.wrapping import IndexAdapter, WrapOptions, wrap

__all__ = [
    "IndexAdapter",
    "IndexStats",
    "Quantizer",
    "WrapOptions",
    "configure",
    "estimate_recall",
    "export",
    "patch",
    "patched",
    "simd_level",
    "stats",
    "unpatch",
    "wrap",
]
