"""--pixels: what an environment draws in the place of what it observes."""

import gc
import json
import logging
import os
import subprocess
from pathlib import Path

import drawn_envs
import msgspec
import numpy as np
import pytest
from PIL import Image

import t3d
from t3d.cli.environment import EnvArguments
from t3d.cli.main import run as command
from t3d.config import Config
from t3d.env_spec import EnvSpec, View, spec_of
from t3d.environments import in_process, pixels, renderer
from t3d.environments.check_pixels import look
from t3d.environments.make import make
from t3d.errors import ConfigRefused, EnvFailed, EnvRefused
from t3d.execution.jobs import job_of
from t3d.formats import RunRecord, run_id
from t3d.presets import Choice
from t3d.runs.video import rendered

DRAWN = str(Path(__file__).with_name("drawn_envs.py"))
GOLDEN = Path(__file__).with_name("data") / "golden-3" / "finished"
CHEETAH, POLE = EnvSpec("HalfCheetah-v5", pixels=True), EnvSpec("InvertedPendulum-v5", pixels=True)


def drawn(name, **options):
    return EnvSpec(f"{DRAWN}:{name}", pixels=True, **options)


def played(spec, steps, seed=3):
    """Return an instance, its first and its later pictures, and of each state what MuJoCo's physics depends on."""
    env = make(spec)
    env.action_space.seed(0)
    seen = [env.reset(seed=seed)[0]]
    data = env.unwrapped.data
    states = [np.concatenate([data.qpos, data.qvel, data.qacc_warmstart])]
    for _ in range(steps):
        obs, reward, *_ = env.step(env.action_space.sample())
        seen.append(obs)
        states.append(np.concatenate([data.qpos, data.qvel, data.qacc_warmstart, [reward]]))
    return env, seen, np.concatenate(states)


@pytest.fixture(scope="module")
def cheetah():
    env, seen, states = played(CHEETAH, 200)
    yield env, seen, states
    env.close()


def test_the_physics_of_a_model_that_is_drawn_are_bit_for_bit_the_same(cheetah):
    _, seen, states = cheetah
    plain, _, as_ever = played(EnvSpec("HalfCheetah-v5"), 200)
    assert states.tobytes() == as_ever.tobytes()
    drawn_model, model = cheetah[0].unwrapped.model, plain.unwrapped.model
    assert drawn_model.vis.quality.offsamples == model.vis.quality.offsamples == 4
    assert len({picture.tobytes() for picture in seen}) == 201


def test_an_observation_is_a_picture(cheetah):
    env, seen, _ = cheetah
    assert env.observation_space.shape == (64, 64, 3)
    assert (env.observation_space.low.min(), env.observation_space.high.max()) == (0, 255)
    assert all(env.observation_space.contains(picture) for picture in seen)
    assert (seen[0][:10] == 0).all(), "no skybox"
    assert seen[0].std() > 30
    assert env.get_wrapper_attr("problem_of")(seen[0]) == ""
    small = make(EnvSpec("InvertedPendulum-v5", pixels=True, view=View(frame_size=20)))
    assert small.reset(seed=0)[0].shape == small.observation_space.shape == (20, 20, 3)
    small.close()


def test_another_instance_draws_the_same_also_after_other_episodes():
    one, seen, _ = played(POLE, 8)
    other = make(POLE)
    for seed in range(3):
        other.reset(seed=seed)
        other.step(other.action_space.high)
    other.action_space.seed(0)
    again = [other.reset(seed=3)[0]] + [other.step(other.action_space.sample())[0] for _ in range(8)]
    assert np.array_equal(again, seen)
    one.close()  # what it drew with is not the other one's
    assert np.array_equal(other.reset(seed=3)[0], seen[0])
    other.close()


def test_films_draw_the_same_instance_large_and_change_nothing(cheetah):
    env = make(POLE, render=True)
    first = env.reset(seed=3)[0]
    large = rendered(env)
    assert large.shape == (360, 480, 3)
    after = env.step(env.action_space.high)[0]
    assert not np.array_equal(large, rendered(env))
    assert np.array_equal(first, env.reset(seed=3)[0])
    assert np.array_equal(large, rendered(env))
    assert np.array_equal(after, env.step(env.action_space.high)[0])
    env.close()
    draw = cheetah[0].get_wrapper_attr("picture")
    assert np.array_equal(draw(), cheetah[1][-1]), "others draw on"
    del env  # what Gymnasium has drawn with may not take the buffers of others with it
    gc.collect()
    assert np.array_equal(draw(), cheetah[1][-1])


def test_a_camera_can_be_taken(cheetah):
    free = make(EnvSpec("HalfCheetah-v5", {"camera_id": -1}, pixels=True))
    assert not np.array_equal(free.reset(seed=3)[0], cheetah[1][0])
    free.close()
    far, near = (
        make(EnvSpec(POLE.name, kwargs, pixels=True)).reset(seed=0)[0]
        for kwargs in ({}, {"default_camera_config": {"distance": 1.02, "lookat": [0, 0, 0.2]}})
    )
    assert (near > 0).sum() > 2 * (far > 0).sum()
    with pytest.raises(EnvRefused, match=r"no such camera(.|\n)*camera_id 7(.|\n)*it has none"):
        make(EnvSpec(POLE.name, {"camera_id": 7}, pixels=True))


