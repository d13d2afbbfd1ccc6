"""Sealed JSON files of a run as plain objects: read without looking at the seal, and sealed again with a true one."""

import hashlib
import json


def said(path):
    """Return what a sealed file says."""
    content = json.loads(path.read_text())
    del content["sha256"]
    return content


def seal(path, content):
    """Write a sealed file as somebody would who knows how it is sealed."""
    text = json.dumps(content, indent=2)[:-2]
    path.write_text(f'{text},\n  "sha256": "{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n')


def reseal(path, **changes):
    """Change some fields of a sealed file."""
    seal(path, said(path) | changes)
