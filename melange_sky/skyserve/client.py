"""SkyPilot's SDK, as far as a fleet needs it. The only module of the project's core path that imports sky."""

from __future__ import annotations

import contextlib
import copy
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import yaml

from melange_sky.errors import InputError, MelangeError, SourceUnavailableError
from melange_sky.plans import FILLER_MEMORY
from melange_sky.skyserve.changes import LiveReplica, LiveService

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melange_sky.skyserve.changes import Wanted


PAUSES_S = (1.0, 3.0, 8.0)
"""Seconds to wait before SkyPilot is asked again for what its controller failed to say."""


class SkyServe:
    """SkyServe through the SDK. `secrets` are values by name; they go to SkyPilot and nowhere else."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        try:
            # Where SkyPilot is imported first, its log goes to what is standard output then; ours is for results.
            with contextlib.redirect_stdout(sys.stderr):
                import sky
        except ImportError as error:
            raise SourceUnavailableError(
                "SkyPilot is not installed here; install it with: pip install skypilot"
            ) from error
        self._sky: Any = sky
        self._secrets = dict(secrets)

    def services(self) -> tuple[LiveService, ...]:
        """Return all services that run, none where no controller does.

        The controller fails to answer while one of its services goes down: it is asked again.
        Raises SourceUnavailableError where SkyPilot cannot say.
        """
        pauses_s = iter(PAUSES_S)
        while True:
            try:
                return tuple(map(live_service, self._sky.get(self._sky.serve.status(None))))
            except self._sky.exceptions.ClusterNotUpError:
                return ()
            except Exception as error:  # whatever the SDK or its server has met
                pause_s = next(pauses_s, None) if self._may_pass(error) else None
                if pause_s is None:
                    raise SourceUnavailableError(
                        f"SkyPilot cannot say which services run: {_one_line(error)}"
                    ) from error
            time.sleep(pause_s)

    def _may_pass(self, error: Exception) -> bool:
        """Return whether the same question may be answered in a moment: the server is there, but failed."""
        nobody = isinstance(error, self._sky.exceptions.ApiServerConnectionError)
        return isinstance(error, RuntimeError) and not nobody

    def users(self) -> frozenset[str]:
        """Return SkyPilot's ids of this user: that of the login, else that of the machine's account."""
        try:
            login = self._sky.api_info().user
        except Exception as error:  # whatever the SDK or its server has met
            raise SourceUnavailableError(
                f"SkyPilot cannot say who its user is: {_one_line(error)}"
            ) from error
        if login is not None:
            return frozenset({str(login.id)})
        from sky.utils import common_utils

        return frozenset({str(common_utils.get_user_hash())})

    def answers(self, service: LiveService) -> bool:
        """Return False while the service's load balancer says 503, for it knows no replica yet.

        An endpoint that cannot be reached from here counts as answering: it may be open to others.
        """
        if service.endpoint is None:
            return False
        if not service.endpoint.startswith(("http://", "https://")):
            return True
        request = urllib.request.Request(f"{service.endpoint}/health")
        try:
            with urllib.request.urlopen(request, timeout=5):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return error.code != 503
        except OSError:
            return True

    def normal(self, wanted: Wanted, live: LiveService | None) -> dict[str, Any]:
        """Return the wanted document as SkyPilot would keep it, with its secrets filled in."""
        config: dict[str, Any] = self._task(wanted, live).to_yaml_config()
        loaded: dict[str, Any] = yaml.safe_load(yaml.safe_dump(config))
        return loaded

    def start(self, wanted: Wanted) -> None:
        """Bring a service up; returns when SkyServe has taken it over, not when it is ready."""
        self._call(wanted.name, self._sky.serve.up, self._task(wanted, None), wanted.name)

    def update(self, wanted: Wanted, live: LiveService) -> None:
        """Change a running service to the wanted one."""
        mode = self._sky.serve.UpdateMode.ROLLING
        self._call(wanted.name, self._sky.serve.update, self._task(wanted, live), wanted.name, mode)

    def stop(self, name: str) -> None:
        """Take a service down with its replicas."""
        self._call(name, self._sky.serve.down, name)

    def _call(self, name: str, function: Any, *arguments: Any) -> None:
        try:
            self._sky.get(function(*arguments))
        except (RuntimeError, ValueError, self._sky.exceptions.ResourcesUnavailableError) as error:
            raise MelangeError(f"{name}: SkyPilot refused: {_one_line(error)}") from error

    def _task(self, wanted: Wanted, live: LiveService | None) -> Any:
        """Return the task, with secrets from the environment, else from the running service.

        The running service's own stamps are carried on: differing ones would replace every replica.
        Only whose it is comes from the plan, which differs where `compare` says that it moves.
        """
        config = copy.deepcopy(wanted.document)
        kept: dict[str, Any] = dict((live.document.get("secrets") or {}) if live else {})
        values = {}
        for name, value in (config.get("secrets") or {}).items():
            given = self._secrets.get(name, kept.get(name, value))
            if given is None:
                raise InputError(
                    f"{wanted.name} needs the secret {name}: set it in the environment"
                )
            values[name] = given
        config["secrets"] = values
        if live is not None:
            stamps = copy.deepcopy(live.document.get("_metadata") or {})
            config["_metadata"] = stamps | _mark_of(config, stamps)
            _leave_filled(config, live.document)
        try:
            return self._sky.Task.from_yaml_config(config)
        except (ValueError, TypeError) as error:
            raise InputError(f"{wanted.name}.sky.yaml: {_one_line(error)}") from error


def _leave_filled(config: dict[str, Any], live: Mapping[str, Any]) -> None:
    """Leave the memory to SkyPilot where it once filled it in: a service of an earlier version keeps running."""
    resources, running = config.get("resources") or {}, live.get("resources") or {}
    filled = [part.get("memory") for part in (running, *running.get("any_of", ()))]
    if resources.get("memory") == FILLER_MEMORY and any(filled) and FILLER_MEMORY not in filled:
        del resources["memory"]


def _mark_of(document: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mark to write: the document's, with the owner who once took this service over."""
    mark = (document.get("_metadata") or {}).get("melange_sky")
    if not isinstance(mark, dict):
        return {}
    before = live.get("melange_sky")
    kept = {}
    if isinstance(before, dict) and before.get("id") == mark.get("id"):
        kept = {key: value for key, value in before.items() if key == "owner"}
    return {"melange_sky": {**kept, **copy.deepcopy(mark)}}


def live_service(record: Mapping[str, Any]) -> LiveService:
    """Return a service from SkyServe's record of it, as its status functions give it."""
    document = yaml.safe_load(record.get("yaml_content") or "") or {}
    return LiveService(
        name=record["name"],
        status=record["status"].value,
        version=int(record.get("version") or 0),
        endpoint=record.get("endpoint"),
        document=document,
        written=_written(document),
        user=record.get("user_hash"),
        user_name=record.get("user_name"),
        replicas=tuple(
            LiveReplica(
                id=int(info["replica_id"]),
                status=info["status"].value,
                version=int(info["version"]),
                endpoint=info.get("endpoint"),
                launched_at_s=None if not info.get("launched_at") else int(info["launched_at"]),
            )
            for info in record.get("replica_info") or ()
        ),
    )


def _written(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the newest version as it was handed to SkyPilot, which rewrites mounts; empty if not known."""
    try:
        written = yaml.safe_load(document.get("_user_specified_yaml") or "")
    except yaml.YAMLError:
        return {}
    return written if isinstance(written, dict) else {}


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:299] + "…"
