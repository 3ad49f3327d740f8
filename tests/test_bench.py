"""bench/ and python -m bnfast.bench: runs are whole, their figures agree, comparisons are right."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import bnfast

BENCH = Path(__file__).resolve().parents[1] / "bench"


@pytest.fixture(scope="module")
def bench():
    """The programs as modules, by name: they import their neighbours, as main programs do."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch, bnfast.num_threads(1):
        patch.syspath_prepend(BENCH)
        yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(BENCH)):
            del sys.modules[name]


# --- run.py ---


@pytest.fixture(scope="module")
def smoke(bench, tmp_path_factory):
    """What a smoke run of everything has written."""
    path = tmp_path_factory.mktemp("bench") / "smoke.json"
    options = ["--smoke", "--ops", "all", "--peers", "numpy", "--threads", "1"]
    assert bench("run").main([*options, "--json", str(path)]) == 0
    return path


def test_smoke_times_everything(bench, smoke):
    report = json.loads(smoke.read_text())
    operations = bench("workload").OPERATIONS
    assert {result["operation"] for result in report["results"]} == set(operations)
    assert {result["layout"] for result in report["results"]} == {"planes", "rows"}
    for result in report["results"]:
        assert set(result["seconds"]) == {"floor", "bnfast-out", "bnfast-fresh", "numpy-fresh"}
        seconds = {name: summary["median"] for name, summary in result["seconds"].items()}
        moved = (result["reads"] + result["writes"]) * result["tensor_bytes"]
        assert result["floor_gb_per_s"] == pytest.approx(moved / seconds["floor"] / 1e9)
        assert result["errors"] == {}


def test_a_run_compares_with_itself(bench, smoke, capsys):
    assert bench("compare").main([str(smoke), str(smoke), "--ratios"]) == 0
    assert "0 slower, 0 faster" in capsys.readouterr().out


