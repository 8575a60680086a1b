"""MLflow's model registry: models:/NAME@ALIAS and models:/NAME/VERSION -> the export in it; an export -> a new version.

What a registry holds is somebody else's: of a version the description, the ONNX graph and the card are read here, by their plain names
and within their sizes. The Python code beside them is for MLflow's own servers and is never fetched, let alone run.
"""

from __future__ import annotations

import json
import logging
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from medseg.deploy.description import CARD, GRAPHS, NAME, Description, read_description
from medseg.errors import ExportError, MedsegError, RunError
from medseg.quieting import quieted
from medseg.runfolder import IDENTITY_FILES, NETWORK_FILES, RunFolder
from medseg.tracking.address import connect, connect_to_read, reading_uri, reason, without_secrets
from medseg.tracking.packed import EXPORT, OF_PART, PART, PART_FILES, SCORES, pack
from medseg.tracking.sender import experiment_id_of, run_id_of, terminate
from medseg.tracking.sent import Sent

SCHEME = "models:/"
ADDRESS = re.compile(r"models:/([^/@:\s][^/@:]{0,249})(?:@([A-Za-z0-9_-]{1,250})|/([0-9]{1,9}))")
MAX_BYTES = {NAME: 1 << 20, CARD: 16 << 20, GRAPHS["onnx"]: 2 << 30}  # no ONNX file is larger: protobuf ends there
MAX_SCORES_BYTES = 64 << 20
WAYS_OUT = "give another --alias, or delete the alias in MLflow to begin anew"


class Address(NamedTuple):
    """What models:/NAME@ALIAS or models:/NAME/VERSION says; one of alias and version is None."""

    name: str
    alias: str | None
    version: str | None


def parse_address(uri: str) -> Address:
    """ExportError for anything but models:/NAME@ALIAS and models:/NAME/VERSION.

    >>> parse_address("models:/tongue@champion"), parse_address("models:/tongue/3")
    (Address(name='tongue', alias='champion', version=None), Address(name='tongue', alias=None, version='3'))
    """
    found = ADDRESS.fullmatch(uri)
    if not found:
        raise ExportError(
            uri, "names no registered model", "write models:/NAME@ALIAS or models:/NAME/VERSION, such as models:/tongue@champion"
        )
    return Address(*found.groups())


def fetch_model(uri: str, scratch: Path) -> Path:
    """The export that a registered version holds, as a new folder below `scratch`, its files checked by their digests.

    uri: models:/NAME@ALIAS or models:/NAME/VERSION, looked up where MLFLOW_TRACKING_URI says. ExportError where there is no such version,
    where it holds no export of medseg, and where nobody answers.
    """
    address, where = parse_address(uri), reading_uri()
    try:
        client = connect_to_read(where)
        version = find_version(client, address)
        return _fetch_export(files_of(client, version), scratch / "export", uri)
    except MedsegError:
        raise
    except Exception as cause:  # MLflow's errors are of many kinds
        fix = "start the server, or set MLFLOW_TRACKING_URI to the one that holds the model"
        raise ExportError(uri, f"{without_secrets(where)} cannot be read ({reason(cause)})", fix) from cause


def find_version(client: MlflowClient, address: Address) -> ModelVersion:
    """The version that an address names; ExportError, with what there is, where there is none."""
    try:
        if address.alias is not None:
            return client.get_model_version_by_alias(address.name, address.alias)
        return client.get_model_version(address.name, address.version)
    except MlflowException as cause:
        if cause.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise _unknown(client, address) from None


def _unknown(client: MlflowClient, address: Address) -> ExportError:
    where = f"{SCHEME}{address.name}{f'@{address.alias}' if address.alias is not None else f'/{address.version}'}"
    try:
        model = client.get_registered_model(address.name)
    except MlflowException:
        some = ", ".join(sorted(each.name for each in client.search_registered_models(max_results=20))) or "none"
        return ExportError(where, f"no model {address.name!r} is registered; there are: {some}", "name one that is registered")
    aliases = ", ".join(f"@{alias}" for alias in sorted(model.aliases)) or "no alias"
    newest = max((int(version.version) for version in model.latest_versions), default=0)
    fix = "name a version that there is, or set the alias: medseg register RUN --alias NAME"
    return ExportError(where, f"there is no such version; the newest of {address.name!r} is {newest}, and it has {aliases}", fix)


def files_of(client: MlflowClient, version: ModelVersion) -> ArtifactRepository:
    """Where a version's files are. Not by models:/..., which MLflow would look up at the process's own tracking URI."""
    location = client.get_model_version_download_uri(version.name, version.version)
    return get_artifact_repository(location, tracking_uri=client.tracking_uri)


def _fetch_export(files: ArtifactRepository, target: Path, uri: str) -> Path:
    there = names_in(files, EXPORT)
    if NAME not in there:
        raise ExportError(uri, "holds no export of medseg", "register one: medseg register RUN")
    copy(files, EXPORT, [name for name in MAX_BYTES if name in there], target, uri)
    read_description(target).graph_file(target)
    return target


def names_in(files: ArtifactRepository, folder: str) -> set[str]:
    """The plain files in one folder of a version."""
    found = files.list_artifacts(folder)
    return {posixpath.basename(each.path) for each in found if not each.is_dir and posixpath.dirname(each.path) == folder}


