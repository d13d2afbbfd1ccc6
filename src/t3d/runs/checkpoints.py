"""Checkpoints: the whole state of a run, committed by renaming a folder.

checkpoints/<env_steps>/
    state.safetensors   networks, targets, Adam's moments, observations and what they are normalised by, losses since
                        the last log line; a copy of the best policy
    manifest.json       everything else, a copy of config.json, and of every other file how long it was and its
                        checksum; sealed

Format 1 had neither copy, and its blocks of the replay memory no parity.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from t3d import sealed
from t3d.errors import FormatRefused, RunRefused
from t3d.runs import disk
from t3d.sealed import whole

FORMAT = 2
KEPT = 2
_MAX_FOLDERS = 1_000
# Nothing else in there is ours to read or to remove.
_NAME = re.compile(r"\d+(\.old)?")
# What a file system needs beside the bytes themselves.
_SLACK_BYTES = 1 << 20


def commit(folder: Path, env_steps: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Path:
    """Write a checkpoint beside the others, flush it, and give it its name.

    Args:
        folder: where checkpoints are.
        env_steps: its name.
        tensors: on the host.
        facts: what JSON can hold, with its `number`; the checksum of the tensors' file is added.

    Raises:
        OSError: it could not be written; what was begun is removed, and no other checkpoint has been touched.
    """
    content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    state = {"bytes": len(content), "sha256": sealed.checksum(content)}
    manifest = sealed.seal({"format": FORMAT, **facts, "state": state})
    if len(manifest) > sealed.MAX_BYTES:
        raise OSError(
            f"a manifest of {len(manifest):,} bytes could not be read again: use fewer environments, or eval_episodes"
        )
    path, beside = folder / str(env_steps), folder / f"{env_steps}.new"
    disk.make_folder(folder)
    if beside.exists():
        disk.remove(beside)
    try:
        disk.make_new_folder(beside)
        disk.create(beside / "state.safetensors", content)
        disk.create(beside / "manifest.json", manifest)
        disk.flush(beside)
        if path.exists():
            # Committed again without a step between: the older one keeps another name until the newer has this one.
            older = folder / f"{env_steps}.old"
            if older.exists():
                disk.remove(older)
            disk.rename(path, older)
        disk.rename(beside, path)
    except OSError:
        with contextlib.suppress(OSError):  # the first error is the one to report
            disk.remove(beside)
        raise
    return path


def refuse_full_disk(folder: Path, needed_bytes: int) -> None:
    """Look before writing.

    Raises:
        OSError: there is not enough space.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + _SLACK_BYTES:
        raise OSError(f"{free / 1e6:,.1f} MB are free on the disk of {folder}, {needed_bytes / 1e6:,.1f} MB are needed")


def folders(folder: Path) -> list[Path]:
    """Return the folders of committed checkpoints, in no order that means anything."""
    if not folder.is_dir():
        return []
    found = sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name) and p.is_dir() and not p.is_symlink())
    if len(found) > _MAX_FOLDERS:
        raise RunRefused("too many checkpoints", got=f"{len(found):,} in {folder}", expected=f"{KEPT}, a few at most")
    return found


def manifest_of(path: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest.

    Raises:
        RunRefused: it is missing, damaged, or says what cannot be.
        FormatRefused: it is as it was written, by a version of t3d that this one does not know.
        OSError: it cannot be read now; nobody may take it for damaged.
    """
    file = path / "manifest.json"
    facts = sealed.opened(file, sealed.read(file))
    if facts.get("format") not in range(1, FORMAT + 1):
        raise FormatRefused(
            "a checkpoint of this run is of a format that this version of t3d does not know",
            got=f"{path}: format {facts.get('format')!r}",
            expected=f"format {FORMAT} or below",
            do="use the version of t3d that wrote it",
        )
    try:
        envs = facts["envs"]
        whole(facts["number"])
        whole(envs["env_steps"])
        whole(facts["state"]["bytes"])
        streams = [
            (whole(written, 1), whole(length)) for written, length in zip(facts["written"], envs["length"], strict=True)
        ]
        if not streams:
            raise ValueError("no env streams")
    except (KeyError, TypeError, ValueError) as error:
        raise RunRefused("a checkpoint says what cannot be", got=f"{path}: {error!r}") from error
    return facts


def newest_first(
    folder: Path, problems: dict[Path, str], look: Callable[[Path, dict[str, Any]], None]
) -> list[tuple[Path, dict[str, Any]]]:
    """Return the checkpoints whose manifests can be read, and those manifests.

    Args:
        folder: where they are.
        problems: gets, of each of the others, what is wrong with it.
        look: called with each; raises RunRefused if it cannot be one of this run.

    Raises:
        FormatRefused: one is whole, and of a format unknown here. It is not damaged: an older one is no substitute.
    """
    found = []
    for path in folders(folder):
        try:
            facts = manifest_of(path)
            look(path, facts)
            found.append((path, facts))
        except RunRefused as error:
            problems[path] = error.one_line()
    return sorted(found, key=lambda entry: (entry[1]["number"], entry[1]["envs"]["env_steps"]), reverse=True)


def read(path: Path, facts: dict[str, Any], max_bytes: int) -> dict[str, Tensor]:
    """Read the tensors that belong to a manifest.

    Args:
        path: the checkpoint.
        facts: its manifest.
        max_bytes: no state of this run can be larger.

    Raises:
        RunRefused: they are not those that were written.
    """
    file = path / "state.safetensors"
    wanted = facts["state"]
    size = file.stat().st_size if file.is_file() and not file.is_symlink() else -1
    if size != wanted["bytes"] or size > max_bytes:
        was = "no such file" if size < 0 else f"{size:,} bytes"
        most = f", and at most {max_bytes:,} of this run"
        raise RunRefused("a checkpoint is damaged", got=f"{file}: {was}", expected=f"{wanted['bytes']:,} bytes{most}")
    content = file.read_bytes()
    if (found := sealed.checksum(content)) != wanted["sha256"]:
        got = f"{file}: bytes 0 to {size:,} have the checksum {found}"
        raise RunRefused("a checkpoint is damaged", got=got, expected=wanted["sha256"])
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise RunRefused("a checkpoint cannot be read", got=f"{file}: {error}") from error


def remove_begun(folder: Path) -> None:
    """Remove what is left of attempts to write a checkpoint, or to remove one."""
    for path in sorted(folder.glob("*.new")):
        disk.remove(path)


def prune(folder: Path, newest: int) -> list[dict[str, Any]]:
    """Remove all but the newest checkpoints.

    Args:
        folder: where they are.
        newest: the number of the one just committed.

    Returns:
        The manifests of those that are left.
    """
    remove_begun(folder)
    kept = []
    for path in folders(folder):
        try:
            facts = manifest_of(path)
        except RunRefused:
            facts = {"number": -1}  # damaged: nothing can be brought back from it
        if newest - KEPT < facts["number"] <= newest:
            kept.append(facts)
        else:
            # Under this name nobody takes what is left of it for a damaged one.
            gone = path.with_name(f"{path.name}.new")
            disk.rename(path, gone)
            disk.remove(gone)
    return kept
