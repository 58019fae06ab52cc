"""``rescore="original"``: the vectors stay beside the codes, through everything that an index goes through."""

import copy
import pickle
import threading

import hnswlib
import numpy as np
import pytest

import knn_adapters
from knn_adapters import hnswlib as stand_in
from knn_adapters.recall import exact_neighbours, recall_at_k

SPACES = ("l2", "ip", "cosine")


@pytest.fixture(autouse=True)
def _restored():
    with knn_adapters.configure(bits=8, rescore="original", num_threads=None):
        yield


def built(vectors, space="l2", labels=None, room=10, module=stand_in, **options):
    index = module.Index(space, vectors.shape[1])
    index.init_index(len(vectors) + room, **{"ef_construction": 100, **options})
    index.add_items(vectors, labels)
    index.set_ef(64)
    return index


def stored(vectors, space):
    """What hnswlib keeps."""
    if space != "cosine":
        return vectors
    return vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True).astype(np.float32)


def distances_to(vectors, query, space):
    x, q = stored(vectors, space).astype(np.float64), query.astype(np.float64)
    if space == "l2":
        return ((x - q) ** 2).sum(1)
    return 1 - x @ (q / np.linalg.norm(q) if space == "cosine" else q)


def assert_exact(index, vectors, queries, space):
    """Distances are those of the vectors, in their order."""
    labels, distances = index.knn_query(queries, k=5)
    for query, row, values in zip(queries, labels, distances, strict=True):
        exact = distances_to(vectors[row.astype(np.int64)], query, space)
        np.testing.assert_allclose(values, exact, rtol=2e-6, atol=2e-6)
        assert (np.diff(values) >= 0).all()


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("bits", [8, 4])
def test_items_and_distances_are_exact(words, queries, space, bits):
    knn_adapters.configure(bits=bits)
    vectors = words[:2500]
    original = built(vectors, space, module=hnswlib)
    index, wrapped = built(vectors, space), knn_adapters.wrap(original)
    for one in (index, wrapped):
        assert knn_adapters.stats(one).bits == bits
        assert_exact(one, vectors, queries[:50], space)
    np.testing.assert_array_equal(wrapped.get_items(range(2500)), original.get_items(range(2500)))
    np.testing.assert_allclose(index.get_items(range(2500)), stored(vectors, space), rtol=3e-7)
    if space != "cosine":
        np.testing.assert_array_equal(index.get_items(range(2500)), vectors)


@pytest.fixture(scope="module", params=SPACES)
def original(request, vectors):
    return built(vectors, request.param, module=hnswlib)


@pytest.mark.parametrize(("bits", "ef", "k"), [(8, 10, 10), (8, 50, 50), (8, 64, 10), (4, 64, 10), (4, 128, 10)])
def test_recall_is_that_of_the_graphs_own_search(original, vectors, queries, bits, ef, k):
    """At ef = k too, where the codes' last candidates are not the vectors' last."""
    wrapped, space = knn_adapters.wrap(original, bits=bits), original.space
    true = exact_neighbours(vectors, queries, k, space)
    recalls = []
    for index in (original, wrapped):
        index.set_ef(ef)
        recalls.append(recall_at_k(index.knn_query(queries, k=k)[0].astype(np.int64), true, k))
    assert recalls[1] >= recalls[0] - 0.01  # walks over codes go other ways; 20 of 2000 neighbours


def grown_and_changed(words, space):
    """Added one batch after another, resized, replaced, deleted, brought back; and what it must hold."""
    index = built(words[:1500], space, room=0, allow_replace_deleted=True)
    index.resize_index(2600)
    index.add_items(words[1500:2400], range(1500, 2400))  # trains
    held = words[:2500].copy()
    changed = np.arange(0, 2400, 11)
    index.add_items(words[2600 + changed], changed)
    held[changed] = words[2600 + changed]
    for label in range(100, 140):
        index.mark_deleted(label)
    index.unmark_deleted(139)
    index.add_items(words[2400:2420], range(2400, 2420), replace_deleted=True)
    live = np.array([label for label in range(2420) if not 100 <= label < 139])
    return index, held, live