def copy(files: ArtifactRepository, folder: str, names: Sequence[str], target: Path, uri: str, most_bytes: int | None = None) -> None:
    """Files of one folder of a version to `target`. Names are ours, never the server's; ExportError for one beyond its size.

    Each by itself: MLflow's own download draws a progress bar for every file.
    """
    sizes = {each.path: each.file_size or 0 for each in files.list_artifacts(folder)}
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        limit = most_bytes or MAX_BYTES[name]
        path, place = posixpath.join(folder, name), target / name
        if sizes.get(path, 0) <= limit:
            files._download_file(path, str(place))
        if sizes.get(path, 0) > limit or place.stat().st_size > limit:
            raise ExportError(uri, f"{path} has more than {limit >> 20} MB", "register the run again: medseg register RUN")


class Registry:
    """The registry at one address, to be written to. Every method raises RunError where it cannot be had."""

    def __init__(self, uri: str):
        self.uri = uri
        with self._told():
            self._client = connect(uri)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except MedsegError:
            raise
        except Exception as cause:  # MLflow's errors are of many kinds
            fix = "start the server, or set MLFLOW_TRACKING_URI to one that runs, and give the command again"
            raise RunError("the model registry", f"{without_secrets(self.uri)} did not take it ({reason(cause)})", fix) from cause

    def holder(self, name: str, alias: str) -> str | None:
        """The version that has the alias today; None where none has, or no model is called so."""
        with self._told():
            try:
                held = self._client.get_registered_model(name).aliases.get(alias)
            except MlflowException as cause:
                if cause.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                held = None
            return None if held is None else str(held)

    def scores(self, name: str, version: str, scratch: Path) -> Path:
        """A copy, below `scratch`, of the val scores that travel with a version: a folder that reads as that of its run."""
        address, target = f"{SCHEME}{name}/{version}", scratch / SCORES
        with self._told():
            files = files_of(self._client, self._client.get_model_version(name, version))
            there = names_in(files, SCORES)
            if not set(IDENTITY_FILES) <= there or not set(PART_FILES) <= names_in(files, OF_PART):
                raise RunError(address, f"holds no {PART} scores, so nothing can be held against it", WAYS_OUT)
            of_run = [*IDENTITY_FILES, *(name for name in NETWORK_FILES if name in there)]
            copy(files, SCORES, of_run, target, address, MAX_SCORES_BYTES)
            copy(files, OF_PART, PART_FILES, target / "evaluation" / PART, address, MAX_SCORES_BYTES)
        return target

    def add(self, name: str, run: RunFolder, export: Path, description: Description, tags: Mapping[str, str]) -> str:
        """Log an export to the run's MLflow run, made where there is none, and register it; returns the version's number."""
        with self._told():
            run_id = self._run_of(run, description)
            model = self._logged(run_id, name, lambda made, folder: pack(folder, export, description, run, made), tags)
            with suppress(MlflowException):  # there already
                self._client.create_registered_model(name)
            with quieted("mlflow.store.model_registry.abstract_store", least=logging.WARNING):
                # by its place, not as models:/ID: a database would look that up at the process's own tracking URI
                found = self._client.create_model_version(name, model.artifact_location, run_id, dict(tags), model_id=model.model_id)
            link = json.dumps([{"name": name, "version": found.version}])  # which a server writes by itself
            self._client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: link})
            return str(found.version)

    def _run_of(self, run: RunFolder, description: Description) -> str:
        sent, origin = Sent.read(run), description.origin
        experiment = experiment_id_of(self._client, sent.experiment if sent else origin.dataset)
        tags = {"mlflow.source.name": "medseg", "medseg.registered_only": "true"}
        run_id = run_id_of(self._client, experiment, run.id, str(run.state().get("name") or run.id), tags)
        found = self._client.get_run(run_id)
        if found.info.status == "RUNNING" and "medseg.registered_only" in found.data.tags:
            terminate(self._client, run_id, "FINISHED")
        return run_id

    def _logged(self, run_id: str, name: str, write: Callable[[Model, Path], None], tags: Mapping[str, str]) -> LoggedModel:
        """Its files written by `write` and uploaded: mlflow.pyfunc.log_model does so, but knows the process's own tracking URI alone."""
        plain = re.sub(r"[/:.%\"']", "_", name)
        experiment = self._client.get_run(run_id).info.experiment_id
        made = self._client.create_logged_model(experiment, plain, run_id, dict(tags), model_type="segmentation")
        status = "FAILED"
        try:
            with TemporaryDirectory(prefix="medseg-") as scratch:
                folder = Path(scratch, "model")
                write(Model(made.artifact_location, run_id, model_uuid=made.model_id, model_id=made.model_id), folder)
                self._client.log_model_artifacts(made.model_id, str(folder))
            self._client.log_outputs(run_id, [LoggedModelOutput(made.model_id, 0)])
            status = "READY"
        finally:
            self._client.finalize_logged_model(made.model_id, status)
        return made

    def tag(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Further tags of a version."""
        with self._told():
            for key, value in tags.items():
                self._client.set_model_version_tag(name, version, key, value)

    def give(self, name: str, alias: str, version: str) -> None:
        """Let the alias name this version, whatever it named before."""
        with self._told():
            self._client.set_registered_model_alias(name, alias, version)
