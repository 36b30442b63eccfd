"""llama.cpp's own converter, from the source archive of the bindings that run the file."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

from slm_benchmark.common.files import atomic_directory, atomic_write_json
from slm_benchmark.common.paths import relative
from slm_benchmark.download.wheels import Archive, fetch_wheel

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
"""SHA-256 of the source distribution."""

SCRIPT = "convert_hf_to_gguf.py"
_INSIDE = "vendor/llama.cpp"
_WANTED = (SCRIPT, "conversion", "gguf-py", "LICENSE")


def fetch_converter(target: Path) -> None:
    """Fill ``target`` with the converter's script, its modules and a manifest, atomically.

    Raises:
        RunEnvironmentError: when the package index cannot be reached.
        UserError: when the archive's hash differs from the pinned one.
    """
    archive = fetch_wheel(
        Archive(PACKAGE, VERSION, SHA256, file=relative(__file__), is_wheel=False)
    )
    root = f"{archive.name.removesuffix('.tar.gz')}/{_INSIDE}/"
    with atomic_directory(target) as work, tarfile.open(archive) as tar:
        for member in tar:
            inside = member.name.removeprefix(root)
            if inside == member.name or inside.split("/")[0] not in _WANTED:
                continue
            source = tar.extractfile(member) if member.isfile() else None
            if source is None:
                continue
            path = work / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            with source, open(path, "wb") as stream:
                shutil.copyfileobj(source, stream)
        atomic_write_json(
            work / "manifest.json", {"package": PACKAGE, "version": VERSION, "sha256": SHA256}
        )
