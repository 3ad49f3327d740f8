"""Malformed calls of a norm raise "operation: argument got, expected" and write nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16

import bnfast
from norms.cases import BEFORE, BEHIND, NAMES

pytestmark = pytest.mark.core

SENTINEL = 1234.5
SHAPE = (4, 6, 5)
SIZE = 120


class Arguments:
    """Good arguments of one norm, for a test to spoil one of; both inputs lie in one buffer."""

    def __init__(self, name: str) -> None:
        self.name, self.function = name, getattr(bnfast, name)
        self.buffer = np.random.default_rng(0).normal(size=4 * SIZE).astype(np.float32)
        self.x = self.part(0)
        self.residual = self.part(SIZE)
        self.dh = self.part(2 * SIZE)
        self.out = np.full(SHAPE, SENTINEL, np.float32)
        self.count = 5 if name in BEFORE else 6  # of gamma
        self.entries = np.ones(self.count, np.float32)

    def part(self, first: int) -> np.ndarray:
        return self.buffer[first : first + SIZE].reshape(SHAPE)

    def norm(self, x: Any = None, groups: Any = 2, **options: Any) -> Any:
        positional = [self.x if x is None else x]
        if self.name == "group_norm":
            positional.append(groups)
        return self.function(*positional, **{"out": self.out, **options})

    def back(self, dy: Any = None, ctx: Any = None, **options: Any) -> Any:
        ctx = self.norm(gamma=self.entries, out=None)[1] if ctx is None else ctx
        dy = self.x.copy() if dy is None else dy
        return bnfast.norm_backward(dy, ctx, **{"out": self.out, **options})


Call = Callable[[Arguments], Any]
Row = tuple[list[str], type[Exception], str, Call]


def norm(*args: Any, **options: Any) -> Call:
    """A call with these arguments, which do not depend on the good ones."""
    return lambda a: a.norm(*args, **options)


def back(*args: Any, **options: Any) -> Call:
    return lambda a: a.back(*args, **options)


V, T = ValueError, TypeError
FLOATS, SIX_FIVE = "expected .*float32", r"expected \(6, 5\)"
ONE_MORE, ONE_LESS = (rf"has shape {shape}, expected \(4, 6, 5\)"
                      for shape in (r"\(4, 6, 7\)", r"\(6, 5\)"))  # fmt: skip
DOUBLE, NAN, INF = "has dtype float64, expected float32", float("nan"), float("inf")
OVERLAP = "in memory, expected"
LAYER, GROUP, AFFINE = ["layer_norm"], ["group_norm"], ["layer_norm", *BEHIND]
longer = np.ones((4, 6, 7), np.float32)
double = np.ones(SHAPE)


def of_parameter(name: str) -> list[Row]:
    """Of gamma, which every norm has, or of beta."""
    norms = NAMES if name == "gamma" else AFFINE
    wrong = [
        (V, r"has shape \(3,\), expected \([56],\)", np.ones(3)),
        (V, r"has shape \(\), expected", np.array(1.0)),
        (V, r"has shape \(1, 5\), expected", np.ones((1, 5))),
        (T, "has type float, expected", 1.0),
        (T, "has type list, expected", [1.0] * 5),
        (T, "has dtype int64, expected", np.ones(5, np.int64)),
        (T, "has dtype float16, expected", np.ones(5, np.float16)),
        (T, "has dtype bfloat16, expected", np.ones(5, BFLOAT16)),
    ]
    rows = [(norms, kind, f"{name} {text}", norm(**{name: value})) for kind, text, value in wrong]
    overlap = f"out overlaps {name} {OVERLAP}"
    return [*rows, (norms, V, overlap, lambda a: a.norm(**{name: a.out.ravel()[: a.count]}))]


# norms, kind of error, what its message says after "operation: ", the call
# fmt: off
FORWARD: list[Row] = [
    # x
    (NAMES, T, f"x has type list, {FLOATS}", norm([[1.0]])),
    (NAMES, T, f"x has dtype int64, {FLOATS}", norm(np.ones(SHAPE, np.int64))),
    (NAMES, T, f"x has dtype >f4, {FLOATS}", norm(np.ones(SHAPE, ">f4"))),
    (BEFORE, V, r"(x has shape \(\)|axis is .*), expected", norm(np.array(1, np.float32))),
    (BEHIND, V, "axis is 1, expected", norm(np.ones(6, np.float32))),
    # axis of layer and RMS norm: the last ones, in order
    *[(BEFORE, V, "axis is .*, expected", norm(axis=axis))
      for axis in (0, 1, 3, -2, -4, 2**40, (), (0,), (-2,), (1,), (0, 1), (0, 2), (-3, -1),
                   (-1, -2), (-1, -1), (2, 1), (2, 2), (1, 2, 3), (-4, -3, -2, -1), (-1, 2**40))],
    *[(BEFORE, T, "axis .*, expected", norm(axis=axis))
      for axis in (1.0, "1", None, True, (True,), (-2.0, -1.0), ("2",), np.array(1.0))],
    # axis of group and instance norm: any but the first
    *[(BEHIND, V, f"axis is {axis}, expected", norm(axis=axis)) for axis in (0, -3, 3, -4, 2**40)],
    *[(BEHIND, T, f"axis .*{type(axis).__name__}, expected an integer", norm(axis=axis))
      for axis in (1.0, "1", None, True, (1,))],
    # num_groups
    *[(GROUP, V, f"num_groups is {n}, expected", norm(groups=n)) for n in (0, -1, -6)],
    *[(GROUP, V, "(num_groups|x) .*, expected", norm(groups=n)) for n in (4, 5, 7, 12, 2**40)],
    (GROUP, V, "(num_groups|x) .*, expected", norm(groups=2, axis=-1)),
    *[(GROUP, T, f"num_groups .*{type(n).__name__}, expected", norm(groups=n))
      for n in (2.0, "2", None, True, [2])],
    # numbers and choices
    *[(NAMES, V, f"eps is {eps}, expected a finite", norm(eps=eps)) for eps in (-1, NAN, INF)],
    (NAMES, T, "eps has type str, expected float", norm(eps="1e-5")),
    (NAMES, V, "activation is 'swish', expected one of", norm(activation="swish")),
    (NAMES, V, r"activation is \['relu'\], expected one of", norm(activation=["relu"])),
    (NAMES, V, "activation_slope is nan, expected a finite", norm(activation_slope=NAN)),
    *[(NAMES, V, f"dropout is {p}, expected", norm(dropout=p)) for p in (-0.1, 1.5, NAN)],
    (NAMES, T, "dropout is of type str, expected", norm(dropout="0.5")),
    (NAMES, V, "seed is -1, expected", norm(dropout=0.5, seed=-1)),
    (NAMES, T, "seed is of type float, expected", norm(dropout=0.5, seed=1.0)),
    (NAMES, V, "offset is -1, expected", norm(dropout=0.5, seed=1, offset=-1)),
    # gamma, beta and residual
    *of_parameter("gamma"), *of_parameter("beta"),
    *[(BEFORE, V, f"gamma has .*, {SIX_FIVE}", norm(gamma=np.ones(shape), axis=(-2, -1)))
      for shape in (5, 30, (5, 6))],
    (BEHIND, V, r"gamma has shape \(6,\), expected \(5,\)",
     norm(None, 1, gamma=np.ones(6), axis=-1)),
    (NAMES, V, f"residual {ONE_MORE}", norm(residual=longer)),
    (NAMES, V, f"residual {ONE_LESS}", norm(residual=longer[0, :, :5])),
    (NAMES, T, f"residual {DOUBLE}", norm(residual=double)),
    (NAMES, T, "residual has type int, expected", norm(residual=0)),
    # out
    (NAMES, T, "out has type list, expected", norm(out=[0.0])),
    (NAMES, V, f"out {ONE_MORE}", norm(out=longer.copy())),
    (NAMES, T, f"out {DOUBLE}", norm(out=double.copy())),
    (NAMES, V, "out is read-only, expected", norm(out=np.broadcast_to(np.float32(0), SHAPE))),
    (NAMES, V, f"out overlaps x {OVERLAP}", lambda a: a.norm(out=a.part(60))),
    (NAMES, V, f"out overlaps x {OVERLAP}", lambda a: a.norm(out=a.x[::-1])),
    *[(NAMES, V, f"out overlaps residual {OVERLAP}",
       lambda a, at=at: a.norm(residual=a.residual, out=a.part(at))) for at in (SIZE, SIZE + 60)],
    (BEFORE, V, "out (is|overlaps) x.*, expected", lambda a: a.norm(out=a.x)),
    (BEFORE, V, "out (is|overlaps) x.*, expected", lambda a: a.norm(residual=a.residual, out=a.x)),
    # out is x: what cannot be undone
    *[(BEHIND, V, "out is x .* expected activation None",
       lambda a, act=act: a.norm(activation=act, out=a.x))
      for act in ("relu", "sigmoid", "tanh", "silu", "gelu")],
    (BEHIND, V, "out is x .* expected activation_slope > 0",
     lambda a: a.norm(activation="leaky_relu", activation_slope=0.0, out=a.x)),
    (BEHIND, V, "out is x .* expected no residual", lambda a: a.norm(residual=a.residual, out=a.x)),
    (BEHIND, V, "out is x .* expected dropout 0", lambda a: a.norm(dropout=0.5, seed=1, out=a.x)),
    (BEHIND, V, "gamma is 0 in channel 2, expected at least",
     lambda a: a.norm(gamma=np.array([1.0, 1, 0, 1, 1, 1]), out=a.x)),
]
BACKWARD: list[Row] = [
    (LAYER, T, "ctx has type NoneType, expected NormContext",
     lambda a: bnfast.norm_backward(a.x, None)),
    (LAYER, T, "ctx has type BatchNormContext, expected NormContext",
     lambda a: a.back(ctx=bnfast.batch_norm(a.x)[1])),
    (NAMES, V, f"dy {ONE_MORE}", back(longer)),
    (NAMES, V, f"dy {ONE_LESS}", back(longer[0, :, :5])),
    (NAMES, T, f"dy {DOUBLE}", back(double)),
    (NAMES, T, "dy has type float, expected", back(1.0)),
    (BEHIND, V, "dh is given, expected [Nn]one", lambda a: a.back(dh=a.dh)),
    (BEFORE, V, f"dh {ONE_MORE}", back(dh=longer)),
    (BEFORE, V, f"dh {ONE_LESS}", back(dh=longer[0, :, :5])),
    (BEFORE, T, f"dh {DOUBLE}", back(dh=double)),
    (BEFORE, T, "dh has type float, expected", back(dh=1.0)),
    (NAMES, V, f"out {ONE_MORE}", back(out=longer.copy())),
    (NAMES, T, f"out {DOUBLE}", back(out=double.copy())),
    (NAMES, V, "out is read-only, expected", back(out=np.broadcast_to(np.float32(0), SHAPE))),
    (NAMES, V, f"out overlaps (x|h) {OVERLAP}", lambda a: a.back(out=a.x)),
    (NAMES, V, f"out overlaps (x|h) {OVERLAP}", lambda a: a.back(out=a.part(60))),
    (NAMES, V, f"out overlaps dy {OVERLAP}",
     lambda a: a.back(a.part(3 * SIZE), out=a.part(2 * SIZE + 60))),
    *[(BEFORE, V, f"out overlaps dh {OVERLAP}", lambda a, at=at: a.back(dh=a.dh, out=a.part(at)))
      for at in (2 * SIZE, 3 * SIZE - 60)],
    (BEHIND, V, f"out overlaps residual {OVERLAP}",
     lambda a: a.back(ctx=a.norm(residual=a.residual, out=None)[1], out=a.residual)),
]
# fmt: on


def expand(table: list[Row]) -> list[Any]:
    return [
        pytest.param(name, row, id=f"{name}: {row[2]}"[:60].replace(" ", "_"))
        for row in table
        for name in row[0]
    ]


@pytest.mark.parametrize(("name", "row"), expand(FORWARD) + expand(BACKWARD))
def test_malformed_call(name, row):
    _, kind, message, call = row
    operation = "norm_backward" if row in BACKWARD else name
    arguments = Arguments(name)
    before = arguments.buffer.copy()
    with pytest.raises(kind, match=f"^{operation}: ({message})") as caught:
        call(arguments)
    assert type(caught.value) is kind
    assert (arguments.out == SENTINEL).all()
    assert arguments.buffer.tobytes() == before.tobytes()


@pytest.mark.parametrize("name", BEFORE)
def test_backward_never_writes_over_h(name):
    """Which the caller may use as the next residual."""
    arguments = Arguments(name)
    _, ctx = arguments.norm(residual=arguments.residual, out=None)
    h = ctx.h.copy()
    with pytest.raises(ValueError, match=r"^norm_backward: out overlaps (x|h) in memory, expected"):
        arguments.back(ctx=ctx, out=ctx.h)
    assert ctx.h.tobytes() == h.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_an_output_that_overlaps_itself_is_refused(name):
    memory = np.full(SIZE, SENTINEL, np.float32)
    out = np.lib.stride_tricks.as_strided(memory, SHAPE, (64, 12, 4))
    with pytest.raises(ValueError, match=rf"^{name}: out .*, expected"):
        Arguments(name).norm(out=out)
    assert (memory == SENTINEL).all()


@pytest.mark.parametrize("name", BEHIND)
def test_elu_over_16_bits_cannot_be_undone(name):
    x = np.ones(SHAPE, BFLOAT16)
    with pytest.raises(ValueError, match="expected another activation"):
        Arguments(name).norm(x, activation="elu", out=x)
    assert (x == 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_neighbours_in_one_buffer_are_fine(name):
    arguments = Arguments(name)
    want, ctx = arguments.norm(out=None)
    y, _ = arguments.norm(out=arguments.part(SIZE))
    assert np.shares_memory(y, arguments.residual) and y.tobytes() == want.tobytes()
    dy, out = arguments.part(3 * SIZE), arguments.part(2 * SIZE)
    wanted = bnfast.norm_backward(dy, ctx).dx
    assert arguments.back(dy, ctx, out=out).dx.tobytes() == wanted.tobytes()
