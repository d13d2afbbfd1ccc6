"""Time TD3 of Stable-Baselines3 (`stable_baselines3`) or of SBX (`sbx-rl`), which shares its training loop."""

from __future__ import annotations

import re
import sys

import numpy as np
import torch
from job import Instant, Job, report
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise


class Clock(BaseCallback):
    """Read the clocks when the job is warm and when it is done, and stop it then.

    A callback comes between a step and its update, so as many updates as steps lie between the two.
    """

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job
        self.read: list[Instant] = []

    def _on_step(self) -> bool:
        if self.num_timesteps in (self.job.untimed_steps, self.job.untimed_steps + self.job.steps):
            self.read.append(Instant.now())
        return len(self.read) < 2


def main() -> None:
    """Run the job given on the command line; the second argument names the library."""
    job, library = Job.from_argv(), sys.argv[2]
    torch.set_num_threads(job.threads)
    if library == "sbx-rl":
        from sbx import TD3
    else:
        from stable_baselines3 import TD3
    import gymnasium

    action_size = gymnasium.make(job.env).action_space.shape[0]
    model = TD3(
        "MlpPolicy",
        job.env,
        learning_rate=job.lr,
        buffer_size=job.buffer_size,
        learning_starts=job.random_steps,
        batch_size=job.batch_size,
        train_freq=1,
        gradient_steps=1,
        policy_delay=2,
        action_noise=NormalActionNoise(np.zeros(action_size), np.full(action_size, 0.1)),
        policy_kwargs={"net_arch": list(job.hidden)},
        device="cpu",
        seed=0,
    )
    clock = Clock(job)
    model.learn(job.untimed_steps + job.steps, callback=clock, log_interval=None)
    # The last callback ends the run before its update.
    assert model._n_updates == job.warm_updates + job.steps - 1
    replay = model.replay_buffer
    assert isinstance(replay, ReplayBuffer)
    arrays = (array for array in vars(replay).values() if isinstance(array, np.ndarray))
    inside = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    report(
        job,
        *clock.read,
        library,
        "jax" if library == "sbx-rl" else "torch",
        "gymnasium",
        blas="XLA's own" if library == "sbx-rl" else f"{inside[1] if inside else 'unknown'} in PyTorch",
        replay_bytes_per_row=sum(array.nbytes for array in arrays) / job.buffer_size,
    )


if __name__ == "__main__":
    main()
