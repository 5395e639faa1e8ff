"""How weights are stored is one protocol: a kind that nobody has heard of is read, merged and loaded like others."""

import ast
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusehub.comparing.predictor import predict
from fusehub.merging.merge import merge
from fusehub.models import checkpoints
from fusehub.models.checkpoints.checkpoint import Checkpoint, headers
from fusehub.models.checkpoints.kind import StoredWeights, Tensors
from fusehub.models.checkpoints.wrappers import wrapping_of
from fusehub.models.resolve import resolve
from fusehub.models.tensor_files import open_tensors
from tests.unit.experts import WEIGHTS, mean_of, rel, relatives

ROOT = Path(__file__).parents[2]
MARK = "summands.txt"
TEXTS = ["Anna visited Paris .", "not very good"]


class Summands(StoredWeights):
    """Each tensor is the sum of two, as somebody would add it."""

    read_by_transformers = False

    @classmethod
    def is_kind_of(cls, ref):
        return MARK in ref.files

    @classmethod
    def headers(cls, ref):
        opened = cls(ref)
        opened.close()
        return opened.tensors

    def __init__(self, ref):
        self._file = open_tensors(ref.path(WEIGHTS), ref.name)
        infos = {name[: -len(".a")]: info for name, info in self._file.tensors.items() if name.endswith(".a")}
        self.tensors = Tensors(infos, wrapping_of(ref, infos))

    def read(self, name, start=0, stop=None):
        return self._file.read(f"{name}.a", start, stop) + self._file.read(f"{name}.b", start, stop)

    def close(self):
        self._file.close()


@pytest.fixture
def experts(tmp_path, monkeypatch):
    """Two experts, and the same two with each tensor as two summands."""
    monkeypatch.setattr(checkpoints, "KINDS", (Summands, *checkpoints.KINDS))
    plain = relatives(tmp_path / "plain")
    stored = relatives(tmp_path / "summands")
    for folder in stored:
        tensors = load_file(folder / WEIGHTS)
        # Halves are exact, so that their sum is the same number.
        halves = {f"{name}.{part}": value / 2 for name, value in tensors.items() for part in "ab"}
        save_file(halves, folder / WEIGHTS, metadata={"format": "pt"})
        (folder / MARK).write_text("a and b\n")
    return plain, stored


def test_a_kind_of_checkpoint_from_outside_is_read_merged_and_loaded(experts, tmp_path):
    plain, stored = experts
    ref = resolve(str(stored[0]))
    expected = load_file(plain[0] / WEIGHTS)
    with Checkpoint(ref) as checkpoint:
        assert headers(ref) == checkpoint.tensors and set(checkpoint) == set(expected)
        assert all(torch.equal(checkpoint[name], value) for name, value in expected.items())
    merge([str(path) for path in stored], tmp_path / "merged", method="mean")
    merged = load_file(tmp_path / "merged" / WEIGHTS)
    assert set(merged) == set(expected)
    assert max(rel(value, mean_of(plain, name)) for name, value in merged.items()) < 1e-6
    assert predict(str(stored[0]), TEXTS).answers() == predict(str(plain[0]), TEXTS).answers()


def test_nothing_asks_how_weights_are_stored():
    """By `isinstance`; what makes files and adapters knows them."""
    kinds = {"AdaptedRef", "SafetensorsFile", "PickleFile", "Header", "FilesOfTensors", "AdapterOverBase"}
    wrong = []
    for path in (path for place in ("fusehub", "space") for path in (ROOT / place).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                asked = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
                wrong += [f"{path.relative_to(ROOT)}:{node.lineno}"] if asked & kinds else []
    assert wrong == []
