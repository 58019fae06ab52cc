import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import annoy
import numpy as np
import pytest

import knn_adapters
import mp_plugins
from knn_adapters.annoy import held_vectors
from knn_adapters.recall import exact_neighbours, recall_at_k

METRICS = {"angular": "cosine", "euclidean": "l2", "dot": "ip"}


@pytest.fixture(scope="module", params=list(METRICS))
def metric(request):
    return request.param


@pytest.fixture(scope="module")
def pair(metric, build, vectors):
    original = build["annoy"](vectors, metric)
    return original, knn_adapters.wrap(original)


def found_by(index, queries, k=10, search_k=-1):
    return np.array([index.get_nns_by_vector(query, k, search_k) for query in queries])


def test_recall_is_within_two_points_of_the_originals(pair, metric, vectors, queries):
    true = exact_neighbours(vectors, queries, 10, METRICS[metric])
    recalls = [recall_at_k(found_by(index, queries, search_k=1500), true, 10) for index in pair]
    assert recalls[0] > 0.1
    assert recalls[0] - recalls[1] <= 0.02


def test_looking_at_all_items_finds_the_nearest(pair, queries, metric):
    _, wrapped = pair
    ids, decoded = held_vectors(wrapped)
    true = exact_neighbours(decoded, queries[:50], 10, METRICS[metric])
    assert recall_at_k(found_by(wrapped, queries[:50], search_k=10**6), ids[true], 10) > 0.98


def test_the_wrapped_index_is_an_annoy_index(pair):
    original, wrapped = pair
    assert isinstance(wrapped, annoy.AnnoyIndex)
    assert wrapped.f == original.f
    assert wrapped.get_n_items() == original.get_n_items()
    assert wrapped.get_n_trees() == original.get_n_trees()
    assert "bits=8" in repr(wrapped)


def test_results_have_annoys_types_and_units(pair, queries, metric):
    for query in queries[:20]:
        (expected_ids, expected), (ids, distances) = (
            index.get_nns_by_vector(query, 5, 10**6, include_distances=True) for index in pair
        )
        assert [type(value) for value in ids + distances] == [type(value) for value in expected_ids + expected]
        assert distances == sorted(distances, reverse=metric == "dot")
        np.testing.assert_allclose(distances, expected, rtol=0.05, atol=0.05)


def test_items_and_distances_between_them_are_close(pair):
    original, wrapped = pair
    for i, j in ((0, 1), (5, 4000), (77, 77)):
        vectors = np.array([wrapped.get_item_vector(i), original.get_item_vector(i)])
        assert np.linalg.norm(vectors[0] - vectors[1]) <= 0.07 * np.linalg.norm(vectors[1])
        assert wrapped.get_distance(i, j) == pytest.approx(original.get_distance(i, j), rel=0.02, abs=0.03)
    assert isinstance(wrapped.get_item_vector(0), list)


def test_an_item_finds_itself_first(pair, metric):
    _, wrapped = pair
    for item in range(0, 100, 7):
        ids = wrapped.get_nns_by_item(item, 5, 5000)
        assert metric == "dot" or ids[0] == item


def test_memory_is_at_most_45_percent(pair):
    assert knn_adapters.stats(pair[1]).ratio <= 0.45


def test_fewer_are_returned_than_asked_for(build, small):
    for metric in METRICS:
        original = build["annoy"](small, metric)
        wrapped = knn_adapters.wrap(original)
        assert len(wrapped.get_nns_by_vector(small[0], 1000)) == len(original.get_nns_by_vector(small[0], 1000)) == 300
        assert len(wrapped.get_nns_by_item(3, 5, 1)) <= 5


def test_the_original_stays_as_it_was(build, small, metric):
    original = build["annoy"](small, metric)
    before = original.get_nns_by_vector(small[0], 20, include_distances=True)
    knn_adapters.wrap(original)
    assert original.get_nns_by_vector(small[0], 20, include_distances=True) == before
    # Once saved, or loaded, an index refuses this.
    assert original.unbuild()
    original.add_item(len(small), small[0])
    assert original.build(2)


