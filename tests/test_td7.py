"""TD7: its update against a float64 oracle, its priorities, its checkpointed policy, and runs of it."""

import json
from pathlib import Path

import numpy as np
import probes
import pytest
import small_runs
import torch
from oracle import Net
from oracle_td7 import COPY_EVERY, OracleTD7, norm, norm_slope
from test_oracle import random_batch, slope_between

import t3d
from t3d.cli.main import run as command
from t3d.config import BURST_STEPS, Config, TD3Config
from t3d.env_spec import EnvSpec
from t3d.errors import ConfigRefused
from t3d.formats import Evaluation
from t3d.networks import avg_l1_norm
from t3d.priorities import Priorities
from t3d.replay import Replay
from t3d.reports import page, read_runs
from t3d.reports.grouping import group_runs
from t3d.runs.progress import RunProgress
from t3d.spaces import Spaces
from t3d.training.trainer import Trainer
from t3d.variants import td7
from t3d.variants.td7 import TD7, huber

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- The update


def nets_of(agent):
    """Return every network of the agent by the oracle's names."""
    encoders = {"": agent.encoder, ".fixed": agent.encoder_fixed, ".target": agent.encoder_fixed_target}
    found = {f"zs{which}": encoder.zs.body for which, encoder in encoders.items()}
    found |= {f"zsa{which}": encoder.action_body for which, encoder in encoders.items()}
    for which, actor, critic in (("", agent.actor, agent.critic), (".target", agent.actor_target, agent.critic_target)):
        found |= {f"actor{which}": actor.body, f"actor.first{which}": actor.obs_layer}
        found |= {f"q1{which}": critic.q1_body, f"q1.first{which}": critic.q1_layer}
        found |= {f"q2{which}": critic.q2_body, f"q2.first{which}": critic.q2_layer}
    return {
        name: Net([p.detach().numpy().copy() for p in net.parameters()], elu=not name.startswith("actor"))
        for name, net in found.items()
    }


SHAPES = [((8,), 5, "mean", 0.0), ((10, 6), 7, "q1", 0.3), ((6, 12, 8), 4, "mean", 0.7)]


def random_pair(seed):
    rng = np.random.default_rng(seed)
    hidden, embedding, climb, pre_tanh_weight = SHAPES[seed]
    options = {
        "lr": 3e-3,
        "policy_noise": 0.3,
        "noise_clip": 0.4,
        "policy_delay": 1 + seed % 3,
        "climb": climb,
        "pre_tanh_weight": pre_tanh_weight,
    }
    spaces = Spaces.of_vectors(int(rng.integers(2, 6)), int(rng.integers(1, 4)))
    agent = TD7(spaces, TD3Config(hidden=hidden, embedding=embedding, **options), rng)
    for network in agent.networks().values():
        network.double()  # in place: the Adams keep the parameters they were given
    agent.extremes, agent.clamp = agent.extremes.double(), agent.clamp.double()
    return agent, OracleTD7(nets_of(agent), **options), spaces, rng


def largest_difference(agent, oracle):
    return max(
        np.abs(p - q).max()
        for name, net in nets_of(agent).items()
        for p, q in zip(net.params, oracle.nets[name].params, strict=True)
    )


