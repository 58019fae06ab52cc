"""The file of a quantizer: an ``.npz`` archive that numpy, and whatever reads zip and npy, opens without this package.

Version 1 holds: ``magic`` (the text ``magic-pyramid-quantizer``), ``version`` (int), ``scale`` and ``offset``
(``float32``, ``(d,)``), ``fields`` (JSON text: metric, bits, seed, clip) and ``crc32`` (int; over the bytes of fields,
scale and offset in this order, little-endian). Version 2 may hold 4 bits and the field span, of a residual level; what
version 1 can hold is written as version 1, so that earlier releases read it.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mp_plugins import ArgumentError, argument_error

__all__ = ["read", "write"]

_MAGIC = "magic-pyramid-quantizer"
_VERSION = 2  # the latest
_Floats = npt.NDArray[np.float32]


def write(path: str | os.PathLike[str], fields: dict[str, Any], scale: _Floats, offset: _Floats) -> None:
    """Write the file; ``path`` is taken as it is, without an added suffix, and is complete or absent."""
    text = json.dumps(fields, sort_keys=True)
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    try:
        with partial.open("wb") as file:
            np.savez(
                file,
                magic=np.array(_MAGIC),
                version=np.array(_VERSION if fields["bits"] != 8 or "span" in fields else 1),
                fields=np.array(text),
                scale=scale.astype("<f4"),
                offset=offset.astype("<f4"),
                crc32=np.array(_checksum(text, scale, offset)),
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], _Floats, _Floats]:
    """Return ``(fields, scale, offset)``.

    Raises:
        ArgumentError: no archive, an archive of something else, a later version, or a checksum that differs.
    """
    content = Path(path).read_bytes()
    try:
        return _parse(content, path)
    except ArgumentError:
        raise
    except Exception as error:
        # zipfile and numpy answer damage with a dozen types of exception, RuntimeError and SyntaxError among them.
        raise _file_error(path, f"a damaged or foreign file ({error})") from error


def _parse(content: bytes, path: str | os.PathLike[str]) -> tuple[dict[str, Any], _Floats, _Floats]:
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        if str(archive["magic"]) != _MAGIC:
            raise _file_error(path, "another kind of file")
        version = int(archive["version"])
        if version > _VERSION:
            raise argument_error(
                "path", f"must be of version {_VERSION} or earlier", version, "upgrade magic-pyramid to read it"
            )
        text = str(archive["fields"])
        scale, offset = (np.ascontiguousarray(archive[name], np.float32) for name in ("scale", "offset"))
        if int(archive["crc32"]) != _checksum(text, scale, offset):
            raise _file_error(path, "a file whose checksum differs")
        fields: dict[str, Any] = json.loads(text)
        return fields, scale, offset


def _checksum(text: str, scale: _Floats, offset: _Floats) -> int:
    return zlib.crc32(text.encode() + scale.astype("<f4").tobytes() + offset.astype("<f4").tobytes())


def _file_error(path: str | os.PathLike[str], received: str) -> ArgumentError:
    return argument_error("path", "must be a quantizer file", f"{received}: {path}", "write it again with save()")
