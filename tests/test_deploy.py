"""What docs/deploy.md tells people to type, typed; and the pendulum in C beside Gymnasium's."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import small_runs

import t3d
from t3d.export import self_check
from t3d.runs.exports import export_policy

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "deploy.md").read_text("utf-8")
needs_cc = pytest.mark.skipif(self_check.c_compiler() is None, reason="no C compiler")


def commands(which):
    """Return the commands of a part of the page, as a shell takes them."""
    return re.search(rf"<!-- run: {which} -->\n```\n(.*?)```", PAGE, re.DOTALL)[1]


@pytest.fixture
def place(tmp_path):
    """Return a folder with the examples, in which `t3d` is this source's."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    tool = tmp_path / "bin" / "t3d"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m t3d "$@"\n')
    tool.chmod(0o755)
    return tmp_path


def typed(place, text):
    # The training that the page asks for takes minutes; this one is as good for what comes after it.
    short = text.replace("--steps 20_000", "--steps 300 --random-steps 100 --eval-episodes 1 --no-video")
    assert short != text
    variables = {**os.environ, "PYTHONPATH": str(Path(t3d.__file__).parents[1])}
    variables["PATH"] = f"{place / 'bin'}:{os.environ['PATH']}"
    child = subprocess.run(["sh", "-ex"], input=short, cwd=place, env=variables, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return child.stdout


@pytest.mark.slow
def test_the_commands_of_the_python_part(place):
    said = typed(place, commands("python"))
    assert "actions move by" in said
    assert "other core" in said
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
    variables = {**os.environ, "PYTHONPATH": str(Path(t3d.__file__).parents[1])}
    child = subprocess.run([sys.executable, "-c", code], cwd=place, env=variables, capture_output=True, text=True)
    assert re.fullmatch(r"\[-?\d\.\d+\] 0\n", child.stdout), child.stderr


@pytest.mark.slow
@needs_cc
def test_the_commands_of_the_c_part(place):
    said = typed(place, commands("c")).splitlines()
    assert re.fullmatch(r"-?\d\.\d+", said[-2])
    assert re.fullmatch(r"\d+ of 200 moments late, .*; 0 actions held; upright for the last \d+\.\d\d s", said[-1])


@needs_cc
def test_the_pendulum_in_c_is_gymnasiums(tmp_path):
    run = tmp_path / "run"
    small_runs.train(run, env="Pendulum-v1", max_episode_steps=20)
    export_policy(run, "c", out=tmp_path / "controller")
    program = tmp_path / "pendulum"
    strict = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    source = ROOT / "examples" / "pendulum.c"
    subprocess.run(["cc", *strict, f"-I{tmp_path / 'controller'}", source, "-o", program, "-lm"], check=True)
    said = subprocess.run([program, "10", "fast"], capture_output=True, text=True, check=True).stdout
    policy, env = t3d.load(run), gymnasium.make("Pendulum-v1")
    env.reset(seed=0)
    env.unwrapped.state = np.array([3.0, 0.0])
    obs, rewards = np.float32([np.cos(3.0), np.sin(3.0), 0.0]), []
    for _ in range(200):
        obs, reward, *_ = env.step(policy(obs))
        rewards.append(reward)
    assert float(said) == pytest.approx(sum(rewards), rel=1e-4)


def test_every_command_of_the_page_is_one_that_is_there():
    words = set(re.findall(r"^t3d (\w+)", PAGE, re.MULTILINE))
    assert words == {"train", "evaluate", "bench", "export"}
    assert set(re.findall(r"--format (\w+)", PAGE)) == {"c", "numpy", "onnx", "hub"}
