"""Signals as flags: nothing happens within a step."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from t3d.environments.silence import send_nowhere
from t3d.errors import Stopped

_log = logging.getLogger("t3d")
_STOP = ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK")
_SAVE = "SIGUSR1"


def end_scripts_in_a_sentence() -> None:
    """Let a script that is stopped by a signal while it trains end in one sentence, and with the signal's code."""
    if getattr(sys.excepthook, "__module__", "") == __name__:
        return
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, Stopped):
            before(kind, error, trace)
            return
        print(error.sentence(), file=sys.stderr)
        raise SystemExit(error.exit_code)

    sys.excepthook = hook


class Signals:
    """While entered, SIGTERM, SIGINT and SIGHUP ask to stop, SIGUSR1 asks to save; a second one to stop leaves at once.

    Python delivers signals to the main thread only: elsewhere they do what they did before.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._stop: signal.Signals | None = None
        self._save = False
        self._terminals: list[int] = []
        self._replaced = 0  # how often somebody else's handlers were found in our place

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
            for name in (*_STOP, _SAVE):
                number = getattr(signal, name, None)
                # nohup has SIGHUP ignored, and means it.
                if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
                    continue
                self._before[number] = signal.signal(number, self._note_save if name == _SAVE else self._note_stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note_stop(self, number: int, _: FrameType | None) -> None:
        if self._stop is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._stop = signal.Signals(number)
        if self._stop.name == "SIGHUP":
            for descriptor in self._terminals:  # what is still written there would fail
                send_nowhere(descriptor)

    def _note_save(self, _: int, __: FrameType | None) -> None:
        self._save = True

    def take_save(self) -> bool:
        """Return whether saving was asked for since the last call."""
        save, self._save = self._save, False
        return save

    def stop_here(self) -> None:
        """Be a place where it may stop.

        Raises:
            Stopped: a signal has asked for it.
        """
        if any(signal.getsignal(number) not in (self._note_stop, self._note_save) for number in self._before):
            self._put_back()
        if self._stop is not None:
            raise Stopped(self._stop.name, 128 + self._stop.value)

    def _put_back(self) -> None:
        """Take the place again of handlers that an environment, or a library behind it, has set."""
        for number in self._before:
            signal.signal(number, self._note_save if number == getattr(signal, _SAVE, 0) else self._note_stop)
        self._replaced += 1
        if self._replaced == 2:  # once is what libraries do when they start
            _log.warning("the environment keeps replacing t3d's signal handlers; they are put back after every step")
