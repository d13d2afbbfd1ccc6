"""What another algorithm costs, tried: an actor of one's own, a network and an optimiser more, all of it in this file.

It trains, is saved, comes back to the bit, evaluates, reports, loads and is filmed; nothing of t3d was changed for it.
"""

import contextlib
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import small_runs
import torch
import torch.nn.functional as F  # noqa: N812
from film_here import films_here
from torch import nn

import t3d
from t3d import api
from t3d.address import address_of, object_at
from t3d.cli.main import run as command
from t3d.env_spec import EnvSpec
from t3d.errors import ConfigRefused, RunRefused
from t3d.networks import linear, mlp
from t3d.policy.torch_nets import architecture_of
from t3d.replay import NOTHING, Replay
from t3d.reports import write_report
from t3d.runs.session import Session
from t3d.spaces import Spaces
from t3d.training.learner import Learner
from t3d.training.randomness import Streams
from t3d.training.trainer import Trainer

OWN = str(Path(__file__).with_name("own_envs.py"))


class Waves(nn.Module):
    """An actor of sines: no `mlp`, and smaller than any actor of `hidden`."""

    def __init__(self, spaces, config, rng):
        super().__init__()
        self.first = linear(spaces.obs_size, 2, rng)
        self.last = linear(2, spaces.action_size, rng)

    def forward(self, obs):
        return torch.tanh(self.last(torch.sin(self.first(obs))))


class Toy(t3d.TD3):
    """TD3 that learns, beside all else, what comes next, with an optimiser of its own."""

    actor_class = Waves

    def __init__(self, spaces, config, rng, device="cpu"):
        super().__init__(spaces, config, rng, device)
        self.model = mlp(spaces.obs_size + spaces.action_size, (4,), spaces.obs_size, rng).to(self.device)
        self.model_optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)

    def update_critic(self, batch, target_q):
        guess = self.model(torch.cat([batch.obs, batch.action], dim=1))
        loss = F.mse_loss(guess, batch.next_obs)
        self.model_optimizer.zero_grad()
        loss.backward()
        self.model_optimizer.step()
        return super().update_critic(batch, target_q)

    def networks(self):
        return super().networks() | {"model": self.model}

    def optimizers(self):
        return super().optimizers() | {"model": self.model_optimizer}


class OtherToy(Toy):
    actor_class = type("OtherWaves", (Waves,), {})


OPTIONS = {name: value for name, value in small_runs.OPTIONS.items() if name != "steps"}
OBS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def session(folder, algorithm=Toy, **options):
    return Session(EnvSpec(small_runs.PROBE), small_runs.choice(**options), folder, resume=True, algorithm=algorithm)


def looked_at(folder):
    """Open a run, and let go of its folder."""
    opened = session(folder)
    opened._store.close()
    return opened


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "run"
    list(session(folder).run())
    return folder


def test_it_learns_all_that_it_has():
    trainer = Trainer(EnvSpec(small_runs.PROBE), small_runs.choice().config, Toy)
    before = {name: tensor.clone() for name, tensor in trainer.agent.tensors().items()}
    while trainer.env_steps < 58:
        trainer.step()
    after = trainer.agent.tensors()
    same = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    assert not same
    assert {name.split(".")[0] for name in after} == {
        *("actor", "actor_target", "critic", "critic_target", "model"),
        *("actor_adam", "critic_adam", "model_adam"),
    }
    assert trainer.learner.chosen.name == "eager"


def test_it_comes_back_to_the_bit(trained, tmp_path):
    rows = (first := session(tmp_path / "run")).run()
    for row in rows:
        if row["env_steps"] >= 33:
            rows.close()
    assert first.trainer.learner.has_unlogged_updates
    back = session(tmp_path / "run")
    assert 33 <= back.resumed_at < 58
    list(back.run())
    whole = looked_at(trained)
    assert whole.had_ended
    for name, tensor in whole.trainer.agent.tensors().items():
        assert torch.equal(tensor, back.trainer.agent.tensors()[name]), name
    for file in ("best", "last"):
        policies = [run / "policy" / f"{file}.safetensors" for run in (trained, tmp_path / "run")]
        assert policies[0].read_bytes() == policies[1].read_bytes()