@pytest.mark.parametrize("seed", range(len(SHAPES)))
def test_all_networks_are_where_the_equations_put_them(seed, monkeypatch):
    assert td7.COPY_EVERY == 250
    monkeypatch.setattr(td7, "COPY_EVERY", COPY_EVERY)
    agent, oracle, spaces, rng = random_pair(seed)
    for update in range(1, 2 * COPY_EVERY + 8):  # through two copies: what was learned is then seen, and aimed at
        batch, noise = random_batch(rng, spaces, size=4)
        batch = batch._replace(reward=2 * batch.reward)  # errors on both sides of Huber's bend
        info = agent.update(batch, noise, td_error=True)
        critic_loss, actor_loss, errors = oracle.update(**batch._asdict(), noise=noise)
        assert float(info.critic_loss) == pytest.approx(critic_loss, abs=1e-9)
        np.testing.assert_allclose(info.td_error.numpy(), errors, atol=1e-9)
        assert (info.actor_loss is None) == (actor_loss is None)
        if actor_loss is not None:
            assert float(info.actor_loss) == pytest.approx(actor_loss, abs=1e-9)
        if update in (1, 2, 3, COPY_EVERY, COPY_EVERY + 1, 2 * COPY_EVERY, 2 * COPY_EVERY + 7):
            assert largest_difference(agent, oracle) < 1e-9, update
    assert agent.extremes.tolist() == pytest.approx([oracle.least, oracle.most])
    assert agent.clamp.tolist() == pytest.approx(oracle.clamp)
    assert oracle.clamp[0] < 0 < oracle.clamp[1]


@pytest.mark.parametrize("seed", [1, 2])  # Q1, and the mean of both
def test_the_oracles_own_gradients_are_slopes(seed):
    _, oracle, spaces, rng = random_pair(seed)
    batch, noise = random_batch(rng, spaces, size=6)
    y = oracle.target(batch.next_obs, batch.reward, batch.terminated, batch.discount, noise)
    moved = {}

    def noted(name):
        return type("Noted", (), {"step": lambda _, nets, gradients: moved.update({name: (nets.params, gradients)})})()

    oracle.adams = {name: noted(name) for name in oracle.adams}
    aim = oracle.zs("", batch.next_obs)[0]

    def encoder_loss():
        return np.mean((oracle.zsa("", oracle.zs("", batch.obs)[0], batch.action)[0] - aim) ** 2)

    oracle.encoder_step(batch.obs, batch.next_obs, batch.action)
    losses = {
        "encoder": encoder_loss,
        "critic": lambda: oracle.critic_step(batch.obs, batch.action, y)[0],
        "actor": lambda: oracle.actor_step(batch.obs),
    }
    losses["critic"](), losses["actor"]()
    for name, loss in losses.items():
        params, gradients = moved[name]
        for param, gradient in zip(params, gradients, strict=True):
            for at in np.ndindex(param.shape):
                assert gradient[at] == pytest.approx(slope_between(loss, param, at), abs=1e-7), name


def test_hubers_loss_by_hand():
    errors = torch.tensor([0.0, 0.5, -0.5, 1.0, -3.0])
    assert huber(errors).tolist() == [0.0, 0.125, 0.125, 1.0, 3.0]


def test_the_norm_by_hand():
    x = np.array([[1.0, -2.0, 3.0], [0.0, 0.0, 0.0]])
    assert avg_l1_norm(torch.tensor(x)).tolist() == [[0.5, -1.0, 1.5], [0.0, 0.0, 0.0]]
    scaled, kept = norm(x[:1])
    assert scaled.tolist() == [[0.5, -1.0, 1.5]]
    # d/dx1 of x1 / m with m = 2: 1/2 - 1 / 4 * 1/3
    assert norm_slope(kept, np.array([[1.0, 0.0, 0.0]]))[0, 0] == pytest.approx(1 / 2 - 1 / 12)


# ---- Priorities


def test_a_priority_by_hand():
    priorities = Priorities(4)
    priorities.of[:3] = priorities.largest
    priorities.note(np.array([0, 2]), np.array([[0.5, -32.0], [-0.25, 3.0]], np.float32))
    np.testing.assert_allclose(priorities.of, [1, 1, 4, 0], rtol=1e-6)  # 32 ** 0.4 = 4
    assert priorities.largest == priorities.of[2]
    priorities.note(np.array([2]), np.zeros((2, 1), np.float32))
    assert priorities.largest == pytest.approx(4)
    priorities.find_largest()
    assert priorities.largest == 1


