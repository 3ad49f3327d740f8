"""How L3 is taken to be decides how work is cut and stored, and no bit of a result."""

from __future__ import annotations

import pytest
from test_runtime import python

import bnfast

# Results that one way streams past the caches and the other does not, channels that one way are
# each a thread's and the other all threads' together, and groups that fetch the next one or not.
SCRIPT = """
import hashlib
import numpy as np
import bnfast

for shape, axis in [
    ((16, 64, 28, 28), 1),
    ((8, 4, 256, 256), 1),
    ((150, 256, 7, 7), 1),
    ((12544, 64), -1),
    ((800, 1040), -1),
]:
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, *shape), dtype=np.float32)
    with bnfast.num_threads(2):
        for options in ({}, {"activation": "relu", "residual": dy}, {"dropout": 0.3, "seed": 1}):
            y, ctx = bnfast.batch_norm(x, axis=axis, **options)
            grads = bnfast.batch_norm_backward(dy, ctx)
            arrays = [y, *(g for g in grads if g is not None), bnfast.dropout(x, 0.5, seed=2)[0]]
            sums = [ctx.moments.to_bytes(), bnfast.batch_norm_backward_sums(dy, ctx).to_bytes()]
            results = [a.tobytes() for a in arrays] + sums
            print(shape, *(hashlib.sha256(a).hexdigest() for a in results))
"""


def test_results_do_not_depend_on_it():
    printed = {}
    for kind in ("near", "far"):
        done = python("-c", SCRIPT, BNFAST_L3=kind, BNFAST_TARGET=bnfast.active_target())
        assert done.returncode == 0, done.stderr
        printed[kind] = [line for line in done.stdout.splitlines() if line.startswith("(")]
    assert len(printed["near"]) == 15
    assert printed["near"] == printed["far"]


@pytest.mark.parametrize(("kind", "shown"), [("near", "near"), ("far", "as far as memory")])
def test_what_the_environment_says_is_shown(kind, shown):
    done = python("-m", "bnfast", BNFAST_L3=kind)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("L3 ")]
    assert all(row.endswith(f"taken to be {shown}") for row in rows)
    assert len(rows) == (bnfast._core.shared_cache_bytes() > 0)
