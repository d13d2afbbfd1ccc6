"""What a user has in hand instead of a registered id: a class, a function, arguments, wrappers, a lambda."""

import functools
import io
import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from own_envs import Walk
from rich.console import Console
from rich.progress import Progress

import t3d
from t3d import api, presets
from t3d.cli.main import run as command
from t3d.env_spec import EnvSpec, spec_of
from t3d.environments.make import make, spaces_in
from t3d.errors import ConfigRefused, EnvRefused, RunRefused
from t3d.reports import published, read_runs
from t3d.reports.grouping import group_runs
from t3d.reports.summary import summarize
from t3d.runs.live_line import columns

OWN = Path(__file__).parent / "own_envs.py"
LAST = "policy/last.safetensors"
SMALL = {
    "steps": 60,
    "random_steps": 30,
    "batch_size": 8,
    "hidden": (8,),
    "eval_every": 30,
    "eval_episodes": 1,
    "engine": "eager",
    "threads": 1,
}
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items() if name != "hidden"] + ["--hidden", "8"]


class Pushed(Walk):
    """A walk whose start is pushed aside."""

    def __init__(self, render_mode=None, push=0.0, name="east"):
        super().__init__(render_mode)
        self.push, self.side = push, name

    def reset(self, **options):
        _, info = super().reset(**options)
        self.at = self.at + self.push
        return self.see(), info


def make_walk(push=0.0):
    """Make one that takes no render_mode."""
    return Pushed(push=push)


class Louder(gymnasium.RewardWrapper):
    """Ten times the reward."""

    def reward(self, reward):
        return 10 * reward


def no_wrapper(_):
    return 3


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def returns(run):
    return run.last.returns


def test_a_class_a_function_and_a_name_are_the_same_run():
    by_class = t3d.train(Pushed, out="class", video=False, **SMALL)
    by_name = t3d.train(f"{__name__}:Pushed", out="name", video=False, **SMALL)
    by_file = t3d.train(f"{OWN}:Walk", out="file", video=False, **SMALL)
    by_function = t3d.train(make_walk, out="function", video=False, **SMALL)
    assert returns(by_class) == returns(by_name) == returns(by_function) == returns(by_file)
    assert (by_class.path / "config.json").read_bytes() == (by_name.path / "config.json").read_bytes()
    assert json.loads((by_class.path / "config.json").read_text())["env"] == f"{__name__}:Pushed"


def test_arguments_reach_it_and_are_part_of_the_run_and_of_its_folder(capsys):
    plain = t3d.train(Pushed, video=False, **SMALL)
    pushed = t3d.train(Pushed, env_kwargs={"push": 2.0}, video=False, **SMALL)
    assert returns(plain) != returns(pushed)
    assert plain.path == Path("runs/test_in_hand.Pushed/td3-s0")
    assert pushed.path.parent.name.startswith("test_in_hand.Pushed-")
    ids = {json.loads((run.path / "config.json").read_text())["run"] for run in (plain, pushed)}
    assert len(ids) == 2
    flags = ["--env", f"{__name__}:Pushed", "--env-arg", "push=2.0"]
    assert command(["evaluate", str(pushed.path), "--json", "--policy", "last", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["returns"] == returns(pushed)
    with pytest.raises(RunRefused, match="other options"):
        t3d.train(Pushed, env_kwargs={"push": 3.0}, out=pushed.path, resume="auto", **SMALL)
    again = t3d.train(Pushed, env_kwargs={"push": 2.0}, resume="auto", **SMALL)
    assert (again.path, returns(again)) == (pushed.path, returns(pushed))
    shown = read_runs.read(pushed.path).env
    assert shown == f"{__name__}:Pushed(push=2.0)"


def test_the_command_line_takes_arguments_and_wrappers_and_says_how_to_go_on(capsys):
    options = [f"{OWN}:Walk", "--wrapper", f"{__name__}:Louder", *FLAGS, "--no-video", "--out", "louder"]
    assert command(["train", *options]) == 0
    assert command(["train", f"{OWN}:Walk", *FLAGS, "--no-video", "--out", "plain"]) == 0
    seen = [read_runs.read(Path(name)) for name in ("louder", "plain")]
    assert np.allclose(*([v / k for v in run.evaluations.values()] for run, k in zip(seen, (10, 1), strict=True)), 1)
    capsys.readouterr()
    assert command(["evaluate", "louder"]) == 2
    said = capsys.readouterr().err
    assert f"--env {OWN}:Walk --wrapper {__name__}:Louder" in said
    assert command(["evaluate", "louder", "--env", f"{OWN}:Walk"]) == 0
    assert "another environment than that of the training" in capsys.readouterr().err
    assert command(["resume", "louder", "--env", f"{OWN}:Walk"]) == 2
    assert command(["evaluate", "louder", "--wrapper", f"{__name__}:Louder"]) == 2
    assert "add --env" in capsys.readouterr().err
    assert command(["evaluate", "louder", "--env", f"{OWN}:Walk", "--wrapper", f"{__name__}:Louder"]) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("push", ["no name with ="]),
        ("push=", ["NAME=JSON"]),
        ("name=east", ["--env-arg 'name=\"east\"'"]),
        ("push=NaN", ["NaN is no JSON"]),
        ("=3", ["NAME=JSON"]),
        ("a b=3", ["NAME=JSON"]),
    ],
)
def test_an_argument_that_is_none_is_refused(text, words, capsys):
    assert command(["check", "Pendulum-v1", "--env-arg", text]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words), said


