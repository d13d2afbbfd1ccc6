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

    Runs that differ in their seed alone are one group; groups in one environment are compared.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, or folders that hold run folders."""
    out: Path | None = None
    """The page; report.html in the first folder if left out."""
    json: bool = False
    """Print the numbers as one JSON object and nothing else; the page is written only with --out."""


def main(arguments: list[str]) -> None:
    """Write the page and print where, or print the numbers."""
    args = parse(Arguments, "report", arguments)

    from t3d.errors import RunRefused
    from t3d.reports import page, write_report

    if not args.runs:
        raise RunRefused("no run was named", expected="one or more run folders", do="t3d report runs/*/*")
    if args.json:
        if args.out:
            write_report(args.runs, args.out)
        print(json.dumps(page.gather(args.runs).numbers, allow_nan=False))
        return
    print(write_report(args.runs, args.out))
