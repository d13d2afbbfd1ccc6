"""Learning from pictures: what teaches the encoder, that runs come back to the bit, and that policies see frames."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import picture_envs
import pytest
import small_runs
import torch
from PIL import Image

import t3d
from t3d.api import plan_seeds
from t3d.config import Config
from t3d.diagnosis.explain import through_the_steps
from t3d.engines.choose import multiply_adds
from t3d.env_spec import EnvSpec, View
from t3d.environments.envs import Envs
from t3d.environments.make import spaces_in
from t3d.errors import ConfigRefused, EnvFailed, EnvRefused
from t3d.frames import FEATURES, encoder_multiply_adds, seen_in_episode
from t3d.presets import Choice
from t3d.replay import Batch
from t3d.reports import explain
from t3d.reports.page import gather, render
from t3d.runs import explanation
from t3d.runs.exports import export_policy
from t3d.runs.session import Session
from t3d.spaces import Spaces
from t3d.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

HERE = Path(picture_envs.__file__).resolve()
CAMERA = EnvSpec(f"{HERE}:Camera")
OPTIONS = {
    "frame_size": 16,
    "batch_size": 32,
    "hidden": (32, 32),
    "buffer_size": 2_000,
    "random_steps": 300,
    "lr": 1e-3,
}


def trainer(name, steps=0, **options):
    made = Trainer(EnvSpec(f"{HERE}:{name}"), Config().with_values({**OPTIONS, **options}))
    while made.env_steps < steps:
        made.step()
    return made


def mean_reward(made):
    """Return the mean reward of a step without noise, over some episodes."""
    envs = Envs(made.envs.spec.looked_at(made.config.view), 1, lambda i, k: 1_000 + k, fresh=False)
    rewards = []
    for _ in range(20):
        while True:
            step = envs.step(made.agent.act(envs.seen))
            rewards.append(float(step.reward[0]))
            if step.episodes:
                envs.reset(np.ones(1, bool))
                break
    return np.mean(rewards)


# ---- What is learned


def test_a_probe_the_action_that_a_bar_shows():
    # Standing in the middle costs 0.39 a step, actions at random 0.7.
    assert mean_reward(trainer("Bar", 800)) > -0.04


def test_a_probe_a_velocity_that_one_frame_does_not_show():
    # Who does not see the velocity gives 0 and gets -0.51 a step.
    assert mean_reward(trainer("Moving", 1_100)) > -0.06


@pytest.mark.slow  # half a minute: two trainings that must fail
def test_the_probes_fail_without_the_encoders_gradient_and_with_a_stack_of_one(monkeypatch):
    assert mean_reward(trainer("Moving", 1_100, frame_stack=1)) < -0.3

    def blind(self, batch):
        seen = t3d.TD3.seen(self, batch)
        return seen._replace(obs=seen.obs.detach())

    class Blind(t3d.TD3):
        seen = blind

    made = Trainer(EnvSpec(f"{HERE}:Moving"), Config().with_values(OPTIONS), Blind)
    while made.env_steps < 1_100:
        made.step()
    assert mean_reward(made) < -0.12


def test_the_critics_loss_alone_moves_the_encoder():
    made = trainer("Bar")
    agent, rng = made.agent, np.random.default_rng(0)
    while len(made.replay) < 40:
        made.step()
    batch = made.replay.sample(made.replay.draw(rng, 32), 0.99)
    seen = agent.seen(type(batch)(*map(torch.as_tensor, batch)))
    noise = torch.zeros(32, 1)
    agent.update_critic(seen, agent.target_q(seen, noise))
    gradients = [weight.grad for weight in agent.frame_encoder.parameters()]
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)
    agent.critic_optimizer.zero_grad()
    before = {name: weight.clone() for name, weight in agent.frame_encoder.state_dict().items()}
    agent.update_actor(agent.without_encoder(seen))
    assert all(weight.grad is None for weight in agent.frame_encoder.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in agent.frame_encoder.state_dict().items())


def test_the_actor_target_sees_through_the_encoder_target_which_follows():
    made = trainer("Bar", 40, random_steps=10, policy_delay=1, tau=0.25)
    agent = made.agent
    batch = made.replay.sample(made.replay.draw(np.random.default_rng(0), 8), 0.99)
    batch = type(batch)(*map(torch.as_tensor, batch))
    with torch.no_grad():
        assert torch.equal(agent.seen(batch).next_obs, agent.frame_encoder_target(batch.next_obs))
        assert not torch.equal(agent.seen(batch).next_obs, agent.frame_encoder(batch.next_obs))
    slow = [weight.clone() for weight in agent.frame_encoder_target.parameters()]
    agent.update_targets()
    pairs = zip(slow, agent.frame_encoder.parameters(), agent.frame_encoder_target.parameters(), strict=True)
    assert all(torch.allclose(now, before.lerp(fast, 0.25)) for before, fast, now in pairs)


def test_s_and_its_next_are_shifted_anew_and_all_frames_of_a_stack_alike():
    made = trainer("Bar", 100, random_steps=100, frame_stack=2)
    index = np.zeros(4, int)  # the first transition of all: both frames of s are the same
    by = np.array([[[0, 0], [1, 1], [-1, 0], [0, 1]], [[0, 0], [0, 0], [1, -1], [0, -1]]])
    plain, moved = made.replay.sample(index, 0.99), made.replay.sample(index, 0.99, by)
    frames, shown = plain.obs.reshape(4, 2, 16, 16), moved.obs.reshape(4, 2, 16, 16)
    assert np.array_equal(shown[:, 0], shown[:, 1])
    assert np.array_equal(shown[0], frames[0])
    assert np.array_equal(shown[1][:, 1:, 1:], frames[1][:, :-1, :-1])
    assert np.array_equal(moved.next_obs[1], plain.next_obs[1]) and not np.array_equal(moved.obs[1], plain.obs[1])


# ---- Where nothing may be lost


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_was_cut_goes_on_to_the_bit(tmp_path, workers):
    options = {"frame_size": 16, "steps": 70, "env_workers": workers, "eval_every": 30, "normalize_obs": True}
    whole = small_runs.train(tmp_path / "whole", CAMERA.name, **options)
    cut = small_runs.train(tmp_path / "cut", CAMERA.name, until=47, **options)
    assert 0 < cut.trainer.env_steps < 70
    again = small_runs.train(tmp_path / "cut", CAMERA.name, resume=True, **options)
    assert again.resumed_at == cut.trainer.env_steps
    assert small_runs.digest(again.trainer, again.progress) == small_runs.digest(whole.trainer, whole.progress)


def test_frames_behind_a_hole_in_the_memory_on_disk_are_not_learned_from(tmp_path):
    options = {"frame_size": 16, "steps": 60, "n_envs": 1, "buffer_size": 200, "checkpoint_every": 10}
    cut = small_runs.train(tmp_path / "run", f"{HERE}:Bar", until=47, **options)
    length, slot = cut.trainer.replay._length, cut.trainer.replay.slot.itemsize
    (segment,) = (tmp_path / "run" / "replay").iterdir()
    content = bytearray(segment.read_bytes())
    where = len(content) // 2
    content[where : where + slot] = bytes(slot)
    segment.write_bytes(content)
    again = Session(EnvSpec(f"{HERE}:Bar"), small_runs.choice(**options), tmp_path / "run", resume=True)
    replay = again.trainer.replay
    drawn = replay.draw(np.random.default_rng(0), 500)
    frames = replay.sample(drawn, 0.99).obs.reshape(500, 3, -1)
    assert (frames.max(axis=2) == 255).all()  # a bar in each: none is a hole
    assert len(replay) < len(cut.trainer.replay) and length == 200
    again._store.close()


def test_seeds_and_grids_look_at_their_environment_as_their_options_say(tmp_path):
    env, config = EnvSpec(f"{HERE}:Bar"), Config().with_values(OPTIONS)
    _, jobs = plan_seeds(env, Choice("images", config, "as asked"), 2, 1, tmp_path / "seeds")
    assert [job.env["view"] for job in jobs] == [vars(config.view)] * 2
    large = OPTIONS | {"buffer_size": 10**9}
    with pytest.raises(ConfigRefused, match="the replay memory would not fit"):
        plan_seeds(env, Choice("images", Config().with_values(large), "as asked"), 2, 1, tmp_path / "seeds")


def test_an_updates_cost_is_that_of_the_encoder_and_of_what_sees_its_features():
    made = trainer("Bar")
    # Two convolutions, from three frames to 32 pictures of 7x7 and of 5x5, and what makes 50 features of those.
    assert encoder_multiply_adds(made.agent.spaces) == 3 * 16 * 32 * 49 + 32 * 9 * 32 * 25 + 32 * 25 * FEATURES
    vectors = Spaces.of_vectors(FEATURES, 1)
    cost = multiply_adds(made.agent.spaces, made.config)
    assert cost == multiply_adds(vectors, made.config) + 4 * 32 * encoder_multiply_adds(made.agent.spaces)


# ---- A policy


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the camera beside joints, and its last policy."""
    folder = tmp_path_factory.mktemp("pictures") / "run"
    options = {"frame_size": 16, "frame_color": "rgb", "steps": 60, "eval_every": 60, "normalize_obs": True}
    return small_runs.train(folder, CAMERA.name, **options)


