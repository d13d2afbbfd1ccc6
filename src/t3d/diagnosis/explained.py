"""What `t3d explain` shows, as plain arrays: made by `explain.py` from an agent, drawn by a page that knows no agent.

Shapes as in `td3.py`: B transitions in a batch, S numbers in an observation, A in an action; T steps in an episode.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from t3d.formats import RunRecord
from t3d.spaces import Spaces

Floats = NDArray[np.float32]


class Update(NamedTuple):
    """One batch on its way through steps 4 to 15; every number is what the agent's own methods gave.

    Steps 12 to 15 move a copy of the agent, as if the next update were made from this batch and the actor had its turn.
    None stands for what a changed algorithm does not say: no second critic, or a step that it makes in another way.
    """

    changed: frozenset[int]  # the steps whose lines are not TD3's

    # Of step 4: the batch, its observations as the memory holds them.
    obs: Floats  # (B, S)
    action: Floats  # (B, A)
    reward: Floats  # (B,)
    next_obs: Floats  # (B, S)
    terminated: Floats  # (B,)
    discount: Floats  # (B,)
    age: NDArray[np.intp]  # (B,) env steps ago
    # Steps 5 to 9: the target, and what it would be without step 6's noise.
    next_action: Floats | None  # (B, A) of the actor target
    smoothed: Floats | None  # (B, A) with step 6's noise
    next_q1: Floats | None  # (B,)
    next_q2: Floats | None  # (B,)
    next_q: Floats | None  # (B,)
    target_q: Floats  # (B,)
    target_q_unsmoothed: Floats  # (B,)
    # Steps 10 to 12: what the critics say, before and after they have moved.
    q1: Floats  # (B,)
    q2: Floats | None  # (B,)
    q1_after: Floats  # (B,)
    q2_after: Floats | None  # (B,)
    critic_loss: float
    critic_loss_after: float
    # Of step 13: the actor's own action in s, and what Q1 says of it, before and after the actor has moved.
    played: Floats  # (B, A)
    played_after: Floats  # (B, A)
    played_q1: Floats  # (B,)
    played_q1_after: Floats  # (B,)
    actor_loss: float
    number: int  # of the update that would be made
    actor_moves: bool  # whether it is one in which the actor, and with it the targets, move
    # Steps 14 and 15: how far the targets are behind, before they follow: in what they say, and in their weights.
    actor_lag: Floats  # (B, A) actor(s') - actor_target(s')
    critic_lag: Floats  # (B,) Q1(s, a) - Qt1(s, a)
    actor_distance: tuple[float, float]  # of all weights, as a share of their length: before and after step 14
    critic_distance: tuple[float, float]  # before and after step 15
    critic_move: float  # how far step 12 moved the critics' weights, as a share of their length
    actor_move: float  # how far step 13 moved the actor's


class OwnSteps(NamedTuple):
    """A method of TD3 that a class derived from it has a text of its own for; or what draws its batches."""

    name: str  # Class.method
    steps: tuple[int, ...]  # those of the fifteen whose lines are not TD3's
    code: str  # empty where the class was typed in, and no file holds it
    file: str  # of ours, below `src/t3d/`; empty where it is a caller's


class Followed(NamedTuple):
    """A transition of the batch that is followed through all steps."""

    row: int  # of the batch
    why: str  # it was chosen


class Judged(NamedTuple):
    """An episode that the actor has played without noise, and what the critics said at each of its steps."""

    action: Floats  # (T, A)
    reward: Floats  # (T,)
    q1: Floats  # (T,)
    q2: Floats  # (T,)
    obtained: (
        Floats  # (T,) discounted rewards from here to the end, and the critics' smaller word of what a cut left out
    )
    word: Floats  # (T,) the share of the discount that this word stands for; 0 where the episode truly ended
    terminated: bool


class Plane(NamedTuple):
    """Observations that have a place on a plane: two numbers, or an angle, as cosine and sine, and a third."""

    names: tuple[str, str]
    low: tuple[float, float]
    high: tuple[float, float]
    q: Floats  # (rows, columns) the smaller of Q1 and Q2 of what the actor plays there
    action: Floats  # (A, rows, columns)
    seen: NDArray[np.bool_]  # (rows, columns) whether the memory holds an observation near it
    batch: Floats  # (B, 2) where the batch's observations lie; (0, 2) without a batch
    episode: Floats  # (T, 2) where the episode's lie; (0, 2) without one


class Film(NamedTuple):
    """The film of the episode."""

    mp4: bytes
    pace: float  # env steps in a second of it


class Explained(NamedTuple):
    """Everything that the page shows."""

    path: str  # the run folder, as the user called it
    record: RunRecord
    env_steps: int
    updates: int
    spaces: Spaces
    held: int  # transitions in the memory
    batch: int  # the number of the batch: another one is another draw
    algorithm: str  # the class that trained it
    own: tuple[OwnSteps, ...]  # what that changes
    update: Update | None  # None where the memory is empty, or the algorithm does not take TD3's steps
    followed: list[Followed]
    pictures: list[tuple[bytes, bytes]]  # PNGs of what is seen in s and in s' of these; none where it is vectors
    judged: Judged | None  # None where no episode could be played
    plane: Plane | None
    film: Film | None
    notes: tuple[str, ...]
