"""Tiny runs that learn, what they end with, and stand-ins for the `os` of t3d.storage.disk that let calls fail."""

import errno
import functools
import hashlib
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

import t3d
from t3d import presets
from t3d.env_spec import EnvSpec
from t3d.errors import Stopped
from t3d.runs import replay_log
from t3d.runs.session import Session
from t3d.runs.store import Store
from t3d.runs.tensorboard import TensorBoard
from t3d.storage import disk

WALK = f"{Path(__file__).parents[1] / 'own_envs.py'}:Walk"
# Hundreds of these are made. Dear are the updates, the number of tensors, and what is looked at with each log line.
TINY = {
    "engine": "eager",
    "threads": 1,
    "steps": 45,
    "random_steps": 24,
    "updates_per_step": 0.5,
    "batch_size": 4,
    "buffer_size": 32,  # goes round before the end
    "hidden": (3,),
    "checkpoint_every": 15,
    "eval_every": 1_000,
    "eval_episodes": 1,
    "log_every": 1_000,
}


@contextmanager
def folder_in_memory():
    """Make a folder in memory where there is such a thing: thousands of files come and go."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="t3d-crash-", dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


def newest(run):
    """Return the newest checkpoint's folder."""
    found = [path for path in (run / "checkpoints").iterdir() if path.suffix != ".new"]
    return max(found, key=lambda path: json.loads((path / "manifest.json").read_text())["number"])


def ends_with(run):
    """Return a digest of everything a run has learned and seen: state, policies, rows. Not wall times and events."""
    seen = hashlib.sha256((newest(run) / "state.safetensors").read_bytes())
    facts = json.loads((newest(run) / "manifest.json").read_text())
    for name in ("failed_at", "failed_times"):
        del facts["progress"][name]
    seen.update(json.dumps([facts["trainer"], facts["progress"]]).encode())
    for path in sorted((run / "policy").iterdir()):
        seen.update(path.name.encode() + path.read_bytes())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["wall_s"], row["crc32"]
    seen.update(json.dumps([row for row in rows if row["kind"] != "event"]).encode())
    return seen.hexdigest()


def check_tidy(run):
    """Nothing begun is left, and the replay memory's files are those that the newest checkpoint tells of."""
    assert not list(run.rglob("*.new"))
    facts = json.loads((newest(run) / "manifest.json").read_text())
    told = {segment["name"]: segment["bytes"] for segment in facts["replay"]["segments"]}
    there = {path.name: path.stat().st_size for path in (run / "replay").iterdir()}
    assert {name: told.get(name) for name in there} == there


class Ended:
    """How a life of a run ended: its exit code, what it had committed, and where it had begun."""

    def __init__(self):
        self.code = 0
        self.error = None
        self.began = False  # or refused before
        self.committed = -1  # env steps
        self.resumed_at = -1


class Gone(BaseException):
    """The process is no more: nothing that it would have done after this happens."""


@contextmanager
def watched(monkeypatch, stand_in, ended):
    """Let a run's disk be the stand-in, and note what it commits."""
    commit, restore, due = Store.commit, Store.restore, Store.due

    def noting_commit(self, trainer, progress):
        done = commit(self, trainer, progress)
        if done:
            ended.committed = trainer.env_steps
            getattr(stand_in, "committed", lambda _: None)(trainer.env_steps)
        return done

    def noting_restore(self, trainer, progress):
        ended.resumed_at = restore(self, trainer, progress)
        return ended.resumed_at

    def noting_due(self, env_steps):
        ended.began = True
        return due(self, env_steps)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "os", stand_in)
        patch.setattr(replay_log, "_SEGMENT_BYTES", 700)  # a new segment for every block or two
        for name in ("add", "resumed"):  # its files are written by threads of its own
            patch.setattr(TensorBoard, name, lambda *_: None)
        patch.setattr(Store, "commit", noting_commit)
        patch.setattr(Store, "restore", noting_restore)
        patch.setattr(Store, "due", noting_due)
        yield