def test_arguments_of_every_kind_of_json_arrive_and_others_are_refused():
    kwargs = {"push": 1, "name": 'a "quoted" word'}
    spec = spec_of(Pushed, kwargs)
    made = make(spec)
    assert (made.push, made.side) == (1, kwargs["name"])
    assert make(EnvSpec.from_json(json.loads(json.dumps(spec.as_json())))).side == kwargs["name"]
    for bad in (np.float32(1), float("nan"), object(), {1, 2}, "\ud800"):
        with pytest.raises(ConfigRefused, match="what JSON can hold"):
            spec_of(Pushed, {"push": bad})
    with pytest.raises(EnvRefused, match="unexpected keyword argument 'pull'"):
        make(spec_of(Pushed, {"pull": 1}))


def test_what_makes_no_environment_is_refused():
    with pytest.raises(ConfigRefused, match="made already"):
        t3d.train(Walk())
    with pytest.raises(ConfigRefused, match="no way to make"):
        t3d.train(3)
    with pytest.raises(EnvRefused, match=r"gave builtins\.int"):
        make(spec_of(lambda: 3))
    with pytest.raises(EnvRefused, match=r"gave builtins\.int"):
        make(EnvSpec(f"{OWN}:Walk", {}, (f"{__name__}:no_wrapper",)))
    with pytest.raises(EnvRefused, match="where to find it"):
        make(EnvSpec(f"{OWN}:Walk", {}, ("Louder",)))
    with pytest.raises(EnvRefused, match="no such class or function"):
        make(EnvSpec(f"{OWN}:Walk", {}, (f"{__name__}:Lauter",)))


def test_what_has_no_name_trains_and_evaluates_here_and_what_takes_another_process_is_refused(tmp_path):
    def within():
        return Pushed(push=1.0)

    for maker, name in (
        (within, "within"),
        (lambda: Pushed(push=1.0), "lambda"),
        (functools.partial(Pushed), "partial"),
    ):
        spec = spec_of(maker)
        assert not spec.is_named
        assert name in spec.title
        with pytest.raises(ConfigRefused, match="leave --env-workers out"):
            t3d.train(maker, env_workers=1, **SMALL)
        with pytest.raises(ConfigRefused, match="train one seed here"):
            api.plan_seeds(spec, presets.choose(spec), 2, 1)
    done = t3d.train(within, out=tmp_path / "run", **SMALL)
    assert done.video is None
    assert "go without a film" in str(done.video_problem)
    assert returns(t3d.train(within, out=done.path, resume="auto", **SMALL)) == returns(done)
    assert t3d.evaluate(t3d.load(done.path / LAST).act, within, episodes=1, seed=0, fresh=False).returns == returns(
        done
    )
    for attempt in (
        api.resume,
        lambda run: api.evaluate_run(run, "best"),
        lambda run: api.film_run(run, "best", frames=1),
    ):
        with pytest.raises(RunRefused, match="no name for other processes"):
            attempt(done.path)


def test_presets_and_published_returns_are_of_the_plain_environment():
    assert presets.choose(EnvSpec("Pendulum-v1")).preset == "pendulum"
    other = presets.choose(EnvSpec("Pendulum-v1", {"g": 5.0}))
    assert (other.preset, other.reason) == ("td3", "the default")
    assert other.config.random_steps == 1_000  # a fact, whatever the gravity
    assert presets.choose(EnvSpec("Pendulum-v1", {"g": 5.0}), "pendulum").preset == "pendulum"
    assert published.find("HalfCheetah-v5")
    t3d.train("Pendulum-v1", env_kwargs={"g": 5.0}, video=False, **SMALL | {"random_steps": 100})
    (folder,) = Path("runs").glob("Pendulum-v1-*/td3-s0")
    (seen,) = summarize(group_runs([read_runs.read(folder)]))["groups"]
    assert (seen["env"], seen["references"]) == ("Pendulum-v1(g=5.0)", [])


