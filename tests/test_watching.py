"""A run watched while it learns: its page written anew beside it, and its newest policy in a window."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chromium import CHROMIUM, Page
from run_folders import write_run

import t3d
from t3d.cli.main import run
from t3d.env_spec import EnvSpec
from t3d.errors import RunRefused
from t3d.reports import compares_several, live, write_report
from t3d.reports.page import Live, gather, render
from t3d.runs import window
from t3d.runs.live_report import LiveReport
from t3d.storage.lock import Lock

CURVE = {100: 1.0, 200: 2.0}
XVFB = shutil.which("Xvfb")
GOLDEN = Path(__file__).parent / "data" / "golden-3" / "finished"
OWN = str(Path(__file__).with_name("own_envs.py"))


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run", CURVE, steps=400)


def said_live(page):
    return "The run goes on, so far to step 200 of 400." in page.read_text("utf-8")


def test_the_page_says_that_the_run_goes_on_until_there_is_nothing_more_to_hear(folder):
    page, states = folder / "report.html", []

    def evaluations():
        for _ in range(2):
            yield "\n"
            states.append(said_live(page))

    assert live.follow(evaluations(), folder, elapsed_s=1e9, least_s=0.0, share=1.0) == 3
    assert states == [True, True]
    assert not said_live(page)
    assert list(folder.glob("*.new")) == []


@pytest.mark.parametrize(("least_s", "share"), [(60.0, 1.0), (0.0, 0.0)])
def test_it_is_not_written_more_often_or_at_a_higher_price(folder, least_s, share):
    elapsed_s = 0.0 if least_s else 1.0
    assert live.follow(["\n"] * 3, folder, elapsed_s, least_s, share) == 0
    assert not (folder / "report.html").exists()
    assert live.follow(["\n"] * 3, folder, elapsed_s=1e9, least_s=60.0, share=1.0) == 2  # one, and the last


def test_a_page_that_compares_several_runs_stays(folder, tmp_path):
    other = write_run(tmp_path / "other", CURVE, lr=0.5)
    page = write_report([folder, other])
    assert page == folder / "report.html"
    assert compares_several(page)
    before = page.read_bytes()
    assert live.follow(["\n"], folder, elapsed_s=1e9, least_s=0.0, share=1.0) == 0
    assert page.read_bytes() == before
    assert not compares_several(write_report([other]))
    assert not compares_several(tmp_path / "none.html")


def test_the_end_of_a_run_leaves_such_a_page_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--random-steps", "5", "--eval-episodes", "1", "--hidden", "4", "--engine", "eager", "--threads", "1"]
    command = ["train", "Pendulum-v1", *flags, "--no-video", "--out", "run", "--resume", "auto", "--steps"]
    assert run([*command, "20"]) == 0
    write_report([Path("run"), write_run(tmp_path / "other", CURVE)])
    before = Path("run/report.html").read_bytes()
    assert run([*command, "30"]) == 0  # it goes on for longer
    assert Path("run/report.html").read_bytes() == before
    assert t3d.read("run").evaluations["env_steps"][-1] == 30


@pytest.mark.slow
@pytest.mark.parametrize("dies", [False, True])
def test_the_writer_lives_beside_the_run_and_outlives_its_death(folder, dies):
    """The process that would train is one of its own, so that it can be killed."""
    code = f"""
import sys, time
from pathlib import Path
from t3d.runs.live_report import LiveReport
with LiveReport(Path({str(folder)!r}), first_s=0.0, least_s=0.0, share=1e9) as page:
    while True:
        page.evaluated()
        time.sleep(0.1)
        if Path({str(folder / "stop")!r}).exists():
            raise SystemExit
