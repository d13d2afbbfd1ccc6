"""What this machine is and what it allows: memory, cores, versions."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = ("t3d", "torch", "numpy", "gymnasium", "mujoco", "Box2D", "pybullet", "pybullet_envs_gymnasium")


def usable_memory_bytes(root: Path = Path("/")) -> int:
    """Return the memory this process may take: what is available, or the least limit of its control groups."""
    limits = [int(text) for text in _of_groups(root, "memory", "memory.max", "memory.limit_in_bytes") if text != "max"]
    return min([int(psutil.virtual_memory().available), *limits])


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may keep busy, at least 1: a control group may grant a share of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [text.split() for text in _of_groups(root, "cpu", "cpu.max", "")]
    quotas, periods = (_of_groups(root, "cpu", "", f"cpu.cfs_{what}_us") for what in ("quota", "period"))
    shares += [[quota, period] for quota, period in zip(quotas, periods, strict=True) if int(quota) > 0]
    return min([cores, *(max(1, int(quota) // int(period)) for quota, period in shares if quota != "max")])


def _of_groups(root: Path, controller: str, name: str, name_1: str) -> list[str]:
    """Return what a file says in each control group on the path to this process, which is bound by all of them.

    Args:
        root: of the file system.
        controller: memory or cpu.
        name: the file's name in version 2 of control groups; empty if it has none there.
        name_1: in version 1.
    """
    own = root / "proc/self/cgroup"
    texts = []
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, path = line.split(":", 2)
        mount, file = root / "sys/fs/cgroup", name
        if controllers:
            mount, file = mount / controller, name_1
            if controller not in controllers.split(","):
                continue
        elif (mount / "unified").is_dir():
            mount /= "unified"
        # A path that leads out of what is mounted here names groups that cannot be seen; its root holds those that can.
        groups = [] if ".." in Path(path).parts else [part for part in Path(path).parts if part != "/"]
        folders = [mount.joinpath(*groups[:depth]) for depth in range(len(groups) + 1)]
        texts += [(folder / file).read_text().strip() for folder in folders if file and (folder / file).is_file()]
    return texts


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
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of t3d and of what its numbers come from, of those that are installed."""
    return {name: version for name in _PACKAGES if (version := _version(name))}


@functools.cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
