"""A segment of the replay memory: whatever happens to it, the blocks that are read are those that were written."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t3d.runs import replay_blocks

SLOT = 40
KIND = replay_blocks.Kind("5a" * 32, 2, SLOT, 5_000)


def segment(*slots):
    """Return a segment with a block for each number of slots a stream, and those blocks."""
    rng = np.random.default_rng(len(slots))
    parts = [[rng.bytes(count * SLOT) for _ in range(2)] for count in slots]
    starts = [0, *itertools.accumulate(slots)]
    written = [replay_blocks.encode(k, [starts[k]] * 2, slots, KIND) for k, slots in enumerate(parts)]
    return replay_blocks.encode_head(KIND) + b"".join(written), [
        (k, [starts[k]] * 2, part) for k, part in enumerate(parts)
    ]


def read(content, sound=False):
    found, bad = replay_blocks.read(bytes(content), KIND, sound=sound)
    return [(block.number, block.starts, [bytes(part) for part in block.slots]) for block in found], bad


@pytest.mark.parametrize("slots", [(), (0,), (1,), (50, 0, 1), (800, 3, 5_000)])
@pytest.mark.parametrize("sound", [True, False])
def test_it_comes_back_as_it_was(slots, sound):
    content, written = segment(*slots)
    assert read(content, sound) == (written, [])
    assert replay_blocks.run_of(content) == KIND.run


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_only_what_was_written_is_read_and_what_is_whole_is_found(data):
    content, written = segment(3, 0, 40, 1, 7)
    damaged = bytearray(content)
    begin = data.draw(st.integers(0, len(content) - 1))
    end = min(len(content), begin + data.draw(st.integers(1, 300)))
    damaged[begin:end] = data.draw(st.binary(max_size=400))
    found, bad = read(damaged)
    assert [block for block in found if block not in written] == []
    if damaged == content:
        assert (found, bad) == (written, [])
    else:
        assert bad
        ends = [len(segment(*(3, 0, 40, 1, 7)[:k])[0]) for k in range(6)]
        untouched = [k for k in range(5) if ends[k + 1] <= begin or ends[k] >= end]
        assert [block[0] for block in found] >= untouched or set(untouched) <= {block[0] for block in found}


def test_a_bit_of_every_byte():
    content, written = segment(2, 1)
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        found, bad = read(damaged)
        assert bad, at
        assert len(found) >= 1, at
        assert all(block in written for block in found), at


def test_a_head_that_is_not_as_it_was_written_names_no_run():
    content, _ = segment(1)
    for at in range(64):
        damaged = bytearray(content)
        damaged[at] ^= 1
        assert replay_blocks.run_of(bytes(damaged)) == ""
    assert replay_blocks.run_of(content[:63]) == ""


@pytest.mark.parametrize("whole", [True, False])
def test_a_segment_full_of_marks_is_not_searched_for_ever(monkeypatch, whole):
    """Each mark claims a block that reaches to the end: all of them together would be summed up a thousand times."""
    content, _ = segment(2)
    marks = 4_000
    head, step = replay_blocks._BLOCK.size + 2 * replay_blocks._SPAN.size, SLOT * 2
    claimed = bytearray()
    for k in range(marks):
        slots = (marks - k) * step // SLOT - 2
        entry = replay_blocks._BLOCK.pack(replay_blocks._BLOCK_MAGIC, k, slots * SLOT)
        entry += replay_blocks._SPAN.pack(0, slots // 2) + replay_blocks._SPAN.pack(0, slots - slots // 2)
        claimed += entry.ljust(step, b"?")
    assert head <= step
    summed = []
    is_whole = replay_blocks._is_whole
    monkeypatch.setattr(replay_blocks, "_is_whole", lambda s, at, end: summed.append(end - at) or is_whole(s, at, end))
    monkeypatch.setattr(replay_blocks, "_SEARCHED", 4)
    kind_fits = KIND._replace(most_slots=10**9)
    attacked = content[:64] + bytes(claimed) + bytes(100) + (content[64:] if whole else b"")
    found, bad = replay_blocks.read(attacked, kind_fits, sound=False)
    assert len(summed) > 1
    assert sum(summed) <= 6 * len(attacked)
    assert bad
    assert [block.number for block in found] == []
