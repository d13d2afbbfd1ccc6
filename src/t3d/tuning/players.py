"""The runs of a study that this process plays now, and how each of them ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from t3d.errors import Failed
from t3d.execution.jobs import Job
from t3d.execution.processes import Child, Runner, end
from t3d.tuning.race import Curve, Outcome

Key = tuple[int, int]  # number of the trial, index of the seed
_MOST_DEATHS = 3  # of one run, without an env step between them
_FAILED = 1


class Players:
    """Children side by side, started again where somebody has killed them.

    Args:
        at_once: how many there may be.
        say: told what is worth a line.
        runner: makes what trains a job.
    """

    def __init__(self, at_once: int, say: Callable[[str], None], runner: Callable[[Job], Runner] = Child) -> None:
        self.at_once, self._say, self._runner = at_once, say, runner
        self._children: dict[Key, Runner] = {}
        self._stopped: set[Key] = set()
        self._deaths: dict[Key, tuple[int, int]] = {}  # at which env step, and how often there

    def __len__(self) -> int:
        return len(self._children)

    def __contains__(self, key: Key) -> bool:
        return key in self._children

    def start(self, key: Key, job: Job) -> None:
        """Start a run, or go on with it."""
        self._children[key] = self._runner(job)
        self._children[key].start()

    def stop(self, key: Key) -> None:
        """Ask a run to save and leave: it has fallen behind."""
        if key not in self._stopped:
            self._stopped.add(key)
            self._children[key].stop()

    def playing(self) -> dict[Key, Curve]:
        """Return what every run has come to that is not asked to leave."""
        return {key: child.curve for key, child in self._children.items() if key not in self._stopped}

    def ended(self) -> list[tuple[Key, Outcome]]:
        """Look at every run; return those that have ended since the last look, and how.

        Raises:
            Failed: one could not go on, for a reason that is none of its options'.
        """
        outcomes = []
        for key, child in list(self._children.items()):
            if child.look().running:
                continue
            outcome = self._judge(key, child)
            if outcome is not None:
                del self._children[key]
                self._stopped.discard(key)
                end([child])
                outcomes.append((key, outcome))
        return outcomes

    def _judge(self, key: Key, child: Runner) -> Outcome | None:
        """Return how a run ended whose process has; None if that was started again."""
        seen = child.look()
        curve = sorted(child.curve.items())
        if seen.exit_code == 0:
            return Outcome("finished", curve)
        if seen.exit_code == _FAILED:
            return Outcome("failed", curve, seen.problem.splitlines()[0][:1_000])
        killed = seen.exit_code is not None and (seen.exit_code < 0 or seen.exit_code > 128)
        if killed and key in self._stopped:
            return Outcome("stopped", curve)
        at, times = self._deaths.get(key, (-1, 0))
        times = times + 1 if at == seen.env_steps else 1
        self._deaths[key] = (seen.env_steps, times)
        if not killed or times > _MOST_DEATHS:
            raise Failed(
                "a run of this study cannot go on",
                got=f"{Path(child.job.out)}: {seen.problem}",
                do="mend that; the same command goes on with the study",
            )
        self._say(f"trial {key[0]}, seed {key[1]}: {seen.problem.splitlines()[0]} at {seen.env_steps:,} steps; goes on")
        child.start()
        return None

    def close(self) -> None:
        """Have all of them saved and ended."""
        end(list(self._children.values()))
        self._children.clear()
