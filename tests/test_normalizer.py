"""Normalised observations: the statistics, who sees raw ones and who does not, and what is kept of them."""

import itertools
import json
import shutil
import sys
import warnings
from pathlib import Path

import ill_envs
import numpy as np
import pytest
import strangers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from small_runs import train

import t3d
from t3d import api
from t3d.cli.main import run as run_command
from t3d.config import Config
from t3d.diagnosis import health
from t3d.env_spec import EnvSpec
from t3d.errors import RunRefused
from t3d.policy.normalizer import CLIP, EPSILON, Normalizer, as_networks_see, normalize
from t3d.presets import Choice
from t3d.runs.session import Session
from t3d.training.evaluation import evaluate
from t3d.training.trainer import Trainer

HUGE = f"{Path(ill_envs.__file__).resolve()}:HugePendulum"
SMALL = {
    "steps": 300,
    "random_steps": 100,
    "hidden": (16, 16),
    "batch_size": 32,
    "buffer_size": 1_000,
    "eval_every": 100,
    "eval_episodes": 1,
    "log_every": 50,
    "threads": 1,
    "normalize_obs": True,
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def split(rows, lengths):
    """Yield the rows in pieces of these lengths, and what is left at the end."""
    at = 0
    for length in itertools.chain(lengths, [len(rows)]):
        yield rows[at : at + length]
        at += length


# ---- The statistics

SCALES, OFFSETS = np.array([1, 1e-2, 1e4, 1]), np.array([0, 5, -1e6, 3])


@pytest.mark.parametrize("seed", range(5))
def test_mean_and_std_are_numpys_however_the_stream_is_split(seed):
    rng = np.random.default_rng(seed)
    rows = (rng.normal(size=(2_000, 4)) * SCALES + OFFSETS).astype(np.float32)
    made = Normalizer(4)
    for piece in split(rows, rng.integers(0, 7, 300)):
        made.observe(piece)
    wide = rows.astype(np.float64)
    assert made.count == 2_000
    np.testing.assert_allclose(made.mean, wide.mean(0), rtol=1e-13)
    np.testing.assert_allclose(made.std, np.sqrt(wide.var(0) + EPSILON), rtol=1e-9)
    expected = np.clip((wide - wide.mean(0)) / np.sqrt(wide.var(0) + EPSILON), -CLIP, CLIP)
    seen = made(rows)
    assert (seen.dtype, seen.shape) == (np.float32, rows.shape)
    np.testing.assert_allclose(seen, expected, atol=1e-6)
    np.testing.assert_allclose(seen.std(0), 1, atol=1e-3)


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(np.float32, (12, 2), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)),
    st.lists(st.integers(0, 4), max_size=8),
)
def test_whatever_is_finite_is_seen_finite_and_within_the_bound(rows, lengths):
    made = Normalizer(2)
    for piece in split(rows, lengths):
        made.observe(piece)
        with warnings.catch_warnings(action="error"):
            seen = made(rows)
        assert np.isfinite(seen).all()
        assert np.abs(seen).max() <= CLIP
        assert np.isfinite(made.std).all()
        assert (made.std > 0).all()


def test_by_hand():
    made = Normalizer(1)
    made.observe(np.float32([[1], [3]]))
    made.observe(np.float32([[5]]))  # mean 3, variance 8 / 3
    assert (made.count, made.mean.tolist()) == (3, [3])
    assert made.std == pytest.approx([(8 / 3 + 1e-8) ** 0.5])
    assert made(np.float32([[3], [5], [1e9], [-1e9]]))[:, 0].tolist() == pytest.approx([0, 1.224745, 10, -10])


def test_before_any_observation_nothing_is_changed_but_clipped():
    seen = Normalizer(2)(np.float32([[0.5, -3], [11, -1e30]]))
    np.testing.assert_allclose(seen, [[0.5, -3], [10, -10]], rtol=1e-6)
    made = Normalizer(2)
    made.observe(np.zeros((0, 2), np.float32))
    assert made.count == 0


@pytest.mark.parametrize("value", [0, 0.1, 1e6, -3e38])
def test_a_dimension_that_stands_still_is_seen_as_0_and_may_move_by_the_bound_at_most(value):
    made = Normalizer(1)
    still = np.full((3, 1), value, np.float32)
    for _ in range(1_000):
        made.observe(still)
    assert made(still).tolist() == [[0]] * 3
    assert np.abs(made(np.float32([[value / 2 + 1]]))).max() <= CLIP


