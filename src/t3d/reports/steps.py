"""What the page of `t3d explain` says of each step whatever the run: its reason, its code, and what its chart shows."""

from __future__ import annotations

from typing import NamedTuple


class StepText(NamedTuple):
    """A step, as it is always told. `docs/steps.md` tells it at length."""

    number: int
    title: str
    why: str
    code: tuple[str, ...]  # definitions beside the step's own lines
    shapes: tuple[tuple[str, str], ...]  # what it makes: a name, and its sizes as letters, B, S and A
    chart: str  # what is counted in its histogram


STEPS = (
    StepText(
        4,
        "Sample a batch",
        "Transitions drawn at random mix old and new, good and bad moments, so that their mean gradient points where "
        "that of the whole memory points. This one was drawn from a stream of its own: no draw of the training moved.",
        (),
        (("obs", "BS"), ("action", "BA"), ("reward", "B"), ("next_obs", "BS"), ("terminated", "B")),
        "Reward r",
    ),
    StepText(
        5,
        "The actor target plays a′ from s′",
        "To judge (s, a) we must know what s′ is worth, and that depends on what will be done there. The actor target "
        "is asked, because it changes slowly.",
        (),
        (("next_action", "BA"),),
        "Action a′ of the actor target",
    ),
    StepText(
        6,
        "Smooth a′ with clipped noise",
        "Similar actions should have similar values: with a little noise on a′, a narrow peak of the critic, which is "
        "usually an error, is averaged with what lies around it. Every transition and every action dimension has a "
        "draw of its own.",
        ("td3.smooth",),
        (("noise", "BA"), ("next_action", "BA")),
        "What smoothing changed in the target",
    ),
    StepText(
        7,
        "The critic targets value (s′, a′)",
        "Their answer is the part of the target that has not happened yet. As in step 5 the slow copies are asked: "
        "an update does not move what it aims at.",
        (),
        (("next_q1", "B"), ("next_q2", "B")),
        "Qt1 and Qt2 of (s′, a′)",
    ),
    StepText(
        8,
        "Keep the smaller of the two",
        "This is the remedy against over-estimation: an error that is too high counts only where both critics make it. "
        "The smaller may well be too low, but the actor does not seek out actions with low values.",
        (),
        (("next_q", "B"),),
        "Qt2 − Qt1: right of 0 Q1 was taken, left of it Q2",
    ),
    StepText(
        9,
        "The target",
        "What (s, a) is worth is the reward now, plus what follows, discounted. Where the episode truly ended nothing "
        "follows; where a time limit cut it, something does.",
        ("td3.bellman",),
        (("target_q", "B"),),
        "Target Qt",
    ),
    StepText(
        10,
        "The critics value (s, a)",
        "This is what the critics say now of the action that was really done, which r and s′ are the answer to. "
        "How far that is from the target is all they can learn from.",
        (),
        (("q1", "B"), ("q2", "B")),
        "Q1 and Q2 of (s, a)",
    ),
    StepText(
        11,
        "The critics' loss",
        "Both critics are measured against the same target. They have no weight in common, so the gradient of the sum "
        "is for each the gradient of its own error.",
        (),
        (("loss", ""),),
        "Errors Q1 − Qt and Q2 − Qt",
    ),
    StepText(
        12,
        "Move both critics",
        "Backpropagation finds for each weight how the loss changes with it, and Adam takes a small step against that. "
        "Here a copy was moved: the page changes nothing in the run.",
        (),
        (),
        "How Q1 of (s, a) moved",
    ),
    StepText(
        13,
        "Move the actor uphill, now and then",
        "The critic tells not only how good the actor's action is, but in which direction a better one lies, and the "
        "actor takes one step there. It has its turn at some updates only, so that the critics settle before anyone "
        "follows them.",
        (),
        (("actor(s)", "BA"), ("loss", "")),
        "How Q1 of (s, actor(s)) moved",
    ),
    StepText(
        14,
        "The actor target follows",
        "A target that follows without jumping lets the critics aim at something that stands nearly still. "
        "It moves only when the actor has moved.",
        ("td3.polyak",),
        (),
        "How far behind: actor(s′) − actor target(s′)",
    ),
    StepText(
        15,
        "The critic target follows",
        "As in step 14, for both critics. Both targets move together, so that they always stand for about the same "
        "moment of the training.",
        (),
        (),
        "How far behind: Q1 − Qt1, both of (s, a)",
    ),
)
