"""Updates in bursts (`train_at = episode`): all that are due, once an episode ends, from the same streams."""

import dataclasses
import itertools

import numpy as np
import probes
import pytest
import small_runs
from small_runs import PROBE, choice

from t3d.config import BURST_STEPS, Config
from t3d.env_spec import EnvSpec
from t3d.errors import ConfigRefused
from t3d.runs.session import Session
from t3d.training.trainer import Trainer

# Episodes of `Counting` have three steps.
BURSTS = {"train_at": "episode", "n_envs": 1, "random_steps": 10, "steps": 58}
# Its priorities, encoders, extremes, and the policy kept.
TD7 = BURSTS | {"algorithm": "td7", "embedding": 4}

LIMIT = BURST_STEPS["td3"]


def weights(trainer):
    return {name: tensor.numpy().tobytes() for name, tensor in trainer.agent.tensors().items()}


def step(trainer):
    """Take one env step, and make the whole burst if one begins with it. Return the episodes that ended."""
    episodes = trainer.step()
    while trainer.in_burst:
        assert trainer.step() == []
    return episodes


def train(**options):
    return Trainer(EnvSpec(PROBE), choice(**BURSTS | options).config)


def test_updates_wait_for_the_end_of_an_episode_and_then_all_that_are_due_are_made():
    made, seen = train(), []
    while made.env_steps < 30:
        episodes = step(made)
        seen.append((made.env_steps, bool(episodes), made.agent.updates))
    for (_, _, before), (steps, ended, updates) in itertools.pairwise(seen):
        assert updates == (max(0, steps - 10) if ended else before)
    assert [updates for _, ended, updates in seen if ended][:6] == [0, 0, 0, 2, 5, 8]


def test_an_episode_without_an_end_is_not_waited_for_longer_than_a_thousand_steps():
    made = Trainer(
        EnvSpec(f"{probes.__file__}:Counting"),
        choice(**BURSTS | {"random_steps": 100, "buffer_size": 4_000, "steps": 5_000, "updates_per_step": 0.01}).config,
    )
    ended = made.collector.step
    made.collector.step = lambda act: ended(act) and []  # nobody hears of an end
    bursts = []
    while made.env_steps < 2 * LIMIT + 110:
        before = made.agent.updates
        step(made)
        if made.agent.updates != before:
            bursts.append(made.env_steps)
    assert sorted(set(bursts)) == [100 + LIMIT, 100 + 2 * LIMIT]  # nothing was due while actions were random
    assert made.agent.updates == 2 * LIMIT // 100


def test_several_streams_make_a_burst_when_any_of_them_ends_one():
    made = train(n_envs=3)
    while made.env_steps < 45:
        episodes = step(made)
        assert made.updates_due == (0 if episodes else max(0, made.env_steps - 10) - made.agent.updates)


@pytest.mark.parametrize(
    ("options", "engine"), [(BURSTS, "eager"), (BURSTS, "fused"), (TD7, "eager")], ids=["eager", "fused", "td7"]
)
def test_between_two_parts_of_a_burst_the_run_is_saved_and_goes_on_to_the_bit(options, engine, tmp_path):
    options = options | {"log_every": 1, "engine": engine}
    whole = small_runs.train(tmp_path / "whole", **options)
    session = Session(EnvSpec(PROBE), choice(**options), tmp_path / "half")
    session.trainer.learner.part = 1
    run = session.run()
    while not (session.trainer.in_burst and session.trainer.agent.updates > 20):
        session.trainer.step()
    assert session.trainer.updates_due
    session._store.commit(session.trainer, session.progress)
    run.close()
    session.trainer.envs.close()
    session._store.close()
    again = Session(EnvSpec(PROBE), choice(**options), tmp_path / "half", resume=True)
    assert again.trainer.in_burst
    assert again.trainer.updates_due == session.trainer.updates_due
    list(again.run())
    assert weights(again.trainer) == weights(whole.trainer)


@pytest.mark.parametrize("options", [BURSTS, TD7], ids=["td3", "td7"])
@pytest.mark.parametrize("steps", [40, 41, 42])  # at an episode's end and within one
def test_a_run_that_goes_on_for_longer_equals_the_longer_one(steps, options, tmp_path):
    whole = small_runs.train(tmp_path / "whole", **options)
    first = small_runs.train(tmp_path / "run", **options | {"steps": steps})
    assert first.trainer.updates_due == (0 if steps % 3 == 0 else steps % 3)
    again = small_runs.train(tmp_path / "run", resume=True, **options)
    assert weights(again.trainer) == weights(whole.trainer)
    evaluated = [[row["env_steps"] for row in session.rows("evaluation")] for session in (whole, again)]
    assert sorted({*evaluated[1]} - {steps}) == sorted({*evaluated[0]} - {steps})


def test_evaluations_that_are_due_in_an_episode_are_played_after_its_burst(tmp_path):
    session = small_runs.train(tmp_path / "run", **BURSTS)
    # Due at 20 and 40; episodes end at 21 and 42; the last is the run's end.
    assert [row["env_steps"] for row in session.rows("evaluation")] == [21, 42, 58]


def test_too_many_updates_between_two_log_lines_are_refused_by_what_may_wait():
    config = Config().with_values({"train_at": "step", "updates_per_step": 750.0, "log_every": 1_000})
    config.check_together()
    with pytest.raises(ConfigRefused, match="too many updates"):
        dataclasses.replace(config, train_at="episode").check_together()


def test_observations_are_normalised_as_they_were_when_the_burst_began():
    made, seen = train(normalize_obs=True), []
    batch = made.learner._batch
    made.learner._batch = lambda *drawn: seen.append(made.normalizer.mean.copy()) or batch(*drawn)
    while made.env_steps < 30:
        before = len(seen)
        step(made)
        assert all(np.array_equal(mean, made.normalizer.mean) for mean in seen[before:])
    assert len(seen) == 20
