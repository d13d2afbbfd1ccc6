"""Bad input, as people type it: refused with exit code 2, nothing written; or failed later with 1, all saved."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sealing import seal

import t3d
from t3d.cli.main import run
from t3d.env_spec import EnvSpec
from t3d.environments.make import make
from t3d.runs import session

OWN = str(Path(__file__).with_name("own_envs.py"))
SMALL = ["--hidden", "8", "8", "--batch-size", "8", "--eval-episodes", "1", "--threads", "1", "--no-video"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test types in a folder of its own; what it puts on the import path is taken off again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    return tmp_path


def typed(capsys, *arguments):
    """Run a command. Return its exit code, stdout and stderr."""
    try:
        code = run(list(arguments))
    except SystemExit as stop:  # tyro's own refusals
        code = stop.code
    said = capsys.readouterr()
    return code, said.out, said.err


def refused(capsys, folder, *arguments):
    """Run a command that must be refused before anything is written. Return what it said."""

    def there():
        return [path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts]

    before = there()
    code, out, err = typed(capsys, *arguments)
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    assert there() == before
    return err


def test_spaces_that_td3_cannot_act_or_see_in(capsys, folder):
    rows = {
        "DiscreteActions": ["TD3 needs continuous actions", "Discrete(3)", "a Box of floats"],
        "MultiDiscreteActions": ["TD3 needs continuous actions", "MultiDiscrete([3 3])"],
        "WholeActions": ["TD3 needs continuous actions", "int64"],
        "Unbounded": ["bounds are impossible", "-inf", "finite bounds with low < high"],
        "AsGoodAsUnbounded": ["bounds are impossible", "finite bounds"],
        "LowIsHigh": ["bounds are impossible", "low = [0.0, 0.0, 1.0], high = [1.0, 1.0, 1.0]"],
        "LowAboveHigh": ["cannot be made", "ValueError", "low=[0. 2. 0.]", "own_envs.py, line"],
        "LowAboveHighLater": ["bounds are impossible", "low = [0.0, 2.0, 0.0]"],
        "DictObs": ["Discrete observations are not supported", "obs/gear is Discrete(3)", "FlattenObservation"],
        "TupleObs": ["smaller than a frame shall be", "obs/1 of 8x8 pixels", "let it draw a larger picture"],
        "NeedsArguments": ["cannot be made", "missing 1 required positional argument: 'size'", "--env-arg"],
    }
    for name, says in rows.items():
        err = refused(capsys, folder, "train", f"{OWN}:{name}")
        for text in [f"own_envs.py:{name}", *says, "  got:", "  do:"]:
            assert text in err, f"{name}: {err}"
    for env, says in {"CartPole-v1": "Discrete(2)", "Blackjack-v1": "continuous"}.items():
        assert says in refused(capsys, folder, "train", env)
    assert "continuous" in refused(capsys, folder, "check", "CartPole-v1")


def test_environments_that_do_not_exist(capsys, folder):
    (folder / "wrong.py").write_text("class Wrong(\n")
    (folder / "raises.py").write_text("import gymnasium\n\n1 / 0\n")
    (folder / "lacks.py").write_text("import no_such_package\n")
    rows = {
        "HalfCheeta-v5": ["no such environment", "for example HalfCheetah-v5", "module:Id; or path/to/file.py:Class"],
        "HalfCheetah-v9": ["no such environment", "HalfCheetah-v5"],
        "HalfCheetah": ["no such environment", "HalfCheetah-v5"],
        "Nonsense": ["no such environment", 'pip install "t3d[mujoco,box2d,bullet]"'],
        "": ["no such environment"],
        "a b::c": ["no such module"],
        "HopperBulletEnv-v7": ["no such environment", "HopperBulletEnv-v0", 'pip install "t3d[bullet]"'],
        "t3d_no_such:Robot-v0": ["no such module", "t3d_no_such", "PYTHONPATH"],
        "json:Robot-v0": ["no such environment", "Robot"],
        "raises:Robot-v0": ["cannot be made", "ZeroDivisionError: division by zero", "raises.py, line 3"],
        "lacks:Robot-v0": ["is not installed", "no_such_package"],
        "nowhere.py:Robot": ["no such file", str(folder / "nowhere.py")],
        "wrong.py:Wrong": ["cannot be made", "SyntaxError", "wrong.py, line 1"],
        "raises.py:Robot": ["cannot be made", "ZeroDivisionError", "raises.py, line 3"],
        "lacks.py:Robot": ["is not installed", "no_such_package"],
        f"{OWN}:Robot": ["no such class or function", "Robot in", "NanObs"],
        f"{OWN}:NotAnEnv": ["what was made is no environment", "a gymnasium.Env"],
        f"{OWN}:np": ["no such class or function"],
    }
    for command in ("train", "check"):
        for env, says in rows.items():
            err = refused(capsys, folder, command, env)
            for text in says:
                assert text in err, f"{command} {env}: {err}"


MISSING = """
import sys
from t3d.cli.main import run
for package, env in {rows!r}:
    sys.modules[package] = None  # as if it were not installed
    print(run(["train", env]), flush=True)
    print("--", file=sys.stderr, flush=True)
