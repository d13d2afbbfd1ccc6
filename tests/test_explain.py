"""`t3d explain`: its numbers are td3.py's, its code is the source, and nothing of a run changes but the page."""

import copy
import hashlib
import html
import re
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs
from small_runs import PROBE, choice

import t3d
from t3d import api
from t3d.cli.main import run as command
from t3d.config import Config
from t3d.diagnosis import explain, health
from t3d.env_spec import EnvSpec
from t3d.errors import ConfigRefused, EnvFailed, RunRefused
from t3d.policy.files import read
from t3d.replay import Batch
from t3d.reports import listing
from t3d.reports.explain import render
from t3d.reports.step_numbers import figure, signed
from t3d.reports.wording import MINUS
from t3d.runs import explanation
from t3d.runs.session import Session
from t3d.runs.snapshot import open_run
from t3d.spaces import Spaces
from t3d.td3 import TD3, bellman, smooth

ENV = f"{Path(__file__).resolve().parent / 'own_envs.py'}:Walk"
SMALL = {
    "steps": 60,
    "random_steps": 20,
    "batch_size": 8,
    "buffer_size": 200,
    "hidden": (5, 4),
    "eval_every": 30,
    "eval_episodes": 1,
    "log_every": 30,
    "checkpoint_every": 25,
    "checkpoint_seconds": 1e9,
    "engine": "eager",
    "threads": 1,
}
OBS, ACTIONS, B = 3, 2, 16


# ---- The numbers


@pytest.fixture
def agent():
    """An agent that has learned a little, and whose actor has its turn at the next update."""
    made = TD3(Spaces.of_vectors(OBS, ACTIONS), Config().with_values({"hidden": (9, 8)}).td3, np.random.default_rng(0))
    for k in range(7):
        made.update(batch_of(k), noise_of(k))
    return made


def batch_of(seed):
    rng = np.random.default_rng(seed)
    obs, next_obs = rng.standard_normal((2, B, OBS), np.float32)
    action = rng.uniform(-1, 1, (B, ACTIONS)).astype(np.float32)
    reward, discount = rng.standard_normal(B, np.float32), np.full(B, 0.9, np.float32)
    return Batch(obs, next_obs, action, reward, (rng.random(B) < 0.2).astype(np.float32), discount)


def noise_of(seed):
    return np.random.default_rng(100 + seed).standard_normal((B, ACTIONS), np.float32) * 3


def taken(agent, seen=lambda obs: obs):
    return explain.through_the_steps(agent, batch_of(50), noise_of(50), np.arange(B), seen)


def digest(agent):
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in agent.tensors().values())).hexdigest()


def test_every_number_is_what_the_same_update_gives(agent):
    before = digest(agent)
    seen = taken(agent)
    assert (digest(agent), agent.updates) == (before, 7)
    assert (seen.number, seen.actor_moves) == (8, True)
    batch, noise = Batch(*map(torch.from_numpy, batch_of(50))), torch.from_numpy(noise_of(50))
    own = copy.deepcopy(agent)
    info = own.update(batch, noise)
    assert (seen.critic_loss, seen.actor_loss) == (float(info.critic_loss), float(info.actor_loss))
    assert np.array_equal(seen.target_q, agent.target_q(batch, noise).numpy())
    with torch.no_grad():
        next_action = agent.actor_target(batch.next_obs)
        smoothed = smooth(next_action, noise, 0.2, 0.5)
        next_q1, next_q2 = agent.critic_target(batch.next_obs, smoothed)
        expected = {
            "next_action": next_action,
            "smoothed": smoothed,
            "next_q1": next_q1,
            "next_q2": next_q2,
            "next_q": torch.minimum(next_q1, next_q2),
            "target_q": bellman(batch.reward, batch.terminated, batch.discount, torch.minimum(next_q1, next_q2)),
            "target_q_unsmoothed": agent.target_q(batch, 0 * noise),
            "q1": agent.critic(batch.obs, batch.action)[0],
            "q2": agent.critic(batch.obs, batch.action)[1],
            "q1_after": own.critic(batch.obs, batch.action)[0],
            "q2_after": own.critic(batch.obs, batch.action)[1],
            "played": agent.actor(batch.obs),
            "played_after": own.actor(batch.obs),
            "played_q1": own.critic.q1(batch.obs, agent.actor(batch.obs)),
            "played_q1_after": own.critic.q1(batch.obs, own.actor(batch.obs)),
            "actor_lag": agent.actor(batch.next_obs) - next_action,
            "critic_lag": agent.critic(batch.obs, batch.action)[0] - agent.critic_target(batch.obs, batch.action)[0],
        }
    for name, numbers in expected.items():
        assert np.array_equal(getattr(seen, name), numbers.numpy()), name
    assert np.abs(seen.target_q - seen.target_q_unsmoothed).max() > 0
    # What follows moves by tau: 0.995 of the way is left to networks that stand still.
    for before_it, after_it in (seen.actor_distance, seen.critic_distance):
        assert after_it == pytest.approx(0.995 * before_it, rel=1e-4)
    assert np.array_equal(seen.obs, batch_of(50).obs)


