"""Kernels: the units of work a runtime executes, each written as one line of text that alone can rebuild it.

A line reads like the node it stands for::

    nchwc.Conv@1 1x16x32x32 w:16x16x3x3 w:16 -> 1x16x32x32 activation=Relu pads=1x1x1x1

operator, inputs (``w:`` marks constants), outputs, attributes. It is the key of a row of a latency table and at the
same time everything that is needed to time the kernel in another process or on another machine: the *values* of
weights do not decide how long a kernel takes, and where values do (shapes, axes, clipping bounds) they are in the line.
"""

import math
from dataclasses import dataclass
from urllib.parse import quote, unquote

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from spaces.errors import LatencyError

Attribute = int | float | str | tuple[int, ...] | tuple[float, ...]
Value = int | float

_DTYPES = {
    "f32": TensorProto.FLOAT,
    "f16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "f64": TensorProto.DOUBLE,
    "i64": TensorProto.INT64,
    "i32": TensorProto.INT32,
    "i8": TensorProto.INT8,
    "u8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
}
_FLOATS = {"f32", "f16", "bf16", "f64"}
_DTYPE_NAMES: dict[int, str] = {number: name for name, number in _DTYPES.items()}
_DOMAINS = {"ms": "com.microsoft", "nchwc": "com.microsoft.nchwc"}
_DOMAIN_NAMES = {domain: name for name, domain in _DOMAINS.items()}
# Constants that steer a kernel rather than feed it; integer constants always do.
_STEERING_INPUTS = {"Clip": {1, 2}, "Resize": {1, 2}, "Upsample": {1}, "Pad": {2}, "Pow": {1}, "Dropout": {1, 2}}
_STEERING_SIZE = 64


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor that a kernel reads or writes.

    Attributes:
        shape: Its dimensions, all known.
        dtype: ``"f32"``, ``"f16"``, ``"i64"``, ...
        constant: Whether it is part of the network (a weight) and not of the data that flows through.
        values: Its flattened values where these decide what the kernel does, else None.
    """

    shape: tuple[int, ...]
    dtype: str = "f32"
    constant: bool = False
    values: tuple[Value, ...] | None = None

    @property
    def proto_type(self) -> int:
        """The element type as ONNX numbers it."""
        return int(_DTYPES[self.dtype])

    @property
    def numpy_type(self) -> np.dtype[np.generic]:
        """The element type as numpy names it."""
        return helper.tensor_dtype_to_np_dtype(self.proto_type)

    @property
    def nbytes(self) -> int:
        """Bytes of memory it takes."""
        return math.prod(self.shape) * self.numpy_type.itemsize

    def array(self) -> np.ndarray:
        """Data to time a kernel with: the values where they matter, else ones.

        Ones, because they keep every operator within its range and never decay into denormal numbers, which some
        processors handle a hundred times slower.
        """
        if self.values is None:
            return np.ones(self.shape, self.numpy_type)
        return np.array(self.values, self.numpy_type).reshape(self.shape)

    def __str__(self) -> str:
        parts = ["w"] if self.constant else []
        parts += [self.dtype] if self.dtype != "f32" else []
        parts += [_dims(self.shape)]
        return ":".join(parts) + ("" if self.values is None else f"={_dims(self.values)}")

    @classmethod
    def parse(cls, text: str) -> "Operand":
        """Read what ``str`` wrote.

        >>> Operand.parse("w:i64:2=1x-1")
        Operand(shape=(2,), dtype='i64', constant=True, values=(1, -1))
        """
        head, _, values = text.partition("=")
        *marks, shape = head.split(":")
        constant = marks[:1] == ["w"]
        dtypes = marks[1:] if constant else marks
        if len(dtypes) > 1 or not set(dtypes) <= set(_DTYPES):
            raise ValueError(f"{text!r} is not an operand")
        dtype = dtypes[0] if dtypes else "f32"
        kind = float if dtype in _FLOATS else int
        dims = tuple(int(size) for size in _parse_dims(shape, int))
        return cls(dims, dtype, constant, _parse_dims(values, kind) if values else None)


@dataclass(frozen=True, slots=True)
class Kernel:
    """One node of a runtime's own optimised graph, without names and weight values.

    Attributes:
        op: The operator's name, such as ``"Conv"``.
        inputs: What it reads; None for an optional input left out.
        outputs: What it writes; None for an optional output left out.
        attributes: Name and value, sorted by name; those at their default are left out.
        domain: The operator set it comes from; empty for ONNX's own.
        version: The version of the operator set in which the operator last changed.

    >>> line = "nchwc.Conv@1 1x16x32x32 w:16x16x3x3 w:16 -> 1x16x32x32 activation=Relu pads=1x1x1x1"
    >>> kernel = Kernel.parse(line)
    >>> kernel.op, kernel.domain, kernel.inputs[1].shape
    ('Conv', 'com.microsoft.nchwc', (16, 16, 3, 3))
    >>> str(kernel) == line
    True
    """

    op: str
    inputs: tuple[Operand | None, ...]
    outputs: tuple[Operand | None, ...]
    attributes: tuple[tuple[str, Attribute], ...] = ()
    domain: str = ""
    version: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a convolution or a matrix product; 0 for anything else."""
        if len(self.inputs) < 2 or not self.inputs[1] or not self.outputs[0]:
            return 0
        weights, values = self.inputs[1].shape, math.prod(self.outputs[0].shape)
        if self.op.endswith("Conv"):
            return values * math.prod(weights[1:])
        read = self.inputs[0]
        return values * read.shape[-1] if read and self.op in ("Gemm", "FusedGemm", "MatMul") else 0

    def __str__(self) -> str:
        prefix = _DOMAIN_NAMES.get(self.domain, self.domain)
        words = [f"{prefix}.{self.op}@{self.version}" if prefix else f"{self.op}@{self.version}"]
        words += ["_" if operand is None else str(operand) for operand in self.inputs]
        words += ["->"]
        words += ["_" if operand is None else str(operand) for operand in self.outputs]
        words += [f"{name}={_attribute_text(value)}" for name, value in self.attributes]
        return " ".join(words)

    @classmethod
    def parse(cls, text: str) -> "Kernel":
        """Read what ``str`` wrote.

        Raises:
            LatencyError: If the text is not a kernel's.
        """
        try:
            name, *words = text.split(" ")
            path, _, version = name.rpartition("@")
            prefix, _, op = path.rpartition(".")
            arrow = words.index("->")
            rest = words[arrow + 1 :]
            count = next((i for i, word in enumerate(rest) if "=" in word), len(rest))
            kernel = cls(
                op,
                tuple(None if word == "_" else Operand.parse(word) for word in words[:arrow]),
                tuple(None if word == "_" else Operand.parse(word) for word in rest[:count]),
                tuple(
                    (key, _parse_attribute(value)) for key, _, value in (word.partition("=") for word in rest[count:])
                ),
                _DOMAINS.get(prefix, prefix),
                int(version),
            )
        except (ValueError, IndexError) as error:
            raise LatencyError(f"{text!r} is not a kernel ({error}); the table that holds it is damaged") from error
        if str(kernel) != text:
            raise LatencyError(f"{text!r} is not a kernel: it would be written {str(kernel)!r}")
        return kernel

    def attribute(self, name: str, default: Attribute) -> Attribute:
        """An attribute's value, or the default given here where the kernel leaves it out."""
        return dict(self.attributes).get(name, default)

    @property
    def activations(self) -> dict[int, Operand]:
        """The inputs that flow through the network, by position."""
        return {i: operand for i, operand in enumerate(self.inputs) if operand and not operand.constant}

    @property
    def constants(self) -> dict[int, Operand]:
        """The inputs that are part of the network, by position."""
        return {i: operand for i, operand in enumerate(self.inputs) if operand and operand.constant}