"""


@pytest.mark.slow
def test_a_missing_suite_is_named_with_its_extra(folder):
    rows = [
        ("mujoco", "HalfCheetah-v5"),
        ("Box2D", "BipedalWalker-v3"),
        ("pybullet", "AntBulletEnv-v0"),
        ("pybullet_envs_gymnasium", "AntBulletEnv-v0"),
    ]
    command = [sys.executable, "-c", MISSING.format(rows=rows)]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    assert child.stdout.split() == ["2"] * 4
    assert "Traceback" not in child.stderr
    said = child.stderr.split("--\n")
    for text, extra in zip(said, ["mujoco", "box2d", "bullet", "bullet"], strict=False):
        assert f'do:       pip install "t3d[{extra}]"' in text
    assert list(folder.iterdir()) == []


def test_impossible_options(capsys, folder):
    """What each option refuses is tested where options are; here, that what is refused is said and writes nothing."""
    (folder / "taken").mkdir()
    (folder / "taken" / "file").write_text("mine")
    (folder / "file").write_text("mine")
    rows = {
        "--batch-size 1000 --buffer-size 999": ["larger than the replay", "batch_size = 1000", "--buffer-size"],
        "--buffer-size 1e13": ["replay memory would not fit", "GB", "80%", "lower --buffer-size"],
        "--buffer-size 300 --n-envs 101": ["too small for that many environments"],
        "--preset nonsense": ["no such preset", "nonsense", "bullet, course, fast, images, paper-2018"],
        "--stepz 3": ["--stepz", "--steps"],
        "--steps 1.5": ["1.5 is not a whole number"],
        "--steps many": ["--steps"],
        "--steps inf": ["--steps"],
        "--steps 0": ["steps = 0", "1 or above"],
        "--n-envs 0": ["n_envs = 0", "change --n-envs"],
        "--gamma 1.01": ["gamma = 1.01", "0 to 1"],
        "--lr 0": ["lr = 0"],
        "--hidden 0": ["hidden = (0,)"],
        "--video-frames 0": ["video_frames = 0", "1 or above"],
        "--device tpu": ["device = tpu", "cpu, cuda or cuda:N"],
        "--out taken": ["this folder is taken", "taken", "give another --out"],
        "--out file": ["this folder is taken"],
        "--out file/under": ["cannot be made", "give --out a place"],
    }
    if not torch.cuda.is_available():
        rows["--device cuda"] = ["no such device", "cuda", "leave --device out"]
    for options, says in rows.items():
        err = refused(capsys, folder, "train", "Pendulum-v1", *options.split())
        for text in says:
            assert text in err, f"{options}: {err}"
    assert (folder / "taken" / "file").read_text() == "mine"


def test_commands_that_do_not_exist_and_arguments_that_lack(capsys, folder):
    assert "there is no command 'trian'" in refused(capsys, folder, "trian")
    assert "Missing" in refused(capsys, folder, "train")
    assert "Missing" in refused(capsys, folder, "evaluate")
    code, out, _ = typed(capsys)
    assert (code, out.splitlines()[0]) == (2, "usage: t3d COMMAND ...")


def test_folders_that_are_no_runs(capsys, folder):
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    config = folder / "broken" / "config.json"
    for command in ("evaluate", "video"):
        assert "there is no policy here" in refused(capsys, folder, command, "nowhere")
        assert "this is not a run folder" in refused(capsys, folder, command, "empty")
        for text in ("", "{", "[]", '{"format": 9}', '{"format": 1, "env": "x", "config": {}}', "\xff", "[" * 9_999):
            config.write_text(text, encoding="latin-1")
            assert "config.json" in refused(capsys, folder, command, "broken")
        for content in ({"format": 9}, {"format": 1, "env": "x", "config": {}}):
            seal(config, content)
            assert "this is of a format that this version of t3d does not read" in refused(
                capsys, folder, command, "broken"
            )
        seal(config, {"format": 3, "env": "x", "config": {}})
        assert "config.json cannot be read" in refused(capsys, folder, command, "broken")
        config.write_text(" " * (1 << 20) + " ")
        assert "too large" in refused(capsys, folder, command, "broken")


# --- failures while running ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "what", "own_traceback"),
    [
        ("NanObs", "non-finite observation", ""),
        ("InfReward", "non-finite reward", ""),
        ("WrongShape", "observation is of the wrong kind", ""),
        ("Raises", "raised RuntimeError in step: the motor is stuck", 'raise RuntimeError("the motor is stuck")'),
        ("RaisesInReset", "raised KeyError in reset", 'raise KeyError("no second episode")'),
    ],
)
def test_an_environment_that_fails_ends_the_run_and_loses_nothing(capsys, folder, name, what, own_traceback):
    code, out, err = typed(
        capsys,
        "train",
        f"{OWN}:{name}",
        "--steps",
        "100",
        "--random-steps",
        "10",
        "--log-every",
        "5",
        "--out",
        "run",
        *SMALL,
    )
    steps = 20 if name == "RaisesInReset" else 29
    assert code == 1
    assert out == ""
    assert what in err
    assert f"environment 0, env step {steps + 1}, episode 1" in err
    assert f"stopped after {steps} env steps; its last policy is run/policy/last.safetensors" in err
    if own_traceback:
        assert err.index("Traceback") < err.index(own_traceback) < err.index("\nt3d: ")
        assert "own_envs.py" in err
    else:
        assert "Traceback" not in err
    policy = t3d.load("run/policy/last.safetensors")
    assert policy.info.env_steps == steps
    assert np.isfinite(policy(np.zeros(4))).all()
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert {"update", "event"} <= {row["kind"] for row in rows}
    assert rows[-1]["kind"] == "event"
    assert what in rows[-1]["what"]
    assert rows[-1]["env_steps"] == steps


def test_an_environment_whose_first_reset_raises_leaves_nothing_behind(capsys, folder):
    code, _, err = typed(capsys, "train", f"{OWN}:RaisesInFirstReset")
    assert code == 1
    assert 'raise KeyError("no episode at all")' in err
    assert list(folder.iterdir()) == []


def test_a_failing_evaluation_says_that_it_was_one(capsys, folder):
    # One is made to look at. Of those after it the evaluation's, the second, fails at its 30th step, in its second
    # episode.
    type(make(EnvSpec(f"{OWN}:SecondFails"))).made = 2
    code, _, err = typed(
        capsys, "train", f"{OWN}:SecondFails", "--steps", "100", "--random-steps", "10", "--eval-every", "25",
        "--out", "run", *SMALL, "--eval-episodes", "2",
    )  # fmt: skip
    assert code == 1
    assert "evaluation environment 0, env step 30, episode 1, episode step 10" in err
    assert t3d.load("run/policy/last.safetensors").info.env_steps == 25


def test_a_diverged_run_does_not_overwrite_its_last_policy(capsys, folder, monkeypatch):
    whole = session.Trainer.step

    def step(trainer):
        if trainer.env_steps == 60:
            with torch.no_grad():
                trainer.agent.actor.body[0].weight.fill_(float("nan"))
        return whole(trainer)

    monkeypatch.setattr(session.Trainer, "step", step)
    code, _, err = typed(
        capsys,
        "train",
        f"{OWN}:Walk",
        "--steps",
        "100",
        "--random-steps",
        "10",
        "--eval-every",
        "50",
        "--out",
        "run",
        *SMALL,
    )
    assert code == 1
    assert "training has diverged" in err
    assert "actor.body.0.weight" in err
    assert "environment gave" not in err
    assert t3d.load("run/policy/last.safetensors").info.env_steps == 50


def test_ctrl_c_saves_and_exits_with_130(capsys, folder):
    metrics = folder / "run" / "metrics.jsonl"

    def strike():
        end = time.monotonic() + 60
        while time.monotonic() < end and not (metrics.exists() and metrics.read_text().count("\n") > 6):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    striker = threading.Thread(target=strike)
    striker.start()
    options = ["--steps", "1e8", "--random-steps", "50", "--eval-every", "1e7", "--out", "run", *SMALL]
    code, _, err = typed(capsys, "train", f"{OWN}:Walk", *options)
    striker.join()
    assert code == 130, err
    assert "t3d: stopped by SIGINT" in err
    assert "its last policy is run/policy/last.safetensors" in err
    assert "Traceback" not in err
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert rows[-1]["what"] == "stopped by SIGINT"
    assert t3d.load(folder / "run" / "policy" / "last.safetensors").info.env_steps == rows[-1]["env_steps"] > 100
