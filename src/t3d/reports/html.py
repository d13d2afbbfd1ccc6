"""Pages: one HTML file each that opens from a disk, asks for nothing from anywhere, and runs no code but its own.

Every text is escaped by the template engine. A page's content policy allows its own scripts and its style, named by
their hashes, and no connection at all: what slipped through would still not run.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from t3d.errors import RunRefused
from t3d.reports import wording

_SOURCE_MAP = "\n//# sourceMappingURL="


def render(template: str, script: str, styles: Sequence[str], **shown: Any) -> str:
    """Return a page's text.

    Args:
        template: an asset, as are the others.
        script: what draws it, with Chart.js and the charts' common parts before it.
        styles: put together in this order.
        shown: what the template shows.
    """
    scripts = [asset("chart.umd.min.js").partition(_SOURCE_MAP)[0], asset("common.js") + asset(script)]
    style = "".join(map(asset, styles))
    return _template(template).render(
        scripts=[Markup(text) for text in scripts],  # noqa: S704 - the package's own files
        style=Markup(style),  # noqa: S704
        policy=_policy(scripts, style),
        **shown,
    )


def write(content: str | bytes, out: Path, flag: str = "--out") -> Path:
    """Write a page, or a figure, by rename. Return where.

    Raises:
        RunRefused: it cannot be written. The message names the flag that says where.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = out.with_name(out.name + ".new")
        # A link of this name in a stranger's folder must not be written through.
        beside.unlink(missing_ok=True)
        with beside.open("xb") as file:
            file.write(content if isinstance(content, bytes) else content.encode(errors="replace"))
        beside.replace(out)
    except OSError as error:
        raise RunRefused(
            f"{out.name} cannot be written", got=str(error), do=f"give {flag} a place that can be written to"
        ) from error
    return out


@functools.cache
def _template(name: str) -> jinja2.Template:
    """Return the compiled template: compiling takes as long as a small page's everything else."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("t3d.reports", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words = (wording.number, wording.span, wording.seconds, wording.percent, wording.counted, wording.trust)
    environment.filters.update({word.__name__: word for word in (*words, wording.steps_of)})
    return environment.get_template(name)


def asset(name: str) -> str:
    """Return the text of a file in assets/."""
    return resources.files(__package__).joinpath("assets", name).read_text("utf-8")


def _policy(scripts: Sequence[str], style: str) -> str:
    allowed = {"script-src": scripts, "style-src": [style]}
    hashes = [" ".join([kind, *(f"'sha256-{_hash(text)}'" for text in texts)]) for kind, texts in allowed.items()]
    return "; ".join(
        ["default-src 'none'", *hashes, "media-src data:", "img-src data:", "base-uri 'none'", "form-action 'none'"]
    )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode(errors="replace")).digest()).decode()