@pytest.mark.parametrize("space", SPACES)
def test_they_go_through_everything(words, tmp_path, space):
    index, held, live = grown_and_changed(words, space)
    index.save_index(tmp_path / "index")
    assert (tmp_path / "index").stat().st_size == index.index_file_size()
    knn_adapters.configure(rescore="none")  # the file says what it holds
    loaded = stand_in.Index(space, 384)
    loaded.load_index(tmp_path / "index")
    copies = [index, loaded, pickle.loads(pickle.dumps(index)), copy.copy(index), copy.deepcopy(index)]  # noqa: S301
    copies.append(stand_in.Index(index=index))
    for one in copies:
        assert "rescore='original'" in repr(one)
        np.testing.assert_allclose(one.get_items(live), stored(held[live], space), rtol=3e-7)
        np.testing.assert_array_equal(one.get_items(live), index.get_items(live))
        one.set_ef(64)
        assert_exact(one, held, words[4000:4020], space)
        one.add_items(words[5000:5050], range(3000, 3050))
        np.testing.assert_array_equal(one.get_items(range(3000, 3050)), index.get_items(range(3000, 3050)))
    knn_adapters.export(index, tmp_path / "plain")
    plain = hnswlib.Index(space, 384)
    plain.load_index(str(tmp_path / "plain"))
    np.testing.assert_array_equal(plain.get_items(live), index.get_items(live))


def test_training_anew_loses_nothing(words):
    index = built(words[:2100], "l2", room=2000)
    before, far = index._quantizer.scale.max(), words[2100:3600] * np.float32(4)
    for part in np.array_split(far, 6):
        index.add_items(part)
    np.testing.assert_array_equal(index.get_items(range(3600)), np.concatenate([words[:2100], far]))
    assert index._quantizer.scale.max() > 1.2 * before
    assert_exact(index, np.concatenate([words[:2100], far]), words[4000:4020], "l2")


def test_what_is_outside_of_the_range_is_kept_once(words):
    index = built(words[:2100], "l2", room=50)
    index.add_items(words[2100:2110] * np.float32(5))
    outside = index._elements.rows.outside
    assert len(outside) == 10
    assert set(outside.values()) == {None}
    copied = pickle.loads(pickle.dumps(index))  # noqa: S301
    assert copied._elements.rows.outside == outside


@pytest.mark.parametrize("module", [knn_adapters, stand_in])
def test_files_of_hnswlib_and_its_indexes_give_their_vectors(words, tmp_path, module):
    original = built(words[:300], "ip", module=hnswlib)
    original.save_index(str(tmp_path / "theirs"))
    if module is stand_in:
        index = stand_in.Index("ip", 384)
        index.load_index(tmp_path / "theirs")
    else:
        index = knn_adapters.wrap(original)
    np.testing.assert_array_equal(index.get_items(range(300)), words[:300])


def test_filters(words):
    index = built(words[:2500])
    even = np.arange(2500) % 2 == 0
    for condition in (even, np.flatnonzero(even), lambda label: label % 2 == 0):
        labels, distances = index.knn_query(words[4000:4010], k=5, filter=condition)
        assert (labels % 2 == 0).all()
        for query, row, values in zip(words[4000:4010], labels, distances, strict=True):
            exact = distances_to(words[row.astype(np.int64)], query, "l2")
            np.testing.assert_allclose(values, exact, rtol=2e-6)


def test_searches_while_others_add_and_resize(words):
    """Whatever is found meanwhile has the distance of the vector under its label."""
    index, done = built(words[:2100], room=0), threading.Event()

    def grow():
        for start in range(2100, 3900, 60):
            index.resize_index(start + 60)
            index.add_items(words[start : start + 60], range(start, start + 60))
        done.set()

    grower = threading.Thread(target=grow)
    grower.start()
    while not done.is_set():
        assert_exact(index, words, words[4000:4010], "l2")
    grower.join()
    np.testing.assert_array_equal(index.get_items(range(3900)), words[:3900])


def test_figures_say_what_is_inside(words):
    index = built(words[:2500], room=0)
    figures = knn_adapters.stats(index)
    assert (figures.bits, figures.rescore, figures.kept_bytes) == (8, "original", 4.0 * 384)
    assert figures.total_bytes == pytest.approx(
        figures.codes_bytes + figures.kept_bytes + figures.graph_bytes + figures.other_bytes
    )
    assert "+ vectors 1536.0 + graph" in str(figures)
    assert "rescore: original" in str(figures)
    plain = knn_adapters.stats(knn_adapters.wrap(built(words[:2500], room=0, module=hnswlib), rescore="none"))
    assert plain.codes_bytes == figures.codes_bytes
    assert plain.kept_bytes == 0.0
    index.set_ef(300)
    true = exact_neighbours(words[:2500], words[4000:4100], 10, "l2")
    found = index.knn_query(words[4000:4100], k=10)[0].astype(np.int64)
    assert knn_adapters.estimate_recall(index, words[4000:4100]) == recall_at_k(found, true, 10)
    few = built(words[:10])
    assert "exact so far" in repr(few)
    assert knn_adapters.stats(few).kept_bytes == 0.0
    assert "elements=10, max_elements=20" in repr(few)
    assert repr(stand_in.Index("ip", 3)) == "<knn_adapters.hnswlib.Index(space='ip', dim=3)>"
