"""Time t3d's training loop."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from job import Job, report, time_steps

from t3d.config import Config, TD3Config
from t3d.training import Trainer


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
    config = Config(
        random_steps=job.random_steps,
        batch_size=job.batch_size,
        buffer_size=job.buffer_size,
        threads=job.threads,
        td3=TD3Config(hidden=job.hidden, lr=job.lr),
    ).with_values({"engine": job.engine} if job.engine else {})
    trainer = Trainer(job.env, config)
    began, ended = time_steps(trainer.step, job)
    losses = trainer.losses()
    assert losses is not None and losses.updates == job.warm_updates + job.steps
    engine = getattr(trainer, "engine", None)
    report(
        job,
        began,
        ended,
        "t3d",
        "torch",
        "gymnasium",
        blas=blas(),
        engine=type(engine).__name__ if engine is not None else "td3.py",
        replay_bytes_per_row=trainer.replay.full_bytes / job.buffer_size,
    )


if __name__ == "__main__":
    main()
