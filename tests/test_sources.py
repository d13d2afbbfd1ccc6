"""A caller's algorithm by its address: from the command line to resume and report, known by what it is written in."""

import importlib.util
import json
import linecache
import os
import py_compile
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import small_runs

import t3d
from t3d.address import address_of, object_at
from t3d.cli.algorithm import own_in
from t3d.cli.main import run
from t3d.errors import ConfigRefused, Refused, RunRefused, Stopped
from t3d.execution import jobs, processes
from t3d.reports import read_runs
from t3d.reports.grouping import group_runs
from t3d.td3 import TD3
from t3d.variants.contract import OURS
from t3d.variants.sources import UNKNOWN, class_at, source_of

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["--steps", "60", "--random-steps", "20", "--batch-size", "4", "--hidden", "4", "--eval-every", "30"]
FLAGS += ["--eval-episodes", "1", "--n-envs", "1", "--preset", "td3", "--no-video"]
SHIFTED = """
from t3d.td3 import TD3

class Shifted(TD3):
    def target_q(self, batch, noise):
        return super().target_q(batch, noise) + 0.5
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(name, text=SHIFTED):
    """Write a file of a name of its own: modules are imported once a process."""
    Path(f"{name}.py").write_text(text)
    return f"{name}.py:Shifted"


def words(command, *more, address):
    return [*command, "--algorithm", address, *more]


def test_a_class_is_taken_out_of_a_commands_words():
    address = written("words")
    for given in (["--algorithm", address], [f"--algorithm={address}"]):
        own, left = own_in(["Env", *given, "--steps", "3"])
        assert issubclass(own, TD3) and own.__name__ == "Shifted"
        assert left == ["Env", "--algorithm", "td3", "--steps", "3"]
    for theirs in (["--algorithm", "td7"], ["--algorithm"], []):
        assert own_in(theirs) == (None, theirs)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "gone.py:X", "no such file"),
        ("x = 1", "bad.py:X", "there is no such algorithm"),
        ("X = 3", "bad3.py:X", "this is not an algorithm"),
        ("1 / 0", "bad0.py:X", "ZeroDivisionError"),
        ("import sys; sys.exit()", "badly.py:X", "SystemExit"),
        ("", "X", "says not where"),
    ],
)
def test_what_is_no_algorithm_is_refused(text, name, message):
    if text:
        Path(name.partition(":")[0]).write_text(text)
    with pytest.raises(Refused, match=message):
        class_at(name)


def test_a_source_is_its_files_text_wherever_that_lies(folder):
    assert [source_of(ours) for ours in OURS.values()] == ["", ""]
    (folder / "elsewhere").mkdir()
    first = source_of(class_at(written("one")))
    shutil.copy("one.py", "elsewhere/two.py")
    assert source_of(class_at("elsewhere/two.py:Shifted")) == first != UNKNOWN
    assert source_of(class_at(written("three", SHIFTED.replace("0.5", "0.6")))) != first
    # The critic is a part of it, wherever that is written.
    own = class_at("one.py:Shifted")
    Path("judge.py").write_text("import t3d\nclass Judge(t3d.Critic):\n    pass\n")
    judged = type("Judged", (own,), {"critic_class": object_at("judge.py:Judge"), "__module__": own.__module__})
    assert source_of(judged) != first


def test_a_files_text_is_run_and_never_bytecode_beside_it(folder):
    Path("planted.py").write_text("class Arm: said = 2\n")
    py_compile.compile("planted.py", cfile=importlib.util.cache_from_source("planted.py"))
    written = Path("planted.py").stat()
    Path("planted.py").write_text("class Arm: said = 1\n")
    os.utime("planted.py", ns=(written.st_atime_ns, written.st_mtime_ns))  # to Python it is the same file still
    assert object_at("planted.py:Arm").said == 1
    Path("fresh.py").write_text("class Arm: pass\n")
    object_at("fresh.py:Arm")
    assert not Path(importlib.util.cache_from_source("fresh.py")).exists()


def test_files_of_two_folders_may_have_one_name(folder):
    for name, text in (("algorithms", SHIFTED), ("envs", "from own_envs import Walk as Arm\n")):
        (folder / name).mkdir()
        (folder / name / "toy.py").write_text(text)
    shifted = class_at("algorithms/toy.py:Shifted")
    before = source_of(shifted)
    assert object_at("envs/toy.py:Arm").__name__ == "Walk"
    assert source_of(shifted) == before
    assert address_of(shifted) == f"{folder / 'algorithms' / 'toy.py'}:Shifted"


def test_a_class_of_a_notebooks_cell_is_known_by_its_functions():
    def cell(number, text):
        space = {"__name__": "__no_module__"}
        name = f"<cell {number}>"
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        exec(compile(text, name, "exec"), space)
        return space["Shifted"]

    assert source_of(cell(1, SHIFTED)) == source_of(cell(2, SHIFTED)) != UNKNOWN
    assert source_of(cell(3, SHIFTED.replace("0.5", "0.6"))) != source_of(cell(1, SHIFTED))
    space = {"__name__": "__no_module__"}
    exec(SHIFTED, space)
    assert source_of(space["Shifted"]) == UNKNOWN


def test_a_changed_source_is_said_asked_for_and_marks_the_run(folder, capsys):
    train = ["train", small_runs.PROBE, "--out", "run", "--resume", "auto", *FLAGS]
    assert run(words(train, address=written("before"))) == 0
    (first,) = json.loads(Path("run/config.json").read_text())["sources"]
    more, other = ["--steps", "80"], written("after", SHIFTED + "# changed\n")
    assert run(words(train, *more, address=other)) == 2
    assert "--algorithm-changed" in capsys.readouterr().err
    assert run(["resume", "run", "--env", small_runs.PROBE, "--algorithm", other, *more]) == 2
    assert run(words(train, *more, "--algorithm-changed", address=other)) == 0
    recorded = json.loads(Path("run/config.json").read_text())["sources"]
    assert recorded == [first, source_of(class_at(other))] and len(set(recorded)) == 2
    assert "not bit-exact: the algorithm's source was changed" in Path("run/metrics.jsonl").read_text()
    # From now on it is the source; the one that began is not, and what was marked stays marked.
    assert run(["resume", "run", "--env", small_runs.PROBE, "--algorithm", "before.py:Shifted"]) == 2
    back = ["resume", "run", "--env", small_runs.PROBE, "--algorithm", other, "--steps", "90", "--no-video"]
    assert run(back) == 0
    assert "is not bit for bit" in capsys.readouterr().err or "not bit-exact" in Path("run/metrics.jsonl").read_text()
    # In a report it is neither the one nor the other.
    assert run(words(["train", small_runs.PROBE, "--out", "new", *FLAGS, "--steps", "90"], address=other)) == 0
    both = group_runs(read_runs.find([Path("run"), Path("new")]))
    assert len(both) == 2
    assert {group.differing["source"] for group in both} == {recorded[1][:8], f"{first[:8]} then {recorded[1][:8]}"}


def test_seeds_get_it_by_its_address_and_one_without_is_refused(monkeypatch):
    class Hidden(TD3):
        pass

    small = {"steps": 40, "random_steps": 20, "batch_size": 4, "hidden": (4,), "eval_every": 40, "eval_episodes": 1}
    with pytest.raises(ConfigRefused, match="another process cannot find"):
        t3d.train(small_runs.PROBE, algorithm=Hidden, seeds=2, out="hidden", **small)
    assert not Path("hidden").exists()
    address = written("seeded")
    trained = []
    # No process: what one would be told is enough.
    monkeypatch.setattr(t3d.api, "train_jobs", lambda jobs, *_: [trained.append(job) or _ended(job) for job in jobs])
    made = t3d.train(
        small_runs.PROBE, algorithm=class_at(address), seeds=2, out="all", preset="td3", quiet=True, **small
    )
    assert [job.algorithm for job in trained] == [f"{Path('seeded.py').resolve()}:Shifted"] * 2
    for job in trained:
        assert json.loads((Path(job.out) / "config.json").read_text())["algorithm"] == "Shifted"
    assert made.report.is_file() and [seed.seed for seed in made.seeds] == [0, 1]


def _ended(job):
    jobs.train_run(job)
    return processes.Child(job).look()


def test_a_script_that_is_stopped_ends_in_a_sentence():
    script = """
