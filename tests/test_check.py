"""What `t3d check` finds out."""

from pathlib import Path

import picture_envs
import pytest

from t3d.cli.main import run
from t3d.env_spec import EnvSpec, View
from t3d.environments.check import check

OWN = str(Path(__file__).with_name("own_envs.py"))
ODD = str(Path(__file__).with_name("odd_envs.py"))
NAMES = ["observation", "action", "bounds", "time limit", "numbers", "repeatable", "forgets", "speed"]


def found(env, steps=200):
    findings = check(EnvSpec(env), steps)
    assert [finding.name for finding in findings if finding.name != "shares"] == NAMES
    return {finding.name: finding for finding in findings}


def to_look_at(findings):
    return {finding.name for finding in findings.values() if finding.verdict != "ok"}


@pytest.mark.parametrize("env", ["Pendulum-v1", "HalfCheetah-v5", "LunarLanderContinuous-v3", f"{OWN}:Walk"])
def test_a_well_behaved_environment_is_fine(env):
    findings = found(env, 450)
    assert to_look_at(findings) == set()
    assert "do not disturb each other" in findings["shares"].text


def test_the_facts_are_told():
    findings = found(f"{OWN}:Walk")
    assert "4 numbers, shape (4,), float64" in findings["observation"].text
    assert "3 numbers, shape (3,), float32" in findings["action"].text
    assert "low [0.0, -0.4" in findings["bounds"].text
    assert "high [1.0, 0.4" in findings["bounds"].text
    assert "10 of the episodes played here ended by themselves" in findings["time limit"].text
    assert "finite over 200 random steps" in findings["numbers"].text
    assert "steps/s" in findings["speed"].text
    assert found("Pendulum-v1")["time limit"].text == "200 steps an episode"
    assert found("Pendulum-v1")["bounds"].text == "-2 to 2"


@pytest.mark.parametrize("env", ["BipedalWalker-v3", "HalfCheetahBulletEnv-v0"])
def test_suites_that_leave_traces_need_fresh_instances(env):
    findings = found(env, 300)
    assert to_look_at(findings) == {"forgets"}
    assert "a used instance says otherwise after a reset" in findings["forgets"].text
    assert "anew for every episode by itself" in findings["forgets"].text


def test_an_own_environment_that_leaves_traces_is_found():
    findings = found(f"{OWN}:Leaks")
    assert to_look_at(findings) == {"forgets"}
    assert "train with --fresh-envs" in findings["forgets"].text


def test_instances_that_share_a_simulator_are_found():
    for name in ("SharedWorld", "SharedWorldThatRaises"):
        found = {finding.name: finding for finding in check(EnvSpec(f"{ODD}:{name}"), 100)}
        assert found["shares"].verdict == "look"
        assert "--env-workers 1" in found["shares"].text
        assert {found[other].verdict for other in ("repeatable", "forgets", "numbers")} == {"ok"}


def test_one_that_cannot_be_repeated_is_found():
    findings = found(f"{OWN}:Unrepeatable")
    assert to_look_at(findings) == {"repeatable", "forgets"}
    assert "self.np_random" in findings["repeatable"].text
    assert "not known" in findings["forgets"].text  # fresh instances would not help


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("NanObs", "observation 31 is not finite: ["),  # 30 steps and two first observations
        ("InfReward", "reward 29 is not finite: [inf]"),
    ],
)
def test_numbers_that_are_not_finite_are_found(name, text):
    findings = check(EnvSpec(f"{OWN}:{name}"), 200)
    numbers = {finding.name: finding for finding in findings}["numbers"]
    assert numbers.verdict == "fails"
    assert text in numbers.text


def test_they_are_found_beside_an_image():
    env = EnvSpec(f"{picture_envs.__file__}:Cracked", {"episode_steps": 20}, view=View(frame_size=16))
    numbers = {finding.name: finding for finding in check(env, 60)}["numbers"]
    assert (numbers.verdict, numbers.text) == ("fails", "observation 4 is not finite: [nan, 0.0]")


def test_observations_of_another_shape_are_found():
    findings = {finding.name: finding for finding in check(EnvSpec(f"{OWN}:WrongShape"), 200)}
    assert findings["numbers"].verdict == "fails"
    assert "ndarray of shape (3,)" in findings["numbers"].text
    assert "expected: numbers of shape (4,)" in findings["numbers"].text


def test_one_that_never_ends_is_found():
    findings = found(f"{OWN}:Endless")
    assert to_look_at(findings) == {"time limit"}
    assert "--max-episode-steps" in findings["time limit"].text


def test_the_command_prints_a_row_for_each_finding(capsys):
    assert run(["check", f"{OWN}:Leaks"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "own_envs.py:Leaks" in out.replace("\n", "")
    rows = [line.split() for line in out.splitlines()]
    assert ["look", "forgets"] in [row[:2] for row in rows]
    assert sum(row[:1] == ["ok"] for row in rows) == 7


def test_the_commands_exit_codes(capsys):
    assert run(["check", f"{OWN}:Raises"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "raised RuntimeError in step: the motor is stuck" in err
    assert "step 29" in err
    assert run(["check", f"{OWN}:DiscreteActions"]) == 2
    assert "continuous actions" in capsys.readouterr().err
