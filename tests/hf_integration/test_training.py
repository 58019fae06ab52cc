from __future__ import annotations

import pytest
import torch
from transformers import BertForSequenceClassification, Trainer, TrainingArguments

import hf_integration
from hf_integration.class_weights import weights_of_classes
from mp_plugins import ArgumentError, UnsupportedError


@pytest.fixture(scope="session")
def rows():
    """Texts of two classes: the class is whether token 5 or token 6 occurs."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for index in range(48):
        length = int(torch.randint(4, 14, (1,), generator=generator))
        ids = torch.randint(10, 99, (length,), generator=generator)
        ids[0], ids[int(torch.randint(1, length, (1,), generator=generator))] = 1, 5 + index % 2
        found.append({"input_ids": ids.tolist(), "attention_mask": [1] * length, "labels": index % 2})
    return found


def collate(batch):
    longest = max(len(row["input_ids"]) for row in batch)
    padded = {
        name: torch.tensor([row[name] + [0] * (longest - len(row[name])) for row in batch])
        for name in ("input_ids", "attention_mask")
    }
    return {**padded, "labels": torch.tensor([row["labels"] for row in batch])}


@pytest.fixture
def train(rows, tmp_path):
    def make(model, stage, options=None, resume=None, **arguments):
        settings = {
            "num_train_epochs": 3,
            "learning_rate": 2e-3,
            "per_device_train_batch_size": 8,
            "save_strategy": "no",
            "logging_steps": 1,
            **arguments,
        }
        trainer = hf_integration.MagicPyramidTrainer(
            model=model,
            args=TrainingArguments(
                str(tmp_path / stage), report_to="none", use_cpu=True, disable_tqdm=True, **settings
            ),
            train_dataset=rows,
            data_collator=collate,
            stage=stage,
            **(options or {}),
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return make


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(model, before):
    after = model.state_dict()
    return {name.split(".")[0] for name, tensor in before.items() if not torch.equal(tensor, after[name])}


@pytest.fixture
def model(make_pyramid):
    torch.manual_seed(0)
    config = hf_integration.MagicPyramidConfig(**{**make_pyramid().config.to_dict(), "num_labels": 2, "id2label": None})
    return hf_integration.MagicPyramidForSequenceClassification(config)


def test_finetune_trains_the_backbone_alone_and_unpruned(model, train):
    model.token_pruner.keep_thresholds.data.fill_(0.9)
    before = snapshot(model)
    trainer = train(model, "finetune", num_train_epochs=8)
    assert changed(model, before) == {"bert", "classifier"}
    found = losses(trainer)
    assert sum(found[-6:]) < 0.8 * sum(found[:6])
    assert model.config.keep_scale == 1.0
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_soft_moves_thresholds_alone_and_logs_what_is_kept(model, train):
    before = snapshot(model)
    trainer = train(model, "soft", {"threshold_reach": 0.9, "keep_penalty": 1.0})
    assert changed(model, before) == {"token_pruner"}
    assert (model.token_pruner.keep_thresholds > 0.1).all()
    kept = [entry["kept"] for entry in trainer.state.log_history if "kept" in entry]
    assert kept[-1] < kept[0] <= 1
    own = trainer.optimizer.param_groups[-1]
    assert (own["initial_lr"], own["weight_decay"]) == (2 * 0.9 / trainer.state.max_steps, 0.0)
    assert own["params"] == list(model.token_pruner.parameters())


@pytest.mark.parametrize("epochs", [2, 12])
def test_thresholds_travel_their_reach_whatever_the_number_of_steps(model, train, epochs):
    train(model, "soft", {"threshold_reach": 0.2, "keep_penalty": 10.0}, num_train_epochs=epochs)
    assert model.token_pruner.keep_thresholds.tolist() == pytest.approx([0.2] * 3, rel=0.2)


def test_the_head_has_a_learning_rate_of_its_own(model, train):
    trainer = train(model, "finetune", {"head_learning_rate": 0.02}, num_train_epochs=1)
    own = trainer.optimizer.param_groups[-1]
    assert own["initial_lr"] == 0.02
    assert {id(parameter) for parameter in own["params"]} == {
        id(parameter) for module in (model.bert.pooler, model.classifier) for parameter in module.parameters()
    }
    everything = [id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]]
    assert len(everything) == len(set(everything))


def test_soft_without_a_penalty_does_not_raise_thresholds_by_itself(model, train):
    train(model, "soft", {"keep_penalty": 0.0})
    assert (model.token_pruner.keep_thresholds.abs() < 0.5).all()


def test_hard_trains_weights_on_pruned_texts(model, train):
    model.token_pruner.keep_thresholds.data.fill_(0.9)
    before = snapshot(model)
    train(model, "hard")
    assert changed(model, before) == {"bert", "classifier"}
    assert model.token_pruner.keep_thresholds.tolist() == pytest.approx([0.9] * 3)


def test_hard_learns_from_the_answers_before_pruning(model, train, rows):
    train(model, "finetune", num_train_epochs=8)
    model.config.exit_threshold = 0.9
    # All but [CLS] and the last token of a text go.
    model.token_pruner.keep_thresholds.data.fill_(5.0)
    batch = collate(rows)
    labels = batch.pop("labels")

    def divergence():
        with torch.no_grad():
            return torch.nn.functional.kl_div(
                model(**batch).logits.log_softmax(-1), before, reduction="batchmean"
            ).item()

    model.eval().set_speed(0.0)
    before = model(**batch).logits.softmax(-1).detach()
    model.config.keep_scale = 1.0
    pruned = divergence()
    # Labels that say the opposite change nothing where the teacher has all the weight.
    for row in rows:
        row["labels"] = 1 - row["labels"]
    try:
        trainer = train(model, "hard", {"distillation_weight": 1.0}, num_train_epochs=10)
    finally:
        for row, label in zip(rows, labels.tolist(), strict=True):
            row["labels"] = label
    model.eval()
    assert divergence() < 0.5 * pruned
    assert losses(trainer)[-1] < losses(trainer)[0]


def test_exits_train_classifiers_alone_and_run_the_backbone_once(model, train):
    train(model, "finetune", num_train_epochs=8)
    calls = []
    model.bert.embeddings.register_forward_hook(lambda *_: calls.append(1))
    before = snapshot(model)
    trainer = train(model, "exits", {"distillation_weight": 0.1}, num_train_epochs=40, learning_rate=0.01)
    assert len(calls) == 6
    assert changed(model, before) == {"internal_classifiers", "lexical_classifier"}
    found = losses(trainer)
    assert sum(found[-6:]) < 0.8 * sum(found[:6])
    model.set_speed(exit_threshold=0.9)
    model.eval()
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] > 0
    with torch.no_grad():
        assert (
            model(**{k: v for k, v in collate(trainer.train_dataset).items() if k != "labels"}).exit_layer < 4
        ).any()


def test_joint_trains_everything_at_once_and_ends_with_hard_decisions(model, train, rows):
    before = snapshot(model)
    options = {"threshold_reach": 0.9, "keep_penalty": 1.0, "head_learning_rate": 5e-3}
    trainer = train(model, "joint", options, num_train_epochs=20)
    assert changed(model, before) == {
        "bert", "classifier", "internal_classifiers", "lexical_classifier", "token_pruner",
    }  # fmt: skip
    found = losses(trainer)
    assert sum(found[-6:]) < 0.8 * sum(found[:6])
    assert {group["initial_lr"] for group in trainer.optimizer.param_groups if group["params"]} == {
        2e-3, 5e-3, 2 * 0.9 / trainer.state.max_steps,
    }  # fmt: skip
    batch = {name: tensor for name, tensor in collate(rows).items() if name != "labels"}
    with torch.no_grad():
        hard = model.eval().exit_states(**batch)
        model.config.execution = "masked"
        soft = model.exit_states(soft_temperature=1e-6, **batch)
    # What the exits read at the lowest temperatures is what they read of tokens that are gone.
    torch.testing.assert_close(soft.pooled, hard.pooled, atol=2e-3, rtol=1e-3)
    assert (hard.kept[:, 2] < batch["attention_mask"].sum(1)).any()


def test_joint_does_without_a_pruner(make_pyramid, train):
    model = make_pyramid(token_pruner=None, num_labels=2)
    assert len(losses(train(model, "joint"))) == 18


@pytest.mark.parametrize("stage", ["finetune", "soft", "hard", "exits", "joint"])
def test_weights_of_classes_reach_the_loss_of_every_stage(make_pyramid, train, stage):
    found = {}
    for name, weights in (("none", None), ("even", [1.0, 1.0]), ("first", [1.0, 1e-6]), ("balanced", "balanced")):
        options = {"class_weights": weights, "distillation_weight": 0.0}
        found[name] = losses(train(make_pyramid(num_labels=2), stage, options, num_train_epochs=1))
    assert found["even"] == pytest.approx(found["none"], rel=1e-5)
    # The two classes of these texts are equally frequent.
    assert found["balanced"] == pytest.approx(found["none"], rel=1e-5)
    assert found["first"] != pytest.approx(found["none"], rel=1e-2)


def test_balanced_weights_are_the_inverse_of_the_frequency():
    labels = torch.tensor([0, 0, 0, 1, -100, 3])
    found = weights_of_classes("balanced", labels, 4)
    assert found.tolist() == pytest.approx([5 / 12, 5 / 4, 5 / 4, 5 / 4])
    assert weights_of_classes([1, 2], labels, 2).tolist() == [1.0, 2.0]
    assert weights_of_classes(None, labels, 2) is None


def test_class_weights_are_for_single_labels(make_pyramid):
    with pytest.raises(ArgumentError, match="`class_weights` must be None for a head without single labels"):
        hf_integration.MagicPyramidTrainer(model=make_pyramid(problem_type="regression"), class_weights="balanced")


@pytest.mark.parametrize("stage", ["soft", "exits", "joint"])
def test_an_interrupted_stage_resumes_to_the_same_end(make_pyramid, train, tmp_path, stage):
    whole, resumed = make_pyramid(num_labels=2), make_pyramid(num_labels=2)
    arguments = {"save_strategy": "steps", "save_steps": 6, "num_train_epochs": 2}
    train(whole, stage, **arguments)
    train(resumed, stage, resume=str(tmp_path / stage / "checkpoint-6"), **arguments)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("stage", ["exits", "joint"])
def test_opinions_are_weighed_on_held_out_texts(model, train, rows, stage):
    train(model, "finetune", num_train_epochs=4)
    # Held-out texts whose labels are the opposite: nothing that was learned counts.
    opposite = [{**row, "labels": 1 - row["labels"]} for row in rows]
    train(model, stage, num_train_epochs=8, learning_rate=0.01)
    equally = model.internal_classifiers.opinion_weights.clone()
    assert (equally == 0.5).all()
    train(model, stage, {"calibration_dataset": opposite}, num_train_epochs=8, learning_rate=0.01)
    assert (model.internal_classifiers.opinion_weights < 0.3).all()


def test_soft_masks_near_zero_and_one_equal_hard_pruning(make_pyramid, make_batch):
    model = make_pyramid(keep_threshold=0.7)
    batch = make_batch([9, 14, 5])
    with torch.no_grad():
        hard = model(**batch)
        soft = model(**batch, soft_temperature=1e-7)
    torch.testing.assert_close(soft.tokens_kept[:, :3], hard.tokens_kept[:, :3].float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(soft.logits, hard.logits, atol=1e-2, rtol=1e-2)


def test_plain_bert_trains_alike_in_compact_execution(make_bert, rows, tmp_path, train):
    bert = make_bert(num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    twin = BertForSequenceClassification(bert.config)
    twin.load_state_dict(bert.state_dict())
    train(hf_integration.attach(bert), "finetune", num_train_epochs=1)
    arguments = TrainingArguments(
        str(tmp_path / "plain"),
        num_train_epochs=1,
        learning_rate=2e-3,
        per_device_train_batch_size=8,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(model=twin, args=arguments, train_dataset=rows, data_collator=collate).train()
    weight = "classifier.weight"
    torch.testing.assert_close(bert.get_parameter(weight), twin.get_parameter(weight), atol=2e-3, rtol=1e-2)


def test_run_stages_reports_each_stage(model, rows, tmp_path):
    short = {stage: {"num_train_epochs": 1, "disable_tqdm": True} for stage in ("finetune", "soft", "hard", "exits")}
    seen = []
    reports = hf_integration.run_stages(
        model, rows, output_dir=tmp_path, training_arguments=short, after_stage=seen.append, data_collator=collate
    )
    assert [report.stage for report in reports] == ["finetune", "soft", "hard", "exits"]
    assert seen == reports
    assert all(report.seconds > 0 for report in reports)
    with pytest.raises(ArgumentError, match="`stages` must be among"):
        hf_integration.run_stages(model, rows, output_dir=tmp_path, stages=["hrad"])


def test_chosen_threshold_keeps_the_accuracy_asked_for(model, train, rows):
    train(model, "finetune", num_train_epochs=8)
    train(model, "exits", num_train_epochs=40, learning_rate=0.01)
    batches = [collate(rows[start : start + 16]) for start in range(0, 48, 16)]
    choice = hf_integration.choose_exit_threshold(model, batches, max_drop=0.05)
    assert choice.accuracy >= choice.full_accuracy - 0.05
    model.set_speed(exit_threshold=choice.threshold)
    model.eval()
    outputs = []
    with torch.no_grad():
        outputs = [model(**{**batch, "labels": None}) for batch in batches]
    answers = torch.cat([output.logits.argmax(-1) for output in outputs])
    labels = torch.tensor([row["labels"] for row in rows])
    assert (answers == labels).double().mean().item() == pytest.approx(choice.accuracy)
    assert torch.cat([output.exit_layer for output in outputs]).double().mean().item() == pytest.approx(
        choice.mean_exit_layer
    )
    assert torch.cat([output.flops for output in outputs]).mean().item() == pytest.approx(choice.mean_flops, rel=1e-5)


def test_choosing_a_threshold_refuses_what_it_cannot_do(make_pyramid, make_batch):
    batch = make_batch([3, 4])
    with pytest.raises(ArgumentError, match="`max_drop`"):
        hf_integration.choose_exit_threshold(make_pyramid(), [batch], max_drop=2)
    with pytest.raises(ArgumentError, match="`batches` must have `labels`"):
        hf_integration.choose_exit_threshold(make_pyramid(), [batch], max_drop=0.1)
    with pytest.raises(ArgumentError, match="`batches` must hold"):
        hf_integration.choose_exit_threshold(make_pyramid(), [], max_drop=0.1)
    regression = make_pyramid(problem_type="regression")
    with pytest.raises(UnsupportedError, match="not for regression"):
        hf_integration.choose_exit_threshold(regression, [batch], max_drop=0.1)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"stage": "warm"}, "stage"),
        ({"head_learning_rate": -1.0}, "head_learning_rate"),
        ({"threshold_reach": 0.0}, "threshold_reach"),
        ({"keep_penalty": -1.0}, "keep_penalty"),
        ({"soft_temperature": 0.0}, "soft_temperature"),
        ({"distillation_weight": 1.5}, "distillation_weight"),
        ({"distillation_temperature": float("nan")}, "distillation_temperature"),
        ({"class_weights": [1.0]}, "class_weights"),
        ({"class_weights": [1.0, -1.0]}, "class_weights"),
        ({"class_weights": "even"}, "class_weights"),
    ],
)
def test_trainer_options_out_of_range_are_named(model, options, argument):
    with pytest.raises(ArgumentError, match=f"`{argument}` must"):
        hf_integration.MagicPyramidTrainer(model=model, **options)


def test_stages_without_anything_to_train_are_refused(make_pyramid, make_bert, train):
    top_k = {"token_pruner": "top-k"}
    with pytest.raises(ArgumentError, match="without pruning layers"):
        train(make_pyramid(token_pruner=None), "soft")
    with pytest.raises(ArgumentError, match="'top-k', which learns nothing"):
        train(make_pyramid(**top_k), "soft")
    for stage in ("exits", "joint"):
        with pytest.raises(ArgumentError, match="without exit layers"):
            train(make_pyramid(exit_layers=[]), stage)
    with pytest.raises(ArgumentError, match="`model` must be a Magic Pyramid"):
        train(make_bert(), "finetune")
