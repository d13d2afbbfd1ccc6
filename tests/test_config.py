"""Every option changes something, every impossible value is refused, and presets are what they say."""

import dataclasses
import functools
import json
from operator import attrgetter
from pathlib import Path

import numpy as np
import probes
import pytest
import torch

from t3d import presets
from t3d.config import MAX_UNLOGGED_UPDATES, Config, TD3Config
from t3d.env_spec import EnvSpec
from t3d.environments import in_process, worker_pool
from t3d.errors import ConfigRefused
from t3d.presets import Choice
from t3d.runs.checkpoints import Checkpoints
from t3d.runs.session import Session
from t3d.runs.store import SPARE_STATE_BYTES
from t3d.td3 import TD3, UpdateInfo
from t3d.training.learner import _as_tensor
from t3d.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

PROBE = f"{Path(probes.__file__).resolve()}:Counting"
SMALL = {"steps": 40, "random_steps": 10, "batch_size": 8, "buffer_size": 100, "hidden": (8, 8), "eval_episodes": 2}
ALGORITHM = {field.name for field in dataclasses.fields(TD3Config)}
RUN = {field.name for field in dataclasses.fields(Config)} - {"td3"}


def trained(**options):
    """Return a trainer that has trained to the end of its steps."""
    made = Trainer(EnvSpec(PROBE), Config().with_values(SMALL | options))
    while made.env_steps < made.config.steps:
        made.step()
    return made


@functools.cache
def weights(**options):
    networks = trained(**options).agent.networks().values()
    return np.concatenate([p.detach().numpy().ravel() for network in networks for p in network.parameters()])


def rows(folder, kind, **options):
    """Train in a run folder; return the rows of one kind in its metrics.jsonl."""
    session = Session(EnvSpec(PROBE), Choice("td3", Config().with_values(SMALL | options), "as asked"), folder)
    for _ in session.run():
        pass
    written = [json.loads(line) for line in (session.path / "metrics.jsonl").read_text().splitlines()]
    return [row for row in written if row["kind"] == kind]


# ---- Every option changes behaviour. A new field of Config or TD3Config needs a row in one of these two tables.

# Another value alone gives other weights.
CHANGES_WEIGHTS = {
    "seed": 1,
    "exploration_noise": 0.5,
    "batch_size": 9,
    "lr": 1e-3,
    "gamma": 0.5,
    "tau": 0.5,
    "policy_noise": 0.4,
    "noise_clip": 0.1,
    "policy_delay": 3,
    "normalize_obs": True,
}


def algorithm_is_the_class_that_trains(folder, monkeypatch):
    td7 = {"algorithm": "td7", "train_at": "episode"}
    assert [type(trained(**options).agent).__name__ for options in ({}, td7)] == ["TD3", "TD7"]


def embedding_is_the_encoders_width(folder, monkeypatch):
    agent = trained(algorithm="td7", train_at="episode", embedding=5).agent
    assert [agent.encoder.zs.body[i].out_features for i in (0, 2, 4)] == [5, 5, 5]


def climb_says_which_critics_the_actor_climbs(folder, monkeypatch):
    td7 = {"algorithm": "td7", "train_at": "episode"}
    assert not np.array_equal(weights(**td7), weights(**td7, climb="q1"))


def pre_tanh_weight_makes_what_stands_before_tanh_small(folder, monkeypatch):
    sizes = []
    for weight in (0.0, 1.0):
        agent = trained(algorithm="td7", train_at="episode", pre_tanh_weight=weight).agent
        obs = torch.ones(1, agent.spaces.obs_size)
        sizes.append(float(agent.actor.pre_tanh(obs, agent.encoder_fixed.zs(obs)).abs().mean().detach()))
    assert sizes[1] < sizes[0]


def steps_end_the_run(folder, monkeypatch):
    assert rows(folder / "40", "evaluation")[-1]["env_steps"] == 40
    assert rows(folder / "55", "evaluation", steps=55)[-1]["env_steps"] == 55


def n_envs_are_stepped_side_by_side(folder, monkeypatch):
    made = Trainer(EnvSpec(PROBE), Config().with_values(SMALL | {"n_envs": 3}))
    made.step()
    assert (len(made.envs), made.env_steps, len(made.replay)) == (3, 3, 3)
    assert {row["env"] for row in rows(folder, "episode", n_envs=3)} == {0, 1, 2}


