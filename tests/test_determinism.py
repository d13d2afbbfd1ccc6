"""One seed, one result: whatever process it runs in, and whatever else watches, judges or draws."""

import hashlib
import importlib.util
import json
import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import probes
import pytest
import torch

from t3d.config import Config
from t3d.env_spec import EnvSpec
from t3d.environments.envs import Envs
from t3d.presets import Choice
from t3d.runs.live_line import watch
from t3d.runs.session import Session
from t3d.training.evaluation import evaluate
from t3d.training.randomness import Streams, episode_seed, evaluation_seed
from t3d.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

PROBE = f"{Path(probes.__file__).resolve()}:Counting"
ENV = "Pendulum-v1"


def config(**options):
    small = {"steps": 200, "random_steps": 80, "batch_size": 16, "eval_episodes": 1, "hidden": (16, 16), "lr": 1e-3}
    return Config().with_values(small | options)


def digest(agent):
    """Return the SHA-256 of every weight of all four objects."""
    seen = hashlib.sha256()
    for name, network in agent.networks().items():
        for key, tensor in network.state_dict().items():
            seen.update(f"{name}.{key}".encode())
            seen.update(tensor.cpu().numpy().tobytes())
    return seen.hexdigest()


def trained(env=ENV, meanwhile=lambda: None, **options):
    """Train without a run folder; return the digest."""
    made = Trainer(EnvSpec(env), config(**options))
    while made.env_steps < made.config.steps:
        meanwhile()
        made.step()
    made.envs.close()
    return digest(made.agent)


CASES = {"seed 0": {}, "seed 1": {"seed": 1}, "3 envs": {"n_envs": 3}, "eager": {"engine": "eager"}}
# Of the compiled update, in sizes that no number of threads divides.
UNEVEN = {"batch_size": 101, "steps": 150, "random_steps": 102, "hidden": (64, 48), "layer_norm": "critic"}
CASES |= {f"{threads} threads": UNEVEN | {"engine": "fused", "threads": threads} for threads in (1, 2)}


def digests():
    return {name: trained(**options) for name, options in CASES.items()}


@pytest.fixture(scope="module")
def baseline():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield digests()
    torch.set_num_threads(threads)


@pytest.mark.slow  # in the fast suite a seed of `t3d train --seeds` is one
def test_a_fresh_process_ends_with_the_weights_of_this_one(baseline):
    code = (
        f"import sys, json, torch; sys.path.insert(0, {str(Path(__file__).parent)!r}); torch.set_num_threads(1)\n"
        "import test_determinism; print(json.dumps(test_determinism.digests()))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
    )
    assert json.loads(child.stdout) == baseline


def test_another_seed_or_number_of_environments_ends_elsewhere(baseline):
    assert len({baseline[case] for case in ("seed 0", "seed 1", "3 envs")}) == 3


def run(folder, how=None, **options):
    """Train in a run folder as the command does; return the digest."""
    session = Session(EnvSpec(ENV), Choice("td3", config(**options), "as asked"), folder)
    if how:
        how(session)
    else:
        for _ in session.run():
            pass
    return digest(session.trainer.agent)


@pytest.mark.parametrize(
    "options",
    [{}, {"eval_every": 50, "eval_episodes": 2}, {"log_every": 7}],
    ids=str,
)
def test_evaluating_and_logging_change_no_weight(options, tmp_path, baseline):
    assert run(tmp_path, **options) == baseline["seed 0"]


def test_evaluating_and_logging_change_no_weight_with_several_environments(tmp_path, baseline):
    assert run(tmp_path, n_envs=3, eval_every=70, log_every=11) == baseline["3 envs"]


@pytest.mark.parametrize("installed", [True, False])
def test_tensorboard_changes_no_weight(installed, tmp_path, baseline, monkeypatch):
    find = importlib.util.find_spec
    if installed and not find("tensorboard"):
        pytest.skip("TensorBoard is not installed, so its presence cannot be tried")
    if not installed:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name))
    assert run(tmp_path, eval_every=100, log_every=20) == baseline["seed 0"]
    assert (tmp_path / "tensorboard").exists() == installed