def test_a_large_mean_does_not_drown_a_small_movement():
    rng = np.random.default_rng(0)
    rows = (1e5 + rng.normal(size=(500, 1))).astype(np.float32)
    made = Normalizer(1)
    made.observe(rows)
    np.testing.assert_allclose(made(rows).std(), 1, rtol=1e-3)


# ---- Training: raw in the memory, normalised before the networks


def trainer(env=HUGE, steps=0, **options):
    made = Trainer(EnvSpec(env), Config().with_values(SMALL | options))
    while made.env_steps < steps:
        made.step()
    return made


def stored(made):
    """Return every observation of the replay, (slots, S), the streams one after the other."""
    rows = [made.replay.rows(i, made.replay.oldest(i), n - 1)["obs"] for i, n in enumerate(made.replay.written)]
    return np.concatenate([*rows, made.envs.obs])


@pytest.mark.parametrize("n_envs", [1, 4])
def test_the_statistics_are_those_of_every_raw_observation_in_the_replay(n_envs):
    made = trainer(steps=900, n_envs=n_envs, updates_per_step=0)
    raw = stored(made).astype(np.float64)
    assert made.normalizer.count == len(raw) > 900  # the first of each episode, too
    assert np.abs(raw[:, 2]).max() > 1e4
    np.testing.assert_allclose(made.normalizer.mean, raw.mean(0), rtol=1e-9)
    np.testing.assert_allclose(made.normalizer.std, np.sqrt(raw.var(0) + EPSILON), rtol=1e-9)


def test_the_replay_is_that_of_a_run_without_the_option():
    made, plain = (trainer(steps=100, normalize_obs=on) for on in (True, False))
    assert stored(made).tobytes() == stored(plain).tobytes()
    assert plain.normalizer is None
    obs = plain.envs.obs
    assert as_networks_see(obs, plain.normalizer) is obs


def test_actor_and_updates_see_normalised_observations(monkeypatch):
    made = trainer(steps=150)
    acted, updated = [], []
    act, update = made.learner.engine.act, made.learner.engine.update
    made.learner.drawing = None  # the plain path, which shows its batches; the other gives its bits
    monkeypatch.setattr(made.learner.engine, "act", lambda obs: acted.append(obs.copy()) or act(obs))
    monkeypatch.setattr(
        made.learner.engine, "update", lambda batch, *given: updated.append(batch) or update(batch, *given)
    )
    before, sampled = made.normalizer(made.envs.obs), []
    sample = made.replay.sample
    monkeypatch.setattr(made.replay, "sample", lambda *given: sampled.append(sample(*given)) or sampled[-1])
    made.step()
    assert np.array_equal(acted[0], before)
    # The newest statistics, those of the step that was just made included.
    for name in ("obs", "next_obs"):
        raw, seen = getattr(sampled[0], name), getattr(updated[0], name)
        assert np.abs(raw).max() > 1e3
        assert np.array_equal(seen, normalize(raw, made.normalizer.mean, made.normalizer.std))
    for name in ("action", "reward", "terminated"):
        assert np.array_equal(getattr(updated[0], name), getattr(sampled[0], name))


def test_both_engines_make_the_same_first_updates():
    eager, fused = (trainer(steps=108, engine=engine) for engine in ("eager", "fused"))
    assert (eager.learner.chosen.name, fused.learner.chosen.name) == ("eager", "fused")
    assert eager.agent.updates == fused.agent.updates == 8
    one, other = eager.agent.tensors(), fused.agent.tensors()
    for name, tensor in one.items():
        np.testing.assert_allclose(other[name].numpy(), tensor.numpy(), rtol=1e-3, atol=2e-5, err_msg=name)
    np.testing.assert_allclose(fused.learner.act(fused.envs.obs), eager.learner.act(eager.envs.obs), atol=1e-4)


def test_the_health_is_that_of_what_the_networks_see():
    made = trainer(steps=200)
    assert made.learner.health(made.env_steps)["obs_scale"] < 3
    assert made.learner.health(made.env_steps)["obs_mean_max"] < 1
    assert trainer(steps=200, normalize_obs=False).learner.health(200)["obs_scale"] > 1e4
    played = []
    evaluate(made.learner.act, HUGE, episodes=1, seed=0, fresh=False, trajectories=played)
    assert np.abs(played[0].obs).max() > 1e3  # as the environment gave them
    seen = [p._replace(obs=made.normalizer(p.obs), final_obs=made.normalizer(p.final_obs)) for p in played]
    assert made.learner.health_of(played) == health.from_evaluation(made.agent, seen)
    assert made.learner.health_of(played) != health.from_evaluation(made.agent, played)


