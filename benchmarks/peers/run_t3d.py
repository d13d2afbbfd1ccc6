"""Time t3d's training loop."""

import re
from pathlib import Path

import frames_env
import torch
from frames_env import SIDE
from job import Job, report, time_steps

from t3d.config import Config, TD3Config
from t3d.env_spec import EnvSpec
from t3d.training.trainer import Trainer


def blas() -> str:
    """Name the BLAS inside PyTorch and those loaded beside it; which of them works is the engine's choice."""
    inside = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    maps = Path("/proc/self/maps")
    loaded = set(re.findall(r"/lib(\w*(?:blas|mkl|blis)\w*)", maps.read_text() if maps.exists() else ""))
    return ", ".join([f"{inside[1] if inside else 'unknown'} in PyTorch", *sorted(loaded)])


def main() -> None:
    """Run the job given on the command line."""
    job = Job.from_argv()
    torch.set_num_threads(job.threads)
    same = {name: getattr(job, name) for name in ("random_steps", "batch_size", "buffer_size", "threads")}
    config = Config(**same, td3=TD3Config(hidden=job.hidden, lr=job.lr))
    if job.images:
        config = config.with_values({"frame_size": SIDE})
    env = f"{Path(frames_env.__file__).resolve()}:Frames" if job.images else job.env
    trainer = Trainer(EnvSpec(env), config.with_values({"engine": job.engine} if job.engine else {}))
    resident: list[int] = []
    read = time_steps(trainer.step, job, resident if job.images else None)
    losses = trainer.learner.losses()
    assert losses is not None and losses.updates == job.warm_updates + job.steps
    chosen = trainer.learner.chosen
    name = f"{type(chosen.engine).__name__}: {chosen.reason}"
    row = trainer.replay.full_bytes / job.buffer_size
    report("t3d", job, read, blas(), tuple(resident), engine=name, torch=torch.__version__, replay_bytes_per_row=row)


if __name__ == "__main__":
    main()