def make_kernel(node: onnx.NodeProto, version: int, inputs: tuple[Operand | None, ...]) -> Kernel:
    """The kernel of a node whose inputs are known; its outputs are not filled in yet.

    Raises:
        LatencyError: If the node has an attribute that cannot be written as text, such as a subgraph.
    """
    inputs = tuple(
        _steer(operand, i in _STEERING_INPUTS.get(node.op_type, ())) if operand is not None else None
        for i, operand in enumerate(inputs)
    )
    weight = inputs[1] if len(inputs) > 1 else None
    attributes = {attribute.name: _attribute_value(node, attribute) for attribute in node.attribute}
    kept = {name: value for name, value in attributes.items() if not _implied(node.op_type, weight, name, value)}
    return Kernel(node.op_type, inputs, (), tuple(sorted(kept.items())), node.domain, version)


def constant(tensor: TensorProto) -> Operand:
    """An initialiser as an operand; the values of small ones are kept, ``make_kernel`` drops those without influence.

    Raises:
        LatencyError: If its element type has no kernel that could be timed.
    """
    shape, dtype = tuple(tensor.dims), dtype_name(tensor.data_type, tensor.name)
    values = None
    if np.prod(shape, dtype=int) <= _STEERING_SIZE:
        numbers = numpy_helper.to_array(tensor).ravel()
        exact = np.issubdtype(numbers.dtype, np.integer) or numbers.dtype == bool
        values = tuple(int(number) if exact else _short(number) for number in numbers)
    return Operand(shape, dtype, constant=True, values=values)


