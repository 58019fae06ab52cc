"""Inputs and slow, obviously right oracles for the compiled core."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from knn_adapters import _core

# Around every register width, and the dimensions that people have.
DIMS = (1, 2, 7, 13, 31, 32, 33, 63, 64, 65, 100, 384, 768, 1536)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `dim` or `level` at each of them."""
    if "dim" in metafunc.fixturenames:
        metafunc.parametrize("dim", DIMS)
    if "level" in metafunc.fixturenames:
        metafunc.parametrize("level", _core.simd_levels())


def make_items(n: int, dim: int, seed: int = 0) -> SimpleNamespace:
    """Random items with their codes, per-dimension steps and norms."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, dim)).astype(np.float32) * rng.uniform(0.2, 2, dim).astype(np.float32)
    low, high = vectors.min(0), vectors.max(0)
    scale = ((high - low) / 255).astype(np.float32)
    codes = _core.encode(vectors, scale, low)
    norms = _core.squared_norms(codes, scale, low)
    return SimpleNamespace(vectors=vectors, codes=codes, norms=norms, scale=scale, offset=low)


def lane_sum(values: np.ndarray) -> float:
    """Add in the order of the core: four running sums in double, then pairs of them."""
    lanes = [np.cumsum(values[lane::4])[-1] if len(values) > lane else 0.0 for lane in range(4)]
    return float(lanes[0] + lanes[1] + (lanes[2] + lanes[3]))


def rank(keys: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.lexsort((ids, keys))


def order_key(items: SimpleNamespace, metric: str, query: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The float32 key of the 8-bit query, by the formula of items.h."""
    high, _, unit, _ = _core.fold_query(query, items.scale, items.offset)
    dots = (items.codes[ids].astype(np.int64) @ high.astype(np.int64)).astype(np.float32)
    if metric != "l2":
        return -dots
    return items.norms[ids] + np.float32(-512 * unit) * dots


def exact_distance(items: SimpleNamespace, metric: str, query: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The float32 distance of the 16-bit query, by the formula of items.h."""
    high, low, unit, bias = _core.fold_query(query, items.scale, items.offset)
    folded = 256 * high.astype(np.int64) + low
    squares = lane_sum(query.astype(np.float64) ** 2)
    if metric == "cosine":
        inverse = 1 / np.sqrt(squares) if squares > 0 else 0.0
        unit, bias = unit * inverse, bias * inverse
    product = bias + unit * (items.codes[ids].astype(np.int64) @ folded).astype(np.float64)
    if metric != "l2":
        return product.astype(np.float32)
    return np.maximum(squares - 2 * product + items.norms[ids].astype(np.float64), 0).astype(np.float32)


def search_among(
    items: SimpleNamespace, metric: str, query: np.ndarray, k: int, among: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What a search must return that saw the items `among`: the 8-bit query's best, ranked by the 16-bit query."""
    keep = min(max(2 * k, k + 16), len(among))
    best = among[rank(order_key(items, metric, query, among), among)[:keep]]
    distances = exact_distance(items, metric, query, best)
    order = rank(distances if metric == "l2" else -distances, best)[:k]
    missing = k - len(order)
    return (
        np.concatenate([distances[order], np.full(missing, np.inf if metric == "l2" else -np.inf, np.float32)]),
        np.concatenate([best[order], np.full(missing, -1)]),
    )


def recall(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), true.tolist(), strict=True)]))


def clustered(n: int, dim: int, seed: int) -> np.ndarray:
    """Vectors with structure, as embeddings have: random ones have no neighbours to speak of."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((40, dim))
    return (centres[rng.integers(0, 40, n)] + 0.5 * rng.standard_normal((n, dim))).astype(np.float32)


def filled(
    codes: np.ndarray,
    *,
    scale: np.ndarray,
    offset: np.ndarray,
    metric: str,
    max_m: int,
    residuals: np.ndarray | None = None,
    span: float = 0.0,
    bits: int = 8,
    level: str = "auto",
    **arrays: Any,
) -> Any:
    """A graph that hnswlib built, over codes."""
    graph = _core.HnswGraph(
        len(scale), len(codes), scale, offset, metric, max_m=max_m, bits=bits, span=span, level=level
    )
    graph.fill(codes, residuals, **arrays)
    return graph


@pytest.fixture(scope="session")
def oracle() -> SimpleNamespace:
    """The functions above, for tests."""
    return SimpleNamespace(
        make_items=make_items,
        exact_distance=exact_distance,
        search_among=search_among,
        order_key=order_key,
        recall=recall,
        clustered=clustered,
        lane_sum=lane_sum,
        filled=filled,
    )