@pytest.mark.parametrize("terminal", [True, False])
def test_the_progress_bar_changes_no_weight(terminal, tmp_path, baseline, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")  # rich takes the first for a terminal
    assert run(tmp_path, how=watch, eval_every=100, log_every=20) == baseline["seed 0"]
    assert ("\x1b[" in capsys.readouterr().err) == terminal


def draw_from_every_global_generator():
    np.random.seed(3)  # noqa: NPY002
    np.random.rand(5)  # noqa: NPY002
    torch.manual_seed(4)
    torch.rand(5)
    random.seed(5)
    random.random()


def test_somebody_elses_global_generators_change_nothing(baseline):
    draw_from_every_global_generator()
    assert trained(meanwhile=draw_from_every_global_generator) == baseline["seed 0"]


def test_training_and_evaluating_leave_the_global_generators_alone(tmp_path):
    def state():
        numpys = np.random.get_state(legacy=False)  # noqa: NPY002
        key, position = numpys["state"]["key"].tolist(), numpys["state"]["pos"]
        return torch.get_rng_state().tolist(), key, position, random.getstate()

    draw_from_every_global_generator()  # or a test before this one may have left the very state that a seed gives
    before = state()
    run(tmp_path, steps=130, eval_every=60)
    assert state() == before


def test_every_stream_of_a_run_is_its_own_and_follows_from_the_seed():
    def first(seed):
        return {name: stream.integers(2**62) for name, stream in vars(Streams.from_seed(seed)).items()}

    assert first(0) == first(0)
    assert len(set(first(0).values()) | set(first(1).values())) == 2 * len(first(0)) == 12


# ---- Episodes


def starts(n_envs, resets, seed=0):
    """Return {(env, episode): first observation} of environments that are reset in the given order."""
    envs = Envs(EnvSpec(PROBE), n_envs, partial(episode_seed, seed), fresh=False)
    seen = {(i, 0): envs.obs[i].tolist() for i in range(n_envs)}
    counts = [0] * n_envs
    for reset in resets:
        envs.step(np.zeros((n_envs, 1), np.float32))
        envs.reset(np.isin(np.arange(n_envs), reset))
        for i in reset:
            counts[i] += 1
            seen[i, counts[i]] = envs.obs[i].tolist()
    envs.close()
    return seen


def test_an_episodes_start_depends_on_its_environment_and_number_alone():
    orders = [[[0], [0], [1], [2], [1]], [[0, 1], [2], [1, 0]], [[2], [1], [1], [0], [0]]]
    one, two, three = (starts(3, order) for order in orders)
    assert len(one) == 8
    assert one == two == three
    alone = starts(1, [[0], [0]])
    assert alone == {key: start for key, start in one.items() if key[0] == 0}
    assert len({tuple(start) for start in one.values()}) == len(one)
    assert not set(map(tuple, starts(3, orders[0], seed=1).values())) & set(map(tuple, one.values()))


def test_an_episodes_start_does_not_depend_on_what_was_played_before():
    def first_observations(**options):
        made = Trainer(EnvSpec(ENV), config(updates_per_step=0, **options))
        seen = [made.envs.obs.tolist()]
        reset = made.envs.reset
        made.envs.reset = lambda ended: (reset(ended), seen.append(made.envs.obs.tolist()))
        for _ in range(601):
            made.step()
        return seen

    random_play, other_play = first_observations(random_steps=600), first_observations(random_steps=0)
    assert len(random_play) == 4  # Pendulum's episodes have 200 steps
    assert random_play == other_play


def evaluation_starts(**options):
    seen = []

    def act(obs):
        seen.append(obs[0].tolist())
        return np.zeros((1, 1), np.float32)

    evaluate(act, PROBE, **{"episodes": 4, "seed": 0, "fresh": False} | options)
    return seen[::3]  # three steps an episode


def test_evaluation_episodes_start_the_same_at_each_evaluation():
    first = evaluation_starts()
    assert len({tuple(start) for start in first}) == 4
    assert evaluation_starts() == first
    assert evaluation_starts(fresh=True) == first
    assert evaluation_starts(episodes=2) == first[:2]
    assert evaluation_starts(seed=1) != first


def test_evaluation_and_training_episodes_have_different_seeds():
    training = {episode_seed(0, env, episode) for env in range(10) for episode in range(100)}
    evaluation = {evaluation_seed(0, episode) for episode in range(100)}
    assert len(training | evaluation) == 1100
    assert min(training | evaluation) >= 0
    assert max(training | evaluation) < 2**31


def test_evaluations_of_an_unchanged_policy_are_equal_and_of_a_run_made_from_its_seed(tmp_path):
    session = Session(
        EnvSpec(ENV), Choice("td3", config(steps=200, random_steps=500, eval_every=100), "as asked"), tmp_path
    )
    returns = [row["returns"] for row in session.run() if row["kind"] == "evaluation"]
    assert len(returns) == 2
    assert returns[0] == returns[1]
    made = Trainer(EnvSpec(ENV), config())
    seen = evaluate(made.agent.act, ENV, episodes=1, seed=0, fresh=False).returns
    assert seen == pytest.approx(returns[0], abs=1e-3)  # the policy plays by NumPy, to the last bits the same