def test_slots_are_drawn_in_proportion():
    priorities, rng = Priorities(5), np.random.default_rng(0)
    priorities.of[:] = [1, 0, 3, 2, 4]
    priorities.largest = np.array(4, np.float32)
    drawn = priorities.draw(rng, 100_000, lambda rng, n: rng.integers(5, size=n))
    assert drawn.shape == (100_000,)
    shares = np.bincount(drawn, minlength=5) / 100_000
    np.testing.assert_allclose(shares, [0.1, 0, 0.3, 0.2, 0.4], atol=0.006)  # four standard deviations


@pytest.mark.parametrize("error", [np.nan, np.inf])
def test_a_draw_ends_though_the_critics_have_diverged(error):
    priorities, rng = Priorities(3), np.random.default_rng(0)
    priorities.of[:2] = 1
    priorities.note(np.array([0]), np.array([[error], [1.0]], np.float32))
    assert set(priorities.draw(rng, 8, lambda rng, n: rng.integers(3, size=n)).tolist()) <= {0, 1}


def test_a_memory_draws_what_stands_there_and_new_transitions_first():
    replay, no = Replay(6, 1, Spaces.of_vectors(1, 1), prioritized=True), np.array([False])
    replay.begin(np.zeros((1, 1), np.float32), ~no)
    for step in range(1, 4):
        replay.add(np.zeros((1, 1), np.float32), np.float32([step]), no, no, np.full((1, 1), step, np.float32))
    assert replay.priorities.of.tolist() == [1, 1, 1, 0, 0, 0, 0]
    replay.priorities.note(np.array([1]), np.array([[32.0]], np.float32))
    replay.add(np.zeros((1, 1), np.float32), np.float32([4]), no, no, np.full((1, 1), 4, np.float32))
    np.testing.assert_allclose(replay.priorities.of, [1, 4, 1, 4, 0, 0, 0], rtol=1e-6)
    for step in range(5, 8):  # the ring wraps around: what is overwritten has no priority until it is whole
        replay.add(np.zeros((1, 1), np.float32), np.float32([step]), no, no, np.full((1, 1), step, np.float32))
    np.testing.assert_allclose(replay.priorities.of, [4, 0, 1, 4, 4, 4, 0], rtol=1e-6)
    drawn = set(replay.draw(np.random.default_rng(0), 500).tolist())
    assert drawn == {0, 2, 3, 4, 5}


# ---- The checkpointed policy


def test_the_policy_whose_worst_episode_is_best_is_kept(monkeypatch):
    agent = TD7(Spaces.of_vectors(2, 1), TD3Config(hidden=(4,), embedding=3), np.random.default_rng(0))
    obs = np.ones((1, 2), np.float32)

    def move():
        with torch.no_grad():
            agent.actor.obs_layer.bias += 1

    first = agent.act(obs)
    assert agent.episode_ended(-5.0)  # nothing is worse than the first
    move()
    assert agent.episode_ended(-9.0)  # worse: it learns on
    assert np.array_equal(agent.act(obs, "checkpoint"), first)
    assert not np.array_equal(agent.act(obs), first)
    assert agent.episode_ended(-5.0)  # as good
    assert np.array_equal(agent.act(obs, "checkpoint"), agent.act(obs))
    monkeypatch.setattr(td7, "JUDGED_LONGER_FROM", 7)
    monkeypatch.setattr(td7, "EPISODES_THEN", 3)
    agent.updates = 7
    batch, noise = random_batch(np.random.default_rng(0), agent.spaces, 4)
    agent.update(type(batch)(*(np.float32(part) for part in batch)), np.float32(noise))
    assert float(agent.bar) == pytest.approx(-5.5)  # a tenth of its size lower, also below zero
    assert not agent.episode_ended(-5.2)
    assert not agent.episode_ended(-5.4)
    assert agent.episode_ended(9.0)  # the third: its worst counts
    assert float(agent.bar) == pytest.approx(-5.4)
    assert not agent.episode_ended(-5.3)
    assert agent.episode_ended(-5.41)  # below the bar: not played any longer
    assert float(agent.bar) == pytest.approx(-5.4)


# ---- Runs

