"""What differs between releases of transformers, 4.56 to 5.23: everything that the rest of the package must not know.

Each difference stands under the release since which it is so. Looked for is the thing itself, not a version number,
so that a release in between, or one with a backport, is taken for what it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoTokenizer, TrainingArguments
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

__all__ = [
    "Checkpoints",
    "KeepsOwnParameters",
    "PreTrainedConfig",
    "SavesOwnNames",
    "attends_locally",
    "init",
    "make_arguments",
    "register_tokenizer",
    "rotary_kinds",
    "rotary_table",
    "silent_when_missing",
]

# 5.0 spells it with a capital T; before, this was `PretrainedConfig`.
PreTrainedConfig: Any = getattr(transformers, "PreTrainedConfig", None) or transformers.PretrainedConfig

# 5.0 initialises with functions that leave loaded tensors alone; before, modules with loaded tensors were left out.
try:
    from transformers import initialization as init
except ImportError:
    init: Any = torch.nn.init  # type: ignore[no-redef]

_BEFORE_5 = init is torch.nn.init


class _LoadsOwnParameters:
    """Takes the parameters of ``own_prefixes`` from checkpoints of other heads, where nothing else does."""

    own_prefixes: tuple[str, ...]

    def _get_key_renaming_mapping(
        self, checkpoint_keys: list[str], key_mapping: Any = None, *crossing: bool
    ) -> dict[str, str]:
        # Of a head's checkpoint it would leave them out, of a base model's it would call them a corruption.
        kept = [key for key in checkpoint_keys if not (any(crossing) and key.startswith(self.own_prefixes))]
        renamed: dict[str, str] = super()._get_key_renaming_mapping(kept, key_mapping, *crossing)  # type: ignore[misc]
        return renamed

    @classmethod
    def _load_pretrained_model(
        cls, model: Any, state_dict: Any, checkpoint_files: Sequence[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        from transformers.modeling_utils import load_state_dict

        loaded = super()._load_pretrained_model(  # type: ignore[misc]
            model, state_dict, checkpoint_files, *args, **kwargs
        )
        found = dict(state_dict or {})
        for file in checkpoint_files or ():
            found.update(load_state_dict(file))
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if name.startswith(cls.own_prefixes) and name in found and tensor.shape == found[name].shape:
                    tensor.copy_(found[name])
        return loaded


class _LoadsAll:
    """What is in a checkpoint is loaded by its name, whatever the head."""


# 5.0 loads parameters beside the backbone into every head that has them; before, only into the head that saved them.
KeepsOwnParameters: Any = _LoadsOwnParameters if _BEFORE_5 else _LoadsAll


class _CheckpointsWithoutReentry:
    """Recomputes activations in the way that gives gradients to a layer whose inputs have none."""

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        if gradient_checkpointing_kwargs is None:
            gradient_checkpointing_kwargs = {"use_reentrant": False}
        super().gradient_checkpointing_enable(gradient_checkpointing_kwargs)  # type: ignore[misc]


class _Checkpoints:
    """Recomputes activations as transformers does by itself."""


# 5.0 recomputes without reentry by default; before, with it, which leaves out layers behind frozen ones.
Checkpoints: Any = _CheckpointsWithoutReentry if _BEFORE_5 else _Checkpoints


class _SavesOwnNames:
    """Saves parameters by the names that the model has for them."""

    def save_pretrained(self, *args: Any, save_original_format: bool = False, **kwargs: Any) -> None:
        super().save_pretrained(*args, save_original_format=save_original_format, **kwargs)  # type: ignore[misc]


class _SavesNames:
    """Saves parameters as transformers does by itself."""


# 5.0 saves by the names of the checkpoint that was loaded, such as `LayerNorm.gamma` in old ones (and 5.0.0 always by
# those), which a Trainer that resumes passes over. Before, names were the model's own.
SavesOwnNames: Any = _SavesNames if _BEFORE_5 else _SavesOwnNames


def silent_when_missing(prefixes: Sequence[str]) -> tuple[str, ...]:
    """Return patterns for the parameters that a checkpoint may lack without a warning, from how their names begin."""
    # 5.0 initialises them all the same; before, they were left without memory, so the warning is the price.
    return () if _BEFORE_5 else tuple(f"^{re.escape(prefix)}" for prefix in prefixes)


def register_tokenizer(config: Any, plain: Any) -> None:
    """Make AutoTokenizer load for the configuration class ``config`` what it loads for ``plain``, if anything."""
    if plain in TOKENIZER_MAPPING:
        found = TOKENIZER_MAPPING[plain]
        # 5.0 has one class for a model; before, there was a slow and a fast one, either of which may be missing.
        AutoTokenizer.register(config, *(found if isinstance(found, tuple) else (found,)), exist_ok=True)


def make_arguments(fields: Mapping[str, Any]) -> TrainingArguments:
    """Return :class:`transformers.TrainingArguments` from fields under the names that 5.23 has for them."""
    known, fields = TrainingArguments.__dataclass_fields__, dict(fields)
    # 5.0 takes a share of all steps here; before, it had a field of its own.
    if known["warmup_steps"].type is int and isinstance(fields.get("warmup_steps"), float):
        fields["warmup_ratio"] = fields.pop("warmup_steps")
    # 5.2 has a choice of orders; before, this one had a switch of its own.
    if "train_sampling_strategy" not in known and "train_sampling_strategy" in fields:
        fields["group_by_length"] = fields.pop("train_sampling_strategy") == "group_by_length"
    # Late releases of 5 have a wider name for it.
    if "activation_checkpointing" not in known and "activation_checkpointing" in fields:
        fields["gradient_checkpointing"] = fields.pop("activation_checkpointing")
    return TrainingArguments(**fields)


def attends_locally(layer: Any) -> bool:
    """Tell whether a layer of ModernBERT attends in windows."""
    # 5.0 names the kind of a layer; before, its attention held the two sides of the window.
    if hasattr(layer, "attention_type"):
        return bool(layer.attention_type == "sliding_attention")
    return bool(layer.attn.local_attention != (-1, -1))


def rotary_kinds(config: Any) -> set[str]:
    """Return by what rules ModernBERT rotates positions, for example ``{"default"}``."""
    # 5.0 has a rule for each kind of layer; before, there was one for all.
    rules = getattr(config, "rope_parameters", None)
    if rules is None:
        rules = {"all": getattr(config, "rope_scaling", None)}
    return {(rule or {}).get("rope_type", "default") for rule in rules.values()}


def rotary_table(backbone: Any, layer: Any, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of ``positions``, int64 ``[1, n]``, in a layer of ModernBERT, ``[1, n, head_dim]``."""
    # 5.0 rotates in one place for all layers; before, every attention had its own.
    if hasattr(backbone, "rotary_emb"):
        table: tuple[Tensor, Tensor] = backbone.rotary_emb(like, positions, layer.attention_type)
    else:
        table = layer.attn.rotary_emb(like, position_ids=positions)
    return table
