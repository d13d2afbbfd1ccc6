"""Observations brought to one scale by what has been seen of them: the option `normalize_obs`.

Raw observations stay in the replay and on disk. Whoever hands observations to the networks passes them through here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Both as in OpenAI's Baselines and Stable-Baselines3. Ten standard deviations leave every usual observation as it is,
# and bound what a dimension can do that stood still until now: its standard deviation is next to nothing.
CLIP = 10.0
EPSILON = 1e-8


def normalize(obs: NDArray[Any], mean: NDArray[np.float64], std: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return observations as the networks take them.

    Args:
        obs: (B, S) as the environment gave them, behind the pixels of images where there are such.
        mean: (S,).
        std: (S,) above 0.

    Returns:
        (B, S) in [-CLIP, CLIP]: how many standard deviations each lies from the mean.
    """
    size = len(mean)
    if obs.shape[-1] > size:  # pixels stand before the numbers
        return np.concatenate([obs[..., :-size], normalize(obs[..., -size:], mean, std)], axis=-1)
    # In float64: beside a large mean float32 would lose the digits that tell observations apart.
    scaled = obs - mean
    scaled /= std
    np.maximum(scaled, -CLIP, out=scaled)
    np.minimum(scaled, CLIP, out=scaled)
    return scaled.astype(np.float32)


class Normalizer:
    """Keep mean and variance of all observations so far, and normalise by them.

    Args:
        obs_size: S.
    """

    def __init__(self, obs_size: int) -> None:
        self.count = 0  # observations so far
        self.mean = np.zeros(obs_size)  # (S,)
        self._m2 = np.zeros(obs_size)  # (S,) sum of the squared distances from the mean

    @property
    def std(self) -> NDArray[np.float64]:
        """What is divided by, (S,): the root of variance + EPSILON, so that it is above 0 wherever nothing moves."""
        # Before the first observation nothing is known of any scale, so none is changed.
        variance = self._m2 / self.count if self.count else np.ones_like(self.mean)
        return np.sqrt(variance + EPSILON)

    def observe(self, obs: NDArray[np.float32]) -> None:
        """Take observations (N, S) into the mean and the variance.

        Source:
            Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
        """
        if not len(obs):
            return
        rows = obs.astype(np.float64)
        mean = rows.mean(axis=0)
        total = self.count + len(rows)
        delta, share = mean - self.mean, len(rows) / total
        self.mean = self.mean + delta * share
        self._m2 = self._m2 + np.square(rows - mean).sum(axis=0) + np.square(delta) * (self.count * share)
        self.count = total

    def __call__(self, obs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return observations (B, S) as the networks take them, by what has been seen so far."""
        return normalize(obs, self.mean, self.std)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what has been seen, as arrays by name."""
        return {"obs_count": np.array(self.count), "obs_mean": self.mean, "obs_m2": self._m2}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on where another of the same size stood.

        Args:
            state: its `state`: same names, shapes and dtypes, finite.

        Raises:
            ValueError: no observations can have led there.
        """
        count, m2 = int(state["obs_count"]), state["obs_m2"]
        if count < 1 or (m2 < 0).any():
            raise ValueError(f"{count} observations, sums of squares from {m2.min()}")
        self.count, self.mean, self._m2 = count, state["obs_mean"].copy(), m2.copy()


def as_networks_see(obs: NDArray[np.float32], normalizer: Normalizer | None) -> NDArray[np.float32]:
    """Return observations (B, S) as the networks take them: normalised on request, all but pixels."""
    return obs if normalizer is None else normalizer(obs)
