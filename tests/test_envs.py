"""Environments: steps and flags against Gymnasium's own vector env, seeds, scaling, fresh instances, silence."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

from t3d import presets
from t3d.config import Config
from t3d.env_spec import EnvSpec, View
from t3d.environments.envs import Envs
from t3d.environments.make import make, spaces_of
from t3d.errors import Diverged, EnvFailed, EnvRefused
from t3d.spaces import ObsPart, Spaces
from t3d.training.randomness import episode_seed
from t3d.training.trainer import Trainer

OWN = str(Path(__file__).with_name("own_envs.py"))
SUITES = {
    "HalfCheetah-v5": (17, 6),
    "Pendulum-v1": (3, 1),
    "BipedalWalker-v3": (24, 4),
    "LunarLanderContinuous-v3": (8, 2),
    "HalfCheetahBulletEnv-v0": (26, 6),
    "AntBulletEnv-v0": (28, 8),
    "Walker2DBulletEnv-v0": (22, 6),
}
SEED_OF = partial(episode_seed, 5)


@pytest.fixture(autouse=True)
def one_thread():
    # With networks this small, waiting for a second thread costs more than the arithmetic.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def actions_for(envs, steps, seed=0):
    shape = (steps, len(envs), envs.spaces.action_size)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def play(envs, actions):
    """Step to the end of `actions`, resetting what ends; return all that was seen."""
    seen = [envs.obs]
    for action in actions:
        step = envs.step(action)
        seen += [step.next_obs, step.reward, step.terminated, step.truncated]
        if step.episodes:
            envs.reset(step.terminated | step.truncated)
            seen.append(envs.obs)
    return seen


@pytest.mark.parametrize("env", SUITES)
def test_every_suite_makes_and_steps(env):
    envs = Envs(EnvSpec(env), 2, SEED_OF, fresh=False)
    assert (envs.spaces.obs_size, envs.spaces.action_size) == SUITES[env]
    assert (np.array(envs.spaces.action_low) < envs.spaces.action_high).all()
    play(envs, actions_for(envs, 5))
    assert envs.env_steps == 10
    assert envs.obs.shape == (2, SUITES[env][0])
    assert envs.obs.dtype == np.float32
    envs.close()


def registered(name, entry_point, **options):
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point, **options)
    return name


@pytest.mark.parametrize("env", ["Pendulum-v1", "LunarLanderContinuous-v3", "Hopper-v5"])
def test_steps_as_gymnasium_does(env):
    # Random hoppers and landers fall at different times; the pendulum is cut, so its episodes are shortened.
    limit = {"Pendulum-v1": 17}.get(env)
    name = env
    if limit:
        spec = gymnasium.spec(env)
        name = registered("T3dShortPendulum-v0", spec.entry_point, max_episode_steps=limit)
    n, steps = 3, 150
    ours = Envs(EnvSpec(name), n, SEED_OF, fresh=False)
    vector = SyncVectorEnv([partial(gymnasium.make, name)] * n, autoreset_mode=AutoresetMode.DISABLED)
    episode = np.zeros(n, int)
    obs, _ = vector.reset(seed=[SEED_OF(i, 0) for i in range(n)])
    np.testing.assert_array_equal(ours.obs, obs.astype(np.float32))
    for action in actions_for(ours, steps):
        scaled = ours.spaces.to_env_units(action)
        next_obs, reward, terminated, truncated, _ = vector.step(scaled)
        step = ours.step(action)
        np.testing.assert_array_equal(step.next_obs, next_obs.astype(np.float32))
        np.testing.assert_array_equal(step.reward, reward.astype(np.float32))
        np.testing.assert_array_equal(step.terminated, terminated)
        np.testing.assert_array_equal(step.truncated, truncated)
        ended = terminated | truncated
        if ended.any():
            episode[ended] += 1
            seeds = [SEED_OF(i, int(episode[i])) if ended[i] else None for i in range(n)]
            obs, _ = vector.reset(seed=seeds, options={"reset_mask": ended})
            ours.reset(ended)
            np.testing.assert_array_equal(ours.obs, obs.astype(np.float32))
    assert (episode > 0).all()
    assert ours.env_steps == n * steps
    ours.close()
    vector.close()


def test_what_ends_is_shown_as_it_was_and_counted():
    envs = Envs(EnvSpec(f"{OWN}:Walk"), 2, SEED_OF, fresh=False)
    rewards = np.zeros(2)
    for action in actions_for(envs, 20):
        before, step = envs.obs, envs.step(action)
        rewards += step.reward
    # The true last observation: 0.9 times the one before, and the action in the env's own units.
    moved = envs.spaces.to_env_units(action)
    np.testing.assert_allclose(step.next_obs[:, :3], 0.9 * before[:, :3] + moved, atol=1e-6)
    assert step.truncated.all()
    assert not step.terminated.any()
    assert [(e.env, e.length, e.end) for e in step.episodes] == [(0, 20, "truncated"), (1, 20, "truncated")]
    assert [e.episode_return for e in step.episodes] == rewards.tolist()
    assert envs.obs is step.next_obs  # nothing was reset behind the owner's back
    envs.reset(np.array([False, True]))
    np.testing.assert_array_equal(envs.obs[0], step.next_obs[0])
    assert not np.array_equal(envs.obs[1], step.next_obs[1])


def test_an_env_stream_does_not_depend_on_its_neighbours():
    # The same actions in environment 0, whatever the others do and however many there are: equal to the bit.
    name = "LunarLanderContinuous-v3"
    alone, among = Envs(EnvSpec(name), 1, SEED_OF, fresh=False), Envs(EnvSpec(name), 3, SEED_OF, fresh=False)
    actions = actions_for(among, 250)
    ends = []
    for action in actions:
        one, three = alone.step(action[:1]), among.step(action)
        np.testing.assert_array_equal(one.next_obs[0], three.next_obs[0])
        assert one.reward[0] == three.reward[0]
        ends += [e.env for e in three.episodes]
        for envs, step in ((alone, one), (among, three)):
            if step.episodes:
                envs.reset(step.terminated | step.truncated)
        np.testing.assert_array_equal(alone.obs[0], among.obs[0])
    assert {0, 1, 2} <= set(ends)


def test_every_episode_and_every_env_has_a_seed_of_its_own():
    asked = []

    def seed_of(env, episode):
        asked.append((env, episode))
        return episode_seed(0, env, episode)

    envs = Envs(EnvSpec(f"{OWN}:Walk"), 3, seed_of, fresh=False)
    starts = [envs.obs]
    for _ in range(2):
        envs.reset(np.array([True, False, True]))
        starts.append(envs.obs)
    assert asked == [(0, 0), (1, 0), (2, 0), (0, 1), (2, 1), (0, 2), (2, 2)]
    rows = np.concatenate([starts[0], starts[1][[0, 2]], starts[2][[0, 2]]])
    assert len(np.unique(rows, axis=0)) == 7


def test_noise_and_random_actions_are_drawn_for_each_env():
    # The widespread mistake: one row of noise for all environments.
    # With equal weights, env 0 and 1 differ by their noise alone where they see the same.
    config = Config(n_envs=3, random_steps=3, batch_size=1, buffer_size=100, exploration_noise=0.5)
    trainer = Trainer(EnvSpec(f"{OWN}:Walk"), config)
    random = trainer.collector._draw_action(trainer.learner.engine.act)
    assert len(np.unique(random[:, 0])) == 3
    trainer.step()
    trainer.envs.obs = np.zeros_like(trainer.envs.obs)
    action = trainer.collector._draw_action(trainer.learner.engine.act)
    noise = action - trainer.agent.act(trainer.envs.obs)
    assert len(np.unique(noise)) == noise.size == 9
    assert np.abs(action).max() <= 1


# --- scaling ---------------------------------------------------------------------------------------------------

FINITE = st.floats(-1e6, 1e6, width=32)


def bounded(low, high):
    low, high = (tuple(np.float32(bounds).tolist()) for bounds in (low, high))
    return Spaces((ObsPart(shape=(1,)),), (len(low),), low, high)


ACTION = st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=20)


@given(FINITE, FINITE, ACTION)
def test_scaling_stays_inside_reaches_both_ends_and_keeps_order(one, other, actions):
    if one == other:
        return
    low, high = np.float32([min(one, other)]), np.float32([max(one, other)])
    action = np.sort(np.float32([-1, *actions, 1]))[:, None]
    scaled = bounded(low, high).to_env_units(action)
    assert scaled.dtype == np.float32
    assert (scaled >= low).all()
    assert (scaled <= high).all()
    assert (np.diff(scaled[:, 0]) >= 0).all()
    assert scaled[0] == low
    assert scaled[-1] >= high - np.spacing(max(abs(low), abs(high)))  # one unit in the last place


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.4, 0.4), (-2, 2), (-1, 1), (0, 0.3)])
def test_usual_bounds_are_reached_exactly(low, high):
    scaled = bounded([low], [high]).to_env_units(np.float32([[-1], [1]]))
    assert scaled[:, 0].tolist() == [np.float32(low), np.float32(high)]


def test_each_dimension_has_bounds_of_its_own():
    low, high = np.float32([0, -0.4, -2]), np.float32([1, 0.4, 2])
    action = np.float32([[0, 0, 0], [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(bounded(low, high).to_env_units(action), [[0.5, 0, 0], [0.75, 0.2, 1]], atol=1e-7)


def test_unclipped_scaling_would_leave_the_bounds():
    # So that nobody takes the clip away: low + 2 * half is above high here.
    low, high = np.float32(-0.7), np.float32(0.1)
    half = np.float32(0.5) * (high - low)
    assert low + np.float32(2) * half > high
    assert bounded([low], [high]).to_env_units(np.float32([[1]]))[0, 0] == high


def test_bounds_in_double_precision_are_rounded_inwards():
    # float32(0.1) is above 0.1, and an env with float64 bounds refuses it.
    box = gymnasium.spaces.Box(-0.1, 0.1, (1,), np.float64)
    env = make(EnvSpec(f"{OWN}:Walk"))
    env.action_space = box
    spaces = spaces_of(env, "own", View())
    assert box.contains(np.array(spaces.action_low, np.float32))
    assert box.contains(np.array(spaces.action_high, np.float32))
    assert abs(spaces.action_high[0] - 0.1) < 1e-8


def test_two_dimensional_spaces_are_flat_inside_and_whole_outside():
    envs = Envs(EnvSpec(f"{OWN}:Square"), 2, SEED_OF, fresh=False)  # it asserts the shape of its actions itself
    assert (envs.spaces.obs_size, envs.spaces.action_size) == (4, 3)
    assert (envs.spaces.obs[0].shape, envs.spaces.action_shape) == ((2, 2), (3, 1))
    play(envs, actions_for(envs, 25))


# --- fresh instances -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", ["BipedalWalker-v3", "HalfCheetahBulletEnv-v0", "AntBulletEnv-v0"])
def test_a_fresh_instance_repeats_an_episode_and_a_used_one_does_not(env):
    assert presets.choose(EnvSpec(env)).config.fresh_envs
    steps = 60

    def third_episode(fresh):
        envs = Envs(EnvSpec(env), 1, SEED_OF, fresh)
        for _ in range(2):
            play(envs, actions_for(envs, 20, seed=1))
            envs.reset(np.ones(1, bool))
        episode = int(envs._episode[0])
        seen = play(envs, actions_for(envs, steps, seed=2))
        envs.close()
        return episode, seen

    episode, of_fresh = third_episode(fresh=True)
    brand_new = Envs(EnvSpec(env), 1, lambda _, k: SEED_OF(0, episode + k), fresh=True)
    assert same(of_fresh, play(brand_new, actions_for(brand_new, steps, seed=2)))
    brand_new.close()
    assert not same(of_fresh, third_episode(fresh=False)[1])


def same(one, other):
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


# --- what goes wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("NanObs", ["non-finite observation", "index [1, 3] is [nan, -inf]"]),
        ("InfReward", ["non-finite reward", "index [0] is [inf]"]),
        ("WrongShape", ["observation is of the wrong kind", "ndarray of shape (3,)", "shape (4,)"]),
        ("RewardArray", ["reward is of the wrong kind", "ndarray of shape (2,): array([1., 2.])", "one real number"]),
        ("Raises", ["raised RuntimeError in step: the motor is stuck"]),
    ],
)
def test_a_bad_step_is_described_and_never_stored(name, says):
    config = Config(random_steps=10, batch_size=8, buffer_size=1_000, eval_episodes=1)
    trainer = Trainer(EnvSpec(f"{OWN}:{name}"), config)
    with pytest.raises(EnvFailed) as caught:
        for _ in range(100):
            collector = trainer.collector
            action = collector._action = collector._draw_action(trainer.learner.engine.act)
            trainer.step()
    text = str(caught.value)
    scaled = trainer.envs.spaces.to_env_units(action)
    where = f"training environment 0, env step 30, episode 1, episode step 10, last action {scaled[0].tolist()}"
    for part in [name, where, *says]:
        assert part in text
    assert trainer.env_steps == len(trainer.replay) == 29
    batch = trainer.replay.sample(trainer.replay.draw(np.random.default_rng(0), 500), 0.99)
    assert all(np.isfinite(part).all() for part in batch)


def test_the_failing_env_is_named_and_no_stream_stores_the_step():
    type(make(EnvSpec(f"{OWN}:SecondFails"))).made = 0
    trainer = Trainer(EnvSpec(f"{OWN}:SecondFails"), Config(n_envs=3, batch_size=8, buffer_size=1_000))
    with pytest.raises(EnvFailed, match=r"environment 1, env step 88, .* index \[2\] is \[nan\]"):
        for _ in range(100):
            trainer.step()
    assert trainer.env_steps == len(trainer.replay) == 3 * 29


def test_a_reset_that_raises_is_described():
    with pytest.raises(EnvFailed, match=r"raised KeyError in reset") as caught:
        Envs(EnvSpec(f"{OWN}:RaisesInFirstReset"), 1, SEED_OF, fresh=False)
    assert "environment 0, env step 1, episode 0, episode step 0" in str(caught.value)
    envs = Envs(EnvSpec(f"{OWN}:RaisesInReset"), 1, SEED_OF, fresh=False)
    with pytest.raises(EnvFailed, match="no second episode"):
        play(envs, actions_for(envs, 25))


def test_an_actor_that_diverged_is_not_blamed_on_the_env():
    envs = Envs(EnvSpec(f"{OWN}:Walk"), 1, SEED_OF, fresh=False)
    with pytest.raises(Diverged, match="action is not finite"):
        envs.step(np.float32([[0, np.nan, 0]]))
    assert envs.env_steps == 0


# --- where environments come from, and what they print ---------------------------------------------------------

PLAY = """
import numpy as np
from t3d.env_spec import EnvSpec, View
from t3d.environments.envs import Envs
for env in {envs!r}:
    envs = Envs(EnvSpec(env), 2, lambda i, k: 10 * i + k, fresh=True)
    for _ in range(3):
        envs.step(np.zeros((2, envs.spaces.action_size), np.float32))
    envs.reset(np.ones(2, bool))
    envs.close()
    print("played", env, flush=True)