def env_workers_share_the_environments(folder, monkeypatch):
    def shares(made):
        return [worker.n_envs for worker in made.envs._envs._workers]

    assert isinstance(Trainer(EnvSpec(PROBE), Config().with_values(SMALL)).envs._envs, in_process.Instances)
    for n, expected in ((1, [3]), (2, [1, 2]), (3, [1, 1, 1])):
        made = Trainer(EnvSpec(PROBE), Config().with_values(SMALL | {"n_envs": 3, "env_workers": n}))
        assert shares(made) == expected
        made.envs.close()


def env_timeout_limits_a_step_in_training_and_in_evaluation(folder, monkeypatch):
    asked, begin = [], worker_pool.Workers.__init__

    def record(self, env, n_envs, workers, timeout_s, *more):
        asked.append((n_envs, workers, timeout_s))
        begin(self, env, n_envs, workers, timeout_s, *more)

    monkeypatch.setattr(worker_pool.Workers, "__init__", record)
    rows(folder / "two", "evaluation", steps=2, n_envs=2, env_workers=2, env_timeout=7.5)
    assert asked == [(2, 2, 7.5), (1, 1, 7.5)]
    asked.clear()
    rows(folder / "none", "evaluation", steps=2, n_envs=2)
    assert asked == []


def random_steps_come_before_the_updates(folder, monkeypatch):
    assert [trained(random_steps=n).agent.updates for n in (0, 10, 25, 40, 99)] == [40, 30, 15, 0, 0]


def updates_per_step_are_made(folder, monkeypatch):
    assert [trained(updates_per_step=n).agent.updates for n in (0, 0.5, 1, 3)] == [0, 15, 30, 90]


def buffer_size_bounds_the_memory(folder, monkeypatch):
    small, large = trained(buffer_size=20).replay, trained(buffer_size=200).replay
    assert 9 * small.full_bytes < large.full_bytes <= 10 * small.full_bytes
    assert len(small) < 20 < len(large) == 40


def eval_every_many_steps(folder, monkeypatch):
    assert [row["env_steps"] for row in rows(folder / "20", "evaluation", eval_every=20)] == [20, 40]
    assert [row["env_steps"] for row in rows(folder / "15", "evaluation", eval_every=15)] == [15, 30, 40]
    assert [row["env_steps"] for row in rows(folder / "n", "evaluation", eval_every=15, n_envs=4)] == [16, 32, 40]


def eval_episodes_are_played(folder, monkeypatch):
    assert [len(row["returns"]) for row in rows(folder / "2", "evaluation")] == [2]
    assert [len(row["lengths"]) for row in rows(folder / "5", "evaluation", eval_episodes=5)] == [5]


def log_every_many_steps(folder, monkeypatch):
    assert [row["env_steps"] for row in rows(folder / "10", "update", log_every=10)] == [20, 30, 40]
    assert [row["env_steps"] for row in rows(folder / "25", "update", log_every=25)] == [25, 40]


def commits(monkeypatch, path, **options):
    """Return the env steps at which a run of 40 steps made checkpoints."""
    made, commit = [], Checkpoints.commit
    steps = attrgetter("trainer.envs.env_steps")
    monkeypatch.setattr(Checkpoints, "commit", lambda *args: made.append(steps(args[2])) or commit(*args))
    rows(path, "update", **options)
    monkeypatch.undo()
    return made


def checkpoint_every_many_steps(folder, monkeypatch):
    assert commits(monkeypatch, folder / "9", checkpoint_every=9) == [9, 18, 27, 36, 40]
    assert commits(monkeypatch, folder / "40", checkpoint_every=1_000) == [40]
    # Slots must be on disk before a small memory goes round.
    assert commits(monkeypatch, folder / "ring", checkpoint_every=1_000, buffer_size=31) == [15, 30, 40]


def checkpoint_seconds_pass_at_most(folder, monkeypatch):
    assert commits(monkeypatch, folder / "1", checkpoint_seconds=1e-9) == [*range(41), 40]


def fresh_envs_are_made_for_every_episode(folder, monkeypatch):
    made, make = [], in_process.make
    monkeypatch.setattr(in_process, "make", lambda env, **options: made.append(env) or make(env, **options))
    trained(n_envs=2)
    assert len(made) == 2
    made.clear()
    trained(n_envs=2, fresh_envs=True)
    assert len(made) == 2 + 2 * 6  # 20 steps each, 3 steps an episode
    made.clear()
    rows(folder / "used", "evaluation", steps=2)
    assert len(made) == 1 + 1  # one to train in, one for both evaluation episodes
    made.clear()
    rows(folder / "fresh", "evaluation", steps=2, fresh_envs=True)
    assert len(made) == 1 + 2


