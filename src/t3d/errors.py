"""What can go wrong, as one tree.

T3DError
├── Refused              before anything began; the command exits with 2
│   ├── ConfigRefused    an option, or a combination of options, is impossible
│   ├── EnvRefused       the environment does not exist, or TD3 cannot act in it
│   ├── RunRefused       a run folder or policy is missing, taken or unreadable
│   └── FormatRefused    a run is whole, and was written by a version of t3d that this one does not know
└── Failed               while running; what was learned is saved; the command exits with 1
    ├── EnvFailed        the environment raised, or returned what it may not
    ├── Diverged         the networks' numbers are no longer finite
    ├── SaveFailed       the run's state could not be written
    ├── VideoFailed      nothing on this machine could draw the environment
    └── ExportFailed     an exported controller does not do what the policy does; nothing is left of it

KeyboardInterrupt
└── Stopped              a signal asked for it, and what was learned is saved; the command exits with 128 + its number
"""

from __future__ import annotations

import re

# Of a whole message, and of each of its parts: messages are kept in files, and somebody has to read them.
_MOST_CHARACTERS, _MOST_OF_A_PART = 5_000, 2_000


def printable(text: str) -> str:
    """Return text whose control characters are spelled out: what a stranger's file says may be shown in a terminal.

    What stands for a byte that is no text, as in a file's name, becomes a question mark: no file could hold it.
    """
    spelled_out = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda match: repr(match[0])[1:-1], text)
    return spelled_out.encode("utf-8", "replace").decode()


def shortened(text: str, most: int = _MOST_OF_A_PART) -> str:
    """Return a text's first and last part, and how much was left out between them, where it is longer than `most`."""
    if len(text) <= most:
        return text
    first, last = most * 2 // 3, most // 3
    return f"{text[:first]} ... ({len(text) - first - last:,} characters left out) ... {text[-last:]}"


def message_of(error: BaseException) -> str:
    """Return an exception's class and message. The message is its author's code, which may raise as well."""
    try:
        text = str(error)
    except Exception as raised:  # noqa: BLE001 - whatever it was, the exception itself is what matters
        text = f"(asked for its message it raises {type(raised).__name__})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class T3DError(Exception):
    """Say what is wrong, what was got, what was expected and what to do about it.

    Args:
        what: one sentence, without a full stop.
        got: the offending value, in the user's terms.
        expected: what would have been accepted.
        do: the next thing to try.
    """

    exit_code = 1

    def __init__(self, what: str, *, got: str = "", expected: str = "", do: str = "") -> None:
        self.what = shortened(what)
        parts = ("got", got), ("expected", expected), ("do", do)
        self.rows = {label: shortened(text) for label, text in parts if text}
        lines = [f"  {label + ':':<10}{text}" for label, text in self.rows.items()]
        super().__init__(printable("\n".join([self.what, *lines])))

    def one_line(self) -> str:
        """Return the whole message on one line, which is cut where nobody would read on: it is kept in files."""
        return shortened(" | ".join(" ".join(line.split()) for line in str(self).splitlines()), _MOST_CHARACTERS - 50)

    def what_and_got(self) -> str:
        """Return what was wrong on one line, for where nothing more needs to be done about it."""
        return printable(" ".join(f"{self.what}: {self.rows['got']}".split()))


class Refused(T3DError):
    """Refuse before any time is lost."""

    exit_code = 2


class ConfigRefused(Refused):
    """Refuse an impossible option."""


class EnvRefused(Refused):
    """Refuse an environment that does not exist or that TD3 cannot act in."""


class RunRefused(Refused):
    """Refuse a run folder or policy that is missing, taken or unreadable."""


class FormatRefused(Refused):
    """Refuse what another version of t3d has written: nothing is wrong with it."""


class Failed(T3DError):
    """Stop while running, after saving what was learned."""


class EnvFailed(Failed):
    """Report an environment that raised or returned what it may not."""


class Diverged(Failed):
    """Report losses or weights that are no longer finite."""


class SaveFailed(Failed):
    """Report a state that could not be written, or not to the end."""


class VideoFailed(Failed):
    """Report that nothing on this machine could draw the environment."""


class ExportFailed(Failed):
    """Report an exported controller that does not do what the policy does."""


class Stopped(KeyboardInterrupt):
    """Stop because of a signal, between two steps.

    Args:
        signal: its name.
        exit_code: what the command exits with.
    """

    def __init__(self, signal: str, exit_code: int) -> None:
        super().__init__(f"stopped by {signal}")
        self.exit_code = exit_code
        self.saved_in = ""  # the run folder, once the state is there

    def sentence(self) -> str:
        """Return what a script that was stopped has to say."""
        saved = (
            f'; everything is saved in {self.saved_in}, and resume="auto" goes on from there' if self.saved_in else ""
        )
        return printable(f"t3d: {self}{saved}")

    def _render_traceback_(self) -> list[str]:  # a notebook shows this in the place of a traceback
        return [self.sentence()]
