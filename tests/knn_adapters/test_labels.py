"""The label table against a dict, through everything that callers do to it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knn_adapters import labels as labels_module
from knn_adapters.labels import LabelTable

BIG = 2**63 + 5


@settings(max_examples=150, deadline=None)
@given(data=st.data(), recent=st.sampled_from([0, 3, 1024]), stride=st.sampled_from([0, 1, 977]))
def test_against_a_dict(data, recent, stride):
    """New labels, labels that change hands, removal with the last in its place."""
    table, model = LabelTable(4), []  # model[id] is its label
    usual, labels_module._RECENT = labels_module._RECENT, recent
    try:
        for step in range(data.draw(st.integers(1, 12))):
            what = data.draw(st.sampled_from(["add", "rename", "move"]))
            if what == "add" or not model:
                count = data.draw(st.integers(1, 6))
                first = len(model)
                fresh = (
                    range(first, first + count)
                    if stride == 0
                    else [BIG + stride * (100 * step + i) for i in range(count)]
                )
                fresh = [label for label in fresh if label not in model]
                ids = np.arange(first, first + len(fresh))
                if len(table.by_id) < first + len(fresh):
                    table.resize(first + len(fresh) + 3)
                if fresh:
                    table.assign(np.array(fresh, np.uint64), ids)
                    model += fresh
            elif what == "rename":
                chosen = data.draw(st.lists(st.integers(0, len(model) - 1), unique=True, min_size=1, max_size=4))
                fresh = [7_000_000 + 100 * step + i for i in range(len(chosen))]
                table.assign(np.array(fresh, np.uint64), np.array(chosen, np.int64))
                for position, label in zip(chosen, fresh, strict=True):
                    model[position] = label
            else:
                position = data.draw(st.integers(0, len(model) - 1))
                table.move(model[position], position, len(model) - 1)
                last = model.pop()
                if position < len(model):
                    model[position] = last
            asked = np.array([*model, 123_456_789, 2**64 - 1], np.uint64)
            np.testing.assert_array_equal(table.find(asked), [*range(len(model)), -1, -1])
            np.testing.assert_array_equal(table.by_id[: len(model)], np.array(model, np.uint64))
            assert table.count == len(model)
    finally:
        labels_module._RECENT = usual


def test_plain_numbers_need_no_table():
    table = LabelTable(10_000)
    for begin in range(0, 10_000, 100):
        table.assign(np.arange(begin, begin + 100, dtype=np.uint64), np.arange(begin, begin + 100))
    assert table.nbytes == 0
    np.testing.assert_array_equal(table.find(np.array([0, 9999, 10_000], np.uint64)), [0, 9999, -1])
    table.assign(np.array([0, 9999], np.uint64), np.array([0, 9999]))  # what they are already
    assert table.nbytes == 0
    table.assign(np.array([BIG], np.uint64), np.array([5]))
    np.testing.assert_array_equal(table.find(np.array([5, BIG, 6], np.uint64)), [-1, 5, 6])


def test_filters_over_labels():
    table = LabelTable(5)
    table.assign(np.array([9, 2, BIG, 4], np.uint64), np.arange(4))
    for wanted, expected in (
        ([2, 4, 1000], [0, 1, 0, 1]),
        (np.array([BIG], np.uint64), [0, 0, 1, 0]),
        ([], [0, 0, 0, 0]),
        (np.array([False, False, True, False, True]), [0, 1, 0, 1]),
    ):
        np.testing.assert_array_equal(table.allowed(wanted, 4), np.array(expected, bool))
    asked = table.allowed(lambda label: label == BIG, 4)
    assert [asked(position) for position in range(4)] == [False, False, True, False]
    with pytest.raises(TypeError, match="`filter` must be a callable"):
        table.allowed(np.ones(3), 4)
