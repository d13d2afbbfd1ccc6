"""Run `t3d` commands in processes that need no time to import: run as a script it forks one for each line it reads.

A line on stdin is {"arguments": [...], "said": FILE, "phase": FILE}, answered with the process id; or {"wait": PID},
answered with its exit code (minus the signal's number where one ended it).
"""

import json
import mmap
import os
import signal
import sys
import tempfile
import threading
import traceback
from contextlib import contextmanager
from pathlib import Path

PHASES = ("starting", "resuming", "training", "evaluating", "saving", "filming")


def noting(phase, what, into):
    """Return a function that notes in the file which phase the process is in while it runs."""

    def run(*arguments, **options):
        before, into[0] = into[0], PHASES.index(phase)
        try:
            return what(*arguments, **options)
        finally:
            into[0] = before

    return run


def note_phases(path):
    from t3d.runs import policies, session
    from t3d.runs.store import Store

    with Path(path).open("r+b") as file:
        into = mmap.mmap(file.fileno(), 1)
    session.Session._evaluate = noting("evaluating", session.Session._evaluate, into)
    session.Trainer.step = noting("training", session.Trainer.step, into)
    Store.commit = noting("saving", Store.commit, into)
    Store.restore = noting("resuming", Store.restore, into)
    policies.film = noting("filming", policies.film, into)


def live(arguments, said, phase):
    """Be the process that runs a command."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    code = 1
    try:
        note_phases(phase)
        from t3d.cli.main import run

        code = run(arguments)
    except BaseException:  # noqa: BLE001 - whatever it was, these are its last words
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


SMALL = (
    "--steps 8 --random-steps 4 --batch-size 4 --buffer-size 50 --hidden 4 4 --threads 1 --eval-episodes 1 --no-video"
)


def warm_up():
    """Import everything and load the compiled update, by training to the end: seconds that no child spends again."""
    import pybullet_envs_gymnasium.gym_locomotion_envs  # noqa: F401

    from t3d.cli import resume  # noqa: F401
    from t3d.cli.main import run

    with tempfile.TemporaryDirectory() as folder:
        for engine in ("eager", "fused"):
            words = ["train", "InvertedPendulum-v5", *SMALL.split(), "--engine", engine, "--out", f"{folder}/{engine}"]
            assert run(words) == 0
    assert threading.active_count() == 1, "a forked child would lack the others"


@contextmanager
def silent():
    """Keep what is written to the terminal from it, unless something fails."""
    kept = [(stream, os.dup(stream)) for stream in (1, 2)]
    with tempfile.TemporaryFile() as said:
        try:
            for stream, _ in kept:
                os.dup2(said.fileno(), stream)
            yield
            sys.stdout.flush()
            said.truncate(0)
        finally:
            sys.stdout.flush()
            for stream, was in kept:
                os.dup2(was, stream)
                os.close(was)
            said.seek(0)
            os.write(2, said.read())


def serve():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with silent():
        warm_up()
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
        else:
            answer = os.fork()
            if not answer:
                live(**asked)
        answers.write(f"{answer}\n")
        answers.flush()


if __name__ == "__main__":
    serve()
