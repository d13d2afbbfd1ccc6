# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # TD3 in fifteen steps
#
# In half an hour, on a laptop or on Colab, without a GPU:
#
# 1. **By hand**: one batch goes through all fifteen steps of TD3, a cell a step.
# 2. **Train**: a pendulum learns to stand, and you watch its curve.
# 3. **Look**: its film, and the report about it.
# 4. **Change a step**: your own TD3, trained and compared with the original.
#
# Two files hold the whole algorithm: `replay.py` (steps 1 and 4) and `td3.py` (the others). Every function that is
# called below comes from there. You need no other source.

# %% [markdown]
# ## Install
#
# `T3D` says where t3d comes from: here a file that lies beside this notebook. On Colab, upload it by the folder icon on
# the left; where Colab then asks for a restart, restart and go on with the next cell. If t3d is installed already, skip
# this one.

# %%
T3D = "t3d-0.1.0-py3-none-any.whl"  # `make notebook` puts it there; "t3d" once that is released
# %pip install --quiet "{T3D}[video,watch,figures]"

# %%
import html
from pathlib import Path
from typing import Any

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import HTML, Video, display

import t3d
from t3d.td3 import TD3, bellman, polyak, smooth


def shapes(**arrays):
    """Print what each array is called, its shape, and its first row."""
    for name, array in arrays.items():
        print(f"{name:<12} {tuple(array.shape)!s:<10} {np.round(np.asarray(array.detach())[:1].ravel(), 3)} ...")


# %% [markdown]
# # 1. By hand
#
# Three letters for all shapes: **B** transitions in a batch, **S** numbers in an observation, **A** numbers in an
# action. The pendulum shows S = 3 numbers (cosine and sine of its angle, and its speed) and takes A = 1 (a torque).

# %%
B, S, A = 100, 3, 1
spaces = t3d.Spaces.of_vectors(S, A)
config = t3d.TD3Config(hidden=(64, 64), lr=1e-3, policy_delay=1)  # 1: the actor moves at every update, so at ours, too
rng = np.random.default_rng(0)

# %% [markdown]
# ### Step 1: a memory
#
# It keeps what happened. We fill it with 1,000 random steps. An action lies in [-1, 1]; the pendulum's torque lies in
# [-2, 2], so the action is scaled on its way to the pendulum, and nowhere else. A row of zeros and ones says where an
# episode truly **terminated**, and where a time limit only **truncated** it. The pendulum never falls: it is only ever
# truncated.

# %%
replay = t3d.Replay(capacity=10_000, n_envs=1, spaces=spaces)
env = gymnasium.make("Pendulum-v1")
ended = True
for step in range(1_000):
    if ended:
        obs, info = env.reset(seed=step)
        replay.begin(obs[None], np.array([True]))
    action = rng.uniform(-1, 1, (1, A)).astype(np.float32)
    obs, reward, terminated, truncated, info = env.step(2 * action[0])
    replay.add(action, np.array([reward]), np.array([terminated]), np.array([truncated]), obs[None])
    ended = terminated or truncated
print(f"{len(replay):,} transitions")

# %% [markdown]
# ### Steps 2 and 3: six networks
#
# An actor, which plays, and two critics, which judge. Each has a slow copy, its **target**, which starts equal to it.
# `critic` holds both critics.

# %%
agent = TD3(spaces, config, np.random.default_rng(0))
for name, network in agent.networks().items():
    print(f"{name:<14} {sum(weight.numel() for weight in network.parameters()):>6,} weights")

# %% [markdown]
# ### Step 4: a batch
#
# B transitions at random. The memory says which, and then hands them out. `discount` is gamma for every transition.

# %%
index = replay.draw(rng, B)
batch = t3d.Batch(*map(torch.as_tensor, replay.sample(index, config.gamma)))
shapes(**batch._asdict())

# %% [markdown]
# ### Step 5: the actor target plays a′ from s′

# %%
with torch.no_grad():
    next_action = agent.actor_target(batch.next_obs)
shapes(next_action=next_action)

# %% [markdown]
# ### Step 6: noise on a′
#
# So that the critics' target does not hang on one sharp point. Every transition has a draw of its own: the noise has as
# many rows as the batch. It is clipped, and so is the action with it.

# %%
noise = torch.as_tensor(rng.standard_normal((B, A), np.float32))
smoothed = smooth(next_action, noise, config.policy_noise, config.noise_clip)
shapes(noise=noise, smoothed=smoothed)
print(f"largest change {(smoothed - next_action).abs().max():.2f}, where noise_clip is {config.noise_clip}")

# %% [markdown]
# ### Step 7: both critic targets value (s′, a′)

# %%
with torch.no_grad():
    next_q1, next_q2 = agent.critic_target(batch.next_obs, smoothed)
