"""Small tokenizers with the habits of real ones, and tiny models to go with them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TEXTS = (
    "Question: Which of these is a planet? Mars, of course; the Moon is not.\nAnswer: A B C D",
    "def add(first, second):\n    return first + second\n",
    "The quick brown fox jumps over the lazy dog, 12 times in 345 seconds.",
)

TURNS = (
    "{% for m in messages %}{{ m['role'] }}\n{{ m['content'] }}<|turn_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant\n{% endif %}"
)
"""A chat template that ends each turn with a token of its own."""

CONTROL = ("<unk>", "<s>", "</s>", "<|turn_end|>")
"""Special tokens, by id."""


def byte_level(
    folder: Path,
    *,
    around: str = "$A",
    silent: Sequence[str] = (),
    **named: Any,
) -> Any:
    """Save a byte-level tokenizer in the manner of GPT-2.

    Args:
        folder: Where to save it.
        around: What is put around every text, as in ``<s> $A </s>``.
        silent: Tokens that decode to nothing.
        named: Arguments of `PreTrainedTokenizerFast`; None takes a token's name away.

    Returns:
        The tokenizer as Transformers has it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.Sequence(
        [*(decoders.Replace(token, "") for token in silent), decoders.ByteLevel()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS, trainer)
    return _save(folder, core, around, named)


def llama2(folder: Path, *, around: str = "<s> $A", strip: bool = True, **named: Any) -> Any:
    """Save a tokenizer in the manner of Llama 2: ▁ for spaces, bytes as fallback, a ▁ before every
    text, of which the decoder takes the space away.

    Args:
        folder: Where to save it.
        around: As in `byte_level`.
        strip: Whether the decoder takes that space away.
        named: As in `byte_level`.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    letters = "abcdefghijklmnopqrstuvwxyzABCDMQT_():;\"'.,?+-=0123456789"
    pieces = [*CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁▁", "▁▁▁▁", *letters]
    merged = [("▁", "▁"), ("▁▁", "▁▁"), ("▁", "a"), ("r", "e"), ("re", "t"), ("▁", "ret")]
    pieces += ["".join(pair) for pair in merged if "".join(pair) not in pieces]
    core = Tokenizer(
        models.BPE(
            vocab={piece: number for number, piece in enumerate(pieces)},
            merges=merged,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if strip else [])])
    return _save(folder, core, around, named)


def words(folder: Path, **named: Any) -> Any:
    """Save a tokenizer of whole words in the manner of BERT, with [CLS] and [SEP] as <s> and </s>;
    its decoder joins words with spaces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = [*CONTROL, "print", "(", "x", ",", "y", ")", ".", "Answer", ":", "A", "B", "a", "##b"]
    core = Tokenizer(
        models.WordPiece(vocab={p: i for i, p in enumerate(pieces)}, unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return _save(folder, core, "<s> $A </s>", named)


def _save(folder: Path, core: Any, around: str, named: dict[str, Any]) -> Any:
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    core.add_special_tokens(list(CONTROL))
    if around != "$A":
        ids = [(token, core.token_to_id(token)) for token in CONTROL if token in around]
        core.post_processor = processors.TemplateProcessing(single=around, special_tokens=ids)
    template = named.pop("chat_template", None)
    usual = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | named
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core, **{key: value for key, value in usual.items() if value is not None}
    )
    fast.chat_template = template
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    return fast


def scripted(folder: Path, rows: int, writes: Sequence[int], **named: Any) -> Path:
    """Save a tiny Llama that writes a fixed answer, beside a tokenizer.

    Its layers add nothing to the embedding of the last token, and its output layer has the
    embedding of each token of ``writes`` at the row of the next.

    Args:
        folder: Where to save it.
        rows: Rows of its embeddings.
        writes: Token ids: the last one of the prompt, then the answer; each may be there once.
        named: Arguments of its configuration.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    usual: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        tie_word_embeddings=False,
        **(usual | named),
    )
    state = torch.get_rng_state()
    torch.manual_seed(21)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight.normal_()
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        for token, following in itertools.pairwise(writes):
            model.lm_head.weight[following] += embedding[token]
    torch.set_rng_state(state)
    model.to(torch.float16).save_pretrained(folder)
    return folder
