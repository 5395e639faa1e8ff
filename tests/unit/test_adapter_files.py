"""Adapters as people upload them: beside whole models, under wrappers, with names inside, on tied bases."""

import json
import re

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from fusehub.checking.check import check
from fusehub.errors import Incompatible
from fusehub.merging.merge import merge
from fusehub.models.adapters import settings as adapter_settings
from fusehub.models.checkpoints.checkpoint import Checkpoint, headers, weight_hashes
from fusehub.models.loading import load_model
from fusehub.models.resolve import resolve
from tests.unit.experts import WEIGHTS, edit_json, rel
from tests.unit.lora_cases import ADAPTER, adapter, in_file
from tests.unit.tiny import tiny_model

QUERY = "bert.encoder.layer.0.attention.self.query.weight"


def values(ref):
    with Checkpoint(ref) as checkpoint:
        assert checkpoint.tensors == headers(ref)
        return {name: checkpoint[name] for name in checkpoint}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A base, an adapter on it, and the tensors that both give."""
    folder = tmp_path_factory.mktemp("plain")
    base = tiny_model(folder / "base", "bert")
    path, _ = adapter(folder / "adapter", base, target_modules=["query", "dense", "word_embeddings"])
    return base, path, values(resolve(f"{base}+{path}"))


@pytest.mark.parametrize("sharded", [False, True])
def test_an_adapter_beside_the_model_that_was_merged_with_it_is_added_once(tmp_path, sharded):
    base = tiny_model(tmp_path / "base", "bert")
    folder, expected = adapter(tmp_path / "adapter", base, target_modules=["query"])
    ref = resolve(f"{base}+{folder}")
    # The tensors of the merged model lie in the adapter's folder now, by the names of the base's own files or others.
    load_model(ref).save_pretrained(folder, max_shard_size="40KB" if sharded else "1GB")
    assert (folder / WEIGHTS).exists() is not sharded
    ref = resolve(f"{base}+{folder}")
    found = values(ref)
    assert rel(found[QUERY], expected[QUERY]) < 1e-6
    assert all(rel(found[name], value) < 1e-6 for name, value in in_file(expected, base).items() if value.any())
    assert weight_hashes(ref)[WEIGHTS] == weight_hashes(resolve(str(base)))[WEIGHTS]
    assert ref.path(WEIGHTS) == base / WEIGHTS


FORMS = {
    "twice the prefix": lambda name: f"base_model.model.{name}",
    "no prefix": lambda name: name.removeprefix("base_model.model."),
    "compiled": lambda name: f"_orig_mod.{name}",
    "compiled inside": lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
    "on several devices": lambda name: f"module.{name}",
    "sharded": lambda name: name.replace("layer.", "layer._fsdp_wrapped_module."),
    "named": lambda name: name.replace(".weight", ".default.weight") if ".lora_" in name else name,
    "named otherwise": lambda name: (
        name.replace("_A", "_A.mine").replace("_B", "_B.mine").replace("classifier", "classifier.modules_to_save.mine")
    ),
    "saved without a name": lambda name: name.replace("classifier", "classifier.modules_to_save"),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_wrappers_and_names_put_into_an_adapters_file_is_read_past(plain, tmp_path, form):
    base, path, expected = plain
    folder = tmp_path / "adapter"
    folder.mkdir()
    stored = load_file(path / ADAPTER)
    renamed = {FORMS[form](name): value for name, value in stored.items()}
    assert set(renamed) != set(stored) and len(renamed) == len(stored)
    save_file(renamed, folder / ADAPTER)
    (folder / "adapter_config.json").write_bytes((path / "adapter_config.json").read_bytes())
    found = values(resolve(f"{base}+{folder}"))
    assert set(found) == set(expected) and all(torch.equal(found[name], value) for name, value in expected.items())
    # As an adapter again, the names are those that peft gives.
    merge([f"{base}+{folder}"] * 2, tmp_path / "out", method="mean", as_adapter=True)
    assert set(load_file(tmp_path / "out" / ADAPTER)) == set(stored)


def test_two_adapters_in_one_file_and_none_are_refused(plain, tmp_path):
    base, path, _ = plain
    stored = load_file(path / ADAPTER)
    (tmp_path / "adapter_config.json").write_bytes((path / "adapter_config.json").read_bytes())
    ref = f"{base}+{tmp_path}"
    save_file(
        stored | {FORMS["named otherwise"](name): value.clone() for name, value in stored.items()}, tmp_path / ADAPTER
    )
    with pytest.raises(Incompatible, match=r"has two updates of bert.*mine"):
        Checkpoint(resolve(ref))
    save_file({}, tmp_path / ADAPTER)
    with pytest.raises(Incompatible, match="holds no tensors"):
        headers(resolve(ref))
    save_file({name: value[:0] if "_A" in name else value for name, value in stored.items()}, tmp_path / ADAPTER)
    with pytest.raises(Incompatible, match="is not a product of two matrices"):
        headers(resolve(ref))


@pytest.mark.parametrize("form", [None, "no prefix", "saved without a name"])
def test_a_head_alone_is_no_adapter(plain, tmp_path, form):
    """peft gives a KeyError for it where names are not its own; else the base, with a warning and the new head."""
    base, path, _ = plain
    heads = {name: value for name, value in load_file(path / ADAPTER).items() if "lora_" not in name}
    save_file({FORMS[form](name) if form else name: value for name, value in heads.items()}, tmp_path / ADAPTER)
    (tmp_path / "adapter_config.json").write_bytes((path / "adapter_config.json").read_bytes())
    ref = f"{base}+{tmp_path}"
    problems = [finding.what for finding in check([ref, str(base)]).findings if finding.level == "error"]
    assert len(problems) == 1 and re.search(r"holds .*classifier.* and no matrix of LoRA's", problems[0])
    with pytest.raises(Incompatible, match="no matrix of LoRA's"):
        merge([ref, str(base)], tmp_path / "out", method="mean")


SAVED = {
    "embedding": {"modules_to_save": ["embed_tokens"]},
    "head": {"modules_to_save": ["lm_head"]},
    "both": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "embedding, tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
}
UPDATED = {
    "embedding": ["embed_tokens"],
    "head": ["lm_head"],
    "both": ["embed_tokens", "lm_head"],
}


def tied_base(folder, *, twice=False):
    """A language model whose head is its embedding; `twice` also stores it under the head's name, as .bin files do."""
    base = tiny_model(folder, "llama", task="text-generation", tie_word_embeddings=True)
    if twice:
        tensors = load_file(base / WEIGHTS)
        save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, base / WEIGHTS)
    return base


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("case", SAVED)
def test_a_new_embedding_on_a_tied_base_is_what_peft_makes_of_it(tmp_path, case, twice):
    base = tied_base(tmp_path / "base", twice=twice)
    said = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"], **SAVED[case]}
    folder, expected = adapter(tmp_path / "adapter", base, auto=transformers.AutoModelForCausalLM, **said)
    model = load_model(resolve(f"{base}+{folder}"))
    own = model.state_dict()
    assert all(rel(own[name], value) < 1e-6 for name, value in expected.items())
    assert torch.equal(own["lm_head.weight"], own["model.embed_tokens.weight"]) is (case == "embedding, tied")


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("case", UPDATED)
def test_an_update_of_an_embedding_that_is_the_head_too_is_refused(tmp_path, case, twice):
    """peft runs it on the one, and merges it into both."""
    base = tied_base(tmp_path / "base", twice=twice)
    said = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", *UPDATED[case]]}
    folder, _ = adapter(tmp_path / "adapter", base, auto=transformers.AutoModelForCausalLM, **said)
    with pytest.raises(Incompatible, match=r"which shares its numbers with .*\n.*Untie the base"):
        Checkpoint(resolve(f"{base}+{folder}"))
    # What it says to do works: an update of each of its own, as in the running model.
    tensors = load_file(base / WEIGHTS)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, base / WEIGHTS)
    edit_json(base / "config.json", tie_word_embeddings=False)
    own = values(resolve(f"{base}+{folder}"))
    stored = tensors["model.embed_tokens.weight"]
    assert torch.equal(own["model.embed_tokens.weight"], stored) is (case == "head")
    assert torch.equal(own["lm_head.weight"], stored) is (case == "embedding")


