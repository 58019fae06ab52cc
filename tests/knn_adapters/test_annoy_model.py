"""Any order of calls, on Annoy and on what stands in for it, beside a dict of vectors."""

import tempfile
from pathlib import Path

import annoy
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from knn_adapters import annoy as stand_in
from knn_adapters import annoy_nodes, export

DIM = 6


class IndexMachine(RuleBasedStateMachine):
    """Few vectors of few dimensions; from 8 on they are encoded. Annoy's index does the same, and holds the truth."""

    def __init__(self):
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.folder = Path(self.directory.name)

    def teardown(self):
        self.directory.cleanup()

    @initialize(
        metric=st.sampled_from(["angular", "euclidean", "dot"]),
        seed=st.integers(0, 2**31 - 1),
        step=st.integers(0, 3),
    )
    def start(self, metric, seed, step):
        self.rng = np.random.default_rng(seed)
        self.metric, self.seed = metric, seed
        self.ours, self.theirs = stand_in.AnnoyIndex(DIM, metric), annoy.AnnoyIndex(DIM, metric)
        self.ours._least = 8
        for index in self.both():
            index.set_seed(seed)
        self.model, self.exact = {}, True
        self.state, self.on_disk, self.n_trees, self.saved = "empty", False, 0, {}
        if step:
            self.add(list(range(0, 40 * step, step)))
            self.build(3)

    def both(self):
        return self.ours, self.theirs

    def refused(self, call, words, error=Exception):
        for index in self.both():
            with pytest.raises(error, match=words):
                call(index)

    @rule(items=st.lists(st.integers(0, 150), min_size=5, max_size=60))
    def add(self, items):
        vectors = self.rng.standard_normal((len(items), DIM)).astype(np.float32)
        if self.state == "loaded":
            self.refused(lambda index: index.add_item(items[0], vectors[0]), "can't add an item to a loaded index")
        elif self.state == "built":  # where Annoy overwrites its trees
            with pytest.raises(ValueError, match="can't add an item to a built index"):
                self.ours.add_item(items[0], vectors[0])
        else:
            for item, vector in zip(items, vectors, strict=True):
                for index in self.both():
                    index.add_item(item, vector)
                self.model[item] = vector

    @rule(n_trees=st.integers(1, 6))
    def build(self, n_trees):
        if self.state != "empty":
            self.refused(lambda index: index.build(n_trees, 1), f"can't build a {self.state} index")
            return
        for index in self.both():
            assert index.build(n_trees, 1) is True
        self.state, self.n_trees = "built", n_trees
        self.exact = self.exact and "bits" not in repr(self.ours)

    @rule()
    def unbuild(self):
        if self.state == "loaded":
            self.refused(lambda index: index.unbuild(), "can't unbuild a loaded index")
            return
        assert self.ours.unbuild() is self.theirs.unbuild() is True
        if self.n_trees:  # Annoy's nodes of trees come back as items behind the last
            self.theirs = annoy.AnnoyIndex(DIM, self.metric)
            self.theirs.set_seed(self.seed)
            for item, vector in self.model.items():
                self.theirs.add_item(item, vector)
        self.state, self.n_trees = "empty", 0

    @precondition(lambda self: self.state == "empty" and not self.model)
    @rule()
    def go_to_disk(self):
        for name, index in zip(("ours", "theirs"), self.both(), strict=True):
            assert index.on_disk_build(str(self.folder / f"{name}.disk")) is True
        self.on_disk = True

    @rule(name=st.sampled_from("ab"), prefault=st.booleans())
    def save(self, name, prefault):
        if self.state == "empty":
            self.refused(
                lambda index: index.save(str(self.folder / "never")), "can't save an index that hasn't", OSError
            )
            assert not (self.folder / "never").exists()
            return
        if self.on_disk:
            return  # Annoy writes nothing then
        for owner, index in zip(("ours", "theirs"), self.both(), strict=True):
            assert index.save(str(self.folder / f"{owner}.{name}"), prefault) is True
        self.state = "loaded"
        self.saved[name] = (dict(self.model), self.exact)
        self.take_over_the_number_of_trees()

    @precondition(lambda self: self.saved)
    @rule(data=st.data(), theirs=st.booleans(), prefault=st.booleans())
    def load(self, data, theirs, prefault):
        """Of both, or Annoy's file by both; a fresh index, as Annoy crashes if it loads twice."""
        name = data.draw(st.sampled_from(sorted(self.saved)))
        self.theirs = annoy.AnnoyIndex(DIM, self.metric)
        assert self.theirs.load(str(self.folder / f"theirs.{name}")) is True
        assert self.ours.load(str(self.folder / f"{'theirs' if theirs else 'ours'}.{name}"), prefault) is True
        self.model, self.exact = dict(self.saved[name][0]), self.saved[name][1]
        self.exact = "bits" not in repr(self.ours) and (theirs or self.exact)
        self.state, self.on_disk = "loaded", False
        self.take_over_the_number_of_trees()

    def take_over_the_number_of_trees(self):
        """Annoy counts first copies of roots too where all items fit one list."""
        self.n_trees = None

    @rule()
    def fail_to_load(self):
        for path in (self.folder, self.folder / "missing"):
            with pytest.raises(OSError, match="Unable to open"):
                self.ours.load(str(path))

    @rule()
    def unload(self):
        assert self.ours.unload() is self.theirs.unload() is True
        self.theirs.unbuild()  # which Annoy wants
        self.seed = 0
        for index in self.both():
            index.set_seed(0)
        self.model, self.exact, self.state, self.on_disk, self.n_trees = {}, True, "empty", False, 0

    @precondition(lambda self: self.state != "empty" and self.model)
    @rule()
    def export_and_read(self):
        export(self.ours, self.folder / "exported")
        plain = annoy.AnnoyIndex(DIM, self.metric)
        plain.load(str(self.folder / "exported"))
        assert plain.get_n_items() == self.ours.get_n_items()
        for item in self.model:
            np.testing.assert_allclose(plain.get_item_vector(item), self.ours.get_item_vector(item), 1e-4, 1e-5)
        assert sorted(plain.get_nns_by_vector([1.0] * DIM, 1000, 10**6)) == sorted(self.model)

    @rule(k=st.integers(-2, 200), search_k=st.sampled_from([-5, -1, 0, 1, 20, 10**6]))
    def search(self, k, search_k):
        query = self.rng.standard_normal(DIM).tolist()
        (ids, distances), (their_ids, their_distances) = (
            index.get_nns_by_vector(query, k, search_k, True) for index in self.both()
        )
        assert ids == self.ours.get_nns_by_vector(query, k, search_k)
        assert set(ids) <= set(self.model)
        assert len(set(ids)) == len(ids) == len(distances)
        assert distances == sorted(distances, reverse=self.metric == "dot")
        if self.state == "empty":
            assert ids == their_ids == []
        if self.exact and self.n_trees is not None:
            assert (ids, distances) == (their_ids, their_distances)
        if search_k == 10**6:
            assert len(ids) == len(their_ids)
            np.testing.assert_allclose(distances, their_distances, rtol=0.1, atol=0.35)
        for item in ids[:3]:
            by_item = self.ours.get_nns_by_item(item, 1, 10**6)
            assert len(by_item) == 1
            expected = np.array(self.ours.get_item_vector(item))
            np.testing.assert_allclose(distances[ids.index(item)], self.distance(query, expected), rtol=0.02, atol=0.15)

    def distance(self, query, item):
        if self.metric == "euclidean":
            return np.linalg.norm(query - item)
        product = float(np.dot(query, item))
        if self.metric == "dot":
            return product
        return np.sqrt(max(0.0, 2 - 2 * product / max(1e-9, np.linalg.norm(query) * np.linalg.norm(item))))

    @invariant()
    def items_agree(self):
        if not hasattr(self, "model"):
            return
        count = max(self.model) + 1 if self.model else 0
        assert self.ours.get_n_items() == self.theirs.get_n_items() == count
        if self.n_trees is not None:
            assert self.ours.get_n_trees() == self.theirs.get_n_trees() == self.n_trees
        for item in range(0, count, 7):
            held, truth = self.ours.get_item_vector(item), self.theirs.get_item_vector(item)
            limit = 0.0 if self.exact else 0.6  # codes are encoded anew after each unbuild()
            np.testing.assert_allclose(held, truth, rtol=0, atol=limit)
            assert (item in self.model) or held == [0.0] * DIM
        if count:
            assert self.ours.get_distance(0, count - 1) == pytest.approx(
                self.theirs.get_distance(0, count - 1), abs=0.0 if self.exact else 1.5
            )
        for item in (-1, count, count + 100):
            for call in (self.ours.get_item_vector, lambda i: self.ours.get_nns_by_item(i, 1)):
                with pytest.raises(IndexError, match="Item index"):
                    call(item)


IndexMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestIndex = IndexMachine.TestCase


def test_the_layout_of_dot_is_that_of_the_installed_library(tmp_path):
    index = annoy.AnnoyIndex(5, "dot")
    index.add_item(0, [1.0] * 5)
    index.build(2)
    index.save(str(tmp_path / "file"))
    assert (tmp_path / "file").stat().st_size == 5 * annoy_nodes.native_dtype(5, "dot").itemsize
