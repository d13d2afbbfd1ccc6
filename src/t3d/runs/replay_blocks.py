"""A segment of the replay memory on disk: a head, then blocks, each the slots completed since the block before.

    head    magic (8 bytes), run id (32 bytes), streams N, bytes a slot, CRC-32 of that

    block   magic (8 bytes), block number, bytes of the slots
            N times: position of the stream's first slot in here, how many
            the slots of stream 0, of stream 1, ...                       as `replay.slot_dtype` lays them out
            SHA-256 of all of that (32 bytes)

Numbers are little-endian, 8 bytes each. A position counts a stream's slots from the run's beginning. Where a segment is
not as it was written, each block tells whether it is, and the magic where the next one begins.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
import zlib
from typing import NamedTuple

_HEAD_MAGIC = b"t3d-rows"
_BLOCK_MAGIC = b"t3d-slot"
_HEAD = struct.Struct("<8s32sQQ")
_BLOCK = struct.Struct("<8sQQ")
_SPAN = struct.Struct("<QQ")
_CRC = struct.Struct("<Q")
_DIGEST_BYTES = 32
_SEARCHED = 4


class Kind(NamedTuple):
    """What all segments of a run have in common."""

    run: str  # its id
    streams: int
    slot_bytes: int
    most_slots: int  # that a stream can have in a block: as many as in memory


class Block(NamedTuple):
    """A block that was read."""

    number: int
    starts: list[int]  # of each stream, the position of its first slot
    slots: list[memoryview]  # of each stream


def encode_head(kind: Kind) -> bytes:
    """Return what a segment begins with."""
    head = _HEAD.pack(_HEAD_MAGIC, bytes.fromhex(kind.run), kind.streams, kind.slot_bytes)
    return head + _CRC.pack(zlib.crc32(head))


def encode(number: int, starts: list[int], slots: list[bytes], kind: Kind) -> bytes:
    """Return a block.

    Args:
        number: its place in the sequence of all blocks.
        starts: of each stream the position of its first slot.
        slots: of each stream.
        kind: the run's.
    """
    head = _BLOCK.pack(_BLOCK_MAGIC, number, sum(map(len, slots)))
    spans = [_SPAN.pack(start, len(part) // kind.slot_bytes) for start, part in zip(starts, slots, strict=True)]
    content = b"".join([head, *spans, *slots])
    return content + hashlib.sha256(content).digest()


def run_of(segment: bytes) -> str:
    """Return the run id in a segment's head; empty if the head is not as it was written."""
    head, crc = segment[: _HEAD.size], segment[_HEAD.size : _HEAD.size + _CRC.size]
    if len(crc) < _CRC.size or crc != _CRC.pack(zlib.crc32(head)):
        return ""
    return bytes(head[8:40]).hex()


def read(segment: bytes, kind: Kind, *, sound: bool) -> tuple[list[Block], list[tuple[int, int]]]:
    """Return the blocks of a segment, and from which byte to which it holds none.

    Args:
        segment: its bytes.
        kind: the run's.
        sound: whether the segment is known to be as it was written.
    """
    at = _HEAD.size + _CRC.size
    blocks: list[Block] = []
    bad = [(0, at)] if segment[:at] != encode_head(kind) else []
    left = _SEARCHED * len(segment)
    while at < len(segment):
        begin, layout = at, None
        # Marks of blocks may be anybody's: no more than this is summed up in search of a true one.
        while at >= 0 and left >= 0:
            layout = _layout_at(segment, at, kind)
            left -= layout.end - at if layout and not sound else 0
            if layout and (sound or _is_whole(segment, at, layout.end)):
                break
            at, layout = segment.find(_BLOCK_MAGIC, at + 1), None
        if layout is None:
            return blocks, [*bad, (begin, len(segment))]
        if at > begin:
            bad.append((begin, at))
        slots = [memoryview(segment)[a:b] for a, b in itertools.pairwise(layout.bounds)]
        blocks.append(Block(layout.number, layout.starts, slots))
        at = layout.end
    return blocks, bad


class _Layout(NamedTuple):
    """How a block lies in a segment, by its own words."""

    number: int
    starts: list[int]
    bounds: list[int]  # between the streams' slots
    end: int


def _layout_at(segment: bytes, at: int, kind: Kind) -> _Layout | None:
    """Return the layout of the block that begins at a byte; None if none can."""
    slots_at = at + _BLOCK.size + kind.streams * _SPAN.size
    if slots_at > len(segment):
        return None
    magic, number, slots_bytes = _BLOCK.unpack_from(segment, at)
    starts, counts = zip(*_SPAN.iter_unpack(segment[at + _BLOCK.size : slots_at]), strict=True)
    end = slots_at + slots_bytes + _DIGEST_BYTES
    fits = max(counts) <= kind.most_slots and sum(counts) * kind.slot_bytes == slots_bytes and end <= len(segment)
    if magic != _BLOCK_MAGIC or not fits:
        return None
    bounds = [slots_at + slots * kind.slot_bytes for slots in itertools.accumulate(counts, initial=0)]
    return _Layout(number, list(starts), bounds, end)


def _is_whole(segment: bytes, at: int, end: int) -> bool:
    content = memoryview(segment)[at : end - _DIGEST_BYTES]
    return hashlib.sha256(content).digest() == segment[end - _DIGEST_BYTES : end]
