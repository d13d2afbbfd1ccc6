"""A changed algorithm, a subclass of TD3 given to the library: one critic instead of two, from its first step on."""

import contextlib
import importlib.util
import io
import json
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import small_runs
import torch
from sealing import said, seal

import t3d
from t3d.cli.main import run as t3d_command
from t3d.diagnosis import health
from t3d.diagnosis.hints import hints
from t3d.env_spec import EnvSpec
from t3d.errors import ConfigRefused, RunRefused
from t3d.formats import ClassName
from t3d.reports import write_report
from t3d.runs import live_line
from t3d.runs.session import Session
from t3d.spaces import Spaces
from t3d.td3 import TD3
from t3d.training.evaluation import Trajectory
from t3d.training.trainer import Trainer
from t3d.variants.contract import name_of

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("one_critic", ROOT / "examples" / "one_critic.py")
one_critic = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(one_critic)
OneCritic = one_critic.OneCritic


class OneTensor(one_critic.OneOpinion):
    def forward(self, obs, action):
        return self.q1(obs, action)


class SaysATensor(OneCritic):
    critic_class = OneTensor


class Thrice(t3d.Critic):
    def forward(self, obs, action):
        q1, q2 = super().forward(obs, action)
        return q1, q2, torch.minimum(q1, q2) - 1


def session(folder, algorithm=OneCritic, resume=False, **options):
    return Session(EnvSpec(small_runs.PROBE), small_runs.choice(**options), folder, resume=resume, algorithm=algorithm)


def rows_of(folder, kind):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one-critic") / "run"
    list(session(folder).run())
    return folder


def agents(*algorithms, **options):
    config = t3d.TD3Config(**{"hidden": (8, 8), "policy_delay": 1} | options)
    return [algorithm(Spaces.of_vectors(3, 2), config, np.random.default_rng(0)) for algorithm in algorithms]


def batch_of(rows=16, seed=0):
    rng = np.random.default_rng(seed)
    obs, next_obs = rng.standard_normal((2, rows, 3)).astype(np.float32)
    action = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    reward, ends = rng.standard_normal(rows).astype(np.float32), np.float32(rng.random(rows) < 0.2)
    discount = np.full(rows, 0.99, np.float32)
    return t3d.Batch(obs, next_obs, action, reward, ends, discount), rng.standard_normal((rows, 2)).astype(np.float32)


def tensors(batch, noise):
    return t3d.Batch(*map(torch.from_numpy, batch)), torch.from_numpy(noise)


# ---- The example's algorithm


def test_it_begins_as_td3_does_without_the_second_critic():
    one, two = agents(OneCritic, TD3)
    left_out = {name for name in two.tensors() if ".q2_body." in name}
    assert set(one.tensors()) == set(two.tensors()) - left_out
    assert len(left_out) == 6 * (2 + 3)  # weights of critic and target; step and two moments of the critic's
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, two.tensors()[name]), name


def test_its_target_is_the_first_critics_word():
    one, two = agents(OneCritic, TD3)
    batch, noise = tensors(*batch_of())
    mine, theirs = one.target_q(batch, noise), two.target_q(batch, noise)
    assert (mine >= theirs).all() and (mine > theirs).any() and (mine == theirs).any()
    # With a second critic that never says less, TD3's target is the same.
    with torch.no_grad():
        two.critic_target.q2_body[-1].bias += 1e6
    assert torch.equal(mine, two.target_q(batch, noise))