def max_episode_steps_truncate_every_episode(folder, monkeypatch):
    assert {row["length"] for row in rows(folder / "none", "episode")} == {3}
    assert {(row["length"], row["end"]) for row in rows(folder / "two", "episode", max_episode_steps=2)} == {
        (2, "truncated")
    }
    assert rows(folder / "judged", "evaluation", max_episode_steps=2)[-1]["lengths"] == [2, 2]


def train_at_an_episodes_end(folder, monkeypatch):
    made = Trainer(EnvSpec(PROBE), Config().with_values(SMALL | {"train_at": "episode", "random_steps": 0}))
    seen = []
    for _ in range(6):
        made.step()
        while made.in_burst:
            made.step()
        seen.append(made.agent.updates)
    assert seen == [0, 0, 3, 3, 3, 6]


def eval_env_says_where_evaluations_play(folder, monkeypatch):
    made, make = [], in_process.make
    monkeypatch.setattr(in_process, "make", lambda env, **options: made.append(env) or make(env, **options))
    rows(folder / "new", "evaluation", steps=2)
    assert len(made) == 2
    made.clear()
    seen = rows(folder / "same", "evaluation", steps=7, eval_every=2, eval_env="same")
    assert [row["env_steps"] for row in seen] == [3, 6, 7]  # episodes have 3 steps
    assert len(made) == 1


def on_resume_resets_or_repeats(folder, monkeypatch):
    for on_resume, exact in (("repeat", True), ("reset", False)):
        choice = Choice("td3", Config().with_values(SMALL | {"on_resume": on_resume}), "as asked")
        run = Session(EnvSpec(PROBE), choice, folder / on_resume).run()
        next(run)
        run.close()
        again = Session(EnvSpec(PROBE), choice, folder / on_resume, resume=True)
        assert (again.progress.not_exact == []) is exact
        list(again.run())


def hardware_changes_defaults_alone(folder, monkeypatch):
    robot = presets.choose(EnvSpec("Pendulum-v1"), hardware=True).config
    assert (robot.hardware, robot.eval_env, robot.on_resume) == (True, "same", "reset")
    assert presets.choose(EnvSpec("Pendulum-v1"), None, {"eval_env": "new"}, hardware=True).config.eval_env == "new"


class Seen(Exception):
    """Raised in place of going on."""


