"""Entry point of the command `t3d`."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import sys
import traceback
from collections.abc import Iterator
from typing import TextIO

from t3d.errors import EnvFailed, Stopped, T3DError

_COMMANDS = {
    "train": "train a policy in an environment",
    "sweep": "train every combination of some options' values, and compare them",
    "tune": "search for better options, and say whether they are",
    "track": "send a run's numbers to Weights & Biases or MLflow",
    "resume": "continue a run from its newest checkpoint",
    "evaluate": "play a trained policy and count its returns",
    "video": "film a trained policy",
    "watch": "watch a run's newest policy play, in a window",
    "export": "write a policy as a controller for other programs: ONNX, C, NumPy",
    "report": "put curves, intervals, published returns and the video of runs on one page",
    "explain": "take a batch of a run through the steps of TD3, on one page",
    "bench": "measure how fast t3d trains here",
    "check": "look at an environment before training in it",
}
_INTERRUPTED = 130


def main() -> None:
    """Run one command and exit with its code: 0 done, 1 failed while running, 2 refused, 128 + a signal's number."""
    sys.stdout, sys.stderr = _Words.over(sys.stdout), _Words.over(sys.stderr)
    sys.exit(run(sys.argv[1:]))


class _Words(io.TextIOWrapper):
    """Standard output or error, for a terminal that may lack a sign, as plus or minus, or be closed during a run."""

    @classmethod
    def over(cls, stream: TextIO) -> TextIO:
        """Return a stream in the place of one of the system's, or that itself if it is none of these."""
        if not isinstance(stream, io.TextIOWrapper):
            return stream
        encoding, lines, unbuffered = stream.encoding, stream.line_buffering, stream.write_through
        return cls(stream.detach(), encoding, "replace", line_buffering=lines, write_through=unbuffered)

    def write(self, text: str) -> int:
        with self._heard():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._heard():
            super().flush()

    @contextlib.contextmanager
    def _heard(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno != errno.EIO:  # the terminal is gone; SIGHUP, if it comes, ends the run
                raise


def run(arguments: list[str]) -> int:
    """Run one command.

    Args:
        arguments: as they stand behind `t3d`.

    Returns:
        The exit code.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("t3d"))
        return 0
    if arguments[0] not in _COMMANDS:
        print(f"t3d: there is no command {arguments[0]!r}\n\n{_help()}", file=sys.stderr)
        return 2
    if sys.stderr.isatty() and not {"-h", "--help"} & set(arguments):
        print("loading ...", file=sys.stderr, flush=True)  # what is imported now takes seconds on a slow disk
    command = importlib.import_module(f"t3d.cli.{arguments[0]}")
    try:
        return command.main(arguments[1:]) or 0  # one that has looked, and found what is wrong, returns 1
    except T3DError as error:
        if isinstance(error, EnvFailed) and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        print(f"t3d: {error}", file=sys.stderr)
        return error.exit_code
    except Stopped as error:
        print(f"t3d: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("t3d: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _help() -> str:
    rows = "\n".join(f"  {name:<10}{text}" for name, text in _COMMANDS.items())
    return f"usage: t3d COMMAND ...\n\ncommands:\n{rows}\n\nt3d COMMAND --help tells more."
