"""Mixtures of experts: their matrices count by the share of the tokens that were routed to them."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fusehub.collecting.collect import collect
from fusehub.collecting.routing import mixture_of, shares_of
from fusehub.merging.merge import merge
from fusehub.models.layout import layout_of
from fusehub.models.loading import load_model, load_tokenizer
from fusehub.models.resolve import resolve
from fusehub.models.tasks import load_config
from tests.unit.experts import WEIGHTS, least_squares, recipe_of, rel, relatives, text_file, texts_of
from tests.unit.test_collector_kinds import raw
from tests.unit.test_statistics_format import rewrite

EXPERT = "model.layers.1.mlp.experts.{}.{}_proj.weight"


@pytest.fixture(scope="module", params=["qwen3_moe", "mixtral"])
def mixtures(request, tmp_path_factory):
    """Two mixtures with statistics, and for each the rows of every matrix, by its name in the file: [rows, in]."""
    folder = tmp_path_factory.mktemp(request.param)
    paths = relatives(folder, request.param, task="text-generation", layers=2)
    inputs = []
    for number, path in enumerate(paths):
        texts = texts_of(number, 40)
        collect(str(path), text_file(folder, number, texts), path / "fusehub", size="full").close()
        ref = resolve(str(path))
        layout, tokenizer = layout_of(load_config(ref)), load_tokenizer(ref)
        stored = {parameter: name for name, parameter in layout.names(load_file(path / WEIGHTS)).items()}
        rows = raw(load_model(ref), layout, [tokenizer(text, return_tensors="pt") for text in texts])
        inputs.append({stored[name]: own for name, own in rows.items()})
    return paths, inputs


def of_mixture(inputs, name):
    """All the rows of a mixture, of which `name` is one matrix."""
    return sum(len(rows) for other, rows in inputs.items() if mixture_of(other) == mixture_of(name))


def test_every_token_counts_the_same_wherever_it_is_routed(mixtures, tmp_path):
    paths, inputs = mixtures
    result = merge(recipe_of(paths), tmp_path / "merged")
    merged, tensors = load_file(tmp_path / "merged" / WEIGHTS), [load_file(path / WEIGHTS) for path in paths]
    solved = [n for n, t in result.tensors.items() if t.action == "solve" and mixture_of(n)]
    uneven = 0
    for name in solved:
        rows = [own[name] for own in inputs]
        weights = [own[name] for own in tensors]
        # Least squares on all rows at once, each row weighted by one over the tokens of its model's mixture.
        shares = [1 / of_mixture(own, name) for own in inputs]
        expected = least_squares(rows, weights, weighting="sum", coefficients=shares)
        assert rel(merged[name], expected) < 1e-4, name
        uneven += rel(least_squares(rows, weights), expected) > 1e-3
    assert len(solved) >= 20 and uneven > len(solved) / 2, "the same say for every matrix gives something else"


def test_plain_layers_count_as_ever(mixtures, tmp_path):
    paths, inputs = mixtures
    result = merge(recipe_of(paths), tmp_path / "merged")
    merged, tensors = load_file(tmp_path / "merged" / WEIGHTS), [load_file(path / WEIGHTS) for path in paths]
    for name in (n for n, t in result.tensors.items() if t.action == "solve" and not mixture_of(n)):
        expected = least_squares([own[name] for own in inputs], [own[name] for own in tensors])
        assert rel(merged[name], expected) < 1e-4, name


def without(path, to, *names, rows=None):
    """The statistics of `path` where nothing (or only so many rows) came to some matrices, in the folder `to`."""
    import shutil

    shutil.copytree(path / "fusehub", to)

    def change(metadata):
        for name in names:
            leader = metadata["aliases"].pop(name, name)
            metadata["aliases"] = {a: b for a, b in metadata["aliases"].items() if b != leader}
            if rows:
                metadata["layers"][leader]["rows"] = rows
            elif metadata["layers"].pop(leader, None):
                metadata["uncounted"].append(name)
        return metadata

    with_rows = {f"{name}.n": torch.tensor(rows) for name in names} if rows else {}
    rewrite(to / "statistics.safetensors", change, **with_rows)
    return to


def told(folder, statistics):
    """Makes the JSON beside the file say what the file says."""
    from fusehub.statistics.file import Statistics

    opened = Statistics(statistics / "statistics.safetensors")
    (statistics / "statistics.json").write_text(json.dumps(opened.metadata))
    opened.close()


def test_a_matrix_that_one_model_never_used_is_the_others(mixtures, tmp_path):
    paths, inputs = mixtures
    names = sorted(n for n in inputs[1] if n.startswith("model.layers.1.") and mixture_of(n) and ".experts.2." in n)
    lacking = without(paths[0], tmp_path / "lacking", *names)
    told(tmp_path, lacking)
    result = merge(recipe_of(paths, statistics=[lacking, paths[1] / "fusehub"]), tmp_path / "merged")
    merged, other = load_file(tmp_path / "merged" / WEIGHTS), load_file(paths[1] / WEIGHTS)
    for name in names:
        assert result.tensors[name].action == "solve"
        assert torch.equal(merged[name], other[name]), name


def test_a_matrix_that_hardly_any_token_came_to_is_averaged_and_named(mixtures, tmp_path):
    paths, inputs = mixtures
    names = sorted(n for n in inputs[1] if n.startswith("model.layers.1.") and mixture_of(n) and ".experts.2." in n)
    few = []
    for number, path in enumerate(paths):
        leaders = [n for n in names if n in json.loads((path / "fusehub" / "statistics.json").read_text())["layers"]]
        few.append(without(path, tmp_path / f"few-{number}", *leaders, rows=15 + number))
        told(tmp_path, few[-1])
    result = merge(recipe_of(paths, statistics=few), tmp_path / "merged")
    merged, tensors = load_file(tmp_path / "merged" / WEIGHTS), [load_file(path / WEIGHTS) for path in paths]
    leaders = [n for n in names if result.tensors[n].action == "mean"]
    assert leaders and all(rel(merged[n], (tensors[0][n] + tensors[1][n]) / 2) < 1e-6 for n in leaders)
    [note] = [note for note in result.plan.notes if "matrices of mixtures" in note and "averaged" in note]
    assert "fewer than 32 rows" in note and leaders[0] in note


def test_matrices_with_fewer_rows_than_inputs_are_named_with_how_many(mixtures, tmp_path):
    """They count by their rows (`test_every_token_counts_the_same_wherever_it_is_routed`)."""
    paths, inputs = mixtures
    layers = json.loads((paths[0] / "fusehub" / "statistics.json").read_text())["layers"]
    names = [name for name in layers if mixture_of(name)]
    assert all(layers[name]["rows"] == len(inputs[0][name]) for name in names), "rows of each expert are kept"
    few = tmp_path / "few"
    collect(str(paths[0]), text_file(tmp_path, 0, texts_of(0, 3)), few, size="full").close()
    result = merge(recipe_of(paths, statistics=[few, paths[1] / "fusehub"]), tmp_path / "merged")
    rows = [found.rows for found in result.plan.statistics]
    thin = {
        name: [own.get(name, 0) for own in rows if own.get(name, 0) < inputs[0][name].shape[1]]
        for name, tensor in result.tensors.items()
        if tensor.action == "solve" and mixture_of(name)
    }
    thin = {name: own for name, own in thin.items() if own}
    assert thin
    [note] = [note for note in result.plan.notes if "fewer rows than inputs" in note]
    assert note.startswith(f"{len(thin)} matrices of mixtures")
    for name, own in [*thin.items()][:3]:
        assert f"{name} ({own[0]} of " in note
    report = json.loads((tmp_path / "merged" / "fusehub_report.json").read_text())
    assert note in report["notes"]


def test_identical_mixtures_give_themselves(mixtures, tmp_path):
    paths, _ = mixtures
    entries = recipe_of([paths[0], paths[0]], statistics=[paths[0] / "fusehub"] * 2, weights=[1.0, 3.0])
    merge(entries, tmp_path / "merged")
    merged, own = load_file(tmp_path / "merged" / WEIGHTS), load_file(paths[0] / WEIGHTS)
    assert all(torch.allclose(merged[name], value, atol=1e-6) for name, value in own.items())


def test_from_texts_at_hand_they_count_by_their_share_too(mixtures, tmp_path):
    paths, _ = mixtures
    recipe = recipe_of(paths, "regmean_plus_plus").changed(
        data={str(path): text_file(tmp_path, number, texts_of(number, 40)) for number, path in enumerate(paths)}
    )
    result = merge(recipe, tmp_path / "merged")
    merged, tensors = load_file(tmp_path / "merged" / WEIGHTS), [load_file(path / WEIGHTS) for path in paths]
    seen = 0
    for name, tensor in result.tensors.items():
        if tensor.action == "solve" and mixture_of(name):
            assert np.isclose(sum(tensor.shares[0] for tensor in result.tensors.values() if tensor.shares
                              and mixture_of(tensor.name) == mixture_of(name)), 1)  # fmt: skip
            seen += rel(merged[name], (tensors[0][name] + tensors[1][name]) / 2) > 1e-3
    assert seen


@pytest.mark.parametrize(
    ("name", "mixture"),
    [
        ("model.layers.0.mlp.experts.11.up_proj.weight", "model.layers.0.mlp.experts.*.up_proj.weight"),
        ("model.layers.0.block_sparse_moe.experts.3.w1.weight", "model.layers.0.block_sparse_moe.experts.*.w1.weight"),
        ("decoder.block.1.layer.2.mlp.experts.expert_7.wi.weight", "decoder.block.1.layer.2.mlp.experts.*.wi.weight"),
        ("model.layers.0.mlp.shared_expert.up_proj.weight", None),
        ("model.layers.0.mlp.gate.weight", None),
        ("bert.encoder.layer.0.output.dense.weight", None),
    ],
)
def test_matrices_of_a_mixture_are_known_by_their_names(name, mixture):
    assert mixture_of(name) == mixture


def test_a_model_without_statistics_has_the_mean_share_of_the_others():
    names = [EXPERT.format(0, "up")] * 3
    rows, totals = [{names[0]: 10}, {names[0]: 30}, {}], [{mixture_of(names[0]): 100}] * 2 + [{}]
    assert shares_of(names, rows, totals, [False, False, True]) == (0.1, 0.3, 0.2)
    assert shares_of(names, [{}] * 3, [{}] * 3, [True] * 3) == (1.0, 1.0, 1.0)
    assert shares_of(["a.weight"] * 2, [{}] * 2, [{}] * 2) == ()
