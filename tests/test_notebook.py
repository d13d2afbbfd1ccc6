"""The notebook in examples/ and the wheel it installs; what training says, and how it is stopped, in a real kernel."""

import re
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from pathlib import Path

import jupytext
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from run_folders import rows_of

import t3d
from t3d.reports import compares_several

ROOT = Path(__file__).resolve().parents[1]
SOURCE = Path(t3d.__file__).parent
TEXT = (ROOT / "examples" / "fifteen_steps.py").read_text("utf-8")
WHEEL = "t3d-0.1.0-py3-none-any.whl"


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def execute(notebook, folder, python=sys.executable, **options):
    """Execute a notebook by a kernel of its own, of which nothing but the interpreter is chosen here."""
    manager = AsyncKernelManager(kernel_name="python3")
    manager.kernel_spec.argv[0] = str(python)
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, km=manager, timeout=3_600, resources=where, **options).execute(cleanup_kc=True)


def streamed(cell, name):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == name)


# ---- the text


def test_the_text_is_cells_that_compile_one_for_each_step():
    notebook = jupytext.reads(TEXT, fmt="py:percent")
    for number, cell in enumerate(code(notebook)):
        compile(TransformerManager().transform_cell(cell.source), f"cell {number}", "exec")
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = re.findall(r"^### Steps? (\d+)(?: and (\d+))?:? ", prose, re.M)
    assert [int(number) for pair in headings for number in pair if number] == list(range(1, 16))


def test_it_installs_the_wheel_of_this_version():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)[1]
    assert f"t3d-{version}-py3-none-any.whl" == WHEEL
    assert re.findall(r'^T3D = "(.+?)"', TEXT, re.M) == [WHEEL]


# ---- the wheel, and the notebook in an environment that has nothing but it


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """Return the folder of what `make notebook` makes."""
    folder = tmp_path_factory.mktemp("dist")
    # This interpreter's environment is taken as installed.
    words = ["make", "-o", ".venv/installed", "notebook", f"BIN={Path(sys.executable).parent}", f"DIST={folder}"]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=300)
    return folder


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """Return the bin of a new virtual environment that sees every package of this one but t3d."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    venv.create(tmp_path / "venv", symlinks=True)
    packages = tmp_path / "packages"
    packages.mkdir()
    for found in Path(sysconfig.get_path("purelib")).iterdir():
        if not re.search(r"^t3d\b|\.pth$", found.name):
            (packages / found.name).symlink_to(found)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(f"{packages}\n")
    monkeypatch.setenv("PATH", str(tmp_path / "venv" / "bin"), prepend=":")
    return tmp_path / "venv" / "bin"


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_package(dist):
    with zipfile.ZipFile(dist / WHEEL) as wheel:
        names = {name for name in wheel.namelist() if name.startswith("t3d/")}
    files = [file for file in SOURCE.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert names == {f"t3d/{file.relative_to(SOURCE).as_posix()}" for file in files}
    assert {"t3d/presets/pendulum.toml", "t3d/reports/assets/page.html.j2"} <= names


@pytest.mark.slow
def test_the_wheel_trains_where_nothing_else_of_t3d_is(dist, empty, tmp_path):
    def run(*words):
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    python = str(empty / "python")
    assert subprocess.run([python, "-c", "import t3d"], capture_output=True, check=False, cwd=tmp_path).returncode == 1
    run(python, "-m", "pip", "install", "--quiet", "--no-index", str(dist / WHEEL))
    assert Path(run(python, "-c", "import t3d; print(t3d.__file__)")).is_relative_to(tmp_path / "venv")
    assert run(str(empty / "t3d"), "--version").split()[-1] == "0.1.0"
    flags = ["--steps", "300", "--random-steps", "100", "--engine", "eager", "--out", "run", "--no-video"]
    run(str(empty / "t3d"), "train", "Pendulum-v1", *flags)
    assert (tmp_path / "run" / "report.html").stat().st_size > 100_000
    assert rows_of(tmp_path / "run")[-1]["env_steps"] == 300


@pytest.mark.slow
def test_a_student_gets_from_installing_to_a_changed_step_and_its_report(dist, empty, tmp_path):
    (tmp_path / WHEEL).symlink_to(dist / WHEEL)
    notebook = nbformat.read(dist / "fifteen_steps.ipynb", as_version=4)
    (constants,) = (cell for cell in code(notebook) if "STEPS = 6_000" in cell.source)
    constants.source += '\nSEEDS = 2\nOPTIONS |= {"steps": 1_200, "engine": "eager"}'  # which needs no compiler
    execute(notebook, tmp_path, empty / "python")
    cells = code(notebook)
    said = {cell.source: streamed(cell, "stdout") for cell in cells}
    (twin,) = (said[source] for source in said if source.startswith("twin = "))
    assert twin.split() == [w for n in ("actor", "actor_target", "critic", "critic_target") for w in (n, "equal")]
    (seeds,) = (cell for cell in cells if "seeds=SEEDS" in cell.source)
    assert re.search(r"^seed 1 +1,200 steps  evaluation -", streamed(seeds, "stderr"), re.M)
    shown = [output.data for cell in cells for output in cell.outputs if "data" in output]
    assert sum("image/png" in data for data in shown) == 2
    pages = [data["text/html"] for data in shown if "text/html" in data]
    assert ["data:video/mp4" in page[:200] for page in pages] == [True, False, False]
    assert all("<iframe srcdoc=" in page for page in pages[1:])
    assert compares_several(tmp_path / "compared.html")
    assert "cautious" in (tmp_path / "compared.html").read_text("utf-8")
    assert not any("Warning" in streamed(cell, "stderr") for cell in cells)


# ---- training in a kernel

SMALL = {"steps": 60, "random_steps": 10, "batch_size": 4, "buffer_size": 100, "hidden": (3,), "eval_every": 1}
SMALL |= {"eval_episodes": 1, "log_every": 10, "engine": "eager", "threads": 1}


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Return what runs cells in one kernel, with this source and the tests' environments, and returns them."""
    monkeypatch.setenv("PYTHONPATH", f"{SOURCE.parent}:{Path(__file__).parent}")

    def run(*sources, **options):
        sources = [f"import t3d\nfrom probes import Counting, ConstantReward\nSMALL = {SMALL!r}", *sources]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
        execute(notebook, tmp_path, **options)
        return notebook.cells[1:]

    return run


