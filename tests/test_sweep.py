"""A grid of options: what stands on the command line, and what is trained of it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from run_folders import write_run

from t3d import api, presets
from t3d.cli.main import run
from t3d.config import Config
from t3d.env_spec import EnvSpec
from t3d.errors import ConfigRefused
from t3d.execution import jobs, processes
from t3d.reports import page, wording
from t3d.reports.statistics import optimism
from t3d.tuning import axes, grid

OWN = str(Path(__file__).with_name("own_envs.py"))
FLAGS = ["--steps", "300", "--eval-every", "100", "--eval-episodes", "1", "--random-steps", "50", "--batch-size", "16"]
FLAGS += ["--hidden", "[8]", "--engine", "eager", "--out", "all"]
T3D = [sys.executable, "-m", "t3d"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def axes_of(text):
    return axes.split(text.split(), ["env", "seeds", "out", "yes", "jobs", "env_arg"])


def test_commas_separate_values_and_lists_are_json():
    named, rest = axes_of(
        "Pendulum-v1 --lr 1e-4,3e-4 --tau=0.005 --hidden [256,256],[400,300] --seeds 3 --out x --preset td3,course "
        "--buffer-size 1e5,200_000 --normalize-obs --no-fresh-envs --layer-norm none,both --max-episode-steps None,5"
    )
    assert rest == ["Pendulum-v1", "--seeds", "3", "--out", "x"]
    assert named == {
        "lr": [1e-4, 3e-4], "tau": [0.005], "hidden": [(256, 256), (400, 300)], "preset": ["td3", "course"],
        "buffer_size": [100_000, 200_000], "normalize_obs": [True], "fresh_envs": [False],
        "layer_norm": ["none", "both"], "max_episode_steps": [None, 5],
    }  # fmt: skip
    assert axes_of("Pendulum-v1 --normalize-obs True,False")[0] == {"normalize_obs": [True, False]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("--lrr 1e-3", "for example --lr"),
        ("--sedes 4", "for example --seeds"),
        ("--lr", "no values"),
        ("--lr --tau 0.1", "no values"),
        ("--lr 1 --lr 2", "named twice"),
        ("--lr 1,,2", "told apart"),
        ("--hidden [256,[2]]", "told apart"),
        ("--hidden [256;2]", "no list"),
    ],
)
def test_what_is_no_axis_is_refused(text, said):
    with pytest.raises(ConfigRefused, match=said):
        axes_of(text)


def combined(**named):
    return grid.combine(named, lambda preset, values: presets.choose(EnvSpec("HalfCheetah-v5"), preset, values))


def test_every_combination_stands_once_and_equal_ones_are_counted():
    made = combined(lr=[1e-3, 3e-4], tau=[0.005, 0.01, 0.005])
    assert [(p.choice.config.td3.lr, p.choice.config.td3.tau) for p in made.points] == [
        (1e-3, 0.005), (1e-3, 0.01), (3e-4, 0.005), (3e-4, 0.01),
    ]  # fmt: skip
    assert made.equal == 2
    assert len(combined(preset=["paper-2018", "course"], steps=[20_000], eval_every=[5_000]).points) == 1
    assert len(combined(preset=["td3", "td7"]).points) == 2


def test_an_impossible_combination_is_named():
    with pytest.raises(ConfigRefused, match=r"tau = 0.01, of preset td7, tau 0.01"):
        combined(preset=["td3", "td7"], tau=[0.01])
    with pytest.raises(ConfigRefused, match="before it learns"):
        combined(steps=[9_000])
    with pytest.raises(ConfigRefused, match="gamma"):
        combined(gamma=[0.9, 1.5])


@pytest.mark.parametrize("axis", [{"seed": [0, 1]}, {"env_workers": [0, 2]}])
def test_what_runs_are_not_compared_by_is_no_axis(axis):
    with pytest.raises(ConfigRefused, match="is no axis"):
        combined(lr=[1e-3, 3e-4], **axis)
    assert len(combined(**{name: values[:1] for name, values in axis.items()}).points) == 1


def test_folders_say_what_differs_and_seeds_go_round():
    made = combined(lr=[1e-3, 3e-4], hidden=[(8, 8), (4,)], steps=[20_000])
    planned = grid.jobs_of(EnvSpec("HalfCheetah-v5"), made, 2, Path("all"))
    names = [Path(job.out).name for job in planned]
    assert names[:5] == [
        "lr-0.001_hidden-8-8-s0", "lr-0.001_hidden-4-s0", "lr-0.0003_hidden-8-8-s0", "lr-0.0003_hidden-4-s0",
        "lr-0.001_hidden-8-8-s1",
    ]  # fmt: skip
    assert {job.config["threads"] for job in planned} == {1}
    widths = tuple(range(100, 140))
    long = combined(hidden=[widths, widths[1:]])
    assert [Path(job.out).name for job in grid.jobs_of(EnvSpec("HalfCheetah-v5"), long, 1, Path("all"))] == [
        "configuration-0-s0",
        "configuration-1-s0",
    ]


def in_this_process(planned, at_once, show, on="local"):
    ended = []
    for job in planned:
        jobs.train_run(job)
        child = processes.Child(job)
        ended.append(child.look()._replace(exit_code=0))
    show(ended)
    return ended


def test_a_sweep_ends_with_one_report_that_says_how_optimistic_its_best_is(folder, capsys, monkeypatch):
    monkeypatch.setattr(api, "train_jobs", in_this_process)
    command = ["sweep", f"{OWN}:Walk", *FLAGS, "--lr", "1e-3,1e-4,1e-3", "--seeds", "2"]
    assert run(command) == 0
    said = capsys.readouterr()
    assert "2 configurations; 1 of the grid come to the same as others, 2 seeds each" in said.err
    assert "the best of 2" in said.out
    assert "flatters: by" in said.out
    assert sorted(path.name for path in (folder / "all").iterdir()) == [
        "lr-0.0001-s0", "lr-0.0001-s1", "lr-0.001-s0", "lr-0.001-s1", "report.html",
    ]  # fmt: skip
    assert not list(folder.glob("all/*/video"))
    assert not list(folder.glob("all/*/report.html"))
    before = (folder / "all" / "lr-0.001-s0" / "metrics.jsonl").read_bytes()
    assert run(command) == 0, "nothing is left to do"
    assert (folder / "all" / "lr-0.001-s0" / "metrics.jsonl").read_bytes() == before


def test_sweeps_that_cannot_begin_are_refused(folder, capsys):
    assert run(["sweep", "Pendulum-v1", "--seeds", "2"]) == 2
    assert "no option was named" in capsys.readouterr().err
    many = ",".join(str(k) for k in range(1, 335))
    assert run(["sweep", "Pendulum-v1", "--batch-size", many, "--seeds", "3"]) == 2
    assert "334 configurations, 3 seeds each: 1,002 runs" in capsys.readouterr().err
    assert run(["sweep", "Nonsense-v0", "--lr", "1e-3,1e-4"]) == 2
    assert run(["sweep", "Pendulum-v1", "--lr", "1e-3", "--seeds", "0"]) == 2
    assert not (folder / "runs").exists()


def test_the_best_of_equals_flatters_as_order_statistics_say():
    rng = np.random.default_rng(1)
    groups = [rng.normal(0, 10, 400) for _ in range(5)]
    seen = optimism(groups, resamples=4_000)
    assert seen.if_equal == pytest.approx(1.163 * 10 / np.sqrt(400), rel=0.1)  # the mean of the largest of five
    apart = optimism([group + 1_000 * k for k, group in enumerate(groups)], resamples=4_000)
    assert apart.as_seen == pytest.approx(0, abs=0.1), "the best is the best without luck"
    assert apart.if_equal == pytest.approx(seen.if_equal)


def test_the_spread_of_few_seeds_is_not_taken_for_too_small():
    rng = np.random.default_rng(2)
    studies = [optimism(rng.normal(0, 1, (8, 2)), resamples=400).if_equal for _ in range(60)]
    assert np.mean(studies) == pytest.approx(1.424 / np.sqrt(2), rel=0.1)


def test_of_single_seeds_nothing_is_said():
    assert optimism([[1.0], [2.0]]) is None
    assert optimism([[1.0, 2.0]]) is None
    assert optimism([[1.0], [2.0, 3.0]]) is not None
    said = wording.best_of({"best": "a", "of": 2, "mean": 1.0, "optimism": None})
    assert "nothing can be said" in said


def test_the_page_of_many_groups_begins_with_the_best(folder):
    for k, lr in enumerate((0.1, 0.2, 0.3)):
        for seed in (0, 1):
            write_run(folder / f"{k}-{seed}", {100: 0.0, 200: 10.0 * k + seed}, seed=seed, lr=lr)
    text = page.render(page.gather([folder]))
    assert '<p class="lead">td3, lr 0.3, the best of 3, with a mean of 20.5.' in text


def test_of_more_groups_than_are_compared_the_best_stands_first(folder):
    for k, lr in enumerate((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)):
        write_run(folder / f"{k}", {100: 0.0, 200: 10.0 * k}, lr=lr)
    text = page.render(page.gather([folder]))
    places = [text.index(f"</i>td3, lr 0.{k}<") for k in (7, 6, 5, 4, 3, 2, 1)]
    assert places == sorted(places)
    assert "against <b>" not in text


def test_the_axes_are_the_options_of_a_run():
    assert set(axes.AXES) - {"preset"} == {*vars(Config()), *vars(Config().td3)} - {"td3"}


@pytest.mark.slow
def test_killed_in_the_middle_the_same_command_finishes_what_is_left(folder):
    command = [*T3D, "sweep", f"{OWN}:Walk", "--steps", "3000", *FLAGS[2:], "--lr", "1e-3,1e-4", "--seeds", "2"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    written = lambda: sum(path.stat().st_size for path in folder.glob("all/*/metrics.jsonl"))  # noqa: E731
    for kills in (1, 2):
        child = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 300
        while written() < 2_000 * kills:
            assert child.poll() is None, "it ended before it was killed"
            assert time.monotonic() < until
            time.sleep(0.05)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    said = subprocess.run(command, env=env, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    for path in folder.glob("all/*/metrics.jsonl"):
        assert json.loads(path.read_text().splitlines()[-1])["env_steps"] == 3000
    assert len(list(folder.glob("all/*/metrics.jsonl"))) == 4
