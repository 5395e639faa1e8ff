"""Models whose numbers are not finite: nothing is counted of them, and the layer is named."""

from contextlib import closing

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from fusehub.collecting.collect import collect
from fusehub.comparing.compare import compare
from fusehub.comparing.evaluate import evaluate
from fusehub.comparing.predictor import predict
from fusehub.errors import BadStatistics, NonFinite
from fusehub.statistics.inspection import inspect
from tests.unit.experts import WEIGHTS, leftovers, rel, save_weights, text_file
from tests.unit.test_statistics_format import rewrite
from tests.unit.tiny import tiny_model

DENSE = "bert.encoder.layer.{}.{}.dense.weight"


@pytest.fixture
def broken(tmp_path):
    """Makes a model with some of its tensors changed by a function; its folder."""

    def make(arch: str = "bert", settings=None, **changes):
        folder = tiny_model(tmp_path / "model", arch, **settings or {})
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


@pytest.fixture
def loud(broken):
    """A model that writes, whose numbers grow too large where it tells tokens, and there alone."""
    return broken(
        "llama",
        {"task": "text-generation", "tie_word_embeddings": False},
        **{"lm_head.weight": lambda tensor: tensor.sign() * 3e38},
    )


@pytest.mark.parametrize("stream", ["off", "on"])
def test_grams_are_those_of_a_model_whose_logits_are_finite(loud, tmp_path, stream):
    """They do not depend on what it tells: the layer that does is not run for them."""
    sound = tiny_model(tmp_path / "sound", "llama", task="text-generation", tie_word_embeddings=False)
    data = text_file(tmp_path)
    with (
        closing(collect(str(loud), data, tmp_path / "loud", size="full", stream=stream)) as made,
        closing(collect(str(sound), data, tmp_path / "plain", size="full", stream=stream)) as plain,
    ):
        assert made.layers.keys() == plain.layers.keys()
        assert all(rel(own.gram(), plain.layers[name].gram()) == 0 for name, own in made.layers.items())


@pytest.mark.parametrize("stream", ["off", "on"])
def test_logits_that_grow_too_large_give_no_fisher_diagonals(loud, tmp_path, stream):
    with pytest.raises(NonFinite, match="model: the output is NaN or infinity"):
        collect(str(loud), text_file(tmp_path), tmp_path / "out", fisher=True, stream=stream)
    assert not (tmp_path / "out").exists()


def test_logits_that_grow_too_large_give_no_scores_and_no_texts(loud, tmp_path):
    data = text_file(tmp_path)
    with pytest.raises(NonFinite, match="model predicts NaN or infinity"):
        evaluate([str(loud)], {"texts": data})
    with pytest.raises(NonFinite, match="model predicts NaN or infinity"):
        compare([str(loud)], ["the film was"])


@pytest.mark.parametrize("ends", ["fisher", "predictions"])
def test_infinity_is_no_label_that_is_sure(broken, tmp_path, ends):
    """Of several labels at once each has a probability of its own, which of infinity is 1."""
    model = broken(
        "bert",
        {"problem_type": "multi_label_classification"},
        **{
            "classifier.weight": lambda tensor: torch.full_like(tensor, 3e38),
            # tanh of it is 1.
            "bert.pooler.dense.weight": torch.zeros_like,
            "bert.pooler.dense.bias": lambda tensor: torch.full_like(tensor, 1e9),
        },
    )
    if ends == "fisher":
        with pytest.raises(NonFinite, match="model: the output is NaN or infinity"):
            collect(str(model), text_file(tmp_path), tmp_path / "out", fisher=True)
    else:
        with pytest.raises(NonFinite, match="model predicts NaN or infinity"):
            predict(str(model), ["a fine film"])


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
