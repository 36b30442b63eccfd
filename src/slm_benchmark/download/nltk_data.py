"""What IFEval's checks need beside the answer: NLTK's sentence models, and no dice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slm_benchmark.common.errors import UserError
from slm_benchmark.common.files import atomic_directory, atomic_write_json, digest, read_json
from slm_benchmark.common.paths import DOWNLOADS, relative
from slm_benchmark.download.weights import describe_files
from slm_benchmark.download.wheels import Archive, extract, fetch_wheel

PACKAGE, VERSION = "llama-index-core", "0.14.25"
SHA256 = "caa7d9c5ac9b13dc33400cf8d5e92e689b6d1e4497eb9bfa50d6f52ca2eb22a1"
"""SHA-256 of the wheel (12 MB), of which only NLTK's files are used."""

_INSIDE = "llama_index/core/_static/nltk_cache/tokenizers/punkt_tab"
_MODELS = "tokenizers/punkt_tab"


def prepare_punkt(target: Path, downloads: Path = DOWNLOADS) -> None:
    """Fill ``target`` with NLTK's punkt_tab models of all languages and a manifest, atomically.

    Args:
        target: The folder to fill; what it held before is replaced.
        downloads: Where the wheel is kept.

    Raises:
        RunEnvironmentError: when the package index cannot be reached, or the disk is full.
        UserError: when the wheel's hash differs from the pinned one.
    """
    this = relative(__file__)
    wheel = fetch_wheel(Archive(PACKAGE, VERSION, SHA256, file=this), downloads)
    with atomic_directory(target) as work:
        models = work / _MODELS
        models.mkdir(parents=True)
        extract(wheel, _INSIDE, models, file=this, field="_INSIDE")
        # NLTK reads nothing that another account could write, whatever the umask here allows.
        for path in (work, *work.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        files = describe_files(work)
        manifest = {
            "package": PACKAGE,
            "version": VERSION,
            "wheel_sha256": SHA256,
            "files": files,
            "sha256": digest(files),
        }
        atomic_write_json(work / "manifest.json", manifest)


@contextmanager
def nltk_environment(folder: Path, seed: int = 0) -> Iterator[str]:
    """Let NLTK read ``folder`` alone, and langdetect draw the same numbers in every process.

    The harness looks for the models when it loads the task, so loading belongs inside too: where
    they are missing it asks the network, says that it has them, and fails at the first document
    that needs them. langdetect samples a text's n-grams, by default with another seed every time,
    so that an answer near the border of two languages would pass today and fail tomorrow.

    Args:
        folder: What `prepare_punkt` filled.
        seed: Seed of langdetect.

    Yields:
        The digest over the folder's files.

    Raises:
        UserError: when the folder is missing or a file differs from its manifest.
    """
    sha256 = _verified(folder)
    import langdetect
    import nltk.data

    before = os.environ.get("NLTK_DATA"), list(nltk.data.path), langdetect.DetectorFactory.seed
    os.environ["NLTK_DATA"] = str(folder.resolve())
    nltk.data.path[:] = [os.environ["NLTK_DATA"]]
    langdetect.DetectorFactory.seed = seed
    try:
        _check_readable(folder)
        yield sha256
    finally:
        nltk.data.path[:], langdetect.DetectorFactory.seed = before[1:]
        if before[0] is None:
            del os.environ["NLTK_DATA"]
        else:
            os.environ["NLTK_DATA"] = before[0]


def _check_readable(folder: Path) -> None:
    import nltk.data

    try:
        nltk.data.find(f"{_MODELS}/english/")
    except LookupError as error:
        raise UserError(
            "NLTK refuses this folder: another account owns it or may write to it",
            file=relative(folder),
            fix="copy it as your own, or take the right to write from group and others",
        ) from error


def _verified(folder: Path) -> str:
    if not (folder / "manifest.json").is_file():
        raise UserError(
            "NLTK's sentence models are missing, which IFEval's checks need",
            file=relative(folder / "manifest.json"),
            fix="run the workflow: its rule prepare_nltk fills the folder",
        )
    manifest = read_json(folder / "manifest.json")
    files = describe_files(folder)
    if manifest.get("wheel_sha256") != SHA256 or manifest.get("sha256") != digest(files):
        raise UserError(
            "NLTK's sentence models are not those that were prepared",
            file=relative(folder),
            fix="delete the folder and run the workflow again",
        )
    return str(manifest["sha256"])
