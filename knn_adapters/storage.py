"""The file of an index: named arrays that can be read where they lie, and a header that says what they are.

Little-endian throughout::

    8 bytes    magic
    uint32     version of the format
    uint32     length of the header
    uint32     CRC-32 of the header
    header     JSON: kind, fields, and for each section name, dtype, shape, offset, CRC-32; spaces at its end
    sections   each at a multiple of 64 bytes, zeros between them

The end of the last section is the end of the file. hnswlib's own files begin with eight zero bytes.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
import zlib
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mp_plugins import ArgumentError, argument_error

__all__ = ["Section", "StoredIndex", "is_ours", "read", "replacing", "size_of", "write"]

_MAGIC = b"MPyramid"
_VERSION = 1
_ALIGNMENT = 64
_PREAMBLE = struct.Struct("<8sIII")
_DTYPES = {
    "uint8": "u1",
    "bool": "?",
    "uint16": "<u2",
    "uint32": "<u4",
    "int32": "<i4",
    "uint64": "<u8",
    "int64": "<i8",
    "float32": "<f4",
}

_LARGEST_CHECKSUM = 2**32 - 1

_Arrays = Mapping[str, npt.NDArray[Any]]


class Section(NamedTuple):
    """Type and shape of an array."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * np.dtype(_DTYPES[self.dtype]).itemsize


class StoredIndex(NamedTuple):
    """The content of a file: ``kind`` names the class, ``fields`` are its settings, ``arrays`` are read-only."""

    kind: str
    fields: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins as ours do.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def write(path: str | os.PathLike[str], kind: str, fields: Mapping[str, Any], arrays: _Arrays) -> None:
    """Write the file; it is complete or as it was before.

    Raises:
        OSError: it cannot be written.
    """
    offsets, length = _layout(kind, fields, _sections(arrays))
    checksums = [zlib.crc32(_little_endian(array).data) for array in arrays.values()]
    header = _header(kind, fields, _sections(arrays), offsets, checksums).ljust(length)
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(_PREAMBLE.pack(_MAGIC, _VERSION, length, zlib.crc32(header)) + header)
        for array, offset in zip(arrays.values(), offsets, strict=True):
            file.write(bytes(offset - file.tell()))
            _little_endian(array).tofile(file)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the name of a file that takes the place of ``path`` when the block ends, and is gone if that fails."""
    target = Path(path)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def size_of(kind: str, fields: Mapping[str, Any], sections: Mapping[str, Section]) -> int:
    """Return the bytes of the file that :func:`write` would write of arrays like ``sections``."""
    offsets, length = _layout(kind, fields, sections)
    ends = [offset + section.nbytes for offset, section in zip(offsets, sections.values(), strict=True)]
    return max([_PREAMBLE.size + length, *ends])


def read(
    path: str | os.PathLike[str], *, populate: bool = False, unchecked: Container[str] = frozenset()
) -> StoredIndex:
    """Return the content, its arrays mapped from the file and shared with every process that maps it.

    Args:
        path: the file.
        populate: whether all of it is brought into memory before this returns, where the system can.
        unchecked: names of sections whose checksums are not looked at, so that they are read when they are used.

    Raises:
        ArgumentError: a foreign, damaged or cut file, or one of a later version.
        OSError: it cannot be read.
    """
    try:
        return _parse(_mapped(path, populate), unchecked)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ArgumentError):
            raise
        raise _damaged(f"a header that makes no sense ({error!r})") from error


def _mapped(path: str | os.PathLike[str], populate: bool) -> npt.NDArray[np.uint8]:
    with Path(path).open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return np.empty(0, np.uint8)
        flags = mmap.MAP_SHARED | (getattr(mmap, "MAP_POPULATE", 0) if populate else 0)
        return np.frombuffer(mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ), np.uint8)


def _parse(content: npt.NDArray[np.uint8], unchecked: Container[str]) -> StoredIndex:
    if len(content) < _PREAMBLE.size:
        raise _damaged(f"a file of {len(content)} bytes")
    magic, version, length, checksum = _PREAMBLE.unpack(content[: _PREAMBLE.size].tobytes())
    if magic != _MAGIC:
        raise _damaged("a file of another kind")
    if version > _VERSION:
        raise argument_error("path", f"must be of version {_VERSION}", version, "upgrade magic-pyramid to read it")
    header = content[_PREAMBLE.size : _PREAMBLE.size + length].tobytes()
    if len(header) < length or zlib.crc32(header) != checksum:
        raise _damaged("a header whose checksum differs")
    described = json.loads(header)
    arrays = {part["name"]: _section(content, part, part["name"] not in unchecked) for part in described["sections"]}
    end = max((section["offset"] + arrays[section["name"]].nbytes for section in described["sections"]), default=0)
    if len(content) != max(end, _PREAMBLE.size + length):
        raise _damaged(f"a file of {len(content)} bytes in place of {end}")
    return StoredIndex(described["kind"], described["fields"], arrays)


def _section(content: npt.NDArray[np.uint8], section: dict[str, Any], checked: bool) -> npt.NDArray[Any]:
    dtype, shape, offset = np.dtype(_DTYPES[section["dtype"]]), tuple(section["shape"]), int(section["offset"])
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if min((offset, *shape)) < 0 or offset + size > len(content):
        raise _damaged(f"a file that ends within {section['name']!r}")
    part = content[offset : offset + size]
    if checked and zlib.crc32(part.data) != section["crc32"]:
        raise _damaged(f"a checksum of {section['name']!r} that differs")
    array: npt.NDArray[Any] = part.view(dtype).reshape(shape)
    return array


def _sections(arrays: _Arrays) -> dict[str, Section]:
    return {name: Section(array.dtype.name, array.shape) for name, array in arrays.items()}


def _layout(kind: str, fields: Mapping[str, Any], sections: Mapping[str, Section]) -> tuple[list[int], int]:
    """Return where each section begins, and the length of the header, in which checksums may have any value."""
    length = 0
    while True:  # the header holds the offsets, whose digits count: settled after a round or two
        offsets, end = [], _PREAMBLE.size + length
        for section in sections.values():
            offsets.append(-(-end // _ALIGNMENT) * _ALIGNMENT)
            end = offsets[-1] + section.nbytes
        needed = len(_header(kind, fields, sections, offsets, [_LARGEST_CHECKSUM] * len(sections)))
        if needed <= length:
            return offsets, length
        length = needed


def _header(
    kind: str,
    fields: Mapping[str, Any],
    sections: Mapping[str, Section],
    offsets: Sequence[int],
    checksums: Sequence[int],
) -> bytes:
    described = [
        {"name": name, **section._asdict(), "offset": offset, "crc32": checksum}
        for (name, section), offset, checksum in zip(sections.items(), offsets, checksums, strict=True)
    ]
    return json.dumps({"kind": kind, "fields": dict(fields), "sections": described}).encode()


def _little_endian(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(array, _DTYPES[array.dtype.name])


def _damaged(received: str) -> ArgumentError:
    return argument_error("path", "must be an index file of this package", received, "write it again")
