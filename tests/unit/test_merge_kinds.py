"""Every kind of model merges: what comes out has the right numbers and loads with nothing missing or left over."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusehub.checking.check import check
from fusehub.merging.merge import merge
from fusehub.merging.plan import plan_merge
from fusehub.models.loading import load_model, quiet_transformers
from fusehub.models.resolve import resolve
from fusehub.models.tasks import task_of
from fusehub.publishing.loadable import require_loadable
from tests.unit.experts import WEIGHTS, edit_json, recipe_of, relatives, save_weights
from tests.unit.tiny import KINDS, tiny_images


def load(folder: Path):
    """The model, and what transformers says about loading it."""
    import transformers

    task = task_of(json.loads((folder / "config.json").read_text()), folder.name)
    with quiet_transformers():
        return getattr(transformers, task.auto_class).from_pretrained(folder, output_loading_info=True)


@pytest.mark.parametrize(("arch", "task"), KINDS)
def test_the_mean_of_every_kind_of_model_loads_whole(arch: str, task: str, tmp_path: Path) -> None:
    experts = relatives(tmp_path, arch, task=task, hidden=16)
    merged = merge(recipe_of(experts, "mean"), tmp_path / "merged").folder
    stored = [load_file(path / WEIGHTS) for path in (*experts, merged)]
    assert set(stored[2]) == set(stored[0])
    for name, value in stored[2].items():
        assert torch.allclose(value, (stored[0][name] + stored[1][name]) / 2, atol=1e-6), name
    network, loading = load(merged)
    assert not any(loading.values()), loading
    one, _ = load(experts[0])
    assert set(network.all_tied_weights_keys) == set(one.all_tied_weights_keys)
    for name in network.all_tied_weights_keys:
        assert network.get_parameter(name) is network.get_parameter(network.all_tied_weights_keys[name])
    copied = {path.name for path in experts[0].iterdir()} - {WEIGHTS}
    assert copied <= {path.name for path in merged.iterdir()}
    require_loadable(merged)
    configs = [json.loads((path / "config.json").read_text()) for path in (experts[0], merged)]
    assert configs[0].get("id2label") == configs[1].get("id2label")


def test_models_of_images_are_asked_how_they_scale_them_and_not_for_a_tokenizer(tmp_path: Path) -> None:
    experts = relatives(tmp_path, "vit", task="image-classification", hidden=16)
    warnings = [f.what for f in check([str(path) for path in experts]).findings if f.level == "warning"]
    assert not any("tokenizer" in warning or "prepare" in warning for warning in warnings)
    edit_json(experts[1] / "preprocessor_config.json", image_mean=[0.1, 0.1, 0.1])
    warnings = [f.what for f in check([str(path) for path in experts]).findings if f.level == "warning"]
    assert any("prepare images differently (image_mean)" in warning for warning in warnings)


def test_a_head_that_is_stored_twice_stays_tied_and_one_of_its_own_stays_its_own(tmp_path: Path) -> None:
    """Whatever the config says: transformers writes `tie_word_embeddings: true` for every T5."""
    experts = relatives(tmp_path, "t5", task="text2text-generation", hidden=16)
    for path in experts:
        tensors = load_file(path / WEIGHTS)
        save_weights(path, tensors | {"lm_head.weight": tensors["shared.weight"].clone()})
    base = {"base_model": str(tmp_path / "base")}
    twice = merge(recipe_of(experts, "mean", **base), tmp_path / "twice").folder
    assert "lm_head.weight" not in load_file(twice / WEIGHTS)
    network, loading = load(twice)
    assert not any(loading.values()) and network.lm_head.weight is network.shared.weight
    for number, path in enumerate(experts):
        tensors = load_file(path / WEIGHTS)
        save_weights(path, tensors | {"lm_head.weight": tensors["shared.weight"] * (2 + number)})
    own = merge(recipe_of(experts, "mean", **base), tmp_path / "own").folder
    heads = [load_file(path / WEIGHTS)["lm_head.weight"] for path in (*experts, own)]
    assert torch.allclose(heads[2], (heads[0] + heads[1]) / 2, atol=1e-6)
    network, loading = load(own)
    assert not any(loading.values())
    assert torch.equal(network.lm_head.weight, heads[2]) and not torch.equal(heads[2], network.shared.weight)


def test_matrices_of_a_mixture_are_known_by_the_names_that_they_have_in_files(
    tmp_path: Path,
) -> None:
    """Statistics call a fused matrix by the name that it has in the file."""
    from fusehub.models.layout import layout_of
    from fusehub.models.tasks import load_config

    for arch in ("qwen3_moe", "mixtral"):
        experts = relatives(tmp_path / arch, arch, task="text-generation", hidden=16)
        layout = layout_of(load_config(resolve(str(experts[0]))))
        stored = {parameter: name for name, parameter in layout.names(load_file(experts[0] / WEIGHTS)).items()}
        assert len(layout.parts) == 24
        network = load_model(resolve(str(experts[0])))
        tensors = load_file(experts[0] / WEIGHTS)
        for name, part in layout.parts.items():
            fused = network.get_parameter(part.parameter)
            assert torch.equal(fused[part.expert, part.start : part.stop], tensors[stored[name]]), name
            linear = layout.linears[name]
            assert tensors[stored[name]].shape == (linear.out_features, linear.in_features)


@pytest.mark.parametrize(("arch", "task"), KINDS)
def test_regmean_solves_the_linear_layers_of_every_kind_of_model(arch: str, task: str, tmp_path: Path) -> None:
    """Statistics of each expert by itself, then a merge that solves every linear layer and not only averages."""
    from fusehub.collecting.collect import collect
    from tests.unit.test_inputs import own_examples, write

    experts = relatives(tmp_path, arch, task=task, hidden=16)
    for number, path in enumerate(experts):
        if task == "image-classification":
            data = str(tiny_images(tmp_path / f"photos-{number}", seed=number))
        else:
            found = own_examples(task, tmp_path)
            rows = [
                {"question": text[0], "context": text[1]} if isinstance(text, tuple) else {"text": text}
                for text in found.texts[number::2]
            ]
            if task == "text2text-generation":
                rows = [row | {"target": label} for row, label in zip(rows, found.labels[number::2], strict=True)]
            data = write(tmp_path / f"data-{number}.jsonl", rows)
        collect(str(path), data, path / "fusehub", size="full").close()
    result = merge(recipe_of(experts, parameters={"alpha": 1.0}), tmp_path / "merged")
    plan = result.plan
    solved = {name for name, tensor in plan.tensors.items() if tensor.action == "solve"}
    linear = {name for name, tensor in plan.tensors.items() if tensor.linear is not None}
    # No text may have come to an expert of a mixture: that one is averaged, and the plan says so.
    assert all(".experts." in name for name in linear - solved) and len(solved) >= 8
    assert bool(plan.layout.parts) == (arch in ("qwen3_moe", "mixtral"))
    if plan.layout.parts:
        assert any(".experts." in name for name in solved)
    require_loadable(result.folder)
    means = [load_file(path / WEIGHTS) for path in experts]
    merged = load_file(result.folder / WEIGHTS)
    moved = [name for name in solved if not torch.allclose(merged[name], (means[0][name] + means[1][name]) / 2, 1e-3)]
    assert len(moved) > 0.9 * len(solved), set(solved) - set(moved)


def test_a_fused_file_merges_with_a_fused_file_only(tmp_path: Path) -> None:
    from fusehub.errors import Incompatible

    experts = relatives(tmp_path, "qwen3_moe", task="text-generation", hidden=16)
    network, _ = load(experts[1])
    tensors = {name: value.clone() for name, value in network.state_dict().items()}
    save_file(tensors, experts[1] / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(Incompatible, match=r"has no tensor .*experts"):
        plan_merge(recipe_of(experts, "mean"))
    network, _ = load(experts[0])
    save_weights(experts[0], {name: value.clone() for name, value in network.state_dict().items()})
    _, loading = load(merge(recipe_of(experts, "mean"), tmp_path / "merged").folder)
    assert not any(loading.values())


def test_models_of_tasks_that_are_not_supported_are_told_which_are(tmp_path: Path) -> None:
    from fusehub.errors import Incompatible

    experts = relatives(tmp_path, hidden=16)
    for architecture, kind in (("BertForMultipleChoice", "bert"), ("WhisperForConditionalGeneration", "whisper")):
        for path in experts:
            edit_json(path / "config.json", architectures=[architecture], model_type=kind)
        with pytest.raises(Incompatible, match=rf"is a {architecture}.*\n.*ForQuestionAnswering.*T5"):
            plan_merge(recipe_of(experts, "mean"))
