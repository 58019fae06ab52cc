"""BERT in ONNX Runtime with 8-bit weights, a peer that needs `pip install onnx onnxruntime onnxscript`."""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

import knn_adapters

__all__ = ["OnnxInt8"]


class _Logits(nn.Module):
    """BERT with positional inputs and nothing but logits."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        logits: Tensor = self.bert(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).logits
        return logits


class OnnxInt8:
    """A model exported to ONNX and quantized dynamically; called as the model is.

    Args:
        bert: a plain model for sequence classification, on the CPU.
        threads: of a call.

    Raises:
        ImportError: ONNX Runtime, or what the export needs, is not installed.
    """

    def __init__(self, bert: nn.Module, threads: int) -> None:
        import onnx  # noqa: F401 - the export imports it late and says less when it is missing
        import onnxruntime
        import onnxscript  # noqa: F401
        from onnxruntime.quantization import QuantType, quantize_dynamic

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        with tempfile.TemporaryDirectory(prefix="magic-pyramid-") as folder:
            whole, small = Path(folder) / "bert.onnx", Path(folder) / "int8.onnx"
            with _silence():
                _export(bert, whole)
                # Without VNNI two products of 8 bits overflow the 16 bits that they are added in: weights of 7 fit.
                vnni = "vnni" in knn_adapters.simd_level()
                quantize_dynamic(whole, small, weight_type=QuantType.QInt8, per_channel=True, reduce_range=not vnni)
            self._session = onnxruntime.InferenceSession(small, options, providers=["CPUExecutionProvider"])

    def __call__(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Any:
        """Return an object with ``logits`` ``[batch, labels]``."""
        fields = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids) if attention_mask is None else attention_mask,
            "token_type_ids": torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids,
        }
        (logits,) = self._session.run(None, {name: value.numpy() for name, value in fields.items()})
        return SimpleNamespace(logits=torch.from_numpy(logits))


def _export(bert: nn.Module, path: Path) -> None:
    wrapped = _Logits(copy.deepcopy(bert).eval())
    # Two texts of several tokens: the export takes sizes of 1 for fixed, and one tensor given twice for one input.
    ids, mask = torch.full((2, 8), 5), torch.ones(2, 8, dtype=torch.int64)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", min=2, max=512)}
    names = ["input_ids", "attention_mask", "token_type_ids"]
    torch.onnx.export(
        wrapped, (ids, mask, torch.zeros_like(ids)), path, input_names=names, output_names=["logits"],
        dynamic_shapes=dict.fromkeys(names, axes), dynamo=True, verbose=False,
    )  # fmt: skip


@contextmanager
def _silence() -> Iterator[None]:
    """Keep back what exporter and quantizer say about packages and steps that this needs not."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
