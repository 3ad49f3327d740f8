"""Checks what the sdist and the repaired wheel hold: `python .ci/check_packages.py DIST ROOT`."""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

# Top-level names of the sdist. A new one is a decision: add it here, or to sdist.exclude.
SDIST_ROOT = {
    *("CHANGELOG.md", "CMakeLists.txt", "CMakePresets.json", "CONTRIBUTING.md", "LICENSE"),
    *("PKG-INFO", "README.md", "pyproject.toml", ".clang-format", ".clang-tidy", ".gitignore"),
    *("bench", "cpp", "docs", "examples", "python", "tests"),
}
SUFFIXES = {
    *(".c", ".cpp", ".h", ".cu", ".cuh", ".rs", ".cmake", ".map", ".txt"),
    *(".py", ".pyi", ".sh", ".typed", ".html", ".md", ".json", ".toml", ".png", ".svg", ".npz"),
}
NO_SUFFIX = {"LICENSE", "PKG-INFO", "py.typed", ".clang-format", ".clang-tidy", ".gitignore"}
LARGEST_WHEEL = 5_000_000  # bytes
GENERATED = {"__pycache__", "build", ".venv", "digits_output", ".hypothesis"}


def check_sdist(path: Path, root: Path) -> list[str]:
    """Complaints about the source distribution."""
    with tarfile.open(path) as archive:
        names = [PurePosixPath(m.name) for m in archive.getmembers() if m.isfile()]
    files = [PurePosixPath(*name.parts[1:]) for name in names]
    stray = [
        f"{path.name}: stray file {f}"
        for f in files
        if f.parts[0] not in SDIST_ROOT
        or GENERATED & set(f.parts)
        or not (f.suffix in SUFFIXES or f.name in NO_SUFFIX)
    ]
    wanted = ["LICENSE", "README.md", "pyproject.toml", "CMakeLists.txt"]
    built_from = [p for folder in ("cpp", "python") for p in (root / folder).rglob("*")]
    built_from = [p.relative_to(root) for p in built_from if p.is_file()]
    wanted += [p.as_posix() for p in built_from if not GENERATED & set(p.parts)]
    present = {str(f) for f in files}
    return stray + [f"{path.name}: {name} is missing" for name in wanted if name not in present]


def check_wheel(path: Path, root: Path) -> list[str]:
    """Complaints about the wheel: the package, the extension, doors to C++ and JAX, and OpenMP."""
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    package = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    extensions = {n for n in package if n.startswith("bnfast/_core.") and n.endswith(".so")}
    sources = {
        f"bnfast/{p.relative_to(root / 'python/bnfast').as_posix()}"
        for p in (root / "python/bnfast").rglob("*")
        if p.suffix in {".py", ".pyi", ".typed", ".html"} or p.name == "py.typed"
    }
    libraries = {n for n in package if re.fullmatch(r"bnfast/lib/libbnfast\.so\.\d+", n)}
    sources |= {f"bnfast/include/bnfast/{p.name}" for p in (root / "cpp/include/bnfast").iterdir()}
    complaints = [f"{path.name}: {n} is missing" for n in sorted(sources - package)]
    cmake = {n for n in package if re.fullmatch(r"bnfast/lib/cmake/bnfast/\w+(-\w+)?\.cmake", n)}
    openmp = {n for n in package if re.fullmatch(r"bnfast\.libs/libgomp-\w+\.so[.\d]*", n)}
    custom_calls = package & {"bnfast/libbnfast_jax.so"}
    stray = package - sources - extensions - libraries - cmake - openmp - custom_calls
    complaints += [f"{path.name}: stray file {n}" for n in sorted(stray)]
    expected = {"extension modules": (extensions, 1), "libraries": (libraries, 1)}
    expected["files of the CMake package"] = (cmake, 3)
    expected["OpenMP runtimes"] = (openmp, 1)
    expected["libraries of JAX's custom calls"] = (custom_calls, 1)
    complaints += [
        f"{path.name}: {len(found)} {kind}, expected {count}"
        for kind, (found, count) in expected.items()
        if len(found) != count
    ]
    if not any(name.endswith("LICENSE") for name in names):
        complaints.append(f"{path.name}: LICENSE is missing")
    if (size := path.stat().st_size) > LARGEST_WHEEL:
        complaints.append(f"{path.name}: {size} bytes, expected {LARGEST_WHEEL} at most")
    return complaints


def main(dist: Path, root: Path) -> int:
    """Check both and print the complaints."""
    (sdist,) = dist.glob("*.tar.gz")
    (wheel,) = dist.glob("*.whl")
    complaints = check_sdist(sdist, root) + check_wheel(wheel, root)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    print(f"{sdist.name} {sdist.stat().st_size} B, {wheel.name} {wheel.stat().st_size} B")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]).resolve()))
