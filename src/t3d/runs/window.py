"""A window in which a run's newest policy plays in real time, while the run goes on or afterwards."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from t3d.env_spec import EnvSpec
from t3d.environments.in_process import Broken, Instances
from t3d.errors import ConfigRefused, RunRefused, printable
from t3d.formats import RunRecord
from t3d.frames import Stacks
from t3d.policy.policy import Policy
from t3d.runs import run_folder
from t3d.runs.policies import Which, environment_of, policy_of_run, recorded_in
from t3d.runs.signals import Signals
from t3d.runs.video import MOST_FPS, as_pictures, pace_of, rendered
from t3d.td3 import TD3
from t3d.training.evaluation import patience, within_bounds
from t3d.training.randomness import evaluation_seed


class Played(NamedTuple):
    """An episode that was shown to its end."""

    episode: int  # counted from 0; its seed is that of the evaluation episode of this number
    env_steps: int  # that its policy had trained for
    episode_return: float
    length: int


def watch(run: Path, *, env: EnvSpec | None = None, algorithm: type[TD3] | None = None) -> Generator[Played]:
    """Play a run's newest policy in a window until that is closed; a newer one is taken between two episodes.

    Nothing in the run folder is written or locked, and nothing is drawn from the training's random streams.

    Args:
        run: the run folder.
        env: the environment, where it is not an installed suite's id alone.
        algorithm: the class that trained it, where it plays with a network of the caller's own.

    Yields:
        Each episode that was played to its end.

    Raises:
        ConfigRefused: there is no screen, or pygame is not installed.
        RunRefused: it is no run folder, or has no policy yet.
        EnvFailed, VideoFailed: the environment fails, or draws no frames.
        Stopped: a signal asked for it.
    """
    record = recorded_in(run)
    spec = environment_of(record, env)
    policies = _Newest(run, record, algorithm)
    policies.take()
    limit = patience(record.config)
    with Signals() as signals, contextlib.closing(_Window(printable(spec.title))) as window:
        instances = Instances(spec, 1, render=True)
        try:
            for episode in itertools.count():
                policy = policies.take()
                seed = evaluation_seed(record.config.seed, episode)
                pace = pace_of(instances.envs[0], spec)
                for played in _episode(instances, pace, limit, policy, episode, seed, window):
                    signals.stop_here()
                    if window.is_closed:
                        return
                    if played is not None:
                        yield played
        except Broken as broken:
            raise broken.failed from broken.__cause__
        finally:
            instances.close()


class _Newest:
    """The newest policy of a run: the last one, or before there is one that of the start."""

    def __init__(self, run: Path, record: RunRecord, algorithm: type[TD3] | None) -> None:
        self._run, self._record, self._algorithm = run, record, algorithm
        self._seen: tuple[Path, int, int] | None = None
        self._policy: Policy | None = None

    def take(self) -> Policy:
        """Return it, read anew if it is another file than before."""
        which: Which = "last" if run_folder.policy_path(self._run, "last").exists() else "start"
        path = run_folder.policy_path(self._run, which)
        if not path.is_file():
            raise RunRefused(
                "this run has no policy yet", got=f"no file {path}", do="wait for the first evaluation, then try again"
            )
        # Written by rename, so another content is another file.
        now = path.stat()
        seen = (path, now.st_ino, now.st_mtime_ns)
        if self._policy is None or seen != self._seen:
            _, self._policy, _ = policy_of_run(self._run, which, self._record, self._algorithm)
            self._seen = seen
        return self._policy


def _episode(
    instances: Instances, pace: float, limit: int, policy: Policy, episode: int, seed: int, window: _Window
) -> Generator[Played | None]:
    """Play one episode, frame by frame in real time; what was played comes with the last of them."""
    env, rows, spaces = instances.envs[0], instances.rows, instances.spaces
    act = within_bounds(policy.act, policy.info.spaces, spaces)
    every = max(1, math.ceil(pace / MOST_FPS))
    after, total = f"policy after {policy.info.env_steps:,} steps", 0.0
    instances.begin_reset(0, seed, anew=False)
    stacks = Stacks(spaces, 1)
    stacks.begin(rows.obs, np.ones(1, bool))
    window.show(rendered(env), after)
    yield None
    for step in itertools.count(1):
        action = spaces.to_env_units(act(stacks.seen(rows.obs)))
        instances.begin_step(0, action.reshape(spaces.action_shape))
        stacks.push(rows.obs)
        total += float(rows.reward[0])
        over = bool(rows.terminated[0] or rows.truncated[0]) or step >= limit
        if step % every == 0 or over:
            window.wait(every / pace)
            window.show(rendered(env), f"{after}, episode {episode + 1}, return {total:,.1f}")
            yield Played(episode, policy.info.env_steps, total, step) if over else None
        if over:
            return


class _Window:
    """A window of pygame's, which shows one picture at a time."""

    def __init__(self, title: str) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        # Accelerated, SDL takes OpenGL's context from MuJoCo's renderer, which then draws black frames, or fails.
        os.environ["SDL_FRAMEBUFFER_ACCELERATION"] = "0"
        try:
            import pygame
        except ImportError as error:
            raise ConfigRefused("a window needs pygame", do='pip install "t3d[watch]"') from error
        self._pygame, self._title, self._due = pygame, title, time.monotonic()
        self.is_closed = False
        problem = "its driver draws nothing"
        with contextlib.suppress(pygame.error):
            pygame.display.init()
        if not pygame.display.get_init():
            problem = pygame.get_error()
        elif pygame.display.get_driver() not in ("dummy", "offscreen"):
            return
        raise ConfigRefused(
            "there is no screen to open a window on",
            got=f"{problem}; DISPLAY is {os.environ.get('DISPLAY') or 'not set'}",
            do="run it where there is a screen, or film the policy with t3d video",
        )

    def show(self, frame: NDArray[np.generic], caption: str) -> None:
        """Show a frame, (H, W, 3) as an environment draws it, under a caption; look whether the window is closed."""
        picture = as_pictures([frame])[0].swapaxes(0, 1)  # (W, H, 3)
        display = self._pygame.display
        screen = display.get_surface()
        if screen is None or screen.get_size() != picture.shape[:2]:
            screen = display.set_mode(picture.shape[:2])
        display.set_caption(f"{self._title}: {caption}")
        self._pygame.surfarray.blit_array(screen, picture)
        display.flip()
        self.is_closed = self.is_closed or any(event.type == self._pygame.QUIT for event in self._pygame.event.get())

    def wait(self, seconds: float) -> None:
        """Wait until so long after the last frame; what is late is not made up for."""
        now = time.monotonic()
        self._due = max(self._due + seconds, now)
        time.sleep(self._due - now)

    def close(self) -> None:
        """Close it."""
        self._pygame.display.quit()
