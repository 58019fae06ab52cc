"""Every exit criterion, for every kind of head that it is defined for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, TrainingArguments

import hf_integration
from hf_integration import AgreementCriterion, ExitEvidence, LearnedCriterion, MagicPyramidConfig, PatienceCriterion
from hf_integration.batching import pad_rows
from hf_integration.exit_selection import record_exits
from mp_plugins import ArgumentError, load_registry

CLASSES = ("entropy", "confidence", "confidence-margin", "patience", "agreement", "learned")
NUMBERS = ("patience", "agreement", "learned")
PROBLEMS = {
    "single_label_classification": {"num_labels": 3},
    "multi_label_classification": {"num_labels": 3},
    "regression": {"num_labels": 2, "exit_tolerance": 2.0},
}
DEFINED = [
    (criterion, problem) for problem in PROBLEMS for criterion in (NUMBERS if problem == "regression" else CLASSES)
]


def config_of(problem, **fields):
    return MagicPyramidConfig(**{**PROBLEMS[problem], "problem_type": problem, **fields})


def run(model, batch, **changes):
    for name, value in changes.items():
        setattr(model.config, name, value)
    with torch.no_grad():
        return model(**batch)


def judged(criterion, logits):
    """What a criterion says after the last of ``[n, exits, labels]``."""
    return criterion(ExitEvidence(logits.shape[1] - 1, logits, torch.zeros(len(logits), 96)))


@pytest.fixture(scope="session")
def pyramids(make_pyramid):
    made = {}

    def get(criterion, problem):
        if (criterion, problem) not in made:
            model = make_pyramid(exit_criterion=criterion, problem_type=problem, **PROBLEMS[problem])
            if criterion == "learned":
                generator = torch.Generator().manual_seed(5)
                for head in model.exit_criterion.rightness.heads:
                    head.weight.data.normal_(0, 0.1, generator=generator)
            made[criterion, problem] = model
        return made[criterion, problem]

    return get


def answer_of(logits, problem):
    """The slow, obvious reading of one answer."""
    values = logits.tolist()
    if problem == "single_label_classification":
        return values.index(max(values))
    return [value > 0 for value in values]


HISTORIES = st.integers(1, 5).flatmap(
    lambda exits: st.lists(
        st.lists(
            st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=2, unique=True),
            min_size=exits,
            max_size=exits,
        ),
        min_size=1,
        max_size=4,
    )
)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(histories=HISTORIES, problem=st.sampled_from(sorted(PROBLEMS)))
def test_patience_counts_the_same_answers_in_a_row(histories, problem):
    config = config_of(problem, num_labels=2)
    found = judged(PatienceCriterion(config), torch.tensor(histories))
    for history, uncertainty in zip(histories, found.tolist(), strict=True):
        count, last = 1, torch.tensor(history[-1])
        for earlier in reversed(history[:-1]):
            earlier = torch.tensor(earlier)
            if problem == "regression":
                same = all(abs(a - b) < 2.0 for a, b in zip(last.tolist(), earlier.tolist(), strict=True))
            else:
                same = answer_of(last, problem) == answer_of(earlier, problem)
            if not same:
                break
            count, last = count + 1, earlier
        assert uncertainty == pytest.approx(1 / count)


@pytest.mark.parametrize(("threshold", "in_a_row"), [(1.0, 2), (0.4, 3), (0.3, 4)])
def test_patience_leaves_at_the_exit_that_its_threshold_means(make_pyramid, make_batch, threshold, in_a_row):
    model = make_pyramid(exit_criterion="patience", exit_threshold=threshold)
    for head in model.internal_classifiers.heads:
        head.weight.data.zero_()
        head.bias.data.copy_(torch.tensor([0.0, 1.0, 0.0]))
    # Exits are asked at the depths 0, 1, 2, 3.
    assert run(model, make_batch([5, 9])).exit_layer.tolist() == [in_a_row - 1] * 2


@settings(derandomize=True, deadline=None, max_examples=60)
@given(histories=HISTORIES)
def test_agreement_is_the_entropy_of_the_mean_of_two(histories):
    logits = torch.tensor(histories, dtype=torch.float64)
    found = judged(AgreementCriterion(config_of("single_label_classification")), logits)
    for history, uncertainty in zip(histories, found.tolist(), strict=True):
        expected = 1.0
        if len(history) > 1 and history[-1].index(max(history[-1])) == history[-2].index(max(history[-2])):
            shares = [[math.exp(x) / sum(map(math.exp, one)) for x in one] for one in history[-2:]]
            mean = [(a + b) / 2 for a, b in zip(*shares, strict=True)]
            expected = -sum(p * math.log(p) for p in mean) / math.log(2)
        assert uncertainty == pytest.approx(expected, abs=1e-6)


def test_agreement_of_numbers_is_their_difference_in_tolerances():
    criterion = AgreementCriterion(config_of("regression"))
    history = torch.tensor([[[0.0, 5.0], [0.5, 4.0]], [[0.0, 0.0], [9.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    assert judged(criterion, history).tolist() == pytest.approx([0.5, 1.0, 0.0])
    assert judged(criterion, history[:, :1]).tolist() == [1.0] * 3


def test_agreement_of_several_labels_counts_the_least_certain_one():
    criterion = AgreementCriterion(config_of("multi_label_classification"))
    sure, changed = [20.0, -20.0, 20.0], [20.0, 20.0, 20.0]
    history = torch.tensor([[sure, sure], [sure, changed], [sure, [20.0, -0.001, 20.0]]])
    found = judged(criterion, history).tolist()
    assert found[:2] == pytest.approx([0.0, 1.0], abs=1e-5)
    # The mean of 0 and a half: the entropy of a quarter, in bits.
    assert found[2] == pytest.approx(-0.25 * math.log2(0.25) - 0.75 * math.log2(0.75), abs=1e-3)


@pytest.mark.parametrize(("criterion", "problem"), DEFINED)
@settings(derandomize=True, deadline=None, max_examples=12)
@given(
    lengths=st.lists(st.integers(1, 17), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
    keep_threshold=st.floats(0, 1.5),
    exit_threshold=st.floats(0, 1),
)
def test_masked_equals_compact_and_alone_equals_in_a_batch(
    pyramids, make_batch, criterion, problem, lengths, seed, **changes
):
    model, batch = pyramids(criterion, problem), make_batch(lengths, seed)
    compact = run(model, batch, execution="compact", **changes)
    masked = run(model, batch, execution="masked", **changes)
    assert compact.exit_layer.tolist() == masked.exit_layer.tolist()
    assert compact.tokens_kept.tolist() == masked.tokens_kept.tolist()
    assert compact.flops.tolist() == masked.flops.tolist()
    torch.testing.assert_close(compact.logits, masked.logits, atol=1e-4, rtol=1e-4)
    model.config.execution = "compact"
    for row, length in enumerate(lengths):
        alone = run(model, {name: values[row : row + 1, :length] for name, values in batch.items()})
        assert alone.exit_layer.item() == compact.exit_layer[row]
        torch.testing.assert_close(alone.logits[0], compact.logits[row], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("criterion", "problem"), DEFINED)
def test_decisions_of_these_models_vary(pyramids, make_batch, criterion, problem):
    # Guards the property above against models at which nobody or everybody leaves.
    model, batch = pyramids(criterion, problem), make_batch([3 + index % 15 for index in range(40)])
    depths = set()
    for threshold in (0.2, 0.5, 0.8, 1.0):
        depths |= set(run(model, batch, exit_threshold=threshold, keep_threshold=0.0).exit_layer.tolist())
    assert len(depths) > 2


@pytest.mark.parametrize("criterion", CLASSES)
@pytest.mark.parametrize("threshold", [0.3, 0.6, 1.0])
def test_records_tell_what_the_model_does(pyramids, make_batch, criterion, threshold):
    model = pyramids(criterion, "single_label_classification")
    batch = make_batch([3 + index % 15 for index in range(20)])
    recorded = record_exits(model, [{**batch, "labels": torch.zeros(20, dtype=torch.long)}], argument="batches")
    output = run(model, batch, exit_threshold=threshold, keep_threshold=0.0, execution="compact")
    assert recorded.depth(threshold).tolist() == output.exit_layer.tolist()
    assert recorded.answers(threshold).tolist() == output.logits.argmax(-1).tolist()
    torch.testing.assert_close(recorded.flops(threshold, model), output.flops)


@pytest.mark.parametrize(("criterion", "problem"), DEFINED)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_never_leave_nor_count(make_pyramid, make_batch, criterion, problem, value):
    model = make_pyramid(
        exit_criterion=criterion, problem_type=problem, exit_threshold=1.0, exit_layers=[0, 1], **PROBLEMS[problem]
    )
    if criterion == "learned":
        for head in model.exit_criterion.rightness.heads:
            head.bias.data.fill_(50.0)
    for head in model.internal_classifiers.heads:
        head.weight.data.zero_()
        head.bias.data.fill_(0.25)[0] = value
    assert run(model, make_batch([4, 6])).exit_layer.tolist() == [4, 4]
    # A broken exit is no predecessor either.
    model.internal_classifiers.heads[1].bias.data.copy_(torch.linspace(50, 0, PROBLEMS[problem]["num_labels"]))
    left = run(model, make_batch([4, 6])).exit_layer.tolist()
    assert left == ([4, 4] if criterion in ("patience", "agreement") else left)


@pytest.mark.parametrize("criterion", ["entropy", "confidence", "confidence-margin"])
def test_measures_of_classes_refuse_regression_heads(criterion):
    with pytest.raises(ArgumentError, match=r"`exit_threshold` must be 0 for a regression head.*'patience'"):
        MagicPyramidConfig(num_labels=1, exit_criterion=criterion, exit_threshold=0.1)


@pytest.mark.parametrize("criterion", ["patience", "agreement"])
def test_comparing_numbers_needs_a_tolerance(make_pyramid, criterion):
    with pytest.raises(ArgumentError, match="`exit_tolerance` must be given for a regression head"):
        MagicPyramidConfig(num_labels=1, exit_criterion=criterion, exit_threshold=0.1)
    model = make_pyramid(num_labels=1, exit_criterion=criterion)
    with pytest.raises(ArgumentError, match="`exit_tolerance` must be given"):
        model.set_speed(0.5)
    for value in (0, -1.0, math.inf, math.nan, "wide"):
        with pytest.raises(ArgumentError, match="`exit_tolerance` must be positive and finite"):
            MagicPyramidConfig(exit_tolerance=value)


def rows_of(problem):
    """Texts whose answer is told by token 5 or 6, but for every fourth one, where it is a guess."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for index in range(64):
        length = int(torch.randint(4, 12, (1,), generator=generator))
        ids = torch.randint(10, 99, (length,), generator=generator)
        ids[0], ids[1] = 1, (7 if index % 4 == 0 else 5 + index % 2)
        kind = int(torch.randint(2, (1,), generator=generator)) if index % 4 == 0 else index % 2
        label = {
            "single_label_classification": kind,
            "multi_label_classification": [float(kind), 1.0 - kind],
            "regression": [2.0 * kind, 1.0],
        }[problem]
        rows.append({"input_ids": ids.tolist(), "labels": label})
    return rows


