"""Tried as a new user would: in processes, with a real kill, and every command that is printed is run as printed."""

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROBOT = '''
import gymnasium
import numpy as np


class Robot(gymnasium.Env):
    """A point on a line that only one process may drive; it writes down every push."""

    observation_space = gymnasium.spaces.Box(-5, 5, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    is_open = False

    def __init__(self):
        if Robot.is_open:
            raise OSError("serial port busy")
        Robot.is_open = True
        self.diary = open("diary.txt", "a", buffering=1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.k = self.np_random.uniform(-1, 1, 2), 0
        self.diary.write("reset\\n")
        return self.at.astype(np.float32), {}

    def step(self, action):
        self.diary.write(f"{action[0]}\\n")
        self.at = np.clip(0.9 * self.at + 0.1 * float(action[0]), -5, 5)
        self.k += 1
        return self.at.astype(np.float32), -float(abs(self.at).sum()), False, self.k == 25, {}

    def close(self):
        Robot.is_open = False
        self.diary.close()


class Line(Robot):
    """A simulation of it: any number of them, each pushed aside by the wind."""

    def __init__(self, wind=0.0):
        self.wind, self.diary = wind, open("/dev/null", "a")

    def step(self, action):
        return super().step(action + self.wind)


def make_line(wind=0.0):
    return Line(wind)
'''
SMALL = ["--batch-size", "32", "--hidden", "16", "16", "--eval-episodes", "2", "--threads", "1"]


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("robot.py").write_text(ROBOT)


def t3d(*words):
    done = subprocess.run(
        [sys.executable, "-m", "t3d", *words], capture_output=True, text=True, check=False, timeout=300
    )
    return done.returncode, done.stdout, done.stderr


def printed(text, begins):
    """Return the words of the command or flags that a text says to give."""
    (found,) = re.findall(f"{begins}.*", text)
    return shlex.split(found.removesuffix(" if you trust it"))


def pushes():
    return [line for line in Path("diary.txt").read_text().splitlines() if line != "reset"]


def test_a_robot_that_exists_once_is_trained_killed_resumed_and_evaluated():
    flags = ["--steps", "5000", "--random-steps", "1000", "--checkpoint-every", "1000", "--eval-env", "same"]
    flags += ["--on-resume", "reset", "--eval-every", "1000", "--out", "run", *SMALL]
    child = subprocess.Popen([sys.executable, "-m", "t3d", "train", "robot.py:Robot", *flags], stderr=subprocess.PIPE)
    give_up = time.monotonic() + 240
    while not list(Path().glob("run/checkpoints/3[0-9][0-9][0-9]/manifest.json")):
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() < give_up
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    before = pushes()
    code, _, said = t3d("resume", "run")
    assert code == 2
    code, out, said = t3d("resume", "run", *printed(said, "--env"))
    assert code == 0, said
    assert "not bit for bit" in said
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    (resumed,) = [row["env_steps"] for row in rows if row["kind"] == "event" and "resumed from" in row["what"]]
    evaluated = sum(sum(row["lengths"]) for row in rows if row["kind"] == "evaluation" and row["env_steps"] > resumed)
    assert len(pushes()) - len(before) == 5000 - resumed + evaluated  # and not one that was logged
    code, out, said = t3d("evaluate", "run", "--env", "robot.py:Robot", "--json")
    assert code == 0, said
    # A better controller than none: standing still brings about -9.
    assert json.loads(out)["return_mean"] > -9


def test_hardware_by_its_flag_is_stopped_and_goes_on_as_printed():
    flags = ["--hardware", "--steps", "3000", "--random-steps", "500", "--out", "run", *SMALL]
    child = subprocess.Popen(
        [sys.executable, "-m", "t3d", "train", "robot.py:Robot", *flags], stderr=subprocess.PIPE, text=True
    )
    while not (Path("diary.txt").is_file() and len(pushes()) > 700):
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    said = child.communicate()[1]
    assert child.returncode == 143, said
    code, out, said = t3d(*printed(said, "t3d resume")[1:])
    assert code == 0, said
    assert "no video" not in out


def test_a_function_with_arguments_trains_two_seeds_in_workers():
    words = ["robot.py:make_line", "--env-arg", "wind=0.3", "--seeds", "2", "--n-envs", "2", "--env-workers", "2"]
    flags = ["--steps", "1500", "--random-steps", "500", "--out", "all", "--no-video", *SMALL]
    code, out, said = t3d("train", *words, *flags)
    assert code == 0, said
    assert "mean of 2 seeds" in out
    code, out, said = t3d("evaluate", "all/s1")
    assert code == 2
    given = printed(said, "--env")
    code, out, said = t3d("evaluate", "all/s1", *given, "--json")
    assert code == 0, said
    assert json.loads(out)["notes"] == []
    code, out, said = t3d("evaluate", "all/s1", "--env", "robot.py:make_line", "--env-arg", "wind=-0.3", "--json")
    assert "another environment" in json.loads(out)["notes"][0]
    code, out, said = t3d("resume", "all/s0", *given, "--steps", "2000", "--no-video")
    assert code == 0, said
    code, out, said = t3d("check", *words[:3], "--steps", "100")
    assert code == 0, said


def test_a_script_with_a_class_and_a_lambda():
    text = """
import t3d
from robot import Line

if __name__ == "__main__":
    small = dict(steps=400, random_steps=100, batch_size=32, hidden=(16, 16), eval_episodes=1, threads=1)
    run = t3d.train(lambda: Line(wind=0.2), out="by_lambda", **small)
    print(run.video_problem.one_line())
    run = t3d.train(Line, env_kwargs={"wind": 0.2}, out="by_class", env_workers=1, **small)
    print(run.video_problem.one_line())
    policy = t3d.load(run.path)
    print(policy([0.1, 0.2]).shape)
"""
    Path("mine.py").write_text(text)
    done = subprocess.run([sys.executable, "mine.py"], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "go without a film" in done.stdout
    assert "the environment has no render" in done.stdout  # it was made and reset in the process that films
    assert "(1,)" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="closes a terminal as Linux does")
def test_a_terminal_that_is_closed_stops_the_run_saved():
    words = [
        "train",
        "robot.py:Robot",
        "--hardware",
        "--steps",
        "100000",
        "--random-steps",
        "100",
        "--out",
        "run",
        *SMALL,
    ]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "t3d", *words])
    give_up = time.monotonic() + 60
    while not (Path("run/metrics.jsonl").is_file() and Path("run/metrics.jsonl").stat().st_size > 2_000):
        assert time.monotonic() < give_up
        if select.select([terminal], [], [], 0.01)[0]:
            os.read(terminal, 65_536)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 129
    last = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
    assert last["what"] == "stopped by SIGHUP"
    assert Path(f"run/checkpoints/{last['env_steps']}/manifest.json").is_file()
