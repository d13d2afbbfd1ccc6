"""How a good run folder is made hostile: other bytes, other numbers with a true seal, links, files of a terabyte."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import socket
import zipfile
import zlib
from pathlib import Path

import msgspec
import safetensors.torch
import torch
from sealing import said, seal

from t3d.config import Config
from t3d.env_spec import EnvSpec
from t3d.formats import run_id
from t3d.policy import files

OTHER_ID = "77" * 32


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
    content = said(file)
    change(content)
    seal(file, content)


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
    """Change config.json, and the run id to what it then is where that can be told."""

    def change(content):
        put(content, path, value)
        with contextlib.suppress(Exception):
            config = msgspec.convert(content["config"], Config)
            content["run"] = run_id(EnvSpec(content["env"]), content["algorithm"], config)

    return lambda run: reseal(run / "config.json", change)


def with_option_under_the_old_id(run):
    """Every part still has the id of the run that they are from."""
    reseal(run / "config.json", lambda content: content["config"]["td3"].update(gamma=0.5))


def of_another_run(name):
    """Put the id of another run into a part of this one, with true checksums."""

    def make(run):
        if name == "config.json":
            reseal(run / name, lambda content: content.update(run=OTHER_ID))
        elif name == "manifest.json":
            with_manifest("run", value=OTHER_ID)(run)
        elif name == "policy":
            policy_info(run=OTHER_ID)(run)
        elif name == "metrics.jsonl":
            with_rows(lambda rows: rows[0].update(run=OTHER_ID))(run)
        else:
            with_segment(lambda content: _other_head(content))(run)

    return make


def _other_head(content):
    head = content[:8] + bytes.fromhex(OTHER_ID) + content[40:56]
    return head + zlib.crc32(head).to_bytes(8, "little") + content[64:]


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
            facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            reseal(checkpoint / "manifest.json", lambda manifest, facts=facts: manifest.update(state=facts))

    return make


def with_policy(change):
    """Put other bytes in the place of both policies."""
    return lambda run: [
        file.write_bytes(change(file.read_bytes())) for file in sorted((run / "policy").glob("*.safetensors"))
    ]


def sealed_policy(description, tensors):
    """Return a policy as somebody would write it who knows how: with a true checksum of whatever it says."""
    text = json.dumps(description)[:-1]
    sha256 = files.checksum(text.encode(), {name: tensor.numpy() for name, tensor in tensors.items()})
    return safetensors.torch.save(tensors, {"t3d": f'{text}, "sha256": "{sha256}"}}'})


def description_of(content):
    """Return what a policy says of itself."""
    length = int.from_bytes(content[:8], "little")
    description = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["t3d"])
    del description["sha256"]
    return description


def policy_info(**fields):
    """Change what both policies say of themselves."""
    return with_policy(lambda c: sealed_policy(description_of(c) | fields, safetensors.torch.load(c)))


def with_policy_tensors(change):
    def changed(content):
        tensors = safetensors.torch.load(content)
        change(tensors)
        return sealed_policy(description_of(content), tensors)

    return with_policy(changed)


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
        facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "wall_s": 1.0}
        with_manifest("metrics", value=facts)(run)

    return make


def with_rows(change):
    """Change rows as somebody would who knows how they are summed up, and the manifests with them."""

    def make(run):
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for row in rows:
            del row["crc32"]
        change(rows)
        content, crc = b"", 0
        for row in rows:
            text = json.dumps(row)[:-1].encode() if isinstance(row, dict) else row
            crc = zlib.crc32(text, crc)
            content += text + f', "crc32": "{crc:08x}"}}\n'.encode()
        with_metrics(content)(run)

    return make


def with_row(**fields):
    """Put a row of these fields, with a true checksum, behind the first."""
    row = {"kind": "event", "env_steps": 0, "wall_s": 0.0, "what": "x"}
    return with_rows(lambda rows: rows.insert(1, {k: v for k, v in (row | fields).items() if v is not ...}))


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


def picture_is_a_link(run):
    (run / "video").mkdir()
    (run / "video" / "seen.png").symlink_to("../../victim")


def pipe_at(name):
    return lambda run: [(run / name).unlink(missing_ok=True), os.mkfifo(run / name)]


def with_segment(change):
    """Put other bytes in the place of the replay memory's first segment, and say so in the manifests."""

    def make(run):
        file = run / "replay" / "00000000.rows"
        content = change(file.read_bytes())
        file.write_bytes(content)
        segment(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())(run)

    return make


def claimed(content):
    """Say that the first block holds more than there is."""
    return content[:80] + (2**60).to_bytes(8, "little") + content[88:]


def segment(**fields):
    return with_manifests(lambda manifest: manifest["replay"]["segments"][0].update(fields))
