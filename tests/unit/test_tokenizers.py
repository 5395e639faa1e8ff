"""Tokenizers by what they do: the same text becomes the same numbers, or it is said how it does not."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from fusehub.checking.check import check
from fusehub.collecting.collect import collect
from fusehub.comparing.compare import compare
from fusehub.comparing.evaluate import evaluate
from fusehub.comparing.predictor import predict
from fusehub.errors import Incompatible, NotFound
from fusehub.merging.merge import merge
from fusehub.merging.plan import plan_merge
from fusehub.models.loading import load_tokenizer
from fusehub.models.resolve import resolve
from tests.unit.experts import WEIGHTS, edit_json, recipe_of, relatives, save_weights, text_file
from tests.unit.tiny import tiny_tokenizer


def of_bert(**said):
    """BERT's tokenizer with parts of it exchanged: `backend` names them, the rest are its settings."""
    backend = said.pop("backend", {})
    made = tiny_tokenizer("bert")
    for name, part in backend.items():
        setattr(made._tokenizer, name, part)
    for name, value in said.items():
        setattr(made, name, value)
    return made


def found_with(tmp_path, other, first=None):
    """What the check finds of two experts that have these tokenizers, by code; labels and licenses left out."""
    experts = relatives(tmp_path, "bert", hidden=16)
    for path, tokenizer in zip(experts, (first or of_bert(), other), strict=True):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (path / name).unlink()
        tokenizer.save_pretrained(path)
    return [f for f in check([str(path) for path in experts]).findings if f.code.startswith(("token", "vocab"))]


NORMALISING = {
    "lower-cases texts": normalizers.BertNormalizer(lowercase=True, strip_accents=False),
    "drops accents": normalizers.BertNormalizer(lowercase=False, strip_accents=True),
}


@pytest.mark.parametrize("what", NORMALISING)
def test_what_is_done_to_a_text_before_it_is_cut_is_told_as_what_it_is(tmp_path, what):
    other = PreTrainedTokenizerFast(tokenizer_object=of_bert(backend={"normalizer": NORMALISING[what]})._tokenizer)
    [found] = found_with(tmp_path, other, PreTrainedTokenizerFast(tokenizer_object=of_bert()._tokenizer))
    assert (found.code, found.level) == ("tokenizer-differs", "error")
    assert found.what.endswith("expert-0 does not.") and f"expert-1 {what}, and" in found.what


def test_the_same_tokens_cut_otherwise_are_refused_with_an_example(tmp_path):
    other = PreTrainedTokenizerFast(
        tokenizer_object=of_bert(backend={"pre_tokenizer": pre_tokenizers.WhitespaceSplit()})._tokenizer
    )
    [found] = found_with(tmp_path, other, PreTrainedTokenizerFast(tokenizer_object=of_bert()._tokenizer))
    assert (found.code, found.level) == ("tokenizer-differs", "error") and "cut ordinary texts" in found.what


def test_other_special_tokens_around_a_text_are_refused_where_a_head_looks_at_them(tmp_path):
    bare = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    other = PreTrainedTokenizerFast(tokenizer_object=of_bert(backend={"post_processor": bare})._tokenizer)
    [found] = found_with(tmp_path, other, PreTrainedTokenizerFast(tokenizer_object=of_bert()._tokenizer))
    assert (found.code, found.level) == ("tokenizer-differs", "error") and "['[CLS]'," in found.what


@pytest.mark.parametrize(
    "said", [{"model_max_length": 9}, {"truncation": 3}, {"clean_up_tokenization_spaces": True}, {"padded": 20}]
)
def test_what_changes_no_number_is_no_difference(tmp_path, said):
    other = of_bert(**{name: value for name, value in said.items() if name not in ("truncation", "padded")})
    if "truncation" in said:
        other._tokenizer.enable_truncation(said["truncation"])
    if "padded" in said:
        other._tokenizer.enable_padding(length=said["padded"])
    assert found_with(tmp_path, other) == []


def test_another_chat_template_and_side_of_padding_are_notes(tmp_path):
    backend = of_bert()._tokenizer
    said = {"chat_template": "{{ messages }}", "padding_side": "left"}
    [found] = found_with(
        tmp_path,
        PreTrainedTokenizerFast(tokenizer_object=backend, **said),
        PreTrainedTokenizerFast(tokenizer_object=backend),
    )
    assert (found.code, found.level) == ("tokenizer-settings", "note")
    assert "chat template" in found.what and "side on which texts are padded" in found.what


def test_a_vocabulary_in_an_older_file_is_cut_alike_or_the_difference_is_told(tmp_path):
    experts = relatives(tmp_path, "bert", hidden=16)
    tokens = load_tokenizer(resolve(str(experts[0]))).get_vocab()
    (experts[1] / "tokenizer.json").unlink()
    (experts[1] / "vocab.txt").write_text("\n".join(sorted(tokens, key=tokens.get)), encoding="utf-8")
    names = [str(path) for path in experts]
    assert check(names).ok and not [f for f in check(names).findings if f.code.startswith("token")]
    edit_json(experts[1] / "tokenizer_config.json", do_lower_case=True)
    assert [f.code for f in check(names).findings if f.level == "error"] == ["tokenizer-differs"] * 2


