"""Arrows between the layers point down only."""

from __future__ import annotations

import ast
import re

import pytest

from architecture.tree import CPP, ROOT, code, files, includes, name

STANDARD = re.compile(r"^[a-z_]+$")  # <vector>, and no <x.h>
INTRINSICS = {"immintrin.h", "arm_neon.h"}
NUMERICS = re.compile(r"^(bnfast/\w+\.h|numerics/\w+\.h|cstdint|cstddef)$")
KERNELS = re.compile(r"^(bnfast/\w+\.h|cpu/(kernels|simd)/\w+\.h|numerics/\w+\.h|cstdint|cstddef)$")

# folder below cpp/, what its files may include
MAY_INCLUDE = {
    "include/bnfast": lambda i: (
        bool(STANDARD.match(i) or re.match(r"^bnfast/\w+\.h$", i))
        or i in {"stddef.h", "stdint.h"}  # bnfast.h: C
    ),
    "src/numerics": lambda i: bool(NUMERICS.match(i)),
    "src/cpu/simd": lambda i: (
        bool(NUMERICS.match(i)) or bool(re.match(r"^cpu/simd/\w+\.h$", i)) or i in INTRINSICS
    ),
    "src/cpu/kernels": lambda i: bool(KERNELS.match(i)) or i in INTRINSICS,
    "src/cpu": lambda i: not re.match(r"^(api/|cpu/simd/|cuda|pybind11|Python)", i),
    "src/problem": lambda i: bool(STANDARD.match(i) or re.match(r"^(bnfast|numerics|problem)/", i)),
    "src/api": lambda i: bool(STANDARD.match(i) or re.match(r"^(bnfast|numerics|problem|api)/", i)),
    "src/c": lambda i: (
        bool(STANDARD.match(i) or re.match(r"^(bnfast|c)/\w+\.h$", i))
        or i == "cxxabi.h"  # how a cancelled thread unwinds
    ),
    # Over primitives of its own, which a CPU can stand in for.
    "src/cuda/kernels": lambda i: (
        bool(NUMERICS.match(i) or re.match(r"^cuda/(kernels/\w+|device|runtime)\.h$", i))
        or i in {"cuda_fp16.h", "cuda_bf16.h"}
    ),
    "src/cuda": lambda i: (
        bool(STANDARD.match(i) or re.match(r"^(bnfast|numerics|problem|cuda)/", i))
        or i in {"cuda_runtime.h", "host_device.h"}
    ),
    # The list of backends: the only file that knows all of them. One of them is loaded.
    "src": lambda i: (
        bool(STANDARD.match(i) or re.match(r"^(problem/|\w+/backend\.h$)", i))
        or i in {"cuda_library.h", "cuda/library.h", "dlfcn.h"}
    ),
    "bindings": lambda i: (
        bool(STANDARD.match(i))
        or i == "sys/mman.h"  # output_memory.cpp: the pages of large arrays
        or (
            bool(re.match(r"^(bnfast/\w+\.h|pybind11/.+|xla/ffi/api/ffi\.h|\w+\.h)$", i))
            and i not in {"omp.h", *INTRINSICS}
        )
    ),
}


@pytest.mark.parametrize("folder", MAY_INCLUDE)
def test_includes(folder):
    found = [
        path for path in files(f"cpp/{folder}", ".h", ".cpp", ".cu") if path.parent == CPP / folder
    ]
    assert found
    wrong = [
        f"{name(p)} includes {i}" for p in found for i in includes(p) if not MAY_INCLUDE[folder](i)
    ]
    assert wrong == []


def test_bindings_own_headers_are_their_own():
    own = {p.name for p in files("cpp/bindings", ".h")}
    local = {
        i
        for p in files("cpp/bindings", ".h", ".cpp")
        for i in includes(p)
        if i.endswith(".h") and "/" not in i
    }
    assert local - {"cxxabi.h"} <= own  # how pthread_exit unwinds


def test_every_folder_has_its_rule():
    folders = {p.parent.relative_to(CPP).as_posix() for p in files("cpp", ".h", ".cpp", ".cu")}
    assert folders == set(MAY_INCLUDE)


def test_one_file_names_openmp():
    users = [
        name(p)
        for p in files("cpp", ".h", ".cpp")
        if "omp.h" in includes(p) or re.search(r"#\s*pragma\s+omp|\bomp_\w+\s*\(", code(p))
    ]
    assert len(users) == 1


def test_pybind11_is_in_the_bindings_only():
    users = {
        p.parent.name
        for p in files("cpp", ".h", ".cpp")
        if re.search(r"pybind11|\bPy[A-Z]\w+", code(p))
    }
    assert users == {"bindings"}


def test_kernels_use_no_templates_of_std():
    allowed = re.compile(r"std::(u?int(8|16|32|64)_t|uintptr_t|size_t|ptrdiff_t)\b")
    wrong = {
        f"{name(p)}: {use}"
        for folder in ("cpp/src/numerics", "cpp/src/cpu/simd", "cpp/src/cpu/kernels")
        for p in files(folder, ".h", ".cpp")
        for use in re.findall(r"std::\w+", code(p))
        if not allowed.fullmatch(use)
    }
    assert wrong == set()


def test_kernels_do_not_throw():
    for folder in ("cpp/src/numerics", "cpp/src/cpu"):
        for path in files(folder, ".h", ".cpp"):
            assert not re.search(r"\bthrow\b", code(path)), name(path)


def python_imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)} has a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_python_imports_form_no_circle():
    found = files("python/bnfast", ".py")
    modules = {".".join(p.relative_to(ROOT / "python").with_suffix("").parts): p for p in found}
    graph = {m: {i for i in python_imports(p) if i in modules} - {m} for m, p in modules.items()}
    while graph:
        leaves = {m for m, needs in graph.items() if not needs & graph.keys()}
        assert leaves, f"a circle among {sorted(graph)}"
        graph = {m: needs for m, needs in graph.items() if m not in leaves}


def test_only_thin_modules_touch_the_core():
    users = {
        p.stem
        for p in files("python/bnfast", ".py")
        if any(i == "bnfast._core" or i.startswith("bnfast._core.") for i in python_imports(p))
    }
    assert not users & {"_layers", "_presets", "_running", "_fold"}


def test_frameworks_are_imported_by_their_adapters_only():
    frameworks = {"torch", "jax", "keras", "tensorflow", "cupy", "onnx"}  # flax is JAX's
    for path in files("python/bnfast", ".py"):
        tops = {i.split(".")[0] for i in python_imports(path)}
        adapted = tops & frameworks
        assert adapted <= {path.stem, path.parent.name}, name(path)


def test_nothing_of_the_build_is_committed_as_source():
    assert not files("cpp", ".o", ".so", ".a", ".ii")
    assert (ROOT / "pyproject.toml").exists()
