"""The order property of arXiv 2110.08919, with a margin derived from the steps.

Distances that differ by more than the quantization can move them keep their order.

With |x_i - x^_i| <= s_i / 2 inside the range, and a query folded to v_i with |q_i s_i - unit v_i| <= unit / 2:

    inner product:  |<q, x> - d^(x)|    <= sum |q_i| s_i / 2 + 255 d unit / 2
    squared L2:     ||q - x|^2 - d^(x)| <= sum s_i |q_i - x_i| + sum s_i^2 / 4 + 255 d unit
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from knn_adapters import Quantizer, _core

values = st.floats(-10, 10, width=32, allow_subnormal=False)


def error_bound(quantizer, query, items):
    scale = quantizer.scale.astype(np.float64)
    unit = _core.fold_query(query, quantizer.scale, quantizer.offset)[2]
    folding = 255 * quantizer.dim * unit / 2
    magnitude = np.abs(query).sum() * (np.abs(items).max() + 1) + (query**2).sum() + (items**2).sum(axis=1).max()
    # Squares of tiny values fall below what float32 holds, hence the absolute part.
    rounding = 16 * np.finfo(np.float32).eps * quantizer.dim * magnitude + np.finfo(np.float32).tiny
    if quantizer.metric == "ip":
        return np.full(len(items), (np.abs(query) * scale).sum() / 2 + folding + rounding)
    return np.abs(query - items) @ scale + (scale**2).sum() / 4 + 2 * folding + rounding


@pytest.mark.parametrize("metric", ["l2", "ip"])
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_distances_that_differ_by_more_than_the_margin_keep_their_order(metric, data):
    dim = data.draw(st.integers(1, 40))
    items = data.draw(arrays.arrays(np.float32, (data.draw(st.integers(2, 12)), dim), elements=values))
    query = data.draw(arrays.arrays(np.float32, (dim,), elements=values))
    quantizer = Quantizer(metric).train(items)
    codes = quantizer.encode(items)
    norms = _core.squared_norms(codes, quantizer.scale, quantizer.offset) if metric == "l2" else None
    searcher = _core.FlatSearcher(codes, norms, quantizer.scale, quantizer.offset, metric)
    distances, ids = searcher.search(query[np.newaxis], len(items))
    exact = (
        items.astype(np.float64) @ query if metric == "ip" else ((items.astype(np.float64) - query) ** 2).sum(axis=1)
    )
    bound = error_bound(quantizer, query, items.astype(np.float64))

    assert sorted(ids[0]) == list(range(len(items)))
    assert np.all(np.abs(distances[0] - exact[ids[0]]) <= bound[ids[0]])
    cost = -exact if metric == "ip" else exact
    position = np.argsort(ids[0])
    must_precede = (cost + bound)[:, np.newaxis] < (cost - bound)[np.newaxis, :]
    earlier, later = np.nonzero(must_precede)
    assert np.all(position[earlier] < position[later])
