"""Annoy's file: a raw array of nodes, read as it lies (``src/annoylib.h``, 1.17 and the development version).

All nodes have one size. Nodes 0..n-1 are the items (``n_descendants`` is 1; 0 for an id that was never added). The
others belong to trees: with at most ``capacity`` descendants a node lists their ids, from where its children begin to
its end; with more it is a split plane with two children. The copies of all roots come last.

    angular            n_descendants i32, children 2 x i32 (an item: its squared norm f32), v
    euclidean          n_descendants i32, a f32, children 2 x i32, v
    dot, 1.17          n_descendants i32, children 2 x i32, dot_factor f32, v
    dot, development   n_descendants i32, children 2 x i32, dot_factor f32, norm f32, built bool, 3 bytes, v
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from knn_adapters.annoy_arguments import file_error
from knn_adapters.libraries import original
from mp_plugins import MagicPyramidError, UnsupportedError, argument_error

__all__ = ["METRICS", "Nodes", "detect_metric", "native_dtype", "opened_copy", "save_in_child"]

if TYPE_CHECKING:
    import annoy
else:
    annoy = original("annoy")

METRICS = {"angular": "cosine", "euclidean": "l2", "dot": "ip"}
"""Annoy's metrics that can be quantized, and what the quantizer calls them."""

_HEADERS = {"angular": (12,), "euclidean": (16,), "dot": (16, 24)}
"""Where the vector begins, in the layouts that a metric has."""

_METRIC_QUERIES = 4  # distances looked at, at most, to tell the metric
_BLOCK = 65_536  # nodes looked at at once, to bound what is copied


