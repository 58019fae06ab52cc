"""The README's code is run, so that it cannot go stale."""

from __future__ import annotations

import re
import sys
import types
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

import hf_integration
import knn_adapters
from mp_plugins import ENTRY_POINT_GROUP, load_registry

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def code_block(containing):
    blocks = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if containing in block]
    assert len(blocks) == 1, f"{len(blocks)} Python blocks of the README contain {containing!r}"
    return blocks[0]


@pytest.fixture
def _installed_plugin(monkeypatch):
    module = types.ModuleType("my_plugin")
    exec(code_block("# my_plugin.py"), module.__dict__)  # noqa: S102  # our own README
    ours = list(entry_points(group=ENTRY_POINT_GROUP))
    entry_point = EntryPoint("my-plugin", "my_plugin", ENTRY_POINT_GROUP)
    monkeypatch.setitem(sys.modules, "my_plugin", module)
    monkeypatch.setattr("mp_plugins.manager.entry_points", lambda group: [*ours, entry_point])


@pytest.mark.usefixtures("_installed_plugin")
def test_the_strangers_plugin_registers_a_criterion():
    criterion = load_registry("exit_criteria")["margin"](hf_integration.MagicPyramidConfig())
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert criterion.uncertainty(logits).tolist() == pytest.approx([0.0, 1.0], abs=1e-3)


@pytest.mark.usefixtures("_installed_plugin")
def test_a_model_takes_the_strangers_criterion():
    bert = BertForSequenceClassification(
        BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37, vocab_size=99)
    )
    model = hf_integration.attach(bert, exit_criterion="margin", exit_threshold=0.5)
    assert type(model.exit_criterion).__name__ == "Margin"


def test_an_index_is_wrapped_as_shown():
    rng = np.random.default_rng(0)
    names = {"vectors": rng.normal(size=(300, 384)).astype(np.float32), "queries": rng.normal(size=(5, 384))}
    exec(code_block("knn_adapters.wrap(index)"), names)  # noqa: S102  # our own README
    assert names["labels"].shape == (5, 10)
    assert knn_adapters.stats(names["index"]).n_vectors == 300


def test_the_stand_in_for_hnswlib_is_used_as_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vectors = np.random.default_rng(0).normal(size=(300, 384)).astype(np.float32)
    exec(code_block("from knn_adapters import hnswlib"), {"vectors": vectors, "knn_adapters": knn_adapters})  # noqa: S102
    plain = pytest.importorskip("hnswlib").Index(space="cosine", dim=384)
    plain.load_index("plain.bin")
    assert plain.get_current_count() == 300


def test_the_stand_in_for_faiss_is_used_as_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    names = {"vectors": rng.normal(size=(700, 384)).astype(np.float32), "queries": rng.normal(size=(5, 384))}
    exec(code_block("from knn_adapters import faiss"), names)  # noqa: S102  # our own README
    assert names["ids"].max() < 100
    assert pytest.importorskip("faiss").read_index("stock.faiss").ntotal == 700


def test_the_stand_in_for_annoy_is_used_as_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vectors = np.random.default_rng(0).normal(size=(300, 384)).astype(np.float32)
    names = {"vectors": vectors}
    exec(code_block("from knn_adapters import annoy"), names)  # noqa: S102  # our own README
    loaded = names["annoy"].AnnoyIndex(384, "angular")
    assert loaded.load("codes.mp")
    assert loaded.get_n_items() == 300
