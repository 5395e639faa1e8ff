"""Where statistics come from is one protocol: a source that nobody has heard of is used like the built-in ones."""

import contextlib
import json
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file

from fusehub.merging import sources
from fusehub.merging.merge import merge
from fusehub.merging.sources.source import StatisticsSource
from fusehub.models.layout import layout_of
from fusehub.models.resolve import ModelRef
from fusehub.models.tasks import load_config
from fusehub.publishing.cards.merge_card import model_card
from tests.unit.experts import WEIGHTS, mean_of, recipe_of, rel, relatives

ROWS = 7


@dataclass(frozen=True)
class Unit:
    """The statistics of one layer of which all inputs are independent."""

    size: int
    rows: int = ROWS
    shift: float = 0.0

    @property
    def stored_as(self) -> str:
        return f"unit {self.size}"

    @property
    def total(self) -> torch.Tensor:
        return torch.zeros(self.size, dtype=torch.float64)

    def gram(self) -> torch.Tensor:
        return torch.eye(self.size, dtype=torch.float64) * self.rows

    def diagonal(self) -> torch.Tensor:
        return self.gram().diagonal()

    def strips(self, dtype: torch.dtype, device: str = "cpu"):
        yield 0, self.gram().to(dtype)


@dataclass(frozen=True)
class Units(StatisticsSource):
    """A new kind of source, as somebody would add it."""

    name = "independent"
    place = "taken to be independent"
    ref: ModelRef

    @classmethod
    def find(cls, wanted):
        return cls(wanted.ref)

    @property
    def origin(self):
        return self.name

    @property
    def metadata(self):
        return {"examples": 3}

    @property
    def rows(self):
        return dict.fromkeys(self._linears(), ROWS)

    def words(self):
        return "independent inputs"

    def notes(self, wanted):
        return [f"{wanted.ref.name} is taken to have independent inputs."]

    def open(self):
        return contextlib.nullcontext({name: Unit(own.in_features) for name, own in self._linears().items()})

    def _linears(self):
        return layout_of(load_config(self.ref)).linears


@pytest.mark.parametrize("where", ["all", "beside data-free"])
def test_a_new_source_is_one_class_and_one_line(tmp_path, monkeypatch, where):
    monkeypatch.setattr(sources, "SOURCES", (*sources.SOURCES, Units))
    paths = relatives(tmp_path, layers=1)
    said = ["independent", "independent" if where == "all" else "data-free"]
    result = merge(recipe_of(paths, statistics=said, base_model=str(tmp_path / "base")), tmp_path / "out")
    merged = load_file(tmp_path / "out" / WEIGHTS)
    solved = [name for name, tensor in result.plan.tensors.items() if tensor.action == "solve"]
    assert solved
    for name in solved:
        # Inputs that are independent and of one size weigh alike, so that the regression's answer is the mean.
        assert (rel(merged[name], mean_of(paths, name)) < 1e-5) == (where == "all"), name
    assert f"{paths[0]} is taken to have independent inputs." in result.plan.notes
    assert "taken to be independent: 3 texts" in str(model_card(tmp_path / "out"))
    report = json.loads((tmp_path / "out" / "fusehub_report.json").read_text())
    assert report["statistics"] == said
    # The recipe beside the merge names the source, and finds it again.
    assert merge(tmp_path / "out" / "fusehub_recipe.yaml", tmp_path / "again").hashes == result.hashes
