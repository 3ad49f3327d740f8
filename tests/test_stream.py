"""The plain stream that the bandwidth of memory is measured with adds up its sources."""

from __future__ import annotations

import numpy as np
import pytest

from bnfast import _core

pytestmark = pytest.mark.core

CHUNK = 1 << 18  # elements that a thread moves at once


@pytest.mark.parametrize("n", [0, 1, 15, 1000, CHUNK, 2 * CHUNK + 37])
@pytest.mark.parametrize("sources", [1, 2, 8])
def test_the_stream_is_the_sum_of_its_sources(sources, n):
    numbers = np.arange(sources * n, dtype=np.float32).reshape(sources, n) % 1000
    memory = np.full(n + 2, 7, np.float32)
    for threads in (1, 3):
        memory[1:-1] = -1
        _core.stream(memory[1:-1], list(numbers), threads)
        np.testing.assert_array_equal(memory[1:-1], numbers.sum(0))
        assert memory[0] == memory[-1] == 7


def test_arrays_that_the_stream_refuses():
    x = np.ones(4, np.float32)
    for error, message, arguments in (
        (ValueError, "^stream: sources differ from dst in size", (x.copy(), [x, x[1:]], 1)),
        (TypeError, "^stream: dst is not float32", (np.ones(4), [x], 1)),
        (ValueError, r"^stream_sum: num_sources is 0, expected 1 \.\. 8", (x.copy(), [], 1)),
        (ValueError, r"^stream_sum: num_sources is 9, expected 1 \.\. 8", (x.copy(), [x] * 9, 1)),
        (ValueError, "^stream_sum: threads is 0, expected 1 or more", (x.copy(), [x], 0)),
    ):
        with pytest.raises(error, match=message):
            _core.stream(*arguments)