@pytest.mark.parametrize("where", ["added_tokens.json", "tokenizer_config.json"])
def test_tokens_added_to_an_older_file_are_seen(tmp_path, where):
    """The vocabularies are the same file; which token has the number behind them is said elsewhere."""
    experts = relatives(tmp_path, "bert", hidden=16)
    tokens = load_tokenizer(resolve(str(experts[0]))).get_vocab()
    for path, token in zip(experts, ("<think>", "<tool>"), strict=True):
        (path / "tokenizer.json").unlink()
        (path / "vocab.txt").write_text("\n".join(sorted(tokens, key=tokens.get)), encoding="utf-8")
        if where == "added_tokens.json":
            (path / where).write_text(json.dumps({token: len(tokens)}))
        else:
            edit_json(path / where, added_tokens_decoder={str(len(tokens)): {"content": token, "special": True}})
        stored = load_file(path / WEIGHTS)
        name = "bert.embeddings.word_embeddings.weight"
        save_weights(path, stored | {name: torch.cat([stored[name], stored[name][:1]])})
        edit_json(path / "config.json", vocab_size=len(tokens) + 1)
    with pytest.raises(Incompatible, match=rf"{len(tokens)} is '<think>' in one and '<tool>' in the other"):
        plan_merge(recipe_of(experts, "mean"))


def test_rows_beyond_the_tokens_are_told(tmp_path):
    experts = relatives(tmp_path, "bert", hidden=16)
    stored = load_file(experts[1] / WEIGHTS)
    name = "bert.embeddings.word_embeddings.weight"
    rows = len(stored[name])
    save_weights(experts[1], stored | {name: torch.cat([stored[name], torch.zeros(6, 16)])})
    edit_json(experts[1] / "config.json", vocab_size=rows + 6)
    [found] = [f for f in check([str(path) for path in experts]).findings if f.code == "embeddings-padded"]
    assert found.level == "note" and f"expert-1 has {rows + 6} rows for {rows} tokens" in found.what


# What is taken away from a model of each kind, and what transformers then makes up.
LACKING = {
    "bert": ("tokenizer.json", "tokenizer_config.json"),
    "roberta": ("tokenizer.json", "tokenizer_config.json"),
    "t5": ("tokenizer.json",),
    "gpt2": ("tokenizer.json", "tokenizer_config.json"),
    "llama": ("tokenizer.json", "tokenizer_config.json"),
    "deberta-v2": ("tokenizer.json",),
}


@pytest.mark.parametrize("arch", LACKING)
def test_a_model_without_tokenizer_files_is_refused_where_texts_are_cut(tmp_path, arch):
    task = {"t5": "text2text-generation"}.get(arch, "text-classification")
    [path, _] = relatives(tmp_path, arch, task=task, hidden=16)
    for name in LACKING[arch]:
        (path / name).unlink()
    data = str(text_file(tmp_path, 0))
    for run in (
        lambda: load_tokenizer(resolve(str(path))),
        lambda: collect(str(path), data, tmp_path / "statistics"),
        lambda: predict(str(path), ["good"]),
        lambda: compare([str(path), str(path)], ["good film"]),
    ):
        with pytest.raises(NotFound, match="expert-0 has no tokenizer: "):
            run()
    assert not (tmp_path / "statistics").exists()


def test_it_is_refused_by_evaluate_and_by_a_merge_that_runs_the_models(tmp_path):
    experts = relatives(tmp_path, "bert", hidden=16)
    (experts[0] / "tokenizer.json").unlink()
    data = tmp_path / "data.csv"
    data.write_text("text,label\ngood film,positive\nbad film,negative\n")
    recipe = recipe_of(experts, "regmean_plus_plus")
    recipe = recipe.model_copy(
        update={"models": tuple(entry.model_copy(update={"data": str(data)}) for entry in recipe.models)}
    )
    for run in (
        lambda: evaluate([str(experts[0])], {"x": str(data)}),
        lambda: merge(recipe, tmp_path / "out"),
    ):
        with pytest.raises(NotFound, match=r"expert-0 has no tokenizer: a BertTokenizer is made of"):
            run()
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_loaded_is_a_finding_with_the_reason(tmp_path):
    experts = relatives(tmp_path, "bert", hidden=16)
    edit_json(experts[0] / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Tokenizer", None]})
    edit_json(experts[0] / "tokenizer_config.json", tokenizer_class="Own")
    (experts[1] / "tokenizer.json").write_text('{"model": 3}')
    found = [f for f in check([str(path) for path in experts]).findings if f.code == "no-tokenizer"]
    assert found and all("cannot load the tokenizer of" in f.what for f in found)
    with pytest.raises(Incompatible, match=r"cannot load the tokenizer of .*expert-1"):
        load_tokenizer(resolve(str(experts[1])))


@pytest.mark.parametrize("heads", ["auto", "keep"])
def test_a_result_gets_a_tokenizer_from_a_model_that_has_one(tmp_path, heads):
    experts = relatives(tmp_path, "bert", hidden=16)
    kept = {name: (experts[1] / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
    for name in kept:
        (experts[0] / name).unlink()
    merged = merge(recipe_of(experts, "mean", heads=heads), tmp_path / "out")
    [found] = [f for f in merged.plan.report.findings if f.code == "no-tokenizer"]
    assert found.level == "warning" and "The result has that of" in found.fix and "expert-1" in found.fix
    folders = [tmp_path / "out"] if heads == "auto" else [tmp_path / "out" / path.name for path in experts]
    for folder in folders:
        assert {name: (folder / name).read_bytes() for name in kept} == kept
    assert [own.tokenizer.folder for own in merged.plan.all_donors] == [experts[1]] * len(folders), "it was planned"


def test_a_result_gets_the_bases_tokenizer_where_no_expert_has_one(tmp_path):
    experts = relatives(tmp_path, "bert", hidden=16)
    base = tmp_path / "base"
    for path in experts:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (path / name).unlink()
    merge(recipe_of(experts, "task_arithmetic", base_model=str(base)), tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert not [name for name in Path(experts[0]).iterdir() if name.name.startswith("tokenizer")]
