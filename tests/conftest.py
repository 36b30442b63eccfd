"""What several tests share: a tiny random model, its GGUF twin, and a stand-in for the hub."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.mark.expression import Expression
from hypothesis import settings

from tests.support.hub import Hub, serve
from tests.support.models import SPIN, write_gguf
from tools.ci_lanes import BY_NAME, FIXTURES, MARKERS, marker

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# The same examples in every run, however busy the machine is: what passes here passes in CI.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# Two workers share the cores, and a thread that spins while it waits takes them from the other.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

TEXTS = (
    "A small model reads a short text and writes the next word.",
    "The quick brown fox jumps over the lazy dog, 12 times in 345 seconds.",
    "def add(first, second):\n    return first + second\n",
    "Which of these is a planet? Mars, of course; the Moon is not.",
)

TESTS = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import a file whose tests are all deselected by ``-m``: it may cost seconds."""
    lane = marker(collection_path.relative_to(TESTS).as_posix())
    if lane is None or not config.option.markexpr or collection_path.suffix != ".py":
        return None
    if lane in BY_NAME and lane not in config.option.markexpr:
        return True
    expression = Expression.compile(config.option.markexpr)

    def fast(name: str, /, **_: object) -> bool:
        return name == lane

    def slow(name: str, /, **_: object) -> bool:
        return name in (lane, "slow")

    return None if expression.evaluate(fast) or expression.evaluate(slow) else True


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Use the cores for a run of folders, four at most; files that are named need no workers."""
    if any(".py" in argument for argument in config.args):
        return 0
    return min(len(os.sched_getaffinity(0)), 4)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by the folder or file it lies in, else by the fixtures it uses.

    A test that has no lane from these and carries no marker of one is in the quick lane, unless
    it is slow.
    """
    for item in items:
        lane = marker(item.path.relative_to(TESTS).as_posix())
        if lane is None and not any(map(item.get_closest_marker, MARKERS)):
            names = getattr(item, "fixturenames", ())
            used = (FIXTURES[name] for name in names if name in FIXTURES)
            lane = next(used, "model" if item.get_closest_marker("slow") else None)
        if lane is not None:
            item.add_marker(lane)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Llama in transformers format, the same in every run.

    400 tokens, hidden size 64, 2 layers, 4 heads over 2 key-value heads; float16 safetensors; a
    byte-level tokenizer that cuts text as SmolLM's does; a ChatML template. llama.cpp's converter
    does not take it, as it knows tokenizers by a hash over their token ids; `tiny_gguf` is its
    GGUF form.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny_model")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|im_end|>",
        model_max_length=256,
    )
    fast.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{{ message['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        initializer_range=0.2,  # wide, so that random logits differ clearly from each other
    )
    state = torch.get_rng_state()
    torch.manual_seed(20)
    LlamaForCausalLM(config).to(torch.float16).save_pretrained(folder)
    torch.set_rng_state(state)
    return folder


@pytest.fixture(scope="session")
def tiny_gguf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_model` as a GGUF file, linear layers in Q4_1, embeddings in Q8_0, norms in F32."""
    path = tmp_path_factory.mktemp("tiny_gguf") / "tiny.Q4_1.gguf"
    return write_gguf(path, tiny_model, linear="Q4_1", embedding="Q8_0")


@pytest.fixture(scope="session")
def tiny_gguf_f16(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_model` as a GGUF file in F16, norms in F32, as llama.cpp's converter writes it."""
    path = tmp_path_factory.mktemp("tiny_gguf") / "tiny.F16.gguf"
    return write_gguf(path, tiny_model, linear="F16", embedding="F16")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub stand-in over the empty folder ``hub.root``, which hub code in this process talks to.

    A child process takes its address from HF_ENDPOINT, which is set too. Pauses between retries
    are none, and the caches of the user's home are out of reach.
    """
    import datasets.config
    import huggingface_hub.constants

    root = tmp_path / "hub"
    root.mkdir()
    with serve(root) as running:
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)  # 10 MB would hold all of it
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", running.url)
        monkeypatch.setattr("slm_benchmark.download.hub.WAITS_S", (0.0, 0.0))
        yield running


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; skips where this process may not mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def stranger() -> Iterator[int]:
    """The pid of a process that works, and is not a child of this one."""
    source = (
        "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', "
        f"{SPIN!r}, 'secret-argument'], stdout=subprocess.DEVNULL, "
        "stderr=subprocess.DEVNULL).pid)"
    )
    started = subprocess.run([sys.executable, "-c", source], capture_output=True, check=True)
    pid = int(started.stdout)
    yield pid
    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty results of a checkout."""
    monkeypatch.setattr("slm_benchmark.common.paths.ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A Chromium that all tests of the site share; `tests.sites.Visit` opens pages in it."""
    from tests.support.sites import chromium

    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def board() -> dict[str, Any]:
    """The synthetic leaderboard of `tests.sites`; a test that changes it copies it first."""
    from tests.support.sites import synthetic_leaderboard

    return synthetic_leaderboard()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, board: dict[str, Any]) -> Path:
    """The site of that leaderboard; one build serves all tests."""
    from tests.support.sites import build_synthetic_site

    return build_synthetic_site(tmp_path_factory.mktemp("edition"), board)