"""
    page = folder / "report.html"
    trainer = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: page.exists() and said_live(page))
    if dies:
        trainer.kill()
    else:
        (folder / "stop").touch()
    trainer.wait()
    wait_for(lambda: not said_live(page))


def wait_for(condition):
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_short_run_has_no_such_process(folder):
    with LiveReport(folder) as page:
        page.evaluated()
        assert page._writer is None


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian: apt-get install chromium")
@pytest.mark.slow
def test_it_reloads_itself_while_the_run_lives_and_not_for_ever(folder, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make install")
    report, page = gather([folder]), tmp_path / "page.html"
    with playwright.sync_playwright() as driver, driver.chromium.launch(executable_path=CHROMIUM) as browser:
        page.write_text(render(report, Live(0.2, time.time() + 600)))
        opened = Page(browser, page)
        page.write_text(render(report))
        opened.page.locator("#live").wait_for(state="detached")
        loaded = len(opened.asked)
        opened.page.wait_for_timeout(500)
        assert len(opened.asked) == loaded, "a finished run's page does not"
        page.write_text(render(report, Live(0.2, time.time() - 1)))
        opened.page.reload()
        opened.until("document.getElementById('live').textContent.startsWith('Nothing was written here for long')")
        assert opened.is_quiet()


@pytest.fixture
def screen(monkeypatch):
    """A display that nobody sees."""
    pytest.importorskip("pygame", reason="the extra `watch` is not installed")
    if XVFB is None:
        pytest.skip("no Xvfb here; Debian: apt-get install xvfb")
    read, write = os.pipe()
    server = subprocess.Popen(
        [XVFB, "-displayfd", str(write), "-screen", "0", "640x640x24", "-nolisten", "tcp"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as said:
        monkeypatch.setenv("DISPLAY", f":{said.readline().strip()}")
    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    yield
    server.terminate()
    server.wait()


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    options = {"steps": 8, "random_steps": 3, "eval_episodes": 1, "hidden": (4,), "threads": 1, "engine": "eager"}
    return t3d.train(f"{OWN}:Walk", out=tmp_path_factory.mktemp("runs") / "run", video=False, **options).path


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("screen")
def test_a_window_plays_the_newest_policy_and_takes_a_newer_one_between_two_episodes(walked, monkeypatch):
    import pygame

    monkeypatch.setattr(window, "pace_of", lambda *_: 2_000.0)
    held, before = Lock(walked), contents(walked)
    played = window.watch(walked, env=EnvSpec(f"{OWN}:Walk"))
    assert next(played).env_steps == 8
    assert pygame.surfarray.array3d(pygame.display.get_surface()).max() > 0
    assert "policy after 8 steps, episode 1, return" in pygame.display.get_caption()[0]
    assert contents(walked) == before, "nothing is written, and the lock is another's"
    policy = walked / "policy"
    shutil.copy(policy / "half.safetensors", policy / "new")
    (policy / "new").replace(policy / "last.safetensors")
    assert [next(played).episode for _ in range(2)] == [1, 2]
    assert "policy after 4 steps" in pygame.display.get_caption()[0]
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    assert list(played) == []
    held.close()


@pytest.mark.usefixtures("screen")
def test_before_the_first_evaluation_the_policy_of_the_start_plays(walked, tmp_path, monkeypatch):
    monkeypatch.setattr(window, "pace_of", lambda *_: 2_000.0)
    begun = tmp_path / "run"
    shutil.copytree(walked, begun)
    (begun / "policy" / "last.safetensors").unlink()
    played = window.watch(begun, env=EnvSpec(f"{OWN}:Walk"))
    assert next(played).env_steps == 0
    played.close()
    (begun / "policy" / "start.safetensors").unlink()
    with pytest.raises(RunRefused, match="this run has no policy yet"):
        next(window.watch(begun, env=EnvSpec(f"{OWN}:Walk")))


@pytest.mark.slow
@pytest.mark.usefixtures("screen")
def test_the_window_does_not_take_mujocos_renderer_away(tmp_path, monkeypatch):
    import pygame

    monkeypatch.setattr(window, "pace_of", lambda *_: 60.0)
    shutil.copytree(GOLDEN, tmp_path / "run")
    played = window.watch(tmp_path / "run")
    for _ in range(2):  # the first frame was drawn before there was a window
        next(played)
        assert pygame.surfarray.array3d(pygame.display.get_surface()).max() > 100
    played.close()


@pytest.mark.slow
@pytest.mark.usefixtures("screen")
def test_the_command_plays_in_real_time_until_it_is_told_to_stop(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "run")
    command = [sys.executable, "-m", "t3d", "watch", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        times = []
        for _ in range(3):
            line = watching.stdout.readline()
            assert line.startswith("policy after       330 steps")
            times.append((time.monotonic(), int(line.split()[-2])))
        watching.terminate()
        assert watching.wait(60) == 143
    # 25 steps a second, as the environment has it.
    assert times[2][0] - times[1][0] >= 0.9 * times[2][1] / 25


def test_without_a_screen_one_sentence_says_so(walked, monkeypatch, capsys):
    pytest.importorskip("pygame", reason="the extra `watch` is not installed")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    assert run(["watch", str(walked), "--env", f"{OWN}:Walk"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("t3d: there is no screen to open a window on\n")
    assert "DISPLAY is not set" in err