shapes(next_q1=next_q1, next_q2=next_q2)

# %% [markdown]
# ### Step 8: keep the smaller of the two
#
# A critic errs in both directions, and an actor looks for where it errs upwards. The smaller word is the safer one.

# %%
next_q = torch.minimum(next_q1, next_q2)
shapes(next_q=next_q)
print(f"the first critic was taken {(next_q == next_q1).sum()} times of {B}")

# %% [markdown]
# ### Step 9: the target
#
# r + discount · (1 - terminated) · next_q: what there was, and what is still to come. After a true end nothing is.

# %%
target_q = bellman(batch.reward, batch.terminated, batch.discount, next_q)
shapes(target_q=target_q)
by_hand = batch.reward[0] + config.gamma * (1 - batch.terminated[0]) * next_q[0]
print(f"the first one by hand: {by_hand:.3f}")

# %% [markdown]
# ### Step 10: both critics value (s, a)

# %%
q1, q2 = agent.critic(batch.obs, batch.action)
shapes(q1=q1, q2=q2)

# %% [markdown]
# ### Step 11: how wrong they were
#
# Both aim at the same target.

# %%
loss = F.mse_loss(q1, target_q) + F.mse_loss(q2, target_q)
print(f"loss {loss:.3f}")

# %% [markdown]
# ### Step 12: move both critics
#
# One step against the gradient. Afterwards they are a little less wrong of this batch.

# %%
agent.critic_optimizer.zero_grad()
loss.backward()
agent.critic_optimizer.step()
with torch.no_grad():
    q1, q2 = agent.critic(batch.obs, batch.action)
print(f"loss {loss:.3f} before, {F.mse_loss(q1, target_q) + F.mse_loss(q2, target_q):.3f} after")

# %% [markdown]
# ### Step 13: move the actor
#
# Uphill, to where the first critic promises more. The critic shows the way and stays as it is. TD3 does this, and the
# two steps below, at every second update only (`policy_delay`).

# %%
actor_loss = -agent.critic.q1(batch.obs, agent.actor(batch.obs)).mean()
agent.actor_optimizer.zero_grad()
actor_loss.backward(inputs=list(agent.actor.parameters()))
agent.actor_optimizer.step()
with torch.no_grad():
    promised = agent.critic.q1(batch.obs, agent.actor(batch.obs)).mean()
print(f"the first critic promised {-actor_loss:.4f} before, {promised:.4f} after")

# %% [markdown]
# ### Steps 14 and 15: the targets follow
#
# A small share `tau` of the way. That is why they are steady.


# %%
def distance(target, online):
    pairs = zip(target.parameters(), online.parameters(), strict=True)
    return sum((slow - fast).abs().sum().item() for slow, fast in pairs)


before = distance(agent.actor_target, agent.actor)
polyak(agent.actor_target, agent.actor, config.tau)
polyak(agent.critic_target, agent.critic, config.tau)
after = distance(agent.actor_target, agent.actor)
print(f"the actor target is {100 * (1 - after / before):.1f}% of the way nearer; tau is {config.tau}")

# %% [markdown]
# ### Was that all?
#
# Yes. A second agent with the same first weights makes one `update` with the same batch and the same noise. All its
# weights are then equal to ours, to the last bit.

# %%
twin = TD3(spaces, config, np.random.default_rng(0))
twin.update(batch, noise)
for name, network in twin.networks().items():
    pairs = zip(network.parameters(), agent.networks()[name].parameters(), strict=True)
    assert all(torch.equal(its, ours) for its, ours in pairs), name
    print(f"{name:<14} equal")

# %% [markdown]
# # 2. Train
#
# Now the same 10,000 times, for which there is `t3d.iterate`: it trains, and hands out each row of the run's log as it
# is written. We draw the curve anew at each evaluation. It takes about two minutes; the first time, most of that is
# compiling.
#
# Stop it whenever you like (the square button): the run is saved, and the same cell goes on with it.

# %%
ENV = "Pendulum-v1"
STEPS = 6_000  # of a run; the first 1,000 are random
SEEDS = 5  # runs of each kind that are compared in part 4
OPTIONS: dict[str, Any] = {"steps": STEPS, "eval_every": 500, "threads": 1}


def draw(axes, *folders):
    axes.clear()
    for folder in folders:
        curve = t3d.read(folder).evaluations
        for seed in np.unique(curve["seed"]):
            its = curve["seed"] == seed
            color = f"C{folders.index(folder)}"
            label = folder if seed == curve["seed"][0] else None
            axes.plot(curve["env_steps"][its], curve["return_mean"][its], ".-", color=color, alpha=0.7, label=label)
    axes.set(xlabel="env steps", ylabel="return", title=ENV)
    axes.legend(loc="upper left")


