"""Exported controllers do what the policy does, whatever the network; and what does not is never there."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import small_runs
from msgspec import structs
from strangers import NOT_TENSORS, description_of, header, sealed_policy
from test_player import fresh_actor, fresh_sale, info_of

import t3d
import t3d.api
from t3d.cli.main import run as t3d_command
from t3d.errors import ExportFailed
from t3d.export import folder, hub, self_check, templates
from t3d.policy.files import encode
from t3d.policy.player import Operation, play
from t3d.policy.policy import Policy
from t3d.policy.torch_nets import arrays_of
from t3d.runs.exports import export_policy
from t3d.spaces import ObsPart, Spaces

RNG = np.random.default_rng(5)
LOW, HIGH = (0.0, -0.4, -2.0), (1.0, 0.5, 3.0)
VECTOR = (ObsPart(shape=(17,)),)
PARTS = (
    ObsPart(name="obs/arm", shape=(3,)),
    ObsPart(name="obs/goal/0", shape=(2, 2)),
    ObsPart(name="obs/goal/1", shape=(1,)),
)


def policy_of(hidden, layer_norm=False, normalized=False, parts=VECTOR, low=LOW, high=HIGH):
    """Return a policy of a fresh actor."""
    size = sum(int(np.prod(part.shape)) for part in parts)
    net, _ = fresh_actor(size, hidden, len(low), layer_norm)
    tensors = arrays_of(net)
    if normalized:
        tensors |= {"obs_mean": RNG.normal(3, 50, size), "obs_std": RNG.uniform(1e-3, 20, size)}
    return Policy(info_of(Spaces(parts, (len(low),), low, high), hidden, layer_norm), tensors)


def td7(hidden, embedding):
    """Return a policy of td7's actor and encoder."""
    net, _ = fresh_sale(17, hidden, 3, embedding)
    info = info_of(Spaces(VECTOR, (3,), LOW, HIGH), hidden, architecture="sale", embedding=embedding)
    return Policy(info, arrays_of(net))


def with_more_ways():
    """Return a policy whose operations stand in another order than those of any of t3d's."""
    policy, at = policy_of((4,), normalized=True), []

    def dense(x, inputs, width):
        weights = RNG.normal(0, inputs**-0.5, (width, inputs)), RNG.normal(0, 0.1, width)
        return add("dense", (x,), width, *(array.astype(np.float32) for array in weights))

    def add(kind, inputs, width, *weights):
        at.append(Operation(kind, inputs, width, weights))
        return len(at)

    x = add("elu", (dense(0, 17, 9),), 9)
    x = add("elu", (dense(x, 9, 9),), 9)
    embedding = add("avg_l1_norm", (dense(x, 9, 5),), 5)
    state = add("avg_l1_norm", (dense(0, 17, 12),), 12)
    x = add("concat", (state, embedding), 17)
    x = add("relu", (dense(x, 17, 12),), 12)
    # The observation, and a value that is taken twice, are among the parts.
    x = add("concat", (x, 0, add("elu", (embedding,), 5), embedding), 12 + 17 + 5 + 5)
    add("tanh", (dense(x, 39, 3),), 3)
    policy.operations, policy._net = at, partial(play, at)
    return policy


# What nodes and the output of a model, and an input of images, are called.
TAKEN = tuple(ObsPart(name=f"obs/{name}", shape=(2, 2)) for name in ("action", "frames", "one", "row", "row_1"))
POLICIES = {
    "two layers, normalised, layer norm": lambda: policy_of((33, 7), True, True),
    "a Dict": lambda: policy_of((9,), parts=PARTS, low=(-3.0,), high=(-1.0,)),
    "a Dict of names that are taken": lambda: policy_of((5,), normalized=True, parts=TAKEN, low=(-3.0,), high=(-1.0,)),
    "more ways": with_more_ways,
    "td7": lambda: td7((20, 19), 11),
}
MORE = {
    f"{len(hidden)} layers{', layer norm' * norm}{', normalised' * normalized}": partial(
        policy_of, hidden, norm, normalized
    )
    for hidden in ((1,), (64, 65), (31, 8, 17), (256, 256, 3, 5))
    for norm in (False, True)
    for normalized in (False, True)
}
MORE |= {"one number": partial(policy_of, (3,), parts=(ObsPart(shape=(1,)),), low=(-1e-3,), high=(1e3,))}
KINDS = ["c", "numpy", "onnx"]