def test_the_config_beside_an_adapter_does_not_untie_its_base(tmp_path):
    base = tied_base(tmp_path / "base")
    said = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"]}
    folder, expected = adapter(tmp_path / "adapter", base, auto=transformers.AutoModelForCausalLM, **said)
    config = json.loads((base / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    own = load_model(resolve(f"{base}+{folder}")).state_dict()
    assert all(rel(own[name], value) < 1e-6 for name, value in expected.items())


CONTRADICTED = {
    "modules": ({}, {"target_modules": ["query"]}, r"an update of .*dense\.weight, .*target_modules"),
    "an expression": ({}, {"target_modules": r".*\.query"}, r"an update of .*dense\.weight, .*target_modules"),
    "all but embeddings": ({}, {"exclude_modules": ["pooler.dense"]}, r"an update of bert\.pooler.*exclude_modules"),
    "layers": ({}, {"layers_to_transform": [0]}, r"an update of .*layers_to_transform"),
    "layers by name": ({}, {"layers_to_transform": 0, "layers_pattern": "layer|h"}, "an update of .*layers_to_transf"),
    "saved": ({}, {"modules_to_save": ["classifier", "pooler"]}, r"an update of bert\.pooler.*modules_to_save"),
    "rank": ({}, {"r": 16}, "of rank 4.*makes that 16"),
    "pattern": ({}, {"rank_pattern": {"query": 2}}, r"query\.weight of rank 4.*makes that 2"),
    "dora": ({"use_dora": True}, {"use_dora": False}, "a magnitude of DoRA's.*use_dora is false"),
    "no dora": ({}, {"use_dora": True}, "no magnitude of DoRA's.*use_dora is true"),
    "bias": ({"target_modules": ["query"], "lora_bias": True}, {"lora_bias": False}, "a bias with.*lora_bias"),
    "nothing saved": ({}, {"modules_to_save": ["word_embeddings"]}, "brings .*word_embeddings.weight, which its file"),
    "no head": ({"task_type": None}, {"task_type": "SEQ_CLS"}, "the task .*brings classifier.weight, which its file"),
    "an endless expression": ({}, {"target_modules": r"(\w|\w\w|\w\w\w|\.)+\d"}, "in target_modules cannot be used"),
}


@pytest.mark.parametrize("case", CONTRADICTED)
def test_a_config_that_asks_for_another_adapter_than_the_file_holds_is_refused(tmp_path, monkeypatch, case):
    """peft leaves out what the config does not ask for, and begins anew what the file lacks."""
    if case == "an endless expression":
        monkeypatch.setattr(adapter_settings, "PATTERN_SECONDS", 0.5)
    made, changes, said = CONTRADICTED[case]
    base = tiny_model(tmp_path / "base", "bert")
    folder, _ = adapter(tmp_path / "adapter", base, **({"target_modules": ["query", "dense"]} | made))
    ref = f"{base}+{folder}"
    trained = json.loads((folder / "adapter_config.json").read_text())
    before = values(resolve(ref))
    edit_json(folder / "adapter_config.json", **changes)
    for read in (headers, Checkpoint):
        with pytest.raises(Incompatible, match=said):
            read(resolve(ref))
    edit_json(folder / "adapter_config.json", **trained)
    assert all(torch.equal(before[name], value) for name, value in values(resolve(ref)).items())


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("stored", ["model.embed_tokens", "lm_head", "both", "both, differing"])
def test_an_embedding_that_was_trained_in_place_stays_the_head(tmp_path, stored, twice):
    """Without modules_to_save, peft loads it into the base, whose head has the same numbers."""
    base = tied_base(tmp_path / "base", twice=twice)
    said = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"]}
    folder, _ = adapter(tmp_path / "adapter", base, auto=transformers.AutoModelForCausalLM, **said)
    new = 0.05 * torch.randn(load_file(base / WEIGHTS)["model.embed_tokens.weight"].shape)
    names = ["model.embed_tokens", "lm_head"] if stored.startswith("both") else [stored]
    own = {f"base_model.model.{name}.weight": new + n * (stored[-1] == "g") for n, name in enumerate(names)}
    save_file(load_file(folder / ADAPTER) | own, folder / ADAPTER)
    ref = resolve(f"{base}+{folder}")
    if stored == "both, differing":
        with pytest.raises(Incompatible, match="share their numbers in the base and differ in the adapter"):
            Checkpoint(ref)
        return
    theirs = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), folder)
    found = load_model(ref).state_dict()
    assert torch.equal(found["model.embed_tokens.weight"], new) and torch.equal(found["lm_head.weight"], new)
    assert all(rel(found[name], value) < 1e-6 for name, value in theirs.merge_and_unload().state_dict().items())
    assert values(ref)["model.embed_tokens.weight" if twice else f"{names[0]}.weight"].equal(new)