def learned(on):
    options = {"hidden": (64, 64), "lr": 1e-3, "batch_size": 100, "updates_per_step": 2, "random_steps": 1_000}
    made = trainer(steps=4_000, buffer_size=5_000, normalize_obs=on, **options)
    return evaluate(made.learner.act, HUGE, episodes=5, seed=0, fresh=False).return_mean


@pytest.mark.slow
def test_what_could_not_be_learned_is_learned():
    assert learned(on=False) < -800
    assert learned(on=True) > -400


# ---- What is kept


def lively(folder, **options):
    session = Session(EnvSpec(HUGE), Choice("td3", Config().with_values(SMALL | options), "as asked"), folder)
    return session, list(session.run())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("normalised") / "run"
    return path, *lively(path, steps=400)


@pytest.mark.parametrize("which", ["best", "last"])
def test_the_policy_repeats_the_runs_own_evaluation_of_that_moment(run, which):
    path, _, rows = run
    evaluations = [row for row in rows if row["kind"] == "evaluation"]
    policy = t3d.load(path / "policy" / f"{which}.safetensors")
    (recorded,) = [row for row in evaluations if row["env_steps"] == policy.info.env_steps]
    if which == "best":
        assert recorded["return_mean"] == max(row["return_mean"] for row in evaluations)
    seen, _, env_steps, *_ = api.evaluate_run(path, which, env=EnvSpec(HUGE))
    assert (seen.returns, env_steps) == (recorded["returns"], recorded["env_steps"])


def test_the_best_policy_keeps_the_statistics_of_its_own_moment(tmp_path):
    lively(tmp_path / "run", steps=400, exploration_noise=0.3)
    best = t3d.load(tmp_path / "run")
    made = trainer(steps=best.info.env_steps, exploration_noise=0.3)
    mean, std = best.statistics
    assert mean.tobytes() == made.normalizer.mean.tobytes()
    assert std.tobytes() == made.normalizer.std.tobytes()
    obs = stored(made)
    np.testing.assert_allclose(best.act(obs), made.learner.act(obs), atol=1e-6)
    last = t3d.load(tmp_path / "run" / "policy" / "last.safetensors")
    assert (last.info.env_steps == best.info.env_steps) == (last.statistics[0].tobytes() == mean.tobytes())


def test_the_policy_in_the_environments_own_units_is_the_trainers(run):
    path, session, _ = run
    policy = t3d.load(path / "policy" / "last.safetensors")
    obs = stored(session.trainer)
    np.testing.assert_allclose(policy.act(obs), session.trainer.learner.act(obs), atol=1e-6)
    spaces = session.trainer.envs.spaces
    scaled = spaces.to_env_units(session.trainer.learner.act(obs))
    np.testing.assert_allclose(policy(obs), scaled, atol=1e-5)
    assert np.abs(scaled).max() > 1
    assert policy(obs[0]).shape == (1,)


@pytest.mark.parametrize(("engine", "n_envs"), [("eager", 1), ("fused", 4)])
def test_a_run_that_was_stopped_ends_with_the_bits_of_the_undisturbed_one(tmp_path, n_envs, engine):
    options = {"n_envs": n_envs, "engine": engine, "normalize_obs": True, "hidden": (5,), "steps": 80}
    whole = train(tmp_path / "whole", **options)
    train(tmp_path / "halves", until=40, **options)
    session = train(tmp_path / "halves", resume=True, **options)
    assert 40 <= session.resumed_at < 80
    (one, facts), (other, other_facts) = whole.trainer.state(), session.trainer.state()
    assert facts == other_facts
    assert sorted(one) == sorted(other)
    assert {"obs_count", "obs_mean", "obs_m2"} <= set(one)
    assert one["obs_count"] > 80
    for name, tensor in one.items():
        assert tensor.numpy().tobytes() == other[name].numpy().tobytes(), name
    for name in ("best.safetensors", "last.safetensors"):
        assert (tmp_path / "whole/policy" / name).read_bytes() == (tmp_path / "halves/policy" / name).read_bytes()


def test_it_cannot_be_switched_in_the_middle_of_a_run(tmp_path):
    train(tmp_path / "run", until=30, normalize_obs=True)
    with pytest.raises(RunRefused, match="normalize_obs was True, now False"):
        train(tmp_path / "run", resume=True)


