"""Each hint is provoked by a real small training run that goes wrong in its way, and silent in runs that go well."""

import dataclasses
import functools
import re
from pathlib import Path

import ill_envs
import own_envs
import pytest

from t3d import presets
from t3d.config import Config, TD3Config
from t3d.diagnosis.actions import ActionTrace
from t3d.diagnosis.hints import LOOKS, hints
from t3d.env_spec import EnvSpec
from t3d.training.evaluation import evaluate
from t3d.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = {
    "episodes end at once",
    "rewards all the same",
    "values explode",
    "actions at the bound",
    "dead units",
    "over-estimation",
}
SMALL = {"hidden": (32, 32), "random_steps": 200, "batch_size": 64, "buffer_size": 10_000, "lr": 1e-3, "threads": 1}
# No target that stands still, no smoothing, and twenty updates on what one step has shown.
RECKLESS = {"tau": 1.0, "policy_noise": 0.0, "policy_delay": 1, "lr": 3e-3, "random_steps": 100}


def spec(env):
    module = ill_envs if env.__module__ == "ill_envs" else own_envs
    return f"{Path(module.__file__).resolve()}:{env.__name__}"


@functools.cache
def rows(env, steps, every, **options):
    """Train, looking at the batch and at an evaluation every so many steps; return the rows of kind `health`."""
    made = Trainer(EnvSpec(env), presets.choose(EnvSpec(env), None, options).config)
    found = []
    while made.env_steps < steps:
        made.step()
        if made.env_steps % every == 0 and made.agent.updates:
            played = []
            evaluate(made.learner.act, env, episodes=3, seed=0, fresh=False, trajectories=played)
            for of, numbers in (
                ("batch", made.learner.health(made.env_steps)),
                ("evaluation", made.learner.health_of(played)),
            ):
                found.append({"kind": "health", "of": of, "env_steps": made.env_steps, **numbers})
    made.envs.close()
    return found


def said(found):
    """Return every hint that somebody following the run would have met: name to the first of its texts."""
    met = {}
    for count in range(1, len(found) + 1):
        for hint in hints(found[:count]):
            met.setdefault(hint.name, hint)
    return met


def huge_observations(env=ill_envs.HugeObs, normalize_obs=False):
    return rows(spec(env), 1000, 250, **SMALL, normalize_obs=normalize_obs)


def same_rewards():
    return rows(spec(ill_envs.SameReward), 1000, 250, **SMALL)


def no_rewards():
    return rows(spec(ill_envs.NoReward), 1000, 250, **SMALL)


def ends_at_once():
    return rows(spec(ill_envs.EndsAtOnce), 1000, 250, **SMALL)


def large_lr():
    return rows("Pendulum-v1", 1000, 250, **SMALL | {"lr": 1.0})


def huge_observations_for_small_rewards():
    return rows(spec(ill_envs.HugeObsSmallReward), 1000, 250, **SMALL)


def reckless_pendulum():
    options = {"updates_per_step": 20, "gamma": 0.999, "batch_size": 32}
    return rows("InvertedPendulum-v5", 350, 50, **SMALL | RECKLESS | options)


PROVOKED = {
    "actions at the bound": (huge_observations, r"(99|100) ?% of actions at the bound since step 250", "normalize-obs"),
    "rewards all the same": (same_rewards, r"every reward looked at since step 250 was 0\.5", "random-steps"),
    "episodes end at once": (ends_at_once, r"\d\d% of all transitions end their episode since step 250", "t3d check"),
    "dead units": (large_lr, r"(9\d|100)% of a hidden layer of q[12] is 0 whatever is seen", "layer-norm both"),
    "values explode": (
        huge_observations_for_small_rewards,
        r"have a size of .* the rewards seen cannot be worth more than",
        "lower --tau",
    ),
    "over-estimation": (reckless_pendulum, r"promise .* where evaluations obtain", "updates-per-step"),
}


def test_every_hint_is_provoked_here():
    assert set(PROVOKED) == NAMES


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "over-estimation" else n for n in PROVOKED]
)
def test_a_run_that_goes_wrong_says_so_with_evidence_and_cure(name):
    run, evidence, cure = PROVOKED[name]
    hint = said(run())[name]
    assert re.search(evidence, hint.evidence), hint
    assert cure in hint.cure, hint
    assert str(hint) == f"{hint.evidence}; {hint.cure}"


def test_each_of_these_is_told_apart():
    # Runs whose one fault has no second effect.
    assert set(said(huge_observations())) == {"actions at the bound"}
    assert set(said(same_rewards())) == set(said(no_rewards())) == {"rewards all the same"}
    assert set(said(ends_at_once())) == {"episodes end at once"}


