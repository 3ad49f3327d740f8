"""Programs that tests run in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run Python with variables of bnfast and OpenMP as given and no others."""
    ours = ("BNFAST_", "OMP_", "GOMP_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    kept["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [sys.executable, *arguments],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
