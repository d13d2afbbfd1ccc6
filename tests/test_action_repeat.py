"""`--action-repeat`: one decision is played for several frames, wherever a run's environment is made and shown."""

import csv
import functools
import io
import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from run_folders import write_run
from small_runs import PROBE, choice, train

import t3d
from t3d.cli.main import run
from t3d.env_spec import EnvSpec, View
from t3d.environments.envs import Envs
from t3d.environments.make import close, make
from t3d.errors import EnvFailed, RunRefused
from t3d.reports import grouping, published, read_runs, summary, write_report
from t3d.runs.session import Session
from t3d.runs.video import pace_of
from t3d.training.randomness import episode_seed

HERE = Path(__file__).parent
WALK, OLD_STEP, NAN = (str(HERE / name) for name in ("own_envs.py:Walk", "odd_envs.py:OldStep", "own_envs.py:NanObs"))
SEED_OF = functools.partial(episode_seed, 5)


def repeated(env, times, **options):
    return Envs(EnvSpec(env, view=View(action_repeat=times), **options), 1, SEED_OF, fresh=False)


def played(envs, steps):
    """Play random actions; return all that was seen."""
    seen = []
    for action in np.random.default_rng(0).uniform(-1, 1, (steps, len(envs), envs.spaces.action_size)):
        step = envs.step(action.astype(np.float32))
        seen += [part.tobytes() for part in (step.next_obs, step.reward, step.terminated, step.truncated)]
        if step.episodes:
            envs.reset(step.terminated | step.truncated)
    envs.close()
    return seen


# ---- The environment


def test_a_decision_is_so_many_frames_by_hand_to_the_bit():
    envs, by_hand = repeated("Pendulum-v1", 3), gymnasium.make("Pendulum-v1")
    assert by_hand.reset(seed=SEED_OF(0, 0))[0].tobytes() == envs.obs.tobytes()
    for number in range(1, 68):  # 200 frames: the last decision has two, and the limit is the environment's own
        action = np.sin([[number]], dtype=np.float32)
        step, total = envs.step(action), 0.0
        for _ in range(3 if number < 67 else 2):
            obs, reward, _, truncated, _ = by_hand.step(envs.spaces.to_env_units(action)[0])
            total += float(reward)
        assert (step.next_obs.tobytes(), step.reward[0]) == (obs.tobytes(), np.float32(total))
        assert bool(step.truncated[0]) == truncated == (number == 67)
    assert [(episode.length, episode.end) for episode in step.episodes] == [(67, "truncated")]
    assert envs.env_steps == 67


def test_a_frame_that_ends_the_episode_is_the_last_one():
    seen = [repeated(PROBE, times).step(np.zeros((1, 1), np.float32)) for times in (3, 1_000)]  # it ends after three
    assert [step.episodes[0].length for step in seen] == [1, 1]
    assert seen[0].next_obs.tobytes() == seen[1].next_obs.tobytes()
    assert (seen[0].reward[0], seen[0].truncated[0]) == (seen[1].reward[0], seen[1].truncated[0])


def test_a_limit_of_ours_counts_decisions():
    envs = Envs(EnvSpec(WALK, view=View(action_repeat=2)), 1, SEED_OF, fresh=False, max_episode_steps=4)
    ends = [envs.step(np.zeros((1, 3), np.float32)).truncated[0] for _ in range(4)]
    assert ends == [False, False, False, True]
    assert envs._envs.envs[0].unwrapped.steps == 8


def test_the_callers_wrappers_see_decisions():
    inside = repeated(WALK, 4, wrappers=(f"{HERE / 'test_action_repeat.py'}:Noting",))
    played(inside, 5)
    assert inside._envs.envs[0].steps == 5


class Noting(gymnasium.Wrapper):
    """Count what comes."""

    steps = 0

    def step(self, action):
        self.steps += 1
        return super().step(action)


def test_a_frame_that_no_environment_may_give_is_named():
    with pytest.raises(EnvFailed, match="old gym, with one flag for both ends"):
        repeated(OLD_STEP, 2).step(np.zeros((1, 3), np.float32))
    with pytest.raises(EnvFailed, match="non-finite observation"):
        played(repeated(NAN, 2), 20)


def test_its_own_time_and_the_pace_of_a_film_are_of_decisions():
    assert repeated("InvertedPendulum-v5", 3).period_s == pytest.approx(3 * repeated("InvertedPendulum-v5", 1).period_s)
    spec = EnvSpec("Pendulum-v1", view=View(action_repeat=3))
    made = make(spec)
    assert pace_of(made, spec) == made.metadata["render_fps"] / 3 == 10
    close(made, spec.title)


# ---- A run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny run with two frames a decision, so that its episodes of three frames have two."""
    return train(tmp_path_factory.mktemp("repeated") / "run", action_repeat=2).path


