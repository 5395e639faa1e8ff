"""Tiny but real models for tests: weights from a seed, a real tokenizer, loadable with `from_pretrained`.

    folder = tiny_model(tmp_path / "expert", "roberta", task="token-classification", labels=["O", "B-PER"])
    texts = tiny_texts(20, seed=1)

Weights are large, and biases and norms are not at their usual 0 and 1, so that every tensor matters to the
predictions, and predictions of two seeds differ clearly.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import torch

_WORDS = """
    the a this that it was is not very really film movie plot actor story music great good fine bad awful boring
    lovely terrible wonderful slow funny sad Anna Bruno Paris London Acme Corp visited works for lives in yesterday
    tomorrow unbelievably extraordinary disappointment masterpiece and but or with without . , ! ?
"""
WORDS = _WORDS.split()
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'-()&:;\"éü"
# Words that the vocabularies know; the others are split into many pieces, as rare words are.
COMMON = [word for word in WORDS if len(word) < 9]
TASKS = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "fill-mask": "AutoModelForMaskedLM",
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "image-classification": "AutoModelForImageClassification",
}
# One model of each kind that merges differently: (architecture, task).
KINDS = (
    ("bert", "question-answering"),
    ("bert", "fill-mask"),
    ("gpt2", "text-generation"),
    ("llama", "text-generation"),
    ("qwen3", "text-generation"),
    ("qwen3_moe", "text-generation"),
    ("mixtral", "text-generation"),
    ("t5", "text2text-generation"),
    ("bart", "text2text-generation"),
    ("vit", "image-classification"),
)
ARCHITECTURES = ("bert", "roberta", "distilbert", "deberta-v2", "albert", "gpt2", "llama", "modernbert")


def tiny_texts(n: int, seed: int = 0, *, longest: int = 20) -> list[str]:
    """`n` different texts of 1 to `longest` words, some of which the tokenizers split."""
    rng = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < n:
        texts[" ".join(rng.choices(WORDS, k=rng.randint(1, longest)))] = None
    return list(texts)


def tiny_images(folder: Path, *, labels: Sequence[str] = ("cat", "dog"), count: int = 3, seed: int = 0) -> Path:
    """A folder of `count` images a label, in folders named after the labels, all of them different."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(seed)
    for label in labels:
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def tiny_model(
    folder: Path,
    arch: str = "bert",
    *,
    task: str = "text-classification",
    labels: Sequence[str] = ("negative", "positive"),
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    hidden: int = 32,
    layers: int = 2,
    **config_overrides: object,
) -> Path:
    """Writes a model and its tokenizer into `folder`, which is returned."""
    import transformers

    tokenizer = _processor() if arch == "vit" else tiny_tokenizer(arch)
    settings: dict[str, object] = {}
    if task.endswith("classification"):
        settings["id2label"] = dict(enumerate(labels))
        settings["label2id"] = {label: index for index, label in enumerate(labels)}
    if arch != "vit":
        settings |= {"vocab_size": len(tokenizer)} | _special(tokenizer)
    settings |= _shape(arch, hidden, layers) | config_overrides
    config = transformers.AutoConfig.for_model(arch, **settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, TASKS[task]).from_config(config)
        _roughen(model)
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def tiny_tokenizer(arch: str = "bert"):
    """The tokenizer of `arch`: of its own class, over a vocabulary of a few hundred pieces."""
    import transformers

    if arch in ("bert", "distilbert"):
        cls = transformers.BertTokenizer if arch == "bert" else transformers.DistilBertTokenizer
        return cls(vocab=_wordpieces(), do_lower_case=False, model_max_length=64)
    if arch in ("albert", "deberta-v2"):
        albert = arch == "albert"
        special = ["<pad>" if albert else "[PAD]", "<unk>" if albert else "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        cls = transformers.AlbertTokenizer if albert else transformers.DebertaV2Tokenizer
        return cls(vocab=_unigrams(special), do_lower_case=False, model_max_length=64)
    if arch == "t5":
        return transformers.T5Tokenizer(vocab=_unigrams(["<pad>", "</s>", "<unk>"]), extra_ids=0, model_max_length=64)
    if arch in ("roberta", "bart"):
        vocab, merges = _bytes(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
        cls = transformers.RobertaTokenizer if arch == "roberta" else transformers.BartTokenizer
        return cls(vocab=vocab, merges=merges, model_max_length=64)
    if arch == "gpt2":
        vocab, merges = _bytes(["<|endoftext|>"])
        return transformers.GPT2Tokenizer(vocab=vocab, merges=merges, model_max_length=64)
    return _byte_level(arch)


def _shape(arch: str, hidden: int, layers: int) -> dict[str, object]:
    """The config of a network of this size, in the words of its architecture."""
    common = {"initializer_range": 0.3}
    if arch == "distilbert":
        return common | {
            "dim": hidden,
            "n_layers": layers,
            "n_heads": 4,
            "hidden_dim": 2 * hidden,
            "max_position_embeddings": 64,
        }
    if arch == "gpt2":
        return common | {"n_embd": hidden, "n_layer": layers, "n_head": 4, "n_positions": 64}
    if arch == "t5":
        own = {"d_model": hidden, "d_kv": hidden // 4, "d_ff": 2 * hidden, "num_layers": layers, "num_heads": 4}
        return own | {"initializer_factor": 2.0, "decoder_start_token_id": 0}
    if arch == "bart":
        sides = ("encoder", "decoder")
        own = {f"{side}_layers": layers for side in sides} | {f"{side}_attention_heads": 4 for side in sides}
        own |= {f"{side}_ffn_dim": 2 * hidden for side in sides}
        return own | {"d_model": hidden, "init_std": 0.3, "max_position_embeddings": 64, "decoder_start_token_id": 2}
    common |= {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": 66 if arch == "roberta" else 64,
    }
    extra: dict[str, dict[str, object]] = {
        "albert": {"embedding_size": hidden // 2},
        "llama": {"num_key_value_heads": 2},
        "qwen3": {"num_key_value_heads": 2, "head_dim": hidden // 4},
        "qwen3_moe": {
            "num_key_value_heads": 2,
            "head_dim": hidden // 4,
            "moe_intermediate_size": hidden // 2,
            "num_experts": 4,
            "num_experts_per_tok": 2,
        },
        "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4},
        "vit": {"image_size": 16, "patch_size": 4, "num_channels": 3},
        "roberta": {"type_vocab_size": 1},
        "deberta-v2": {
            "relative_attention": True,
            "position_buckets": 8,
            "max_relative_positions": -1,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
            "pooler_hidden_size": hidden,
        },
        "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 8},
    }
    return common | extra.get(arch, {})


def _processor():
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": 16, "width": 16})


def _special(tokenizer) -> dict[str, int]:
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    ids |= {name: getattr(tokenizer, name) for name in ("cls_token_id", "sep_token_id")}
    # Causal models classify the last token that is not padding, and must know which one is.
    ids["pad_token_id"] = tokenizer.eos_token_id if ids["pad_token_id"] is None else ids["pad_token_id"]
    known = {name: value for name, value in ids.items() if value is not None}
    return {"bos_token_id": ids["cls_token_id"], "eos_token_id": ids["sep_token_id"]} | known


def _roughen(model) -> None:
    """Moves biases and norms off 0 and 1."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))


def _wordpieces() -> dict[str, int]:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COMMON, *LETTERS, *(f"##{x}" for x in LETTERS)]
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


def _unigrams(special: list[str]) -> list[tuple[str, float]]:
    pieces = {f"▁{word}": -5.0 for word in COMMON} | {"▁": -8.0} | dict.fromkeys(LETTERS, -10.0)
    return [*((name, 0.0) for name in special), *pieces.items()]


def _bytes(special: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE in which most common words are one or two pieces."""
    from tokenizers.pre_tokenizers import ByteLevel

    vocab = {piece: index for index, piece in enumerate([*special, *sorted(ByteLevel.alphabet())])}
    merges: dict[tuple[str, str], None] = {}
    for word in COMMON:
        for start in ("Ġ", ""):
            whole = start + word
            for end in range(1, len(whole)):
                merges[whole[:end], whole[end]] = None
                vocab.setdefault(whole[: end + 1], len(vocab))
    return vocab, list(merges)


def _byte_level(arch: str):
    """A tokenizer of no class of its own, as Llama 3 (without a padding token) and ModernBERT have it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    llama = arch in ("llama", "qwen3", "qwen3_moe", "mixtral")
    special = ["<|begin_of_text|>", "<|end_of_text|>"] if llama else ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
    vocab, merges = _bytes(special)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    first, last = ("<|begin_of_text|>", "") if llama else ("[CLS]", " [SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A{last}",
        pair=f"{first} $A{last} {first if llama else ''} $B{last}".replace("  ", " "),
        special_tokens=[(name, vocab[name]) for name in special],
    )
    names = (
        {"bos_token": special[0], "eos_token": special[1]}
        if llama
        else dict(zip(("pad_token", "cls_token", "sep_token", "mask_token", "unk_token"), special, strict=True))
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)
