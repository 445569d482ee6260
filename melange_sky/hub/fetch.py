"""The files of a model from the Hub, each within a bound of size and time.

`huggingface_hub` knows the address of the Hub (`HF_ENDPOINT`), the user's token (`HF_TOKEN`) and its
errors; the bodies are read here, so that no answer can be endless. A token is sent to the Hub alone.
Nothing of a repository is ever executed.
"""

from __future__ import annotations

import json
import struct
import time
from dataclasses import dataclass, field
from typing import Any

from melange_sky.errors import InputError, MelangeError, SourceUnavailableError
from melange_sky.hub.reference import COMMIT, ModelReference
from melange_sky.hub.store import KeptModel
from melange_sky.models.weights.tensors import TensorTotals, totals_of_header, totals_of_index
from melange_sky.settings import hub_endpoint

MIB = 2**20
CONFIG_BYTES = 16 * MIB
INDEX_BYTES = 64 * MIB
HEADER_BYTES = 64 * MIB
DEADLINE_S = 60.0
READ_TIMEOUT_S = 10.0
CHUNK_BYTES = 65536

CONFIG, SIDE_FILE = "config.json", "hf_quant_config.json"
OPTIONAL = (SIDE_FILE, "generation_config.json")
INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"


@dataclass(slots=True)
class _Fetcher:
    """One model's fetch: its commit once it is known, and when it must be over."""

    reference: ModelReference
    deadline: float
    commit: str | None = None
    gated: bool = False
    files: dict[str, bytes] = field(default_factory=dict)

    def get(self, name: str, limit: int, *, optional: bool = False) -> bytes | None:
        """Fetch a file of at most `limit` bytes, None where it is optional and absent."""
        return self._fetch(name, limit, optional=optional, part=None)

    def _fetch(
        self, name: str, limit: int, *, optional: bool, part: tuple[int, int] | None
    ) -> bytes | None:
        from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url
        from huggingface_hub.errors import EntryNotFoundError
        from huggingface_hub.utils._headers import build_hf_headers

        repo = self.reference.repo
        endpoint = hub_endpoint()
        revision = self.commit or self.reference.revision
        url = hf_hub_url(repo, name, revision=revision, endpoint=endpoint)
        token = get_token()
        try:
            metadata = get_hf_file_metadata(
                url, token=token, timeout=self._left(), endpoint=endpoint
            )
        except EntryNotFoundError:
            if optional:
                return None
            raise
        if self.commit is None:
            self._take_commit(metadata.commit_hash)
        if part is None and metadata.size is not None and metadata.size > limit:
            raise InputError(
                f"{repo}: {name} has {metadata.size} bytes, more than the {limit} that such a file may have"
            )
        headers = build_hf_headers(token=token)
        if part is not None:
            headers["Range"] = f"bytes={part[0]}-{part[1]}"
        return self._body(url, headers, name, limit, part)

    def _take_commit(self, commit: str | None) -> None:
        if commit is None or not COMMIT.fullmatch(commit):
            raise SourceUnavailableError(
                f"{self.reference.repo}: the server names no commit, so that nothing pins what was read"
            )
        self.commit = commit

    def _left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise SourceUnavailableError(
                f"{self.reference.repo}: the Hub took longer than {DEADLINE_S:g} s"
            )
        return min(left, READ_TIMEOUT_S)

    def _body(
        self,
        url: str,
        headers: dict[str, str],
        name: str,
        limit: int,
        part: tuple[int, int] | None,
    ) -> bytes:
        from huggingface_hub import get_session, hf_raise_for_status

        headers["Accept-Encoding"] = "identity"
        data = bytearray()
        session = get_session()
        with session.stream(
            "GET", url, headers=headers, follow_redirects=True, timeout=self._left()
        ) as response:
            hf_raise_for_status(response)
            if part is not None and response.status_code != 206:
                raise SourceUnavailableError(
                    f"{self.reference.repo}: the server sends {name} only as a whole"
                )
            for chunk in response.iter_bytes(CHUNK_BYTES):
                data += chunk
                if len(data) > limit:
                    raise InputError(
                        f"{self.reference.repo}: {name} is longer than the {limit} bytes that such a file may have"
                    )
                self._left()
        return bytes(data)

    def needs_token(self, name: str) -> bool:
        """Return whether a file is kept from those who show no token, so that replicas need one too."""
        from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url
        from huggingface_hub.errors import HfHubHTTPError

        if get_token() is None:
            return False
        endpoint = hub_endpoint()
        url = hf_hub_url(self.reference.repo, name, revision=self.commit, endpoint=endpoint)
        try:
            get_hf_file_metadata(url, token=False, timeout=self._left(), endpoint=endpoint)
        except HfHubHTTPError:
            return True
        return False

    def part(self, name: str, first: int, last: int) -> bytes | None:
        """Fetch bytes `first` … `last` of a file, None where it is absent."""
        return self._fetch(name, last - first + 1, optional=True, part=(first, last))


