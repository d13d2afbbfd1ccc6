"""Film a policy: one episode as an mp4, drawn in a child process, since a failed renderer can abort its process."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t3d.address import address_of, object_at
from t3d.env_spec import EnvSpec
from t3d.environments.in_process import Broken, Instances
from t3d.environments.make import Env
from t3d.errors import ConfigRefused, Refused, T3DError, VideoFailed, message_of
from t3d.frames import Stacks
from t3d.policy import policy
from t3d.storage import disk
from t3d.td3 import TD3
from t3d.training.evaluation import within_bounds
from t3d.training.randomness import evaluation_seed

_TIMEOUT_S = 600
_LAST_WORDS, _MOST_WORDS = 20_000, 100_000_000
# So that a report can show two films as they are, 600 kB for 300 frames, 480 wide, and some small ones side by side.
_WIDTH, _FRAMES, _FRAME_BYTES = 480, 300, 2_000
SMALL_WIDTH, SMALL_FRAMES, _SMALL_BYTES = 288, 150, 110_000
MOST_FPS = 60
# How far libx264 compresses, from hardly seen to its limit.
_CRFS = (20, 26, 32, 38, 44, 51)


def film(
    env: EnvSpec,
    policy_file: Path,
    out: Path,
    *,
    seed: int,
    frames: int,
    limit: int,
    small: bool = False,
    between: Callable[[], None] = lambda: None,
    algorithm: type[TD3] | None = None,
) -> None:
    """Write a video of the first evaluation episode.

    Args:
        env: which environment.
        policy_file: a policy's .safetensors.
        out: the mp4 to write.
        seed: the run's seed.
        frames: at most so many, at the environment's own pace.
        limit: the env steps after which an evaluation's episode is cut.
        small: to stand beside others.
        between: called some times a second; what it raises ends the filming.
        algorithm: the class that the policy was trained by, where it plays with a network of its own.

    Raises:
        VideoFailed: PyAV is missing, no renderer works here, or another process finds the environment or the class
            nowhere.
    """
    if importlib.util.find_spec("av") is None:
        raise VideoFailed("PyAV is not installed", do='pip install "t3d[video]"')
    try:
        env.refuse_unnamed("the process that films", "go without a film")
        address = "" if algorithm is None else address_of(algorithm)
    except ConfigRefused as error:
        raise VideoFailed(error.what, **error.rows) from error
    disk.make_folder(out.parent)
    command = [sys.executable, "-P", "-m", "t3d.runs.video"]
    # The environment may change the child's working directory.
    command += [json.dumps(env.as_json()), str(policy_file.absolute()), str(out.absolute())]
    command += [str(seed), str(frames), str(limit), "small" if small else "", address]
    problems = []
    for variables in _renderers():
        variables = {**os.environ, **variables}
        problem = _run(command, variables, between)
        if problem is None and out.is_file():
            return
        problems.append(f"{problem} (MUJOCO_GL={variables.get('MUJOCO_GL')})")
    raise VideoFailed(
        "nothing on this machine could draw the environment",
        got="; ".join(problems),
        do="unset MUJOCO_GL, then t3d video RUN"
        if "MUJOCO_GL" in os.environ
        else "on Debian or Ubuntu: apt-get install libegl1 libgl1-mesa-dri, then t3d video RUN",
    )


def _run(command: list[str], variables: dict[str, str], between: Callable[[], None]) -> str | None:
    """Run the child process. Return its last words if it failed."""
    # The child finds modules where this process does, and nowhere else.
    variables = {**variables, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    with tempfile.TemporaryFile() as words:
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and module; arguments reach no shell
            command, env=variables, stdin=subprocess.DEVNULL, stdout=words, stderr=words
        )
        end = time.monotonic() + _TIMEOUT_S
        try:
            while child.poll() is None and time.monotonic() < end:
                between()
                if os.fstat(words.fileno()).st_size > _MOST_WORDS:
                    return f"it printed more than {_MOST_WORDS:,} bytes"
                time.sleep(0.05)
            if child.returncode is None:
                return f"not done after {_TIMEOUT_S} s"
        finally:
            child.kill()
            child.wait()
        # An environment may print what is no text, and much of it.
        words.seek(max(0, words.seek(0, os.SEEK_END) - _LAST_WORDS))
        output = words.read().decode(errors="replace").strip()
    if child.returncode == 0:
        return None
    if child.returncode == Refused.exit_code and "MUJOCO_GL" not in output:
        raise VideoFailed("the environment cannot be drawn", got=output)
    return (output.splitlines() or [f"exit code {child.returncode}"])[-1]


def _renderers() -> list[dict[str, str]]:
    # pygame draws without a screen, whatever the display. MuJoCo reads MUJOCO_GL at its first frame.
    headless = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy", "PYGAME_HIDE_SUPPORT_PROMPT": "1"}
    if "MUJOCO_GL" in os.environ or sys.platform != "linux":
        return [headless]
    return [headless | {"MUJOCO_GL": gl} for gl in ("egl", "osmesa")]


def _play(
    spec: EnvSpec, policy_file: str, seed: int, frames: int, limit: int, algorithm: type[TD3] | None
) -> tuple[list[NDArray[np.uint8]], Fraction]:
    acting = policy.load(policy_file, algorithm)
    instances = Instances(spec, 1, render=True)
    env, rows, seed = instances.envs[0], instances.rows, evaluation_seed(seed, 0)
    act = within_bounds(acting.act, acting.info.spaces, instances.spaces)
    pace, stacks = pace_of(env, spec), Stacks(instances.spaces, 1)
    # A film shows at most 60 frames a second, and at least one.
    every, times = max(1, math.ceil(pace / MOST_FPS)), max(1, math.ceil(1 / pace))
    try:
        instances.begin_reset(0, seed, anew=False)
        stacks.begin(rows.obs, np.ones(1, bool))
        drawn, steps, over = [rendered(env)], 0, False
        while len(drawn) * times < frames and not over:
            action = instances.spaces.to_env_units(act(stacks.seen(rows.obs)))
            instances.begin_step(0, action.reshape(instances.spaces.action_shape))
            stacks.push(rows.obs)
            steps += 1
            over = bool(rows.terminated[0] or rows.truncated[0]) or steps >= limit
            if steps % every == 0 or over:
                drawn.append(rendered(env))
    except Broken as broken:
        raise VideoFailed(broken.failed.what, **broken.failed.rows) from broken.__cause__
    instances.close()
    repeated = [frame for frame in as_pictures(drawn) for _ in range(times)]
    return repeated[:frames], Fraction(pace * times / every).limit_denominator(1_000)


def pace_of(env: Env, spec: EnvSpec) -> float:
    """Return how many env steps a second of a film shows: what the environment says of its frames, or 30 of these."""
    return float(env.metadata.get("render_fps") or 30) / spec.view.action_repeat


def rendered(env: Env) -> NDArray[Any]:
    """Return a copy of what the environment draws.

    Raises:
        VideoFailed: its own code raised, or it drew no RGB frame.
    """
    try:
        frame = np.array(env.render())
    except NotImplementedError as error:  # of gymnasium.Env, in the place of one of its own
        do = "let it have a render that returns an RGB array"
        raise VideoFailed("the environment has no render", got=type(env.unwrapped).__qualname__, do=do) from error
    except Exception as error:
        # A renderer that is missing says so in its own package's code; the user's own render fails in the user's.
        file = traceback.extract_tb(error.__traceback__)[-1].filename
        if "site-packages" in file:
            raise
        raise VideoFailed("the environment's render raised", got=f"{message_of(error)}, in {file}") from error
    if frame.ndim != 3 or frame.shape[2] < 3 or frame.dtype.kind not in "iuf":
        raise VideoFailed(
            "the environment draws no RGB frames",
            got=f"{frame.dtype}, shape {frame.shape}, render_mode {env.render_mode}",
            do="let what makes it take render_mode, and pass that on" if env.render_mode is None else "see its render",
        )
    # H.264's usual pixel format wants even sides.
    return frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2, :3]


def as_pictures(drawn: list[NDArray[Any]]) -> list[NDArray[np.uint8]]:
    """Return frames as bytes: floats are in [0, 1] or in [0, 255], which the largest of all frames tells.

    Raises:
        VideoFailed: a number is not finite, below 0 or above 255.
    """
    if all(frame.dtype == np.uint8 for frame in drawn):
        return drawn
    low, high = min(frame.min() for frame in drawn), max(frame.max() for frame in drawn)
    if not 0 <= low <= high <= 255:
        raise VideoFailed(
            "the environment draws frames that are no pictures",
            got=f"numbers from {low} to {high}",
            expected="0 to 255, or floats from 0 to 1",
        )
    scale = 255 if high <= 1 and drawn[0].dtype.kind == "f" else 1
    return [np.round(frame * scale).astype(np.uint8) for frame in drawn]


def _write(drawn: list[NDArray[np.uint8]], fps: Fraction, out: Path, *, small: bool = False) -> None:
    """Write frames as an mp4, compressed so far that it fits a page."""
    beside = out.with_name(out.name + ".new")
    most_bytes = _SMALL_BYTES if small else _FRAME_BYTES * max(_FRAMES, len(drawn))
    for crf in _CRFS:
        _encode(drawn, fps, crf, beside, SMALL_WIDTH if small else _WIDTH)
        if beside.stat().st_size <= most_bytes:
            break
    disk.flush(beside)
    disk.rename(beside, out)


def _encode(drawn: list[NDArray[np.uint8]], fps: Fraction, crf: int, path: Path, most_wide: int) -> None:
    import av

    height, width = drawn[0].shape[:2]
    if width > most_wide:
        # H.264's usual pixel format wants even sides.
        height, width = max(2, round(height * most_wide / width / 2) * 2), most_wide
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in drawn:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture.reformat(width, height, "yuv420p")))
        container.mux(stream.encode())


def main(arguments: list[str]) -> None:
    """Draw and write, in the child process."""
    env, policy_file, out, seed, frames, limit, size, address = arguments
    spec, algorithm = EnvSpec.from_json(json.loads(env)), object_at(address) if address else None
    drawn, fps = _play(spec, policy_file, int(seed), int(frames), int(limit), algorithm)
    _write(drawn, fps, Path(out), small=size == "small")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except T3DError as error:
        print(error.one_line(), file=sys.stderr)
        sys.exit(Refused.exit_code)
