"""Wrong arguments are refused with the argument, the rule, the value and the remedy; nothing crashes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from knn_adapters import _core


@pytest.fixture
def flat(oracle: SimpleNamespace) -> _core.FlatSearcher:
    items = oracle.make_items(20, 4)
    return _core.FlatSearcher(items.codes, items.norms, items.scale, items.offset, "l2")


QUERIES = np.ones((2, 4), np.float32)


@pytest.mark.parametrize(
    ("queries", "k", "match"),
    [
        (QUERIES, 0, "`k` must be at least 1, got 0: pass the number of neighbours that you want"),
        (QUERIES, -3, "`k` must be at least 1, got -3"),
        (QUERIES[:, :3].copy(), 1, "`queries` must have 4 columns as the codes do, got 3"),
        (QUERIES[0], 1, r"`queries` must be a C-contiguous float32 array of 2 dimension\(s\), got float32 .*\(4,\)"),
        (QUERIES.astype(np.float64), 1, r"got float64 of shape \(2, 4\)"),
        (np.ones((4, 8), np.float32)[:, ::2], 1, "not contiguous"),
        (QUERIES * np.float32("nan"), 1, "`queries` must be finite, got -?nan at row 0, column 0"),
        (np.array([[1, 2, 3, 4], [1, 2, np.inf, 4]], np.float32), 1, "got inf at row 1, column 2"),
    ],
)
def test_search_refuses(flat: _core.FlatSearcher, queries: np.ndarray, k: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        flat.search(queries, k)


@pytest.mark.parametrize("queries", [[[1.0] * 4], None, "text"])
def test_search_wants_an_array(flat: _core.FlatSearcher, queries: Any) -> None:
    with pytest.raises(TypeError):
        flat.search(queries, 1)


def test_a_result_that_does_not_fit_memory_is_a_memory_error(flat: _core.FlatSearcher) -> None:
    with pytest.raises((MemoryError, ValueError)):
        flat.search(QUERIES, 2**60)


def arguments(**changes: Any) -> dict[str, Any]:
    ones = np.ones(4, np.float32)
    given = {
        "codes": np.ones((3, 4), np.uint8),
        "norms": np.ones(3, np.float32),
        "scale": ones,
        "offset": ones,
        "metric": "l2",
    }
    return {**given, **changes}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"codes": np.ones((3, 4), np.int8)}, "`codes` must be a C-contiguous uint8 array"),
        ({"codes": np.ones((3, 0), np.uint8)}, "dimension of the vectors must be 1 to 65536, got 0"),
        ({"codes": np.ones((1, 65537), np.uint8)}, "dimension of the vectors must be 1 to 65536, got 65537"),
        ({"norms": None}, "`norms` must be given"),
        ({"norms": np.ones(2, np.float32)}, "`norms` must have length 3, the number of codes, got 2"),
        ({"scale": np.ones(3, np.float32)}, "`scale` must have length 4, the dimension of the vectors, got 3"),
        ({"scale": np.full(4, np.nan, np.float32)}, "`scale` must be finite"),
        ({"scale": np.full(4, -1, np.float32)}, "`scale` must not be negative, got -1"),
        ({"offset": np.full(4, np.inf, np.float32)}, "`offset` must be finite, got inf"),
        ({"metric": "dot"}, '`metric` must be "l2", "ip" or "cosine", got "dot"'),
        ({"level": "sse9"}, '`level` must be one of serial.*, got "sse9"'),
    ],
)
def test_constructor_refuses(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        _core.FlatSearcher(**arguments(**changes))


@pytest.mark.parametrize("call", [_core.encode, _core.squared_norms, _core.decode])
def test_functions_check_dimensions(call: Callable[..., Any]) -> None:
    rows = np.ones((2, 3), np.float32 if call is _core.encode else np.uint8)
    with pytest.raises(ValueError, match="`scale` must have length 3"):
        call(rows, np.ones(4, np.float32), np.ones(3, np.float32))


def test_encode_refuses_nan() -> None:
    ones = np.ones(2, np.float32)
    with pytest.raises(ValueError, match=r"`vectors` must be finite, got -?nan at row 0, column 1"):
        _core.encode(np.array([[1, np.nan]], np.float32), ones, ones)


def test_ef_and_search_k_must_be_positive() -> None:
    ones = np.ones(4, np.float32)
    graph = _core.LinkedGraphSearcher(
        np.ones((1, 4), np.uint8), None, np.array([0, 1], np.uint64), np.array([-1], np.int32),
        np.array([0, 1], np.int32), 0, 0, ones, ones, "ip",
    )  # fmt: skip
    with pytest.raises(ValueError, match="`ef` must be at least 1, got 0"):
        graph.search(QUERIES, 1, 0)
    with pytest.raises(ValueError, match="`k` must be at least 1, got 0"):
        graph.search(QUERIES, 0, 1)
    assert graph.search(QUERIES, 2, 1)[1].tolist() == [[0, -1], [0, -1]]