def test_mujoco_is_known_by_what_an_instance_holds():
    env = make(drawn("Ball"))
    first, _ = env.reset(seed=0)
    assert first.shape == (64, 64, 3)
    assert env.get_wrapper_attr("drawn_by").startswith(os.environ["MUJOCO_GL"])

    def red_at(picture):
        red = picture[:, :, 0].astype(int) - picture[:, :, 2] > 60
        return np.flatnonzero(red.any(axis=0)).mean()

    assert abs(red_at(first) - 31.5) < 3, "the camera that tracks it"
    for _ in range(10):
        seen = env.step(np.ones(1, np.float32))[0]
    assert env.unwrapped.data.qpos[0] > 1
    assert abs(red_at(seen) - 31.5) < 3
    second, _ = env.reset(seed=0)  # of another model, whose floor is of another blue
    assert second[-1, :, 2].mean() > first[-1, :, 2].mean() + 20
    env.close()


def test_whatever_else_renders_is_seen_as_it_renders():
    env = make(EnvSpec("Pendulum-v1", pixels=True))
    assert env.observation_space.shape == (500, 500, 3)
    obs, _ = env.reset(seed=1)
    assert np.array_equal(obs, env.render())
    assert env.get_wrapper_attr("drawn_by") == "its own render"
    env.close()
    env = make(drawn("Reuses"))
    first, _ = env.reset(seed=0)
    assert env.step(env.action_space.low)[0].max() == 1
    assert first.max() == 0, "a copy"


def test_wrappers_of_the_user_stand_around_the_picture():
    env = make(drawn("Reuses", wrappers=(f"{__name__}:Negative",)))
    assert env.reset(seed=0)[0].min() == 255


def Negative(env):
    from gymnasium.wrappers import TransformObservation

    return TransformObservation(env, lambda obs: 255 - obs, env.observation_space)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Floats", r"draws no picture(.|\n)*float64, shape \(20, 20, 3\)"),
        ("Flat", r"draws no picture(.|\n)*uint8, shape \(20, 20\)"),
        ("Silent", r"draws no picture(.|\n)*NoneType(.|\n)*let what makes it take render_mode"),
        ("Blind", "has no render"),
        ("Broken", "RuntimeError: no paint"),
        ("Robot", "this one is a physical device"),
    ],
)
def test_what_draws_no_picture_is_refused_before_it_begins(name, said):
    with pytest.raises(EnvRefused, match=said):
        make(drawn(name))


def test_what_is_called_hardware_is_not_reset_to_see_how_it_looks():
    for options in ({}, {"seeds": 2}):
        with pytest.raises(ConfigRefused, match="one physical device is not drawn"):
            t3d.train(f"{DRAWN}:Noisy", pixels=True, hardware=True, **options)


def test_a_picture_whose_size_changes_ends_the_run():
    env = make(drawn("Grows"))
    env.reset(seed=0)
    for _ in range(3):
        env.step(env.action_space.low)
    with pytest.raises(EnvFailed, match=r"another size(.|\n)*\(22, 20, 3\)(.|\n)*\(20, 20, 3\)") as raised:
        env.step(env.action_space.low)
    # It says so itself, so a run does not say that the environment raised it.
    assert in_process._raised(raised.value, 0, "step").failed is raised.value


def test_a_picture_that_shows_nothing_is_said_once(caplog):
    pixels._warn.cache_clear()
    with caplog.at_level(logging.WARNING, "t3d"):
        for _ in range(2):
            env = make(POLE)
            env.reset(seed=0)
            env.reset(seed=1)
            env.close()
        make(drawn("Still")).reset(seed=0)
    pole, still = caplog.messages
    assert "InvertedPendulum-v5 from pixels: the picture is nearly black" in pole
    assert "--env-arg 'default_camera_config={\"distance\": 1.02}'" in pole
    assert "is of one colour; see its render" in still


def test_what_can_draw_is_tried_once_and_handed_down(monkeypatch):
    make(POLE).close()
    tried = os.environ["T3D_MUJOCO_GL_TRIED"]
    assert tried.partition(", ")[0] == os.environ["MUJOCO_GL"]
    assert tried.partition(", ")[2], "the driver's name"
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", None)
        assert renderer.choose() == tried
        patch.delenv("MUJOCO_GL")
        patch.delenv("T3D_MUJOCO_GL_TRIED")
        renderer.hand_down("its own render")
        assert "MUJOCO_GL" not in os.environ
        renderer.hand_down(tried)  # as a worker said
        assert renderer.choose() == tried


