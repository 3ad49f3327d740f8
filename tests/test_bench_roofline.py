"""bench/roofline.py: operations and bytes are counted as the kernels' formulas have them."""

from __future__ import annotations

import json

import pytest
from bench_programs import bench_programs

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def bench():
    with bench_programs("roofline", "roofs", "workload") as programs:
        yield programs


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("forward", 3 + 4),
        ("forward_relu", 3 + 4 + 1),
        ("forward_residual_relu", 3 + 4 + 2),
        ("forward_relu_dropout", 3 + 4 + 1 + 10.5),
        ("inference", 4),
        ("inference_residual_relu", 4 + 2),
        ("backward", 2 + 3 + 2 + 4),
        ("backward_relu", 2 * (2 + 2 + 2) + 3 + 4),
        ("backward_residual_relu", 2 * (2 + 2 + 1 + 2) + 3 + 4),
        ("backward_relu_dropout", 2 * (2 + 2 + 2 + 2) + 3 + 4 + 8.5),
        ("dropout", 10.5),
        ("dropout_backward", 10.5),
    ],
)
def test_operations_an_element(bench, name, count):
    assert bench["roofline"].operations(name) == count


def test_no_operation_is_forgotten(bench):
    for name in bench["workload"].OPERATIONS:
        assert bench["roofline"].operations(name) > 0


def result(**seconds):
    return {
        "operation": "forward",
        "dtype": "float32",
        "tensor_bytes": 4000,
        "reads": 1,
        "writes": 1,
        "seconds": {name.replace("_", "-"): {"median": s} for name, s in seconds.items()},
    }


def test_points(bench):
    found = list(bench["roofline"].points([result(bnfast_out=1e-6, torch_fresh=7e-6, floor=1e-6)]))
    assert [(p.library, p.mode) for p in found] == [("bnfast", "out"), ("torch", "fresh")]
    # 7000 operations, 8000 bytes
    assert [p.intensity for p in found] == [7 / 8, 7 / 8]
    assert [p.rate for p in found] == pytest.approx([7.0, 1.0])


@pytest.fixture
def files(tmp_path):
    machine = {"cpu": "a machine", "threads": 2, "target": "x"}
    report = {"machine": machine, "results": [result(bnfast_out=1e-6)]}
    roofs = {"gb_per_s": {"L2": 200.0, "memory": 50.0}, "sgemm_gflop_per_s": None}
    (tmp_path / "without.json").write_text(json.dumps(report))
    (tmp_path / "with.json").write_text(json.dumps({**report, "roofs": roofs}))
    return tmp_path


def test_drawing(bench, files):
    out = files / "out.svg"
    bench["roofline"].main([str(files / "with.json"), str(files / "without.json"), str(out)])
    text = out.read_text()
    for words in ("memory, 50 GB/s", "L2, 200 GB/s", "bnfast, out", "a machine, 2 threads, x"):
        assert words in text


def test_without_roofs_there_is_nothing_to_draw(bench, files, capsys):
    with pytest.raises(SystemExit):
        bench["roofline"].main([str(files / "without.json"), str(files / "out.svg")])
    assert "holds no roofs: run.py --roofs measures them" in capsys.readouterr().err


def test_roofs_are_those_of_all_threads(bench, monkeypatch):
    """Each level is measured with arrays that lie in it, and no level twice."""
    roofs, calls = bench["roofs"], []
    monkeypatch.setattr(roofs, "measure", lambda calls, *_: {"call": [calls["call"]() or 1e-3]})
    monkeypatch.setattr(roofs, "l3_bytes", lambda: 32 << 20)
    monkeypatch.setattr(roofs, "_sgemm_gflop_per_s", lambda _: None)

    def stream(dst, srcs, threads):
        calls.append((dst.nbytes * (1 + len(srcs)), len(srcs), threads))

    found = roofs.measure_roofs(stream, 2, 1 << 20)["gb_per_s"]
    in_l2, in_l3, in_memory = calls[::2]
    assert list(found) == ["L2", "L3", "memory"]
    assert in_l2[0] <= 1 << 19 and in_l2[1:] == (8, 1)
    assert 2 << 20 < in_l3[0] <= 32 << 20 and in_l3[1:] == (8, 2)
    assert in_memory == (128 << 20, 1, 2)
    assert found["L2"] == pytest.approx(2 * in_l2[0] / 1e-3 / 1e9)
    assert found["memory"] == pytest.approx(in_memory[0] / 1e-3 / 1e9)

    monkeypatch.setattr(roofs, "l3_bytes", lambda: 2 << 20)
    assert list(roofs.measure_roofs(stream, 2, 1 << 20)["gb_per_s"]) == ["L2", "memory"]
