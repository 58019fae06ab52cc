"""The properties of sequence classifiers over all families."""

from __future__ import annotations

import inspect
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification

import hf_integration
from mp_plugins import ArgumentError, load_registry

EXECUTIONS = pytest.mark.parametrize("execution", ["compact", "masked"])


def run(model, batch, **changes):
    for name, value in changes.items():
        setattr(model.config, name, value)
    with torch.no_grad():
        return model(**batch)


@pytest.fixture(scope="session")
def pyramids(make_plain):
    """One Magic Pyramid per family, with random internal classifiers."""
    made = {}

    def get(family, dtype=torch.float32):
        if (family, dtype) not in made:
            model = hf_integration.attach(make_plain(family))
            generator = torch.Generator().manual_seed(3)
            for head in model.internal_classifiers.heads:
                head.weight.data.normal_(0, 0.15, generator=generator)
            made[family, dtype] = model.to(dtype)
        return made[family, dtype]

    return get


@EXECUTIONS
def test_neutral_is_the_plain_model(make_plain, make_inputs, family, execution):
    plain = make_plain(family)
    pyramid = hf_integration.attach(plain, execution=execution)
    batch = make_inputs(family, [9, 1, 17, 4])
    expected, received = run(plain, batch), run(pyramid, batch)
    torch.testing.assert_close(received.logits, expected.logits, atol=1e-5, rtol=0)
    assert received.tokens_kept.tolist() == [[length] * 4 for length in (9, 1, 17, 4)]


