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

import t3d
from t3d.export import self_check
from t3d.runs.exports import export_policy

ROOT = Path(__file__).resolve().parents[1]
TRAINED = Path(__file__).parent / "data" / "pendulum.safetensors"
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


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Return the pendulum in C with a policy of 20,000 steps (tests/data/make_pendulum.py)."""
    place = tmp_path_factory.mktemp("controller")
    export_policy(TRAINED, "c", out=place / "controller")
    strict = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    source = ROOT / "examples" / "pendulum.c"
    command = ["cc", *strict, f"-I{place / 'controller'}", source, "-o", place / "pendulum", "-lm"]
    subprocess.run(command, check=True)
    return place / "pendulum"


@needs_cc
def test_the_pendulum_in_c_is_gymnasiums(program):
    said = subprocess.run([program, "10", "3.0"], capture_output=True, text=True, check=True).stdout
    policy, env = t3d.load(TRAINED), gymnasium.make("Pendulum-v1")
    env.reset(seed=0)
    env.unwrapped.state = np.array([3.0, 0.0])
    obs, rewards = np.float32([np.cos(3.0), np.sin(3.0), 0.0]), []
    for _ in range(200):
        obs, reward, *_ = env.step(policy(obs))
        rewards.append(reward)
    assert float(said.split()[0]) == pytest.approx(sum(rewards), rel=1e-3)


@needs_cc
@pytest.mark.parametrize("angle", [3.1416, 3.0, -2.0, 1.5, 0.3])
def test_a_trained_policy_swings_it_up_in_c_and_holds_it(program, angle):
    said = subprocess.run([program, "20", str(angle)], capture_output=True, text=True, check=True).stdout
    assert float(said.split()[1]) >= 10  # of 20 seconds; it hangs still at first


@needs_cc
@pytest.mark.slow  # ten seconds by the clock
def test_in_real_time_it_swings_up_and_counts_the_moments_that_came_late(program):
    said = subprocess.run([program, "10"], capture_output=True, text=True, check=True).stdout
    late, held, upright = re.fullmatch(
        r"(\d+) of 200 moments late, the worst by \d+\.\d+ ms; (\d+) actions held; upright for the last (.*) s\n", said
    ).groups()
    assert float(upright) >= 4
    assert int(held) == 0
    assert int(late) <= 200  # how many depends on what else this machine does


def test_every_command_of_the_page_is_one_that_is_there():
    words = set(re.findall(r"^t3d (\w+)", PAGE, re.MULTILINE))
    assert words == {"train", "evaluate", "bench", "export"}
    assert set(re.findall(r"--format (\w+)", PAGE)) == {"c", "numpy", "onnx", "hub"}
