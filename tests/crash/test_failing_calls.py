"""Every single call that changes the disk fails once, in every way; then the run is resumed and ends as ever."""

import errno
import functools
import json
import shutil

import pytest
from crash_runs import TINY, Disk, Exits, Fails, Full, Short, check_tidy, ends_with, live, undisturbed

MOST_CALLS = 150  # of a resumed run

KINDS = {
    "ENOSPC": functools.partial(Fails, number=errno.ENOSPC),
    "EIO": functools.partial(Fails, number=errno.EIO),
    "EIO twice": functools.partial(Fails, number=errno.EIO, times=2),
    "short write": Short,
    "full from there on": Full,
    "gone before": functools.partial(Exits, done=0),
    "gone within": functools.partial(Exits, done=0.5),
    "gone after": functools.partial(Exits, done=1),
}


def resume(monkeypatch, run, before):
    """Continue a run on a disk that works: nothing that was committed may be missing, and it ends as it must."""
    after = live(monkeypatch, run, Disk())
    assert after.code == 0, after.error
    assert after.resumed_at >= before.committed
    assert ends_with(run) == undisturbed().ends_with
    check_tidy(run)
    events = [row["what"] for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "what" in row]
    assert all(what.startswith(("resumed from", "the run has ended, but", "stopped by")) for what in events), events


def try_calls(monkeypatch, folder, kind, first, every):
    assert undisturbed().calls > 50
    for at in range(first, undisturbed().calls + 1, every):
        run = folder / str(at)
        before = live(monkeypatch, run, KINDS[kind](at))
        if before.code == 0:
            assert not kind.startswith("gone"), "it did not even notice"
            assert ends_with(run) == undisturbed().ends_with, at
        else:
            codes = (-9,) if kind.startswith("gone") else (1,) if before.began else (2,)
            assert before.code in codes, before.error
        try:
            if kind in ("short write", "full from there on"):  # removing works
                assert not list(run.rglob("*.new")), "a failed write left what it had begun"
            resume(monkeypatch, run, before)
        except BaseException as error:
            error.add_note(f"{kind} at call {at}")
            raise
        shutil.rmtree(run)


@pytest.mark.parametrize("number", range(len(KINDS)), ids=list(KINDS))
def test_every_second_call_fails_in_some_way(monkeypatch, folder, number):
    """The ways take turns over every second call: the first fails the first, the next the third, and so on again."""
    try_calls(monkeypatch, folder, list(KINDS)[number], 1 + 2 * number, 2 * len(KINDS))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_call_fails_in_every_way(monkeypatch, folder, kind):
    try_calls(monkeypatch, folder, kind, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["EIO", "full from there on", "gone before", "gone within", "gone after"])
def test_any_call_fails_while_it_is_resumed(monkeypatch, folder, kind):
    half = folder / "half"
    assert live(monkeypatch, half, Exits(undisturbed().calls * 2 // 5, done=0)).code == -9
    for at in range(1, MOST_CALLS + 1):
        run, disk = folder / str(at), KINDS[kind](at)
        shutil.copytree(half, run)
        before = live(monkeypatch, run, disk)
        if disk.calls < at:
            return
        resume(monkeypatch, run, before)
        shutil.rmtree(run)
    raise AssertionError("the resumed run takes too many calls")


def fail_while_damaged(monkeypatch, folder, kind, every):
    """Rows and the best policy are damaged, and a call fails, once more and again, as that is found and settled."""
    half, options = folder / "half", {"eval_every": 11}
    before = live(monkeypatch, half, Exits(undisturbed(**options).calls * 4 // 5, done=0), **options)
    assert before.code == -9
    for file in (half / "metrics.jsonl", half / "policy" / "best.safetensors"):
        content = bytearray(file.read_bytes())
        content[len(content) // 3] ^= 16
        file.write_bytes(content)
    shutil.copytree(half, folder / "whole")
    assert live(monkeypatch, folder / "whole", Disk(), **options).code == 0
    for at in range(1, MOST_CALLS + 1, every):
        run, disk = folder / str(at), KINDS[kind](at)
        shutil.copytree(half, run)
        live(monkeypatch, run, disk, **options)
        if disk.calls < at:
            return
        after = live(monkeypatch, run, Disk(), **options)
        assert after.code == 0, after.error
        assert after.resumed_at >= before.committed
        assert ends_with(run) == ends_with(folder / "whole"), (kind, at)
        check_tidy(run)
        shutil.rmtree(run)
    assert every > 1, "the resumed run takes too many calls"


@pytest.mark.parametrize("kind", ["EIO", "gone after"])
def test_some_call_fails_while_damage_is_settled(monkeypatch, folder, kind):
    fail_while_damaged(monkeypatch, folder, kind, 5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_any_call_fails_while_damage_is_settled(monkeypatch, folder, kind):
    fail_while_damaged(monkeypatch, folder, kind, 1)


def test_a_run_that_is_judged_is_not_over_before_its_last_rows_are_written(monkeypatch, folder):
    """Its last step is one for an evaluation and a checkpoint, and none for an update line: that comes at the end."""
    last_step = {"eval_every": TINY["steps"], "checkpoint_every": TINY["steps"], "buffer_size": 100}
    expected, calls = undisturbed(**last_step)
    for at in range(calls - 35, calls + 1, 5):
        run = folder / str(at)
        assert live(monkeypatch, run, Exits(at, done=1), **last_step).code == -9
        assert live(monkeypatch, run, Disk(), **last_step).code == 0
        assert ends_with(run) == expected, at
