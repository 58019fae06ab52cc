"""A flat index of FAISS under whatever calls come, beside a model in numpy, in every mode of rescoring."""

import pickle

import faiss
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import knn_adapters
from knn_adapters import faiss as stand_in
from knn_adapters.recall import exact_neighbours, recall_at_k

METRICS = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}


class _FlatModel(RuleBasedStateMachine):
    """A flat index and the list of vectors that it must hold, across the calibration (which is made to come early)."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)
        self.held = np.empty((0, 7), np.float32)

    @initialize(
        metric=st.sampled_from(["l2", "ip"]), mode=st.sampled_from(["codes", "none", "residual", "original"]),
        seed=st.integers(0, 1000),
    )  # fmt: skip
    def begin(self, metric, mode, seed):
        self.rng, self.metric, self.mode = np.random.default_rng(seed), metric, mode
        with knn_adapters.configure(rescore="none" if mode == "codes" else mode):
            self.index = (
                stand_in.IndexScalarQuantizer(7, faiss.ScalarQuantizer.QT_8bit, METRICS[metric])
                if mode == "codes"
                else stand_in.IndexFlat(7, METRICS[metric])
            )
        self.index.train(self.rows(3000))

    def rows(self, count):
        return self.rng.standard_normal((count, 7)).astype(np.float32)

    @rule(count=st.sampled_from([0, 1, 2, 17, 63]))
    def add(self, count):
        rows = self.rows(count)
        self.index.add(rows)
        self.held = np.concatenate([self.held, rows])

    @rule(count=st.sampled_from([2100]))
    def add_many(self, count):
        self.add(count)

    @precondition(lambda self: len(self.held))
    @rule(data=st.data())
    def remove(self, data):
        gone = data.draw(st.lists(st.integers(0, len(self.held) + 3), max_size=5))
        number = self.index.remove_ids(np.array(gone, np.int64))
        stays = ~np.isin(np.arange(len(self.held)), gone)
        assert number == (~stays).sum()
        self.held = self.held[stays]

    @rule()
    def reset(self):
        self.index.reset()
        self.held = self.held[:0]

    @rule()
    def copy(self):
        self.index = pickle.loads(pickle.dumps(self.index))  # noqa: S301

    @rule()
    def fail(self):
        with pytest.raises(ValueError, match="finite"):
            self.index.add(np.full((3, 7), np.nan))

    @invariant()
    def holds_what_was_added(self):
        assert self.index.ntotal == len(self.held)
        if len(self.held):
            found = self.index.reconstruct_n()
            assert np.abs(found - self.held).mean() < 0.1
            if self.mode == "original":
                np.testing.assert_array_equal(found, self.held)
            k = min(5, len(self.held))
            true = exact_neighbours(found, self.held[:20], k, self.metric)
            assert recall_at_k(self.index.search(self.held[:20], k)[1], true, k) > 0.9


_FlatModel.TestCase.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
TestFlatModel = _FlatModel.TestCase
