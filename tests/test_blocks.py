"""A block of the replay memory and its parity: whatever is lost within what is promised is made again, to the byte."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t3d.runs import blocks

NUMBER, SLOT = 7, 40


def block(slots, streams=2):
    """Return what all blocks have in common, one block of so many slots a stream, and it again with its parity."""
    kind = blocks.Kind(streams, SLOT, max(slots, 1))
    rng = np.random.default_rng(slots)
    written = blocks.encode(NUMBER, [3] * streams, [rng.bytes(slots * SLOT) for _ in range(streams)], kind)
    return kind, read(written, kind).content, written


def read(written, kind, left=None, before=b"", after=b""):
    file = io.BytesIO(before + bytes(written) + after)
    file.seek(len(before))
    found = blocks.read(file, len(written) + len(after) if left is None else left, NUMBER, kind)
    assert file.tell() == len(before) + len(written)
    return found


def same(found, content, written):
    return found.content == content and found.as_written() == written


@pytest.mark.parametrize("slots", [0, 1, 50, 51, 52, 102, 103, 800, 1_600, 5_000])
def test_it_comes_back_as_it_was(slots):
    kind, content, written = block(slots)
    found = read(written, kind, before=b"other", after=b"more")
    assert same(found, content, written)
    assert found.damage == ""
    assert [len(part) for part in found.slots] == [slots * SLOT] * 2
    assert (found.number, found.starts) == (NUMBER, [3, 3])
    # A sixteenth, in whole pieces; of a small block two pieces; and four bytes a piece.
    pieces = -(-len(content) // 4096)
    assert len(written) - len(content) <= max(2, -(-pieces // 16)) * 4096 + 4 * (pieces + 16) + 56


@settings(max_examples=300, deadline=None, derandomize=True)
@given(slots=st.sampled_from([0, 1, 40, 60, 110, 900, 5_000]), data=st.data())
def test_what_happens_to_4096_bytes_of_a_block_is_mended(slots, data):
    kind, content, written = block(slots)
    damaged = bytearray(written)
    begin = data.draw(st.integers(0, len(content) - 1))
    end = min(len(content), begin + data.draw(st.integers(1, 4096)))
    damaged[begin:end] = data.draw(
        st.sampled_from([bytes(end - begin), np.random.default_rng(begin).bytes(end - begin)])
    )
    found = read(damaged, kind, before=b"before", after=written)
    assert same(found, content, written)
    assert (found.damage == "") == (damaged == written)


def test_nearly_a_sixteenth_of_a_large_block_is_mended():
    kind, content, written = block(5_000)
    lost = (blocks._shape(len(content))[1] - 1) * 4096
    assert lost > len(content) / 17 - 4096
    for begin in range(0, len(content) - lost, 30_011):
        damaged = bytearray(written)
        damaged[begin : begin + lost] = b"?" * lost
        assert same(read(damaged, kind), content, written), begin


@settings(max_examples=200, deadline=None, derandomize=True)
@given(slots=st.sampled_from([0, 1, 60, 900]), data=st.data())
def test_damaged_parity_is_noticed_and_can_be_written_again(slots, data):
    kind, content, written = block(slots)
    damaged = bytearray(written)
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(len(content), len(written) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    found = read(damaged, kind, after=b"more")
    assert same(found, content, written)
    assert (found.damage == "") == (damaged == written)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(slots=st.sampled_from([0, 1, 60, 900]), data=st.data())
def test_whatever_happens_to_it_no_other_block_is_read(slots, data):
    kind, content, written = block(slots)
    damaged = bytearray(written)
    for _ in range(data.draw(st.integers(1, 40))):
        damaged[data.draw(st.integers(0, len(written) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.sampled_from([len(written), data.draw(st.integers(0, len(written)))]))]
    try:
        found = read(damaged, kind)
    except ValueError:
        assert damaged != written
    else:
        assert same(found, content, written)


def test_a_bit_of_every_byte_of_a_small_block():
    kind, content, written = block(2)
    for at in range(len(written)):
        damaged = bytearray(written)
        damaged[at] ^= 1 << at % 8
        found = read(damaged, kind)
        assert same(found, content, written), at
        assert found.damage, at


def test_of_two_pieces_above_each_other_neither_can_be_told():
    kind, content, written = block(1_600)
    columns = blocks._shape(len(content))[1]
    damaged = bytearray(written)
    damaged[5_000] ^= 1
    damaged[5_000 + columns * 4096] ^= 1
    with pytest.raises(ValueError, match=r"bytes 0 to [\d,]+ are not as they were written"):
        read(damaged, kind)


def test_blocks_of_the_first_format_have_no_parity_and_are_read():
    kind, content, _ = block(20)
    bare = content[:-32].replace(b"t3d-slot", b"t3d-rows")
    bare += blocks.hashlib.sha256(bare).digest()
    found = read(bare, kind, after=bare)
    assert same(found, bare, bare)
    assert found.damage == ""
    damaged = bytearray(bare)
    damaged[100] ^= 1
    with pytest.raises(ValueError, match="not as they were written"):
        read(damaged, kind)


@pytest.mark.parametrize("missing", [1, 40, 900])
def test_parity_that_was_never_written_is_no_block(missing):
    kind, _, written = block(20)
    with pytest.raises(ValueError, match="half a block at byte 0"):
        read(written, kind, left=len(written) - missing)


def test_parity_of_another_block_or_a_wrong_place_mends_nothing():
    kind, content, written = block(20)
    damaged = bytearray(written)
    damaged[100] ^= 1
    other = blocks.parity(content, NUMBER + 1)
    with pytest.raises(ValueError, match="not as they were written"):
        read(damaged[: len(content)] + other, kind)
    with pytest.raises(ValueError, match="not as they were written"):
        read(damaged[: len(content)] + b"?" + written[len(content) :], kind)


def test_a_file_full_of_marks_is_searched_once(monkeypatch):
    kind, content, written = block(5_000)
    tried = []
    is_sound = blocks._is_sound
    monkeypatch.setattr(blocks, "_is_sound", lambda part: tried.append(len(part)) or is_sound(part))
    mark = written[len(content) : len(content) + 24]
    with pytest.raises(ValueError, match="begins with"):
        read(mark * (len(written) // 24), kind)
    assert len(tried) <= 1
