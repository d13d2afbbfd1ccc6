"""The run folder: its name, its files, and how they are written and read."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch

from t3d.config import Config, TD3Config
from t3d.errors import RunRefused, T3DError
from t3d.machine import describe
from t3d.making import Spaces
from t3d.policy import PolicyInfo
from t3d.td3 import TD3
from t3d.training import Trainer

FORMAT = 1
_MAX_JSON_BYTES = 1 << 20


def env_name(env: str) -> str:
    """Return the folder name of an environment: its id, or <module or file stem>.<Class>."""
    module, _, name = env.rpartition(":")
    full = f"{Path(module).name.removesuffix('.py')}.{name}" if module else name
    return re.sub(r"[^A-Za-z0-9._-]", "_", full)


def create(env: str, preset: str, seed: int, out: Path | None) -> Path:
    """Make a new run folder.

    Args:
        env: the environment, as the user wrote it.
        preset: the preset's name.
        seed: the run's seed.
        out: where to; None takes runs/<env>/<preset>-s<seed>, with a counter behind it if that is taken.

    Raises:
        RunRefused: `out` holds something already, or is no place to write to.
    """
    try:
        if out is not None:
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise RunRefused(
                    "this folder is taken",
                    got=str(out),
                    expected="a folder that does not exist, or is empty",
                    do="give another --out",
                )
            out.mkdir(parents=True, exist_ok=True)
            return out
        parent = Path("runs") / env_name(env)
        parent.mkdir(parents=True, exist_ok=True)
        return _first_free(parent, f"{preset}-s{seed}")
    except OSError as error:
        raise RunRefused(
            "the run folder cannot be made", got=str(error), do="give --out a place that can be written to"
        ) from error


def _first_free(parent: Path, name: str) -> Path:
    counter = 1
    while True:
        path = parent / (name if counter == 1 else f"{name}-{counter}")
        try:
            path.mkdir()
        except FileExistsError:
            counter += 1
        else:
            return path


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that its name never stands for a half-written one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def write_config(folder: Path, env: str, preset: str, config: Config, trainer: Trainer) -> None:
    """Write config.json: everything resolved, what was chosen, machine and versions; enough to repeat the run."""
    content = {
        "format": FORMAT,
        "env": env,
        "preset": preset,
        "config": dataclasses.asdict(config),
        "engine": {
            "name": trainer.chosen.name,
            "threads": trainer.threads,
            "reason": trainer.chosen.reason,
        },
        "machine": describe(),
    }
    write_bytes(folder / "config.json", (json.dumps(content, indent=2) + "\n").encode())


class RunInfo(NamedTuple):
    """What config.json says of a run."""

    env: str
    preset: str
    config: Config


def read_config(folder: Path) -> RunInfo:
    """Read a run's config.json.

    Raises:
        RunRefused: there is none, or it is not what it should be.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise RunRefused(
            "this is not a run folder",
            got=f"no {path}",
            expected="a folder that t3d train has written",
            do="name one of runs/*/*",
        )
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise RunRefused("config.json is too large", got=f"{path.stat().st_size:,} bytes")
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, this version reads {FORMAT}")
        fields = dict(content["config"])
        td3 = dict(fields.pop("td3"))
        td3["hidden"] = tuple(td3["hidden"])
        config = Config(td3=TD3Config(**td3), **fields)
        return RunInfo(str(content["env"]), str(content["preset"]), config)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, T3DError) as error:
        raise RunRefused(
            "config.json cannot be read", got=f"{path}: {error!r}", do="use the version of t3d that wrote it"
        ) from error


def policy_path(folder: Path, which: str) -> Path:
    """Return where the `best` or the `last` policy of a run stands."""
    return folder / "policy" / f"{which}.safetensors"


def save_policy(
    folder: Path, which: str, agent: TD3, env: str, spaces: Spaces, env_steps: int, return_mean: float | None
) -> None:
    """Write the agent's actor as a policy that can be loaded without the run.

    Args:
        folder: the run folder.
        which: best or last.
        agent: whose actor.
        env: the environment's name.
        spaces: its shapes and bounds.
        env_steps: how long it had trained.
        return_mean: what its evaluation gave, if it had one.
    """
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
    )
    weights = {name: tensor.cpu().contiguous() for name, tensor in agent.actor.body.state_dict().items()}
    path = policy_path(folder, which)
    write_bytes(path, safetensors.torch.save(weights))
    write_bytes(path.with_suffix(".json"), info.to_json().encode())
