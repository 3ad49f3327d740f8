"""Layer, RMS, group and instance norm as the literature has them: the readable specification."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
from reference import Wide, activate

import bnfast

BEFORE = ("layer_norm", "rms_norm")  # residual and dropout stand before these, behind the others


class Parts:
    """Which elements of x share a mean and variance, and which share a gamma and beta."""

    def __init__(self, name, shape, *, axis, num_groups=None):
        self.shape, rank = shape, len(shape)
        if name in BEFORE:
            axes = [a % rank for a in (axis if isinstance(axis, tuple) else (axis,))]
            assert axes == list(range(rank - len(axes), rank))
            self.channel = None
            self.statistics_shape = shape[: axes[0]]
            self.parameter_axes = axes
        else:
            self.channel = axis % rank
            groups = num_groups if name == "group_norm" else shape[axis]
            self.statistics_shape = (shape[0], groups)
            self.parameter_axes = [self.channel]
        self.parameter_shape = tuple(shape[a] for a in self.parameter_axes)

    def split(self, a):
        """As (statistics, elements of each)."""
        if self.channel is not None:
            a = np.moveaxis(a, self.channel, 1)
        rows = math.prod(self.statistics_shape)
        return a.reshape(rows, a.size // rows if rows else 0)

    def join(self, flat):
        """The inverse of split."""
        if self.channel is None:
            return flat.reshape(self.shape)
        moved = np.moveaxis(np.empty(self.shape, bool), self.channel, 1)
        return np.moveaxis(flat.reshape(moved.shape), 1, self.channel)

    def over_parts(self, reduce, a):
        """`reduce` over the elements of each statistic, spread to the shape of x again."""
        flat = self.split(a)
        return self.join(np.broadcast_to(reduce(flat, axis=1, keepdims=True), flat.shape))

    def spread(self, parameter, absent):
        """gamma or beta at every element of x."""
        if parameter is None:
            return np.full(self.shape, absent, Wide)
        kept = [n if d in self.parameter_axes else 1 for d, n in enumerate(self.shape)]
        return np.broadcast_to(parameter.astype(Wide).reshape(kept), self.shape)

    def sum_for_parameter(self, a):
        others = tuple(d for d in range(len(self.shape)) if d not in self.parameter_axes)
        return a.sum(others).reshape(self.parameter_shape)


def mean_of(flat, **options):
    return flat.sum(**options) / max(flat.shape[1], 1)


def forward(name, x, gamma=None, beta=None, *, axis, num_groups=None, eps, residual=None, h=None,
            activation=None, activation_slope=0.01, dropout=0.0, seed=0, offset=0):  # fmt: skip
    """Return y and what backward needs; `h` is used in place of what x and residual give."""
    parts = Parts(name, x.shape, axis=axis, num_groups=num_groups)
    kept = np.ones(x.shape, bool)
    if dropout > 0:
        kept = bnfast.dropout_mask(x.shape, dropout, seed=seed, offset=offset)
    scale = 1 / (1 - Wide(dropout)) if dropout < 1 else Wide(0)

    def drop(a):  # what is dropped is replaced, not multiplied by 0: NaN vanishes
        return scale * np.where(kept, a, 0)

    added = np.zeros(x.shape, Wide) if residual is None else residual.astype(Wide)
    if name not in BEFORE:
        h = x.astype(Wide)
    elif h is None:
        h = added + drop(x.astype(Wide))
    else:
        h = h.astype(Wide)

    mean = np.zeros(x.shape, Wide) if name == "rms_norm" else parts.over_parts(mean_of, h)
    var = parts.over_parts(mean_of, (h - mean) ** 2)
    std = np.sqrt(var + eps)
    invstd = np.divide(1, std, out=np.zeros_like(std), where=std != 0)
    normalised = (h - mean) * invstd
    wide_gamma, wide_beta = parts.spread(gamma, 1), parts.spread(beta, 0)
    z = wide_gamma * normalised + wide_beta + (0 if name in BEFORE else added)
    y, slope = activate(z, activation, activation_slope)
    ctx = SimpleNamespace(name=name, parts=parts, drop=drop, kept=kept, scale=scale, h=h, mean=mean,
                          var=var, invstd=invstd, normalised=normalised, gamma=wide_gamma,
                          beta=wide_beta, added=np.abs(added), z=z, slope=slope)  # fmt: skip
    return (y if name in BEFORE else drop(y)), ctx


def backward(dy, ctx, dh=None):
    """Return dx, dgamma, dbeta, dresidual, all of them whether or not the argument was given."""
    dy = dy.astype(Wide)
    dz = (dy if ctx.name in BEFORE else ctx.drop(dy)) * ctx.slope
    dnormalised = ctx.gamma * dz
    inner = dnormalised - ctx.normalised * ctx.parts.over_parts(
        mean_of, dnormalised * ctx.normalised
    )
    if ctx.name != "rms_norm":
        inner = inner - ctx.parts.over_parts(mean_of, dnormalised)
    of_h = ctx.invstd * inner + (0 if dh is None else dh.astype(Wide))
    dgamma, dbeta = (ctx.parts.sum_for_parameter(a) for a in (dz * ctx.normalised, dz))
    if ctx.name in BEFORE:
        return ctx.drop(of_h), dgamma, dbeta, of_h
    return of_h, dgamma, dbeta, dz
