"""Typed stub of the compiled products with prepacked weights (sources in ``csrc``, layout in ``mp/linear.h``).

All arrays are C-contiguous ``float32``. Functions release the GIL and may run in several threads at once.
"""

import numpy as np
import numpy.typing as npt

def linear_levels() -> dict[str, int]:
    """Return every level that this machine runs, slowest first, with the columns of its panels.

    ``"serial"`` has 8; on x86 ``"avx2"`` has 16 and ``"avx512"`` 32.
    """

def pack_weight(weight: npt.NDArray[np.float32], panels: npt.NDArray[np.float32]) -> None:
    """Write a weight ``(n_out, n_in)`` into panels ``(ceil(n_out / columns), n_in, columns)``, best 64-byte aligned.

    Their columns say for which level they are.
    """

def unpack_weight(panels: npt.NDArray[np.float32], weight: npt.NDArray[np.float32]) -> None:
    """Write the weight ``(n_out, n_in)`` that panels were made of."""

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
