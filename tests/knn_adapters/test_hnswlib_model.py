"""Any order of calls, against a dict of vectors."""

import pickle

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import knn_adapters
from knn_adapters import elements
from knn_adapters import hnswlib as stand_in
from knn_adapters.recall import normalised

DIM = 6
LABELS = st.lists(st.integers(0, 40) | st.integers(2**60, 2**60 + 3), min_size=1, max_size=12)


class IndexMachine(RuleBasedStateMachine):
    """Few vectors of few dimensions; the quantizer comes after 30 of them."""

    @initialize(
        space=st.sampled_from(["l2", "ip", "cosine"]),
        keeps=st.booleans(),
        replaces=st.booleans(),
        seed=st.integers(0, 2**31),
    )
    def start(self, space, keeps, replaces, seed):
        self.usual, elements.CALIBRATION_ROWS = elements.CALIBRATION_ROWS, 30
        self.rng = np.random.default_rng(seed)
        self.keeps = keeps
        with knn_adapters.configure(bits=8, rescore="original" if keeps else "none"):
            self.index = stand_in.Index(space, DIM)
        self.index.init_index(20, M=8, allow_replace_deleted=replaces)
        self.index.set_ef(400)
        self.space, self.replaces, self.capacity = space, replaces, 20
        self.model, self.deleted, self.n_elements, self.n_added = {}, set(), 0, 0
        self.hits = self.asked = 0

    def teardown(self):
        if hasattr(self, "usual"):
            elements.CALIBRATION_ROWS = self.usual
            if self.asked > 100:
                assert self.hits / self.asked > 0.85

    def draw(self, count):
        vectors = self.rng.standard_normal((count, DIM)).astype(np.float32)
        return normalised(vectors) if self.space == "cosine" else vectors

    @rule(labels=LABELS, replace=st.booleans(), numbered=st.booleans())
    def add(self, labels, replace, numbered):
        replace = replace and self.replaces
        if numbered:
            labels = list(range(self.n_added, self.n_added + len(labels)))
        vectors, distinct = self.draw(len(labels)), dict.fromkeys(labels)
        fresh = [label for label in distinct if label not in self.model]
        vacant = [label for label in self.deleted if label not in distinct] if replace else []
        reused = min(len(vacant), len(fresh))
        is_revived = self.replaces and not replace and any(label in self.deleted for label in distinct)
        arguments = (vectors, None if numbered else labels, 1, replace)
        if is_revived or self.n_elements + len(fresh) - reused > self.capacity:
            with pytest.raises(RuntimeError, match=r"exceeds|Can't use addPoint"):
                self.index.add_items(*arguments)
            return
        before = set(self.index.get_ids_list())
        self.index.add_items(*arguments)
        gone = before - set(self.index.get_ids_list())
        assert gone <= set(vacant)
        assert len(gone) == reused
        for label in gone:
            del self.model[label]
        self.deleted -= gone | set(distinct)
        self.model.update(zip(labels, vectors, strict=True))
        self.n_elements += len(fresh) - reused
        self.n_added += len(labels)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), is_deleted=st.booleans())
    def mark(self, data, is_deleted):
        label = data.draw(st.sampled_from(sorted(self.model)))
        call = self.index.mark_deleted if is_deleted else self.index.unmark_deleted
        if (label in self.deleted) == is_deleted:
            with pytest.raises(RuntimeError, match=r"already deleted|is not deleted"):
                call(label)
        else:
            call(label)
            self.deleted ^= {label}

    @rule(change=st.integers(-10, 40))
    def resize(self, change):
        size = max(0, self.n_elements + change)
        if size < self.n_elements:
            with pytest.raises(RuntimeError, match="Cannot resize"):
                self.index.resize_index(size)
        else:
            self.index.resize_index(size)
            self.capacity = size

    @rule()
    def go_through_pickle(self):
        self.index = pickle.loads(pickle.dumps(self.index))  # noqa: S301
        self.n_added = self.n_elements  # as hnswlib counts after unpickling

    @rule(k=st.integers(1, 8), with_filter=st.booleans())
    def query(self, k, with_filter):
        live = {label: vector for label, vector in self.model.items() if label not in self.deleted}
        if with_filter:
            live = {label: vector for label, vector in live.items() if label % 2 == 0}
        query = self.draw(1)[0]
        wanted = (lambda label: label % 2 == 0) if with_filter else None
        if k > len(live):
            with pytest.raises(RuntimeError, match="contiguous"):
                self.index.knn_query(query, k=k, filter=wanted)
            return
        names = np.array(sorted(live), np.uint64)
        vectors = np.stack([live[int(name)] for name in names])
        keys = self.keys(vectors, query)
        try:
            labels, distances = self.index.knn_query(query, k=k, filter=wanted)
        except RuntimeError:
            assert "bits" in repr(self.index), "an exhaustive search finds all"
            self.asked += k  # a graph may have lost its way to some
            return
        assert set(labels[0].tolist()) <= set(live)
        assert len(set(labels[0].tolist())) == k
        assert (np.diff(distances[0]) >= 0).all()
        rounding = {"rtol": 1e-5, "atol": 1e-5} if self.keeps else {"rtol": 0.01, "atol": 0.02}
        np.testing.assert_allclose(distances[0], self.keys(self.held(labels[0]), query), **rounding)
        true = names[np.argsort(keys, kind="stable")[:k]]
        if "bits" in repr(self.index):
            self.asked += k
            self.hits += len(set(labels[0].tolist()) & set(true.tolist()))
        else:
            np.testing.assert_allclose(distances[0], np.sort(keys)[:k], rtol=1e-4, atol=1e-5)

    def keys(self, vectors, query):
        """Distances in hnswlib's units."""
        return ((vectors - query) ** 2).sum(1) if self.space == "l2" else 1 - vectors @ query

    def held(self, labels):
        """What searches compare: codes decoded, of vectors too that are kept beside their codes."""
        rows, ids = self.index._elements.rows, self.index._elements.known(labels)
        decodes = "bits" in repr(self.index) and not self.keeps
        return rows.quantizer.decode(rows.graph.codes(ids)) if decodes else rows.vectors(ids)

    @invariant()
    def counts_and_items_agree(self):
        if not hasattr(self, "model"):
            return
        assert sorted(self.index.get_ids_list()) == sorted(self.model)
        assert (self.index.element_count, self.index.max_elements) == (self.n_elements, self.capacity)
        live = [label for label in self.model if label not in self.deleted]
        if live:
            held, wanted = self.index.get_items(live), np.stack([self.model[label] for label in live])
            # A range that was trained on 30 vectors cuts some of the later ones off.
            limit = 1e-6 if self.keeps or "bits" not in repr(self.index) else 4.0
            assert np.abs(held - wanted).max() <= limit
        for label in self.deleted:
            with pytest.raises(RuntimeError, match="Label not found"):
                self.index.get_items([label])


IndexMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestIndex = IndexMachine.TestCase