# %%
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
shown = display(figure, display_id=True)
plt.close(figure)
with t3d.iterate(ENV, out="runs/plain/s0", resume="auto", **OPTIONS) as rows:
    for row in rows:
        if row["kind"] == "evaluation":
            draw(axes, "runs/plain/s0")
            shown.update(figure)

# %% [markdown]
# # 3. Look
#
# The run has ended, so the same run by `t3d.train` with `resume="auto"` trains no further. It films the best policy and
# writes the report.

# %%
run = t3d.train(ENV, out="runs/plain/s0", resume="auto", **OPTIONS)
run

# %%
Video(run.video, embed=True) if run.video else run.video_problem

# %% [markdown]
# The report is one file, `runs/plain/s0/report.html`, that you can keep or send to somebody. It has the curve, the
# films and four questions: do the critics promise too much, do they agree, is the actor stuck, is anything dead?


# %%
def page(file, height=720):
    """Show a page of t3d within the notebook."""
    text = html.escape(Path(file).read_text("utf-8"))
    frame = f'<iframe srcdoc="{text}" style="width: 100%; height: {height}px; border: 0"></iframe>'
    return HTML(f"<div>{frame}</div>")


page(run.report)

# %% [markdown]
# The policy is one file, too, and a function from observations to actions, in the pendulum's own units.

# %%
policy = t3d.load(run.path)
policy(np.array([-1, 0, 0], np.float32))  # hanging down, at rest

# %% [markdown]
# # 4. Change a step
#
# An idea: where the two critics disagree, nobody knows much, so let the target be still lower there. That is step 8, in
# the method `target_q`. We derive a class from `TD3`, copy the method and change its line. What we do not write stays
# as it is.


# %%
class Cautious(TD3):
    """TD3 whose targets are lower where its critics disagree."""

    @torch.no_grad()
    def target_q(self, batch, noise):
        next_action = self.actor_target(batch.next_obs)
        next_action = smooth(next_action, noise, self.config.policy_noise, self.config.noise_clip)
        next_q1, next_q2 = self.critic_target(batch.next_obs, next_action)
        next_q = torch.minimum(next_q1, next_q2) - 0.5 * (next_q1 - next_q2).abs()  # step 8: this line is the idea
        return bellman(batch.reward, batch.terminated, batch.discount, next_q)


# %% [markdown]
# First look at it with the batch from above: are the targets lower, and is the shape still (B,)?

# %%
changed = Cautious(spaces, config, np.random.default_rng(0)).target_q(batch, noise)
plain = TD3(spaces, config, np.random.default_rng(0)).target_q(batch, noise)
shapes(plain=plain, changed=changed)
print(f"lower by {(plain - changed).mean():.4f} in the mean")

# %% [markdown]
# ### Train it
#
# One run says little: another seed, another curve. So five runs of each kind; of the original there is one already, and
# `resume="auto"` keeps it. t3d's own TD3 runs compiled. A class of yours runs as you wrote it, which takes longer: five
# runs take some minutes.

# %%
t3d.train(ENV, seeds=SEEDS, out="runs/plain", resume="auto", **OPTIONS)
for seed in range(SEEDS):
    out = f"runs/cautious/s{seed}"
    print(t3d.train(ENV, algorithm=Cautious, seed=seed, out=out, resume="auto", video=False, quiet=True, **OPTIONS))

# %%
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
draw(axes, "runs/plain", "runs/cautious")

# %% [markdown]
# ### Compare
#
# The report puts the two side by side, with intervals over the seeds, and speaks of a difference only where the seeds
# show one. Most ideas show none on a task as easy as this: that, too, is an answer. Look at the first question of the
# report: do the critics promise less now?

# %%
# !t3d report runs/plain runs/cautious --label TD3 cautious --out compared.html

# %%
page("compared.html")

# %% [markdown]
# ### Your turn
#
# Change the line in `Cautious`, give the class and its folder another name, and run part 4 again. Each of these is one
# line:
#
# | step | change | what may happen |
# |---|---|---|
# | 8 | `next_q = next_q1` | one critic alone: its errors upwards stay |
# | 8 | `next_q = (next_q1 + next_q2) / 2` | between the two |
# | 6 | leave out the line with `smooth` | targets hang on single points of the critics |
# | 9 | `0.9 * batch.discount` in place of `batch.discount` | a pendulum that looks less far ahead |
#
# Steps 10 to 12 stand in `update_critic`, step 13 in `update_actor`, steps 14 and 15 in `update_targets`: read
# `td3.py`, copy the method, change its line.
#
# **A changed class is another algorithm.** A run that has begun with another text of it is not gone on with: give it a
# new folder.
#
# More: `t3d explain runs/plain/s0` takes a batch of your own run through the steps on one page, and `t3d train --help`
# lists every option. All of them are arguments of `t3d.train`.
