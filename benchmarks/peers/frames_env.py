"""An environment of pictures that costs next to nothing: what a library takes for its memory and its update is left."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

SIDE, EPISODE, PICTURES = 84, 200, 64


class Frames(gymnasium.Env[np.ndarray, np.ndarray]):
    """Noise of SIDE pixels in grey, one of PICTURES after the other; episodes of EPISODE steps; one action."""

    observation_space = Box(0, 255, (SIDE, SIDE, 1), np.uint8)
    action_space = Box(-1, 1, (1,), np.float32)

    def __init__(self) -> None:
        shape = (PICTURES, *self.observation_space.shape)
        self.pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.steps = 0
        return self.pictures[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Show the next picture."""
        self.steps += 1
        return self.pictures[self.steps % PICTURES], -float(action[0] ** 2), False, self.steps == EPISODE, {}