def device_is_where_the_networks_live(folder, monkeypatch):
    class Build(TD3):
        def __init__(self, *sizes, device):
            raise Seen(device)

    for count, refused, accepted in ((0, ["cuda", "cuda:0"], ["cpu"]), (1, ["cuda:1"], ["cpu", "cuda", "cuda:0"])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        for device in refused:
            with pytest.raises(ConfigRefused, match=rf"{device}, .*{count} CUDA devices\n.*expected: +cpu"):
                Trainer(EnvSpec(PROBE), Config(device=device), Build)
        for device in accepted:
            with pytest.raises(Seen, match=f"^{device}$"):
                Trainer(EnvSpec(PROBE), Config(device=device), Build)


def engine_runs_the_updates(folder, monkeypatch):
    made = {engine: trained(engine=engine) for engine in ("eager", "fused", "auto")}
    assert {engine: one.learner.chosen.name for engine, one in made.items()} == {
        "eager": "eager",
        "fused": "fused",
        "auto": "fused",
    }
    assert made["eager"].learner.engine is made["eager"].agent
    assert made["fused"].learner.engine is not made["fused"].agent


def threads_are_set(folder, monkeypatch):
    for threads in (2, 1):
        made = trained(threads=threads)
        assert (made.learner.threads, torch.get_num_threads()) == (threads, threads)
    monkeypatch.setattr("t3d.training.learner.choose_threads", lambda *sizes: 2)
    made = trained(threads="auto")
    assert (made.learner.threads, torch.get_num_threads()) == (2, 2)


def layer_norm_is_where_it_says(folder, monkeypatch):
    for layer_norm, normed in (("none", (0, 0, 0)), ("critic", (0, 2, 2)), ("both", (2, 2, 2))):
        agent = trained(layer_norm=layer_norm).agent
        bodies = agent.actor.body, agent.critic.q1_body, agent.critic.q2_body
        assert tuple(sum(isinstance(layer, torch.nn.LayerNorm) for layer in body) for body in bodies) == normed


def hidden_are_the_widths(folder, monkeypatch):
    agent = trained(hidden=(5, 4, 3)).agent
    for body in (agent.actor.body, agent.critic.q1_body, agent.critic.q2_body):
        assert [layer.out_features for layer in body if isinstance(layer, torch.nn.Linear)] == [5, 4, 3, 1]


def explored(monkeypatch, steps, **options):
    """Return the standard deviation of what was added to the actor's actions at each vector step after the random."""
    options = SMALL | {"n_envs": 500, "random_steps": 1000, "buffer_size": 5_000, "updates_per_step": 0} | options
    made = Trainer(EnvSpec(PROBE), Config().with_values(options))
    monkeypatch.setattr(made.learner.engine, "act", lambda obs: np.zeros((500, 1), np.float32))
    found, step = [], made.envs.step
    monkeypatch.setattr(made.envs, "step", lambda action, meanwhile: found.append(action.std()) or step(action))
    while made.env_steps < steps:
        made.step()
    return found[2:]


def exploration_noise_moves_in_a_line(folder, monkeypatch):
    schedule = {"exploration_noise": 0.2, "exploration_noise_final": 0.04, "exploration_noise_steps": 2000}
    found = explored(monkeypatch, 4_000, **schedule)
    assert found == pytest.approx([0.2, 0.16, 0.12, 0.08, 0.04, 0.04], rel=0.15)
    assert explored(monkeypatch, 2_000) == pytest.approx([0.1, 0.1], rel=0.15)
    config = Config(random_steps=1000).with_values(schedule)
    assert [config.exploration_noise_at(n) for n in (0, 1000, 1500, 3000, 10**9)] == pytest.approx(
        [0.2, 0.2, 0.16, 0.04, 0.04]
    )
    rising = Config(exploration_noise=0, exploration_noise_final=0.5, exploration_noise_steps=1, random_steps=0)
    assert [rising.exploration_noise_at(n) for n in (0, 1, 2)] == [0, 0.5, 0.5]


def a_line_to_the_same_noise_is_none(folder, monkeypatch):
    level = {"exploration_noise_final": 0.1, "exploration_noise_steps": 7}
    assert np.array_equal(weights(), weights(**level))
    assert not np.array_equal(weights(), weights(**level | {"exploration_noise_final": 0.5}))
    assert not np.array_equal(
        weights(**level | {"exploration_noise_final": 0.5}),
        weights(**level | {"exploration_noise_final": 0.5, "exploration_noise_steps": 70}),
    )


def frames_are_looked_at_as_asked(*_):
    options = {"frame_size": 32, "frame_color": "rgb", "frame_stack": 2, "action_repeat": 3}
    assert vars(Config(**options).view) == options


def action_repeat_plays_each_action_for_so_many_frames(folder, monkeypatch):
    assert {row["length"] for row in rows(folder / "two", "episode", action_repeat=2)} == {2}  # of three frames
    assert rows(folder / "judged", "evaluation", action_repeat=2)[-1]["lengths"] == [2, 2]


BEHAVES = {
    **dict.fromkeys(("frame_size", "frame_color", "frame_stack"), frames_are_looked_at_as_asked),
    "action_repeat": action_repeat_plays_each_action_for_so_many_frames,
    "exploration_noise_final": exploration_noise_moves_in_a_line,
    "exploration_noise_steps": a_line_to_the_same_noise_is_none,
    "steps": steps_end_the_run,
    "n_envs": n_envs_are_stepped_side_by_side,
    "env_workers": env_workers_share_the_environments,
    "env_timeout": env_timeout_limits_a_step_in_training_and_in_evaluation,
    "random_steps": random_steps_come_before_the_updates,
    "updates_per_step": updates_per_step_are_made,
    "buffer_size": buffer_size_bounds_the_memory,
    "eval_every": eval_every_many_steps,
    "train_at": train_at_an_episodes_end,
    "eval_env": eval_env_says_where_evaluations_play,
    "on_resume": on_resume_resets_or_repeats,
    "hardware": hardware_changes_defaults_alone,
    "eval_episodes": eval_episodes_are_played,
    "log_every": log_every_many_steps,
    "checkpoint_every": checkpoint_every_many_steps,
    "checkpoint_seconds": checkpoint_seconds_pass_at_most,
    "fresh_envs": fresh_envs_are_made_for_every_episode,
    "max_episode_steps": max_episode_steps_truncate_every_episode,
    "device": device_is_where_the_networks_live,
    "engine": engine_runs_the_updates,
    "threads": threads_are_set,
    "layer_norm": layer_norm_is_where_it_says,
    "hidden": hidden_are_the_widths,
    "algorithm": algorithm_is_the_class_that_trains,
    "embedding": embedding_is_the_encoders_width,
    "climb": climb_says_which_critics_the_actor_climbs,
    "pre_tanh_weight": pre_tanh_weight_makes_what_stands_before_tanh_small,
}


def test_a_checkpoint_is_written_every_10_000_steps_or_60_seconds():
    assert (Config().checkpoint_every, Config().checkpoint_seconds) == (10_000, 60)


def test_every_option_is_tested_here():
    assert sorted([*CHANGES_WEIGHTS, *BEHAVES]) == sorted(ALGORITHM | RUN)
    assert not ALGORITHM & RUN  # on the command line they stand side by side


@pytest.mark.parametrize("engine", ["eager", "fused"])
@pytest.mark.parametrize("name", CHANGES_WEIGHTS)
def test_another_value_gives_other_weights(name, engine):
    assert not np.array_equal(weights(engine=engine), weights(engine=engine, **{name: CHANGES_WEIGHTS[name]}))


@pytest.mark.parametrize("name", BEHAVES)
def test_the_option_does_what_it_says(name, tmp_path, monkeypatch):
    BEHAVES[name](tmp_path, monkeypatch)


# ---- Impossible values

NAN, INFINITE = float("nan"), float("inf")
IMPOSSIBLE = {
    "steps": [0, -1, 1e6, True, 2**63],
    "seed": [-1],
    "n_envs": [0],
    "env_workers": [-1, 2, True, 1.0, 257],
    "env_timeout": [0, -1.0, NAN, INFINITE, "60"],
    "random_steps": [-1],
    "exploration_noise": [-0.1, NAN, INFINITE],
    "exploration_noise_final": [-0.1, NAN, INFINITE, "0.1", True, 0.05],
    "exploration_noise_steps": [-1, 1.0, 1000],
    "normalize_obs": [1, "yes"],
    "updates_per_step": [-1, NAN, INFINITE],
    "train_at": ["", "epoch"],
    "batch_size": [0, 256.0, "256"],
    "buffer_size": [0, 2, 255, -1],
    "eval_every": [0, "always"],
    "eval_env": ["", "old"],
    "on_resume": ["replay", None],
    "hardware": [1],
    "eval_episodes": [0],
    "log_every": [0],
    "checkpoint_every": [0, 1.5],
    "checkpoint_seconds": [0.0, -1.0, NAN],
    "device": ["tpu", "", "cuda:", "cuda:x", "cuda:-1", "CPU", "cpu:0", "cuda:100"],
    "engine": ["", "jax"],
    "threads": [0, 257, True, 1.5],
    "layer_norm": ["", "actor"],
    "algorithm": ["", "TD7", "sac"],
    "embedding": [0, 2**20 + 1, 1.5, None],
    "climb": ["", "q2"],
    "pre_tanh_weight": [-1e-5, NAN, INFINITE],
    "hidden": [(), (0,), (256, -1), (8.5,), (True,), (2**20 + 1,), (1,) * 65],
    "lr": [0.0, -1e-3, NAN, INFINITE],
    "gamma": [-0.1, 1.1, NAN, "0.9"],
    "tau": [0.0, 1.1, NAN],
    "policy_noise": [-0.1, NAN, INFINITE],
    "noise_clip": [-0.1, NAN],
    "policy_delay": [0, 2.0],
    "fresh_envs": [1, "yes"],
    "max_episode_steps": [0, 2.5],
    "frame_size": [15, 257, 64.0],
    "frame_color": ["", "gray"],
    "frame_stack": [0, 17],
    "action_repeat": [0, 1_001, 2.0, True],
}


def test_every_option_has_impossible_values():
    assert sorted(IMPOSSIBLE) == sorted(ALGORITHM | RUN)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in IMPOSSIBLE.items() for value in values])
