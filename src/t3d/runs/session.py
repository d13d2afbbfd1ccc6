"""The one training loop, its clocks, and what is saved when."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from t3d.errors import Failed
from t3d.evaluation import Evaluation, evaluate
from t3d.presets import Choice
from t3d.runs import folder
from t3d.runs.metrics import Metrics, Row
from t3d.training import Trainer


class _Clock:
    """Strike once whenever env steps pass a multiple of the interval: vector steps may leap over it."""

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._struck = 0

    def strikes(self, env_steps: int) -> bool:
        count = env_steps // self._interval
        struck, self._struck = count > self._struck, count
        return struck


class Session:
    """Train once, in a run folder.

    Args:
        env: which environment, as for `making.make`.
        choice: preset and configuration.
        out: the run folder; None takes the usual place.

    Raises:
        Refused: before anything is written.
    """

    def __init__(self, env: str, choice: Choice, out: Path | None = None) -> None:
        self.env = env
        self.config = choice.config
        self.trainer = Trainer(env, self.config)
        self.path = folder.create(env, choice.preset, self.config.seed, out)
        folder.write_config(self.path, env, choice.preset, self.config, self.trainer)
        self.last: Evaluation | None = None
        self.best: Evaluation | None = None
        self.best_env_steps = 0
        self._evaluated_at = -1

    @property
    def will_learn(self) -> bool:
        """False if the run ends before its random actions do: it makes no update at all."""
        return self.config.steps > self.config.random_steps and self.config.updates_per_step > 0

    def run(self) -> Generator[Row, None, None]:
        """Train to the end, handing out every row of metrics.jsonl as it is written.

        Whatever ends it early (Ctrl-C, an environment that fails), the actor is saved as it then is, unless its
        numbers are no longer finite.

        Raises:
            Failed: as it says.
        """
        trainer, config = self.trainer, self.config
        log, evaluation = _Clock(config.log_every), _Clock(config.eval_every)
        with Metrics(self.path) as metrics:
            try:
                while trainer.env_steps < config.steps:
                    for episode in trainer.step():
                        yield metrics.write(
                            "episode",
                            trainer.env_steps,
                            env=episode.env,
                            **{"return": episode.episode_return},
                            length=episode.length,
                            end=episode.end,
                        )
                    if log.strikes(trainer.env_steps) and (losses := trainer.losses()):
                        yield metrics.write("update", trainer.env_steps, **losses._asdict())
                    if evaluation.strikes(trainer.env_steps):
                        yield self._evaluate(metrics)
                if losses := trainer.losses():
                    yield metrics.write("update", trainer.env_steps, **losses._asdict())
                if self._evaluated_at != trainer.env_steps:
                    yield self._evaluate(metrics)
            except (Failed, KeyboardInterrupt, GeneratorExit) as error:
                what = error.one_line() if isinstance(error, Failed) else "interrupted"
                metrics.write("event", trainer.env_steps, what=what)
                raise
            finally:
                trainer.envs.close()
                if trainer.agent.is_finite():
                    self._save("last")

    def _evaluate(self, metrics: Metrics) -> Row:
        config, env_steps = self.config, self.trainer.env_steps
        seen = evaluate(
            self.trainer.agent.act,
            self.env,
            episodes=config.eval_episodes,
            seed=config.seed,
            fresh=config.fresh_envs,
        )
        self.last, self._evaluated_at = seen, env_steps
        if self.best is None or seen.return_mean > self.best.return_mean:
            self.best, self.best_env_steps = seen, env_steps
            self._save("best")
        self._save("last")
        return metrics.write(
            "evaluation",
            env_steps,
            **seen._asdict(),
            return_mean=seen.return_mean,
            return_std=seen.return_std,
        )

    def _save(self, which: str) -> None:
        evaluated = self.last if self._evaluated_at == self.trainer.env_steps else None
        folder.save_policy(
            self.path,
            which,
            self.trainer.agent,
            self.env,
            self.trainer.envs.spaces,
            self.trainer.env_steps,
            evaluated.return_mean if evaluated else None,
        )
