"""Reading FAISS' structures where they lie, and making the SQ indexes that indexes of ours are underneath.

FAISS decodes an SQ8 code c as ``vmin + vdiff * (c + 0.5) / 255`` (``faiss/impl/scalar_quantizer``), which is our
``offset + scale * c`` with ``scale = vdiff / 255`` and ``offset = vmin + scale / 2``; SQ4 has 15 for 255 and the even
dimension in the low half of a byte, as our packed codes have. Truncating, as FAISS does, and rounding to our offset
give the same code but where a value lies half-way between two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from knn_adapters._validation import runtime_error
from knn_adapters.libraries import original
from knn_adapters.quantizer import Quantizer
from mp_plugins import UnsupportedError

__all__ = [
    "code_bits", "existing_quantizer", "flat_vectors", "float_index", "graph_arrays", "half_vectors",
    "holds_floats_by_row", "is_calibrated_by_us", "make_half", "metric_name", "put_codes", "replace_codes",
    "scalar_quantizer_index", "set_ranges", "sq_is_trained", "sq_of", "stock_of", "storage_of", "stored_codes",
    "untrained_error", "view",
]  # fmt: skip

if TYPE_CHECKING:
    import faiss
else:
    faiss = original("faiss")

_FAISS: Any = faiss.ScalarQuantizer
_HNSW_SQ: Any = faiss.IndexHNSWSQ
_PER_DIMENSION = {8: _FAISS.QT_8bit, 4: _FAISS.QT_4bit}
_UNIFORM = {8: _FAISS.QT_8bit_uniform, 4: _FAISS.QT_4bit_uniform}
# Codes without a range of their own, and the value of code 0; the signed ones came with FAISS 1.9.
_DIRECT = {
    getattr(_FAISS, name): low
    for name, low in (("QT_8bit_direct", 0.0), ("QT_8bit_direct_signed", -128.0))
    if hasattr(_FAISS, name)
}

_Codes = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float32]


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


def stock_of(index: Any) -> Any:
    """Return ``index`` as FAISS' own class, whatever Python class shows it: the same C++ object, not owned."""
    return faiss.downcast_index(index)


def storage_of(index: Any) -> Any:
    """Return what holds the codes or vectors, as FAISS' own class: the storage of a graph, else ``index`` itself."""
    return stock_of(index.storage if isinstance(index, faiss.IndexHNSW) else index)


def holds_floats_by_row(index: Any) -> bool:
    """Whether ``index`` is a flat index or a graph over ``float32`` vectors."""
    return isinstance(storage_of(index), faiss.IndexFlat)


def sq_of(index: Any) -> Any:
    """Return the ``ScalarQuantizer`` of an SQ index of any kind."""
    return storage_of(index).sq


def sq_is_trained(index: Any) -> bool:
    """Whether the codes of an SQ index have a range, or need none."""
    stored = sq_of(index)
    return bool(stored.qtype in _DIRECT or stored.trained.size())


def flat_vectors(index: Any) -> _Floats:
    """Return the vectors ``(n, d)`` of an ``IndexFlat`` or ``IndexHNSWFlat``, as a view of its memory."""
    storage = storage_of(index)
    if not storage.ntotal:
        return np.empty((0, storage.d), np.float32)
    vectors: _Floats = faiss.rev_swig_ptr(storage.get_xb(), storage.ntotal * storage.d)
    return vectors.reshape(storage.ntotal, storage.d)


def code_bits(qtype: int) -> int:
    """Return the bits of codes that our kernels read.

    Raises:
        UnsupportedError: another kind of codes.
    """
    for bits in (8, 4):
        if qtype in (_PER_DIMENSION[bits], _UNIFORM[bits]):
            return bits
    if qtype in _DIRECT:
        return 8
    raise UnsupportedError(f"FAISS codes of qtype {qtype} cannot be searched by ours: use 8 or 4 bits, such as QT_8bit")


def is_calibrated_by_us(stored: Any) -> bool:
    """Whether training ``stored``, a ``ScalarQuantizer``, is ours: a range a dimension, and nothing special asked."""
    return stored.qtype in _PER_DIMENSION.values() and stored.rangestat == _FAISS.RS_minmax and not stored.rangestat_arg


def existing_quantizer(index: Any, metric: str) -> Quantizer:
    """Return the quantizer of the codes that a trained SQ index holds.

    Raises:
        UnsupportedError: codes of other than 8 or 4 bits.
    """
    stored, dim = sq_of(index), index.d
    bits = code_bits(stored.qtype)
    if stored.qtype in _DIRECT:
        scale, offset = np.ones(1), np.full(1, _DIRECT[stored.qtype])
    else:
        vmin, vdiff = faiss.vector_to_array(stored.trained).astype(np.float64).reshape(2, -1)
        scale = vdiff / (2**bits - 1)
        offset = vmin + scale / 2
    steps, starts = (np.broadcast_to(values, (dim,)).astype(np.float32) for values in (scale, offset))
    return Quantizer.from_affine(metric, steps, starts, "as trained by FAISS", bits=bits)


