"""Time TD3 of RLtools' Python package, which compiles itself for the job at the first run (about a minute).

On Pendulum-v1 it steps its own C++ pendulum; any other environment is Gymnasium's, called from C++.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
from job import Job, report, time_steps
from rltools import CACHE_PATH, TD3

PENDULUM = {"path": str(Path(__file__).parent / "rltools_pendulum"), "observation_dim": 3, "action_dim": 1}


def main() -> None:
    """Run the job given on the command line."""
    job = Job.from_argv()
    assert len(set(job.hidden)) == 1, "RLtools' networks have one width"

    def env_factory() -> gymnasium.Env[Any, Any]:
        env = gymnasium.wrappers.RescaleAction(gymnasium.make(job.env), -1, 1)
        env.reset(seed=0)
        return env

    name = "peers_" + "".join(filter(str.isalnum, job.env))
    compiled = TD3(
        PENDULUM if job.env == "Pendulum-v1" else env_factory,
        interface_name=name,
        enable_evaluation=False,
        evaluation_interval=None,
        STEP_LIMIT=10**9,
        REPLAY_BUFFER_CAP=job.buffer_size,
        N_WARMUP_STEPS=job.random_steps,
        ACTOR_BATCH_SIZE=job.batch_size,
        CRITIC_BATCH_SIZE=job.batch_size,
        ACTOR_HIDDEN_DIM=job.hidden[0],
        CRITIC_HIDDEN_DIM=job.hidden[0],
        ACTOR_NUM_LAYERS=len(job.hidden) + 1,  # it counts the output layer
        CRITIC_NUM_LAYERS=len(job.hidden) + 1,
        OPTIMIZER_ALPHA=job.lr,
    )
    command = Path(CACHE_PATH, "build", f"rltools_td3_{name}", "cmd.txt").read_text()
    found = {"ENABLE_MKL": "MKL", "ENABLE_OPENBLAS": "OpenBLAS", "ENABLE_ACCELERATE": "Accelerate"}
    blas = next((name for flag, name in found.items() if flag in command), "none")
    began, ended = time_steps(compiled.State(0).step, job)
    report(job, began, ended, "rltools", "gymnasium", blas=blas, compiler=command.split()[0])


if __name__ == "__main__":
    main()
