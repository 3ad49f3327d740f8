"""bnfast.onnx.fold: the batch norms of an ONNX model inside the convolutions before them."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
from google.protobuf.message import EncodeError

from bnfast._fold import fold_batch_norm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["Folded", "Folding", "Left", "fold"]

_NORM = "BatchNormalization"
# What a batch norm can become a part of: each computes x * weight + bias, in a way of its own.
_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class Folded(NamedTuple):
    """A batch norm that is now part of the node before it, whose name and operator these are.

    A node without a name is called by its output. A MatMul has become a Gemm.
    """

    norm: str
    node: str
    op_type: str


class Left(NamedTuple):
    """A batch norm that stays as it was, and why."""

    norm: str
    reason: str


class Folding(NamedTuple):
    """What :func:`fold` returns: a model, and in `folded` or `left` each of its batch norms."""

    model: onnx.ModelProto
    folded: tuple[Folded, ...]
    left: tuple[Left, ...]


def fold(model: onnx.ModelProto) -> Folding:
    """Fold the batch norms of a model into the linear nodes before them.

    A BatchNormalization behind a Conv, ConvTranspose, Gemm, MatMul, or a MatMul and an Add,
    becomes part of that node: its weights change, and the batch norm is gone. In the graphs of If,
    Loop and Scan as well.

    Parameters
    ----------
    model : onnx.ModelProto
        It is not changed. ``onnx.load`` reads one from a file. Operator set 7 or newer, and IR
        version 4 or newer, whose initializers are constants.

    Returns
    -------
    Folding
        The new model, what was folded, and what was left with the reason. The tensor that a batch
        norm computed keeps its name.

    Raises
    ------
    TypeError
        If `model` is not an onnx.ModelProto.

    See Also
    --------
    bnfast.fold_batch_norm : The arithmetic, in float64 and rounded once.

    Notes
    -----
    A batch norm is left where folding would change a result or could not: it is in training mode;
    a weight or a statistic is not constant (an initializer that is also an input of the graph is
    not, as a caller may replace it); the tensor between the two nodes is used elsewhere; the batch
    norm does not follow a linear node; behind a MatMul, the channels are not the last of two axes;
    the new weights would not be finite. Weights that several nodes share are copied for the one
    that changes. docs/onnx.md says more.

    Examples
    --------
    >>> import onnx.parser, bnfast.onnx
    >>> model = onnx.parser.parse_model('''
    ...     <ir_version: 8, opset_import: ["": 15]>
    ...     net (float[1, 1, 4] x) => (float[1, 2, 4] y)
    ...     <float[2, 1, 1] w = {1, 2}, float[2] scale = {2, 2}, float[2] shift = {0, 1},
    ...      float[2] mean = {0, 1}, float[2] var = {4, 4}>
    ...     { z = Conv(x, w)  y = BatchNormalization(z, scale, shift, mean, var) }''')
    >>> model, folded, left = bnfast.onnx.fold(model)
    >>> [node.op_type for node in model.graph.node]
    ['Conv']
    >>> folded, left
    ((Folded(norm='y', node='y', op_type='Conv'),), ())
    """
    if not isinstance(model, onnx.ModelProto):
        got = f"model is of type {type(model).__name__}"
        raise TypeError(f"onnx.fold: {got}, expected onnx.ModelProto (onnx.load reads a file)")
    work = _Work(model)
    work.fold(work.model.graph, {})
    # From the inside out: what an inner graph no longer reads, the graph around it may drop.
    for graph in reversed(list(_graphs(work.model.graph))):
        work.drop_unread(graph)
    for function in model.functions:
        reason = f"it is inside the function {function.name!r}, which onnx.inliner can inline"
        nodes = [node for part in _graphs(function) for node in part.node]
        work.left += [Left(_name(node), reason) for node in nodes if _is(node, _NORM)]
    return Folding(work.model, tuple(work.folded), tuple(work.left))


class _Linear(NamedTuple):
    """A linear node in front of a batch norm, and what lies between the two."""

    at: int  # where the node is in its graph
    weight: str
    bias: str  # "" where there is none
    between: tuple[str, ...]  # the tensors that nothing but the batch norm reads
    add: tuple[int, ...]  # where the Add is that gives a MatMul its bias


class _Scope:
    """A graph, and what its nodes can see: which tensors are constant, who computes and reads."""

    def __init__(self, graph: onnx.GraphProto, outer: dict[str, onnx.TensorProto]) -> None:
        self.graph = graph
        self.nodes = list(graph.node)
        self.reads = _reads(graph)
        self.producers = {
            name: index for index, node in enumerate(self.nodes) for name in node.output
        }
        # A name of this graph hides the same name of a graph around it, and an input may be given.
        hidden, inputs = _defined(graph), {value.name for value in graph.input}
        self.constants = {name: t for name, t in outer.items() if name not in hidden}
        self.constants |= {t.name: t for t in graph.initializer if t.name not in inputs}
        for node in self.nodes:
            if _is(node, "Constant"):
                value = _attributes(node).get("value")
                if value is not None:
                    self.constants[node.output[0]] = value
            elif _is(node, "Identity") and node.input[0] in self.constants:
                self.constants[node.output[0]] = self.constants[node.input[0]]

    def producer(self, name: str) -> int:
        """Return the index of the node that computes what only one node reads, or raise."""
        if name not in self.producers:
            raise ValueError(f"its input {name!r} is computed by no node of its graph")
        if self.reads[name] > 1:
            raise ValueError(f"{name!r} is used elsewhere, too")
        return self.producers[name]

    def constant(self, name: str) -> onnx.TensorProto:
        """Return a tensor whose value is known, or raise."""
        if name not in self.constants:
            raise ValueError(f"{name!r} is not constant")
        if self.constants[name].data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError(f"{name!r} lies in a file that was not loaded with the model")
        return self.constants[name]

    def array(self, name: str) -> NDArray[Any]:
        value: NDArray[Any] = onnx.numpy_helper.to_array(self.constant(name))
        return value

    def add_constant(self, name: str, value: NDArray[Any]) -> None:
        """Give the graph an initializer."""
        tensor = onnx.numpy_helper.from_array(value, name)
        self.graph.initializer.append(tensor)
        self.constants[name] = tensor


class _Work:
    """A copy of the model while its batch norms are folded, and what was done to it."""

    def __init__(self, original: onnx.ModelProto) -> None:
        self.original = original
        self.model = onnx.ModelProto()
        self.model.CopyFrom(original)
        self.folded: list[Folded] = []
        self.left: list[Left] = []
        self.names = {name for graph in _graphs(original.graph) for name in _defined(graph)}
        # What a folded node read or wrote, and no longer does.
        self.released: set[str] = set()

    def fold(self, graph: onnx.GraphProto, outer: dict[str, onnx.TensorProto]) -> None:
        """Fold the batch norms of a graph and of those inside it.

        `outer` has the constants of the graphs around it.
        """
        scope = _Scope(graph, outer)
        gone: set[int] = set()
        for index, node in enumerate(scope.nodes):
            for inner in _inner_graphs(node):
                self.fold(inner, scope.constants)
            if not _is(node, _NORM):
                continue
            try:
                self._check_model()
                linear = self._linear_before(scope, node)
                weight, bias = _folded_values(scope, node, linear)
            except (TypeError, ValueError) as error:  # of these functions, or of fold_batch_norm
                self.left.append(Left(_name(node), str(error)))
                continue
            self._replace(scope, node, linear, weight=weight, bias=bias)
            gone |= {index, *linear.add}
        for index in sorted(gone, reverse=True):
            del graph.node[index]

    def drop_unread(self, graph: onnx.GraphProto) -> None:
        """Drop the constants that only folded nodes read, and what is said about lost tensors."""
        reads = _reads(graph)
        for index in reversed(range(len(graph.node))):  # who reads a tensor stands behind its node
            node = graph.node[index]
            if _is(node, "Constant", "Identity") and self._is_lost(node.output[0], reads):
                reads.subtract(node.input)
                self.released.update(node.input)
                del graph.node[index]
        for entries in (graph.initializer, graph.value_info):
            for index in reversed(range(len(entries))):
                if self._is_lost(entries[index].name, reads):
                    del entries[index]

    def _is_lost(self, name: str, reads: Counter[str]) -> bool:
        return name in self.released and not reads[name]

    def _check_model(self) -> None:
        """Raise if no batch norm of this model can be folded."""
        model = self.original
        opset = {entry.domain: entry.version for entry in model.opset_import}
        version = opset.get("", opset.get("ai.onnx", 0))
        if version < 7:
            raise ValueError(f"the model has operator set {version}, expected 7 or newer")
        if model.ir_version < 4:
            expected = "4 or newer, in which initializers need not be inputs"
            raise ValueError(f"the model has IR version {model.ir_version}, expected {expected}")
        if model.training_info:
            raise ValueError("the model has training_info, which may change its initializers")

    def _linear_before(self, scope: _Scope, norm: onnx.NodeProto) -> _Linear:
        """Return the linear node that a batch norm can become a part of, or raise."""
        attributes = _attributes(norm)
        if attributes.get("training_mode") or any(norm.output[1:]):
            raise ValueError("it is in training mode")
        if not attributes.get("spatial", 1):
            raise ValueError("it has statistics for each element (spatial = 0)")
        bias, between = "", norm.input[:1]
        add: tuple[int, ...] = ()
        at = scope.producer(between[0])
        if _is(scope.nodes[at], "Add"):
            # It may give a MatMul its bias, which then is on either side.
            term, product = sorted(scope.nodes[at].input, key=lambda n: n not in scope.constants)
            if term in scope.constants:
                add, bias = (at,), term
                between.append(product)
                at = scope.producer(product)
        node = scope.nodes[at]
        if not _is(node, *(("MatMul",) if add else _LINEAR)):
            raise ValueError(f"its input is computed by {'Add' if add else node.op_type}")
        scope.constant(node.input[1])  # its weight, or there is nothing to fold into
        if node.op_type == "MatMul":
            ranks = self._ranks.get(node.input[0]), len(scope.constant(node.input[1]).dims)
            for name, rank in zip(node.input, ranks, strict=True):
                if rank != 2:
                    raise ValueError(f"{name!r}, which MatMul reads, is not known to have 2 axes")
            if add and [*scope.constant(bias).dims[:-1]] not in ([], [1]):
                raise ValueError(f"{bias!r}, which Add reads, is more than one row")
        elif len(node.input) > 2:
            bias = node.input[2]
        return _Linear(at, node.input[1], bias, tuple(between), add)

    def _replace(
        self, scope: _Scope, norm: onnx.NodeProto, linear: _Linear, **values: NDArray[Any]
    ) -> None:
        """Give the linear node its new weight and bias, and the output of the batch norm."""
        self.released |= {linear.weight, linear.bias, *linear.between, *norm.input[1:]}
        node = scope.nodes[linear.at]
        node.output[0] = norm.output[0]
        scope.producers[norm.output[0]] = linear.at
        del node.input[1:]
        for part, value in values.items():
            name = self._new_name(f"{_name(node)}_{part}")
            scope.add_constant(name, value)
            node.input.append(name)
        if node.op_type == "MatMul":
            node.op_type = "Gemm"
        for attribute in node.attribute:
            if attribute.name == "beta":  # of Gemm: the factor of its bias, which has it now
                attribute.f = 1.0
        self.folded.append(Folded(_name(norm), _name(node), node.op_type))

    def _new_name(self, wanted: str) -> str:
        """Return a name that no tensor has: `wanted`, with a number if need be."""
        name, number = wanted, 1
        while name in self.names:
            name, number = f"{wanted}_{number}", number + 1
        self.names.add(name)
        return name

    @cached_property
    def _ranks(self) -> dict[str, int | None]:
        """The number of axes of each tensor where it is known, and unambiguous."""
        model = self.original
        # Of a model of 2 GiB, too large for this, only what it says of itself is known.
        with suppress(EncodeError, ValueError):
            model = onnx.shape_inference.infer_shapes(model)
        ranks: dict[str, int | None] = {}
        for graph in _graphs(model.graph):
            for value in (*graph.input, *graph.output, *graph.value_info):
                tensor = value.type.tensor_type
                rank = len(tensor.shape.dim) if tensor.HasField("shape") else None
                ranks[value.name] = rank if ranks.get(value.name, rank) == rank else None
        return ranks


def _folded_values(
    scope: _Scope, norm: onnx.NodeProto, linear: _Linear
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return weight and bias of a linear node that does the work of a batch norm, too, or raise."""
    node = scope.nodes[linear.at]
    attributes = {"beta": 1.0, "group": 1, "transB": 0} | _attributes(node)
    axis = 0 if node.op_type == "Conv" or attributes["transB"] else 1
    weight = scope.array(linear.weight)
    names = zip(("gamma", "beta", "mean", "var"), norm.input[1:], strict=True)
    values: dict[str, Any] = {key: scope.array(name).astype(np.float64) for key, name in names}
    # The default is as exact as an attribute can be, which is a float32.
    eps = values["eps"] = _attributes(norm).get("epsilon", np.float32(1e-5))
    if np.any(values["var"] + eps == 0):
        raise ValueError("variance and epsilon of a channel are 0")
    channels = values["mean"].size
    bias = np.zeros(channels)
    if linear.bias:  # Gemm's may be a number, or have rows
        bias = scope.array(linear.bias).astype(np.float64) * attributes["beta"]
        bias = np.broadcast_to(bias, (*bias.shape[:-1], channels))

    groups = attributes["group"] if node.op_type == "ConvTranspose" else 1
    weight, _ = fold_batch_norm(weight, None, **values, axis=axis, groups=groups)
    # What is added to x * weight takes the same way, as if it were a weight.
    scaled, shift = fold_batch_norm(bias, None, **values, axis=-1)
    with np.errstate(over="ignore"):
        bias = (scaled + shift).astype(weight.dtype)
    if not (np.all(np.isfinite(weight)) and np.all(np.isfinite(bias))):
        raise ValueError(f"the new weights would not be finite numbers of {weight.dtype}")
    return weight, bias


