import annoy
import numpy as np
import pytest

import mp_plugins
from knn_adapters import annoy_nodes
from knn_adapters.annoy_forest import PLANE_ZERO_POINT, Forest
from knn_adapters.annoy_nodes import detect_metric, opened_copy


def leaves_below(forest, node):
    """The leaves that a walk from an encoded node reaches."""
    if node < 0:
        return [-1 - node]
    return [leaf for child in forest.children[node] for leaf in leaves_below(forest, child)]


@pytest.mark.parametrize("metric", ["angular", "euclidean", "dot"])
def test_every_tree_holds_every_item_once(build, small, metric):
    with opened_copy(build["annoy"](small, metric), metric) as nodes:
        forest = Forest.of(nodes)
    assert len(forest.roots) == 10
    for root in forest.roots:
        held = [
            item
            for leaf in leaves_below(forest, root)
            for item in forest.leaf_items[forest.leaf_offsets[leaf] : forest.leaf_offsets[leaf + 1]]
        ]
        assert sorted(held) == list(range(len(small)))


@pytest.mark.parametrize("metric", ["angular", "euclidean", "dot"])
def test_planes_send_items_where_annoy_put_them(build, small, metric):
    """Annoy puts an item on side 1 of a plane where its margin is positive; few are so close that 8 bits flip it."""
    with opened_copy(build["annoy"](small, metric), metric) as nodes:
        forest = Forest.of(nodes)
    normals = forest.plane_scale[:, np.newaxis] * (forest.plane_codes.astype(np.float32) - PLANE_ZERO_POINT)
    margins = small @ normals.T + forest.plane_bias
    agreeing = []
    for plane, children in enumerate(forest.children):
        for side, child in enumerate(children):
            for leaf in leaves_below(forest, child):
                items = forest.leaf_items[forest.leaf_offsets[leaf] : forest.leaf_offsets[leaf + 1]]
                agreeing.extend((margins[items, plane] > 0) == bool(side))
    assert np.mean(agreeing) > 0.98


def test_the_metric_is_recognised_whatever_the_items(small):
    for metric in ("angular", "euclidean", "dot", "manhattan", "hamming"):
        for items in (small, np.zeros((3, 24)), np.ones((1, 24))):
            index = annoy.AnnoyIndex(24, metric)
            for item, vector in enumerate(items):
                index.add_item(item, vector)
            index.build(2)
            assert detect_metric(index) == metric


def test_the_copy_is_gone_afterwards(build, small, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with opened_copy(build["annoy"](small), "angular"):
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_a_copy_that_cannot_be_written_is_reported(build, small, tmp_path, monkeypatch):
    index = build["annoy"](small)
    monkeypatch.setattr(type(tmp_path), "__truediv__", lambda self, _: type(self)("/nowhere/forest.ann"))
    with pytest.raises(Exception, match="cannot be written"), opened_copy(index, "angular"):
        pass
    assert index.get_n_items() == len(small)


@pytest.mark.parametrize("metric", ["angular", "euclidean", "dot"])
def test_the_metric_is_told_when_the_first_query_asked_is_an_item(metric):
    query = np.random.default_rng((annoy_nodes._METRIC_QUERIES, 0)).standard_normal(8)
    index = annoy.AnnoyIndex(8, metric)
    for item in range(50):
        index.add_item(item, query.tolist())
    index.build(2)
    assert detect_metric(index) == metric


def test_an_index_without_a_reachable_item_has_no_metric():
    class Silent:
        f = 4

        def get_n_items(self):
            return 1

        def get_n_trees(self):
            return 1

        def get_nns_by_vector(self, *_, **__):
            return [], []

    with pytest.raises(mp_plugins.UnsupportedError, match="metric of the AnnoyIndex is not recognised"):
        detect_metric(Silent())
