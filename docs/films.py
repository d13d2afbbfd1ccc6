"""Show what a study's best policy does: docs/figures/films/<study>.webp, which a page shows as it is.

    python docs/films.py carracing             of its seed 0, in the run folder that benchmarks/learn.py left
    python docs/films.py carracing --seed 2 --frames 250

The film is `t3d video`'s. Git keeps every version of a picture for ever, so it is made small.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import av
import tyro
from results import FILMS, learn

WIDTH, FPS = 200, 20
QUALITY = 35  # of WebP, in percent


def main(study: tyro.conf.Positional[str], seed: int = 0, frames: int = 160) -> None:
    """Film a study's run, and make a small moving picture of it.

    Args:
        study: its name in benchmarks/learn.py.
        seed: which of its runs.
        frames: at most so many.
    """
    run = learn.RUNS / study / f"s{seed}"
    t3d = str(Path(sys.executable).with_name("t3d"))
    subprocess.run([t3d, "video", str(run), "--video-frames", str(frames)], check=True)
    with av.open(str(run / "video" / "best.mp4")) as container:
        drawn = [frame.to_image() for frame in itertools.islice(container.decode(video=0), frames)]
    height = round(drawn[0].height * WIDTH / drawn[0].width)
    small = [frame.resize((WIDTH, height)) for frame in drawn]
    FILMS.mkdir(exist_ok=True)
    out = FILMS / f"{study}.webp"
    small[0].save(
        out, save_all=True, append_images=small[1:], duration=round(1000 / FPS), loop=0, quality=QUALITY, method=4
    )
    print(f"{out}: {len(small)} frames, {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    tyro.cli(main)