def test_observations_reach_the_networks_normalised_and_the_page_raw(agent):
    plain, seen = taken(agent), taken(agent, lambda obs: obs / 2)
    assert np.array_equal(seen.obs, plain.obs)
    assert not np.array_equal(seen.q1, plain.q1)
    halved = batch_of(50)._replace(obs=batch_of(50).obs / 2, next_obs=batch_of(50).next_obs / 2)
    assert np.array_equal(
        seen.target_q, agent.target_q(Batch(*map(torch.from_numpy, halved)), torch.from_numpy(noise_of(50))).numpy()
    )


def test_three_that_differ_are_followed_and_why_is_true(agent):
    seen = taken(agent)
    middle, apart, ended = explain.choose(seen)
    assert len({middle.row, apart.row, ended.row}) == 3
    assert int((seen.target_q < seen.target_q[middle.row]).sum()) == (B - 1) // 2
    gaps = np.abs(seen.next_q1 - seen.next_q2) * (1 - seen.terminated)
    gaps[middle.row] = 0
    assert apart.row == gaps.argmax()
    assert seen.terminated[ended.row] == 1
    endless = seen._replace(terminated=np.zeros(B, np.float32))
    assert explain.choose(endless)[2].why == "smoothing changed its target most"
    one = seen._replace(**{n: v[:1] for n, v in seen._asdict().items() if isinstance(v, np.ndarray)})
    assert [followed.row for followed in explain.choose(one)] == [0]


def test_what_was_obtained_is_the_discounted_sum_by_hand(agent):
    obs = np.zeros((3, OBS), np.float32)
    episode = health.Trajectory(obs, obs[:, :ACTIONS], np.array([1, 2, 4], np.float32), obs[0], True)
    gamma = agent.config.gamma
    ended = explain.judge(agent, episode)
    assert ended.obtained == pytest.approx([1 + 2 * gamma + 4 * gamma**2, 2 + 4 * gamma, 4])
    assert ended.word.tolist() == [0, 0, 0]
    cut = explain.judge(agent, episode._replace(terminated=False))
    assert cut.word == pytest.approx([gamma**3, gamma**2, gamma])
    final = torch.zeros(1, OBS)
    with torch.no_grad():
        word = float(torch.minimum(*agent.critic(final, agent.actor(final))))
        q1 = float(agent.critic(final, torch.zeros(1, ACTIONS))[0])
    assert cut.obtained - ended.obtained == pytest.approx(word * cut.word, abs=1e-6)  # of numbers up to 7, in float32
    assert cut.q1[0] == q1


def plane(agent_of, held):
    none = np.zeros((0, held.shape[1]), np.float32)
    return explain.plane_of(agent_of, held.astype(np.float32), lambda obs: obs, none, none)


def test_a_map_is_made_of_two_numbers_or_of_an_angle_and_a_third():
    rng = np.random.default_rng(0)
    angle = rng.uniform(-3, 3, 200)
    circle = np.column_stack([np.cos(angle), np.sin(angle), rng.uniform(-8, 8, 200)])
    agents = [TD3(Spaces.of_vectors(s, 1), Config().td3, rng) for s in (2, 3, 4)]
    made = plane(agents[1], circle)
    assert made.names == ("angle, of observations 1 and 2", "observation 3")
    assert (made.low[0], made.high[0]) == pytest.approx((-np.pi, np.pi))
    at = np.array([[np.cos(made.low[0]), np.sin(made.low[0]), made.high[1]]], np.float32)  # upper left
    assert made.action[0][-1, 0] == pytest.approx(float(agents[1].act(at)[0, 0]), abs=1e-6)
    assert plane(agents[1], circle * 1.1) is None
    assert plane(agents[2], rng.uniform(0, 1, (9, 4))) is None
    assert plane(agents[0], np.zeros((0, 2))) is None
    two = plane(agents[0], np.array([[0.0, 0.0], [10.0, 5.0]]))
    assert (two.low, two.high, two.q.shape) == ((0, 0), (10, 5), (explain.GRID, explain.GRID))
    assert two.seen.sum() == 8  # each of the two corners and its neighbours
    assert two.seen[:2, :2].all()
    assert two.seen[-2:, -2:].all()


