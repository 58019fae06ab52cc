"""Shared set-up: the tests run against the installed distribution, never against the source tree."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# `python -m pytest` puts the working directory first on the path. The source tree has no compiled module, so the
# packages must come from where pip installed them, as they do for users.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

# No test may reach a model hub.
os.environ["HF_HUB_OFFLINE"] = "1"
