"""Heads that are the embedding, heads of their own, and parameters stored twice: what is merged is what runs."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file

from fusehub.checking.check import check
from fusehub.errors import Incompatible
from fusehub.merging.merge import merge
from fusehub.merging.plan import plan_merge
from fusehub.models.loading import load_model, quiet_transformers
from fusehub.models.resolve import resolve
from tests.unit.experts import WEIGHTS, edit_json, recipe_of, rel, relatives, save_weights, text_file, weights_of
from tests.unit.lora_cases import adapter

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def pair(folder, *, arch="llama"):
    """A tied expert and one whose head is its own, which says so."""
    tied = relatives(folder / "tied", arch, task="text-generation", hidden=16, tie_word_embeddings=True)
    own = relatives(folder / "own", arch, task="text-generation", hidden=16, tie_word_embeddings=False)
    # Of one base: the second's body is that of a relative of the first.
    tensors = load_file(tied[1] / WEIGHTS)
    save_weights(own[1], tensors | {HEAD: tensors[EMBEDDING] * 1.5 + 0.01})
    return tied[0], own[1]


def running(folder):
    """Embedding and head as transformers runs the model in `folder`, and whether it finds all of it."""
    with quiet_transformers():
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    return model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach(), model


def said_tied(folder):
    return json.loads((folder / "config.json").read_text())["tie_word_embeddings"]


@pytest.mark.parametrize("first", ["tied", "own"])
@pytest.mark.parametrize("told", [True, False])
def test_a_tied_head_and_one_of_its_own_give_one_of_its_own(tmp_path, first, told):
    tied, own = pair(tmp_path)
    if not told:  # As after merging an adapter into a tied base: the config says tied, and the file another head.
        edit_json(own / "config.json", tie_word_embeddings=True)
    order = [tied, own] if first == "tied" else [own, tied]
    assert check([str(path) for path in order]).ok
    merged = merge(recipe_of(order, "mean", weights=[1, 3]), tmp_path / "merged").folder
    parts, shares = [running(path) for path in order], [0.25, 0.75]
    assert not torch.equal(parts[order.index(own)][0], parts[order.index(own)][1])
    embedding, head, _ = running(merged)
    for index, found in enumerate((embedding, head)):
        expected = sum(share * part[index].double() for share, part in zip(shares, parts, strict=True))
        assert rel(found, expected) < 1e-6
    assert said_tied(merged) is False
    assert set(weights_of(merged)) >= {EMBEDDING, HEAD}


def test_a_base_that_is_tied_is_the_base_of_heads_of_their_own(tmp_path):
    tied, own = pair(tmp_path)
    other = shutil.copytree(own, tmp_path / "other")
    tensors = load_file(other / WEIGHTS)
    save_weights(other, {name: value * 1.1 for name, value in tensors.items()})
    recipe = recipe_of([own, other], "task_arithmetic", base_model=str(tied), weights=[0.5, 0.25])
    merged = merge(recipe, tmp_path / "merged").folder
    base, a, b = (running(path)[1].double() for path in (tied, own, other))
    assert rel(running(merged)[1], base + 0.5 * (a - base) + 0.25 * (b - base)) < 1e-6


@pytest.mark.parametrize("stored", [(HEAD, EMBEDDING), (HEAD, HEAD)])
def test_a_tied_tensor_is_found_under_either_name(tmp_path, stored):
    experts = relatives(tmp_path, "llama", task="text-generation", hidden=16, tie_word_embeddings=True)
    for path, name in zip(experts, stored, strict=True):
        tensors = load_file(path / WEIGHTS)
        save_weights(path, {name if own == EMBEDDING else own: value for own, value in tensors.items()})
    parts = [running(path) for path in experts]
    merged = merge(recipe_of(experts, "mean"), tmp_path / "merged").folder
    embedding, head, model = running(merged)
    assert rel(embedding, (parts[0][0].double() + parts[1][0].double()) / 2) < 1e-6 and torch.equal(head, embedding)
    assert (
        len({EMBEDDING, HEAD} & set(weights_of(merged))) == 1
        and model.lm_head.weight is model.model.embed_tokens.weight
    )


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_copies_are_written_once_and_heads_of_their_own_twice_whatever_the_config_says(tmp_path, arch):
    experts = relatives(tmp_path, arch, task="text-generation", hidden=16, tie_word_embeddings=True)
    embedding = EMBEDDING if arch == "llama" else "transformer.wte.weight"
    before = [load_file(path / WEIGHTS) for path in experts]
    for path, tensors in zip(experts, before, strict=True):
        save_weights(path, tensors | {HEAD: tensors[embedding].clone()})
    once = merge(recipe_of(experts, "mean"), tmp_path / "once").folder
    assert HEAD not in weights_of(once) and said_tied(once) is True
    for number, (path, tensors) in enumerate(zip(experts, before, strict=True)):
        save_weights(path, tensors | {HEAD: tensors[embedding] * (2 + number)})
    twice = merge(recipe_of(experts, "mean"), tmp_path / "twice").folder
    assert rel(running(twice)[1], (2 * before[0][embedding] + 3 * before[1][embedding]) / 2) < 1e-6
    assert said_tied(twice) is False
    # One differs in its last row alone.
    tensors = before[0][embedding].clone()
    tensors[-1] += 1
    save_weights(experts[0], before[0] | {HEAD: tensors})
    save_weights(experts[1], before[1])
    last = merge(recipe_of(experts, "mean"), tmp_path / "last").folder
    embedding, head, _ = running(last)
    assert (
        torch.equal(embedding[:-1], head[:-1]) and rel(head[-1] - embedding[-1], torch.full_like(head[-1], 0.5)) < 1e-4
    )


def test_a_config_that_means_something_else_by_tying_is_left_as_it_is(tmp_path):
    """T5 scales what it computes by that key, and is always tied unless the numbers differ."""
    experts = relatives(tmp_path, "t5", task="text2text-generation", hidden=16)
    for number, path in enumerate(experts):
        tensors = load_file(path / WEIGHTS)
        save_weights(path, tensors | {HEAD: tensors["shared.weight"] * (2 + number)})
    merged = merge(recipe_of(experts, "mean"), tmp_path / "merged").folder
    assert said_tied(merged) is True
    heads = [load_model(resolve(str(path))).lm_head.weight.detach() for path in (*experts, merged)]
    assert rel(heads[2], (heads[0] + heads[1]) / 2) < 1e-6


def test_an_adapter_that_unties_its_base_is_merged_as_it_runs(tmp_path):
    base = relatives(tmp_path, "llama", task="text-generation", hidden=16, tie_word_embeddings=True)[0]
    auto = transformers.AutoModelForCausalLM
    said = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"]}
    new, expected = adapter(tmp_path / "new", base, auto=auto, **said, modules_to_save=["embed_tokens"])
    plain, others = adapter(tmp_path / "plain", base, auto=auto, seed=1, **said)
    merged = merge(recipe_of([f"{base}+{new}", f"{base}+{plain}"], "mean"), tmp_path / "merged").folder
    embedding, head, _ = running(merged)
    assert rel(embedding, (expected[EMBEDDING] + others[EMBEDDING]) / 2) < 1e-6
    assert rel(head, (expected[HEAD] + others[HEAD]) / 2) < 1e-6
    assert said_tied(merged) is False and not torch.equal(embedding, head)


def test_layers_solved_by_running_the_model_see_the_head_that_is_its_own(tmp_path):
    tied, own = pair(tmp_path)
    data = {str(path): text_file(tmp_path, number) for number, path in enumerate((tied, own))}
    for order in ([tied, own], [own, tied]):
        out = tmp_path / f"merged-{order.index(tied)}"
        merge([str(path) for path in order], out, method="regmean_plus_plus", data=data)
        embedding, head, _ = running(out)
        parts = [running(path)[0] for path in order]
        assert rel(embedding, (parts[0] + parts[1]) / 2) < 1e-6
        assert not torch.equal(head, embedding)


def test_two_names_of_one_parameter_are_merged_once_if_they_are_one(tmp_path):
    experts = relatives(tmp_path, "bert", hidden=16)
    norm = "bert.encoder.layer.0.output.LayerNorm"
    weight, gamma = f"{norm}.weight", f"{norm}.gamma"
    plain = [load_file(path / WEIGHTS) for path in experts]
    save_weights(experts[1], plain[1] | {gamma: plain[1][weight].clone()})
    assert any("beside another name" in note for note in plan_merge(recipe_of(experts, "mean")).notes)
    merged = merge(recipe_of(experts, "mean"), tmp_path / "merged").folder
    assert rel(weights_of(merged)[weight], (plain[0][weight] + plain[1][weight]) / 2) < 1e-6
    save_weights(experts[1], plain[1] | {gamma: plain[1][weight] + 1})
    with pytest.raises(Incompatible, match=f"{gamma} and {weight} are two names of one parameter, and hold different"):
        merge(recipe_of(experts, "mean"), tmp_path / "refused")
    # In a model that is only the base, too.
    base = tmp_path / "base"
    save_weights(experts[1], plain[1])
    save_weights(base, load_file(base / WEIGHTS) | {gamma: torch.zeros(16)})
    with pytest.raises(Incompatible, match=r"base: .* are two names of one parameter"):
        merge(recipe_of(experts, "ties", base_model=str(base)), tmp_path / "refused")


def test_heads_that_are_kept_are_those_that_run(tmp_path):
    """A head of its own is kept, and a copy of the embedding stays the embedding, which is merged."""
    tied, own = pair(tmp_path)
    edit_json(own / "config.json", tie_word_embeddings=True)
    tensors = load_file(tied / WEIGHTS)
    save_weights(tied, tensors | {HEAD: tensors[EMBEDDING].clone()})
    merged = merge(recipe_of([tied, own], "mean", heads="keep"), tmp_path / "merged")
    a, b = (merged.folder / name for name in merged.plan.names)
    assert torch.equal(running(a)[0], running(a)[1]) and torch.equal(running(a)[0], running(b)[0])
    assert torch.equal(running(b)[1], running(own)[1])
    assert (said_tied(a), said_tied(b)) == (True, False)