@EXECUTIONS
def test_neutral_is_the_plain_model_on_embeddings_and_given_positions(make_plain, make_inputs, family, execution):
    plain = make_plain(family)
    pyramid = hf_integration.attach(plain, execution=execution)
    batch = make_inputs(family, [12, 7])
    embedded = {**batch, "inputs_embeds": plain.get_input_embeddings()(batch.pop("input_ids"))}
    embedded.pop("input_ids")
    placed = {**embedded, "position_ids": torch.arange(20, 32)[None]}
    # DistilBERT takes positions in late releases of transformers only.
    takes_positions = "position_ids" in inspect.signature(plain.forward).parameters
    for inputs in (embedded, placed) if takes_positions else (embedded,):
        torch.testing.assert_close(run(pyramid, inputs).logits, run(plain, inputs).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_neutral_in_half_precision_stays_close_to_the_plain_model(make_plain, make_inputs, family, dtype):
    plain = make_plain(family)
    batch = make_inputs(family, [9, 1, 17, 4])
    exact = run(plain, batch).logits
    plain.to(dtype)
    received = run(hf_integration.attach(plain), batch).logits
    assert received.dtype == dtype
    # As far from the exact logits as the plain model in this type, up to a factor for another order of rounding.
    error = (run(plain, batch).logits.float() - exact).abs().max()
    assert (received.float() - exact).abs().max() <= 3 * error


CASE = {
    "family": st.sampled_from(sorted(load_registry("model_families"))),
    "lengths": st.lists(st.integers(1, 17), min_size=1, max_size=5),
    "seed": st.integers(0, 1000),
    "keep_threshold": st.lists(st.floats(0, 2), min_size=3, max_size=3),
    "exit_threshold": st.floats(0, 1),
}


DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


@settings(derandomize=True, deadline=None, max_examples=60)
@given(**CASE, dtype=DTYPES)
def test_masked_equals_compact(pyramids, make_inputs, family, lengths, seed, dtype, **changes):
    family = load_registry("model_families")[family]
    model, batch = pyramids(family, dtype), make_inputs(family, lengths, seed)
    compact = run(model, batch, execution="compact", **changes)
    masked = run(model, batch, execution="masked", **changes)
    # 0 where a sample had left.
    same = (compact.tokens_kept == masked.tokens_kept).all(1)
    if dtype == torch.float32:
        assert compact.exit_layer.tolist() == masked.exit_layer.tolist()
        assert same.all()
    # In half precision another order of sums rounds otherwise, and may decide otherwise at a threshold.
    tolerance = 1e-4 if dtype == torch.float32 else 0.15
    torch.testing.assert_close(compact.logits[same], masked.logits[same], atol=tolerance, rtol=tolerance)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(**CASE, dtype=DTYPES)
def test_alone_equals_in_a_batch(pyramids, make_inputs, family, lengths, seed, dtype, **changes):
    family = load_registry("model_families")[family]
    model, batch = pyramids(family, dtype), make_inputs(family, lengths, seed)
    together = run(model, batch, execution="compact", **changes)
    for row, length in enumerate(lengths):
        alone = run(model, {name: values[row : row + 1, :length] for name, values in batch.items()})
        if dtype == torch.float32:
            assert alone.exit_layer.item() == together.exit_layer[row]
            assert alone.tokens_kept[0].tolist() == together.tokens_kept[row].tolist()
        # In half precision another shape rounds otherwise, and may decide otherwise at a threshold.
        elif alone.tokens_kept[0].tolist() != together.tokens_kept[row].tolist():
            continue
        tolerance = 1e-4 if dtype == torch.float32 else 0.15
        torch.testing.assert_close(alone.logits[0], together.logits[row], atol=tolerance, rtol=tolerance)


def middle_uncertainty(model, batch):
    """Return an exit threshold at which half of the texts leave at the embeddings, between those of two texts."""
    with torch.no_grad():
        first = model.internal_classifiers(0, model.exit_states(**batch).pooled[:, 0])
    ranked = model.exit_criterion.uncertainty(first).sort().values
    return ranked[len(ranked) // 2 - 1 :][:2].mean().item()


def test_large_batches_equal_small_ones(pyramids, make_inputs, family):
    lengths = [1 + 7 * row % 23 for row in range(512)]
    model, batch = pyramids(family), make_inputs(family, lengths)
    changes = {"keep_threshold": 0.7, "exit_threshold": middle_uncertainty(model, batch)}
    whole = run(model, batch, execution="compact", **changes)
    for rows in (slice(0, 1), slice(100, 137), slice(511, 512)):
        part = run(model, {name: values[rows] for name, values in batch.items()})
        assert part.exit_layer.tolist() == whole.exit_layer[rows].tolist()
        assert part.tokens_kept.tolist() == whole.tokens_kept[rows].tolist()
        torch.testing.assert_close(part.logits, whole.logits[rows], atol=1e-4, rtol=1e-4)
    masked = run(model, batch, execution="masked")
    # Of this many decisions, rounding may turn one.
    same = (masked.tokens_kept == whole.tokens_kept).all(1)
    assert same.sum() > 500
    torch.testing.assert_close(masked.logits[same], whole.logits[same], atol=1e-4, rtol=1e-4)


def test_decisions_of_these_models_vary(pyramids, make_inputs, family):
    # Guards the properties above against models that keep everything or leave at once.
    lengths = [17, 12, 8, 5, 14, 9]
    model, batch = pyramids(family), make_inputs(family, lengths)
    output = run(model, batch, keep_threshold=0.7, exit_threshold=middle_uncertainty(model, batch), execution="compact")
    assert len(set(output.exit_layer.tolist())) > 1
    stayed = output.exit_layer >= 1
    assert (output.tokens_kept[stayed, 0] < torch.tensor(lengths)[stayed]).any()


def test_saving_and_loading_keep_everything(make_plain, make_inputs, family, tmp_path):
    hf_integration.register()
    settings_ = {"exit_layers": [0, 2], "exit_threshold": 0.3, "keep_threshold": 0.6}
    model = hf_integration.attach(make_plain(family, id2label={0: "no", 1: "yes", 2: "maybe"}), **settings_)
    for head in model.internal_classifiers.heads:
        head.weight.data.normal_(0, 0.2)
    model.token_pruner.keep_thresholds.data.fill_(0.4)
    model.save_pretrained(tmp_path)
    batch = make_inputs(family, [5, 16, 9])
    for load in (AutoModelForSequenceClassification, hf_integration.MagicPyramidForSequenceClassification):
        loaded = load.from_pretrained(tmp_path)
        assert type(loaded) is type(model)
        assert loaded.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
        assert {name: getattr(loaded.config, name) for name in settings_} == settings_
        assert loaded.token_pruner.keep_thresholds.tolist() == pytest.approx([0.4] * 3)
        torch.testing.assert_close(run(loaded, batch).logits, run(model, batch).logits, atol=1e-6, rtol=1e-6)


def test_plain_checkpoints_load_by_every_door(make_plain, make_inputs, family, tmp_path):
    plain = make_plain(family)
    plain.save_pretrained(tmp_path)
    batch = make_inputs(family, [5, 16])
    expected = run(plain, batch).logits
    hf_integration.register()
    config = hf_integration.MagicPyramidConfig.from_pretrained(tmp_path)
    assert isinstance(config, hf_integration.MagicPyramidConfig)
    doors = [
        AutoModelForSequenceClassification.from_pretrained(tmp_path, config=config),
        hf_integration.MagicPyramidForSequenceClassification.from_pretrained(tmp_path),
    ]
    hf_integration.install()
    doors.append(AutoModelForSequenceClassification.from_pretrained(tmp_path))
    hf_integration.uninstall()
    assert type(AutoModelForSequenceClassification.from_pretrained(tmp_path)) is type(plain)
    for model in doors:
        assert isinstance(model, hf_integration.MagicPyramidForSequenceClassification)
        torch.testing.assert_close(run(model, batch).logits, expected, atol=1e-5, rtol=0)


def test_detaching_gives_the_plain_model(make_plain, make_inputs, family, tmp_path):
    plain = make_plain(family)
    model = hf_integration.attach(plain, exit_threshold=0.1)
    assert hf_integration.detach(model) is plain
    model.save_pretrained(tmp_path)
    loaded = hf_integration.MagicPyramidForSequenceClassification.from_pretrained(tmp_path)
    bare = hf_integration.detach(loaded)
    assert type(bare) is type(plain)
    assert type(bare.config) is type(plain.config)
    assert not hasattr(bare.config, "exit_threshold")
    batch = make_inputs(family, [5, 16])
    torch.testing.assert_close(run(bare, batch).logits, run(plain, batch).logits)


def test_configurations_and_models_are_pickled(make_plain, family):
    model = hf_integration.attach(make_plain(family), exit_threshold=0.1)
    config = pickle.loads(pickle.dumps(model.config))  # noqa: S301 - our own bytes
    assert type(config) is type(model.config)
    assert config.to_dict() == model.config.to_dict()
    assert type(pickle.loads(pickle.dumps(model))) is type(model)  # noqa: S301 - our own bytes


def test_losses_are_those_of_the_plain_model(make_plain, make_inputs, family):
    plain = make_plain(family)
    batch = {**make_inputs(family, [4, 7]), "labels": torch.tensor([0, 2])}
    model = hf_integration.attach(plain)
    torch.testing.assert_close(run(model, batch).loss, run(plain, batch).loss)
    for labels in ([0, 3], [-1, 0]):
        with pytest.raises(ArgumentError, match=r"`labels` must be whole numbers from 0 to 2, .*, got \[(3|-1)\]"):
            model(**{**batch, "labels": torch.tensor(labels)})
    with pytest.raises(ArgumentError, match=r"`labels` must have the shape \(2,\), got \(3,\)"):
        model(**{**batch, "labels": torch.tensor([0, 1, 2])})


def test_texts_longer_than_the_model_are_refused(make_plain, family):
    model = hf_integration.attach(make_plain(family))
    model(input_ids=torch.full((1, 40), 5))
    with pytest.raises(ArgumentError, match="at most 40 positions, got 41"):
        model(input_ids=torch.full((1, 41), 5))


def test_padding_on_the_left_moves_cls_to_the_first_live_token(make_plain, make_inputs, family):
    model = hf_integration.attach(make_plain(family), keep_threshold=0.6)
    right = make_inputs(family, [9, 17])
    left = {name: torch.stack([values[0].roll(8), values[1]]) for name, values in right.items()}
    # Families that count positions from the left edge need to be told them.
    positions = torch.arange(17).expand(2, 17) + torch.tensor([[-8], [0]])
    if not isinstance(family, hf_integration.RobertaFamily):
        left["position_ids"] = positions.clamp_min(0)
    torch.testing.assert_close(run(model, left).logits, run(model, right).logits, atol=1e-5, rtol=0)


def test_operations_agree_with_torchs_counter(make_plain, make_inputs, count_flops, family):
    # One text: those of a batch share what DeBERTa computes of the distances.
    lengths = [13]
    plain, batch = make_plain(family), make_inputs(family, lengths)
    pyramid = hf_integration.attach(plain, keep_threshold=0.7)
    total, _ = count_flops(plain, batch)
    assert hf_integration.baseline_flops(torch.tensor(lengths), plain.config).sum().item() == total
    total, output = count_flops(pyramid, batch)
    assert output.flops.double().sum().item() == pytest.approx(total, rel=1e-6)
