"""Training under gradient checkpointing and in mixed precision, by seed, and of heads that read every token."""

from __future__ import annotations

import pytest
import torch

import hf_integration
from hf_integration.batching import pad_rows
from hf_integration.compatibility import make_arguments
from mp_plugins import ArgumentError, load_registry

STAGES = ("finetune", "soft", "hard", "exits", "joint")


@pytest.fixture(scope="module")
def rows():
    """Texts whose class is whether token 5 or 6 occurs; the class of a token is whether it is one of those."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for index in range(32):
        ids = torch.randint(10, 99, (6 + index % 7,), generator=generator)
        ids[0], ids[2 + index % 4] = 1, 5 + index % 2
        found.append({"input_ids": ids.tolist(), "labels": index % 2})
    return found


def collate_texts(some):
    return pad_rows(some, pad_token_id=0)


def collate_tokens(some):
    batch = collate_texts(some)
    ids = batch["input_ids"]
    labels = (ids == 5).long() + 2 * (ids == 6).long()
    return {**batch, "labels": labels.masked_fill(batch["attention_mask"] == 0, -100)}


def collate_answers(some):
    batch = collate_texts(some)
    ids = batch["input_ids"]
    place = ((ids == 5) | (ids == 6)).long().argmax(1)
    batch.pop("labels", None)
    return {**batch, "start_positions": place, "end_positions": place}


@pytest.fixture
def train(rows, tmp_path, monkeypatch):
    def make(model, stage, collate=collate_texts, options=None, **arguments):
        settings = {
            "num_train_epochs": 2,
            "learning_rate": 2e-3,
            "per_device_train_batch_size": 8,
            "save_strategy": "no",
            "logging_steps": 1,
            **arguments,
        }
        # Arguments of transformers 4 that ask for a precision leave it here for all that follow.
        monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
        trainer = hf_integration.MagicPyramidTrainer(
            model=model,
            args=make_arguments(
                {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, "disable_tqdm": True, **settings}
            ),
            train_dataset=rows,
            data_collator=collate,
            stage=stage,
            **(options or {}),
        )
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    return make


def saved_bytes(model, batch, **options):
    """Return the loss of one pass, its gradients, and how much it keeps for them."""
    kept = []
    torch.manual_seed(1)
    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor.nbytes), tensor)[1], lambda x: x):
        loss = model(**batch, **options).loss
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss, gradients, sum(kept)


def set_checkpointing(model, what, *arguments):
    # Late releases of 5 have a wider name for it.
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{name}_checkpointing_{what}")(*arguments)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("mode", ["compact", "masked", "soft"])
@pytest.mark.parametrize("pruner", ["attention", "cls-attention", "top-k", "gate"])
def test_gradient_checkpointing_gives_the_same_gradients(make_pyramid, make_batch, mode, pruner, use_reentrant):
    fields = {"keep_rate": 0.5} if pruner == "top-k" else {"keep_threshold": 0.7}
    model = make_pyramid(token_pruner=pruner, execution="compact" if mode == "compact" else "masked", **fields).train()
    # Above 0 in this configuration: what is dropped must be the same when the layers run again.
    assert model.config.hidden_dropout_prob > 0
    assert model.config.attention_probs_dropout_prob > 0
    batch = {**make_batch([9, 14, 5]), "labels": torch.tensor([0, 1, 2])}
    options = {"soft_temperature": 0.3} if mode == "soft" else {}
    plain = saved_bytes(model, batch, **options)
    set_checkpointing(model, "enable", {"use_reentrant": use_reentrant})
    checkpointed = saved_bytes(model, batch, **options)
    torch.testing.assert_close(checkpointed[0], plain[0])
    assert checkpointed[1].keys() == plain[1].keys()
    for name, gradient in plain[1].items():
        torch.testing.assert_close(checkpointed[1][name], gradient, atol=1e-5, rtol=1e-4, msg=name)
    assert checkpointed[2] < 0.7 * plain[2]
    set_checkpointing(model, "disable")
    assert saved_bytes(model, batch, **options)[2] == plain[2]


def test_gradient_checkpointing_of_every_family_and_head(make_plain, make_inputs, family):
    for kind in ("ForSequenceClassification", "ForTokenClassification"):
        model = hf_integration.attach(make_plain(family, kind), keep_threshold=0.7).train()
        batch = make_inputs(family, [9, 14])
        labels = torch.tensor([0, 1]) if kind == "ForSequenceClassification" else torch.ones(2, 14, dtype=torch.long)
        plain = saved_bytes(model, {**batch, "labels": labels})
        set_checkpointing(model, "enable")
        checkpointed = saved_bytes(model, {**batch, "labels": labels})
        assert checkpointed[2] < plain[2]
        for name, gradient in plain[1].items():
            torch.testing.assert_close(checkpointed[1][name], gradient, atol=1e-5, rtol=1e-4, msg=name)
        set_checkpointing(model, "disable")


def assert_trained_alike(one, other):
    """Compare the losses and the parameters of two trainings."""
    assert other[0] == pytest.approx(one[0], rel=1e-3)
    for name, tensor in one[1].items():
        # The bias of keys cancels in the softmax: its gradient is rounding, which the optimiser scales up to steps.
        atol = 0.05 if name.endswith("key.bias") else 1e-3
        torch.testing.assert_close(other[1][name], tensor, atol=atol, rtol=1e-2, msg=name)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_alike_under_gradient_checkpointing(make_pyramid, train, stage):
    found = []
    for checkpointing in (False, True):
        model = make_pyramid(num_labels=2, trained=stage != "exits")
        found.append((train(model, stage, activation_checkpointing=checkpointing), model.state_dict()))
    assert_trained_alike(*found)


@pytest.mark.parametrize("stage", STAGES)
def test_accumulated_batches_train_as_one_batch_does(make_pyramid, train, stage):
    found = []
    for batch_size, accumulated in ((16, 1), (4, 4)):
        # Dropout draws anew for every batch.
        model = make_pyramid(num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        losses = train(model, stage, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulated)
        found.append((losses, model.state_dict()))
    assert len(found[0][0]) == 4
    assert_trained_alike(*found)


@pytest.mark.parametrize("pruner", ["attention", "gate"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_in_mixed_precision(make_pyramid, train, stage, pruner):
    model = make_pyramid(num_labels=2, trained=False, token_pruner=pruner)
    # Far thresholds at a high price, so that those alone bring the loss of `soft` down.
    options = {"keep_penalty": 5.0, "threshold_reach": 1.0} if stage == "soft" else {}
    losses = train(model, stage, options=options, bf16=True, num_train_epochs=8, learning_rate=3e-3)
    assert sum(losses[-4:]) < sum(losses[:4])
    # The weights, and so the thresholds, stay in full precision.
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_states_for_the_exits_are_collected_in_the_precision_of_the_training(make_pyramid, train, monkeypatch):
    collect, mixed = hf_integration.training.collect_exit_states, []

    def spy(*arguments, **options):
        mixed.append(torch.is_autocast_enabled("cpu"))
        return collect(*arguments, **options)

    monkeypatch.setattr(hf_integration.training, "collect_exit_states", spy)
    for bf16 in (True, False):
        train(make_pyramid(num_labels=2, trained=False), "exits", bf16=bf16)
    assert mixed == [True, False]


@pytest.mark.parametrize("stage", STAGES)
def test_a_seed_decides_everything(make_pyramid, train, stage):
    def run(seed, other):
        torch.manual_seed(other)
        model = make_pyramid(num_labels=2)
        torch.manual_seed(other)
        losses = train(model, stage, seed=seed)
        return losses, model.state_dict()

    (losses, first), (again, second), (others, _) = run(1, 5), run(1, 6), run(2, 5)
    assert losses == again
    assert losses != others
    for name, tensor in first.items():
        assert torch.equal(second[name], tensor), name


@pytest.mark.parametrize(
    ("kind", "collate"), [("ForTokenClassification", collate_tokens), ("ForQuestionAnswering", collate_answers)]
)
def test_heads_that_read_every_token_train_to_prune(make_plain, rows, train, kind, collate):
    family = load_registry("model_families")["bert"]
    labels = {"num_labels": 2} if kind == "ForQuestionAnswering" else {}
    config = make_plain(family, kind, **labels).config
    torch.manual_seed(0)
    # As transformers initialises it: the models of the other tests have weights too large to learn from.
    model = hf_integration.attach(family.plain_class(kind)(config))
    losses = train(model, "finetune", collate, {"head_learning_rate": 0.01}, num_train_epochs=15)
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    train(model, "soft", collate, {"threshold_reach": 1.0, "keep_penalty": 1.0}, num_train_epochs=4)
    assert (model.token_pruner.keep_thresholds > 0.1).all()
    frozen = model.token_pruner.keep_thresholds.tolist()
    train(model, "hard", collate)
    assert model.token_pruner.keep_thresholds.tolist() == frozen
    model.eval()
    batch = collate(rows)
    with torch.no_grad():
        output = model(**batch)
    assert (output.tokens_kept[:, 2] < batch["attention_mask"].sum(1)).any()
    with pytest.raises(ArgumentError, match="`stage` must not be 'exits' for a head that reads every token"):
        train(model, "exits", collate)


def test_a_model_without_a_head_has_nothing_to_train_by(make_plain, train):
    base = hf_integration.attach(make_plain(load_registry("model_families")["bert"], "Model"))
    with pytest.raises(ArgumentError, match="`model` must be a Magic Pyramid model with a head"):
        train(base, "soft")
