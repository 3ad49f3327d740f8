"""Malformed calls raise the right error, "operation: argument got, expected", and write nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16

import bnfast

pytestmark = pytest.mark.core

SENTINEL = 1234.5
SHAPE = (4, 3, 5)


class Arguments:
    """Good arguments, for a test to spoil one of."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.buffer = generator.normal(size=200).astype(np.float32)
        self.x = self.buffer[:60].reshape(SHAPE)
        self.residual = self.buffer[60:120].reshape(SHAPE)
        self.out = np.full(SHAPE, SENTINEL, np.float32)
        self.gamma = np.ones(3, np.float32)
        self.zeros = np.zeros(3)
        self.ones = np.ones(3)

    def norm(self, x: Any = None, *args: Any, **options: Any) -> Any:
        return bnfast.batch_norm(self.x if x is None else x, *args, **{"out": self.out, **options})

    def infer(self, *stats: Any, **options: Any) -> Any:
        stats = stats or (self.zeros, self.ones)
        return bnfast.batch_norm_inference(self.x, *stats, **{"out": self.out, **options})

    def frozen(self, *stats: Any, **options: Any) -> Any:
        stats = stats or (self.zeros, self.ones)
        return bnfast.batch_norm_frozen(self.x, *stats, **{"out": self.out, **options})

    def context(self, **options: Any) -> bnfast.BatchNormContext:
        return bnfast.batch_norm(self.x, self.gamma, **options)[1]

    def back(self, dy: Any = None, ctx: Any = None, **options: Any) -> Any:
        ctx = self.context() if ctx is None else ctx
        return bnfast.batch_norm_backward(
            self.x.copy() if dy is None else dy, ctx, **{"out": self.out, **options}
        )


def read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.setflags(write=False)
    return a


V, T = ValueError, TypeError
FLOATS = "expected .*float32"
N, B, M = "batch_norm", "batch_norm_backward", "moments"
INF, FRO = "batch_norm_inference", "batch_norm_frozen"
SUMS, THREADS, TARGET = "batch_norm_backward_sums", "set_num_threads", "use_target"
other = np.ones((4, 3, 6), np.float32)
moments_of_2 = bnfast.Moments([60, 60], [0.0, 0.0], [1.0, 1.0])
foreign = bnfast.Moments([99] * 3, [0.0] * 3, [1.0] * 3)
no_sums = bnfast.GradientSums([60, 60], [0.0, 0.0], [1.0, 1.0])

