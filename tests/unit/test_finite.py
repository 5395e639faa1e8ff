"""Models whose numbers are not finite: nothing is counted of them, and the layer is named."""

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from fusehub.collecting.collect import collect
from fusehub.errors import BadStatistics, NonFinite
from fusehub.statistics.inspection import inspect
from tests.unit.experts import WEIGHTS, leftovers, save_weights, text_file
from tests.unit.test_statistics_format import rewrite
from tests.unit.tiny import tiny_model

DENSE = "bert.encoder.layer.{}.{}.dense.weight"


@pytest.fixture
def broken(tmp_path):
    """Makes a model with some of its tensors changed by a function; its folder."""

    def make(arch: str = "bert", **changes):
        folder = tiny_model(tmp_path / "model", arch)
        tensors = load_file(folder / WEIGHTS)
        for name, change in changes.items():
            tensors[name] = change(tensors[name]).to(tensors[name].dtype)
        save_weights(folder, tensors)
        return folder

    return make


def with_one(value: float):
    def change(tensor):
        tensor[0, 0] = value
        return tensor

    return change


@pytest.mark.parametrize("fisher", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_give_no_statistics(broken, tmp_path, value, fisher):
    name = DENSE.format(1, "output")
    model = broken(**{name: with_one(value)})
    with pytest.raises(NonFinite, match=rf"model: {name} holds NaN or infinity") as raised:
        collect(str(model), text_file(tmp_path), tmp_path / "out", fisher=fisher)
    assert "collect" not in raised.value.fix
    assert leftovers(tmp_path) == ["model", "texts-0.txt"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        # Each is finite, their product is not: what comes out is NaN after the norm.
        (
            {DENSE.format(0, "intermediate"): 1e30, DENSE.format(0, "output"): 1e30},
            "what bert.encoder.layer.1.attention.self.query.weight is given is NaN",
        ),
        # Nothing after the last layer is watched.
        ({"classifier.weight": 3e38, "bert.pooler.dense.weight": 1e9}, "the output is NaN or infinity"),
        # What the layer is given fits into float32, its square does not.
        ({"pre_classifier.weight": 1e21}, "the square of what classifier.weight is given"),
    ],
)
def test_numbers_that_grow_too_large_are_told_by_their_layer(broken, tmp_path, changes, said):
    arch = "distilbert" if "pre_classifier.weight" in changes else "bert"
    model = broken(arch, **{name: lambda tensor, by=by: tensor.sign() * by for name, by in changes.items()})
    with pytest.raises(NonFinite, match="model: " + said):
        collect(str(model), text_file(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line_says_the_same(broken, tmp_path):
    from fusehub.cli.main import app

    name = DENSE.format(1, "output")
    model = broken(**{name: with_one(float("nan"))})
    result = CliRunner().invoke(
        app, ["collect", str(model), "--data", text_file(tmp_path), "--out", str(tmp_path / "o")]
    )
    assert result.exit_code == 1 and f"{name} holds NaN or infinity" in " ".join(result.stderr.split())
    assert not (tmp_path / "o").exists()


def test_what_is_said_of_statistics_that_are_not_finite_leads_to_the_model(tmp_path):
    """Making them again gives the same, if the model gave them: then `collect` says so."""
    collect(str(tiny_model(tmp_path / "model")), text_file(tmp_path), tmp_path / "out").close()
    name = "classifier.weight.s"
    rewrite(tmp_path / "out" / "statistics.safetensors", None, **{name: torch.full((32,), float("nan"))})
    with pytest.raises(BadStatistics, match=f"{name} holds NaN or infinity") as raised:
        inspect(str(tmp_path / "out"))
    assert "or the model was" in raised.value.fix and "stops where the model's numbers" in raised.value.fix
