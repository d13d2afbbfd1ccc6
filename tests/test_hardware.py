"""One physical device: one instance at a time, no logged action played again, evaluations in the one that trains."""

import json
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box
from own_envs import Walk

import t3d
from t3d import api
from t3d.cli import seeds
from t3d.cli.main import run as command
from t3d.env_spec import EnvSpec, spec_of
from t3d.environments.check import check
from t3d.errors import ConfigRefused, EnvFailed, EnvRefused, Refused, RunRefused
from t3d.reports import page, read_runs
from t3d.runs.session import Session
from t3d.storage.row_lines import RowReader

SMALL = {
    "random_steps": 30, "batch_size": 8, "hidden": (8,), "eval_every": 30, "eval_episodes": 2, "checkpoint_every": 25,
    "engine": "eager", "threads": 1,
}  # fmt: skip
SLOW_FLAGS = ["--random-steps", "30", "--batch-size", "8", "--eval-every", "never", "--hidden", "8", "--threads", "1"]


class Arm(Walk):
    """Can be open only once, and writes down what is done to it. Says nothing of being hardware."""

    is_open = False
    diary: list = []  # noqa: RUF012 - of all instances together

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        if Arm.is_open:
            raise OSError("serial port busy")
        Arm.is_open = True
        Arm.diary.append("opened")

    def reset(self, **options):
        Arm.diary.append("reset")
        return super().reset(**options)

    def step(self, action):
        Arm.diary.append(action.tolist())
        return super().step(action)

    def close(self):
        Arm.is_open = False


class Robot(Arm):
    """The same, and says so."""

    is_hardware = True


class Simulated(Walk):
    """What a robot's policy may have learned in."""


class Real(Robot):
    """Moves less far than the simulation."""

    action_space = Box(np.array([0, -0.2, -1], np.float32), np.array([0.5, 0.4, 1], np.float32))


def make_robot():
    return Robot()


@pytest.fixture(autouse=True)
def anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Arm.is_open, Arm.diary = False, []


def rows(run, kind):
    reader = RowReader(Path(run) / "metrics.jsonl")
    return [row for row in reader.rows(reader.path.stat().st_size) if row["kind"] == kind]


def test_it_trains_and_is_evaluated_in_one_instance(capsys):
    done = t3d.train(Robot, steps=95, **SMALL)
    assert Arm.diary.count("opened") == 1
    assert not Arm.is_open
    config = json.loads((done.path / "config.json").read_text())["config"]
    assert (config["hardware"], config["eval_env"], config["on_resume"]) == (True, "same", "reset")
    assert done.video is None
    # Episodes have 20 steps: what is due at 30, 60, 90 waits for their end, and the last one ends an episode.
    seen = rows(done.path, "evaluation")
    assert [(row["env_steps"], row.get("note")) for row in seen] == [
        (40, None),
        (60, None),
        (95, "the training episode that went on was ended for it"),
    ]
    assert [row.get("due") for row in seen] == [30, None, None]
    assert [row["env_steps"] for row in rows(done.path, "episode")] == [20, 40, 60, 80]
    assert sum(isinstance(entry, list) for entry in Arm.diary) == 95 + 3 * 2 * 20
    # As many episodes as were begun: of training 5, of evaluation 3 x 2.
    assert Arm.diary.count("reset") == 5 + 6
    assert command(["evaluate", str(done.path), "--env", f"{__name__}:Robot"]) == 0
    assert command(["report", str(done.path)]) == 0
    longer = Session(spec_of(Robot), api.choose(spec_of(Robot), None, SMALL | {"steps": 130}), done.path, resume=True)
    list(longer.run())
    assert any("ended at step 95" in row["what"] for row in rows(done.path, "event"))


def test_evaluations_in_the_same_instance_leave_training_as_it_is_where_the_environment_forgets():
    options = SMALL | {"steps": 100, "eval_every": 20, "video": False}
    apart = t3d.train(Simulated, out="apart", **options)
    same = t3d.train(Simulated, out="same", eval_env="same", **options)
    assert rows(apart.path, "episode")[0].keys() == rows(same.path, "episode")[0].keys()
    for kind, name in (("episode", "return"), ("evaluation", "returns"), ("update", "critic_loss")):
        assert [row[name] for row in rows(apart.path, kind)] == [row[name] for row in rows(same.path, kind)], kind


