"""The methods of FAISS that run on the C++ object under an index of ours, and those that cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from knn_adapters._unsupported import public_methods, reject_methods
from knn_adapters.faiss_storage import stock_of
from mp_plugins import UnsupportedError

__all__ = ["CHANGES", "READS", "REFUSED", "WRITABLE", "pass_methods"]

C = TypeVar("C", bound=type)

READS = frozenset({
    "assign_c", "check_compatible_for_merge", "check_ids_sorted", "coarse_code_size", "compute_residual",
    "compute_residual_n", "copy_subset_to", "decode_listno", "decode_vectors", "encode_listno", "encode_vectors",
    "get_CodePacker", "get_FlatCodesDistanceComputer", "get_InvertedListScanner", "get_distance_computer",
    "get_list_size", "range_search_c", "range_search_preassigned_c", "reconstruct_batch_c", "reconstruct_c",
    "reconstruct_from_offset", "reconstruct_n_c", "sa_decode_c", "sa_encode_c", "search1", "searchEx",
    "search_and_reconstruct_c", "search_and_return_codes", "search_and_return_codes_c", "search_c", "search_ex",
    "search_level_0", "search_preassigned_c", "search_subset", "train_encoder_num_vectors",
})  # fmt: skip
"""Answered by FAISS' own code over the codes: slower than our searches, or pointers in and out."""

CHANGES = frozenset({
    "addEx", "add_c", "add_core", "add_ex", "add_sa_codes_c", "add_with_ids_c", "add_with_idsEx", "add_with_ids_ex",
    "init_level_0_from_entry_points", "init_level_0_from_knngraph", "make_direct_map",
    "merge_from_c", "permute_entries_c", "remove_ids_c", "reorder_links", "set_direct_map_type",
    "shrink_level_0_neighbors", "trainEx", "train_c", "train_encoder", "train_ex", "train_q1", "train_with_queries",
    "update_vectors_c",
})  # fmt: skip
"""Done by FAISS' own code to the C++ object; our views of it are made anew afterwards."""

REFUSED = {
    "get_xb": "there are no float32 vectors in memory",
    "compute_distance_subset": "there are no float32 vectors in memory",
    "sync_l2norms": "there are no float32 vectors in memory",
    "clear_l2norms": "there are no float32 vectors in memory",
    "link_singletons": "FAISS ends the process in it",
    "replace_invlists": "lists from elsewhere need not hold codes of this index",
}
"""What cannot be done to codes, with the reason."""

WRITABLE = (
    "clustering_index", "cp", "init_level0", "keep_max_size_level0", "metric_arg", "max_codes", "nprobe",
    "own_fields", "own_invlists", "parallel_mode", "quantizer_trains_alone", "this", "thisown",
    "use_visited_hashset", "verbose",
)  # fmt: skip
"""Properties that may be assigned: none of them moves memory that a searcher reads."""


def pass_methods(cls: C, *library_classes: type) -> C:
    """Give ``cls`` the methods named above as far as ``library_classes`` have them, and reject the rest."""
    for library in library_classes:
        for name in public_methods(library):
            if name in READS or name in CHANGES:
                setattr(cls, name, _passing(cls.__name__, name))
            elif name in REFUSED:
                setattr(cls, name, _refusing(cls.__name__, name))
    return reject_methods(cls, *library_classes)


def _passing(class_name: str, name: str) -> Callable[..., Any]:
    def method(self: Any, *arguments: Any, **named: Any) -> Any:
        with self._contents.lock:
            try:
                return getattr(stock_of(self), name)(*arguments, **named)
            finally:
                if name in CHANGES:
                    self._contents.reread(self)

    method.__name__ = name
    method.__qualname__ = f"{class_name}.{name}"
    method.__doc__ = "Run FAISS' own method on the C++ object."
    return method


def _refusing(class_name: str, name: str) -> Callable[..., Any]:
    def method(self: Any, *_: Any, **__: Any) -> Any:
        raise UnsupportedError(f"{class_name}.{name}() cannot be supported over codes: {REFUSED[name]}")

    method.__name__ = name
    method.__qualname__ = f"{class_name}.{name}"
    method.__doc__ = f"Raise ``UnsupportedError``: {REFUSED[name]}."
    return method