def test_a_best_policy_that_is_gone_is_noticed_with_the_class_in_hand(trained, tmp_path):
    run = tmp_path / "run"
    rows = session(run).run()
    for row in rows:
        if row["env_steps"] >= 33:
            rows.close()
    # Its policy was loaded: a network of one's own is no damage.
    assert looked_at(run).progress.best is not None


def test_its_policy_is_loaded_with_the_class_and_refused_without(trained, capsys):
    policy = t3d.load(trained, algorithm=Toy)
    agent = looked_at(trained).trainer.agent
    last = t3d.load(trained / "policy" / "last.safetensors", algorithm=Toy)
    assert np.array_equal(last.act(OBS), agent.act(OBS))
    assert policy(OBS).shape == (5, 1)
    with pytest.raises(RunRefused, match=r"<own>.Waves, of the algorithm Toy(.|\n)*algorithm=Toy"):
        t3d.load(trained)
    with pytest.raises(RunRefused, match=r"plays with <own>.OtherWaves, the policy with <own>.Waves"):
        t3d.load(trained, algorithm=OtherToy)
    for words in (["evaluate", str(trained)], ["video", str(trained)]):
        assert command([*words, "--env", small_runs.PROBE]) == 2
        assert "not one of t3d's own" in capsys.readouterr().err


def test_a_policy_of_t3ds_own_network_needs_no_class(tmp_path):
    list(session(tmp_path / "run", t3d.TD3).run())
    assert t3d.load(tmp_path / "run").info.architecture == "mlp"
    assert np.array_equal(t3d.load(tmp_path / "run")(OBS), t3d.load(tmp_path / "run", algorithm=Toy)(OBS))


def test_a_network_that_bears_the_name_of_t3ds_own_is_not_it():
    assert architecture_of(type("mlp", (nn.Module,), {})()) == "<own>.mlp"
    assert architecture_of(type("Other", (t3d.Actor,), {}).__new__(t3d.Actor)) == "mlp"
    assert architecture_of(nn.Linear(1, 1)) == "<own>.Linear"


def test_it_is_evaluated_and_reported(trained, tmp_path):
    seen, _, env_steps, *_ = api.evaluate_run(trained, "last", env=EnvSpec(small_runs.PROBE), algorithm=Toy)
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert (seen.returns, env_steps) == ([row["returns"] for row in rows if row["kind"] == "evaluation"][-1], 58)
    health = [row for row in rows if row["kind"] == "health" and row["of"] == "batch"][-1]
    assert health["saturated_share"] is not None
    assert (health["pre_tanh"], health["dead_actor"]) == (None, None)
    assert "Toy" in write_report([trained], tmp_path / "report.html").read_text()


@pytest.mark.parametrize("process", [films_here, pytest.param(contextlib.nullcontext, marks=pytest.mark.slow)])
def test_the_process_that_films_it_is_given_the_class(process, tmp_path):
    pytest.importorskip("av", reason="the extra `video` is not installed")
    options = OPTIONS | {"steps": 30, "n_envs": 1, "random_steps": 10}
    with process():
        run = t3d.train(f"{OWN}:Walk", algorithm=Toy, out=tmp_path / "run", video_frames=5, **options)
    assert run.video_problem is None, run.video_problem
    assert run.video.is_file()