def fetch_model(reference: ModelReference) -> KeptModel:
    """Fetch what says what a model is, all of one commit.

    Raises InputError (exit 2) where the Hub refuses or a file is wrong, SourceUnavailableError (exit 4)
    where it is out of reach.
    """
    fetcher = _Fetcher(reference, time.monotonic() + DEADLINE_S)
    try:
        return _fetch_all(fetcher)
    except MelangeError:
        raise
    except Exception as error:
        raise _as_one_line(reference, error) from error


def _fetch_all(fetcher: _Fetcher) -> KeptModel:
    config = fetcher.get(CONFIG, CONFIG_BYTES)
    assert config is not None
    fetcher.files[CONFIG] = config
    parsed(fetcher.reference.repo, CONFIG, config)
    for name in OPTIONAL:
        data = fetcher.get(name, CONFIG_BYTES, optional=True)
        if data is not None:
            parsed(fetcher.reference.repo, name, data)
            fetcher.files[name] = data
    totals = _totals(fetcher)
    gated = fetcher.needs_token(CONFIG)
    assert fetcher.commit is not None
    return KeptModel(
        repo=fetcher.reference.repo,
        commit=fetcher.commit,
        files=fetcher.files,
        totals=None if totals is None else totals_document(totals),
        gated=gated,
    )


def _totals(fetcher: _Fetcher) -> TensorTotals | None:
    """Return what the weight files hold: from the index, else from the header of the only file."""
    repo = fetcher.reference.repo
    index = fetcher.get(INDEX, INDEX_BYTES, optional=True)
    if index is not None:
        return totals_of_index(parsed(repo, INDEX, index), f"{repo}: {INDEX}")
    start = fetcher.part(WEIGHTS, 0, 7)
    if start is None or len(start) < 8:
        return None
    (length,) = struct.unpack("<Q", start)
    if not 2 <= length <= HEADER_BYTES:
        raise InputError(
            f"{repo}: {WEIGHTS} states a header of {length} bytes, which is impossible"
        )
    header = fetcher.part(WEIGHTS, 8, 7 + length)
    if header is None or len(header) < length:
        raise InputError(f"{repo}: {WEIGHTS} ends within its header")
    return totals_of_header(parsed(repo, WEIGHTS, header), f"{repo}: {WEIGHTS}")


def parsed(repo: str, name: str, data: bytes) -> dict[str, Any]:
    """Return a JSON object; raise InputError for anything else, a file cut short included."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{repo}: {name} is not JSON ({type(error).__name__})") from error
    if not isinstance(document, dict):
        raise InputError(f"{repo}: {name} is not a JSON object")
    return document


def totals_document(totals: TensorTotals) -> dict[str, Any]:
    """Return totals as plain values."""
    return {
        "total_bytes": totals.total_bytes,
        "by_part": None if totals.by_part is None else dict(totals.by_part),
        "parameters": totals.parameters,
    }


def _as_one_line(reference: ModelReference, error: Exception) -> MelangeError:
    """Say in one line what the Hub answered; nothing of a request, and so no token, is repeated."""
    from huggingface_hub import errors

    repo = reference.repo
    if isinstance(error, errors.GatedRepoError):
        return InputError(
            f"{repo}: this model is gated: accept its licence on the Hub and set HF_TOKEN to a token of that account"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return InputError(
            f"{repo}: this model has no revision '{reference.revision}': give a branch, a tag or a commit of it"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return InputError(
            f"{repo}: this model is not on the Hub, or is private: check the id, and set HF_TOKEN for a private one"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return InputError(
            f"{repo}: this repository has no {CONFIG}, so that nothing says what it is (a GGUF or adapter repository?): give the id of the model itself"
        )
    if isinstance(error, errors.HFValidationError):
        return InputError(f"{repo}: this is not an id that the Hub takes: org/name")
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            return InputError(
                f"{repo}: the Hub refuses it (HTTP {status}): set HF_TOKEN to a token that may read it"
            )
        return SourceUnavailableError(f"{repo}: the Hub answers HTTP {status}; try again later")
    return SourceUnavailableError(
        f"{repo}: the Hub is out of reach ({type(error).__name__}); check the network and HF_ENDPOINT, or "
        "give its config.json (model_config)"
    )