def probes(policy):
    drawn = RNG.normal(size=(200, policy.info.spaces.obs_size))
    if policy.statistics is not None:
        mean, std = policy.statistics
        drawn = mean + std * drawn
    return self_check.probes_of(drawn.astype(np.float32), "drawn")


def written(policy, kind, out):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    return folder.write(out, policy, kind, folder.files_of(policy, kind), probes(policy))


needs_cc = pytest.mark.skipif(self_check.c_compiler() is None, reason="no C compiler")


@needs_cc
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", POLICIES)
def test_an_export_does_what_the_policy_does(tmp_path, which, kind):
    checked = written(POLICIES[which](), kind, tmp_path / "out")
    assert checked.observations > 400
    assert checked.worst < 1e-5
    assert "run" in checked.how


@pytest.mark.slow
@needs_cc
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", MORE)
def test_an_export_of_any_size_does_what_the_policy_does(tmp_path, which, kind):
    assert written(MORE[which](), kind, tmp_path / "out").worst < 1e-5


def test_what_is_asked_is_what_was_seen_each_number_at_its_ends_and_twice_that():
    obs = RNG.normal(size=(50, 3)).astype(np.float32)
    made = self_check.probes_of(obs, "seen")
    half = len(made.near) // 2
    np.testing.assert_array_equal(made.near[:50], obs)
    np.testing.assert_array_equal(made.near[half:], 2 * made.near[:half])
    alone, middle = made.near[50:half], np.median(obs, axis=0)
    assert alone[:3].diagonal().tolist() == obs.min(axis=0).tolist()
    assert alone[3:].diagonal().tolist() == obs.max(axis=0).tolist()
    assert alone[1, [0, 2]].tolist() == middle[[0, 2]].tolist()
    assert set(np.abs(made.far).ravel().tolist()) == {np.float32(1e6), np.float32(1e30)}


# ---- what is wrong is never there

WRONG = {
    "c": ("C_FUNCTIONS", lambda texts: texts | {"relu": texts["relu"].replace("? 0.0f", "? 0.001f * x[i]")}),
    "numpy": ("NUMPY_TAIL", lambda text: text.replace("np.float32(0.5)", "np.float32(0.50001)")),
}


