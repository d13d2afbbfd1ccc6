"""Runs: the folder and every row in it, the intervals, the flags, evaluation afterwards, and the library's door."""

import itertools
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import t3d
from t3d import presets
from t3d.cli.main import run
from t3d.cli.train import run_to_the_end
from t3d.config import Config
from t3d.env_spec import EnvSpec
from t3d.errors import ConfigRefused
from t3d.formats import MILESTONES
from t3d.runs import run_folder
from t3d.runs.session import Session
from t3d.training.trainer import Trainer

OWN = str(Path(__file__).with_name("own_envs.py"))
SMALL = {
    "hidden": (8, 8),
    "batch_size": 16,
    "buffer_size": 5_000,
    "random_steps": 100,
    "eval_episodes": 2,
    "threads": 1,
}
FLAGS = [word for k, v in SMALL.items() if k != "hidden" for word in (f"--{k}".replace("_", "-"), str(v))]
FLAGS += ["--hidden", "8", "8", "--no-video"]

COMMON = {"kind", "env_steps", "wall_s", "crc32"}
FIELDS = {
    "run": COMMON | {"run"},
    "episode": COMMON | {"env", "return", "length", "end"},
    "update": COMMON | {"updates", "critic_loss", "actor_loss", "q1", "q2", "target_q"},
    "evaluation": COMMON
    | {"returns", "lengths", "return_mean", "return_std", "action_change", "action_at_bound", "action_frequency"},
    "event": COMMON | {"what"},
}
HEALTH = {
    "batch": {
        *("obs_scale", "obs_scale_at", "obs_mean_max", "obs_std_max", "obs_std_min"),
        *("reward_mean", "reward_std", "reward_max", "value_bound", "terminated_share"),
        *("saturated_share", "pre_tanh", "dead_actor", "dead_q1", "dead_q2"),
        *("noise_clipped_share", "q1_target_share", "q_scale", "disagreement"),
        *("critic_gradient", "critic_move", "actor_gradient", "actor_move", "replay_age"),
    },
    "evaluation": {"states", "obtained", "q1_bias", "min_q_bias", "q1_bias_ratio", "min_q_bias_ratio"},
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    return tmp_path


def rows_of(path, kind=None):
    rows = [json.loads(line) for line in (Path(path) / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        is_health = row["kind"] == "health"
        assert set(row) == (COMMON | {"of"} | HEALTH[row["of"]] if is_health else FIELDS[row["kind"]])
    for row, after in itertools.pairwise(rows):
        assert row["env_steps"] <= after["env_steps"]
        assert row["wall_s"] <= after["wall_s"]
    return [row for row in rows if kind in (None, row["kind"])]


def train(env="Pendulum-v1", **options):
    return t3d.train(env, video=False, **{**SMALL, **options})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One run of 430 steps, typed as a command: evaluations after 150, 300 and at the end."""
    out = tmp_path_factory.mktemp("runs") / "run"
    flags = [*FLAGS, "--steps", "430", "--eval-every", "1.5e2", "--log-every", "100", "--seed", "3", "--out", str(out)]
    assert run(["train", "Pendulum-v1", *flags]) == 0
    return out


def test_the_folder_is_what_the_design_says(trained):
    always = {"config.json", "metrics.jsonl", "policy", "tensorboard", "checkpoints", "replay", "lock"}
    assert {path.name for path in trained.iterdir()} == always | {"report.html"}
    assert {path.stem for path in (trained / "policy").iterdir()} == {"best", "last", *MILESTONES}


def test_config_json_is_enough_to_repeat_the_run(trained, folder):
    config = json.loads((trained / "config.json").read_text())
    assert (config["env"], config["preset"]) == ("Pendulum-v1", "pendulum")
    assert {"format", "env", "preset", "config", "machine"} <= set(config)
    assert config["config"]["steps"] == 430
    assert config["config"]["td3"]["hidden"] == [8, 8]
    assert {"torch", "numpy", "gymnasium", "t3d"} <= set(config["machine"]["versions"])
    assert {"system", "processor", "cores", "python"} <= set(config["machine"])
    info = run_folder.read_config(trained)
    flat = {**vars(info.config), **vars(info.config.td3)}
    flat.pop("td3")
    again = t3d.train(info.env, preset=info.preset, video=False, out="again", **flat)
    assert again.path == Path("again")
    assert run_folder.read_config(again.path) == info
    for name in ("best", "last"):
        one, other = trained / "policy" / f"{name}.safetensors", again.path / "policy" / f"{name}.safetensors"
        assert one.read_bytes() == other.read_bytes()
    # What the library hands back is what the folder says.
    assert (again.video, again.video_problem) == (None, None)
    evaluations = {row["env_steps"]: row for row in rows_of(trained, "evaluation")}
    assert again.last.returns == evaluations[430]["returns"]
    assert again.best.returns == evaluations[again.best_env_steps]["returns"]
    assert t3d.load(again.path)(np.zeros(3)).shape == (1,)


def test_metrics_hold_every_episode_update_and_evaluation(trained):
    episodes, updates, evaluations = (rows_of(trained, kind) for kind in ("episode", "update", "evaluation"))
    assert [row["env_steps"] for row in episodes] == [200, 400]
    assert {(row["env"], row["length"], row["end"]) for row in episodes} == {(0, 200, "truncated")}
    assert [row["env_steps"] for row in updates] == [200, 300, 400, 430]
    assert [row["updates"] for row in updates] == [200, 400, 600, 660]
    assert [row["env_steps"] for row in evaluations] == [150, 300, 430]
    for row in evaluations:
        assert row["lengths"] == [200, 200]
        assert row["return_mean"] == np.mean(row["returns"])
        assert row["return_std"] == np.std(row["returns"])


def test_health_is_looked_at_with_every_line_of_losses_and_every_evaluation(trained):
    found = rows_of(trained, "health")
    for of, kind in (("batch", "update"), ("evaluation", "evaluation")):
        steps = [row["env_steps"] for row in found if row["of"] == of]
        assert steps == [row["env_steps"] for row in rows_of(trained, kind)]


def test_nothing_was_promised_before_the_first_update(folder):
    short = train(steps=100, eval_every=50)
    assert len(rows_of(short.path, "evaluation")) == 2
    assert rows_of(short.path, "health") == []


def test_a_resumed_run_remembers_how_well_it_was(folder):
    choice = presets.choose(EnvSpec("Pendulum-v1"), None, {**SMALL, "steps": 400, "log_every": 100})
    session = Session(EnvSpec("Pendulum-v1"), choice, folder / "run")
    assert session.rows("health") == []
    rows = session.run()
    while next(rows)["env_steps"] < 350:
        pass
    rows.close()
    resumed = Session(EnvSpec("Pendulum-v1"), choice, folder / "run", resume=True)
    assert len(resumed.rows("health")) == 2
    health = [{k: v for k, v in row.items() if k != "crc32"} for row in rows_of(folder / "run", "health")]
    assert resumed.rows("health") == health
    for _ in resumed.run():
        pass
    assert [row["env_steps"] for row in resumed.rows("health")] == [200, 300, 400, 400]


def test_what_goes_wrong_is_said_once_while_training(folder, capsys):
    flags = ["--log-every", "100", "--eval-every", "1000", "--lr", "1e-3", *FLAGS]
    ill = f"{Path(OWN).with_name('ill_envs.py')}:HugeObs"
    assert run(["train", ill, "--steps", "900", "--out", "ill", *flags]) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "actions at the bound" in line)
    assert re.search(r"^ +\d00 steps  actions at the bound: \d+% of actions at the bound since step \d00; .*--lr", line)
    assert run(["train", f"{OWN}:Walk", "--steps", "900", *flags]) == 0
    assert "bound" not in capsys.readouterr().err


def test_best_is_the_best_evaluation_and_last_the_last(trained):
    evaluations = rows_of(trained, "evaluation")
    best = max(evaluations, key=lambda row: row["return_mean"])
    assert best is not evaluations[-1], "choose another seed: best and last must differ here"
    for which, row in {"best": best, "last": evaluations[-1]}.items():
        info = t3d.load(trained / "policy" / f"{which}.safetensors").info
        assert (info.env_steps, info.return_mean) == (row["env_steps"], row["return_mean"])
    assert t3d.load(trained).info.env_steps == best["env_steps"]


@pytest.mark.parametrize("which", ["best", "last"])
def test_evaluating_afterwards_repeats_the_recorded_evaluation_to_the_bit(trained, capsys, which):
    assert run(["evaluate", str(trained), "--policy", which, "--json"]) == 0
    out = capsys.readouterr().out
    answer = json.loads(out)
    assert out == json.dumps(answer) + "\n"
    numbers = {"return_mean", "return_std", "returns", "lengths", "action_change", "action_at_bound"}
    assert set(answer) == numbers | {"action_frequency", "period_s", "policy", "env_steps", "notes"}
    recorded = {row["env_steps"]: row for row in rows_of(trained, "evaluation")}[answer["env_steps"]]
    for name in ("return_mean", "return_std", "returns", "lengths"):
        assert answer[name] == recorded[name]
    assert answer["policy"] == which


def test_evaluate_plays_as_many_episodes_as_asked(trained, capsys):
    assert run(["evaluate", str(trained), "--episodes", "1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["returns"]) == 1
    assert run(["evaluate", str(trained)]) == 0
    assert "over 2 episodes" in capsys.readouterr().out
    for count in ("0", "-1"):
        assert run(["evaluate", str(trained), "--episodes", count]) == 2
        assert f"episodes = {count}" in capsys.readouterr().err


def test_tensorboard_reads_the_same_numbers(trained):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="an extra")
    events = accumulator.EventAccumulator(str(trained / "tensorboard"))
    events.Reload()
    tag = "evaluation/return_mean"
    assert {tag, "update/critic_loss", "episode/return"} <= set(events.Tags()["scalars"])
    seen = [(event.step, event.value) for event in events.Scalars(tag)]
    times = [event.wall_time for event in events.Scalars(tag)]
    assert (trained / "config.json").stat().st_mtime < times[0] <= times[-1] < time.time()
    recorded = [(row["env_steps"], np.float32(row["return_mean"])) for row in rows_of(trained, "evaluation")]
    assert seen == recorded


def test_what_the_command_prints(folder, capsys):
    assert run(["train", "Pendulum-v1", *FLAGS, "--steps", "201", "--eval-every", "100"]) == 0
    out, err = capsys.readouterr()
    for text in (
        "Pendulum-v1: 3 observations, 1 action\n",
        "preset pendulum (chosen for Pendulum-v1), seed 0",
        "replay 5,000 slots, 0 MB when full",
        "folder runs/Pendulum-v1/pendulum-s0",
        "      100 steps",
    ):
        assert text in err
    assert "will not learn" not in err
    lines = out.splitlines()
    assert lines[0].startswith("evaluation  return -")
    assert "over 2 episodes" in lines[0]
    assert lines[1:] == [
        "folder      runs/Pendulum-v1/pendulum-s0",
        "report      runs/Pendulum-v1/pendulum-s0/report.html",
    ]


def test_a_taken_name_gets_a_counter():
    paths = [train(steps=5, eval_episodes=1).path for _ in range(3)]
    assert [str(path) for path in paths] == [f"runs/Pendulum-v1/pendulum-s0{end}" for end in ("", "-2", "-3")]
    assert train(steps=5, eval_episodes=1, seed=7).path == Path("runs/Pendulum-v1/pendulum-s7")


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ("HalfCheetah-v5", "HalfCheetah-v5"),
        ("phys2d/Pendulum-v0", "phys2d_Pendulum-v0"),
        ("my_robots:Arm-v0", "my_robots.Arm-v0"),
        ("lab.robots:Mine/Arm-v0", "lab.robots.Mine_Arm-v0"),
        ("some/where/robots.py:Arm", "robots.Arm"),
        ("/abs/my robots.py:Arm", "my_robots.Arm"),
    ],
)
def test_a_folder_is_named_after_its_environment(env, name):
    assert EnvSpec(env).folder == name


# --- intervals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("updates_per_step", [0.5, 1, 2])
def test_updates_per_step_holds_whatever_n_envs_is(n_envs, updates_per_step):
    config = Config().with_values({**SMALL, "n_envs": n_envs, "updates_per_step": updates_per_step})
    trainer = Trainer(EnvSpec(f"{OWN}:Walk"), config)
    while trainer.env_steps < 140:
        before = trainer.env_steps
        trainer.step()
        assert trainer.env_steps == before + n_envs
        assert trainer.agent.updates == int(max(0, trainer.env_steps - 100) * updates_per_step)


def test_random_actions_last_as_long_as_asked_and_updates_begin_right_after():
    trainer = Trainer(EnvSpec(f"{OWN}:Walk"), Config().with_values({**SMALL, "exploration_noise": 0.0}))
    first_random = []
    for step in range(102):
        collector = trainer.collector
        action = collector._action = collector._draw_action(trainer.learner.engine.act)
        first_random.append(not np.allclose(action, trainer.agent.act(trainer.envs.obs), atol=1e-5))
        trainer.step()
        assert trainer.agent.updates == max(0, step + 1 - 100)
    assert first_random == [True] * 100 + [False] * 2


def test_three_envs_overshoot_by_two_at_most_and_the_count_is_true():
    done = train(f"{OWN}:Walk", steps=200, n_envs=3, eval_every=50, log_every=70)
    assert [row["env_steps"] for row in rows_of(done.path, "evaluation")] == [51, 102, 150, 201]
    assert [row["env_steps"] for row in rows_of(done.path, "update")] == [141, 201]
    assert rows_of(done.path, "update")[-1]["updates"] == 101
    episodes = rows_of(done.path, "episode")
    assert [(row["env"], row["env_steps"]) for row in episodes] == [
        (env, at) for at in (60, 120, 180) for env in range(3)
    ]
    assert t3d.load(done.path / "policy" / "last.safetensors").info.env_steps == 201


def test_a_run_shorter_than_its_warm_up_says_so(capsys):
    for flags in (["--steps", "100"], ["--steps", "101", "--updates-per-step", "0"]):
        assert run(["train", f"{OWN}:Walk", *FLAGS, *flags]) == 0
        assert "this run will not learn" in capsys.readouterr().err
    assert rows_of("runs/own_envs.Walk/td3-s0", "update") == []
    assert run(["train", f"{OWN}:Walk", *FLAGS, "--steps", "101"]) == 0
    assert "will not learn" not in capsys.readouterr().err


# --- flags -----------------------------------------------------------------------------------------------------


def test_numbers_as_people_write_them_and_flags_over_presets():
    env = f"{OWN}:Walk"
    flags = ["--steps", "1_0", "--buffer-size", "2e3", "--preset", "paper-2018", "--lr", "5e-4", "--out", "run"]
    flags += ["--random_steps=9"]
    assert run(["train", env, "--no-video", "--eval-episodes", "1", *flags]) == 0
    info = run_folder.read_config(Path("run"))
    assert (info.config.steps, info.config.buffer_size) == (10, 2_000)
    assert (info.preset, info.config.td3.lr) == ("paper-2018", 5e-4)  # the flag
    assert (info.config.batch_size, info.config.td3.hidden) == (100, (400, 300))  # the preset
    assert info.config.td3.gamma == 0.99  # the default


def test_a_run_that_ends_before_it_learns_is_refused_unless_its_random_steps_were_asked_for(capsys):
    assert run(["train", "Pendulum-v1", "--steps", "1_000", "--no-video"]) == 2
    assert "give --random-steps, say 200" in capsys.readouterr().err
    with pytest.raises(ConfigRefused, match="before it learns"):
        t3d.train("Pendulum-v1", steps=1_000)
    assert run(["train", "Pendulum-v1", "--steps", "9", "--seeds", "2"]) == 2
    assert "before it learns" in capsys.readouterr().err
    assert run(["train", "Pendulum-v1", *FLAGS, "--steps", "300", "--random-steps", "300"]) == 0
    said = capsys.readouterr()
    assert "this run will not learn" in said.err
    assert "untrained)" in said.out
    assert run(["evaluate", "runs/Pendulum-v1/pendulum-s0"]) == 0
    assert "note: it is untrained" in capsys.readouterr().err


def test_a_preset_named_in_escape_sequences_reaches_no_terminal(capsys):
    config = presets.choose(EnvSpec("Pendulum-v1"), None, SMALL | {"steps": 210}).config
    session = Session(EnvSpec("Pendulum-v1"), presets.Choice("td3\x1b[2J\x9b1m", config, "as recorded"), Path("run"))
    run_to_the_end(session, video=False, video_frames=1)
    said = capsys.readouterr()
    assert "preset td3" in said.err
    assert not {"\x1b", "\x9b"} & set(said.err + said.out)


def test_an_environments_facts_hold_under_any_preset():
    assert run(["train", "BipedalWalker-v3", "--preset", "paper-2018", "--steps", "2", *FLAGS, "--out", "run"]) == 0
    assert run_folder.read_config(Path("run")).config.fresh_envs


COMMANDS = ["train", "evaluate", "video", "check", "sweep", "tune", "track"]
HELP = """
import io, sys
from contextlib import redirect_stdout
from t3d.cli.main import run
for command in {commands}:
    with redirect_stdout(io.StringIO()) as said:
        try:
            code = run([command, "--help"])
        except SystemExit as stop:
            code = stop.code
    assert code == 0 and ("usage: t3d " + command) in said.getvalue(), command
assert run(["--help"]) == 0
assert run(["--version"]) == 0
print([name for name in ("torch", "gymnasium", "tensorboard") if name in sys.modules])
"""


def test_help_exits_with_0_and_imports_nothing_heavy():
    child = subprocess.run(
        [sys.executable, "-c", HELP.format(commands=COMMANDS)], capture_output=True, text=True, check=True
    )
    lines = child.stdout.splitlines()
    assert lines[-1] == "[]"
    assert lines[-2].startswith("0.")
    assert all(any(line.split()[:1] == [command] for line in lines) for command in COMMANDS)


# --- own environments and the library --------------------------------------------------------------------------


def test_a_run_in_ones_own_code_asks_for_it_and_refuses_another(capsys):
    env = f"{OWN}:Prints"
    assert train(env, steps=5, eval_episodes=1).path == Path("runs/own_envs.Prints/td3-s0")
    capsys.readouterr()
    command = ["evaluate", "runs/own_envs.Prints/td3-s0", "--json"]
    assert run(command) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "neither is taken from a file" in said.err
    assert f"--env {env}" in said.err
    for other in ("Pendulum-v1", f"{OWN}:Square"):
        assert run([*command, "--env", other]) == 2
        assert "spaces are not those that the policy was trained for" in capsys.readouterr().err
        assert run(["resume", command[1], "--env", other]) == 2
        assert "trained in another environment" in capsys.readouterr().err
    assert run([*command, "--env", env]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["env_steps"] == 5  # the environment's own words are not in the object's way
    assert "my own words" in err


def test_an_environment_that_has_changed_since_is_refused(folder, capsys):
    text = Path(OWN).read_text()
    (folder / "robots.py").write_text(text)
    train("robots.py:Walk", steps=5, eval_episodes=1)
    (folder / "new").mkdir()
    (folder / "new" / "robots.py").write_text(text.replace("-0.4, -2", "-0.5, -2").replace("0.4, 2", "0.5, 2"))
    assert run(["evaluate", "runs/robots.Walk/td3-s0", "--env", "new/robots.py:Walk"]) == 2
    assert "spaces are not those that the policy was trained for" in capsys.readouterr().err


def test_the_library_refuses_as_the_command_does(folder):
    with pytest.raises(t3d.Refused, match="there is no such option") as caught:
        t3d.train("Pendulum-v1", batchsize=3)
    assert "for example batch_size" in str(caught.value)
    with pytest.raises(t3d.Refused, match="video_frames is impossible"):
        t3d.train("Pendulum-v1", video_frames=0)
    with pytest.raises(t3d.Refused, match="steps is impossible"):
        t3d.train("Pendulum-v1", steps=0)
    assert list(folder.iterdir()) == []


def test_switching_everything_else_changes_no_weight(trained):
    done = train(steps=430, eval_every=430, eval_episodes=1, log_every=430, seed=3)
    file = Path("policy") / "last.safetensors"
    one, other = (safetensors.numpy.load_file(path / file) for path in (done.path, trained))
    assert {k: v.tobytes() for k, v in one.items()} == {k: v.tobytes() for k, v in other.items()}


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_mujoco_calls_unstable_is_counted(workers):
    done = train(f"{OWN}:Unstable", steps=40, log_every=20, env_workers=workers)
    whats = [row["what"] for row in rows_of(done.path, "event")]
    assert [what for what in whats if "MuJoCo" in what] == [
        f"MuJoCo has called the simulation unstable in {count} episodes since this process began" for count in (2, 4)
    ]
