"""Run folders from strangers: opened, or refused with a reason; nothing in them is ever run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import hostile
import pytest
from small_runs import train


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "run"
    train(path, "Pendulum-v1", n_envs=2)
    return path


def test_the_good_run_opens(good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in ("load", "evaluate", "resume", "report"):
        shutil.copytree(good, tmp_path / command)
        assert hostile.attempt(command, tmp_path / command) == (0, hostile.attempt(command, tmp_path / command)[1])


def snapshot(folder):
    """Return every file and what it holds, but the run itself and what Python writes."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts and "run" not in path.parts
    }


CORPUS = hostile.corpus()


# Every third in the fast suite: they come in kinds of several.
THIRDS = [name if k % 3 == 0 else pytest.param(name, marks=pytest.mark.slow) for k, name in enumerate(CORPUS)]


@pytest.mark.parametrize("name", THIRDS)
def test_it_is_refused_and_nothing_runs_and_nothing_outside_is_touched(name, good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    hostile.sandbox(tmp_path)
    commands, make = CORPUS[name]
    shutil.copytree(good, tmp_path / "run")
    make(tmp_path / "run")
    before = snapshot(tmp_path)
    if name.startswith(("hidden", "n_envs")) and name.endswith("sealed"):
        # Refused before networks and environments are made, not by what happens when they are.
        monkeypatch.setattr("t3d.runs.session.Trainer", lambda *_: pytest.fail("memory would have been taken"))
    # A report reads little of a run: it refuses what it reads, and shows the rest for what it is. So does who resumes
    # what has ended.
    for command in dict.fromkeys((*(commands or ("resume",)), "report")):
        code, said = hostile.attempt(command, tmp_path / "run")
        assert code == 2 or (code == 0 and command not in commands), (command, said)
        assert "Traceback" not in said
        assert "\x1b" not in said
        assert len(said) < 20_000
    assert snapshot(tmp_path) == before
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", CORPUS)
def test_it_is_refused_or_explained_and_nothing_runs(name, good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr("t3d.runs.explanation._film", lambda *_: (None, ""))  # a child process, seconds each
    hostile.sandbox(tmp_path)
    shutil.copytree(good, tmp_path / "run")
    CORPUS[name][1](tmp_path / "run")
    before = snapshot(tmp_path)
    code, said = hostile.attempt("explain", tmp_path / "run")
    assert code in (0, 2), said
    assert "Traceback" not in said
    assert "\x1b" not in said
    assert len(said) < 20_000
    assert snapshot(tmp_path) == before
    assert not (tmp_path / "executed").exists()


def test_a_report_is_not_written_through_a_link(good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hostile.sandbox(tmp_path)
    shutil.copytree(good, tmp_path / "run")
    for name in ("report.html", "report.html.new"):
        (tmp_path / "run" / name).symlink_to("../victim")
    before = snapshot(tmp_path)
    hostile.run_command(["report", "run"])
    assert snapshot(tmp_path) == before


def test_too_many_files_or_checkpoints_are_refused(good, tmp_path, monkeypatch):
    shutil.copytree(good, tmp_path / "run")
    monkeypatch.setattr("t3d.runs.run_folder._MAX_FILES", 5)
    for command in hostile.RECORD:
        assert hostile.attempt(command, tmp_path / "run")[0] == 2
    monkeypatch.undo()
    monkeypatch.setattr("t3d.runs.checkpoints._MAX_FOLDERS", 1)
    assert hostile.attempt("resume", tmp_path / "run")[0] == 2


@pytest.mark.slow
def test_refusing_all_of_them_takes_little_memory(good):
    # A pipe that is waited for, or a terabyte that is read, ends in the time limit or in no memory.
    child = subprocess.run(
        [sys.executable, hostile.__file__, str(good)], capture_output=True, text=True, timeout=300, check=False
    )
    assert child.returncode == 0, child.stderr[-2_000:]
    rows = json.loads(child.stdout)
    assert len(rows) > len(CORPUS)
    assert {row["code"] for row in rows} == {2}
    assert sum(row["bytes"] for row in rows) < 200e6


@pytest.mark.parametrize(
    "words", [["report", "."], pytest.param(["evaluate", ".", "--episodes", "1"], marks=pytest.mark.slow)], ids=str
)
def test_modules_in_a_strangers_folder_are_not_imported(good, tmp_path, words):
    """The command stands in the folder itself, beside files named like modules."""
    shutil.copytree(good, tmp_path / "run")
    for name in ("json.py", "torch.py", "safetensors.py", "sitecustomize.py", "Pendulum.py", "pickle.py"):
        (tmp_path / "run" / name).write_text(hostile.EVIL)
    code = "import sys; from t3d.cli.main import run; sys.exit(run(sys.argv[1:]))"
    script = Path(tmp_path / "t3d.py")
    script.write_text(code.replace("import sys;", "import sys; sys.path.pop(0);"))
    child = subprocess.run(
        [sys.executable, "-P", str(script), *words],
        cwd=tmp_path / "run",
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert not (tmp_path / "run" / "executed").exists()
