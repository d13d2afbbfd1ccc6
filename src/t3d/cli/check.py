"""`t3d check`."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from t3d.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Look at an environment before training in it: spaces, bounds, numbers, repeatability, speed."""

    env: tyro.conf.Positional[str]
    """A registered id, module:Id, or path/to/file.py:Class."""


def main(arguments: list[str]) -> None:
    """Check and print what was found."""
    args = parse(Arguments, "check", arguments)

    from rich.console import Console
    from rich.table import Table

    from t3d.environments.check import check

    table = Table(title=args.env, show_header=False, box=None, padding=(0, 1), title_justify="left")
    for finding in check(args.env):
        table.add_row("[green]ok[/]" if finding.fine else "[red]look[/]", finding.name, finding.text)
    Console().print(table)
