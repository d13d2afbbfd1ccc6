"""Every example does what it says; one_critic.py also in test_algorithms.py, fifteen_steps.py in test_notebook.py."""

import importlib
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import small_runs
from film_here import films_here

import t3d
from t3d.cli.main import run as t3d_command

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
DRONE = f"{EXAMPLES / 'own_env.py'}:Drone"
SMALL = {
    "hidden": (8, 8),
    "batch_size": 16,
    "buffer_size": 2_000,
    "random_steps": 100,
    "eval_episodes": 1,
    "threads": 1,
}


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module
    for path in EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)


def script(name, *arguments):
    """Start an example as its docstring says, with this source, in a process of its own."""
    source = str(Path(t3d.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": source},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.fixture
def here(example, monkeypatch, capsys):
    """Return what runs an example as a script in this process, which has imported PyTorch, and returns what it says."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [str(EXAMPLES / name), *map(str, arguments)])
        runpy.run_path(sys.argv[0], run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def flown(tmp_path_factory):
    """Return the folder of a run in the drone, with a video."""
    out = tmp_path_factory.mktemp("drone") / "run"
    with films_here():
        return t3d.train(DRONE, out=out, steps=200, engine="eager", video_frames=10, **SMALL).path


def test_every_example_is_listed_and_tested():
    listed = re.findall(r"\]\((\w+\.py)\)", (EXAMPLES / "README.md").read_text("utf-8"))
    assert listed == sorted(path.name for path in EXAMPLES.glob("*.py"))
    tests = "".join(Path(__file__).with_name(f"test_{name}.py").read_text("utf-8") for name in ("examples", "notebook"))
    assert all(tests.count(name) > 1 for name in listed)


# ---- own_env.py


def test_the_drone_is_a_clean_environment(capsys):
    assert t3d_command(["check", DRONE]) == 0
    said = capsys.readouterr().out
    assert said.count(" ok ") == 9


def test_the_drone_flies_as_it_should(example):
    drone = example("own_env").Drone("rgb_array")
    drone.reset(seed=0)
    drone.place[:], drone.speed[:], drone.tilt, drone.spin = 0.0, 0.0, 0.0, 0.0
    for _ in range(50):
        obs, reward, terminated, truncated, _ = drone.step(np.array([0.5, 0.5], np.float32))
    assert obs == pytest.approx([0, 0, 0, 0, 0, 1, 0])  # each rotor bears half of it
    assert (reward, terminated, truncated) == (1, False, False)
    drone.step(np.array([0.4, 0.6], np.float32))
    assert drone.spin > 0 and drone.observe()[4] > 0  # more thrust on the right tips it to the left ...
    drone.step(np.array([0.5, 0.5], np.float32))
    assert drone.speed[0] < 0  # ... and there it goes
    centre = drone.render()[70:90, 70:90].reshape(-1, 3).tolist()
    assert [15, 113, 115] in centre


def test_a_crash_terminates_the_drones_episode_and_the_time_limit_truncates_it(example):
    module = example("own_env")
    drone = module.Drone()
    drone.reset(seed=0)
    for _ in range(module.EPISODE_STEPS):
        *_, terminated, truncated, _ = drone.step(np.array([0, 0], np.float32))
        if terminated or truncated:
            break
    assert (terminated, truncated) == (True, False)
    assert drone.place[1] < -module.ROOM_M
    drone.reset(seed=0)
    for _ in range(module.EPISODE_STEPS):
        drone.place[:], drone.speed[:], drone.tilt, drone.spin = 0.0, 0.0, 0.0, 0.0
        *_, terminated, truncated, _ = drone.step(np.array([0.5, 0.5], np.float32))
    assert (terminated, truncated) == (False, True)


def test_the_drone_can_be_trained_in_and_filmed(flown):
    rows = [json.loads(line) for line in (flown / "metrics.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} >= {"episode", "update", "evaluation", "health"}
    assert (flown / "video" / "best.mp4").stat().st_size > 500


# ---- policy.py


def test_a_policy_drives_a_program_of_ones_own(here, flown, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda s: None)  # four seconds
    said = here("policy.py", flown)
    assert re.fullmatch(r"\d+ moments missed; the drone is \d+\.\d\d m off\n", said)


def test_the_control_loop_keeps_its_rate_and_counts_what_it_missed(example, monkeypatch):
    module = example("policy")
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(module.time, "sleep", lambda s: clock.__setitem__(0, clock[0] + s))
    drove, takes_s = [], iter([0.001, 0.001, 0.025, 0.001, 0.001])

    def read():
        clock[0] += next(takes_s)
        return np.zeros(2)

    missed = module.control(lambda obs: obs + 1, read, lambda action: drove.append((clock[0], action)), 100, 0.05)
    # One look takes 25 ms where there are 10, so the next is late, too; then it has made up for it.
    assert missed == 2
    assert [at for at, _ in drove] == pytest.approx([0.001, 0.011, 0.045, 0.046, 0.047])
    assert all((action == 1).all() for _, action in drove)


# ---- tail_metrics.py


def test_rows_are_handed_out_once_whole(example, tmp_path):
    module, path, seen = example("tail_metrics"), tmp_path / "metrics.jsonl", []
    assert module.new_rows(path, seen) == []
    rows = [{"kind": "episode", "env_steps": n, "wall_s": n / 7} for n in range(6)]
    lines = [json.dumps(row) + "\n" for row in rows]
    path.write_text(lines[0] + lines[1][:9])
    assert module.new_rows(path, seen) == rows[:1]
    assert module.new_rows(path, seen) == []
    path.write_text("".join(lines[:3]))
    assert module.new_rows(path, seen) == rows[1:3]
    # Cut back behind the second row and grown beyond where it was, between two looks.
    path.write_text("".join(lines[:2] + lines[3:6]))
    assert module.new_rows(path, seen) == rows[3:6]
    path.write_text(lines[0])
    assert module.new_rows(path, seen) == []
    path.write_text(lines[0] + lines[2])
    assert module.new_rows(path, seen) == rows[2:3]


def test_a_run_is_followed_across_a_resume_that_cuts_it_back(example, tmp_path):
    module, run, seen = example("tail_metrics"), tmp_path / "run", []
    got = {}

    def look():
        for row in module.new_rows(run / "metrics.jsonl", seen):
            if row["kind"] == "evaluation":
                got[row["env_steps"]] = row
        return got

    small_runs.train(run, until=40)
    look()
    # What was written after the checkpoint by a process that was then killed.
    late = {"kind": "evaluation", "env_steps": 50, "wall_s": 1.0, "return_mean": 99.0}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(late) + "\n" + json.dumps(late)[:20])
    assert look()[50] == late
    small_runs.train(run, resume=True)
    whole = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    wanted = {row["env_steps"]: row for row in whole if row["kind"] == "evaluation"}
    assert len(wanted) > 2
    assert {step: row for step, row in look().items() if step in wanted} == wanted


def test_the_tail_prints_every_row_until_it_is_stopped(flown):
    child = script("tail_metrics.py", flown)
    wanted = len((flown / "metrics.jsonl").read_text().splitlines())
    said = [child.stdout.readline() for _ in range(wanted)]
    child.send_signal(signal.SIGINT)
    rest, errors = child.communicate(timeout=60)
    assert (child.returncode, rest, errors) == (0, "", "")
    assert any(re.match(r"200 evaluation .*return_mean=", line) for line in said)


# ---- one_critic.py


def test_one_critic_is_trained_and_goes_on(here, tmp_path):
    for steps in (1_020, 1_040):  # the first thousand are random
        said = here("one_critic.py", "Pendulum-v1", "--steps", steps, "--out", tmp_path / "run")
    assert re.match(r"return -[\d,.]+, report .*report\.html", said)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["algorithm"], config["config"]["steps"]) == ("OneCritic", 1_040)
    assert "resumed from" in (tmp_path / "run" / "metrics.jsonl").read_text()