@needs_cc
@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_export_is_found_and_nothing_is_left(tmp_path, monkeypatch, kind):
    name, change = WRONG[kind]
    for module in (f"t3d.export.{'c_header' if kind == 'c' else 'numpy_module'}", "t3d.export.templates"):
        monkeypatch.setattr(f"{module}.{name}", change(getattr(templates, name)), raising=False)
    with pytest.raises(ExportFailed, match=r"(?s)does not do what the policy does.*for the observation \["):
        written(policy_of((33, 7)), kind, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_model_is_found(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setitem(
        folder.onnx_model._ONE_NODE, "layer_norm", ("LayerNormalization", {"axis": -1, "epsilon": 1e-2})
    )
    with pytest.raises(ExportFailed, match="does not do what the policy does"):
        written(policy_of((33, 7), True), "onnx", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_without_a_compiler_the_numbers_are_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(self_check, "c_compiler", lambda: None)
    policy = policy_of((5,), True, True)
    checked = written(policy, "c", tmp_path / "out")
    assert (checked.observations, "no C compiler" in checked.how) == (0, True)
    header = (tmp_path / "out" / "policy.h").read_text()
    first = next(word for word in header.split() if word.startswith("0x"))
    with pytest.raises(ExportFailed, match="numbers are not the policy's"):
        self_check.read_back(policy, header.replace(first, "0x1p-9f,", 1))


def test_a_large_observation_must_be_answered_within_bounds(tmp_path):
    policy = policy_of((5,))
    asked = probes(policy)

    def no_end(obs):
        return np.where(np.abs(obs).max(axis=1, keepdims=True) > 1e5, np.nan, policy.of_flat(obs))

    with pytest.raises(ExportFailed, match="does not do what the policy does"):
        self_check.check(policy, asked, lambda obs: policy.of_flat(obs) * np.nan, "by hand")
    with pytest.raises(ExportFailed, match="answers a large observation with no action"):
        self_check.check(policy, asked, no_end, "by hand")


# ---- the files themselves


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_c_program_holds_its_action_where_no_number_comes(compiler, tmp_path):
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler} here")
    policy = policy_of((5,), parts=(ObsPart(shape=(2,)),))
    written(policy, "c", tmp_path / "out")
    program = tmp_path / "controller"
    strict = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    subprocess.run([compiler, *strict, tmp_path / "out" / "main.c", "-o", program, "-lm"], check=True)
    child = subprocess.run([program], input="1 2\nnan 2\n1 inf\n3 4\n", capture_output=True, text=True)
    rows = [[float(word) for word in line.split()] for line in child.stdout.splitlines()]
    assert rows[0] == rows[1] == rows[2] != rows[3]
    np.testing.assert_allclose(rows[3], policy([3, 4]), atol=1e-6)
    assert (child.returncode, child.stderr) == (1, "2 actions were held\n")
    fast = [compiler, "-ffast-math", "-fsyntax-only", str(tmp_path / "out" / "main.c")]
    assert b"NaN would reach the motors" in subprocess.run(fast, capture_output=True).stderr


def test_the_python_file_refuses_what_is_no_number(tmp_path):
    policy = policy_of((5,), normalized=True, parts=(ObsPart(shape=(2,)),))
    written(policy, "numpy", tmp_path / "out")
    code = """
import numpy as np, policy
print(policy.act([1, 2]).tolist(), policy.act(np.ones((4, 2))).shape)
for wrong in ([1, np.nan], [1, 2, 3], np.ones((1, 1, 2))):
    try:
        policy.act(wrong)
    except ValueError as error:
        print(error)
"""
    command = [sys.executable, "-c", code]
    child = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path / "out")
    first, *errors = child.stdout.splitlines()
    assert first == f"{policy([1, 2]).tolist()} (4, 3)"
    assert [error.split(",")[0] for error in errors] == [
        "the observation is not finite",
        "expected observations of shape (2",
        "expected observations of shape (2",
    ]


@needs_cc
def test_no_text_of_a_policy_becomes_code(tmp_path, monkeypatch):
    policy = policy_of((3,))
    env = 'x*/ #error "c" /* """\n\\\nimport os\nos._exit(3) ??/\n'
    policy.info = structs.replace(policy.info, env=env)
    for kind in ("c", "numpy"):
        written(policy, kind, tmp_path / kind)


def test_the_contract_says_what_goes_in_and_what_comes_out(tmp_path):
    policy = policy_of((3,), normalized=True, parts=PARTS, low=(-3.0,), high=(-1.0,))
    written(policy, "numpy", tmp_path / "out")
    said = json.loads((tmp_path / "out" / "contract.json").read_text())
    assert [(i["name"], i["shape"], i["first"], i["last"]) for i in said["inputs"]] == [
        ("arm", [3], 0, 2),
        ("goal/0", [2, 2], 3, 6),
        ("goal/1", [1], 7, 7),
    ]
    assert (said["action"], said["normalised_inside"]) == ({"shape": [1], "low": [-3.0], "high": [-1.0]}, True)
    assert said["check"]["worst"] == 0  # it is the player's own text
    assert set(said["sha256"]) == {"policy.py", "policy.npz"}
    assert said["from"]["run"] == policy.info.run


# ---- the command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    small_runs.train(path, env="Pendulum-v1", normalize_obs=True)
    return path


def exported(capsys, *arguments):
    code = t3d_command(["export", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_a_run_is_exported_once_and_replaced_when_asked(run, capsys, monkeypatch):
    monkeypatch.setattr(self_check, "c_compiler", lambda: None)
    code, said, _ = exported(capsys, run, "--format", "c")
    out = run / "export" / "c"
    assert (code, said.splitlines()[-1]) == (0, str(out))
    assert sorted(path.name for path in out.iterdir()) == ["contract.json", "main.c", "policy.h"]
    before = (out / "policy.h").read_bytes()
    code, _, error = exported(capsys, run, "--format", "c", "--policy", "last")
    assert (code, "something of this name is there" in error) == (2, True)
    assert (out / "policy.h").read_bytes() == before
    code, said, _ = exported(capsys, run, "--format", "c", "--force", "--json")
    assert json.loads(said)["path"] == str(out)
    assert [path.name for path in out.parent.iterdir()] == ["c"]


def test_force_replaces_nothing_but_an_export(run, tmp_path, capsys):
    (tmp_path / "thesis").write_text("three years")
    code, _, error = exported(capsys, run, "--format", "numpy", "--out", tmp_path, "--force")
    assert (code, "--force replaces an export" in error) == (2, True)
    assert (tmp_path / "thesis").read_text() == "three years"
    for neighbour in ("out.old", "out.new"):
        (tmp_path / neighbour).mkdir()
    for _ in range(2):
        assert exported(capsys, run, "--format", "numpy", "--out", tmp_path / "out", "--force")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.new", "out.old", "thesis"]


def test_observations_are_the_runs_own_or_it_is_said_that_they_are_drawn(run, tmp_path):
    seen = export_policy(run, "numpy", out=tmp_path / "a").checked
    assert (seen.source, seen.worst) == ("observations of the run's replay memory", 0)
    alone = export_policy(run / "policy" / "best.safetensors", "numpy", out=tmp_path / "b").checked
    assert alone.source == "drawn by the policy's own mean and deviation"
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    shutil.rmtree(broken / "checkpoints")
    assert export_policy(broken, "numpy", out=tmp_path / "c").checked.source == alone.source


def test_a_run_that_has_not_ended_gives_its_newest_policy_and_says_so(tmp_path):
    small_runs.train(tmp_path / "run", until=30)
    (tmp_path / "run" / "policy" / "best.safetensors").unlink()  # as before its first evaluation
    _, _, notes = export_policy(tmp_path / "run", "numpy")
    assert notes[0] == "no evaluation has chosen a best policy, so this is the last one"
    assert "the run has not come to its end, so far to step 30 of 58" in notes[1]


def test_a_missing_package_names_the_command_that_installs_it(run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, _, error = exported(capsys, run, "--format", "onnx")
    assert (code, 'pip install "t3d[onnx]"' in error) == (2, True)


def test_a_network_of_a_callers_own_is_refused(tmp_path, capsys):
    policy = policy_of((3,))
    content = encode(policy.info, arrays_of(fresh_actor(17, (3,), 3, False)[0]))
    file = tmp_path / "own.safetensors"
    file.write_bytes(
        sealed_policy(description_of(content) | {"architecture": "<own>.X"}, safetensors.torch.load(content))
    )
    code, _, error = exported(capsys, file, "--format", "c")
    assert (code, "it cannot be exported" in error) == (2, True)


def strangers(place):
    """Write files that are no policy of ours, or none that may be opened. Return them."""
    policy = policy_of((3,))
    content = encode(policy.info, arrays_of(fresh_actor(17, (3,), 3, False)[0]))
    said, tensors = description_of(content), safetensors.torch.load(content)
    files = {
        "noise": b"\xff" * 1_000,
        "cut": content[:-1],
        "changed": content[:-1] + bytes([content[-1] ^ 1]),
        "endless header": header("{}", 2**64 - 1),
        "deep header": header("[" * 50_000),
        "huge shape": NOT_TENSORS["huge shape"],
        "another version": sealed_policy(said | {"format": 99}, tensors),
        "unknown architecture": sealed_policy(said | {"architecture": "transformer"}, tensors),
        "huge network": sealed_policy(said | {"hidden": [2**20] * 64}, tensors),
    }
    paths = [place / f"{name}.safetensors" for name in files]
    for path, bytes_of_it in zip(paths, files.values(), strict=True):
        path.write_bytes(bytes_of_it)
    with (place / "gigantic.safetensors").open("wb") as file:
        file.truncate(2**40)
    return [*paths, place / "gigantic.safetensors"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_strangers_policy_is_refused_at_once_and_in_little_memory(tmp_path):
    code = f"""
import sys
from t3d.cli.main import run
for path in {[str(path) for path in strangers(tmp_path)]!r}:
    for words in (["evaluate", path, "--env", "Pendulum-v1"], ["video", path, "--env", "Pendulum-v1"],
                  ["export", path, "--format", "c"], ["bench", "--policy", path]):
        print(run(words))
peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print("torch" in sys.modules, *peak)
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *codes, imported, kilobytes = child.stdout.split()
    assert codes == ["2"] * 4 * 10, child.stderr
    assert imported == "False"  # what takes its seconds
    assert int(kilobytes) < 200_000


# ---- a policy's file in the place of a run


def test_a_policy_alone_is_evaluated_in_the_environment_that_is_given(run, tmp_path, capsys):
    file = tmp_path / "robot.safetensors"
    file.write_bytes((run / "policy" / "last.safetensors").read_bytes())
    with pytest.raises(t3d.Refused, match="does not say how its environment is made") as refused:
        t3d.api.evaluate_run(file, "best")
    assert "Pendulum-v1" in str(refused.value)
    assert t3d_command(["evaluate", str(file), "--env", "Pendulum-v1", "--episodes", "1", "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert t3d_command(["evaluate", str(run), "--policy", "last", "--episodes", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["returns"] == alone["returns"]
    assert (alone["policy"], alone["notes"]) == ("robot", [])
    assert t3d_command(["video", str(file), "--env", "Pendulum-v1", "--video-frames", "2"]) == 0
    film = Path(capsys.readouterr().out.strip())
    assert (film.parent, film.suffix) == (tmp_path, ".mp4")
    assert film.stat().st_size > 500
    assert t3d_command(["video", str(file)]) == 2
    assert "does not say how its environment is made" in capsys.readouterr().err
    assert t3d_command(["evaluate", str(file), "--env", "InvertedPendulum-v5"]) == 2
    assert "spaces are not those" in capsys.readouterr().err


# ---- a folder to share


def test_a_folder_to_share_says_what_was_reached_and_that_nobody_verified_it(run, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    huggingface_hub = pytest.importorskip("huggingface_hub")
    code, _, _ = exported(capsys, run, "--format", "hub", "--out", tmp_path / "hub", "--license", "mit")
    assert code == 0
    names = {"README.md", "config.json", "contract.json", "policy.onnx", "policy.safetensors"}
    assert {path.name for path in (tmp_path / "hub").iterdir()} == names
    card = huggingface_hub.ModelCard.load(tmp_path / "hub" / "README.md")
    (result,) = card.data.eval_results
    policy = t3d.load(run)
    assert (card.data.license, result.verified, result.dataset_name) == ("mit", False, "Pendulum-v1")
    assert result.metric_value.startswith(f"{policy.info.return_mean:.2f} +/- ")
    assert "t3d train Pendulum-v1 " in card.text and "by nobody" in card.text
    np.testing.assert_array_equal(t3d.load(tmp_path / "hub" / "policy.safetensors")([1, 0, 0]), policy([1, 0, 0]))


def test_without_a_licence_the_card_says_that_none_is_granted(run):
    pytest.importorskip("huggingface_hub")
    text = hub.card_of(t3d.load(run), hub.Facts([], 0, "", None))
    assert "No licence is granted." in text and "license:" not in text and "model-index" not in text
    with pytest.raises(t3d.Refused, match="no name of a licence"):
        hub.card_of(t3d.load(run), hub.Facts([], 0, "", "mit\nmodel-index: x"))


def test_no_text_of_a_run_becomes_more_than_text_in_a_card(run):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    policy = t3d.load(run)
    env = "x\n---\nlicense: mit\n<script>alert(1)</script> `y` | z"
    policy.info = structs.replace(policy.info, env=env)
    text = hub.card_of(policy, hub.Facts([1.0, 2.0], 3, "t3d train 'x\n```\n<b>'", None))
    assert "<script>" not in text
    assert huggingface_hub.ModelCard(text).data.license is None


def test_what_a_folder_to_share_needs(run, tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    code, _, error = exported(capsys, run / "policy" / "last.safetensors", "--format", "hub", "--out", tmp_path / "a")
    assert (code, "is made of a run" in error) == (2, True)
    code, _, error = exported(capsys, run, "--format", "c", "--license", "mit", "--out", tmp_path / "b")
    assert (code, "give --format hub" in error) == (2, True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    code, _, error = exported(capsys, run, "--format", "hub", "--out", tmp_path / "c")
    assert (code, 'pip install "t3d[hub]"' in error) == (2, True)
    assert list(tmp_path.iterdir()) == []
