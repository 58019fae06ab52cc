"""Reading FAISS' structures where they lie, and making the SQ indexes that wrapped indexes are underneath.

FAISS decodes an SQ8 code c as ``vmin + vdiff * (c + 0.5) / 255`` (``faiss/impl/scalar_quantizer``), which is our
``offset + scale * c`` with ``scale = vdiff / 255`` and ``offset = vmin + scale / 2``; SQ4 has 15 for 255 and the even
dimension in the low half of a byte, as our packed codes have.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from knn_adapters.quantizer import Quantizer
from mp_plugins import UnsupportedError, argument_error

__all__ = [
    "existing_quantizer", "flat_vectors", "graph_arrays", "metric_name", "scalar_quantizer_index", "set_ranges",
    "stored_codes", "view",
]  # fmt: skip


def view(vector: Any) -> npt.NDArray[Any]:
    """Return the memory of a C++ vector as an array that does not own it: valid while the vector is not reallocated."""
    array: npt.NDArray[Any] = faiss.rev_swig_ptr(vector.data(), vector.size())
    return array


def metric_name(index: Any) -> str:
    """Return ``"l2"`` or ``"ip"``.

    Raises:
        UnsupportedError: any other metric of FAISS.
    """
    names = {faiss.METRIC_L2: "l2", faiss.METRIC_INNER_PRODUCT: "ip"}
    if index.metric_type not in names:
        raise UnsupportedError(
            f"a FAISS index of metric_type {index.metric_type} cannot be wrapped: use METRIC_L2 or METRIC_INNER_PRODUCT"
        )
    return names[index.metric_type]


def flat_vectors(index: Any) -> npt.NDArray[np.float32]:
    """Return the vectors ``(n, d)`` of an ``IndexFlat`` or ``IndexHNSWFlat``, as a view of its memory.

    Raises:
        ArgumentError: the index holds none.
    """
    storage: Any = faiss.downcast_index(index.storage) if isinstance(index, faiss.IndexHNSW) else index
    if not index.ntotal:
        raise argument_error("index", "must hold at least one vector", "ntotal=0", "call add() first")
    vectors: npt.NDArray[np.float32] = faiss.rev_swig_ptr(storage.get_xb(), storage.ntotal * storage.d)
    return vectors.reshape(storage.ntotal, storage.d)


def existing_quantizer(index: Any, metric: str) -> Quantizer:
    """Return the quantizer of the codes that an SQ index holds.

    Raises:
        UnsupportedError: codes of other than 8 bits.
        ArgumentError: the index holds no vectors.
    """
    if not index.ntotal:
        raise argument_error("index", "must hold at least one vector", "ntotal=0", "call train() and add() first")
    storage: Any = faiss.downcast_index(index.storage) if isinstance(index, faiss.IndexHNSW) else index
    stored = storage.sq
    kind, dim, types = stored.qtype, index.d, faiss.ScalarQuantizer
    if kind in (types.QT_8bit, types.QT_8bit_uniform):
        vmin, vdiff = faiss.vector_to_array(stored.trained).astype(np.float64).reshape(2, -1)
        scale, offset = vdiff / 255, vmin + vdiff / 510
    elif kind in (types.QT_8bit_direct, types.QT_8bit_direct_signed):
        scale, offset = np.ones(1), np.full(1, 0.0 if kind == types.QT_8bit_direct else -128.0)
    else:
        raise UnsupportedError(f"FAISS codes of qtype {kind} are not yet supported: use 8 bits, such as QT_8bit")
    steps, starts = (np.broadcast_to(values, (dim,)).astype(np.float32) for values in (scale, offset))
    return Quantizer.from_affine(metric, steps, starts, "as trained by FAISS")


def stored_codes(index: Any) -> npt.NDArray[np.uint8]:
    """Return the codes ``(n, code_size)`` of an ``IndexScalarQuantizer`` or ``IndexHNSWSQ``, as a view."""
    storage: Any = faiss.downcast_index(index.storage) if isinstance(index, faiss.IndexHNSW) else index
    codes: npt.NDArray[np.uint8] = view(storage.codes).reshape(storage.ntotal, storage.code_size)
    return codes


def graph_arrays(hnsw: Any) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return views of ``offsets``, ``neighbors`` and ``cum_nneighbor_per_level`` (``faiss/impl/HNSW.h``)."""
    return view(hnsw.offsets), view(hnsw.neighbors), view(hnsw.cum_nneighbor_per_level)


def scalar_quantizer_index(original: Any, quantizer: Quantizer, codes: npt.NDArray[np.uint8]) -> Any:
    """Return a stock ``IndexScalarQuantizer``, or ``IndexHNSWSQ`` with the original's graph, that holds ``codes``."""
    kind: Any = getattr(faiss.ScalarQuantizer, f"QT_{quantizer.bits}bit{'_uniform' * quantizer.is_uniform}")
    made: Any
    if isinstance(original, faiss.IndexHNSW):
        made = faiss.IndexHNSWSQ(original.d, kind, 32, original.metric_type)
        made.hnsw = original.hnsw  # a copy, efConstruction and efSearch included
        _fill(faiss.downcast_index(made.storage), quantizer, codes)
    else:
        made = faiss.IndexScalarQuantizer(original.d, kind, original.metric_type)
        _fill(made, quantizer, codes)
    made.ntotal = len(codes)
    made.is_trained = True
    made.verbose = original.verbose
    return made


def _fill(storage: Any, quantizer: Quantizer, codes: npt.NDArray[np.uint8]) -> None:
    set_ranges(storage, quantizer)
    faiss.copy_array_to_vector(codes.reshape(-1), storage.codes)
    storage.ntotal = len(codes)


def set_ranges(storage: Any, quantizer: Quantizer) -> None:
    """Make an SQ index, flat or of inverted lists, decode as ``quantizer`` does."""
    size = 1 if quantizer.is_uniform else quantizer.dim
    scale = quantizer.scale[:size].astype(np.float64)
    vmin, vdiff = quantizer.offset[:size] - scale / 2, scale * (2**quantizer.bits - 1)
    faiss.copy_array_to_vector(np.concatenate([vmin, vdiff]).astype(np.float32), storage.sq.trained)
    storage.is_trained = True