@dataclass(frozen=True)
class Nodes:
    """The nodes of one index.

    Attributes:
        metric: ``"angular"``, ``"euclidean"`` or ``"dot"``.
        records: structured array with the fields ``n_descendants``, ``children`` (2), ``ids`` (capacity), ``vector``
            and, but for angular, ``bias``; children, ids and vector overlap as in the file.
        n_items: number of items, holes included.
        roots: positions of the roots, one a tree.
    """

    metric: str
    records: npt.NDArray[Any]
    n_items: int
    roots: npt.NDArray[np.int64]

    @classmethod
    def of_file(cls, path: Path, dim: int, metric: str, n_trees: int | None = None) -> Nodes:
        """Map the file at ``path``, in whichever layout it has; ``n_trees`` where that is known better than from it.

        Raises:
            FileArgumentError: it holds no index of this dimension and metric; Annoy itself looks at its size only.
            OSError: it cannot be opened.
        """
        size = path.stat().st_size
        if not size:
            raise file_error("Size of file is zero", "must hold an index", "an empty file", "save the index again")
        fitting = [dtype for dtype in _dtypes(dim, metric) if size % dtype.itemsize == 0]
        if not fitting:
            raise file_error(
                "Index size is not a multiple of vector size", f"must be of dimension {dim} and metric {metric}",
                f"{size} bytes", "open it with the dimension and the metric that it was made with",
            )  # fmt: skip
        for dtype in fitting:
            records = np.memmap(path, dtype, "r")
            n_items, roots = _roots(records, n_trees)
            if _makes_sense(records, n_items, dtype["ids"].shape[0]):
                nodes = cls(metric, records, n_items, roots)
                return replace(nodes, roots=nodes._distinct(roots))
        raise file_error(
            "Index seems to be damaged", f"must be of dimension {dim} and metric {metric}", "nodes that make no sense",
            "open it with the dimension and the metric that it was made with, or save it again",
        )  # fmt: skip

    def _distinct(self, roots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return ``roots`` without first copies of later ones, of which several may stand there after a threaded build.

        Annoy walks such trees twice. Where both children are lists or items, that is harmless, and kept.
        """
        if self.n_items <= self.capacity:
            return roots
        children = self.records["children"][roots]
        has_planes = (self.records["n_descendants"][children] > self.capacity).any(axis=1)
        last = {pair: position for position, pair in enumerate(map(tuple, children.tolist()))}
        keep = [not has_planes[i] or last[tuple(pair)] == i for i, pair in enumerate(children.tolist())]
        return roots[keep]

    @property
    def capacity(self) -> int:
        """Most ids that a node can list."""
        return int(self.records.dtype["ids"].shape[0])

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Which of the items were added, ``(n_items,)``."""
        mask: npt.NDArray[np.bool_] = self.records["n_descendants"][: self.n_items] == 1
        return mask

    def item_vectors(self, items: Any) -> npt.NDArray[np.float32]:
        """Return a copy of the vectors of ``items``, a slice or positions, ``(n, d)``; zeros where none was added."""
        vectors = np.array(self.records["vector"][: self.n_items][items], order="C")
        vectors[self.records["n_descendants"][: self.n_items][items] != 1] = 0.0
        return vectors

    def blocks(self) -> Iterator[slice]:
        """Yield slices that cover the items, a bounded number each."""
        for start in range(0, self.n_items, _BLOCK):
            yield slice(start, min(start + _BLOCK, self.n_items))

    def plane_bias(self, planes: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return what the margin of each plane adds to its inner product with the query."""
        if self.metric == "euclidean":
            bias: npt.NDArray[np.float32] = self.records["bias"][planes]
            return bias
        if self.metric == "dot" and "norm" not in (self.records.dtype.names or ()):
            # 1.17 adds the square of a plane's factor, as if the query had the same one.
            factors: npt.NDArray[np.float32] = self.records["bias"][planes]
            return np.square(factors)
        return np.zeros(len(planes), np.float32)


def _dtypes(dim: int, metric: str) -> list[np.dtype[np.void]]:
    """Return the layouts of a metric, that of the installed library first."""
    native = native_dtype(dim, metric)
    others = [_node_dtype(dim, metric, vector) for vector in _HEADERS[metric]]
    return [native, *(dtype for dtype in others if dtype != native)]


def native_dtype(dim: int, metric: str) -> np.dtype[np.void]:
    """Return the layout that the installed library writes and reads."""
    headers = _HEADERS[metric]
    return _node_dtype(dim, metric, headers[0] if len(headers) == 1 else _installed_dot_header())


@cache
def _installed_dot_header() -> int:
    """Return where the vector begins in what the installed library saves for the metric dot."""
    index = annoy.AnnoyIndex(1, "dot")
    index.build(1)  # one root, saved twice
    with tempfile.TemporaryDirectory(prefix="magic-pyramid-") as directory:
        path = Path(directory) / "empty.ann"
        index.save(str(path))
        return path.stat().st_size // 2 - 4


def _node_dtype(dim: int, metric: str, vector: int) -> np.dtype[np.void]:
    children = 8 if metric == "euclidean" else 4
    itemsize = vector + 4 * dim
    fields: dict[str, tuple[Any, int]] = {
        "n_descendants": ("<i4", 0),
        "children": (("<i4", (2,)), children),
        "ids": (("<i4", ((itemsize - children) // 4,)), children),
        "vector": (("<f4", (dim,)), vector),
    }
    if metric == "angular":
        fields["squared_norm"] = ("<f4", children)
    else:
        fields["bias"] = ("<f4", 4 if metric == "euclidean" else 12)
    if vector == 24:
        fields |= {"norm": ("<f4", 16), "built": ("u1", 20)}
    return np.dtype(
        {
            "names": list(fields),
            "formats": [kind for kind, _ in fields.values()],
            "offsets": [offset for _, offset in fields.values()],
            "itemsize": itemsize,
        }
    )


def _roots(records: npt.NDArray[Any], n_trees: int | None) -> tuple[int, npt.NDArray[np.int64]]:
    """Return the number of items and the roots, found as Annoy finds them: the last nodes that count all items.

    The root of the last tree stands before the copies of all roots, and is dropped.
    """
    last = len(records) - 1
    n_items = int(records["n_descendants"][last])
    if n_trees is not None:
        return n_items, np.arange(last + 1 - min(n_trees, last + 1), last + 1)
    first = last
    while first > 0 and records["n_descendants"][first - 1] == n_items:
        first -= 1
    is_copy = first < last and records["children"][first, 0] == records["children"][last, 0]
    return n_items, np.arange(first + bool(is_copy), last + 1)


def _makes_sense(records: npt.NDArray[Any], n_items: int, capacity: int) -> bool:
    """Whether items look like items, and children are nodes that are there."""
    if not 0 <= n_items <= len(records):
        return False
    counts = records["n_descendants"]
    if np.any((counts[:n_items] != 1) & (counts[:n_items] != 0)) or np.any(counts < 0):
        return False
    for start in range(n_items, len(records), _BLOCK):
        block = records[start : start + _BLOCK]
        children = block["children"][block["n_descendants"] > capacity]
        if np.any((children < 0) | (children >= len(records))):
            return False
    return True


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
        if save_in_child(index, path) != 0:
            raise MagicPyramidError(
                f"the copy of the AnnoyIndex cannot be written to {directory}: free space there, or set TMPDIR"
            )
        if not path.exists():
            raise UnsupportedError(
                "an AnnoyIndex built by on_disk_build() keeps its nodes in a file of its own, whose name it tells "
                "nobody: load() that file and wrap the result"
            )
        yield Nodes.of_file(path, index.f, metric, index.get_n_trees())


def save_in_child(index: Any, path: Path) -> int:
    """Let a forked child save ``index``, which stays as it is here, and return the child's exit code."""
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
        UnsupportedError: none of Annoy's metrics.
    """
    if not index.get_n_items() or not index.get_n_trees():
        received = f"{index.get_n_items()} items, {index.get_n_trees()} trees"
        raise argument_error("index", "must hold items and be built", received, "call add_item() and build() first")
    metric = _matching_metric(index)
    if metric is None:
        raise UnsupportedError(f"the metric of the AnnoyIndex is not recognised: use {', '.join(METRICS)}")
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
