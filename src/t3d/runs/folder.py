"""The run folder: its name, its files, and how they are written and read."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch

from t3d import sealed
from t3d.algorithms import name_of
from t3d.config import Config, config_from
from t3d.errors import RunRefused, T3DError
from t3d.machine import describe
from t3d.making import Spaces
from t3d.normalizer import Normalizer
from t3d.policy import STATISTICS, PolicyInfo, load
from t3d.runs import checkpoints, disk
from t3d.td3 import TD3
from t3d.training import Trainer

FORMAT = 1
# What a run writes, beside its lock; config.json first: without it there is no run.
WRITTEN = (
    "config.json",
    "metrics.jsonl",
    "metrics.copy",
    "checkpoints",
    "replay",
    "policy",
    "video",
    "tensorboard",
    "report.html",
)
_MAX_FILES, _MAX_DEPTH = 10_000, 8
_MAX_ENV_NAME = 5_000  # as long as paths get
_ALGORITHM = re.compile(r"[\w.<>]{1,200}")


def env_name(env: str) -> str:
    """Return the folder name of an environment: its id, or <module or file stem>.<Class>."""
    module, _, name = env.rpartition(":")
    full = f"{Path(module).name.removesuffix('.py')}.{name}" if module else name
    return re.sub(r"[^A-Za-z0-9._-]", "_", full)


def usual(env: str, preset: str, seed: int) -> Path:
    """Return where a run goes if nobody says otherwise."""
    return Path("runs") / env_name(env) / f"{preset}-s{seed}"


def create(path: Path, *, counted: bool) -> Path:
    """Make a new run folder.

    Args:
        path: where.
        counted: append a counter to the name if it is taken.

    Raises:
        RunRefused: it holds something already, or is no place to write to.
    """
    try:
        disk.make_folder(path.parent)
        names = (path.with_name(f"{path.name}-{counter}") for counter in itertools.count(2))
        for free in itertools.chain([path], names) if counted else [path]:
            if not (free.is_dir() and not counted and not any(free.iterdir())):
                try:
                    disk.make_new_folder(free)
                    disk.flush(free.parent)
                except FileExistsError:
                    continue
            return free
        raise RunRefused(
            "this folder is taken",
            got=str(path),
            expected="a folder that does not exist, or is empty",
            do="give another --out, or continue the run in it with --resume auto",
        )
    except OSError as error:
        raise RunRefused(
            "the run folder cannot be made", got=str(error), do="give --out a place that can be written to"
        ) from error


def only_begun(path: Path) -> bool:
    """Return whether a run was killed here before it had its config.json, and nothing else is here."""
    # config.json is written first and cleared last: other files without it are not a run's to remove.
    return {inside.name for inside in path.iterdir()} <= {"config.json.new", "lock"}


def clear(path: Path) -> None:
    """Make a run folder new again: remove everything that a run writes."""
    # config.json last: what has none is not taken for a run, and nothing of it would be removed.
    for name in (*(f"{name}.new" for name in WRITTEN), *reversed(WRITTEN)):
        if (path / name).exists():
            disk.remove(path / name)


def refuse_odd_files(path: Path) -> None:
    """Refuse a run folder that holds anything but plain files and folders.

    What is written into it must stay in it, so no link; and what is read must end, so no pipe and no device.

    Raises:
        RunRefused: there is such a thing, or there are more or deeper folders than a run writes.
    """
    waiting, seen = [(path, 1)] if path.is_dir() else [], 0
    while waiting:
        folder, depth = waiting.pop()
        for inside, mode in _modes(folder):
            seen += 1
            odd = "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else f"{inside} is no plain file or folder"
            if seen > _MAX_FILES or depth > _MAX_DEPTH:
                odd = f"more than {_MAX_FILES:,} files, or {_MAX_DEPTH} folders in each other"
            if odd:
                raise RunRefused(
                    "this is not a run folder as t3d writes it",
                    got="a link: " + odd if inside.is_symlink() else odd,
                    do="look at where it comes from",
                )
            if stat.S_ISDIR(mode):
                waiting.append((inside, depth + 1))


def _modes(folder: Path) -> Iterator[tuple[Path, int]]:
    with contextlib.suppress(FileNotFoundError):  # a run that goes on removes its older checkpoints
        for inside in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                yield inside, inside.lstat().st_mode


def as_config(env: str, preset: str, config: Config, trainer: Trainer) -> dict[str, Any]:
    """Return what config.json says: everything resolved, what was chosen, machine and versions; enough to repeat it."""
    return {
        "format": FORMAT,
        "env": env,
        "preset": preset,
        "algorithm": name_of(type(trainer.agent)),
        "config": dataclasses.asdict(config),
        "engine": {
            "name": trainer.chosen.name,
            "threads": trainer.threads,
            "reason": trainer.chosen.reason,
        },
        "machine": describe(),
    }


def write_config(folder: Path, content: dict[str, Any]) -> None:
    """Write config.json, unless it says this already."""
    path = folder / "config.json"
    sealed_content = sealed.seal(content)
    if not (path.is_file() and path.read_bytes() == sealed_content):
        disk.replace(path, sealed_content)


class RunInfo(NamedTuple):
    """What config.json says of a run."""

    env: str
    preset: str
    algorithm: str  # as `algorithms.name_of` gave it
    config: Config
    content: dict[str, Any]  # all that stands there, the engine (name, threads, reason) and the machine among it
    damage: str  # what is wrong with the file, if this is a checkpoint's copy of it; usually empty


def read_config(folder: Path) -> RunInfo:
    """Read a run's config.json; where it is damaged, the copy in its newest checkpoint.

    Raises:
        RunRefused: there is none, or it is not what it should be.
    """
    path = folder / "config.json"
    damage = ""
    if path.is_dir() or not (path.exists() or checkpoints.folders(folder / "checkpoints")):
        raise RunRefused(
            "this is not a run folder",
            got=f"no file {path}",
            expected="a folder that t3d train has written",
            do="name one of runs/*/*",
        )
    try:
        content = sealed.unseal(path)
    except RunRefused as error:
        _refuse_unread(error)
        content, damage = _copy_of_config(folder, error), error.what_and_got()
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, this version reads {FORMAT}")
        config = config_from(content["config"])
        env, preset = content["env"], content["preset"]
        # Runs begun before this was recorded are TD3's.
        algorithm = content.get("algorithm", name_of(TD3))
        if not (isinstance(env, str) and isinstance(preset, str) and len(env) <= _MAX_ENV_NAME):
            raise ValueError("env and preset are not texts, or too long")
        if not (isinstance(algorithm, str) and _ALGORITHM.fullmatch(algorithm)):
            raise ValueError("algorithm is no class's name")
        if not (isinstance(content["engine"], dict) and isinstance(content["machine"], dict)):
            raise TypeError("engine and machine are no objects")
        return RunInfo(env, preset, algorithm, config, content, damage)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, T3DError) as error:
        raise RunRefused(
            "config.json cannot be read", got=f"{path}: {error!r}", do="use the version of t3d that wrote it"
        ) from error


def _refuse_unread(error: RunRefused) -> None:
    """Raise the error again if it is that a file could not be read: that is no damage, and may pass."""
    if isinstance(error.__cause__, OSError):
        raise error


def _copy_of_config(folder: Path, damage: RunRefused) -> dict[str, Any]:
    """Return what config.json said when the newest checkpoint that tells of it was written.

    Raises:
        RunRefused: none does.
    """
    try:
        for _, facts in checkpoints.newest_first(folder / "checkpoints", {}, lambda path, facts: None):
            if isinstance(content := facts.get("run"), dict):
                return content
    except OSError as error:
        raise damage from error
    raise damage


def policy_path(folder: Path, which: str) -> Path:
    """Return where the `best` or the `last` policy of a run stands."""
    return folder / "policy" / f"{which}.safetensors"


def as_policy(
    agent: TD3,
    env: str,
    spaces: Spaces,
    env_steps: int,
    return_mean: float | None,
    normalizer: Normalizer | None = None,
) -> tuple[bytes, PolicyInfo]:
    """Return the agent's actor as a policy that can be loaded without the run: its weights' file, and what it says.

    Args:
        agent: whose actor.
        env: the environment's name.
        spaces: its shapes and bounds.
        env_steps: how long it had trained.
        return_mean: what its evaluation gave, if it had one.
        normalizer: what the actor's observations went through; None if it took them as they were.
    """
    weights = {name: tensor.cpu().contiguous() for name, tensor in agent.actor.body.state_dict().items()}
    if normalizer is not None:
        statistics = zip(STATISTICS, (normalizer.mean, normalizer.std), strict=True)
        weights |= {name: torch.from_numpy(array) for name, array in statistics}
    content = safetensors.torch.save(weights)
    info = PolicyInfo(
        env=env,
        obs_shape=spaces.obs_shape,
        action_low=tuple(spaces.action_low.tolist()),
        action_high=tuple(spaces.action_high.tolist()),
        action_shape=spaces.action_shape,
        hidden=agent.config.hidden,
        layer_norm=agent.config.layer_norm == "both",
        env_steps=env_steps,
        return_mean=return_mean,
        weights_sha256=sealed.checksum(content),
    )
    return content, info


def holds_policy(path: Path) -> bool:
    """Return whether a policy can be loaded from here.

    Args:
        path: of its weights.

    Raises:
        RunRefused: that cannot be known, as a file cannot be read.
    """
    try:
        load(path)
    except RunRefused as error:
        _refuse_unread(error)
        return False
    return True


def files_of_policy(folder: Path, names: tuple[str, str], agent: TD3) -> dict[str, bytes]:
    """Return the files of a policy that can be loaded; none, if another network's than the agent's stands there."""
    if load(folder / names[0]).info.weights != sum(p.numel() for p in agent.actor.body.parameters()):
        return {}
    return {name: (folder / name).read_bytes() for name in names}


def write_policy(path: Path, content: bytes, info: PolicyInfo) -> None:
    """Write both files of a policy. Whoever loads it at any instant, or after a kill, gets the one before or this one.

    Args:
        path: of the weights; the description stands beside.
        content: the weights' file.
        info: the description.

    Raises:
        OSError: they could not be written; what could be loaded before, or this policy, still can.
    """
    description = path.with_suffix(".json")
    disk.make_folder(path.parent)
    try:
        before: PolicyInfo | None = load(path).info
    except RunRefused:
        before = None  # the first one, or damaged: nothing that could be kept
    if before and before.weights_sha256 != info.weights_sha256:
        disk.replace(description, info.to_json(before))
    disk.replace(path, content)
    disk.replace(description, info.to_json())
