"""Making indexes of ours of FAISS' own: with its constructors' arguments, from its indexes, from pickles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from knn_adapters import faiss_ivf
from knn_adapters import faiss_storage as storage
from knn_adapters._validation import check_finite
from knn_adapters.faiss_arguments import check_rescore, options_for_codes
from knn_adapters.faiss_classes import Ours, configured_for, warn_of_original
from knn_adapters.faiss_contents import CALIBRATION_ROWS
from knn_adapters.faiss_list_contents import ListContents
from knn_adapters.faiss_row_contents import RowContents
from knn_adapters.libraries import original
from knn_adapters.wrapping import WrapOptions
from mp_plugins import UnsupportedError

__all__ = ["Making", "as_original", "blank"]

if TYPE_CHECKING:
    import faiss
else:
    faiss = original("faiss")


class Making(Ours):
    """Construction and pickling, for a subclass of an SQ class and of the class that it stands for.

    FAISS refuses attributes that a class does not declare, hence the declarations.
    """

    _contents: Any = None
    _hnsw: Any = None

    def __new__(cls, *arguments: Any) -> Any:
        """Return an empty index; FAISS' own, with a warning, where ours cannot do what the arguments ask for."""
        shown: Any = cls.__bases__[-1]
        if issubclass(cls, faiss.IndexIVF) and arguments:
            arguments = (as_original(arguments[0]), *arguments[1:])
        original = shown(*arguments)
        options = configured_for(original)
        try:
            return cls._made_of(original, options, exact_below=CALIBRATION_ROWS, copy=False)
        except UnsupportedError as error:
            warn_of_original(original, error)
            return original

    def __init__(self, *_: Any) -> None: ...

    @classmethod
    def _made_of(cls, original: Any, options: WrapOptions, *, exact_below: int, copy: bool) -> Any:
        """Return an index over the codes of ``original``'s vectors, with its graph or lists."""
        metric, self = storage.metric_name(original), blank(cls)
        has_codes = hasattr(storage.storage_of(original), "sq")
        if has_codes:
            options = options_for_codes(original, options, storage.code_bits(storage.sq_of(original).qtype))
        if isinstance(original, faiss.IndexIVF):
            faiss_ivf.check_lists(original)
            self._contents = ListContents(metric, options, follows_data=not has_codes)
        else:
            self._contents = RowContents(metric, options, follows_data=not has_codes)
        if has_codes:
            self._take_codes(original, copy=copy)
        elif isinstance(original, faiss.IndexIVF):
            self._take_float_lists(original, options, copy=copy)
        else:
            self._take_floats(original, exact_below=exact_below)
        self._hnsw = self.hnsw if isinstance(self, faiss.IndexHNSW) else None
        return self

    def _take_codes(self: Any, original: Any, *, copy: bool) -> None:
        # The C++ object is shared with the proxy, which goes: `this` owns it.
        source: Any = faiss.clone_index(original) if copy else original
        self.this = source.this
        if not copy:
            self.referenced_objects = getattr(original, "referenced_objects", [])
        if original.is_trained:
            self._contents.quantizer = storage.existing_quantizer(self, self._contents.metric)

    def _take_float_lists(self: Any, original: Any, options: WrapOptions, *, copy: bool) -> None:
        check_rescore(original, options)
        contents, quantizer, sample = self._contents, None, None
        if original.ntotal:
            sample = faiss_ivf.stored_vectors(original)[1]
        elif original.is_trained:  # of the data only the centroids are known, until some come
            sample = storage.stock_of(original.quantizer).reconstruct_n(0, original.nlist)
        if sample is not None:
            check_finite("index", sample)
            quantizer = options.train_quantizer(contents.metric, sample)
        # The caller's own, if a constructor was given it; of a file it is the original's, which goes.
        coarse = None if copy else getattr(original, "referenced_objects", [None])[0]
        self.this = faiss_ivf.quantized_lists(original, quantizer, options.bits, coarse).this
        if coarse is not None:
            self.referenced_objects = [coarse]
        if quantizer is not None:
            contents.begin(quantizer, sample)
            contents.has_seen_centroids_only = not original.ntotal

    def _take_floats(self: Any, original: Any, *, exact_below: int) -> None:
        contents, vectors = self._contents, storage.flat_vectors(original)
        check_finite("index", vectors)
        made = storage.scalar_quantizer_index(original)
        if len(vectors) and len(vectors) >= exact_below:
            contents.begin_codes(made, vectors, vectors)
        else:
            with np.errstate(over="ignore"):  # infinity, for C++ code alone
                storage.put_codes(made, vectors.astype(np.float16).view(np.uint8))
            contents.hold_exactly(vectors)
        self.this = made.this

    def _stock(self: Any) -> Any:
        """Return FAISS' own index with the same content: of float vectors where these are there."""
        contents = self._contents
        if not isinstance(contents, RowContents) or (contents.exact is None and not contents.keeps_vectors):
            return storage.stock_of(self)
        vectors = contents.vectors(self, np.arange(self.ntotal))
        return storage.float_index(self, vectors)

    def __getstate__(self: Any) -> dict[str, Any]:
        with self._contents.lock:
            return {"this": faiss.serialize_index(self).tobytes(), "contents": self._contents}

    def __setstate__(self: Any, state: dict[str, Any]) -> None:
        stock: Any = faiss.deserialize_index(np.frombuffer(state["this"], np.uint8))
        self.this = stock.this
        self._contents = state["contents"]
        self._hnsw = self.hnsw if isinstance(self, faiss.IndexHNSW) else None

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        return blank, (type(self),), self.__getstate__()


def blank(cls: Any) -> Any:
    """Return an object of ``cls`` without a C++ object: it is given one next."""
    return object.__new__(cls)


def as_original(index: Any) -> Any:
    """Turn a flat index of ours that holds no codes into FAISS' own, the very object, and return it.

    What it is handed over for, a coarse quantizer or the exact vectors of a refinement, is filled by C++, and few or
    wanted as they are: codes would save next to nothing there.
    """
    contents: Any = vars(index).get("_contents") if isinstance(index, Making) else None
    is_flat = isinstance(index, faiss.IndexFlat)
    if is_flat and isinstance(contents, RowContents) and contents.exact is not None:
        flat: Any = index
        stock, bases = flat._stock(), type(index).__bases__
        vars(flat).pop("_contents")
        flat.this = stock.this
        object.__setattr__(flat, "__class__", bases[-1])
    return index
