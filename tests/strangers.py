"""How a good run folder is made hostile: other bytes, other numbers with a true seal, links, files of a terabyte."""

import contextlib
import io
import json
import os
import pickle
import shutil
import socket
import zipfile
from pathlib import Path

import safetensors.torch
import torch

from t3d import sealed


class Touch:
    """Unpickled, it leaves a file named `executed`."""

    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def zip_slip():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../executed", "")
        archive.writestr("archive/data.pkl", pickle.dumps(Touch()))
    return file.getvalue()


def torch_file():
    file = io.BytesIO()
    torch.save(Touch(), file)
    return file.getvalue()


NOT_DATA = {
    "pickle": pickle.dumps(Touch()),
    "torch file": torch_file(),
    "zip slip": zip_slip(),
    "empty": b"",
    "zeros": bytes(4096),
}
NOT_JSON = {
    "deep list": b"[" * 100_000,
    "deep dict": b'{"a":' * 100_000,
    "long number": b'{"a": ' + b"9" * 100_000 + b"}",
    "null": b"null",
    "not a number": b'{"format": NaN}',
    "two megabytes": b" " * (2 << 20),
    "another encoding": "{}".encode("utf-16"),
}


def header(text, length=None):
    content = text.encode() if isinstance(text, str) else json.dumps(text).encode()
    return (len(content) if length is None else length).to_bytes(8, "little") + content


def tensor(shape, *offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


NOT_TENSORS = {
    "giant header": header("{}", 2**40),
    "endless header": header("{}", 2**64 - 1),
    "deep header": header("[" * 50_000),
    "huge shape": header({"0.weight": tensor([2**31, 2**31], 0, 2**64)}),
    "shape wraps around": header({"0.weight": tensor([2**32, 2**32], 0, 0)}),
    "overlapping": header({"a": tensor([4], 0, 16), "b": tensor([4], 0, 16)}) + bytes(16),
    "backwards": header({"a": tensor([4], 16, 0)}) + bytes(16),
}


def reseal(file, change):
    """Change a sealed file as somebody would who knows how it is sealed."""
    content = json.loads(file.read_text())
    content.pop("sha256", None)
    change(content)
    file.write_text(json.dumps({**content, "sha256": sealed._checksum_of(content)}))


def put(content, path, key):
    """Change an entry deep in JSON; a key of ... takes it away."""
    *way, last = path
    for step in way:
        content = content[step]
    if key is ...:
        del content[last]
    else:
        content[last] = key


def checkpoints(run):
    return sorted((run / "checkpoints").iterdir(), key=lambda path: int(path.name))


def with_config(*path, value):
    return lambda run: reseal(run / "config.json", lambda content: put(content, path, value))


def with_manifests(change):
    return lambda run: [reseal(checkpoint / "manifest.json", change) for checkpoint in checkpoints(run)]


def with_manifest(*path, value):
    return with_manifests(lambda content: put(content, path, value))


def with_state(change):
    """Put other bytes in the place of every checkpoint's tensors, and say so in the manifest."""

    def make(run):
        for checkpoint in checkpoints(run):
            file = checkpoint / "state.safetensors"
            content = change(file.read_bytes())
            file.write_bytes(content)
            facts = {"bytes": len(content), "sha256": sealed.checksum(content)}
            reseal(checkpoint / "manifest.json", lambda manifest, facts=facts: manifest.update(state=facts))

    return make


def with_policy(change):
    def make(run):
        for which in ("best", "last"):
            file = run / "policy" / f"{which}.safetensors"
            content = change(file.read_bytes())
            file.write_bytes(content)
            facts = {"weights_sha256": sealed.checksum(content)}
            reseal(file.with_suffix(".json"), lambda info, facts=facts: info.update(facts))

    return make


def with_tensors(change):
    def changed(content):
        tensors = safetensors.torch.load(content)
        change(tensors)
        return safetensors.torch.save(tensors)

    return changed


def with_metrics(content):
    """Give metrics.jsonl other content, and the manifests its true length and checksum."""

    def make(run):
        (run / "metrics.jsonl").write_bytes(content)
        facts = {"bytes": len(content), "sha256": sealed.checksum(content), "wall_s": 1.0}
        with_manifest("metrics", value=facts)(run)

    return make


def copied_rows(run):
    shutil.copyfile(run / "metrics.jsonl", run / "metrics.copy")


def without_copies(run):
    """Make the run one of the first format, which nothing could mend."""
    (run / "metrics.copy").unlink()
    with_manifest("run", value=...)(run)


def policy_json(**fields):
    return lambda run: [
        reseal(run / "policy" / f"{which}.json", lambda info: info.update(fields)) for which in ("best", "last")
    ]


def write(name, content):
    return lambda run: [file.write_bytes(content) for file in matching(run, name)]


def matching(run, name):
    found = [path for path in run.rglob(name) if "tensorboard" not in path.parts]
    assert found, name
    return found


def grow(name, length=2**40):
    """A file of a terabyte that takes no space; and the manifest or description that says so is the stranger's too."""

    def make(run):
        for file in matching(run, name):
            with file.open("r+b") as opened:
                opened.truncate(length)

    return make


def both(*makes):
    return lambda run: [make(run) for make in makes]


def instead(name, kind):
    """Put something else in the place of a file or folder: a link to the very same content, a pipe, a socket."""

    def make(run):
        for path in matching(run, name):
            moved = run.parent / f"{run.name}-moved-{path.name}-{path.parent.name}"
            path.rename(moved)
            if kind == "link":
                path.symlink_to(moved)
            elif kind == "link to a device":
                path.symlink_to("/dev/zero")
            elif kind == "pipe":
                os.mkfifo(path)
            elif kind == "socket":
                bind(path)
            elif kind == "folder":
                path.mkdir()

    return make


def bind(path):
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path has 107 bytes at most
    try:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def deep(run):
    inside = run / "notes"
    for _ in range(30):
        inside = inside / "a"
    inside.mkdir(parents=True)


def film_is_a_link(run):
    (run / "video").mkdir()
    (run / "video" / "best.mp4").symlink_to("../../victim")


def pipe_at(name):
    return lambda run: [(run / name).unlink(missing_ok=True), os.mkfifo(run / name)]


def rows_block(run):
    """Say, with a true checksum, that a block holds more than there is."""
    (segment,) = (run / "replay").iterdir()
    content = bytearray(segment.read_bytes())
    content[40:48] = (2**60).to_bytes(8, "little")
    segment.write_bytes(content)


def segment(**fields):
    return with_manifests(lambda manifest: manifest["replay"]["segments"][0].update(fields))
