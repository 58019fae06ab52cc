"""The model side: BERT models that prune tokens and leave early. torch and transformers load at first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mp_plugins import missing_dependency

if TYPE_CHECKING:
    from hf_integration.bert_families import (
        AlbertFamily,
        BertFamily,
        DistilBertFamily,
        ElectraFamily,
        RobertaFamily,
    )
    from hf_integration.calibration import CalibrationReport, calibrate
    from hf_integration.configuration_magic_pyramid import MagicPyramidConfig
    from hf_integration.early_exit import (
        ConfidenceCriterion,
        EntropyCriterion,
        ExitCriterion,
        ExitEvidence,
        MarginCriterion,
    )
    from hf_integration.exit_criteria import AgreementCriterion, LearnedCriterion, PatienceCriterion
    from hf_integration.exit_selection import ExitThresholdChoice, choose_exit_threshold
    from hf_integration.flops import baseline_flops
    from hf_integration.model_family import ModelFamily, RelativePositions
    from hf_integration.modeling_magic_pyramid import MagicPyramidForSequenceClassification
    from hf_integration.modeling_token_level import (
        MagicPyramidForQuestionAnswering,
        MagicPyramidForTokenClassification,
        MagicPyramidModel,
    )
    from hf_integration.modernbert_family import ModernBertFamily
    from hf_integration.outputs import (
        ExitStates,
        MagicPyramidModelOutput,
        MagicPyramidQuestionAnsweringOutput,
        MagicPyramidSequenceClassifierOutput,
        MagicPyramidTokenClassifierOutput,
    )
    from hf_integration.prepacking import prepack
    from hf_integration.recipe import RECIPE, StageReport, run_stages
    from hf_integration.registration import attach, detach, install, register, uninstall
    from hf_integration.relative_families import DebertaV2Family, MPNetFamily
    from hf_integration.speed_budget import OperatingPoint
    from hf_integration.token_pruning import (
        AttentionPruner,
        ClsAttentionPruner,
        GatePruner,
        TokenEvidence,
        TokenPruner,
        TopKPruner,
    )
    from hf_integration.training import MagicPyramidTrainer

__all__ = [
    "RECIPE",
    "AgreementCriterion",
    "AlbertFamily",
    "AttentionPruner",
    "BertFamily",
    "CalibrationReport",
    "ClsAttentionPruner",
    "ConfidenceCriterion",
    "DebertaV2Family",
    "DistilBertFamily",
    "ElectraFamily",
    "EntropyCriterion",
    "ExitCriterion",
    "ExitEvidence",
    "ExitStates",
    "ExitThresholdChoice",
    "GatePruner",
    "LearnedCriterion",
    "MPNetFamily",
    "MagicPyramidConfig",
    "MagicPyramidForQuestionAnswering",
    "MagicPyramidForSequenceClassification",
    "MagicPyramidForTokenClassification",
    "MagicPyramidModel",
    "MagicPyramidModelOutput",
    "MagicPyramidQuestionAnsweringOutput",
    "MagicPyramidSequenceClassifierOutput",
    "MagicPyramidTokenClassifierOutput",
    "MagicPyramidTrainer",
    "MarginCriterion",
    "ModelFamily",
    "ModernBertFamily",
    "OperatingPoint",
    "PatienceCriterion",
    "RelativePositions",
    "RobertaFamily",
    "StageReport",
    "TokenEvidence",
    "TokenPruner",
    "TopKPruner",
    "attach",
    "baseline_flops",
    "calibrate",
    "choose_exit_threshold",
    "detach",
    "install",
    "prepack",
    "register",
    "run_stages",
    "uninstall",
]

_MODULES = (
    "configuration_magic_pyramid",
    "early_exit",
    "exit_criteria",
    "model_family",
    "bert_families",
    "relative_families",
    "modernbert_family",
    "flops",
    "outputs",
    "prepacking",
    "speed_budget",
    "token_pruning",
    "modeling_magic_pyramid",
    "modeling_token_level",
    "registration",
    "exit_selection",
    "calibration",
    "training",
    "recipe",
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        modules = (import_module(f"{__name__}.{module}") for module in _MODULES)
        return next(getattr(module, name) for module in modules if name in module.__all__)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in ("torch", "transformers"):
            raise missing_dependency(error.name, "hf", wanted_by=f"hf_integration.{name}") from error
        raise
