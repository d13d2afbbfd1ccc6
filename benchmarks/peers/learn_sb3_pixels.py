"""Train Stable-Baselines3's TD3 with its CnnPolicy from the pictures that an environment draws, for an hour.

    .venv-peers/bin/python benchmarks/peers/learn_sb3_pixels.py JOB OUT

JOB and OUT are as of learn_sb3.py; whichever comes first, JOB's steps or its `seconds`, ends the training. The picture
is what t3d learns from (64x64 pixels in grey, each the mean of its area; three frames; each action played twice), and
the options are the library's own: those of its TD3 and of its CnnPolicy, with exploration noise 0.1.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from learn_sb3 import Evaluated, tell
from PIL import Image
from stable_baselines3 import TD3
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

SIDE, STACK, REPEAT = 64, 3, 2


class Pictures(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Observe the picture; an action is played REPEAT times."""

    observation_space = Box(0, 255, (SIDE, SIDE, 1), np.uint8)

    def _picture(self) -> np.ndarray:
        picture = Image.fromarray(self.env.render()).convert("L")
        return np.array(picture.resize((SIDE, SIDE), Image.Resampling.BOX))[:, :, None]

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        _, info = self.env.reset(**options)
        return self._picture(), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Play an action, and see where that led."""
        total = 0.0
        for _ in range(REPEAT):
            _, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return self._picture(), total, terminated, truncated, info


def stacked(env: str) -> VecFrameStack:
    """Return an environment of stacks of pictures."""
    return VecFrameStack(DummyVecEnv([lambda: Pictures(gymnasium.make(env, render_mode="rgb_array"))]), STACK)


def play(model: TD3, env: str, seeds: list[int]) -> list[float]:
    """Return what one episode from each seed brings, played without noise in an instance of its own."""
    made, returns = stacked(env), []
    for seed in seeds:
        made.seed(seed)
        obs, ended, total = made.reset(), False, 0.0
        while not ended:
            obs, reward, dones, _ = made.step(model.predict(obs, deterministic=True)[0])
            total, ended = total + float(reward[0]), bool(dones[0])
        returns.append(total)
    made.close()
    return returns


class ForAnHour(Evaluated):
    """Evaluate every so many env steps, and stop when the time is over, which evaluations count towards."""

    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__(job["env"], job["eval_every"], job["eval_seeds"], play)
        self.ends = time.monotonic() + job["seconds"]

    def _on_step(self) -> bool:
        return super()._on_step() and time.monotonic() < self.ends


def main() -> None:
    """Run the job given on the command line."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    job, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    env = stacked(job["env"])
    zero = np.zeros(env.action_space.shape or ())
    options: dict[str, Any] = {"seed": job["seed"], "device": "cpu", "buffer_size": job["steps"]}
    model = TD3("CnnPolicy", env, action_noise=NormalActionNoise(zero, zero + 0.1), **options)
    seen, began = ForAnHour(job), time.monotonic()
    model.learn(job["steps"], callback=seen, log_interval=None)
    options |= {"action_noise": 0.1, "policy": "CnnPolicy", "batch_size": model.batch_size}
    tell(out, job, seen, began, options=options, env_steps=model.num_timesteps, action_repeat=REPEAT)


if __name__ == "__main__":
    main()
