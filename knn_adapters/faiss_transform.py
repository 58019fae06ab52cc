"""``IndexPreTransform`` around indexes of ours: PCA, OPQ, L2 normalisation and others before the search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from knn_adapters._validation import as_queries, runtime_error
from knn_adapters.faiss_arguments import as_added
from knn_adapters.faiss_classes import Ours
from knn_adapters.faiss_nested import Nested, inner_property
from knn_adapters.libraries import original

__all__ = ["IndexPreTransform"]

if TYPE_CHECKING:
    import faiss
else:
    faiss = original("faiss")

_Floats = npt.NDArray[np.float32]


class _Transforming(Nested):
    """Changes vectors on their way to the index inside."""

    index = inner_property("_inner", "The index inside.")

    def __init__(self: Any, *arguments: Any) -> None:
        shown: Any = type(self).__bases__[-1]
        shown.__init__(self, *arguments)
        self._inner = next(argument for argument in arguments if isinstance(argument, Ours))

    @classmethod
    def _around(cls, model: Any, inner: Any) -> Any:
        made: Any = cls(inner)
        for transform in reversed(_transforms(model)):
            made.prepend_transform(_copy_of(transform))
        made.is_trained, made.verbose, made.ntotal = model.is_trained, model.verbose, inner.ntotal
        return made

    def train(self: Any, x: npt.ArrayLike, *, numeric_type: Any = None, xq_train: Any = None) -> None:
        """Train on ``x`` ``(n, d)`` the transforms that are not trained yet, in turn, then the index inside."""
        vectors = as_added(x, self.d)
        for transform in _transforms(self):
            if not transform.is_trained:
                transform.train(vectors)
            vectors = transform.apply(vectors)
        self._inner.train(vectors)
        self.is_trained = True

    def _search(self: Any, x: Any, k: int, params: Any, how: dict[str, Any]) -> tuple[Any, Any]:
        inside = getattr(params, "index_params", params)
        found: tuple[Any, Any] = self._inner.search(self._forth(x), k, params=inside, **how)
        return found

    def range_search(self: Any, x: npt.ArrayLike, thresh: float, *, params: Any = None) -> tuple[Any, Any, Any]:
        """Return ``(lims, distances, ids)`` of what lies within ``thresh`` after the transforms."""
        return super().range_search(x, thresh, params=getattr(params, "index_params", params))

    def sa_encode(self: Any, x: npt.ArrayLike, codes: Any = None) -> Any:
        """Return the codes of the index inside for vectors ``(n, d)``, transformed."""
        return self._inner.sa_encode(self._forth(as_added(x, self.d)), codes)

    def sa_decode(self: Any, codes: Any, x: Any = None) -> Any:
        """Return vectors ``(n, d)`` of codes of the index inside, transformed back."""
        vectors = self._back(self._inner.sa_decode(codes))
        if x is None:
            return vectors
        x[...] = vectors
        return x

    def sa_code_size(self: Any) -> int:
        """Return the bytes of a code of the index inside."""
        size: int = self._inner.sa_code_size()
        return size

    def _forth(self: Any, x: Any) -> _Floats:
        vectors = as_queries("x", x, self.d, single=False)
        for transform in _transforms(self):
            if not transform.is_trained:
                raise runtime_error(
                    "Error: 'is_trained' failed", "index", "must be trained",
                    f"an untrained {type(transform).__name__}", "call train() first",
                )  # fmt: skip
            vectors = transform.apply(vectors)
        return vectors

    def _back(self: Any, vectors: _Floats) -> _Floats:
        for transform in reversed(_transforms(self)):
            vectors = transform.reverse_transform(vectors)
        return vectors

    def __getstate__(self: Any) -> dict[str, Any]:
        return {"shell": faiss.serialize_index(self._shell()).tobytes(), "inner": self._inner}

    def __setstate__(self: Any, state: dict[str, Any]) -> None:
        shell = faiss.deserialize_index(np.frombuffer(state["shell"], np.uint8))
        vars(self).update(vars(type(self)._around(shell, state["inner"])))

    def _shell(self: Any) -> Any:
        shell = _chained(_transforms(self), faiss.IndexFlat(self._inner.d, self._inner.metric_type))
        shell.is_trained, shell.verbose = self.is_trained, self.verbose
        return shell

    def _stock(self: Any) -> Any:
        stock = _chained(_transforms(self), self._inner._stock())
        stock.ntotal, stock.is_trained, stock.verbose = self.ntotal, self.is_trained, self.verbose
        return stock


class IndexPreTransform(_Transforming, faiss.IndexPreTransform):  # type: ignore[misc]
    """Stands for ``faiss.IndexPreTransform`` around an index of ours."""


def _chained(transforms: list[Any], index: Any) -> Any:
    made: Any = faiss.IndexPreTransform(index)
    for transform in reversed(transforms):
        made.prepend_transform(transform)
    return made


def _transforms(index: Any) -> list[Any]:
    """Return the chain, each as its own class."""
    return [faiss.downcast_VectorTransform(index.chain.at(place)) for place in range(index.chain.size())]


def _copy_of(transform: Any) -> Any:
    library: Any = faiss
    if not transform.is_trained:  # a file holds the class of some transforms only once they are trained
        made = library.Cloner().clone_VectorTransform(transform)
        made.this.own(True)
        return made
    writer, reader = library.VectorIOWriter(), library.VectorIOReader()
    library.write_VectorTransform(transform, writer)
    library.copy_array_to_vector(library.vector_to_array(writer.data), reader.data)
    return library.read_VectorTransform(reader)