@pytest.mark.parametrize("problem", sorted(PROBLEMS))
def test_the_learned_criterion_learns_where_answers_are_right(make_pyramid, problem, tmp_path):
    fields = {**PROBLEMS[problem], "num_labels": 2, "problem_type": problem, "exit_layers": [1, 2]}
    model = make_pyramid(trained=False, exit_criterion="learned", **fields)
    rows = rows_of(problem)
    assert not any(parameter.any() for parameter in model.exit_criterion.parameters())
    untrained = {**pad_rows(rows, pad_token_id=0), "labels": None}
    assert run(model, untrained, exit_threshold=1.0).exit_layer.tolist() == [4] * len(rows)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = hf_integration.MagicPyramidTrainer(
        model=model,
        args=TrainingArguments(
            str(tmp_path / "work"),
            num_train_epochs=60,
            learning_rate=0.01,
            per_device_train_batch_size=16,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=rows,
        data_collator=lambda some: pad_rows(some, pad_token_id=0),
        stage="exits",
        # The backbone is random, and what it answers is wrong.
        distillation_weight=0.0,
    )
    trainer.train()
    model.eval()
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"internal_classifiers", "lexical_classifier", "exit_criterion"}
    output = run(model, untrained, exit_threshold=1.0)
    assert (output.exit_layer < 4).any()
    model.save_pretrained(tmp_path / "saved")
    hf_integration.register()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert isinstance(loaded.exit_criterion, LearnedCriterion)
    again = run(loaded, untrained)
    assert again.exit_layer.tolist() == output.exit_layer.tolist()
    assert torch.equal(again.logits, output.logits)


