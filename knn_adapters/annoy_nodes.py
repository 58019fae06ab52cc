"""Annoy's file: a raw array of nodes, read as it lies (``src/annoylib.h``, 1.17).

All nodes have one size. Nodes 0..n-1 are the items (``n_descendants`` is 1; 0 for an id that was never added). The
others belong to trees: with at most ``capacity`` descendants a node lists their ids, from where its children begin to
its end; with more it is a split plane with two children. The copies of all roots come last.

    angular            n_descendants i32, children 2 x i32 (an item: its squared norm f32), v
    euclidean          n_descendants i32, a f32, children 2 x i32, v
    dot                n_descendants i32, children 2 x i32, dot_factor f32, v
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mp_plugins import MagicPyramidError, UnsupportedError, argument_error

__all__ = ["METRICS", "Nodes", "detect_metric", "opened_copy"]

METRICS = {"angular": "cosine", "euclidean": "l2", "dot": "ip"}
"""Annoy's metrics that can be quantized, and what the quantizer calls them."""

_HEADERS = {"angular": (4, None, 12), "euclidean": (8, 4, 16), "dot": (4, 12, 16)}
"""Offsets of the children, of the plane's bias and of the vector."""

_METRIC_QUERIES = 4  # distances looked at, at most, to tell the metric


@dataclass(frozen=True)
class Nodes:
    """The nodes of one index.

    Attributes:
        metric: ``"angular"``, ``"euclidean"`` or ``"dot"``.
        records: structured array with the fields ``n_descendants``, ``children`` (2), ``ids`` (capacity), ``vector``
            and, but for angular, ``bias``; children, ids and vector overlap as in the file.
        n_items: number of items, holes included.
        n_trees: number of trees.
    """

    metric: str
    records: npt.NDArray[Any]
    n_items: int
    n_trees: int

    @classmethod
    def of_file(cls, path: Path, dim: int, metric: str, n_items: int, n_trees: int) -> Nodes:
        """Map the file at ``path``.

        Raises:
            UnsupportedError: the nodes are not laid out as in Annoy 1.17.
        """
        dtype = _node_dtype(dim, metric)
        size = path.stat().st_size
        count = size // dtype.itemsize
        if size % dtype.itemsize or count < n_items + n_trees:
            raise UnsupportedError(f"an Annoy file of {size} bytes does not hold nodes of 1.17: use annoy>=1.17,<1.18")
        records = np.memmap(path, dtype=dtype, mode="r", shape=(count,))
        if np.any(records["n_descendants"][-n_trees:] != n_items):
            raise UnsupportedError("the roots of the Annoy file are not where 1.17 has them: use annoy>=1.17,<1.18")
        return cls(metric, records, n_items, n_trees)

    @property
    def capacity(self) -> int:
        """Most ids that a node can list."""
        return int(self.records.dtype["ids"].shape[0])

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Which of the items were added, ``(n_items,)``."""
        mask: npt.NDArray[np.bool_] = self.records["n_descendants"][: self.n_items] == 1
        return mask

    def item_vectors(self) -> npt.NDArray[np.float32]:
        """Return a copy of the item vectors, ``(n_items, d)``; zeros where none was added."""
        vectors = np.array(self.records["vector"][: self.n_items], order="C")
        vectors[~self.present] = 0.0
        return vectors

    def plane_bias(self, planes: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return what the margin of each plane adds to its inner product with the query."""
        if self.metric == "angular":
            return np.zeros(len(planes), np.float32)
        bias: npt.NDArray[np.float32] = self.records["bias"][planes]
        # 1.17 adds the square of a plane's factor, as if the query had the same one.
        return np.square(bias) if self.metric == "dot" else bias


