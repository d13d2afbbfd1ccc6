"""Films drawn in this process: the child that `t3d.runs.video` starts imports PyTorch, seconds each time.

For tests of which films are made and what is done with them; tests/test_video.py has the child itself.
"""

from contextlib import contextmanager

import pytest

from t3d.runs import video as film


def _run(command, variables, between):
    film.main(command[command.index("t3d.runs.video") + 1 :])
    between()


@contextmanager
def films_here():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(film, "_run", _run)
        yield
