# ruff: noqa: E402  MLflow reads its settings from the environment while it is imported
"""The MLflow end of a run: where the store is, its schema, and how each kind of event is told to it.

Only trainers/mirror.py writes through this, from a command's driver; a call may take as long as a network does.
"""

import fcntl
import json
import logging
import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.problem import DataProblem, EnvironmentProblem
from shards.store import PARTIAL, digest_of, whole_file, write_json
from shards.words import nearest
from trainers.redaction import redacted_text
from trainers.tracking import Event

for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "GIT_PYTHON_REFRESH": "quiet",
}.items():
    os.environ.setdefault(_name, _value)

import mlflow
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    RunTag,
)
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.types import Schema, TensorSpec

STORE_ERRORS = (MlflowException, OSError)  # requests' own errors are OSErrors, those of SQL come wrapped
VALUES_PER_CALL = 1000
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
RUN_TAG = "sonograph.run"
FLAVOR = "sonograph"
_WEIGHTS_TAG = "sonograph.weights"
UI_ADDRESS = "http://127.0.0.1:5000"
TRAINING_PAGES = "?workflowType=machine_learning"  # without it MLflow opens its pages about prompts and agents
_ABOUT_EXPERIMENT = "Each run leads back to its data (fingerprint), its settings, its code and its command."
_SETTINGS_PER_CALL = 100
_LONGEST_PARAM, _LONGEST_TAG, _SHOWN_DIGEST = 6000, 8000, 16

logger = logging.getLogger(__name__)
for _name in ("mlflow", "alembic", "urllib3"):
    logging.getLogger(_name).setLevel(logging.ERROR)


@dataclass(frozen=True)
class Identity:
    """Who a run is, from the head of its own log."""

    run: str
    experiment: str
    name: str
    start_ms: int


@dataclass(frozen=True)
class Place:
    """Where a run stands in a store."""

    experiment_id: str
    run_id: str


