"""Would transformers load it whole? Told of each model and of what is planned, with the cause."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from fusehub.checking.check import check
from fusehub.collecting.collect import collect
from fusehub.comparing.evaluate import evaluate
from fusehub.comparing.predictor import predict
from fusehub.errors import BadFile, FuseHubError, Incompatible
from fusehub.merging.merge import merge
from fusehub.models.checkpoints.checkpoint import headers
from fusehub.models.multi_head import load_heads
from fusehub.publishing.loadable import require_loadable
from tests.unit.experts import WEIGHTS, edit_json, recipe_of, rel, relatives, save_weights, text_file, weights_of
from tests.unit.tiny import KINDS, tiny_model

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    return relatives(tmp_path, layers=1)


def changed(path: Path, change: Callable[[Tensors], Tensors]) -> None:
    save_weights(path, change(load_file(path / WEIGHTS)))


def without_the_head(tensors: Tensors) -> Tensors:
    return {name: value for name, value in tensors.items() if not name.startswith("classifier")}


def without_a_layer(tensors: Tensors) -> Tensors:
    return {name: value for name, value in tensors.items() if "layer.0.output" not in name}


def emptied(tensors: Tensors) -> Tensors:
    """As a model is saved whose matrices are spread over processes."""
    return {name: torch.empty(0) if value.ndim == 2 else value for name, value in tensors.items()}


def of_another_class(tensors: Tensors) -> Tensors:
    return {name.replace("bert.", "roberta.", 1): value for name, value in tensors.items()}


def half_wrapped(tensors: Tensors) -> Tensors:
    """Under a wrapper's names, and without it still not those of the class."""
    return {f"_orig_mod.{name.replace('attention', 'mixing')}": value for name, value in tensors.items()}


def with_an_adapter(tensors: Tensors) -> Tensors:
    name = "bert.encoder.layer.0.attention.self.query"
    tensors[f"{name}.base_layer.weight"] = tensors.pop(f"{name}.weight")
    return tensors | {
        f"{name}.lora_A.default.weight": torch.ones(2, 16),
        f"{name}.lora_B.default.weight": torch.ones(16, 2),
    }


def quantised(tensors: Tensors) -> Tensors:
    name = "bert.encoder.layer.0.attention.self.query"
    tensors[f"{name}.qweight"] = tensors.pop(f"{name}.weight").to(torch.int32)
    return tensors


