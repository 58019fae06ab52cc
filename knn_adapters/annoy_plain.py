"""An index of Annoy's own: what holds items until they are encoded, and serves those that are not."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from knn_adapters import storage
from knn_adapters.annoy_arguments import FileArgumentError, as_finite_vector, as_flag
from knn_adapters.annoy_coded import CodedForest
from knn_adapters.annoy_nodes import METRICS, Nodes, opened_copy, save_in_child
from knn_adapters.evaluation import IndexStats
from knn_adapters.libraries import original
from knn_adapters.wrapping import WrapOptions
from mp_plugins import argument_error

__all__ = ["MOST_DIMENSIONS", "BuildingForest", "PlainForest", "Settings"]

if TYPE_CHECKING:
    import annoy
else:
    annoy = original("annoy")

MOST_DIMENSIONS = 65_536
"""Of what can be encoded."""

_BLOCK = 2048  # items put back at once, to bound what is decoded


class Settings(NamedTuple):
    """What an index of Annoy's is made with."""

    f: int
    metric: Any
    pack: Callable[..., bytes]
    """Turns f numbers into ``float32``."""
    verbose: bool = False
    seed: int | None = None

    @property
    def quantizes(self) -> bool:
        """Whether there are codes for the metric and the dimension."""
        return self.metric in METRICS and self.f <= MOST_DIMENSIONS