def test_an_impossible_value_is_refused(name, value):
    with pytest.raises(ConfigRefused) as refused:
        Config().with_values({name: value}).check_together()
    lines = [line.split() for line in str(refused.value).splitlines()]
    assert [line[0] for line in lines[1:]] == ["got:", "expected:", "do:"]
    assert all(len(line) > 1 for line in lines[1:])
    assert f"{name} = {value}" in str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 101, "buffer_size": 100},
        {"n_envs": 4, "buffer_size": 11},
        {"n_envs": 2, "env_workers": 3},
        {"steps": 2_000_000, "log_every": 1_600_000},
        {"log_every": 10, "updates_per_step": 150_000.0},
    ],
)
def test_options_that_are_impossible_together_are_refused_before_anything_is_made(options, monkeypatch):
    monkeypatch.setattr(in_process, "make", lambda env: pytest.fail("an environment was made"))
    with pytest.raises(ConfigRefused, match=r"got: .*\n.*expected: "):
        Trainer(EnvSpec(PROBE), Config().with_values(SMALL | options))


def test_as_many_losses_may_wait_as_a_checkpoint_is_read_with():
    most = MAX_UNLOGGED_UPDATES
    Config().with_values({"steps": most * 9, "log_every": most - 1}).check_together()
    with pytest.raises(ConfigRefused, match="lower --log-every"):  # also of a short run: its --steps may grow
        Config().with_values({"steps": 100, "log_every": most}).check_together()
    losses = [UpdateInfo(*torch.zeros(5))] * 1_000
    assert _as_tensor(losses).nbytes * most // 1_000 < SPARE_STATE_BYTES