# What is done to the weights; what is said of it, and what is not.
BROKEN = {
    "no head": (without_the_head, "lacks classifier.weight, classifier.bias: transformers would", "head included"),
    "no layer": (without_a_layer, "lacks bert.encoder.layer.0.output.", "Save the whole model"),
    "empty": (emptied, "has tensors without any numbers (bert.embeddings.", "Gather them"),
    "another class": (
        of_another_class,
        "the names of its tensors are not those of BertFor",
        "config of these weights",
    ),
    "wrapped": (half_wrapped, "the names begin with _orig_mod., as torch.compile saves them", "inside the wrapper"),
    "adapter": (with_an_adapter, "saved with an adapter in it that was not merged", "merge_and_unload"),
    "quantised": (quantised, "it is quantised", "original float weights"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_transformers_would_fill_with_random_numbers_is_refused_with_its_cause(pair, tmp_path, case):
    change, words, fix = BROKEN[case]
    for path in pair:
        changed(path, change)
    report = check([str(path) for path in pair])
    found = [finding for finding in report.findings if finding.level == "error"]
    assert len(found) == 2 and all(str(path) in own.what for path, own in zip(pair, found, strict=True))
    assert words in found[0].what and all(fix in finding.fix for finding in found)
    for act in (
        lambda: merge(recipe_of(pair, "mean"), tmp_path / "out"),
        lambda: collect(str(pair[0]), text_file(tmp_path), tmp_path / "statistics"),
        lambda: predict(str(pair[0]), ["good"]),
    ):
        with pytest.raises(Incompatible) as error:
            act()
        assert found[0].what in error.value.what and fix in error.value.fix
    with pytest.raises(FuseHubError):
        require_loadable(pair[0])
    assert not (tmp_path / "out").exists() and not (tmp_path / "statistics").exists()


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_tensor_that_a_file_may_lack_is_not_left_out_where_another_model_has_it(tmp_path, lacking):
    """BART's bias of its logits; transformers begins with zeros where it is not stored."""
    pair, name = relatives(tmp_path, "bart", task="text2text-generation", layers=1), "final_logits_bias"
    values = [torch.randn(load_file(path / WEIGHTS)[name].shape) for path in pair]
    for path, value in zip(pair, values, strict=True):
        changed(path, lambda tensors, value=value: tensors | {name: value})
    changed(pair[lacking], lambda tensors: {own: value for own, value in tensors.items() if own != name})
    found = [f for f in check([str(path) for path in pair]).findings if f.level == "error"]
    assert [f.code for f in found] == ["tensors-in-some"]
    assert f"{pair[1 - lacking]} has {name}, and {pair[lacking]} has not" in found[0].what
    with pytest.raises(Incompatible, match=name):
        merge(recipe_of(pair, "mean"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # What it says to do: transformers writes the zeros down.
    AutoModelForSeq2SeqLM.from_pretrained(pair[lacking]).save_pretrained(pair[lacking])
    got = load_file(merge(recipe_of(pair, "mean"), tmp_path / "out").folder / WEIGHTS)[name]
    assert rel(got, values[1 - lacking] / 2) < 1e-6


@pytest.mark.parametrize("lacking", [(0, 1), (0,), (1,)])
def test_what_no_result_depends_on_may_be_missing(tmp_path, lacking):
    """How many batches a normalisation has seen; and what none of the models has is in no result."""
    bart = len(lacking) == 2
    arch, task = ("bart", "text2text-generation") if bart else ("resnet", "image-classification")
    small = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
    pair = relatives(tmp_path, arch, task=task, **({"layers": 1} if bart else small))
    left_out = "final_logits_bias" if bart else "num_batches_tracked"
    for number in lacking:
        changed(pair[number], lambda tensors: {own: v for own, v in tensors.items() if not own.endswith(left_out)})
    assert check([str(path) for path in pair]).ok
    merged = load_file(merge(recipe_of(pair, "mean"), tmp_path / "out").folder / WEIGHTS)
    assert merged and not any(name.endswith(left_out) for name in merged)


def test_a_head_and_a_config_that_count_differently_are_refused(pair, tmp_path):
    for path in pair:
        edit_json(path / "config.json", "label2id", id2label={"0": "a", "1": "b", "2": "c"})
    found = [f for f in check([str(path) for path in pair]).findings if f.level == "error"]
    assert [finding.code for finding in found] == ["head-differs", "head-differs"]
    assert "its head has 2 rows" in found[0].what and "its config counts 3 labels" in found[0].what
    data = tmp_path / "t.csv"
    data.write_text("text,label\ngood,negative\nbad,positive\n")
    with pytest.raises(Incompatible, match="head has 2 rows"):
        evaluate([str(pair[0])], {"x": str(data)})
    with pytest.raises(Incompatible, match="head has 2 rows"):
        merge(recipe_of(pair, "mean"), tmp_path / "out")


def test_embeddings_and_a_config_that_count_differently_are_refused(pair, tmp_path):
    rows = json.loads((pair[0] / "config.json").read_text())["vocab_size"]
    edit_json(pair[0] / "config.json", vocab_size=rows + 10)
    found = [f for f in check([str(path) for path in pair]).findings if f.level == "error"]
    assert [finding.code for finding in found] == ["vocab-size-differs"]
    assert f"has rows for {rows} tokens" in found[0].what and f"vocab_size {rows + 10}" in found[0].what
    with pytest.raises(Incompatible, match="has rows for"):
        predict(str(pair[0]), ["good"])


def with_new_tokens(path: Path, *tokens: str) -> int:
    """The tokenizer is taught `tokens`, and the model is not; the number of the first."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    first = len(tokenizer)
    tokenizer.add_tokens(list(tokens))
    tokenizer.save_pretrained(path)
    return first


def test_the_result_gets_a_tokenizer_that_fits_its_rows(pair, tmp_path):
    with_new_tokens(pair[1], "<e1>", "<e2>")
    report = check([str(path) for path in pair])
    said = [f for f in report.findings if f.code == "tokens-without-rows"]
    assert [f.level for f in said] == ["warning"] and "<e1>, <e2>" in said[0].what
    merge(recipe_of(pair, "mean"), tmp_path / "out")
    rows = load_file(tmp_path / "out" / WEIGHTS)["bert.embeddings.word_embeddings.weight"].shape[0]
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == rows
    assert len(predict(str(tmp_path / "out"), ["good <e1> film"])) == 1


def test_without_a_tokenizer_that_fits_there_is_no_merge_unless_it_is_wanted(pair, tmp_path):
    for path in pair:
        with_new_tokens(path, "<e1>")
    with pytest.raises(Incompatible, match="no row for: <e1>") as error:
        merge(recipe_of(pair, "mean"), tmp_path / "out")
    assert "--ignore tokens-without-rows" in error.value.fix
    merge(recipe_of(pair, "mean"), tmp_path / "out", ignore=["tokens-without-rows"])
    assert (
        rel(
            weights_of(tmp_path / "out")["classifier.weight"],
            sum(weights_of(p)["classifier.weight"] for p in pair) / 2,
        )
        < 1e-6
    )


def test_a_token_that_stands_for_an_image_needs_no_row(pair, tmp_path):
    """The tokenizers of families that also see are the same for their models of texts alone."""
    for path in pair:
        with_new_tokens(path, "<image>")
        edit_json(path / "tokenizer_config.json", image_token="<image>")
    merge(recipe_of(pair, "mean"), tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS).is_file()


def test_all_who_run_the_model_say_the_same_of_a_token_without_a_row(pair, tmp_path):
    first = with_new_tokens(pair[1], "<e1>")
    data = tmp_path / "t.csv"
    data.write_text("text,label\ngood <e1>,negative\nbad,positive\n")
    for act in (
        lambda: predict(str(pair[1]), ["good <e1> film"]),
        lambda: evaluate([str(pair[1])], {"x": str(data)}),
        lambda: collect(str(pair[1]), str(data), tmp_path / "statistics", text_column="text"),
    ):
        with pytest.raises(Incompatible, match=rf"knows token {first} \(<e1>\), but the model has only {first}"):
            act()
    assert len(predict(str(pair[1]), ["good film"])) == 1, "the others have their rows"


def test_what_the_class_has_no_use_for_is_left_out_and_told(pair, tmp_path):
    for path in pair:
        changed(
            path,
            lambda tensors: tensors | {"loss.weight": torch.ones(2), "bert.embeddings.position_ids": torch.arange(4)},
        )
    report = check([str(path) for path in pair])
    left = [f for f in report.findings if f.code == "tensors-left-over"]
    assert report.ok and len(left) == 2 and "has loss.weight, which BertFor" in left[0].what
    merge(recipe_of(pair, "mean"), tmp_path / "out")
    assert "loss.weight" not in load_file(tmp_path / "out" / WEIGHTS)
    require_loadable(tmp_path / "out")


@pytest.mark.parametrize(("arch", "task"), KINDS)
def test_every_kind_of_model_is_whole(tmp_path, arch, task):
    pair = relatives(tmp_path, arch, task=task, layers=1)
    assert [f for f in check([str(path) for path in pair]).findings if f.level == "error"] == []


def test_an_output_layer_that_is_not_there_and_not_shared_is_named_as_that(tmp_path):
    pair = relatives(tmp_path, "llama", task="text-generation", layers=1, tie_word_embeddings=False)
    for path in pair:
        changed(path, lambda tensors: {name: value for name, value in tensors.items() if name != "lm_head.weight"})
    found = [f for f in check([str(path) for path in pair]).findings if f.level == "error"]
    assert len(found) == 2 and "lacks lm_head.weight, and its config says that it does not share" in found[0].what


def test_a_base_without_the_experts_body_is_refused(pair, tmp_path):
    base = pair[0].parent / "base"
    changed(base, of_another_class)
    found = [f for f in check([str(path) for path in pair], base=str(base)).findings if f.level == "error"]
    assert len(found) == 1 and found[0].code == "names-unknown" and "roberta." in found[0].what


def test_an_index_without_metadata_is_read_by_all(pair, tmp_path):
    before = predict(str(pair[0]), ["good film", "bad plot"]).probabilities
    tensors = load_file(pair[0] / WEIGHTS)
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    (pair[0] / WEIGHTS).unlink()
    for file, own in files.items():
        (pair[0] / file).write_bytes(save({name: tensors[name] for name in own}, metadata={"format": "pt"}))
    index = {"weight_map": {name: file for file, own in files.items() for name in own}}
    (pair[0] / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    assert (predict(str(pair[0]), ["good film", "bad plot"]).probabilities == before).all()
    collect(str(pair[0]), text_file(tmp_path), tmp_path / "statistics").close()
    merge(recipe_of(pair, "mean"), tmp_path / "out")
    require_loadable(tmp_path / "out")


def test_attention_that_is_not_installed_is_computed_by_what_there_is(pair, tmp_path):
    before = predict(str(pair[0]), ["good film"]).probabilities
    edit_json(pair[0] / "config.json", _attn_implementation="flash_attention_2")
    assert (predict(str(pair[0]), ["good film"]).probabilities == before).all()
    collect(str(pair[0]), text_file(tmp_path), tmp_path / "statistics").close()
    require_loadable(pair[0])


def test_a_pointer_of_git_lfs_in_the_place_of_a_tokenizer_is_named(pair):
    (pair[0] / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n")
    with pytest.raises(BadFile, match=r"tokenizer\.json is a pointer of Git LFS"):
        predict(str(pair[0]), ["good"])


def test_heads_of_a_merge_that_lack_something_are_refused_one_by_one(pair, tmp_path):
    tagger = tiny_model(tmp_path / "tagger", task="token-classification", hidden=16, layers=1)
    changed(
        tagger,
        lambda own: (
            own | {k: v for k, v in load_file(pair[0] / WEIGHTS).items() if k.startswith("bert.") and k in own}
        ),
    )
    merge(recipe_of([pair[0], tagger], "mean"), tmp_path / "out")
    load_heads(str(tmp_path / "out"))
    head = tmp_path / "out" / "tagger" / "head.safetensors"
    head.write_bytes(save({"classifier.bias": load_file(head)["classifier.bias"]}))
    with pytest.raises(Incompatible, match=r"lacks classifier\.weight"):
        load_heads(str(tmp_path / "out"))


def test_tokens_that_only_transformers_class_adds_need_no_row(pair):
    """Qwen's class adds <|endoftext|> to any vocabulary, also to one that was trained without."""
    from fusehub.models.completeness import without_rows
    from fusehub.models.layout import layout_of
    from fusehub.models.resolve import resolve
    from fusehub.models.tasks import load_config

    size = with_new_tokens(pair[0], "<e1>")
    ref = resolve(str(pair[0]))
    tokens = {"<e1>": size, "<|of the class|>": size + 1}
    assert without_rows(ref, layout_of(load_config(ref)), headers(ref), tokens) == ["<e1>"]


@pytest.mark.parametrize("whole", [0, 1])
def test_whole_numbers_beside_real_ones_are_refused_whichever_comes_first(pair, tmp_path, whole):
    name = "bert.embeddings.LayerNorm.weight"
    changed(pair[whole], lambda tensors: {**tensors, name: torch.ones_like(tensors[name], dtype=torch.int32)})
    with pytest.raises(Incompatible, match=rf"{name}: stored as .*I32 in .*expert-{whole}"):
        merge(recipe_of(pair, "mean"), tmp_path / "out")


def test_an_empty_word_on_quantisation_does_not_go_into_the_result(pair, tmp_path):
    """transformers does not load a model whose config has one."""
    for path in pair:
        edit_json(path / "config.json", quantization_config={})
    merge(recipe_of(pair, "mean"), tmp_path / "out")
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    require_loadable(tmp_path / "out")
