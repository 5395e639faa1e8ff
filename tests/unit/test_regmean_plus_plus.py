"""RegMean++ against a reference that copies whole models, and what it says of the data that it was made with."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers.models.bert.modeling_bert import BertLayer

import fusehub.merging.engine.block_runner
from fusehub.collecting.collect import collect
from fusehub.data.examples import load_examples
from fusehub.data.inputs import Inputs
from fusehub.errors import BadData, BadRecipe, Incompatible, NotFound
from fusehub.merging.engine.block_runner import Runner
from fusehub.merging.merge import merge
from fusehub.merging.recipe import Recipe
from fusehub.merging.result import MergeResult
from fusehub.models.loading import load_model
from fusehub.models.piecewise.blocks import blocks_of
from fusehub.models.resolve import resolve
from fusehub.publishing.cards.merge_card import model_card
from fusehub.publishing.loadable import require_loadable
from tests.unit.experts import WEIGHTS, least_squares, raw_inputs, rel, relatives, save_weights, text_file, texts_of
from tests.unit.test_inputs import own_examples, write
from tests.unit.tiny import KINDS, tiny_images

METHOD = "regmean_plus_plus"


def data_of(experts, count=24):
    return {str(path): text_file(path.parent, n, texts_of(n, count)) for n, path in enumerate(experts)}


def plus_plus(experts, out: Path, **changes) -> MergeResult:
    data = changes.pop("data", None) or data_of(experts)
    return merge([str(path) for path in experts], out, method=METHOD, data=data, **changes)


def reference(experts, stages, texts, **options):
    """The merged model in float64: for each stage, every expert's own is put into a copy of the merged model.

    `stages` are names of modules in their order, `texts` a list of inputs for each expert, one a text, unpadded.
    """
    from transformers.pytorch_utils import Conv1D

    models = [load_model(resolve(str(path)), dtype=torch.float64) for path in experts]
    merged = copy.deepcopy(models[0])
    with torch.no_grad():
        for name, value in merged.state_dict().items():
            if value.is_floating_point():
                value.copy_(sum(model.state_dict()[name] for model in models) / len(models))
    for stage in stages:
        module = merged.get_submodule(stage)
        linears = {
            f"{stage}.{name}".rstrip("."): own
            for name, own in module.named_modules()
            if isinstance(own, torch.nn.Linear | Conv1D)
        }
        inputs = []
        for model, own in zip(models, texts, strict=True):
            hybrid = copy.deepcopy(merged)
            hybrid.get_submodule(stage).load_state_dict(model.get_submodule(stage).state_dict())
            rows = {name: [] for name in linears}
            for name in linears:
                hybrid.get_submodule(name).register_forward_pre_hook(
                    lambda _, args, name=name, rows=rows: rows[name].append(
                        args[0].reshape(-1, args[0].shape[-1]).numpy()
                    )
                )
            with torch.no_grad():
                for one in own:
                    hybrid(**one)
            inputs.append({name: np.concatenate(own) for name, own in rows.items()})
        for name, linear in linears.items():
            turned = isinstance(linear, Conv1D)
            weights = [model.get_submodule(name).weight.detach().numpy() for model in models]
            solved = least_squares([own[name] for own in inputs], [w.T if turned else w for w in weights], **options)
            with torch.no_grad():
                linear.weight.copy_(torch.tensor(solved.T if turned else solved))
    return merged


def tokens_of(experts, texts):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(experts[0])
    return [[tokenizer(text, return_tensors="pt", truncation=True) for text in own] for own in texts]


STAGES = {
    "bert": ["bert.encoder.layer.0", "bert.encoder.layer.1", "bert.pooler.dense", "classifier"],
    "gpt2": ["transformer.h.0", "transformer.h.1", "score"],
    "distilbert": ["distilbert.transformer.layer.0", "distilbert.transformer.layer.1", "pre_classifier", "classifier"],
    # One block that is called twice.
    "albert": [
        "albert.encoder.embedding_hidden_mapping_in",
        "albert.encoder.albert_layer_groups.0",
        "albert.pooler",
        "classifier",
    ],
    "deberta-v2": ["deberta.encoder.layer.0", "deberta.encoder.layer.1", "pooler.dense", "classifier"],
}


@pytest.mark.parametrize("arch", STAGES)
def test_each_block_is_solved_with_what_the_merged_ones_before_it_give(arch, tmp_path):
    experts = relatives(tmp_path, arch)
    texts = [texts_of(number, 10) for number in range(2)]
    wanted = reference(experts, STAGES[arch], tokens_of(experts, texts), alpha=0.9)
    merged = load_model(resolve(str(plus_plus(experts, tmp_path / "merged", data=data_of(experts, 10)).folder)))
    for name, value in merged.state_dict().items():
        assert rel(value, wanted.state_dict()[name]) < 1e-4, name


@pytest.mark.parametrize("arch", ["t5", "bart"])
def test_encoder_and_decoder_are_walked_through_in_their_order(arch, tmp_path):
    experts = relatives(tmp_path, arch, task="text2text-generation")
    data, texts = {}, []
    for number, path in enumerate(experts):
        pairs = list(zip(texts_of(number, 8), reversed(texts_of(number, 8)), strict=True))
        file = tmp_path / f"pairs-{number}.jsonl"
        file.write_text("\n".join(json.dumps({"text": a, "target": b}) for a, b in pairs))
        data[str(path)] = str(file)
        examples = load_examples(str(file), "text2text-generation")
        inputs = Inputs.of(resolve(str(path)), examples)
        texts.append([batch for _, batch in inputs.batches(batch_size=1)])
    list_name = "block" if arch == "t5" else "layers"
    prefix = "" if arch == "t5" else "model."
    stages = [f"{prefix}{side}.{list_name}.{n}" for side in ("encoder", "decoder") for n in range(2)]
    wanted = reference(experts, stages, texts, alpha=0.9)
    merged = load_model(resolve(str(plus_plus(experts, tmp_path / "merged", data=data).folder)))
    for name, value in merged.state_dict().items():
        assert not value.any() or rel(value, wanted.state_dict()[name]) < 1e-4, name


def same_embeddings(experts):
    """The experts with the embeddings of the first."""
    first = load_file(experts[0] / WEIGHTS)
    own = load_file(experts[1] / WEIGHTS)
    save_weights(experts[1], own | {name: value for name, value in first.items() if "embeddings" in name})
    return experts


def test_the_first_block_is_regmeans_and_the_others_are_not(tmp_path):
    experts = same_embeddings(relatives(tmp_path))
    data = data_of(experts)
    for number, path in enumerate(experts):
        collect(str(path), data[str(path)], tmp_path / f"statistics-{number}", size="full").close()
    statistics = {str(path): str(tmp_path / f"statistics-{number}") for number, path in enumerate(experts)}
    plain = merge([str(path) for path in experts], tmp_path / "plain", statistics=statistics).folder
    merged = load_file(plus_plus(experts, tmp_path / "merged").folder / WEIGHTS)
    otherwise = 0
    for name, value in load_file(plain / WEIGHTS).items():
        if ".layer.0." in name or value.ndim < 2 or "embeddings" in name:
            assert torch.equal(merged[name], value), name
        else:
            otherwise += 1
            assert rel(merged[name], value) > 1e-3, name
    assert 0 < otherwise < len(merged)


@pytest.mark.parametrize(
    "options",
    [
        {"parameters": {"affine": True, "alpha": 0.5}},
        {"parameters": {"weighting": "sum", "alpha": 0.5}, "weights": True},
    ],
)
def test_the_options_of_regmean_mean_the_same(options, tmp_path):
    experts = relatives(tmp_path)
    coefficients = [1.0, 3.0] if options.pop("weights", None) else [1.0, 1.0]
    weights = {str(path): weight for path, weight in zip(experts, coefficients, strict=True)}
    merged = load_file(plus_plus(experts, tmp_path / "merged", weights=weights, **options).folder / WEIGHTS)
    # The first block's inputs need no merged block: those of the merged embeddings.
    embedded = merge([str(path) for path in experts], tmp_path / "mean", method="mean", weights=weights).folder
    models = [load_file(path / WEIGHTS) for path in experts]
    name = "bert.encoder.layer.0.attention.self.query"
    rows = [raw_inputs(embedded, texts_of(number))[f"{name}.weight"] for number in range(2)]
    parameters = dict(options["parameters"])
    affine = parameters.pop("affine", False)
    solved = least_squares(
        rows,
        [model[f"{name}.weight"].numpy() for model in models],
        coefficients=coefficients,
        affine=[model[f"{name}.bias"].numpy() for model in models] if affine else None,
        **parameters,
    )
    assert rel(merged[f"{name}.weight"], solved[:, :16]) < 1e-4
    if affine:
        assert rel(merged[f"{name}.bias"], solved[:, 16]) < 1e-3


def test_blocks_are_run_twice_each_and_again_where_nothing_can_be_kept(tmp_path, monkeypatch):
    """A tiny disk of memory for what blocks give: the same bytes, at another cost."""
    experts = relatives(tmp_path, layers=4)
    counted = []
    forward = BertLayer.forward

    def count(self, hidden, *args, **kwargs):
        counted.append(len(hidden))
        return forward(self, hidden, *args, **kwargs)

    monkeypatch.setattr(BertLayer, "forward", count)
    made, runs = {}, {}
    for room in (0.5, 0.0):
        monkeypatch.setattr(fusehub.merging.engine.block_runner, "_ROOM", room)
        counted.clear()
        made[room] = plus_plus(experts, tmp_path / f"merged-{room}").hashes
        # Those with more than the 3 rows of a probe are batches of texts.
        runs[room] = sum(rows for rows in counted if rows > 3)
    assert made[0.5] == made[0.0]
    texts = sum(len(texts_of(number)) for number in range(2))
    # Each block merged and not, but for what follows the last; and all of those before it, each time.
    assert runs[0.5] == 2 * 4 * texts
    assert runs[0.0] == (1 + 2 + 3 + 4 + 4 + 4) * texts


def test_what_looks_at_more_than_the_last_block_is_found_out():
    """Blocks whose first is looked at by the last, past those between."""

    class Skipping(torch.nn.Module):
        def __init__(self, skips):
            super().__init__()
            self.skips = skips
            self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(4))

        def forward(self, x):
            first = y = self.layers[0](x)
            for layer in self.layers[1:-1]:
                y = layer(y)
            return self.layers[-1](y + first if self.skips else y)

    for skips in (False, True):
        torch.manual_seed(0)
        model = Skipping(skips)
        names = blocks_of(model, [f"layers.{n}" for n in range(4)])
        runner = Runner(model, names)
        batch = {"x": torch.randn(3, 4)}
        runner.learn(batch)
        assert runner.order == names == ["layers.0", "layers.1", "layers.2", "layers.3"]
        assert [runner.holds(batch, key=0, upto=upto) for upto in range(4)] == [True, True, True, not skips]
        runner.close()
        assert "forward" not in vars(model.layers[0])


@pytest.mark.parametrize(("arch", "task"), KINDS)
def test_every_kind_of_model_is_merged_and_loads_whole(arch, task, tmp_path):
    experts = relatives(tmp_path, arch, task=task, hidden=16)
    data = {}
    for number, path in enumerate(experts):
        if task == "image-classification":
            data[str(path)] = str(tiny_images(tmp_path / f"photos-{number}", seed=number))
            continue
        found = own_examples(task, tmp_path)
        rows = [
            {"question": text[0], "context": text[1]} if isinstance(text, tuple) else {"text": text}
            for text in found.texts[number::2]
        ]
        if task == "text2text-generation":
            rows = [row | {"target": label} for row, label in zip(rows, found.labels[number::2], strict=True)]
        data[str(path)] = write(tmp_path / f"data-{number}.jsonl", rows)
    result = plus_plus(experts, tmp_path / "merged", data=data)
    require_loadable(result.folder)
    tensors = result.tensors
    linear = {name for name, tensor in tensors.items() if tensor.linear is not None}
    solved = {name for name in linear if tensors[name].action == "solve"}
    assert all(".experts." in name for name in linear - solved) and len(solved) >= 8
    assert all("no input rows of" in tensors[name].why for name in linear - solved)
    models = [load_file(path / WEIGHTS) for path in (*experts, result.folder)]
    moved = [n for n in solved if not torch.allclose(models[2][n], (models[0][n] + models[1][n]) / 2, 1e-3)]
    assert len(moved) > 0.9 * len(solved)


def test_labels_and_heads_are_as_with_every_method(tmp_path):
    labels = (("negative", "positive"), ("positive", "neutral", "negative"))
    experts = relatives(tmp_path, labels=labels)
    merged = plus_plus(experts, tmp_path / "merged")
    assert set(merged.plan.labels.labels) == {"negative", "positive", "neutral"}
    require_loadable(merged.folder)
    kept = plus_plus(experts, tmp_path / "kept", heads="keep")
    for name in kept.plan.names:
        require_loadable(kept.folder / name)
    head = load_file(kept.folder / kept.plan.names[1] / "head.safetensors")
    assert torch.equal(head["classifier.weight"], load_file(experts[1] / WEIGHTS)["classifier.weight"])


def test_experts_of_two_tasks_share_a_body(tmp_path):
    one = relatives(tmp_path / "one")
    other = relatives(tmp_path / "two", task="token-classification", labels=(("O", "B-PER"), ("O", "B-PER")))
    for path in other:
        save_weights(path, load_file(path / WEIGHTS))
    experts = [one[0], other[1]]
    data = {str(one[0]): text_file(tmp_path, 0)}
    rows = [json.dumps({"tokens": text.split()}) for text in texts_of(1)]
    (tmp_path / "words.jsonl").write_text("\n".join(rows))
    data[str(other[1])] = str(tmp_path / "words.jsonl")
    result = plus_plus(experts, tmp_path / "merged", data=data, allow_unrelated=True)
    assert sum(tensor.action == "solve" for tensor in result.tensors.values()) == 12
    for name in result.plan.names:
        require_loadable(result.folder / name)


def test_the_same_recipe_gives_the_same_bytes_and_wants_the_same_data(tmp_path):
    experts = relatives(tmp_path, dtype=torch.bfloat16)
    data = data_of(experts)
    first = plus_plus(experts, tmp_path / "first", data=data, limit=20, max_length=12, seed=3)
    written = yaml.safe_load((first.folder / "fusehub_recipe.yaml").read_text())
    assert [entry["data"] for entry in written["models"]] == list(data.values())
    assert (written["limit"], written["max_length"], written["seed"]) == (20, 12, 3)
    again = merge(first.folder / "fusehub_recipe.yaml", tmp_path / "again")
    assert again.hashes == first.hashes
    for file in ("fusehub_recipe.yaml", "fusehub_report.json"):
        assert (again.folder / file).read_bytes() == (first.folder / file).read_bytes()
    other = plus_plus(experts, tmp_path / "other", data=data, limit=20, max_length=12, seed=4)
    assert other.hashes != first.hashes
    Path(data[str(experts[1])]).write_text("something else\n")
    with pytest.raises(Incompatible, match=r"The data of .*expert-1, .*texts-1.txt, is not what it was"):
        merge(first.folder / "fusehub_recipe.yaml", tmp_path / "changed")
    assert not (tmp_path / "changed").exists()


def test_report_and_card_say_which_texts_it_was_made_with(tmp_path):
    experts = relatives(tmp_path)
    result = plus_plus(experts, tmp_path / "merged", limit=20)
    report = json.loads((result.folder / "fusehub_report.json").read_text())
    assert [own["examples"] for own in report["data"]] == [20, 20]
    assert [own["data"]["source"] for own in report["data"]] == ["texts-0.txt", "texts-1.txt"]
    assert any("runs it, block by block, over 20 examples" in note for note in report["notes"])
    card = model_card(result.folder).text
    assert "| counted while merging: 20 texts, " in card and "tokens of texts-1.txt |" in card
    assert "no texts were read" not in card and "which the model was run over" in card
    assert str(tmp_path) not in card and "- texts-0.txt" not in card
    assert "texts-0.txt and texts-1.txt" in card


# --- what cannot be done --------------------------------------------------------------------------------------------


def test_a_method_that_runs_the_model_wants_texts_of_every_model(tmp_path):
    experts = relatives(tmp_path)
    data = data_of(experts)
    names = [str(path) for path in experts]
    with pytest.raises(BadRecipe, match=r"there are none of .*expert-1\.") as error:
        merge(names, tmp_path / "merged", method=METHOD, data={names[0]: data[names[0]]})
    assert f"--data {names[1]}=SOURCE" in error.value.fix
    with pytest.raises(BadRecipe, match="counts its statistics itself"):
        plus_plus(experts, tmp_path / "merged", statistics={names[0]: "data-free"})
    with pytest.raises(BadRecipe, match="no model in this merge 'x'"):
        plus_plus(experts, tmp_path / "merged", data={"x": data[names[0]]})
    with pytest.raises(NotFound, match="There is no file or folder"):
        plus_plus(experts, tmp_path / "merged", data=dict.fromkeys(names, str(tmp_path / "none.csv")))
    with pytest.raises(NotFound, match="has no column 'x'"):
        plus_plus(experts, tmp_path / "merged", text_column="x")
    with pytest.raises(BadData, match="up to 64 tokens, not 100"):
        plus_plus(experts, tmp_path / "merged", max_length=100)
    with pytest.raises(BadRecipe, match="limit"):
        plus_plus(experts, tmp_path / "merged", limit=0)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("change", [{"limit": 3}, {"max_length": 3}, {"text_column": "text"}, {"data": True}])
def test_a_method_that_runs_no_model_takes_no_data(change, tmp_path):
    experts = relatives(tmp_path)
    change = {"data": data_of(experts)} if "data" in change else change
    with pytest.raises(BadRecipe, match="Mean of the weights runs no model while it merges") as error:
        merge([str(path) for path in experts], tmp_path / "merged", method="mean", **change)
    assert "fusehub collect" in error.value.fix


def test_what_is_no_source_of_data_is_refused_in_a_recipe(tmp_path):
    experts = relatives(tmp_path)
    recipe = {"merge_method": METHOD, "models": [{"model": str(path), "data": 3} for path in experts]}
    with pytest.raises(BadRecipe, match=r"models\.0\.data"):
        Recipe.parse(recipe)


def test_the_command_line_merges_from_data(tmp_path, capsys):
    from typer.testing import CliRunner

    from fusehub.cli.main import app

    experts = relatives(tmp_path)
    data = data_of(experts)
    words = [word for path, source in data.items() for word in ("--data", f"{path}={source}")]
    command = ["merge", *map(str, experts), "--method", METHOD, "--limit", "20", *words]
    planned = CliRunner().invoke(app, [*command, "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert "counted while merging, from 20 examples" in planned.output
    made = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "merged"), "--json"])
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["statistics"] == ["data", "data"]
    wanted = plus_plus(experts, tmp_path / "wanted", data=data, limit=20).hashes
    assert json.loads(made.stdout)["sha256"] == wanted
    refused = CliRunner().invoke(app, ["merge", *map(str, experts), "--method", METHOD, "--out", str(tmp_path / "no")])
    assert refused.exit_code == 1 and "--data" in refused.stderr and not (tmp_path / "no").exists()
