"""Films drawn in this process: the child that `t3d.runs.video` starts imports PyTorch, seconds each time.

For tests of which films are made and what is done with them; tests/test_video.py has the child itself.
"""

from contextlib import contextmanager

import pytest

from t3d.runs import video


def _run(command, variables, between):
    video.main(command[command.index("t3d.runs.video") + 1 :])
    between()


@contextmanager
def films_here():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video, "_run", _run)
        yield