@pytest.mark.parametrize(
    ("env", "steps"),
    [
        (spec(own_envs.Walk), 2000),
        pytest.param("Pendulum-v1", 4000, marks=pytest.mark.slow),
        pytest.param("InvertedPendulum-v5", 5000, marks=pytest.mark.slow),
    ],
)
def test_runs_that_go_well_hear_nothing_at_any_time(env, steps):
    options = SMALL if env.endswith("Walk") else {"threads": 1}
    found = rows(env, steps, 250, **options)
    assert len(found) >= 2 * 2 * LOOKS
    assert said(found) == {}
    # What the reason of a threshold says of these runs.
    batches = [row for row in found if row["of"] == "batch"]
    assert max(row[f"dead_{name}"] for row in batches for name in ("actor", "q1", "q2")) < 0.75


# ---- What makes a hint come and go


def since(found, name):
    return [hint.since for hint in hints(found) if hint.name == name]


def test_it_takes_several_looks_in_a_row_and_goes_with_the_first_good_one():
    name, found = "actions at the bound", huge_observations()
    found = [row for row in found if row["of"] == "batch"]
    assert since(found[: LOOKS - 1], name) == []
    assert since(found[:LOOKS], name) == since(found, name) == [found[0]["env_steps"]]
    well = {**found[2], "saturated_share": 0.5}
    assert since([*found[:2], well, *found[3:5]], name) == []
    assert since([*found, well], name) == []
    unknown = {**found[2], "saturated_share": None}
    assert since([*found, unknown], name) == []


def test_other_rows_are_passed_over():
    found = huge_observations()
    other = {"kind": "episode", "env_steps": 1, "env": 0, "return": 0.0, "length": 1, "end": "terminated"}
    assert hints([other, *found, other]) == hints(found)
    assert hints([]) == hints([other]) == []


def test_one_other_reward_is_something_to_learn_from():
    found = no_rewards()
    assert since(found, "rewards all the same") == [250]
    seen = {**found[-2], "reward_std": 0.1}
    assert since([seen, *found], "rewards all the same") == []


def test_the_same_reward_at_every_step_is_enough_where_a_fall_ends_them():
    found = [{**row, "terminated_share": 0.1} if row["of"] == "batch" else row for row in same_rewards()]
    assert since(found, "rewards all the same") == []
    nothing = [{**row, "terminated_share": 0.1} if row["of"] == "batch" else row for row in no_rewards()]
    assert since(nothing, "rewards all the same") == [250]


def test_the_largest_reward_ever_seen_bounds_the_values():
    found = [row for row in huge_observations_for_small_rewards() if row["of"] == "batch"]
    assert since(found, "values explode") == [250]
    first = {**found[0], "value_bound": 1e30}
    assert since([first, *found[1:]], "values explode") == []
    undiscounted = [{**row, "value_bound": None} for row in found]
    assert since(undiscounted, "values explode") == []


def test_the_cure_names_the_observations_only_where_they_are_the_reason():
    found = [row for row in huge_observations() if row["of"] == "batch"]
    (hint,) = hints(found)
    scale = f"{found[-1]['obs_scale']:,.0f}"
    assert hint.cure.startswith(f"observation 1 has a scale of {scale}: normalise them (--normalize-obs) or lower --lr")
    (hint,) = hints([{**row, "obs_scale": 5.0} for row in found])
    assert hint.cure.startswith("lower --lr")


@pytest.mark.parametrize("env", [ill_envs.HugeObs, pytest.param(ill_envs.HugePendulum, marks=pytest.mark.slow)])
def test_the_flag_that_the_cure_names_is_one(env):
    wrong, cured = huge_observations(env), huge_observations(env, normalize_obs=True)
    assert "--normalize-obs" in said(wrong)["actions at the bound"].cure
    assert said(cured) == {}
    scales = [row["obs_scale"] for row in cured if row["of"] == "batch"]
    assert len(scales) >= LOOKS
    assert max(scales) < 3  # as the networks take them


def test_the_documentation_lists_every_number_and_every_hint():
    page = (Path(__file__).resolve().parents[1] / "docs" / "health.md").read_text("utf-8")
    numbers = {name for row in huge_observations() for name in row} - {"kind", "of", "env_steps"}
    numbers |= set(ActionTrace([0.0], 0.0, None).row())  # of the evaluation's own rows
    listed = {
        name
        for line in page.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    }
    assert listed == numbers | NAMES | {"dead_encoder"}  # of runs that see images


def test_every_flag_that_a_hint_names_exists():
    options = {field.name for config in (Config, TD3Config) for field in dataclasses.fields(config)}
    text = Path(hints.__code__.co_filename).read_text("utf-8")
    named = {flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z-]+)", text)}
    assert {"lr", "normalize_obs", "layer_norm", "updates_per_step"} <= named
    assert named <= options
