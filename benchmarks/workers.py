"""What a step costs in worker processes, what they gain where it is slow, how soon one that dies or hangs is reported.

Results go to benchmarks/results/workers.json.

python benchmarks/workers.py
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from t3d.env_spec import EnvSpec
from t3d.environments.envs import Envs
from t3d.errors import EnvFailed
from t3d.machine import describe

HERE = Path(__file__).resolve()
LIMIT_S = 1.0  # --env-timeout
OBS = np.zeros(4, np.float32)


class Trivial(gymnasium.Env[Any, Any]):
    """Does nothing."""

    observation_space = Box(-1, 1, (4,), np.float32)
    action_space = Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin an episode."""
        return OBS, {}

    def step(self, action: Any) -> Any:
        """Step at once."""
        return OBS, 0.0, False, False, {}


class Spins(Trivial):
    """Computes for 5 ms a step."""

    def step(self, action: Any) -> Any:
        """Step, busy."""
        until = time.perf_counter() + 0.005
        while time.perf_counter() < until:
            pass
        return super().step(action)


class Dies(Trivial):
    """Its process is killed in a step."""

    def step(self, action: Any) -> Any:
        """Die."""
        os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class Hangs(Trivial):
    """Never answers."""

    def step(self, action: Any) -> Any:
        """Wait for ever."""
        time.sleep(1e6)
        return super().step(action)


def reported_after_s(name: str) -> float:
    """Return the seconds from the beginning of a step that fails to its report, of four environments in two workers."""
    envs = Envs(EnvSpec(f"{HERE}:{name}"), 4, lambda i, k: k, fresh=False, workers=2, timeout_s=LIMIT_S)
    began = time.perf_counter()
    try:
        envs.step(np.zeros((4, 2), np.float32))
    except EnvFailed:
        return time.perf_counter() - began
    finally:
        envs.close()
    raise AssertionError(f"{name} did not fail")


def seconds_a_step(name: str, n_envs: int, workers: int, steps: int) -> float:
    """Return the median over five rounds of the seconds that a step of all environments takes."""
    envs = Envs(EnvSpec(f"{HERE}:{name}"), n_envs, lambda i, k: k, fresh=False, workers=workers)
    action = np.zeros((n_envs, 2), np.float32)
    rounds = []
    for _ in range(6):
        began = time.perf_counter()
        for _ in range(steps):
            envs.step(action)
        rounds.append((time.perf_counter() - began) / steps)
    envs.close()
    return statistics.median(rounds[1:])


def main() -> None:
    """Measure, print and write."""
    cases = [("Trivial", 1, 0), ("Trivial", 1, 1), *(("Trivial", 4, w) for w in (0, 1, 2, 4)), ("Spins", 4, 0)]
    rows = []
    for name, n_envs, workers in [*cases, ("Spins", 4, 1), ("Spins", 4, 2)]:
        step_s = seconds_a_step(name, n_envs, workers, 2_000 if name == "Trivial" else 50)
        rows.append({"env": name, "n_envs": n_envs, "env_workers": workers, "step_us": round(1e6 * step_s, 1)})
        print(rows[-1], flush=True)
    reports = {}
    for name, limit_s in (("Dies", 0.0), ("Hangs", LIMIT_S)):
        late = [reported_after_s(name) - limit_s for _ in range(5)]
        reports[name] = {"limit_s": limit_s, "late_s_worst_of_5": round(max(late), 4)}
        print(name, reports[name], flush=True)
    out = HERE.with_name("results") / "workers.json"
    out.write_text(json.dumps({"machine": describe(), "rows": rows, "reports": reports}, indent=2) + "\n")


if __name__ == "__main__":
    main()