def test_resumed_it_plays_no_logged_action_and_is_not_exact():
    options = SMALL | {"steps": 100, "eval_every": 50, "log_every": 7}
    session = Session(spec_of(Robot), api.choose(spec_of(Robot), None, options), Path("run"))
    run = session.run()
    while session.trainer.env_steps < 70:
        next(run)
    run.close()
    stopped_at = session.trainer.env_steps
    assert stopped_at % 20, "in the midst of an episode"
    Arm.diary.clear()
    done = t3d.train(Robot, out="run", resume="auto", **options)
    events = [row["what"] for row in rows("run", "event")]
    assert any("not bit-exact: a new episode begins, as asked" in what for what in events)
    stepped = sum(isinstance(entry, list) for entry in Arm.diary)
    evaluated = sum(sum(row["lengths"]) for row in rows("run", "evaluation") if row["env_steps"] > stopped_at)
    assert stepped == 100 - stopped_at + evaluated
    assert done.last is not None


def test_without_evaluations_the_last_policy_counts_and_all_say_so(capsys, caplog):
    assert command(["train", f"{__name__}:Robot", "--steps", "80", "--out", "run", *SLOW_FLAGS]) == 0
    said = capsys.readouterr()
    assert "evaluation  none, as asked" in said.out
    assert not Path("run/policy/best.safetensors").exists()
    assert rows("run", "evaluation") == []
    assert Arm.diary.count("opened") == 1
    assert t3d.load("run").info.env_steps == 80
    assert "no best policy, so this is its last one" in caplog.text
    assert command(["evaluate", "run", "--env", f"{__name__}:Robot", "--episodes", "1", "--json"]) == 0
    played = json.loads(capsys.readouterr().out)
    assert (played["policy"], played["env_steps"]) == ("last", 80)
    assert "no evaluation has chosen a best policy" in played["notes"][0]
    assert command(["report", "run", "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert (group["measured"], group["references"]) == ("training episodes", [])
    returns = {row["env_steps"]: row["return"] for row in rows("run", "episode")}
    assert dict(zip(group["env_steps"], group["curve"]["mean"]["value"], strict=True)) == returns
    assert "Return of training episodes, by env steps" in page.render(page.gather([Path("run")]))
    assert read_runs.read(Path("run")).finished
    assert (
        command(["train", f"{__name__}:Robot", "--steps", "80", "--out", "run", "--resume", "auto", *SLOW_FLAGS]) == 0
    )
    assert "evaluation  none, as asked" in capsys.readouterr().out


def test_runs_without_evaluations_enter_no_comparison():
    options = SMALL | {"steps": 60, "video": False}
    t3d.train(Simulated, out="evaluated", **options)
    t3d.train(Simulated, out="never", **options | {"eval_every": "never"})
    seen = page.gather([Path("evaluated"), Path("never")]).numbers
    assert {group["measured"] for group in seen["groups"]} == {"evaluations", "training episodes"}
    assert seen["comparisons"] == []


def test_a_run_without_evaluations_goes_on_as_if_undisturbed():
    options = SMALL | {"steps": 90, "eval_every": "never", "log_every": 7}
    t3d.train(Simulated, out="whole", video=False, **options)
    session = Session(spec_of(Simulated), api.choose(spec_of(Simulated), None, options), Path("half"))
    run = session.run()
    while session.trainer.env_steps < 47:
        next(run)
    run.close()
    assert Path("half/policy/last.safetensors").is_file()
    t3d.train(Simulated, out="half", resume="auto", video=False, **options)
    last = [Path(name, "policy", "last.safetensors").read_bytes() for name in ("whole", "half")]
    assert last[0] == last[1]


def test_what_does_not_say_that_it_is_hardware_loses_nothing_at_its_first_evaluation(capsys):
    with pytest.raises(EnvFailed, match=r"no environment could be made to evaluate in(.|\n)*--hardware") as failed:
        t3d.train(Arm, out="run", steps=60, **SMALL)
    assert failed.value.exit_code == 1
    assert json.loads(next(Path("run/checkpoints").glob("*/manifest.json")).read_text())["trainer"]["updates"] == 0
    Arm.is_open = False
    with pytest.raises(RunRefused, match="eval_env was new, now same"):
        t3d.train(Arm, out="run", resume="auto", steps=60, hardware=True, **SMALL)
    Arm.is_open = False
    assert t3d.train(Arm, out="other", steps=60, hardware=True, **SMALL).last is not None


def test_a_function_that_makes_hardware_must_say_so():
    with pytest.raises(EnvRefused, match="add --hardware"):
        t3d.train(make_robot, out="run", steps=60, **SMALL)
    assert not Path("run").exists()
    assert not Arm.is_open
    make_robot.is_hardware = True
    assert t3d.train(make_robot, out="run", steps=60, **SMALL).last is not None


def test_what_is_refused_once_it_is_open_closes_it():
    Path("taken").mkdir()
    Path("taken", "thesis").write_text("three years")
    for options in ({"out": "taken"}, {"buffer_size": 2}):
        with pytest.raises(Refused):
            t3d.train(Robot, steps=95, **SMALL | options)
        assert (Arm.diary.count("opened") > 0, Arm.is_open) == (True, False)


def test_options_that_contradict_each_other_are_refused_and_others_are_obeyed():
    with pytest.raises(ConfigRefused, match="one that trains alone"):
        t3d.train(Simulated, eval_env="same", n_envs=2, steps=60, **SMALL)
    with pytest.raises(ConfigRefused, match="eval_every is impossible"):
        t3d.train(Simulated, steps=60, **SMALL | {"eval_every": "rarely"})
    choice = api.choose(spec_of(Robot), None, {"on_resume": "repeat"})
    assert (choice.config.on_resume, choice.config.eval_env) == ("repeat", "same")
    assert not api.choose(spec_of(Robot), None, {"hardware": False}).config.hardware


def test_check_takes_no_step_on_it_without_being_told_and_says_its_bounds():
    found = {finding.name: finding for finding in check(spec_of(Robot))}
    assert Arm.diary == ["opened"]
    assert not Arm.is_open
    assert "low [0.0" in found["bounds"].text
    assert "within the bounds above; --steps N" in found["hardware"].text
    found = {finding.name: finding for finding in check(spec_of(Robot), 25)}
    assert sum(isinstance(entry, list) for entry in Arm.diary) == 25
    assert "numbers" in found
    assert "repeatable" not in found
    last = check(spec_of(Arm), 25)[-1]
    assert (last.name, last.verdict) == ("second instance", "fails")
    assert "train with --hardware" in last.text


def test_several_seeds_of_it_are_trained_one_after_the_other(monkeypatch):
    asked = []
    monkeypatch.setattr(seeds, "main", lambda *arguments: asked.append(arguments))
    command(["train", f"{__name__}:Robot", "--seeds", "3"])
    command(["train", f"{__name__}:Robot", "--seeds", "3", "--jobs", "2"])
    assert [arguments[3] for arguments in asked] == [1, 2]
    assert [arguments[5] for arguments in asked] == [None, None]


# --- from simulation to reality --------------------------------------------------------------------------------


def test_a_policy_is_evaluated_in_another_environment_within_its_narrower_bounds(capsys):
    done = t3d.train(Simulated, out="run", steps=60, video=False, **SMALL)
    before = sorted((path, path.read_bytes()) for path in done.path.rglob("*") if path.is_file())
    assert command(["evaluate", "run", "--env", f"{__name__}:Real", "--episodes", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert Arm.diary.count("opened") == 1
    played = np.array([entry for entry in Arm.diary if isinstance(entry, list)])
    assert (played >= Real.action_space.low).all()
    assert (played <= Real.action_space.high).all()
    assert ("another environment than that of the training" in said["notes"][0], len(said["notes"])) == (True, 2)
    assert "actions are cut to [0.0, -0.2" in said["notes"][1]
    # What lies within both is the very action that the simulation would have been given.
    policy = t3d.load(done.path)
    obs, _ = Walk().reset(seed=3)
    env = api.evaluate_run(done.path, "best", env=EnvSpec(f"{__name__}:Real"))
    assert env.which == "best"
    assert policy(obs.astype(np.float32)).shape == (3,)
    assert sorted((path, path.read_bytes()) for path in done.path.rglob("*") if path.is_file()) == before


class OtherShape(Walk):
    action_space = Box(-1, 1, (2,))


def test_other_shapes_are_refused_and_the_environment_is_closed(monkeypatch):
    done = t3d.train(Simulated, out="run", steps=60, video=False, **SMALL)
    closed = []
    monkeypatch.setattr(OtherShape, "close", lambda self: closed.append(1))
    with pytest.raises(RunRefused, match="spaces are not those"):
        api.evaluate_run(done.path, "best", env=spec_of(OtherShape))
    assert closed == [1]
    with pytest.raises(RunRefused, match="trained in another environment"):
        api.resume(done.path, env=spec_of(OtherShape))


@pytest.mark.slow
def test_its_film_stands_beside_the_runs_own():
    pytest.importorskip("av", reason="the extra `video` is not installed")
    done = t3d.train(Simulated, out="run", steps=60, video_frames=2, **SMALL)
    before = done.video.read_bytes()
    video, notes = api.film_run(done.path, "best", frames=2, env=EnvSpec(f"{__name__}:Real"))
    assert video.name == "best-test_hardware.Real.mp4"
    assert len(notes) == 2
    assert done.video.read_bytes() == before
