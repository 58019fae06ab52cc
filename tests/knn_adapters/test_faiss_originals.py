"""``rescore="original"`` of FAISS' flat indexes and graphs: the vectors stay beside the codes, whatever is done."""

import copy
import pickle

import faiss
import numpy as np
import pytest

import knn_adapters
import mp_plugins
from knn_adapters import faiss as stand_in
from knn_adapters.recall import exact_neighbours, recall_at_k

METRICS = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}
KINDS = ("IndexFlat", "IndexHNSWFlat")


@pytest.fixture(autouse=True)
def _restored():
    with knn_adapters.configure(bits=8, rescore="original", num_threads=None):
        yield


@pytest.fixture(scope="module")
def rows(words):
    return np.ascontiguousarray(words[:, :96])


def made(kind, metric="l2", module=stand_in, dim=96):
    number = METRICS[metric]
    index = module.IndexFlat(dim, number) if kind == "IndexFlat" else module.IndexHNSWFlat(dim, 16, number)
    if hasattr(index, "hnsw"):
        index.hnsw.efSearch = 64
    return index


def distances_to(held, query, metric):
    x, q = held.astype(np.float64), query.astype(np.float64)
    return ((x - q) ** 2).sum(1) if metric == "l2" else x @ q


def assert_exact(index, held, queries, metric, k=5):
    """Distances are those of the vectors, in their order."""
    distances, ids = index.search(queries, k)
    for query, found, values in zip(queries, ids, distances, strict=True):
        np.testing.assert_allclose(values, distances_to(held[found], query, metric), rtol=2e-6, atol=2e-6)
        assert (np.diff(values) * (1 if metric == "l2" else -1) >= 0).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [8, 4])
def test_vectors_and_distances_are_exact(rows, kind, metric, bits):
    knn_adapters.configure(bits=bits)
    held, queries = rows[:4000], rows[4000:4100]
    original = made(kind, metric, faiss)
    original.add(held)
    built = made(kind, metric)
    for part in np.array_split(held, 5):
        built.add(part)
    true, dim = exact_neighbours(held, queries, 10, metric), 96
    expected = recall_at_k(original.search(queries, 10)[1], true, 10)
    for index in (built, knn_adapters.wrap(original)):
        assert_exact(index, held, queries, metric)
        np.testing.assert_array_equal(index.reconstruct_n(), held)
        np.testing.assert_array_equal(index.reconstruct_batch([7, 3]), held[[7, 3]])
        assert recall_at_k(index.search(queries, 10)[1], true, 10) >= expected - (0.02 if bits == 8 else 0.05)
        figures = knn_adapters.stats(index)
        assert (figures.bits, figures.rescore, figures.kept_bytes) == (bits, "original", 4.0 * dim)
        assert figures.codes_bytes <= dim * bits / 8 + 4
        assert figures.total_bytes > figures.original_bytes
        found = index.search(queries, 10)[1]
        assert knn_adapters.estimate_recall(index, queries) == recall_at_k(found, true, 10)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_radius_is_one_of_the_vectors(rows, kind, metric):
    held = rows[:2500]
    index = made(kind, metric)
    index.add(held)
    for query in rows[4000:4004]:
        distances = distances_to(held, query, metric)
        radius = float(np.sort(distances if metric == "l2" else -distances)[40]) * (1 if metric == "l2" else -1)
        chosen = faiss.IDSelectorRange(100, 2000)
        for params in (None, faiss.SearchParameters(sel=chosen)):
            lims, values, ids = index.range_search(query[None], radius, params=params)
            inside = distances < radius * 0.9999 if metric == "l2" else distances > radius * 1.0001
            wanted = np.flatnonzero(inside & ((np.arange(2500) >= 100) & (np.arange(2500) < 2000) if params else True))
            assert set(wanted) <= set(ids.tolist())
            assert len(ids) <= len(wanted) + 3  # on the edge
            np.testing.assert_allclose(values, distances[ids], rtol=2e-6, atol=2e-6)
            assert lims.tolist() == [0, len(ids)]


