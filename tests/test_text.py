"""The text of the code: the 15 steps stand in order, the arrows of the design point one way, files stay short."""

import ast
import functools
import graphlib
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import t3d

SOURCE = Path(t3d.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
TEXTS = {file: file.read_text("utf-8") for file in FILES}
TREES = {file: ast.parse(text) for file, text in TEXTS.items()}
NODES = {file: list(ast.walk(tree)) for file, tree in TREES.items()}

# Which room of the design a file belongs to; a file imports from rooms below its own, or from its own room.
ROOMS = {
    "address": 0, "env_spec": 0, "errors": 0, "machine": 0,
    "config": 1, "formats": 1, "frames": 1, "networks": 1, "presets": 1, "spaces": 1, "storage": 1,
    "td3": 2, "replay": 2, "policy": 2, "priorities": 1,
    "diagnosis": 3, "engines": 3, "environments": 3, "export": 3, "variants": 3,
    "training": 4,
    "runs": 5, "reports": 5,
    "execution": 6, "tracking": 6,
    "tuning": 7, "results": 7,
    "api": 8, "bench": 8,
    "cli": 9, "__main__": 9,
}  # fmt: skip


def room(module):
    """Return the part of t3d that a module belongs to: t3d.runs.run_folder is in runs. The package itself has none."""
    return module.split(".")[1] if "." in module else ""


def module_of(file):
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def statements(tree):
    """Yield every node but those under `if TYPE_CHECKING`, which never run."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            nodes += node.orelse
            continue
        yield node
        nodes += ast.iter_child_nodes(node)


@functools.cache
def imports(file):
    """Return the full names of the modules that a file imports, wherever in it."""
    found = set()
    for node in statements(TREES[file]):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}: a relative import"
            for name in node.names:
                full = f"{node.module}.{name.name}"
                is_module = (SOURCE.parent / full.replace(".", "/")).with_suffix(".py").exists()
                is_module = is_module or (SOURCE.parent / full.replace(".", "/")).is_dir()
                found.add(full if is_module else node.module)
    return found


def test_each_of_the_15_steps_is_marked_once_and_where_it_belongs():
    found = {}
    for file in FILES:
        marks = [int(n) for n in re.findall(r"^ *# Step (\d+): \S", TEXTS[file], re.MULTILINE)]
        assert marks == sorted(marks), f"{file.name}: out of order"
        found |= {file.relative_to(SOURCE).as_posix(): marks} if marks else {}
    assert found == {"replay.py": [1, 4], "td3.py": [2, 3, *range(5, 16)]}


def test_a_step_is_marked_in_no_other_way():
    for file, text in TEXTS.items():
        assert len(re.findall(r"# ?step \d", text, re.IGNORECASE)) == len(re.findall(r"# Step \d+: ", text)), file.name


def test_every_file_stands_in_a_room_of_the_design():
    rooms = {room(module_of(file)) for file in FILES} - {""}
    assert rooms == set(ROOMS), "say in tests/test_text.py and docs/design.md in which room it stands"


def test_the_map_of_the_design_names_every_file_in_its_room_and_no_other():
    page = (SOURCE.parents[1] / "docs" / "design.md").read_text("utf-8")
    rooms = dict.fromkeys(ROOMS, "")
    for line in page.split("```")[1].splitlines()[2:]:
        if head := re.match(r"  (\w+)/ ", line):
            name = head[1]
        elif re.match(r"  \w+\.py ", line):
            name = "top level"
        rooms[name] = rooms.get(name, "") + line if line.startswith("  ") else ""
    for file in FILES:
        folder, stem = file.parent.relative_to(SOURCE).as_posix(), file.stem
        if stem != "__init__":
            words = re.findall(r"\w+", rooms["top level" if folder == "." else folder])
            assert stem in words, f"docs/design.md does not say that {folder}/{file.name} is there"
    named = re.findall(r"(\w+)\.py", rooms["top level"])
    assert {f"{name}.py" for name in named} == {path.name for path in SOURCE.glob("*.py")} - {"__init__.py"}


def test_imports_point_one_way():
    # The package's own __init__, which is in no room, looks names up when they are asked for.
    arrows = {(module_of(file), name) for file in FILES for name in imports(file) if name.startswith("t3d.")}
    assert [arrow for arrow in sorted(arrows) if ROOMS[room(arrow[1])] > ROOMS.get(room(arrow[0]), -1)] == []


def test_no_module_imports_itself_in_a_circle():
    known = {module_of(file): file for file in FILES}
    graph = {module: {name for name in imports(file) if name in known} for module, file in known.items()}
    assert "t3d.td3" in graph["t3d.training.trainer"]
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_td3_imports_little():
    allowed = {"__future__", "copy", "itertools", "typing", "numpy", "torch"}
    outside = {name.split(".")[0] for name in imports(SOURCE / "td3.py")} - {"t3d"}
    inside = {name for name in imports(SOURCE / "td3.py") if name.startswith("t3d")}
    assert outside <= allowed
    assert inside <= {"t3d.config", "t3d.networks", "t3d.errors", "t3d.replay", "t3d.spaces"}


def test_only_what_makes_or_wraps_environments_imports_gymnasium():
    users = {module_of(file) for file in FILES if any(name.split(".")[0] == "gymnasium" for name in imports(file))}
    assert users == {f"t3d.environments.{name}" for name in ("make", "pixels", "action_repeat")}


def test_what_the_command_line_needs_for_its_help_is_light():
    for name in ("config", "errors", "presets/__init__", "__init__"):
        light = set(sys.stdlib_module_names) | {"t3d", "msgspec"}
        assert {imported.split(".")[0] for imported in imports(SOURCE / f"{name}.py")} <= light, name


def test_a_policy_needs_neither_training_nor_environments():
    room = {"architectures", "files", "normalizer", "player", "policy"}
    used = {name for stem in room for name in imports(SOURCE / "policy" / f"{stem}.py")}
    assert {name for name in used if name.startswith("t3d")} - {f"t3d.policy.{stem}" for stem in room} == {
        "t3d.storage.checked_files", "t3d.errors", "t3d.formats", "t3d.frames", "t3d.spaces",
        "t3d.policy.torch_nets"  # for a network of a caller's own, where one is loaded
    }  # fmt: skip
    light = {"__future__", "collections.abc", "typing", "numpy", "numpy.typing"}
    assert imports(SOURCE / "policy" / "player.py") <= light


def test_reports_know_nothing_of_training():
    files = [file for file in FILES if room(module_of(file)) == "reports"]
    assert len(files) > 5
    used = {name for file in files for name in imports(file) if name.startswith("t3d.")}
    used = {name for name in used if room(name) != "reports"}
    assert used == {
        "t3d.storage.checked_files",
        "t3d.storage.row_lines",
        "t3d.config",
        "t3d.env_spec",
        "t3d.errors",
        "t3d.formats",
        "t3d.diagnosis.actions",
        "t3d.diagnosis.explained",
        "t3d.diagnosis.hints",
        "t3d.diagnosis.questions",
        "t3d.presets",
    }
    assert not {name.split(".")[0] for file in files for name in imports(file)} & {"torch", "gymnasium", "safetensors"}


def test_files_and_functions_are_short():
    long = [module_of(file) for file, text in TEXTS.items() if len(text.splitlines()) > 400]
    long += [
        f"{module_of(file)}.{node.name}"
        for file, nodes in NODES.items()
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > 60
    ]
    assert long == []


FORBIDDEN_IMPORTS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml"}


FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "torch.save"}


def runs_code(tree):
    """Return what a file calls, or gives to a call, that could run code it was handed."""
    nodes = list(ast.walk(tree))
    called = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    given = {node.arg for node in nodes if isinstance(node, ast.keyword)}
    return called & FORBIDDEN_CALLS | given & {"allow_pickle", "shell"}


def test_nothing_runs_code_from_a_file_of_data():
    assert {module_of(file): found for file in FILES if (found := runs_code(TREES[file]))} == {}
    users = [module_of(file) for file in FILES if {name.split(".")[0] for name in imports(file)} & FORBIDDEN_IMPORTS]
    assert users == []


# What changes a disk outside storage/disk.py, and why it may.
WRITES = {"os.open", "os.write", "os.replace", "os.rename", "os.unlink", "os.remove", "os.mkdir", "os.rmdir"}
WRITES |= {"os.truncate", "os.ftruncate", "os.makedirs", "os.link", "os.symlink", "av.open", "EventFileWriter"}
METHODS = {"write_text", "write_bytes", "unlink", "rename", "rmdir", "mkdir", "touch", "symlink_to", "hardlink_to"}
MODULES = {"shutil": {"disk_usage", "which"}, "tempfile": {"TemporaryFile"}}  # what may be called of them
ELSEWHERE = {
    "t3d.storage.lock": {"os.open", "os.write", "os.ftruncate"},  # the lock itself; no run is lost without its text
    "t3d.runs.video": {"av.open"},  # FFmpeg writes beside; disk.rename makes it the video
    "t3d.runs.tensorboard": {"EventFileWriter"},  # no part of what a run is resumed from
    "t3d.environments.silence": {"os.open"},  # /dev/null
    "t3d.reports.html": {"out.parent.mkdir", "beside.unlink", "beside.open"},  # no part of a run, and made anew at will
    "t3d.execution.cluster": {
        "tempfile.TemporaryDirectory",
        "token.touch",
        "token.write_text",
    },  # gone with the command
    "t3d.export.folder": {"tempfile.TemporaryDirectory"},  # where a check compiles
    "t3d.runs.explanation": {"tempfile.TemporaryDirectory"},  # a film that goes into the page
    "t3d.environments.worker_pool": {"os.ftruncate"},  # memory without a name
}


def writes(tree):
    """Return what a file calls that can change a disk."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        *owner, last = called.split(".")
        if called in WRITES or (last in METHODS and owner != ["disk"]):
            found.add(called)
        if owner and owner[0] in MODULES and last not in MODULES[owner[0]]:
            found.add(called)
        if last == "open" and called not in ("os.open", "av.open"):
            words = [*node.args, *(keyword.value for keyword in node.keywords)]
            modes = [word.value for word in words if isinstance(word, ast.Constant)]
            if any(isinstance(mode, str) and re.fullmatch(r"[rwaxbt+]*[wax+][rwaxbt+]*", mode) for mode in modes):
                found.add(called)
    return found


def test_one_file_changes_the_disk():
    found = {module_of(file): called for file in FILES if (called := writes(TREES[file]))}
    assert {"os.open", "os.write", "os.replace", "os.unlink", "os.rmdir"} <= found.pop("t3d.storage.disk")
    assert found == ELSEWHERE


def test_no_import_path_is_taken_from_a_file():
    """Modules are imported by name in four places: for a command, an environment, t3d's own names, a caller's class."""
    calls = {
        (module_of(file), ast.unparse(node.args[0]))
        for file in FILES
        for node in NODES[file]
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "spec_from_file_location"))
    }
    users = {"t3d", "t3d.environments.make", "t3d.cli.main", "t3d.address"}
    assert {module for module, _ in calls} == users, calls
    # And what a run folder says of its environment goes through the function that refuses what is code.
    for file in (SOURCE / "api.py", SOURCE / "runs" / "run_folder.py", SOURCE / "policy" / "policy.py"):
        assert "import_module" not in TEXTS[file]
    takes = [
        (file.stem, line.strip())
        for file in FILES
        if room(module_of(file)) in ("api", "runs", "cli")
        for line in TEXTS[file].splitlines()
        if re.search(r"(recorded|record|info)\.spec\b(?!\.(identity|title))", line)
    ]
    assert takes == [("policies", "spec = recorded.spec")]


