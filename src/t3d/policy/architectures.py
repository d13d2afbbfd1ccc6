"""The networks that a policy's file may name, each as the plain operations of `player.py`.

What plays is derived here and nowhere else: the NumPy player and every export walk the operations that come out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t3d.formats import PolicyInfo
from t3d.frames import FEATURES, Convolution, convolutions
from t3d.policy.player import Floats, Operation


class _Graph:
    """Operations in the making, each with its weights taken out of a policy's tensors."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]], obs_size: int) -> None:
        self.operations: list[Operation] = []
        self.left = dict(tensors)
        self._widths = [obs_size]

    def add(self, kind: str, *inputs: int, width: int = 0, weights: tuple[NDArray[Any], ...] = ()) -> int:
        """Append an operation, as wide as its input if nothing is said. Return the number of what it gives."""
        width = width or sum(self._widths[i] for i in inputs)
        self.operations.append(Operation(kind, inputs, width, weights))
        self._widths.append(width)
        return len(self.operations)

    def dense(self, x: int, name: str, width: int) -> int:
        """Append the linear layer of this name, which makes x so wide."""
        weights = self._take(f"{name}.weight", width, self._widths[x]), self._take(f"{name}.bias", width)
        return self.add("dense", x, width=width, weights=weights)

    def layer_norm(self, x: int, name: str) -> int:
        """Append the layer normalisation of this name."""
        weights = self._take(f"{name}.weight", self._widths[x]), self._take(f"{name}.bias", self._widths[x])
        return self.add("layer_norm", x, weights=weights)

    def convolution(self, x: int, name: str, layer: Convolution) -> int:
        """Append the convolution of this name."""
        weights = (
            self._take(f"{name}.weight", layer.outputs, layer.inputs, layer.kernel, layer.kernel),
            self._take(f"{name}.bias", layer.outputs),
        )
        width = layer.outputs * layer.size**2
        return self.add("convolution", x, width=width, weights=(*weights, np.array(layer.stride)))

    def _take(self, name: str, *shape: int) -> Floats:
        if name not in self.left:
            raise ValueError(f"there is no tensor {name}")
        tensor: Floats = self.left.pop(name)
        if tensor.dtype != np.float32 or tensor.shape != shape or not np.isfinite(tensor).all():
            raise ValueError(f"{name}, {tensor.dtype} {tensor.shape}, is not {shape} finite float32 numbers")
        return np.ascontiguousarray(tensor)


def _body(
    graph: _Graph,
    x: int,
    name: str,
    hidden: Sequence[int],
    outputs: int,
    activation: str = "relu",
    layer_norm: bool = False,
) -> int:
    """Append what `networks.mlp` makes, whose modules are numbered as they stand there."""
    number = 0
    for width in hidden:
        x = graph.dense(x, f"{name}.{number}", width)
        if layer_norm:
            number += 1
            x = graph.layer_norm(x, f"{name}.{number}")
        x = graph.add(activation, x)
        number += 2
    return graph.dense(x, f"{name}.{number}", outputs)


def _mlp(graph: _Graph, info: PolicyInfo) -> None:
    """Append `networks.Actor`."""
    graph.add("tanh", _body(graph, 0, "body", info.hidden, info.spaces.action_size, layer_norm=info.layer_norm))


def _cnn(graph: _Graph, info: PolicyInfo) -> None:
    """Append `networks.Seeing`, with a `PixelEncoder` before an `Actor`."""
    spaces, layers = info.spaces, convolutions(info.spaces)
    assert spaces.view is not None
    channels, height, width = spaces.frame_shape
    shape = np.array([spaces.view.frame_stack * channels, height, width])
    x = graph.add("frames", 0, width=int(shape.prod()), weights=(shape,))
    for number, layer in enumerate(layers):
        x = graph.add("relu", graph.convolution(x, f"encoder.body.{2 * number}", layer))
    units = graph.layer_norm(graph.dense(graph.add("flat", x), "encoder.head.0", FEATURES), "encoder.head.1")
    features = graph.add("tanh", units)
    if spaces.vector_size:
        vectors = graph.add("vectors", 0, width=spaces.vector_size, weights=(shape,))
        features = graph.add("concat", features, vectors)
    body = _body(graph, features, "body.body", info.hidden, spaces.action_size, layer_norm=info.layer_norm)
    graph.add("tanh", body)


def _sale(graph: _Graph, info: PolicyInfo) -> None:
    """Append `networks.SalePolicy`."""
    width = info.embedding
    zs = graph.add("avg_l1_norm", _body(graph, 0, "zs.body", (width, width), width, "elu"))
    scaled = graph.add("avg_l1_norm", graph.dense(0, "actor.obs_layer", info.hidden[0]))
    together = graph.add("concat", scaled, zs)
    graph.add("tanh", _body(graph, together, "actor.body", info.hidden, info.spaces.action_size))


# By name in a policy's file. Another one is the caller's, who gives its class.
ARCHITECTURES: dict[str, Callable[[_Graph, PolicyInfo], None]] = {"mlp": _mlp, "cnn": _cnn, "sale": _sale}


def operations_of(info: PolicyInfo, tensors: Mapping[str, NDArray[Any]]) -> list[Operation]:
    """Return what plays, from an observation (S,) as the network takes it to an action (A,) in [-1, 1].

    Args:
        info: what the policy says of itself; its architecture is one of ARCHITECTURES.
        tensors: of the network, by name.

    Raises:
        ValueError: the tensors are not those of such a network.
    """
    if (info.spaces.view is not None) != (info.architecture == "cnn"):
        raise ValueError(f"{info.architecture} does not see {info.spaces.obs_in_words}")
    graph = _Graph(tensors, info.spaces.seen_size)
    ARCHITECTURES[info.architecture](graph, info)
    if graph.left:
        raise ValueError(f"tensors that {info.architecture} does not have: {', '.join(sorted(graph.left))[:500]}")
    return graph.operations
