"""A study's folder: what it is, and the journal that all its processes write.

study.json       the environment, the options, the space: what may not change while it goes on
journal.jsonl    Optuna's: every trial, its options, how each of its seeds ended
trials/<number>/ a run folder for each seed, and a lock that says who plays them
final/           the further seeds of the best three
confirm/         the best and the default on fresh seeds
tuned.toml       the best options, as a preset
tune.html        the page
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from t3d.config import IDLE, Config
from t3d.env_spec import EnvSpec
from t3d.errors import ConfigRefused, RunRefused
from t3d.formats import Record, Text
from t3d.storage import checked_files, disk
from t3d.storage.lock import Turn
from t3d.tuning.race import Outcome
from t3d.tuning.space import Option, Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

_SEED = "seed:"
_OPTIONS = "options"


class StudyRecord(Record, frozen=True, kw_only=True):
    """study.json: what every process of a study must agree on."""

    env: Text
    env_kwargs: dict[Text, Any]
    wrappers: tuple[Text, ...]
    pixels: bool
    preset: Text
    config: Config
    space: tuple[Option, ...]
    seeds: int  # of a trial that plays on

    @property
    def spec(self) -> EnvSpec:
        """Which environment."""
        return EnvSpec(self.env, self.env_kwargs, self.wrappers, pixels=self.pixels, view=self.config.view)


def describe(env: EnvSpec, preset: str, config: Config, space: Space, seeds: int) -> StudyRecord:
    """Return what study.json says."""
    return StudyRecord(
        env=env.name,
        env_kwargs=dict(env.kwargs),
        wrappers=env.wrappers,
        pixels=env.pixels,
        preset=preset,
        config=config,
        space=space,
        seeds=seeds,
    )


def begin(folder: Path, record: StudyRecord) -> None:
    """Make a study's folder, or refuse one that is another's.

    Raises:
        RunRefused: it holds another study, or something else.
    """
    path = folder / "study.json"
    if not path.is_file():
        if folder.is_dir() and {inside.name for inside in folder.iterdir()} - {"study.json.new"}:
            raise RunRefused(
                "this folder is taken", got=str(folder), expected="a study's, or an empty one", do="give another --out"
            )
        disk.make_folder(folder)
        disk.replace(path, checked_files.encode(record))
        return
    there = checked_files.read(path, StudyRecord)
    for name in StudyRecord.__struct_fields__:
        old, new = _comparable(getattr(there, name)), _comparable(getattr(record, name))
        if old != new:
            differing = [key for key in new if new[key] != old.get(key)] if isinstance(new, dict) else [name]
            raise RunRefused(
                f"this folder holds another study: its {name} differs",
                got=f"{folder}: {', '.join(f'{key} was {_part(old, key)}, is {_part(new, key)}' for key in differing)}",
                expected="the same environment, options, space and seeds",
                do="give another --out, or the command it was begun with",
            )


def _comparable(value: Any) -> Any:
    plain = msgspec.to_builtins(value)
    return {k: v for k, v in plain.items() if k not in IDLE} if isinstance(plain, dict) else plain


def _part(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else value


def refuse_without_optuna() -> None:
    """Refuse to search without the library that does.

    Raises:
        ConfigRefused: it is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigRefused(
            "t3d tune needs Optuna", got=str(error), do="pip install 't3d[tune]' (in a checkout: make install)"
        ) from error


class _JournalTurn(Turn):
    """Optuna's lock on its journal. Whoever takes it cuts off the half of a line that a kill may have left."""

    def __init__(self, journal: Path) -> None:
        super().__init__(journal.with_name("journal.lock"))
        self._journal = journal

    def acquire(self) -> bool:
        super().acquire()
        content = self._journal.read_bytes() if self._journal.is_file() else b""
        if content and not content.endswith(b"\n"):
            disk.cut(self._journal, content.rfind(b"\n") + 1)
        return True