def identifiers(tree):
    for node in ast.walk(tree):
        for field in ("id", "arg", "attr", "name", "asname"):
            if isinstance(name := getattr(node, field, None), str):
                yield name


def test_nothing_is_called_done():
    # terminated stops a bootstrap, truncated does not; one word for both is the commonest mistake of all.
    names = {(module_of(file), name) for file in FILES for name in identifiers(TREES[file])}
    assert [found for found in sorted(names) if re.search(r"(^|_)dones?(_|$)", found[1].lower())] == []


def test_no_global_generator_is_drawn_from():
    nodes = [node for name in ("td3", "training/randomness", "networks") for node in NODES[SOURCE / f"{name}.py"]]
    calls = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    random_calls = {
        name for name in calls if re.search(r"\brandom\.|manual_seed|\brandn?(_like)?$|normal_|uniform_", name)
    }
    assert random_calls <= {"np.random.default_rng", "np.random.SeedSequence"}


def test_importing_t3d_imports_nothing_heavy():
    code = (
        "import sys, t3d, t3d.config, t3d.presets; print(*{'torch', 'numpy', 'gymnasium', 'rich'} & set(sys.modules))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.split() == []


def test_training_does_not_import_the_compiler_of_pytorch():
    # It would be a second or two at every start, of each seed; PyTorch's own Adam imports it.
    code = """
import sys, numpy as np, t3d
agent = t3d.TD3(t3d.Spaces.of_vectors(3, 1), t3d.TD3Config(hidden=(4,), policy_delay=1), np.random.default_rng(0))
rows = np.ones((2, 3), np.float32), np.ones((2, 1), np.float32), np.ones(2, np.float32)
agent.update(t3d.Batch(rows[0], rows[0], rows[1], *[rows[2]] * 3), rows[1])
print(*{'torch', 'torch._dynamo'} & set(sys.modules))
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.split() == ["torch"]


def test_a_version_is_pinned_in_one_place():
    # The peers' environment holds to constraints.txt: two pins of one package that differ, and it cannot be made.
    repo = Path(__file__).parent.parent
    files = [repo / "constraints.txt", repo / "benchmarks/peers/requirements.txt"]
    pins = [
        re.sub("[-_.]+", "-", name).lower() for file in files for name in re.findall(r"(?m)^(\S+)==", file.read_text())
    ]
    assert len(pins) > 50
    assert sorted(pins) == sorted(set(pins))


def test_public_names_are_there():
    assert sorted(t3d.__all__) == sorted(set(t3d.__all__))
    for name in t3d.__all__:
        found = getattr(t3d, name)
        assert found.__module__.startswith("t3d.")
        assert found.__doc__
    with pytest.raises(AttributeError, match="no attribute 'Td3'"):
        t3d.Td3  # noqa: B018


def test_the_checks_of_this_file_would_see_what_they_look_for():
    tree = ast.parse("if TYPE_CHECKING:\n    import a\nelse:\n    import b\ndef f(done):\n    x.is_done = 1\n")
    seen = [node.names[0].name for node in statements(tree) if isinstance(node, ast.Import)]
    assert seen == ["b"]
    assert {"done", "is_done"} <= set(identifiers(tree))
    for text in ("open(p, 'w')", "p.open(mode='ab')", "p.write_bytes(b)", "os.unlink(p)", "shutil.rmtree(p)"):
        assert writes(ast.parse(text)), text
    for text in ("eval(x)", "torch.load(p)", "np.load(p, allow_pickle=True)", "run(c, shell=True)"):
        assert runs_code(ast.parse(text)), text
    for text in ("p.open('rb')", "p.open()", "disk.rename(a, b)", "shutil.disk_usage(p)", "open('p')"):
        assert not writes(ast.parse(text)), text
    assert "t3d.environments.envs" in imports(SOURCE / "training" / "trainer.py")
    assert "t3d.runs.run_folder" in imports(SOURCE / "runs" / "policies.py")  # `from t3d.runs import folder`
    assert list(itertools.chain.from_iterable(imports(f) for f in FILES)).count("gymnasium") == 3
