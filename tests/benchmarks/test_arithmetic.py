"""The arithmetic behind the benchmark's tables, and tiny runs of every installed engine."""

from __future__ import annotations

import argparse
import json
import math

import numpy as np
import pytest
import run
from mp_bench.curves import Point, Truth, exact, median_speed, ratio, speed_at
from mp_bench.data import Data, first, load, mixed, with_dim
from mp_bench.engines import Engine, FaissIndex, Hnswlib
from mp_bench.keeping import Shelf
from mp_bench.measuring import Subject, sweep
from mp_bench.plan import GROUPS, PAIRED, TARGETS
from mp_bench.report import growth_data, growth_table, plot, plot_growth, subjects_data, table, write_json
from mp_bench.rows import target_rows
from mp_bench.scale import Growth, grow
from mp_bench.session import CLOCKS, run_group

CURVE = [Point(10, 0.90, 4000.0), Point(20, 0.96, 1000.0), Point(40, 0.99, 500.0)]


def test_recall_counts_true_ids_wherever_they_stand():
    base = np.arange(10, dtype=np.float32)[:, None]
    truth = Truth.of(base, np.array([[2.4], [6.4]], np.float32), 4, "l2")
    np.testing.assert_array_equal(np.sort(truth.ids), [[1, 2, 3, 4], [5, 6, 7, 8]])
    assert truth.recall(np.array([[4, 3, 2, 9], [-1, -1, 5, -1]])) == 4 / 8
    assert truth.recall(truth.ids[:, ::-1]) == 1.0


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_of_equal_vectors_each_is_right(metric):
    base = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    truth = Truth.of(base, np.array([[1.0, 0.5, 0.0]], np.float32), 6, metric)
    assert truth.recall(np.array([[3, 2, 1, 0, 4, 7]])) == truth.recall(np.array([[0, 1, 2, 3, 6, 5]])) == 1.0
    assert truth.recall(np.array([[0, 1, 2, 3, 4, 11]])) == 5 / 6


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
    made = target_rows({"hnswlib": subject(CURVE, 1000.0, 10.0), "ours (hnswlib)": subject(fast, 400.0, 4.0)})
    verdicts = {row.what: (round(row.compared, 6), row.met) for row in made}
    assert verdicts == {
        "queries/s one by one at 0.95": (3.5, True),
        "queries/s one by one at 0.98": (3.5, True),
        "bytes a vector": (0.4, False),
        "build seconds": (0.4, True),
    }
    assert table(made).count("MISSED") == 1


def test_a_level_that_we_do_not_reach_is_missed_and_one_that_the_peer_does_not_reach_is_met():
    low = [Point(10, 0.90, 10.0)]
    ours_low = target_rows({"hnswlib": subject(CURVE, 1.0, 1.0), "ours (hnswlib)": subject(low, 1.0, 1.0)})
    assert [row.met for row in ours_low[:2]] == [False, False]
    peer_low = target_rows({"hnswlib": subject(low, 1.0, 1.0), "ours (hnswlib)": subject(CURVE, 1.0, 1.0)})
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


@pytest.fixture(scope="module")
def clusters():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, 32))
    rows_ = (centres[rng.integers(0, 30, 4100)] + 0.5 * rng.standard_normal((4100, 32))).astype(np.float32)
    rows_ /= np.linalg.norm(rows_, axis=1, keepdims=True)
    return Data("clusters", rows_[:4000], rows_[4000:], "ip")


def options(**changes):
    given = {
        "peers": None,
        "k": 10,
        "rounds": 1,
        "threads": 1,
        "quick": True,
        "clock": "cpu",
        "svg": None,
        "dims": None,
    }
    return argparse.Namespace(**given | changes)


def shelf_in(folder):
    return Shelf(folder, CLOCKS["cpu"], "cpu")


