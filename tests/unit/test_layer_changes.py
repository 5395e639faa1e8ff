"""What a merge kept of its experts, against raw inputs run through each layer, and against algebra."""

import json
import shutil

import numpy as np
import pytest
from transformers import AutoModel
from typer.testing import CliRunner

from fusehub.cli.main import app
from fusehub.comparing.layer_changes import layer_changes
from fusehub.errors import NotFound
from fusehub.merging.merge import merge
from tests.unit.experts import raw_inputs, recipe_of, relatives, texts_of, weights_of, with_statistics


@pytest.fixture(scope="module", params=["bert", "gpt2"])
def experts(request, tmp_path_factory):
    """Two experts with statistics; gpt2 stores its weights turned round."""
    return with_statistics(relatives(tmp_path_factory.mktemp(request.param), request.param))


def test_the_change_of_outputs_is_that_of_the_experts_own_texts(experts, tmp_path):
    merge(recipe_of(experts), tmp_path / "merged")
    found = layer_changes(tmp_path / "merged")
    assert found.experts == ["expert-0", "expert-1"] and found.of_outputs
    merged = weights_of(tmp_path / "merged")
    transposed = "gpt2" in json.loads((tmp_path / "merged" / "config.json").read_text())["model_type"]
    by_name = {(f"{change.layer}.weight", change.expert): change for change in found.changes}
    checked = 0
    for number, expert in enumerate(experts):
        own = weights_of(expert)
        for name, x in raw_inputs(expert, texts_of(number)).items():
            change = by_name.get((name, f"expert-{number}"))
            if change is None:  # A head.
                continue
            a, b = (np.asarray(weights[name], np.float64) for weights in (merged, own))
            turn = (lambda w: w) if transposed else (lambda w: w.T)
            expected = np.linalg.norm(x @ turn(a - b)) / np.linalg.norm(x @ turn(b))
            assert change.outputs == pytest.approx(expected, rel=1e-4), name
            assert change.weights == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(b), rel=1e-6)
            checked += 1
    assert checked == len(found.changes) > 4
    assert [row["layer"] for row in found.rows()] == found.layers
    # From the first layer of the model to the last, a pooler after all blocks.
    modules = [name for name, _ in AutoModel.from_pretrained(experts[0]).named_modules()]
    places = [modules.index(layer.removeprefix("bert.").removeprefix("transformer.")) for layer in found.layers]
    assert places == sorted(places)
    assert any(row["expert-0"] != row["expert-1"] for row in found.rows())


def test_a_merge_of_one_expert_alone_has_kept_all_of_it(experts, tmp_path):
    merge(recipe_of(experts, weights=[1, 0], merge_method="mean"), tmp_path / "first")
    found = layer_changes(tmp_path / "first")
    assert not found.of_outputs and {c.outputs for c in found.changes} == {None}
    assert {row["expert-0"] for row in found.rows()} == {0.0}
    assert all(row["expert-1"] > 0.01 for row in found.rows())


def test_the_command_prints_a_row_a_layer_and_refuses_what_is_no_merge(experts, tmp_path):
    merge(recipe_of(experts), tmp_path / "merged")
    run = CliRunner().invoke(app, ["layers", str(tmp_path / "merged")])
    assert run.exit_code == 0, run.output
    found = layer_changes(tmp_path / "merged")
    assert all(layer in run.stdout for layer in found.layers) and "texts" in run.stdout
    assert f"{100 * found.changes[0].main:.1f} %" in run.stdout
    told = json.loads(CliRunner().invoke(app, ["layers", str(tmp_path / "merged"), "--json"]).stdout)
    assert told == json.loads(json.dumps(found.to_dict()))
    with pytest.raises(NotFound, match="has no fusehub_recipe"):
        layer_changes(shutil.copytree(experts[0], tmp_path / "alone" / "expert"))