def test_a_name_in_a_module_is_an_id_that_it_registers_first(tmp_path, monkeypatch):
    (tmp_path / "t3d_hand_robots.py").write_text(
        "import gymnasium\nfrom own_envs import Walk\n"
        "class Arm(Walk): pass\n"
        "def build(): return Arm()\n"
        "gymnasium.register('Arm', lambda render_mode=None: Walk())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert type(make(EnvSpec("t3d_hand_robots:Arm")).unwrapped).__name__ == "Walk"
    assert type(make(EnvSpec("t3d_hand_robots:build"))).__name__ == "Arm"
    assert spaces_in(EnvSpec("t3d_hand_robots:build")) == spaces_in(EnvSpec(f"{OWN}:Walk"))


SCRIPT = """
import sys
import t3d
from own_envs import Walk

class Robot(Walk):
    pass

def build(push=1.0):
    return Robot()

{call}
"""
CALL = "t3d.train({what}, out='run', steps=60, random_steps=30, batch_size=8, hidden=(8,), eval_every=30, {options})"


def test_a_script_without_a_guard_does_not_train_again_where_it_is_imported():
    Path("mine.py").write_text(SCRIPT.format(call=CALL.format(what="Robot", options="video=False")))
    with pytest.raises(ConfigRefused, match='under if __name__ == "__main__"'):
        make(EnvSpec("mine.py:Robot"))
    assert not Path("run").exists()


# --- cures, as they are printed --------------------------------------------------------------------------------


class Unbounded(Walk):
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)


class DictActions(Walk):
    action_space = gymnasium.spaces.Dict(
        arm=gymnasium.spaces.Box(-1, 1, (2,), np.float32), leg=gymnasium.spaces.Box(0, 1, (1,), np.float32)
    )

    def step(self, action):
        assert self.action_space.contains(action)
        self.at[:3] += np.concatenate([action["arm"], action["leg"]])
        self.steps += 1
        return self.see(), self.reward(), False, self.steps >= 20, {}


class WithAFlag(Walk):
    observation_space = gymnasium.spaces.Dict(at=Walk.observation_space, lit=gymnasium.spaces.Discrete(3))

    def see(self):
        return {"at": self.at.copy(), "lit": self.steps % 3}


class Listed(Walk):
    observation_space = gymnasium.spaces.Sequence(gymnasium.spaces.Box(-1, 1, (2,)))


@pytest.mark.parametrize("name", ["Unbounded", "DictActions"])
def test_a_cure_of_actions_works_as_it_is_printed(name, capsys):
    env = f"{__name__}:{name}"
    assert command(["check", env]) == 2
    said = capsys.readouterr().err
    flag, _, function = said[said.index("--wrapper FILE.py:") :].strip().partition(" with ")
    function = function.replace(": space", ":\n    space").replace("; return", "\n    return")
    Path(f"cure_of_{name}.py").write_text(f"import gymnasium\n{function}")
    flags = flag.replace("FILE", f"cure_of_{name}").split()
    assert command(["check", env, "--steps", "50", "--json", *flags]) == 0
    assert "fails" not in capsys.readouterr().out


def test_a_part_that_is_no_array_of_numbers_is_named_with_its_cure(capsys):
    env = f"{__name__}:WithAFlag"
    assert command(["check", env]) == 2
    said = capsys.readouterr().err
    assert "obs/lit is Discrete(3)" in said
    assert "--wrapper gymnasium.wrappers:FlattenObservation" in said
    assert command(["check", env, "--steps", "50", "--wrapper", "gymnasium.wrappers:FlattenObservation"]) == 0
    assert command(["check", f"{__name__}:Listed"]) == 2
    assert "give this part a fixed length" in capsys.readouterr().err


def test_a_space_of_the_old_gym_is_named_with_its_package(monkeypatch, capsys):
    old = type("Box", (), {"__module__": "gym.spaces.box", "shape": (2,), "dtype": np.dtype(np.float32)})()
    monkeypatch.setattr(Pushed, "action_space", old)
    assert command(["check", f"{__name__}:Pushed"]) == 2
    assert "a space of the package gym" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(Pushed, "observation_space", old)
    assert command(["check", f"{__name__}:Pushed"]) == 2
    said = capsys.readouterr().err
    assert "a space of the package gym" in said
    assert "import gymnasium in its place" in said


def test_the_live_line_keeps_its_numbers_in_80_columns():
    said = io.StringIO()
    console = Console(width=80, file=said, force_terminal=True, color_system=None)
    live = Progress(*columns(), console=console)
    live.add_task("train", total=1_000_000, completed=998_000, seen="! over-estimation  eval 10,540  episode 10,912")
    console.print(live.get_renderable())
    (line,) = said.getvalue().splitlines()
    assert len(line) == 80
    assert "998,000/1,000,000 steps     -/s" in line
    assert "! over-estimation  eval" in line
