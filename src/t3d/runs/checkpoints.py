"""Checkpoints: the whole state of a run, committed by renaming a folder.

checkpoints/<env_steps>/
    state.safetensors   networks, targets, Adam's moments, observations and what they are normalised by, losses since
                        the last log line
    manifest.json       everything else, and of every other file how long it was and its checksum
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from t3d.errors import RunRefused
from t3d.formats import FileState, Manifest
from t3d.storage import checked_files, disk
from t3d.storage.checked_files import checksum

KEPT = 2
_MAX_FOLDERS = 1_000
# Nothing else in there is ours to read or to remove.
_NAME = re.compile(r"\d+(\.old)?")
# What a file system needs beside the bytes themselves.
_SLACK_BYTES = 1 << 20


def as_state(tensors: dict[str, Tensor]) -> tuple[bytes, FileState]:
    """Return the file of some tensors on the host, and what a manifest says of it."""
    content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    return content, FileState(len(content), checksum(content))


class Checkpoints:
    """The checkpoints of one run. What stands in its folder is read once, and known from then on.

    Args:
        folder: where they are, or will be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: dict[Path, str] = {}  # of those that were found and cannot be taken
        self._kept: list[Manifest] = []  # the newest last

    def find(self, look: Callable[[Path, Manifest], None]) -> list[tuple[Path, Manifest]]:
        """Return the checkpoints whose manifests can be read, and those manifests, the newest first.

        Args:
            look: called with each; raises RunRefused if it cannot be one of this run.
        """
        self.problems, readable = {}, []
        for path in folders(self.folder):
            try:
                manifest = checked_files.read(path / "manifest.json", Manifest)
                look(path, manifest)
                readable.append((path, manifest))
            except RunRefused as error:
                self.problems[path] = error.one_line()
        readable.sort(key=lambda entry: (entry[1].number, _env_steps(entry[1])), reverse=True)
        self._kept = [manifest for _, manifest in reversed(readable)]
        return readable

    def give_up(self, path: Path, manifest: Manifest, problem: str) -> None:
        """Count a checkpoint that was found as none: its manifest can be read, and what it tells of cannot."""
        self.problems[path] = problem
        self._kept.remove(manifest)

    def commit(self, content: bytes, manifest: Manifest) -> None:
        """Write a checkpoint beside the others, flush it, and give it its name.

        Args:
            content: of state.safetensors.
            manifest: which tells of that.

        Raises:
            OSError: it could not be written; what was begun is removed, and no other checkpoint has been touched.
        """
        described = checked_files.encode(manifest)
        if len(described) > checked_files.MAX_BYTES:
            too_large = f"a manifest of {len(described):,} bytes could not be read again"
            raise OSError(f"{too_large}: use fewer environments, or eval_episodes")
        path, beside, older = (self.folder / f"{_env_steps(manifest)}{end}" for end in ("", ".new", ".old"))
        disk.make_folder(self.folder)
        if beside.exists():
            disk.remove(beside)
        try:
            disk.make_new_folder(beside)
            disk.create(beside / "state.safetensors", content)
            disk.create(beside / "manifest.json", described)
            disk.flush(beside)
            if path.exists():
                # Committed again without a step between: the older one keeps another name until the newer has this one.
                if older.exists():
                    disk.remove(older)
                disk.rename(path, older)
            disk.rename(beside, path)
        except OSError:
            with contextlib.suppress(OSError):  # the first error is the one to report
                disk.remove(beside)
            raise
        self._kept.append(manifest)

    def prune(self) -> list[Manifest]:
        """Remove all but the newest; return the manifests of those that are left."""
        self.remove_begun()
        self._kept = self._kept[-KEPT:]
        names = [str(_env_steps(manifest)) for manifest in self._kept]
        for path in folders(self.folder):
            newer = path.with_suffix("")  # of 100.old it is 100, of 100 itself: a step at which two were committed
            if names.count(newer.name) >= (2 if path != newer and newer.exists() else 1):
                continue
            # Under this name nobody takes what is left of it for a damaged one.
            gone = path.with_name(f"{path.name}.new")
            disk.rename(path, gone)
            disk.remove(gone)
        return self._kept

    def remove_begun(self) -> None:
        """Remove what is left of attempts to write a checkpoint, or to remove one."""
        for path in sorted(self.folder.glob("*.new")):
            disk.remove(path)


def _env_steps(manifest: Manifest) -> int:
    return manifest.trainer.envs.env_steps


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
    committed = sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name) and p.is_dir() and not p.is_symlink())
    if len(committed) > _MAX_FOLDERS:
        got = f"{len(committed):,} in {folder}"
        raise RunRefused("too many checkpoints", got=got, expected=f"{KEPT}, a few at most")
    return committed


def read(path: Path, state: FileState, max_bytes: int) -> dict[str, Tensor]:
    """Read the tensors that belong to a manifest.

    Args:
        path: the checkpoint.
        state: what its manifest says of them.
        max_bytes: no state of this run can be larger.

    Raises:
        RunRefused: they are not those that were written.
    """
    file = path / "state.safetensors"
    size = file.stat().st_size if file.is_file() and not file.is_symlink() else -1
    if size != state.bytes or size > max_bytes:
        was = "no such file" if size < 0 else f"{size:,} bytes"
        most = f", and at most {max_bytes:,} of this run"
        raise RunRefused("a checkpoint is damaged", got=f"{file}: {was}", expected=f"{state.bytes:,} bytes{most}")
    content = file.read_bytes()
    if (actual := checksum(content)) != state.sha256:
        got = f"{file}: bytes 0 to {size:,} have the checksum {actual}"
        raise RunRefused("a checkpoint is damaged", got=got, expected=state.sha256)
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise RunRefused("a checkpoint cannot be read", got=f"{file}: {error}") from error