def test_where_it_cannot_be_given_the_class_that_is_said_and_the_run_is_there(tmp_path):
    pytest.importorskip("av", reason="the extra `video` is not installed")
    within = type("Within", (Toy,), {})  # no module has it under this name
    options = OPTIONS | {"steps": 30, "n_envs": 1, "random_steps": 10}
    run = t3d.train(f"{OWN}:Walk", algorithm=within, out=tmp_path / "run", video_frames=5, **options)
    assert run.video is None
    assert "cannot find this class" in str(run.video_problem)
    assert run.report.is_file()
    assert t3d.load(run.path, algorithm=within)(OBS).shape == (5, 3)


def test_a_class_has_an_address_for_other_processes(tmp_path, monkeypatch):
    assert object_at(address_of(Toy)) is Toy
    assert address_of(t3d.TD3) == "t3d.td3:TD3"
    script = tmp_path / "script.py"
    script.write_text("import t3d\nclass Mine(t3d.TD3):\n    'In a script.'\n")
    assert object_at(f"{script}:Mine").__doc__ == "In a script."


# ---- Other memories, each of a few lines


class TwoSteps(Replay):
    """Every transition that goes on is two steps long."""

    def sample(self, index, gamma):
        one, behind = super().sample(index, gamma), index + 1
        on = self._ended[behind] != NOTHING  # neither the episode's end nor its open step
        two = super().sample(np.where(on, behind, index), gamma)
        return one._replace(
            next_obs=two.next_obs,
            reward=one.reward + on * one.discount * two.reward,
            terminated=two.terminated,
            discount=np.where(on, one.discount * two.discount, one.discount),
        )


@pytest.mark.parametrize("engine", ["eager", "fused"])
@pytest.mark.parametrize("memory", [partial(Replay, prioritized=True), TwoSteps])
def test_a_learner_takes_another_memory_and_needs_no_environment(memory, engine):
    spaces = Spaces.of_vectors(2, 1)
    config = small_runs.choice(engine=engine).config
    replay = memory(100, 1, spaces)
    rng, no = np.random.default_rng(0), np.array([False])
    replay.begin(rng.standard_normal((1, 2)).astype(np.float32), ~no)
    for _ in range(50):
        action, obs = np.float32([[rng.uniform(-1, 1)]]), rng.standard_normal((1, 2)).astype(np.float32)
        replay.add(action, np.float32([1]), no, no, obs)
    learner = Learner(spaces, config, replay, None, Streams.from_seed(0))
    for _ in range(10):
        learner.update()
    assert learner.losses().updates == 10
    assert learner.chosen.name == engine
    if replay.priorities is not None:
        assert (replay.priorities.of[:50] > 0).all()
        assert len(set(replay.priorities.of[:50].tolist())) > 1
    batch = replay.sample(np.array([3, 48, 49]), 0.5)
    expected = ([1.5, 1.5, 1], [0.25, 0.25, 0.5]) if memory is TwoSteps else ([1, 1, 1], [0.5, 0.5, 0.5])
    assert (batch.reward.tolist(), batch.discount.tolist()) == expected


# ---- What is not declared is refused before anything is written


class Forgets(Toy):
    def networks(self):
        return t3d.TD3.networks(self)


class ForgetsOptimizer(Toy):
    def optimizers(self):
        return t3d.TD3.optimizers(self)


class PlaysAnother(Toy):
    def policy_net(self):
        return Waves(self.spaces, self.config, np.random.default_rng(0))


class Momentum(Toy):
    def __init__(self, spaces, config, rng, device="cpu"):
        super().__init__(spaces, config, rng, device)
        self.model_optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)


@pytest.mark.parametrize(
    ("algorithm", "says"),
    [
        (Forgets, "Forgets has model"),
        (ForgetsOptimizer, "ForgetsOptimizer has model_optimizer"),
        (PlaysAnother, "policy_net of PlaysAnother has weights of its own"),
        (Momentum, "model: SGD"),
    ],
)
def test_what_would_be_lost_is_refused(algorithm, says, tmp_path):
    with pytest.raises(ConfigRefused, match=says):
        session(tmp_path / "run", algorithm)
    assert not (tmp_path / "run").exists()
