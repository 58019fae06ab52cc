"""Indexes inside IndexIDMap, IndexIDMap2, IndexPreTransform and IndexRefine, beside FAISS' own."""

import copy
import pickle

import faiss
import numpy as np
import pytest

import knn_adapters
import mp_plugins
from knn_adapters import faiss as stand_in
from knn_adapters import faiss_classes
from knn_adapters.recall import exact_neighbours, recall_at_k

BOTH = (stand_in, faiss)
STRINGS = (
    "Flat", "SQ8", "SQ4", "HNSW16,Flat", "HNSW16", "HNSW16,SQ8", "IVF16,Flat", "IVF16,SQ8", "IVF16,SQ4",
    "IDMap,Flat", "IDMap2,Flat", "IDMap,SQ8", "IDMap2,HNSW16", "IDMap,IVF16,SQ8", "PCA64,Flat", "PCA64,IVF16,SQ8",
    "IVF16,SQ8,RFlat", "HNSW16,RFlat", "PCA32,Flat,RFlat", "SQ4,Refine(SQ8)", "IVF16_HNSW8,SQ8",
)  # fmt: skip


def filled(index, rows, ids=None):
    if not index.is_trained:
        index.train(rows)
    if ids is None:
        index.add(rows)
    else:
        index.add_with_ids(rows, ids)
    return index


def wide(index):
    inner = index
    while inner is not None:
        if hasattr(inner, "hnsw"):
            inner.hnsw.efSearch = 100
        if hasattr(inner, "nprobe"):
            inner.nprobe = 12
        if hasattr(inner, "k_factor"):
            inner.k_factor = 5
        inner = getattr(inner, "index", getattr(inner, "base_index", None))
        inner = None if inner is None else faiss.downcast_index(inner) if type(inner) is faiss.Index else inner
    return index


def is_ours(index):
    return knn_adapters.wrapping.find_adapter(index).is_wrapped(index)


@pytest.mark.parametrize("text", STRINGS)
@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
def test_factory_strings(words, text, metric):
    rows = np.ascontiguousarray(words[:4000, :96])
    queries = np.ascontiguousarray(words[4000:4200, :96])
    ids = np.arange(len(rows)) * 3 + 1 if text.startswith("IDMap") else None
    ours, theirs = (wide(filled(module.index_factory(96, text, metric), rows, ids)) for module in BOTH)
    assert is_ours(ours)
    assert isinstance(ours, type(theirs))
    assert (ours.ntotal, ours.d, ours.metric_type) == (theirs.ntotal, 96, metric)
    wrapped = wide(knn_adapters.wrap(theirs))
    assert is_ours(wrapped)
    shown = rows / np.linalg.norm(rows, axis=1, keepdims=True) if "L2norm" in text else rows
    asked = queries / np.linalg.norm(queries, axis=1, keepdims=True) if "L2norm" in text else queries
    true = exact_neighbours(shown, asked, 10, "l2" if metric == faiss.METRIC_L2 else "ip")
    true = true if ids is None else ids[true]
    expected, expected_ids = theirs.search(queries, 10)
    best = recall_at_k(expected_ids, true, 10)
    for index in (ours, wrapped):
        distances, found = index.search(queries, 10)
        assert best - recall_at_k(found, true, 10) <= (0.1 if "SQ4" in text else 0.04)
        assert (distances.dtype, found.dtype) == (np.float32, np.int64)
        knn_adapters.stats(index)
    same = wrapped.search(queries, 10)[1] == expected_ids
    np.testing.assert_allclose(
        wrapped.search(queries, 10)[0][same], expected[same], rtol=0.3 if "SQ4" in text else 0.05, atol=0.1
    )
    # The file is FAISS' own, and plain FAISS finds the same.
    plain = wide(faiss.deserialize_index(stand_in.serialize_index(ours)))
    assert not is_ours(plain)
    assert recall_at_k(plain.search(queries, 10)[1], ours.search(queries, 10)[1], 10) > 0.95
    again = wide(stand_in.deserialize_index(stand_in.serialize_index(ours)))
    assert is_ours(again)
    assert recall_at_k(again.search(queries, 10)[1], ours.search(queries, 10)[1], 10) > 0.95
    for twin in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours), stand_in.clone_index(ours)):  # noqa: S301
        assert type(twin) is type(ours)
        np.testing.assert_array_equal(twin.search(queries, 10)[1], ours.search(queries, 10)[1])