PROBE = f"{Path(probes.__file__).resolve()}:Counting"
SMALL = {
    "algorithm": "td7",
    "train_at": "episode",
    "steps": 60,
    "random_steps": 20,
    "batch_size": 8,
    "buffer_size": 1_000,
    "hidden": (8, 8),
    "embedding": 6,
    "eval_every": 20,
    "eval_episodes": 2,
    "threads": 1,
}


def rows_of(path, kind):
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def test_a_run_plays_both_policies_and_says_which_is_better(tmp_path):
    run = t3d.train(PROBE, out=tmp_path / "run", video=False, **SMALL)
    for row in rows_of(run.path, "evaluation"):
        both = {name: np.mean(row[f"returns_{name}"]) for name in ("current", "checkpoint")}
        assert both[row["policy"]] == max(both.values()) == row["return_mean"]
    last = t3d.load(run.path / "policy" / "last.safetensors")
    assert (last.info.algorithm, last.info.architecture, last.info.embedding) == ("TD7", "sale", 6)
    assert last.info.return_mean == row["return_mean"]
    assert t3d.load(run.path).info.return_mean == run.best.return_mean


def test_a_loaded_policy_plays_what_the_agent_plays(tmp_path):
    session = small_runs.train(tmp_path / "run", **SMALL | {"n_envs": 1})
    agent, progress = session.trainer.agent, session.progress
    obs = np.random.default_rng(0).standard_normal((5, session.trainer.envs.spaces.obs_size)).astype(np.float32)
    loaded = t3d.load(session.path / "policy" / "last.safetensors")
    # NumPy plays the one, PyTorch the other: their sums differ in order.
    np.testing.assert_allclose(loaded.act(obs), agent.act(obs, progress.preferred), rtol=0, atol=1e-6)
    assert not np.array_equal(agent.act(obs, "current"), agent.act(obs, "checkpoint"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"n_envs": 2}, "n_envs = 2"),
        ({"train_at": "step"}, "train_at = step"),
        ({"tau": 0.1}, "tau means nothing in td7"),
        ({"layer_norm": "critic"}, "layer_norm means nothing in td7"),
        ({"updates_per_step": 100.0, "log_every": 1_000}, "too many updates would lie between two log lines"),
        ({"algorithm": "td3", "embedding": 6}, "embedding means nothing in td3"),
        ({"algorithm": "td3", "embedding": 256, "climb": "q1"}, "climb means nothing in td3"),
        ({"algorithm": "td3", "embedding": 256, "pre_tanh_weight": 1e-5}, "pre_tanh_weight means nothing in td3"),
    ],
)
def test_what_means_nothing_is_refused(options, told):
    with pytest.raises(ConfigRefused, match=told):
        t3d.train(PROBE, video=False, **SMALL | options)


def test_a_class_of_ones_own_may_be_derived_from_it(tmp_path):
    class Mine(TD7):
        pass

    run = t3d.train(PROBE, out=tmp_path / "run", video=False, **SMALL | {"algorithm": Mine})
    assert json.loads((run.path / "config.json").read_text())["algorithm"].endswith("Mine")
    assert json.loads((run.path / "config.json").read_text())["config"]["algorithm"] == "td7"


def test_every_tensor_comes_back(tmp_path):
    trainer = Trainer(EnvSpec(PROBE), Config().with_values(SMALL))
    while trainer.env_steps < 45:
        trainer.step()
    tensors, state = trainer.state()
    other = Trainer(EnvSpec(PROBE), Config().with_values(SMALL))
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    other.restore(copies, state, [trainer.replay.rows(0, 0, trainer.replay.written[0] - 1)])
    for name, tensor in other.state()[0].items():
        if name != "seen":  # losses since the last log line, NaN where the actor rested
            assert torch.equal(tensor, tensors[name]), name
    assert {"priorities", "largest_priority", "bar", "worst", "episodes", "extremes", "clamp"} <= set(tensors)


