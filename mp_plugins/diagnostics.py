"""What a diagnostic of ``magic-pyramid doctor`` says of a library that may be absent."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["installed_version"]


def installed_version(distribution: str, *, otherwise: str) -> str:
    """Return the version of an installed distribution, or ``otherwise``: what is missing and how to install it."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return otherwise
