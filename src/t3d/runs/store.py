"""A run folder that is being trained in: who holds it, what is saved when, and how it is brought back."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, Self

import torch

from t3d.config import MAX_UNLOGGED_UPDATES, Config
from t3d.errors import RunRefused
from t3d.policy import PolicyInfo
from t3d.presets import Choice
from t3d.runs import checkpoints, disk, folder
from t3d.runs.continuing import other_machine, refuse_another_algorithm, refuse_changes
from t3d.runs.lock import Lock
from t3d.runs.metrics import Metrics, last_env_steps
from t3d.runs.progress import Progress
from t3d.runs.replaylog import ReplayLog
from t3d.td3 import TD3
from t3d.training import Trainer, least_state_bytes, slots_needed

_log = logging.getLogger("t3d")

# A state's size beyond the tensors themselves: five losses of each update since the last log line, names.
_SPARE_STATE_BYTES = 5 * 8 * MAX_UNLOGGED_UPDATES + (1 << 20)
# What a manifest from a stranger can make happen when it is believed; none of it has touched the disk.
_NONSENSE = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, AssertionError, RuntimeError)

# What the best policy is called in a run folder, and in a checkpoint's state.
_BEST = ("policy/best.safetensors", "policy/best.json")


class Store:
    """Keep a run's folder: metrics, policies, replay log and checkpoints, saved together.

    Args:
        path: the run folder; nobody else trains in it while this is open.
        config: the run's.
        described: what config.json has to say.
        damage: what is wrong with it, if it does not.
    """

    def __init__(self, path: Path, config: Config, described: dict[str, Any], damage: str = "") -> None:
        self.path = path
        self.metrics = Metrics(path)
        self.problem = ""  # why the last commit failed
        self._config, self._described, self._damage = config, described, damage
        self._lock = Lock(path)
        self._replay: ReplayLog | None = None
        self._waiting: dict[Path, tuple[bytes, PolicyInfo]] = {}  # policies that could not be written yet
        self._best: dict[str, bytes] = {}  # the files of the best policy: no later state could make it again
        self._number = 0  # of the next checkpoint
        self._committed_at, self._tried_s = 0, time.monotonic()
        self._ring = config.buffer_size // config.n_envs
        self._every = _steps_between(config)

    @classmethod
    def create(cls, env: str, choice: Choice, out: Path | None, trainer: Trainer, *, exist_ok: bool) -> Self:
        """Begin a run in a new folder.

        Args:
            env: which environment.
            choice: preset and configuration.
            out: the folder; None takes the usual one, with a counter behind its name if it is taken.
            trainer: what will run in there.
            exist_ok: begin in a folder that holds a run killed before its first checkpoint.

        Raises:
            RunRefused: the folder is taken, or no place to write to.
        """
        path = out or folder.usual(env, choice.preset, choice.config.seed)
        if not (exist_ok and path.is_dir()):
            path = folder.create(path, counted=out is None and not exist_ok)
        store = cls(path, choice.config, folder.as_config(env, choice.preset, choice.config, trainer))
        try:
            if checkpoints.folders(path / "checkpoints"):
                raise RunRefused("another process has just trained in this run folder", got=str(path), do="try again")
            disk.flush(path.parent)  # the name may be that of a process that was killed before it did
            folder.clear(path)
            folder.write_config(path, store._described)
        except OSError as error:
            store.close()
            raise RunRefused(
                "the run folder cannot be written", got=str(error), do="make room, or give --out"
            ) from error
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def find(cls, env: str, choice: Choice, out: Path | None, algorithm: type[TD3] = TD3) -> Self | None:
        """Open the folder of a run that can be continued; None if there is none, or one without a checkpoint.

        Raises:
            RunRefused: it holds something else, a run with other options or of another algorithm, or is held by
                another process.
        """
        path = out or folder.usual(env, choice.preset, choice.config.seed)
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return None
        folder.refuse_odd_files(path)
        if not checkpoints.folders(path / "checkpoints") and folder.only_begun(path):
            return None
        recorded = folder.read_config(path)
        refuse_another_algorithm(path, recorded, algorithm)
        refuse_changes(path, recorded, env, choice.config)
        if not checkpoints.folders(path / "checkpoints"):
            _refuse_if_checkpoints_are_gone(path, recorded.config)
            return None
        # Before networks are built and memory is taken: these files may be a stranger's.
        _usable(path, choice.config, {})
        config = recorded.content["config"] | {"steps": choice.config.steps}  # it may go on for longer
        return cls(path, choice.config, recorded.content | {"config": config}, recorded.damage)

    def close(self) -> None:
        """Let go of the folder."""
        self.metrics.close()
        self._lock.close()

    def ended(self, trainer: Trainer, progress: Progress) -> bool:
        """Return whether all steps are done, judged and logged."""
        judged = progress.evaluated_at == trainer.env_steps
        return trainer.env_steps >= self._config.steps and judged and not trainer.has_unlogged_updates

    def due(self, env_steps: int) -> bool:
        """Return whether it is time for a checkpoint."""
        return (
            env_steps - self._committed_at >= self._every
            or time.monotonic() - self._tried_s >= self._config.checkpoint_seconds
        )

    def save_policy(self, which: str, trainer: Trainer, env: str, return_mean: float | None) -> None:
        """Write the actor as the run's `best` or `last` policy, or try again at the next commit."""
        self._keep_policy(which, trainer, env, return_mean)
        try:
            self._write_waiting()
        except OSError as error:
            _log.warning("the %s policy could not be written: %s; it waits in memory", which, error)

    def _keep_policy(self, which: str, trainer: Trainer, env: str, return_mean: float | None) -> None:
        spaces, env_steps = trainer.envs.spaces, trainer.env_steps
        policy = folder.as_policy(trainer.agent, env, spaces, env_steps, return_mean, trainer.normalizer)
        self._waiting[folder.policy_path(self.path, which)] = policy
        if which == "best":
            self._best = dict(zip(_BEST, (policy[0], policy[1].to_json()), strict=True))

    def _write_waiting(self) -> None:
        for path, policy in list(self._waiting.items()):
            folder.write_policy(path, *policy)
            del self._waiting[path]

    def _log_of(self, trainer: Trainer) -> ReplayLog:
        if self._replay is None:
            self._replay = ReplayLog(self.path / "replay", trainer.replay.slot, self._config.n_envs, self._ring)
        return self._replay

    def commit(self, trainer: Trainer, progress: Progress) -> bool:
        """Save everything, as one checkpoint.

        Returns:
            Whether that worked; if not, a warning says why and the checkpoint before is as valid as it was.

        Raises:
            Diverged: a loss or a weight is not finite; that is never saved.
        """
        trainer.refuse_non_finite()
        if self.ended(trainer, progress):
            self.metrics.show_all()  # nobody writes TensorBoard's files anew once the run has ended
        tensors, facts = trainer.state()
        tensors |= {name: torch.frombuffer(bytearray(file), dtype=torch.uint8) for name, file in self._best.items()}
        replay = self._log_of(trainer)
        self._committed_at, self._tried_s = trainer.env_steps, time.monotonic()
        try:
            self._write_waiting()
            needed = sum(tensor.nbytes for tensor in tensors.values()) + replay.new_bytes(trainer.replay)
            checkpoints.refuse_full_disk(self.path, needed)
            self.metrics.flush()
            replay.append(trainer.replay)
            facts |= {
                "number": self._number,
                "run": self._described,
                "progress": progress.facts(),
                "metrics": self.metrics.facts(),
                "replay": replay.facts(),
            }
            checkpoints.commit(self.path / "checkpoints", trainer.env_steps, tensors, facts)
        except OSError as error:
            self.problem = str(error)
            _log.warning("env step %s: no checkpoint: %s", f"{trainer.env_steps:,}", error)
            return False
        self._number += 1
        try:
            kept = checkpoints.prune(self.path / "checkpoints", facts["number"])
            needs = [slots_needed(self._config, manifest) for manifest in kept]
            replay.trim([min(positions) for positions in zip(*needs, strict=True)])
        except OSError as error:
            _log.warning("what is no longer needed could not be removed: %s", error)
        return True

    def restore(self, trainer: Trainer, progress: Progress) -> int:
        """Bring a new trainer to where the newest checkpoint that verifies stands.

        Returns:
            Its env steps.

        Raises:
            RunRefused: no checkpoint verifies, and nothing on disk has been changed; or the disk fails.
        """
        try:
            return self._restore_newest(trainer, progress)
        except OSError as error:
            raise RunRefused(
                "the run folder cannot be read or written",
                got=str(error),
                do="see to the disk, then resume again: nothing that is needed was removed",
            ) from error

    def _restore_newest(self, trainer: Trainer, progress: Progress) -> int:
        problems: dict[Path, str] = {}
        for path, facts in _usable(self.path, self._config, problems):
            try:
                self._restore(path, facts, trainer, progress)
            except RunRefused as error:
                problems[path] = error.one_line()
            else:
                self._tidy(path, trainer, progress, problems)
                return trainer.env_steps
        raise _none_left(problems)

    def _restore(self, path: Path, facts: dict[str, Any], trainer: Trainer, progress: Progress) -> None:
        expected = sum(tensor.nbytes for tensor in trainer.state()[0].values())
        try:
            # The best policy is an actor, of which the networks, their targets and moments hold four.
            state = checkpoints.read(path, facts, expected + expected // 4 + _SPARE_STATE_BYTES)
            best = {name: state.pop(name).numpy().tobytes() for name in _BEST if name in state}
            rows = self._log_of(trainer).open(facts["replay"], slots_needed(self._config, facts))
            self.metrics.open(facts["metrics"], path / "manifest.json")
            progress.restore(facts["progress"])
            not_exact = trainer.restore(state, facts, rows)
            if self._log_of(trainer).ends != [written - 1 for written in trainer.replay.written]:
                raise ValueError(f"the replay memory on disk ends at {self._log_of(trainer).ends}")
            self._number, self._best = facts["number"] + 1, best
        except _NONSENSE as error:
            raise RunRefused("a checkpoint says what cannot be", got=f"{path}: {error!r}") from error
        not_exact += other_machine(self._described, trainer)
        progress.not_exact += [what for what in not_exact if what not in progress.not_exact]

    def _tidy(self, path: Path, trainer: Trainer, progress: Progress, problems: dict[Path, str]) -> None:
        """Remove what lies behind the checkpoint that was taken, mend what was damaged, and say what happened."""
        over = self.ended(trainer, progress) and not problems
        mended = self._mend(trainer, progress, over)
        checkpoints.remove_begun(self.path / "checkpoints")
        for what in mended:
            _log.warning("%s", what)
        if over:
            # Whoever looks at a result changes nothing. TensorBoard's files were closed before the last commit.
            self.metrics.show_if_gone()
            return
        self.metrics.show_anew()
        for bad, problem in problems.items():
            disk.remove(bad)
            _log.warning("a checkpoint cannot be used, and was removed: %s", problem)
        for what in progress.not_exact:
            _log.warning("from here on the run is not bit for bit what it would have been: %s", what)
        self._committed_at = trainer.env_steps
        said = [*problems.values(), *mended, *(f"not bit-exact: {what}" for what in progress.not_exact)]
        for what in [*said, f"resumed from {path.name}"]:
            self.metrics.write("event", trainer.env_steps, what=what)

    def _mend(self, trainer: Trainer, progress: Progress, over: bool) -> list[str]:
        """Let the other files be what they were when the checkpoint was written; return what is to be said of it.

        A policy that can be loaded stays: it may be newer. Where all is well a run that is over is not changed.
        """
        log = self._log_of(trainer)
        log.cut()
        self.metrics.cut(begin_copy=not over)
        folder.write_config(self.path, self._described)
        said = [f"made again from its parity: {damage}" for damage in log.damage]
        said += [f"replaced by its copy: {damage}" for damage in (self.metrics.damage, self._damage) if damage]
        holds_best = folder.holds_policy(self.path / _BEST[0])
        if holds_best and not self._best and progress.best:  # a run of the first format
            self._best = folder.files_of_policy(self.path, _BEST, trainer.agent)
        if self._best and not holds_best:
            disk.make_folder(self.path / "policy")
            for name, content in self._best.items():
                disk.replace(self.path / name, content)
            said.append(f"replaced by its copy: {_BEST[0]} or its description, which could not be loaded")
        last = progress.last if progress.evaluated_at == trainer.env_steps else None
        if last and not folder.holds_policy(folder.policy_path(self.path, "last")):
            self._keep_policy("last", trainer, self._described["env"], last.return_mean)
            self._write_waiting()
            said.append("written again: policy/last.safetensors or its description, which could not be loaded")
        return said


def _usable(path: Path, config: Config, problems: dict[Path, str]) -> list[tuple[Path, dict[str, Any]]]:
    """Return the checkpoints that may be this run's and their manifests, the newest first.

    Raises:
        RunRefused: there is none.
    """

    def look(checkpoint: Path, facts: dict[str, Any]) -> None:
        file, least = checkpoint / "state.safetensors", least_state_bytes(config)
        size = file.stat().st_size if file.is_file() else -1
        if size < least or len(facts["written"]) != config.n_envs:
            raise RunRefused(
                "a checkpoint is not of this run",
                got=f"{file}: {size:,} bytes, {len(facts['written'])} environments",
                expected=f"{least:,} bytes or more, {config.n_envs} environments",
            )

    if found := checkpoints.newest_first(path / "checkpoints", problems, look):
        return found
    raise _none_left(problems)


def _none_left(problems: dict[Path, str]) -> RunRefused:
    return RunRefused(
        "no checkpoint of this run can be used",
        got="; ".join(f"{path.name}: {problem}" for path, problem in problems.items()),
        do="copy the run again if you can, or begin a new one with another --out",
    )


def _steps_between(config: Config) -> int:
    """Return the env steps between two checkpoints."""
    # Slots are overwritten in the memory at the earliest after so many steps; until then they must be on disk.
    ring_steps = (config.buffer_size // config.n_envs - 1) // 2 * config.n_envs
    return max(1, min(config.checkpoint_every, ring_steps))


def _refuse_if_checkpoints_are_gone(path: Path, config: Config) -> None:
    """Refuse to begin again where a run has been longer than it can have been without a checkpoint.

    Raises:
        RunRefused: it has.
    """
    reached = last_env_steps(path)
    if reached >= _steps_between(config) + config.n_envs:
        raise RunRefused(
            "the checkpoints of this run are gone",
            got=f"{path} has rows up to env step {reached:,}, and no checkpoint",
            expected=f"one every {_steps_between(config):,} steps",
            do="give another --out; or remove the folder, to begin again",
        )