@pytest.mark.parametrize("kind", KINDS)
def test_they_go_through_everything(rows, kind, tmp_path):
    index = made(kind)
    index.add(rows[:1500])  # held exactly so far
    index.add(rows[1500:2600])
    held = rows[:2600]
    if kind == "IndexFlat":
        assert index.remove_ids(np.arange(0, 2600, 3)) == 867
        held = np.delete(held, np.arange(0, 2600, 3), axis=0)
        other = made(kind)
        other.add(rows[3000:3100])
        index.merge_from(other)
        held = np.concatenate([held, rows[3000:3100]])
    order = np.random.default_rng(0).permutation(len(held))
    index.permute_entries(order)
    held = held[order]
    copies = [index, pickle.loads(pickle.dumps(index)), copy.deepcopy(index), stand_in.clone_index(index)]  # noqa: S301
    for twin in copies:
        assert type(twin) is type(index)
        np.testing.assert_array_equal(twin.reconstruct_n(), held)
        twin.add(rows[4500:4600])
        every = np.concatenate([held, rows[4500:4600]])
        np.testing.assert_array_equal(twin.reconstruct_n(), every)
        assert_exact(twin, every, rows[4600:4620], "l2")
    stand_in.write_index(index, str(tmp_path / "index"))
    plain, again = (module.read_index(str(tmp_path / "index")) for module in (faiss, stand_in))
    assert isinstance(plain, getattr(faiss, kind))
    assert isinstance(again, getattr(stand_in, "IndexFlatL2" if kind == "IndexFlat" else kind))
    for read in (plain, again):
        np.testing.assert_array_equal(read.reconstruct_n(0, len(every)), every)
        if hasattr(read, "hnsw"):
            read.hnsw.efSearch = 64
        assert recall_at_k(read.search(rows[4600:4700], 10)[1], index.search(rows[4600:4700], 10)[1], 10) > 0.97
    index.reset()
    assert index.ntotal == 0
    index.add(rows[:2100])
    np.testing.assert_array_equal(index.reconstruct_n(), rows[:2100])


@pytest.mark.parametrize("kind", KINDS)
def test_training_anew_loses_nothing(rows, kind):
    index = made(kind)
    index.add(rows[:2100])
    before, far = index._quantizer.scale.max(), rows[2100:3600] * np.float32(4)
    for part in np.array_split(far, 6):
        index.add(part)
        assert set(index._contents.drift.outside.values()) <= {None}  # kept once
    held = np.concatenate([rows[:2100], far])
    assert index._quantizer.scale.max() > 1.2 * before
    np.testing.assert_array_equal(index.reconstruct_n(), held)
    assert_exact(index, held, rows[4000:4020], "l2")


def test_what_c_code_adds_moves_and_removes_is_what_its_codes_stand_for(rows):
    index = made("IndexFlat")
    index.add(rows[:2100])
    faiss.downcast_index(index).add(rows[2100:2200])  # nobody tells ours
    assert index.ntotal == 2200
    found = index.reconstruct_n()
    np.testing.assert_array_equal(found[:2100], rows[:2100])
    assert 0 < np.abs(found[2100:] - rows[2100:2200]).mean() < index._quantizer.scale.max()
    assert recall_at_k(index.search(rows[2100:2200], 1)[1], np.arange(2100, 2200)[:, None], 1) > 0.95
    order = np.random.default_rng(0).permutation(2200)
    if not hasattr(index, "permute_entries_c"):
        pytest.skip("not in this release of FAISS")
    index.permute_entries_c(faiss.swig_ptr(order))
    moved = index.reconstruct_n()
    assert 0 < np.abs(moved - found[order]).mean() < index._quantizer.scale.max()
    assert_exact(index, moved, rows[4000:4010], "l2")


@pytest.mark.parametrize("text", ["IDMap,Flat", "IDMap2,HNSW16", "PCA32,Flat", "Flat,RFlat"])
def test_inside_other_indexes(rows, text):
    index, theirs = (module.index_factory(96, text) for module in (stand_in, faiss))
    for one in (index, theirs):
        one.train(rows[:3000])
        one.add_with_ids(rows[:3000], np.arange(3000)) if "IDMap" in text else one.add(rows[:3000])
    figures = knn_adapters.stats(index)
    assert (figures.rescore, figures.kept_bytes) == ("original", 4.0 * (32 if "PCA" in text else 96))
    found, expected = (one.search(rows[4000:4100], 5) for one in (index, theirs))
    assert recall_at_k(found[1], expected[1], 5) > (0.9 if "HNSW" in text else 0.97)
    same = found[1] == expected[1]
    np.testing.assert_allclose(found[0][same], expected[0][same], rtol=1e-3, atol=1e-4)


def test_selectors(rows):
    index = made("IndexHNSWFlat")
    index.add(rows[:2500])
    chosen = faiss.SearchParametersHNSW(sel=faiss.IDSelectorBatch(np.arange(0, 2500, 7)), efSearch=64)
    distances, ids = index.search(rows[4000:4020], 5, params=chosen)
    assert (ids % 7 == 0).all()
    for query, row, values in zip(rows[4000:4020], ids, distances, strict=True):
        np.testing.assert_allclose(values, distances_to(rows[row], query, "l2"), rtol=2e-6)


def test_what_has_no_vectors_to_keep_says_so(small):
    refused = r"'original' is not yet supported.*: use rescore='none'"
    coded, lists = faiss.IndexScalarQuantizer(24, faiss.ScalarQuantizer.QT_8bit), faiss.index_factory(24, "IVF4,Flat")
    for index in (coded, lists):
        index.train(small)
        index.add(small)
        with pytest.raises(mp_plugins.UnsupportedError, match=refused):
            knn_adapters.wrap(index)
    with pytest.raises(mp_plugins.UnsupportedError, match=refused):
        stand_in.index_factory(24, "IVF4,Flat")
