"""python -m bnfast.bench: the table is whole, and its figures make sense."""

from __future__ import annotations

import re

import pytest

import bnfast
from bnfast import bench

ROW = re.compile(
    r"(?P<shape>\([\d, ]+\)) +(?P<layout>channels first|channels last|matrix) +(?P<operation>\w+)"
    r" +(?P<reads>\d)R\+1W +(?P<ms>[\d.]+) +(?P<rate>[\d.]+) +(?P<ratio>[\d.]+)"
)
LAYOUTS = {4: ("channels first", "channels last"), 2: ("matrix",)}


@pytest.fixture(scope="module")
def printed():
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
            elements = 1
            for extent in re.findall(r"\d+", found["shape"]):
                elements *= int(extent)
            moved = 4 * elements * (int(found["reads"]) + 1)
            seconds = float(found["ms"]) * 1e-3
            assert float(found["rate"]) == pytest.approx(moved / seconds / 1e9, rel=0.05, abs=0.1)
            assert float(found["ratio"]) > 0


def test_head_names_what_ran(printed):
    assert printed[0].startswith(f"bnfast {bnfast.__version__}, {bnfast.active_target()}")
    assert "threads: 1" in printed[0]
    assert re.match(r"streaming, 64 MiB .*: [\d.]+ GB/s", printed[1])


def test_threads_must_be_positive(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--threads", "0"])
    assert "--threads: got 0" in capsys.readouterr().err