class Journal:
    """The journal of a study: trials asked, told, and how their seeds ended.

    Args:
        folder: the study's.
        record: its study.json.
    """

    def __init__(self, folder: Path, record: StudyRecord) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder, self.record = folder, record
        path = folder / "journal.jsonl"
        self._asking = Turn(folder / "asking.lock")
        with self.asking():
            backend = JournalFileBackend(str(path), _JournalTurn(path))  # type: ignore[arg-type]
            self._storage = JournalStorage(backend)
            self.study = self._study("search")

    def _study(self, name: str, **more: Any) -> Study:
        import optuna

        return optuna.create_study(
            storage=self._storage, study_name=name, direction="maximize", load_if_exists=True, **more
        )

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Be the only process of the study that begins or takes over a trial."""
        self._asking.acquire()
        try:
            yield
        finally:
            self._asking.release()

    def final(self, numbers: list[int]) -> Study:
        """Return the study in which the best trials play on, with the pruner that may end them."""
        import optuna

        name = "final-" + "-".join(map(str, sorted(numbers)))
        with _experiments():
            return self._study(name, pruner=optuna.pruners.WilcoxonPruner())

    def ask(self) -> Trial:
        """Begin a trial, drawn from what all the others have come to. Only while `asking`."""
        from optuna.samplers import TPESampler

        # Anew for each: the same history then gives the same draw, in whichever process.
        seed = (self.record.config.seed << 20) + len(self.study.get_trials(deepcopy=False))
        with _experiments():  # group, which conditional options need
            self.study.sampler = TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed % 2**32)
        return self.study.ask()

    def adopt(self, trial: FrozenTrial) -> Trial:
        """Return a trial that another process had begun."""
        import optuna

        return optuna.trial.Trial(self.study, trial._trial_id)

    def trials(self) -> list[FrozenTrial]:
        """Return every trial, in the order of their numbers."""
        return self.study.get_trials(deepcopy=False)


@contextmanager
def _experiments() -> Iterator[None]:
    """Use what Optuna calls experimental, without a word for each time: its version is pinned."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def set_options(trial: Trial, values: dict[str, Any]) -> None:
    """Record what a trial's options came to: from then on it may be taken over."""
    trial.set_user_attr(_OPTIONS, json.dumps(values))


def options_of(trial: FrozenTrial | Trial) -> dict[str, Any] | None:
    """Return what a trial trains with; None if its process was killed before that was known."""
    text = trial.user_attrs.get(_OPTIONS)
    if text is None:
        return None
    return {name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(text).items()}


def set_outcome(trial: Trial, seed: int, outcome: Outcome) -> None:
    """Record how a seed of a trial ended."""
    trial.set_user_attr(f"{_SEED}{seed}", msgspec.to_builtins(outcome))


def outcomes_of(trial: FrozenTrial | Trial) -> dict[int, Outcome]:
    """Return how the seeds of a trial ended, by their index."""
    found = {name.removeprefix(_SEED): v for name, v in trial.user_attrs.items() if name.startswith(_SEED)}
    return {int(index): msgspec.convert(outcome, Outcome) for index, outcome in sorted(found.items())}


def best_trial(trials: list[FrozenTrial], seeds: int) -> FrozenTrial | None:
    """Return the trial of the highest value among those that have played so many seeds."""
    ended = [trial for trial in trials if trial.state.name == "COMPLETE" and len(outcomes_of(trial)) >= seeds]
    return max(ended, key=lambda trial: trial.value or 0.0, default=None)


def best_three(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that play on, the best first: those with the most seeds, and of these the highest values."""
    ended = [trial for trial in trials if trial.state.name == "COMPLETE" and trial.value is not None]
    most = max((len(outcomes_of(trial)) for trial in ended), default=0)
    finalists = [trial for trial in ended if len(outcomes_of(trial)) == most]
    return sorted(finalists, key=lambda trial: -(trial.value or 0.0))[:3]