@pytest.mark.parametrize("k", [10, 100])
def test_a_tiny_run(tmp_path, clusters, k):
    given = options(peers=["hnswlib", "FAISS Flat", "annoy", "ivf256"], k=k)
    truth = Truth.of(clusters.base, clusters.queries, k, "ip")
    outcomes = [run_group(group, clusters, truth, given, shelf_in(None)) for group in GROUPS]
    subjects = {name: subject for outcome in outcomes for name, subject in outcome.subjects.items()}
    assert [outcome.skipped for outcome in outcomes] == [[]] * len(GROUPS)
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
    assert all("queries/s" in table(outcome.rows) for outcome in outcomes)
    assert subjects_data(subjects)["hnswlib"]["points"]["one"]
    plot(subjects, tmp_path / "plot.svg", "clusters")
    assert (tmp_path / "plot.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_recall_ceilings(clusters, metric):
    data = Data("clusters", clusters.base, clusters.queries, metric)
    outcome = run_group("ceiling", data, Truth.of(data.base, data.queries, 10, metric), options(), shelf_in(None))
    eight, with_residuals, four = (row.our_value for row in outcome.rows)
    assert 0.9 < eight <= with_residuals
    assert with_residuals > 0.99
    assert four > 0.9
    assert all(row.peer_value == 1 and row.what == "recall@10" for row in outcome.rows)


def test_overhead_is_what_is_added_to_the_core(clusters):
    made = run_group("overhead", clusters, None, options(), shelf_in(None)).rows
    assert [row.ours for row in made] == [
        f"ours ({name})" for name in ("hnswlib", "FAISS HNSWFlat", "FAISS IVF16 Flat", "FAISS Flat", "Annoy 20 trees")
    ]
    for row in made:
        assert min(row.our_value, row.peer_value) > 0  # which of the two was faster is the machine's business
        assert row.compared == row.our_value - row.peer_value


def test_kept_indexes_answer_as_they_did_and_keep_their_times(tmp_path, clusters):
    queries = clusters.queries[:20]
    for group, peers in GROUPS.items():
        for name, make in peers.items():
            first_run, second_run = make(name, "ip", 1), make(name, "ip", 1)
            try:
                built = shelf_in(tmp_path).build(first_run, clusters)
            except ImportError:
                continue
            loaded = shelf_in(tmp_path).build(second_run, clusters)
            assert built.built_at == ""
            assert (loaded.seconds, bool(loaded.built_at)) == (built.seconds, True), name
            effort = first_run.efforts_for(10)[-1]
            for engine in (first_run, second_run):
                engine.set_effort(effort)
            np.testing.assert_array_equal(first_run.batch(queries, 10), second_run.batch(queries, 10), err_msg=group)
            assert second_run.bytes_a_vector(4000) == pytest.approx(first_run.bytes_a_vector(4000), rel=0.01)


def test_other_vectors_or_parameters_are_not_taken_for_kept_ones(tmp_path, clusters):
    shelf, others = shelf_in(tmp_path), Data("clusters", clusters.base[:-1], clusters.queries, "ip")
    shelf.build(FaissIndex("FAISS IVF", "IVF16Flat"), clusters)
    assert not shelf.build(FaissIndex("FAISS IVF", "IVF16Flat"), others).built_at
    assert not shelf.build(FaissIndex("FAISS IVF", "IVF8Flat"), clusters).built_at
    assert not shelf.build(FaissIndex("FAISS IVF", "IVF16Flat", threads=2), clusters).built_at
    assert shelf.build(FaissIndex("FAISS IVF", "IVF16Flat"), clusters).built_at


def test_graphs_are_not_asked_for_fewer_candidates_than_neighbours():
    assert Hnswlib("hnswlib").efforts_for(10)[:3] == (10, 16, 24)
    assert Hnswlib("hnswlib").efforts_for(100)[:3] == (100, 160, 256)
    assert FaissIndex("IVF", "IVF16Flat").efforts_for(100)[0] == 2


class _Scripted(Engine):
    """Finds the first so many of ten neighbours."""

    def __init__(self, found):
        super().__init__("scripted")
        self.efforts = tuple(found)
        self._found = found

    def efforts_for(self, k):
        return self.efforts

    def set_effort(self, effort):
        self._effort = effort

    def batch(self, queries, k):
        return np.where(np.arange(k) < self._found[self._effort], np.arange(k), -1)[np.newaxis]


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        ({10: 2, 20: 8, 40: 9, 80: 10, 160: 10}, [20, 40, 80]),  # enough at 80, and one below the range
        ({10: 2, 20: 9, 40: 9, 80: 10}, [10, 20, 40]),  # no rise from 20 to 40
        ({0: 9}, [0]),
    ],
)
def test_the_sweep_ends_where_more_effort_is_not_worth_timing(found, kept):
    measured = Subject(_Scripted(found), 0.0, 0.0)
    base, queries = np.arange(10, dtype=np.float32)[:, np.newaxis], np.zeros((1, 1), np.float32)
    sweep(measured, queries, Truth.of(base, queries, 10, "l2"))
    assert list(measured.recalls) == kept


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_mixtures_lie_between_real_rows(metric):
    corners = Data("corners", np.eye(8, dtype=np.float32), np.eye(8, dtype=np.float32), metric)
    made = mixed(corners, 70_000)
    assert made.base.shape == (70_000, 8)
    assert "mixtures" in made.label
    assert np.all((made.base >= 0).all(axis=1) & ((made.base > 0).sum(axis=1) <= 2))
    lengths = np.linalg.norm(made.base, axis=1) if metric == "ip" else made.base.sum(axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)
    np.testing.assert_array_equal(first(made, 30).base, made.base[:30])


