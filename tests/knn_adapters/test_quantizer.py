import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import mp_plugins
from knn_adapters import Quantizer
from knn_adapters.quantizer import METRICS
from knn_adapters.recall import exact_neighbours, recall_at_k

EPSILON = float(np.finfo(np.float32).eps)

matrices = arrays.arrays(
    np.float32,
    st.tuples(st.integers(2, 12), st.integers(1, 24)),
    elements=st.floats(-100, 100, width=32, allow_subnormal=False),
)


@settings(deadline=None, max_examples=200)
@given(matrices, st.data())
def test_decoded_values_are_within_half_a_step_inside_the_range(vectors, data):
    quantizer = Quantizer("l2").train(vectors)
    low, high = vectors.min(axis=0), vectors.max(axis=0)
    share = data.draw(arrays.arrays(np.float32, vectors.shape, elements=st.floats(0, 1, width=32)))
    inside = np.clip(low + share * (high - low), low, high)
    error = np.abs(quantizer.decode(quantizer.encode(inside)) - inside)
    # Half a step, and what float32 loses in offset + scale * code and in the division by the step.
    rounding = 4 * EPSILON * (np.abs(low) + np.abs(high))
    assert np.all(error <= quantizer.scale * (0.5 + 255 * 2 * EPSILON) + rounding)


@settings(deadline=None, max_examples=50)
@given(matrices)
def test_values_outside_the_range_take_its_nearest_end(vectors):
    quantizer = Quantizer("l2").train(vectors)
    assume(quantizer.clip != "whole numbers")  # its range reaches beyond the data
    far = 10 * (1 + np.abs(vectors).max())
    moving = quantizer.scale > 0
    high, low = quantizer.encode(np.stack([np.full(quantizer.dim, far), np.full(quantizer.dim, -far)]))
    assert np.all(high[moving] == 255)
    assert np.all(low == 0)


@pytest.mark.parametrize("metric", METRICS)
def test_neighbours_survive_quantization(vectors, queries, metric):
    quantizer = Quantizer(metric).train(vectors)
    decoded = quantizer.decode(quantizer.encode(vectors))
    found = exact_neighbours(decoded, queries, 10, metric)
    assert recall_at_k(found, exact_neighbours(vectors, queries, 10, metric), 10) > 0.97


def test_training_is_deterministic_by_seed(vectors):
    first, second = (Quantizer("ip", seed=7).train(vectors) for _ in range(2))
    assert first.clip == second.clip
    np.testing.assert_array_equal(first.scale, second.scale)
    np.testing.assert_array_equal(first.offset, second.offset)


def test_cosine_codes_ignore_lengths(vectors):
    quantizer = Quantizer("cosine").train(vectors)
    np.testing.assert_array_equal(quantizer.encode(vectors[:50]), quantizer.encode(vectors[:50] * np.float32(4)))


def test_constant_dimensions_are_exact(small):
    data = small.copy()
    data[:, 3] = 2.5
    quantizer = Quantizer("l2").train(data)
    np.testing.assert_allclose(quantizer.decode(quantizer.encode(data))[:, 3], 2.5, atol=float(quantizer.scale[3]))
    assert np.all(Quantizer("l2").train(np.full((50, 4), 1.5)).scale == 0)


def test_an_outlier_does_not_widen_the_steps(vectors):
    data = vectors.copy()
    data[17, :] = 1e4
    quantizer = Quantizer("l2").train(data)
    usual = Quantizer("l2").train(vectors)
    assert np.median(quantizer.scale) < 4 * np.median(usual.scale)


def test_bytes_are_stored_without_loss():
    data = np.random.default_rng(0).integers(0, 219, (400, 16)).astype(np.float32)
    quantizer = Quantizer("l2").train(data)
    assert quantizer.clip == "whole numbers"
    np.testing.assert_array_equal(quantizer.decode(quantizer.encode(data)), data)


@pytest.mark.parametrize("rows", [1, 2, 11, 14, 60])
def test_small_training_sets_work(small, rows):
    quantizer = Quantizer("l2").train(small[:rows])
    assert quantizer.encode(small).shape == small.shape


@pytest.mark.parametrize("metric", METRICS)
def test_round_trip_through_a_file(tmp_path, small, metric):
    quantizer = Quantizer(metric, seed=4).train(small)
    quantizer.save(tmp_path / "quantizer")
    loaded = Quantizer.load(tmp_path / "quantizer")
    assert repr(loaded) == repr(quantizer)
    assert loaded.seed == 4
    np.testing.assert_array_equal(loaded.encode(small), quantizer.encode(small))
    assert [path.name for path in tmp_path.iterdir()] == ["quantizer"]