def test_numbers_are_written_with_four_digits():
    shown = [figure(x) for x in (1234.56, -12.3456, 0.012345, 6e-8, 0.0)]
    assert shown == ["1,235", f"{MINUS}12.35", "0.01235", f"6e{MINUS}08", "0"]
    assert [signed(x) for x in (1.5, -1.5, 0.0)] == ["+1.5", f"{MINUS}1.5", "0"]


# ---- A run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run in an environment of one's own."""
    folder = tmp_path_factory.mktemp("explain") / "run"
    t3d.train(ENV, out=folder, video=False, quiet=True, normalize_obs=True, **SMALL)
    return folder


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def made(run, **options):
    given = {"at": None, "batch": 0, "env": EnvSpec(ENV), "frames": 5} | options
    return explanation.gather(run, *given.values())


@pytest.fixture(autouse=True)
def no_film(monkeypatch):
    """Filming takes seconds: test_explain_page.py does it."""
    monkeypatch.setattr(explanation, "_film", lambda *_: (None, ""))


def test_nothing_changes_but_the_page_which_is_the_same_each_time(trained, capsys):
    before = contents(trained)
    assert command(["explain", str(trained), "--env", ENV]) == 0
    assert capsys.readouterr().out == f"{trained / 'explain.html'}\n"
    after = contents(trained)
    page = after.pop(trained / "explain.html").decode()
    assert after == before
    shutil.copy(trained / "explain.html", trained.parent / "first.html")
    api.explain_run(trained, env=EnvSpec(ENV), out=trained.parent / "again.html")
    assert (trained.parent / "again.html").read_text("utf-8") == page
    (trained / "explain.html").unlink()
    assert render(made(trained, batch=1)) != page


def test_the_snapshot_is_the_run(trained):
    snapshot = open_run(trained)
    session = api.resume(trained, env=EnvSpec(ENV))
    with closing(session.run()):
        trainer = session.trainer
        own = snapshot.agent.tensors()
        assert all(torch.equal(tensor, own[name]) for name, tensor in trainer.agent.tensors().items())
        assert snapshot.agent.updates == trainer.agent.updates == 40
        assert len(snapshot.replay) == len(trainer.replay) == 60
        assert np.array_equal(snapshot.replay._slots, trainer.replay._slots)
        obs = trainer.envs.obs
        assert np.array_equal(snapshot.agent.act(snapshot.seen(obs)), trainer.learner.act(obs))
    session.close()
    info, tensors = read(trained / "policy" / "last.safetensors")
    assert snapshot.policy[0] == structs.replace(info, return_mean=None)
    assert all(np.array_equal(array, snapshot.policy[1][name]) for name, array in tensors.items())
    assert len(snapshot.held) == snapshot.replay.written[0]


def test_a_live_run_is_explained_at_its_newest_checkpoint_or_the_one_before(tmp_path):
    session = Session(EnvSpec(ENV), t3d_choice(), tmp_path / "run")
    with closing(session.run()) as rows:
        for row in rows:
            if row["env_steps"] >= 60:
                break
        found = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
        assert len(found) == 2
        for at, expected in ((None, found[1]), (found[0], found[0])):
            explained = made(tmp_path / "run", at=at)
            assert explained.env_steps == expected
            assert explained.notes == ()
        with pytest.raises(RunRefused, match=f"expected: {found[0]} or {found[1]} env steps"):
            made(tmp_path / "run", at=7)


def t3d_choice():
    return choice(**SMALL | {"eval_every": 20})


