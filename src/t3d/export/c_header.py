"""A policy as one C99 header, and an example program around it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t3d.export.templates import C_FUNCTIONS, C_HEAD, C_MAIN
from t3d.policy.normalizer import CLIP
from t3d.policy.player import Operation
from t3d.policy.policy import Policy

# What may write its result where its input stands, once nothing else reads that.
_IN_PLACE = ("layer_norm", "relu", "elu", "avg_l1_norm", "tanh")
_NUMBERS_A_LINE = 6


def header_of(policy: Policy, origin: str) -> str:
    """Return the header.

    Args:
        policy: with a network of t3d's own.
        origin: a line for people.
    """
    info, spaces = policy.info, policy.info.spaces
    body, buffers = _body(policy.operations, spaces.obs_size)
    low, high = spaces.bounds
    arrays = [_array("t3d_action_low", low), _array("t3d_action_high", high)]
    take = "v0[i] = obs[i];"
    if policy.statistics is not None:
        arrays += [
            _array(f"t3d_obs_{name}", array) for name, array in zip(("mean", "std"), policy.statistics, strict=True)
        ]
        take = f"v0[i] = t3d_normalized(obs[i], t3d_obs_mean[i], t3d_obs_std[i], {CLIP});"
    for number, operation in enumerate(policy.operations, 1):
        arrays += [_array(f"t3d_{operation.kind}_{number}_{i}", array) for i, array in enumerate(operation.weights)]
    kinds = {operation.kind for operation in policy.operations} | ({"normalize"} if policy.statistics else set())
    weights = sum(array.size for operation in policy.operations for array in operation.weights)
    constants = 4 * weights + 8 * spaces.action_size + (16 * spaces.obs_size if policy.statistics else 0)
    return C_HEAD.format(
        origin=_comment(origin),
        obs_size=spaces.obs_size,
        action_size=spaces.action_size,
        period=f"#define T3D_POLICY_PERIOD_S {info.period_s!r}\n" if info.period_s else "",
        constants=f"{constants:,}",
        stack=f"{4 * sum(buffers.values()):,}",
        arrays="\n".join(arrays),
        functions="\n".join(text for kind, text in C_FUNCTIONS.items() if kind in kinds),
        buffers="\n".join(f"    float {name}[{size}];" for name, size in buffers.items()),
        take=take,
        body="\n".join(f"    {line}" for line in body),
        last=_names(policy.operations)[-1],
    )


def main_of(policy: Policy) -> str:
    """Return the example program."""
    return C_MAIN


def numbers_in(header: str) -> list[float]:
    """Return every number of a header's arrays, in order: what a check without a compiler can look at."""
    return [
        float.fromhex(word.rstrip("f"))
        for array in header.split("[] = {")[1:]
        for word in array.partition("}")[0].replace(",", " ").split()
    ]


def numbers_of(policy: Policy) -> list[float]:
    """Return the numbers that a policy's header must hold, in the same order."""
    arrays: list[NDArray[Any]] = list(policy.info.spaces.bounds)
    arrays += list(policy.statistics or ())
    arrays += [array for operation in policy.operations for array in operation.weights]
    return [number for array in arrays for number in array.ravel().tolist()]


def _array(name: str, array: NDArray[Any]) -> str:
    suffix, kind = ("", "double") if array.dtype == np.float64 else ("f", "float")
    words = [_hexadecimal(number) + suffix for number in array.ravel().tolist()]
    lines = [", ".join(words[i : i + _NUMBERS_A_LINE]) for i in range(0, len(words), _NUMBERS_A_LINE)]
    return f"static const {kind} {name}[] = {{\n    " + ",\n    ".join(lines) + "\n};"


def _hexadecimal(number: float) -> str:
    """Return a number to the last bit, as C99 and `float.fromhex` read it."""
    assert math.isfinite(number)
    digits, _, exponent = number.hex().partition("p")
    return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits}p{exponent}"


def _names(operations: list[Operation]) -> list[str]:
    """Return of each operation the array that its result stands in; v0 holds the observation."""
    uses = [i for operation in operations for i in operation.inputs]
    names = ["v0"]
    for number, operation in enumerate(operations, 1):
        alone = operation.kind in _IN_PLACE and uses.count(operation.inputs[0]) == 1
        names.append(names[operation.inputs[0]] if alone else f"v{number}")
    return names[1:]


def _body(operations: list[Operation], obs_size: int) -> tuple[list[str], dict[str, int]]:
    """Return the lines of all operations, and the arrays that they need with their sizes."""
    names, lines, buffers = ["v0", *_names(operations)], [], {"v0": obs_size}
    widths = [obs_size, *(operation.width for operation in operations)]
    for number, operation in enumerate(operations, 1):
        out, given = names[number], [names[i] for i in operation.inputs]
        if out == f"v{number}":
            buffers[out] = widths[number]
        weights = [f"t3d_{operation.kind}_{number}_{i}" for i in range(len(operation.weights))]
        if operation.kind == "concat":
            at = 0
            for name, i in zip(given, operation.inputs, strict=True):
                lines.append(f"t3d_copy({name}, {out} + {at}, {widths[i]});")
                at += widths[i]
            continue
        inputs = str(widths[operation.inputs[0]])
        sizes = [inputs, str(widths[number])] if operation.kind == "dense" else [inputs]
        lines.append(f"t3d_{operation.kind}({', '.join([*given, out, *weights, *sizes])});")
    return lines, buffers


def _comment(text: str) -> str:
    """Return text from a policy's file so that it is one line of plain letters and cannot end a comment."""
    plain = "".join(letter if letter.isascii() and letter.isprintable() else "_" for letter in text)
    return plain.replace("*/", "* /").replace("/*", "/ *").replace("\\", "/").replace("??", "? ?")
