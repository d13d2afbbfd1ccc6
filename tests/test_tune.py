"""Searching for options: what may be searched, which trials play on, and what is left of a study that was killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import msgspec
import pytest

from t3d.cli.main import run
from t3d.config import Config
from t3d.env_spec import EnvSpec
from t3d.errors import ConfigRefused, Failed, RunRefused
from t3d.presets import choose, spaces
from t3d.reports import tuned
from t3d.storage import checked_files
from t3d.tuning import players, race, result, search, space, study
from t3d.tuning.race import Outcome

TrialState = pytest.importorskip("optuna", reason="the extra `tune` is not installed").trial.TrialState
OWN = str(Path(__file__).with_name("own_envs.py"))
T3D = [sys.executable, "-m", "t3d"]
SPACE = """
[lr]
low = 1e-4
high = 1e-2
log = true

[exploration_noise_steps]
choices = [0, 500]

[exploration_noise_final]
low = 0.0
high = 0.1
when = { exploration_noise_steps = 500 }
"""
FLAGS = ["--steps", "400", "--random-steps", "100", "--eval-episodes", "1", "--hidden", "8", "--batch-size", "16"]
FLAGS += ["--engine", "eager", "--seeds", "2", "--jobs", "2", "--space", "space.toml", "--out", "study"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.toml").write_text(SPACE)
    return tmp_path


# --- search spaces


@pytest.mark.parametrize("name", spaces())
def test_our_own_spaces_hold_their_algorithms_default(name):
    base = Config() if name != "td7" else choose(EnvSpec("Pendulum-v1"), "td7").config
    if name == "td3":
        pendulum = choose(EnvSpec("Pendulum-v1")).config
        assert space.default_of(space.read(name, pendulum), pendulum)["hidden"] == "[64, 64]"
    assert space.default_of(space.read(name, base), base) is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[lrr]\nlow = 1e-4\nhigh = 1e-3", "for example lr"),
        ("[lr]\nlow = 1e-4", "half of each"),
        ("[lr]\nlow = 1e-3\nhigh = 1e-4", "low < high"),
        ("[lr]\nlow = 0.0\nhigh = 1e-4\nlog = true", "lr"),
        ("[lr]\nlow = 1e-4\nhigh = 1e-3\nhgih = 2", "hgih"),
        ("[gamma]\nchoices = [0.9, 1.5]", "gamma = 1.5"),
        ("[seed]\nchoices = [1, 2]", "seed is no part of a search space"),
        ("[eval_every]\nchoices = [1, 2]", "eval_every is no part"),
        ("[tau]\nlow = 0.1\nhigh = 0.2\nwhen = { lr = 0.1 }", "stands before it"),
        ("[batch_size]\nlow = 64\nhigh = 4000\n[buffer_size]\nchoices = [2000]", "drawn together"),
        ("", "empty"),
        ("lr = 3", "lr"),
        ("[lr", "cannot be read"),
    ],
)
def test_what_cannot_be_searched_is_refused(folder, text, said):
    (folder / "space.toml").write_text(text)
    with pytest.raises(ConfigRefused, match=said):
        space.read("space.toml", Config())


def test_a_default_that_is_no_number_lies_in_no_range(folder):
    (folder / "space.toml").write_text("[max_episode_steps]\nlow = 100\nhigh = 1000")
    assert space.default_of(space.read("space.toml", Config()), Config()) is None


def test_a_better_trial_of_a_longer_search_is_confirmed_by_runs_of_its_own(folder):
    study.begin(folder / "study", record())
    journal = study.Journal(folder / "study", record())
    told(journal, (1,), (2,), (3,))
    runs = [{job.out for job in result.confirming_jobs(journal, best, 2)} for best in (1, 2)]
    assert len(runs[0]) == len(runs[1]) == 4
    assert {Path(run).name for run in runs[0] & runs[1]} == {"default-s1000", "default-s1001"}


def test_an_option_is_drawn_only_where_its_condition_holds():
    drawn = space.read("space.toml", Config())
    for steps in (0, 500):
        scripted = Scripted(exploration_noise_steps=steps)
        assert ("exploration_noise_final" in space.draw(drawn, scripted)) == (steps == 500)


class Scripted:
    def __init__(self, **values):
        self.values = values

    def suggest_categorical(self, name, choices):
        return self.values[name]

    def suggest_float(self, name, low, high, *, step, log):
        assert log == (name == "lr")
        return low


# --- who plays on


def outcome(*values, end="finished", every=10):
    return Outcome(end, [(every * (k + 1), float(value)) for k, value in enumerate(values)])


def test_a_seeds_score_is_the_mean_of_the_last_fifth_and_not_the_best():
    assert outcome(*range(10)).score == 8.5
    assert outcome(99, 1, 2, 3, 4).score == 4
    assert outcome(99, 5).score == 5
    assert outcome(1, 2, end="stopped").score is None


def test_a_seed_that_failed_counts_as_the_worst_seen():
    good, bad = outcome(10), Outcome("failed", [], "it broke")
    assert race.value_of({0: good, 1: bad}, -30.0) == -10
    assert race.value_of({0: bad}, None) is None
    assert race.worst_of([{0: good, 1: bad}, {0: outcome(3)}]) == 3


def test_a_seed_is_stopped_only_below_the_best_trials_worst_and_the_median_and_after_a_third():
    best = {0: outcome(5, 5, 5), 1: outcome(3, 3, 3)}
    others = [*best.values(), outcome(0, 0, 0), outcome(1, 1, 1), outcome(2, 2, 2)]
    assert race.falls_behind({10: 0.5, 20: 1.5}, 60, best, others)
    assert not race.falls_behind({10: 0.5}, 60, best, others), "before a third of its steps"
    assert not race.falls_behind({10: 0.5, 20: 2.5}, 60, best, others), "above the median"
    low = {0: outcome(5, 5), 1: outcome(1, 1)}
    assert not race.falls_behind({20: 1.5}, 60, low, [*low.values(), outcome(3, 3)]), "above the best's worst seed"
    assert not race.falls_behind({15: -9.0}, 45, best, others), "nobody was evaluated there"


def test_the_better_half_play_on():
    firsts = [{0: outcome(score)} for score in (1, 2, 3, 4)]
    assert [race.plays_on(trial, firsts) for trial in firsts] == [False, False, True, True]
    stopped = {0: outcome(9, end="stopped")}
    assert not race.plays_on(stopped, [*firsts, stopped])
    assert race.plays_on(firsts[0], [firsts[0]])
    assert race.plays_on(firsts[0], [firsts[0], stopped, stopped])


# --- a journal that was killed


def record(**options):
    config = Config().with_values({"hidden": (8, 8), **options})
    return study.describe(EnvSpec("Pendulum-v1"), "td3", config, space.read("space.toml", config), 2)


def test_a_half_written_line_of_the_journal_is_cut_off(folder):
    study.begin(folder / "study", record())
    first = study.Journal(folder / "study", record())
    first.study.tell(first.ask(), 1.0)
    path = folder / "study" / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code": 4, "wor')
    second = study.Journal(folder / "study", record())
    second.study.tell(second.ask(), 2.0)
    assert path.read_bytes().startswith(whole + b"{")
    assert [trial.value for trial in study.Journal(folder / "study", record()).trials()] == [1.0, 2.0]


def test_a_folder_of_another_study_is_refused_and_what_differs_is_named(folder):
    study.begin(folder / "study", record())
    study.begin(folder / "study", record(checkpoint_every=7))  # which changes no number
    with pytest.raises(RunRefused, match="its config differs"):
        study.begin(folder / "study", record(gamma=0.5))
    (folder / "space.toml").write_text("[tau]\nlow = 0.1\nhigh = 0.2")
    with pytest.raises(RunRefused, match="its space differs"):
        study.begin(folder / "study", record())
    (folder / "other").mkdir()
    (folder / "other" / "mine.txt").write_text("x")
    with pytest.raises(RunRefused, match="taken"):
        study.begin(folder / "other", record())


def test_abandoned_trials_are_taken_over_or_told_failed_and_living_ones_left_alone(folder, monkeypatch):
    monkeypatch.setattr(players.Players, "start", lambda self, key, job: started.append(key))
    started = []
    study.begin(folder / "study", record())
    journal = study.Journal(folder / "study", record())
    unknown, abandoned, lives = (journal.ask() for _ in range(3))
    for trial in (abandoned, lives):
        study.set_options(trial, {"lr": 0.001})
    study.set_outcome(abandoned, 0, outcome(5))
    (folder / "study" / "trials" / "2").mkdir(parents=True)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder / "study" / "trials" / "2")],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"held\n"
    try:
        mine = search.Search(journal, 3, players.Players(4, print), print)
        while mine._begin_another():
            pass
        states = [trial.state.name for trial in journal.trials()]
        assert states == ["FAIL", "RUNNING", "RUNNING", "RUNNING"], "the one of no options is drawn anew"
        assert set(mine._own) == {1, 3}
        assert (1, 0) not in started, "its first seed had ended"
        assert unknown.number == 0
        assert lives.number == 2
    finally:
        for own in mine._own.values():
            own.lock.close()
        holder.communicate()


HOLD = "import sys; from pathlib import Path; from t3d.storage.lock import Lock; lock = Lock(Path(sys.argv[1]))\n"
HOLD += "print('held', flush=True); sys.stdin.read()"


# --- what it comes to


def told(journal, *trials):
    """Tell trials of these seeds each."""
    for scores in trials:
        trial = journal.ask()
        values = space.draw(journal.record.space, trial)
        study.set_options(trial, values)
        for seed, score in enumerate(scores):
            study.set_outcome(trial, seed, outcome(score))
        journal.study.tell(trial, sum(scores) / len(scores))


def test_the_best_three_play_on_and_one_that_is_clearly_worse_is_ended(folder, monkeypatch):
    monkeypatch.setattr(search, "LOOK_S", 0)
    study.begin(folder / "study", record())
    journal = study.Journal(folder / "study", record())
    told(journal, (10, 11), (50,), (7, 8), (9, 12), (1, 2))
    instant = Instant({0: 10.0, 3: 20.0, 2: -5.0})
    assert search.play_final(journal, instant, Quiet(), print) == 3
    assert instant.played[3] == instant.played[0] == [2, 3, 4, 5, 6, 7]
    assert instant.played[2] == [2, 3], "two more seeds a look, then Wilcoxon's test has seen enough"
    finals = result._finals(journal, [3, 0, 2])
    assert [(one["number"], one["ended"], one["seeds"]) for one in finals] == [
        (3, False, 8),
        (0, False, 8),
        (2, True, 4),
    ]
    again = Instant({})
    assert search.play_final(journal, again, Quiet(), print) == 3, "nothing is left to play"
    assert again.played == {}


class Quiet:
    def stop_here(self):
        pass


class Instant:
    """Plays every seed at once, and gives what was said for its trial."""

    at_once = 2

    def __init__(self, scores):
        self.scores, self.played, self._new = scores, {}, []

    def __len__(self):
        return len(self._new)

    def start(self, key, job):
        assert Path(job.out).parent.name == str(key[0])
        self.played.setdefault(key[0], []).append(key[1])
        self._new.append((key, outcome(self.scores[key[0]])))

    def ended(self):
        new, self._new = self._new, []
        return new

    def close(self):
        pass


def test_the_preset_gives_the_trials_options_whatever_else_is_given(folder):
    config = choose(EnvSpec("Pendulum-v1"), "course", {"gamma": 0.9, "steps": 500, "eval_every": 50}).config
    made = study.describe(EnvSpec("Pendulum-v1"), "course", config, space.read("space.toml", config), 2)
    study.begin(folder / "study", made)
    journal = study.Journal(folder / "study", made)
    told(journal, (1,), (2,))
    path = result.write_preset(journal, 1)
    found = choose(EnvSpec("Pendulum-v1"), str(path))
    assert found.preset == "tuned"
    expected = config.with_values(study.options_of(journal.trials()[1]))
    default = Config()
    alike = {"steps": default.steps, "eval_every": default.eval_every, "eval_episodes": default.eval_episodes}
    assert found.config == expected.with_values(alike)


def test_no_better_than_the_default_is_a_normal_answer(folder):
    study.begin(folder / "study", record())
    journal = study.Journal(folder / "study", record())
    told(journal, (10, 11), (50, 60))
    seen = {"called": False, "seeds": [10, 10], "frames": 400, "repeated": False, "verdict": "No difference is called."}
    for called, mean, word in ((False, 5.0, "No better"), (True, 5.0, "Better than"), (True, -5.0, "Worse than")):
        compared = {**seen, "called": called, "mean": {"value": mean, "low": 1.0, "high": 2.0}}
        numbers = result.gather(journal, 1, {"comparisons": [compared], "groups": []})
        assert tuned.verdict(numbers)[0].startswith(word)
    assert tuned.verdict(result.gather(journal, 1, None))[0] == "Not confirmed."


def test_stopped_and_failed_trials_stand_on_the_page(folder):
    study.begin(folder / "study", record())
    journal = study.Journal(folder / "study", record())
    told(journal, (10, 11), *((value,) for value in range(12)))
    stopped = journal.ask()
    study.set_options(stopped, space.draw(journal.record.space, stopped))
    study.set_outcome(stopped, 0, outcome(-3, -4, end="stopped"))
    stopped.report(-4, 20)
    journal.study.tell(stopped, state=TrialState.PRUNED)
    broken = journal.ask()
    study.set_options(broken, space.draw(journal.record.space, broken))
    study.set_outcome(broken, 0, Outcome("failed", [], "<b>it broke</b>"))
    journal.study.tell(broken, -9.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = tuned.render(result.gather(journal, 0, None))
    assert "stopped after 20 steps, at " in page
    assert "counts as the worst seen: &lt;b&gt;it broke" in page
    assert "14 played, 1 stopped" in page
    assert "<rect width=" in page, "importances"


def test_a_run_that_is_killed_without_end_ends_the_study(folder):
    said = []
    mine = players.Players(1, said.append, Dying)
    mine.start((4, 0), msgspec.json.decode('{"out": "x"}', type=dict))
    with pytest.raises(Failed, match="cannot go on"):
        for _ in range(9):
            assert mine.ended() == []
    assert Dying.starts == 4
    assert said[0].startswith("trial 4, seed 0: killed by SIGKILL")


class Dying:
    starts = 0

    def __init__(self, job):
        self.job, self.curve = type("Job", (), {"out": job["out"]}), {}

    def start(self):
        Dying.starts += 1

    def look(self):
        fields = {"running": False, "exit_code": -9, "problem": "killed by SIGKILL", "env_steps": 5}
        return type("Standing", (), fields)


# --- all of it, killed again and again


def test_a_study_is_refused_before_anything_runs(folder, capsys):
    assert run(["tune", "Pendulum-v1", *FLAGS, "--trials", "0"]) == 2
    assert run(["tune", "Nonsense-v0", *FLAGS]) == 2
    assert run(["tune", "Pendulum-v1", *FLAGS, "--lr", "1e-3"]) == 2
    assert "given and searched at once" in capsys.readouterr().err
    assert run(["tune", "Pendulum-v1", *FLAGS, "--space", "td33"]) == 2
    assert "there is no such search space" in capsys.readouterr().err
    assert not (folder / "study").exists()


def test_without_optuna_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigRefused, match=r"pip install 't3d\[tune\]'"):
        study.refuse_without_optuna()


@pytest.mark.slow
def test_killed_ten_times_a_study_comes_to_its_end(folder):
    command = [*T3D, "tune", f"{OWN}:Walk", *FLAGS, "--steps", "1500", "--trials", "6", "--confirm", "2"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    rng = random.Random(0)
    kills, code = 0, None
    while code is None:
        child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            said, _ = child.communicate(timeout=rng.uniform(4, 14) if kills < 10 else 600)
            code = child.returncode
        except subprocess.TimeoutExpired:
            victims = [child.pid, *runs_of(folder / "study")]
            os.kill(rng.choice(victims), signal.SIGKILL)
            kills += 1
            if child.poll() is None:
                time.sleep(1)
                child.kill()
            said, _ = child.communicate()
    assert code == 0, said
    assert kills >= 5
    journal = study.Journal(folder / "study", checked_files.read(folder / "study" / "study.json", study.StudyRecord))
    states = [trial.state.name for trial in journal.trials() if study.options_of(trial)]
    assert len(states) == 6
    assert set(states) <= {"COMPLETE", "PRUNED"}
    assert (folder / "study" / "tune.html").is_file()
    assert len(list((folder / "study" / "confirm").glob("*/config.json"))) in (0, 4)
    assert not list((folder / "study").glob("trials/*/*/report.html"))
    assert not list((folder / "study").glob("trials/*/*/video"))
    assert run(["train", f"{OWN}:Walk", "--preset", "study/tuned.toml", "--steps", "150", "--no-video"]) == 0


def runs_of(folder):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "t3d.execution.jobs" in words and any(folder.name + "/" in word for word in words):
            found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_two_processes_share_a_study(folder):
    command = [*T3D, "tune", f"{OWN}:Walk", *FLAGS, "--trials", "8", "--confirm", "0", "--jobs", "1"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    both = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [child.communicate(timeout=300) for child in both]
    assert [child.returncode for child in both] == [0, 0], said
    assert all("seed 0" in err for _, err in said), "each has played some"
    lines = [json.loads(line) for line in (folder / "study" / "journal.jsonl").read_text().splitlines()]
    assert len(lines) > 16
    assert len(list((folder / "study" / "trials").iterdir())) == 8
