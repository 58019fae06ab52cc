"""The file format: what goes in comes out, mapped; what is damaged is refused."""

import json
import mmap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import mp_plugins
from knn_adapters import storage

ARRAYS = {
    "codes": np.arange(60, dtype=np.uint8).reshape(20, 3),
    "labels": np.array([1, 2**63], np.uint64),
    "none": np.empty((0, 4), np.float32),
    "marks": np.array([True, False, True]),
    "scale": np.linspace(0, 1, 7, dtype=np.float32),
}


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_round_trip(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("storage") / "index"
    names = data.draw(st.lists(st.text(min_size=1, max_size=20), unique=True, max_size=5))
    shapes = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9)
    arrays = {
        name: data.draw(hnp.arrays(data.draw(st.sampled_from(sorted(storage._DTYPES))), shapes)) for name in names
    }
    fields = {"text": data.draw(st.text()), "number": data.draw(st.integers()), "flag": True}
    storage.write(path, "kind", fields, arrays)
    sections = {name: storage.Section(array.dtype.name, array.shape) for name, array in arrays.items()}
    assert path.stat().st_size == storage.size_of("kind", fields, sections)
    found = storage.read(path)
    assert (found.kind, found.fields, list(found.arrays)) == ("kind", fields, names)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype
        assert not found.arrays[name].flags.writeable


def test_sections_are_aligned_and_mapped(tmp_path):
    storage.write(tmp_path / "index", "kind", {}, ARRAYS)
    assert storage.is_ours(tmp_path / "index")
    content = (tmp_path / "index").read_bytes()
    described = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
    assert all(section["offset"] % 64 == 0 for section in described["sections"])
    codes = storage.read(tmp_path / "index").arrays["codes"]
    while isinstance(codes.base, np.ndarray):
        codes = codes.base
    assert isinstance(codes.base.obj, mmap.mmap)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux' account of mappings")
def test_the_whole_file_is_brought_into_memory_on_demand(tmp_path):
    size = 1 << 24
    storage.write(tmp_path / "index", "kind", {}, {"codes": np.zeros(size, np.uint8)})
    resident = []
    for populate in (False, True):
        codes = storage.read(tmp_path / "index", populate=populate, unchecked={"codes"}).arrays["codes"]
        mapping = Path("/proc/self/smaps").read_text().split(f"{tmp_path / 'index'}\n")[1]
        resident.append(1024 * int(mapping.split("Rss:")[1].split()[0]))
        assert not codes.any()
        del codes
    assert resident[0] < size / 2 < size <= resident[1]


def test_checksums_that_are_not_asked_for_are_not_looked_at(tmp_path):
    storage.write(tmp_path / "index", "kind", {}, ARRAYS)
    content = bytearray((tmp_path / "index").read_bytes())
    content[content.index(ARRAYS["codes"].tobytes()) + 30] ^= 1
    (tmp_path / "index").write_bytes(content)
    found = storage.read(tmp_path / "index", unchecked={"codes"}).arrays["codes"]
    assert (found != ARRAYS["codes"]).sum() == 1
    with pytest.raises(mp_plugins.ArgumentError, match="checksum of 'codes'"):
        storage.read(tmp_path / "index", unchecked={"labels"})


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_cut_file_is_refused(tmp_path, share):
    storage.write(tmp_path / "index", "kind", {"x": 1}, ARRAYS)
    content = (tmp_path / "index").read_bytes()
    (tmp_path / "cut").write_bytes(content[: int(share * len(content))])
    with pytest.raises(mp_plugins.ArgumentError, match="`path` must be an index file of this package"):
        storage.read(tmp_path / "cut")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_changed_byte_is_found(data, tmp_path_factory):
    """Every byte counts, but for the zeros between sections."""
    folder = tmp_path_factory.getbasetemp()
    storage.write(folder / "index", "kind", {"x": 1}, ARRAYS)
    content = bytearray((folder / "index").read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    (folder / "changed").write_bytes(content)
    try:
        found = storage.read(folder / "changed")
    except mp_plugins.ArgumentError:
        return
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found.arrays[name], array)
    assert (found.kind, found.fields) == ("kind", {"x": 1})


def test_other_files(tmp_path):
    (tmp_path / "text").write_text("nothing of the kind, but long enough to hold a header")
    assert not storage.is_ours(tmp_path / "text")
    with pytest.raises(mp_plugins.ArgumentError, match="got a file of another kind"):
        storage.read(tmp_path / "text")
    storage.write(tmp_path / "index", "kind", {}, ARRAYS)
    content = bytearray((tmp_path / "index").read_bytes())
    content[8] = 2
    (tmp_path / "later").write_bytes(content)
    with pytest.raises(mp_plugins.ArgumentError, match="`path` must be of version 1, got 2: upgrade"):
        storage.read(tmp_path / "later")
    with pytest.raises(FileNotFoundError):
        storage.read(tmp_path / "absent")
    (tmp_path / "zeros").write_bytes(bytes(200))
    with pytest.raises(mp_plugins.ArgumentError):
        storage.read(tmp_path / "zeros")


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "index"
    storage.write(path, "kind", {}, ARRAYS)
    before = path.read_bytes()
    with pytest.raises(KeyError):
        storage.write(path, "kind", {}, {"wrong": np.ones(3)})
    with pytest.raises(TypeError):
        storage.write(path, "kind", {"wrong": object()}, ARRAYS)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
