"""A run at an MLflow server, or in a database of MLflow's on this disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from t3d.errors import ConfigRefused, Failed
from t3d.formats import Row, RunRecord
from t3d.tracking import batches, numbers_of, options_of

_RUN, _KEY = "t3d.run", "t3d/row"
_AT_ONCE = 50  # rows: MLflow takes 1,000 numbers in one transaction


class MlflowRun:
    """A run of MLflow, found again by our run id.

    MLFLOW_TRACKING_URI says where; left out it is mlflow.db in the working directory. Rows of one call are one
    transaction, and among their numbers is each row's key: what is there can be asked for.

    Args:
        record: of the run.
        path: its folder.

    Raises:
        ConfigRefused: MLflow does not answer, or does not take the run.
    """

    def __init__(self, record: RunRecord, path: Path) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            self._client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db"))
            self._id = self._find(record, path)
        except MlflowException as error:
            raise ConfigRefused(
                "MLflow does not take this run", got=str(error), do="see to MLFLOW_TRACKING_URI"
            ) from error
        self._count = 0

    def _find(self, record: RunRecord, path: Path) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "t3d")
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        found = self._client.search_runs([number], filter_string=f"tags.`{_RUN}` = '{record.run}'")
        if found:
            return str(found[0].info.run_id)
        made = self._client.create_run(number, tags={_RUN: record.run}, run_name=f"{path.parent.name}/{path.name}")
        params = [Param(option, str(value)[:500]) for option, value in options_of(record).items()]
        self._client.log_batch(made.info.run_id, params=params)
        return str(made.info.run_id)

    def sent(self) -> set[int]:
        """Return the keys of what MLflow has."""
        keys = {int(metric.value) for metric in self._client.get_metric_history(self._id, _KEY)}
        self._count = len(keys)
        return keys

    def send(self, rows: list[tuple[int, Row]]) -> None:
        """Send numbers by env steps; what an event says stands in the run folder alone."""
        from mlflow.entities import Metric

        for batch in batches(rows, _AT_ONCE):
            metrics = []
            for key, row in batch:
                at = int(1000 * row["wall_s"])
                metrics += [Metric(name, float(v), at, row["env_steps"]) for name, v in numbers_of(row).items()]
                metrics.append(Metric(_KEY, float(key), at, self._count))
                self._count += 1
            with _answers():
                self._client.log_batch(self._id, metrics=metrics)

    def keep(self, key: int, name: str, path: Path) -> None:
        """Send a film or a page: an artifact, whose name is the same when it comes again."""
        with _answers():
            self._client.log_artifact(self._id, str(path), name.rpartition("/")[0] or None)
            self._client.log_metric(self._id, _KEY, float(key), 0, self._count)
        self._count += 1

    def close(self) -> None:
        """Mark the run as ended."""
        with _answers():
            self._client.set_terminated(self._id)


@contextmanager
def _answers() -> Iterator[None]:
    """Say in our words what MLflow does not take, once it has tried again as often as it does."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise Failed(
            "MLflow does not take this run's rows", got=str(error), do="t3d track sends later what is not there yet"
        ) from error
