"""A whole study: search, the final of the best, the preset, the confirmation, the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from t3d.errors import Failed, RunRefused
from t3d.execution.jobs import Job
from t3d.execution.places import place
from t3d.execution.processes import Runner, Standing, train_jobs
from t3d.runs.signals import Signals
from t3d.storage import disk
from t3d.storage.lock import Lock
from t3d.tuning import result
from t3d.tuning.players import Players
from t3d.tuning.search import Search, play_final
from t3d.tuning.study import Journal, StudyRecord, begin, refuse_without_optuna


class Tuned(NamedTuple):
    """What a study came to."""

    preset: Path  # the best options as a file
    page: Path
    verdict: str  # the best against the default, on fresh seeds
    best: str  # its options

    def __str__(self) -> str:
        """Return what it came to, a line each."""
        return (
            f"best        {self.best}\nconfirmed   {self.verdict}\npreset      {self.preset}\npage        {self.page}"
        )


def tune(
    folder: Path,
    record: StudyRecord,
    *,
    trials: int,
    confirm: int,
    jobs: int,
    say: Callable[[str], None],
    on: str = "local",
) -> Tuned | None:
    """Begin a study, join it, or go on with it.

    Args:
        folder: the study's.
        record: what it is.
        trials: how many sets of options are tried, by all its processes together.
        confirm: fresh seeds for the best and for the default, each.
        jobs: runs at a time in this process.
        say: told what is worth a line.
        on: where runs are trained, as for `places.place`.

    Returns:
        None if another process of this study has begun to bring it to its end.

    Raises:
        Refused: before anything began.
        Failed: a run could not go on.
        Stopped: a signal asked for it; everything is saved.
    """
    refuse_without_optuna()
    begin(folder, record)
    journal = Journal(folder, record)
    with place(on, folder, record.spec, record.config.buffer_size) as runner:
        with Signals() as signals:
            Search(journal, trials, Players(jobs, say, runner), say).run(signals)
        disk.make_folder(folder / "final")
        try:
            lock = Lock(folder / "final")
        except RunRefused:
            return None
        try:
            with Signals() as signals:
                best = play_final(journal, Players(jobs, say, runner), signals, say)
            if best is None:
                raise Failed(
                    "no trial of this study came to its end",
                    got=str(folder),
                    do="see in the files trials/*/s*/metrics.jsonl why they failed",
                )
            confirmed = _confirm(journal, best, confirm, jobs, say, runner) if confirm else None
            preset = result.write_preset(journal, best)
        finally:
            lock.close()
    # SciPy, which the pages use, takes a second to import.
    from t3d.reports import tuned

    numbers = result.gather(journal, best, confirmed)
    page = tuned.write(numbers, folder / "tune.html")
    return Tuned(preset, page, " ".join(tuned.verdict(numbers)), numbers["best_words"])


def _confirm(
    journal: Journal,
    best: int,
    seeds: int,
    jobs: int,
    say: Callable[[str], None],
    runner: Callable[[Job], Runner],
) -> dict[str, Any] | None:
    """Return the best against the default as `report --json` has it; None where the best is the default."""
    if result.is_default(journal, best):
        return None
    say(f"confirming trial {best}: {seeds} fresh seeds of its options, and as many of the default")
    said: set[Path] = set()

    def show(runs: list[Standing]) -> None:
        for run in runs:
            if run.exit_code is not None and run.path not in said:
                said.add(run.path)
                last = f"{run.evaluation['return_mean']:,.1f}" if run.evaluation else ""
                say(f"{run.path.name}: {run.problem or last}")

    ended = train_jobs(result.confirming_jobs(journal, best, seeds), jobs, show, runner)
    if failed := [run for run in ended if run.problem]:
        raise Failed(
            f"{len(failed)} of {len(ended)} confirming runs did not reach the end",
            got="; ".join(f"{run.path}: {run.problem.splitlines()[0]}" for run in failed),
            do="the same command goes on with them",
        )
    from t3d.reports.page import gather

    return gather([run.path for run in ended]).numbers
