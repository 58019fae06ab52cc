"""The exhaustive index beside hnswlib's, and where that one goes wrong."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import hnswlib
import numpy as np
import pytest

import knn_adapters
import mp_plugins
from knn_adapters import hnswlib as stand_in


def built(module, vectors, space="l2", labels=None, room=10):
    index = module.BFIndex(space=space, dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors) + room)
    index.add_items(vectors, labels)
    return index


@pytest.mark.parametrize("space", ["l2", "ip", "cosine"])
def test_answers_are_hnswlibs(small, space):
    queries = small[:40] + np.float32(0.05)
    if space == "cosine":
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)  # which hnswlib does not do
    ours, theirs = (built(module, small, space, np.arange(300) + 50) for module in (stand_in, hnswlib))
    for k in (1, 20, 300):
        labels, distances = ours.knn_query(queries, k=k)
        expected_labels, expected = theirs.knn_query(queries, k=k)
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_allclose(distances, expected, atol=1e-5, rtol=1e-5)
        assert (labels.dtype, distances.dtype) == (expected_labels.dtype, expected.dtype)
    even = ours.knn_query(queries, k=5, filter=lambda label: label % 2 == 0)[0]
    assert (even % 2 == 0).all()
    np.testing.assert_array_equal(ours.knn_query(queries, 5, lambda label: label % 2 == 0)[0], even)  # as in 0.7
    np.testing.assert_array_equal(ours.knn_query(queries, k=5, filter=np.arange(50, 350, 2))[0], even)


def test_changes(small):
    index = built(stand_in, small)
    index.add_items(small[:2], [5, 1000])
    assert index.get_current_count() == 301
    assert set(index.knn_query(small[0], k=2)[0][0].tolist()) == {0, 5}
    for label in (0, 299, 1000, 7, 123456):
        index.delete_vector(label)
    assert index.get_current_count() == 297
    rest = np.setdiff1d(np.arange(300), [0, 299, 7])
    held = small.copy()
    held[5] = small[0]
    np.testing.assert_array_equal(index.knn_query(held[rest][1:5], k=1)[0][:, 0], rest[1:5])
    found = index.knn_query(small[:3], k=297)[0]
    assert all(sorted(row) == rest.tolist() for row in found.tolist())
    index.add_items(small[[7]], [7])
    assert index.knn_query(small[7])[0].tolist() == [[7]]
    assert index.get_max_elements() == 310
    assert index.num_threads == getattr(hnswlib.BFIndex("l2", 3), "num_threads", -1)
    with pytest.raises(ValueError, match="`num_threads` must be an integer, got 'two'"):
        index.knn_query(small[0], 1, "two")
    index.set_num_threads(2)
    assert index.num_threads == 2


def test_files_and_pickle(small, tmp_path):
    index = built(stand_in, small, "ip", np.arange(300) * 7)
    expected = index.knn_query(small, k=3)
    index.save_index(tmp_path / "ours")
    built(hnswlib, small, "ip", np.arange(300) * 7, room=0).save_index(str(tmp_path / "theirs"))
    copies = [pickle.loads(pickle.dumps(index))]  # noqa: S301
    for name in ("ours", "theirs"):
        copies.append(stand_in.BFIndex("ip", 24))
        copies[-1].load_index(tmp_path / name)
    for copied in copies:
        np.testing.assert_array_equal(copied.knn_query(small, k=3), expected)
        copied.delete_vector(7)
        assert (copied.get_current_count(), index.get_current_count()) == (299, 300)
    fresh = stand_in.BFIndex("l2", 24)
    assert pickle.loads(pickle.dumps(fresh)).__repr__() == repr(fresh)  # noqa: S301
    for name, message in (("ours", "dimension 24"), ("absent", "Cannot open file"), ("short", "corrupted")):
        (tmp_path / "short").write_bytes(b"short")
        with pytest.raises(RuntimeError, match=message):
            fresh.load_index(tmp_path / name)


@pytest.mark.parametrize("space", ["l2", "ip", "cosine"])
def test_figures_and_recall(small, space):
    index = built(stand_in, small, space, np.arange(300) * 7)
    figures = knn_adapters.stats(index)
    assert (figures.kind, figures.metric, figures.n_vectors, figures.bits) == ("hnswlib.BFIndex", space, 300, 32)
    assert figures.codes_bytes == 4 * 24
    assert knn_adapters.estimate_recall(index, small[:50] + np.float32(0.1), k=5) == 1.0
    with pytest.raises(mp_plugins.ArgumentError, match="must not be wrapped already"):
        knn_adapters.wrap(index)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda i, x: i.knn_query(x, k=301), RuntimeError, "contiguous 2D array"),
        (lambda i, x: i.knn_query(x[:, :3]), ValueError, "`data` must have dimension 24, got 3"),
        (lambda i, x: i.knn_query(x[0], k=2, filter=[5]), RuntimeError, "contiguous 2D array"),
        (lambda i, x: i.knn_query(x * np.nan), ValueError, "finite"),
        (lambda i, x: i.add_items(x[:11], range(900, 911)), RuntimeError, "exceeds the specified limit"),
        (lambda i, x: i.add_items(x[:, :3]), RuntimeError, "Wrong dimensionality of the vectors"),
        (lambda i, x: i.add_items(x[:3], [1]), RuntimeError, "input label shape"),
        (lambda i, x: i.init_index(4), RuntimeError, "already initiated"),
        (lambda i, x: i.delete_vector("a"), TypeError, "`label` must be an integer"),
        (lambda i, x: stand_in.BFIndex("l3", 4), RuntimeError, "l2, ip, or cosine"),
        (lambda i, x: stand_in.BFIndex("l2", 4).knn_query(np.ones(4)), RuntimeError, "not initiated"),
        (lambda i, x: stand_in.BFIndex("l2", 4).get_current_count(), RuntimeError, "not initiated"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(small, call, error, message):
    index = built(stand_in, small)
    with pytest.raises(error, match=message):
        call(index, small)
    assert index.knn_query(small, k=1)[0][:, 0].tolist() == list(range(300))


def test_changing_and_searching_at_once(small):
    index = built(stand_in, small, labels=np.arange(300), room=300)

    def change(step):
        index.add_items(small[step] + 100, [1000 + step])
        index.delete_vector(1000 + step - 1)

    def search(step):
        return index.knn_query(small[step], k=1)[0][0, 0] == step

    with ThreadPoolExecutor(4) as pool:
        changes = [pool.submit(change, step) for step in range(200)]
        assert all(pool.map(search, range(200)))
        for job in changes:
            job.result()
