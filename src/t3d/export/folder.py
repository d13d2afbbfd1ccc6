"""An export is a folder: written beside its place, checked there, and renamed; or nothing is left of it."""

from __future__ import annotations

import contextlib
import json
import math
import secrets
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from t3d.errors import ConfigRefused, RunRefused
from t3d.export import c_header, numpy_module, onnx_model, self_check
from t3d.export.self_check import Checked, Probes
from t3d.policy.policy import Policy
from t3d.storage import disk
from t3d.storage.checked_files import checksum

Format = Literal["onnx", "c", "numpy", "hub"]
CONTRACT = "contract.json"
# How frames are made of what a camera gives.
FRAMES = (
    "0 to 255, each the mean of the area that it covers; grey is ITU-R 601 luma; the oldest frame first, and at an "
    "episode's beginning its first frame in the place of those before it"
)


def refuse_own_network(policy: Policy) -> None:
    """Refuse a network that is the caller's own: nobody knows how to write it down.

    Raises:
        RunRefused: it is.
    """
    if not policy.operations:
        raise RunRefused(
            "this policy plays with a network that is not one of t3d's own, and cannot be exported",
            got=policy.info.architecture,
            expected="an architecture that t3d knows as plain operations",
            do="in Python, t3d.load(..., algorithm=...) plays it",
        )


def origin_of(policy: Policy) -> str:
    """Return a line for people: what the policy is, and what wrote it down."""
    info = policy.info
    score = "" if info.return_mean is None else f", return {info.return_mean:,.1f}"
    if info.action_repeat != 1:
        score += f", each action played for {info.action_repeat:,} frames"
    return (
        f"Policy of {info.env}, trained for {info.env_steps:,} steps{score} (run {info.run[:16]}), "
        f"exported by t3d {version('t3d')}"
    )


def refuse_taken(out: Path, *, force: bool) -> None:
    """Refuse a place where something stands already.

    Raises:
        ConfigRefused: it is taken, and not to be replaced; or it is no export, which is never replaced.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not force:
        raise ConfigRefused("something of this name is there", got=str(out), do="give another --out, or --force")
    is_export = out.is_dir() and not out.is_symlink() and (out / CONTRACT).is_file()
    if not is_export or any(not inside.is_file() or inside.is_symlink() for inside in out.iterdir()):
        raise ConfigRefused(
            "--force replaces an export, and this is none",
            got=str(out),
            expected=f"a folder of files with {CONTRACT} among them",
            do="give another --out",
        )


def write(out: Path, policy: Policy, kind: Format, files: Mapping[str, bytes], probes: Probes) -> Checked:
    """Write an export beside its place, check it there, and give it its name.

    Args:
        out: the folder; what stands there is replaced once this one is good.
        policy: what is exported.
        kind: as what.
        files: by name.
        probes: what it is asked.

    Raises:
        ExportFailed: it does not do what the policy does.
        OSError: it could not be written.
    """
    mark = secrets.token_hex(4)  # no folder of the user's has such a name
    beside, before = (out.with_name(f"{out.name}.{mark}.{end}") for end in ("new", "old"))
    disk.make_folder(out.parent)
    disk.make_new_folder(beside)
    try:
        for name, content in files.items():
            disk.create(beside / name, content)
        checked = _CHECKS[kind](beside, policy, probes)
        contract = json.dumps(contract_of(policy, kind, files, checked), indent=2, allow_nan=False) + "\n"
        disk.create(beside / CONTRACT, contract.encode())
        disk.flush(beside)
        if out.exists():
            disk.rename(out, before)
        disk.rename(beside, out)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to report
            disk.remove(beside)
        raise
    if before.exists():
        disk.remove(before)
    return checked


def _check_c(folder: Path, policy: Policy, probes: Probes) -> Checked:
    compiler = self_check.c_compiler()
    if compiler is None:
        return self_check.read_back(policy, (folder / "policy.h").read_text("utf-8"))
    with tempfile.TemporaryDirectory() as place:
        return self_check.check(policy, probes, *self_check.compiled(compiler, folder, Path(place) / "check"))


def _check_numpy(folder: Path, policy: Policy, probes: Probes) -> Checked:
    return self_check.check(policy, probes, *self_check.in_python(folder, numpy_module.MODULE))


def _check_onnx(folder: Path, policy: Policy, probes: Probes) -> Checked:
    model = (folder / "policy.onnx").read_bytes()
    return self_check.check(policy, probes, *self_check.with_onnxruntime(policy, model))


_CHECKS: dict[str, Callable[[Path, Policy, Probes], Checked]] = {
    "c": _check_c,
    "numpy": _check_numpy,
    "onnx": _check_onnx,
    "hub": _check_onnx,
}


def files_of(policy: Policy, kind: Format) -> dict[str, bytes]:
    """Return the files of an export by name, but for those of a hub folder beside its model.

    Raises:
        ConfigRefused: a package is missing.
    """
    if policy.info.spaces.view is not None and kind in ("c", "numpy"):
        raise ConfigRefused(
            "this export is of policies of vectors", got=f"one of {policy.info.spaces.obs_in_words}", do="--format onnx"
        )
    if kind == "c":
        header, program = c_header.header_of(policy, origin_of(policy)), c_header.main_of(policy)
        return {"policy.h": header.encode(), "main.c": program.encode()}
    if kind == "numpy":
        return numpy_module.files_of(policy, origin_of(policy))
    onnx_model.refuse_missing_packages()
    return {"policy.onnx": onnx_model.model_of(policy)}


def contract_of(policy: Policy, kind: Format, files: Mapping[str, bytes], checked: Checked) -> dict[str, Any]:
    """Return what whoever connects a controller must know, and what was looked at."""
    info, spaces = policy.info, policy.info.spaces
    at, inputs = 0, []
    for name, shape in onnx_model.inputs_of(spaces):
        size = math.prod(shape)
        inputs.append({"name": name, "shape": list(shape), "first": at, "last": at + size - 1})
        at += size
    return {
        "format": kind,
        "inputs": inputs,
        "input_size": spaces.seen_size,
        "frames": None if spaces.view is None else {**vars(spaces.view), "pixels": FRAMES},
        "normalised_inside": policy.statistics is not None,
        "action": {
            "shape": list(spaces.action_shape),
            "low": list(spaces.action_low),
            "high": list(spaces.action_high),
        },
        "action_repeat": info.action_repeat,
        "period_s": info.period_s,
        "from": {
            "run": info.run,
            "env": info.env,
            "algorithm": info.algorithm,
            "architecture": info.architecture,
            "env_steps": info.env_steps,
            "return_mean": info.return_mean,
            "t3d": version("t3d"),
        },
        "check": {**checked._asdict(), "tolerance": self_check.TOLERANCE},
        "sha256": {name: checksum(content) for name, content in files.items()},
    }
