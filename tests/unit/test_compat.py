"""What stands against a merge, told before weights are read, each with its reason and what to do."""

import json
from dataclasses import replace
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusehub.checking.check import check
from fusehub.checking.configs import base_of, different_bases
from fusehub.errors import BadRecipe, Incompatible, NotFound
from fusehub.hub.access import Access
from fusehub.merging.merge import merge
from fusehub.models.resolve import resolve
from tests.unit.experts import WEIGHTS, edit_json, recipe_of, relatives, save_weights
from tests.unit.tiny import ARCHITECTURES, tiny_model


def errors(paths, **options):
    return [f.what for f in check(list(map(str, paths)), **options).findings if f.level == "error"]


def said(paths, level, **options):
    return [f.what for f in check(list(map(str, paths)), **options).findings if f.level == level]


@pytest.fixture
def pair(tmp_path):
    return relatives(tmp_path, layers=1)


def change_weights(path, change):
    tensors = load_file(path / WEIGHTS)
    save_weights(path, change(tensors) or tensors)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_experts_of_one_base_are_fine(experts, arch):
    base = experts(arch)[0].parent / "base"
    report = check([str(path) for path in experts(arch)], base=str(base))
    assert report.ok and report.labels.policy == "merge" and report.download == 0
    report.require_ok()
    facts = report.models[0]
    assert facts.task == "text-classification" and facts.labels == ("negative", "positive") and facts.statistics
    tensors = load_file(experts(arch)[0] / WEIGHTS)
    assert facts.parameters == sum(value.numel() for value in tensors.values()) and facts.dtypes == ("F32",)
    assert json.loads(json.dumps(report.to_dict()))["ok"]


def test_one_model_is_no_merge(experts):
    with pytest.raises(BadRecipe, match="at least two"):
        check([str(experts()[0])])


def test_different_architectures_are_refused_by_name(pair, tmp_path):
    other = tiny_model(tmp_path / "other", "roberta", hidden=16)
    assert any(
        "different architectures" in e
        and "expert-0 is a BertForSequenceClassification" in e
        and "other is a Roberta" in e
        for e in errors([pair[0], other])
    )


def test_different_tasks_cannot_have_their_heads_merged(pair, tmp_path):
    tagger = tiny_model(tmp_path / "tagger", task="token-classification", hidden=16, layers=1)
    assert errors([pair[0], tagger]) == []
    assert any("BertForTokenClassification" in e for e in errors([pair[0], tagger], heads="merge"))


@pytest.mark.parametrize(
    ("key", "value"), [("hidden_act", "relu"), ("layer_norm_eps", 1e-5), ("num_attention_heads", 2)]
)
def test_configs_that_compute_something_else_are_refused_by_the_key(pair, key, value):
    edit_json(pair[1] / "config.json", **{key: value})
    found = errors(pair)
    assert len(found) == 1 and f"config {key}: " in found[0] and repr(value) in found[0]
    with pytest.raises(Incompatible, match=f"config {key}"):
        merge(recipe_of(pair, "mean"), pair[0].parent / "out")


def test_configs_that_differ_in_what_does_not_matter_are_fine(pair):
    edit_json(
        pair[1] / "config.json",
        hidden_dropout_prob=0.3,
        use_cache=False,
        transformers_version="4.1.0",
        _name_or_path="bert-base-uncased",
        initializer_range=0.5,
        torch_dtype="float32",
    )
    # A default that is written down in one and left out in the other is no difference.
    edit_json(pair[0] / "config.json", "layer_norm_eps", "hidden_act")
    assert errors(pair) == []


def test_a_base_may_differ_in_its_config_with_a_warning(pair, tmp_path):
    base = tmp_path / "base"
    edit_json(base / "config.json", layer_norm_eps=1e-7)
    assert errors(pair, base=str(base)) == []
    assert any("layer_norm_eps" in warning for warning in said(pair, "warning", base=str(base)))


def test_different_shapes_are_refused_by_tensor(pair, tmp_path):
    wide = tiny_model(tmp_path / "wide", layers=1, hidden=16, intermediate_size=48)
    assert any(
        "different shapes: bert.encoder.layer.0.intermediate.dense" in e and "[32] against [48]" in e
        for e in errors([pair[0], wide])
    )


def test_different_depths_are_refused(pair, tmp_path):
    deep = tiny_model(tmp_path / "deep", layers=2, hidden=16)
    assert any("num_hidden_layers" in e for e in errors([pair[0], deep]))