def test_the_file_opens_with_numpy_alone(tmp_path, small):
    quantizer = Quantizer().train(small)
    quantizer.save(tmp_path / "quantizer.npz")
    with np.load(tmp_path / "quantizer.npz") as archive:
        np.testing.assert_array_equal(archive["scale"], quantizer.scale)
        assert str(archive["magic"]) == "magic-pyramid-quantizer"


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_damaged_byte_is_reported(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "quantizer.npz"
    vectors = np.random.default_rng(0).standard_normal((50, 8))
    quantizer = Quantizer().train(vectors)
    quantizer.save(path)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        loaded = Quantizer.load(path)
    except mp_plugins.ArgumentError as error:
        assert "`path`" in str(error)
    else:
        # Bytes that zip does not use, such as time stamps, may change.
        np.testing.assert_array_equal(loaded.scale, quantizer.scale)
        np.testing.assert_array_equal(loaded.offset, quantizer.offset)
        assert repr(loaded) == repr(quantizer)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut short"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(mp_plugins.ArgumentError, match="must be a quantizer file"):
        Quantizer.load(path)


def test_a_later_version_is_refused(tmp_path, small):
    path = tmp_path / "quantizer.npz"
    Quantizer().train(small).save(path)
    with np.load(path) as archive:
        content = {name: archive[name] for name in archive.files} | {"version": np.array(4)}
    np.savez(path, **content)
    with pytest.raises(mp_plugins.ArgumentError, match="version 3 or earlier, got 4"):
        Quantizer.load(path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Quantizer("hamming"), "`metric` must be one of l2, ip, cosine, got 'hamming'"),
        (lambda: Quantizer(bits=3), "`bits` must be 8 or 4, got 3"),
        (lambda: Quantizer().train([[1.0]]).encode_residuals([[1.0]], [[0]]), "must have a residual level"),
        (
            lambda: Quantizer(residual=True).train([[1.0]]).encode_residuals([[1.0]], np.zeros((2, 1), np.uint8)),
            "`codes` must have 1 rows, got 2",
        ),
        (lambda: Quantizer(bits=4).train([[1.0] * 3]).decode(np.zeros((1, 3), np.uint8)), r"of shape \(n, 2\)"),
        (lambda: Quantizer(bits="8"), "`bits` must be an integer"),
        (lambda: Quantizer().train(np.zeros((0, 4))), "`vectors` must be a matrix of at least one vector"),
        (lambda: Quantizer().train(np.zeros(4)), "shape \\(4,\\)"),
        (lambda: Quantizer().train([["a"]]), "`vectors` must be numbers"),
        (lambda: Quantizer().train([[1.0, 2.0], [3.0]]), "`vectors` must be numbers in a rectangular array"),
        (lambda: Quantizer().train([[1.0, np.nan]]), "`vectors` must hold finite numbers, got nan at \\[0, 1\\]"),
        (lambda: Quantizer().train([[1e300, 0.0]]), "got inf at \\[0, 0\\]"),
        (lambda: Quantizer().encode([[1.0]]), "`quantizer` must be trained"),
        (lambda: Quantizer().decode(np.zeros((1, 1), np.uint8)), "`quantizer` must be trained"),
        (lambda: Quantizer().save("anywhere"), "`quantizer` must be trained"),
        (lambda: Quantizer().train([[1.0, 2.0]]).encode([[1.0]]), "`vectors` must have dimension 2, got 1"),
        (lambda: Quantizer().train([[1.0, 2.0]]).decode(np.zeros((1, 2))), "`codes` must be uint8"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(mp_plugins.ArgumentError, match=message):
        call()


@pytest.mark.parametrize("metric", METRICS)
def test_four_bits_and_a_residual_level(vectors, queries, metric):
    """Two dimensions a byte; what that loses, the residual level gives back."""
    plain = Quantizer(metric, bits=4).train(vectors)
    assert plain.encode(vectors).shape == (len(vectors), (vectors.shape[1] + 1) // 2)
    quantizer = Quantizer(metric, bits=4, residual=True).train(vectors)
    codes = quantizer.encode(vectors)
    residuals = quantizer.encode_residuals(vectors, codes)
    true_ids = exact_neighbours(vectors, queries, 10, metric)
    recalls = [
        recall_at_k(exact_neighbours(decoded, queries, 10, metric), true_ids, 10)
        for decoded in (plain.decode(plain.encode(vectors)), quantizer.decode(codes, residuals))
    ]
    assert recalls[0] > 0.5
    assert recalls[1] > 0.98


def test_four_bits_clip_more_than_eight(vectors):
    """Fewer codes are worth more clipping: the steps are not 17 times as wide."""
    ratio = np.median(Quantizer("l2", bits=4).train(vectors).scale) / np.median(Quantizer("l2").train(vectors).scale)
    assert 4 < ratio < 17


def test_small_whole_numbers_fit_four_bits():
    data = np.random.default_rng(0).integers(-3, 13, (400, 15)).astype(np.float32)
    quantizer = Quantizer("l2", bits=4).train(data)
    assert quantizer.clip == "whole numbers"
    np.testing.assert_array_equal(quantizer.decode(quantizer.encode(data)), data)


@pytest.mark.parametrize(("bits", "residual", "version"), [(8, False, 1), (8, True, 2), (4, False, 2), (4, True, 2)])
def test_the_file_has_the_earliest_version_that_holds_it(tmp_path, small, bits, residual, version):
    quantizer = Quantizer("l2", bits=bits, residual=residual).train(small)
    quantizer.save(tmp_path / "quantizer")
    with np.load(tmp_path / "quantizer") as archive:
        assert archive["version"] == version
    loaded = Quantizer.load(tmp_path / "quantizer")
    assert (loaded.bits, loaded.residual, loaded.span) == (bits, residual, quantizer.span)
    codes = loaded.encode(small)
    np.testing.assert_array_equal(codes, quantizer.encode(small))
    if residual:
        np.testing.assert_array_equal(loaded.encode_residuals(small, codes), quantizer.encode_residuals(small, codes))


def test_a_failed_training_leaves_the_quantizer_as_it_was(small):
    quantizer = Quantizer().train(small)
    scale = quantizer.scale.copy()
    with pytest.raises(ValueError, match="finite"):
        quantizer.train([[np.inf] * 24])
    np.testing.assert_array_equal(quantizer.scale, scale)


def test_large_finite_values_are_accepted():
    data = np.array([[3e38, 1.0], [-3e38, 2.0]], np.float32)
    assert np.isfinite(Quantizer("ip").train(data).scale).all()