def test_a_run_can_be_drawn(bench, smoke, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "out.svg"
    bench("chart").main([str(smoke), str(out), "--ops", "forward,dropout", "--layouts", "rows"])
    text = out.read_text()
    assert "numpy-fresh" in text and ">forward<" in text and ">backward<" not in text


def test_a_run_becomes_the_table_of_the_readme(bench, smoke):
    markdown = bench("report").markdown
    head, _, *rows = markdown(json.loads(smoke.read_text()))
    assert "float32, `--group tiny`" in head and len(rows) == len(bench("workload").OPERATIONS)
    for label in (
        "forward + add + ReLU",
        "rms norm, backward",
        "add + dropout + layer norm, forward",
    ):
        assert sum(row.startswith(f"| {label} |") for row in rows) == 1
    means = {"bnfast-out/floor": 0.987, "torch-out/bnfast": 75.3, "torch-fresh/bnfast": 1.0}
    case = {"operation": "dropout", "layout": "planes", "dtype": "float32"}
    settings = {"group": ["stream"]}
    *_, row = markdown({"settings": settings, "geometric_means": [{**case, **means}]})
    assert row == "| dropout | 0.99 |  | 75 |  |"
    del means["torch-out/bnfast"]
    case["layout"] = "rows"
    *_, row = markdown({"settings": settings, "geometric_means": [{**case, **means}]})
    assert row == "| dropout |  | 0.99 |  | 1.00 |"


@pytest.mark.parametrize(
    ("operation", "layout", "l2_bytes", "expected"),
    [
        ("forward", "planes", 40_000, "1R+1W"),  # a channel has 32 * 17 * 17 * 4 = 36,992 bytes
        ("forward", "planes", 30_000, "2R+1W"),
        ("forward", "rows", 40_000, "2R+1W"),  # the channels of a cache line have 16 times as many
        ("backward", "planes", 40_000, "2R+1W"),
        ("backward_residual_relu", "planes", 30_000, "5R+2W"),
        ("inference_residual_relu", "planes", 30_000, "2R+1W"),
        ("dropout", "rows", 30_000, "1R+1W"),
        ("group_forward", "planes", 10_000, "1R+1W"),  # 8 channels of a sample: 9,248 bytes
        ("group_forward", "planes", 9_000, "2R+1W"),
        ("group_forward", "rows", 18_000, "2R+1W"),  # 16 channels of a sample: 18,496 bytes
        ("instance_backward", "planes", 1_200, "2R+1W"),
        ("instance_backward", "rows", 18_000, "4R+1W"),
    ],
)
def test_floor(bench, operation, layout, l2_bytes, expected):
    shape = bench("shapes").Shape("", 32, 64, (17, 17))
    workload = bench("workload")
    case = workload.Case(workload.OPERATIONS[operation], shape, layout, "float32")
    assert str(bench("floors").traffic(case, l2_bytes)) == expected


@pytest.mark.parametrize(
    ("operation", "l2_bytes", "expected"),
    [
        ("layer_forward", 3_072, "1R+1W"),  # a row has 768 * 4 bytes
        ("layer_forward", 3_071, "2R+1W"),
        ("rms_backward", 3_072, "2R+1W"),
        ("layer_forward_residual_dropout", 3_072, "2R+2W"),  # x, residual; h, y
        ("rms_backward_residual_dropout", 3_072, "2R+2W"),  # dy, h; dx, dresidual
    ],
)
def test_floor_of_rows(bench, operation, l2_bytes, expected):
    workload = bench("workload")
    shape = bench("shapes").named("8192x768")
    case = workload.Case(workload.OPERATIONS[operation], shape, "rows", "float32")
    assert str(bench("floors").traffic(case, l2_bytes)) == expected


def test_norms_are_timed_on_what_they_are_for(bench):
    workload, shapes = bench("workload"), bench("shapes")
    names = {shape.name: set() for _, shape in shapes.select(["norms", "odd"])}
    for name, operation in workload.OPERATIONS.items():
        for _, shape in shapes.select(["norms", "odd"]):
            if operation.suits(shape):
                names[shape.name].add(name.split("_")[0])
    assert names["4096x4096"] >= {"layer", "rms"} and not names["4096x4096"] & {"group", "instance"}
    assert names["256x56x56"] >= {"group", "instance"} and "layer" not in names["256x56x56"]
    assert "instance" in names["37x57x57"] and "group" not in names["37x57x57"]


@pytest.mark.parametrize("operation", ["forward", "dropout"])
def test_another_result_is_not_timed(bench, operation):
    run, workload = bench("run"), bench("workload")
    shape = bench("shapes").named("32x64")
    case = workload.Case(workload.OPERATIONS[operation], shape, "rows", "float32")
    y = np.where(np.arange(2000) % 2, 1.0, 0.0)
    run.check(y, y, case)
    for wrong in (1.1 * y, np.where(y > 0, np.nan, y), np.where(np.arange(2000) % 4, 1.0, 0.0)):
        with pytest.raises(run.DisagreementError):
            run.check(y, wrong, case)


def test_another_distribution_is_not_timed(bench):
    """Masks before a norm differ between libraries, and with them every element of y."""
    run, workload = bench("run"), bench("workload")
    operation = workload.OPERATIONS["layer_forward_residual_dropout"]
    case = workload.Case(operation, bench("shapes").named("32x64"), "rows", "float32")
    rng = np.random.default_rng(0)
    y, other = rng.standard_normal((2, 20_000))
    run.check(y, other, case)
    for wrong in (1.1 * other, np.where(other > 3, np.nan, other), rng.uniform(-1.7, 1.7, y.size)):
        with pytest.raises(run.DisagreementError):
            run.check(y, wrong, case)


def test_unknown_names_are_errors(bench, capsys):
    with pytest.raises(SystemExit):
        bench("run").main(["--peers", "torch,nonsense"])
    assert "--peers: got nonsense, expected of torch" in capsys.readouterr().err


def test_instructions_are_a_difference_of_loops(bench):
    instructions = bench("instructions")
    assert instructions.read_total("events: Ir\nfn=f\n1 5\ntotals: 1234\n") == 1234
    loops = [7 + 30 * count for count in instructions.LOOPS]
    others = [9 + 20 * count for count in instructions.LOOPS]
    assert instructions.per_call([10**6, *loops, 10**5, *others, 5]) == [30, 20]


# --- compare.py ---


def summary(median, spread=0.01):
    return {"median": median, "q1": median - spread, "q3": median + spread}


@pytest.fixture
def compare(bench, tmp_path, capsys):
    """Compare two runs of one case, given as keywords of the calls, with _ for - in their names."""

    def write(path, *, threads=2, shape="8x8", ratios=None, **seconds):
        case = {"group": "g", "shape": shape, "layout": "rows", "dtype": "float32"}
        times = {name.replace("_", "-"): value for name, value in seconds.items()}
        result = {**case, "operation": "forward", "seconds": times, "ratios": ratios or {}}
        path.write_text(json.dumps({"machine": {"threads": threads}, "results": [result]}))
        return str(path)

    def run(old, new, *options):
        files = [write(tmp_path / "old", **old), write(tmp_path / "new", **new)]
        return bench("compare").main([*files, *options]), *capsys.readouterr()

    return run


def test_slower_beyond_both_spreads_fails(compare):
    status, out, _ = compare({"bnfast_out": summary(1.0)}, {"bnfast_out": summary(1.1)})
    assert status == 1
    assert "FAIL  10.0% slower  g 8x8 rows float32 forward bnfast-out: 1000 -> 1100 ms" in out


def test_faster_is_printed_and_passes(compare):
    status, out, _ = compare({"bnfast_out": summary(1.1)}, {"bnfast_out": summary(1.0)})
    assert status == 0
    assert "9.1% faster" in out and "FAIL" not in out


@pytest.mark.parametrize(("old_spread", "new_spread"), [(0.1, 0.01), (0.01, 0.1), (0.051, 0.051)])
def test_within_the_spreads_is_silent(compare, old_spread, new_spread):
    old = {"bnfast_out": summary(1.0, old_spread)}
    status, out, _ = compare(old, {"bnfast_out": summary(1.1, new_spread)})
    assert status == 0
    assert "slower  " not in out and "1 compared: 0 slower, 0 faster" in out


def test_clear_but_small_is_printed_and_passes(compare):
    status, out, _ = compare({"bnfast_out": summary(1.0)}, {"bnfast_out": summary(1.04)})
    assert status == 0
    assert "4.0% slower" in out and "FAIL" not in out


def test_peers_and_floor_do_not_fail(compare):
    old = {"bnfast_out": summary(1.0), "torch_out": summary(1.0), "floor": summary(1.0)}
    new = {"bnfast_out": summary(1.0), "torch_out": summary(2.0), "floor": summary(2.0)}
    status, out, _ = compare(old, new)
    assert status == 0
    assert out.count("100.0% slower") == 2 and "torch-out" in out


def test_ratios_leave_out_a_slower_machine(compare):
    def case(seconds, ratio):
        ratios = {"bnfast-out/floor": summary(ratio), "torch-out/bnfast": summary(ratio)}
        return {"bnfast_out": summary(seconds), "ratios": ratios}

    assert compare(case(1.0, 1.0), case(1.5, 1.0))[0] == 1
    assert compare(case(1.0, 1.0), case(1.5, 1.0), "--ratios")[0] == 0
    status, out, _ = compare(case(1.0, 1.0), case(1.0, 1.5), "--ratios")
    assert status == 1
    assert out.startswith("FAIL  50.0% slower") and "1 compared" in out


def test_another_case_is_not_compared(compare):
    other = {"bnfast_out": summary(9.0), "shape": "9x9"}
    status, out, err = compare({"bnfast_out": summary(1.0)}, other)
    assert status == 2
    assert "2 are in one file only" in out and "nothing to compare" in err


def test_another_machine_is_told(compare):
    case = {"bnfast_out": summary(1.0)}
    assert "threads differs: 2, 4" in compare(case, {**case, "threads": 4})[2]
    assert compare(case, case)[2] == ""


# --- python -m bnfast.bench ---


ROW = re.compile(
    r"(?P<shape>\([\d, ]+\)) +(?P<layout>channels first|channels last|matrix) +(?P<operation>\w+)"
    r" +(?P<reads>\d)R\+1W +(?P<ms>[\d.]+) +(?P<rate>[\d.]+) +(?P<ratio>[\d.]+)"
)
LAYOUTS = {4: ("channels first", "channels last"), 2: ("matrix",)}


@pytest.fixture(scope="module")
def printed():
    from bnfast import bench

    before = bnfast.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda text, **_: lines.extend(text.split("\n")))
        bench.main(["--quick", "--threads", "1"])
    assert bnfast.get_num_threads() == before
    return lines


