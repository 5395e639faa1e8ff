"""Which files of a repo go into a merge of it: all that a tokenizer or a processor needs, and nothing else."""

import json
from pathlib import Path

import pytest
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name
from transformers.tokenization_utils_base import (
    ADDED_TOKENS_FILE,
    FULL_TOKENIZER_FILE,
    SPECIAL_TOKENS_MAP_FILE,
    TOKENIZER_CONFIG_FILE,
)
from transformers.utils import CHAT_TEMPLATE_DIR, CHAT_TEMPLATE_FILE, FEATURE_EXTRACTOR_NAME, IMAGE_PROCESSOR_NAME
from transformers.utils import PROCESSOR_NAME as PROCESSOR

from fusehub.merging.merge import merge
from fusehub.models.resolve import resolve
from fusehub.models.side_files import MAX_UNKNOWN_BYTES, has_vocabulary, is_side_file
from tests.unit.experts import recipe_of, relatives

HUGE = 10**10
NAMES = sorted({name for name in TOKENIZER_MAPPING_NAMES.values() if name})


@pytest.mark.parametrize("name", NAMES)
def test_the_files_of_every_tokenizer_of_transformers_are_taken_whatever_their_size(name: str) -> None:
    try:
        kind = tokenizer_class_from_name(name)
        files = getattr(kind, "vocab_files_names", {})
    except ImportError:  # It asks for a library that is not installed; what it names is in its module.
        kind, files = None, _files_in_source(name)
    files = files or {}
    for file in files.values():
        assert is_side_file(file, HUGE), file
    vocabularies = [file for part, file in files.items() if part != "tokenizer_config_file"]
    assert not vocabularies or has_vocabulary(vocabularies)


def _files_in_source(name: str) -> dict[str, str]:
    """`VOCAB_FILES_NAMES` of a class that cannot be imported here, read from its source."""
    import ast

    import transformers

    for path in Path(transformers.__file__).parent.glob("models/*/tokenization_*.py"):
        text = path.read_text(encoding="utf-8")
        if f"class {name}(" in text:
            for node in ast.parse(text).body:
                if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "VOCAB_FILES_NAMES":
                    return ast.literal_eval(node.value)
    raise AssertionError(f"{name} is nowhere")


def test_what_all_tokenizers_and_processors_share_is_taken() -> None:
    for name in (
        *(ADDED_TOKENS_FILE, FULL_TOKENIZER_FILE, SPECIAL_TOKENS_MAP_FILE, TOKENIZER_CONFIG_FILE, CHAT_TEMPLATE_FILE),
        *(FEATURE_EXTRACTOR_NAME, IMAGE_PROCESSOR_NAME, PROCESSOR, "generation_config.json"),
        *("tekken.json", "tiktoken.model", "video_preprocessor_config.json"),
    ):
        assert is_side_file(name, HUGE), name
    assert is_side_file(f"{CHAT_TEMPLATE_DIR}/tools.jinja", 10)


def test_unknown_files_are_taken_if_small_and_nothing_else() -> None:
    for name in ("my_pieces.spm", "tokenizer.4.2.0.json", "qwen.tiktoken", "hanzi.txt", "labels", "merges.bpe"):
        assert is_side_file(name, MAX_UNKNOWN_BYTES) and not is_side_file(name, MAX_UNKNOWN_BYTES + 1), name
    for name in (
        *(
            "model.safetensors",
            "pytorch_model.bin",
            "model.safetensors.index.json",
            "flax_model.msgpack",
            "model.gguf",
        ),
        *("tokenization_own.py", "modeling_own.py", "run.sh", "notebook.ipynb", "vocab.pkl", "training_args.bin"),
        *("README.md", ".gitattributes", ".gitignore", "LICENSE", "LICENSE.txt", "NOTICE", "requirements.txt"),
        *("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "trainer_state.json", "all_results.json", "latest"),
        *("eval_results.json", "events.out.tfevents.1.host", "train.log", "plot.png", "confusion_matrix.svg"),
        *("config.json", "adapter_config.json", "adapter_model.safetensors", "quantize_config.json"),
        *("fusehub_report.json", "fusehub_recipe.yaml", "mergekit_config.yml", "axolotl_config.yaml"),
        *("fusehub/statistics.json", "onnx/tokenizer.json", "checkpoint-500/tokenizer.json", "data/vocab.txt"),
    ):
        assert not is_side_file(name, 10), name


def test_a_merge_has_the_files_and_says_nothing_of_how_its_experts_were_made(tmp_path: Path) -> None:
    experts = relatives(tmp_path, "bert", hidden=16)
    taken = {
        "source.spm": "pieces",
        "bpe.codes": "a b",
        "own.pieces": "x",
        f"{CHAT_TEMPLATE_DIR}/tools.jinja": "{{ x }}",
    }
    left = {
        "mergekit_config.yml": "merge_method: ties",
        "trainer_state.json": "{}",
        "own.py": "1",
        "all_results.json": "{}",
    }
    for path in experts:
        (path / CHAT_TEMPLATE_DIR).mkdir()
        for name, text in (taken | left).items():
            (path / name).write_text(text)
    first = merge(recipe_of(experts, "mean"), tmp_path / "first").folder
    assert {name: (first / name).read_text() for name in taken} == taken
    assert not any((first / name).exists() for name in left)
    again = merge(recipe_of([first, experts[1]], "mean"), tmp_path / "again").folder
    assert json.loads((again / "fusehub_report.json").read_text())["models"][0] == str(first)
    assert "fusehub_report.json" not in resolve(str(first)).side_files()


def test_a_licenses_text_goes_with_the_result_where_it_is_that_of_all(tmp_path: Path) -> None:
    experts = relatives(tmp_path, "bert", hidden=16)
    for path, text in zip(experts, ("for one", "for another"), strict=True):
        (path / "LICENSE").write_text("for all")
        (path / "NOTICE.txt").write_text(text)
    out = merge(recipe_of(experts, "mean"), tmp_path / "out").folder
    assert (out / "LICENSE").read_text() == "for all" and not (out / "NOTICE.txt").exists()