def _is(node: onnx.NodeProto, *op_types: str) -> bool:
    """Tell whether a node is one of these operators of ONNX itself."""
    return node.domain in ("", "ai.onnx") and node.op_type in op_types


def _name(node: onnx.NodeProto) -> str:
    """Return what to call a node in a report."""
    return str(node.name or node.output[0])


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that a node holds, such as the branches of If."""
    for attribute in node.attribute:
        yield from attribute.graphs
        if attribute.HasField("g"):
            yield attribute.g


def _graphs(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[Any]:
    """Yield a graph or function and all graphs inside it, each before those inside it."""
    yield graph
    for node in graph.node:
        for inner in _inner_graphs(node):
            yield from _graphs(inner)


def _defined(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the tensors of a graph itself."""
    values = {value.name for value in (*graph.input, *graph.initializer)}
    sparse = {tensor.values.name for tensor in graph.sparse_initializer}
    return values | sparse | {name for node in graph.node for name in node.output}


def _reads(graph: onnx.GraphProto) -> Counter[str]:
    """Count how often each tensor is read by a node or is an output, here and in inner graphs."""
    reads: Counter[str] = Counter()
    for part in _graphs(graph):
        reads.update(value.name for value in part.output)
        for node in part.node:
            reads.update(node.input)
    return reads
