"""Train Stable-Baselines3's TD3 with the options of t3d's preset td3, and write how it was evaluated on the way.

    .venv-peers/bin/python benchmarks/peers/learn_sb3.py JOB OUT

JOB is JSON: env, seed, steps, eval_every and eval_seeds, the seed of every evaluation episode. OUT is written at the
end; benchmarks/learn.py makes the job and reads the result.
"""

import json
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise


def play(model: TD3, env: str, seeds: list[int]) -> list[float]:
    """Return what one episode from each seed brings, played without noise in an instance of its own."""
    made, returns = gymnasium.make(env), []
    for seed in seeds:
        (obs, _), ended, total = made.reset(seed=seed), False, 0.0
        while not ended:
            obs, reward, terminated, truncated, _ = made.step(model.predict(obs, deterministic=True)[0])
            total, ended = total + float(reward), terminated or truncated
        returns.append(total)
    made.close()
    return returns


class Evaluated(BaseCallback):
    """Evaluate every so many env steps."""

    def __init__(self, env: str, every: int, seeds: list[int], play: Callable[..., list[float]] = play) -> None:
        super().__init__()
        self.env, self.every, self.seeds, self.play = env, every, seeds, play
        self.curve: list[tuple[int, list[float]]] = []

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            self.curve.append((self.num_timesteps, self.play(self.model, self.env, self.seeds)))
            print(self.num_timesteps, np.mean(self.curve[-1][1]), flush=True)
        return True


def tell(out: Path, job: dict[str, Any], seen: Evaluated, began: float, **more: Any) -> None:
    """Write what was seen, as a whole."""
    packages = ("stable-baselines3", "torch", "numpy", "gymnasium", "mujoco")
    result = {
        **{key: value for key, value in job.items() if key != "eval_seeds"},
        **more,
        "final": float(np.mean(seen.curve[-1][1])),
        "wall_s": time.monotonic() - began,
        "curve": [[at, float(np.mean(returns))] for at, returns in seen.curve],
        "system": platform.platform(),
        "versions": {package: version(package) for package in packages},
    }
    part = out.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.rename(out)


def main() -> None:
    """Run the job given on the command line."""
    job, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    zero = np.zeros(gymnasium.make(job["env"]).action_space.shape or ())
    options: dict[str, Any] = {
        "learning_rate": 3e-4,
        "buffer_size": 1_000_000,
        "learning_starts": 10_000,
        "batch_size": 256,
        "tau": 0.005,
        "gamma": 0.99,
        "train_freq": 1,
        "gradient_steps": 1,
        "policy_delay": 2,
        "target_policy_noise": 0.2,
        "target_noise_clip": 0.5,
    }
    noise, nets = NormalActionNoise(zero, zero + 0.1), {"net_arch": [256, 256]}
    options |= {"seed": job["seed"], "device": "cpu"}
    model = TD3("MlpPolicy", job["env"], action_noise=noise, policy_kwargs=nets, **options)
    seen = Evaluated(job["env"], job["eval_every"], job["eval_seeds"])
    began = time.monotonic()
    model.learn(job["steps"], callback=seen, log_interval=None)
    tell(out, job, seen, began, options={**options, "action_noise": 0.1, **nets})


if __name__ == "__main__":
    main()