def test_the_rows_of_a_run_say_it(trained):
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    evaluations = [one for one in rows if one["kind"] == "evaluation"]
    assert [(one["env_steps"], one["action_repeat"], one["lengths"]) for one in evaluations] == [
        (20, 2, [2]), (40, 2, [2]), (58, 2, [2])
    ]  # fmt: skip


def test_a_policy_is_played_as_it_was_trained(trained, capsys):
    file = trained / "policy" / "last.safetensors"
    assert t3d.load(file).info.action_repeat == 2
    for command in (["evaluate", str(file)], ["evaluate", str(trained), "--policy", "last"]):
        assert run([*command, "--env", PROBE, "--episodes", "2", "--json"]) == 0
        seen = json.loads(capsys.readouterr().out)
        assert seen["lengths"] == [2, 2]
        assert seen["notes"][0] == "each action is played for 2 frames, as in training"


def test_an_export_says_it(trained, tmp_path, capsys):
    assert run(["export", str(trained), "--format", "numpy", "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "contract.json").read_text())["action_repeat"] == 2
    assert "each action played for 2 frames" in (tmp_path / "out" / "policy.py").read_text()


def test_it_resumes_to_the_bit_and_with_no_other_number_of_frames(trained, tmp_path):
    folder = tmp_path / "run"
    train(folder, until=25, action_repeat=2)
    with pytest.raises(RunRefused, match="action_repeat"):
        Session(EnvSpec(PROBE), choice(action_repeat=3), folder, resume=True)
    train(folder, resume=True, action_repeat=2)
    last = [path / "policy" / "last.safetensors" for path in (trained, folder)]
    assert last[0].read_bytes() == last[1].read_bytes()


# ---- Reports


@pytest.fixture
def both(tmp_path):
    """Two seeds of three frames a decision, and two of one."""
    slow, fast = tmp_path / "one", tmp_path / "three"
    for seed in (0, 1):
        write_run(slow / f"s{seed}", {300: 1.0 + seed, 600: 7.0, 900: 9.0}, seed=seed)
        write_run(fast / f"s{seed}", {100: 2.0 + seed, 200: 8.0}, seed=seed, action_repeat=3)
    return slow, fast


def test_groups_are_compared_after_equally_many_frames(both):
    numbers = summary.summarize(grouping.group_runs(read_runs.find(both)))
    assert [one["env_steps"] for one in numbers["groups"]] == [[300, 600, 900], [100, 200]]
    assert [one["frames"] for one in numbers["groups"]] == [[300, 600, 900], [300, 600]]
    (compared,) = numbers["comparisons"]
    assert (compared["frames"], compared["mean"]["value"]) == (600, 7.0 - 8.0)
    (best,) = numbers["best_of"]
    assert (best["frames"], best["mean"]) == (600, 8.0)


def test_published_returns_are_held_against_frames(tmp_path):
    write_run(tmp_path / "run", {100_000: 1.0}, action_repeat=3)
    (group,) = summary.summarize(grouping.group_runs(read_runs.find([tmp_path])))["groups"]
    by_frames = [published.at(one, 300_000) for one in published.find("HalfCheetah-v5")]
    assert [one["there"] for one in group["references"]] == by_frames
    assert any(by_frames)


def test_the_page_is_drawn_over_frames_where_any_are_repeated(both):
    def data_of(page):
        text = page.read_text("utf-8")
        return text, json.loads(text.partition('id="data">')[2].partition("</script>")[0])["studies"][0]["learning"]

    text, seen = data_of(write_report(list(both)))
    assert "by frames (env steps times the action repeat)" in text
    assert "After 600 frames the first" in text
    assert (seen["x_unit"], seen["x_max"]) == ("frames", 900)
    assert [one["frames"] for one in seen["groups"]] == [[300, 600, 900], [300, 600]]
    assert seen["groups"][1]["runs"][0]["points"] == [[300, 2.0], [600, 8.0]]
    text, seen = data_of(write_report([both[0]]))
    assert seen["x_unit"] == "env steps"
    assert "frames" not in text.partition("<style>")[0] + text.partition("<main>")[2].partition("<script")[0]


def test_tables_and_arrays_hold_both(both, tmp_path):
    out = tmp_path / "curve.csv"
    assert run(["report", *map(str, both), "--csv", str(out)]) == 0
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [(one["env_steps"], one["frames"]) for one in rows[3:]] == [("100", "300"), ("200", "600")]
    read = t3d.read(both[1])
    assert (read.runs["action_repeat"].tolist(), read.runs["frames"].tolist()) == ([3, 3], [600, 600])
    assert read.evaluations["env_steps"].tolist() == [100, 200, 100, 200]
    assert read.evaluations["frames"].tolist() == [300, 600, 300, 600]
