"""The layer loop as a graph of fixed shape: every layer runs for everybody, and masks say whose answer counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from hf_integration.early_exit import ExitEvidence, should_exit
from hf_integration.encoder import PyramidEncoder, RunOptions, TokenEncoder
from hf_integration.layouts import Layout
from hf_integration.ledger import Ledger
from hf_integration.static_layout import StaticLayout

__all__ = ["StaticPyramidEncoder", "StaticTokenEncoder"]


@dataclass
class _StaticLedger(Ledger):
    """Where :class:`Ledger` lists who runs, ``active`` marks them, bool ``[batch]``; on the device of the graph."""

    active: Tensor | None = None

    @classmethod
    def opened(cls, layout: Layout, layers: int) -> _StaticLedger:
        rows = layout.packing.sample_ids
        counts = torch.zeros(2, rows.shape[0], layers, dtype=torch.int64, device=rows.device)
        return cls(counts, rows, active=torch.ones_like(rows, dtype=torch.bool))

    def enter(self, depth: int, layout: Layout) -> None:
        """See :meth:`Ledger.enter`."""
        self.counts[:, :, depth - 1] = self._counted(layout)

    def prune(self, depth: int, layout: Layout) -> None:
        """See :meth:`Ledger.prune`."""
        self.counts[1, :, depth - 1] = self._counted(layout)

    def answer(self, sample_ids: Tensor, logits: Tensor, depth: int) -> None:
        """See :meth:`Ledger.answer`."""
        if self.logits is None or self.exit_layer is None:
            self.logits, self.exit_layer = logits, torch.full_like(self.running, depth)
            return
        self.logits = torch.where(self._active()[:, None], logits, self.logits)
        self.exit_layer = self.exit_layer.masked_fill(self._active(), depth)

    def leave_where(self, leaving: Tensor) -> None:
        self.active = self._active() & ~leaving

    def _active(self) -> Tensor:
        return cast(Tensor, self.active)

    def _counted(self, layout: Layout) -> Tensor:
        return cast(StaticLayout, layout).token_counts() * self._active()


@dataclass(frozen=True)
class StaticTokenEncoder(TokenEncoder):
    """As :class:`TokenEncoder`, over a :class:`StaticLayout`."""

    def _open(self, layout: Layout) -> Ledger:
        return _StaticLedger.opened(layout, len(self.layers))

    def _is_active(self, soft_temperature: float | None) -> bool:
        # Whether the cuts are neutral is in tensors, which a graph cannot ask.
        return self.pruner is not None and self.pruner.config.keep_scale > 0


@dataclass(frozen=True)
class StaticPyramidEncoder(StaticTokenEncoder, PyramidEncoder):
    """As :class:`PyramidEncoder`, over a :class:`StaticLayout`."""

    def _offer_exit(
        self, depth: int, layout: Layout, options: RunOptions, lexical: Tensor | None, ledger: Ledger
    ) -> bool:
        """See :meth:`PyramidEncoder._offer_exit`. All have left where that is known beforehand."""
        if not self._asks(depth, options):
            return False
        books = cast(_StaticLedger, ledger)
        features = self._features(layout, lexical)
        logits = self.classifiers(depth, features)
        history = books.ask(depth, logits)
        # Those who stay overwrite this answer.
        books.answer(books.running, logits, depth)
        if depth == options.max_layers:
            return True
        uncertainty = self.criterion(ExitEvidence(depth, history, features))
        books.leave_where(should_exit(uncertainty, options.exit_threshold))
        return False
