"""What other libraries get wrong when a run is continued, each as a test that sees it.

The defects are those that users of the TD3 authors' code, Stable-Baselines3, RL Zoo, FastTD3 and Tianshou report.
"""

import json
import shutil

import numpy as np
import pytest
from small_runs import train

from t3d.env_spec import EnvSpec
from t3d.errors import RunRefused
from t3d.runs.progress import RunProgress
from t3d.runs.store import Store

STEPS, HALF = 58, 30


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def halves(tmp_path):
    """A run that was stopped half-way, and the trainer that continues it, before its next step."""
    before = train(tmp_path / "run", until=HALF)
    assert HALF <= before.trainer.env_steps < STEPS
    return before, continued(tmp_path / "run")


def continued(folder):
    from small_runs import PROBE, choice

    from t3d.training.trainer import Trainer

    trainer = Trainer(EnvSpec(PROBE), choice().config)
    store = Store.find(EnvSpec(PROBE), choice(), folder)
    store.restore(trainer, RunProgress())
    store.close()
    return trainer


def same(one, other):
    return one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()


def test_targets_come_back_as_they_were_and_not_as_copies_of_the_networks(halves):
    """The TD3 authors' `load` overwrites the targets with the online networks."""
    before, after = halves[0].trainer.agent, halves[1].agent
    for name in ("actor", "critic"):
        for key, target in after.networks()[f"{name}_target"].state_dict().items():
            assert same(target, before.networks()[f"{name}_target"].state_dict()[key])
            assert not same(target, after.networks()[name].state_dict()[key])


def test_the_optimisers_come_back_with_their_moments_and_step_counts(halves):
    """FastTD3's checkpoint has no optimiser state."""
    before, after = halves[0].trainer.agent, halves[1].agent
    for one, other in (
        (before.actor_optimizer, after.actor_optimizer),
        (before.critic_optimizer, after.critic_optimizer),
    ):
        for weight, restored in zip(one.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
            assert same(one.state[weight]["exp_avg"], other.state[restored]["exp_avg"])
            assert same(one.state[weight]["exp_avg_sq"], other.state[restored]["exp_avg_sq"])
            assert float(one.state[weight]["step"]) == float(other.state[restored]["step"]) > 0
    assert before.updates == after.updates > 0


def test_no_stream_draws_again_what_it_has_drawn(halves):
    """Stable-Baselines3 seeds anew on resume: the same noise comes twice."""
    before, after = halves[0].trainer.streams, halves[1].streams
    fresh = type(after).from_seed(0)
    for name in ("random_actions", "exploration", "index", "target_noise"):
        next_draws = getattr(after, name).integers(2**62, size=4).tolist()
        assert next_draws == getattr(before, name).integers(2**62, size=4).tolist()
        assert next_draws != getattr(fresh, name).integers(2**62, size=4).tolist()


def test_counters_go_on_so_that_no_warm_up_is_run_again(halves):
    """RL Zoo restarts the counters: the random actions begin again, and no update is made meanwhile."""
    before, after = halves[0].trainer, halves[1]
    assert after.env_steps == before.env_steps > after.config.random_steps
    drawn = after.streams.random_actions.bit_generator.state
    updates = after.agent.updates
    after.step()
    assert after.streams.random_actions.bit_generator.state == drawn, "an action was drawn at random"
    assert after.agent.updates == updates + 2


def test_the_replay_memory_comes_back(halves):
    """Stable-Baselines3 and CleanRL leave it behind unless it is asked for: learning begins from nothing."""
    before, after = halves[0].trainer.replay, halves[1].replay
    assert len(after) == len(before) > 0
    one, other = np.random.default_rng(0), np.random.default_rng(0)
    for part, expected in zip(
        after.sample(after.draw(one, 64), 0.99), before.sample(before.draw(other, 64), 0.99), strict=True
    ):
        assert part.tobytes() == expected.tobytes()


def test_resuming_does_load_something_and_ends_where_the_undisturbed_run_ends(undisturbed, tmp_path):
    """Tianshou's example has a resume option that loads nothing."""
    train(tmp_path / "run", until=HALF)
    session = train(tmp_path / "run", resume=True)
    assert session.resumed_at is not None
    assert session.resumed_at >= HALF
    ended = session.trainer.agent.tensors()
    for name, tensor in undisturbed.trainer.agent.tensors().items():
        assert same(ended[name], tensor), name
    kinds = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    whole = [json.loads(line) for line in (undisturbed.path / "metrics.jsonl").read_text().splitlines()]
    strip = [
        [{k: v for k, v in row.items() if k not in ("wall_s", "crc32")} for row in rows if row["kind"] != "event"]
        for rows in (kinds, whole)
    ]
    assert strip[0] == strip[1]


def test_no_file_of_a_run_is_a_pickle(undisturbed):
    """Stable-Baselines3's files run code when they are loaded."""
    for path in undisturbed.path.rglob("*"):
        if path.is_file() and path.parent.name != "tensorboard":
            assert path.suffix in (".json", ".jsonl", ".copy", ".safetensors", ".rows", ""), path
            assert not path.read_bytes().startswith((b"\x80", b"PK")), path


def test_a_run_whose_checkpoints_were_removed_is_not_begun_again(tmp_path):
    train(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(RunRefused, match="the checkpoints of this run are gone"):
        train(tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
