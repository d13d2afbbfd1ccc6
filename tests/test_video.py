"""Videos, decoded again; and machines where nothing can draw."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import odd_envs
import own_envs
import pytest
from film_here import films_here

import t3d
from t3d import api
from t3d.cli.main import run
from t3d.env_spec import EnvSpec, spec_of
from t3d.environments.make import spaces_in
from t3d.errors import VideoFailed
from t3d.execution import processes
from t3d.execution.jobs import train_run
from t3d.formats import MILESTONES
from t3d.reports.videos import nearest_the_median
from t3d.runs import policies
from t3d.runs import video as film

av = pytest.importorskip("av", reason="the extra `video` is not installed")

OWN = str(Path(__file__).with_name("own_envs.py"))
ILL = str(Path(__file__).with_name("ill_envs.py"))
SMALL = {"steps": 5, "random_steps": 3, "eval_episodes": 1, "hidden": (8, 8), "threads": 1}
FLAGS = ["--steps", "5", "--random-steps", "3", "--eval-episodes", "1", "--hidden", "8", "8", "--threads", "1"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    return tmp_path


@pytest.fixture
def drawn_here():
    with films_here():
        yield


@pytest.fixture
def trained_here(monkeypatch):
    """Let `--seeds` train in this process; tests/test_seeds.py has the processes."""

    def train_jobs(jobs, at_once, show, on):
        for job in jobs:
            train_run(job)
        ended = [processes.Child(job).look() for job in jobs]
        show(ended)
        return ended

    monkeypatch.setattr(api, "train_jobs", train_jobs)


def decoded(path):
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]), rate


SUITES = [
    ("Pendulum-v1", (480, 480), 30),
    pytest.param("HalfCheetah-v5", (360, 480), 20, marks=pytest.mark.slow),
    pytest.param("LunarLanderContinuous-v3", (320, 480), 50, marks=pytest.mark.slow),
    pytest.param("BipedalWalker-v3", (320, 480), 50, marks=pytest.mark.slow),
    pytest.param("HopperBulletEnv-v0", None, None, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("env", "size", "rate"), SUITES)
def test_every_suite_is_filmed_without_a_screen(env, size, rate, monkeypatch, folder):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr(policies, "_LEARNING_S", 600)  # a busy machine takes long to start the child that draws
    done = t3d.train(env, video_frames=5, **SMALL)
    assert done.video == done.path / "video" / "best.mp4", done.video_problem
    assert {path.stem for path in done.video.parent.iterdir()} == {"best", *MILESTONES}
    frames, fps = decoded(done.video)
    assert len(frames) == 5
    assert frames[0].std() > 5  # something is drawn
    if size:
        assert (frames.shape[1:3], fps) == (size, rate)
    assert not list(folder.rglob("MUJOCO_LOG.TXT"))


@pytest.mark.usefixtures("drawn_here")
def test_an_own_environment_is_filmed_to_the_end_of_its_episode(capsys):
    assert run(["train", f"{OWN}:Walk", *FLAGS]) == 0  # needs no --env: it was typed just now
    out = capsys.readouterr().out
    video = Path("runs/own_envs.Walk/td3-s0/video/best.mp4")
    assert f"video       {video}" in out
    frames, _ = decoded(video)
    assert frames.shape[:3] == (21, 64, 96)  # the first observation and 20 steps; odd sides lose a row
    widths = (frames[:, 32, :, 0] > 128).sum(axis=1)
    assert (np.diff(widths) >= 0).all()
    assert widths[-1] > widths[0] + 50
    # Later on it must be named again: nothing that is code is taken from a file.
    command = ["video", "runs/own_envs.Walk/td3-s0", "--policy", "last", "--video-frames", "2"]
    assert run(command) == 2
    assert "neither is taken from a file" in capsys.readouterr().err
    assert run([*command, "--env", f"{OWN}:Walk"]) == 0
    assert capsys.readouterr().out == "runs/own_envs.Walk/td3-s0/video/last.mp4\n"
    assert len(decoded("runs/own_envs.Walk/td3-s0/video/last.mp4")[0]) == 2


@pytest.mark.usefixtures("drawn_here")
def test_the_last_policy_is_filmed_too_where_it_is_another():
    options = SMALL | {"steps": 60, "eval_every": 30, "random_steps": 20, "batch_size": 8, "out": "run"}
    # All evaluations are equal, so the best policy is the first one.
    done = t3d.train(f"{ILL}:SameReward", video_frames=2, **options)
    best, last = (done.path / "video" / f"{which}.mp4" for which in ("best", "last"))
    assert (done.video, done.video_problem) == (best, None)
    assert len(decoded(best)[0]) == len(decoded(last)[0]) == 2
    last.unlink()
    there = best.read_bytes()
    t3d.train(f"{ILL}:SameReward", video_frames=3, resume="auto", **options)  # it has ended, and lacks a video
    assert best.read_bytes() == there
    assert len(decoded(last)[0]) == 3


@pytest.mark.usefixtures("drawn_here")
def test_where_the_best_policy_is_the_last_one_film_is_enough():
    done = t3d.train(f"{OWN}:Walk", video_frames=2, **SMALL)
    assert {path.stem for path in done.video.parent.iterdir()} == {"best", *MILESTONES}
    of_before = done.video.with_name("last.mp4")
    of_before.write_bytes(done.video.read_bytes())
    film_it = {"frames": 3, "env": EnvSpec(f"{OWN}:Walk")}
    assert api.film_policies(done.path, anew=False, **film_it) == (done.video, None)
    assert of_before.is_file()
    assert len(decoded(done.video)[0]) == 2
    assert api.film_policies(done.path, anew=True, **film_it) == (done.video, None)
    assert not of_before.is_file()
    assert len(decoded(done.video)[0]) == 3


def test_a_policy_that_cannot_be_read_is_no_failure_of_the_run():
    done = t3d.train(f"{OWN}:Walk", video=False, **SMALL)
    (done.path / "policy" / "last.safetensors").unlink()
    video, problem = api.film_policies(done.path, frames=2, env=EnvSpec(f"{OWN}:Walk"), anew=True)
    assert video is None
    assert "the policies cannot be filmed" in str(problem)
    assert "last.safetensors" in str(problem)


@pytest.mark.usefixtures("drawn_here", "trained_here")
def test_of_several_seeds_the_one_nearest_the_median_is_filmed(capsys, folder):
    flags = [*FLAGS, "--seeds", "3", "--jobs", "3", "--video-frames", "2", "--out", "all", "--seed", "2"]
    assert run(["train", f"{OWN}:Walk", *flags]) == 0
    out = capsys.readouterr().out
    finals = {}
    for seed in range(2, 5):
        lines = (folder / "all" / f"s{seed}" / "metrics.jsonl").read_text().splitlines()
        rows = [row for row in map(json.loads, lines) if row["kind"] == "evaluation"]
        finals[rows[-1]["return_mean"]] = seed
    middle = finals[sorted(finals)[1]]
    assert middle == 3, "not the first, nor the last"
    assert {path.parent for path in folder.rglob("*.mp4")} == {folder / "all" / f"s{middle}" / "video"}
    assert f"video       {Path('all') / f's{middle}' / 'video' / 'best.mp4'}" in out
    text = (folder / "all" / "report.html").read_text("utf-8")
    assert f"Seed {middle}, number 2 of 3 by final return: its best policy, which is its last one too," in text


@pytest.mark.parametrize(
    ("returns", "order"),
    [([5.0], [0]), ([2.0, 1.0], [1, 0]), ([9.0, 1.0, 5.0], [2, 1, 0]), ([4, 1, 3, 2], [3, 2, 1, 0])],
)
def test_nearest_the_median_comes_first_and_the_lower_of_two(returns, order):
    assert nearest_the_median(returns) == order


@pytest.mark.slow
def test_where_nothing_can_draw_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    assert run(["train", "InvertedPendulum-v5", *FLAGS]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("no video    nothing on this machine could draw the environment | got: ")
    assert "MUJOCO_GL=nonsense" in last
    assert "unset MUJOCO_GL" in last
    monkeypatch.setattr(film, "_run", lambda command, variables, between: "its last words")
    assert run(["video", "runs/InvertedPendulum-v5/pendulum-s0"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("no video: nothing on this machine could draw the environment | got: its last words (")
    assert out.count("\n") == 1
    assert os.environ["MUJOCO_GL"] == "nonsense"
    assert not list(Path.cwd().rglob("*.mp4*"))


@pytest.mark.slow
def test_an_environment_that_draws_nothing_says_so(capsys):
    done = t3d.train(f"{OWN}:DrawsNothing", **SMALL)
    assert done.video is None
    assert "draws no RGB frames" in str(done.video_problem)
    assert "let what makes it take render_mode" in str(done.video_problem)


def test_no_video_means_none_and_frames_are_counted_from_one(folder, capsys):
    assert t3d.train("Pendulum-v1", video=False, **SMALL)[-2:] == (None, None)
    assert not list(folder.rglob("video"))
    assert run(["video", "runs/Pendulum-v1/pendulum-s0", "--video-frames", "0"]) == 2
    assert "video_frames = 0" in capsys.readouterr().err


def test_a_film_of_noise_is_compressed_until_it_fits_a_page(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 402, 1000, 3), np.uint8)
    film._write(list(noise), 30, tmp_path / "noise.mp4")
    assert 100_000 < (tmp_path / "noise.mp4").stat().st_size <= 600_000
    with av.open(str(tmp_path / "noise.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24").shape for frame in container.decode(video=0)]
    assert frames == [(192, 480, 3)] * 20


def pictures(*frames):
    shown = film.as_pictures([np.array(frame).reshape(1, 1, 3) for frame in frames])
    return [frame.reshape(-1).tolist() for frame in shown]


def test_floats_are_pictures_by_the_largest_of_the_whole_film():
    assert pictures([0.0, 0.5, 1.0], [0.0, 0.0, 0.2]) == [[0, 128, 255], [0, 0, 51]]
    assert pictures([0.0, 0.5, 1.0], [0.0, 128.4, 255.0]) == [[0, 0, 1], [0, 128, 255]]
    assert pictures([0, 1, 1]) == [[0, 1, 1]]
    for bad in ([-0.1, 0, 0], [0, 0, 256.0], [0, np.nan, 0]):
        with pytest.raises(VideoFailed, match="frames that are no pictures"):
            pictures(bad)


@pytest.mark.parametrize(("pace", "shown", "frames"), [(30, 30, 13), (240, 60, 4), (100, 50, 7), (0.5, 1, 26)])
def test_a_film_runs_in_real_time(pace, shown, frames, tmp_path, monkeypatch):
    """Thirteen pictures of twelve steps, at a pace of so many steps a second."""
    monkeypatch.setattr(odd_envs.Paced, "metadata", {"render_modes": ["rgb_array"], "render_fps": pace})
    spec = spec_of(odd_envs.Paced)
    acting = SimpleNamespace(act=lambda obs: np.zeros((1, 3), np.float32), info=SimpleNamespace(spaces=spaces_in(spec)))
    monkeypatch.setattr(film.policy, "load", lambda *_: acting)
    drawn, fps = film._play(spec, "", 0, 300, 10_000, None)
    assert (len(drawn), fps) == (frames, shown)
    cut, _ = film._play(spec, "", 0, 300, 5, None)  # where an evaluation would be
    assert len(cut) < len(drawn)


def test_one_that_prints_without_end_fills_no_disk(monkeypatch):
    monkeypatch.setattr(film, "_MOST_WORDS", 1_000_000)
    command = [sys.executable, "-c", "while True: print('again ' * 10_000)"]
    assert film._run(command, dict(os.environ), lambda: None) == "it printed more than 1,000,000 bytes"


def test_an_environment_without_a_render_is_no_missing_renderer(monkeypatch):
    monkeypatch.delattr(own_envs.Walk, "render")
    with pytest.raises(VideoFailed, match="has no render"):
        film.rendered(own_envs.Walk())


def test_a_render_of_the_users_own_that_fails_is_not_a_missing_renderer(monkeypatch):
    with pytest.raises(VideoFailed, match=r"the environment's render raised(.|\n)*OSError: the camera is unplugged"):
        film.rendered(odd_envs.Latin1())


@pytest.mark.slow
def test_bytes_that_are_no_text_end_no_film_and_no_seed(folder, capsys):
    env = f"{Path(odd_envs.__file__).resolve()}:Latin1"
    done = t3d.train(env, **SMALL)
    assert "the camera is unplugged" in str(done.video_problem)
    assert run(["train", env, *FLAGS, "--no-video", "--seeds", "1", "--out", "seeds"]) == 0
