"""The elements of a growing index as fields for JSON and named arrays, and elements made of these again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters.coded_graph import CodedGraph
from knn_adapters.elements import Elements, ElementSettings
from knn_adapters.exact_vectors import ExactVectors
from knn_adapters.outliers import OutlierRule
from knn_adapters.quantizer import Quantizer
from knn_adapters.storage import Section
from knn_adapters.wrapping import WrapOptions
from mp_plugins import UnsupportedError, load_registry

__all__ = ["arrays_of", "fields_of", "restored", "sections_of"]

_SCALAR = WrapOptions.quantizer_name


def fields_of(elements: Elements) -> dict[str, Any]:
    """Return what is no array. No writer may be under way."""
    options, rows = elements.options, elements.rows
    fields: dict[str, Any] = {"max_elements": elements.capacity, "bits": options.bits, "rescore": options.rescore}
    if options.quantizer_name != _SCALAR:
        fields["quantizer"] = options.quantizer_name
    if isinstance(rows, ExactVectors):
        return fields
    quantizer, graph = rows.quantizer, rows.graph
    return {
        **fields, "entry_point": graph.entry_point, "max_level": graph.max_level, "clip": quantizer.clip,
        "error_limit": rows.error_limit, "span": quantizer.span if options.rescore == "residual" else 0.0,
    }  # fmt: skip


def arrays_of(elements: Elements) -> dict[str, npt.NDArray[Any]]:
    """Return copies of the arrays. No writer may be under way."""
    rows, count = elements.rows, elements.rows.count
    arrays: dict[str, npt.NDArray[Any]] = {"labels": elements.labels.by_id[:count].copy()}
    if isinstance(rows, ExactVectors):
        return {**arrays, "vectors": rows.vectors(np.arange(count)), "deleted": rows.deleted()}
    graph, quantizer = rows.graph.arrays(), rows.quantizer
    names = ("codes", "residuals", "originals", "level0", "element_levels", "link_lists")
    arrays |= {name: graph[name] for name in names if graph[name] is not None}
    arrays |= {"scale": quantizer.scale, "offset": quantizer.offset}
    feedback = getattr(quantizer, "feedback", None)
    arrays |= {} if feedback is None else {"feedback": feedback}
    outside = np.array(sorted(rows.outside), np.int64)
    kept = {} if "originals" in arrays else {"outside_vectors": rows.vectors(outside)}
    return {**arrays, "outside_ids": outside, **kept}


def sections_of(elements: Elements) -> dict[str, Section]:
    """Return type and shape of what :func:`arrays_of` returns, without making it. No writer may be under way."""
    rows, count, dim = elements.rows, elements.rows.count, elements.settings.dim
    sections = {"labels": Section("uint64", (count,))}
    if isinstance(rows, ExactVectors):
        return {**sections, "vectors": Section("float32", (count, dim)), "deleted": Section("bool", (count,))}
    quantizer, max_m = rows.quantizer, rows.settings.max_m
    sections["codes"] = Section("uint8", (count, (dim * quantizer.bits + 7) // 8))
    if elements.options.rescore == "residual":
        sections["residuals"] = Section("uint8", (count, dim))
    if rows.settings.keep_originals:
        sections["originals"] = Section("float32", (count, dim))
    sections["level0"] = Section("uint32", (count, 1 + 2 * max_m))
    sections["element_levels"] = Section("int32", (count,))
    sections["link_lists"] = Section("uint32", (rows.graph.link_lists_size,))
    sections |= {"scale": Section("float32", (dim,)), "offset": Section("float32", (dim,))}
    feedback = getattr(quantizer, "feedback", None)
    if feedback is not None:
        sections["feedback"] = Section("uint16", feedback.shape)
    sections["outside_ids"] = Section("int64", (len(rows.outside),))
    if not rows.settings.keep_originals:
        sections["outside_vectors"] = Section("float32", (len(rows.outside), dim))
    return sections


def restored(
    settings: ElementSettings,
    options: WrapOptions,
    fields: Mapping[str, Any],
    arrays: Mapping[str, npt.NDArray[Any]],
) -> Elements:
    """Return the elements of ``fields`` and ``arrays``; what these say takes the place of ``options``.

    Raises:
        PluginError: the quantizer is none of the registered ones.
        UnsupportedError: the quantizer cannot be made of its steps again.
    """
    name = fields.get("quantizer", _SCALAR)
    options = replace(
        options, bits=fields["bits"], rescore=fields["rescore"], quantizer_name=name,
        quantizer=Quantizer if name == _SCALAR else load_registry("quantizers")[name],
    )  # fmt: skip
    made = Elements(settings, options, fields["max_elements"])
    labels = np.asarray(arrays["labels"])
    if "vectors" in arrays:
        made.rows = ExactVectors(settings.dim, settings.space)
        made.rows.append(arrays["vectors"])
        made.rows.mark(np.flatnonzero(arrays["deleted"]), True)
    else:
        made.rows = _restored_graph(settings, options, fields, arrays)
    if len(labels):
        made.labels.assign(labels, np.arange(len(labels)))
    return made


def _restored_graph(
    settings: ElementSettings, options: WrapOptions, fields: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
) -> CodedGraph:
    quantizer = _restored_quantizer(settings.space, options, fields, arrays)
    rows = CodedGraph(quantizer, settings.graph, fields["max_elements"], OutlierRule(quantizer, fields["error_limit"]))
    rows.fill(
        arrays["codes"], arrays.get("residuals"), level0=arrays["level0"], element_levels=arrays["element_levels"],
        link_lists=arrays["link_lists"], entry_point=fields["entry_point"], max_level=fields["max_level"],
        originals=arrays.get("originals"),
    )  # fmt: skip
    outside: list[int] = arrays["outside_ids"].tolist()
    kept = [None] * len(outside) if "originals" in arrays else np.array(arrays["outside_vectors"])
    rows.outside = dict(zip(outside, kept, strict=True))
    return rows


def _restored_quantizer(
    space: str, options: WrapOptions, fields: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
) -> Any:
    cls = options.quantizer
    if not hasattr(cls, "from_affine"):
        raise UnsupportedError(
            f"the quantizer {options.quantizer_name!r} has no from_affine(), see knn_adapters.Quantizer: "
            "its codes cannot be taken from a file or a pickle"
        )
    return cls.from_affine(
        space, np.array(arrays["scale"]), np.array(arrays["offset"]), fields["clip"], bits=fields["bits"],
        span=fields["span"], feedback=np.array(arrays["feedback"]) if "feedback" in arrays else None,
    )  # fmt: skip
