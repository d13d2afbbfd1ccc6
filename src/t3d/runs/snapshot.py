"""A run as one of its checkpoints holds it, to be looked at: nothing is locked or changed, and it may go on."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import structs
from numpy.typing import NDArray

from t3d.errors import RunRefused
from t3d.formats import Manifest, PolicyInfo, RunRecord
from t3d.policy.files import STATISTICS, Tensors
from t3d.policy.normalizer import Normalizer, as_networks_see
from t3d.policy.torch_nets import arrays_of
from t3d.replay import Replay, slot_dtype
from t3d.runs import checkpoints, run_folder
from t3d.runs.checkpoints import Checkpoints
from t3d.runs.policies import recorded_in
from t3d.runs.replay_log import ReplayLog
from t3d.runs.resume_checks import refuse_another_algorithm
from t3d.runs.store import NONSENSE, SPARE_STATE_BYTES
from t3d.storage.checked_files import read_policy_header
from t3d.td3 import TD3
from t3d.training.limits import least_state_bytes, refuse_too_large
from t3d.training.trainer import slots_needed
from t3d.variants.contract import algorithm_of
from t3d.variants.sources import source_of

_log = logging.getLogger("t3d")
_TRIES = 3  # a run that goes on may remove the checkpoint that is being read


@dataclass(frozen=True)
class Snapshot:
    """A run at one of its checkpoints."""

    path: Path  # the run folder
    record: RunRecord
    env_steps: int
    agent: TD3
    replay: Replay  # may be empty, where its files are gone
    normalizer: Normalizer | None
    info: PolicyInfo  # of the policy that the agent plays
    notes: tuple[str, ...]  # what whoever looks at it must know, a sentence each

    def seen(self, obs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return observations (N, S), raw, as the networks take them."""
        return as_networks_see(obs, self.normalizer)

    @property
    def policy(self) -> tuple[PolicyInfo, Tensors]:
        """What the file of the policy holds that plays here."""
        tensors = arrays_of(self.agent.policy_net())
        if self.normalizer is not None:
            tensors |= zip(STATISTICS, (self.normalizer.mean, self.normalizer.std), strict=True)
        return self.info, tensors

    @property
    def held(self) -> NDArray[np.float32]:
        """Every observation that the memory holds, (N, S), raw."""
        replay = self.replay
        rows = [replay.rows(env, replay.oldest(env), written) for env, written in enumerate(replay.written)]
        return np.concatenate([of_env["obs"] for of_env in rows])


def open_run(run: Path, at: int | None = None, own: type[TD3] | None = None) -> Snapshot:
    """Return a run as a checkpoint holds it.

    Args:
        run: the run folder.
        at: env steps of the checkpoint; None takes the newest.
        own: the class that trained it, where that is a caller's.

    Raises:
        RunRefused: it is not a run folder, has no such checkpoint, or that is damaged.
        ConfigRefused: it was trained by another algorithm; or its memory would not fit into this machine's.
    """
    record = recorded_in(run)
    algorithm = algorithm_of(record.config, own)
    refuse_another_algorithm(run, record, algorithm)
    config, info = record.config, _policy_info(run, record)
    slots_bytes = config.buffer_size * slot_dtype(info.spaces).itemsize
    refuse_too_large("the replay memory", slots_bytes, "look at the run on the machine that trains it")
    refuse_too_large("the networks", least_state_bytes(config), "look at the run on the machine that trains it")
    for left in reversed(range(_TRIES)):
        found = Checkpoints(run / "checkpoints")
        path, manifest = _chosen(run, found.find(_any), at)
        try:
            return _restored(run, record, info, path, manifest, list(found.problems.values()), algorithm)
        except (RunRefused, OSError) as error:
            if path.is_dir() or not left:
                raise error if isinstance(error, RunRefused) else _unreadable(error) from error
    raise AssertionError("the last try returns or raises")


def _any(path: Path, manifest: Manifest) -> None:
    """Take every checkpoint that can be read."""


def _unreadable(error: OSError) -> RunRefused:
    return RunRefused("the run folder cannot be read", got=str(error), do="see to the disk, then try again")