def test_one_without_its_replay_or_environment_is_explained_without_and_says_so(trained, tmp_path, capsys):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    shutil.rmtree(run / "replay")
    explained = made(run, env=None)
    assert (explained.update, explained.judged, explained.held) == (None, None, 0)
    lost, gone, own_code = explained.notes
    assert "slots of the replay memory are lost" in lost
    assert gone == "Its replay memory is gone, so there is no batch to take through the steps."
    assert own_code.startswith("No episode was played: this run's environment is your own code")
    assert "add --env" in own_code
    page = render(explained)
    for text in (*explained.notes, *(listing.step(number)[1] for number in range(4, 16))):
        assert html.escape(text) in page.replace("&#39;", "&#x27;").replace("&#34;", "&quot;")
    assert "Three transitions" not in page
    with pytest.raises(RunRefused, match="was trained in another environment"):
        made(run, env=EnvSpec(PROBE))


def test_code_and_numbers_on_the_page_are_the_sources_and_the_batchs(trained):
    explained = made(trained)
    page = html.unescape(render(explained))
    source = Path(t3d.__file__).parent
    for number in range(4, 16):
        file, code = listing.step(number)
        assert code in page
        lines = [line.strip() for line in code.splitlines()]
        assert all(line in (source / file).read_text("utf-8") for line in lines)
        assert f'<section class="step" id="step-{number}">' in page
    assert page.count("<math display") == 12
    second = explained.followed[1].row
    update = explained.update
    # A student can answer from the page: which critic was taken for 2, and by how much smoothing changed its target.
    cells = {
        name: re.findall(r"data-follow=\"(\d)\">(.*?)</td>", rest)
        for name, rest in re.findall(r"<tr><th>(.*?)</th>(.*?)</tr>", page)
    }
    taken = "Q1" if update.next_q1[second] < update.next_q2[second] else "Q2"
    assert cells["taken"][1] == ("1", taken)
    changed = float(update.target_q[second] - update.target_q_unsmoothed[second])
    assert cells["target changed by"][1] == ("1", signed(changed))


def test_a_run_before_its_first_update_is_explained_and_called_untrained(tmp_path):
    with t3d.iterate(ENV, out=tmp_path / "run", **SMALL | {"n_envs": 2, "random_steps": 50}) as rows:
        next(row for row in rows if row["env_steps"] >= 20)
    explained = made(tmp_path / "run")
    assert explained.updates == 0
    assert explained.notes == ("It is untrained: no update has been made yet, and its networks know nothing.",)
    assert "and 0 updates" in render(explained)
    assert len(explained.judged.reward) == 20


def test_what_cannot_be_explained_is_refused(trained, tmp_path):
    for options, message in (({"batch": -1}, "batch = -1"), ({"video_frames": 0}, "video_frames")):
        with pytest.raises(ConfigRefused, match=message):
            api.explain_run(trained, **options)
    with pytest.raises(RunRefused, match="this is not a run folder"):
        made(tmp_path)
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "policy" / "last.safetensors").unlink()
    with pytest.raises(RunRefused, match="there is nothing to explain yet"):
        made(run)
    t3d.train(ENV, out=tmp_path / "other", video=False, quiet=True, **SMALL)
    shutil.copy(tmp_path / "other" / "policy" / "last.safetensors", run / "policy")
    with pytest.raises(RunRefused, match="another run's"):
        made(run)


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken_only_where_it_is_asked_for(trained, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    newest, before = sorted((run / "checkpoints").iterdir(), key=lambda path: -int(path.name))
    state = bytearray((newest / "state.safetensors").read_bytes())
    state[-1] ^= 1
    (newest / "state.safetensors").write_bytes(state)
    with pytest.raises(RunRefused, match="a checkpoint is damaged"):
        made(run)
    assert made(run, at=int(before.name)).env_steps == int(before.name)
    (newest / "manifest.json").write_text("{}")
    (note, *_) = made(run).notes
    assert note.startswith("A checkpoint cannot be used: ")


def test_an_environment_that_fails_leaves_the_batch(trained, monkeypatch):
    def fail(*_):
        raise EnvFailed("the environment raised", got="the server is gone", do="see to it")

    monkeypatch.setattr(explanation.evaluation, "play", fail)
    explained = made(trained)
    assert explained.update is not None
    assert explained.judged is None
    assert explained.notes == ("No episode was played: the environment raised: the server is gone; see to it.",)
