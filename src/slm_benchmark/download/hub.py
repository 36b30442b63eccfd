"""The Hugging Face hub: revisions, resumable files, and its faults as errors to act on."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.files import sha256_file

WAITS_S = (2.0, 10.0, 30.0)
"""Pauses before a request that the network failed is tried again."""

T = TypeVar("T")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Repository:
    """A repository on the hub, and the lines of the file that name it.

    Args:
        id: ``owner/name``.
        revision: Commit, branch or tag; None = ``main``.
        kind: ``model`` or ``dataset``.
        file: The file that names the repository, for messages.
        id_field: The field of ``file`` that holds ``id``.
        revision_field: The field of ``file`` that holds ``revision``.
    """

    id: str
    revision: str | None
    kind: str
    file: str
    id_field: str
    revision_field: str

    @property
    def page(self) -> str:
        """Where a person reads about the repository and accepts its license."""
        return f"https://huggingface.co/{'datasets/' if self.kind == 'dataset' else ''}{self.id}"


@contextlib.contextmanager
def hub_errors(repository: Repository) -> Iterator[None]:
    """Turn what the hub, or the network on the way to it, answers into one clear error.

    Raises:
        UserError: for a gated or missing repository, a missing revision or a refused token.
        RunEnvironmentError: when the hub cannot be reached, is busy, or breaks off.
    """
    from huggingface_hub import errors as hub

    def unreachable(error: BaseException) -> RunEnvironmentError:
        detail = (str(error).strip() or type(error).__name__).splitlines()[0]
        return RunEnvironmentError(
            f"the hub cannot be reached or broke off: {detail}",
            file=repository.file,
            field=repository.id_field,
            value=repository.id,
            fix="check the network and run the same command again; what was downloaded is kept",
        )

    try:
        yield
    except hub.GatedRepoError as error:
        raise UserError(
            f"this {repository.kind} is gated",
            file=repository.file,
            field=repository.id_field,
            value=repository.id,
            fix=f"accept the license on {repository.page}, "
            "then set HF_TOKEN or run `hf auth login`",
        ) from error
    except hub.RevisionNotFoundError as error:
        raise UserError(
            f"{repository.id} has no such revision",
            file=repository.file,
            field=repository.revision_field,
            value=repository.revision,
            fix="write null and pin it again, or copy a commit from the repository's history",
        ) from error
    except hub.RepositoryNotFoundError as error:
        raise UserError(
            f"there is no such {repository.kind} on the hub, or it is private",
            file=repository.file,
            field=repository.id_field,
            value=repository.id,
            fix="correct owner/name; for a private one set HF_TOKEN or run `hf auth login`",
        ) from error
    except hub.HfHubHTTPError as error:
        status = error.response.status_code
        if status >= 500 or status in (408, 429):
            raise unreachable(error) from error
        raise UserError(
            f"the hub refuses this request with status {status}",
            file=repository.file,
            field=repository.id_field,
            value=repository.id,
            fix="check HF_TOKEN (an expired or narrow token is refused), or unset it",
        ) from error
    except hub.HTTPError as error:  # the transport's own: no answer, or one that broke off
        raise unreachable(error) from error
    except UserError:
        raise
    except OSError as error:  # offline mode, consistency of sizes, refused connections
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG):
            raise
        raise unreachable(error) from error


def retried(action: Callable[[], T]) -> T:
    """Run ``action``, and again after each pause of `WAITS_S` when the network failed it."""
    for wait_s in WAITS_S:
        try:
            return action()
        except RunEnvironmentError as fault:
            _log.warning("%s; trying again in %g s", fault, wait_s)
            time.sleep(wait_s)
    return action()


def repository_info(repository: Repository, files: bool = False) -> Any:
    """What the hub says about a repository at its revision; ``sha`` is the commit.

    Args:
        repository: The repository.
        files: Ask for size and hash of every file too.

    Raises:
        UserError, RunEnvironmentError: as `hub_errors`.
    """
    from huggingface_hub import HfApi

    def ask() -> Any:
        with hub_errors(repository):
            return HfApi().repo_info(
                repository.id,
                repo_type=repository.kind,
                revision=repository.revision,
                files_metadata=files,
            )

    info = retried(ask)
    if not _COMMIT.fullmatch(info.sha or ""):
        raise RunEnvironmentError(
            f"the hub answers without a commit for {repository.id}",
            file=repository.file,
            field=repository.id_field,
            value=info.sha,
            fix="check HF_ENDPOINT",
        )
    return info


def fetch_file(repository: Repository, commit: str, sibling: Any, into: Path) -> Path:
    """One file of a repository, checked against the hash that the hub reports.

    A part left by an earlier, killed download is continued, also by a later process; the hub's own
    library starts such a file again from its first byte.

    Args:
        repository: The repository.
        commit: The commit to read.
        sibling: The hub's entry of the file: name, size and hash (``lfs.sha256`` or git's).
        into: Folder for finished and partial files of this repository and commit.

    Returns:
        Path of the finished file.

    Raises:
        UserError, RunEnvironmentError: as `hub_errors`; a wrong hash is a RunEnvironmentError,
            and the damaged part is removed, so that another try begins afresh.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    path: Path = into / sibling.rfilename
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    expected = _expected_hash(sibling)

    def fetch() -> None:
        have = part.stat().st_size if part.exists() else 0
        if sibling.size is not None and have > sibling.size:
            part.unlink()
            have = 0
        url = hf_hub_url(
            repository.id,
            sibling.rfilename,
            repo_type=repository.kind,
            revision=commit,
        )
        if sibling.size is None or have < sibling.size:
            with hub_errors(repository), open(part, "ab") as stream:
                http_get(
                    url,
                    stream,
                    resume_size=have,
                    headers=build_hf_headers(),
                    expected_size=sibling.size,
                    displayed_filename=sibling.rfilename,
                )
        actual = _hash_like(expected, part)
        if actual != expected:
            part.unlink()
            raise RunEnvironmentError(
                f"wrong checksum: {sibling.rfilename} of {repository.id} at {commit[:12]} "
                f"should have {expected}",
                file=repository.file,
                field=repository.id_field,
                value=actual,
                fix="run the same command again; if it stays wrong, report it to the "
                "repository's owner",
            )
        os.replace(part, path)

    if path.exists() and _hash_like(expected, path) == expected:
        return path
    retried(fetch)
    return path


def _expected_hash(sibling: Any) -> str | None:
    if sibling.lfs is not None:
        return f"sha256:{sibling.lfs['sha256']}"
    return None if sibling.blob_id is None else f"git:{sibling.blob_id}"


def _hash_like(expected: str | None, path: Path) -> str | None:
    """The hash of a file in the manner of ``expected``: SHA-256, or git's of a blob."""
    if expected is None:
        return None
    if expected.startswith("sha256:"):
        return f"sha256:{sha256_file(path)}"
    blob = hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            blob.update(block)
    return f"git:{blob.hexdigest()}"
