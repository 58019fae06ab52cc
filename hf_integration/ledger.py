"""The books of one pass: who left where with what answer, and how many tokens each layer had."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hf_integration.layouts import Layout
from hf_integration.masked_layout import MaskedLayout

__all__ = ["EncoderResult", "Ledger"]


@dataclass(frozen=True)
class EncoderResult:
    """The outcome of one pass, rows in the order of the batch. What is counted lies on the host.

    Attributes:
        logits: ``[batch, labels]``.
        exit_layer: layers run for each sample, int64 ``[batch]``.
        attended: tokens that entered each layer, int64 ``[batch, layers]``, 0 = had left.
        kept: tokens that pruning left after each layer: int64, or, where the model is, float32 with gradients if soft.
        pooled: ``[batch, exits, features]`` if recorded; see :class:`~hf_integration.early_exit.InternalClassifiers`.
        exits_asked: depths at which internal classifiers were asked.
        layers_run: how many layers anybody entered.
        pruned: the pruner was at work in them.
    """

    logits: Tensor
    exit_layer: Tensor
    attended: Tensor
    kept: Tensor
    pooled: Tensor | None
    exits_asked: tuple[int, ...]
    layers_run: int
    pruned: bool


@dataclass
class Ledger:
    """What a pass has recorded so far; numbers on the host, because a device takes a launch to note each."""

    # Tokens that entered each layer and that it left, int64 [2, batch, layers].
    counts: Tensor
    # Rows of the batch that still run.
    running: Tensor
    soft_kept: list[Tensor] = field(default_factory=list)
    # Of all samples, by the last exit at which anybody left while they ran.
    logits: Tensor | None = None
    exit_layer: Tensor | None = None
    pooled: list[Tensor] = field(default_factory=list)
    exits_asked: list[int] = field(default_factory=list)
    # Logits of the exits that the running samples have passed, [n, exits, labels].
    history: Tensor | None = None

    @classmethod
    def of(cls, layout: Layout, layers: int) -> Ledger:
        """Open the books for a pass through so many layers."""
        packing = layout.packing
        running = packing.sample_ids if packing.device.type == "cpu" else torch.arange(len(packing.lengths))
        return cls(torch.zeros(2, len(running), layers, dtype=torch.int64), running)

    def enter(self, depth: int, layout: Layout) -> None:
        """Note who enters a layer, and that all their tokens stay."""
        self.counts[:, :, depth - 1].index_copy_(1, self.running, layout.packing.host_lengths.expand(2, -1))

    def prune(self, depth: int, layout: Layout) -> None:
        """Note how many tokens are left in a layer."""
        self.counts[1, :, depth - 1].index_copy_(0, self.running, layout.packing.host_lengths)

    def weigh(self, layout: Layout) -> None:
        """Note the weights of soft masks behind a layer."""
        if isinstance(layout, MaskedLayout) and layout.token_weights is not None:
            self.soft_kept.append(layout.token_weights.sum(1))

    def leave(self, stay: list[bool]) -> None:
        """Note who of those who run goes on."""
        self.running = self.running[torch.tensor(stay)]

    @property
    def attended(self) -> Tensor:
        """See :class:`EncoderResult`."""
        return self.counts[0]

    @property
    def kept(self) -> Tensor:
        """See :class:`EncoderResult`."""
        return torch.stack(self.soft_kept, dim=1) if self.soft_kept else self.counts[1]

    def ask(self, depth: int, logits: Tensor) -> Tensor:
        """Note an exit and its logits ``[n, labels]``; return those of all exits so far, ``[n, exits, labels]``."""
        self.exits_asked.append(depth)
        said = logits[:, None]
        self.history = said if self.history is None else torch.cat((self.history, said), dim=1)
        return self.history

    def answer(self, sample_ids: Tensor, logits: Tensor, depth: int) -> None:
        """Note the logits of all who run; those who stay overwrite theirs."""
        if self.logits is None or self.exit_layer is None:
            # Nobody has left before: these are the rows of the batch.
            self.logits, self.exit_layer = logits, torch.full((len(logits),), depth)
            return
        dtype = torch.promote_types(self.logits.dtype, logits.dtype)
        self.logits = self.logits.to(dtype).index_copy(0, sample_ids, logits.to(dtype))
        self.exit_layer[self.running] = depth

    def result(self, *, layers_run: int, pruned: bool) -> EncoderResult:
        """Close the books.

        Raises:
            RuntimeError: nobody has answered.
        """
        if self.logits is None or self.exit_layer is None:
            raise RuntimeError("a pass ends when everybody has left")
        return EncoderResult(
            logits=self.logits,
            exit_layer=self.exit_layer,
            attended=self.attended,
            kept=self.kept,
            pooled=torch.stack(self.pooled, dim=1) if self.pooled else None,
            exits_asked=tuple(self.exits_asked),
            layers_run=layers_run,
            pruned=pruned,
        )