"""


def buffered():
    """Return the environment of a process whose C code, too, keeps words for a pipe in its buffer."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def test_what_libraries_print_reaches_nobody_and_what_an_own_env_prints_is_shown(tmp_path):
    envs = [f"{OWN}:Prints", "HalfCheetahBulletEnv-v0", "HalfCheetah-v5", "InvertedPendulum-v5", "BipedalWalker-v3"]
    command = [sys.executable, "-c", PLAY.format(envs=envs)]
    child = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=buffered())
    assert child.stdout.splitlines() == ["my own words", "my own words", *(f"played {env}" for env in envs)]
    assert child.stderr == ""
    assert list(tmp_path.iterdir()) == []  # no MUJOCO_LOG.TXT


MODULE = """
import gymnasium
from t3d_test_walks import Walk
gymnasium.register("My/T3dWalk-v0", Walk, max_episode_steps=7)
"""


def test_a_module_of_ones_own_registers_its_ids(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.chdir(tmp_path)  # modules are found where the command is called
    (tmp_path / "t3d_test_robots.py").write_text(MODULE)
    (tmp_path / "t3d_test_walks.py").write_text(Path(OWN).read_text())
    env = make(EnvSpec("t3d_test_robots:My/T3dWalk-v0"))
    assert spaces_of(env, "mine", View()).obs_size == 4
    assert env.spec.max_episode_steps == 7


def test_a_file_may_import_its_neighbours(tmp_path):
    (tmp_path / "t3d_test_neighbour.py").write_text(Path(OWN).read_text())
    (tmp_path / "mine.py").write_text("from t3d_test_neighbour import Walk\nclass Mine(Walk): pass\n")
    assert spaces_of(make(EnvSpec(f"{tmp_path}/mine.py:Mine")), "Mine", View()).obs_size == 4
    with pytest.raises(EnvRefused, match="Walk, Mine"):
        make(EnvSpec(f"{tmp_path}/mine.py:Yours"))


@pytest.mark.parametrize(("env", "follows"), [("HalfCheetah-v5", True), ("InvertedPendulum-v5", False)])
def test_the_camera_follows_a_robot_that_runs_away(env, follows):
    made = make(EnvSpec(env), render=True)
    assert (made.unwrapped.mujoco_renderer.camera_id >= 0) == follows
    made.close()


def test_an_environment_is_the_same_wherever_its_file_lies_and_no_other():
    here, there = EnvSpec("arm.py:Arm", {"g": 9.8}), EnvSpec("/robots/arm.py:Arm", {"g": 9.8})
    assert (here.identity, here.folder, here.short_title) == (there.identity, there.folder, there.short_title)
    assert here.short_title == "arm.py:Arm(g=9.8)"
    large, green = EnvSpec("größe.py:Env"), EnvSpec("grüße.py:Env")
    assert large.identity != green.identity
    assert large.folder != green.folder
