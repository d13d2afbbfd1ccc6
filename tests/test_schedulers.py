"""Clusters: the Slurm script with a shell that stands for Slurm, the Dockerfile's steps, the Kubernetes manifest."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

import t3d

REPO = Path(__file__).resolve().parent.parent
CLUSTER = REPO / "cluster"
OWN = str(Path(__file__).with_name("own_envs.py"))
SMALL = ["--steps", "4000", "--eval-every", "2000", "--eval-episodes", "1", "--random-steps", "50"]
SMALL += ["--batch-size", "16", "--hidden", "8", "8", "--engine", "eager"]
NOBODY = 65534


def job():
    return yaml.safe_load((CLUSTER / "job.yaml").read_text())


def test_the_kubernetes_job_is_one_and_goes_on_after_what_is_nobodys_failure():
    validate = pytest.importorskip("kubernetes_validate")
    validate.validate(job(), "1.37", strict=True)
    broken = job()
    broken["spec"]["completionModus"] = "Indexed"
    with pytest.raises(validate.ValidationError):
        validate.validate(broken, "1.37", strict=True)
    (container,) = job()["spec"]["template"]["spec"]["containers"]
    words = shlex.split(container["command"][2])
    assert words[:3] == ["exec", "t3d", "train"]
    assert words[-2:] == ["--resume", "auto"]


def test_the_scripts_of_clusters_use_flags_that_exist():
    said = subprocess.run([sys.executable, "-m", "t3d", "train", "--help"], capture_output=True, text=True).stdout
    texts = [
        (CLUSTER / "slurm.sh").read_text().split("\nt3d train")[1],
        job()["spec"]["template"]["spec"]["containers"][0]["command"][2],
    ]
    for flag in re.findall(r"--[a-z-]+", " ".join(texts).partition("wait")[0]):
        assert flag in said, flag


@pytest.fixture
def slurm(tmp_path):
    """Return a function that runs the script as Slurm would, in a folder with a t3d and a scontrol of their own."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "t3d").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m t3d "$@"\n')
    (tools / "scontrol").write_text('#!/bin/sh\necho "$@" >> requeued\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    env = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
    env |= {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "1"}

    def begin():
        command = ["bash", str(CLUSTER / "slurm.sh"), f"{OWN}:Walk", *SMALL]
        return subprocess.Popen(
            command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    return begin


@pytest.mark.slow
def test_slurms_script_is_told_before_the_limit_requeues_and_goes_on_to_the_bit(slurm, tmp_path):
    run = tmp_path / "runs" / "slurm-17" / "s3"
    child = slurm()
    until = time.monotonic() + 120
    while not ((run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size > 2_000):
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGTERM)  # as --signal=B:TERM@120 does: the shell alone
    said = child.communicate(timeout=60)[1]
    assert child.returncode == 143, said
    assert (tmp_path / "requeued").read_text() == "requeue 17_3\n"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["what"] == "stopped by SIGTERM"
    assert rows[-1]["env_steps"] < 4000
    again = slurm()
    assert again.wait(timeout=120) == 0, again.stderr.read()
    again.stderr.close()
    assert (tmp_path / "requeued").read_text() == "requeue 17_3\n", "a run that has ended is not requeued"
    options = {"steps": 4000, "eval_every": 2000, "eval_episodes": 1, "random_steps": 50, "batch_size": 16}
    alone = t3d.train(
        f"{OWN}:Walk", seed=3, threads=1, engine="eager", hidden=(8, 8), video=False, out=tmp_path / "alone", **options
    )
    one, other = (safetensors.torch.load_file(path / "policy" / "last.safetensors") for path in (run, alone.path))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def python_of_everybody():
    """Return a Python that an ordinary user may run and make an environment with; this one may be root's alone."""
    asked = "import ensurepip, sys; sys.exit(sys.version_info < (3, 11))"
    for python in (Path(sys.base_prefix) / "bin" / "python3", Path("/usr/bin/python3")):
        try:
            if (
                subprocess.run([python, "-c", asked], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/").returncode
                == 0
            ):
                return python
        except OSError:
            continue
    return pytest.skip("there is no Python 3.11 or newer that an ordinary user may run")


def steps_of(dockerfile):
    """Return the instructions of a Dockerfile as pairs of name and rest, without comments."""
    lines = [line for line in dockerfile.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="becomes an ordinary user, which only root may")
def test_the_dockerfiles_steps_work_for_an_ordinary_user(tmp_path):
    python = python_of_everybody()
    home = Path("/tmp") / f"t3d-image-{os.getpid()}"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").symlink_to(python)
    os.chown(home, NOBODY, NOBODY)
    steps = steps_of(CLUSTER / "Dockerfile")
    begin = next(k for k, step in enumerate(steps) if step[0] == "USER") + 1
    there = lambda text: text.replace("/home/t3d", str(home))  # noqa: E731
    # The index of this machine in the place of PyTorch's own: a CPU build is not what this test is about.
    index = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True
    )
    pytorch = os.environ.get("PIP_INDEX_URL") or index.stdout.strip() or "https://pypi.org/simple"
    env = {"HOME": str(home), "PATH": f"{home / 'bin'}:/usr/bin:/bin", "PYTORCH": pytorch}
    env |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))}
    folder = home

    def run(command):
        done = subprocess.run(
            command, cwd=folder, env=env, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    try:
        for name, rest in steps[begin:]:
            if name == "WORKDIR":
                folder = Path(there(rest))
                folder.mkdir(parents=True)
                os.chown(folder, NOBODY, NOBODY)
            elif name == "ENV":
                key, value = there(rest).split("=", 1)
                env[key] = value.replace("$PATH", env["PATH"])
            elif name == "COPY":
                *sources, target = rest.replace("--chown=t3d ", "").split()
                for source in sources:
                    copied = shutil.copytree if (REPO / source).is_dir() else shutil.copy
                    copied(REPO / source, folder / (source if target == "./" else target))
                run_as_root = ["chown", "-R", f"{NOBODY}:{NOBODY}", str(folder)]
                subprocess.run(run_as_root, check=True)
            elif name == "RUN":
                run(["sh", "-c", there(rest)])
            else:
                assert name in ("ARG", "ENTRYPOINT"), name
        entry = json.loads(steps[-1][1])
        assert run([*entry, "--version"]).strip() == "0.1.0"
        out = run([*entry, "train", "Pendulum-v1", "--steps", "1200", "--eval-every", "600", "--no-video"])
        assert "folder      runs/Pendulum-v1/pendulum-s0" in out
        run([*entry, "tune", "--help"])
    finally:
        shutil.rmtree(home, ignore_errors=True)
