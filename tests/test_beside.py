"""Updates made beside the environments' next step (`train_at = beside`): same results wherever these are stepped."""

import numpy as np
import pytest
import small_runs
from small_runs import PROBE, choice, digest

from t3d.env_spec import EnvSpec
from t3d.environments.in_process import Broken
from t3d.errors import EnvFailed
from t3d.runs.session import Session
from t3d.training.trainer import Trainer

BESIDE = {"train_at": "beside", "n_envs": 2, "random_steps": 10, "steps": 58, "updates_per_step": 0.5}


def ended(folder, **options):
    session = small_runs.train(folder, **BESIDE | options)
    return digest(session.trainer, session.progress)


def test_a_step_learns_what_the_one_before_has_earned_between_its_actions_and_its_memory():
    made, seen = Trainer(EnvSpec(PROBE), choice(**BESIDE).config), []
    act, update, add = made.learner.engine.act, made.learner.update, made.replay.add
    made.learner.engine.act = lambda obs: seen.append("act") or act(obs)
    made.learner.update = lambda count: seen.append(count) or update(count)
    made.replay.add = lambda *slot: seen.append("add") or add(*slot)
    while made.env_steps < 16:
        made.step()
        assert made.agent.updates == max(0, made.env_steps - 12) // 2
        assert not made.waits
    assert seen == [*([0, "add"] * 5), "act", 0, "add", "act", 1, "add", "act", 1, "add"]


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_it_is_the_same_in_worker_processes_and_for_a_run_that_was_cut(engine, tmp_path):
    whole = ended(tmp_path / "whole", engine=engine)
    assert ended(tmp_path / "workers", engine=engine, env_workers=2) == whole
    cut = small_runs.train(tmp_path / "cut", until=37, **BESIDE | {"engine": engine})
    assert cut.trainer.updates_due == 1
    assert ended(tmp_path / "cut", engine=engine, resume=True) == whole
    small_runs.train(tmp_path / "longer", **BESIDE | {"engine": engine, "steps": 40})
    assert ended(tmp_path / "longer", engine=engine, resume=True) == whole


@pytest.mark.parametrize("workers", [0, 1])
def test_a_step_that_failed_beside_its_updates_is_made_again_without_them(workers, tmp_path):
    whole = small_runs.train(tmp_path / "whole", **BESIDE)
    session = Session(EnvSpec(PROBE), choice(**BESIDE | {"env_workers": workers}), tmp_path / "run")
    envs = session.trainer.envs
    wait = envs._envs.wait

    def fail():
        wait()
        if envs.env_steps == 32:  # within an episode
            raise Broken(1, EnvFailed("the cable came off"))

    envs._envs.wait = fail
    with pytest.raises(EnvFailed, match="the cable came off"):
        list(session.run())
    assert (session.trainer.env_steps, session.trainer.updates_due) == (32, 0)
    session.close()
    again = small_runs.train(tmp_path / "run", resume=True, **BESIDE)
    assert again.progress.state.failed_at == 32
    assert digest(again.trainer, whole.progress) == digest(whole.trainer, whole.progress)


def test_evaluations_come_when_they_are_due(tmp_path):
    session = small_runs.train(tmp_path / "run", **BESIDE)
    assert [row["env_steps"] for row in session.rows("evaluation")] == [20, 40, 58]


def test_a_checkpoint_of_other_updates_than_its_steps_have_earned_is_refused():
    made = Trainer(EnvSpec(PROBE), choice(**BESIDE).config)
    for _ in range(12):
        made.step()
    made.envs.env_steps += 2
    assert made.updates_due == 2
    assert made.updates_due not in made._may_be_due()
    assert np.count_nonzero([due in made._may_be_due() for due in range(5)]) == 2
