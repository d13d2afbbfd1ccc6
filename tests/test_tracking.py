"""Trackers: every row once, whoever is killed. What needs W&B and MLflow skips without them: `make test-track`."""

import importlib.util
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from run_folders import episode, evaluation, row, rows_of, write_rows, write_run

from t3d import tracking
from t3d.cli.main import run
from t3d.errors import RunRefused
from t3d.formats import RunRecord
from t3d.runs.run_folder import clear
from t3d.storage import checked_files
from t3d.storage.lock import Lock, is_held
from t3d.tracking import follow

T3D = [sys.executable, "-m", "t3d"]
OWN = str(Path(__file__).parents[1] / "examples" / "own_env.py")  # which needs nothing but Gymnasium
FLAGS = ["--eval-every", "500", "--eval-episodes", "1", "--random-steps", "50", "--batch-size", "16"]
FLAGS += ["--hidden", "8", "--engine", "eager", "--log-every", "50", "--no-video", "--out", "run", "--resume", "auto"]
needs = {
    name: pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")
    for name in ("wandb", "mlflow")
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_DIR", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


class Kept:
    """A tracker that keeps what it gets, as a real one does: across processes that are killed."""

    rows: list
    files: list

    def __init__(self, record, path):
        self.closed = False

    def sent(self):
        return {key for key, _ in Kept.rows}

    def send(self, rows):
        Kept.rows += rows

    def keep(self, key, name, path):
        Kept.files.append(name)
        Kept.rows.append((key, {}))

    def close(self):
        self.closed = True


@pytest.fixture
def kept(monkeypatch):
    Kept.rows, Kept.files = [], []
    monkeypatch.setitem(follow.TRACKERS, "wandb", Kept)
    monkeypatch.setattr(follow, "refuse_without", lambda to: None)
    monkeypatch.setattr(follow, "_LOOK_S", 0)
    monkeypatch.setattr(follow, "_QUIET_S", 0)
    return Kept


def test_a_finished_runs_rows_and_files_are_sent_once(folder, kept):
    extra = [episode(50, 1.0), episode(50, 2.0), row("event", 60, what="a reason")]
    write_run(folder / "run", {100: 1.0, 200: 2.0}, extra=extra)
    (folder / "run" / "report.html").write_text("<p>")
    assert follow.follow(folder / "run", "wandb", None) == 6
    assert [one["kind"] for _, one in kept.rows[:-1]] == [one["kind"] for one in rows_of(folder / "run")]
    assert kept.files == ["report.html"]
    assert follow.follow(folder / "run", "wandb", None) == 0
    assert kept.files == ["report.html"]
    clear(folder / "run")
    assert not (folder / "run" / "tracking").exists()


def test_rows_that_come_again_after_a_resume_are_not_sent_again(folder, kept):
    write_run(folder / "run", {100: 1.0})
    rows = [row("run", 0, run=checked_files.read(folder / "run" / "config.json", RunRecord).run)]
    rows += [episode(10, 1.0), episode(10, 2.0), episode(20, 3.0), evaluation(100, 4.0)]
    write_rows(folder / "run", rows)
    followed = follow._Followed(folder / "run", "wandb")
    assert followed.send_new() == 5
    resumed = [*rows[:3], row("event", 10, what="killed"), {**rows[3], "wall_s": 99.0}, evaluation(100, 4.0)]
    write_rows(folder / "run", resumed)
    assert followed.send_new() == 1, "the event alone is new"
    write_rows(folder / "run", [*resumed, episode(110, 1.0)])
    assert followed.send_new() == 1
    followed.close()
    assert Counter(one["kind"] for _, one in kept.rows) == {"run": 1, "episode": 4, "evaluation": 1, "event": 1}


def test_of_a_parent_every_run_is_followed(folder, kept):
    for seed in (0, 1):
        write_run(folder / "all" / f"s{seed}", {100: 1.0}, seed=seed)
    assert follow.follow(folder / "all", "wandb", None) == 4
    with pytest.raises(RunRefused, match="no run here"):
        follow.follow(folder / "nothing", "wandb", None)


def test_numbers_have_a_name_and_lists_stay(folder):
    assert tracking.numbers_of(evaluation(100, 4.0)) == {
        "evaluation/wall_s": 1.0, "evaluation/return_mean": 4.0, "evaluation/return_std": 1.0,
    }  # fmt: skip


def test_a_run_counts_as_held_while_its_process_lives(folder):
    (folder / "run").mkdir()
    assert not is_held(folder / "run")
    lock = Lock(folder / "run")
    assert is_held(folder / "run")
    lock.close()
    assert not is_held(folder / "run")
    (folder / "run" / "lock").write_text("process 4194399 on " + os.uname().nodename)
    assert not is_held(folder / "run"), "it was killed"
    (folder / "run" / "lock").write_text("process 4194399 on another-node")
    assert is_held(folder / "run")


def test_a_missing_tracker_is_named_before_a_run_begins(folder, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run(["train", "Pendulum-v1", "--steps", "2000", "--track", "mlflow"]) == 2
    assert "pip install 't3d[mlflow]'" in capsys.readouterr().err
    assert not (folder / "runs").exists()
    write_run(folder / "run", {100: 1.0})
    assert run(["track", "run", "--to", "wandb"]) == 2
    assert "pip install 't3d[wandb]'" in capsys.readouterr().err


# --- the real ones


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "WANDB_MODE": "offline"}


def wandb_keys(folder):
    from t3d.tracking.wandb import keys_in

    return [key for log in sorted(folder.glob("wandb/*/*.wandb")) for key in keys_in(log)]


def mlflow_keys(folder):
    with sqlite3.connect(folder / "mlflow.db") as database:
        return [int(value) for (value,) in database.execute("select value from metrics where key = 't3d/row'")]


def expected_keys(folder):
    keys = tracking.Keys()
    return {keys.of(one) for one in rows_of(folder / "run")}


TRACKED = {"wandb": wandb_keys, "mlflow": mlflow_keys}


@pytest.mark.slow
@pytest.mark.parametrize("to", [pytest.param(name, marks=mark) for name, mark in needs.items()])
def test_after_ten_kills_of_tracker_and_run_every_row_is_there_once(folder, to):
    rng = random.Random(0)
    train = [*T3D, "train", f"{OWN}:Drone", *FLAGS, "--steps", "6000", "--track", to]
    kills = 0
    while kills < 10:
        child = subprocess.Popen(train, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(4, 9))
        victims = [pid for pid in trackers_of(folder) if rng.random() < 0.6] or [child.pid]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        kills += 1
        if victims != [child.pid]:
            time.sleep(1)
        child.kill()
        child.wait()
    done = subprocess.run(train, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "tracking by" not in done.stderr, "the tracker beside it has ended well"
    sent = subprocess.run([*T3D, "track", "run", "--to", to], env=environment(), capture_output=True, text=True)
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout.startswith("sent        0 rows"), "the one beside it has sent all"
    there = Counter(TRACKED[to](folder))
    assert set(there.values()) == {1}
    assert expected_keys(folder) <= set(there)
    events = sum(one["kind"] == "event" for one in rows_of(folder / "run"))
    assert len(there) <= len(expected_keys(folder)) + events + 10 + 1, "rows, events that a kill took back, the report"
    print(sent.stdout, json.dumps({"rows": len(there), "kills": kills}))


def trackers_of(folder):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            here = (entry / "cwd").readlink() == folder
        except OSError:
            continue
        if here and "t3d.tracking.follow" in words:
            found.append(int(entry.name))
    return found
