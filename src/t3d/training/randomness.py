"""Every random number of a run: one stream a purpose, all spawned from the run's seed, drawn with NumPy on the host.

No global generator is touched, so nothing outside (an evaluation, a progress bar, somebody's own script) can
shift a single draw, and a device cannot change one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from t3d.formats import RandomStream

# The first element of every spawn key. Their order is part of the run's meaning: changing it changes every weight.
_NETWORKS, _RANDOM_ACTIONS, _EXPLORATION, _INDEX, _TARGET_NOISE, _EPISODE, _EVALUATION, _HEALTH, _EXPLAIN, _SHIFTS = (
    range(10)
)


def _sequence(seed: int, *key: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=key)


@dataclass(frozen=True)
class Streams:
    """Hold a run's random streams; each belongs to one purpose and is drawn nowhere else."""

    networks: np.random.Generator
    random_actions: np.random.Generator
    exploration: np.random.Generator
    index: np.random.Generator
    target_noise: np.random.Generator
    shifts: np.random.Generator  # of the frames in a batch

    @staticmethod
    def from_seed(seed: int) -> Streams:
        """Spawn all streams of the run with this seed."""
        return Streams(
            networks=np.random.default_rng(_sequence(seed, _NETWORKS)),
            random_actions=np.random.default_rng(_sequence(seed, _RANDOM_ACTIONS)),
            exploration=np.random.default_rng(_sequence(seed, _EXPLORATION)),
            index=np.random.default_rng(_sequence(seed, _INDEX)),
            target_noise=np.random.default_rng(_sequence(seed, _TARGET_NOISE)),
            shifts=np.random.default_rng(_sequence(seed, _SHIFTS)),
        )

    @property
    def state(self) -> dict[str, RandomStream]:
        """Where every stream stands."""
        return {
            name: msgspec.convert(generator.bit_generator.state, RandomStream) for name, generator in vars(self).items()
        }

    def restore(self, state: Mapping[str, RandomStream]) -> None:
        """Put every stream where `state` said it stood.

        Raises:
            KeyError, OverflowError: it was taken from other streams, or from none.
        """
        for name, generator in vars(self).items():
            generator.bit_generator.state = msgspec.to_builtins(state[name])


def episode_seed(seed: int, env: int, episode: int) -> int:
    """Return the environment seed, in [0, 2**31), of one training episode."""
    return int(_sequence(seed, _EPISODE, env, episode).generate_state(1)[0] >> 1)


def evaluation_seed(seed: int, episode: int) -> int:
    """Return the environment seed, in [0, 2**31), of evaluation episode `episode`: the same at every evaluation."""
    return int(_sequence(seed, _EVALUATION, episode).generate_state(1)[0] >> 1)


def health_generator(seed: int, env_steps: int) -> np.random.Generator:
    """Return the stream that a look at the training's health draws from: one of its own at every env step."""
    return np.random.default_rng(_sequence(seed, _HEALTH, env_steps))


def explain_generator(seed: int, env_steps: int, number: int) -> np.random.Generator:
    """Return the stream that `t3d explain` draws a batch and its noise from: one of its own for each number."""
    return np.random.default_rng(_sequence(seed, _EXPLAIN, env_steps, number))
