"""Which tests of arrays on the CPU are about the CPU's own way, and not the CUDA backend's."""

from __future__ import annotations

import re

# What is matched by node names, and why such a test says nothing of CUDA.
OF_THE_CPU_ALONE = {
    r"^tests/test_schedule\.py": "the CPU's schedule",
    r"^tests/test_threads\.py": "threads of the CPU",
    r"^tests/architecture": "the source",
    r"^tests/(bnfast_\w+|cuda|cuda_arrays|embedding)/": "another library's, or CUDA's own",
    r"first_negative_var|var.is.-|gamma.is.0": "values on a GPU are not looked at",
    r"gamma_that_cannot_be_undone|smallest_gamma|small_gamma": "nor those of gamma in place",
    r"65536_deviations": "where the CPU takes its sums about another number",
    # A kernel takes vectors where memory lies so that it can, and adds in another order elsewhere.
    r"test_layouts\.py::test_(slices|where_windows_overlap)": "the bits of unaligned memory",
    # An element that is exactly the mean gives exactly 0 where the mean has no rounding at all.
    r"stated_bound.*layer_norm-10000000\.0-float32": "the CPU's last bit of a mean",
}


def reason_against_cuda(node: str) -> str | None:
    """Why a test is not for the CUDA backend, or nothing."""
    return next((why for name, why in OF_THE_CPU_ALONE.items() if re.search(name, node)), None)
