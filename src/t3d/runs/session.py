"""The one training loop, its clocks, and what is saved when."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t3d.diagnosis import actions
from t3d.diagnosis.actions import ActionTrace
from t3d.env_spec import EnvSpec
from t3d.environments.envs import Episode
from t3d.errors import Diverged, EnvFailed, EnvRefused, RunRefused, SaveFailed, Stopped
from t3d.formats import MILESTONES, Row, RunRecord
from t3d.presets import Choice
from t3d.runs import seen_picture
from t3d.runs.progress import RunProgress
from t3d.runs.signals import Signals
from t3d.runs.store import Store
from t3d.td3 import TD3
from t3d.training import evaluation
from t3d.training.evaluation import Act, Evaluation, Trajectory
from t3d.training.trainer import Trainer
from t3d.variants.contract import algorithm_of

_log = logging.getLogger("t3d")


class Session:
    """Train in a run folder, from its beginning or from its newest checkpoint.

    Args:
        env: which environment.
        choice: preset and configuration.
        out: the run folder; None takes the usual place.
        resume: continue the run that is there, if one is.
        algorithm: a subclass of the one that the configuration names, that changes it; None takes that one.
        recorded: what the config.json of the run to continue says, if whoever calls has read it.
        algorithm_changed: the run to continue may have been trained by another text of the algorithm.

    Raises:
        Refused: before anything is written.
    """

    def __init__(
        self,
        env: EnvSpec,
        choice: Choice,
        out: Path | None = None,
        *,
        resume: bool = False,
        algorithm: type[TD3] | None = None,
        recorded: RunRecord | None = None,
        algorithm_changed: bool = False,
    ) -> None:
        self.env = env = env.looked_at(choice.config.view)
        self.choice, self.config = choice, choice.config
        store = trainer = None
        try:
            self.algorithm = algorithm_of(self.config, algorithm)
            if resume:
                store = Store.find(env, choice, out, self.algorithm, recorded, algorithm_changed=algorithm_changed)
            self.trainer = trainer = Trainer(env, self.config, self.algorithm)
            self._refuse_hardware_unasked()
            self.progress = RunProgress()
            if store is None:
                self._store = Store.create(env, choice, out, self.trainer, exist_ok=resume)
                self.resumed_at: int | None = None  # env steps
            else:
                self._store = store
                self.resumed_at = store.restore(self.trainer, self.progress)
        except BaseException as error:
            if store is not None:
                store.close()
            if trainer is not None:
                trainer.envs.close()
            if isinstance(error, OSError):
                raise RunRefused("the run folder cannot be used", got=str(error)) from error
            raise
        self.had_ended = self.finished  # nothing is left to do
        self._unstable, self._noted = 0, 0  # episodes and notes that the log knows of
        self._cut = False  # an evaluation episode was, which has been said
        self._milestones: dict[int, list[str]] = {}  # policies to keep on the way, by env steps
        for name, share in MILESTONES.items():
            vector_steps = math.ceil(share * self.config.steps / self.config.n_envs)
            self._milestones.setdefault(vector_steps * self.config.n_envs, []).append(name)

    def _refuse_hardware_unasked(self) -> None:
        if self.trainer.envs.is_hardware and not self.config.hardware:
            raise EnvRefused(
                "this environment says that it is hardware, which nobody could know before it was made",
                got=f"is_hardware of {self.env.title}",
                do="add --hardware, or set is_hardware on the function that makes it",
            )

    @property
    def path(self) -> Path:
        """The run folder."""
        return self._store.path

    @property
    def finished(self) -> bool:
        """Whether all steps are done, judged and logged."""
        return self._store.ended(self.trainer, self.progress)

    @property
    def wall_s(self) -> float:
        """How long the run took until now, in seconds; when it did not run is left out."""
        return self._store.metrics.wall_s

    def rows(self, kind: str) -> list[Row]:
        """Return the rows of metrics.jsonl of a kind, as far as the run is."""
        return self._store.metrics.rows(kind)

    def run(self) -> Generator[Row, None, None]:
        """Train to the end, handing out every row of metrics.jsonl as it is written.

        Whatever ends it early (a signal, an environment that fails), its state is saved as it then is, unless its
        numbers are no longer finite.

        Raises:
            Failed: as it says.
            Stopped: by a signal, once the state is saved.
        """
        with Signals() as signals:
            try:
                yield from self._until_stopped(signals)
            except (Diverged, SaveFailed) as error:
                # Nothing to save, or no place to save it.
                self._store.metrics.write("event", self.trainer.env_steps, what=error.one_line())
                raise
            finally:
                self.close()

    def close(self) -> None:
        """Let go of the environments and the folder: what `run` does at its end, for a session that never runs."""
        self.trainer.envs.close()
        self._store.close()

    def _until_stopped(self, signals: Signals) -> Iterator[Row]:
        try:
            if not self.finished:
                yield from self._loop(signals)
                yield from self._end(signals)
        except (KeyboardInterrupt, GeneratorExit) as error:
            self._stop(str(error) or "interrupted")
            if isinstance(error, Stopped):
                error.saved_in = str(self.path)
            raise
        except EnvFailed as error:
            recognised = self._recognised(error)
            self._stop(recognised.one_line())
            raise recognised from error.__cause__
        except Diverged:
            # An action that is not finite has a cause: this names the update and the tensors.
            self.trainer.learner.refuse_non_finite()
            raise

    def _loop(self, signals: Signals) -> Iterator[Row]:
        trainer, config, store = self.trainer, self.config, self._store
        while True:
            env_steps = trainer.env_steps
            if self.progress.log_due(env_steps, config.log_every):
                yield from self._log_update()
            if self._may_evaluate and self.progress.evaluation_due(env_steps, config.eval_every):
                yield from self._evaluate(signals)
            if env_steps in self._milestones and not trainer.in_burst:
                for name in self._milestones[env_steps]:
                    self._save(name)
            if signals.take_save() or store.due(env_steps):
                if config.eval_every == "never":
                    self._save("last")
                store.commit(trainer, self.progress)
            signals.stop_here()
            if env_steps >= config.steps and not trainer.in_burst:
                return
            # All rows of a step are written before one is handed out: who takes them may never come back.
            yield from [self._log_episode(episode) for episode in trainer.step()]

    def _end(self, signals: Signals) -> Iterator[Row]:
        yield from self._log_update()
        if self.config.eval_every == "never":
            self._save("last")
        elif self.progress.evaluated_at != self.trainer.env_steps:
            yield from self._evaluate(signals, in_turn=False)
        if not self._store.commit(self.trainer, self.progress):
            raise SaveFailed(
                "the run has ended, but its final state could not be saved",
                got=self._store.problem,
                do=f"make room, then t3d resume {self.path}",
            )

    def _log_episode(self, episode: Episode) -> Row:
        fields = {"env": episode.env, "return": episode.episode_return, "length": episode.length, "end": episode.end}
        return self._store.metrics.write("episode", self.trainer.env_steps, **fields)

    def _log_update(self) -> Iterator[Row]:
        env_steps = self.trainer.env_steps
        losses = self.trainer.learner.losses()
        self.progress.logged(env_steps, self.config.log_every)
        if losses:
            metrics = self._store.metrics
            yield from [
                metrics.write("update", env_steps, **losses._asdict()),
                metrics.write("health", env_steps, of="batch", **self.trainer.learner.health(env_steps)),
            ]
        if (unstable := self.trainer.envs.unstable) > self._unstable:
            self._unstable = unstable
            what = f"MuJoCo has called the simulation unstable in {unstable} episodes since this process began"
            yield self._store.metrics.write("event", env_steps, what=what)
        for what in self.trainer.envs.notes[self._noted :]:
            self._noted += 1
            yield self._store.metrics.write("event", env_steps, what=what)

    @property
    def _may_evaluate(self) -> bool:
        """Whether an evaluation can be played now: no update is due that waits for an episode's end, and the
        environment is free, if it is the one that trains.
        """
        return not self.trainer.waits and self._is_free

    @property
    def _is_free(self) -> bool:
        return self.config.eval_env == "new" or self.trainer.collector.between_episodes

    def _play(
        self, which: str, limit: int, signals: Signals, trajectories: list[Trajectory] | None
    ) -> tuple[Evaluation, ActionTrace]:
        played: list[NDArray[np.float32]] = []
        act = evaluation.remembering(self._store.acting(self.trainer, which), played)
        seen = self._play_by(act, limit, signals, trajectories)
        return seen, actions.trace(np.array(played), seen.lengths)

    def _play_by(self, act: Act, limit: int, signals: Signals, trajectories: list[Trajectory] | None) -> Evaluation:
        config = self.config
        if config.eval_env == "same":
            envs = evaluation.envs_over(self.trainer.envs, config.seed, limit)
            return evaluation.play(act, envs, config.eval_episodes, signals.stop_here, trajectories)
        try:
            return evaluation.evaluate(
                act,
                self.env,
                episodes=config.eval_episodes,
                seed=config.seed,
                fresh=config.fresh_envs,
                between=signals.stop_here,
                in_worker=config.env_workers > 0,
                env_timeout=config.env_timeout,
                max_episode_steps=limit,
                trajectories=trajectories,
            )
        except EnvRefused as error:  # it could be made once, to train in
            do = "if it can be open only once, --eval-env same or --hardware; see what else holds it"
            raise EnvFailed(
                f"no environment could be made to evaluate in: {error.what}", **error.rows | {"do": do}
            ) from error

    def _evaluate(self, signals: Signals, *, in_turn: bool = True) -> list[Row]:
        config, env_steps, progress = self.config, self.trainer.env_steps, self.progress
        trajectories: list[Trajectory] = []
        limit = evaluation.patience(config, self._store.metrics.longest_episode)
        note: dict[str, Any] = {} if config.action_repeat == 1 else {"action_repeat": config.action_repeat}
        waited = config.train_at == "episode" or config.eval_env == "same"  # for an episode's end
        if waited and in_turn and (late := env_steps % int(config.eval_every)):
            note["due"] = env_steps - late
        if not self._is_free:
            self.trainer.collector.end_episodes()
            note["note"] = "the training episode that went on was ended for it"
            progress.not_exact.append(f"an episode was ended at step {env_steps:,} for the evaluation at the run's end")
        self._show_what_is_seen()
        # Weights that are no numbers are named here, and not by whatever they would play.
        self.trainer.learner.refuse_non_finite()
        # Health is of the policy that the critics learn of.
        played = {
            which: self._play(which, limit, signals, trajectories if which == "current" else None)
            for which in self.trainer.agent.policies()
        }
        seen = {which: of_one for which, (of_one, _) in played.items()}
        # The one at the run's end takes no other's place: a run may go on for longer.
        if progress.evaluated(seen, env_steps, config.eval_every if in_turn else "never"):
            self._save("best")
        self._save("last")
        moved = played[progress.preferred][1].row()
        rows = [self._store.metrics.write("evaluation", env_steps, **progress.row(seen), **moved, **note)]
        if self.trainer.agent.updates:  # before the first one the critics have promised nothing
            promised = self.trainer.learner.health_of(trajectories)
            rows.append(self._store.metrics.write("health", env_steps, of="evaluation", **promised))
        longest = max(length for played in seen.values() for length in played.lengths)
        if config.max_episode_steps is None and longest >= limit and not self._cut:
            self._cut = True
            ends = "was cut; --max-episode-steps sets a limit"
            what = f"an evaluation episode did not end within {limit:,} steps and {ends}"
            _log.warning("%s", what)
            rows.append(self._store.metrics.write("event", env_steps, what=what))
        return rows

    def _show_what_is_seen(self) -> None:
        """Write video/seen.png at the first evaluation of a run that sees images."""
        envs, path = self.trainer.envs, self.path / "video" / "seen.png"
        if envs.spaces.view is not None and not path.exists():
            try:
                seen_picture.write(path, envs.raw_images, envs.seen[-1], envs.spaces)
            except OSError as error:
                _log.warning("the picture of what is seen could not be written: %s", error)

    def _save(self, name: str) -> None:
        env_steps, progress = self.trainer.env_steps, self.progress
        evaluated = progress.last if progress.evaluated_at == env_steps else None
        return_mean = evaluated.return_mean if evaluated else None
        self._store.save_policy(name, self.trainer, progress.preferred, return_mean)

    def _stop(self, why: str) -> None:
        """Save everything between two steps.

        Raises:
            Diverged: what there is to save is not finite.
            SaveFailed: it could not be saved.
        """
        self.trainer.learner.refuse_non_finite()
        self._store.metrics.write("event", self.trainer.env_steps, what=why)
        self._save("last")
        if not self._store.commit(self.trainer, self.progress):
            raise SaveFailed(
                f"{why}; and the state could not be saved",
                got=self._store.problem,
                do=f"make room, then t3d resume {self.path}: it goes on from the last checkpoint",
            )

    def _recognised(self, error: EnvFailed) -> EnvFailed:
        """Say so if the environment has failed at this very step before."""
        times = self.progress.failed(self.trainer.env_steps)
        if times == 1:
            return error
        return EnvFailed(
            f"{error.what} (time {times} at this very step: resuming alone will not help)",
            got=error.one_line(),
            do="fix the environment, or begin a new run",
        )
