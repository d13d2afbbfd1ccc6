"""A trained policy in thirty lines of a program of your own: NumPy in, NumPy out, at a fixed rate.

    python examples/policy.py runs/own_env.Drone/td3-s0

`t3d.load` needs neither training code nor an environment; the drone here only stands for your robot. Actions come in
the units that the policy was trained in, clipped to their bounds.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from own_env import Drone

import t3d

Floats = NDArray[np.float32]


def control(
    policy: t3d.Policy, read: Callable[[], Floats], drive: Callable[[Floats], object], hz: float, s: float
) -> int:
    """Read, decide and drive `hz` times a second for `s` seconds; return how many of those moments were missed."""
    due, missed = time.monotonic(), 0
    for _ in range(round(s * hz)):
        drive(policy(read()))
        due += 1 / hz
        missed += time.monotonic() > due
        time.sleep(max(0.0, due - time.monotonic()))
    return missed


def main(run: str, hz: float = 50.0, s: float = 4.0) -> None:
    drone = Drone()
    drone.reset(seed=0)
    missed = control(t3d.load(run), drone.observe, drone.step, hz, s)
    print(f"{missed} moments missed; the drone is {abs(drone.place).max():.2f} m off")


if __name__ == "__main__":
    main(sys.argv[1])
