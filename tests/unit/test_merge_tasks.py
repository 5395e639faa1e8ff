"""Experts of different tasks on one pretrained model: the body is merged, and each keeps its head."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fusehub.checking.check import check
from fusehub.collecting.collect import collect
from fusehub.comparing.predictor import predict
from fusehub.errors import Incompatible
from fusehub.merging.merge import merge
from fusehub.merging.plan import plan_merge
from fusehub.publishing.loadable import require_loadable
from tests.unit.experts import WEIGHTS, recipe_of, relatives, save_weights, text_file
from tests.unit.tiny import tiny_model

TAGS = ("O", "B-PER", "I-PER")
QUERY = "bert.encoder.layer.0.attention.self.query.weight"


def tasks(folder: Path, arch: str = "bert", *others: str) -> list[Path]:
    """A sentiment expert, and one of each other task, whose bodies come from one base."""
    [sentiment, other] = relatives(folder, arch, hidden=16)
    body = load_file(other / WEIGHTS)
    found = [sentiment]
    for task in others or ("token-classification",):
        labels = TAGS if task == "token-classification" else ("a", "b")
        path = tiny_model(folder / task, arch, task=task, labels=labels, hidden=16, seed=5)
        own = load_file(path / WEIGHTS)
        prefix = "bert." if arch == "bert" else "model."
        save_weights(path, {n: body[n] if n in body and n.startswith(prefix) else value for n, value in own.items()})
        found.append(path)
    return found


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model that is spread over files."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    return {name: tensor for file in set(index.values()) for name, tensor in load_file(folder / file).items()}


def test_sentiment_and_entities_share_a_body_that_regmean_merges(tmp_path: Path) -> None:
    experts = tasks(tmp_path)
    for number, path in enumerate(experts):
        collect(str(path), text_file(tmp_path, number), path / "fusehub", size="full").close()
    result = merge(recipe_of(experts, parameters={"alpha": 1.0, "weighting": "mean"}), tmp_path / "merged")
    names = [path.name for path in experts]
    assert list(result.plan.names) == names
    stored = [load_file(path / WEIGHTS) for path in experts]
    for number, name in enumerate(names):
        require_loadable(result.folder / name)
        merged = loaded(result.folder / name)
        assert set(merged) == set(stored[number])
        for kept in ("classifier.weight", "classifier.bias", "bert.pooler.dense.weight"):
            assert (kept in stored[number]) or (kept, number) == ("bert.pooler.dense.weight", 1), (
                "entities need no pooler"
            )
            if kept in stored[number]:
                assert torch.equal(merged[kept], stored[number][kept]), kept
        mean = (stored[0][QUERY] + stored[1][QUERY]) / 2
        assert not torch.allclose(merged[QUERY], mean, atol=1e-3)
        assert torch.allclose(merged[QUERY], loaded(result.folder / names[0])[QUERY])
    assert "bert.pooler.dense.weight" in stored[0] and "bert.pooler.dense.weight" not in stored[1]
    assert predict(str(result.folder / names[0]), ["a fine film"]).answers()[0][0] in ("negative", "positive")
    assert predict(str(result.folder / names[1]), [["Anna", "lives"]]).answers()[0][0][0] in TAGS
    files = [result.folder / name / "body-model.safetensors" for name in names]
    assert files[0].stat().st_ino == files[1].stat().st_ino, "the body lies on the disk once"


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_four_tasks_in_any_order_have_the_mean_of_their_bodies(order: tuple[int, ...], tmp_path: Path) -> None:
    experts = tasks(tmp_path, "bert", "token-classification", "question-answering", "fill-mask")
    experts = [experts[index] for index in order]
    merged = merge(recipe_of(experts, "mean"), tmp_path / "merged").folder
    stored = [load_file(path / WEIGHTS) for path in experts]
    for own, path in zip(stored, experts, strict=True):
        require_loadable(merged / path.name)
        made = loaded(merged / path.name)
        assert set(made) == set(own)
        assert torch.allclose(made[QUERY], sum(tensors[QUERY] for tensors in stored) / 4, atol=1e-6)


def test_a_writer_and_a_classifier_share_a_body(tmp_path: Path) -> None:
    experts = tasks(tmp_path, "llama", "text-generation")
    merged = merge(recipe_of(experts, "mean"), tmp_path / "merged").folder
    for path in experts:
        require_loadable(merged / path.name)


def test_different_tasks_are_told_and_cannot_have_one_head(tmp_path: Path) -> None:
    experts = tasks(tmp_path)
    report = check([str(path) for path in experts])
    assert report.ok
    assert any("keeps its own head (the experts are for different tasks)" in f.what for f in report.findings)
    with pytest.raises(Incompatible, match="different architectures"):
        plan_merge(recipe_of(experts, "mean", heads="merge"))
    other = tiny_model(tmp_path / "gpt2", "gpt2", task="text-generation", hidden=16)
    with pytest.raises(Incompatible, match="different architectures"):
        plan_merge(recipe_of([experts[0], other], "mean"))