@pytest.mark.parametrize("text", ["PQ8", "IVF16,PQ8", "IDMap,PQ8", "SQfp16", "LSH"])
def test_what_we_have_nothing_for_is_faisss_own_with_one_warning(text, monkeypatch):
    monkeypatch.setattr(faiss_classes, "_warned", set())
    with pytest.warns(UserWarning, match="FAISS' own, not quantized"):
        index = stand_in.index_factory(32, text)
    assert type(index) is type(faiss.index_factory(32, text))
    assert type(stand_in.index_factory(32, text)) is type(index)  # and no second warning, which would be an error


@pytest.mark.parametrize("inner", ["IndexFlatL2", "IndexHNSWFlat", "IndexFlatIP"])
@pytest.mark.parametrize("outer", ["IndexIDMap", "IndexIDMap2"])
@pytest.mark.parametrize("count", [300, 3000])
def test_ids(words, inner, outer, count):
    rows = np.ascontiguousarray(words[:count, :32])
    ids = np.random.default_rng(0).permutation(10**6)[:count] + 2**40
    links = (16,) if "HNSW" in inner else ()
    made = [getattr(module, outer)(getattr(module, inner)(32, *links)) for module in BOTH]
    for index in made:
        for part in np.array_split(np.arange(count), 3):
            index.add_with_ids(rows[part], ids[part])
        assert index.ntotal == count
        np.testing.assert_array_equal(faiss.vector_to_array(index.id_map), ids)
        with pytest.raises(RuntimeError):
            index.add(rows[:2])
    ours, theirs = map(wide, made)
    assert type(ours.index).__name__ == inner
    assert recall_at_k(ours.search(rows[:100], 5)[1], theirs.search(rows[:100], 5)[1], 5) > 0.9
    np.testing.assert_array_equal(ours.assign(rows[:10], 3), ours.search(rows[:10], 3)[1])
    if inner != "IndexHNSWFlat":
        assert ours.sa_code_size() == 4 * 32
        twin = copy.deepcopy(ours)
        twin.add_sa_codes(twin.index.sa_encode(rows[:3]), np.array([1, 2, 3]))
        assert 2 in twin.search(rows[1:2], 4)[1]
    if outer == "IndexIDMap2":
        for index in made:
            np.testing.assert_allclose(index.reconstruct(int(ids[7])), rows[7], atol=0.05)
            np.testing.assert_allclose(index.reconstruct_batch(ids[5:9]), rows[5:9], atol=0.05)
            for missing in (5, -1):
                with pytest.raises((RuntimeError, IndexError)):
                    index.reconstruct(missing)
        with pytest.raises(RuntimeError, match="key 5 not found"):
            ours.reconstruct_batch(np.array([ids[0], 5]))
        found = ours.search_and_reconstruct(rows[:4], 3)
        np.testing.assert_array_equal(found[2], ours.reconstruct_batch(found[1].reshape(-1)).reshape(4, 3, 32))
    else:
        for index in made:
            with pytest.raises(RuntimeError):
                index.reconstruct(int(ids[0]))
    if inner == "IndexHNSWFlat":
        for index in made:
            with pytest.raises(RuntimeError):
                index.remove_ids(ids[:2])
            assert index.ntotal == count
        return
    for index in made:
        assert index.remove_ids(ids[:50]) == 50
        assert index.remove_ids(faiss.IDSelectorBatch(ids[40:60])) == 10
        assert index.ntotal == count - 60
    assert recall_at_k(ours.search(rows[:100], 5)[1], theirs.search(rows[:100], 5)[1], 5) > 0.93
    others = [getattr(module, outer)(getattr(module, inner)(32)) for module in BOTH]
    for index, other in zip(made, others, strict=True):
        other.add_with_ids(rows[:20], np.arange(20))
        index.merge_from(other, 7)
        assert (index.ntotal, other.ntotal) == (count - 40, 0)
        assert faiss.vector_to_array(index.id_map)[-1] == 26
        assert 26 in index.search(rows[19:20], 3)[1]
        index.reset()
        assert (index.ntotal, index.id_map.size(), index.index.ntotal) == (0, 0, 0)
        index.add_with_ids(rows[:3], np.arange(3) + 5)
        np.testing.assert_array_equal(index.search(rows[:1], 4)[1][0, 3:], [-1])


