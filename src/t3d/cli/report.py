"""`t3d report`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from t3d.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write one page about runs: curves with intervals over seeds, published returns, the video, how to repeat it.

    Runs that differ in their seed alone are one group; groups in one environment are compared. With --json, --svg,
    --png or --csv the page itself is written only where --out says.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, or folders that hold run folders."""
    label: tuple[str, ...] = ()
    """Names of the groups, in the order in which they are shown."""
    out: Path | None = None
    """The page; report.html in the first folder if left out."""
    svg: Path | None = None
    """Draw the curves into this file, as a figure for a column of a paper; needs matplotlib."""
    png: Path | None = None
    """The same as pixels, 300 an inch."""
    csv: Path | None = None
    """Write the curves into this file, as a table."""
    json: bool = False
    """Print the numbers as one JSON object and nothing else."""


def main(arguments: list[str]) -> None:
    """Write the page and print where, or what was asked for in its place."""
    args = parse(Arguments, "report", arguments)

    from t3d.errors import RunRefused
    from t3d.reports import figures, html, page

    if not args.runs:
        raise RunRefused("no run was named", expected="one or more run folders", do="t3d report runs/*/*")
    report = page.gather(args.runs, args.label)
    written = []
    if args.out or not (args.json or args.svg or args.png or args.csv):
        written.append(html.write(page.render(report), args.out or args.runs[0] / "report.html"))
    for kind, path in (("svg", args.svg), ("png", args.png)):
        if path:
            written.append(html.write(figures.drawn(report, kind), path, f"--{kind}"))
    if args.csv:
        written.append(html.write(figures.table(report), args.csv, "--csv"))
    if args.json:
        print(json.dumps(report.numbers, allow_nan=False))
    else:
        print(*written, sep="\n")
