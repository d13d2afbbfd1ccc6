"""The films of a report: two at most, as they are, chosen by length and first bytes."""

import pytest
from run_folders import write_run, write_seeds

from t3d.reports import videos, write_report

MP4 = b"\0\0\0\x20ftypisom"


def film(run, which="best", size=100):
    (run / "video").mkdir(exist_ok=True)
    (run / "video" / f"{which}.mp4").write_bytes(MP4.ljust(size, b"?"))
    return run


def page(*runs):
    return write_report(list(runs)).read_text("utf-8")


def test_both_films_of_a_run_are_shown_as_they_are(tmp_path):
    run = film(film(write_run(tmp_path / "run", {100: 1.0})), "last", 600_000)
    text = page(run)
    assert text.count("data:video/mp4;base64,") == 2
    assert "is not shown" not in text


@pytest.mark.parametrize(("size", "shown"), [(videos.BUDGET_BYTES, 1), (videos.BUDGET_BYTES + 1, 0), (1 << 40, 0)])
def test_what_is_too_large_is_named_and_not_read(tmp_path, size, shown):
    run = film(write_run(tmp_path / "run", {100: 1.0}))
    with (run / "video" / "best.mp4").open("r+b") as file:
        file.truncate(size)
    text = page(run)
    assert text.count("data:video/mp4") == shown
    assert ("best.mp4 is not shown: " in text) == (not shown)


def test_two_films_share_the_room(tmp_path):
    run = film(film(write_run(tmp_path / "run", {100: 1.0}), size=700_000), "last", 600_000)
    text = page(run)
    assert text.count("data:video/mp4") == 1
    assert "last.mp4 is not shown: 600,000 bytes, and 500,000 are left" in text


def test_what_is_no_mp4_never_enters_a_page(tmp_path):
    run = write_run(tmp_path / "run", {100: 1.0})
    (run / "video").mkdir()
    (run / "video" / "best.mp4").write_bytes(b"<script>" * 9)
    text = page(run)
    assert "data:video" not in text
    assert "best.mp4 is not shown: it is no mp4." in text


def test_of_several_groups_the_best_policies_of_the_first_two_are_shown(tmp_path):
    parents = [write_seeds(tmp_path / name, [1.0], env=env, lr=lr) for name, env, lr in GROUPS]
    for parent in parents:
        film(film(parent / "s0"), "last")
    text = page(*parents)
    assert text.count("data:video/mp4") == videos.MOST_CLIPS
    assert text.count("a page has 2 videos at most") == 4
    for name in ("a/s0/video/last.mp4", "b/s0/video/last.mp4", "c/s0/video/best.mp4", "c/s0/video/last.mp4"):
        assert f"{tmp_path / name} is not shown" in text


GROUPS = [("a", "Ant-v5", 1e-3), ("b", "Ant-v5", 1e-4), ("c", "Hopper-v5", 1e-3)]
