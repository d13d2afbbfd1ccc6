"""The power is cut behind every call that changes the disk; what may be left opens, and the run ends as ever."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from crash_power import File, Folder, Model, Recorder
from crash_runs import Disk, Exits, ends_with, live, undisturbed

ROUNDS = 3  # things that may be left, for each cut
EVERY = 19  # the fast suite cuts behind every 19th call


def test_the_model_keeps_what_was_flushed_and_any_part_of_the_rest():
    rng = np.random.default_rng(0)
    file = File(b"abcd")
    file.pending = [(4, b"efgh"), (6, None), (6, b"xy")]
    assert file.now(file.pending) == b"abcdefxy"
    left = {file.left(rng) for _ in range(500)}
    assert {b"abcd", b"abcdefxy", b"abcdefgh", b"abcdef", b"abcd\0\0xy"} <= left
    assert len(left) > 20
    file.flush()
    assert {file.left(rng) for _ in range(10)} == {b"abcdefxy"}
    folder = Folder()
    folder.change({"a": file})
    folder.flush()
    folder.change({"b": file})
    folder.change({"b": None, "a": file})
    assert {tuple(sorted(folder.left(rng))) for _ in range(100)} == {("a",), ("a", "b")}


def record(monkeypatch, root, **options):
    """Return the calls of a life of the run in this folder, and the model that stands before them."""
    model, recorder = Model(root), Recorder()
    ended = live(monkeypatch, root / "run", recorder, **options)
    assert ended.code == 0, ended.error
    return model, recorder.calls_made


def check_rows(run):
    """Whatever checkpoint is there, what its manifest says of metrics.jsonl is true."""
    for file in run.glob("checkpoints/*/manifest.json"):
        if file.parent.name.isdigit():
            facts = json.loads(file.read_text())["metrics"]
            rows = (run / "metrics.jsonl").read_bytes()[: facts["bytes"]] if facts["bytes"] else b""
            assert hashlib.sha256(rows).hexdigest() == facts["sha256"], file


def cut_everywhere(monkeypatch, tmp_path, model, calls, expected, every, committed=-1):
    rng = np.random.default_rng(len(calls))
    for at, call in enumerate(calls):
        model.apply(*call)
        committed = call[1] if call[0] == "committed" else committed
        if at % every:
            continue
        for _ in range(ROUNDS):
            left = tmp_path / "left"
            model.leave(left, rng)
            check_rows(left / "run")
            where = f"after call {at}, {call[:2]}: {sorted(str(p.relative_to(left)) for p in left.rglob('*'))}"
            after = live(monkeypatch, left / "run", Disk())
            assert after.code == 0, f"{where}: {after.error}"
            assert after.resumed_at >= committed, where
            assert ends_with(left / "run") == expected, where
            shutil.rmtree(left)


def first_life(monkeypatch, folder, every):
    root = folder / "root"
    root.mkdir()
    model, calls = record(monkeypatch, root)
    cut_everywhere(monkeypatch, folder, model, calls, ends_with(root / "run"), every)


def second_life(monkeypatch, folder, every, at):
    """What a killed process has left was not all flushed, but no power was cut: it is there for the next process."""
    root = folder / "root"
    root.mkdir()
    killed = live(monkeypatch, root / "run", Exits(at, done=1))
    model, calls = record(monkeypatch, root)
    cut_everywhere(monkeypatch, folder, model, calls, undisturbed().ends_with, every, killed.committed)


def test_a_cut_now_and_then(monkeypatch, folder):
    first_life(monkeypatch, folder, EVERY)


@pytest.mark.slow
def test_a_cut_behind_every_call(monkeypatch, folder):
    first_life(monkeypatch, folder, 1)


@pytest.mark.slow
@pytest.mark.parametrize("at", [40, 70, 100])
def test_a_cut_behind_every_call_of_a_resumed_run(monkeypatch, folder, at):
    second_life(monkeypatch, folder, 1, at)


def cut_after_a_failed_flush(monkeypatch, folder, numbers):
    """What a failed flush was to flush may never reach the disk, whatever later flushes say."""
    expected = undisturbed().ends_with
    rng = np.random.default_rng(0)
    for number in numbers:
        root = folder / str(number)
        root.mkdir()
        model, recorder = Model(root), Recorder(number)
        ended = live(monkeypatch, root / "run", recorder)
        assert ended.code in (0, 1, 2), ended.error
        if recorder.flushes < number:
            return
        for call in recorder.calls_made:
            model.apply(*call)
            if call[0] == "committed":
                left = root / "left"
                model.leave(left, rng)
                after = live(monkeypatch, left / "run", Disk())
                assert after.code == 0, f"flush {number}: {after.error}"
                assert after.resumed_at >= call[1], f"flush {number}"
                assert ends_with(left / "run") == expected, f"flush {number}"
                shutil.rmtree(left)


def test_a_flush_fails_and_later_the_power(monkeypatch, folder):
    cut_after_a_failed_flush(monkeypatch, folder, range(4, 200, 6))


@pytest.mark.slow
def test_any_flush_fails_and_later_the_power(monkeypatch, folder):
    cut_after_a_failed_flush(monkeypatch, folder, range(1, 200))
