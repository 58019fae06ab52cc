"""The file of a quantizer: an ``.npz`` archive that numpy, and whatever reads zip and npy, opens without this package.

Version 1 holds: ``magic`` (the text ``magic-pyramid-quantizer``), ``version`` (int), ``scale`` and ``offset``
(``float32``, ``(d,)``), ``fields`` (JSON text: metric, bits, seed, clip) and ``crc32`` (int; over the bytes of fields,
scale and offset in this order, little-endian). Version 2 may hold 4 bits and the field span, of a residual level.
Version 3 may hold ``feedback`` (``uint16``, bfloat16, ``(d * (d - 1) / 2,)``), which then is last in the checksum. What
an earlier version can hold is written as that version, so that earlier releases read it.
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
_VERSION = 3  # the latest
_Floats = npt.NDArray[np.float32]
_Feedback = npt.NDArray[np.uint16]


def write(
    path: str | os.PathLike[str], fields: dict[str, Any], scale: _Floats, offset: _Floats, feedback: _Feedback | None
) -> None:
    """Write the file; ``path`` is taken as it is, without an added suffix, and is complete or absent."""
    text = json.dumps(fields, sort_keys=True)
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    more: dict[str, Any] = {} if feedback is None else {"feedback": feedback.astype("<u2")}
    try:
        with partial.open("wb") as file:
            np.savez(
                file,
                magic=np.array(_MAGIC),
                version=np.array(3 if more else 2 if fields["bits"] != 8 or "span" in fields else 1),
                fields=np.array(text),
                scale=scale.astype("<f4"),
                offset=offset.astype("<f4"),
                crc32=np.array(_checksum(text, scale, offset, feedback)),
                **more,
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], _Floats, _Floats, _Feedback | None]:
    """Return ``(fields, scale, offset, feedback)``.

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


def _parse(content: bytes, path: str | os.PathLike[str]) -> tuple[dict[str, Any], _Floats, _Floats, _Feedback | None]:
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
        feedback = np.ascontiguousarray(archive["feedback"], np.uint16) if "feedback" in archive else None
        if int(archive["crc32"]) != _checksum(text, scale, offset, feedback):
            raise _file_error(path, "a file whose checksum differs")
        fields: dict[str, Any] = json.loads(text)
        return fields, scale, offset, feedback


def _checksum(text: str, scale: _Floats, offset: _Floats, feedback: _Feedback | None) -> int:
    content = text.encode() + scale.astype("<f4").tobytes() + offset.astype("<f4").tobytes()
    return zlib.crc32(content if feedback is None else content + feedback.astype("<u2").tobytes())


def _file_error(path: str | os.PathLike[str], received: str) -> ArgumentError:
    return argument_error("path", "must be a quantizer file", f"{received}: {path}", "write it again with save()")