def test_loaded_indexes_are_wrapped_too(build, small, metric, tmp_path):
    build["annoy"](small, metric).save(str(tmp_path / "forest.ann"))
    loaded = annoy.AnnoyIndex(small.shape[1], metric)
    loaded.load(str(tmp_path / "forest.ann"))
    wrapped = knn_adapters.wrap(loaded)
    assert wrapped.get_n_trees() == loaded.get_n_trees()
    assert recall_at_k(found_by(wrapped, small, 5, 3000), found_by(loaded, small, 5, 3000), 5) > 0.9
    assert (tmp_path / "forest.ann").exists()


def test_holes_among_the_items_are_never_found(small):
    for metric in METRICS:
        index = annoy.AnnoyIndex(small.shape[1], metric)
        for item, vector in zip(range(0, 3 * len(small), 3), small, strict=True):
            index.add_item(item, vector)
        index.build(5)
        wrapped = knn_adapters.wrap(index)
        assert wrapped.get_n_items() == index.get_n_items()
        ids = wrapped.get_nns_by_vector(small[4], 1000)
        assert len(ids) == len(small)
        assert all(item % 3 == 0 for item in ids)
        assert wrapped.get_item_vector(1) == index.get_item_vector(1)
        assert knn_adapters.estimate_recall(wrapped, small[:20]) > 0.5


@pytest.mark.parametrize("count", [1, 2, 3, 27])
def test_small_forests_work(small, count):
    for metric in METRICS:
        index = annoy.AnnoyIndex(small.shape[1], metric)
        for item in range(count):
            index.add_item(item, small[item])
        index.build(3)
        wrapped = knn_adapters.wrap(index)
        assert sorted(wrapped.get_nns_by_vector(small[0], 100)) == list(range(count))


def test_equal_items_are_split_at_random(small):
    index = annoy.AnnoyIndex(small.shape[1], "euclidean")
    for item in range(200):
        index.add_item(item, small[0])
    index.build(3)
    assert len(knn_adapters.wrap(index).get_nns_by_vector(small[1], 200)) == 200


def test_threads_agree(pair, queries):
    _, wrapped = pair
    expected = found_by(wrapped, queries[:50])
    with ThreadPoolExecutor(4) as pool:
        for ids in pool.map(lambda _: found_by(wrapped, queries[:50]), range(8)):
            np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda index: index.get_nns_by_vector([1.0] * 23, 1), IndexError, "`vector` must hold 24 numbers, got 23"),
        (lambda index: index.get_nns_by_vector([], 1), IndexError, r"Vector has wrong length \(expected 24, got 0\)"),
        (lambda index: index.get_nns_by_vector([np.nan] * 24, 1), ValueError, "`vector` must hold finite numbers"),
        (lambda index: index.get_nns_by_vector([np.inf] * 24, 0), ValueError, "`vector` must hold finite numbers"),
        (lambda index: index.get_nns_by_vector([1e40] * 24, 0), ValueError, "`vector` must hold finite numbers"),
        (lambda index: index.get_nns_by_vector([1.0] * 24, 2.5), TypeError, "`n` must be an integer, got 2.5"),
        (lambda index: index.get_nns_by_vector([1.0] * 24, 1, "a"), TypeError, "`search_k` must be an integer"),
        (lambda index: index.get_nns_by_vector([1.0] * 24, 1, 1, None), TypeError, "`include_distances` must be"),
        (lambda index: index.get_nns_by_vector([1.0] * 24, 2**31), OverflowError, r"`n` must be -2\^31 to 2\^31 - 1"),
        (lambda index: index.get_nns_by_item(-1, 1), IndexError, "`i` must be 0..299, got -1"),
        (lambda index: index.get_nns_by_item(300, 1), IndexError, "`i` must be 0..299, got 300"),
        (lambda index: index.get_item_vector(300), IndexError, "Item index larger than the largest item index: `i`"),
        (lambda index: index.get_distance(0, 300), IndexError, "`j` must be 0..299"),
        (lambda index: index.get_distance(-1, 0), IndexError, "Item index can not be negative: `i`"),
        (lambda index: index.get_distance("a", 0), TypeError, "`i` must be an integer"),
        (lambda index: index.add_item(0, [1.0] * 24), Exception, "You can't add an item to a built index"),
        (lambda index: index.build(3), Exception, "You can't build a built index: the index must not be built"),
        (lambda index: index.build(3, 0), ValueError, "`n_jobs` must be at least 1, or -1, got 0"),
        (lambda index: index.build(-2), ValueError, "`n_trees` must be at least 0, or -1, got -2"),
        (lambda index: index.on_disk_build("x"), Exception, "on_disk_build.. comes too late"),
        (lambda index: index.load("/nowhere/x"), OSError, r"Unable to open: No such file or directory \(2\)"),
        (lambda index: index.save("/nowhere/x"), OSError, r"Unable to open: No such file or directory \(2\)"),
        (lambda index: index.save(""), OSError, "`fn` must be the name of a file"),
        (lambda index: index.save(b"x"), TypeError, "`fn` must be str, not bytes"),
        (lambda index: index.verbose("a"), TypeError, "`v` must be an integer"),
        (lambda index: index.set_seed(2.5), TypeError, "`s` must be an integer"),
        (lambda index: copy.copy(index), TypeError, "cannot pickle 'AnnoyIndex' object"),
        (lambda index: pickle.dumps(index), TypeError, "cannot pickle 'AnnoyIndex' object"),
    ],
)
def test_bad_input_is_named(build, small, call, error, message):
    wrapped = knn_adapters.wrap(build["annoy"](small))
    before = wrapped.get_nns_by_vector(small[5], 20, include_distances=True)
    with pytest.raises(error, match=message):
        call(wrapped)
    with pytest.raises(mp_plugins.MagicPyramidError):
        call(wrapped)
    assert wrapped.get_nns_by_vector(small[5], 20, include_distances=True) == before


