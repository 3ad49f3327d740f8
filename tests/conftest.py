"""What all tests share: hypothesis without deadlines, and one test for each SIMD target."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

import bnfast

settings.register_profile(
    "bnfast",
    deadline=None,  # shared machines stall
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("bnfast")


@pytest.fixture(params=bnfast.targets())
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once for every SIMD build that this machine can run."""
    with bnfast.use_target(request.param):
        yield request.param