def test_every_row_is_there(printed):
    rows = [found.groupdict() for line in printed if (found := ROW.fullmatch(line))]
    assert [(row["shape"], row["layout"], row["operation"]) for row in rows] == [
        (str(shape), layout, operation)
        for shape in ((32, 64, 56, 56), (32, 256, 14, 14), (32, 64))
        for layout in LAYOUTS[len(shape)]
        for operation in ("forward", "backward", "inference", "dropout")
    ]


def test_figures_agree_with_each_other(printed):
    for line in printed:
        if found := ROW.fullmatch(line):
            elements = np.prod([int(extent) for extent in re.findall(r"\d+", found["shape"])])
            moved = 4 * elements * (int(found["reads"]) + 1)
            seconds = float(found["ms"]) * 1e-3
            assert float(found["rate"]) == pytest.approx(moved / seconds / 1e9, rel=0.05, abs=0.1)
            assert float(found["ratio"]) > 0


def test_head_names_what_ran(printed):
    assert printed[0].startswith(f"bnfast {bnfast.__version__}, {bnfast.active_target()}")
    assert "threads: 1" in printed[0]
    assert re.match(r"streaming, 64 MiB .*: [\d.]+ GB/s", printed[1])


def test_threads_must_be_positive(capsys):
    from bnfast import bench

    with pytest.raises(SystemExit):
        bench.main(["--threads", "0"])
    assert "--threads: got 0" in capsys.readouterr().err
