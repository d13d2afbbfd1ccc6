"""The code of a step or of a definition, taken from the source itself: what a page shows cannot differ from it."""

from __future__ import annotations

import ast
import re
import textwrap
from importlib import resources

STEP_FILES = ("replay.py", "td3.py")
_STEP = re.compile(r"(?P<indent> *)# Step (?P<number>\d+):")


def source(file: str) -> str:
    """Return the text of a file below `src/t3d/`."""
    return resources.files("t3d").joinpath(file).read_text("utf-8")


def step(number: int) -> tuple[str, str]:
    """Return the file a step stands in, and the step's lines.

    Args:
        number: 1 to 15.

    Raises:
        LookupError: the source does not mark that step exactly once.
    """
    found = [
        (file, lines, i)
        for file in STEP_FILES
        for lines in [source(file).splitlines()]
        for i, line in enumerate(lines)
        if (marker := _STEP.match(line)) and int(marker["number"]) == number
    ]
    if len(found) != 1:
        raise LookupError(f"# Step {number}: stands {len(found)} times in {STEP_FILES}, not once")
    file, lines, begin = found[0]
    end = begin + 1
    while end < len(lines) and not _STEP.match(lines[end]) and not _leaves_block(lines[end], lines[begin]):
        end += 1
    return file, textwrap.dedent("\n".join(lines[begin:end])).rstrip()


def _leaves_block(line: str, begin: str) -> bool:
    indents = [len(text) - len(text.lstrip()) for text in (line, begin)]
    return bool(line.strip()) and indents[0] < indents[1]


def definition(name: str) -> tuple[str, str]:
    """Return the file and the code, without docstrings, of a definition.

    Args:
        name: `module.function`, `module.Class` or `module.Class.method`, below `src/t3d/`.

    Raises:
        LookupError: there is no such definition.
    """
    module, *path = name.split(".")
    text = source(f"{module}.py")
    node: ast.AST = ast.parse(text)
    for part in path:
        inside = [n for n in ast.iter_child_nodes(node) if getattr(n, "name", None) == part]
        if not inside:
            raise LookupError(f"there is no {part} of {name}")
        node = inside[0]
    assert isinstance(node, ast.FunctionDef | ast.ClassDef) and node.end_lineno is not None
    lines: list[str | None] = [*text.splitlines(), ""]
    for documented in ast.walk(node):
        if isinstance(documented, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(documented) is not None:
            docstring = documented.body[0]
            last = docstring.end_lineno or docstring.lineno
            # The blank line below a docstring goes with it.
            last += not (lines[last] or "").strip()
            lines[docstring.lineno - 1 : last] = [None] * (last - docstring.lineno + 1)
    begin = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    kept = [line for line in lines[begin : node.end_lineno] if line is not None]
    return f"{module}.py", textwrap.dedent("\n".join(kept)).rstrip()