class PlainForest:
    """An ``annoy.AnnoyIndex`` with the methods of a :class:`CodedForest`.

    Args:
        settings: what to make it with.
        disk: name of the file that it is to live in, None for memory.

    Raises:
        OSError: that file cannot be written.
    """

    bits = None

    def __init__(self, settings: Settings, disk: str | None = None) -> None:
        self.disk, self.n_added = disk, 0
        self.index = annoy.AnnoyIndex(settings.f, settings.metric)
        self.set(settings)
        if disk is not None:
            Path(disk).unlink(missing_ok=True)  # Annoy would empty it under whatever maps it, which crashes then
            self.index.on_disk_build(disk)

    @classmethod
    def load(cls, path: str, settings: Settings, *, prefault: bool) -> PlainForest:
        """Map a file of Annoy's.

        Raises:
            OSError: Annoy refuses it.
        """
        made = cls(settings)
        made.index.load(path, prefault)
        return made

    @classmethod
    def holding(
        cls,
        settings: Settings,
        disk: str | None,
        items: npt.NDArray[np.int64],
        vectors: Callable[[Any], npt.NDArray[np.float32]],
    ) -> PlainForest:
        """Return one without trees that holds ``items``; ``vectors`` gives those of some of them."""
        made = cls(settings, disk)
        for part in np.array_split(items, len(items) // _BLOCK + 1):
            for item, vector in zip(part.tolist(), vectors(part), strict=True):
                made.add(item, vector.tolist())
        return made

    def set(self, settings: Settings) -> None:
        """Take other settings, of the same dimension and metric."""
        self.settings = settings
        self.index.verbose(settings.verbose)
        if settings.seed is not None:
            self.index.set_seed(settings.seed)

    def add(self, item: int, vector: Any) -> None:
        """Add an item or change it."""
        self.index.add_item(item, vector)
        self.n_added += 1

    def unbuilt(self) -> PlainForest:
        """Return a new one without trees that holds the items.

        Annoy's own ``unbuild()`` leaves the nodes of the trees where they are, which become items when ids are added
        behind them.
        """
        everything = self.index.get_nns_by_vector([0.0] * self.settings.f, -1, -2)
        items = np.sort(np.array(everything, np.int64))
        return self.holding(self.settings, self.disk, items, lambda part: np.array([*map(self.item_vector, part)]))

    def encoded(self, options: WrapOptions) -> CodedForest:
        """Return the forest of a built index as codes, in the file of the index if it has one.

        Whether it succeeds or fails, the index is of no use then but for :meth:`unbuilt`.

        Raises:
            OSError: a file cannot be written.
        """
        f, metric, *_ = self.settings
        if self.disk is not None:
            CodedForest.of(self._nodes_on_disk(self.disk), options).save(self.disk)
            return CodedForest.load(self.disk, f, metric, prefault=False)
        with tempfile.TemporaryDirectory(prefix="magic-pyramid-") as directory:
            path = Path(directory) / "forest.ann"
            try:
                self.index.save(str(path))
            except OSError as error:
                raise FileArgumentError(
                    f"the forest cannot be written to {directory} ({error}): free space there, or set TMPDIR"
                ) from error
            return CodedForest.of(Nodes.of_file(path, f, metric, self.n_trees), options)

    @property
    def n_items(self) -> int:
        """Number of items, gaps between them included."""
        return int(self.index.get_n_items())

    @property
    def n_trees(self) -> int:
        """Number of trees."""
        return int(self.index.get_n_trees())

    def by_vector(self, vector: Any, n: Any, search_k: Any, include_distances: Any) -> Any:
        """Search; values that are not finite are refused for the metrics that have codes."""
        if self.settings.quantizes:
            vector = as_finite_vector(vector, self.settings.f, self.settings.pack).tolist()
        return self.index.get_nns_by_vector(vector, n, search_k, include_distances)

    def by_item(self, item: int, n: Any, search_k: Any, include_distances: Any) -> Any:
        """Search for the neighbours of an item."""
        return self.index.get_nns_by_item(item, n, search_k, include_distances)

    def item_vector(self, item: int) -> list[float]:
        """Return the vector of an item."""
        return list(self.index.get_item_vector(item))

    def distance(self, i: int, j: int) -> float:
        """Return the distance between two items."""
        return float(self.index.get_distance(i, j))

    def held(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return ids and vectors of a built index."""
        with self._nodes() as nodes:
            items = np.flatnonzero(nodes.present)
            return items, nodes.item_vectors(items)

    def save(self, path: str) -> None:
        """Write Annoy's file and leave the index as it is; the file is complete or as it was before.

        Raises:
            OSError: it cannot be written.
        """
        with storage.replacing(path) as partial:
            if self.disk is not None:
                shutil.copyfile(self.disk, partial)
                return
            partial.touch()  # here the system says what is wrong with the name
            if save_in_child(self.index, partial) != 0:
                raise FileArgumentError(f"Unable to write {path!r}: free space there, or pass another name")

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write Annoy's file and leave the index as it is."""
        if not self.n_trees:
            raise argument_error("index", "must be built", f"{self.n_items} items, 0 trees", "call build() first")
        self.save(os.fspath(path))

    def stats(self) -> IndexStats:
        """Refuse: there are no codes."""
        received = f"{self.n_items} items and {self.n_trees} trees, which Annoy itself serves"
        raise argument_error(
            "index", "must be encoded", received, "build an index of 2048 items and more, or wrap() it"
        )

    @contextmanager
    def _nodes(self) -> Iterator[Nodes]:
        if self.disk is not None:
            yield self._nodes_on_disk(self.disk)
        else:
            with opened_copy(self.index, self.settings.metric) as nodes:
                yield nodes

    def _nodes_on_disk(self, disk: str) -> Nodes:
        return Nodes.of_file(Path(disk), self.settings.f, self.settings.metric, self.n_trees)


class BuildingForest:
    """Answers other threads while an index is built: as one without trees; what looks at vectors waits.

    Args:
        n_items: number of items.
        built: waits for the end of it, and returns what answers then.
    """

    bits, n_trees = None, 0

    def __init__(self, n_items: int, built: Callable[[], PlainForest | CodedForest]) -> None:
        self.n_items, self._built = n_items, built

    def by_vector(self, vector: Any, n: Any, search_k: Any, include_distances: Any) -> Any:
        """Find nothing."""
        return ([], []) if as_flag("include_distances", include_distances) else []

    def by_item(self, item: int, n: Any, search_k: Any, include_distances: Any) -> Any:
        """Find nothing."""
        return self.by_vector(None, n, search_k, include_distances)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._built(), name)
