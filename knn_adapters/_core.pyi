"""Typed stub of the compiled core (sources in ``csrc``).

Shapes: n items, q queries, d dimensions. ``uint8`` codes decode to ``offset + scale * code`` (``float32`` arrays of
length d; fill them with one value for a uniform quantizer). With ``bits=4`` codes are 0..15, packed two a byte, the
even dimension in the low half: ``(n, (d + 1) // 2)`` where ``(n, d)`` is written here; 8 is the default. Every search
returns ``(distances, ids)`` of shape ``(q, k)``, ``float32`` and ``int64``: squared Euclidean distance, ascending, for
``"l2"``; inner product, descending, for ``"ip"``; slots that could not be filled hold id -1 and +inf (``"l2"``) or -inf
(``"ip"``). Searches release the GIL and may run in several threads at once. Arrays given to a constructor are kept
alive and read in place; they must be C-contiguous, and changing them later changes the answers.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

# Ids that may be results of a search. A boolean array with an entry an id, a bitmap (``uint8``, eight ids a byte from
# the lowest bit on), an array of ids, a range of step 1, or a callable that is asked for candidates (slower: it takes
# the GIL, from several threads if the search has several; an answer holds for the whole call). Exhaustive searches
# return what they would return if nothing else were there. How graphs and forests are walked does not depend on the
# filter, but they go on until they have seen ``ef`` or ``search_k`` that pass, and where an array or a range lets few
# pass, all of those are scored without a walk: faster, and exact.
IdFilter: TypeAlias = (
    npt.NDArray[np.bool_] | npt.NDArray[np.uint8] | npt.NDArray[np.int64] | range | Callable[[int], bool] | None
)

def simd_level() -> str:
    """Return the level in use, ``MP_SIMD_LEVEL`` if that is set, else the last of :func:`simd_levels`."""

def simd_levels() -> list[str]:
    """Return every level that this machine runs, slowest first.

    ``"serial"``; on x86 ``"avx2"``, ``"avxvnni"``, ``"avx512vnni"``, ``"amx"``; on ARM ``"neondot"``, ``"neoni8mm"``.
    """

def dot_u8s8(
    codes: npt.NDArray[np.uint8], query: npt.NDArray[np.int8], level: str = ..., run: bool = ...
) -> npt.NDArray[np.int32]:
    """Return the n integer dot products of codes ``(n, d)`` with one query ``(d,)``."""

def dot_u4s8(
    codes: npt.NDArray[np.uint8], query: npt.NDArray[np.int8], level: str = ..., run: bool = ...
) -> npt.NDArray[np.int32]:
    """Return the n integer dot products of packed codes ``(n, (d + 1) // 2)`` with one query ``(d,)``."""

def encode(
    vectors: npt.NDArray[np.float32],
    scale: npt.NDArray[np.float32],
    offset: npt.NDArray[np.float32],
    bits: int = ...,
    feedback: npt.NDArray[np.uint16] | None = ...,
    level: str = ...,
    num_threads: int = ...,
) -> npt.NDArray[np.uint8]:
    """Return codes: ``round((x - offset) / scale)`` clamped to 0..255 or 0..15; 0 where ``scale`` is 0.

    With ``feedback``, ``(d * (d - 1) / 2,)`` in bfloat16, later dimensions make up for the errors of earlier ones;
    that takes threads, every core by default.
    """

def decode(
    codes: npt.NDArray[np.uint8], scale: npt.NDArray[np.float32], offset: npt.NDArray[np.float32], bits: int = ...
) -> npt.NDArray[np.float32]:
    """Return ``offset + scale * code``, ``(n, d)``."""

def squared_norms(
    codes: npt.NDArray[np.uint8], scale: npt.NDArray[np.float32], offset: npt.NDArray[np.float32], bits: int = ...
) -> npt.NDArray[np.float32]:
    """Return the n squared norms of the decoded vectors."""

def fold_query(
    query: npt.NDArray[np.float32], scale: npt.NDArray[np.float32], offset: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8], float, float]:
    """Return ``(high, low, unit, bias)`` with ``<query, x> ~ bias + unit * sum((256 * high + low) * code)``.

    ``high`` alone, with ``256 * unit``, is the 8-bit query of a traversal; both together the 16-bit query of rescoring.
    """

def encode_residuals(
    vectors: npt.NDArray[np.float32],
    codes: npt.NDArray[np.uint8],
    scale: npt.NDArray[np.float32],
    offset: npt.NDArray[np.float32],
    span: float,
    bits: int = ...,
) -> npt.NDArray[np.uint8]:
    """Return the second level ``(n, d)``, bytes whatever ``bits``: what the codes leave over of ``vectors``.

    ``x ~ offset + scale * (code + span / 255 * (residual - 127.5))``: ``span`` is the number of steps that residuals
    cover. 1 is what rounding leaves; more keeps what the clip range cut off too.
    """

