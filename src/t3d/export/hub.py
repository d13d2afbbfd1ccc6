"""The model card of a folder to share: what the policy is, what it reached, and that nobody has verified it."""

from __future__ import annotations

import re
import statistics
from typing import NamedTuple

from t3d.errors import ConfigRefused
from t3d.policy.policy import Policy

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.\-]{0,50}")


class Facts(NamedTuple):
    """What a card says beside the policy's own words."""

    returns: list[float]  # of the evaluation that it was kept for; empty if that is not known
    seed: int
    command: str  # that repeats the run; empty if no command line can
    licence: str | None  # what is granted; None: nothing


def card_of(policy: Policy, facts: Facts) -> str:
    """Return README.md: what the hub reads, then what people read.

    Raises:
        ConfigRefused: a package is missing, or the licence is no name of one.
    """
    try:
        from huggingface_hub import EvalResult, ModelCard, ModelCardData
    except ImportError as error:
        raise ConfigRefused(
            "this export needs a package that is not installed", got=str(error), do='pip install "t3d[hub]"'
        ) from error
    if facts.licence is not None and not _LICENCE.fullmatch(facts.licence):
        raise ConfigRefused(
            "this is no name of a licence", got=facts.licence[:100], expected="as mit, apache-2.0 or cc-by-4.0"
        )
    env, score = _plain(policy.info.env), _score(facts.returns)
    results = [
        EvalResult(
            task_type="reinforcement-learning",
            task_name="reinforcement-learning",
            dataset_type=env,
            dataset_name=env,
            metric_type="mean_reward",
            metric_name="mean_reward",
            metric_value=score,
            verified=False,
        )
    ] * bool(facts.returns)
    data = ModelCardData(
        model_name=f"{_plain(policy.info.algorithm)} in {env}",
        library_name="t3d",
        tags=["reinforcement-learning", "deep-reinforcement-learning", "td3", env],
        license=facts.licence,
        eval_results=results or None,
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_text(policy, facts, env, score)}"))


def _score(returns: list[float]) -> str:
    if not returns:
        return "not known"
    return f"{statistics.fmean(returns):.2f} +/- {statistics.pstdev(returns):.2f}"


def _text(policy: Policy, facts: Facts, env: str, score: str) -> str:
    info = policy.info
    granted = f"Licence: {facts.licence}." if facts.licence else "No licence is granted."
    repeat = info.action_repeat
    played = "" if repeat == 1 else f" Each of its actions is to be played for {repeat:,} frames of the environment."
    lines = [
        f"# {_plain(info.algorithm)} in {env}",
        "",
        f"A policy for continuous control, trained for {info.env_steps:,} steps with t3d.{played}",
        "",
        "| return, mean ± spread over episodes | episodes | seed | verified |",
        "|---:|---:|---:|---|",
        f"| {score.replace('+/-', '±')} | {len(facts.returns)} | {facts.seed} | by nobody |",
        "",
        "One seed. How another would do this card does not know.",
        "",
        "```python",
        "import t3d",
        "",
        'policy = t3d.load("policy.safetensors")',
        "action = policy(obs)  # in the environment's own units",
        "```",
        "",
        "`policy.onnx` is the whole controller for ONNX Runtime, `contract.json` what goes in and comes out, "
        "`config.json` everything about the run.",
    ]
    if facts.command:
        # Indented, not fenced: no text of a run ends the block.
        lines += ["", "The command that repeats the run:", "", *(f"    {line}" for line in facts.command.splitlines())]
    return "\n".join([*lines, "", granted, ""])


def _plain(text: str) -> str:
    """Return a text of a run as one line that is nothing but text in Markdown."""
    line = "".join(letter if letter.isprintable() else "_" for letter in text)[:200]
    return re.sub(
        r"([\\`*_{}\[\]<>#|!])", lambda found: f"&#{ord(found[0])};" if found[0] in "<>|`" else found[0], line
    )
