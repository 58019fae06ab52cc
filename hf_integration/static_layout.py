"""The layout of graphs whose shapes are fixed, for export: every position of a padded batch has a row all the way."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_integration.attention import Importance
from hf_integration.masked_layout import MaskedLayout

__all__ = ["StaticLayout"]


class StaticLayout(MaskedLayout):
    """Padded, as :class:`MaskedLayout`, and what is live is told by a mask alone, never by a number of rows.

    What that class has by live token, ``T``, is here by position, ``batch * seq``: its packing is that of
    :func:`~hf_integration.packing.pack_all`, and it is never soft.
    """

    def attend(self, layer: nn.Module, *, importance: Importance | None) -> Tensor | None:
        """See :meth:`Layout.attend`."""
        found = super().attend(layer, importance=importance)
        # Least of all, so that what is not there is not kept in place of what is.
        return None if found is None else found.masked_fill(~self.live.flatten(), 0.0)

    def token_counts(self) -> Tensor:
        """Return how many tokens of each sample are live, int64 ``[batch]``."""
        return self.live.sum(1)

    def initial_lengths(self) -> Tensor:
        """See :meth:`Layout.initial_lengths`."""
        return self.words.sum(1)

    def protected_tokens(self) -> Tensor:
        """See :meth:`Layout.protected_tokens`."""
        slots = torch.arange(self.live.shape[1], device=self.live.device)
        return (self.protected | (slots == self._first_slots()[:, None])).flatten()

    def keep_tokens(self, keep: Tensor) -> None:
        """See :meth:`Layout.keep_tokens`."""
        gone = self.live & ~keep.view(self.live.shape)
        if self.retain:
            self.dropped = torch.where(gone[..., None], self.hidden, self.dropped)
        self.live = self.live & ~gone

    def live_states(self) -> Tensor:
        """See :meth:`Layout.live_states`."""
        return self.hidden.flatten(0, 1)

    def mean(self, states: Tensor) -> Tensor:
        """See :meth:`Layout.mean`."""
        return self._mean(states.view(*self.live.shape, states.shape[1]))

    def pool(self) -> Tensor:
        """See :meth:`Layout.pool`."""
        states = self.final_norm(self.hidden)
        largest = states.masked_fill(~self.live[..., None], -torch.inf).amax(1)
        return torch.cat((self._first(states), self._mean(states), largest), dim=1)

    def last_layer(self, layer: nn.Module) -> Tensor:
        """See :meth:`Layout.last_layer`."""
        self.attend(layer, importance=None)
        self.transform(layer)
        return self._first(self.hidden)

    def last_states(self) -> Tensor:
        """See :meth:`Layout.last_states`; ``[batch, seq, hidden_size]``."""
        return self.final_norm(torch.where(self.live[..., None], self.hidden, self.dropped))

    def _mean(self, states: Tensor) -> Tensor:
        return states.masked_fill(~self.live[..., None], 0.0).sum(1) / self.live.sum(1, keepdim=True)

    def _first(self, states: Tensor) -> Tensor:
        places = self._first_slots()[:, None, None].expand(-1, 1, states.shape[2])
        return states.gather(1, places)[:, 0]

    def _first_slots(self) -> Tensor:
        return self.words.long().argmax(1)

    def _at_tokens(self, values: Tensor) -> Tensor:
        return values.flatten(0, 1)
