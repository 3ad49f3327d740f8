"""bench/instructions.py: how a profile is read and shared out; bench/compare.py on its files."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from bench_programs import bench_programs

CORE = "/site/bnfast/_core.cpython-311-x86_64-linux-gnu.so"


@pytest.fixture(scope="module")
def bench():
    with bench_programs("compare", "instructions") as programs:
        yield programs


PROFILE = """\
version: 1
creator: callgrind-3.19.0
desc: Trigger: --dump-before=getppid
positions: line
events: Ir
summary: 1116

ob=/usr/lib/libpython3.11.so.1.0
fl=ceval.c
fn=_PyEval_EvalFrameDefault
264 5
270 6
cob=/site/_core.so
cfi=???
cfn=bnfast::batch_norm()
calls=2 0
281 1000
fi=other.h
283 100

ob=/site/_core.so
fl=???
fn=bnfast::batch_norm()
0 1000
fe=more.h
0 5
"""


def test_a_callee_is_counted_once(bench):
    costs = bench["instructions"].read_profile(PROFILE.splitlines())
    assert costs == {
        ("/usr/lib/libpython3.11.so.1.0", "_PyEval_EvalFrameDefault"): 111,
        ("/site/_core.so", "bnfast::batch_norm()"): 1005,
    }


def test_what_both_loops_have_cancels(bench):
    instructions = bench["instructions"]
    calls = instructions.LONG_LOOP - instructions.SHORT_LOOP
    short = Counter({("a", "f"): 7 + 3 * instructions.SHORT_LOOP, ("a", "end"): 5})
    long = Counter({("a", "f"): 7 + 3 * instructions.LONG_LOOP, ("a", "end"): 5, ("b", "g"): calls})
    assert instructions.per_call(short, long) == {("a", "f"): 3, ("a", "end"): 0, ("b", "g"): 1}


@pytest.mark.parametrize(
    ("binary", "function", "layer"),
    [
        (CORE, "void bnfast::x86_64_v3::forward<float>(bnfast::cpu::Tile const&)", "kernels"),
        (CORE, "bnfast::cpu::forward(bnfast::cpu::Problem const&)", "cpu"),
        (CORE, "bnfast::api::memory_of(bnfast::TensorView const&)", "api"),
        (CORE, "bnfast::bindings::view_of(char const*, pybind11::handle const&)", "bindings"),
        (CORE, "pybind11::cpp_function::dispatcher(_object*)", "bindings"),
        (CORE, "0x00000000002ff5e0", "extension"),
        ("/site/numpy/_core/_multiarray_umath.so", "array_dealloc", "NumPy"),
        ("/site/numpy.libs/libscipy_openblas64_.so", "sgemm", "NumPy"),
        ("/usr/lib/libpython3.11.so.1.0", "PyDict_New", "Python"),
        ("/usr/bin/python3.11", "main", "Python"),
        ("/usr/lib/libc.so.6", "__memset_avx2", "libc"),
        ("/usr/lib/libstdc++.so.6.0.30", "operator new(unsigned long)", "libc"),
        ("/usr/lib/ld-linux-x86-64.so.2", "_dl_runtime_resolve", "libc"),
    ],
)
def test_layers(bench, binary, function, layer):
    assert bench["instructions"].layer_of(binary, function) == layer
    assert bench["instructions"].by_layer(Counter({(binary, function): 4}))[layer] == 4


def test_without_valgrind_there_is_one_line(bench, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert bench["instructions"].main([]) == 0
    assert capsys.readouterr().out == "instruction counts left out: valgrind is not installed\n"


def report(path, count, *, target="x86_64_v3", valgrind="valgrind-3.19.0", spread=1.0):
    summary = {"median": count, "q1": count - spread, "q3": count + spread}
    case = {"group": "tiny", "shape": "32x64", "layout": "rows", "dtype": "float32"}
    result = {**case, "operation": "forward", "instructions": {"bnfast-out": summary}}
    machine = {"cpu": str(path), "target": target, "versions": {"valgrind": valgrind}}
    path.write_text(json.dumps({"machine": machine, "results": [result]}))
    return str(path)


@pytest.fixture
def compare(bench, tmp_path, capsys):
    def compare(old, new, *options, **facts):
        files = [report(tmp_path / "old", old), report(tmp_path / "new", new, **facts)]
        return bench["compare"].main([*files, *options]), *capsys.readouterr()

    return compare


def test_two_per_cent_more_fails(compare):
    status, out, err = compare(40_000.0, 40_800.0)
    assert status == 1
    assert "FAIL   2.0% more  tiny 32x64 rows float32 forward bnfast-out: 40000 -> 40800" in out
    assert err == ""  # another processor counts the same


@pytest.mark.parametrize("options", [(), ("--ratios",)])
def test_half_a_per_cent_more_is_printed_and_passes(compare, options):
    status, out, _ = compare(40_000.0, 40_200.0, *options)
    assert status == 0
    assert "0.5% more" in out and "FAIL" not in out and "by more than 1% too" in out


def test_fewer_are_less(compare):
    status, out, _ = compare(40_000.0, 20_000.0)
    assert status == 0
    assert "50.0% less" in out


def test_another_target_or_tool_is_told(compare):
    assert "target differs: x86_64_v3, x86_64" in compare(1.0, 1.0, target="x86_64")[2]
    err = compare(1.0, 1.0, valgrind="valgrind-3.20.0")[2]
    assert err == "valgrind differs: valgrind-3.19.0, valgrind-3.20.0\n"
