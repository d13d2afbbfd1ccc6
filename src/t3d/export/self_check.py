"""Does an exported controller do what the policy does? Asked of every export before it is there."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from t3d.errors import ExportFailed
from t3d.export import c_header
from t3d.export.onnx_model import inputs_of
from t3d.policy.player import Floats
from t3d.policy.policy import Policy

TOLERANCE = 1e-5  # of an action's range
OBSERVATIONS = 1_000
_DIMENSIONS = 500  # at most so many are looked at each alone, and no more than there are observations
_FAR = (1e6, 1e30)
_TIMEOUT_S = 300

# From observations (N, S) to actions (N, A) in the environment's units; NaN where the controller refuses.
Controller = Callable[[Floats], Floats]


class Probes(NamedTuple):
    """What a controller is asked."""

    near: Floats  # (N, S) answered as by the policy
    far: Floats  # (M, S) answered by something finite and within bounds
    source: str  # where they are from, for people


class Checked(NamedTuple):
    """What a check found."""

    observations: int
    source: str
    worst: float  # largest difference to the policy, as a share of the action's range
    how: str  # what was run


def probes_of(obs: Floats, source: str) -> Probes:
    """Return what to ask by observations that were seen (N, S).

    They themselves, each dimension alone at the least and the largest value seen, and all of that times two; beyond
    that numbers that nobody has seen.
    """
    middle, size = np.median(obs, axis=0).astype(np.float32), obs.shape[1]
    chosen = np.unique(np.linspace(0, size - 1, min(size, len(obs), _DIMENSIONS)).astype(int))
    alone = np.tile(middle, (2 * len(chosen), 1))
    for half, ends in enumerate((obs.min(axis=0), obs.max(axis=0))):
        alone[half * len(chosen) + np.arange(len(chosen)), chosen] = ends[chosen]
    near = np.concatenate([obs, alone])
    signs = np.sign(obs[:10] - middle) + (obs[:10] == middle)
    far = np.concatenate([signs * np.float32(scale) for scale in _FAR])
    return Probes(np.concatenate([near, 2 * near]), far.astype(np.float32), source)


def check(policy: Policy, probes: Probes, controller: Controller, how: str) -> Checked:
    """Compare a controller with the policy it was made of.

    Raises:
        ExportFailed: they differ, with the observation at which they do most.
    """
    spaces = policy.info.spaces
    low, high = spaces.bounds
    wanted, seen = policy.of_flat(probes.near), controller(probes.near)
    if seen.shape != wanted.shape:
        raise ExportFailed("the exported controller gives another number of actions", got=f"{seen.shape}, {how}")
    differences = np.abs(seen.astype(np.float64) - wanted) / (high - low)
    differences[~np.isfinite(differences)] = np.inf
    row = int(differences.max(axis=1).argmax())
    if differences[row].max() > TOLERANCE:
        raise ExportFailed(
            "the exported controller does not do what the policy does",
            got=f"{seen[row].tolist()} for the observation {probes.near[row].tolist()} ({how})",
            expected=f"{wanted[row].tolist()}, to {TOLERANCE:g} of each action's range",
            do="this should not be: keep the policy, and report it",
        )
    # What the policy itself refuses, as its numbers overflow, is no controller's to answer.
    far = probes.far[np.isfinite(policy.act(probes.far)).all(axis=1)]
    answers = controller(far)
    wrong = ~((answers >= low) & (answers <= high)).all(axis=1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ExportFailed(
            "the exported controller answers a large observation with no action",
            got=f"{answers[row].tolist()} for the observation {far[row].tolist()} ({how})",
            expected="finite numbers within the action's bounds",
        )
    return Checked(len(probes.near) + len(far), probes.source, float(differences.max()), how)


def with_onnxruntime(policy: Policy, model: bytes) -> tuple[Controller, str]:
    """Return an ONNX model as a controller, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs, size = inputs_of(policy.info.spaces), policy.info.spaces.action_size
    ends = np.cumsum([int(np.prod(shape)) for _, shape in inputs])

    def controller(obs: Floats) -> Floats:
        columns = np.split(obs, ends[:-1], axis=1)
        given = {n: column.reshape(-1, *shape) for (n, shape), column in zip(inputs, columns, strict=True)}
        answers: NDArray[np.float32] = session.run(None, given)[0]
        return answers.reshape(len(obs), size)

    return controller, f"run by ONNX Runtime {onnxruntime.__version__}"


def in_python(folder: Path, module: str) -> tuple[Controller, str]:
    """Return an exported Python file as a controller, in a process of its own that has NumPy and nothing of t3d."""
    code = (
        f"import sys, io; sys.path.insert(0, {str(folder)!r}); import numpy as np; import {module}\n"
        f"obs = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)\n"
        f"assert not [name for name in sys.modules if name.split('.')[0] in ('t3d', 'torch')]\n"
        f"answers = io.BytesIO(); np.save(answers, {module}.act(obs)); sys.stdout.buffer.write(answers.getvalue())\n"
    )

    def controller(obs: Floats) -> Floats:
        given = io.BytesIO()
        np.save(given, obs)
        answer = _run([sys.executable, "-B", "-I", "-c", code], given.getvalue())
        actions: Floats = np.load(io.BytesIO(answer))
        return actions.reshape(len(obs), -1)

    return controller, "run in a Python of its own with NumPy alone"


def c_compiler() -> str | None:
    """Return where a C compiler is; None if there is none."""
    return next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)


def compiled(compiler: str, folder: Path, program: Path) -> tuple[Controller, str]:
    """Return an exported C program as a controller, compiled without a warning."""
    strict = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    _run([compiler, *strict, str(folder / "main.c"), "-o", str(program), "-lm"], b"")
    first_line = _run([compiler, "--version"], b"").decode(errors="replace").splitlines()[0]

    def controller(obs: Floats) -> Floats:
        given = "\n".join(" ".join(map(float.hex, row)) for row in obs.astype(np.float64).tolist()) + "\n"
        answers = _run([str(program)], given.encode()).decode()
        return np.array([line.split() for line in answers.splitlines()], np.float32)

    return controller, f"compiled by {first_line} with {' '.join(strict)}, and run"


def read_back(policy: Policy, header: str) -> Checked:
    """Compare the numbers in a C header with the policy's: all that can be looked at where there is no compiler.

    Raises:
        ExportFailed: they differ.
    """
    if c_header.numbers_in(header) != c_header.numbers_of(policy):
        raise ExportFailed("the header's numbers are not the policy's", do="keep the policy, and report it")
    return Checked(0, "none", 0.0, "its numbers were read back to the last bit; no C compiler is here to run it")


def _run(command: list[str], given: bytes) -> bytes:
    try:
        return subprocess.run(  # noqa: S603 - our own words and paths; nothing reaches a shell
            command, input=given, capture_output=True, check=True, timeout=_TIMEOUT_S
        ).stdout
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode(errors="replace").strip()
        got = f"{Path(command[0]).name}, exit code {error.returncode}: {words[-1000:]}"
        raise ExportFailed("the exported controller cannot be run", got=got) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExportFailed("the exported controller cannot be run", got=str(error)[:1000]) from error
