"""What a job may take of a machine: the limits of its control groups, as the system's files say them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from t3d import machine

V2 = "0::/system.slice/job.scope/step"
V1 = "5:memory:/slurm/job_7\n4:cpu,cpuacct:/slurm/job_7\n0::/"


def tree(root, own, files):
    """Make a file system of nothing but these files; `own` is what the process says of its groups."""
    groups = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in {"proc/self/cgroup": own, **groups}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text and f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        (V2, {"system.slice/job.scope/memory.max": "1000", "system.slice/job.scope/step/memory.max": "max"}, 1_000),
        (V2, {"system.slice/memory.max": "3000", "system.slice/job.scope/step/memory.max": "2000"}, 2_000),
        (V2, {"unified/system.slice/memory.max": "4000"}, 4_000),
        ("0::/", {"memory.max": "5000"}, 5_000),
        ("0::/../../other", {"memory.max": "6000"}, 6_000),
        (V1, {"memory/slurm/memory.limit_in_bytes": "7000", "memory/slurm/job_7/memory.limit_in_bytes": "8000"}, 7_000),
    ],
)
def test_the_least_limit_of_memory_along_the_path_counts(tmp_path, own, files, limit):
    assert machine.usable_memory_bytes(tree(tmp_path, own, files)) == limit


def test_without_a_limit_it_is_what_is_available(tmp_path):
    free = machine.usable_memory_bytes(tree(tmp_path, V2, {"system.slice/memory.max": "max"}))
    assert free == pytest.approx(machine.usable_memory_bytes(tmp_path / "empty"), rel=0.2)
    assert free > 1_000_000


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        (V2, {"system.slice/cpu.max": "200000 100000", "system.slice/job.scope/cpu.max": "max 100000"}, 2),
        (V2, {"system.slice/job.scope/step/cpu.max": "350000 100000"}, 3),
        (V2, {"system.slice/job.scope/step/cpu.max": "50000 100000"}, 1),
        (V1, {"cpu/slurm/cpu.cfs_quota_us": "-1", "cpu/slurm/cpu.cfs_period_us": "100000"}, 64),
        (
            V1,
            {
                "cpu/slurm/cpu.cfs_quota_us": "-1",
                "cpu/slurm/cpu.cfs_period_us": "100000",
                "cpu/slurm/job_7/cpu.cfs_quota_us": "400000",
                "cpu/slurm/job_7/cpu.cfs_period_us": "100000",
            },
            4,
        ),
        ("", {}, 64),
    ],
)
def test_a_quota_counts_as_so_many_cores(tmp_path, monkeypatch, own, files, cores):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert machine.usable_cores(tree(tmp_path, own, files)) == cores


@pytest.fixture
def group():
    """Make a control group below this process's own, with a limit; a function that returns its folder."""
    made = []

    def make(controller, limits):
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        ours = {name: path for _, names, path in lines for name in names.split(",")}
        mount, path = Path("/sys/fs/cgroup") / controller, ours.get(controller, "")
        if not mount.is_dir():  # version 2
            mount, path = Path("/sys/fs/cgroup"), ours.get("", "")
        folder = mount / path.lstrip("/") / f"t3d-test-{os.getpid()}"
        try:
            folder.mkdir()
            made.append(folder)
            files = [(folder / name, value) for name, value in limits.items() if (folder / name).exists()]
            for file, value in files:
                file.write_text(value)
        except OSError as error:
            pytest.skip(f"no control group can be made here: {error}")
        if not files:
            pytest.skip(f"a control group made here has none of {', '.join(limits)}")
        return folder

    yield make
    for folder in made:
        folder.rmdir()


def said_in(folder, what):
    text = f"import os; open({str(folder / 'cgroup.procs')!r}, 'w').write(str(os.getpid())); from t3d import machine; "
    return int(subprocess.check_output([sys.executable, "-c", text + f"print(machine.{what}())"]))


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_in_a_real_control_group_its_memory_counts(group):
    limit = 300 * 2**20
    folder = group("memory", {"memory.limit_in_bytes": str(limit), "memory.max": str(limit)})
    assert said_in(folder, "usable_memory_bytes") == limit < machine.usable_memory_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_in_a_real_control_group_its_share_of_the_cores_counts(group):
    folder = group("cpu", {"cpu.cfs_quota_us": "100000", "cpu.max": "100000 100000"})
    assert said_in(folder, "usable_cores") == 1
