"""Time TD3 of `stable-baselines3`, or of `sbx-rl`, which shares its training loop; the second argument says which."""

import re
import sys
from typing import Any

import gymnasium
import numpy as np
import torch
from frames_env import Frames
from job import Job, clocks, report, resident_bytes
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack


class Timed(BaseCallback):
    """Read the clocks when the job is warm and when it is done, and stop it then.

    A callback comes between a step and its update, so as many updates as steps lie between the two.
    """

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.at = (job.untimed_steps, job.untimed_steps + job.steps)
        self.read: list[tuple[float, float]] = []
        self.filling, self.resident = job.filling if job.images else (), list[int]()

    def _on_step(self) -> bool:
        if self.num_timesteps in self.filling:
            self.resident.append(resident_bytes())
        if self.num_timesteps in self.at:
            self.read.append(clocks())
        return len(self.read) < 2


def main() -> None:
    """Run the job given on the command line."""
    job, library = Job.from_argv(), sys.argv[2]
    torch.set_num_threads(job.threads)
    if library == "sbx-rl":
        from sbx import TD3
    else:
        from stable_baselines3 import TD3
    env = VecFrameStack(DummyVecEnv([Frames]), 3) if job.images else gymnasium.make(job.env)
    zero = np.zeros(env.action_space.shape or ())
    options: dict[str, Any] = {
        "learning_rate": job.lr,
        "buffer_size": job.buffer_size,
        "learning_starts": job.random_steps,
        "batch_size": job.batch_size,
        "train_freq": 1,
        "gradient_steps": 1,
        "policy_delay": 2,
        "action_noise": NormalActionNoise(zero, zero + 0.1),
        "policy_kwargs": {"net_arch": list(job.hidden)},
    }
    policy = "CnnPolicy" if job.images else "MlpPolicy"
    model = TD3(policy, env, device="cpu", seed=0, **options)
    timed = Timed(job)
    model.learn(timed.at[1], callback=timed, log_interval=None)
    assert model._n_updates == job.warm_updates + job.steps - 1  # the run ends before its last step's update
    row = sum(v.nbytes for v in vars(model.replay_buffer).values() if isinstance(v, np.ndarray)) / job.buffer_size
    inside = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    blas = "XLA's own" if library == "sbx-rl" else f"{inside[1] if inside else 'unknown'} in PyTorch"
    more = {"torch": torch.__version__, "replay_bytes_per_row": row}
    report(library, job, timed.read, blas, tuple(timed.resident), **more)


if __name__ == "__main__":
    main()
