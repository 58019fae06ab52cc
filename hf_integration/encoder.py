"""The layer loop: where samples leave, where tokens are dropped, and what it all came to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hf_integration.early_exit import ExitCriterion, ExitEvidence, InternalClassifiers, should_exit
from hf_integration.layouts import Layout
from hf_integration.ledger import EncoderResult, Ledger
from hf_integration.masked_layout import MaskedLayout
from hf_integration.model_family import Pooling
from hf_integration.token_pruning import TokenEvidence, TokenPruner

__all__ = ["PyramidEncoder", "RunOptions", "TokenEncoder", "TokenResult"]


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
        ledger = self._open(layout)
        active = self._is_active(soft_temperature)
        for depth in range(len(self.layers)):
            self._run_layer(depth + 1, layout, soft_temperature, ledger, active=active)
            ledger.weigh(layout)
        return TokenResult(layout.last_states(), ledger.attended, ledger.kept, active)

    def _open(self, layout: Layout) -> Ledger:
        return Ledger.of(layout, len(self.layers))

    def _is_active(self, soft_temperature: float | None) -> bool:
        return self.pruner is not None and (soft_temperature is not None or self.pruner.is_active())

    def _run_layer(
        self, depth: int, layout: Layout, soft_temperature: float | None, ledger: Ledger, *, active: bool
    ) -> None:
        layer = self.layers[depth - 1]
        ledger.enter(depth, layout)
        pruner = self.pruner if active and depth in self.pruning_depths else None
        importance = layout.attend(layer, importance=None if pruner is None else pruner.attention)
        if pruner is not None:
            protected = layout.protected_tokens()
            evidence = TokenEvidence(
                depth=depth,
                importance=None if importance is None else _relative(importance, protected, layout),
                states=layout.final_norm(layout.live_states()) if pruner.reads_states else None,
                protected=protected,
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


def _relative(importance: Tensor, protected: Tensor, layout: Layout) -> Tensor:
    """Return ``importance`` as a multiple of its average over the tokens that may be pruned, float32 ``[T]``.

    [CLS] draws a larger share of the attention the shorter a text is, which says nothing about its words: with it in
    the average, one threshold prunes short texts, which need their few tokens, more than long ones.
    """
    counted = ~protected & importance.isfinite()
    sums = layout.mean(torch.stack((importance.masked_fill(~counted, 0.0), counted.to(importance.dtype)), dim=1))
    # A scale and nothing to learn by: where soft masks leave next to nothing, its gradients are without bounds.
    average = (sums[:, 0] / sums[:, 1]).detach()
    # No number where nothing may be pruned, or nothing is left that may.
    average = average.where(average > 0, 1.0)
    return importance / average.index_select(0, layout.packing.segment_ids)


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
        ledger = self._open(layout)
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
        self, depth: int, layout: Layout, options: RunOptions, lexical: Tensor | None, ledger: Ledger
    ) -> bool:
        """Let those go who are sure enough at ``depth``; return whether all have left."""
        if not self._asks(depth, options):
            return False
        forced = depth == options.max_layers
        pooled = self._features(layout, lexical)
        if options.record_pooled:
            ledger.pooled.append(pooled)
            return False
        logits = self.classifiers(depth, pooled)
        history = ledger.ask(depth, logits)
        if forced:
            leaving = [True] * len(logits)
        else:
            # The one wait for the device: all else follows on the host.
            uncertainty = self.criterion(ExitEvidence(depth, history, pooled))
            leaving = should_exit(uncertainty, options.exit_threshold).tolist()
        if any(leaving):
            stay = [not leaves for leaves in leaving]
            ledger.answer(layout.packing.sample_ids, logits, depth)
            if not any(stay):
                return True
            ledger.leave(stay)
            ledger.history = history.index_select(0, layout.leave(stay))
        return False

    def _asks(self, depth: int, options: RunOptions) -> bool:
        anybody = depth == options.max_layers or options.exit_threshold > 0 or options.record_pooled
        return anybody and depth in self.classifiers.depths

    @staticmethod
    def _features(layout: Layout, lexical: Tensor | None) -> Tensor:
        """Return what an internal classifier reads, ``[n, features]``."""
        pooled = layout.pool()
        if lexical is None:
            return pooled
        return torch.cat((pooled, lexical.index_select(0, layout.packing.sample_ids).to(pooled.dtype)), dim=1)
