"""A policy as an ONNX model, made node by node: nothing is traced, so PyTorch is not needed."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import numpy as np

from t3d.errors import ConfigRefused
from t3d.policy.normalizer import CLIP
from t3d.policy.player import AVG_L1_NORM_LEAST, LAYER_NORM_EPSILON, Operation
from t3d.policy.policy import Policy
from t3d.spaces import ObsPart, Spaces

_FRAMES, _GIVES = "frames", "action"  # what an input of images and the output are called
OPSET, IR_VERSION = 17, 8  # the first set that has LayerNormalization, and what files of it were written as
# Operations that are one node of ONNX.
_ONE_NODE: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("Gemm", {"transB": 1}),
    "layer_norm": ("LayerNormalization", {"axis": -1, "epsilon": float(LAYER_NORM_EPSILON)}),
    "relu": ("Relu", {}),
    "elu": ("Elu", {"alpha": 1.0}),
    "flat": ("Flatten", {"axis": 1}),
    "concat": ("Concat", {"axis": 1}),
    "tanh": ("Tanh", {}),
}


def refuse_missing_packages() -> None:
    """Refuse where what writes and runs ONNX models is not installed.

    Raises:
        ConfigRefused: with the command that installs it.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ConfigRefused(
            "this export needs packages that are not installed", got=str(error), do='pip install "t3d[onnx]"'
        ) from error


class _Graph:
    """The nodes and constants of a model in the making: named behind a prefix, so that an input may have any name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node. Return the name of what it gives."""
        from onnx import helper

        output = output if output == _GIVES else f"/t3d/{output.removeprefix('/t3d/')}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, array: Any) -> str:
        """Append a constant. Return its name."""
        from onnx import numpy_helper

        name = f"/t3d/{name.removeprefix('/t3d/')}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name


def model_of(policy: Policy) -> bytes:
    """Return the model: from observations in the environment's shape, N of them, to actions in its units."""
    import onnx
    from onnx import TensorProto, helper

    info, spaces, graph = policy.info, policy.info.spaces, _Graph()
    given = inputs_of(spaces)
    x = _flattened(graph, given)
    if policy.statistics is not None and spaces.view is None:
        x = _normalized(graph, x, *policy.statistics)
    elif policy.statistics is not None:
        vectors = _normalized(graph, _columns(graph, x, spaces.pixels, spaces.seen_size), *policy.statistics)
        x = graph.node("Concat", [_columns(graph, x, 0, spaces.pixels), vectors], "row_normalized", axis=1)
    values = [x]
    for number, operation in enumerate(policy.operations, 1):
        values.append(_operation(graph, operation, [values[i] for i in operation.inputs], f"{operation.kind}_{number}"))
    _scaled(graph, values[-1], *spaces.bounds, spaces.action_shape)
    takes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]) for name, shape in given]
    gives = [helper.make_tensor_value_info(_GIVES, TensorProto.FLOAT, ["N", *spaces.action_shape])]
    made = helper.make_graph(graph.nodes, "policy", takes, gives, graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="t3d")
    model.ir_version, model.producer_version = IR_VERSION, version("t3d")
    facts = {"run": info.run, "env": info.env, "algorithm": info.algorithm, "env_steps": info.env_steps}
    facts |= {"action_low": spaces.action_low, "action_high": spaces.action_high, "period_s": info.period_s}
    facts |= {"action_repeat": info.action_repeat}
    helper.set_model_props(model, {name: json.dumps(fact) for name, fact in facts.items()})
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def name_of(part: ObsPart) -> str:
    """Return how an input is called: obs, or the way to a part of a Dict or a Tuple; as no other is called."""
    name = part.name.removeprefix("obs/")
    return part.name if name in (_FRAMES, _GIVES) else name


def inputs_of(spaces: Spaces) -> list[tuple[str, tuple[int, ...]]]:
    """Return names and shapes of what a model takes; of images the last frames as `frames.small` makes them."""
    vectors = [(name_of(part), part.shape) for part in spaces.vectors]
    if spaces.view is None:
        return vectors
    channels, height, width = spaces.frame_shape
    return [(_FRAMES, (spaces.view.frame_stack * channels, height, width)), *vectors]


