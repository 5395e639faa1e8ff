"""Models whose tokenizers have more tokens at the end: rows are averaged over those that have them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fusehub.checking.check import check
from fusehub.errors import Incompatible
from fusehub.merging.merge import merge
from fusehub.merging.plan import plan_merge
from fusehub.merging.planned_model import vocabulary_size
from fusehub.models.loading import quiet_transformers
from fusehub.models.resolve import resolve
from fusehub.models.vocabularies import clash
from fusehub.publishing.loadable import require_loadable
from tests.unit.experts import WEIGHTS, edit_json, recipe_of, relatives, save_weights, with_statistics

EMBEDDINGS = {
    "bert": ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"),
    "llama": ("model.embed_tokens.weight", "lm_head.weight"),
    "t5": ("shared.weight",),
    "bart": ("model.shared.weight", "final_logits_bias"),
}
TASK = {"bert": "fill-mask", "llama": "text-generation", "t5": "text2text-generation", "bart": "text2text-generation"}


def add_tokens(path: Path, *tokens: str) -> None:
    """As people do it: new tokens in the tokenizer, and as many rows in the model."""
    import transformers

    architecture = json.loads((path / "config.json").read_text())["architectures"][0]
    with quiet_transformers():
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        model = getattr(transformers, architecture).from_pretrained(path)
        tokenizer.add_tokens(list(tokens))
        model.resize_token_embeddings(len(tokenizer))
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)


@pytest.mark.parametrize("arch", list(EMBEDDINGS))
def test_rows_of_added_tokens_are_averaged_over_the_models_that_have_them(arch: str, tmp_path: Path) -> None:
    experts = relatives(tmp_path, arch, task=TASK[arch], hidden=16, labels=(("a", "b"),) * 3)
    add_tokens(experts[1], "Quasar")
    add_tokens(experts[2], "Quasar", "Nebula")
    found = check([str(path) for path in experts])
    assert found.ok and found.largest == 2
    assert any("knows 2 tokens more than" in finding.what for finding in found.findings)
    weights = [1.0, 2.0, 3.0]
    merged = merge(recipe_of(experts, "mean", weights=weights), tmp_path / "merged").folder
    stored = [load_file(path / WEIGHTS) for path in experts]
    result = load_file(merged / WEIGHTS)
    for name in EMBEDDINGS[arch]:
        rows = [
            tensors[name].reshape(-1, tensors[name].shape[-1] if tensors[name].shape[0] > 1 else 1)
            for tensors in stored
        ]
        if stored[0][name].ndim == 1:
            rows = [tensors[name][:, None] for tensors in stored]
        own = result[name].reshape(len(rows[2]), -1)
        small, middle, large = map(len, rows)
        assert (middle, large) == (small + 1, small + 2)
        for first, last, known in ((0, small, (0, 1, 2)), (small, middle, (1, 2)), (middle, large, (2,))):
            total = sum(weights[i] for i in known)
            expected = sum(weights[i] * rows[i][first:last] for i in known) / total
            assert torch.allclose(own[first:last], expected, atol=1e-5), name
    require_loadable(merged)
    config = json.loads((merged / "config.json").read_text())
    assert config["vocab_size"] == len(resolve_tokenizer(merged))


def resolve_tokenizer(folder: Path):
    from fusehub.models.loading import load_tokenizer

    return load_tokenizer(resolve(str(folder)))


def test_regmean_and_kept_heads_have_the_added_rows_too(tmp_path: Path) -> None:
    experts = relatives(tmp_path, "bert", hidden=16)
    add_tokens(experts[1], "Quasar")
    with_statistics(experts)
    merged = merge(recipe_of(experts), tmp_path / "merged")
    require_loadable(merged.folder)
    rows = vocabulary_size(merged.tensors)
    assert rows == len(resolve_tokenizer(experts[1]))
    kept = merge(recipe_of(experts, heads="keep"), tmp_path / "kept").folder
    for path in experts:
        require_loadable(kept / path.name)
        assert json.loads((kept / path.name / "config.json").read_text())["vocab_size"] == rows


def test_other_tokens_under_the_same_number_are_refused(tmp_path: Path) -> None:
    experts = relatives(tmp_path, "bert", hidden=16)
    add_tokens(experts[0], "Nebula")
    add_tokens(experts[1], "Quasar")
    with pytest.raises(Incompatible, match=r"different vocabularies: .*'Nebula' in one and 'Quasar'"):
        plan_merge(recipe_of(experts, "mean"))


def test_a_number_that_means_something_to_one_model_only_is_no_clash() -> None:
    assert clash({"a": 0}, {"a": 0, "b": 1}) is None
    assert clash({"a": 0, "c": 2}, {"a": 0, "b": 1, "c": 2}) is None, "a number in the middle was free"
    for free in ("[unused1]", "<unused1>", "<|reserved_special_token_1|>", "madeupword0001", "[control_1]"):
        assert clash({"a": 0, free: 1}, {"a": 0, "<think>": 1}) is None
        assert clash({"a": 0, "<think>": 1}, {"a": 0, free: 1}) is None
    assert clash({"a": 0, "<think>": 1}, {"a": 0, "<tool>": 1}) == "1 is '<think>' in one and '<tool>' in the other"
    assert clash({"a": 0, "b": 1}, {"b": 0, "a": 1}) == "'a' is 0 in one and 1 in the other"
    assert clash({"a": 0}, {"b": 0, "a": 1}) == "'a' is 0 in one and 1 in the other"
    assert clash({"<extra_id_0>": 5}, {"<e1>": 5}) is not None, "T5 is trained with these"


def test_more_rows_than_tokens_are_no_other_vocabulary(tmp_path: Path) -> None:
    """Rows are often filled up to a multiple of 8 that suits a processor."""
    experts = relatives(tmp_path, "bert", hidden=16)
    tensors = load_file(experts[0] / WEIGHTS)
    name = "bert.embeddings.word_embeddings.weight"
    more = torch.cat([tensors[name], torch.zeros(5, 16)])
    save_weights(experts[0], tensors | {name: more})
    edit_json(experts[0] / "config.json", vocab_size=len(more))
    merged = merge(recipe_of(experts, "mean"), tmp_path / "merged").folder
    require_loadable(merged)
    assert len(load_file(merged / WEIGHTS)[name]) == len(more)


def test_vocabularies_that_cannot_be_read_must_be_the_same_file(tmp_path: Path) -> None:
    """What is in it is not known, so nothing but the same bytes will do."""
    experts = relatives(tmp_path, "bert", hidden=16)
    for path in experts:
        (path / "tokenizer.json").write_text("[")
    found = check([str(path) for path in experts])
    assert (
        found.ok and [f.code for f in found.findings if "cannot load the tokenizer" in f.what] == ["no-tokenizer"] * 2
    )
    (experts[1] / "tokenizer.json").write_text("{")
    with pytest.raises(Incompatible, match=r"different vocabularies: the files differ \(tokenizer.json\)"):
        plan_merge(recipe_of(experts, "mean"))
