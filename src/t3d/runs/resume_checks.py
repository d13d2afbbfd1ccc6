"""Whether a run may be continued in the way that is asked for, and what is no longer as it was."""

from __future__ import annotations

from pathlib import Path

from t3d.config import IDLE, Config
from t3d.env_spec import EnvSpec
from t3d.errors import RunRefused
from t3d.formats import RunRecord
from t3d.machine import describe
from t3d.runs.metrics import last_env_steps
from t3d.td3 import TD3
from t3d.training.trainer import Trainer
from t3d.variants.contract import OURS, name_of
from t3d.variants.sources import UNKNOWN, source_of


def refuse_another_algorithm(path: Path, recorded: RunRecord, algorithm: type[TD3]) -> None:
    """Refuse to continue a run with another algorithm than the one that it was begun with.

    Raises:
        RunRefused: with what to do. A class is never looked up by the name that a file gives it.
    """
    now = name_of(algorithm)
    if now == recorded.algorithm:
        return
    give = f"give the class: --algorithm FILE.py:{recorded.algorithm}; in Python, algorithm={recorded.algorithm}"
    raise RunRefused(
        "the run in this folder was trained by another algorithm",
        got=f"{path}: it was {recorded.algorithm}, now {now}",
        do=("leave algorithm out" if recorded.algorithm in map(name_of, OURS.values()) else give)
        + "; or begin a new run in another folder",
    )


def sources_now(path: Path, recorded: RunRecord, algorithm: type[TD3], *, changed: bool) -> tuple[str, ...]:
    """Return the checksums of what has trained a run, once it goes on with this algorithm.

    Args:
        path: the run folder.
        recorded: what its config.json says.
        algorithm: what trains now; of the name that is recorded.
        changed: another source than the last is meant.

    Raises:
        RunRefused: it is another, and not meant.
    """
    now = source_of(algorithm)
    if not now or now == recorded.sources[-1]:
        return recorded.sources
    if not changed:
        raise RunRefused(
            "the algorithm's source is not what trained this run",
            got=f"{path}: {algorithm.__name__} was {recorded.sources[-1][:12]}, is {now[:12]}",
            do="bring the file back as it was; or go on with it as it is, --algorithm-changed (in Python, "
            "algorithm_changed=True), which marks the run as not exact; or begin a new one with another --out",
        )
    return (*recorded.sources, now)


def changed_sources(record: RunRecord) -> list[str]:
    """Return what is not as it was when the run began, if its algorithm's source was changed or nobody can tell."""
    if UNKNOWN in record.sources:
        return ["the algorithm stands in no file, so nobody can tell whether it is as it was"]
    steps = " then ".join(source[:12] for source in record.sources)
    return [f"the algorithm's source was changed: {steps}"] if len(record.sources) > 1 else []


def refuse_changes(path: Path, recorded: RunRecord, env: EnvSpec, config: Config) -> None:
    """Refuse to continue a run with options that would make it another one.

    Raises:
        RunRefused: with the list of differences.
    """
    before, now = ({**vars(c), **vars(c.td3)} for c in (recorded.config, config))
    differs = [
        f"{n} was {before[n]}, now {now[n]}" for n in now if n not in {*IDLE, "steps", "td3"} and now[n] != before[n]
    ]
    if env.identity != recorded.spec.identity:
        differs.insert(0, f"the environment was {recorded.spec.title}, now {env.title}")
    if config.steps < recorded.config.steps:
        differs.append(f"steps was {recorded.config.steps}, now {config.steps}: it may grow, not shrink")
    if differs:
        raise RunRefused(
            "the run in this folder has other options",
            got=f"{path}: {'; '.join(differs)}",
            do="give the same options, or another --out",
        )


def other_machine(record: RunRecord, trainer: Trainer) -> list[str]:
    """Return what is not as it was when the run began, and changes the last bits of what is computed.

    Args:
        record: what config.json says.
        trainer: the run's, now.
    """
    begun_on, machine = record.machine, describe()
    pairs = [
        ("engine", record.engine.name, trainer.learner.chosen.name),
        ("threads", record.engine.threads, trainer.learner.threads),
        ("what draws the pixels", record.drawn_by, trainer.envs.drawn_by),
        *((name, getattr(begun_on, name), machine[name]) for name in ("system", "processor", "python", "versions")),
    ]
    return [f"{name} was {before}, is {now}" for name, before, now in pairs if before != now]


def steps_between(config: Config) -> int:
    """Return the env steps between two checkpoints."""
    # Slots are overwritten in the memory at the earliest after so many steps; until then they must be on disk.
    ring_steps = (config.slots_per_env - 1) // 2 * config.n_envs
    return max(1, min(config.checkpoint_every, ring_steps))


def refuse_if_checkpoints_are_gone(path: Path, config: Config) -> None:
    """Refuse to begin again where a run has been longer than it can have been without a checkpoint.

    Raises:
        RunRefused: it has.
    """
    reached = last_env_steps(path)
    if reached >= steps_between(config) + config.n_envs:
        raise RunRefused(
            "the checkpoints of this run are gone",
            got=f"{path} has rows up to env step {reached:,}, and no checkpoint",
            expected=f"one every {steps_between(config):,} steps",
            do="give another --out; or remove the folder, to begin again",
        )
