"""FAISS' ``IDSelector`` classes as filters of the core.

C++ asks a selector about one id at a time, inside its own loops. Ours read what a selector is made of, or have C++ ask
it about many ids in one call, so that the core filters by arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from knn_adapters.libraries import original
from mp_plugins import argument_error

__all__ = ["all_ids", "id_filter", "members", "row_filter", "selector_of"]

if TYPE_CHECKING:
    import faiss
else:
    faiss = original("faiss")

_Ids = npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]

_COMPUTED = (faiss.IDSelectorNot, faiss.IDSelectorAnd, faiss.IDSelectorOr, faiss.IDSelectorXOr,
             faiss.IDSelectorTranslated, faiss.IDSelectorBatch)  # fmt: skip


def selector_of(params: Any) -> Any:
    """Return the selector of search parameters as an object of its own class, or None."""
    return None if params is None else _part(params, "sel")


def row_filter(selector: Any, n: int) -> Any:
    """Return a filter of the core (``_core.IdFilter``) for ids 0 to n - 1."""
    if isinstance(selector, faiss.IDSelectorRange):
        return range(*(min(max(end, 0), n) for end in (selector.imin, selector.imax)))
    if isinstance(selector, faiss.IDSelectorBitmap):
        bits = np.zeros((n + 7) // 8, np.uint8)
        held = _bitmap(selector)[: len(bits)]
        bits[: len(held)] = held
        return bits
    if isinstance(selector, faiss.IDSelectorArray):
        ids = _array(selector)
        return ids[(ids >= 0) & (ids < n)]
    if isinstance(selector, _COMPUTED):
        return members(selector, np.arange(n))
    return _other_filter(selector)


def id_filter(selector: Any, ids: Callable[[], _Ids]) -> Any:
    """Return a filter of the core (``_core.IdFilter``) for ids of any value.

    Args:
        selector: an object of its own class, or None.
        ids: returns all ids that an index has.
    """
    if isinstance(selector, faiss.IDSelectorRange):
        return range(selector.imin, selector.imax)
    if isinstance(selector, faiss.IDSelectorBitmap):
        return _bitmap(selector)
    if isinstance(selector, faiss.IDSelectorArray):
        return _array(selector)
    if isinstance(selector, _COMPUTED):
        every = ids()
        return every[members(selector, every)]
    return _other_filter(selector)


def members(selector: Any, ids: _Ids) -> _Mask:
    """Return for each of ``ids`` ``(n,)`` whether ``selector`` accepts it.

    Raises:
        ArgumentError: an ``IDSelectorTranslated`` whose map has no entry for one of the ids.
    """
    if selector is None or isinstance(selector, faiss.IDSelectorAll):
        return np.ones(len(ids), np.bool_)
    if isinstance(selector, faiss.IDSelectorRange):
        return np.asarray((ids >= selector.imin) & (ids < selector.imax))
    if isinstance(selector, faiss.IDSelectorArray):
        return np.isin(ids, _array(selector))
    if isinstance(selector, faiss.IDSelectorBitmap):
        return _in_bitmap(_bitmap(selector), ids)
    if isinstance(selector, faiss.IDSelectorNot):
        return ~members(_part(selector, "sel"), ids)
    for kind, combine in _PAIRS:
        if isinstance(selector, kind):
            return combine(members(_part(selector, "lhs"), ids), members(_part(selector, "rhs"), ids))
    if isinstance(selector, faiss.IDSelectorTranslated):
        return members(_part(selector, "sel"), _translated(selector, ids))
    if isinstance(selector, faiss.IDSelectorBatch):
        return _asked_in_bulk(selector, ids)
    # One by one: a selector that calls Python may raise, which inside the loops of C++ ends the process.
    return np.fromiter((selector.is_member(number) for number in ids.tolist()), np.bool_, len(ids))


def all_ids(lists: Sequence[_Ids]) -> _Ids:
    """Return the ids of all inverted lists in one array."""
    return np.concatenate(lists) if lists else np.empty(0, np.int64)


_PAIRS: tuple[tuple[Any, Callable[[_Mask, _Mask], _Mask]], ...] = (
    (faiss.IDSelectorAnd, np.logical_and),
    (faiss.IDSelectorOr, np.logical_or),
    (faiss.IDSelectorXOr, np.logical_xor),
)


def _other_filter(selector: Any) -> Any:
    """Return the filter for a selector that is none, accepts everything or can only be asked."""
    return None if selector is None or isinstance(selector, faiss.IDSelectorAll) else selector.is_member


def _part(owner: Any, field: str) -> Any:
    """Return a selector that ``owner`` refers to, as an object of its own class.

    SWIG shows it as a plain ``IDSelector``; ``owner`` keeps the other object alive, and the two have one address.
    """
    shown = getattr(owner, field)
    if shown is None:
        return None
    address = int(shown.this)
    for kept in _kept(list(vars(owner).values())):
        if int(kept.this) == address:
            return kept
    return shown


def _kept(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, faiss.IDSelector):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _kept(value)
        elif isinstance(value, dict):
            yield from _kept(value.values())


def _array(selector: Any) -> _Ids:
    ids: _Ids = faiss.rev_swig_ptr(selector.ids, selector.n) if selector.n else np.empty(0, np.int64)
    return ids


def _bitmap(selector: Any) -> npt.NDArray[np.uint8]:
    bits: npt.NDArray[np.uint8] = (
        faiss.rev_swig_ptr(selector.bitmap, selector.n) if selector.n else np.empty(0, np.uint8)
    )
    return bits


def _in_bitmap(bits: npt.NDArray[np.uint8], ids: _Ids) -> _Mask:
    inside = (ids >= 0) & (ids < 8 * len(bits))
    inside[inside] = bits[ids[inside] >> 3] >> (ids[inside] & 7).astype(np.uint8) & 1
    return inside


def _translated(selector: Any, ids: _Ids) -> _Ids:
    names: _Ids = faiss.vector_to_array(selector.id_map)
    if len(ids) and not (ids.min() >= 0 and ids.max() < len(names)):
        raise argument_error(
            "params.sel",
            "must translate every id of the index",
            f"an id_map of {len(names)} entries for ids from {ids.min()} to {ids.max()}",
            "make the IDSelectorTranslated with one entry for each vector",
        )
    return names[ids]


def _asked_in_bulk(selector: Any, ids: _Ids) -> _Mask:
    """Have C++ ask ``selector``, which cannot raise, about all ``ids``: as a search of as many points at one place."""
    points: Any = faiss.IndexFlatL2(1)
    points.add(np.zeros((len(ids), 1), np.float32))
    names: Any = faiss.Int64Vector()
    faiss.copy_array_to_vector(np.ascontiguousarray(ids, np.int64), names)
    params: Any = faiss.SearchParameters()
    params.sel = translated = faiss.IDSelectorTranslated(names, selector)  # held: not every version keeps it alive
    found = points.range_search(np.zeros((1, 1), np.float32), 1.0, params=params)[2]
    del translated
    mask = np.zeros(len(ids), np.bool_)
    mask[found.astype(np.int64)] = True  # an empty result has another type
    return mask