def episode(session, steps=5):
    """Return an episode as the environment gives it, and as it is kept."""
    env = picture_envs.Camera(steps)
    first, _ = env.reset(seed=3)
    shown = [first, *(env.step(np.zeros(1))[0] for _ in range(steps - 1))]
    envs = Envs(CAMERA.looked_at(session.config.view), 1, lambda i, k: 3, fresh=False)
    kept = np.stack([envs._envs._obs(obs) for obs in shown])
    return shown, seen_in_episode(envs.spaces, kept)


def test_a_policy_plays_what_its_agent_does_and_needs_no_pytorch(run):
    policy = t3d.load(run.path / "policy" / "last.safetensors")
    _, seen = episode(run)
    expected = run.trainer.learner.act(seen)
    assert np.allclose(policy.act(seen), expected, atol=1e-5)
    assert policy.info.architecture == "cnn" and policy.info.spaces.view == View(16, "rgb", 3)


def test_a_player_takes_the_cameras_own_frames(run):
    policy = t3d.load(run.path / "policy" / "last.safetensors")
    shown, seen = episode(run)
    expected = policy.of_flat(seen)
    player = policy.player()
    assert np.array_equal([player(obs) for obs in shown], expected)
    player.reset()
    assert np.array_equal(player(shown[0]), expected[0])
    stacked = {"camera": np.stack([obs["camera"] for obs in shown[:3]]), "joints": shown[2]["joints"]}
    assert np.array_equal(policy(stacked), expected[2])
    both = {name: np.stack([part, part]) for name, part in stacked.items()}
    assert np.array_equal(policy(both), [expected[2], expected[2]])