def test_its_first_critic_learns_as_td3s_does_from_the_same_target():
    one, two = agents(OneCritic, TD3)
    batch, noise = tensors(*batch_of())
    target_q = one.target_q(batch, noise)
    loss, q1, q2 = one.update_critic(batch, target_q)
    both, also_q1, _ = two.update_critic(batch, target_q)
    assert q2 is None and float(q1) == float(also_q1)
    assert 0 < float(loss) < float(both)
    for mine, theirs in zip(one.critic.q1_body.parameters(), two.critic.q1_body.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_what_its_update_saw():
    (agent,) = agents(OneCritic)
    info = agent.update(*batch_of())
    assert info.q2 is None
    assert all(np.isfinite(float(value)) for value in info if value is not None)


# ---- A run


def test_a_run_records_the_class_and_runs_eagerly(trained):
    config = said(trained / "config.json")
    assert config["algorithm"] == "OneCritic"
    assert config["engine"]["name"] == "eager"
    assert all(row["q2"] is None and row["q1"] is not None for row in rows_of(trained, "update"))


def test_auto_says_why_it_is_not_fused_and_fused_is_refused():
    made = Trainer(EnvSpec(small_runs.PROBE), small_runs.choice(engine="auto").config, OneCritic)
    assert made.learner.chosen.name == "eager"
    assert "OneCritic is not t3d's own TD3" in made.learner.chosen.reason
    with pytest.raises(ConfigRefused, match="OneCritic is not t3d's own TD3"):
        Trainer(EnvSpec(small_runs.PROBE), small_runs.choice(engine="fused").config, OneCritic)


def test_a_resumed_run_is_the_undisturbed_one(trained, tmp_path):
    folder = tmp_path / "run"
    # Within a log interval: what was seen since the last line, q2 left out, is part of the state.
    rows = (first := session(folder)).run()
    for row in rows:
        if row["env_steps"] >= 33:
            rows.close()
            break
    assert first.trainer.learner.has_unlogged_updates
    list((second := session(folder, resume=True)).run())
    assert second.resumed_at == first.trainer.env_steps < 58
    whole = session(trained, resume=True)
    assert small_runs.digest(second.trainer, second.progress) == small_runs.digest(whole.trainer, whole.progress)
    whole._store.close()
    without_time = [
        [{k: v for k, v in row.items() if k not in ("wall_s", "crc32")} for row in rows_of(path, "update")]
        for path in (trained, folder)
    ]
    assert without_time[0] == without_time[1]


def test_a_run_goes_on_with_its_own_algorithm_alone(trained, tmp_path, capsys):
    with pytest.raises(RunRefused, match=r"--algorithm FILE\.py:OneCritic; in Python, algorithm=OneCritic"):
        session(trained, TD3, resume=True)
    with pytest.raises(RunRefused, match="it was OneCritic, now SaysATensor"):
        session(trained, SaysATensor, resume=True)
    list(session(tmp_path / "two", TD3, steps=30).run())
    with pytest.raises(RunRefused, match=r"it was TD3, now OneCritic(.|\n)*leave algorithm out"):
        session(tmp_path / "two", OneCritic, resume=True)
    assert t3d_command(["resume", str(trained), "--env", small_runs.PROBE]) == 2
    assert "--algorithm FILE.py:OneCritic" in capsys.readouterr().err


def test_before_its_first_checkpoint_too(tmp_path):
    folder = tmp_path / "run"
    begun = session(folder)
    begun._store.close()
    assert not (folder / "checkpoints").exists()
    with pytest.raises(RunRefused, match="it was OneCritic, now TD3"):
        session(folder, TD3, resume=True)
    assert session(folder, resume=True).resumed_at is None


@pytest.mark.parametrize("name", [None, 3, "", "os; rm", "x" * 300, "\x1b[2J"])
def test_an_algorithm_that_is_no_name_is_refused(trained, tmp_path, name):
    config = said(trained / "config.json") | {"algorithm": name}
    seal(tmp_path / "config.json", config)
    from t3d.runs.run_folder import read_config

    with pytest.raises(RunRefused, match="algorithm"):
        read_config(tmp_path)


def test_the_library_trains_and_goes_on_with_it(tmp_path):
    options = {key: value for key, value in small_runs.OPTIONS.items() if key != "steps"} | {"hidden": (32, 32)}
    out = tmp_path / "run"
    run = t3d.train(small_runs.PROBE, algorithm=OneCritic, out=out, video=False, steps=40, **options)
    again = t3d.train(small_runs.PROBE, algorithm=OneCritic, out=out, resume="auto", video=False, steps=58, **options)
    assert run.path == again.path == out
    assert rows_of(out, "evaluation")[-1]["env_steps"] == 58


def test_its_policy_needs_only_the_policy(trained, capsys):
    policy = t3d.load(trained)
    assert policy(np.zeros(4, np.float32)).shape == (1,)
    assert t3d_command(["evaluate", str(trained), "--env", small_runs.PROBE]) == 0
    assert "return" in capsys.readouterr().out


# ---- What a run must be able to rely on


class Linear(t3d.Critic):
    """Smaller than any network of `hidden`, and of another kind."""

    def __init__(self, spaces, config, rng):
        super().__init__(spaces, config, rng)
        self.q1_body, self.q2_body = (torch.nn.Linear(spaces.obs_size + spaces.action_size, 1) for _ in range(2))


class Smooth(t3d.Critic):
    def __init__(self, spaces, config, rng):
        super().__init__(spaces, config, rng)
        for body in (self.q1_body, self.q2_body):
            body[1] = body[3] = torch.nn.SiLU()


class Normalised(t3d.Critic):
    """Learns more than parameters: running means."""

    def __init__(self, spaces, config, rng):
        super().__init__(spaces, config, rng)
        for body in (self.q1_body, self.q2_body):
            body.insert(1, torch.nn.BatchNorm1d(config.hidden[0]))


@pytest.mark.parametrize("critic", [Linear, Smooth, Normalised])
def test_a_critic_built_in_another_way_trains_and_comes_back(critic, tmp_path):
    algorithm = type("Own", (TD3,), {"critic_class": critic})
    options = {"hidden": (16, 16)}
    torch.manual_seed(0)
    list(session(tmp_path / "whole", algorithm, **options).run())
    torch.manual_seed(0)
    cut = session(tmp_path / "run", algorithm, **options)
    rows = cut.run()
    for row in rows:
        if row["env_steps"] >= 40:
            rows.close()
    back = session(tmp_path / "run", algorithm, resume=True, **options)
    list(back.run())
    whole = session(tmp_path / "whole", algorithm, resume=True, **options)
    for name, tensor in whole.trainer.agent.tensors().items():
        assert torch.equal(tensor, back.trainer.agent.tensors()[name]), name
    assert any("running_mean" in name for name in back.trainer.agent.tensors()) == (critic is Normalised)
    health_rows = [row for row in rows_of(tmp_path / "run", "health") if row["of"] == "batch"]
    assert (health_rows[-1]["dead_q1"] is None) == (critic is not Normalised)


class Learns(TD3):
    """Learns a temperature that no checkpoint would hold."""

    def __init__(self, spaces, config, rng, device="cpu"):
        super().__init__(spaces, config, rng, device)
        self.temperature = torch.zeros(())


class LearnsAndSays(Learns):
    def tensors(self):
        return super().tensors() | {"temperature": self.temperature}


def test_what_a_checkpoint_would_leave_out_is_refused():
    config = small_runs.choice().config
    with pytest.raises(ConfigRefused, match=r"Learns has temperature(.|\n)*override tensors"):
        Trainer(EnvSpec(small_runs.PROBE), config, Learns)
    tensors, _ = Trainer(EnvSpec(small_runs.PROBE), config, LearnsAndSays).state()
    assert "temperature" in tensors


@pytest.mark.parametrize("wrong", ["TD3", t3d.Actor, lambda *a, **k: None])
def test_what_is_no_algorithm_is_refused_before_anything_is_made(wrong, tmp_path):
    with pytest.raises(ConfigRefused, match="not an algorithm"):
        session(tmp_path / "run", wrong, resume=True)
    assert not (tmp_path / "run").exists()


def test_a_name_says_whose_it_is():
    assert name_of(TD3) == "TD3"
    assert name_of(type("TD3", (TD3,), {})) == "<own>.TD3"
    for odd in ("TD3-no clip", "x" * 400):
        msgspec.convert(name_of(type(odd, (TD3,), {})), ClassName)


# ---- What looks at a run


def test_health_leaves_out_what_takes_two_critics(trained):
    rows = rows_of(trained, "health")
    batches = [row for row in rows if row["of"] == "batch"]
    assert len(batches) > 3
    for row in batches:
        missing = {name for name, value in row.items() if value is None}
        assert missing == {"dead_q2", "q1_target_share", "disagreement"}
    for row in rows:
        if row["of"] == "evaluation":
            assert row["q1_bias"] == row["min_q_bias"] is not None
    hints(rows)


def test_health_takes_a_critic_by_what_it_answers():
    batch, noise = batch_of(rows=2)  # as many as TD3 has critics: rows must not be taken for them
    looks = {}
    for critic in (OneTensor, Thrice):
        (agent,) = agents(type("Any", (OneCritic,), {"critic_class": critic}))
        looks[critic] = health.from_batch(agent, batch, noise, np.ones(len(batch.reward), int))
    (same,) = agents(OneCritic)
    assert looks[OneTensor] == health.from_batch(same, batch, noise, np.ones(len(batch.reward), int))
    played = [Trajectory(batch.obs, batch.action, batch.reward, batch.obs[0], True)]
    (tensor,) = agents(SaysATensor)
    assert health.from_evaluation(tensor, played) == health.from_evaluation(same, played)
    three = looks[Thrice]
    assert (three["q1_target_share"], three["disagreement"]) == (None, None)
    assert three["dead_q2"] is not None and three["q_scale"] > 0


def test_a_study_keeps_what_the_critics_promised(trained, tmp_path):
    spec = importlib.util.spec_from_file_location("learn", ROOT / "benchmarks" / "learn.py")
    learn = sys.modules["learn"] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(learn)
    del sys.modules["learn"]
    rows = [row for row in rows_of(trained, "health") if row["of"] == "evaluation"]
    seen = learn._seen(trained)
    assert seen["promises"] == [[row["env_steps"], row["obtained"], row["q1_bias"], row["min_q_bias"]] for row in rows]
    assert seen["final"] == rows_of(trained, "evaluation")[-1]["return_mean"]
    assert len(rows) == 3
    script = learn.STUDIES["hopper-one-critic"].script
    assert (ROOT / script).samefile(one_critic.__file__)
    # A seed whose file is there is not run again.
    learn.RESULTS = tmp_path
    (tmp_path / "pendulum").mkdir()
    (tmp_path / "pendulum" / "s3.json").write_text("{}")
    learn.train("pendulum", None, 3, threads=1)


def test_dead_units_are_told_of_the_critic_that_is_there():
    row = {"kind": "health", "of": "batch", "dead_actor": 0.1, "dead_q1": 0.95, "dead_q2": None}
    rest = dict.fromkeys(
        ["terminated_share", "reward_std", "reward_mean", "obs_scale", "saturated_share", "q_scale"], 0.1
    )
    rows = [{**rest, **row, "value_bound": None, "env_steps": step, "reward_std": 1.0} for step in (1, 2, 3)]
    (found,) = hints(rows)
    assert (found.name, "of q1 " in found.evidence) == ("dead units", True)


def test_the_progress_line_and_the_report_show_such_a_run(trained, tmp_path):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        live_line.watch(session(tmp_path / "s0"))
    assert "evaluation" in said.getvalue()
    list(session(tmp_path / "two", TD3).run())
    page = write_report([tmp_path / "s0", tmp_path / "two"], tmp_path / "report.html").read_text()
    assert "algorithm OneCritic" in page
    assert "an algorithm of its own" in page
    assert "--algorithm" not in page
    write_report([trained])
