"""Which files of a model's repo go with it besides config and weights: what its tokenizer or processor may need.

    side_files(ref.files)       # ["generation_config.json", "source.spm", "target.spm", "vocab.json", ...]

A list of names would be wrong with the next tokenizer, so everything small is taken that is not known to be something
else: weights, code, pictures, what training left there, and what FuseHub or another program says of how the model was
made, which would be told of the result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Protocol

MAX_UNKNOWN_BYTES = 32 * 2**20
"""Up to what size a file is taken whose name says nothing; those with a known name have any size."""

CHAT_TEMPLATES = "additional_chat_templates"

# What says how to tokenise, beside the vocabulary.
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json")
VOCABULARIES = (
    *("tokenizer.json", "tekken.json", "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json"),
    *("tokenizer.model", "tiktoken.model", "spiece.model", "spm.model", "spm_char.model", "source.spm", "target.spm"),
    *("sentencepiece.model", "sentencepiece.bpe.model", "bpe.codes", "dict.txt", "prophetnet.tokenizer"),
    *("vocab-src.json", "vocab-tgt.json", "target_vocab.json", "entity_vocab.json", "byte_maps.json", "emoji.json"),
    *("normalizer.json", "word_shape.json", "word_pronunciation.json"),
)
"""Files of this kind make up the vocabulary of transformers' tokenizers."""
_OTHERS = (
    *("generation_config.json", "preprocessor_config.json", "processor_config.json"),
    *("video_preprocessor_config.json", "image_processor_config.json", "feature_extractor_config.json"),
)
_KNOWN = frozenset((*_SETTINGS, *VOCABULARIES, *_OTHERS))

_ENDINGS = (
    # Weights, and pickles of anything.
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".onnx_data", ".ot", ".gguf"),
    *(".ggml", ".tflite", ".mlmodel", ".npz", ".npy", ".pkl", ".pickle", ".joblib", ".index.json", ".zip", ".tar"),
    *(".gz", ".tgz", ".xz", ".bz2", ".7z", ".rar", ".nemo", ".pb", ".imatrix", ".dat"),
    # Code.
    *(".py", ".pyc", ".ipynb", ".sh", ".bash", ".bat", ".ps1", ".js", ".ts", ".c", ".cc", ".cpp", ".h", ".cu", ".rs"),
    *(".go", ".java", ".jar", ".so", ".dll", ".exe", ".dylib", ".wasm", ".r", ".pl", ".lua"),
    # Words, pictures, sounds, data. No tokenizer has its settings in YAML; recipes of training do.
    *(".md", ".rst", ".pdf", ".html", ".htm", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".ico", ".bmp"),
    *(".mp3", ".wav", ".flac", ".mp4", ".webm", ".csv", ".jsonl", ".parquet", ".arrow", ".xlsx", ".log", ".out"),
    *(".yaml", ".yml", ".toml", ".lock"),
)
# What training, other programs and FuseHub itself leave beside a model; licenses, of which the merge has its own.
_LEFT = re.compile(
    r"\.|config\.json$|adapter_|fusehub_|mergekit_|optimizer|scheduler|rng_state|scaler|trainer_|training_|train_|events\.out"
    r"|latest$|global_step|checkpoint|wandb|hparams|run_|all_results|.*(results|metrics|scores)\b|eval_|predict"
    r"|quantize_config|quant_config|modules\.json$|sentence_bert_config|config_sentence_transformers|model_index"
    r"|readme|licen[sc]e|notice|copying|use_policy|requirements|dockerfile|modelfile|makefile|imatrix"
)
_LEGAL = re.compile(r"(licen[sc]e|notice|copying|use_policy)", re.IGNORECASE)


class _Sized(Protocol):
    @property
    def size(self) -> int: ...


def side_files(files: Mapping[str, _Sized]) -> list[str]:
    """Those of `files` that go with a model besides its config and weights, sorted."""
    return sorted(name for name, file in files.items() if is_side_file(name, file.size))


def is_side_file(name: str, size: int) -> bool:
    """Whether a file of this name and size (in bytes) goes with a model."""
    if "/" in name:
        return name.startswith(f"{CHAT_TEMPLATES}/") and name.endswith(".jinja")
    lowered = name.lower()
    if name in _KNOWN:
        return True
    return size <= MAX_UNKNOWN_BYTES and not lowered.endswith(_ENDINGS) and _LEFT.match(lowered) is None


def tokenizer_files(files: Mapping[str, _Sized]) -> list[str]:
    """Those of the side files that are, or may be, a tokenizer's."""
    return [name for name in side_files(files) if name not in _OTHERS]


def has_vocabulary(files: Iterable[str]) -> bool:
    """Whether a file of these names is the vocabulary of a tokenizer."""
    return any((name in VOCABULARIES and name != "added_tokens.json") or name.endswith(".tiktoken") for name in files)


def legal_files(files: Mapping[str, _Sized]) -> list[str]:
    """Texts of licenses, and notices that go with them."""
    return sorted(name for name in files if "/" not in name and _LEGAL.match(name))