# operation, kind of error, what its message says after "operation: ", the call
# fmt: off
TABLE: list[tuple[str, type[Exception], str, Callable[[Arguments], Any]]] = [
    # x
    (N, T, f"x has type list, {FLOATS}", lambda a: a.norm([[1.0]])),
    (N, T, f"x has type str, {FLOATS}", lambda a: a.norm("x")),
    (N, T, f"x has type float, {FLOATS}", lambda a: a.norm(1.0)),
    (N, T, f"x has dtype int64, {FLOATS}", lambda a: a.norm(np.ones(SHAPE, np.int64))),
    (N, T, f"x has dtype uint8, {FLOATS}", lambda a: a.norm(np.ones(SHAPE, np.uint8))),
    (N, T, f"x has dtype bool, {FLOATS}", lambda a: a.norm(np.ones(SHAPE, bool))),
    (N, T, f"x has dtype complex64, {FLOATS}", lambda a: a.norm(np.ones(SHAPE, np.complex64))),
    (N, T, f"x has dtype object, {FLOATS}", lambda a: a.norm(np.ones(SHAPE, object))),
    (N, T, f"x has dtype >f4, {FLOATS}.*native", lambda a: a.norm(np.ones(SHAPE, ">f4"))),
    (N, T, f"x has dtype >f8, {FLOATS}.*native", lambda a: a.norm(np.ones(SHAPE, ">f8"))),
    (N, T, f"x has dtype longdouble|x has dtype float128, {FLOATS}",
     lambda a: a.norm(np.ones(SHAPE, np.longdouble))),
    (N, V, r"x has shape \(\), expected at least one", lambda a: a.norm(np.array(1.0, np.float32))),
    (M, T, f"x has dtype int32, {FLOATS}", lambda a: bnfast.moments(np.ones(SHAPE, np.int32))),
    (M, T, f"x has type list, {FLOATS}", lambda a: bnfast.moments([1.0])),
    (INF, T, f"x has type NoneType, {FLOATS}",
     lambda a: bnfast.batch_norm_inference(None, a.zeros, a.ones, out=a.out)),
    # axis
    (N, V, r"axis is 3, expected one of -3 .. 2 for x with shape \(4, 3, 5\)",
     lambda a: a.norm(axis=3)),
    (N, V, "axis is -4, expected one of -3 .. 2", lambda a: a.norm(axis=-4)),
    (N, V, "axis is 1099511627776, expected", lambda a: a.norm(axis=2**40)),
    (N, T, "axis is of type float, expected an integer", lambda a: a.norm(axis=1.0)),
    (N, T, "axis is of type str, expected an integer", lambda a: a.norm(axis="1")),
    (N, T, "axis is of type ndarray, expected an integer", lambda a: a.norm(axis=np.array(1.0))),
    (N, T, "axis is of type NoneType, expected an integer", lambda a: a.norm(axis=None)),
    (N, T, "axis is of type tuple, expected an integer", lambda a: a.norm(axis=(0, 1))),
    (N, T, "axis is of type bool, expected an integer", lambda a: a.norm(axis=True)),
    (N, T, "axis is of type .*bool.*, expected an integer", lambda a: a.norm(axis=np.True_)),
    (M, T, "axis is of type bool, expected an integer", lambda a: bnfast.moments(a.x, axis=True)),
    (FRO, T, "axis is of type bool, expected an integer", lambda a: a.frozen(axis=True)),
    (M, V, "axis is 3, expected one of -3 .. 2", lambda a: bnfast.moments(a.x, axis=3)),
    (M, T, "axis is of type float, expected an integer", lambda a: bnfast.moments(a.x, axis=0.5)),
    (INF, V, "axis is 5, expected one of -3 .. 2", lambda a: a.infer(axis=5)),
    (FRO, V, "axis is -9, expected one of -3 .. 2", lambda a: a.frozen(axis=-9)),
    # eps and slope
    (N, V, "eps is -1e-05, expected a finite number >= 0", lambda a: a.norm(eps=-1e-5)),
    (N, V, "eps is nan, expected a finite number", lambda a: a.norm(eps=float("nan"))),
    (N, V, "eps is inf, expected a finite number", lambda a: a.norm(eps=float("inf"))),
    (N, T, "eps has type str, expected float", lambda a: a.norm(eps="1e-5")),
    (N, T, "eps has type NoneType, expected float", lambda a: a.norm(eps=None)),
    (N, T, "eps has type complex, expected float", lambda a: a.norm(eps=1j)),
    (N, T, "eps has type bool, expected float", lambda a: a.norm(eps=True)),
    (N, T, "eps has type bool.*, expected float", lambda a: a.norm(eps=np.True_)),
    (N, T, "eps has type ndarray, expected float", lambda a: a.norm(eps=np.array([1e-5]))),
    (INF, T, "eps has type ndarray, expected float", lambda a: a.infer(eps=np.array(1j))),
    (FRO, T, "activation_slope has type bool, expected float",
     lambda a: a.frozen(activation_slope=False)),
    (N, T, "dropout is of type bool, expected a number", lambda a: a.norm(dropout=False)),
    (N, T, "dropout is of type ndarray, expected a number", lambda a: a.norm(dropout=np.zeros(2))),
    (N, T, "offset is of type bool, expected an integer", lambda a: a.norm(offset=False)),
    (N, T, "seed is of type RandomState, expected None, an int .* or a numpy.random.Generator",
     lambda a: a.norm(dropout=0.5, seed=np.random.RandomState(0))),
    (N, V, "eps is beyond float64, expected a finite number", lambda a: a.norm(eps=10**400)),
    (INF, V, "eps is -1, expected a finite number", lambda a: a.infer(eps=-1)),
    (INF, T, "eps has type list, expected float", lambda a: a.infer(eps=[1.0])),
    (FRO, V, "eps is nan, expected a finite number", lambda a: a.frozen(eps=np.float64("nan"))),
    (N, V, "activation_slope is nan, expected a finite number",
     lambda a: a.norm(activation_slope=float("nan"))),
    (N, V, "activation_slope is -inf, expected a finite",
     lambda a: a.norm(activation_slope=-np.inf)),
    (INF, T, "activation_slope has type NoneType, expected float",
     lambda a: a.infer(activation_slope=None)),
    # choices
    (N, V, "activation is 'swish', expected one of None, 'relu'",
     lambda a: a.norm(activation="swish")),
    (N, V, "activation is 1, expected one of", lambda a: a.norm(activation=1)),
    (N, V, r"activation is \['relu'\], expected one of", lambda a: a.norm(activation=["relu"])),
    (INF, V, "activation is 'RELU', expected one of", lambda a: a.infer(activation="RELU")),
    (FRO, V, "activation is '', expected one of", lambda a: a.frozen(activation="")),
    (N, V, "eps_placement is 'outside', expected one of 'var', 'std'",
     lambda a: a.norm(eps_placement="outside")),
    (INF, V, "eps_placement is None, expected one of", lambda a: a.infer(eps_placement=None)),
    # gamma, beta, mean, var
    (N, T, "gamma has type float, expected a NumPy or DLPack array of float32 or float64",
     lambda a: a.norm(None, 2.0)),
    (N, T, "beta has type list, expected a NumPy or DLPack array of float32 or float64",
     lambda a: a.norm(None, None, [1.0, 1.0, 1.0])),
    (N, V, r"gamma has shape \(4,\), expected \(3,\) to match axis 1 of x with shape \(4, 3, 5\)",
     lambda a: a.norm(None, np.ones(4))),
    (N, V, r"beta has shape \(1,\), expected \(3,\) to match axis 1",
     lambda a: a.norm(None, None, np.ones(1))),
    (N, V, r"gamma has shape \(\), expected \(3,\)", lambda a: a.norm(None, np.array(1.0))),
    (N, V, r"gamma has shape \(3, 1\), expected \(3,\)", lambda a: a.norm(None, np.ones((3, 1)))),
    (N, V, r"gamma has shape \(3,\), expected \(5,\) to match axis 2",
     lambda a: a.norm(None, a.gamma, axis=-1)),
    (N, T, "gamma has dtype int64, expected float32 or float64",
     lambda a: a.norm(None, np.ones(3, np.int64))),
    (N, T, "gamma has dtype float16, expected float32 or float64",
     lambda a: a.norm(None, np.ones(3, np.float16))),
    (N, T, "beta has dtype bfloat16, expected float32 or float64",
     lambda a: a.norm(None, None, np.ones(3, BFLOAT16))),
    (N, T, "beta has dtype complex128, expected",
     lambda a: a.norm(None, None, np.ones(3, complex))),
    (N, T, "gamma has dtype >f4, expected.* float32", lambda a: a.norm(None, np.ones(3, ">f4"))),
    (N, T, "gamma has type list, expected", lambda a: a.norm(None, [1.0, 1.0, 1.0])),
    (N, T, "beta has type float, expected", lambda a: a.norm(None, None, 0.0)),
    (INF, V, r"mean has shape \(2,\), expected \(3,\)", lambda a: a.infer(np.zeros(2), a.ones)),
    (INF, V, r"var has shape \(2,\), expected \(3,\)", lambda a: a.infer(a.zeros, np.ones(2))),
    (INF, V, "var is -1 in channel 2, expected",
     lambda a: a.infer(a.zeros, np.array([1.0, 0.0, -1.0]))),
    (INF, T, "mean has type NoneType, expected", lambda a: a.infer(None, a.ones)),
    (INF, T, "var has dtype float16, expected float32 or float64",
     lambda a: a.infer(a.zeros, np.ones(3, np.float16))),
    (INF, V, r"gamma has shape \(2,\), expected \(3,\)",
     lambda a: a.infer(a.zeros, a.ones, np.ones(2))),
    (FRO, V, "var is -1e-30 in channel 0, expected",
     lambda a: a.frozen(a.zeros, np.full(3, -1e-30))),
    (FRO, V, r"beta has shape \(0,\), expected \(3,\)",
     lambda a: a.frozen(a.zeros, a.ones, None, np.ones(0))),
    (FRO, T, "mean has dtype int64, expected", lambda a: a.frozen(np.zeros(3, np.int64), a.ones)),
    # residual
    (N, V, r"residual has shape \(4, 3, 6\), expected \(4, 3, 5\)",
     lambda a: a.norm(residual=other)),
    (N, V, r"residual has shape \(3, 5\), expected \(4, 3, 5\)",
     lambda a: a.norm(residual=a.residual[0])),
    (N, T, "residual has dtype float64, expected float32",
     lambda a: a.norm(residual=a.residual.astype(float))),
    (N, T, "residual has type int, expected", lambda a: a.norm(residual=0)),
    (INF, V, r"residual has shape \(4, 3, 6\), expected \(4, 3, 5\)",
     lambda a: a.infer(residual=other)),
    (FRO, T, "residual has dtype float16, expected float32",
     lambda a: a.frozen(residual=a.x.astype(np.float16))),
    # where
    (N, T, "where has dtype int64, expected .*bool",
     lambda a: a.norm(where=np.ones((4, 5), np.int64))),
    (N, T, "where has dtype float32, expected .*bool", lambda a: a.norm(where=a.x)),
    (N, T, "where has type bool, expected .*bool", lambda a: a.norm(where=True)),
    (N, T, "where has type list, expected .*bool", lambda a: a.norm(where=[True])),
    (N, V, r"where has shape \(4, 6\), expected .* x with shape \(4, 3, 5\) with axis 1",
     lambda a: a.norm(where=np.ones((4, 6), bool))),
    (N, V, r"where has shape \(4, 3, 5\), expected", lambda a: a.norm(where=np.ones(SHAPE, bool))),
    (N, V, r"where has shape \(1, 4, 1, 5\), expected",
     lambda a: a.norm(where=np.ones((1, 4, 1, 5), bool))),
    (M, V, r"where has shape \(3,\), expected",
     lambda a: bnfast.moments(a.x, where=np.ones(3, bool))),
    (M, T, "where has dtype uint8, expected .*bool",
     lambda a: bnfast.moments(a.x, where=np.ones(5, np.uint8))),
    # stats
    (N, T, "stats has type tuple, expected Moments", lambda a: a.norm(stats=(1, 2, 3))),
    (N, T, "stats has type GradientSums, expected Moments",
     lambda a: a.norm(stats=bnfast.GradientSums.empty(3))),
    (N, V, "stats has 2 channels, expected 3 to match axis 1",
     lambda a: a.norm(stats=moments_of_2)),
    # out
    (N, T, "out has type list, expected", lambda a: a.norm(out=[0.0])),
    (N, V, r"out has shape \(4, 3, 6\), expected \(4, 3, 5\)", lambda a: a.norm(out=other.copy())),
    (N, V, r"out has shape \(60,\), expected \(4, 3, 5\)",
     lambda a: a.norm(out=np.ones(60, np.float32))),
    (N, T, "out has dtype float64, expected float32", lambda a: a.norm(out=np.ones(SHAPE))),
    (N, V, "out is read-only, expected a writeable", lambda a: a.norm(out=read_only(a.out))),
    (INF, V, "out is read-only, expected a writeable", lambda a: a.infer(out=read_only(a.out))),
    (N, V, "out overlaps x in memory, expected",
     lambda a: a.norm(out=a.buffer[30:90].reshape(SHAPE))),
    (N, V, "out overlaps x in memory, expected", lambda a: a.norm(out=a.x[::-1])),
    (N, V, "out overlaps residual in memory, expected",
     lambda a: a.norm(residual=a.residual, out=a.residual)),
    (N, V, "out overlaps residual in memory, expected",
     lambda a: a.norm(residual=a.residual, out=a.buffer[100:160].reshape(SHAPE))),
    (N, V, "out overlaps gamma in memory, expected", lambda a: a.norm(None, a.out[0, :, 0])),
    (N, V, "out overlaps beta in memory, expected", lambda a: a.norm(None, None, a.out[3, :, 4])),
    (N, V, "out overlaps where in memory, expected",
     lambda a: a.norm(where=a.out[:, 0].view(bool)[:, :5])),
    (INF, V, "out overlaps x in memory, expected",
     lambda a: a.infer(out=a.buffer[1:61].reshape(SHAPE))),
    (INF, V, "out overlaps mean in memory, expected", lambda a: a.infer(a.out[0, :, 0], a.ones)),
    (INF, V, "out overlaps var in memory, expected", lambda a: a.infer(a.zeros, a.out[0, :, 0])),
    (FRO, V, "out overlaps x in memory, expected",
     lambda a: a.frozen(out=a.buffer[1:61].reshape(SHAPE))),
    # out is x
    *[
        (N, V, "out is x .* expected activation None, leaky_relu or elu",
         lambda a, activation=activation: a.norm(activation=activation, out=a.x))
        for activation in ("relu", "sigmoid", "tanh", "silu", "gelu")
    ],
    (FRO, V, "out is x .* expected activation None",
     lambda a: a.frozen(activation="relu", out=a.x)),
    (N, V, "out is x .* expected activation_slope > 0, got 0",
     lambda a: a.norm(activation="leaky_relu", activation_slope=0.0, out=a.x)),
    (N, V, "out is x .* expected activation_slope > 0, got -0.5",
     lambda a: a.norm(activation="leaky_relu", activation_slope=-0.5, out=a.x)),
    (N, V, "out is x .* expected no residual", lambda a: a.norm(residual=a.residual, out=a.x)),
    (N, V, "out is x .* expected no where",
     lambda a: a.norm(where=np.ones((4, 5), bool), out=a.x)),
    (N, V, "out is x .* expected dropout 0, got 0.5",
     lambda a: a.norm(dropout=0.5, seed=1, out=a.x)),
    (N, V, "gamma is 0 in channel 2, expected at least .* in magnitude where out is x",
     lambda a: a.norm(None, np.array([1.0, 1.0, 0.0]), out=a.x)),
    # stats
    (N, V, "stats counts no element in channel 0, expected at least one in each, as x has 20",
     lambda a: a.norm(stats=bnfast.Moments.empty(3))),
    (N, V, "stats counts no element in channel 1, expected at least one",
     lambda a: a.norm(stats=bnfast.Moments([9, 0, 9], [0.0] * 3, [1.0] * 3))),
    # backward
    (B, T, "ctx has type NoneType, expected BatchNormContext",
     lambda a: bnfast.batch_norm_backward(a.x, None)),
    (B, T, "ctx has type Moments, expected BatchNormContext", lambda a: a.back(ctx=foreign)),
    (B, V, r"dy has shape \(4, 3, 6\), expected \(4, 3, 5\)", lambda a: a.back(other)),
    (B, V, r"dy has shape \(3, 5\), expected \(4, 3, 5\)", lambda a: a.back(a.x[0])),
    (B, T, "dy has dtype float64, expected float32", lambda a: a.back(a.x.astype(float))),
    (B, T, "dy has dtype bfloat16, expected float32", lambda a: a.back(a.x.astype(BFLOAT16))),
    (B, T, "dy has type float, expected", lambda a: a.back(1.0)),
    (B, V, "sums is None, expected the GradientSums",
     lambda a: a.back(ctx=a.context(stats=foreign))),
    (B, T, "sums has type Moments, expected GradientSums", lambda a: a.back(sums=foreign)),
    (B, V, "sums has 2 channels, expected 3", lambda a: a.back(sums=no_sums)),
    (B, V, "sums counts no element in channel 0, expected at least one in each, as x has 20",
     lambda a: a.back(sums=bnfast.GradientSums.empty(3))),
    (B, V, r"out has shape \(4, 3, 6\), expected \(4, 3, 5\)", lambda a: a.back(out=other.copy())),
    (B, T, "out has dtype float16, expected float32", lambda a: a.back(out=a.x.astype(np.float16))),
    (B, V, "out is read-only, expected a writeable", lambda a: a.back(out=read_only(a.out))),
    (B, V, "out overlaps x in memory, expected", lambda a: a.back(out=a.x)),
    (B, V, "out overlaps residual in memory, expected",
     lambda a: a.back(ctx=a.context(residual=a.residual), out=a.residual)),
    (B, V, "out overlaps dy in memory, expected",
     lambda a: a.back(a.buffer[120:180].reshape(SHAPE), out=a.buffer[130:190].reshape(SHAPE))),
    (B, V, "out overlaps where in memory, expected",
     lambda a: a.back(ctx=a.context(where=a.out[:, 0].view(bool)[:, :5]))),
    (SUMS, T, "ctx has type int, expected BatchNormContext",
     lambda a: bnfast.batch_norm_backward_sums(a.x, 0)),
    (SUMS, V, r"dy has shape \(4, 3, 6\), expected \(4, 3, 5\)",
     lambda a: bnfast.batch_norm_backward_sums(other, a.context())),
    (SUMS, T, "dy has dtype int64, expected",
     lambda a: bnfast.batch_norm_backward_sums(np.ones(SHAPE, np.int64), a.context())),
    # runtime
    (THREADS, V, "n is 0, expected at least 1", lambda a: bnfast.set_num_threads(0)),
    (THREADS, V, "n is -1, expected at least 1", lambda a: bnfast.set_num_threads(-1)),
    (THREADS, V, "n is .*, expected at most 65536",
     lambda a: bnfast.set_num_threads(10**30)),
    (THREADS, T, "n is of type float, expected an integer", lambda a: bnfast.set_num_threads(2.0)),
    (THREADS, T, "n is of type str, expected an integer", lambda a: bnfast.set_num_threads("2")),
    ("num_threads", T, "n is of type bool, expected an integer",
     lambda a: bnfast.num_threads(True).__enter__()),
    (TARGET, V, "name is 'sparc', expected one of '",
     lambda a: bnfast.use_target("sparc").__enter__()),
    (TARGET, T, "name has type int, expected str", lambda a: bnfast.use_target(1).__enter__()),
]
# fmt: on


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}: {row[2]}"[:60])
def test_malformed_call(row):
    operation, kind, message, call = row
    arguments = Arguments()
    before = arguments.buffer.copy()
    threads, target = bnfast.get_num_threads(), bnfast.active_target()
    with pytest.raises(kind, match=f"^{operation}: ({message})") as caught:
        call(arguments)
    assert type(caught.value) is kind
    assert (arguments.out == SENTINEL).all()
    assert arguments.buffer.tobytes() == before.tobytes()
    assert (bnfast.get_num_threads(), bnfast.active_target()) == (threads, target)


def test_an_output_that_overlaps_itself_is_refused():
    memory = np.full(9, SENTINEL, np.float32)
    out = np.lib.stride_tricks.as_strided(memory, (4, 3), (4, 8))
    with pytest.raises(ValueError, match=r"^batch_norm: out .*, expected"):
        bnfast.batch_norm(np.arange(12, dtype=np.float32).reshape(4, 3), out=out)
    assert (memory == SENTINEL).all()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("step", [1, 2, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("negative", [[8999], [7000, 300], [0]])
def test_the_first_negative_var_of_many_is_named(negative, dtype, step, threads):
    x = np.ones((2, 9000), np.float32)
    var = np.full(9000 * abs(step), -7, dtype)[::step]
    var[:] = 1
    var[negative] = -2.5
    out = np.full_like(x, 7)
    with bnfast.num_threads(threads):
        message = f"batch_norm_inference: var is -2.5 in channel {min(negative)}, expected numbers"
        with pytest.raises(ValueError, match=message):
            bnfast.batch_norm_inference(x, np.zeros(9000), var, out=out)
    assert (out == 7).all()