def test_growth_is_the_slope_of_the_logarithms(tmp_path):
    growth = Growth("ours", {10: 3.0, 1000: 300.0, 100: 30.0})
    assert growth.exponent == pytest.approx(1.0)
    assert Growth("ours", {10: 3.0}).exponent is None
    text = growth_table([growth, Growth("peer", {10: 2.0}), Growth("never")])
    assert "| ours | 3.0 | 30.0 | 300 | 1.00 |" in text
    assert "| peer | 2.0 | - | - | - |" in text
    assert "| never | - | - | - | - |" in text
    plot_growth([growth], tmp_path / "growth.svg", "title")
    assert "<svg" in (tmp_path / "growth.svg").read_text(encoding="utf-8")


def test_growth_of_a_tiny_run(clusters):
    given = options(peers=["hnswlib", "ivf256 flat", "faiss flat"], scale=[3000, 1000])
    steps = list(grow(clusters, given, shelf_in(None)))
    assert [step.size for step in steps] == [1000] * 3 + [3000] * 3
    assert "mixtures" in steps[-1].label
    assert steps[-1].skipped == []
    names = {growth.engine: growth for growth in steps[-1].growths}
    assert {"hnswlib", "ours (hnswlib)", "ours (FAISS IVF Flat)", "FAISS Flat"} <= set(names)
    assert list(names["ours (FAISS Flat)"].microseconds) == [1000, 3000]
    assert growth_data(steps[-1].growths)["FAISS Flat"]["by_size"][3000] > 0
    assert "ours (FAISS Flat)" in steps[-1].subjects


def test_each_group_is_written_when_it_is_finished(tmp_path, clusters, capsys):
    path, results = tmp_path / "figures.json", []
    sizes = []

    def write():
        write_json(path, {"results": results})
        sizes.append(len(json.loads(path.read_text(encoding="utf-8"))["results"][0]["rows"]))

    run.run_table(clusters, options(groups=["flat", "ceiling"], peers=["sq8"]), shelf_in(None), results, write)
    assert sizes == [3, 6]
    assert "MISSED" in capsys.readouterr().out or all(row["met"] for row in results[0]["rows"])
    assert set(GROUPS) <= set(run.GROUPS)