def test_an_unknown_option_is_refused_with_the_nearest_known_one():
    with pytest.raises(ConfigRefused, match=r"got: +batchsize\n.*batch_size"):
        Config().with_values({"batchsize": 3})


def test_a_memory_that_would_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr("t3d.training.limits.usable_memory_bytes", lambda: 4_000_000)
    with pytest.raises(ConfigRefused, match=r"got: .*GB(.|\n)*expected: .*80%(.|\n)*--buffer-size"):
        Trainer(EnvSpec(PROBE), Config(buffer_size=120_000))  # 28 bytes a slot: 84 %
    Trainer(EnvSpec(PROBE), Config(buffer_size=100_000).with_values({"hidden": (8,)}))
    with pytest.raises(ConfigRefused, match=r"networks would not fit(.|\n)*--hidden"):
        # 4.2 MB: weights, target and Adam's moments of the actor
        Trainer(EnvSpec(PROBE), Config(buffer_size=1_000).with_values({"hidden": (512, 512)}))


# ---- Presets

FIGURES = {
    "td3": {"hidden": (256, 256), "lr": 3e-4, "batch_size": 256, "random_steps": 10_000, "gamma": 0.99},
    "paper-2018": {"hidden": (400, 300), "lr": 1e-3, "batch_size": 100, "random_steps": 10_000, "gamma": 0.99},
    "course": {"hidden": (400, 300), "lr": 1e-3, "batch_size": 100, "steps": 500_000, "eval_every": 5_000},
    "pendulum": {"hidden": (64, 64), "lr": 1e-3, "batch_size": 100, "updates_per_step": 2, "gamma": 0.99},
    "bullet": {"hidden": (400, 300), "lr": 7e-4, "batch_size": 256},
    "small": {"hidden": (400, 300), "lr": 1e-3, "batch_size": 256},
    "td7": {"hidden": (256, 256), "lr": 3e-4, "batch_size": 256, "embedding": 256, "climb": "mean"},
    "fast": {
        "hidden": (256, 256),
        "lr": 3e-4,
        "batch_size": 128,
        "embedding": 128,
        "climb": "q1",
        "pre_tanh_weight": 1e-5,
    },
    "images": {"hidden": (256, 256), "lr": 5e-4, "batch_size": 128, "buffer_size": 100_000, "action_repeat": 2},
}
COMMON = {"tau": 0.005, "policy_noise": 0.2, "noise_clip": 0.5, "policy_delay": 2, "exploration_noise": 0.1}


def flat(config):
    return {name: getattr(config.td3 if name in ALGORITHM else config, name) for name in ALGORITHM | RUN}


