"""Runs hnswlib's own Python tests against ``knn_adapters.hnswlib``.

    git clone https://github.com/nmslib/hnswlib
    python tests/peers/hnswlib_tests.py hnswlib --rescore original    # all pass
    python tests/peers/hnswlib_tests.py hnswlib                       # all but checks of stored values, see EXPECTED

The exit code is 0 if nothing failed but the assertions in EXPECTED. Most of the tests draw their vectors at random
without a seed and ask for a recall; ``--seed`` makes a run repeatable.
"""

from __future__ import annotations

import sys

import numpy as np
from runner import Expected, Failing, arguments, fetched, run, standing_in

import knn_adapters

URL = "https://github.com/nmslib/hnswlib"
FILES = ("tests/python/bindings_test*.py", "python_bindings/tests/bindings_test*.py")

_EQUAL = "compares what get_items() returns to what was added by `==`, and the index holds codes"
_NEAR = "allows get_items() an error of 1e-4 on values from 0 to 1, whose 8-bit steps are 4e-3"

_BY_CODES = {
    "bindings_test_getdata.RandomSelfTestCase.testGettingItems": Failing("returned_items", _EQUAL),
    "bindings_test_replace.RandomSelfTestCase.testRandomSelf": Failing("returned_items", _EQUAL),
}

EXPECTED: dict[str, Expected] = {
    "none": {
        **_BY_CODES,
        "bindings_test_labels.RandomSelfTestCase.testRandomSelf": Failing("diff_with_gt_labels", _NEAR),
        "bindings_test_resize.RandomSelfTestCase.testRandomSelf": Failing("diff_with_gt_labels", _NEAR),
    },
    "residual": _BY_CODES,
    "original": {},
}


def main() -> int:
    """Run the tests."""
    parser = arguments("hnswlib", URL, "Run hnswlib's own Python tests against its stand-in.")
    parser.add_argument("--rescore", choices=sorted(EXPECTED), default="none", help="mode of the indexes")
    parser.add_argument("--seed", type=int, default=0, help="of the vectors that the tests draw")
    given = parser.parse_args()
    knn_adapters.configure(rescore=given.rescore)
    np.random.seed(given.seed)  # noqa: NPY002  # the generator that the tests use
    with standing_in("hnswlib"):
        return run(fetched(given.checkout, FILES, given.only), EXPECTED[given.rescore], show_output=given.show_output)


if __name__ == "__main__":
    sys.exit(main())