def untrained_error(kind: str) -> Exception:
    """Return the error for an index of class ``kind`` that must be trained first, in FAISS' words and ours."""
    return runtime_error(
        "Error: 'is_trained' failed", "index", "must be trained", f"an untrained {kind}", "call train() first"
    )


def stored_codes(index: Any) -> _Codes:
    """Return the codes ``(n, code_size)`` of an ``IndexScalarQuantizer`` or ``IndexHNSWSQ``, as a view."""
    storage = storage_of(index)
    if not storage.ntotal:
        return np.empty((0, storage.code_size), np.uint8)
    codes: _Codes = view(storage.codes).reshape(storage.ntotal, storage.code_size)
    return codes


def half_vectors(index: Any) -> _Floats:
    """Return the vectors ``(n, d)`` of an SQ index whose codes are of 16 bits."""
    return stored_codes(index).view(np.float16).astype(np.float32)


def graph_arrays(hnsw: Any) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return views of ``offsets``, ``neighbors`` and ``cum_nneighbor_per_level`` (``faiss/impl/HNSW.h``)."""
    return view(hnsw.offsets), view(hnsw.neighbors), view(hnsw.cum_nneighbor_per_level)


def scalar_quantizer_index(original: Any) -> Any:
    """Return a stock ``IndexScalarQuantizer``, or ``IndexHNSWSQ`` with the original's graph, of 16 bits and empty.

    What takes the vectors of ``original``, a flat index or a graph over one, is put in by :func:`put_codes`.
    """
    made: Any
    if isinstance(original, faiss.IndexHNSW):
        made = _HNSW_SQ(original.d, _FAISS.QT_fp16, 32, original.metric_type)
        made.hnsw = original.hnsw  # a copy, efConstruction and efSearch included
    else:
        made = faiss.IndexScalarQuantizer(original.d, _FAISS.QT_fp16, original.metric_type)
    made.verbose = original.verbose
    return made


def float_index(index: Any, vectors: _Floats) -> Any:
    """Return a stock index of the class that ``index``, flat or a graph, stands for, with ``vectors`` ``(n, d)``."""
    made: Any
    if isinstance(index, faiss.IndexHNSW):
        made = faiss.IndexHNSWFlat(index.d, 32, index.metric_type)
        made.hnsw = index.hnsw
        faiss.downcast_index(made.storage).add(vectors)
        made.ntotal = len(vectors)
    else:
        shown = type(index).__bases__[-1]
        made = shown(index.d, index.metric_type) if shown is faiss.IndexFlat else shown(index.d)
        made.add(vectors)
    made.verbose = index.verbose
    return made


def put_codes(index: Any, codes: _Codes, quantizer: Any = None) -> None:
    """Make ``codes`` the codes of an SQ index, flat or a graph of as many nodes: of 16 bits, or of ``quantizer``."""
    storage, stock = storage_of(index), stock_of(index)
    if quantizer is not None:
        set_ranges(index, quantizer, any_kind=True)
    faiss.copy_array_to_vector(codes.reshape(-1), storage.codes)
    storage.ntotal = stock.ntotal = len(codes)
    storage.is_trained = stock.is_trained = True


def make_half(index: Any) -> None:
    """Make the codes of an empty SQ index, flat or a graph, such of 16 bits."""
    storage = storage_of(index)
    storage.sq = _FAISS(storage.d, _FAISS.QT_fp16)
    storage.code_size = storage.sq.code_size


def replace_codes(index: Any, codes: _Codes, quantizer: Any, *, any_kind: bool) -> None:
    """Give the vectors of an SQ index, flat or a graph, other codes of as many bits, those of ``quantizer``."""
    set_ranges(index, quantizer, any_kind=any_kind)
    stored_codes(index)[:] = codes


def set_ranges(index: Any, quantizer: Any, *, any_kind: bool) -> None:
    """Make an SQ index, flat, a graph or of inverted lists, decode as ``quantizer`` does.

    Args:
        index: the index.
        quantizer: trained.
        any_kind: whether the type of its codes may become another one, the one that fits ``quantizer`` best.
    """
    storage, stock = storage_of(index), stock_of(index)
    kind = (_UNIFORM if quantizer.is_uniform else _PER_DIMENSION)[quantizer.bits]
    if any_kind and storage.sq.qtype != kind:
        storage.sq = _FAISS(storage.d, kind)
        storage.code_size = storage.sq.code_size
    size = 1 if storage.sq.qtype in _UNIFORM.values() else quantizer.dim
    scale = quantizer.scale[:size].astype(np.float64)
    vmin, vdiff = quantizer.offset[:size] - scale / 2, scale * (2**quantizer.bits - 1)
    faiss.copy_array_to_vector(np.concatenate([vmin, vdiff]).astype(np.float32), storage.sq.trained)
    storage.is_trained = stock.is_trained = True
