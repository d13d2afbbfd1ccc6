"""Environments that draw themselves, well or not at all. Used as "path/to/drawn_envs.py:Class"."""

import mujoco
import numpy as np
from gymnasium.spaces import Box
from own_envs import Walk

_MODEL = """
<mujoco>
  <worldbody>
    <light pos="0 0 3"/>
    <geom type="plane" size="5 5 1" rgba="0.3 0.3 {blue} 1"/>
    <body name="ball" pos="0 0 1">
      <joint name="x" type="slide" axis="1 0 0"/>
      <geom size="0.3" rgba="1 0 0 1"/>
    </body>
    <camera name="above" pos="0 0 4"/>
    <camera name="track" mode="trackcom" pos="0 -4 1" euler="90 0 0"/>
  </worldbody>
  <actuator><motor joint="x" gear="20000" ctrlrange="-1 1"/></actuator>
</mujoco>
"""


class Ball(Walk):
    """A ball on a slide, simulated by MuJoCo without anything of Gymnasium's; another floor in every second episode."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = Box(-1, 1, (1,), np.float32)

    def __init__(self):
        super().__init__()
        self.models = [mujoco.MjModel.from_xml_string(_MODEL.format(blue=blue)) for blue in (0.3, 1.0)]
        self.episodes = 0
        self.model = self.models[0]
        self.data = mujoco.MjData(self.model)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.model = self.models[self.episodes % 2]
        self.episodes += 1
        self.data = mujoco.MjData(self.model)
        self.data.qpos[0] = self.np_random.uniform(-0.1, 0.1)
        mujoco.mj_forward(self.model, self.data)
        return self.see(), {}

    def step(self, action):
        self.steps += 1
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, 20)
        return self.see(), 0.0, False, self.steps >= self.limit, {}

    def see(self):
        return np.concatenate([self.data.qpos, self.data.qvel]) if hasattr(self, "data") else np.zeros(2)


class Grows(Walk):
    """Its picture becomes larger with its fourth step."""

    def render(self):
        return np.zeros((20 + 2 * (self.steps > 3), 20, 3), np.uint8)


class Floats(Walk):
    def render(self):
        return np.zeros((20, 20, 3))


class Flat(Walk):
    def render(self):
        return np.zeros((20, 20), np.uint8)


class Silent(Walk):
    """As one that takes no render_mode, and so draws nothing."""

    def __init__(self):
        super().__init__()

    def render(self):
        return None


class Blind(Walk):
    """As an environment that overrides no render."""

    def render(self):
        raise NotImplementedError


class Broken(Walk):
    def render(self):
        raise RuntimeError("no paint")


class Robot(Walk):
    is_hardware = True


class Noisy(Walk):
    """Draws noise that no seed decides."""

    def render(self):
        return np.random.default_rng().integers(0, 256, (20, 20, 3), np.uint8)


class Still(Walk):
    """Draws always the same, and all of it in one colour."""

    def render(self):
        return np.full((20, 20, 3), 99, np.uint8)


class Reuses(Walk):
    """Draws into the same memory again and again."""

    def __init__(self):
        super().__init__()
        self.memory = np.zeros((20, 20, 3), np.uint8)

    def render(self):
        self.memory[:] = self.steps
        return self.memory
