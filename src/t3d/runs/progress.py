"""How far a run is, beside its networks: the clocks' last strokes, its evaluations, its failures."""

from __future__ import annotations

from typing import Any

from t3d.errors import plain
from t3d.evaluation import Evaluation
from t3d.sealed import finite, whole


class Progress:
    """Everything the loop must remember from one checkpoint to the next."""

    def __init__(self) -> None:
        self.last: Evaluation | None = None
        self.evaluated_at = -1  # env steps
        self.best: Evaluation | None = None
        self.best_env_steps = 0
        self.not_exact: list[str] = []  # why the run is not what it would have been undisturbed; usually empty
        self._log_strokes = 0
        self._evaluation_strokes = 0
        self._failure = {"env_steps": -1, "times": 0}

    def log_due(self, env_steps: int, interval: int) -> bool:
        """Return whether env steps have passed a multiple of the interval: vector steps may leap over it."""
        return env_steps // interval > self._log_strokes

    def logged(self, env_steps: int, interval: int) -> None:
        """Note a log line."""
        self._log_strokes = env_steps // interval

    def evaluation_due(self, env_steps: int, interval: int) -> bool:
        """Return whether env steps have passed a multiple of the interval."""
        return env_steps // interval > self._evaluation_strokes

    def evaluated(self, seen: Evaluation, env_steps: int, interval: int) -> bool:
        """Note an evaluation; return whether it is the best so far."""
        self._evaluation_strokes = env_steps // interval
        self.last, self.evaluated_at = seen, env_steps
        better = self.best is None or seen.return_mean > self.best.return_mean
        if better:
            self.best, self.best_env_steps = seen, env_steps
        return better

    def failed(self, env_steps: int) -> int:
        """Note that the environment failed; return how many times in a row it has at this very step."""
        times = self._failure["times"] + 1 if self._failure["env_steps"] == env_steps else 1
        self._failure = {"env_steps": env_steps, "times": times}
        return times

    def facts(self) -> dict[str, Any]:
        """Return all of this as JSON can hold it."""
        return {
            "last": self.last and self.last._asdict(),
            "evaluated_at": self.evaluated_at,
            "best": self.best and self.best._asdict(),
            "best_env_steps": self.best_env_steps,
            "not_exact": self.not_exact,
            "log_strokes": self._log_strokes,
            "evaluation_strokes": self._evaluation_strokes,
            "failure": self._failure,
        }

    def restore(self, facts: dict[str, Any]) -> None:
        """Be what `facts` was taken from.

        Raises:
            KeyError, TypeError, ValueError: it was taken from nothing.
        """
        self.last, self.best = _evaluation(facts["last"]), _evaluation(facts["best"])
        self.evaluated_at, self.best_env_steps = whole(facts["evaluated_at"], -1), whole(facts["best_env_steps"])
        if (self.last is None) != (self.best is None) or (self.last is None) != (self.evaluated_at == -1):
            raise ValueError("a best evaluation, a last one and when it was: one without the others")
        if not isinstance(facts["not_exact"], list):
            raise TypeError("not_exact is no list")
        self.not_exact = [plain(what) for what in facts["not_exact"]]
        self._log_strokes, self._evaluation_strokes = whole(facts["log_strokes"]), whole(facts["evaluation_strokes"])
        failure = facts["failure"]
        self._failure = {"env_steps": whole(failure["env_steps"], -1), "times": whole(failure["times"])}


def _evaluation(facts: dict[str, Any] | None) -> Evaluation | None:
    if facts is None:
        return None
    seen = Evaluation([finite(x) for x in facts["returns"]], [whole(n) for n in facts["lengths"]])
    if not seen.returns or len(seen.returns) != len(seen.lengths):
        raise ValueError("an evaluation without episodes")
    return seen
