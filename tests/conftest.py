"""What all tests share: markers, hypothesis without deadlines, runs on each target."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

import bnfast
from bnfast import _core

pytest.register_assert_rewrite("cases")
from backends import reason_against_cuda  # noqa: E402 (what is imported before is not rewritten)
from cases import TARGETS  # noqa: E402

settings.register_profile(
    "bnfast",
    deadline=None,  # shared machines stall
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("bnfast")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        choices=["cpu", "cuda"],
        default="cpu",
        help="what computes arrays on the CPU; cuda: the library that BNFAST_CUDA_LIBRARY names, "
        "if it is one that takes memory of the host for a GPU's",
    )


def pytest_configure(config: pytest.Config) -> None:
    _core.lend_backend(config.getoption("--backend"), "cpu")
    config.addinivalue_line(
        "markers", "core: of compiled code; .ci/run runs it on every SIMD target and sanitized"
    )
    config.addinivalue_line(
        "markers", "large: not sanitized: random schedules of small arrays reach the same code"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--backend") != "cuda":
        return
    for item in items:
        if reason := reason_against_cuda(item.nodeid):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once for every SIMD build."""
    with bnfast.use_target(request.param):
        yield request.param
