"""What a policy asks of the motors: how far its actions move from step to step, how often, and how often to the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Of [-1, 1]. An action beyond the first is at its bound, as in health.py. One that moves by more than the second a
# step, a quarter of its range, is no control that a gear bears for long.
AT_THE_BOUND, JUMPS = 0.99, 0.5
# Of a row of metrics.jsonl, which is read whole: of more dimensions than these the first are kept.
MOST_DIMENSIONS = 100
# An episode that is shorter has no frequency worth a name.
_LEAST_STEPS = 16
_NAMES = ("action_change", "action_at_bound", "action_frequency")


class ActionTrace(NamedTuple):
    """How the actions of some episodes moved; in units of [-1, 1], whatever the motors' own."""

    change: list[float]  # of each dimension, mean |a(t) - a(t-1)| over all steps but the first of each episode
    at_bound: float  # share of all numbers that were beyond AT_THE_BOUND
    frequency: (
        float | None
    )  # cycles a step, the strongest one of the longest episode; None if that is too short or still

    def row(self) -> dict[str, Any]:
        """Return what the log says of it."""
        return dict(zip(_NAMES, (self.change[:MOST_DIMENSIONS], self.at_bound, self.frequency), strict=True))


def trace(actions: NDArray[np.float32], lengths: Sequence[int]) -> ActionTrace:
    """Return how actions moved.

    Args:
        actions: (steps, A) in [-1, 1], of all episodes one behind the other.
        lengths: of each episode.
    """
    episodes = np.split(actions.astype(np.float64), np.cumsum(lengths)[:-1])
    changes = np.concatenate([np.abs(np.diff(episode, axis=0)) for episode in episodes])
    change = changes.mean(axis=0) if len(changes) else np.zeros(actions.shape[1])
    longest = max(episodes, key=len)
    return ActionTrace(change.tolist(), float(np.mean(np.abs(actions) > AT_THE_BOUND)), _frequency(longest))


def _frequency(episode: NDArray[np.float64]) -> float | None:
    """Return an episode's (T, A) strongest frequency, in cycles a step: the most power over all dimensions."""
    centred = episode - episode.mean(axis=0)
    if len(episode) < _LEAST_STEPS or np.abs(centred).max() < 1e-6:
        return None
    power = np.square(np.abs(np.fft.rfft(centred, axis=0))).sum(axis=1)
    return float(np.argmax(power)) / len(episode)


def from_row(row: Mapping[str, Any]) -> ActionTrace | None:
    """Return what a row of metrics.jsonl says, which may be a stranger's; None if it says nothing of this kind."""
    change, at_bound, frequency = (row.get(name) for name in _NAMES)
    numbers = [at_bound, *([] if frequency is None else [frequency]), *(change if isinstance(change, list) else [])]
    if not isinstance(change, list) or not change or not all(isinstance(number, int | float) for number in numbers):
        return None
    return ActionTrace(change, float(at_bound), frequency)  # type: ignore[arg-type]  # looked at just now


def in_words(seen: ActionTrace, period_s: float | None) -> list[str]:
    """Return what is to be said of it, a sentence each.

    Args:
        seen: the trace.
        period_s: seconds of a step, where that is known.
    """
    most = int(np.argmax(seen.change))
    words = [
        f"actions move by {np.mean(seen.change) / 2:.1%} of their range a step, those of dimension {most} by "
        f"{seen.change[most] / 2:.1%}; {seen.at_bound:.0%} are at a bound"
    ]
    if seen.frequency:
        hertz = f", {seen.frequency / period_s:.3g} Hz" if period_s else ""
        words.append(f"their strongest frequency is {seen.frequency:.3g} cycles a step{hertz}")
    if seen.change[most] > JUMPS:
        words.append(
            f"dimension {most} jumps, which motors and gears do not bear for long: take a penalty on changes of the "
            "action into the reward, repeat each action for some steps, or lower --exploration-noise"
        )
    return words