def test_rightness_is_estimated_better_than_by_chance(make_pyramid):
    model = make_pyramid(exit_criterion="learned", num_labels=2, exit_layers=[1])
    criterion = model.exit_criterion
    generator = torch.Generator().manual_seed(0)
    pooled = torch.randn(400, 1, 96, generator=generator)
    # The exit is right where the first feature is positive.
    labels = torch.zeros(400, dtype=torch.long)
    logits = torch.stack((pooled[..., 0], -pooled[..., 0]), dim=-1)
    collected = {"pooled": pooled, "teacher_logits": torch.zeros(400, 2), "labels": labels}
    criterion.prepare(pooled)
    criterion.rightness.heads[0].weight.data.zero_()
    optimiser = torch.optim.Adam(criterion.parameters(), lr=0.05)
    for _ in range(100):
        optimiser.zero_grad()
        criterion.training_loss(collected, logits, "single_label_classification").backward()
        optimiser.step()
    with torch.no_grad():
        found = criterion(ExitEvidence(1, logits, pooled[:, 0]))
    right = pooled[:, 0, 0] > 0
    assert found[right].mean() < 0.5 < found[~right].mean()


def test_a_criterion_without_a_definition_says_so(make_pyramid, make_batch):
    class Nothing(hf_integration.ExitCriterion):
        """Forgets to define anything."""

    model = make_pyramid(exit_threshold=0.5)
    model.exit_criterion = Nothing(model.config)
    with pytest.raises(NotImplementedError, match="Nothing must define label_uncertainty or judge"):
        model(**make_batch([3]))


def test_the_registry_holds_what_is_tested_here():
    assert set(load_registry("exit_criteria")) == set(CLASSES)
