"""Intel SVS, whose 8-bit codes (LVQ) its packages run on Intel's processors only."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mp_bench.engines import EF_CONSTRUCTION, Engine, M

__all__ = ["Svs"]

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]

_LVQ_PROBE = """
import sys, numpy, svs
svs.write_vecs(numpy.ones((64, 32), numpy.float32), sys.argv[1])
data = svs.VectorDataLoader(sys.argv[1], svs.DataType.float32, dims=32)
parameters = svs.VamanaBuildParameters(graph_max_degree=16, window_size=20)
svs.Vamana.build(parameters, svs.LVQLoader(data, primary=8), svs.DistanceType.L2)
"""


def _require_lvq() -> None:
    """Raise ImportError where SVS lacks LVQ: elsewhere than on Intel it ends the process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _LVQ_PROBE, str(Path(folder) / "probe.fvecs")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ImportError((done.stderr + done.stdout).strip().splitlines()[-1])


class Svs(Engine):
    """Intel SVS: a Vamana graph over LVQ8 codes, built over floats as its guide does, with hnswlib's degree 2 M."""

    package = "svs"

    def build(self, base: _Floats) -> None:
        _require_lvq()
        import svs

        distance = svs.DistanceType.MIP if self.metric == "ip" else svs.DistanceType.L2
        parameters = svs.VamanaBuildParameters(
            graph_max_degree=2 * M, window_size=EF_CONSTRUCTION, alpha=0.95 if self.metric == "ip" else 1.2
        )
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "vectors.fvecs")
            svs.write_vecs(base, path)
            data = svs.VectorDataLoader(path, svs.DataType.float32, dims=base.shape[1])
            loader = svs.LVQLoader(data, primary=8, padding=32)
            self.index = svs.Vamana.build(parameters, loader, distance, num_threads=self.threads)

    def set_effort(self, effort: int) -> None:
        self.index.search_window_size = effort

    def batch(self, queries: _Floats, k: int) -> _Ids:
        return self.index.search(queries, k)[0].astype(np.int64)

    def one(self, query: Any, k: int) -> Any:
        return self.index.search(query, k)

    def bytes_a_vector(self, n: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            parts = [str(Path(folder) / part) for part in ("config", "graph", "data")]
            self.index.save(*parts)
            files = [Path(root) / name for root, _, names in os.walk(folder) for name in names]
            return sum(file.stat().st_size for file in files) / n
