"""Real processes that run `t3d`, for tests that kill them: what `crash_server.py` is asked for, and how."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from crash_server import PHASES

# Longer than anything takes here; a process that hangs ends a test, not the suite.
LIMIT_S = 120


def flags(options):
    """Return a configuration as it is typed."""
    words = []
    for name, value in options.items():
        values = value if isinstance(value, tuple) else () if value is True else (value,)
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return [*words, "--no-video"]


class Life:
    """A process that runs a command."""

    def __init__(self, server, arguments, folder):
        number = len(list(folder.glob("*.phase")))
        self._server = server
        self._said, self._phase = folder / f"{number}.said", folder / f"{number}.phase"
        self._phase.write_bytes(b"\0")
        self.pid = server.ask(arguments=arguments, said=str(self._said), phase=str(self._phase))

    @property
    def phase(self):
        return PHASES[self._phase.read_bytes()[0]]

    @property
    def said(self):
        return self._said.read_text()

    @property
    def over(self):
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    def until(self, holds):
        """Wait until something holds; return whether it does: not if the process is over."""
        end = time.monotonic() + LIMIT_S
        while not holds():
            if self.over:
                return False
            assert time.monotonic() < end, self.said
            time.sleep(0.001)
        return True

    def send(self, name):
        os.kill(self.pid, signal.Signals[name])

    def wait(self, limit_s=LIMIT_S):
        """Wait for its end, and return its exit code."""
        end = time.monotonic() + limit_s
        while not self.over:
            if time.monotonic() > end:
                self.send("SIGKILL")
                self._server.ask(wait=self.pid)
                raise AssertionError(f"not over after {limit_s} s\n{self.said}")
            time.sleep(0.001)
        return self._server.ask(wait=self.pid)


class Server:
    """A process that has imported everything and forks."""

    def __init__(self):
        path = Path(__file__).with_name("crash_server.py")
        self._process = subprocess.Popen(
            [sys.executable, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._folder = tempfile.TemporaryDirectory()
        assert self._process.stdout.readline() == "ready\n"

    def ask(self, **what):
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, *arguments):
        return Life(self, list(map(str, arguments)), Path(self._folder.name))

    def close(self):
        self._process.stdin.close()
        assert self._process.wait(LIMIT_S) == 0
        self._process.stdout.close()
        self._folder.cleanup()
