"""`t3d explain` of a changed algorithm: which steps are its own, with its code, and numbers only of what it says."""

import html
import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_explain import ACTIONS, ENV, OBS, SMALL, batch_of, noise_of, taken

import t3d
from t3d import td3
from t3d.config import Config
from t3d.diagnosis import explain
from t3d.diagnosis.own_steps import own_steps, takes_the_steps
from t3d.env_spec import EnvSpec
from t3d.priorities import Priorities
from t3d.replay import Batch
from t3d.reports import listing
from t3d.reports.explain import render
from t3d.runs import explanation
from t3d.spaces import Spaces
from t3d.td3 import TD3, bellman, polyak
from t3d.variants.td7 import TD7

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
sys.path[:0] = [str(EXAMPLES), str(EXAMPLES / "without")]
try:
    from ideas import NoClamp, NoTwin
    from one_critic import OneCritic
finally:
    del sys.path[:2]


def smooth(action, noise, policy_noise, noise_clip):
    return action + 0 * td3.smooth(action, noise, policy_noise, noise_clip)


class OwnSmooth(TD3):
    """The lines of steps 5 to 9 are TD3's, but `smooth` is the function above."""

    @torch.no_grad()
    def target_q(self, batch, noise):
        """Return the targets."""
        next_action = self.actor_target(batch.next_obs)
        next_action = smooth(next_action, noise, self.config.policy_noise, self.config.noise_clip)
        next_q1, next_q2 = self.critic_target(batch.next_obs, next_action)
        next_q = torch.minimum(next_q1, next_q2)
        return bellman(batch.reward, batch.terminated, batch.discount, next_q)


class FurtherLine(TD3):
    """A line more, between steps 14 and 15, and one behind step 13."""

    def update_targets(self):
        polyak(self.actor_target, self.actor, self.config.tau)
        self.moves = 1
        polyak(self.critic_target, self.critic, self.config.tau)

    def update_actor(self, batch):
        return 2 * super().update_actor(batch)


class OwnUpdate(TD3):
    def update(self, batch, noise, td_error=False):
        return super().update(batch, 0 * noise, td_error)


def made(algorithm):
    agent = algorithm(
        Spaces.of_vectors(OBS, ACTIONS), Config().with_values({"hidden": (9, 8)}).td3, np.random.default_rng(0)
    )
    for k in range(3):
        agent.update(batch_of(k), noise_of(k))
    return agent


@pytest.mark.parametrize(
    ("algorithm", "steps"),
    [
        (TD3, {}),
        (NoTwin, {"NoTwin.target_q": (7, 8)}),
        (NoClamp, {"NoClamp.target_q": (6,)}),
        (OneCritic, {"OneCritic.target_q": (7, 8), "OneCritic.update_critic": (10, 11, 12)}),
        (OwnSmooth, {"OwnSmooth.target_q": (6,)}),
        (
            TD7,
            {
                "Priorities.draw": (4,),
                "TD7.target_q": (5, 7, 8),
                "TD7.update_critic": (10, 11),
                "TD7.update_actor": (13,),
                "TD7.update_targets": (14, 15),
            },
        ),
        (FurtherLine, {"FurtherLine.update_actor": (13,), "FurtherLine.update_targets": (15,)}),
    ],
)
def test_steps_are_changed_where_their_lines_are_not_td3s(algorithm, steps):
    found = own_steps(algorithm)
    assert {own.name: own.steps for own in found} == steps
    for own in found:
        method = own.name.split(".")[1]
        assert f"def {method}(" in own.code
        owner = Priorities if own.name == "Priorities.draw" else algorithm
        file = inspect.unwrap(getattr(owner, method)).__code__.co_filename
        assert own.code in Path(file).read_text("utf-8").replace("\n    ", "\n")


def test_a_class_that_was_typed_in_has_no_code_to_show_and_counts_as_changed():
    typed = {"TD3": TD3}
    exec("class Typed(TD3):\n    def update_targets(self):\n        pass", typed)
    (own,) = own_steps(typed["Typed"])
    assert (own.steps, own.code) == ((14, 15), "")


def test_an_update_of_its_own_is_not_told_as_td3s_steps():
    assert not takes_the_steps(OwnUpdate)
    assert takes_the_steps(OneCritic)
    assert takes_the_steps(TD7)


