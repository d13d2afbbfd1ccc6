"""What this machine is and what it allows: memory, cores, versions."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import psutil

# Control groups, version 2 and version 1; a container's limit stands in one of them.
_MEMORY_LIMIT_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_PACKAGES = ("t3d", "torch", "numpy", "gymnasium", "mujoco", "Box2D", "pybullet", "pybullet_envs_gymnasium")


def usable_memory_bytes() -> int:
    """Return the memory this process may take: the control group's limit or what is available, whichever is less."""
    usable = int(psutil.virtual_memory().available)
    for name in _MEMORY_LIMIT_FILES:
        path = Path(name)
        text = path.read_text().strip() if path.exists() else "max"
        if text != "max":
            usable = min(usable, int(text))
    return usable


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Return the processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def describe() -> dict[str, Any]:
    """Return what a reader of a result must know of the machine and the libraries."""
    return {
        "system": platform.platform(),
        "processor": processor(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }


@functools.cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
