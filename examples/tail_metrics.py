"""Hand every row of a run's metrics.jsonl to an experiment tracker, while the run goes on or afterwards.

    python examples/tail_metrics.py runs/HalfCheetah-v5/td3-s0

Replace `log` by your tracker's call. A run that is resumed cuts the file back to its checkpoint and plays on from
there: the rows behind the cut are handed out anew, so env steps may go back once, and the later row is the true one.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def log(row: Row) -> None:
    """Print the row's numbers. With a tracker it would be `tracker.log(numbers, step=row["env_steps"])`."""
    numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
    step = numbers.pop("env_steps")
    print(step, row["kind"], " ".join(f"{name}={value:.5g}" for name, value in numbers.items()), flush=True)


def new_rows(path: Path, seen: list[bytes]) -> list[Row]:
    """Return the rows that are new since the last look; `seen` holds that look's lines, and then this one's."""
    # Behind the last newline stands nothing, or a row that is half written: it is whole at a later look.
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    same = 0
    while same < min(len(lines), len(seen)) and lines[same] == seen[same]:
        same += 1
    seen[:] = lines
    return [json.loads(line) for line in lines[same:]]


def follow(path: Path, every_s: float = 1.0) -> Iterator[Row]:
    """Yield rows as they come, for ever."""
    seen: list[bytes] = []
    while True:
        yield from new_rows(path, seen)
        time.sleep(every_s)


if __name__ == "__main__":
    try:
        for row in follow(Path(sys.argv[1]) / "metrics.jsonl"):
            log(row)
    except KeyboardInterrupt:
        pass
