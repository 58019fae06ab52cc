"""How much faster prepacked weights make one text, by its length; random weights, since only the time matters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hf_integration.prepacking import prepack
from mp_models.contenders import Contender
from mp_models.measuring import time_in_turns

__all__ = ["prepacking_rows", "prepacking_table"]

_TEXTS = 4  # of a round, so that one slow moment does not count in full


def prepacking_rows(bert: Any, token_counts: Sequence[int], *, rounds: int) -> list[dict[str, Any]]:
    """Time a plain model beside itself with prepacked weights, on single texts of each number of tokens."""
    contenders = [Contender("in rows", bert), Contender("prepacked", prepack(bert))]
    made = []
    for tokens in token_counts:
        ids = torch.randint(bert.config.vocab_size, (_TEXTS, tokens)).tolist()
        rows = [{"input_ids": text, "attention_mask": [1] * tokens} for text in ids]
        times = time_in_turns(contenders, rows, 1, rounds=rounds, title=f"one text of {tokens} tokens")
        made.append({"tokens": tokens} | {name: 1 / timing.speed for name, timing in times.items()})
    return made


def prepacking_table(made: Sequence[dict[str, Any]]) -> str:
    """Return the milliseconds of a text as Markdown."""
    lines = ["| one text of BERT-base, tokens | weights in rows | prepacked | faster |", "|--:|--:|--:|--:|"]
    for row in made:
        before, after = row["in rows"], row["prepacked"]
        lines.append(f"| {row['tokens']} | {1e3 * before:.0f} ms | {1e3 * after:.0f} ms | {before / after:.2f}x |")
    return "\n".join(lines)
