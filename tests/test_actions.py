"""How actions move: by hand, in an evaluation, in a report."""

import json

import numpy as np
import pytest
import small_runs
from run_folders import rows_of, write_run

from t3d.cli.main import run as t3d_command
from t3d.diagnosis.actions import ActionTrace, from_row, in_words, trace
from t3d.env_spec import EnvSpec
from t3d.environments.envs import Envs
from t3d.environments.make import period_of
from t3d.reports.page import gather
from t3d.training.evaluation import remembering

T = np.arange(40)


def test_by_hand():
    one, two = [[0, 1], [0.5, 1], [0, -1]], [[1, 0], [1, 0.25]]
    seen = trace(np.float32([*one, *two]), [3, 2])
    # Dimension 0 moves by 0.5, 0.5 and 0, dimension 1 by 0, 2 and 0.25; from one episode to the next nothing moves.
    assert seen.change == pytest.approx([1 / 3, 2.25 / 3])
    assert seen.at_bound == pytest.approx(5 / 10)
    assert seen.frequency is None  # too short


@pytest.mark.parametrize("cycles", [1, 4, 10, 20])
def test_the_strongest_frequency_of_the_longest_episode(cycles):
    waves = 0.4 + 0.3 * np.cos(2 * np.pi * cycles * T / 40)
    weaker = 0.1 * np.cos(2 * np.pi * 7 * T / 40)
    longest = np.stack([waves, weaker], axis=1)
    short = np.stack([np.cos(2 * np.pi * T[:20] / 4), 0 * T[:20]], axis=1)
    seen = trace(np.float32([*short, *longest]), [20, 40])
    assert seen.frequency == pytest.approx(cycles / 40)


def test_what_stands_still_has_no_frequency():
    assert trace(np.full((40, 2), 0.3, np.float32), [40]) == ([0, 0], 0, None)
    assert trace(np.zeros((1, 2), np.float32), [1]) == ([0, 0], 0, None)


def test_in_words():
    calm = in_words(ActionTrace([0.1, 0.2], 0.25, 0.05), 0.02)
    assert calm == [
        "actions move by 7.5% of their range a step, those of dimension 1 by 10.0%; 25% are at a bound",
        "their strongest frequency is 0.05 cycles a step, 2.5 Hz",
    ]
    assert "Hz" not in in_words(ActionTrace([0.1], 0, 0.05), None)[1]
    jumps = in_words(ActionTrace([0.1, 0.6], 0.25, None), 0.02)[-1]
    assert jumps.startswith("dimension 1 jumps") and "penalty on changes" in jumps and "--exploration-noise" in jumps


def test_what_is_remembered_is_what_was_played():
    kept = []
    act = remembering(lambda obs: 2 * obs, kept)
    for k in range(3):
        np.testing.assert_array_equal(act(np.full((1, 2), k, np.float32)), [[2 * k, 2 * k]])
    np.testing.assert_array_equal(kept, [[0, 0], [2, 2], [4, 4]])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"action_change": 3},
        {"action_change": []},
        {"action_change": ["a"]},
        {"action_change": [1], "action_at_bound": "b"},
    ],
)
def test_a_row_of_another_kind_says_nothing(fields):
    assert from_row(fields) is None


def test_of_very_many_dimensions_the_first_are_kept():
    assert len(ActionTrace([0.5] * 1_000, 0, None).row()["action_change"]) == 100


def test_the_log_t3d_evaluate_and_the_report_say_the_same(tmp_path, capsys):
    run = tmp_path / "run"
    small_runs.train(run, env="Pendulum-v1", max_episode_steps=30)
    logged = [one for one in rows_of(run) if one["kind"] == "evaluation"][-1]
    assert t3d_command(["evaluate", str(run), "--policy", "last", "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    for name in ("action_change", "action_at_bound", "action_frequency"):
        assert seen[name] == logged[name]
    assert seen["period_s"] == 0.05
    assert t3d_command(["evaluate", str(run), "--policy", "last"]) == 0
    _, words, *rest = capsys.readouterr().out.splitlines()
    assert words.startswith("actions move by ")
    assert t3d_command(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert words in page
    assert rest[0] in page and " Hz" in rest[0]
    assert gather([run]).numbers["groups"][0]["runs"][0]["action_change"] == logged["action_change"]


def test_a_run_whose_rows_say_nothing_of_actions_has_a_report(tmp_path):
    run = write_run(tmp_path / "run", {100: 1.0})
    assert t3d_command(["report", str(run)]) == 0
    assert "<h2>Actions</h2>" not in (run / "report.html").read_text()


# ---- the period of control


class Says:
    """An environment, as far as its period is asked for."""

    def __init__(self, dt):
        self.unwrapped, self._dt = self, dt

    @property
    def dt(self):
        if isinstance(self._dt, Exception):
            raise self._dt
        return self._dt


@pytest.mark.parametrize(
    "dt", [0, -0.1, np.nan, np.inf, "0.05", None, 1j, RuntimeError("not yet"), KeyError(3)], ids=repr
)
def test_a_period_that_is_none_is_not_known(dt):
    assert period_of(Says(dt), EnvSpec("Own")) is None


def test_the_period_is_what_the_environment_says_unless_a_wrapper_may_change_it():
    assert period_of(Says(0.02), EnvSpec("Own")) == period_of(Says(np.float32(0.5)), EnvSpec("Own")) / 25 == 0.02
    assert period_of(object(), EnvSpec("Own")) is None
    assert period_of(Says(0.02), EnvSpec("Own", wrappers=("own:Repeat",))) is None


@pytest.mark.slow
def test_the_period_is_known_of_an_environment_in_another_process():
    envs = Envs(EnvSpec("Pendulum-v1"), 1, lambda i, k: k, fresh=False, workers=1)
    envs.close()
    assert envs.period_s == 0.05
