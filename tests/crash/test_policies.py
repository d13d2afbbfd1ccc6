"""A policy is one file; whenever its run is killed, what is loaded is the policy before or the new one."""

import errno
import functools
import itertools
import shutil

import numpy as np
import pytest
from crash_runs import Disk, Exits, Fails, Full, Gone, Short, live

import t3d
from t3d.env_spec import View
from t3d.formats import PolicyInfo
from t3d.policy.files import encode
from t3d.runs.run_folder import policy_path, write_policy
from t3d.spaces import ObsPart
from t3d.storage import disk

KINDS = {
    "gone before": functools.partial(Exits, done=0),
    "gone within": functools.partial(Exits, done=0.5),
    "gone after": functools.partial(Exits, done=1),
    "EIO": functools.partial(Fails, number=errno.EIO),
    "short write": Short,
    "full from there on": Full,
}
MOST_CALLS = 30


@functools.cache
def policy(number):
    """Return a policy of its own for each number, as `run_folder.policy_of` does."""
    rng, sizes = np.random.default_rng(number), (2, 3, 1)
    shapes = {f"body.{2 * i}.weight": shape[::-1] for i, shape in enumerate(itertools.pairwise(sizes))}
    shapes |= {f"body.{2 * i}.bias": (size,) for i, size in enumerate(sizes[1:])}
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    info = PolicyInfo(
        run="0" * 64,
        env="Own-v0",
        algorithm="TD3",
        architecture="mlp",
        obs=(ObsPart(shape=(2,)),),
        action_shape=(1,),
        action_low=(-1.0,),
        action_high=(1.0,),
        view=View(),
        period_s=None,
        hidden=(3,),
        layer_norm=False,
        embedding=256,
        env_steps=number,
        return_mean=None,
    )
    return encode(info, tensors)


def write(monkeypatch, path, number, stand_in):
    """Write a policy on a disk; return whether that was done to its end."""
    with monkeypatch.context() as patch:
        patch.setattr(disk, "os", stand_in)
        try:
            write_policy(path, policy(number))
        except (Gone, OSError):
            return False
    return True


def files(run):
    return frozenset((path.name, path.read_bytes()) for path in run.glob("policy/*"))


def fail_again(monkeypatch, whole, kind, left, ended_with):
    """Let each call of an attempt fail that begins from what another has left; after that the next one is well."""
    for second in range(1, MOST_CALLS):
        run = shutil.copytree(whole, whole.with_name("run"))
        done = write(monkeypatch, run / "policy" / "best.safetensors", 3, KINDS[kind](second))
        assert t3d.load(run).info.env_steps in ((3,) if done else (left, 3)), second
        if files(run) not in ended_with:
            ended_with.add(files(run))
            assert write(monkeypatch, run / "policy" / "best.safetensors", 4, Disk())
            assert t3d.load(run).info.env_steps == 4
            assert {path.name for path in (run / "policy").iterdir()} == {"best.safetensors"}
        shutil.rmtree(run)
        if done:
            assert second > 3
            return
    raise AssertionError("a policy takes too many calls")


@pytest.mark.parametrize("kind", KINDS)
def test_any_two_calls_fail_and_one_of_the_policies_is_there(monkeypatch, folder, kind):
    """Most first failures leave equal files; what comes after those is tried once."""
    whole, begun_from, ended_with = folder / "whole", set(), set()
    for first in range(1, MOST_CALLS):
        assert write(monkeypatch, whole / "policy" / "best.safetensors", 1, Disk())
        done = write(monkeypatch, whole / "policy" / "best.safetensors", 2, KINDS[kind](first))
        left = t3d.load(whole).info.env_steps
        assert left in ((2,) if done else (1, 2)), first
        if files(whole) not in begun_from:
            begun_from.add(files(whole))
            fail_again(monkeypatch, whole, kind, left, ended_with)
        shutil.rmtree(whole)
        if done:
            assert len(begun_from) > 1, "nothing that failed has left anything"
            return
    raise AssertionError("a policy takes too many calls")


class Watched(Exits):
    """A disk that loads a run's policies around each call on a name of theirs, where their files have changed.

    Args:
        run: the run folder.
        seen: of each policy the env steps last loaded.
        at: the process is gone in this call.
    """

    def __init__(self, run, seen, at=10**9):
        super().__init__(at, done=1)
        self._run, self._seen, self.looks = run, seen, []
        self._files = None  # that were there at the last look

    def call(self, name, arguments):
        concerned = name in ("open", "replace", "unlink") and "policy" in str(arguments[0])
        if concerned:
            self.looks.append(self.calls + 1)
            self.look()
        try:
            return super().call(name, arguments)
        finally:
            if concerned:
                self.look()

    def look(self):
        named = {file for file in files(self._run) if not file[0].endswith(".new")}
        if named == self._files:
            return
        self._files = named
        for which in ("best", "last"):
            try:
                env_steps = t3d.load(policy_path(self._run, which)).info.env_steps
            except t3d.Refused as error:
                assert which not in self._seen, error
            else:
                assert env_steps in (11, 22, 33, 44, 45)
                self._seen[which] = env_steps
        if "best" in self._seen:
            assert t3d.load(self._run).info.env_steps == self._seen["best"]


def test_while_a_run_is_killed_and_resumed_there_is_always_a_policy(monkeypatch, folder):
    often = {"eval_every": 11, "checkpoint_every": 10, "random_steps": 12}
    watched = Watched(folder / "undisturbed", {})
    assert live(monkeypatch, folder / "undisturbed", watched, **often).code == 0
    assert len(watched.looks) >= 30
    for at in watched.looks[::7]:
        seen = {}
        assert live(monkeypatch, folder / str(at), Watched(folder / str(at), seen, at), **often).code == -9
        assert live(monkeypatch, folder / str(at), Watched(folder / str(at), seen), **often).code == 0
        assert seen["last"] == 45