def test_indexes_that_are_not_built_are_refused(small):
    index = annoy.AnnoyIndex(small.shape[1], "angular")
    with pytest.raises(mp_plugins.ArgumentError, match="`index` must hold items and be built, got 0 items"):
        knn_adapters.wrap(index)
    index.add_item(0, small[0])
    with pytest.raises(mp_plugins.ArgumentError, match="got 1 items, 0 trees"):
        knn_adapters.wrap(index)


@pytest.mark.parametrize("metric", ["manhattan", "hamming"])
def test_other_metrics_are_left_as_they_are(build, small, metric):
    original = build["annoy"](small, metric)
    with pytest.warns(UserWarning, match=f"dimension 24 and metric {metric} is not quantized") as warned:
        assert knn_adapters.wrap(original) is original
    assert len(warned) == 1
    assert warned[0].filename == __file__
    with pytest.raises(mp_plugins.UnsupportedError, match=f"metric {metric} is not estimated"):
        knn_adapters.estimate_recall(original, small[:5])


def test_indexes_built_on_disk_tell_nobody_where(small, tmp_path):
    index = annoy.AnnoyIndex(small.shape[1], "angular")
    index.on_disk_build(str(tmp_path / "forest.ann"))
    for item, vector in enumerate(small):
        index.add_item(item, vector)
    index.build(2)
    with pytest.raises(mp_plugins.UnsupportedError, match=r"load\(\) that file and wrap the result"):
        knn_adapters.wrap(index)


def test_a_wrapped_index_goes_on_as_annoys_would(build, small, metric):
    """Items come to what the codes stand for, and it is encoded again however few they are."""
    wrapped = knn_adapters.wrap(build["annoy"](small, metric), bits=4, rescore="residual")
    held = np.array([wrapped.get_item_vector(item) for item in range(300)])
    assert wrapped.unbuild()
    assert (wrapped.get_n_items(), wrapped.get_n_trees(), wrapped.get_nns_by_item(0, 5)) == (300, 0, [])
    np.testing.assert_allclose(wrapped.get_item_vector(7), held[7], rtol=1e-5, atol=1e-6)
    wrapped.add_item(300, 2 * small[7])
    assert wrapped.build(5)
    assert knn_adapters.stats(wrapped).bits == 4
    assert (wrapped.get_n_items(), wrapped.get_n_trees()) == (301, 5)
    assert np.linalg.norm(held[7] - wrapped.get_item_vector(7)) < 0.05 * np.linalg.norm(held[7])
    if metric == "angular":
        assert wrapped.get_distance(7, 300) < 0.05
