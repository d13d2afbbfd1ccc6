"""One process's part in a study: trials are begun or taken over, raced, and told; the best play on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from t3d.errors import RunRefused
from t3d.execution.jobs import Job, job_of
from t3d.execution.processes import LOOK_S
from t3d.presets import Choice
from t3d.runs.signals import Signals
from t3d.storage import disk
from t3d.storage.lock import Lock
from t3d.tuning import race, space
from t3d.tuning.grid import words
from t3d.tuning.players import Key, Players
from t3d.tuning.race import Outcome
from t3d.tuning.study import Journal, best_three, best_trial, options_of, outcomes_of, set_options, set_outcome

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

FINAL_SEEDS = 8
_WAIT_S = 2.0  # between two looks at trials of other processes


class _Own(NamedTuple):
    """A trial that this process plays."""

    trial: Trial
    values: dict[str, Any]
    lock: Lock
    outcomes: dict[int, Outcome]
    decided: list[bool]  # whether it plays on, once that is known


class Search:
    """Play trials until so many have been begun and none is left that nobody plays.

    Args:
        journal: of the study.
        trials: how many.
        players: what plays the runs.
        say: told what is worth a line.
    """

    def __init__(self, journal: Journal, trials: int, players: Players, say: Callable[[str], None]) -> None:
        self._journal, self._most, self._players, self._say = journal, trials, players, say
        self._own: dict[int, _Own] = {}
        self._looked = float("-inf")
        self._raced: dict[Key, int] = {}  # at which evaluation each run was last held against the others

    def run(self, signals: Signals) -> None:
        """Play.

        Raises:
            Stopped: a signal asked for it; the same command goes on.
            Failed: a run could not go on.
            ConfigRefused: what was drawn is impossible.
        """
        try:
            while self._step():
                signals.stop_here()
                time.sleep(LOOK_S)
        finally:
            self._players.close()
            for own in self._own.values():
                own.lock.close()

    def _step(self) -> bool:
        """Do what can be done now; return whether anything is left."""
        ended = self._players.ended()
        for (number, seed), outcome in ended:
            own = self._own[number]
            set_outcome(own.trial, seed, outcome)
            own.outcomes[seed] = outcome
            told = "stopped, behind" if outcome.end == "stopped" else outcome.problem or f"{outcome.score or 0:,.1f}"
            self._say(f"trial {number}, seed {seed}: {told}")
        self._race()
        for own in list(self._own.values()):
            self._play_or_tell(own)
        left = True
        while left and len(self._players) < self._players.at_once:
            left = self._begin_another()
        return bool(self._own) or left or self._others_play()

    def _race(self) -> None:
        playing = {key: curve for key, curve in self._players.playing().items() if curve}
        new = [key for key, curve in playing.items() if self._raced.get(key) != max(curve)]
        if not new:
            return
        trials = self._journal.trials()
        every = [outcome for trial in trials for outcome in outcomes_of(trial).values()]
        beside = {key: Outcome("stopped", sorted(curve.items())) for key, curve in playing.items()}
        best = best_trial(trials, self._journal.record.seeds)
        for key in new:
            self._raced[key] = max(playing[key])
            others = [*every, *(outcome for other, outcome in beside.items() if other != key)]
            if best and race.falls_behind(playing[key], self._journal.record.config.steps, outcomes_of(best), others):
                self._players.stop(key)

    def _play_or_tell(self, own: _Own) -> None:
        number, out = own.trial.number, own.outcomes
        stopped = any(outcome.end == "stopped" for outcome in out.values())
        wanted = [] if stopped else self._wanted(own)
        for seed in wanted:
            if (number, seed) not in self._players and len(self._players) < self._players.at_once:
                self._players.start((number, seed), self._job(own, seed))
        if stopped:
            for seed in range(self._journal.record.seeds):
                if (number, seed) in self._players:
                    self._players.stop((number, seed))
        if not wanted and not any((number, seed) in self._players for seed in range(self._journal.record.seeds)):
            self._tell(own)

    def _wanted(self, own: _Own) -> list[int]:
        if 0 not in own.outcomes:
            return [0]
        if not own.decided:
            every = [outcomes_of(trial) for trial in self._journal.trials()]
            own.decided.append(len(own.outcomes) > 1 or race.plays_on(own.outcomes, every))
        return [s for s in range(self._journal.record.seeds) if s not in own.outcomes] if own.decided[0] else []

    def _tell(self, own: _Own) -> None:
        from optuna.trial import TrialState

        study, number = self._journal.study, own.trial.number
        stopped = [outcome for outcome in own.outcomes.values() if outcome.end == "stopped"]
        worst = race.worst_of(outcomes_of(trial) for trial in self._journal.trials())
        value = race.value_of(own.outcomes, worst)
        if stopped:
            at, seen = stopped[0].curve[-1]
            own.trial.report(seen, at)
            study.tell(own.trial, state=TrialState.PRUNED)
        elif value is None:
            study.tell(own.trial, state=TrialState.FAIL)
        else:
            study.tell(own.trial, value)
        came = "stopped" if stopped else "failed" if value is None else f"{value:,.1f}"
        seeds = f"{len(own.outcomes)} seed{'s' if len(own.outcomes) > 1 else ''}"
        self._say(f"trial {number} of {self._most}: {came}, {seeds}: {words(own.values)}")
        own.lock.close()
        del self._own[number]

    def _begin_another(self) -> bool:
        """Take over an abandoned trial, or begin one; return whether there was any."""
        with self._journal.asking():
            trials = self._journal.trials()
            own = self._abandoned(trials) or self._new(trials)
        if own is None:
            return False
        self._own[own.trial.number] = own
        self._play_or_tell(own)
        return True

    def _abandoned(self, trials: list[FrozenTrial]) -> _Own | None:
        for trial in trials:
            if trial.state.name != "RUNNING" or trial.number in self._own:
                continue
            if (lock := self._lock(trial.number)) is None:
                continue  # its process lives
            if (values := options_of(trial)) is None:
                lock.close()
                self._journal.study.tell(trial.number, state=_fail())
                continue
            return _Own(self._journal.adopt(trial), values, lock, outcomes_of(trial), [])
        return None

    def _new(self, trials: list[FrozenTrial]) -> _Own | None:
        record = self._journal.record
        begun = [t for t in trials if t.state.name == "RUNNING" or options_of(t) is not None]
        if len(begun) >= self._most:
            return None
        if not trials and (default := space.default_of(record.space, record.config)):
            self._journal.study.enqueue_trial(default)
        trial = self._journal.ask()
        values = space.draw(record.space, trial)
        record.config.with_values(values).check_together()
        set_options(trial, values)
        lock = self._lock(trial.number)
        assert lock is not None, "nobody else knows of it yet"
        self._say(f"trial {trial.number} of {self._most}: {words(values)}")
        return _Own(trial, values, lock, {}, [])

    def _lock(self, number: int) -> Lock | None:
        folder = self._journal.folder / "trials" / str(number)
        disk.make_folder(folder)
        try:
            return Lock(folder)
        except RunRefused:
            return None

    def _job(self, own: _Own, seed: int) -> Job:
        return job_in(self._journal, own.values, seed, self._journal.folder / "trials" / str(own.trial.number))

    def _others_play(self) -> bool:
        """Return whether a trial is played by another process, which may die; looked at now and then."""
        if time.monotonic() - self._looked < _WAIT_S:
            return True
        self._looked = time.monotonic()
        return any(trial.state.name == "RUNNING" for trial in self._journal.trials())


def _fail() -> Any:
    from optuna.trial import TrialState

    return TrialState.FAIL


def job_in(journal: Journal, values: dict[str, Any], seed: int, parent: Path, preset: str = "") -> Job:
    """Return the job of a seed of some options, in a folder of its own.

    Args:
        journal: of the study.
        values: options to values.
        seed: counted from the study's own.
        parent: the folder above.
        preset: what the run calls its options; empty for the study's.
    """
    record = journal.record
    choice = Choice(preset or record.preset, record.config.with_values(values), "of the study")
    seed += record.config.seed
    return job_of(record.spec, choice, seed, parent / f"s{seed}")


def play_final(journal: Journal, players: Players, signals: Signals, say: Callable[[str], None]) -> int | None:
    """Let the best three play on to FINAL_SEEDS seeds, where the others may be ended by Wilcoxon's test.

    Returns:
        The number of the best trial, by the mean of these seeds; None where no trial has come to its end.

    Raises:
        Stopped, Failed: as `Search.run`.
    """
    finalists = best_three(journal.trials())
    if not finalists:
        return None
    final = journal.final([trial.number for trial in finalists])
    played = {trial.user_attrs["trial"]: trial for trial in final.get_trials() if "trial" in trial.user_attrs}
    worst = race.worst_of(outcomes_of(trial) for trial in journal.trials())
    try:
        for finalist in finalists:
            if finalist.number not in played or played[finalist.number].state.name == "RUNNING":
                _play_on(journal, final, finalist, played.get(finalist.number), worst, players, signals, say)
    finally:
        players.close()
    ended = [trial for trial in final.get_trials() if trial.state.name == "COMPLETE"]
    best = max(ended, key=lambda trial: trial.value or 0.0)
    return int(best.user_attrs["trial"])


def _play_on(
    journal: Journal,
    final: Any,
    finalist: FrozenTrial,
    begun: FrozenTrial | None,
    worst: float | None,
    players: Players,
    signals: Signals,
    say: Callable[[str], None],
) -> None:
    import optuna

    number = finalist.number
    if begun is None:
        trial = final.ask()
        trial.set_user_attr("trial", number)
    else:
        trial = optuna.trial.Trial(final, begun._trial_id)
    outcomes = {**outcomes_of(finalist), **(outcomes_of(begun) if begun else {})}
    reported = set(begun.intermediate_values) if begun else set()
    leads = not any(other.state.name == "COMPLETE" for other in final.get_trials(deepcopy=False))
    while True:
        for seed in sorted(set(outcomes) - reported):
            score = race.value_of({seed: outcomes[seed]}, worst)
            assert score is not None, "a finalist has a value, so something has finished"
            trial.report(score, seed)
            reported.add(seed)
        if not leads and trial.should_prune():
            final.tell(trial, state=optuna.trial.TrialState.PRUNED)
            say(f"trial {number} ended after {len(outcomes)} seeds: below the best by Wilcoxon's test")
            return
        missing = [seed for seed in range(FINAL_SEEDS) if seed not in outcomes]
        if not missing:
            break
        for seed in missing[: players.at_once]:
            folder = journal.folder / "final" / str(number)
            players.start((number, seed), job_in(journal, options_of(finalist) or {}, seed, folder))
        while len(players):
            for (_, seed), outcome in players.ended():
                set_outcome(trial, seed, outcome)
                outcomes[seed] = outcome
                say(f"trial {number}, seed {seed}: {outcome.problem or f'{outcome.score or 0:,.1f}'}")
            signals.stop_here()
            time.sleep(LOOK_S)
    value = race.value_of(outcomes, worst)
    assert value is not None
    final.tell(trial, value)
    say(f"trial {number}: {value:,.1f} over {len(outcomes)} seeds")
