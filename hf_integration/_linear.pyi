"""Typed stub of the compiled products with prepacked weights (sources in ``csrc``, layout in ``mp/linear.h``).

All arrays are C-contiguous ``float32``. Functions release the GIL and may run in several threads at once.
"""

import numpy as np
import numpy.typing as npt

def linear_levels() -> list[str]:
    """Return every level that this machine runs, slowest first: ``"serial"``; on x86 ``"avx2"``, ``"avx512"``."""

def pack_weight(weight: npt.NDArray[np.float32], level: str = ...) -> npt.NDArray[np.float32]:
    """Return the panels ``(ceil(n_out / columns), n_in, columns)`` of a weight ``(n_out, n_in)``.

    ``columns`` is the level's, 8, 16 or 32; ``"auto"`` is the best level.
    """

def unpack_weight(panels: npt.NDArray[np.float32], n_out: int) -> npt.NDArray[np.float32]:
    """Return the weight ``(n_out, n_in)`` that panels were made of."""

def multiply(
    states: npt.NDArray[np.float32],
    panels: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None,
    out: npt.NDArray[np.float32],
    num_threads: int,
) -> None:
    """Write ``states @ weight.T + bias`` into ``out`` ``(n, n_out)``, from states ``(n, n_in)``.

    A row of the result depends on its own row of states and on the level alone, bit for bit.
    """
