"""Which of steps 4 to 15 a class derived from TD3 has lines of its own for, read from the class a caller has loaded."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from t3d.diagnosis.explained import OwnSteps
from t3d.priorities import Priorities
from t3d.td3 import TD3
from t3d.variants.contract import OURS

METHODS = ("target_q", "update_critic", "update_actor", "update_targets")
_MARK = re.compile(r" *# Step (\d+):")


def own_steps(algorithm: type[TD3]) -> tuple[OwnSteps, ...]:
    """Return each of TD3's methods that a class overrides, with the steps whose lines are no longer TD3's.

    A class whose batches are drawn by error has another step 4 as well.
    """
    found = []
    if algorithm.prioritized:
        code = textwrap.dedent(inspect.getsource(Priorities.draw)).rstrip()
        found.append(OwnSteps("Priorities.draw", (4,), code, _file_of(Priorities)))
    for name in METHODS:
        own, original = (inspect.unwrap(getattr(cls, name)) for cls in (algorithm, TD3))
        if own is not original:
            owner = next(cls for cls in algorithm.__mro__ if name in vars(cls))
            found.append(OwnSteps(f"{owner.__name__}.{name}", *_steps_and_code(own, original), _file_of(owner)))
    return tuple(found)


def takes_the_steps(algorithm: type[TD3]) -> bool:
    """Return whether a class makes TD3's steps in TD3's order, by one of our ways: their lines may be its own."""
    ways = ("update", "seen", "without_encoder", "policy_net", "critic_net", "target_nets")
    return any(all(getattr(algorithm, way) is getattr(ours, way) for way in ways) for ours in OURS.values())


def builds_own_networks(algorithm: type[TD3]) -> bool:
    """Return whether a class has networks of its own: steps 2 and 3."""
    named = ("actor_class", "critic_class", "__init__")
    return any(getattr(algorithm, name) is not getattr(TD3, name) for name in named)


def _file_of(cls: type[Any]) -> str:
    """Return where a class of ours stands, below `src/t3d/`; of a caller's nothing."""
    package, _, module = cls.__module__.partition(".")
    return f"{module.replace('.', '/')}.py" if package == "t3d" else ""


def _steps_and_code(own: Callable[..., Any], original: Callable[..., Any]) -> tuple[tuple[int, ...], str]:
    by_step = _by_step(inspect.getsource(original))
    try:
        code = textwrap.dedent(inspect.getsource(own))
    except (OSError, TypeError):  # typed in by hand: there is no file to read
        return tuple(by_step), ""
    step_of = {text: step for step, texts in by_step.items() for text in texts}
    own_texts = [ast.unparse(statement) for statement in _body(code)]
    same = {text for text in own_texts if text in step_of and _means_the_same(text, own, original)}
    changed = {step for step, texts in by_step.items() if not same.issuperset(texts)}
    # A line of its own belongs to a step whose lines are gone, or else to the step that comes next.
    for i, text in enumerate(own_texts):
        if text not in same:
            before = [step_of[one] for one in own_texts[:i] if one in same] or [min(by_step) - 1]
            after = [step_of[one] for one in own_texts[i:] if one in same] or [max(by_step) + 1]
            if not any(before[-1] < step < after[0] for step in changed):
                changed.add(min(after[0], max(by_step)))
    return tuple(sorted(changed)), code.rstrip()


def _by_step(source: str) -> dict[int, list[str]]:
    """Return the statements of each step that is marked in a method."""
    lines = textwrap.dedent(source).splitlines()
    found: dict[int, list[str]] = {}
    for statement in _body("\n".join(lines)):
        marks = [int(mark[1]) for line in lines[: statement.lineno] if (mark := _MARK.match(line))]
        found.setdefault(marks[-1], []).append(ast.unparse(statement))
    return found


def _body(code: str) -> Sequence[ast.stmt]:
    """Return a method's statements, without its docstring."""
    (method,) = ast.parse(code).body
    assert isinstance(method, ast.FunctionDef)
    return method.body[ast.get_docstring(method) is not None :]


def _means_the_same(text: str, own: Callable[..., Any], original: Callable[..., Any]) -> bool:
    """Return whether a line's names stand for the same functions in both methods' files."""
    names = {node.id for node in ast.walk(ast.parse(text.removeprefix("return "))) if isinstance(node, ast.Name)}
    known = original.__globals__
    return all(own.__globals__.get(name) is known[name] for name in names if name in known)