def grow_vocabulary(path, word):
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"][word] = len(tokenizer["model"]["vocab"])
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    name = "bert.embeddings.word_embeddings.weight"
    change_weights(path, lambda tensors: {**tensors, name: torch.cat([tensors[name], tensors[name][:1]])})
    edit_json(path / "config.json", vocab_size=json.loads((path / "config.json").read_text())["vocab_size"] + 1)


def test_different_vocabularies_are_refused(pair):
    grow_vocabulary(pair[0], "newcomer")
    grow_vocabulary(pair[1], "stranger")
    found = " ".join(errors(pair))
    assert "have different vocabularies: " in found and "is 'newcomer' in one and 'stranger' in the other" in found
    with pytest.raises(Incompatible, match="vocabularies"):
        merge(recipe_of(pair, "mean"), pair[0].parent / "out")


def test_two_tokens_with_swapped_numbers_are_refused_by_name(pair):
    tokenizer = json.loads((pair[1] / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
    (pair[1] / "tokenizer.json").write_text(json.dumps(tokenizer))
    found = errors(pair)
    assert (
        len(found) == 1
        and "different vocabularies" in found[0]
        and ("'good' is" in found[0] or "'bad' is" in found[0])
    )


def test_a_vocabulary_in_an_older_file_is_the_same(pair):
    tokens = json.loads((pair[1] / "tokenizer.json").read_text())["model"]["vocab"]
    (pair[1] / "vocab.txt").write_text("\n".join(sorted(tokens, key=tokens.get)) + "\n", encoding="utf-8")
    (pair[1] / "tokenizer.json").unlink()
    assert errors(pair) == [] and not any("tokenizer" in warning for warning in said(pair, "warning"))


def test_a_tokenizer_that_lower_cases_is_not_one_that_does_not(pair):
    edit_json(pair[0] / "tokenizer_config.json", do_lower_case=False)
    edit_json(pair[1] / "tokenizer_config.json", do_lower_case=True)
    assert any("expert-1 lower-cases texts, and" in e and "expert-0 does not" in e for e in errors(pair))


def test_a_model_without_a_tokenizer_is_a_warning(pair):
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
        (pair[1] / name).unlink(missing_ok=True)
    assert errors(pair) == []
    assert any("expert-1 has no tokenizer" in warning for warning in said(pair, "warning"))


def test_a_head_that_is_missing_is_refused_by_name(pair):
    change_weights(pair[1], lambda t: {n: v for n, v in t.items() if not n.startswith("classifier")})
    found = errors(pair)
    assert any("expert-1 lacks classifier" in e and "random numbers" in e for e in found)


def test_labels_that_do_not_fit_are_refused_and_given_ones_make_them_fit(tmp_path):
    paths = relatives(tmp_path, labels=[("neg", "pos"), ("LABEL_0", "LABEL_1")], layers=1)
    assert any("does not name its labels" in e for e in errors(paths))
    report = check(list(map(str, paths)), labels={str(paths[1]): ["pos", "neg"]})
    assert report.ok and report.labels.rows == ((0, 1), (1, 0))
    assert check(list(map(str, paths)), heads="keep").ok


def test_remote_code_is_refused(pair):
    edit_json(pair[1] / "config.json", auto_map={"AutoModel": "evil--Model"})
    (pair[1] / "evil.py").write_text("raise SystemExit")
    assert any("needs code of its own (auto_map in config.json)" in e for e in errors(pair))


@pytest.mark.parametrize("quantised", ["config", "dtype"])
def test_a_quantised_model_is_refused(pair, quantised):
    if quantised == "config":
        edit_json(pair[1] / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    else:
        name = "bert.encoder.layer.0.output.dense.weight"
        change_weights(pair[1], lambda t: {**t, name: t[name].to(torch.uint8)})
    assert any("expert-1" in e and "quantised" in e for e in errors(pair))


def test_a_task_that_is_not_supported_is_named(pair, tmp_path):
    chooser = tiny_model(tmp_path / "chooser", hidden=16)
    edit_json(chooser / "config.json", architectures=["BertForMultipleChoice"])
    assert any("BertForMultipleChoice, which FuseHub cannot use" in e for e in errors([pair[0], chooser]))


def test_a_file_that_is_broken_is_a_finding(pair):
    (pair[1] / WEIGHTS).write_bytes((pair[1] / WEIGHTS).read_bytes()[:-10])
    assert any("expert-1: model.safetensors is truncated or corrupt" in e for e in errors(pair))


def test_different_dtypes_are_a_note(pair):
    change_weights(pair[1], lambda t: {n: v.half() for n, v in t.items()})
    assert errors(pair) == []
    assert any("is stored in F32" in note and "in F16" in note for note in said(pair, "note"))


def test_all_that_is_wrong_is_told_at_once(pair):
    edit_json(pair[1] / "config.json", hidden_act="relu", id2label={"0": "LABEL_0", "1": "LABEL_1"})
    edit_json(pair[1] / "tokenizer_config.json", do_lower_case=True)
    edit_json(pair[0] / "tokenizer_config.json", do_lower_case=False)
    report = check(list(map(str, pair)))
    with pytest.raises(Incompatible) as caught:
        report.require_ok()
    for part in ("hidden_act", "does not name its labels", "lower-cases"):
        assert part in caught.value.what


def card(path, **front):
    (path / "README.md").write_text("---\n" + json.dumps(front) + "\n---\n# Model\n")


def test_different_bases_are_a_warning(pair):
    card(pair[0], base_model="google/bert")
    card(pair[1], base_model=["other/bert-large"])
    assert any("different bases" in warning for warning in said(pair, "warning"))
    card(pair[1], base_model="mirror/BERT")
    assert not any("different bases" in warning for warning in said(pair, "warning")), "a mirror of the same"


def test_a_merge_fits_its_parents_and_a_model_what_was_trained_from_it(pair):
    def bases(mine, theirs, name=None):
        refs = [
            replace(resolve(str(path)), card={"base_model": said}, access=Access(local_files_only=True))
            for path, said in zip(pair, (mine, theirs), strict=True)
        ]
        return different_bases([refs[0], replace(refs[1], repo_id=name)])

    assert list(bases("a/bert", "b/roberta").values()) == ["a/bert", "b/roberta"]
    assert bases(["a/one", "a/two"], "a/bert", "a/two") == {}, "a merge, and one of its parents"
    assert bases(["a/one", "a/two"], "a/bert") == {}, "what the parents come from is not known"
    assert bases("a/chat", "a/bert", "a/chat") == {}, "one was trained from the other"


@pytest.mark.parametrize(
    ("loaded", "expected"),
    [
        ("bert-base-uncased", "bert-base-uncased"),
        ("google/bert", "google/bert"),
        *((odd, None) for odd in ("/home/me/run", "./out", "", None, 3, "a/b/c")),
    ],
)
def test_the_base_is_read_from_what_the_config_was_loaded_from(experts, loaded, expected):
    assert base_of(resolve(str(experts()[0])), {"_name_or_path": loaded}) == expected


def test_licenses_are_reconciled(pair):
    card(pair[0], license="mit")
    card(pair[1], license="cc-by-nc-4.0")
    assert any("License of the result: cc-by-nc-4.0" in note for note in said(pair, "note"))
    card(pair[0], license=["mit", "gpl-3.0"])
    assert any("gpl-3.0" in warning and "cc-by-nc-4.0" in warning for warning in said(pair, "warning"))
    card(pair[1], license="cc-by-nd-4.0")
    assert any("may not be published" in warning for warning in said(pair, "warning"))


def test_the_same_model_twice_is_a_warning(pair):
    assert any("goes in 2 times" in warning for warning in said([pair[0], pair[0]], "warning"))


def test_old_names_of_tensors_are_understood(pair, tmp_path):
    """A checkpoint with LayerNorm.gamma goes with one with LayerNorm.weight."""
    old = tmp_path / "old"
    copytree(pair[0], old)
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in load_file(old / WEIGHTS).items()
    }
    save_file(renamed, old / WEIGHTS, metadata={"format": "pt"})
    assert errors([old, pair[1]]) == []
    merge(recipe_of([pair[0], pair[1]], "mean"), tmp_path / "new-out")
    merge(recipe_of([pair[1], old], "mean", weights=[1, 1]), tmp_path / "mixed-out")
    a, b = load_file(tmp_path / "new-out" / WEIGHTS), load_file(tmp_path / "mixed-out" / WEIGHTS)
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[name], b[name], rtol=1e-6, atol=1e-7) for name in a)
    merge(recipe_of([old, pair[1]], "mean"), tmp_path / "old-out")
    from transformers import AutoModelForSequenceClassification

    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "old-out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert all(torch.allclose(a[name], value, rtol=1e-6, atol=1e-7) for name, value in model.state_dict().items())


def test_models_are_named_by_texts_paths_or_references(tmp_path):
    paths = relatives(tmp_path, layers=1)
    assert check(paths).ok and check([resolve(str(path)) for path in paths]).ok
    for wrong, words in (([paths[0], None], "None names no model"), ([paths[0], 5], "5 names no model")):
        with pytest.raises(NotFound, match=words):
            check(wrong)
    with pytest.raises(BadRecipe, match=r"no way to treat heads 'mrege'.*\n.*Did you mean 'merge'"):
        check(paths, heads="mrege")
