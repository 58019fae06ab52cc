"""What the codes can reach: recall of exhaustive search over them, against exact ``float32`` search."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

import knn_adapters
from mp_bench.curves import recall_of
from mp_bench.data import Data
from mp_bench.engines import FaissIndex
from mp_bench.plan import CEILINGS
from mp_bench.rows import Row

__all__ = ["ceiling_rows"]


def ceiling_rows(data: Data, true: npt.NDArray[np.int64], threads: int) -> list[Row]:
    """Return the recall of each kind of code; ``true`` ``(q, k)`` are the exact neighbours."""
    k = true.shape[1]
    exact = FaissIndex("FAISS Flat", "Flat", data.metric, threads)
    exact.build(data.base)
    exact_recall = recall_of(exact.batch(data.queries, k), true)  # below 1 where neighbours tie
    made: list[Row] = []
    for ceiling in tqdm(CEILINGS, desc="ceiling: recall", unit="kind"):
        index = knn_adapters.wrap(exact.index, bits=ceiling.bits, rescore=ceiling.rescore)
        found = recall_of(index.search(data.queries, k)[1], true)
        name = f"{ceiling.ours} ({knn_adapters.stats(index).clip})"
        made.append(
            Row("exact float32", name, f"recall@{k}", exact_recall, found, found, ceiling.recall, True, digits=4)
        )
    return made
