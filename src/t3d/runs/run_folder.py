"""The run folder: its name, its files, and how they are written and read."""

from __future__ import annotations

import contextlib
import itertools
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from t3d.config import Config
from t3d.env_spec import EnvSpec
from t3d.errors import RunRefused, printable
from t3d.formats import Engine, Machine, PolicyInfo, RunRecord, run_id
from t3d.machine import describe
from t3d.policy.architectures import ARCHITECTURES
from t3d.policy.files import STATISTICS, Tensors
from t3d.policy.policy import Policy
from t3d.policy.torch_nets import architecture_of, arrays_of
from t3d.storage import checked_files, disk
from t3d.training.evaluation import Act
from t3d.training.trainer import Trainer
from t3d.variants.contract import name_of
from t3d.variants.sources import source_of

# What a run writes, beside its lock; config.json first: without it there is no run.
WRITTEN = (
    "config.json",
    "metrics.jsonl",
    "checkpoints",
    "replay",
    "policy",
    "video",
    "export",
    "tensorboard",
    "tracking",
    "report.html",
    "explain.html",
)
_MAX_FILES, _MAX_DEPTH = 10_000, 8


def usual(env: EnvSpec, preset: str, seed: int) -> Path:
    """Return where a run goes if nobody says otherwise."""
    return Path("runs") / env.folder / f"{preset}-s{seed}"


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


def record_of(env: EnvSpec, preset: str, config: Config, trainer: Trainer) -> RunRecord:
    """Return what config.json says: everything resolved, what was chosen, machine and versions; enough to repeat it."""
    algorithm, chosen = name_of(type(trainer.agent)), trainer.learner.chosen
    return RunRecord(
        run=run_id(env, algorithm, config),
        env=printable(env.name),
        env_kwargs=dict(env.kwargs),
        wrappers=env.wrappers,
        pixels=env.pixels,
        drawn_by=trainer.envs.drawn_by,
        preset=preset,
        algorithm=algorithm,
        sources=(source,) if (source := source_of(type(trainer.agent))) else (),
        obs=trainer.envs.spaces.obs,
        period_s=trainer.envs.period_s,
        config=config,
        engine=Engine(chosen.name, trainer.learner.threads, chosen.reason),
        machine=Machine(**describe()),
    )


def write_config(folder: Path, record: RunRecord) -> None:
    """Write config.json, unless it says this already."""
    path, content = folder / "config.json", checked_files.encode(record)
    if not (path.is_file() and path.read_bytes() == content):
        disk.replace(path, content)


def read_config(folder: Path) -> RunRecord:
    """Read a run's config.json.

    Raises:
        RunRefused: there is none, or it is not what it should be.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise RunRefused(
            "this is not a run folder",
            got=f"no file {path}",
            expected="a folder that t3d train has written",
            do="name one of runs/*/*",
        )
    try:
        return checked_files.read(path, RunRecord)
    except OSError as error:
        raise RunRefused("config.json cannot be read", got=str(error), do="see to the disk, then try again") from error


def policy_path(folder: Path, which: str) -> Path:
    """Return where the `best` or the `last` policy of a run stands."""
    return folder / "policy" / f"{which}.safetensors"


def policy_of(trainer: Trainer, record: RunRecord, which: str, return_mean: float | None) -> tuple[PolicyInfo, Tensors]:
    """Return what the file of a policy holds that plays as one of the agent's does now; the tensors are copies.

    Args:
        trainer: whose policy.
        record: of its run.
        which: of the agent's `policies`.
        return_mean: what its evaluation gave, if it had one.
    """
    agent, spaces, normalizer = trainer.agent, trainer.envs.spaces, trainer.normalizer
    net = agent.policies()[which]
    tensors = arrays_of(net)
    if normalizer is not None:
        tensors |= zip(STATISTICS, (normalizer.mean.copy(), normalizer.std), strict=True)
    info = PolicyInfo(
        run=record.run,
        env=record.spec.title,
        algorithm=record.algorithm,
        architecture=architecture_of(net),
        obs=record.obs,
        action_shape=spaces.action_shape,
        action_low=spaces.action_low,
        action_high=spaces.action_high,
        view=record.config.view,
        period_s=record.period_s,
        hidden=agent.config.hidden,
        layer_norm=agent.config.layer_norm == "both",
        embedding=agent.config.embedding,
        env_steps=trainer.env_steps,
        return_mean=return_mean,
    )
    return info, tensors


def acting(trainer: Trainer, record: RunRecord, which: str) -> Act:
    """Return what one of the agent's policies plays now: to the bit what whoever loads its file will play.

    A network of the caller's own is played by the agent itself, which made it with options that no file holds.

    Raises:
        ValueError: a weight is not finite.
    """
    if architecture_of(trainer.agent.policies()[which]) in ARCHITECTURES:
        return Policy(*policy_of(trainer, record, which, None)).act
    return partial(trainer.learner.act, which=which)


def write_policy(path: Path, content: bytes) -> None:
    """Write a policy: whoever loads it at any instant gets the one before or this one.

    Raises:
        OSError: it could not be written; the one before still stands there.
    """
    disk.make_folder(path.parent)
    disk.replace(path, content)