def _node_dtype(dim: int, metric: str) -> np.dtype[np.void]:
    children, bias, vector = _HEADERS[metric]
    itemsize = vector + 4 * dim
    fields: dict[str, tuple[Any, int]] = {
        "n_descendants": ("<i4", 0),
        "children": (("<i4", (2,)), children),
        "ids": (("<i4", ((itemsize - children) // 4,)), children),
        "vector": (("<f4", (dim,)), vector),
    }
    if bias is not None:
        fields["bias"] = ("<f4", bias)
    return np.dtype(
        {
            "names": list(fields),
            "formats": [kind for kind, _ in fields.values()],
            "offsets": [offset for _, offset in fields.values()],
            "itemsize": itemsize,
        }
    )


@contextmanager
def opened_copy(index: Any, metric: str) -> Iterator[Nodes]:
    """Give the nodes of a built ``annoy.AnnoyIndex`` for the time of a ``with`` block, leaving the index as it was.

    ``AnnoyIndex.save()`` is the only way to the nodes, but it throws the index's memory away and maps the file in its
    place: from then on the index could not be unbuilt, and would depend on the file. A forked child does the saving
    instead, on its copy of the process, and ends without running anything else. The file takes as many bytes as the
    index, in the directory for temporary files, until the block ends.

    Raises:
        UnsupportedError: built by ``on_disk_build()``, where ``save()`` writes nothing, or no ``fork`` on this system.
        MagicPyramidError: the temporary file could not be written.
    """
    if not hasattr(os, "fork"):
        raise UnsupportedError("wrapping an AnnoyIndex needs a system with fork(), such as Linux or macOS")
    with tempfile.TemporaryDirectory(prefix="magic-pyramid-") as directory:
        path = Path(directory) / "forest.ann"
        if _save_in_child(index, path) != 0:
            raise MagicPyramidError(
                f"the copy of the AnnoyIndex cannot be written to {directory}: free space there, or set TMPDIR"
            )
        if not path.exists():
            raise UnsupportedError(
                "an AnnoyIndex built by on_disk_build() is not yet supported: load() its file and wrap the result"
            )
        yield Nodes.of_file(path, index.f, metric, index.get_n_items(), index.get_n_trees())


def _save_in_child(index: Any, path: Path) -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns about other threads, whose locks stay taken in the child: it takes none but libc's.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            index.save(str(path))
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def detect_metric(index: Any) -> str:
    """Return the metric of an ``annoy.AnnoyIndex``, which it tells nobody, from a distance that it computes.

    Raises:
        ArgumentError: not built, or nothing in it.
        UnsupportedError: manhattan or hamming.
    """
    if not index.get_n_items() or not index.get_n_trees():
        received = f"{index.get_n_items()} items, {index.get_n_trees()} trees"
        raise argument_error("index", "must hold items and be built", received, "call add_item() and build() first")
    metric = _matching_metric(index)
    if metric is None:
        raise UnsupportedError(f"the metric of the AnnoyIndex is not recognised: use {', '.join(METRICS)}")
    if metric not in METRICS:
        raise UnsupportedError(f"an AnnoyIndex of metric {metric} cannot be wrapped: use {', '.join(METRICS)}")
    return metric


def _matching_metric(index: Any) -> str | None:
    """Return the metric under which the index's distances from some queries come out, ``None`` if there is none.

    One query may fit several metrics, all of them if it is an item; in one dimension, euclidean and manhattan agree.
    """
    matching: list[str] = []
    for seed in range(_METRIC_QUERIES):
        query = np.random.default_rng((_METRIC_QUERIES, seed)).standard_normal(index.f)
        ids, distances = index.get_nns_by_vector(query.tolist(), 1, include_distances=True)
        if not ids:
            return None
        expected = _distances(query, np.array(index.get_item_vector(ids[0])))
        known = matching or list(expected)
        matching = [name for name in known if np.isclose(distances[0], expected[name], rtol=1e-4, atol=1e-5)]
        if len(matching) <= 1:
            break
    return matching[0] if matching else None


def _distances(query: npt.NDArray[np.float64], item: npt.NDArray[np.float64]) -> dict[str, float]:
    """Return the distance between the two under each metric of Annoy."""
    lengths = float(np.linalg.norm(query) * np.linalg.norm(item))
    cosine = float(query @ item) / lengths if lengths else 0.0
    return {
        "angular": float(np.sqrt(max(0.0, 2.0 - 2.0 * cosine))),
        "euclidean": float(np.linalg.norm(query - item)),
        "dot": float(query @ item),
        "manhattan": float(np.abs(query - item).sum()),
        "hamming": float(((query > 0.5) != (item > 0.5)).sum()),
    }
