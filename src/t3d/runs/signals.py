"""Signals as flags: nothing happens within a step."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from t3d.environments.silence import send_nowhere
from t3d.errors import Stopped

_log = logging.getLogger("t3d")
_STOP = ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK")
_SAVE = "SIGUSR1"
_entered: list[Signals] = []  # of several runs in turns each is asked to stop, and each to save
_before: dict[int, Any] = {}  # the handlers in whose place ours are while any is entered


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
        self._stop: signal.Signals | None = None
        self._save = False
        self._terminals: list[int] = []
        self._replaced = 0  # how often somebody else's handlers were found in our place

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
            for name in () if _entered else (*_STOP, _SAVE):
                number = getattr(signal, name, None)
                # nohup has SIGHUP ignored, and means it.
                if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
                    continue
                _before[number] = signal.signal(number, _handler(number))
            _entered.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self in _entered:
            _entered.remove(self)
            for number in () if _entered else list(_before):
                signal.signal(number, _before.pop(number))

    def ask_to_stop(self, number: int) -> None:
        """Note a signal to stop; a second one leaves at once."""
        if self._stop is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._stop = signal.Signals(number)
        if self._stop.name == "SIGHUP":
            for descriptor in self._terminals:  # what is still written there would fail
                send_nowhere(descriptor)

    def ask_to_save(self) -> None:
        """Note a signal to save."""
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
        if self in _entered and any(signal.getsignal(number) is not _handler(number) for number in _before):
            self._put_back()
        if self._stop is not None:
            raise Stopped(self._stop.name, 128 + self._stop.value)

    def _put_back(self) -> None:
        """Take the place again of handlers that an environment, or a library behind it, has set."""
        for number in _before:
            signal.signal(number, _handler(number))
        self._replaced += 1
        if self._replaced == 2:  # once is what libraries do when they start
            _log.warning("the environment keeps replacing t3d's signal handlers; they are put back after every step")


def _handler(number: int) -> Callable[[int, FrameType | None], None]:
    return _on_save if number == getattr(signal, _SAVE, 0) else _on_stop


def _on_stop(number: int, _: FrameType | None) -> None:
    for signals in _entered:
        signals.ask_to_stop(number)


def _on_save(_: int, __: FrameType | None) -> None:
    for signals in _entered:
        signals.ask_to_save()
