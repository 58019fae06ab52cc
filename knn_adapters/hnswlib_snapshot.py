"""What an index of the stand-in for hnswlib holds, on its way out and in: our files and pickles, hnswlib's, exports."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from knn_adapters import elements_snapshot, storage
from knn_adapters._validation import runtime_error
from knn_adapters.coded_graph import CodedGraph, GraphSettings
from knn_adapters.elements import Elements, ElementSettings
from knn_adapters.elements_snapshot import arrays_of, fields_of
from knn_adapters.hnswlib_file import check_header
from knn_adapters.hnswlib_file import write as write_hnswlib_file
from knn_adapters.hnswlib_state import HnswState
from knn_adapters.libraries import original
from knn_adapters.wrapping import WrapOptions

if TYPE_CHECKING:
    import hnswlib
else:
    hnswlib = original("hnswlib")

__all__ = ["KIND", "Snapshot", "described", "export", "load", "restored", "snapshot", "taken_over"]

KIND = "hnswlib.Index"


class Snapshot(NamedTuple):
    """Everything of an index, as fields for JSON and named arrays."""

    fields: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]


def snapshot(elements: Elements) -> Snapshot:
    """Return what :func:`restored` makes equal elements of. No writer may be under way."""
    return Snapshot(described(elements), arrays_of(elements))


def described(elements: Elements) -> dict[str, Any]:
    """Return the fields of a :func:`snapshot`."""
    settings, graph = elements.settings, elements.settings.graph
    return {
        "space": settings.space, "dim": settings.dim, "M": graph.max_m, "ef_construction": graph.ef_construction,
        "seed": graph.seed, "allow_replace_deleted": settings.allow_replace_deleted, **fields_of(elements),
    }  # fmt: skip


def restored(fields: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], options: WrapOptions) -> Elements:
    """Return the elements of a :func:`snapshot`; its bits and rescoring take the place of those of ``options``."""
    graph = GraphSettings(
        fields["M"], fields["ef_construction"], fields["seed"], keep_originals=fields["rescore"] == "original"
    )
    settings = ElementSettings(fields["space"], fields["dim"], graph, fields["allow_replace_deleted"])
    return elements_snapshot.restored(settings, options, fields, arrays)


def taken_over(state: HnswState, options: WrapOptions) -> Elements:
    """Return the elements of an index of hnswlib, with its graph."""
    held = state.settings
    graph = GraphSettings(
        held["M"], held["ef_construction"], held["seed"], keep_originals=options.rescore == "original"
    )
    dim = state.vectors.shape[1]
    settings = ElementSettings(state.space, dim, graph, bool(held.get("allow_replace_deleted", False)))
    elements = Elements(settings, options, held["max_elements"])
    if len(state.labels):
        elements.take_graph(
            state.vectors, state.labels, state.level0, state.element_levels, state.link_lists, state.entry_point,
            state.max_level,
        )  # fmt: skip
    return elements


def load(
    path: str | os.PathLike[str],
    space: str,
    dim: int,
    options: WrapOptions,
    *,
    max_elements: int,
    allow_replace_deleted: bool,
) -> Elements:
    """Return the elements of a file, ours or hnswlib's.

    Args:
        path: the file.
        space: that of the index that they are for.
        dim: its dimension.
        options: for a file of hnswlib; ours says itself.
        max_elements: capacity; that of the file if it is below the number of elements.
        allow_replace_deleted: as in ``init_index``.

    Raises:
        ArgumentError: it is damaged, or holds vectors of another dimension or space.
        OSError: it cannot be read.
    """
    if not storage.is_ours(path):
        check_header(path, dim)
        plain = hnswlib.Index(space, dim)
        plain.load_index(os.fspath(path), max_elements, allow_replace_deleted)
        return taken_over(HnswState.of_dict(plain.__getstate__()[0]), options)
    kind, fields, arrays = storage.read(path)
    for name, held, own in (
        ("kind", kind, KIND),
        ("space", fields.get("space"), space),
        ("dim", fields.get("dim"), dim),
    ):
        if held != own:
            raise runtime_error(
                "Index seems to be unsupported", "path_to_index", f"must be of {name} {own}", held,
                "load it into an index of that kind",
            )  # fmt: skip
    capacity = fields["max_elements"] if max_elements < len(arrays["labels"]) else max_elements
    fields |= {"max_elements": capacity, "allow_replace_deleted": allow_replace_deleted}
    return restored(fields, arrays, options)


def export(path: str | os.PathLike[str], elements: Elements) -> None:
    """Write hnswlib's own file, with the vectors that the codes stand for. No writer may be under way."""
    rows, graph = elements.rows, elements.settings.graph
    count = rows.count
    write_hnswlib_file(
        path, vectors=rows.vectors(np.arange(count)), labels=elements.labels.by_id[:count],
        arrays=rows.graph.arrays() if isinstance(rows, CodedGraph) else _plain_graph(elements), max_m=graph.max_m,
        ef_construction=graph.ef_construction, capacity=elements.capacity,
    )  # fmt: skip


def _plain_graph(elements: Elements) -> dict[str, Any]:
    """Return the arrays of the graph that hnswlib builds over vectors that have none yet."""
    settings, count = elements.settings, elements.rows.count
    plain = hnswlib.Index(settings.space, settings.dim)
    plain.init_index(count, settings.graph.max_m, settings.graph.ef_construction, settings.graph.seed)
    for vector in elements.rows.vectors(np.arange(count)):
        plain.add_items(vector, num_threads=1)
    for position in np.flatnonzero(elements.rows.deleted()).tolist():
        plain.mark_deleted(position)
    state = HnswState.of_dict(plain.__getstate__()[0])
    names = ("level0", "element_levels", "link_lists", "entry_point", "max_level")
    return {name: getattr(state, name) for name in names}
