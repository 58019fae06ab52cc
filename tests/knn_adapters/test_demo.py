import json
from xml.etree import ElementTree

import numpy as np
import pytest

import mp_plugins
from knn_adapters.demo import IndexesPart
from knn_adapters.recall import normalised


@pytest.fixture(scope="module")
def section(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    context = mp_plugins.DemoContext(folder, folder, seed=0, num_threads=2)
    unit = normalised(words)
    context.artifacts |= {"embeddings": unit[:1500], "query_embeddings": unit[5000:5040]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("knn_adapters.comparison._SECONDS", 0.0)
        return IndexesPart().run(context)


def test_every_index_is_measured_beside_its_original(section):
    assert len(section.data) == 4
    for figures in section.data.values():
        assert set(figures["curves"]) == {"original", "wrapped"}
        for points in figures["curves"].values():
            assert all(point["queries_per_second"] > 0 and 0 <= point["recall"] <= 1 for point in points)
    json.dumps(section.data)


def test_memory_and_recall_keep_their_promises(section):
    checks = [check for check in section.checks if "faster" not in check.promise]
    assert len(checks) == 8
    assert all(check.passed for check in checks), checks


def test_tables_are_rectangular_and_figures_are_svg(section):
    for table in section.tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
    for figure in section.figures:
        assert ElementTree.fromstring(figure.svg).tag.endswith("svg")  # noqa: S314  # made by this very test
    assert "recall@10" in section.figures[0].svg
    assert "bytes per vector" in section.figures[1].svg


def test_embeddings_that_are_not_finite_are_refused(tmp_path):
    context = mp_plugins.DemoContext(tmp_path, tmp_path, seed=0, num_threads=1)
    context.artifacts |= {"embeddings": np.full((3, 4), np.nan), "query_embeddings": np.ones((1, 4))}
    with pytest.raises(mp_plugins.ArgumentError, match="`embeddings` must hold finite numbers"):
        IndexesPart().run(context)