def _columns(graph: _Graph, x: str, first: int, last: int) -> str:
    """Append what takes the numbers from first up to last of each row."""
    ends = [graph.constant(f"{x}_{name}_{first}", np.array([at])) for name, at in (("from", first), ("to", last))]
    return graph.node("Slice", [x, *ends, graph.constant(f"{x}_axis_{first}", np.array([1]))], f"{x}_{first}_{last}")


def _flattened(graph: _Graph, given: list[tuple[str, tuple[int, ...]]]) -> str:
    """Append what makes one row (S,) of each observation."""
    rows = []
    for number, (name, shape) in enumerate(given):
        if len(shape) == 1:
            rows.append(name)
        else:
            size = graph.constant(f"shape_{number}", np.array([-1, int(np.prod(shape))]))
            rows.append(graph.node("Reshape", [name, size], f"row_{number}"))
    return rows[0] if len(rows) == 1 else graph.node("Concat", rows, "row", axis=1)


def _normalized(graph: _Graph, x: str, mean: Any, std: Any) -> str:
    """Append `normalizer.normalize`, in float64 as there."""
    from onnx import TensorProto

    wide = graph.node("Cast", [x], "wide", to=TensorProto.DOUBLE)
    centred = graph.node("Sub", [wide, graph.constant("obs_mean", mean)], "centred")
    scaled = graph.node("Div", [centred, graph.constant("obs_std", std)], "in_deviations")
    bounds = [graph.constant(name, np.float64(bound)) for name, bound in (("obs_least", -CLIP), ("obs_most", CLIP))]
    clipped = graph.node("Clip", [scaled, *bounds], "clipped")
    return graph.node("Cast", [clipped], "normalized", to=TensorProto.FLOAT)


def _operation(graph: _Graph, operation: Operation, inputs: list[str], name: str) -> str:
    """Append one operation of the network."""
    if operation.kind in _ONE_NODE:
        kind, attributes = _ONE_NODE[operation.kind]
        weights = [graph.constant(f"{name}.{i}", array) for i, array in enumerate(operation.weights)]
        return graph.node(kind, [*inputs, *weights], name, **attributes)
    if operation.kind in ("frames", "vectors"):
        shape, (x,) = operation.weights[0], inputs
        if operation.kind == "vectors":
            return _columns(graph, x, int(shape.prod()), int(shape.prod()) + operation.width)
        pixels = _columns(graph, x, 0, int(shape.prod()))
        pictures = graph.node(
            "Reshape", [pixels, graph.constant(f"{name}.shape", np.array([-1, *shape]))], f"{name}.in"
        )
        share = graph.node("Div", [pictures, graph.constant(f"{name}.most", np.float32(255))], f"{name}.share")
        return graph.node("Sub", [share, graph.constant(f"{name}.half", np.float32(0.5))], name)
    if operation.kind == "convolution":
        weight, bias, stride = operation.weights
        constants = graph.constant(f"{name}.0", weight), graph.constant(f"{name}.1", bias)
        return graph.node("Conv", [*inputs, *constants], name, strides=[int(stride)] * 2)
    assert operation.kind == "avg_l1_norm", operation.kind
    size = graph.node("Abs", inputs, f"{name}.abs")
    mean = graph.node("ReduceMean", [size], f"{name}.mean", axes=[1], keepdims=1)
    least = graph.constant(f"{name}.least", AVG_L1_NORM_LEAST)
    return graph.node("Div", [*inputs, graph.node("Max", [mean, least], f"{name}.by")], name)


def _scaled(graph: _Graph, x: str, low: Any, high: Any, shape: tuple[int, ...]) -> None:
    """Append `Spaces.to_env_units`."""
    raised = graph.node("Add", [x, graph.constant("one", np.float32(1))], "raised")
    wide = graph.node("Mul", [raised, graph.constant("half_range", np.float32(0.5) * (high - low))], "in_range")
    least = graph.constant("action_low", low)
    moved = graph.node("Add", [wide, least], "in_units")
    above = graph.node("Max", [moved, least], "not_below")
    rows = graph.node("Min", [above, graph.constant("action_high", high)], "within")
    graph.node("Reshape", [rows, graph.constant("action_shape", np.array([-1, *shape]))], _GIVES)
