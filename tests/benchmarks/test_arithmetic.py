"""The arithmetic behind the benchmark's table, and one tiny run of every installed engine."""

from __future__ import annotations

import argparse
import math

import numpy as np
import pytest
from mp_bench.curves import Point, exact, median_speed, ratio, recall_of, speed_at
from mp_bench.data import Data, load, with_dim
from mp_bench.measuring import Subject
from mp_bench.plan import GROUPS, PAIRED, TARGETS
from mp_bench.report import plot, rows, subjects_data, table
from mp_bench.session import run_groups

CURVE = [Point(10, 0.90, 4000.0), Point(20, 0.96, 1000.0), Point(40, 0.99, 500.0)]


def test_recall_counts_true_ids_wherever_they_stand():
    true = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    found = np.array([[4, 3, 2, 9], [-1, -1, 5, -1]])
    assert recall_of(found, true) == 4 / 8
    assert recall_of(true[:, ::-1], true) == 1.0


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_exact_neighbours(metric):
    rng = np.random.default_rng(0)
    base, queries = rng.standard_normal((300, 9)).astype(np.float32), rng.standard_normal((130, 9)).astype(np.float32)
    distances = ((queries[:, None] - base) ** 2).sum(-1) if metric == "l2" else -(queries @ base.T)
    np.testing.assert_array_equal(exact(base, queries, 5, metric), np.argsort(distances, axis=1)[:, :5])


def test_speed_is_interpolated_in_its_logarithm():
    assert speed_at(CURVE, 0.93) == pytest.approx(2000.0)  # half-way between 4000 and 1000, a factor of 2 from each
    assert speed_at(CURVE, 0.96) == pytest.approx(1000.0)
    assert speed_at(CURVE, 0.99) == pytest.approx(500.0)


def test_speed_outside_what_was_measured():
    assert speed_at(CURVE, 0.991) is None
    assert speed_at(CURVE, 0.5) == 4000.0
    assert speed_at([], 0.5) is None


def test_settings_that_another_beats_do_not_count():
    slow = Point(15, 0.92, 100.0)
    assert speed_at([*CURVE, slow], 0.93) == pytest.approx(2000.0)
    same_recall = Point(11, 0.90, 100.0)
    assert speed_at([same_recall, *CURVE], 0.90) == 4000.0


def test_ratio_and_median():
    assert ratio(6.0, 2.0) == 3.0
    assert ratio(None, 2.0) == 0.0
    assert ratio(6.0, None) == math.inf
    assert median_speed([1.0, 100.0, 3.0]) == 3.0


def subject(points, size, seconds):
    return Subject(None, seconds, size, points={"one": points})


def test_rows_know_which_targets_are_met():
    fast = [Point(p.effort, p.recall, 3.5 * p.speed) for p in CURVE]
    made = rows({"hnswlib": subject(CURVE, 1000.0, 10.0), "ours (hnswlib)": subject(fast, 400.0, 4.0)})
    verdicts = {row.what: (round(row.ratio, 6), row.met) for row in made}
    assert verdicts == {
        "queries/s one by one at 0.95": (3.5, True),
        "queries/s one by one at 0.98": (3.5, True),
        "bytes a vector": (0.4, False),
        "build seconds": (0.4, True),
    }
    assert table(made).count("MISSED") == 1


def test_a_level_that_we_do_not_reach_is_missed_and_one_that_the_peer_does_not_reach_is_met():
    low = [Point(10, 0.90, 10.0)]
    ours_low = rows({"hnswlib": subject(CURVE, 1.0, 1.0), "ours (hnswlib)": subject(low, 1.0, 1.0)})
    assert [row.met for row in ours_low[:2]] == [False, False]
    peer_low = rows({"hnswlib": subject(low, 1.0, 1.0), "ours (hnswlib)": subject(CURVE, 1.0, 1.0)})
    assert [row.met for row in peer_low[:2]] == [True, True]


def test_every_target_names_engines_of_the_plan():
    for target in TARGETS:
        assert target.peer in GROUPS[target.group]
        assert target.ours in PAIRED[target.group]


def test_other_dimensions_are_cut_or_joined(tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).standard_normal((60, 8)))
    data = load(str(tmp_path / "rows.npy"), "ip", 40, 10)
    assert (data.base.shape, data.queries.shape) == ((40, 8), (10, 8))
    for dim, word in ((5, "cut"), (8, ""), (20, "joined")):
        other = with_dim(data, dim)
        assert other.base.shape == (40, dim)
        assert word in other.label
        np.testing.assert_allclose(np.linalg.norm(other.base, axis=1), 1, rtol=1e-5)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"there is no .*absent\.npy"):
        load(str(tmp_path / "absent.npy"), "ip", None, 10)


def test_a_tiny_run(tmp_path):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, 32))
    rows_ = (centres[rng.integers(0, 30, 4100)] + 0.5 * rng.standard_normal((4100, 32))).astype(np.float32)
    rows_ /= np.linalg.norm(rows_, axis=1, keepdims=True)
    data = Data("clusters", rows_[:4000], rows_[4000:], "ip")
    given = argparse.Namespace(
        groups=["graph", "flat", "ivf", "forest"], peers=["hnswlib", "faiss flat", "annoy", "ivf256"],
        k=10, rounds=1, threads=1, quick=True, clock="cpu",
    )  # fmt: skip
    subjects, skipped = run_groups(data, given)
    assert skipped == []
    assert {
        "hnswlib",
        "ours (hnswlib)",
        "FAISS Flat",
        "ours (FAISS Flat)",
        "Annoy 20 trees",
        "ours (FAISS IVF256 SQ8)",
    } <= set(subjects)
    for name, measured in subjects.items():
        assert measured.bytes_a_vector > 0, name
        assert all(point.speed > 0 for points in measured.points.values() for point in points)
    assert subjects["ours (FAISS Flat)"].bytes_a_vector < subjects["FAISS Flat"].bytes_a_vector / 2
    assert "queries/s" in table(rows(subjects))
    assert subjects_data(subjects)["hnswlib"]["points"]["one"]
    plot(subjects, tmp_path / "plot.svg", "clusters")
    assert (tmp_path / "plot.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")
