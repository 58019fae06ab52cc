"""What FAISS' indexes of ours hold, on its way out and in: codes, vectors, files, pickles, copies."""

import copy
import pickle

import faiss
import numpy as np
import pytest

import knn_adapters
from knn_adapters import faiss as stand_in
from knn_adapters import faiss_storage as storage
from knn_adapters.recall import recall_at_k

BOTH = (stand_in, faiss)
FLOATS = ("IndexFlat", "IndexHNSWFlat", "IndexIVFFlat")
CODED = ("IndexScalarQuantizer", "IndexHNSWSQ", "IndexIVFScalarQuantizer")


@pytest.mark.parametrize("kind", FLOATS + CODED)
def test_codes_are_those_of_our_encoder(made_faiss, vectors, kind):
    """FAISS truncates, to values that lie half a step higher: but for ties that is rounding."""
    index = made_faiss(stand_in, kind, vectors.shape[1])
    index.train(vectors[:3000])
    for part in (vectors[:3000], vectors[3000:3001], vectors[3001:]):
        index.add(part)
    quantizer = index._quantizer
    if "IVF" not in kind:
        np.testing.assert_array_equal(storage.stored_codes(index), quantizer.encode(vectors))
        return
    index.make_direct_map()
    decoded = index.reconstruct_n(0, len(vectors))
    limits = np.maximum(quantizer.scale, 1e-30)
    centroids = np.zeros_like(vectors)
    if index.by_residual:
        coarse = faiss.downcast_index(index.quantizer)
        centroids = coarse.reconstruct_batch(coarse.search(vectors, 1)[1][:, 0])
    expected = quantizer.decode(quantizer.encode(vectors - centroids)) + centroids
    steps = np.abs(decoded - expected) / limits
    assert steps.max() < 1.01
    assert (steps > 0.01).mean() < 1e-3


@pytest.mark.parametrize("kind", FLOATS + CODED)
def test_plain_faiss_reads_the_file_and_finds_the_same(made_faiss, vectors, queries, kind, tmp_path):
    for count in (500, 5000):
        index = made_faiss(stand_in, kind, vectors.shape[1])
        index.train(vectors[:count])
        index.add(vectors[:count])
        for write in (stand_in.write_index, faiss.write_index):
            write(index, str(tmp_path / "index"))
            plain = faiss.read_index(str(tmp_path / "index"))
            assert not type(plain).__module__.startswith("knn_adapters")
            others = [plain]
            if write is stand_in.write_index or count == 5000 or kind in CODED:
                others.append(stand_in.read_index(str(tmp_path / "index")))
                assert type(others[1]).__module__ == "knn_adapters.faiss"
            for other in others:
                if hasattr(other, "hnsw"):
                    other.hnsw.efSearch = 64
                assert recall_at_k(index.search(queries, 10)[1], other.search(queries, 10)[1], 10) > 0.97
    knn_adapters.export(index, tmp_path / "exported")
    assert faiss.read_index(str(tmp_path / "exported")).ntotal == index.ntotal


@pytest.mark.parametrize("kind", FLOATS + CODED)
@pytest.mark.parametrize("count", [0, 300, 2500])
def test_copies_are_whole_and_independent(made_faiss, words, kind, count):
    rows = np.ascontiguousarray(words[:, :32])
    index = made_faiss(stand_in, kind, 32)
    index.train(rows[:2500])
    if count:
        index.add(rows[:count])
    expected = index.search(rows[:50], 5)
    for twin in (pickle.loads(pickle.dumps(index)), copy.deepcopy(index), stand_in.clone_index(index)):  # noqa: S301
        assert type(twin) is type(index)
        np.testing.assert_array_equal(twin.search(rows[:50], 5), expected)
        twin.add(rows[count : count + 2100])
        assert (twin.ntotal, index.ntotal) == (count + 2100, count)
        assert recall_at_k(twin.search(rows[count : count + 50], 1)[1], np.arange(count, count + 50)[:, None], 1) > 0.8
    np.testing.assert_array_equal(index.search(rows[:50], 5), expected)


def test_a_file_of_codes_is_mapped(made_faiss, small, tmp_path):
    """What is read is not copied: FAISS' own object becomes ours."""
    index = made_faiss(stand_in, "IndexScalarQuantizer", 24)
    index.train(small)
    index.add(small)
    stand_in.write_index(index, str(tmp_path / "index"))
    read = stand_in.read_index(
        str(tmp_path / "index"), faiss.IO_FLAG_MMAP_IFC if hasattr(faiss, "IO_FLAG_MMAP_IFC") else 0
    )
    np.testing.assert_array_equal(read.search(small, 3)[1], index.search(small, 3)[1])


@pytest.mark.parametrize("kind", ["IndexFlat", "IndexHNSWFlat", "IndexScalarQuantizer"])
def test_search_and_reconstruct(made_faiss, small, kind):
    index = made_faiss(stand_in, kind, 24)
    index.train(small)
    index.add(small)
    distances, ids, vectors = index.search_and_reconstruct(small[:5], 3)
    np.testing.assert_array_equal(vectors, index.reconstruct_batch(ids.reshape(-1)).reshape(5, 3, 24))
    np.testing.assert_allclose(((vectors - small[:5, None]) ** 2).sum(-1), distances, atol=0.02)
    index.reset()
    assert np.isnan(index.search_and_reconstruct(small[:5], 3)[2]).all()


def test_stand_alone_codes(made_faiss, small):
    flat, theirs = (module.IndexFlatL2(24) for module in BOTH)
    assert flat.sa_code_size() == theirs.sa_code_size() == 96
    codes = flat.sa_encode(small)
    np.testing.assert_array_equal(codes, theirs.sa_encode(small))
    np.testing.assert_array_equal(flat.sa_decode(codes), small)
    flat.add_sa_codes(codes)
    np.testing.assert_array_equal(flat.reconstruct_n(0, 300), small)
    coded = made_faiss(stand_in, "IndexScalarQuantizer", 24)
    coded.train(small)
    codes = coded.sa_encode(small)
    coded.add_sa_codes(codes)
    np.testing.assert_array_equal(storage.stored_codes(coded), codes)
    lists = made_faiss(stand_in, "IndexIVFScalarQuantizer", 24, n_lists=4)
    lists.train(small)
    lists.add_sa_codes(lists.sa_encode(small), np.arange(300) + 5)
    lists.nprobe = 4
    for index, first in ((coded, 0), (lists, 5)):
        assert recall_at_k(index.search(small, 1)[1], np.arange(300)[:, None] + first, 1) > 0.99
        with pytest.raises(ValueError, match="`codes` must be uint8"):
            index.add_sa_codes(small)


@pytest.mark.parametrize("kind", ["IndexFlat", "IndexScalarQuantizer", "IndexHNSWFlat"])
def test_entries_in_another_order(made_faiss, small, kind):
    order = np.random.default_rng(0).permutation(300)
    index = made_faiss(stand_in, kind, 24)
    index.train(small)
    index.add(small)
    index.permute_entries(order)
    assert recall_at_k(index.search(small[order], 1)[1], np.arange(300)[:, None], 1) > 0.99
