"""The curves of a report elsewhere: as a figure for a paper, drawn by matplotlib, and as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from t3d.errors import ConfigRefused
from t3d.reports.page import Report

# A column of a paper, in inches; a panel is a golden rectangle.
WIDTH_IN, _PANEL_IN, _LINE_IN = 3.3, 2.04, 0.14
# Dark to light and told apart by those who do not see all colours (Okabe and Ito 2008), and by their dashes in grey.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_DASHES = ("-", "--", "-.", ":")
_COLUMNS = ("env", "group", "measured", "seeds", "env_steps", "frames")


def drawn(report: Report, kind: str) -> bytes:
    """Return a figure of the learning curves: a panel for each environment, the mean of each group and its interval.

    Args:
        report: what is drawn.
        kind: svg or png.

    Raises:
        ConfigRefused: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigRefused("a figure needs matplotlib", do='pip install "t3d[figures]"') from error
    groups = report.numbers["groups"]
    envs = list(dict.fromkeys(group["env"] for group in groups))
    of_env = {env: [group for group in groups if group["env"] == env] for env in envs}
    named = [len(found) > 1 for found in of_env.values()]
    height = sum(_PANEL_IN + _LINE_IN * len(found) * many for found, many in zip(of_env.values(), named, strict=True))
    style: dict[Any, Any] = {
        "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
        "legend.fontsize": 7, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
        "axes.axisbelow": True, "svg.hashsalt": "t3d", "font.family": "DejaVu Sans", "text.parse_math": False,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(WIDTH_IN, height), layout="constrained")
        panels = figure.subplots(len(envs), squeeze=False)[:, 0]
        for panel, (env, found) in zip(panels, of_env.items(), strict=True):
            _panel(panel, env, found)
        out = io.BytesIO()
        # Without a date: equal runs give equal bytes.
        figure.savefig(out, format=kind, dpi=300, metadata={"Date": None} if kind == "svg" else {"Software": None})
    return out.getvalue()


def _panel(panel: Any, env: str, groups: Sequence[dict[str, Any]]) -> None:
    for index, group in enumerate(groups):
        frames, mean = group["frames"], group["curve"]["mean"]
        colour, seeds = _COLOURS[index % len(_COLOURS)], len(group["runs"])
        label = f"{group['label']} ({seeds} seed{'' if seeds == 1 else 's'})"
        dash = _DASHES[index // len(_COLOURS) % len(_DASHES)] if len(groups) > len(_COLOURS) else "-"
        panel.plot(frames, mean["value"], dash, color=colour, linewidth=1.2, label=label, clip_on=False, zorder=3)
        if mean["low"] is not None:
            panel.fill_between(frames, mean["low"], mean["high"], color=colour, alpha=0.18, linewidth=0)
    panel.set_title(env, loc="left")
    repeated = any(group["action_repeat"] != 1 for group in groups)
    panel.set_xlabel("frames (env steps times the action repeat)" if repeated else "env steps")
    panel.set_ylabel("return" if all(g["measured"] == "evaluations" for g in groups) else "return of training episodes")
    panel.set_xlim(0, max(group["frames"][-1] for group in groups) or 1)
    panel.xaxis.set_major_locator(_ticks(4))
    panel.yaxis.set_major_locator(_ticks(5))
    ticks = panel.yaxis.get_major_locator().tick_values(*panel.get_ylim())
    panel.set_ylim(ticks[0], ticks[-1])
    panel.xaxis.set_major_formatter(lambda value, _: _short(value))
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}".replace("-", "\N{MINUS SIGN}"))
    panel.grid(axis="y", color="0.88", linewidth=0.5)
    panel.spines[["top", "right"]].set_visible(False)
    if len(groups) > 1:
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.26), frameon=False, handlelength=1.6, borderpad=0)


def _ticks(most: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(most, steps=[1, 2, 2.5, 5, 10])


def _short(steps: float) -> str:
    """Write a number of steps: 500, 20k, 1.5M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if steps >= size:
            return f"{steps / size:.4g}{letter}"
    return f"{steps:.4g}"


def table(report: Report) -> str:
    """Return the curves as CSV: a row for each group and step, with mean and interquartile mean and their intervals."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = [f"{name}{end}" for name in ("mean", "iqm") for end in ("", "_low", "_high")]
    writer.writerow([*_COLUMNS, *ends])
    for group in report.numbers["groups"]:
        curves = [group["curve"]["mean"], group["curve"]["iqm"]]
        words = [_plain(group[name]) for name in ("env", "label", "measured")]
        for i, steps in enumerate(zip(group["env_steps"], group["frames"], strict=True)):
            numbers = [
                "" if curve is None or curve[end] is None else repr(float(curve[end][i]))
                for curve in curves
                for end in ("value", "low", "high")
            ]
            writer.writerow([*words, len(group["runs"]), *steps, *numbers])
    return out.getvalue()


def _plain(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: it may be a stranger's."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
