"""Prepacked weights, for inference in float32 on a CPU: in the order in which a product of few rows reads them.

Libraries take weights in rows and put them into another order in every call, which for few rows is most of the time.
Prepacked, that is done once, and what is left is reading them. The products are those of ``csrc``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_integration import _linear
from mp_plugins import ArgumentTypeError, UnsupportedError, argument_error

__all__ = ["PrepackedLinear", "is_prepacked", "prepack"]

Module = TypeVar("Module", bound=nn.Module)


def prepack(model: Module) -> Module:
    """Return a copy of a model for inference on a CPU, whose linear maps have prepacked weights.

    Answers are those of ``model``, up to rounding. Texts taken one by one gain most, long ones and batches less. What
    ``save_pretrained`` writes is an ordinary checkpoint. Parameters of the copy take no gradients; it is in evaluation
    mode. Moved to another device or dtype, it computes there like any other model.

    Args:
        model: any module with :class:`torch.nn.Linear` in it, such as a Magic Pyramid, a plain model or an encoder of
            sentence-transformers; in float32 on a CPU. It stays as it is. Maps that are derived from ``Linear``, or
            that have hooks or parametrizations, are copied as they are.

    Raises:
        mp_plugins.ArgumentError: there is no linear map, or one that is not in float32 on a CPU.
        mp_plugins.ArgumentTypeError: ``model`` is not a module.

    Example:
        >>> fast = hf_integration.prepack(model)  # doctest: +SKIP
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(
            f"`model` must be a torch.nn.Module, got a {type(model).__name__}: of a pipeline, pass its `model`"
        )
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
    return any(isinstance(module, PrepackedLinear) and module.panels is not None for module in model.modules())


class PrepackedLinear(nn.Module):
    """A linear map without gradients, whose weight is prepacked wherever it is in float32 on a CPU.

    Its state is that of :class:`torch.nn.Linear`: what one saves, the other loads.

    Args:
        linear: is copied.

    Attributes:
        panels: the prepacked weight (``csrc/include/mp/linear.h``), or ``None`` on other devices and in other dtypes.
        bias: ``[out_features]``, or ``None``.
    """

    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())
        self._lay_out(linear.weight.detach())

    @property
    def weight(self) -> Tensor:
        """``[out_features, in_features]``, in rows: where it is prepacked, a copy, which is made at every access."""
        if self.panels is None:
            return self._rows
        weight = torch.empty(self.out_features, self.in_features)
        _linear.unpack_weight(self.panels.numpy(), weight.numpy())
        return weight

    def forward(self, states: Tensor) -> Tensor:
        """Return ``states @ weight.T + bias``; where it is prepacked, in float32, whatever autocast says.

        Args:
            states: ``[..., in_features]``.

        Raises:
            mp_plugins.UnsupportedError: ``states`` wants gradients, or a graph is made.
        """
        if self.panels is None:
            return functional.linear(states, self._rows, self.bias)
        if torch.compiler.is_compiling():
            raise UnsupportedError(
                "prepacked weights are read outside of graphs: compile or export the model that it was made from"
            )
        if states.requires_grad and torch.is_grad_enabled():
            raise UnsupportedError(
                "prepacked weights give no gradients: call the model in torch.no_grad(), or the one it was made from"
            )
        flat = states.detach().float().reshape(-1, states.shape[-1]).contiguous()
        product = torch.empty(len(flat), self.out_features)
        bias = None if self.bias is None else self.bias.numpy()
        _linear.multiply(flat.numpy(), self.panels.numpy(), bias, product.numpy(), torch.get_num_threads())
        return product.view(*states.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Return what :class:`torch.nn.Linear` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def __getstate__(self) -> dict[str, Any]:
        # Panels are laid out for this machine.
        return {**self.__dict__, "panels": None, "_rows": self.weight}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._lay_out(self._rows)

    def _lay_out(self, weight: Tensor) -> None:
        """Keep ``weight``, in the order that is right for its device and dtype."""
        self.panels: Tensor | None = None
        self._rows = weight
        if _can_be_packed(weight):
            columns = list(_linear.linear_levels().values())[-1]
            self.panels = torch.empty(-(-self.out_features // columns), self.in_features, columns)
            _linear.pack_weight(weight.contiguous().numpy(), self.panels.numpy())
            self._rows = weight.new_empty(0)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PrepackedLinear:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Encoders and pipelines move a model at every call to where it is: a look at no weights tells.
        if self.panels is None or not _can_be_packed(fn(self._rows)):
            self._lay_out(fn(self.weight))
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
            self._lay_out(weight.copy_(state_dict[key]))


def _can_be_packed(weight: Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.device.type == "cpu"


def _has_hooks(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    # accelerate puts its own forward in front of the class's.
    return any(hooks) or "forward" in vars(module)