def dtype_name(number: int, tensor: str) -> str:
    """The short name of an ONNX element type.

    Raises:
        LatencyError: If there is none.
    """
    if number not in _DTYPE_NAMES:
        kind = TensorProto.DataType.Name(number) if number else "unknown"
        raise LatencyError(f"tensor {tensor!r} is of element type {kind}; tables hold {', '.join(_DTYPES)}")
    return _DTYPE_NAMES[number]


def _steer(operand: Operand, steering: bool) -> Operand:
    if operand.values is None or steering or operand.dtype in ("i64", "i32", "bool"):
        return operand
    return Operand(operand.shape, operand.dtype, operand.constant)


def _implied(op: str, weight: Operand | None, name: str, value: Attribute) -> bool:
    """Whether an attribute says what is so anyway; left out, equal kernels of different exporters are equal text."""
    if (name, value) in {("auto_pad", "NOTSET"), ("ceil_mode", 0), ("storage_order", 0), ("channels_last", 0)}:
        return True
    if name in ("strides", "dilations") and isinstance(value, tuple):
        return set(value) == {1}
    if op.endswith("Conv"):
        same_window = name == "kernel_shape" and weight is not None and weight.shape[2:] == value
        no_padding = name == "pads" and isinstance(value, tuple) and not any(value)
        return same_window or no_padding or (name, value) == ("group", 1)
    return op == "Gemm" and (name, value) in {("alpha", 1.0), ("beta", 1.0), ("transA", 0), ("transB", 0)}


def _attribute_value(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> Attribute:
    kind = onnx.AttributeProto
    if attribute.type == kind.INT:
        return attribute.i
    if attribute.type == kind.FLOAT:
        return _short(attribute.f)
    if attribute.type == kind.STRING:
        return attribute.s.decode()
    if attribute.type == kind.INTS:
        return tuple(attribute.ints)
    if attribute.type == kind.FLOATS:
        return tuple(_short(number) for number in attribute.floats)
    raise LatencyError(
        f"node {node.name or node.output[0]!r} ({node.op_type}) has the attribute {attribute.name!r} of type "
        f"{kind.AttributeType.Name(attribute.type)}; only networks without control flow can be timed kernel by kernel"
    )


def _short(number: float) -> float:
    """The shortest decimal that is the same float32: 0.2, not 0.20000000298023224."""
    return float(str(np.float32(number)))


def _dims(numbers: tuple[Value, ...]) -> str:
    # One number keeps a trailing x among attributes to stay a list; here the position says that it is one.
    return "x".join(map(str, numbers)) if numbers else "()"


def _parse_dims(text: str, kind: type[int] | type[float]) -> tuple[Value, ...]:
    return () if text == "()" else tuple(kind(number) for number in text.split("x"))


def _attribute_text(value: Attribute) -> str:
    if isinstance(value, tuple):
        return f"{_dims(value)}x" if len(value) == 1 else _dims(value)
    if isinstance(value, str):
        text = quote(value, safe="")
        # A string that reads like a number gets its first letter escaped.
        return text if isinstance(_parse_attribute(text), str) else f"%{ord(text[0]):02X}{text[1:]}"
    return str(value)


def _parse_attribute(text: str) -> Attribute:
    if text == "()":
        return ()
    for kind in (int, float):
        try:
            return (
                kind(text) if "x" not in text else tuple(kind(number) for number in text.removesuffix("x").split("x"))
            )
        except ValueError:
            continue
    return unquote(text)
