"""Processes that are ended. kill -9 at any instant: the run is resumed as often as it takes, and ends with what the
undisturbed run ends with. A signal stops a run between two steps, saved, and one to its worker process, too. A folder
belongs to one process, as long as that lives."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from crash_lives import flags
from crash_runs import Disk, ends_with, live, newest, undisturbed

from t3d.errors import RunRefused
from t3d.storage.lock import Lock
from t3d.training.trainer import Trainer

# ---- Killed

LEARNS = {
    "preset": "td3",
    "steps": 800,
    "random_steps": 500,
    "batch_size": 16,
    "buffer_size": 700,  # goes round before the end
    "hidden": (16, 16),
    "checkpoint_every": 90,
    "eval_every": 350,
    "eval_episodes": 1,
    "log_every": 100,
    "threads": 1,
}
# The fast suite's: half a second in all.
BRIEF = LEARNS | {
    "steps": 300,
    "random_steps": 200,
    "buffer_size": 260,
    "checkpoint_every": 40,
    "eval_every": 130,
    "log_every": 150,
}
WHERE = ("anywhere", "training", "anywhere", "evaluating", "anywhere", "saving", "anywhere", "resuming")
MOST_KILLS = 8  # of one run
# The hopper is made anew for each episode; they are short, where one of PyBullet's ant takes two seconds.
CASES = list(itertools.product(("InvertedPendulum-v5", "HopperBulletEnv-v0"), (1, 4), ("eager", "fused")))


def kill(life, where, rng, usual_s):
    """Kill a process somewhere, unless it is over before."""
    if where == "anywhere":
        until = time.monotonic() + rng.uniform(0, usual_s)
        life.until(lambda: time.monotonic() > until)
    elif life.until(lambda: life.phase == where):
        time.sleep(rng.uniform(0, 0.004))
    life.send("SIGKILL")
    return life.wait()


def undisturbed_command(server, folder, case, learns):
    """Return how the run is begun and resumed, what it ends with, and how long it takes."""
    env, n_envs, engine = case
    options = [env, *flags({**learns, "n_envs": n_envs, "engine": engine}), "--resume", "auto", "--out"]
    began = time.monotonic()
    life = server.start("train", *options, folder / "undisturbed")
    assert life.wait() == 0, life.said
    return options, ends_with(folder / "undisturbed"), time.monotonic() - began


def kill_often(server, folder, kills, case, learns=LEARNS):
    options, expected, whole_s = undisturbed_command(server, folder, case, learns)
    usual_s = 0.6 * whole_s
    rng, where, killed = np.random.default_rng(kills), itertools.cycle(WHERE), {}
    for run in (folder / str(number) for number in itertools.count()):
        for attempt in itertools.count():
            life, place = server.start("train", *options, run), next(where)
            goes_on = attempt < MOST_KILLS and sum(killed.values()) < kills
            code = kill(life, place, rng, usual_s) if goes_on else life.wait()
            if code == 0:
                break
            assert code == -9, life.said
            killed[place] = killed.get(place, 0) + 1
        assert "damaged" not in life.said
        assert "cannot be used" not in life.said
        assert "not bit for bit" not in life.said
        assert ends_with(run) == expected, (run, killed)
        if sum(killed.values()) >= kills:
            break
    assert kills < len(WHERE) or set(killed) == set(WHERE), killed


def test_a_few_kills(server, folder):
    kill_often(server, folder, 5, CASES[3], BRIEF)


@pytest.mark.parametrize(
    ("case", "algorithm"),
    [
        (CASES[0], "td7"),  # whose priorities, encoders and checkpointed policy must come back as well
        pytest.param(CASES[0], "td3", marks=pytest.mark.slow),
        pytest.param(CASES[3], "td3", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_few_kills_of_a_run_that_normalises_repeats_actions_and_learns_in_bursts(server, folder, case, algorithm):
    learns = BRIEF | {"normalize_obs": True, "action_repeat": 2, "train_at": "episode", "algorithm": algorithm}
    kill_often(server, folder, 3, case, learns)


@pytest.mark.slow  # the fast suite cuts such runs in test_pictures.py
@pytest.mark.parametrize(
    ("env", "sees"),
    [
        (f"{Path(__file__).parents[1] / 'picture_envs.py'}:Camera", {"frame_size": 16, "n_envs": 2}),
        ("InvertedPendulum-v5", {"pixels": True}),
    ],
    ids=("images beside vectors", "drawn"),
)
def test_a_few_kills_of_a_run_that_sees_images(server, folder, env, sees):
    learns = BRIEF | {"updates_per_step": 0.25, **sees}
    kill_often(server, folder, 3, (env, learns.pop("n_envs", 1), "eager"), learns)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_25_kills_each_200_in_all(server, folder, case):
    kill_often(server, folder, 25, case)


# ---- Stopped by a signal, which is heard

ENVS = str(Path(__file__).with_name("crash_envs.py"))
SLOW = {
    "preset": "td3",
    "steps": 600,
    "random_steps": 200,
    "updates_per_step": 0.25,
    "batch_size": 8,
    "buffer_size": 1_000,
    "hidden": (8, 8),
    "eval_every": 500,
    "eval_episodes": 15,  # half a second
    "log_every": 100,
    "threads": 1,
    "engine": "eager",
}
CODES = {"SIGTERM": 143, "SIGINT": 130}
PROMISED_S = 5  # to save and leave


def train(server, run, *more, env="Slow", **options):
    return server.start("train", f"{ENVS}:{env}", *flags({**SLOW, **options}), "--out", run, "--resume", "auto", *more)


def finish(server, run, **options):
    life = train(server, run, **options)
    assert life.wait() == 0, life.said
    return ends_with(run)


class Noting(Disk):
    """Note the env steps of what is committed."""

    def __init__(self):
        super().__init__()
        self.commits = []

    def committed(self, env_steps):
        self.commits.append(env_steps)


@pytest.fixture(scope="module")
def expected(server, tmp_path_factory):
    return finish(server, tmp_path_factory.mktemp("runs") / "undisturbed")


def updates(run):
    return json.loads((newest(run) / "manifest.json").read_text())["trainer"]["updates"]


def rows(run, kind):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["kind"] == kind]


def has(run, kind):
    return (run / "metrics.jsonl").exists() and f'"kind": "{kind}"' in (run / "metrics.jsonl").read_text()


@pytest.mark.slow  # the fast suite has the next test
@pytest.mark.parametrize(
    ("when", "name"),
    [
        ("training", "SIGTERM"),
        ("evaluating", "SIGINT"),
        ("warming up", "SIGTERM"),
        ("warming up", "SIGINT"),
        ("training", "SIGINT"),
        ("evaluating", "SIGTERM"),
    ],
)
def test_a_signal_saves_and_leaves(server, tmp_path, expected, when, name):
    run = tmp_path / "run"
    life = train(server, run)
    if when == "evaluating":
        assert life.until(lambda: life.phase == "evaluating")
    else:
        assert life.until(lambda: has(run, "episode" if when == "warming up" else "update"))
    life.send(name)
    assert life.wait(PROMISED_S) == CODES[name], life.said
    assert f"stopped by {name}" in life.said
    assert "to go on: t3d resume" in life.said
    assert (updates(run) == 0) == (when == "warming up")
    assert rows(run, "event")[-1]["what"] == f"stopped by {name}"
    assert rows(run, "evaluation") == []
    assert finish(server, run) == expected
    assert [row["what"].split()[0] for row in rows(run, "event")] == ["stopped", "resumed"]


@pytest.mark.parametrize("name", [*CODES, "SIGUSR1"])
def test_it_is_heard_behind_the_very_step_in_which_it_comes(monkeypatch, folder, name):
    step, disk = Trainer.step, Noting()

    def step_with_signal(trainer):
        if trainer.env_steps == 33:
            signal.raise_signal(signal.Signals[name])
        return step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step_with_signal)
        ended = live(monkeypatch, folder / "run", disk)
    if name in CODES:
        assert (ended.code, disk.commits) == (CODES[name], [15, 30, 34])
        assert live(monkeypatch, folder / "run", Disk()).resumed_at == 34
    else:
        assert (ended.code, disk.commits) == (0, [15, 30, 34, 45])
    assert ends_with(folder / "run") == undisturbed().ends_with


@pytest.mark.slow
@pytest.mark.parametrize("name", CODES)
def test_a_signal_while_it_films(server, tmp_path, expected, name):
    run = tmp_path / "run"
    life = train(server, run, "--video", "--video-frames", "100000")
    assert life.until(lambda: life.phase == "filming")
    life.send(name)
    assert life.wait(PROMISED_S) == CODES[name], life.said
    assert ends_with(run) == expected
    assert not (run / "video" / "best.mp4").exists()
    assert finish(server, run) == expected


@pytest.mark.slow
def test_sigusr1_saves_and_goes_on(server, tmp_path, expected):
    run = tmp_path / "run"
    life = train(server, run, checkpoint_every=100_000)
    assert life.until(lambda: has(run, "episode"))
    assert not (run / "checkpoints").exists()
    life.send("SIGUSR1")
    assert life.until(lambda: (run / "checkpoints").exists() and newest_or_none(run)), life.said
    assert 0 < int(newest(run).name) < SLOW["steps"]
    assert life.wait() == 0, life.said
    assert ends_with(run) == expected


def newest_or_none(run):
    return [path for path in (run / "checkpoints").iterdir() if path.suffix != ".new"]


@pytest.mark.parametrize("name", CODES)
def test_a_second_signal_leaves_at_once(server, tmp_path, name):
    life = train(server, tmp_path / "run", env="Hangs")
    assert life.until(lambda: life.phase == "training")
    life.send(name)
    time.sleep(0.3)
    assert not life.over, "the first one waits for the step to end"
    life.send(name)
    assert life.wait(PROMISED_S) == -signal.Signals[name]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere worker processes are not tested")
def test_a_killed_worker_ends_the_run_saved_and_the_same_command_goes_on(server, tmp_path, expected):
    """The undisturbed run had its environment in its own process: the same bits."""
    run = tmp_path / "run"
    life = train(server, run, env_workers=1)
    assert life.until(lambda: has(run, "update")), life.said
    worker = min(psutil.Process(life.pid).children(), key=psutil.Process.create_time)  # evaluations have their own
    worker.kill()
    assert life.wait() == 1, life.said
    assert "t3d: the environment's worker process was killed by SIGKILL" in life.said
    assert "Slow, training environment 0, env step " in life.said
    assert "Traceback" not in life.said
    (failed,) = rows(run, "event")
    assert failed["what"].startswith("the environment's worker process was killed by SIGKILL")
    assert int(newest(run).name) == failed["env_steps"] < SLOW["steps"]
    assert updates(run) > 0
    life = train(server, run, env_workers=1)
    assert life.wait() == 0, life.said
    assert f"resumed at env step {failed['env_steps']}" in life.said
    assert ends_with(run) == expected


def test_a_folder_has_one_process_and_a_killed_one_keeps_nobody_out(server, tmp_path):
    run = tmp_path / "run"
    holder = train(server, run, env="Hangs")
    assert holder.until(lambda: holder.phase == "training")
    other = train(server, run, env="Hangs")
    assert other.wait() == 2
    assert f"held by process {holder.pid} on " in other.said
    holder.send("SIGKILL")
    holder.wait()
    assert (run / "lock").exists()
    third = train(server, run, env="Hangs")
    assert third.until(lambda: third.phase == "training"), third.said
    third.send("SIGKILL")
    third.wait()


FORKS = """
import os, sys, time
from pathlib import Path
from t3d.storage.lock import Lock
held = Lock(Path(sys.argv[1]))
child = os.fork()
if child == 0:
    os.close(1)
    time.sleep(600)
print(child, flush=True)
sys.stdin.read()
"""


def test_a_forked_child_that_outlives_its_parent_does_not_keep_the_folder(tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", FORKS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child = int(parent.stdout.readline())
    try:
        with pytest.raises(RunRefused, match=f"held by process {parent.pid} on "):
            Lock(tmp_path)
        parent.kill()
        parent.wait()
        os.kill(child, 0)  # it lives
        Lock(tmp_path).close()
    finally:
        os.kill(child, signal.SIGKILL)
        parent.stdin.close()
        parent.stdout.close()
