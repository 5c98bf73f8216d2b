"""The hub, through huggingface-hub: what a file is, and its bytes. All its errors become ours.

The library's own `hf_hub_download` (2.4) writes to a temporary file of its process and removes it
when it fails, so it resumes within a call but never after one. Its lower layer `http_get` takes an
open file and an offset: with a file of ours an interrupted pull goes on where it stopped, also in
another process. It speaks plain HTTP, which the hub serves up to 50 GB a file.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

from local_worker.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

_T = TypeVar("_T")

_TRUE = {"1", "on", "yes", "true"}
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_LIMIT = 50_000_000_000
_REFUSED = (
    "access is refused; accept the licence on the model's page and set HF_TOKEN to a token that may"
    " read it"
)
_BY_CODE = {
    "GatedRepo": _REFUSED,
    "RevisionNotFound": "the repository has no such revision",
    "EntryNotFound": "the repository has no such file",
}
_BY_STATUS = {
    401: "unauthorized: a private, gated or misspelled repository; set HF_TOKEN if it is yours",
    403: _REFUSED,
    404: "not found: no such repository or file",
    429: "the hub limits the rate of requests; try again later",
}
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file as the hub describes it; `sha256` is None where the hub names none."""

    repo: str
    name: str
    url: str
    commit: str
    etag: str
    size: int
    sha256: str | None


def is_offline(environ: Mapping[str, str]) -> bool:
    """Whether the user forbade the network with `HF_HUB_OFFLINE`."""
    return environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE


def _library() -> ModuleType:
    """Import huggingface-hub, which reads its settings from the environment at that moment."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    import huggingface_hub
    import huggingface_hub.errors
    import huggingface_hub.file_download
    import huggingface_hub.utils

    return huggingface_hub


class Hub:
    """Asks the hub about files and reads them.

    Attributes:
        endpoint: the hub's address; None takes `HF_ENDPOINT` or the public one.
        token: an access token; None takes what the user configured (`HF_TOKEN`, a login).
    """

    def __init__(self, endpoint: str | None = None, token: str | None = None) -> None:
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None
        self.token = token

    def describe(self, repo: str, name: str, revision: str | None) -> HubFile:
        """Ask for commit, size and checksum of a file.

        Args:
            repo: owner/name.
            name: path of the file in the repository.
            revision: a commit; None asks for the newest one.

        Returns:
            The file, with the commit that was resolved.

        Raises:
            DownloadError: no network, no access, no such repository, revision or file.
        """
        hub = _library()
        what = f"{repo}/{name}"
        url = hub.hf_hub_url(repo, name, revision=revision or "main", endpoint=self.endpoint)
        found = self._call(
            lambda: hub.get_hf_file_metadata(url, token=self.token, endpoint=self.endpoint), what
        )
        # The commit becomes a folder's name: it must be one.
        commit = _COMMIT.match(found.commit_hash or "")
        if not commit or not found.etag or found.size is None:
            raise DownloadError(f"{what}: {self.endpoint or 'the hub'} does not answer like a hub")
        pinned = hub.hf_hub_url(repo, name, revision=found.commit_hash, endpoint=self.endpoint)
        sha256 = found.etag if _SHA256.match(found.etag) else None
        return HubFile(repo, name, pinned, found.commit_hash, found.etag, found.size, sha256)

    def list(self, repo: str) -> tuple[str, tuple[str, ...]]:
        """Ask for a repository's newest commit and the names of its files.

        Raises:
            DownloadError: no network, no access, no such repository, or file names that could
                leave the folder they are written to.
        """
        api = _library().HfApi(endpoint=self.endpoint, token=self.token)
        found = self._call(lambda: api.model_info(repo), repo)
        commit = _COMMIT.match(found.sha or "")
        if not commit or found.siblings is None:
            raise DownloadError(f"{repo}: {self.endpoint or 'the hub'} does not answer like a hub")
        return found.sha, tuple(file.rfilename for file in found.siblings)

    def read(self, file: HubFile, sink: BinaryIO, offset: int) -> None:
        """Append the bytes of a file from `offset` on.

        Args:
            file: what `describe` returned.
            sink: an open file that holds the first `offset` bytes, positioned at its end.
            offset: bytes that are there already.

        Raises:
            DownloadError: interrupted, refused, or the disk is full.
        """
        what = f"{file.repo}/{file.name}"
        if file.size > _LIMIT and offset == 0:
            raise DownloadError(f"{what} is larger than the 50 GB that the hub sends over HTTP")
        hub = _library()
        headers = hub.utils.build_hf_headers(token=self.token, library_name="local-worker")
        self._call(
            lambda: hub.file_download.http_get(
                file.url,
                sink,
                resume_size=offset,
                headers=headers,
                expected_size=file.size,
                displayed_filename=file.name,
            ),
            what,
        )

    def _call(self, action: Callable[[], _T], what: str) -> _T:
        errors = _library().errors
        # The base error of the HTTP client, which is another one in every major version.
        http_error = cast("type[Exception]", errors.HfHubHTTPError.__mro__[1])
        try:
            return action()
        except errors.HfHubHTTPError as error:
            code = error.response.headers.get("X-Error-Code") or ""
            raise DownloadError(f"{what}: {_refusal(error.response.status_code, code)}") from error
        except errors.OfflineModeIsEnabled as error:
            raise DownloadError(f"{what}: the network is switched off (HF_HUB_OFFLINE)") from error
        except (OSError, ValueError, http_error) as error:
            raise DownloadError(f"{what}: {problem_of(error)}") from error


def _refusal(status: int, code: str) -> str:
    """One line for the hub's own error code, or for the HTTP status where it names none."""
    other = f"the hub answered with HTTP status {status}; pull again to go on"
    return _BY_CODE.get(code) or _BY_STATUS.get(status, other)


def problem_of(error: Exception) -> str:
    """One line for a failure of the disk or the network."""
    number = getattr(error, "errno", None)
    if number in _DISK_FULL:
        return "the disk is full; what has arrived is kept, make room and pull again to go on"
    network = (ConnectionError, TimeoutError)
    if isinstance(number, int) and number > 0 and not isinstance(error, network):
        return f"cannot be written: {os.strerror(number)}"
    if "Consistency check failed" in str(error):
        return "the connection ended too early; pull again to go on"
    detail = " ".join(str(error).split()) or type(error).__name__
    return f"no connection to the hub ({detail}); pull again to go on, what is here stays usable"