def residual_norms(
    residuals: npt.NDArray[np.uint8],
    codes: npt.NDArray[np.uint8],
    scale: npt.NDArray[np.float32],
    offset: npt.NDArray[np.float32],
    span: float,
    bits: int = ...,
) -> npt.NDArray[np.float32]:
    """Return the n squared norms of the vectors decoded from both levels."""

def decode_residuals(
    residuals: npt.NDArray[np.uint8],
    codes: npt.NDArray[np.uint8],
    scale: npt.NDArray[np.float32],
    offset: npt.NDArray[np.float32],
    span: float,
    bits: int = ...,
) -> npt.NDArray[np.float32]:
    """Return the vectors ``(n, d)`` decoded from both levels."""

class _Searcher:
    """What all searchers have (not a class of the module)."""

    def add_residuals(
        self, residuals: npt.NDArray[np.uint8], norms: npt.NDArray[np.float32] | None, span: float
    ) -> None:
        """Rescore with a second level from now on; to be called before the first search.

        ``norms`` are those of :func:`residual_norms`, needed for ``"l2"``. Order of candidates before rescoring, and
        thus what a graph or forest visits, stays the first level's.
        """

    def add_originals(self, vectors: npt.NDArray[np.float32]) -> None:
        """Rescore by the vectors ``(n, d)`` of the codes from now on; to be called before the first search.

        They are read where they lie, and that they are finite is the caller's part. Distances of results are exact to
        float32 then; the order of candidates before rescoring is that of the codes. A search by radius scores all
        vectors, and finds what is inside by them.
        """

