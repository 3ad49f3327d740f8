"""bench/compare.py: what counts as slower, and the exit status."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[1] / "bench" / "compare.py"


@pytest.fixture(scope="module")
def compare():
    spec = importlib.util.spec_from_file_location("bench_compare", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def summary(median, spread=0.01):
    return {"median": median, "q1": median - spread, "q3": median + spread}


def write(path, *, threads=2, shape="8x8", ratios=None, **seconds):
    """A file of one case; keywords are contenders, with _ for - in their names."""
    result = {
        "group": "g",
        "shape": shape,
        "layout": "rows",
        "dtype": "float32",
        "operation": "forward",
        "seconds": {name.replace("_", "-"): value for name, value in seconds.items()},
        "ratios": ratios or {},
    }
    path.write_text(json.dumps({"machine": {"threads": threads}, "results": [result]}))
    return str(path)


@pytest.fixture
def run(compare, tmp_path, capsys):
    def run(old, new, *options):
        files = [
            write(tmp_path / f"{name}.json", **case) for name, case in (("old", old), ("new", new))
        ]
        status = compare.main([*files, *options])
        return status, *capsys.readouterr()

    return run


def test_slower_beyond_both_spreads_fails(run):
    status, out, _ = run({"bnfast_out": summary(1.0)}, {"bnfast_out": summary(1.1)})
    assert status == 1
    assert "FAIL" in out and "10.0% slower" in out
    assert "g 8x8 rows float32 forward bnfast-out: 1000 -> 1100 ms" in out


def test_faster_is_printed_and_passes(run):
    status, out, _ = run({"bnfast_out": summary(1.1)}, {"bnfast_out": summary(1.0)})
    assert status == 0
    assert "9.1% faster" in out and "FAIL" not in out


@pytest.mark.parametrize(("old_spread", "new_spread"), [(0.1, 0.01), (0.01, 0.1), (0.051, 0.051)])
def test_within_the_spreads_is_silent(run, old_spread, new_spread):
    status, out, _ = run(
        {"bnfast_out": summary(1.0, old_spread)}, {"bnfast_out": summary(1.1, new_spread)}
    )
    assert status == 0
    assert "slower  " not in out and "1 compared: 0 slower, 0 faster" in out


def test_clear_but_small_is_printed_and_passes(run):
    status, out, _ = run({"bnfast_out": summary(1.0)}, {"bnfast_out": summary(1.04)})
    assert status == 0
    assert "4.0% slower" in out and "FAIL" not in out


def test_peers_and_floor_do_not_fail(run):
    old = {"bnfast_out": summary(1.0), "torch_out": summary(1.0), "floor": summary(1.0)}
    new = {"bnfast_out": summary(1.0), "torch_out": summary(2.0), "floor": summary(2.0)}
    status, out, _ = run(old, new)
    assert status == 0
    assert out.count("100.0% slower") == 2 and "torch-out" in out


def test_ratios_leave_out_a_slower_machine(run):
    def case(seconds, ratio):
        ratios = {"bnfast-out/floor": summary(ratio), "torch-out/bnfast": summary(ratio)}
        return {"bnfast_out": summary(seconds), "ratios": ratios}

    assert run(case(1.0, 1.0), case(1.5, 1.0))[0] == 1
    assert run(case(1.0, 1.0), case(1.5, 1.0), "--ratios")[0] == 0
    status, out, _ = run(case(1.0, 1.0), case(1.0, 1.5), "--ratios")
    assert status == 1
    assert out.startswith("FAIL  50.0% slower") and "1 compared" in out


def test_another_case_is_not_compared(run):
    status, out, err = run(
        {"bnfast_out": summary(1.0)}, {"bnfast_out": summary(9.0), "shape": "9x9"}
    )
    assert status == 2
    assert "2 are in one file only" in out and "nothing to compare" in err


def test_another_machine_is_told(run):
    case = {"bnfast_out": summary(1.0)}
    assert "threads differs: 2, 4" in run(case, {**case, "threads": 4})[2]
    assert run(case, case)[2] == ""
