"""Feedback of encoding: when there is some, what it is, and what it is good for."""

import numpy as np
import pytest

from knn_adapters import Quantizer, _core, hnswlib
from knn_adapters.feedback import feedback_of
from knn_adapters.recall import exact_neighbours, recall_at_k
from mp_plugins import ArgumentError


def correlated(n: int, dim: int, seed: int = 0) -> np.ndarray:
    """Vectors whose variance falls off fast along random directions, as that of embeddings does."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    spectrum = 1 / np.sqrt(1 + np.arange(dim))
    return ((rng.standard_normal((n, dim)) * spectrum) @ directions).astype(np.float32)


def matrix(factors: np.ndarray, dim: int) -> np.ndarray:
    rows = np.eye(dim)
    rows[np.triu_indices(dim, 1)] = (factors.astype(np.uint32) << 16).view(np.float32)
    return rows


def test_factors_make_the_moments_diagonal() -> None:
    """H^-1 = U' U and F = U / diag(U) make F H F' diagonal: what a step can't make up for is nobody else's to."""
    rows, dim = correlated(2000, 12), 12
    factors = feedback_of(rows, "ip", 0)
    assert factors is not None
    moments = rows.T.astype(np.float64) @ rows / len(rows)
    damped = moments + 0.1 * np.trace(moments) / dim * np.eye(dim)
    product = matrix(factors, dim) @ damped @ matrix(factors, dim).T
    scales = np.sqrt(np.diagonal(product))
    np.testing.assert_allclose(product / np.outer(scales, scales), np.eye(dim), atol=0.02)  # bfloat16 has 8 bits


def test_distances_do_not_see_what_all_vectors_share() -> None:
    rows = correlated(2000, 12)
    by_distance, moved = feedback_of(rows, "l2", 0), feedback_of(rows + 5, "l2", 0)
    np.testing.assert_allclose(matrix(by_distance, 12), matrix(moved, 12), atol=0.02)
    assert np.abs(matrix(feedback_of(rows + 5, "ip", 0), 12) - matrix(moved, 12)).max() > 0.1


@pytest.mark.parametrize("factor", [1e-30, 1.0, 1e30])
def test_any_length_of_vectors(factor: float) -> None:
    rows = correlated(500, 8)
    np.testing.assert_allclose(
        matrix(feedback_of(rows * np.float32(factor), "l2", 0), 8), matrix(feedback_of(rows, "l2", 0), 8), atol=0.01
    )


@pytest.mark.parametrize(
    "rows", [correlated(159, 8), correlated(100, 1), np.zeros((500, 8), np.float32), np.full((500, 8), 3, np.float32)]
)
def test_none_where_it_does_not_pay(rows: np.ndarray) -> None:
    assert feedback_of(rows, "l2", 0) is None


def test_a_constant_dimension_and_one_that_repeats_another() -> None:
    rows = correlated(1000, 10)
    rows[:, 3], rows[:, 7] = 2, rows[:, 1]
    quantizer = Quantizer("ip").train(rows)
    assert quantizer.feedback is not None
    found = quantizer.decode(quantizer.encode(rows))
    assert np.abs(found - rows).max() < 10 * quantizer.scale.max()
    np.testing.assert_array_equal(found[:, 3], rows[:, 3])


@pytest.mark.parametrize(("metric", "bits"), [("l2", 8), ("l2", 4), ("ip", 8), ("ip", 4), ("cosine", 4)])
def test_recall_of_real_vectors_gains(all_words, metric: str, bits: int) -> None:
    base, asked = all_words[:20_000], all_words[-1000:]
    true = exact_neighbours(base, asked, 10, metric)
    quantizer = Quantizer(metric, bits=bits).train(base)
    plain = Quantizer.from_affine(metric, quantizer.scale, quantizer.offset, "", bits=bits)

    def recall(by: Quantizer) -> float:
        return recall_at_k(exact_neighbours(by.decode(by.encode(base)), asked, 10, metric), true, 10)

    assert 1 - recall(quantizer) < 0.95 * (1 - recall(plain))


def test_dimensions_without_correlations_are_rounded_one_by_one() -> None:
    rows = np.random.default_rng(0).standard_normal((5000, 16)).astype(np.float32)
    assert feedback_of(rows, "ip", 0) is not None
    assert Quantizer("ip").train(rows).feedback is None


def test_codes_with_a_residual_level_are_rounded_one_by_one() -> None:
    assert Quantizer("ip", residual=True).train(correlated(1000, 8)).feedback is None


def test_a_quantizer_keeps_it_in_its_file(tmp_path) -> None:
    rows = correlated(1000, 16)
    quantizer = Quantizer("ip", bits=4).train(rows)
    quantizer.save(tmp_path / "q.npz")
    loaded = Quantizer.load(tmp_path / "q.npz")
    np.testing.assert_array_equal(loaded.feedback, quantizer.feedback)
    np.testing.assert_array_equal(loaded.encode(rows), quantizer.encode(rows))
    content = dict(np.load(tmp_path / "q.npz"))
    content["feedback"] = content["feedback"] ^ 1
    np.savez(tmp_path / "damaged.npz", **content)
    with pytest.raises(ArgumentError, match="checksum differs"):
        Quantizer.load(tmp_path / "damaged.npz")


def test_a_growing_index_keeps_it_in_its_file_and_copies(tmp_path) -> None:
    rows = correlated(3000, 16)
    index = hnswlib.Index("ip", 16)
    index.init_index(4000)
    index.add_items(rows, num_threads=1)
    index.save_index(str(tmp_path / "index.mp"))
    loaded = hnswlib.Index("ip", 16)
    loaded.load_index(str(tmp_path / "index.mp"), max_elements=4000)
    assert index._quantizer.feedback is not None
    np.testing.assert_array_equal(loaded._quantizer.feedback, index._quantizer.feedback)
    later = correlated(300, 16, seed=3)
    for grown in (index, loaded):
        grown.add_items(later, np.arange(3000, 3300), num_threads=1)
    np.testing.assert_array_equal(loaded.get_items(range(3300)), index.get_items(range(3300)))


def test_equal_vectors_and_seed_give_equal_codes() -> None:
    rows = correlated(2000, 24)
    first, second = (Quantizer("ip", seed=7).train(rows) for _ in range(2))
    np.testing.assert_array_equal(first.encode(rows), second.encode(rows))
    np.testing.assert_array_equal(
        _core.encode(rows, first.scale, first.offset, 8, first.feedback, "serial"), first.encode(rows)
    )
