"""Exported graphs: one program for batches of any size, which answers as the model does."""

from __future__ import annotations

import importlib.util
import io

import pytest
import torch

import hf_integration
from mp_plugins import load_registry

SIZES = ([9, 1, 17, 4], [12], [30, 2, 1, 8, 5])


def run(model, batch):
    with torch.no_grad():
        return model(**batch)


def shapes_of(batch):
    return {name: {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("seq", max=40)} for name in batch}


def export(model, batch):
    return torch.export.export(model.eval(), (), batch, dynamic_shapes=shapes_of(batch))


def assert_same(received, expected, live):
    assert set(received) == set(expected)
    for name, value in expected.items():
        found = received[name]
        assert found.dtype == value.dtype
        if found.shape == live.shape and value.is_floating_point():
            # What stands at padding is the plain model's affair.
            found, value = found[live], value[live]
        torch.testing.assert_close(found, value, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture(scope="module")
def make_shallow(make_plain):
    """Return a maker of plain models of two layers: an export takes seconds."""

    def make(family, kind="ForSequenceClassification", layers=2, **fields):
        name = "n_layers" if family.model_type == "distilbert" else "num_hidden_layers"
        return make_plain(family, kind, **{name: layers}, **fields)

    return make


def talkative(plain, *, words=0.5, **settings):
    """Attach a pyramid whose exits and words say something."""
    model = hf_integration.attach(plain, **settings)
    generator = torch.Generator().manual_seed(3)
    for head in model.internal_classifiers.heads:
        head.weight.data.normal_(0, 0.15, generator=generator)
    if model.lexical_classifier is not None:
        model.lexical_classifier.table.normal_(0, words, generator=generator)
        model.lexical_classifier.rarity.uniform_(1, 3, generator=generator)
    return model


def let_some_leave(model, batch):
    """Take an exit threshold below which some samples leave early and others don't."""
    for threshold in (0.5, 0.6, 0.7, 0.4, 0.8, 0.3, 0.9, 0.95, 0.99):
        model.config.exit_threshold = threshold
        layers = run(model, batch).exit_layer
        if len(layers.unique()) > 1:
            return model
    raise AssertionError("they all leave at the same exit")


def assert_exports(model, make, *, varied):
    """Hold the program of one batch against the model on others; ``varied`` fields must not be the same for all."""
    program = export(model, make(SIZES[0])).module()
    seen = {name: set() for name in varied}
    for seed, lengths in enumerate(SIZES):
        batch = make(lengths, seed)
        expected = run(model, batch)
        assert_same(run(program, batch), expected, batch["attention_mask"] != 0)
        for name in varied:
            seen[name].update(expected[name].flatten().tolist())
    assert all(len(values) > 1 for values in seen.values())


def test_every_family(make_shallow, make_inputs, family):
    model = talkative(make_shallow(family), keep_threshold=0.9)
    let_some_leave(model, make_inputs(family, SIZES[0]))
    assert_exports(model, lambda *given: make_inputs(family, *given), varied=("tokens_kept", "exit_layer"))


@pytest.mark.parametrize(
    "settings",
    [
        {"token_pruner": "top-k", "keep_rate": 0.5},
        {"token_pruner": "cls-attention", "keep_threshold": 0.8},
        {"token_pruner": "gate", "keep_threshold": 0.99},
        {"protected_token_ids": list(range(0, 99, 3)), "keep_threshold": 1.2},
    ],
    ids=lambda settings: settings.get("token_pruner", "protected"),
)
def test_every_pruner(make_shallow, make_inputs, settings):
    family = load_registry("model_families")["bert"]
    model = talkative(make_shallow(family), **settings)
    if settings.get("token_pruner") == "gate":
        model.token_pruner.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    assert_exports(model, lambda *given: make_inputs(family, *given), varied=("tokens_kept",))


@pytest.mark.parametrize("criterion", ["confidence", "confidence-margin", "patience", "agreement", "learned"])
def test_every_criterion(make_shallow, make_inputs, criterion):
    family = load_registry("model_families")["bert"]
    model = talkative(make_shallow(family, layers=3), words=6.0, exit_criterion=criterion)
    if criterion == "learned":
        for head in model.exit_criterion.rightness.heads:
            head.weight.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    let_some_leave(model, make_inputs(family, SIZES[0]))
    assert_exports(model, lambda *given: make_inputs(family, *given), varied=("exit_layer",))


def test_layers_behind_the_last_one_allowed_are_not_in_the_graph(make_shallow, make_inputs):
    family = load_registry("model_families")["bert"]
    model = talkative(make_shallow(family, layers=4), max_layers=1)
    let_some_leave(model, make_inputs(family, SIZES[0]))
    assert_exports(model, lambda *given: make_inputs(family, *given), varied=("exit_layer",))
    cut = export(model, make_inputs(family, SIZES[0]))
    assert not any("layer.1." in node.target for node in cut.graph.nodes if node.op == "get_attr")
    products = sum(node.target == torch.ops.aten.linear.default for node in cut.graph.nodes)
    # Six of the layer, and two classifiers.
    assert products == 8


def test_a_head_that_reads_the_mean(make_shallow, make_inputs):
    family = load_registry("model_families")["modernbert"]
    model = talkative(make_shallow(family, classifier_pooling="mean"), keep_threshold=0.9)
    assert_exports(model, lambda *given: make_inputs(family, *given), varied=("tokens_kept",))


@pytest.mark.parametrize("name", ["bert", "modernbert"])
@pytest.mark.parametrize("kind", ["Model", "ForTokenClassification", "ForQuestionAnswering"])
def test_heads_that_read_every_token(make_shallow, make_inputs, name, kind):
    family = load_registry("model_families")[name]
    labels = {"num_labels": 2} if kind == "ForQuestionAnswering" else {}
    model = hf_integration.attach(make_shallow(family, kind, **labels), keep_threshold=0.9)
    assert_exports(model, lambda *given: make_inputs(family, *given), varied=("tokens_kept",))


def test_padding_on_the_left(make_shallow, make_inputs):
    family = load_registry("model_families")["bert"]
    model = talkative(make_shallow(family), keep_threshold=0.9, exit_threshold=0.6)

    def make(lengths, seed=0):
        return {name: value.flip(1) for name, value in make_inputs(family, lengths, seed).items()}

    assert_exports(model, make, varied=("tokens_kept", "exit_layer"))


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "onnxscript")),
    reason="onnxruntime and onnxscript are not installed",
)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("pruner", [{"keep_threshold": 0.9}, {"token_pruner": "top-k", "keep_rate": 0.5}])
def test_onnx(make_shallow, make_inputs, pruner):
    import onnxruntime

    family = load_registry("model_families")["bert"]
    model, batch = talkative(make_shallow(family), exit_threshold=0.6, **pruner), make_inputs(family, SIZES[0])
    names = ["logits", "exit_layer", "tokens_kept", "flops"]
    program = torch.onnx.export(
        model, (), kwargs=batch, dynamic_shapes=shapes_of(batch), dynamo=True, output_names=names
    )
    written = io.BytesIO()
    program.save(written)
    session = onnxruntime.InferenceSession(written.getvalue())
    for seed, lengths in enumerate(SIZES):
        batch = make_inputs(family, lengths, seed)
        found = session.run(names, {name: value.numpy() for name, value in batch.items()})
        received = {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}
        assert_same(received, dict(run(model, batch)), batch["attention_mask"] != 0)
