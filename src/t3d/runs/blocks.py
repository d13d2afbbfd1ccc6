"""A block of the replay memory on disk: the slots that each env stream has completed since the block before.

    magic (8 bytes), block number, streams N, bytes a slot        little-endian, 8 bytes each
    N times: position of the stream's first slot in here, how many
    the slots of stream 0, of stream 1, ...                       as `replay.slot_dtype` lays them out
    SHA-256 of all of that (32 bytes)

A position counts a stream's slots from the run's beginning. Behind a block stands its parity, from which the block can
be made again where a part of it is not as it was written:

    magic (8 bytes), block number, bytes of the block
    CRC-32 of every piece of the block, 4 bytes each
    the XOR of the block's rows
    SHA-256 of all of that (32 bytes)

For that a block lies in at most 16 rows of equal length, filled up with zeros, and each row in two or more pieces of
4096 bytes; one of fewer bytes is a single piece. Of the pieces above each other one may be lost: it is the XOR of the
others and the parity. So whatever happens to 4096 bytes of a block in succession, or to nearly a sixteenth of a large
one, is mended, at little more than a sixteenth of its size; not so where a block's end and its parity's head are lost
together.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import struct
import zlib
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MAGIC = b"t3d-slot"
_BARE_MAGIC = b"t3d-rows"  # of the first format: no parity behind the block
_HEAD = struct.Struct("<8sQQQ")
_SPAN = struct.Struct("<QQ")
_PARITY_MAGIC = b"t3d-pari"
_PARITY_HEAD = struct.Struct("<8sQQ")
_DIGEST_BYTES = 32
_ROWS = 16
_PIECE_BYTES = 4096


class Kind(NamedTuple):
    """What all blocks of a run have in common."""

    streams: int
    slot_bytes: int
    most_slots: int  # that a stream can have in a block: as many as in memory

    @property
    def head_bytes(self) -> int:
        """What stands before the slots."""
        return _HEAD.size + self.streams * _SPAN.size

    @property
    def most_bytes(self) -> int:
        """What no block of this kind exceeds, its parity left out."""
        return self.head_bytes + self.streams * self.most_slots * self.slot_bytes + _DIGEST_BYTES


class Block(NamedTuple):
    """A block that was read."""

    number: int
    starts: list[int]  # of each stream, the position of its first slot
    slots: list[memoryview]  # of each stream
    content: bytes  # the block, as it was written
    damage: str  # what was not, and has been mended; usually empty

    def as_written(self) -> bytes:
        """Return the bytes of the block and its parity."""
        return self.content + (b"" if self.content.startswith(_BARE_MAGIC) else parity(self.content, self.number))


def encode(number: int, starts: list[int], slots: list[bytes], kind: Kind) -> bytes:
    """Return a block and its parity.

    Args:
        number: its place in the sequence of all blocks.
        starts: of each stream the position of its first slot.
        slots: of each stream.
        kind: the run's.
    """
    head = _HEAD.pack(_MAGIC, number, kind.streams, kind.slot_bytes)
    spans = [_SPAN.pack(start, len(part) // kind.slot_bytes) for start, part in zip(starts, slots, strict=True)]
    content = b"".join([head, *spans, *slots])
    content += hashlib.sha256(content).digest()
    return content + parity(content, number)


def read(file: BinaryIO, left: int, number: int, kind: Kind) -> Block:
    """Read the block that begins where a file stands, and stand behind it and its parity.

    Args:
        file: a segment.
        left: how many of its bytes from here on are known to have been written.
        number: which block it must be.
        kind: the run's.

    Raises:
        ValueError: it is not as it was written, and too much of it to be mended.
    """
    begin = file.tell()
    try:
        block = _read_whole(file, left, number, kind)
    except ValueError as error:
        file.seek(begin)
        if (made := _made_again(file, left, number, kind)) is None:
            raise
        block = made._replace(damage=str(error))
        file.seek(begin + len(block.content))
    if block.content.startswith(_BARE_MAGIC):
        return block
    size, at = _parity_bytes(len(block.content)), file.tell()
    if at + size > begin + left:
        raise ValueError(f"half a block at byte {begin:,}")
    if not _is_sound(file.read(size)) and not block.damage:
        block = block._replace(damage=f"bytes {at:,} to {at + size:,} are not as they were written")
    return block


def _read_whole(file: BinaryIO, left: int, number: int, kind: Kind) -> Block:
    """Read a block; raise ValueError if it is not as it was written."""
    begin = file.tell()
    head = file.read(min(kind.head_bytes, left))
    if len(head) < kind.head_bytes:
        raise ValueError(f"half a block at byte {begin:,}")
    magic, *rest = _HEAD.unpack_from(head)
    if magic not in (_MAGIC, _BARE_MAGIC) or rest != [number, kind.streams, kind.slot_bytes]:
        raise ValueError(f"byte {begin:,} begins with {(magic, *rest)}, not with block {number}")
    starts, counts = zip(*_SPAN.iter_unpack(head[_HEAD.size :]), strict=True)
    size = kind.head_bytes + sum(counts) * kind.slot_bytes + _DIGEST_BYTES
    # Before memory is taken: no block holds more than a stream has slots.
    if size > left or max(counts) > kind.most_slots:
        raise ValueError(f"half a block at byte {begin:,}")
    content = head + file.read(size - kind.head_bytes)
    if hashlib.sha256(memoryview(content)[:-_DIGEST_BYTES]).digest() != content[-_DIGEST_BYTES:]:
        raise ValueError(f"bytes {begin:,} to {begin + size:,} are not as they were written")
    ends = [kind.head_bytes + slots * kind.slot_bytes for slots in itertools.accumulate(counts, initial=0)]
    slots = [memoryview(content)[a:b] for a, b in itertools.pairwise(ends)]
    return Block(number, list(starts), slots, content, "")


def parity(content: bytes, number: int) -> bytes:
    """Return the parity of a block.

    Args:
        content: the block.
        number: the block's.
    """
    pieces = _in_pieces(content)
    xor = np.bitwise_xor.reduce(pieces, axis=0)
    head = _PARITY_HEAD.pack(_PARITY_MAGIC, number, len(content))
    part: bytes = head + _checksums(pieces).tobytes() + xor.tobytes()
    return part + hashlib.sha256(part).digest()


def _is_sound(part: bytes) -> bool:
    return hashlib.sha256(part[:-_DIGEST_BYTES]).digest() == part[-_DIGEST_BYTES:]


def _made_again(file: BinaryIO, left: int, number: int, kind: Kind) -> Block | None:
    """Return the block that stood where a file stands when it was written; None if that cannot be known."""
    content, part = _up_to_its_parity(file, min(left, kind.most_bytes + _parity_bytes(kind.most_bytes)), number)
    if not content or len(part) < _parity_bytes(len(content)) or not _is_sound(part):
        return None
    pieces = _in_pieces(content)
    rows, columns, piece_bytes = pieces.shape
    checksums = np.frombuffer(part, "<u4", rows * columns, _PARITY_HEAD.size).reshape(rows, columns)
    xor = np.frombuffer(part, np.uint8, columns * piece_bytes, _PARITY_HEAD.size + checksums.nbytes)
    bad = _checksums(pieces) != checksums
    for column in np.flatnonzero(bad.sum(axis=0) == 1):
        row = bad[:, column].argmax()
        others = np.delete(pieces[:, column], row, axis=0)
        pieces[row, column] = np.bitwise_xor.reduce(others, axis=0) ^ xor.reshape(columns, piece_bytes)[column]
    try:
        return _read_whole(io.BytesIO(pieces.tobytes()), len(content), number, kind)
    except ValueError:
        return None


def _up_to_its_parity(file: BinaryIO, most_bytes: int, number: int) -> tuple[bytes, bytes]:
    """Return what stands before a block's parity, which its mark is found by, and the parity; nothing without one.

    How long the block was cannot be known from a damaged one. Of several marks the first is taken, and no more is read
    than four times what is returned, so that nobody can make a long search of it.
    """
    mark = _PARITY_HEAD.pack(_PARITY_MAGIC, number, 0)[:16]
    begin, size = file.tell(), 4 * _PIECE_BYTES
    while True:
        file.seek(begin)
        tail = file.read(min(size, most_bytes))
        at = tail.find(mark)
        end = at + _parity_bytes(at) if at >= 0 else size
        if (at >= 0 and len(tail) >= end) or len(tail) < size:
            return (tail[:at], tail[at:end]) if at >= 0 else (b"", b"")
        size *= 2


def bytes_with_parity(size: int) -> int:
    """Return what a block of so many bytes takes on the disk."""
    return size + _parity_bytes(size)


def _parity_bytes(size: int) -> int:
    rows, columns, piece_bytes = _shape(size)
    return _PARITY_HEAD.size + 4 * rows * columns + columns * piece_bytes + _DIGEST_BYTES


def _shape(size: int) -> tuple[int, int, int]:
    """Return how a block of so many bytes lies: rows, pieces a row, bytes a piece."""
    if size <= _PIECE_BYTES:
        return 1, 1, size
    # Two at least: what is damaged in succession may begin in one piece and end in the next.
    columns = max(2, -(-size // (_ROWS * _PIECE_BYTES)))
    return -(-size // (columns * _PIECE_BYTES)), columns, _PIECE_BYTES


def _in_pieces(content: bytes) -> NDArray[np.uint8]:
    """Return a copy of a block, (rows, columns, bytes a piece)."""
    shape = _shape(len(content))
    padded = np.zeros(shape[0] * shape[1] * shape[2], np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    return padded.reshape(shape)


def _checksums(pieces: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return the CRC-32 of each piece, (rows, columns)."""
    flat = pieces.reshape(-1, pieces.shape[2])
    return np.array([zlib.crc32(piece.data) for piece in flat], "<u4").reshape(pieces.shape[:2])