def test_the_presets_are_these():
    assert presets.names() == sorted(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_a_preset_has_the_figures_of_the_literature_and_defaults_elsewhere(name):
    choice = presets.choose(EnvSpec("HalfCheetah-v5"), name)
    assert choice.preset == name
    assert flat(choice.config).items() >= (FIGURES[name] | COMMON).items()
    file = presets._read(f"{name}.toml")
    assert flat(choice.config) == flat(Config()) | file
    choice.config.check_together()


def test_the_defaults_are_the_issues():
    assert (
        flat(Config()).items()
        >= {
            "steps": 1_000_000,
            "buffer_size": 1_000_000,
            "eval_every": 10_000,
            "eval_episodes": 10,
            "updates_per_step": 1,
        }.items()
    )


@pytest.mark.parametrize(
    ("env", "preset", "facts"),
    [
        ("HalfCheetah-v5", "td3", {"random_steps": 10_000, "fresh_envs": False}),
        ("Ant-v5", "td3", {"fresh_envs": False}),
        ("Pendulum-v1", "pendulum", {"random_steps": 1_000}),
        ("InvertedPendulum-v5", "pendulum", {"random_steps": 1_000}),
        ("InvertedDoublePendulum-v5", "pendulum", {"random_steps": 1_000}),
        ("Reacher-v5", "td3", {"random_steps": 1_000}),
        ("Swimmer-v5", "td3", {"gamma": 0.9999}),
        ("LunarLanderContinuous-v3", "small", {"gamma": 0.98, "buffer_size": 200_000}),
        ("BipedalWalker-v3", "td3", {"fresh_envs": True}),
        ("AntBulletEnv-v0", "bullet", {"fresh_envs": True, "gamma": 0.98, "buffer_size": 200_000}),
        ("HalfCheetahBulletEnv-v0", "bullet", {"fresh_envs": True}),
        ("pybullet_envs_gymnasium:Walker2DBulletEnv-v0", "bullet", {"fresh_envs": True}),
        ("InvertedPendulumSwingupBulletEnv-v0", "bullet", {"fresh_envs": True}),
        ("some/Pendulum-v1.py:Mine", "td3", {"fresh_envs": False, "random_steps": 10_000}),
    ],
)
def test_an_environment_chooses_its_preset(env, preset, facts):
    choice = presets.choose(EnvSpec(env))
    assert choice.preset == preset
    assert flat(choice.config).items() >= facts.items()
    assert (env in choice.reason) == (preset != "td3")


def test_presets_name_only_environments_presets_and_options_that_exist():
    for known in presets._read("environments.toml")["environment"]:
        assert known.get("preset", "td3") in presets.names()
        assert set(known) <= {"ids", "preset", "facts"}
        Config().with_values(known.get("facts", {}))


@pytest.mark.parametrize("preset", FIGURES)
@pytest.mark.parametrize("env", ["BipedalWalker-v3", "AntBulletEnv-v0"])
def test_facts_of_an_environment_hold_under_any_preset(env, preset):
    assert presets.choose(EnvSpec(env), preset).config.fresh_envs
    assert presets.choose(EnvSpec("InvertedPendulum-v5"), preset).config.random_steps == 1_000


def test_values_win_over_the_preset_which_wins_over_facts_which_win_over_defaults(monkeypatch):
    facts = {"lr": 5.0, "gamma": 0.1, "tau": 0.2}
    known = {"environment": [{"ids": ["Mine-v0"], "preset": "small", "facts": facts}]}
    read = presets._read
    monkeypatch.setattr(presets, "_read", lambda file: known if file == "environments.toml" else read(file))
    config = presets.choose(EnvSpec("Mine-v0"), None, {"lr": 0.3}).config
    assert (config.td3.lr, config.td3.gamma, config.td3.tau) == (0.3, 0.1, 0.2)
    assert config.td3.policy_noise == TD3Config().policy_noise
    assert presets.choose(EnvSpec("Mine-v0"), "small").config.td3.lr == 1e-3
    assert presets.choose(EnvSpec("Mine-v0"), "course").config.td3.gamma == 0.99  # as the course had it
    assert presets.choose(EnvSpec("Mine-v0"), None, {"algorithm": "td7", "tau": 0.005}).preset == "td7"
    assert presets.choose(EnvSpec("Other-v0"), None, {"lr": 0.3}).config == Config(td3=TD3Config(lr=0.3))


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ConfigRefused, match=r"got: +papre(.|\n)*expected: .*paper-2018"):
        presets.choose(EnvSpec("HalfCheetah-v5"), "papre")