@pytest.mark.parametrize("algorithm", [NoTwin, NoClamp, OneCritic, TD7])
def test_numbers_are_those_of_its_own_methods(algorithm):
    agent = made(algorithm)
    seen = taken(agent)
    batch, noise = Batch(*map(torch.from_numpy, batch_of(50))), torch.from_numpy(noise_of(50))
    assert np.array_equal(seen.target_q, agent.target_q(batch, noise).numpy())
    assert seen.critic_loss == float(agent.update(batch, noise).critic_loss)
    # What NoTwin takes is not the smaller of the two, and is not called so; OneCritic has no second word at all.
    # Nor is what TD7 takes, which clamps the smaller.
    assert (seen.next_q is None) == (algorithm is not NoClamp)
    assert seen.next_action is not None
    assert (seen.next_q1 is None) == (algorithm is OneCritic)
    assert (seen.next_q2 is None) == (seen.q2 is None) == (algorithm is OneCritic)
    if algorithm is NoClamp:
        assert np.abs(seen.smoothed).max() > 1
        assert seen.smoothed == pytest.approx(seen.next_action + np.float32(0.2) * noise_of(50))
    assert len({one.row for one in explain.choose(seen)}) == 3


@pytest.fixture(scope="module")
def one_critic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "run"
    t3d.train(ENV, out=folder, video=False, quiet=True, algorithm=OneCritic, **SMALL)
    return folder


def sections(page):
    found = re.findall(r'<section class="step" id="step-(\d+)">(.*?)</section>', page, re.DOTALL)
    return {int(number): html.unescape(text) for number, text in found}


def test_the_page_marks_what_is_changed_and_shows_its_code(one_critic, monkeypatch):
    monkeypatch.setattr(explanation, "_film", lambda *_: (None, ""))
    page = render(explanation.gather(one_critic, None, 0, EnvSpec(ENV), 5, OneCritic))
    told = sections(page)
    assert list(told) == list(range(4, 16))
    assert [number for number, text in told.items() if '<em class="own">changed</em>' in text] == [7, 8, 10, 11, 12]
    target_q, update_critic = (own.code for own in own_steps(OneCritic))
    assert target_q in told[7] and update_critic in told[10]
    assert listing.step(8)[1] not in told[8] and 'stands at <a href="#step-7">' in told[8]
    assert listing.step(9)[1] in told[9]
    # Nothing is said of a twin that is not there.
    assert not re.search(r"Q1 was (taken|the smaller)", page)
    assert all(f'id="chart-{step}"' not in page for step in (7, 8))
    assert "q2 moved by" not in page and "q1 moved by" in told[12]
    assert "OneCritic, preset" in page
    assert "OneCritic has networks of its own: steps 2 and 3" in page


def test_td7_is_told_by_its_own_lines_from_its_own_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(explanation, "_film", lambda *_: (None, ""))
    t3d.train(ENV, out=tmp_path / "td7", video=False, quiet=True, algorithm="td7", embedding=4, **SMALL)
    explained = explanation.gather(tmp_path / "td7", None, 0, EnvSpec(ENV), 5)
    assert explained.notes[0].startswith("TD7 makes more of a batch than this page shows")
    page = render(explained)
    told = sections(page)
    changed = [number for number, text in told.items() if '<em class="own">changed</em>' in text]
    assert changed == [4, 5, 7, 8, 10, 11, 13, 14, 15]
    assert "rng.random(len(slots)) * self.largest < self.of[slots]" in told[4]
    assert "self.player_target(batch.next_obs)" in told[5] and "TD7.target_q, in variants/td7.py." in told[5]
    # What its largest error gave is what the memory still knows of.
    snapshot = explanation.open_run(tmp_path / "td7")
    assert snapshot.replay.priorities.largest >= snapshot.replay.priorities.of.max() >= 1


def test_an_update_of_its_own_leaves_the_episode_and_says_so(one_critic, monkeypatch, tmp_path):
    monkeypatch.setattr(explanation, "_film", lambda *_: (None, ""))
    monkeypatch.setattr(explanation, "takes_the_steps", lambda algorithm: False)
    explained = explanation.gather(one_critic, None, 0, EnvSpec(ENV), 5, OneCritic)
    assert (explained.update, explained.own) == (None, ())
    assert explained.judged is not None
    assert explained.notes[0].startswith("OneCritic does not make its update of TD3's steps and networks")
