"""Every token pruner, over all families."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainingArguments

import hf_integration
from hf_integration import ClsAttentionPruner, GatePruner, MagicPyramidConfig, TokenEvidence, TopKPruner
from hf_integration.attention import packed_attention
from hf_integration.batching import pad_rows
from hf_integration.packing import Packing
from mp_plugins import ArgumentError, load_registry

PRUNERS = ("attention", "cls-attention", "top-k", "gate")
EVERY_PRUNER = pytest.mark.parametrize("pruner", PRUNERS)
# Not as keywords, which the linter takes for passwords.
TOP_K, GATE = {"token_pruner": "top-k"}, {"token_pruner": "gate"}
# What makes each of them drop tokens of these random models.
STRONG = {
    "attention": {"keep_threshold": 0.8},
    "cls-attention": {"keep_threshold": 0.8},
    "top-k": {"keep_rate": 0.4},
    "gate": {},
}


def run(model, batch, **changes):
    for name, value in changes.items():
        setattr(model.config, name, value)
    with torch.no_grad():
        return model(**batch)


def evidence(lengths, *, importance=None, states=None, initial_lengths=None, protected=None, depth=1):
    packing = Packing(tuple(lengths), torch.arange(len(lengths)))
    if protected is None:
        protected = torch.zeros(sum(lengths), dtype=torch.bool)
    protected = protected.index_fill(0, packing.first_tokens, 1)
    start = torch.tensor(initial_lengths or lengths)
    return TokenEvidence(depth, importance, states, protected, packing, start)


@pytest.fixture(scope="session")
def pyramids(make_plain):
    """One Magic Pyramid per family and pruner, with random internal classifiers and gates."""
    made = {}

    def get(family, pruner, kind="ForSequenceClassification"):
        if (family, pruner, kind) not in made:
            model = hf_integration.attach(make_plain(family, kind), token_pruner=pruner, **STRONG[pruner])
            generator = torch.Generator().manual_seed(3)
            if kind == "ForSequenceClassification":
                for head in model.internal_classifiers.heads:
                    head.weight.data.normal_(0, 0.15, generator=generator)
            if pruner == "gate":
                model.token_pruner.weight.data.normal_(0, 1.0, generator=generator)
                model.token_pruner.bias.data.fill_(0.2)
            made[family, pruner, kind] = model
        return made[family, pruner, kind]

    return get


@settings(derandomize=True, deadline=None, max_examples=80)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    rate=st.floats(0.05, 1.0),
    scale=st.floats(0, 1),
    depth=st.integers(1, 3),
    already_gone=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_top_k_is_sorting_each_text(lengths, rate, scale, depth, already_gone, seed):
    config = MagicPyramidConfig(num_hidden_layers=4, **TOP_K, keep_rate=rate, keep_scale=scale)
    pruner = TopKPruner(config)
    generator = torch.Generator().manual_seed(seed)
    # Few distinct values, so that many are equal.
    importance = torch.randint(0, 4, (sum(lengths),), generator=generator).float()
    initial = [length + already_gone for length in lengths]
    seen = evidence(lengths, importance=importance, initial_lengths=initial, depth=depth)
    found, start = pruner.keep_mask(seen).tolist(), 0
    for length, before in zip(lengths, initial, strict=True):
        share = 1 - scale * (1 - (1 - (1 - rate) * depth / 3))
        count = min(length, max(1, math.ceil(before * share - 1e-9)))
        values = importance[start : start + length].tolist()
        # [CLS] first, then by importance, then by position.
        ranked = sorted(range(length), key=lambda place: (place != 0, -values[place], place))
        assert found[start : start + length] == [place in ranked[:count] for place in range(length)]
        start += length


def test_top_k_takes_a_share_per_layer():
    config = MagicPyramidConfig(num_hidden_layers=4, **TOP_K, keep_rate=[0.9, 0.5, 0.5], keep_scale=0.5)
    assert TopKPruner(config).rates() == pytest.approx([0.95, 0.75, 0.75])
    assert TopKPruner(MagicPyramidConfig(num_hidden_layers=4, **TOP_K)).rates() == [1.0] * 3


def test_top_k_leaves_as_many_tokens_as_asked_for(pyramids, make_inputs, family):
    model = pyramids(family, "top-k")
    lengths = [1, 2, 10, 17]
    kept = run(model, make_inputs(family, lengths), exit_threshold=0.0).tokens_kept.tolist()
    for length, counts in zip(lengths, kept, strict=True):
        assert counts[:3] == [math.ceil(length * share - 1e-9) for share in (0.8, 0.6, 0.4)]


def test_importance_to_cls_is_the_first_row_of_softmax():
    torch.manual_seed(0)
    lengths, heads, width = [5, 1, 300], 2, 8
    query, key, value = torch.randn(3, sum(lengths), heads * width)
    context, importance = packed_attention(query, key, value, lengths, num_heads=heads, importance="first")
    plain, _ = packed_attention(query, key, value, lengths, num_heads=heads)
    torch.testing.assert_close(context, plain)
    start = 0
    for length in lengths:
        rows = slice(start, start + length)
        q, k = (tensor[rows].view(length, heads, width).transpose(0, 1) for tensor in (query, key))
        row = torch.softmax(q @ k.transpose(1, 2) / width**0.5, dim=-1)[:, 0].mean(0)
        torch.testing.assert_close(importance[rows], row * length, atol=1e-5, rtol=1e-5)
        start += length


def test_the_gate_is_a_linear_map_and_keeps_what_passes_more_likely_than_not():
    pruner = GatePruner(MagicPyramidConfig(hidden_size=16, num_attention_heads=4, **GATE))
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(50, 16, generator=generator)
    pruner.weight.data.normal_(0, 2, generator=generator)
    pruner.bias.data.fill_(0.3)
    seen = evidence([20, 30], states=states, depth=2)
    logits = states @ pruner.weight[1] / 4 + 0.3
    assert pruner.keep_mask(seen).tolist() == (logits >= 0).tolist()
    assert 10 < pruner.keep_mask(seen).sum() < 40
    pruner.config.keep_scale = 0.5
    assert pruner.keep_mask(seen).tolist() == (logits.sigmoid() >= 0.25).tolist()


@EVERY_PRUNER
def test_a_fresh_pruner_keeps_all(make_plain, make_inputs, family, pruner):
    plain, batch = make_plain(family), make_inputs(family, [9, 1, 17])
    model = hf_integration.attach(plain, token_pruner=pruner)
    assert not model.token_pruner.is_active()
    received = run(model, batch)
    assert received.tokens_kept.tolist() == [[length] * 4 for length in (9, 1, 17)]
    torch.testing.assert_close(received.logits, run(plain, batch).logits, atol=1e-5, rtol=0)
    if pruner in ("top-k", "gate"):
        # In the soft stage too, where the others weigh tokens of little importance down from the start.
        soft = run(model, {**batch, "soft_temperature": 0.1})
        torch.testing.assert_close(soft.logits, received.logits, atol=0.1, rtol=0.1)


@EVERY_PRUNER
@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    name=st.sampled_from(sorted(load_registry("model_families"))),
    lengths=st.lists(st.integers(1, 17), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
    keep_scale=st.floats(0, 1),
    exit_threshold=st.floats(0, 1),
    protected=st.lists(st.integers(2, 98), max_size=30),
)
def test_masked_equals_compact_and_alone_equals_in_a_batch(
    pyramids, make_inputs, pruner, name, lengths, seed, keep_scale, exit_threshold, protected
):
    family = load_registry("model_families")[name]
    model, batch = pyramids(family, pruner), make_inputs(family, lengths, seed)
    changes = {"keep_scale": keep_scale, "exit_threshold": exit_threshold, "protected_token_ids": protected}
    masked = run(model, batch, execution="masked", **changes)
    compact = run(model, batch, execution="compact")
    assert compact.exit_layer.tolist() == masked.exit_layer.tolist()
    assert compact.tokens_kept.tolist() == masked.tokens_kept.tolist()
    assert compact.flops.tolist() == masked.flops.tolist()
    torch.testing.assert_close(compact.logits, masked.logits, atol=1e-4, rtol=1e-4)
    for row, length in enumerate(lengths):
        alone = run(model, {name: values[row : row + 1, :length] for name, values in batch.items()})
        assert alone.tokens_kept[0].tolist() == compact.tokens_kept[row].tolist()
        torch.testing.assert_close(alone.logits[0], compact.logits[row], atol=1e-4, rtol=1e-4)


@EVERY_PRUNER
def test_these_models_drop_some_tokens(pyramids, make_inputs, family, pruner):
    # Guards the property above.
    model = pyramids(family, pruner)
    lengths = torch.tensor([17, 12, 8])
    output = run(
        model, make_inputs(family, lengths.tolist()), keep_scale=1.0, exit_threshold=0.0, protected_token_ids=None
    )
    assert (output.tokens_kept[:, 2] < lengths).all()
    assert (output.tokens_kept[:, 0] > 1).any()


@EVERY_PRUNER
@pytest.mark.parametrize("kind", ["ForTokenClassification", "Model"])
def test_heads_that_read_every_token_take_every_pruner(pyramids, make_inputs, family, pruner, kind):
    model, batch = pyramids(family, pruner, kind), make_inputs(family, [9, 1, 14])
    compact, masked = run(model, batch, execution="compact"), run(model, batch, execution="masked")
    assert compact.tokens_kept.tolist() == masked.tokens_kept.tolist()
    assert (compact.tokens_kept[:, 2] < torch.tensor([9, 2, 14])).all()
    torch.testing.assert_close(compact.to_tuple()[0], masked.to_tuple()[0], atol=1e-4, rtol=1e-4)


@EVERY_PRUNER
@pytest.mark.parametrize("execution", ["compact", "masked"])
def test_protected_tokens_stay_to_the_end(pyramids, make_inputs, family, pruner, execution):
    model, batch = pyramids(family, pruner), make_inputs(family, [12, 17, 5])
    strongest = {"attention": {"keep_threshold": 1e9}, "cls-attention": {"keep_threshold": 1e9}}
    strongest |= {"top-k": {"keep_rate": [1e-6] * 3}, "gate": {"keep_threshold": 1e9}}
    ids = batch["input_ids"]
    chosen = ids[0, [2, 5, 7]].tolist() + ids[2, [3]].tolist()
    before = model.config.to_dict()
    output = run(
        model,
        batch,
        execution=execution,
        protected_token_ids=chosen,
        exit_threshold=0.0,
        keep_scale=1.0,
        **strongest[pruner],
    )
    wanted = torch.isin(ids, torch.tensor(chosen)) & batch["attention_mask"].bool()
    wanted[:, 0] = True
    assert output.tokens_kept[:, :3].tolist() == [[count] * 3 for count in wanted.sum(1).tolist()]
    for name in ("keep_threshold", "keep_rate", "protected_token_ids"):
        setattr(model.config, name, before[name])


@EVERY_PRUNER
def test_soft_masks_near_zero_and_one_equal_hard_pruning(pyramids, make_inputs, pruner):
    family = load_registry("model_families")["bert"]
    model, batch = pyramids(family, pruner), make_inputs(family, [9, 14, 5])
    hard = run(model, batch, execution="masked", exit_threshold=0.0, keep_scale=1.0, protected_token_ids=[7, 8, 9])
    soft = run(model, {**batch, "soft_temperature": 1e-7})
    torch.testing.assert_close(soft.tokens_kept[:, :3], hard.tokens_kept[:, :3].float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(soft.logits, hard.logits, atol=1e-2, rtol=1e-2)
    assert soft.flops.isfinite().all()


@EVERY_PRUNER
def test_operations_agree_with_torchs_counter(pyramids, make_inputs, count_flops, family, pruner):
    model = pyramids(family, pruner)
    # Texts of DeBERTa share what is computed of the distances.
    batch = make_inputs(family, [13])
    for name, value in {"execution": "compact", "exit_threshold": 0.0, "keep_scale": 1.0}.items():
        setattr(model.config, name, value)
    total, output = count_flops(model, batch)
    assert output.flops.double().sum().item() == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_importance_that_is_not_a_number_keeps_the_token(sign):
    importance = torch.tensor([1.0, math.copysign(math.nan, sign), 0.0, 0.5])
    for made, fields in ((ClsAttentionPruner, {"keep_threshold": 0.7}), (TopKPruner, {"keep_rate": 0.5})):
        pruner = made(MagicPyramidConfig(num_hidden_layers=2, **fields))
        assert pruner.keep_mask(evidence([4], importance=importance)).tolist()[1:] == [True, False, False]


@pytest.fixture
def train(tmp_path):
    def make(model, stage, **options):
        generator = torch.Generator().manual_seed(3)
        rows = []
        for index in range(32):
            ids = torch.randint(10, 99, (6 + index % 5,), generator=generator)
            ids[0], ids[2] = 1, 5 + index % 2
            rows.append({"input_ids": ids.tolist(), "labels": index % 2})
        arguments = TrainingArguments(
            str(tmp_path),
            num_train_epochs=6,
            learning_rate=2e-3,
            per_device_train_batch_size=8,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = hf_integration.MagicPyramidTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=lambda some: pad_rows(some, pad_token_id=0),
            stage=stage,
            **options,
        )
        trainer.train()
        return pad_rows(rows, pad_token_id=0)

    return make


@pytest.mark.parametrize("pruner", [name for name in PRUNERS if name != "top-k"])
def test_the_soft_stage_trains_what_a_pruner_learns(make_pyramid, train, pruner):
    model = make_pyramid(trained=False, token_pruner=pruner, num_labels=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = train(model, "soft", threshold_reach=4.0, keep_penalty=5.0)
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"token_pruner"}
    model.eval()
    assert (run(model, {**batch, "labels": None}).tokens_kept[:, 2] < batch["attention_mask"].sum(1)).all()
    train(model, "hard")


@EVERY_PRUNER
def test_checkpoints_keep_the_pruner(pyramids, make_inputs, family, pruner, tmp_path):
    model, batch = pyramids(family, pruner), make_inputs(family, [9, 14])
    model.config.keep_scale, model.config.exit_threshold = 1.0, 0.0
    model.save_pretrained(tmp_path)
    loaded = hf_integration.MagicPyramidForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded.token_pruner) is type(model.token_pruner)
    expected, received = run(model, batch), run(loaded, batch)
    assert received.tokens_kept.tolist() == expected.tokens_kept.tolist()
    torch.testing.assert_close(received.logits, expected.logits, atol=1e-6, rtol=1e-6)


def test_settings_that_a_pruner_does_not_follow_are_refused(make_pyramid):
    with pytest.raises(ArgumentError, match=r"`keep_threshold` must be None for the pruner 'top-k'.* use `keep_rate`"):
        make_pyramid(**TOP_K, keep_threshold=0.5)
    with pytest.raises(ArgumentError, match="`keep_rate` must be None for the pruner 'attention'"):
        make_pyramid(keep_rate=0.5)
    model = make_pyramid()
    with pytest.raises(ArgumentError, match="`keep_rate` must be None"):
        model.set_speed(keep_rate=0.5)
    assert model.config.keep_rate is None
    model = make_pyramid(**TOP_K)
    model.set_speed(keep_rate=0.5)
    assert (model.config.keep_rate, model.config.keep_scale, model.config.speed) == (0.5, 1.0, None)
    with pytest.raises(ArgumentError, match="`keep_threshold` must be None"):
        model.set_speed(keep_threshold=0.5)
    assert model.config.keep_threshold is None


def test_pruning_by_speed_is_monotone(pyramids, make_inputs, family):
    batch = make_inputs(family, [12, 17])
    for pruner in PRUNERS:
        model = pyramids(family, pruner)
        spent = [
            run(model, batch, exit_threshold=0.0, keep_scale=scale, protected_token_ids=None).flops.sum().item()
            for scale in (0.0, 0.4, 1.0)
        ]
        # Where next to nothing is dropped, what the pruner itself computes is left over.
        judging = 2 * model.token_pruner.macs_per_token * (12 + 17) * len(model.config.pruning_depths)
        assert spent[0] > spent[-1]
        assert spent[0] + judging >= spent[1]


@pytest.mark.parametrize("execution", ["compact", "masked"])
@pytest.mark.parametrize("pruner", ["attention", "cls-attention"])
def test_importance_is_relative_to_the_tokens_that_may_be_pruned(make_plain, make_inputs, family, pruner, execution):
    # One threshold for all lengths: what [CLS] draws would weigh the more the shorter a text is.
    separator, settings = 3, {"keep_threshold": 0.8, "execution": execution}
    batch = make_inputs(family, [9, 2, 17, 5])
    batch["input_ids"][0, 4] = batch["input_ids"][2, 10] = separator
    model = hf_integration.attach(make_plain(family), token_pruner=pruner, protected_token_ids=[separator], **settings)
    seen, decide = [], model.token_pruner.keep_mask
    model.token_pruner.keep_mask = lambda evidence: seen.append(evidence) or decide(evidence)
    run(model, batch)
    assert [found.depth for found in seen] == [1, 2, 3]
    for found in seen:
        # [CLS] of ModernBERT does not see everything, and what it does not see is kept.
        counted = ~found.protected & found.importance.isfinite()
        for sample in range(len(found.packing.lengths)):
            mine = found.importance[counted & (found.packing.segment_ids == sample)]
            assert mine.tolist() == [] or float(mine.mean()) == pytest.approx(1, abs=1e-5)
    assert seen[0].protected.sum() == 4 + 2