def test_predict_carries_the_stack_and_begins_anew_where_an_episode_does(run):
    policy = t3d.load(run.path / "policy" / "last.safetensors")
    shown, seen = episode(run)
    expected, state = policy.of_flat(seen), None
    two = [{name: np.stack([part, part]) for name, part in obs.items()} for obs in shown]
    for k, obs in enumerate(two):
        starts = np.array([k == 0, k in (0, 3)])
        action, state = policy.predict(obs, state, starts)
        assert np.array_equal(action[0], expected[k])
        assert np.array_equal(action[1], expected[k]) == (k < 3 or k > 4)
    alone, _ = policy.predict(two[3])
    assert np.array_equal(alone[1], action_after(policy, two[3]))


def action_after(policy, obs):
    player = policy.player()
    return player(obs)[1]


def test_one_frame_where_several_are_seen_is_refused_and_named(run):
    policy = t3d.load(run.path / "policy" / "last.safetensors")
    shown, _ = episode(run)
    with pytest.raises(ValueError, match="that is one frame, and it sees 3 at once"):
        policy(shown[0])
    with pytest.raises(ValueError, match="an image of uint8"):
        policy.player()({**shown[0], "camera": shown[0]["camera"] / 255})


def test_what_is_seen_is_a_picture_in_the_folder_and_on_the_page(run):
    picture = run.path / "video" / "seen.png"
    content = picture.read_bytes()
    with Image.open(picture) as image:
        width, height = image.size
    assert (width, height) == (12 + 160 + 12 + 3 * (192 + 12), 192 + 2 * 12)  # 20 by 24 pixels raw, three frames
    page = render(gather([run.path]))
    assert base64.b64encode(content).decode() in page
    picture.write_bytes(b"not a PNG" + content)
    try:
        assert "it is no PNG" in render(gather([run.path]))
    finally:
        picture.write_bytes(content)


def test_a_policy_of_images_is_exported_as_a_model_that_takes_frames(run, tmp_path):
    policy = run.path / "policy" / "last.safetensors"
    exported = export_policy(policy, "onnx", out=tmp_path / "onnx")
    assert exported.checked.worst < 1e-5
    contract = json.loads((tmp_path / "onnx" / "contract.json").read_text())
    assert [(part["name"], part["shape"]) for part in contract["inputs"]] == [("frames", [9, 16, 16]), ("joints", [2])]
    assert contract["frames"]["frame_stack"] == 3
    with pytest.raises(ConfigRefused, match="of policies of vectors"):
        export_policy(policy, "c", out=tmp_path / "c")


# ---- What is refused