@functools.cache
def chosen(**options):
    return presets.choose(EnvSpec(WALK), None, {**TINY, **options})


def live(monkeypatch, run, stand_in, **options):
    """Begin or continue the tiny run on a disk; return how that ended."""
    ended = Ended()
    with watched(monkeypatch, stand_in, ended):
        try:
            for _ in Session(EnvSpec(WALK), chosen(**options), run, resume=True).run():
                pass
        except Gone:
            ended.code = -9
        except (t3d.T3DError, Stopped) as error:
            ended.code, ended.error = error.exit_code, error
    return ended


class Undisturbed(NamedTuple):
    """A run whose disk always works."""

    ends_with: str
    calls: int  # that change the disk


@functools.cache
def undisturbed(**options):
    """Return what the tiny run comes to, made once for each set of options."""
    disk = Disk()
    with folder_in_memory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        assert live(monkeypatch, folder / "run", disk, **options).code == 0
        return Undisturbed(ends_with(folder / "run"), disk.calls)


class Disk:
    """A disk on which everything works. Its fsync waits for nothing: no power is cut here."""

    COUNTED = ("open", "write", "fsync", "ftruncate", "replace", "mkdir", "unlink", "rmdir")

    def __init__(self):
        self.calls = 0

    def __getattr__(self, name):
        if name in self.COUNTED:
            return lambda *arguments: self.call(name, arguments)
        return getattr(os, name)

    def call(self, name, arguments):
        if name == "open" and not arguments[1] & os.O_CREAT:
            return self.do(name, arguments)  # it changes nothing
        self.calls += 1
        return self.counted(name, arguments)

    def counted(self, name, arguments):
        return self.do(name, arguments)

    def do(self, name, arguments):
        return None if name == "fsync" else getattr(os, name)(*arguments)


def _error(number, arguments):
    return OSError(number, os.strerror(number), str(arguments[0]))


class Fails(Disk):
    """Some calls fail, with an error number, and do nothing.

    Args:
        at: the first of them, counted from 1.
        number: of the error.
        times: how many.
    """

    def __init__(self, at, number, times=1):
        super().__init__()
        self._failing, self._number = range(at, at + times), number

    def counted(self, name, arguments):
        if self.calls in self._failing:
            raise _error(self._number, arguments)
        return self.do(name, arguments)


class Full(Disk):
    """From some call on there is no room for anything new; removing works."""

    def __init__(self, at):
        super().__init__()
        self._at = at

    def counted(self, name, arguments):
        if self.calls >= self._at and name in ("open", "write", "mkdir"):
            raise _error(errno.ENOSPC, arguments)
        return self.do(name, arguments)


class Short(Disk):
    """From some call on the first write stops half-way, and then there is no room."""

    def __init__(self, at):
        super().__init__()
        self._at, self._halves = at, 0

    def counted(self, name, arguments):
        if self.calls >= self._at and name == "write" and self._halves < 2:
            self._halves += 1
            if self._halves == 2:
                raise _error(errno.ENOSPC, arguments)
            return os.write(arguments[0], bytes(arguments[1][: len(arguments[1]) // 2]))
        return self.do(name, arguments)


class Exits(Disk):
    """The process is gone in a call.

    Args:
        at: which.
        done: how much of it still happens: 0, 0.5 (of a write) or 1.
    """

    def __init__(self, at, done):
        super().__init__()
        self._at, self._done = at, done

    def call(self, name, arguments):
        if self.calls >= self._at:
            raise Gone
        return super().call(name, arguments)

    def counted(self, name, arguments):
        if self.calls < self._at:
            return self.do(name, arguments)
        if self._done == 1:
            self.do(name, arguments)
        elif self._done and name == "write":
            os.write(arguments[0], bytes(arguments[1][: int(len(arguments[1]) * self._done)]))
        raise Gone
