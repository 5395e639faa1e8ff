"""Kinds of broken files that a thousand random ones found, each once and by itself: they are refused in words."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fusehub.checking.check import check
from fusehub.collecting.collect import collect
from fusehub.comparing.compare import compare
from fusehub.data.examples import load_examples
from fusehub.errors import BadData, BadFile, BadRecipe, BadStatistics, FuseHubError, Incompatible
from fusehub.merging.merge import merge
from fusehub.merging.plan import plan_merge
from fusehub.merging.recipe import Recipe
from fusehub.models.resolve import resolve
from fusehub.models.tasks import load_config
from fusehub.publishing.cards.merge_card import model_card
from fusehub.publishing.loadable import require_loadable
from fusehub.publishing.merged_folder import read_merge
from fusehub.utils.untrusted.yaml_text import load_yaml
from tests.unit.experts import WEIGHTS, edit_json, recipe_of, relatives, run_python, save_weights, text_file
from tests.unit.lora_cases import adapter
from tests.unit.tiny import tiny_images, tiny_model


@pytest.fixture
def pair(experts, tmp_path):
    """A copy of one expert, to be broken, and another."""
    one, other = experts("bert")
    return shutil.copytree(one, tmp_path / "stranger"), other


def refused_by_both(pair, what: str) -> None:
    """`check` and the merge must say the same, and nothing be left of it."""
    report = check([str(path) for path in pair])
    assert any(what in finding.what for finding in report.findings if finding.level == "error"), report.findings
    with pytest.raises(FuseHubError, match=what):
        merge(recipe_of(pair, "mean"), pair[0].parent / "out")
    assert [path.name for path in pair[0].parent.iterdir()] == ["stranger"]


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1}\xe9', b"[1]"])
def test_settings_beside_a_model_are_read_by_check_too(pair, name, content) -> None:
    (pair[0] / name).write_bytes(content)
    refused_by_both(pair, name)


def test_a_chat_template_is_text(pair) -> None:
    (pair[0] / "chat_template.jinja").write_bytes(b"{{ messages }}\xee")
    refused_by_both(pair, "chat_template.jinja is not UTF-8 text")


def test_a_config_for_writing_must_be_one_that_a_model_that_writes_loads_with(tmp_path) -> None:
    pair = relatives(tmp_path / "models", "gpt2", task="text-generation", layers=1)
    edit_json(pair[0] / "generation_config.json", max_new_tokens="x")
    assert "max_new_tokens in generation_config.json" in str(check([str(path) for path in pair]).findings)
    edit_json(pair[0] / "generation_config.json", "max_new_tokens", pad_token_id={"": None})
    assert "pad_token_id" in str(check([str(path) for path in pair]).findings)
    with pytest.raises(Incompatible, match=r"generation_config\.json"):
        merge(recipe_of(pair, "mean"), tmp_path / "out")


def test_a_model_that_does_not_say_how_it_begins_to_write_is_told(tmp_path) -> None:
    folder = tiny_model(tmp_path / "t5", "t5", task="text2text-generation", layers=1)
    (folder / "generation_config.json").write_text("{}")
    edit_json(folder / "config.json", "decoder_start_token_id")
    warnings = [own.what for own in check([str(folder), str(folder)]).findings if own.level == "warning"]
    assert any("with which token it begins to write" in what for what in warnings)
    with pytest.raises(Incompatible, match="start"):
        compare([str(folder)], ["a good film"])


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (None, torch.ones(2), "under the key None"),
        (7, torch.ones(2), "under the key 7"),
        ("x", torch.eye(3).to_sparse(), "x, which is no plain tensor"),
        ("x", torch.ones(2, device="meta"), "x, which is no plain tensor"),
        ("x", torch.ones(2, dtype=torch.complex64), "x of dtype complex64"),
    ],
)
def test_a_bin_file_holds_plain_tensors_by_name(pair, key, value, said) -> None:
    (pair[0] / WEIGHTS).rename(pair[0].parent / "weights")
    torch.save({**load_file(pair[0].parent / "weights"), key: value}, pair[0] / "pytorch_model.bin")
    (pair[0].parent / "weights").unlink()
    refused_by_both(pair, said)


def test_whole_numbers_in_the_place_of_real_ones_are_found_by_check(pair) -> None:
    tensors = load_file(pair[0] / WEIGHTS)
    tensors["bert.embeddings.token_type_embeddings.weight"] = torch.ones(2, 16, dtype=torch.int8)
    save_weights(pair[0], tensors)
    refused_by_both(pair, "token_type_embeddings.weight")


@pytest.mark.parametrize("value", [{"x": 0}, {"content": ["x"]}, 7])
def test_a_tokenizer_that_breaks_when_it_is_used_is_none(pair, value) -> None:
    (pair[0] / "special_tokens_map.json").write_text(json.dumps({"unk_token": value}))
    for step in (lambda: compare([str(pair[0])], ["a good film"]), lambda: check([str(path) for path in pair])):
        try:
            step()
        except FuseHubError as error:
            assert "tokenizer" in error.what


@pytest.fixture
def merged(experts, tmp_path):
    merge(recipe_of(experts("bert"), "mean"), tmp_path / "merged")
    return tmp_path / "merged"


@pytest.mark.parametrize(
    "change",
    [
        {"sources": "x"}, {"sources": []}, {"tensors": [{"name": "x", "shape": "a/b", "action": "mean", "why": ""}]},
        {"software": [1]}, {"sha256": {"../../x": "0"}}, {"heads": "keep", "sources": [{"short_name": "../.."}]},
        {"labels": {"0": "x"}}, {"findings": [7]}, {"notes": [None]}, {"tuning": {"over": 1}}, {"method": None},
    ],
)  # fmt: skip
def test_a_report_of_a_merge_that_is_none_is_refused(merged, change) -> None:
    edit_json(merged / "fusehub_report.json", **change)
    with pytest.raises(
        BadFile, match=f"report of the merge in .*, fusehub_report.json, is broken: {next(iter(change))}|sources"
    ):
        model_card(merged)


@pytest.mark.parametrize("change", [{"architectures": True}, {"id2label": 7}, {"auto_map": "x"}])
def test_a_config_of_a_merge_that_is_none_is_refused(merged, change) -> None:
    edit_json(merged / "config.json", **change)
    with pytest.raises(FuseHubError, match=r"config\.json"):
        model_card(merged)


@pytest.mark.parametrize(
    "provenance", [{"weights": []}, {"weights": [7, 7]}, {"weights": 7}, {"tuning": []}, {"software": [1]}]
)
def test_a_recipe_whose_provenance_is_none_is_refused(merged, provenance) -> None:
    content = read_merge(merged).recipe.model_dump(mode="json")
    with pytest.raises(BadRecipe, match=r"provenance\."):
        Recipe.parse(content | {"provenance": provenance})
    plan_merge(Recipe.parse({key: value for key, value in content.items() if key != "provenance"}))


def test_dates_in_yaml_are_text_and_what_json_does_not_know_is_refused() -> None:
    assert load_yaml("a: 2020-01-01\nb: 2020-99-99", "It") == {"a": "2020-01-01", "b": "2020-99-99"}
    for text in ("a: !!binary eA==", "a: !!set {x}", "a: !!timestamp 2020-01-01", "a: !!omap [x: 1]"):
        with pytest.raises(BadRecipe, match="no plain data"):
            load_yaml(text, "It")


@pytest.mark.parametrize("features", [7, {"text": 7}, {"label": {"names": 7, "_type": "ClassLabel"}}, []])
def test_what_datasets_says_of_the_columns_of_a_parquet_file_may_be_broken(tmp_path, features) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([{"text": "a good film", "label": 1}, {"text": "a bad one", "label": 0}])
    said = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": said}), tmp_path / "rows.parquet")
    with pytest.raises(BadData, match=r"rows\.parquet"):
        load_examples(str(tmp_path / "rows.parquet"), "text-classification", need_labels=True)


@pytest.mark.parametrize(
    "size",
    [{"height": "x", "width": 16}, {"height": 224, "width": 224}, {"longest": 7}, "x", {"height": True, "width": 16}],
)
def test_an_image_processor_whose_pictures_the_model_does_not_take_is_told(tmp_path, size) -> None:
    folder = tiny_model(tmp_path / "vit", "vit", task="image-classification", labels=("cat", "dog"), layers=1)
    edit_json(folder / "preprocessor_config.json", size=size)
    picture = str(tiny_images(tmp_path / "images", count=1) / "cat" / "0.png")
    for step in (lambda: compare([str(folder)], [picture]), lambda: require_loadable(folder)):
        with pytest.raises(Incompatible, match=r"preprocessor_config|prepares its inputs"):
            step()


@pytest.mark.parametrize(
    "paragraphs", [["x"], [{"context": "a", "qas": 3}], [{"context": "a", "qas": ["x"]}], [{"qas": [None]}]]
)
def test_questions_that_are_nested_in_what_is_no_object_are_refused(tmp_path, paragraphs) -> None:
    (tmp_path / "squad.json").write_text(json.dumps({"data": [{"title": "x", "paragraphs": paragraphs}]}))
    with pytest.raises(BadFile, match=r"squad\.json, item 1, (paragraphs|qas) is no list of objects"):
        load_examples(str(tmp_path / "squad.json"), "question-answering")


def test_check_says_that_an_image_processor_cannot_be_used(tmp_path) -> None:
    pair = relatives(tmp_path / "vit", "vit", task="image-classification", labels=[("cat", "dog")] * 2, layers=1)
    for size, words in (({"height": "x", "width": 16}, ""), ({"height": 224, "width": 200}, "200 by 224 pixels")):
        edit_json(pair[0] / "preprocessor_config.json", size=size)
        found = [finding.what for finding in check([str(path) for path in pair]).findings if finding.level == "error"]
        assert len(found) == 1 and "preprocessor_config.json" in found[0] and words in found[0]
        with pytest.raises(Incompatible, match=r"preprocessor_config\.json"):
            merge(recipe_of(pair, "mean"), tmp_path / "out")
    pictures = str(tiny_images(tmp_path / "images", count=1))
    with pytest.raises(Incompatible, match=f"^{re.escape(str(pair[0]))}: transformers cannot use"):
        collect(str(pair[0]), pictures, tmp_path / "made")


def test_a_model_that_takes_images_of_any_size_may_have_them_of_another_than_its_config_says(tmp_path) -> None:
    from transformers import SwinConfig, SwinForImageClassification

    vit = tiny_model(tmp_path / "vit", "vit", task="image-classification", labels=("cat", "dog"), layers=1)
    sizes = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": 2}
    for name in ("one", "other"):
        SwinForImageClassification(SwinConfig(**sizes)).save_pretrained(tmp_path / name)
        shutil.copy(vit / "preprocessor_config.json", tmp_path / name)
        edit_json(tmp_path / name / "preprocessor_config.json", size={"height": 32, "width": 32})
    assert "unreadable" not in {
        found.code for found in check([str(tmp_path / "one"), str(tmp_path / "other")]).findings
    }


@pytest.mark.parametrize("number", ["1e999", "2.5", '"x"', "9" * 30, "[]", "[0, 0]"])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_the_number_of_a_token_is_one_that_tensors_hold(tmp_path, file, number) -> None:
    pair = relatives(tmp_path / "t5", "t5", task="text2text-generation", layers=1)
    edit_json(pair[0] / file, decoder_start_token_id="HERE")
    (pair[0] / file).write_text((pair[0] / file).read_text().replace('"HERE"', number))
    with pytest.raises(FuseHubError, match=rf"decoder_start_token_id in {file} is"):
        plan_merge(recipe_of(pair, "mean"))


def test_a_value_of_any_length_is_told_in_short(pair) -> None:
    edit_json(pair[0] / "config.json", hidden_act=[0] * 3000, id2label={"0": [0] * 3000, "1": "x"})
    with pytest.raises(FuseHubError) as caught:
        merge(recipe_of(pair, "mean"), pair[0].parent / "out")
    assert "[0, 0, 0" in str(caught.value) and len(str(caught.value)) < 1500


def test_a_model_that_is_not_all_there_is_told_with_its_config(experts, tmp_path) -> None:
    merged = merge(recipe_of(experts("bert"), "mean"), tmp_path / "merged").folder
    edit_json(merged / "config.json", num_hidden_layers=12)
    with pytest.raises(BadFile, match=r"lacks bert\.encoder(.|\n)*config\.json and model\.safetensors do not belong"):
        require_loadable(merged)


def test_what_computes_experts_at_the_author_s_is_this_machine_s_affair(experts, tmp_path) -> None:
    pair = [shutil.copytree(path, tmp_path / path.name) for path in experts("mixtral", task="text-generation")]
    edit_json(pair[0] / "config.json", experts_implementation="of the author's")
    # Whether transformers refuses what it says depends on which models it has seen before.
    assert load_config(resolve(str(pair[0])))._experts_implementation is None
    merged = merge(recipe_of(pair, "mean"), tmp_path / "merged").folder
    assert "experts_implementation" not in json.loads((merged / "config.json").read_text())


@pytest.mark.parametrize("said", ["x", 0.5, ["flash_attention_2"], "flash_attention_2"])
def test_what_computes_attention_at_the_author_s_is_not_said_of_the_result(pair, tmp_path, said) -> None:
    from transformers import AutoModelForSequenceClassification

    for key in ("attn_implementation", "experts_implementation"):
        edit_json(pair[0] / "config.json", **{key: said})
    merged = merge(recipe_of(pair, "mean"), tmp_path / "merged").folder
    AutoModelForSequenceClassification.from_pretrained(merged)


def test_a_piece_of_a_text_that_has_no_token_is_told_in_words(pair) -> None:
    edit_json(pair[0] / "tokenizer_config.json", unk_token="[NONE]")
    said = json.loads((pair[0] / "tokenizer.json").read_text())
    said["model"]["unk_token"] = "[NONE]"
    (pair[0] / "tokenizer.json").write_text(json.dumps(said))
    with pytest.raises(Incompatible, match=r"fails on these texts \(WordPiece error(.|\n)*tokenizer_config\.json"):
        compare([str(pair[0])], ["a film \U0002a6a5"])


def test_what_an_index_says_of_its_files_is_a_table(experts, tmp_path) -> None:
    pair = [shutil.copytree(path, tmp_path / path.name) for path in experts("bert")]
    (pair[0] / WEIGHTS).rename(pair[0] / "part.safetensors")
    names = dict.fromkeys(load_file(pair[0] / "part.safetensors"), "part.safetensors")
    for said, fits in (({}, True), (None, True), (10**9, False), ([1], False)):
        (pair[0] / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": said, "weight_map": names}))
        if fits:
            assert check([str(path) for path in pair]).ok
        else:
            with pytest.raises(FuseHubError, match=rf"metadata in {WEIGHTS}\.index\.json is .*, and no table"):
                plan_merge(recipe_of(pair, "mean"))


def test_statistics_that_are_not_what_their_json_told_are_refused_by_the_merge(experts, tmp_path) -> None:
    pair = [Path(shutil.copytree(path, tmp_path / path.name)) for path in experts("bert")]
    for path in pair:
        collect(str(path), text_file(tmp_path), path / "fusehub").close()
    file = pair[0] / "fusehub" / "statistics.safetensors"
    with safe_open(file, "pt") as opened:
        told = json.loads(opened.metadata()["fusehub"])
    name, target = told["aliases"].popitem()
    save_file(
        load_file(file), file, {"fusehub": json.dumps(told | {"aliases": told["aliases"] | {f"{name}x": target}})}
    )
    with pytest.raises(BadStatistics, match=r"expert-0.*statistics\.json says something else than the file beside it"):
        merge(recipe_of(pair, "regmean"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_label_is_told_as_it_is_but_for_the_folders_that_went_in(experts, tmp_path) -> None:
    """Labels of sounds and things look like paths, and are none."""
    pair = experts("bert")
    merged = merge(recipe_of(pair, "mean"), tmp_path / "merged").folder
    edit_json(merged / "fusehub_report.json", labels=[str(pair[0]), "/m/09x0r"])
    card, told = str(model_card(merged)), read_merge(merged)
    assert f"Labels: {pair[0].name}, /m/09x0r." in card
    assert told is not None and json.loads(told.public_report())["labels"] == [pair[0].name, "/m/09x0r"]


@pytest.mark.parametrize("tags", [5, "merge", [None], {"merge": 1}])
def test_tags_of_a_card_may_be_of_any_kind(experts, tmp_path, tags) -> None:
    one = shutil.copytree(experts("bert")[0], tmp_path / "stranger")
    (one / "README.md").write_text(f"---\ntags: {json.dumps(tags)}\n---\n")
    told = compare([str(one), str(experts("bert")[1])], ["a good film"])
    assert bool(told.ensemble_of) == (tags != "merge"), "what says that it is a merge is no expert of its own"


def test_what_strangers_call_things_does_no_harm_in_a_message() -> None:
    told = BadFile(f"A label \x1b[2Jis \ud800, \u202e {'x' * 10**6} and é.\nMore", "Name it.")
    assert str(told) == f"A label \\x1b[2Jis \\ud800, \\u202e {'x' * 200}... and é.\nMore\n  -> Name it."
    assert told.what in str(told) and str(told).encode()


@pytest.mark.parametrize("place", ["file/out", "file/a/out", "x" * 300, "a/" + "y" * 300])
def test_folders_that_cannot_be_made(experts, tmp_path, place) -> None:
    (tmp_path / "file").write_text("mine")
    models, out = [str(expert) for expert in experts("bert")], tmp_path / place
    for step in (lambda: merge(models, out, method="mean"), lambda: collect(models[0], text_file(tmp_path), out)):
        with pytest.raises(FuseHubError, match=r"Not a directory|File name too long|exists"):
            step()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture(scope="module")
def adapters(experts, tmp_path_factory):
    """The base of two adapters, and their folders."""
    base, folder = experts("bert")[0].parent / "base", tmp_path_factory.mktemp("adapters")
    return base, *(adapter(folder / str(seed), base, seed=seed, target_modules=["query"])[0] for seed in (1, 2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"alpha_pattern": {r"(\w|\w\w|\w\w\w|\.)+\d": 8}}, "alpha_pattern cannot be used"),
        ({"alpha_pattern": {"(": 8}}, "alpha_pattern cannot be used"),
        ({"lora_alpha": "16"}, r'lora_alpha in adapter_config\.json is "16"'),
        ({"lora_alpha": 10**400}, "lora_alpha in adapter_config"),
        ({"rank_pattern": {"query": 0}}, r"rank_pattern\.query in adapter_config"),
        ({"eva_config": 3}, r"eva_config in adapter_config\.json is 3"),
    ],
)
def test_settings_of_an_adapter_that_nothing_can_be_computed_by(
    adapters, tmp_path, change, said, little_patience
) -> None:
    base, one, other = adapters
    stranger = shutil.copytree(one, tmp_path / "stranger")
    edit_json(stranger / "adapter_config.json", **change)
    with pytest.raises(FuseHubError, match=said):
        merge([f"{base}+{stranger}", f"{base}+{other}"], tmp_path / "out", method="mean")


def test_a_config_that_counts_many_positions_takes_no_memory(tmp_path) -> None:
    pair = relatives(tmp_path / "models", layers=1)
    edit_json(pair[0] / "config.json", max_position_embeddings=3 * 10**8)
    told = run_python(
        "import resource, sys; from fusehub.checking.check import check; import torch, transformers\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "check([sys.argv[2], sys.argv[2]]); before = peak()\n"
        "report = check(sys.argv[1:]); print((peak() - before) // 1024, report.ok)",
        *pair,
    )
    grown, ok = told.stdout.split()[-2:]
    assert int(grown) < 400 and ok == "False", (told.stdout, told.stderr)


def test_nobody_waits_for_a_pipe_in_the_place_of_a_file(merged) -> None:
    (merged / "config.json").unlink()
    os.mkfifo(merged / "config.json")
    told = run_python("import sys; from fusehub import model_card; model_card(sys.argv[1], repo_id='a/b')", merged)
    assert "BadFile" in told.stderr and "config.json is not JSON (it is a pipe)" in told.stderr


def test_json_that_is_deeper_than_anything_can_follow_is_refused(merged) -> None:
    report, deep = merged / "fusehub_report.json", "[" * 900 + "]" * 900
    report.write_text(report.read_text().replace('"notes": [', f'"x": {deep}, "notes": [', 1))
    with pytest.raises(BadFile, match="nested too deeply"):
        model_card(merged)


def test_a_card_that_names_its_base_in_another_way_does_not_spoil_statistics(pair, tmp_path) -> None:
    (pair[0] / "README.md").write_text("---\nbase_model: {a: 1}\n---\n")
    made = collect(str(pair[0]), text_file(tmp_path, 0, ["a good film", "the plot"]), tmp_path / "made")
    assert made.metadata["model"]["base_model"] is None
    made.close()


def test_a_tokenizer_without_a_token_to_pad_with_is_told(tmp_path) -> None:
    folder = tiny_model(tmp_path / "llama", "llama", task="text-generation", layers=1)
    edit_json(folder / "tokenizer_config.json", "eos_token", "pad_token")
    with pytest.raises(Incompatible, match="padded with"):
        compare([str(folder)], ["a good film"])


def test_a_number_that_is_none_has_no_place_in_a_config(tmp_path) -> None:
    pair = relatives(tmp_path / "vit", "vit", task="image-classification", labels=[("cat", "dog")] * 2, layers=1)
    edit_json(pair[0] / "config.json", hidden_dropout_prob=float("nan"))
    with pytest.raises(BadFile, match=r"hidden_dropout_prob in config\.json is no number"):
        check([str(path) for path in pair])


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_a_card_is_not_made_of_a_head_that_is_broken(experts, tmp_path, content) -> None:
    merge(recipe_of(experts("bert"), "mean", heads="keep"), tmp_path / "kept")
    (tmp_path / "kept" / "expert-0" / "head.safetensors").write_bytes(content)
    with pytest.raises(BadFile, match=r"head\.safetensors is truncated"):
        model_card(tmp_path / "kept")


def test_many_problems_are_told_as_far_as_they_are_read() -> None:
    keys = {f"key{number}": 1 for number in range(40)}
    with pytest.raises(BadRecipe) as caught:
        Recipe.parse({"merge_method": "mean", "models": [{"model": "a/b"}, {"model": "a/c"}], **keys})
    assert "And 28 more." in caught.value.what and "key11'" in caught.value.what and "key12'" not in caught.value.what


def test_statistics_whose_file_is_gone_are_missed_before_anything_is_merged(pair) -> None:
    (pair[0] / "fusehub" / "statistics.safetensors").unlink()
    with pytest.raises(FuseHubError, match="no statistics"):
        plan_merge(recipe_of(pair, "regmean"))
