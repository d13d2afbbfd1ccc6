"""Several seeds at once: each is what it is alone, and what happens to one happens to it alone."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import safetensors.torch
import small_runs
import torch
from run_folders import row, write_rows

import t3d
from t3d import presets
from t3d.cli.main import run
from t3d.env_spec import EnvSpec
from t3d.errors import RunRefused
from t3d.execution import jobs, processes

OWN = str(Path(__file__).with_name("own_envs.py"))
ILL = str(Path(__file__).with_name("ill_envs.py"))
SMALL = {"steps": 400, "eval_every": 200, "eval_episodes": 1, "random_steps": 50, "batch_size": 16, "hidden": (8, 8)}
FLAGS = ["--steps", "400", "--eval-every", "200", "--eval-episodes", "1", "--random-steps", "50", "--batch-size", "16"]
FLAGS += ["--hidden", "8", "8", "--engine", "eager", "--no-video"]
T3D = [sys.executable, "-c", "from t3d.cli.main import main; main()"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def last_weights(run):
    return safetensors.torch.load_file(Path(run) / "policy" / "last.safetensors")


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def begun(command, condition):
    """Start a command, and return it once something holds."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not condition():
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)
    return child


def pids_of(text):
    """Return the processes whose command line holds a text, this one's children among them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if text in (entry / "cmdline").read_bytes().decode(errors="replace"):
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [pid for pid in found if pid != os.getpid()]


def planned(out, resume=False):
    return jobs.jobs_of(EnvSpec("Pendulum-v1"), presets.choose(EnvSpec("Pendulum-v1")), 1, out, resume=resume)


def test_a_folder_of_seeds_is_gone_on_with_when_asked_to_and_not_else(folder):
    parent, (job,) = planned(None)
    stopped = small_runs.train(Path(job.out), env="Pendulum-v1", until=300, n_envs=1, steps=400, seed=0)
    assert stopped.trainer.env_steps < 400
    assert planned(None)[0] == parent.with_name("pendulum-n1-2")
    with pytest.raises(RunRefused, match="--resume auto"):
        planned(parent)
    assert planned(None, resume=True) == (parent, [job])
    assert planned(parent, resume=True) == (parent, [job])
    choice = stopped.choice.config
    jobs.train_run(job._replace(config=dataclasses.asdict(choice)))
    alone = small_runs.train(folder / "alone", env="Pendulum-v1", n_envs=1, steps=400, seed=0)
    assert alone.finished
    assert same(last_weights(folder / "alone"), last_weights(job.out))


def test_a_seed_that_does_not_leave_when_asked_is_killed(folder, monkeypatch):
    monkeypatch.setattr(processes, "LEAVES_S", 0.3)
    deaf = processes.Child(planned(folder / "all")[1][0])
    text = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    deaf.process = subprocess.Popen([sys.executable, "-c", text], text=True, **pipes)
    deaf._listener = threading.Thread(target=deaf._listen, args=(deaf.process,))
    deaf._listener.start()
    assert deaf.process.stdout.readline() == "1\n"
    processes.end([deaf])
    assert deaf.process.returncode == -signal.SIGKILL
    deaf.process.stdout.close()


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_each_seed_is_what_it_is_alone(folder, capsys, count):
    assert run(["train", "Pendulum-v1", *FLAGS, "--seeds", f"{count}", "--jobs", "1", "--seed", "4"]) == 0
    out = capsys.readouterr().out
    parent = folder / "runs" / "Pendulum-v1" / f"pendulum-n{count}"
    assert f"folder      {parent.relative_to(folder)}" in out
    for seed in (4, 5)[:count]:
        assert f"seed {seed}" in out
        alone = t3d.train("Pendulum-v1", video=False, seed=seed, threads=1, engine="eager", **SMALL)
        assert same(last_weights(alone.path), last_weights(parent / f"s{seed}"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_killing_one_seed_leaves_the_others_and_the_same_command_finishes(folder, capsys):
    slow = [*FLAGS, "--steps", "2000", "--seeds", "4", "--jobs", "4", "--out", str(folder / "all")]
    metrics = folder / "all" / "s2" / "metrics.jsonl"
    child = begun([*T3D, "train", f"{OWN}:Walk", *slow], lambda: metrics.exists() and metrics.stat().st_size > 500)
    (victim,) = pids_of(json.dumps(str(folder / "all" / "s2")).strip('"') + '"}')
    os.kill(victim, signal.SIGKILL)
    said = child.communicate()[1]
    assert child.returncode == 1
    assert "1 seed of 4 did not reach the end" in said
    assert "seed 2: killed by SIGKILL" in said
    ended = [json.loads((folder / "all" / f"s{k}" / "metrics.jsonl").read_text().splitlines()[-1]) for k in (0, 1, 3)]
    assert [row["env_steps"] for row in ended] == [2000, 2000, 2000]
    assert run(["train", f"{OWN}:Walk", *slow]) == 2  # the folder is taken
    assert run(["resume", str(folder / "all" / "s2"), "--env", f"{OWN}:Walk", "--no-video"]) == 0
    undisturbed = t3d.train(f"{OWN}:Walk", video=False, seed=2, threads=1, engine="eager", **SMALL | {"steps": 2000})
    assert same(last_weights(undisturbed.path), last_weights(folder / "all" / "s2"))
    capsys.readouterr()
    assert run(["train", f"{OWN}:Walk", *slow, "--resume", "auto"]) == 0  # nothing is left to do
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[:5]] == ["seed"] * 4 + ["all"]
    assert "mean of 4 seeds" in out


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        (signal.SIGINT, 130),
        (signal.SIGKILL, -9),
    ],
)
def test_a_signal_reaches_every_seed_once_and_none_outlives_the_command(folder, number, code):
    flags = [*FLAGS, "--steps", "1e7", "--seeds", "2", "--jobs", "2", "--out", str(folder / "all")]
    both = [folder / "all" / f"s{k}" / "metrics.jsonl" for k in (0, 1)]
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        ready = lambda: all(path.exists() and path.stat().st_size > 500 for path in both)  # noqa: E731
        child = begun([*T3D, "train", f"{OWN}:Walk", *flags], ready)
    finally:
        signal.signal(signal.SIGINT, heard)
    os.kill(child.pid, number)
    said = child.communicate(timeout=60)[1]
    assert child.returncode == code, said
    end = time.monotonic() + 30
    while pids_of(str(folder / "all")) and time.monotonic() < end:
        time.sleep(0.05)
    assert pids_of(str(folder / "all")) == []
    for path in both:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert rows[-1]["what"] == "stopped by SIGTERM"
        assert (path.parent / "checkpoints" / str(rows[-1]["env_steps"])).is_dir()


@pytest.mark.slow
def test_a_seed_that_fails_is_named(folder, capsys):
    assert run(["train", f"{OWN}:NanObs", *FLAGS, "--seeds", "2", "--out", "all"]) == 1
    err = capsys.readouterr().err
    assert "2 seeds of 2 did not reach the end" in err
    assert "non-finite observation" in err


def test_seeds_that_cannot_begin_are_refused(folder, capsys):
    assert run(["train", "Pendulum-v1", *FLAGS, "--seeds", "0"]) == 2
    assert run(["train", "Nonsense-v0", *FLAGS, "--seeds", "2"]) == 2
    (folder / "one").mkdir()
    (folder / "one" / "config.json").write_text("{}")
    assert run(["train", "Pendulum-v1", *FLAGS, "--out", "one", "--seeds", "2"]) == 2
    assert "holds a single run" in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_wrong_stands_in_the_line_of_its_seed(folder, capsys):
    flags = [*FLAGS, "--log-every", "50", "--seeds", "2"]
    assert run(["train", f"{ILL}:SameReward", *flags]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "400 steps" in line]
    assert sorted(line.split()[1] for line in lines) == ["0", "1"]
    assert all(line.endswith("  ! rewards all the same") for line in lines), lines


@pytest.mark.slow
def test_where_nothing_is_wrong_nothing_is_said(folder, capsys):
    assert run(["train", f"{OWN}:Walk", *FLAGS, "--log-every", "50", "--seeds", "2"]) == 0
    said = capsys.readouterr().err
    assert said.count("400 steps") == 2
    assert "!" not in said


def test_a_seed_whose_metrics_were_cut_is_judged_from_their_beginning(folder):
    _, (job,) = planned(folder / "all")
    metrics = folder / "all" / "s0" / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    looks = [{"reward_mean": 0.5, "reward_std": 0.0, "terminated_share": 0.0, "value_bound": None}] * 4
    looks = [{"saturated_share": 0.0, "dead_actor": 0.0, "dead_q1": 0.0, "dead_q2": 0.0} | look for look in looks]
    rows = [{"kind": "run", "env_steps": 0, "wall_s": 0.0, "run": "0" * 64}]
    rows += [row("health", 50 * k, of="batch", **look) for k, look in enumerate(looks)]
    watched = processes.Child(job)
    for count, said in ((4, ["rewards all the same"]), (2, []), (3, ["rewards all the same"])):
        write_rows(metrics.parent, rows[: 1 + count])
        watched.look()  # it notices that rows were cut, and reads again from their beginning at its next look
        assert [hint.name for hint in watched.look().hints] == said