class FlatSearcher(_Searcher):
    """Exhaustive search over contiguous codes; ``norms`` are those of :func:`squared_norms`, needed for ``"l2"``.

    ``metric`` is ``"l2"``, ``"ip"`` or, over codes of vectors of length 1, ``"cosine"``: the inner product divided by
    the query's length, 0 for a query of length 0. The searchers below take the same but where they say otherwise.
    """

    def __init__(
        self,
        codes: npt.NDArray[np.uint8],
        norms: npt.NDArray[np.float32] | None,
        scale: npt.NDArray[np.float32],
        offset: npt.NDArray[np.float32],
        metric: str,
        *,
        bits: int = ...,
        level: str = ...,
    ) -> None: ...
    def search(
        self, queries: npt.NDArray[np.float32], k: int, *, num_threads: int = ..., id_filter: IdFilter = ...
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Scan with the 8-bit query, rescore the best candidates with the 16-bit query."""

    def range_search(
        self, queries: npt.NDArray[np.float32], radius: float, *, num_threads: int = ..., id_filter: IdFilter = ...
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return ``(lims, distances, ids)`` of all codes nearer than ``radius`` by the 16-bit query, which misses none.

        Distances are below ``radius`` for ``"l2"``, similarities above it for ``"ip"`` and ``"cosine"``. Those of query
        i are at ``lims[i]`` to ``lims[i + 1]``, in ascending order of ids; ``lims`` is ``(q + 1,)`` ``uint64``.
        """

class IvfSearcher:
    """Search in inverted lists: ``codes`` and ``ids`` hold an array ``(n, d)`` and ``(n,)`` for each list.

    With ``centroids`` ``(lists, d)`` codes are those of residuals: an item decodes to ``centroid + offset + scale *
    code``. ``ids`` are what a search returns; among equal distances the item that stands first in the lists wins.
    ``metric`` is ``"l2"`` or ``"ip"``. ``before`` is a searcher of the same quantizer and centroids whose lists these
    begin with: what it computed of them is taken over.
    """

    def __init__(
        self,
        codes: Sequence[npt.NDArray[np.uint8]],
        ids: Sequence[npt.NDArray[np.int64]],
        centroids: npt.NDArray[np.float32] | None,
        scale: npt.NDArray[np.float32],
        offset: npt.NDArray[np.float32],
        metric: str,
        *,
        bits: int = ...,
        before: IvfSearcher | None = ...,
        level: str = ...,
    ) -> None: ...
    def search(
        self,
        queries: npt.NDArray[np.float32],
        assignment: npt.NDArray[np.int64],
        k: int,
        *,
        num_threads: int = ...,
        id_filter: IdFilter = ...,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Search the lists that ``assignment`` ``(q, nprobe)`` names, no list twice for one query; -1 names none.

        ``id_filter`` judges what ``ids`` holds, any 64-bit number: arrays and bitmaps may have any length and refuse
        the ids outside, id arrays and ranges may hold numbers that no item has.
        """

    def range_search(
        self,
        queries: npt.NDArray[np.float32],
        assignment: npt.NDArray[np.int64],
        radius: float,
        *,
        max_empty: int = ...,
        num_threads: int = ...,
        id_filter: IdFilter = ...,
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return ``(lims, distances, ids)`` as :meth:`FlatSearcher.range_search` does, of the lists that are named.

        Results come in the order in which ``assignment`` names the lists and, of a list, of its items. A query ends
        after ``max_empty`` lists in a row without a result; 0: it visits all.
        """

    @property
    def nbytes(self) -> int:
        """Bytes held beside the lists: norms for ``"l2"``, and tables."""

class LinkedGraphSearcher(_Searcher):
    """HNSW search over a graph in FAISS' layout, read where it lies.

    Neighbours of node i at level l are ``neighbors[offsets[i] + cum_neighbors[l] : offsets[i] + cum_neighbors[l + 1]]``
    up to the first negative entry.
    """

    def __init__(
        self,
        codes: npt.NDArray[np.uint8],
        norms: npt.NDArray[np.float32] | None,
        offsets: npt.NDArray[np.uint64],
        neighbors: npt.NDArray[np.int32],
        cum_neighbors: npt.NDArray[np.int32],
        entry_point: int,
        max_level: int,
        scale: npt.NDArray[np.float32],
        offset: npt.NDArray[np.float32],
        metric: str,
        *,
        bits: int = ...,
        level: str = ...,
    ) -> None: ...
    def search(
        self, queries: npt.NDArray[np.float32], k: int, ef: int, *, num_threads: int = ..., id_filter: IdFilter = ...
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]: ...
    def range_search(
        self, queries: npt.NDArray[np.float32], radius: float, *, num_threads: int = ..., id_filter: IdFilter = ...
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Score all codes, without a walk, as :meth:`FlatSearcher.range_search` does."""

class HnswGraph:
    """An HNSW graph over codes that grows while it is searched: hnswlib's algorithm and parameters.

    Ids are 0, 1, ... in order of insertion. Any number of threads may add and search at once; with one thread, equal
    input and seed give equal graphs, at every level. Unlike the searchers it copies ``scale`` and ``offset``.

    Args:
        dim: dimension of the vectors, 1 to 65536.
        capacity: number of nodes to make room for.
        scale: step of each dimension.
        offset: offset of each dimension.
        metric: ``"l2"``, ``"ip"`` or ``"cosine"``, for which vectors to add have length 1 and queries any.
        max_m: hnswlib's M, 2 to 10000: links of a node on upper levels; level 0 has twice as many.
        ef_construction: breadth of the search that finds links; ``max_m`` at least is used.
        seed: of the levels that nodes get.
        bits: of the codes.
        span: steps that the second level covers, see :func:`encode_residuals`; 0 for a graph without one. Searches read
            it to rescore, insertion doesn't.
        feedback: see :func:`encode`; borrowed.
        keep_originals: whether to keep the vectors and rescore by them, without ``span``; so distances are exact.
        level: SIMD level.
    """

    def __init__(
        self,
        dim: int,
        capacity: int,
        scale: npt.NDArray[np.float32],
        offset: npt.NDArray[np.float32],
        metric: str,
        *,
        max_m: int = ...,
        ef_construction: int = ...,
        seed: int = ...,
        bits: int = ...,
        span: float = ...,
        feedback: npt.NDArray[np.uint16] | None = ...,
        keep_originals: bool = ...,
        level: str = ...,
    ) -> None: ...
    def fill(
        self,
        codes: npt.NDArray[np.uint8],
        residuals: npt.NDArray[np.uint8] | None,
        level0: npt.NDArray[np.uint32],
        element_levels: npt.NDArray[np.int32],
        link_lists: npt.NDArray[np.uint32],
        entry_point: int,
        max_level: int,
        originals: npt.NDArray[np.float32] | None = ...,
    ) -> None:
        """Put the nodes of an existing graph into this empty one, which goes on growing from there.

        The layout is that of hnswlib's pickle state and save file: ``level0`` is ``(n, 1 + 2 * max_m)``, a link count
        (low 16 bits) with the deletion mark (bit 16), and the links; ``link_lists`` holds, for each node in order,
        ``element_levels[i]`` blocks of ``1 + max_m`` (count, links) for levels 1, 2, ... All of it is checked; if it
        is refused, the graph stays empty.
        """

    def arrays(self) -> dict[str, Any]:
        """Return a copy of the graph of one moment as the arguments of :meth:`fill`; waits for insertions."""

    def add(
        self, vectors: npt.NDArray[np.float32], *, replace_deleted: bool = ..., num_threads: int = ...
    ) -> npt.NDArray[np.int64]:
        """Add vectors and return their ids; adds none if there is no room for all.

        With ``replace_deleted``, deleted nodes give their places first, in order of their ids.
        """

    def replace(self, ids: npt.NDArray[np.int64], vectors: npt.NDArray[np.float32], *, num_threads: int = ...) -> None:
        """Give nodes other vectors, all or none; deleted ones are deleted no more.

        Searches don't find a node while it is replaced; one that began before may find the old vector or the new.
        """

    def search(
        self, queries: npt.NDArray[np.float32], k: int, ef: int, *, num_threads: int = ..., id_filter: IdFilter = ...
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Search; nodes that are being added meanwhile may be found or not.

        An array ``id_filter`` may be shorter than :attr:`count`: nodes that came after it was made are refused.
        """

    def mark_deleted(self, ids: npt.NDArray[np.int64]) -> None:
        """Take nodes out of the results; the graph stays. Refused, for all, if one is deleted already."""

    def unmark_deleted(self, ids: npt.NDArray[np.int64]) -> None:
        """Take nodes back into the results. Refused, for all, if one is not deleted."""

    def deleted(self) -> npt.NDArray[np.bool_]:
        """Return for each node whether it is deleted."""

    def resize(self, capacity: int) -> None:
        """Make room for ``capacity`` nodes, at least :attr:`count`; waits for insertions, not for searches."""

    def codes(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return the codes of some nodes, ``(len(ids), d)``."""

    def residuals(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8] | None:
        """Return the second level of some nodes, ``(len(ids), d)``; None for a graph without one."""

    def originals(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32] | None:
        """Return the vectors of some nodes, ``(len(ids), d)``; None unless they are kept."""

    def level_of(self, node: int) -> int:
        """Return the highest level that a node is in."""

    def links(self, node: int, level: int) -> npt.NDArray[np.int32]:
        """Return the ids that a node links to on a level."""

    @property
    def link_lists_size(self) -> int:
        """Length of what :meth:`arrays` returns as ``link_lists``; waits for insertions."""

    @property
    def entry_point(self) -> int:
        """The node that searches begin at, -1 if there is none."""

    @property
    def max_level(self) -> int:
        """The level of the entry point, -1 if there is none."""

    @property
    def count(self) -> int:
        """Number of nodes."""

    @property
    def n_deleted(self) -> int:
        """Number of nodes that are deleted."""

    @property
    def capacity(self) -> int:
        """Number of nodes that there is room for."""

    @property
    def nbytes_codes(self) -> int:
        """Bytes that codes, norms and the second level take, padding and unused room included."""

    @property
    def nbytes_graph(self) -> int:
        """Bytes that links of all levels take, unused room included."""

class ForestSearcher(_Searcher):
    """Annoy's search: split planes are walked best-first, the leaves' items are scored over codes.

    p split planes have codes ``(p, d)`` with zero point 128: ``margin(query) = plane_bias + plane_scale * sum((code -
    128) * query)``. ``children`` is ``(p, 2)``: a value >= 0 is a plane, a value < 0 is leaf ``-1 - value``, and leaf j
    holds ``leaf_items[leaf_offsets[j] : leaf_offsets[j + 1]]``. ``roots`` uses the same encoding.
    """

    def __init__(
        self,
        codes: npt.NDArray[np.uint8],
        norms: npt.NDArray[np.float32] | None,
        scale: npt.NDArray[np.float32],
        offset: npt.NDArray[np.float32],
        plane_codes: npt.NDArray[np.uint8],
        plane_scale: npt.NDArray[np.float32],
        plane_bias: npt.NDArray[np.float32],
        children: npt.NDArray[np.int32],
        leaf_offsets: npt.NDArray[np.uint32],
        leaf_items: npt.NDArray[np.int32],
        roots: npt.NDArray[np.int32],
        metric: str,
        *,
        bits: int = ...,
        level: str = ...,
    ) -> None: ...
    def search(
        self,
        queries: npt.NDArray[np.float32],
        k: int,
        search_k: int,
        *,
        num_threads: int = ...,
        id_filter: IdFilter = ...,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Search; a child's priority is ``min(parent, margin)`` on side 1 and ``min(parent, -margin)`` on side 0."""
