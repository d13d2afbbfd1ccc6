"""How far a run is, beside its networks: the clocks' last strokes, its evaluations, its failures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from t3d.errors import printable
from t3d.formats import Evaluation, ProgressState


class RunProgress:
    """Everything the loop must remember from one checkpoint to the next."""

    def __init__(self) -> None:
        self.last: Evaluation | None = None
        self.evaluated_at = -1  # env steps
        self.best: Evaluation | None = None
        self.best_env_steps = 0
        self.preferred = "current"  # which of the agent's policies the last evaluation found the better one
        self.not_exact: list[str] = []  # why the run is not what it would have been undisturbed; usually empty
        self._logged = 0  # multiples of the interval that were passed until the last log line
        self._evaluated = 0
        self._failed_at, self._failed_times = -1, 0

    def log_due(self, env_steps: int, interval: int) -> bool:
        """Return whether env steps have passed a multiple of the interval: vector steps may leap over it."""
        return env_steps // interval > self._logged

    def logged(self, env_steps: int, interval: int) -> None:
        """Note a log line."""
        self._logged = env_steps // interval

    def evaluation_due(self, env_steps: int, interval: int | Literal["never"]) -> bool:
        """Return whether env steps have passed a multiple of the interval."""
        return interval != "never" and env_steps // interval > self._evaluated

    def evaluated(self, seen: Mapping[str, Evaluation], env_steps: int, interval: int | Literal["never"]) -> bool:
        """Note an evaluation; return whether it is the best so far.

        Args:
            seen: what was seen, of each of the agent's policies; the better one counts, the first of equals.
            env_steps: where.
            interval: the one that it was due by; never for one that was not due.
        """
        if interval != "never":
            self._evaluated = env_steps // interval
        self.preferred = max(seen, key=lambda which: seen[which].return_mean)
        self.last, self.evaluated_at = seen[self.preferred], env_steps
        better = self.best is None or self.last.return_mean > self.best.return_mean
        if better:
            self.best, self.best_env_steps = self.last, env_steps
        return better

    def row(self, seen: Mapping[str, Evaluation]) -> dict[str, Any]:
        """Return what the log says of an evaluation: the better policy's, and where there are several, each one's."""
        last = seen[self.preferred]
        row = {"returns": last.returns, "lengths": last.lengths}
        row |= {"return_mean": last.return_mean, "return_std": last.return_std}
        if len(seen) > 1:
            row |= {"policy": self.preferred} | {f"returns_{which}": each.returns for which, each in seen.items()}
        return row

    def failed(self, env_steps: int) -> int:
        """Note that the environment failed; return how many times in a row it has at this very step."""
        self._failed_times = self._failed_times + 1 if self._failed_at == env_steps else 1
        self._failed_at = env_steps
        return self._failed_times

    @property
    def state(self) -> ProgressState:
        """All of this."""
        return ProgressState(
            last=self.last,
            evaluated_at=self.evaluated_at,
            best=self.best,
            best_env_steps=self.best_env_steps,
            preferred=self.preferred,
            not_exact=list(self.not_exact),
            logged=self._logged,
            evaluated=self._evaluated,
            failed_at=self._failed_at,
            failed_times=self._failed_times,
        )

    def restore(self, state: ProgressState) -> None:
        """Be what `state` was taken from."""
        self.last, self.evaluated_at = state.last, state.evaluated_at
        self.best, self.best_env_steps = state.best, state.best_env_steps
        self.preferred = state.preferred
        self.not_exact = [printable(what) for what in state.not_exact]
        self._logged, self._evaluated = state.logged, state.evaluated
        self._failed_at, self._failed_times = state.failed_at, state.failed_times
