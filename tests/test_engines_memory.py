"""Where the fused engine keeps its numbers, and what its kernels make of single layers."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_engines import make_agent, make_batch

from t3d.config import TD3Config
from t3d.engines import kernels as k
from t3d.engines.fused import Fused
from t3d.engines.layout import plan_work


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("layer_norm", ["none", "both"])
def test_what_is_in_use_at_one_time_shares_no_memory(threads: int, layer_norm: Any) -> None:
    engine = Fused(make_agent(TD3Config(hidden=(10, 7), layer_norm=layer_norm)), threads)
    batch, layers, critic_parts = 9, 3, threads // 2 if threads % 2 == 0 else threads
    net, at, work = plan_work(engine._net, batch, threads, np.dtype(np.float32))
    inputs, outputs = net[:, k.INPUTS], net[:, k.OUTPUTS]
    assert at[k.GRAD_SIZE] >= max(inputs * -(-outputs // critic_parts))
    fixed = [
        (at[k.OBS_ACTION], batch * 7),
        (at[k.NEXT], batch * 7),
        (at[k.NOISE], batch * 2),
        (at[k.NEXT_Q], 2 * batch),
    ]
    fixed += [(at[k.REWARD], batch), (at[k.TERMINATED], batch), (at[k.GRAD], threads * at[k.GRAD_SIZE])]
    fixed += [(row[k.PARTIAL], threads * row[k.PARTIAL_SIZE]) for row in net]
    assert all(net[:, k.PARTIAL_SIZE] >= 3 * outputs)

    def of(column: int, *networks: int) -> list[tuple[int, int]]:
        rows = [row for network in networks for row in net[network * layers : (network + 1) * layers]]
        found = [(row[column], batch * row[k.OUTPUTS]) for row in rows]
        normed = [row for row in rows if column == k.OUT and row[k.GAIN] >= 0]
        found += [(row[k.NORMED], batch * row[k.OUTPUTS]) for row in normed]
        return found + [(row[k.RSTD], batch) for row in normed]

    # The actor climbs through the first critic; one thread takes critic after critic, several take them together.
    for networks in [(0, 1), (0, 2)] if threads == 1 else [(0, 1, 2)]:
        regions = sorted([*fixed, *of(k.OUT, *networks), *of(k.DELTA, *networks[1:])])
        ends = [start + size for start, size in regions]
        assert all(end <= start for end, (start, _) in zip(ends, [*regions[1:], (len(work), 0)], strict=True))
    last = net[layers - 1 :: layers]
    assert len(set(last[:, k.DELTA])) == len(set(last[:, k.OUT])) == 3


@pytest.mark.parametrize("faded", [1e-39, -1e-39, 1e-42])
def test_moments_that_fade_end_at_zero(faded: float) -> None:
    agent = make_agent()
    layer, engine = agent.critic.q1_body[0], Fused(agent)
    state = agent.critic_optimizer.state[layer.weight]
    with torch.no_grad():
        layer.bias.fill_(-1e6)  # no unit fires
        state["exp_avg"].fill_(faded)
        state["exp_avg_sq"].fill_(abs(faded))
        before = layer.weight.clone()
    engine.update(*make_batch(1))
    assert (state["exp_avg"] == 0).all()
    assert (state["exp_avg_sq"] == 0).all()
    assert (layer.weight == before).all()


@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq"])
def test_a_moment_that_is_not_a_number_reaches_the_weights(moment: str) -> None:
    agent = make_agent()
    engine = Fused(agent)
    for parameter in agent.critic.parameters():
        agent.critic_optimizer.state[parameter][moment].fill_(np.nan)
    engine.update(*make_batch(1))
    assert all(parameter.isnan().all() for parameter in agent.critic.parameters())


def test_a_changed_callee_in_another_file_is_compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba's own cache would go on with the old one: it looks at the called function's file alone."""
    start = "from t3d.engines.blas_and_threads import compiled, entry\n"
    layers = start + "@compiled\ndef number():\n    return {}\n"
    (tmp_path / "kernels.py").write_text(start + "import layers\n@entry\ndef answer():\n    return layers.number()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    seen = []
    for number in (41, 41, 42):
        (tmp_path / "layers.py").write_text(layers.format(number))
        for name in ("kernels", "layers"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        answer = importlib.import_module("kernels").answer
        seen.append((answer(), sum(answer.stats.cache_hits.values())))
    assert seen == [(41, 0), (41, 1), (42, 0)]