import os, signal, t3d
options = dict(steps=10_000, random_steps=20, batch_size=4, hidden=(4,), eval_every=30, eval_episodes=1, quiet=True)
class Stops(t3d.TD3):
    def update(self, *arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return super().update(*arguments, **options)
t3d.train(ENV, algorithm=Stops, out="run", preset="td3", **options)
"""
    Path("script.py").write_text(script.replace("ENV", repr(small_runs.PROBE)))
    child = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False)
    assert child.returncode == 130
    assert child.stderr == (
        't3d: stopped by SIGINT; everything is saved in run, and resume="auto" goes on from there\n'
    )
    assert Stopped("SIGINT", 130)._render_traceback_() == ["t3d: stopped by SIGINT"]


def test_what_the_record_says_of_sources_is_held_to_its_form(folder):
    with pytest.raises(RunRefused, match="sources"):
        small_runs.train(folder / "run", until=20)
        path = folder / "run" / "config.json"
        from sealing import said, seal

        seal(path, said(path) | {"sources": ["\x1b[2J"]})
        from t3d.runs.run_folder import read_config

        read_config(folder / "run")


@pytest.mark.slow
def test_the_commands_of_the_page_about_changing_it(folder):
    page = (ROOT / "docs" / "change-the-algorithm.md").read_text("utf-8")
    (folder / "cautious.py").write_text(re.search(r"<!-- file: .* -->\n```python\n(.*?)```", page, re.DOTALL)[1])
    commands = re.search(r"<!-- run: train -->\n```\n(.*?)```", page, re.DOTALL)[1]
    short = commands.replace(
        "--steps 20_000 --seeds 5", "--steps 300 --seeds 2 --random-steps 100 --eval-episodes 1 --no-video"
    )
    assert short != commands
    tool = folder / "bin" / "t3d"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m t3d "$@"\n')
    tool.chmod(0o755)
    variables = {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}"}
    child = subprocess.run(["sh", "-ex"], input=short, env=variables, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert "Cautious" in (folder / "compared.html").read_text("utf-8")
    assert (folder / "runs" / "cautious" / "s0" / "explain.html").is_file()
