"""Weights in the order in which oneDNN reads them, for inference in float32 on a CPU.

A product of few rows spends most of its time on weights: laid out in rows, they are put into another order in every
call. Prepacked, that is done once. What is computed stays the same, up to the order of sums.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mp_plugins import ArgumentTypeError, UnsupportedError, argument_error

__all__ = ["PrepackedLinear", "is_prepacked", "prepack"]

# The number of rows that the order is made for; for 1 to 1024 rows it is about as good as the one made for them.
_ROWS = 32

Module = TypeVar("Module", bound=nn.Module)


def prepack(model: Module) -> Module:
    """Return a copy of a model for inference on a CPU, whose linear maps have prepacked weights.

    Answers are those of ``model``, up to rounding. Texts taken one by one gain most, long ones and batches less. What
    ``save_pretrained`` writes is an ordinary checkpoint. Parameters of the copy take no gradients; it is in
    evaluation mode. Moved to another device or dtype, it computes there like any other model.

    Args:
        model: any module with :class:`torch.nn.Linear` in it, such as a Magic Pyramid, a plain model or an encoder of
            sentence-transformers; in float32 on a CPU. It stays as it is. Maps that are derived from ``Linear``, or
            that have hooks or parametrizations, are copied as they are.

    Raises:
        mp_plugins.ArgumentError: there is no linear map, or one that is not in float32 on a CPU.
        mp_plugins.ArgumentTypeError: ``model`` is not a module.
        mp_plugins.UnsupportedError: this build of torch comes without oneDNN.

    Example:
        >>> fast = hf_integration.prepack(model)  # doctest: +SKIP
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(
            f"`model` must be a torch.nn.Module, got a {type(model).__name__}: of a pipeline, pass its `model`"
        )
    if not _is_available():
        raise UnsupportedError("this build of torch comes without oneDNN, which reads prepacked weights: use `model`")
    linears = [module for module in model.modules() if type(module) is nn.Linear and not _has_hooks(module)]
    if not linears:
        raise argument_error(
            "model", "must have linear maps that are not prepacked or quantized", "none", "pass the model as it was"
        )
    for linear in linears:
        if not _can_be_packed(linear.weight):
            received = f"{linear.weight.dtype} on {linear.weight.device}"
            raise argument_error("model", "must be in float32 on a CPU", received, "call model.float().cpu() before")
    # What deepcopy finds in its memo is taken for copied: no weight exists twice in rows.
    made = copy.deepcopy(model, {id(linear): PrepackedLinear(linear) for linear in linears})
    return made.requires_grad_(False).eval()


def is_prepacked(model: nn.Module) -> bool:
    """Tell whether any weight of ``model`` is prepacked."""
    return any(isinstance(module, PrepackedLinear) and module._stored.is_mkldnn for module in model.modules())


class PrepackedLinear(nn.Module):
    """A linear map without gradients, whose weight is prepacked wherever it is in float32 on a CPU.

    Its state is that of :class:`torch.nn.Linear`: what one saves, the other loads.

    Args:
        linear: is copied.
    """

    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())
        self._stored = _packed(linear.weight.detach())

    @property
    def weight(self) -> Tensor:
        """``[out_features, in_features]``, in rows: where it is prepacked, a copy, which is made at every access."""
        return self._stored.to_dense() if self._stored.is_mkldnn else self._stored

    def forward(self, states: Tensor) -> Tensor:
        """Return ``states @ weight.T + bias``.

        Args:
            states: ``[..., in_features]``.

        Raises:
            mp_plugins.UnsupportedError: ``states`` wants gradients.
        """
        if torch.compiler.is_compiling():
            raise UnsupportedError(
                "prepacked weights are read outside of graphs: compile or export the model that it was made from"
            )
        if not self._stored.is_mkldnn:
            return functional.linear(states, self._stored, self.bias)
        if states.requires_grad and torch.is_grad_enabled():
            raise UnsupportedError(
                "prepacked weights give no gradients: call the model in torch.no_grad(), or the one it was made from"
            )
        if states.shape[-1] != self.in_features:
            raise argument_error(
                "states", f"must have {self.in_features} features", tuple(states.shape), "pass what Linear takes"
            )
        # Under autocast states come in its type.
        product: Tensor = torch.ops.mkldnn._linear_pointwise(states.float(), self._stored, self.bias, "none", [], "")
        return product

    def extra_repr(self) -> str:
        """Return what :class:`torch.nn.Linear` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def __getstate__(self) -> dict[str, Any]:
        # Prepacked tensors are neither copied nor pickled.
        return {**self.__dict__, "_stored": self.weight}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_stored": _packed(state["_stored"])})  # type: ignore[no-untyped-call]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PrepackedLinear:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._stored = _packed(fn(self.weight))
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, missing: list[str],
        unexpected: list[str], errors: list[str],
    ) -> None:  # fmt: skip
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)
        key, weight = f"{prefix}weight", self.weight
        if key not in state_dict:
            missing.append(key)
            return
        if key in unexpected:
            unexpected.remove(key)
        if state_dict[key].shape != weight.shape:
            errors.append(f"{key} is of shape {tuple(state_dict[key].shape)}, not {tuple(weight.shape)}")
        else:
            self._stored = _packed(weight.copy_(state_dict[key]))


def _is_available() -> bool:
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def _can_be_packed(weight: Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.device.type == "cpu"


def _packed(weight: Tensor) -> Tensor:
    """Return a copy of ``weight`` in oneDNN's order where it can be, and otherwise ``weight``."""
    if not (_can_be_packed(weight) and _is_available()):
        return weight
    made: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
    return made


def _has_hooks(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    # accelerate puts its own forward in front of the class's.
    return any(hooks) or "forward" in vars(module)