def test_a_wrapper_around_an_index_that_is_there_already(words):
    for wrap in (stand_in.IndexIDMap, stand_in.IndexRefineFlat):
        index = stand_in.IndexFlatL2(32)
        index.add(words[:10, :32])
        with pytest.raises(RuntimeError):
            wrap(index)
    real = stand_in.IndexIDMap(faiss.IndexFlatL2(32))
    assert type(real) is faiss.IndexIDMap


def test_transforms(words):
    rows = np.ascontiguousarray(words[:3000, :48])
    made = []
    for module in BOTH:
        index = module.IndexPreTransform(module.PCAMatrix(48, 40), module.IndexFlatL2(40))
        index.prepend_transform(module.NormalizationTransform(48, 2.0))
        assert not index.is_trained
        if module is stand_in:
            with pytest.raises(RuntimeError, match="must be trained"):
                index.add(rows)
        index.train(rows)
        index.add(rows)
        assert (index.is_trained, index.ntotal, index.chain.size()) == (True, 3000, 2)
        assert index.remove_ids(np.arange(10)) == 10
        made.append(index)
    ours, theirs = made
    assert recall_at_k(ours.search(rows[:100], 5)[1], theirs.search(rows[:100], 5)[1], 5) > 0.95
    np.testing.assert_allclose(ours.reconstruct(3), theirs.reconstruct(3), atol=0.02)
    np.testing.assert_allclose(ours.reconstruct_n(0, 5), theirs.reconstruct_n(0, 5), atol=0.02)
    assert isinstance(ours.index, stand_in.IndexFlatL2)
    other = copy.deepcopy(ours)
    ours.merge_from(other)
    assert (ours.ntotal, other.ntotal) == (5980, 0)
    ours.reset()
    assert (ours.ntotal, ours.index.ntotal) == (0, 0)
    with pytest.raises(mp_plugins.UnsupportedError, match="cannot be exchanged"):
        ours.index = theirs


def test_a_transform_that_is_trained_for_product_quantization(words):
    rows = np.ascontiguousarray(words[:3000, :24])
    index = stand_in.index_factory(24, "OPQ2_16,IVF4,SQ8")
    assert type(index.index) is stand_in.IndexIVFScalarQuantizer
    transform = faiss.downcast_VectorTransform(index.chain.at(0))
    assert type(transform) is faiss.OPQMatrix
    transform.niter = transform.niter_pq = transform.niter_pq_0 = 1
    index.train(rows)
    index.add(rows)
    index.index.nprobe = 4
    assert recall_at_k(index.search(rows[:50], 1)[1], np.arange(50)[:, None], 1) > 0.98


