"""The films of a report: what was written is shown, what is not as it was written is told."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
from run_folders import write_run

from t3d import sealed
from t3d.reports import write_report
from t3d.runs import film

pytest.importorskip("av", reason="the extra `video` is not installed")


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """A run with a film of two small frames."""
    run = write_run(tmp_path_factory.mktemp("filmed") / "run", {100: 1.0})
    (run / "video").mkdir()
    rng = np.random.default_rng(0)
    film._write(list(rng.integers(0, 256, (2, 16, 16, 3), np.uint8)), 30, run / "video" / "best.mp4")
    file = run / "video" / "best.mp4"
    return SimpleNamespace(run=run, file=file, whole=file.read_bytes(), page=write_report([run]).read_text("utf-8"))


def page_with(filmed, content):
    filmed.file.write_bytes(content)
    return write_report([filmed.run]).read_text("utf-8")


def is_told(filmed, page):
    return f"{filmed.file.name} is not shown" in page or f"{filmed.file.name} has no checksum" in page


def test_a_film_as_it_was_written_is_shown_without_a_word(filmed):
    assert "data:video/mp4" in filmed.page
    assert not is_told(filmed, filmed.page)
    assert 500 < len(filmed.whole) < 5_000


def test_a_film_still_plays_with_its_checksum_behind_it(filmed):
    import av

    filmed.file.write_bytes(filmed.whole)
    with av.open(str(filmed.file)) as container:
        assert len(list(container.decode(video=0))) == 2


def test_a_film_cut_short_is_told_at_any_length(filmed):
    lengths = [*range(0, len(filmed.whole), 37), *range(len(filmed.whole) - 50, len(filmed.whole))]
    marked = filmed.whole.index(sealed.FILM_MARK) + len(sealed.FILM_MARK)
    assert marked < len(filmed.whole) - 500, "before the pictures"
    for length in lengths:
        page = page_with(filmed, filmed.whole[:length])
        assert is_told(filmed, page), length
        assert length < marked or "data:video" not in page, length


def test_something_behind_a_film_is_told(filmed):
    assert "data:video" not in page_with(filmed, filmed.whole + b"?")


def test_a_changed_byte_of_a_film_is_told(filmed):
    rng = random.Random(0)
    for at in [*rng.sample(range(len(filmed.whole)), 60), *range(len(filmed.whole) - 48, len(filmed.whole), 5)]:
        content = bytearray(filmed.whole)
        content[at] ^= 1 << rng.randrange(8)
        assert is_told(filmed, page_with(filmed, bytes(content))), at


def test_a_film_of_before_is_shown_and_called_what_it_is(filmed):
    page = page_with(filmed, filmed.whole[:-48].replace(sealed.FILM_MARK, sealed.FILM_MARK.upper()))
    assert "data:video/mp4" in page
    assert "had it changed, nothing would tell" in page


def test_a_film_of_a_terabyte_is_not_read_to_its_end(filmed):
    with filmed.file.open("r+b") as file:
        file.truncate(1 << 40)
    assert "is not shown" in write_report([filmed.run]).read_text("utf-8")
