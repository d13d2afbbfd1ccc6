"""Time TD3 of RLtools' Python package, which compiles itself for a job at its first run (about a minute).

On Pendulum-v1 it steps its own C++ pendulum; any other environment is Gymnasium's, called from C++.
"""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from job import Job, report, time_steps
from rltools import CACHE_PATH, TD3

PENDULUM = {"path": str(Path(__file__).parent / "rltools_pendulum"), "observation_dim": 3, "action_dim": 1}
BLAS = {"ENABLE_MKL": "MKL", "ENABLE_OPENBLAS": "OpenBLAS", "ENABLE_ACCELERATE": "Accelerate"}


def main() -> None:
    """Run the job given on the command line."""
    job = Job.from_argv()
    assert len(set(job.hidden)) == 1, "RLtools' networks have one width"
    assert not job.images, "RLtools' TD3 for Python has no CNN"

    def env_factory() -> Any:
        env = gymnasium.wrappers.RescaleAction(gymnasium.make(job.env), np.float32(-1), np.float32(1))
        env.reset(seed=0)
        return env

    name = "peers_" + "".join(filter(str.isalnum, job.env))
    options = {"STEP_LIMIT": 10**9, "REPLAY_BUFFER_CAP": job.buffer_size, "N_WARMUP_STEPS": job.random_steps}
    for part in ("ACTOR", "CRITIC"):
        options[f"{part}_BATCH_SIZE"] = job.batch_size
        options[f"{part}_HIDDEN_DIM"] = job.hidden[0]
        options[f"{part}_NUM_LAYERS"] = len(job.hidden) + 1  # the output layer counts
    env = PENDULUM if job.env == "Pendulum-v1" else env_factory
    off = {"enable_evaluation": False, "evaluation_interval": None}
    compiled = TD3(env, interface_name=name, OPTIMIZER_ALPHA=job.lr, **off, **options)
    command = Path(CACHE_PATH, "build", f"rltools_td3_{name}", "cmd.txt").read_text()
    blas = next((blas for flag, blas in BLAS.items() if flag in command), "none")
    report("rltools", job, time_steps(compiled.State(0).step, job), blas, compiler=command.split()[0])


if __name__ == "__main__":
    main()
