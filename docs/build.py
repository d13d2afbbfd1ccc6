"""Fill the generated parts of the documentation, so that it can never say something else than the source.

    python docs/build.py            write them
    python docs/build.py --check    write nothing; exit with 1 if something differs

A page asks for code between two comments, and everything between them is replaced:

    <!-- code: Step 6 + td3.smooth -->
    <!-- end -->

or for a table that `tables.TABLES` makes, as `table: checkpoints`, or for what is indented in a module's docstring, as
`picture: replay`. `Step 6` stands for the lines from the comment
`# Step 6:` to the next such comment or the end of its block; `td3.smooth` (a dotted name below `src/t3d/`) for that
function, method or class, without its docstrings.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import performance
import results
import tables

from t3d.reports.listing import definition, step

DOCS = Path(__file__).resolve().parent
SOURCE = DOCS.parent / "src" / "t3d"
PAGES_WITH_TABLES = (
    *(
        "cluster",
        "deploy",
        "durability",
        "environments",
        "names",
        "not-learning",
        "performance",
        "statistics",
        "images",
        "tuning",
    ),
)
TABLES = tables.TABLES | performance.TABLES | {"results": results.readme_table}

_BLOCK = re.compile(r"(?P<begin><!-- code: (?P<wanted>.+?) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
_TABLE = re.compile(r"(?P<begin><!-- table: (?P<wanted>\w+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
_PICTURE = re.compile(r"(?P<begin><!-- picture: (?P<wanted>\w+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)


def pages() -> dict[Path, str]:
    """Return every generated page: its path, and the text it should have."""
    steps = with_tables(with_code((DOCS / "steps.md").read_text("utf-8")))
    pages = {DOCS / "steps.md": steps, DOCS / "results.md": results.page()}
    pages[tables.WITHOUT / "README.md"] = tables.without_page()
    for path in (DOCS.parent / "README.md", *(DOCS / f"{name}.md" for name in PAGES_WITH_TABLES)):
        pages[path] = with_tables(path.read_text("utf-8"))
    return pages


def with_tables(page: str) -> str:
    """Return the page with each of its tables made anew from what was measured."""
    return _TABLE.sub(lambda block: f"{block['begin']}{TABLES[block['wanted']]()}{block['end']}", page)


def with_code(page: str) -> str:
    """Return the page with each of its code blocks and pictures taken anew from the source."""
    page = _PICTURE.sub(lambda block: f"{block['begin']}{picture(block['wanted'])}{block['end']}", page)
    return _BLOCK.sub(lambda block: f"{block['begin']}{_listing(block['wanted'])}{block['end']}", page)


def _listing(wanted: str) -> str:
    """Return a line that names the file, and the code, for `Step 6 + td3.smooth`."""
    parts = [step(int(name[5:])) if name.startswith("Step ") else definition(name) for name in wanted.split(" + ")]
    files = dict.fromkeys(file for file, _ in parts)
    links = ", ".join(f"[`src/t3d/{file}`](../src/t3d/{file})" for file in files)
    code = "\n\n\n".join(code for _, code in parts)
    return f"In {links}:\n\n```python\n{code}\n```\n"


def picture(module: str) -> str:
    """Return what is indented in the docstring of a module below `src/t3d/`."""
    docstring = ast.get_docstring(ast.parse((SOURCE / f"{module}.py").read_text("utf-8"))) or ""
    lines = [line[4:] for line in docstring.splitlines() if line.startswith("    ")]
    return "\n".join(["```text", *lines, "```", ""])


def main() -> int:
    """Write the pages, or with --check only compare them. Return the exit code."""
    parser = argparse.ArgumentParser(description="Fill the generated parts of the documentation.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if something differs")
    check = parser.parse_args().check
    stale = {path: text for path, text in pages().items() if not path.exists() or path.read_text("utf-8") != text}
    for path, text in stale.items():
        print(f"{path.relative_to(DOCS.parent)} {'differs from its sources: run make docs' if check else 'written'}")
        if not check:
            path.write_text(text, "utf-8")
    if not check:
        results.draw()
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