@pytest.mark.parametrize(
    "options",
    [{"eval_env": "same"}, {"env_workers": 1}, {"normalize_obs": True}, {"updates_per_step": 0.5}],
    ids=str,
)
def test_the_other_options_work_with_it(options, tmp_path):
    session = small_runs.train(tmp_path / "run", **SMALL | {"n_envs": 1} | options)
    assert session.finished
    assert session.trainer.agent.updates > 10
    assert len(rows_of(session.path, "evaluation")) == 3


@pytest.mark.slow
def test_seeds_side_by_side_are_what_each_is_alone(tmp_path):
    few = ["--steps", "60", "--random-steps", "20", "--batch-size", "8", "--hidden", "8", "8", "--eval-episodes", "1"]
    few += ["--threads", "1", "--no-video"]
    assert command(["train", PROBE, "--preset", "fast", "--seeds", "2", "--out", str(tmp_path / "both"), *few]) == 0
    assert command(["train", PROBE, "--preset", "fast", "--seed", "1", "--out", str(tmp_path / "alone"), *few]) == 0
    both, alone = (tmp_path / folder / "policy" / "last.safetensors" for folder in ("both/s1", "alone"))
    assert both.read_bytes() == alone.read_bytes()


def test_it_waits_for_whole_episodes_and_not_for_ever(monkeypatch):
    assert BURST_STEPS == {"td3": 1_000, "td7": 20_000}
    monkeypatch.setitem(BURST_STEPS, "td7", 200)
    made = Trainer(EnvSpec(PROBE), Config().with_values(SMALL | {"random_steps": 10, "updates_per_step": 0.1}))
    play, bursts = made.collector.step, []
    made.collector.step = lambda act: play(act) and []  # nobody hears of an end
    while made.env_steps < 215:
        before = made.agent.updates
        made.step()
        if made.agent.updates != before:
            bursts.append(made.env_steps)
    assert set(bursts) == {10 + 200}


def test_seeds_whose_evaluations_waited_differently_are_reported_together(tmp_path):
    # Episodes of three steps: what is due at 20 and 40 is played at 21 and 42.
    for seed in range(2):
        small_runs.train(tmp_path / f"s{seed}", **SMALL | {"n_envs": 1, "seed": seed, "random_steps": 10 + seed})
    folders = [str(tmp_path / f"s{seed}") for seed in range(2)]
    seen = [read_runs.read(Path(folder)) for folder in folders]
    assert [list(run.evaluations) for run in seen] == [[20, 40, 60], [20, 40, 60]]
    assert [row["env_steps"] for row in rows_of(tmp_path / "s0", "evaluation")] == [21, 42, 60]
    notes = group_runs(seen)[0].notes
    assert any("waited for the end of the episode" in note for note in notes)
    assert any("two policies" in note for note in notes)
    assert "TD7 · 2 groups" in page.render(page.gather([Path(folder) for folder in folders]))


def test_a_policy_that_is_still_being_judged_does_not_learn():
    made = Trainer(EnvSpec(PROBE), Config().with_values(SMALL | {"random_steps": 10}))
    made.agent.episode_ended = lambda episode_return: made.env_steps > 40
    seen = []
    while made.env_steps < 45:
        made.step()
        seen.append((made.env_steps, made.agent.updates))
    made_at = [step for step in seen if step[1]]
    assert made_at[0] == (42, 32)  # the first end of an episode behind 40
    assert made_at[-1] == (45, 35)


def test_the_better_policy_is_preferred_and_the_first_of_equals():
    progress = RunProgress()
    played = {which: Evaluation([value], [3]) for which, value in (("current", 1.0), ("checkpoint", 2.0))}
    assert progress.evaluated(played, 20, 20)
    assert (progress.preferred, progress.last.return_mean) == ("checkpoint", 2.0)
    assert progress.row(played)["returns_current"] == [1.0]
    assert not progress.evaluated({name: Evaluation([1.5], [3]) for name in played}, 40, 20)
    assert (progress.preferred, progress.best.return_mean) == ("current", 2.0)
