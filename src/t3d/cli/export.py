"""`t3d export`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from t3d.cli.parsing import parse, refuse_no_policy


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write a policy as a controller for other programs, checked against the policy before it is there."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN|FILE")]
    """A run folder, or a policy's .safetensors."""
    format: Literal["onnx", "c", "numpy", "hub"]
    """onnx: a model for ONNX Runtime and others; c: one C99 header and an example program; numpy: one Python file and a
    .npz; hub: a folder to share, with a model card."""
    policy: Literal["best", "last"] = "best"
    """Which of a run's policies."""
    out: Path | None = None
    """The folder to write; export/FORMAT in the run folder, or NAME-FORMAT beside the file, if left out."""
    force: bool = False
    """Replace an export that stands there."""
    license: str | None = None
    """Of a folder to share: the licence that you grant, as mit; the card says that none is granted if left out."""
    json: bool = False
    """Print one JSON object and nothing else."""


def main(arguments: list[str]) -> None:
    """Export, and print where and what was looked at."""
    args = parse(Arguments, "export", arguments)

    refuse_no_policy(args.run)

    from t3d import api

    path, checked, notes = api.export_policy(
        args.run, args.format, which=args.policy, out=args.out, force=args.force, licence=args.license
    )
    if args.json:
        print(json.dumps({"path": str(path), "check": checked._asdict(), "notes": notes}))
        return
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if checked.observations:
        asked = (
            f"{checked.observations:,} observations ({checked.source}; each number alone at its ends; all times two)"
        )
        print(
            f"checked: {checked.how}; asked {asked}; at most {checked.worst:.1e} of an action's range from the policy"
        )
    else:
        print(f"not run: {checked.how}")
    print(path)
