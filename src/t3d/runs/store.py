"""A run folder that is being trained in: who holds it, what is saved when, and how it is brought back."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Self

from msgspec import structs

from t3d.config import MAX_UNLOGGED_UPDATES
from t3d.env_spec import EnvSpec
from t3d.errors import RunRefused, SaveFailed
from t3d.formats import Manifest, RunRecord
from t3d.policy.files import encode
from t3d.policy.policy import load
from t3d.presets import Choice
from t3d.runs import checkpoints, run_folder
from t3d.runs.checkpoints import Checkpoints
from t3d.runs.metrics import Metrics
from t3d.runs.progress import RunProgress
from t3d.runs.replay_log import ReplayLog
from t3d.runs.resume_checks import (
    changed_sources,
    other_machine,
    refuse_another_algorithm,
    refuse_changes,
    refuse_if_checkpoints_are_gone,
    sources_now,
    steps_between,
)
from t3d.storage import disk
from t3d.storage.lock import Lock, OpenFolder
from t3d.td3 import TD3
from t3d.training.evaluation import Act
from t3d.training.limits import least_state_bytes
from t3d.training.trainer import Trainer, slots_needed
from t3d.variants.contract import name_of

_log = logging.getLogger("t3d")

# A state's size beyond the tensors themselves: five losses of each update since the last log line, names.
SPARE_STATE_BYTES = 5 * 8 * MAX_UNLOGGED_UPDATES + (1 << 20)
# What a checkpoint from a stranger can make happen when it is believed; none of it has touched the disk.
NONSENSE = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, AssertionError, RuntimeError)


class Store:
    """Keep a run's folder: metrics, policies, replay log and checkpoints, saved together.

    Args:
        path: the run folder; nobody else trains in it while this is open.
        record: what config.json has to say.
    """

    def __init__(self, path: Path, record: RunRecord) -> None:
        self.path = path
        self.problem = ""  # why the last commit failed
        self._moved_from: Path | None = None  # where the folder was when it was opened, if it is elsewhere now
        self._record, self._config = record, record.config
        self._lock = Lock(path)
        self._folder = OpenFolder(path)
        self.metrics = Metrics(path, record.run, self._folder.lasting_path / "tensorboard")
        self._checkpoints = Checkpoints(path / "checkpoints")
        self._usable: list[tuple[Path, Manifest]] = []  # checkpoints that may be this run's, the newest first
        self._replay: ReplayLog | None = None
        self._waiting: dict[Path, bytes] = {}  # policies that could not be written yet
        self._number = 0  # of the next checkpoint
        self._committed_at, self._tried_s = 0, time.monotonic()
        self._every = steps_between(self._config)

    @classmethod
    def create(cls, env: EnvSpec, choice: Choice, out: Path | None, trainer: Trainer, *, exist_ok: bool) -> Self:
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
        path = out or run_folder.usual(env, choice.preset, choice.config.seed)
        if not (exist_ok and path.is_dir()):
            path = run_folder.create(path, counted=out is None and not exist_ok)
        store = cls(path, run_folder.record_of(env, choice.preset, choice.config, trainer))
        try:
            if checkpoints.folders(path / "checkpoints"):
                raise RunRefused("another process has just trained in this run folder", got=str(path), do="try again")
            disk.flush(path.parent)  # the name may be that of a process that was killed before it did
            run_folder.clear(path)
            run_folder.write_config(path, store._record)
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
    def find(
        cls,
        env: EnvSpec,
        choice: Choice,
        out: Path | None,
        algorithm: type[TD3] = TD3,
        recorded: RunRecord | None = None,
        algorithm_changed: bool = False,
    ) -> Self | None:
        """Open the folder of a run that can be continued; None if there is none, or one without a checkpoint.

        Args:
            env: which environment.
            choice: preset and configuration.
            out: the folder; None takes the usual one.
            algorithm: what trains.
            recorded: what config.json says, if whoever calls has read it.
            algorithm_changed: what trains may be written otherwise than what has trained.

        Raises:
            RunRefused: it holds something else, a run of other options or another algorithm, or is held by a process.
        """
        path = out or run_folder.usual(env, choice.preset, choice.config.seed)
        if recorded is None:
            if not path.exists() or (path.is_dir() and not any(path.iterdir())):
                return None
            run_folder.refuse_odd_files(path)
            if run_folder.only_begun(path):
                return None
            recorded = run_folder.read_config(path)
        refuse_another_algorithm(path, recorded, algorithm)
        refuse_changes(path, recorded, env, choice.config)
        sources = sources_now(path, recorded, algorithm, changed=algorithm_changed)
        store = cls(path, structs.replace(recorded, config=choice.config, sources=sources))
        try:
            # Before networks are built and memory is taken: these files may be a stranger's.
            if store._find_checkpoints():
                return store
            refuse_if_checkpoints_are_gone(path, recorded.config)
        except BaseException:
            store.close()
            raise
        store.close()
        return None

    def _find_checkpoints(self) -> bool:
        self._usable = self._checkpoints.find(self._look)
        if self._checkpoints.problems and not self._usable:
            raise self._none_left()
        return bool(self._usable)

    def _look(self, checkpoint: Path, manifest: Manifest) -> None:
        """Refuse a checkpoint that cannot be this run's."""
        file, streams = checkpoint / "state.safetensors", len(manifest.trainer.written)
        size, n_envs = file.stat().st_size if file.is_file() else -1, self._config.n_envs
        # A changed algorithm may play with a smaller network.
        least = least_state_bytes(self._config) if self._record.algorithm == name_of(TD3) else 1
        if manifest.run != self._record.run or size < least or streams != n_envs:
            raise RunRefused(
                "a checkpoint is not of this run",
                got=f"{file}: {size:,} bytes, {streams} environments, run {manifest.run}",
                expected=f"{least:,} bytes or more, {n_envs} environments, run {self._record.run}",
            )

    def _none_left(self) -> RunRefused:
        problems = self._checkpoints.problems.items()
        return RunRefused(
            "no checkpoint of this run can be used",
            got="; ".join(f"{path.name}: {problem}" for path, problem in problems),
            do="copy the run again if you can, or begin a new one with another --out",
        )

    def close(self) -> None:
        """Let go of the folder. A process that was forked from the one that holds it holds nothing."""
        if self._lock.forked:
            return
        self.metrics.tensorboard.close()
        self._lock.close()
        self._folder.close()

    def ended(self, trainer: Trainer, progress: RunProgress) -> bool:
        """Return whether all steps are done, judged and logged."""
        judged = progress.evaluated_at == trainer.env_steps or self._config.eval_every == "never"
        return trainer.env_steps >= self._config.steps and judged and not trainer.learner.has_unlogged_updates

    def due(self, env_steps: int) -> bool:
        """Return whether it is time for a checkpoint."""
        return (
            env_steps - self._committed_at >= self._every
            or time.monotonic() - self._tried_s >= self._config.checkpoint_seconds
        )

    def acting(self, trainer: Trainer, which: str) -> Act:
        """Return what one of the agent's policies plays now, as its file would have it."""
        return run_folder.acting(trainer, self._record, which)

    def save_policy(self, name: str, trainer: Trainer, which: str, return_mean: float | None) -> None:
        """Write one of the agent's policies as the run's `best` or `last`, or try again at the next commit."""
        content = encode(*run_folder.policy_of(trainer, self._record, which, return_mean))
        self._waiting[run_folder.policy_path(self.path, name)] = content
        try:
            self._refuse_forked()
            self._follow()
            self._write_waiting()
        except OSError as error:
            _log.warning("the %s policy could not be written: %s; it waits in memory", name, error)

    def _refuse_forked(self) -> None:
        if self._lock.forked:
            raise OSError("this process was forked from the one that holds the run, which alone writes")

    def _follow(self) -> None:
        """Go on in the folder that was opened, wherever it is by now.

        Raises:
            OSError: it is gone.
        """
        place = self._folder.place()
        if place == self.path:
            return
        self._waiting = {place / path.relative_to(self.path): content for path, content in self._waiting.items()}
        self._moved_from, self.path = self._moved_from or self.path, place
        self.metrics.move(place)
        self._checkpoints.folder = place / "checkpoints"
        if self._replay is not None:
            self._replay.move(place / "replay")

    def _write_waiting(self) -> None:
        for path, content in list(self._waiting.items()):
            run_folder.write_policy(path, content)
            del self._waiting[path]

    def _log_of(self, trainer: Trainer) -> ReplayLog:
        if self._replay is None:
            slot = trainer.replay.slot
            ring = self._config.slots_per_env
            self._replay = ReplayLog(self.path / "replay", self._record.run, slot, self._config.n_envs, ring)
        return self._replay

    def commit(self, trainer: Trainer, progress: RunProgress) -> bool:
        """Save everything, as one checkpoint.

        Returns:
            Whether that worked; if not, a warning says why and the checkpoint before is as valid as it was.

        Raises:
            Diverged: a loss or a weight is not finite; that is never saved.
            SaveFailed: the folder has another name by now. Everything is saved there.
        """
        self._committed_at, self._tried_s = trainer.env_steps, time.monotonic()
        try:
            self._refuse_forked()
            self._follow()
            trainer.learner.refuse_non_finite()
            if self.ended(trainer, progress):
                self.metrics.tensorboard.close()  # whoever looks at the run after that changes nothing
            tensors, rest = trainer.state()
            replay = self._log_of(trainer)
            self._write_waiting()
            needed = sum(tensor.nbytes for tensor in tensors.values()) + replay.new_bytes(trainer.replay)
            checkpoints.refuse_full_disk(self.path, needed)
            self.metrics.flush()
            replay.append(trainer.replay)
            content, state = checkpoints.as_state(tensors)
            manifest = Manifest(
                run=self._record.run,
                number=self._number,
                state=state,
                metrics=self.metrics.state,
                replay=replay.state,
                trainer=rest,
                progress=progress.state,
            )
            self._checkpoints.commit(content, manifest)
        except OSError as error:
            self.problem = str(error)
            _log.warning("env step %s: no checkpoint: %s", f"{trainer.env_steps:,}", error)
            return False
        self._number += 1
        try:
            needs = [slots_needed(self._config, kept.trainer) for kept in self._checkpoints.prune()]
            replay.trim([min(positions) for positions in zip(*needs, strict=True)])
        except OSError as error:
            _log.warning("what is no longer needed could not be removed: %s", error)
        if self._moved_from is not None:
            raise SaveFailed(
                "the run folder was moved while the run went on; everything is saved where it is now",
                got=f"{self._moved_from} is now {self.path}",
                do=f"t3d resume {self.path}",
            )
        return True

    def restore(self, trainer: Trainer, progress: RunProgress) -> int:
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

    def _restore_newest(self, trainer: Trainer, progress: RunProgress) -> int:
        for path, manifest in self._usable:
            try:
                self._restore(path, manifest, trainer, progress)
            except RunRefused as error:
                self._checkpoints.give_up(path, manifest, error.one_line())
            else:
                self._tidy(path, trainer, progress)
                return trainer.env_steps
        raise self._none_left()

    def _restore(self, path: Path, manifest: Manifest, trainer: Trainer, progress: RunProgress) -> None:
        log = self._log_of(trainer)
        expected = sum(tensor.nbytes for tensor in trainer.state()[0].values())
        try:
            state = checkpoints.read(path, manifest.state, expected + SPARE_STATE_BYTES)
            slots = log.open(manifest.replay, slots_needed(self._config, manifest.trainer))
            self.metrics.open(manifest.metrics, manifest.trainer.envs.env_steps)
            progress.restore(manifest.progress)
            if progress.preferred not in trainer.agent.policies():
                raise ValueError(f"the policy {progress.preferred}")
            not_exact = trainer.restore(state, manifest.trainer, slots)
        except NONSENSE as error:
            raise RunRefused("a checkpoint says what cannot be", got=f"{path}: {error!r}") from error
        if log.lost and len(trainer.replay) < self._config.batch_size:
            raise RunRefused(
                "too little is left of the replay memory to learn from",
                got=f"{len(trainer.replay):,} transitions; {log.lost}",
                expected=f"a batch of {self._config.batch_size:,}",
                do="copy the run again",
            )
        self._number = manifest.number + 1
        not_exact += [log.lost] * bool(log.lost) + other_machine(self._record, trainer) + changed_sources(self._record)
        progress.not_exact += [what for what in not_exact if what not in progress.not_exact]

    def _tidy(self, path: Path, trainer: Trainer, progress: RunProgress) -> None:
        """Remove what lies behind the checkpoint that was taken, and say what happened."""
        problems = self._checkpoints.problems
        over, lost = self.ended(trainer, progress), self.metrics.lost
        for problem in problems.values():
            _log.warning("a checkpoint cannot be used%s: %s", "" if over else ", and is removed", problem)
        if lost:
            _log.warning("rows are gone from env step %s to %s: %s", *lost, self.metrics.problem)
        self._checkpoints.remove_begun()
        if over:
            # Whoever looks at a result changes nothing.
            if slots := self._log_of(trainer).lost:
                _log.warning("should the run go on, it will not be bit for bit what it would have been: %s", slots)
            return
        forgotten = self._forget_best_if_gone(type(trainer.agent), progress)
        for bad in problems:
            disk.remove(bad)
        self._log_of(trainer).cut()
        self.metrics.cut()
        run_folder.write_config(self.path, self._record)
        self.metrics.tensorboard.resumed(trainer.env_steps)
        for what in progress.not_exact:
            _log.warning("from here on the run is not bit for bit what it would have been: %s", what)
        self._committed_at = trainer.env_steps
        if lost:
            self.metrics.write("event", trainer.env_steps, what=f"rows are gone: {self.metrics.problem}", lost=lost)
        not_exact = [f"not bit-exact: {what}" for what in progress.not_exact]
        for what in [*problems.values(), *forgotten, *not_exact, f"resumed from {path.name}"]:
            self.metrics.write("event", trainer.env_steps, what=what)
        if lost or forgotten or self._log_of(trainer).lost:
            self.commit(trainer, progress)  # what is gone is gone for good: nobody is to find it missing again

    def _forget_best_if_gone(self, algorithm: type[TD3], progress: RunProgress) -> list[str]:
        """Forget the best evaluation if its policy cannot be loaded: the next one then writes a new best policy."""
        try:
            policy = run_folder.policy_path(self.path, "best")
            if progress.best is None or load(policy, algorithm).info.run == self._record.run:
                return []
            problem = f"{policy} is another run's"
        except RunRefused as error:
            if isinstance(error.__cause__, OSError):  # no damage: it may pass
                raise
            problem = error.what_and_got()
        progress.best = None
        _log.warning("the best policy so far is lost, and with it what it scored: %s", problem)
        return [f"the best policy so far is lost: {problem}"]
