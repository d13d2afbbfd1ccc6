"""Environments that are odd as real simulators are odd, each in one way. Used as "path/to/odd_envs.py:Class"."""

import asyncio
import os
import signal
import sys
import tempfile
import warnings

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Sequence, Tuple
from own_envs import FAILS_AT, Walk


class Odd(Walk):
    """Is odd when its step FAILS_AT is reached, in its second episode."""

    def reward(self):
        if self.steps_ever == FAILS_AT:
            self.be_odd()
        return super().reward()

    def be_odd(self):
        pass


class SysExit(Odd):
    """The window was closed, the server is gone."""

    def be_odd(self):
        sys.exit()


class SysExitWhenMade(Walk):
    def __init__(self):
        sys.exit("no licence")


class Interrupted(Odd):
    def be_odd(self):
        raise KeyboardInterrupt


class Cancelled(Odd):
    """Behind it is a client written with asyncio."""

    def be_odd(self):
        raise asyncio.CancelledError


class UnspeakableError(Exception):
    def __str__(self):
        raise UnicodeError


class Unspeakable(Odd):
    def be_odd(self):
        raise UnspeakableError


class Talkative(Odd):
    def be_odd(self):
        raise RuntimeError("first words, " + 200_000 * "blah " + "last words")


class CloseRaises(Walk):
    """As of viewers that were never opened."""

    def close(self):
        raise AttributeError("'NoneType' object has no attribute 'finish'")


class CloseExits(Walk):
    def close(self):
        sys.exit()


class TakesSignals(Walk):
    """A library behind it sets its own handlers, whenever an episode begins."""

    def reset(self, **options):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        return super().reset(**options)


class Latin1(Walk):
    """Prints bytes that are no UTF-8."""

    def step(self, action):
        os.write(2, b"temp\xe9rature 21 \xb0C\n")
        return super().step(action)

    def render(self):
        os.write(2, b"couleur \xe9\n")
        raise OSError("the camera is unplugged")


class ChangesTheProcess(Walk):
    """Sets PyTorch, NumPy and Python up for a network of its own, for good."""

    def reset(self, **options):
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.inference_mode(True).__enter__()
        torch.set_num_threads(3)
        np.seterr(all="raise")
        warnings.simplefilter("error")
        return super().reset(**options)


class Float16Actions(Walk):
    """Its bounds lie between two numbers of its own kind."""

    action_space = Box(-0.1, 0.3, (3,), np.float16)


class Float64Actions(Walk):
    action_space = Box(-0.1, 0.3, (3,), np.float64)


class KeepsItsObservation(Walk):
    """Hands out the same array every time, and writes into it."""

    def see(self):
        return self.at


class OldReset(Walk):
    def reset(self):
        return super().reset(seed=None)


class OldStep(Walk):
    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated or truncated, info


class OldFirst(Walk):
    def reset(self, **options):
        return super().reset(**options)[0]


class Forks(Odd):
    """A helper of its own outlives it, and holds whatever this process had open."""

    def be_odd(self):
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", "20"])
        os._exit(3)


class FloatFrames(Walk):
    def render(self):
        return super().render() / 255


class ChangesFolder(Walk):
    """Goes where its own files are."""

    def reset(self, **options):
        os.chdir(tempfile.gettempdir())
        return super().reset(**options)


class Paced(Walk):
    """Twelve steps an episode."""

    limit = 12


class Goal(Walk):
    """Observations as of robots with a goal: a Dict, of which one part is a Tuple of two vectors."""

    observation_space = Dict(
        {
            "observation": Box(-np.inf, np.inf, (2, 2), np.float64),
            "achieved": Box(-9, 9, (1,), np.float32),
            "goal": Tuple((Box(-9, 9, (2,), np.float32), Box(-9, 9, (), np.float64))),
        }
    )

    def see(self):
        at = self.at
        return {"observation": at.reshape(2, 2), "achieved": np.float32(at[:1]), "goal": (np.float32(at[1:3]), at[3])}


class LosesAPart(Goal):
    def see(self):
        seen = super().see()
        if self.steps == 5:
            del seen["achieved"]
        return seen


class SlashInAKey(Walk):
    observation_space = Dict({"a/b": Box(-1, 1, (4,))})


class NoEnd(Walk):
    observation_space = Sequence(Box(-1, 1, (4,)))


class SharedWorld(Walk):
    """All instances of a process drive one simulator."""

    world = np.zeros(4)
    clock = [0]  # noqa: RUF012

    def reset(self, **options):
        seen, info = super().reset(**options)
        self.world[:], self.clock[0] = seen, 0
        return self.world.copy(), info

    def step(self, action):
        self.world[:3] += action
        self.clock[0] += 1
        return self.world.copy(), -float(abs(self.world).sum()), False, self.clock[0] == 20, {}


class SharedWorldThatRaises(SharedWorld):
    """And misses what another instance has cleared away."""

    owner = [None]  # noqa: RUF012

    def reset(self, **options):
        self.owner[0] = self
        return super().reset(**options)

    def step(self, action):
        if self.owner[0] is not self:
            raise IndexError("index 0 is out of bounds for axis 0 with size 0")
        return super().step(action)
