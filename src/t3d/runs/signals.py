"""Signals as flags: nothing happens within a step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from t3d.errors import Stopped

_STOP = ("SIGTERM", "SIGINT", "SIGBREAK")
_SAVE = "SIGUSR1"


class Signals:
    """While entered, SIGTERM and SIGINT ask to stop, SIGUSR1 asks to save; a second one to stop leaves at once.

    Python delivers signals to the main thread only: elsewhere they do what they did before.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._stop: signal.Signals | None = None
        self._save = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in (*_STOP, _SAVE):
                if number := getattr(signal, name, None):
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
        if self._stop is not None:
            raise Stopped(self._stop.name, 128 + self._stop.value)
