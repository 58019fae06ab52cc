from __future__ import annotations

import math

import pytest
import torch

from hf_integration import ConfidenceCriterion, EntropyCriterion, ExitEvidence, MagicPyramidConfig, MarginCriterion
from hf_integration.early_exit import should_exit

CONFIG = MagicPyramidConfig()
CRITERIA = pytest.mark.parametrize(
    "criterion", [EntropyCriterion(CONFIG), ConfidenceCriterion(CONFIG), MarginCriterion(CONFIG)]
)


@CRITERIA
def test_uncertainty_runs_from_sure_to_uniform(criterion):
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [200.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0]])
    uniform, sure, between = criterion.uncertainty(logits).tolist()
    assert uniform == pytest.approx(1)
    assert sure == pytest.approx(0, abs=1e-6)
    assert 0 < between < 1


def test_entropy_is_the_textbook_formula():
    logits = torch.randn(5, 7, dtype=torch.float64)
    p = logits.softmax(-1)
    expected = -(p * p.log()).sum(-1) / math.log(7)
    torch.testing.assert_close(EntropyCriterion(CONFIG).uncertainty(logits).double(), expected, atol=1e-6, rtol=1e-6)


def test_the_margin_is_the_lead_of_the_first_over_the_second():
    probabilities = torch.tensor([[0.7, 0.1, 0.2], [0.4, 0.4, 0.2]])
    assert MarginCriterion(CONFIG).uncertainty(probabilities.log()).tolist() == pytest.approx([0.5, 1.0])
    assert MarginCriterion(CONFIG).uncertainty(torch.tensor([[3.0]])).tolist() == pytest.approx([0.0])


def test_large_half_precision_logits_do_not_overflow():
    logits = torch.tensor([[6e4, -6e4, 0.0]], dtype=torch.float16)
    assert EntropyCriterion(CONFIG).uncertainty(logits).item() == pytest.approx(0)


def test_multi_label_counts_the_least_certain_label():
    logits = torch.tensor([[20.0, -20.0], [20.0, 0.0]])
    assert EntropyCriterion(CONFIG).uncertainty(logits, multi_label=True).tolist() == pytest.approx([0, 1], abs=1e-6)


@CRITERIA
def test_nan_never_leaves(criterion):
    logits = torch.tensor([[float("nan"), 1.0], [90.0, 0.0]])
    uncertainty = criterion(ExitEvidence(0, logits[:, None], torch.zeros(2, 3)))
    assert should_exit(uncertainty, 1.0).tolist() == [False, True]


@torch.no_grad()
def test_nan_logits_at_an_exit_go_on_to_the_last_layer(make_pyramid, make_batch):
    model = make_pyramid(exit_threshold=1.0, exit_layers=[1])
    model.internal_classifiers.heads[0].bias.fill_(float("nan"))
    output = model(**make_batch([4, 6]))
    assert output.exit_layer.tolist() == [4, 4]
    assert output.logits.isfinite().all()


@torch.no_grad()
def test_untrained_classifiers_let_nobody_leave(make_pyramid, make_batch):
    model = make_pyramid(trained=False, exit_threshold=1.0)
    assert model(**make_batch([4, 6])).exit_layer.tolist() == [4, 4]
