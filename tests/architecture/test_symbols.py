"""No code built for one SIMD target can be picked by the linker for another (one-definition trap).

Built without optimisation, inline functions and templates outside the target's namespace become
weak symbols. The linker keeps any one of the copies; it may hold instructions that a machine lacks.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from architecture.tree import CPP

COMPILER = shutil.which("g++")
pytestmark = pytest.mark.skipif(
    COMPILER is None or shutil.which("nm") is None, reason="needs g++ and nm"
)
# A pointer to the unwinder's routine: data, the same in every object.
HARMLESS = re.compile(r"^DW\.ref\.__gxx_personality")


def targets() -> list[tuple[str, list[str], str]]:
    """Name, flags and vector bytes of this architecture's rows of targets.cmake."""
    text = (CPP / "src/cpu/targets.cmake").read_text()
    machine = platform.machine()
    for condition, body in re.findall(r'MATCHES "([^"]+)"\)(.*?)(?=\nelse)', text, re.DOTALL):
        if re.fullmatch(condition.strip("^$").strip("()"), machine):
            rows = re.findall(r'"(\w+)\|([^|"]*)\|(\d+)\|[^|"]*"', body)
            return [(name, flags.split(), size) for name, flags, size in rows]
    return [("generic", [], "16")]


def common_flags() -> list[str]:
    """The compile options of CMakeLists.txt that do not depend on the configuration."""
    text = (CPP / "CMakeLists.txt").read_text()
    options = re.search(
        r"target_compile_options\(\s*bnfast_options INTERFACE(.*?)\)\n", text, re.DOTALL
    )
    assert options
    flags = [f for f in options[1].split() if f.startswith("-") and not f.startswith("-W")]
    assert "-ffp-contract=off" in flags
    return flags


def symbols(
    target: str, flags: list[str], vector_bytes: str, source: str, folder: Path
) -> list[str]:
    built = folder / f"{target}_{source}.o"
    definitions = {
        "BNFAST_TARGET": target,
        "BNFAST_TARGET_NAME": f'"{target}"',
        "BNFAST_VECTOR_BYTES": vector_bytes,
        "BNFAST_ELEMENT": "float",
    }
    command = [COMPILER, "-std=c++17", "-O0", "-fPIC", "-w", *common_flags(), *flags]
    command += [f"-I{CPP / 'include'}", f"-I{CPP / 'src'}"]
    command += [f"-D{key}={value}" for key, value in definitions.items()]
    subprocess.run(
        [*command, "-c", CPP / f"src/cpu/kernels/{source}.cpp", "-o", built],
        check=True,
        timeout=250,
    )
    listing = subprocess.run(["nm", built], check=True, capture_output=True, text=True, timeout=60)
    return listing.stdout.splitlines()


def inside(symbol: str, target: str) -> bool:
    """Whether a mangled name is bnfast::<target>::... or belongs to such a function."""
    return bool(re.match(rf"^_ZG?[VTIS]*Z*N[KVRO]*6bnfast{len(target)}{target}", symbol))


@pytest.fixture(scope="module")
def listings(tmp_path_factory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("objects")
    jobs = [
        (*row, source, folder)
        for row in targets()
        for source in ("activations", "element", "target")
    ]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda job: symbols(*job), jobs))
    return {f"{job[0]} {job[3]}": lines for job, lines in zip(jobs, results, strict=True)}


@pytest.mark.timeout(600)
def test_weak_symbols_are_inside_the_target(listings):
    wrong = []
    weak = 0
    for key, lines in listings.items():
        for line in lines:
            kind, symbol = line.split()[-2:]
            if kind in "WVuwv" and not HARMLESS.match(symbol):
                weak += 1
                if not inside(symbol, key.split()[0]):
                    wrong.append(f"{key}: {symbol}")
    assert wrong == []
    assert weak > 0  # templates are weak at -O0, or this test looks at nothing


def test_each_target_exports_its_own_names_only(listings):
    for key, lines in listings.items():
        strong = [line.split()[-1] for line in lines if line.split()[-2] in "TDBR"]
        assert strong
        assert [s for s in strong if not inside(s, key.split()[0])] == []


def test_inside_can_tell():
    assert inside("_ZN6bnfast6x86_643VecIfE4loadEPKf", "x86_64")
    assert inside("_ZZN6bnfast6x86_643fooEvENKUlvE_clEv", "x86_64")
    assert not inside("_ZN6bnfast9x86_64_v43VecIfE4loadEPKf", "x86_64")
    assert not inside("_ZSt3maxIfERKT_S2_S2_", "x86_64")
    assert not inside("_ZN6bnfast3cpu8GeometryC2Ev", "x86_64")