@pytest.mark.slow
def test_every_command_works_on_such_a_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("av", reason="the extra `video` is not installed")
    monkeypatch.chdir(tmp_path)
    flags = ["--steps", "60", "--random-steps", "20", "--batch-size", "8", "--hidden", "8", "--eval-episodes", "1"]
    flags += ["--threads", "1", "--engine", "eager", "--normalize-obs", "--no-video", "--out", "run"]
    assert run_command(["check", HUGE]) == 0
    assert run_command(["train", HUGE, *flags]) == 0
    assert json.loads(Path("run/config.json").read_text())["config"]["normalize_obs"] is True
    assert run_command(["evaluate", "run", "--env", HUGE]) == 0
    assert run_command(["resume", "run", "--env", HUGE, "--steps", "80", "--no-video"]) == 0
    assert run_command(["video", "run", "--env", HUGE, "--video-frames", "5"]) == 0
    assert run_command(["report", "run"]) == 0
    assert Path("run/video/best.mp4").is_file()
    assert "Traceback" not in capsys.readouterr().err


# ---- Files from strangers

NAN = np.array([0, np.nan, 0])
POLICIES = {
    "one of them alone": {"obs_std": None},
    "the other alone": {"obs_mean": None},
    "another size": {"obs_mean": np.zeros(4), "obs_std": np.ones(4)},
    "a size that broadcasts": {"obs_mean": np.zeros(1), "obs_std": np.ones(1)},
    "two dimensions": {"obs_mean": np.zeros((1, 3))},
    "another dtype": {"obs_mean": np.zeros(3, np.float32)},
    "whole numbers": {"obs_std": np.ones(3, np.int64)},
    "not a number": {"obs_mean": NAN},
    "infinite": {"obs_std": np.array([1, np.inf, 1])},
    "zero": {"obs_std": np.array([1.0, 0, 1])},
    "negative": {"obs_std": np.array([1.0, -1, 1])},
    "other names": {"obs_mean": None, "obs_std": None, "mean": np.zeros(3), "std": np.ones(3)},
    "one more": {"obs_count": np.array(1)},
    "far too large": {"obs_mean": np.zeros(1 << 20)},
}
STATES = {
    "missing": {"obs_m2": None},
    "negative squares": {"obs_m2": np.array([1.0, 1, -1e-9])},
    "not a number": {"obs_mean": NAN},
    "another size": {"obs_mean": np.zeros(1)},
    "another dtype": {"obs_mean": np.zeros(3, np.float32)},
    "none observed": {"obs_count": np.array(0)},
    "fewer than none": {"obs_count": np.array(-5)},
    "a count of parts": {"obs_count": np.array(1.5)},
}


def putting(change):
    """Return what changes the tensors of a file's bytes; None takes one away."""

    def put(tensors):
        for name, array in change.items():
            tensors.pop(name, None)
            if array is not None:
                tensors[name] = torch.from_numpy(array)

    return put


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run[0], tmp_path / "run"))


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_with_impossible_statistics_is_refused(name, copy):
    strangers.with_policy_tensors(putting(POLICIES[name]))(copy)
    with pytest.raises(RunRefused, match="a policy is not as it was written"):
        t3d.load(copy)


def test_a_policy_without_them_takes_raw_observations(run, copy):
    strangers.with_policy_tensors(putting({"obs_mean": None, "obs_std": None}))(copy)
    raw, normalised = t3d.load(copy), t3d.load(run[0])
    obs = np.float32([[1, 0, 2e4], [0, 1, -1e4]])
    np.testing.assert_array_equal(normalised.act(obs), raw.act(normalize(obs, *normalised.statistics)))


@pytest.mark.parametrize("name", STATES)
def test_a_checkpoint_with_impossible_statistics_is_refused(name, copy):
    strangers.with_state(strangers.with_tensors(putting(STATES[name])))(copy)
    with pytest.raises(RunRefused, match="no checkpoint of this run can be used"):
        api.resume(copy, env=EnvSpec(HUGE))


def test_one_with_possible_statistics_is_taken(copy):
    """What was refused above was refused for its statistics alone."""
    strangers.with_state(strangers.with_tensors(putting({"obs_m2": np.array([1.0, 0, 4]), "obs_count": np.array(4)})))(
        copy
    )
    made = api.resume(copy, env=EnvSpec(HUGE)).trainer
    assert made.normalizer.std == pytest.approx(np.sqrt([0.25 + 1e-8, 1e-8, 1 + 1e-8]), rel=1e-12)