def _policy_info(run: Path, record: RunRecord) -> PolicyInfo:
    """Return what the run's last policy says of what plays: config.json does not know the actions."""
    path = run_folder.policy_path(run, "last")
    if not path.is_file():
        raise RunRefused(
            "there is nothing to explain yet",
            got=f"no {path}",
            expected="a run that was evaluated or stopped once: then it has a policy",
            do="wait for its first evaluation",
        )
    try:
        with path.open("rb") as file:
            info = read_policy_header(path, file).info
    except OSError as error:
        raise _unreadable(error) from error
    if (info.run, info.hidden, info.obs) != (record.run, record.config.td3.hidden, record.obs):
        raise RunRefused("this policy is another run's", got=f"{path}: run {info.run}", expected=f"run {record.run}")
    return info


def _chosen(run: Path, readable: list[tuple[Path, Manifest]], at: int | None) -> tuple[Path, Manifest]:
    by_steps = {manifest.trainer.envs.env_steps: (path, manifest) for path, manifest in reversed(readable)}
    if at is None and readable:
        return readable[0]
    if at in by_steps:
        return by_steps[at]
    raise RunRefused(
        "there is no such checkpoint" if by_steps else "this run has no checkpoint that can be read",
        got=f"{run}, at {'the newest' if at is None else f'{at:,} env steps'}",
        expected=" or ".join(f"{steps}" for steps in sorted(by_steps)) + " env steps" if by_steps else "",
        do="a run keeps its last two" if by_steps else "wait for its first checkpoint",
    )


def _restored(
    run: Path,
    record: RunRecord,
    info: PolicyInfo,
    path: Path,
    manifest: Manifest,
    problems: list[str],
    algorithm: type[TD3],
) -> Snapshot:
    config, spaces, trainer = record.config, info.spaces, manifest.trainer
    if manifest.run != record.run or len(trainer.written) != config.n_envs:
        raise RunRefused("a checkpoint is not of this run", got=f"{path}: run {manifest.run}", expected=record.run)
    agent = algorithm(spaces, config.td3, np.random.default_rng(0))
    replay = Replay(config.buffer_size, config.n_envs, spaces, algorithm.prioritized)
    normalizer = Normalizer(spaces.vector_size) if config.normalize_obs else None
    expected = {name: tensor.numpy() for name, tensor in agent.tensors().items()}
    expected |= normalizer.state() if normalizer else {}
    if (priorities := replay.priorities) is not None:
        expected |= {"priorities": priorities.of, "largest_priority": priorities.largest}
    expected["obs"] = np.zeros((config.n_envs, spaces.obs_size), spaces.obs_dtype)
    most_bytes = sum(array.nbytes for array in expected.values()) + SPARE_STATE_BYTES
    tensors = checkpoints.read(path, manifest.state, most_bytes + 8 * config.n_envs * (1 + spaces.action_size))
    log = ReplayLog(run / "replay", record.run, slot_dtype(spaces), config.n_envs, config.slots_per_env)
    try:
        _refuse_other(tensors, expected)
        for name, weight in agent.tensors().items():
            weight.copy_(tensors[name])
        agent.updates = trainer.updates
        if normalizer:
            normalizer.restore({name: tensors[name].numpy() for name in normalizer.state()})
        replay.restore(
            trainer.written, log.open(manifest.replay, slots_needed(config, trainer)), tensors["obs"].numpy()
        )
        if priorities is not None:
            priorities.restore(tensors["priorities"].numpy(), tensors["largest_priority"].numpy())
    except NONSENSE as error:
        raise RunRefused("a checkpoint says what cannot be", got=f"{path}: {error!r}"[:1000]) from error
    notes = [f"A checkpoint cannot be used: {problem}." for problem in problems]
    notes += [f"It is looked at without a part of its memory: {log.lost}."] * bool(log.lost)
    if record.sources and source_of(algorithm) != record.sources[-1]:
        notes.append("The algorithm's source is not what trained this run: the page shows what it does as it is now.")
    steps = trainer.envs.env_steps
    info = structs.replace(info, env_steps=steps, return_mean=None)
    return Snapshot(run, record, steps, agent, replay, normalizer, info, tuple(notes))


def _refuse_other(tensors: dict[str, torch.Tensor], expected: dict[str, NDArray[Any]]) -> None:
    for name, array in expected.items():
        given = tensors[name]
        if tuple(given.shape) != array.shape or given.numpy().dtype != array.dtype or not torch.isfinite(given).all():
            raise ValueError(f"{name} is {given.dtype} {tuple(given.shape)}")
