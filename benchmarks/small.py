"""Two small promises: how long the command line takes to help, and what a full memory takes; into results/small.json.

    python benchmarks/small.py          half a minute, on an idle machine

`t3d --help` and `t3d train --help` as processes of their own, in turns. A replay memory of HalfCheetah's sizes is
filled through `Replay.add` until its oldest transitions make room: what this process then has resident more than before
is the memory's.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from t3d.machine import describe
from t3d.replay import Replay
from t3d.spaces import Spaces

RESULTS = Path(__file__).parent / "results" / "small.json"
T3D = Path(sys.executable).with_name("t3d")
COMMANDS = (("--help",), ("train", "--help"))
TIMES = 7
SLOTS, OBS_SIZE, ACTION_SIZE, EPISODE = 1_000_000, 17, 6, 1_000  # HalfCheetah-v5


def help_s() -> dict[str, list[float]]:
    """Return of each command the seconds from its start to its end, of each of its processes."""
    seen: dict[str, list[float]] = {" ".join(("t3d", *command)): [] for command in COMMANDS}
    for _ in range(TIMES):
        for command, times in zip(COMMANDS, seen.values(), strict=True):
            began = time.perf_counter()
            subprocess.run([T3D, *command], stdout=subprocess.DEVNULL, check=True)
            times.append(time.perf_counter() - began)
    return seen


def full_replay() -> dict[str, Any]:
    """Fill a memory, and return how many transitions it holds in how many resident bytes."""
    rng = np.random.default_rng(0)
    obs, action = rng.standard_normal((1, OBS_SIZE), np.float32), rng.uniform(-1, 1, (1, ACTION_SIZE))
    reward, no, yes = np.ones(1, np.float32), np.zeros(1, np.bool_), np.ones(1, np.bool_)
    action = action.astype(np.float32)
    process = psutil.Process()
    before = process.memory_info().rss
    replay = Replay(SLOTS, 1, Spaces.of_vectors(OBS_SIZE, ACTION_SIZE))
    replay.begin(obs, yes)
    while replay.written[0] < SLOTS + 2 * EPISODE:
        for step in range(EPISODE):
            replay.add(action, reward, no, yes if step == EPISODE - 1 else no, obs)
        replay.begin(obs, yes)
    resident = process.memory_info().rss - before
    return {
        "slots": SLOTS,
        "transitions": len(replay),
        "resident_bytes": resident,
        "bytes_a_transition": resident / len(replay),
    }


def main() -> None:
    """Measure and write."""
    # First, while nothing has been allocated and given back, which the memory could take without growing the process.
    replay = full_replay()
    seen = help_s()
    result = {
        "machine": describe(),
        "help_s": {name: {"median": statistics.median(times), "all": times} for name, times in seen.items()},
        "replay": replay,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