def store_address() -> str:
    """MLFLOW_TRACKING_URI, or the SQLite file runs/mlflow.db under the current folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('runs').absolute()}/mlflow.db"


class MlflowStore:
    """A connection to one MLflow store."""

    def __init__(self, address: str) -> None:
        """Open the store, a SQLite file with its schema; no server is asked yet. Raises EnvironmentProblem."""
        self.address = address
        self._database = _sqlite_file(address)
        try:
            if self._database is not None:
                _require_database(self._database)
            self._client = MlflowClient(address, address)
        except Exception as error:  # MLflow lets those of sqlite, SQLAlchemy and alembic through
            raise EnvironmentProblem(
                f"{redacted_text(address)} cannot be used as MLflow's store: {first_line(error)}. Runs go on without "
                "it, but nothing can be shown or registered. If an older MLflow wrote it: mlflow db upgrade "
                f"{redacted_text(address)}. Else move it away: a new one is made, and sonograph sync fills it."
            ) from error

    def attach(self, who: Identity, known: Place | None) -> Place:
        """Find the run of this identity, or create it; a run that was deleted in MLflow is created anew."""
        if known is not None and self._stands(known.run_id):
            return known
        experiment_id = self._experiment(who.experiment)
        found = self._client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{who.run}'", max_results=1)
        if found:
            return Place(experiment_id, found[0].info.run_id)
        run = self._client.create_run(experiment_id, who.start_ms, {RUN_TAG: who.run}, who.name)
        return Place(experiment_id, run.info.run_id)

    def refuses(self, error: Exception, place: Place) -> bool:
        """Whether an event is at fault for this error: the store is neither busy nor away."""
        if isinstance(error, MlflowException) and error.error_code == "TEMPORARILY_UNAVAILABLE":
            return False
        try:
            self._client.get_run(place.run_id)
        except STORE_ERRORS:
            return False
        return True

    def send(self, place: Place, folder: Path, events: Sequence[Event]) -> None:
        """Tell MLflow some events of the run in `folder`; telling them again changes nothing."""
        self._send_batch(place, events)
        for event in events:
            if event.kind in _TELL:
                _TELL[event.kind](self._client, place, folder, event)

    def link(self, place: Place) -> str:
        """The page of a run."""
        run = f"experiments/{place.experiment_id}/runs/{place.run_id}"
        return f"{page_address(self.address)}/#/{run}{TRAINING_PAGES}"

    def model_folder(self, reference: str, cache: Path) -> Path:
        """The files of `models:/NAME@ALIAS` or `models:/NAME/VERSION`, where they lie or copied to `cache`.

        Raises DataProblem when there is no such model, EnvironmentProblem when the store does not answer.
        """
        try:
            version = self._model_version(reference)
            source = self._client.get_model_version_download_uri(version.name, version.version)
            local = Path(source.removeprefix("file://"))
            place = cache / digest_of(self.address)[:8] / f"{version.name}-{version.version}"
            return local if local.is_dir() else self._downloaded(source, place)
        except STORE_ERRORS as error:
            raise EnvironmentProblem(
                f"{redacted_text(self.address)} did not hand out {reference} ({first_line(error)}), so there is no "
                "model to open. Start the server, or set MLFLOW_TRACKING_URI to the one that has the model."
            ) from error

    def _downloaded(self, source: str, place: Path) -> Path:
        if not place.exists():
            partial = place.with_name(f".{place.name}{PARTIAL}{os.getpid()}")
            files = mlflow.artifacts.download_artifacts(source, dst_path=str(partial), tracking_uri=self.address)
            Path(files).rename(place)
            shutil.rmtree(partial, ignore_errors=True)
        return place

    def _model_version(self, reference: str) -> ModelVersion:
        name, _, alias = reference.removeprefix("models:/").partition("@")
        try:
            if alias:
                return self._client.get_model_version_by_alias(name, alias)
            return self._client.get_model_version(*name.rsplit("/", 1))
        except (MlflowException, TypeError) as error:
            if isinstance(error, MlflowException) and error.error_code not in _ABSENT:
                raise
            known = [f"models:/{m.name}@{word}" for m in self._client.search_registered_models() for word in m.aliases]
            raise DataProblem(
                f"{redacted_text(self.address)} has no {reference}, so there is no model to open. "
                + (nearest(reference, known) if known else "No model is registered there yet: train one first.")
            ) from error

    def _stands(self, run_id: str) -> bool:
        try:
            return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code not in _ABSENT:
                raise
            return False

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            beside = (self._database.parent / "mlartifacts" / name).as_uri() if self._database else None
            return str(self._client.create_experiment(name, beside, {"mlflow.note.content": _ABOUT_EXPERIMENT}))
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _send_batch(self, place: Place, events: Sequence[Event]) -> None:
        metrics = [metric for event in events if event.kind == "metrics" for metric in _metrics(event)]
        params = [Param(*setting) for setting in _settings(events, "params", _LONGEST_PARAM)]
        tags = [RunTag(*setting) for setting in _settings(events, "tags", _LONGEST_TAG)]
        for start in range(0, len(metrics), VALUES_PER_CALL):
            self._client.log_batch(place.run_id, metrics=metrics[start : start + VALUES_PER_CALL])
        for start in range(0, len(params), _SETTINGS_PER_CALL):
            self._client.log_batch(place.run_id, params=params[start : start + _SETTINGS_PER_CALL])
        for start in range(0, len(tags), _SETTINGS_PER_CALL):
            self._client.log_batch(place.run_id, tags=tags[start : start + _SETTINGS_PER_CALL])


class Machine:
    """How busy this machine is, under the names that MLflow's page of system metrics shows."""

    def __init__(self) -> None:
        self._monitors: list[BaseMetricsMonitor] = [CPUMonitor()]
        try:
            self._monitors.append(GPUMonitor())
        except Exception:  # no pynvml, no driver, no device: each machine fails in its own way
            logger.debug("no GPU to watch", exc_info=True)
        self.measure()  # the first look at a processor has nothing to compare with and says 0 %

    def measure(self) -> dict[str, float]:
        """Percent and megabytes now."""
        values: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return values


def weight(event: Event) -> int:
    """How much of one call to MLflow an event fills: its values; all of it for other kinds; nothing for silent ones."""
    if event.kind in ("metrics", "params", "tags"):
        return len(event.fields["values"])
    return VALUES_PER_CALL if event.kind in _TELL else 0


def first_line(error: BaseException) -> str:
    """The gist of an error whose text may run over pages, without credentials."""
    return redacted_text(f"{error}".strip().partition("\n")[0] or type(error).__name__)[:160]


def page_address(address: str) -> str:
    """Where the pages of a store are: at the server, or where `sonograph ui` shows a local file."""
    return redacted_text(address).rstrip("/") if address.startswith(("http://", "https://")) else UI_ADDRESS


def _sqlite_file(address: str) -> Path | None:
    return Path(address.removeprefix("sqlite:///")).absolute() if address.startswith("sqlite:///") else None


