"""Put frames of a film side by side: docs/figures/demo.png, one stride of what `make demo` has trained.

python docs/stills.py RUN/video/best.mp4 --first 100 --apart 2
"""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import tyro
from PIL import Image

OUT = Path(__file__).resolve().parent / "figures" / "demo.png"
FRAMES, WIDTH, HEIGHT = 4, 300, 225


def _cut(frame: Image.Image) -> Image.Image:
    """Return a frame with less of the sky and of the sides, where nobody runs."""
    width, height = frame.size
    return frame.crop((width // 8, height // 4, width - width // 8, height)).resize((WIDTH, HEIGHT))


def main(film: tyro.conf.Positional[Path], first: int = 100, apart: int = 2) -> None:
    """Put four frames of a film side by side.

    Args:
        film: an mp4.
        first: the first frame taken.
        apart: takes every so many-th frame from there on.
    """
    with av.open(str(film)) as container:
        taken = itertools.islice(container.decode(video=0), first, first + FRAMES * apart, apart)
        drawn = [_cut(frame.to_image()) for frame in taken]
    if len(drawn) < FRAMES:
        raise SystemExit(f"{film}: too short for {FRAMES} frames from frame {first} on, {apart} apart")
    row = Image.new("RGB", (WIDTH * len(drawn), HEIGHT))
    for place, still in enumerate(drawn):
        row.paste(still, (WIDTH * place, 0))
    row.save(OUT)
    print(f"{OUT}: {len(drawn)} frames, {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    tyro.cli(main)
