"""Programs that find bnfast as a CMake package, or link its library alone, build and run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from cases import assert_same_bits

import bnfast
from embedding.building import ROOT, blocks, build, run, tool
from embedding.c_face import LIBRARY, needs_library

EXAMPLES = ROOT / "examples" / "embed"
RUST = Path(__file__).with_name("rust_program.rs")


def test_the_programs_of_the_readme(tmp_path):
    for language, file in (("cmake", "CMakeLists.txt"), ("cpp", "main.cpp"), ("c", "main.c")):
        (block,) = blocks("README.md", language)
        (tmp_path / file).write_text(block)
    built = build(tmp_path, tmp_path)
    assert "channel 0 has mean 46.6562" in run(built / "train", folder=tmp_path)
    assert "h begins with 1.11111" in run(built / "transform", folder=tmp_path)


@pytest.mark.parametrize(("language", "file"), [("cpp", "main.cpp"), ("c", "main.c")])
def test_the_programs_of_the_readme_are_the_examples(language, file):
    assert blocks("README.md", language) == [(EXAMPLES / file).read_text()]


@pytest.mark.skipif(sys.platform != "linux", reason="names the library as Linux does")
@needs_library
def test_a_compiler_alone_builds_the_c_program(tmp_path):
    (command,) = blocks("docs/embedding.md", "sh")
    (tmp_path / "main.c").write_text((EXAMPLES / "main.c").read_text())
    command = command.replace("python", sys.executable).replace("cc ", f"{tool('cc')} ")
    run("sh", "-ec", command, folder=tmp_path)
    assert "h begins with 1.11111" in run(tmp_path / "transform", folder=tmp_path)


def test_the_c_tests(tmp_path):
    built = build(ROOT / "tests" / "c", tmp_path)
    print(run(tool("ctest"), "--output-on-failure", folder=built))


@needs_library
def test_a_rust_program(tmp_path):
    tool("cc")  # which rustc links by
    program = tmp_path / "rust_program"
    linked = ["-C", f"link-arg={LIBRARY}", "-C", f"link-arg=-Wl,-rpath,{LIBRARY.parent}"]
    run(tool("rustc"), "--edition=2021", RUST, "-o", program, *linked, folder=tmp_path)
    bits = run(program, folder=tmp_path).split()
    x = np.arange(12, dtype=np.float32).reshape(4, 3) ** 2
    y, _ = bnfast.batch_norm(x, activation="relu")
    got = np.array([int(word, 16) for word in bits], np.uint32).view(np.float32)
    assert_same_bits([got], [y.ravel()])


@needs_library
def test_the_headers_compile_alone_and_together(tmp_path):
    headers = sorted(Path(bnfast.get_include(), "bnfast").glob("*.h"))
    assert len(headers) > 10
    strict = ["-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror", "-fsyntax-only"]
    for name in [[h] for h in headers] + [headers, headers[::-1]]:
        source = tmp_path / "source.cpp"
        source.write_text("".join(f"#include <bnfast/{header.name}>\n" for header in name))
        run(
            tool("c++"), "-std=c++17", *strict, f"-I{bnfast.get_include()}", source, folder=tmp_path
        )
    source = tmp_path / "source.c"
    source.write_text("#include <bnfast/bnfast.h>\n")
    run(tool("cc"), "-std=c99", *strict, f"-I{bnfast.get_include()}", source, folder=tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads what the loader has mapped")
@needs_library
def test_a_program_without_python_loads_none(tmp_path):
    assert "python" not in run(tool("ldd"), LIBRARY, folder=tmp_path).replace(str(LIBRARY), "")