@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
@pytest.mark.parametrize("flat", [True, False])
def test_refinement_gives_exact_distances(words, metric, flat):
    rows, queries = (np.ascontiguousarray(part[:, :48]) for part in (words[:4000], words[4000:4200]))
    made = []
    for module in BOTH:
        base = module.IndexScalarQuantizer(48, faiss.ScalarQuantizer.QT_4bit, metric)
        index = module.IndexRefineFlat(base) if flat else module.IndexRefine(base, module.IndexFlat(48, metric))
        index.train(rows)
        index.add(rows)
        made.append(index)
    ours = made[0]
    assert type(ours.refine_index) in (faiss.IndexFlat, faiss.IndexFlatL2, faiss.IndexFlatIP)
    true = exact_neighbours(rows, queries, 10, "l2" if metric == faiss.METRIC_L2 else "ip")
    recalls = []
    for factor in (1, 4.5):
        for index in made:
            index.k_factor = factor
        (distances, ids), (expected, expected_ids) = (index.search(queries, 10) for index in made)
        same = ids == expected_ids  # the candidates are those of other ranges of codes
        assert same.any()
        np.testing.assert_allclose(distances[same], expected[same], rtol=1e-4, atol=1e-4)
        vectors = rows[ids]
        is_l2 = metric == faiss.METRIC_L2
        exact = ((vectors - queries[:, None]) ** 2 if is_l2 else vectors * queries[:, None]).sum(-1)
        np.testing.assert_allclose(distances, exact, rtol=1e-3, atol=1e-3)
        recalls.append(recall_at_k(ids, true, 10))
        if hasattr(faiss, "IndexRefineSearchParameters"):
            params = faiss.IndexRefineSearchParameters(k_factor=factor)
            ours.k_factor = 1
            np.testing.assert_array_equal(ours.search(queries, 10, params=params)[1], ids)
    assert recalls[0] < recalls[1] > 0.98
    np.testing.assert_array_equal(ours.reconstruct(5), rows[5])
    with pytest.raises(RuntimeError, match="not implemented"):
        ours.remove_ids(np.arange(2))
    with pytest.raises(RuntimeError, match="must be IndexRefineSearchParameters"):
        ours.search(queries, 3, params=faiss.SearchParameters())
    for index in made:
        few = index.search(queries[:1], 5000)
        assert (few[1] == -1).sum() >= 1000
        index.reset()
        assert (index.search(queries[:1], 3)[1] == -1).all()


def test_the_index_of_lists_is_found_and_its_breadth_is_live(words):
    rows = np.ascontiguousarray(words[:3000, :48])
    index = filled(stand_in.index_factory(48, "PCA40,IVF16,SQ8,RFlat"), rows)
    ivf = stand_in.extract_index_ivf(index)
    assert type(ivf) is stand_in.IndexIVFScalarQuantizer
    ids = []
    for n_probe in (1, 16):
        ivf.nprobe = n_probe
        ids.append(index.search(rows[:100], 5)[1])
    assert (ids[0] != ids[1]).any()
    assert stand_in.try_extract_index_ivf(stand_in.IndexFlatL2(8)) is None
    with pytest.raises(RuntimeError):
        stand_in.extract_index_ivf(stand_in.IndexFlatL2(8))
    assert stand_in.downcast_index(index) is index
    assert type(stand_in.downcast_index(faiss.IndexFlatL2(4))) is faiss.IndexFlatL2
    assert faiss.extract_index_ivf(index).nprobe == 16


def test_arrays_for_results(small):
    index = stand_in.index_factory(24, "IDMap,Flat")
    index.add_with_ids(small, np.arange(300) + 10)
    distances, ids = np.empty((4, 3), np.float32), np.empty((4, 3), np.int64)
    found = index.search(small[:4], 3, D=distances, I=ids)
    assert found[0] is distances
    assert found[1] is ids
    np.testing.assert_array_equal(ids[:, 0], np.arange(4) + 10)
    for call in (
        lambda: index.search(small[:4], 0),
        lambda: index.search(small[:4, :5], 1),
        lambda: index.search(small[:4], 3, I=ids[:2]),
        lambda: index.add_with_ids(small[:2], np.arange(3)),
    ):
        with pytest.raises(ValueError, match="must"):
            call()
    assert index.ntotal == 300