@pytest.mark.slow
def test_training_says_how_far_it_is_on_stderr_at_most_a_line_a_second_and_quiet_says_nothing(kernel, tmp_path):
    began = time.monotonic()
    loud, quiet, wrong = kernel(
        "_ = t3d.train(Counting, out='loud', video=False, **SMALL)",
        "_ = t3d.train(Counting, out='quiet', video=False, quiet=True, **SMALL)",
        "class Nothing(ConstantReward):\n    def reward(self, action):\n        return 0.0\n"
        "_ = t3d.train(Nothing, out='nothing', video=False, **SMALL)",
    )
    assert quiet.outputs == []
    for cell in (loud, wrong):
        assert {(output.output_type, output.get("name")) for output in cell.outputs} == {("stream", "stderr")}
    said = re.findall(r"^ +(\d+) steps .* s  evaluation -?\d", streamed(loud, "stderr"), re.M)
    assert (said[0], said[-1]) == ("1", "60")
    assert len(said) <= 2 + time.monotonic() - began  # of 60 evaluations
    assert "steps  rewards all the same: every reward" in streamed(wrong, "stderr")


@pytest.mark.slow
def test_an_interrupt_of_the_kernel_saves_the_run_and_the_cell_goes_on(kernel, tmp_path):
    cell = (
        "import os, signal\n"
        "for row in t3d.iterate(Counting, out='run', resume='auto', **SMALL):\n"
        "    if row['env_steps'] == 30 and not os.path.exists('sent'):\n"
        "        open('sent', 'w').close()\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
    )
    first, second = kernel(cell, cell, allow_errors=True)
    assert [(output.output_type, output.get("ename")) for output in first.outputs] == [("error", "Stopped")]
    assert second.outputs == []
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"30", "60"}
    rows = rows_of(tmp_path / "run")
    assert [row["env_steps"] for row in rows if row.get("what") == "stopped by SIGINT"] == [30]
    assert rows[-1]["env_steps"] == 60
