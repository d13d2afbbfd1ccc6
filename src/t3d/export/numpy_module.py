"""A policy as a Python file and a .npz beside it, which need NumPy alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t3d.export.templates import NUMPY_HEAD, NUMPY_TAIL
from t3d.policy import player
from t3d.policy.normalizer import CLIP
from t3d.policy.policy import Policy

MODULE = "policy"


def files_of(policy: Policy, origin: str) -> dict[str, bytes]:
    """Return the two files by name. What runs the network is the text of `player.py` itself.

    Args:
        policy: with a network of t3d's own.
        origin: a line for people.
    """
    spaces = policy.info.spaces
    arrays: dict[str, NDArray[Any]] = dict(zip(("action_low", "action_high"), spaces.bounds, strict=True))
    lines = ["OPERATIONS = ["]
    for number, operation in enumerate(policy.operations, 1):
        names = [f"{operation.kind}_{number}_{i}" for i in range(len(operation.weights))]
        arrays |= zip(names, operation.weights, strict=True)
        weights = "".join(f'_FILE["{name}"], ' for name in names)
        lines.append(f'    Operation("{operation.kind}", {operation.inputs}, {operation.width}, ({weights})),')
    lines, normalize = [*lines, "]"], ""
    if policy.statistics is not None:
        arrays |= zip(("obs_mean", "obs_std"), policy.statistics, strict=True)
        lines.append('MEAN, STD = _FILE["obs_mean"], _FILE["obs_std"]')
        normalize = f"    rows = np.clip((rows - MEAN) / STD, -{CLIP}, {CLIP}).astype(np.float32)\n"
    sizes = {"obs_size": spaces.obs_size, "action_shape": spaces.action_shape}
    # Quotes would end the docstring, a backslash begin something else.
    plain = "".join(c if c.isprintable() and c not in '"\\' else "_" for c in origin)
    _, _, text = Path(player.__file__).read_text("utf-8").partition('"""\n\n')
    text = text.replace("from typing import", "from pathlib import Path\nfrom typing import", 1)
    tail = NUMPY_TAIL.format(operations="\n".join(lines), normalize=normalize, **sizes)
    content = NUMPY_HEAD.format(origin=plain, module=MODULE, **sizes) + "\n" + text + tail
    packed = io.BytesIO()
    np.savez(packed, **arrays)  # type: ignore[arg-type]  # its own flag could be among the names
    return {f"{MODULE}.py": content.encode(), f"{MODULE}.npz": packed.getvalue()}
