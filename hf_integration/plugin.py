"""What this package registers with :mod:`mp_plugins`, through the same hooks as any other plug-in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mp_plugins

__all__ = [
    "mp_register_benchmarks",
    "mp_register_demo_parts",
    "mp_register_diagnostics",
    "mp_register_exit_criteria",
    "mp_register_model_families",
    "mp_register_subcommands",
    "mp_register_token_pruners",
]

# The libraries behind the extra `hf`.
_LIBRARIES = ("torch", "transformers", "accelerate")


@mp_plugins.hookimpl
def mp_register_token_pruners(registry: mp_plugins.Registry[type[Any]]) -> None:
    """Register the pruners."""
    from hf_integration import token_pruning

    registry.register("attention", token_pruning.AttentionPruner)
    registry.register("cls-attention", token_pruning.ClsAttentionPruner)
    registry.register("top-k", token_pruning.TopKPruner)
    registry.register("gate", token_pruning.GatePruner)


@mp_plugins.hookimpl
def mp_register_exit_criteria(registry: mp_plugins.Registry[type[Any]]) -> None:
    """Register the measures of uncertainty."""
    from hf_integration import early_exit, exit_criteria

    registry.register("entropy", early_exit.EntropyCriterion)
    registry.register("confidence", early_exit.ConfidenceCriterion)
    registry.register("confidence-margin", early_exit.MarginCriterion)
    registry.register("patience", exit_criteria.PatienceCriterion)
    registry.register("agreement", exit_criteria.AgreementCriterion)
    registry.register("learned", exit_criteria.LearnedCriterion)


@mp_plugins.hookimpl
def mp_register_model_families(registry: mp_plugins.Registry[Any]) -> None:
    """Register our families, and make the Auto classes know them: whoever asks for families is about to use them."""
    from hf_integration.families import FAMILIES
    from hf_integration.registration import register_family

    for family in FAMILIES:
        register_family(family)
        registry.register(family.model_type, family)


@mp_plugins.hookimpl
def mp_register_demo_parts(registry: mp_plugins.Registry[mp_plugins.DemoPart]) -> None:
    """Register the comparison with BERT and the embedding of the texts."""
    from hf_integration.demo_classification import ClassificationPart
    from hf_integration.demo_embeddings import EmbeddingsPart

    registry.register("classify-texts", ClassificationPart())
    registry.register("embed-texts", EmbeddingsPart())


@mp_plugins.hookimpl
def mp_register_subcommands(registry: mp_plugins.Registry[mp_plugins.Subcommand]) -> None:
    """Register ``train`` and ``calibrate``."""
    from hf_integration import calibrate_command, train_command

    registry.register("train", train_command.SUBCOMMAND)
    registry.register("calibrate", calibrate_command.SUBCOMMAND)


@mp_plugins.hookimpl
def mp_register_benchmarks(registry: mp_plugins.Registry[mp_plugins.Subcommand]) -> None:
    """Register ``bench model``."""
    from hf_integration import bench_command

    registry.register("model", bench_command.SUBCOMMAND)


@mp_plugins.hookimpl
def mp_register_diagnostics(registry: mp_plugins.Registry[Callable[[], Mapping[str, str]]]) -> None:
    """Register the versions of the libraries on the model side, and the level of our products."""
    registry.register("hf_integration", _diagnose)


def _diagnose() -> dict[str, str]:
    from hf_integration import _linear

    missing = "not installed: pip install 'magic-pyramid[hf]'"
    versions = {library: mp_plugins.installed_version(library, otherwise=missing) for library in _LIBRARIES}
    return versions | {"SIMD level of prepacked weights": list(_linear.linear_levels())[-1]}
