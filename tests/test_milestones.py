"""Policies kept on the way: when, and to the same bytes however the run was interrupted; their films."""

import pytest
import small_runs
from film_here import films_here

import t3d
from t3d.cli.main import run
from t3d.env_spec import EnvSpec
from t3d.errors import VideoFailed
from t3d.formats import MILESTONES
from t3d.runs import policies
from t3d.runs.session import Session


def kept(folder):
    return {name: (folder / "policy" / f"{name}.safetensors").read_bytes() for name in MILESTONES}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    small_runs.train(folder)
    return folder


def test_they_are_those_of_the_start_a_quarter_and_half_of_the_steps(undisturbed):
    steps = {name: t3d.load(undisturbed / "policy" / f"{name}.safetensors").info.env_steps for name in MILESTONES}
    # Of 58 steps, taken two at a time: the first vector step at or behind 14.5, and that at 29.
    assert steps == {"start": 0, "quarter": 16, "half": 30}
    assert len(set(kept(undisturbed).values())) == 3


@pytest.mark.parametrize("until", [16, 30])
def test_an_interrupted_run_keeps_the_same_bytes(undisturbed, tmp_path, until):
    small_runs.train(tmp_path / "run", until=until)
    small_runs.train(tmp_path / "run", resume=True)
    assert kept(tmp_path / "run") == kept(undisturbed)


def test_updates_that_wait_for_an_episodes_end_are_in_them(tmp_path):
    # Episodes of three steps, so a burst of updates begins at step 24, one at a time here.
    options = {"train_at": "episode", "n_envs": 1, "steps": 48, "random_steps": 10}
    session = Session(EnvSpec(small_runs.PROBE), small_runs.choice(**options), tmp_path / "run")
    trainer, save, saved = session.trainer, session._save, {}
    trainer.learner.part = 1

    def spy(name):
        saved.setdefault(name, []).append((trainer.env_steps, trainer.updates_due))
        save(name)

    session._save = spy
    for _ in session.run():
        pass
    assert [saved[name] for name in ("start", "half")] == [[(0, 0)], [(24, 0)]], "once, with no update left to make"


def test_their_films_are_small_and_end_with_the_time_they_may_take(tmp_path, monkeypatch):
    pytest.importorskip("av", reason="the extra `video` is not installed")
    flags = ["--steps", "9", "--random-steps", "3", "--eval-episodes", "1", "--hidden", "8", "8", "--threads", "1"]
    flags += ["--engine", "eager"]
    with films_here():
        assert run(["train", "Pendulum-v1", *flags, "--video-frames", "3", "--out", str(tmp_path / "run")]) == 0
        films = {path.stem: path for path in (tmp_path / "run" / "video").iterdir()}
        assert set(films) >= {"best", *MILESTONES}
        monkeypatch.setattr(policies, "_LEARNING_S", 0.0)
        spec = EnvSpec("Pendulum-v1")
        filmed, problem = policies.film_policies(tmp_path / "run", frames=2, env=spec, anew=True)
    assert filmed == films["best"]
    assert isinstance(problem, VideoFailed)
    assert "not every film of how it learned was drawn" in problem.one_line()
    assert not any(films[name].exists() for name in MILESTONES), "they showed another run of it"
    # A twentieth of the run's time, where that is more.
    with films_here():
        assert policies.film_policies(tmp_path / "run", frames=2, env=spec, anew=True, run_s=1e4)[1] is None
    assert all(films[name].exists() for name in MILESTONES)
