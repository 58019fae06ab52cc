"""What the codes can reach: recall of exhaustive search over them, against exact ``float32`` search."""

from __future__ import annotations

from tqdm import tqdm

import knn_adapters
from mp_bench.curves import Truth
from mp_bench.data import Data
from mp_bench.engines import FaissIndex
from mp_bench.plan import CEILINGS
from mp_bench.rows import Row

__all__ = ["ceiling_rows"]


def ceiling_rows(data: Data, truth: Truth, threads: int) -> list[Row]:
    """Return the recall of each kind of code; ``truth`` holds the exact neighbours."""
    k = truth.k
    exact = FaissIndex("FAISS Flat", "Flat", data.metric, threads)
    exact.build(data.base)
    exact_recall = truth.recall(exact.batch(data.queries, k))
    made: list[Row] = []
    for ceiling in tqdm(CEILINGS, desc="ceiling: recall", unit="kind"):
        index = knn_adapters.wrap(exact.index, bits=ceiling.bits, rescore=ceiling.rescore)
        found = truth.recall(index.search(data.queries, k)[1])
        name = f"{ceiling.ours} ({knn_adapters.stats(index).clip})"
        made.append(
            Row("exact float32", name, f"recall@{k}", exact_recall, found, found, ceiling.recall, True, digits=4)
        )
    return made
