"""The layer loop: where samples leave, where tokens are dropped, and what it all came to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hf_integration.early_exit import ExitCriterion, ExitEvidence, InternalClassifiers, should_exit
from hf_integration.layouts import Layout
from hf_integration.masked_layout import MaskedLayout
from hf_integration.model_family import Pooling
from hf_integration.token_pruning import TokenEvidence, TokenPruner

__all__ = ["EncoderResult", "PyramidEncoder", "RunOptions", "TokenEncoder", "TokenResult"]


@dataclass(frozen=True)
class RunOptions:
    """What one pass does.

    Attributes:
        exit_threshold: samples leave below this uncertainty; 0 = never.
        max_layers: everyone still there leaves at this depth; ``None`` = run all layers.
        soft_temperature: of the soft masks in training; ``None`` = hard decisions.
        record_pooled: also return the pooled states at every exit depth (use it with ``exit_threshold=0``).
    """

    exit_threshold: float = 0.0
    max_layers: int | None = None
    soft_temperature: float | None = None
    record_pooled: bool = False


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


@dataclass(frozen=True)
class TokenResult:
    """The outcome of one pass of a head that reads every token.

    Attributes:
        states: last state of every live token of the batch, ``[T, hidden_size]``.
        attended: tokens that entered each layer, int64 ``[batch, layers]`` on the host.
        kept: tokens that pruning left after each layer: likewise, or, where the model is, float32 with gradients if
            soft.
        pruned: the pruner was at work.
    """

    states: Tensor
    attended: Tensor
    kept: Tensor
    pruned: bool


@dataclass
class _Ledger:
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
    def of(cls, layout: Layout, layers: int) -> _Ledger:
        packing = layout.packing
        running = packing.sample_ids if packing.device.type == "cpu" else torch.arange(len(packing.lengths))
        return cls(torch.zeros(2, len(running), layers, dtype=torch.int64), running)

    def enter(self, depth: int, layout: Layout) -> None:
        """Note who enters a layer, and that all their tokens stay."""
        self.counts[:, :, depth - 1].index_copy_(1, self.running, layout.packing.host_lengths.expand(2, -1))

    def prune(self, depth: int, layout: Layout) -> None:
        self.counts[1, :, depth - 1].index_copy_(0, self.running, layout.packing.host_lengths)

    def weigh(self, layout: Layout) -> None:
        if isinstance(layout, MaskedLayout) and layout.token_weights is not None:
            self.soft_kept.append(layout.token_weights.sum(1))

    def leave(self, stay: list[bool]) -> None:
        self.running = self.running[torch.tensor(stay)]

    @property
    def attended(self) -> Tensor:
        return self.counts[0]

    @property
    def kept(self) -> Tensor:
        return torch.stack(self.soft_kept, dim=1) if self.soft_kept else self.counts[1]

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


@dataclass(frozen=True)
class TokenEncoder:
    """The layers of a model with its pruner, for heads that read every token: nobody leaves early.

    Attributes:
        layers: encoder layers, first to last.
        pruning_depths: layers (1-based) that prune.
        pruner: decides which tokens stay.
    """

    layers: Sequence[nn.Module]
    pruning_depths: Sequence[int]
    pruner: TokenPruner | None

    def run_all(self, layout: Layout, soft_temperature: float | None) -> TokenResult:
        """Run all layers over ``layout``, which retains what is dropped; ``None`` = hard decisions."""
        ledger = _Ledger.of(layout, len(self.layers))
        active = self._is_active(soft_temperature)
        for depth in range(len(self.layers)):
            self._run_layer(depth + 1, layout, soft_temperature, ledger, active=active)
            ledger.weigh(layout)
        return TokenResult(layout.last_states(), ledger.attended, ledger.kept, active)

    def _is_active(self, soft_temperature: float | None) -> bool:
        return self.pruner is not None and (soft_temperature is not None or self.pruner.is_active())

    def _run_layer(
        self, depth: int, layout: Layout, soft_temperature: float | None, ledger: _Ledger, *, active: bool
    ) -> None:
        layer = self.layers[depth - 1]
        ledger.enter(depth, layout)
        pruner = self.pruner if active and depth in self.pruning_depths else None
        importance = layout.attend(layer, importance=None if pruner is None else pruner.attention)
        if pruner is not None:
            evidence = TokenEvidence(
                depth=depth,
                importance=importance,
                states=layout.final_norm(layout.live_states()) if pruner.reads_states else None,
                protected=layout.protected_tokens(),
                packing=layout.packing,
                initial_lengths=layout.initial_lengths(),
            )
            if soft_temperature is not None and isinstance(layout, MaskedLayout):
                weights = pruner.soft_mask(evidence, soft_temperature)
                layout.weigh_tokens(weights.masked_fill(evidence.protected, 1.0))
            else:
                layout.keep_tokens(pruner.keep_mask(evidence) | evidence.protected)
                ledger.prune(depth, layout)
        layout.transform(layer)


@dataclass(frozen=True)
class PyramidEncoder(TokenEncoder):
    """The layers of a classifier with its pruner, its internal classifiers and its own head.

    Attributes:
        classifiers: one per exit depth.
        criterion: how unsure a classifier is.
        classify: the model's own head, from pooled last states ``[n, hidden_size]`` to logits.
        pooling: what it reads.
    """

    classifiers: InternalClassifiers
    criterion: ExitCriterion
    classify: Callable[[Tensor], Tensor]
    pooling: Pooling = "first"

    def run(self, layout: Layout, options: RunOptions, lexical: Tensor | None = None) -> EncoderResult:
        """Run the layers over ``layout`` until every sample has left.

        Args:
            layout: the batch.
            options: what the pass does.
            lexical: logits of the lexical classifier ``[batch, labels]``, if the internal classifiers read them.
        """
        last, active = len(self.layers) - 1, False
        ledger = _Ledger.of(layout, len(self.layers))
        for depth, layer in enumerate(self.layers):
            if self._offer_exit(depth, layout, options, lexical, ledger):
                return ledger.result(layers_run=depth, pruned=active)
            if depth == 0:
                # Not before: many texts never get here.
                active = self._is_active(options.soft_temperature)
            if depth == last:
                ledger.enter(depth + 1, layout)
                pooled = layout.run_last(layer, self.pooling)
                ledger.answer(layout.packing.sample_ids, self.classify(pooled), depth + 1)
            else:
                self._run_layer(depth + 1, layout, options.soft_temperature, ledger, active=active)
            ledger.weigh(layout)
        return ledger.result(layers_run=len(self.layers), pruned=active)

    def _offer_exit(
        self, depth: int, layout: Layout, options: RunOptions, lexical: Tensor | None, ledger: _Ledger
    ) -> bool:
        """Let those go who are sure enough at ``depth``; return whether all have left."""
        forced = depth == options.max_layers
        if depth not in self.classifiers.depths or not (forced or options.exit_threshold > 0 or options.record_pooled):
            return False
        pooled = layout.pool()
        if lexical is not None:
            pooled = torch.cat((pooled, lexical.index_select(0, layout.packing.sample_ids).to(pooled.dtype)), dim=1)
        if options.record_pooled:
            ledger.pooled.append(pooled)
            return False
        ledger.exits_asked.append(depth)
        logits = self.classifiers(depth, pooled)
        history = logits[:, None] if ledger.history is None else torch.cat((ledger.history, logits[:, None]), dim=1)
        if forced:
            leaving = [True] * len(logits)
        else:
            # The one wait for the device: all else follows on the host.
            uncertainty = self.criterion(ExitEvidence(depth, history, pooled))
            leaving = should_exit(uncertainty, options.exit_threshold).tolist()
        ledger.history = history
        if any(leaving):
            stay = [not leaves for leaves in leaving]
            ledger.answer(layout.packing.sample_ids, logits, depth)
            if not any(stay):
                return True
            ledger.leave(stay)
            ledger.history = history.index_select(0, layout.leave(stay))
        return False