def _require_database(path: Path) -> None:
    """Make the file with MLflow's schema, whole or not at all: two processes that migrate one file at once break it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        draft = path.with_name(f".{path.name}{PARTIAL}draft")
        draft.unlink(missing_ok=True)
        MlflowClient(f"sqlite:///{draft}").delete_experiment("0")  # the empty `Default` that MLflow puts into a new one
        with closing(sqlite3.connect(draft)) as made, whole_file(path) as file:
            file.write(made.serialize())
        draft.unlink()


def _metrics(event: Event) -> list[Metric]:
    step = event.fields["step"]
    return [Metric(name, float(value), event.time_ms, step) for name, value in event.fields["values"].items()]


def _settings(events: Sequence[Event], kind: str, longest: int) -> list[tuple[str, str]]:
    merged: dict[str, str] = {}
    for event in events:
        if event.kind == kind:
            merged |= event.fields["values"]
    return [(name, _shortened(value, longest)) for name, value in merged.items()]


def _shortened(text: str, longest: int) -> str:
    ending = f"... ({len(text)} characters, whole in events.jsonl)"
    return text if len(text) <= longest else text[: longest - len(ending)] + ending


def _tell_dataset(client: MlflowClient, place: Place, folder: Path, event: Event) -> None:
    fields = event.fields
    profile = json.dumps({"split": fields["split"], "fingerprint": fields["digest"]})
    source = json.dumps({"uri": fields["source"]})
    digest = fields["digest"][:_SHOWN_DIGEST]  # MLflow takes 36 characters at most
    dataset = Dataset(fields["name"], digest, "local", source, profile=profile)
    context = InputTag("mlflow.data.context", fields["context"])
    client.log_inputs(place.run_id, [DatasetInput(dataset, [context])])


def _tell_artifact(client: MlflowClient, place: Place, folder: Path, event: Event) -> None:
    path, to = folder / event.fields["path"], event.fields["to"] or None
    tell = client.log_artifacts if path.is_dir() else client.log_artifact
    tell(place.run_id, str(path), to)


def _tell_status(client: MlflowClient, place: Place, folder: Path, event: Event) -> None:
    status, reason = event.fields["status"], event.fields["reason"]
    if reason or "status.reason" in client.get_run(place.run_id).data.tags:
        client.set_tag(place.run_id, "status.reason", _shortened(reason, _LONGEST_TAG))
    if status == "RUNNING":
        client.update_run(place.run_id, status)
    else:
        client.set_terminated(place.run_id, status, event.time_ms)


def _tell_model(client: MlflowClient, place: Place, folder: Path, event: Event) -> None:
    files = folder / event.fields["path"]
    name, alias = event.fields["name"], event.fields["alias"]
    model = _logged_model(client, place, files, event)
    version = _version(client, place, files, model)
    aliases = client.get_registered_model(name).aliases
    if int(aliases.get(alias, 0)) < version:
        client.set_registered_model_alias(name, alias, str(version))


def _logged_model(client: MlflowClient, place: Place, files: Path, event: Event) -> LoggedModel:
    """Upload the files once; a second call finds what the first one made and completes it."""
    name = event.fields["name"]
    filters = f"name = '{name}' AND source_run_id = '{place.run_id}' AND tags.`{_WEIGHTS_TAG}` = '{files.name}'"
    found = client.search_logged_models([place.experiment_id], filters)
    model = found[0] if found else _new_logged_model(client, place, name, files)
    if model.status != LoggedModelStatus.READY:
        _write_description(files, place, model.model_id, event)
        client.log_model_artifacts(model.model_id, str(files))
        client.log_outputs(place.run_id, [LoggedModelOutput(model.model_id, _step(files))])
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return model


def _new_logged_model(client: MlflowClient, place: Place, name: str, files: Path) -> LoggedModel:
    tags = {_WEIGHTS_TAG: files.name}
    return client.create_logged_model(place.experiment_id, name, place.run_id, tags, model_type=FLAVOR)


def _version(client: MlflowClient, place: Place, files: Path, model: LoggedModel) -> int:
    """The number of the registered version that holds these weights of this run, made if there is none."""
    name = model.name
    try:
        client.create_registered_model(name, description=f"Say `models:/{name}@ALIAS` wherever a CHECKPOINT is wanted.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in client.search_model_versions(f"name = '{name}' AND run_id = '{place.run_id}'"):
        if version.tags.get(_WEIGHTS_TAG) == files.name:
            return int(version.version)
    tags = {_WEIGHTS_TAG: files.name, "step": str(_step(files))}
    # the source is not models:/ID, which MLflow looks up in the process-wide default store
    made = client.create_model_version(name, model.artifact_location, place.run_id, tags, model_id=model.model_id)
    link = json.dumps([{"name": name, "version": made.version}])
    client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": link})
    return int(made.version)


def _write_description(files: Path, place: Place, model_id: str, event: Event) -> None:
    """Add MLmodel (flavour, signature) and the input example in the spelling that MLflow reads."""
    example = np.load(files / "input_example.npy", allow_pickle=False)
    write_json(files / "input_example.json", {"inputs": example.tolist()})
    shapes = (("mel", event.fields["inputs"]), ("embedding", event.fields["outputs"]))
    inputs, outputs = (Schema([TensorSpec(np.dtype("float32"), tuple(shape), name)]) for name, shape in shapes)
    Model(
        run_id=place.run_id,
        model_id=model_id,
        flavors={FLAVOR: {"weights": "model.safetensors", "card": "card.json"}},
        signature=ModelSignature(inputs, outputs),
        saved_input_example_info={"artifact_path": "input_example.json", "type": "ndarray", "format": "tf-serving"},
    ).save(str(files / "MLmodel"))


def _step(files: Path) -> int:
    return int(json.loads((files / "card.json").read_text())["step"])


_TELL = {"dataset": _tell_dataset, "artifact": _tell_artifact, "model": _tell_model, "status": _tell_status}
