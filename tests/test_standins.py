"""Environments with exactly the spaces of packages that this suite has not; benchmarks/outside.py has the real ones."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Tuple

import t3d
from t3d.env_spec import spec_of
from t3d.environments.check import check

INF, F64 = np.inf, np.float64
KITCHEN = {
    "bottom burner": 2, "hinge cabinet": 2, "kettle": 7, "light switch": 2, "microwave": 1, "slide cabinet": 1,
    "top burner": 2,
}  # fmt: skip


def goals(seen, goal, low=-INF, dtype=F64):
    """A goal environment of gymnasium-robotics' kind."""
    parts = {"achieved_goal": goal, "desired_goal": goal, "observation": seen}
    return Dict({name: Box(low, -low, (size,), dtype) for name, size in parts.items()})


def kitchen():
    goal = Dict({name: Box(-INF, INF, (size,), F64) for name, size in KITCHEN.items()})
    return Dict(achieved_goal=goal, desired_goal=goal, observation=Box(-INF, INF, (59,), F64))


# What each shows and takes, how many numbers that is.
SPACES = {
    "highway_env:parking-v0": (goals(6, 6), Box(-1, 1, (2,), np.float32), 18),
    "panda_gym:PandaSlideDense-v3": (goals(18, 3, -10.0, np.float32), Box(-1, 1, (3,), np.float32), 24),
    "gym_electric_motor:Cont-CC-PMSM-v0": (
        Tuple([Box(np.array([-1.0] * 13 + [0.0]), 1.0, (14,), F64), Box(-0.6, 0.6, (2,), F64)]),
        Box(-1, 1, (3,), F64),
        16,
    ),
    "highway_env:racetrack-v0": (Box(-INF, INF, (2, 12, 12), np.float32), Box(-1, 1, (1,), np.float32), 288),
    "PyFlyt/QuadX-Hover-v4": (
        Box(-INF, INF, (21,), F64),
        Box(np.array([-np.pi] * 3 + [0.0]), np.array([np.pi] * 3 + [0.8]), (4,), F64),
        21,
    ),
    "gymnasium_robotics:FetchReachDense-v4": (goals(10, 3), Box(-1, 1, (4,), np.float32), 16),
    "gymnasium_robotics:PointMaze_UMazeDense-v3": (goals(4, 2), Box(-1, 1, (2,), np.float32), 8),
    "gymnasium_robotics:FrankaKitchen-v1": (kitchen(), Box(-1, 1, (9,), F64), 93),
    "shimmy:dm_control/cartpole-swingup-v0": (
        Dict(position=Box(-INF, INF, (3,), F64), velocity=Box(-INF, INF, (2,), F64)),
        Box(-1, 1, (1,), F64),
        5,
    ),
    "shimmy:dm_control/humanoid-walk-v0": (
        Dict({
            name: Box(-INF, INF, shape, F64)
            for name, shape in {
                "com_velocity": (3,), "extremities": (12,), "head_height": (), "joint_angles": (21,),
                "torso_vertical": (3,), "velocity": (27,),
            }.items()
        }),
        Box(-1, 1, (21,), F64),
        67,
    ),
}  # fmt: skip


class StandIn(gymnasium.Env):
    """Shows random numbers in the spaces that its name has in SPACES, and ends after 10 steps."""

    def __init__(self, name):
        self.observation_space, self.action_space, _ = SPACES[name]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), (action, action.dtype)
        self.steps += 1
        return self.observation_space.sample(), float(action.sum()), False, self.steps == 10, {}


KINDS = {"gym_electric_motor:Cont-CC-PMSM-v0", "gymnasium_robotics:FrankaKitchen-v1", "PyFlyt/QuadX-Hover-v4"}
KINDS |= {"shimmy:dm_control/humanoid-walk-v0", "highway_env:racetrack-v0"}


# One of each kind in the fast suite.
@pytest.mark.parametrize(
    "name", [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in SPACES]
)
def test_spaces_of_other_packages_are_taken_as_they_are(name, tmp_path):
    found = {finding.name: finding for finding in check(spec_of(StandIn, {"name": name}), 20)}
    assert not any(finding.verdict == "fails" for finding in found.values()), found
    assert found["observation"].text.startswith(f"{SPACES[name][2]} numbers")
    options = {"steps": 30, "random_steps": 15, "batch_size": 8, "hidden": (8,), "eval_every": 30, "eval_episodes": 1}
    engine = {"engine": "eager", "threads": 1}
    run = t3d.train(StandIn, env_kwargs={"name": name}, out=tmp_path / "run", video=False, **options, **engine)
    env = StandIn(name)
    obs, _ = env.reset(seed=0)
    policy = t3d.load(run.path)
    env.step(policy(obs))
    assert env.action_space.contains(policy(obs))