def box(shape, dtype=np.uint8, low=0, high=255):
    class Other(picture_envs.Bar):
        observation_space = picture_envs.Box(low, high, shape, dtype)

        def picture(self):
            return np.zeros(shape, dtype)

    return EnvSpec("<other>", maker=Other)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (box((64, 64, 3), np.float32, 0, 1), "floats that look like a picture"),
        (box((64, 64)), "a picture without channels"),
        (box((3, 3, 3)), "channels may be first or last"),
        (box((64, 64, 4)), "stacked already"),
        (box((4, 84, 84)), "take the wrapper off that stacks them"),
        (box((3, 84, 84, 3)), "a stack of pictures"),
        (box((64, 64, 3), np.uint8, 0, 1), "bytes that are no picture's"),
        (box((40, 80, 3)), "lower --frame-size to 40"),
        (box((8, 80, 3)), "let it draw a larger picture"),
    ],
)
def test_what_only_looks_like_a_picture_is_refused(spec, said):
    with pytest.raises(EnvRefused, match=said):
        spaces_in(spec)


def test_bytes_in_a_row_are_a_vector():
    assert spaces_in(box((7,))).view is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"algorithm": "td7", "train_at": "episode"}, "no encoder feeds them"),
        ({"engine": "fused"}, "convolutions are PyTorch's own"),
        ({"normalize_obs": True}, "no vectors beside the images"),
    ],
)
def test_options_that_mean_nothing_with_images_are_refused(options, said):
    with pytest.raises(ConfigRefused, match=said):
        trainer("Bar", **options)


def test_a_picture_of_another_size_or_kind_ends_the_run(tmp_path):
    class Grows(picture_envs.Bar):
        def picture(self):
            side = 16 + (self.steps > 1)
            return np.zeros((side, side, 1), np.uint8)

    envs = Envs(EnvSpec("<grows>", maker=Grows, view=View(16)), 1, lambda i, k: k, fresh=False)
    envs.step(np.zeros((1, 1), np.float32))
    with pytest.raises(EnvFailed, match=r"an image of uint8 and shape \(16, 16, 1\)"):
        envs.step(np.zeros((1, 1), np.float32))


def test_explain_shows_what_is_seen(run):
    explained = explanation.gather(run.path, None, 0, EnvSpec(CAMERA.name), 2)
    assert any("It sees images" in note for note in explained.notes)
    assert explained.judged is not None
    assert base64.b64encode((run.path / "video" / "seen.png").read_bytes()).decode() in explain.render(explained)


def test_a_batch_of_images_is_explained_by_what_its_update_makes_of_it():
    made = trainer("Camera", 340)
    agent, rng = made.agent, np.random.default_rng(0)
    batch = made.replay.sample(made.replay.draw(rng, 32), 0.99)
    noise = rng.standard_normal((32, 1), np.float32)
    agent.updates += agent.updates % 2 == 0  # the actor has its turn
    told = through_the_steps(agent, batch, noise, np.arange(32), lambda obs: obs)
    tensors = Batch(*map(torch.from_numpy, batch))
    seen = agent.seen(tensors)
    with torch.no_grad():
        next_action = agent.actor_target(seen.next_obs)
        q1, _ = agent.critic(seen.obs, tensors.action)
    assert np.array_equal(told.target_q, agent.target_q(seen, torch.from_numpy(noise)).numpy())
    assert np.array_equal(told.next_action, next_action.numpy())
    assert np.array_equal(told.next_q, np.minimum(told.next_q1, told.next_q2))
    assert np.array_equal(told.q1, q1.numpy())
    info = agent.update(tensors, torch.from_numpy(noise))
    assert (told.critic_loss, told.actor_loss) == (float(info.critic_loss), float(info.actor_loss))
    with torch.no_grad():
        assert np.array_equal(told.q1_after, agent.critic_net()(tensors.obs, tensors.action)[0].numpy())


def test_frames_of_the_transitions_that_are_followed_stand_on_the_page(run):
    explained = explanation.gather(run.path, None, 0, EnvSpec(CAMERA.name), 2)
    page, update = explain.render(explained), explained.update
    assert len(explained.pictures) == 3
    for followed, of in zip(explained.followed, explained.pictures, strict=True):
        for picture, obs in zip(of, (update.obs, update.next_obs), strict=True):
            assert base64.b64encode(picture).decode() in page
            sheet = np.array(Image.open(io.BytesIO(picture)))
            # The middle of the newest frame's first pixel, in red: a frame of 16 pixels is 192 wide.
            at = 12 + 2 * (192 + 12) + 6
            assert sheet[12 + 6, at, 0] == obs[followed.row, 2 * 3 * 256]