def test_where_nothing_can_draw_it_is_said_what_was_tried(monkeypatch):
    monkeypatch.delenv("T3D_MUJOCO_GL_TRIED", raising=False)
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    with pytest.raises(EnvRefused, match=r"MUJOCO_GL=nonsense: not one of egl, osmesa(.|\n)*unset MUJOCO_GL"):
        make(POLE)
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setattr(renderer, "_TRIAL", "import os; os.abort()")  # as a driver does
    with pytest.raises(EnvRefused, match=r"egl: exit code -6; MUJOCO_GL=osmesa: exit(.|\n)*apt-get install libegl1"):
        make(POLE)
    assert "MUJOCO_GL" not in os.environ


def test_pixels_are_part_of_which_environment_it_is():
    plain, seen = EnvSpec("Pendulum-v1"), EnvSpec("Pendulum-v1", pixels=True)
    assert seen.title == "Pendulum-v1 from pixels"
    assert EnvSpec("A-v0", {"g": 1}, ("m:W",), pixels=True).title == "A-v0(g=1) from pixels in m:W"
    assert (plain.folder, seen.folder) == ("Pendulum-v1", "Pendulum-v1-pixels")
    assert plain.identity != seen.identity
    assert run_id(plain, "TD3", Config()) != run_id(seen, "TD3", Config())
    assert seen.is_registered, "drawing it needs no code of anybody's"
    assert (plain.is_plain, seen.is_plain) == (True, False)
    assert seen.flags == ["--pixels"]
    assert EnvSpec.from_json(json.loads(json.dumps(seen.as_json()))) == seen != plain
    assert EnvArguments(pixels=True).spec("Pendulum-v1") == spec_of("Pendulum-v1", pixels=True) == seen
    assert spec_of(drawn_envs.Still, pixels=True).pixels
    job = job_of(seen, Choice("td3", Config(), "as asked"), 0, Path("s0"))
    assert EnvSpec.from_json(job.env) == seen


def test_a_record_says_it_and_nobody_can_say_otherwise():
    said = json.loads((GOLDEN / "config.json").read_text())
    record = {name: value for name, value in said.items() if name in RunRecord.__struct_fields__}
    assert (record["pixels"], record["drawn_by"]) == (False, "")
    msgspec.convert(record, RunRecord)
    with pytest.raises(msgspec.ValidationError, match="says of itself"):
        msgspec.convert(record | {"pixels": True}, RunRecord)
    config = msgspec.convert(record["config"], Config)
    seen = record | {"pixels": True, "run": run_id(EnvSpec(record["env"], pixels=True), "TD3", config)}
    assert msgspec.convert(seen, RunRecord).spec.pixels


def test_check_looks_at_the_picture():
    drawing, changes, repeats = look(drawn("Noisy")).findings
    assert drawing.text.startswith("20 x 20, ")
    assert "ms of CPU each, drawn by its own render" in drawing.text
    assert (drawing.verdict, changes.verdict, repeats.verdict) == ("ok", "ok", "look")
    assert "draw otherwise at step 0: 400 of 400 pixels" in repeats.text
    assert "not_exact" in repeats.text
    drawing, changes, repeats = look(drawn("Still")).findings
    assert (drawing.verdict, changes.verdict, repeats.verdict) == ("look", "look", "ok")
    assert "with none of 30 random steps" in changes.text
    assert [finding.verdict for finding in look(POLE).findings] == ["look", "ok", "ok"]


def test_check_writes_a_frame_to_look_at(tmp_path, capsys):
    file = tmp_path / "frame.png"
    noisy = ["check", f"{DRAWN}:Noisy", "--pixels", "--steps", "5", "--frame", str(file)]
    assert command(noisy) == 2
    assert "lower --frame-size to 20" in capsys.readouterr().err
    assert not file.exists()
    assert command([*noisy, "--frame-size", "16", "--frame-stack", "2"]) == 0
    assert f"frame in {file}" in capsys.readouterr().err
    sheet = np.array(Image.open(file))
    assert sheet.shape == (
        192 + 2 * 12,
        12 + 3 * (192 + 12),
        3,
    )  # the picture, and two frames
    frames = [sheet[12:204, left : left + 192] for left in (216, 420)]
    assert all((frame == frame[:, :, :1]).all() for frame in frames), "grey, as it is learned from"
    assert all(np.array_equal(frame[::12, ::12].repeat(12, 0).repeat(12, 1), frame) for frame in frames), "16 pixels"
    assert not np.array_equal(*frames)
    for flags in (["--frame", str(file)], ["--pixels", "--frame", "a.jpg"], ["--pixels", "--frame", "no/a.png"]):
        assert command(["check", f"{DRAWN}:Noisy", *flags]) == 2
        assert "frame" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "env",
    ["HopperBulletEnv-v0", "Ant-v5", "Humanoid-v5", "CarRacing-v3", "LunarLanderContinuous-v3", "BipedalWalker-v3"],
)
def test_every_suite_is_drawn_alike_by_two_instances(env):
    findings = look(EnvSpec(env, pixels=True)).findings
    assert {finding.verdict for finding in findings} == {"ok"}, findings
