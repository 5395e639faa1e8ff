"""Layers solved beside each other: as many as there is room for, those of one system in turn, the same bytes."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from fusehub.errors import NonFinite
from fusehub.merging import cost
from fusehub.merging.engine import lanes as lanes_module
from fusehub.merging.engine.lanes import Lanes, lanes_of
from fusehub.merging.engine.layer_solver import LayerSolver
from fusehub.merging.merge import merge
from fusehub.merging.plan import plan_merge
from fusehub.methods import METHODS
from fusehub.methods.cost import of_solving
from tests.unit.experts import WEIGHTS, recipe_of, relatives, with_statistics

WAIT = 60


@pytest.fixture
def threads():
    """torch's threads, as many as a test says."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_other_systems_go_on_while_layers_of_one_are_solved_in_turn():
    first, others, order = threading.Event(), threading.Event(), []

    def solve(name: str, *, until: threading.Event | None = None) -> str:
        order.append(name)
        assert until is None or until.wait(WAIT)
        return name

    with Lanes(2) as lanes:
        held = [lanes.submit("q k v", lambda: first.set() or solve("q", until=others))]
        assert first.wait(WAIT)
        held += [lanes.submit("q k v", lambda name=name: solve(name)) for name in ("k", "v")]
        # With k and v behind q, a thread is free.
        free = [lanes.submit(name, lambda name=name: solve(name)) for name in ("up", "down")]
        assert [future.result(WAIT) for future in free] == ["up", "down"]
        assert order == ["q", "up", "down"]
        others.set()
        assert [future.result(WAIT) for future in held] == ["q", "k", "v"]
    assert order == ["q", "up", "down", "k", "v"]


def test_an_error_is_told_to_whoever_waits_and_what_had_not_begun_is_left():
    begun, go, hold, later = threading.Event(), threading.Event(), threading.Event(), []

    def fails() -> None:
        assert go.wait(WAIT)
        raise NonFinite("a.weight holds NaN.", "Use another.")

    def solve(name: str) -> None:
        later.append(name)
        begun.set()
        assert hold.wait(WAIT)

    with pytest.raises(NonFinite, match=r"a\.weight"), Lanes(2) as lanes:
        failing = lanes.submit("a", fails)
        lanes.submit("b", lambda: solve("b"))
        assert begun.wait(WAIT)
        lanes.submit("b", lambda: solve("behind b"))
        for name in ("c", "d"):
            lanes.submit(name, lambda name=name: solve(name))
        # Those at work are held until the caller has left with the error.
        threading.Timer(0.5, hold.set).start()
        go.set()
        failing.result(WAIT)
    assert later[0] == "b" and len(later) <= 2 and "behind b" not in later


def bert(folder):
    return with_statistics(relatives(folder, hidden=64, layers=3))


@pytest.mark.parametrize("affine", [False, True], ids=["weights", "weights and biases"])
def test_a_merge_that_solves_layers_side_by_side_has_the_bytes_of_one_that_does_not(
    affine, tmp_path, monkeypatch, threads
):
    recipe, by = recipe_of(bert(tmp_path / "models"), parameters={"affine": affine}), {}
    solve, together = LayerSolver.solve, threading.Barrier(2, timeout=WAIT)
    pair = {f"bert.encoder.layer.0.{name}.weight" for name in ("attention.output.dense", "attention.self.key")}
    met: list[str] = []

    def watched(self, tensor, *rest):
        by.setdefault(tensor.name, []).append(threading.get_ident())
        assert torch.get_num_threads() == 1  # Two threads are one for each layer.
        if count == 2 and tensor.name in pair:
            met.append(tensor.name)
            together.wait()  # Two layers are here at a time, or none goes on.
        return solve(self, tensor, *rest)

    monkeypatch.setattr(LayerSolver, "solve", watched)
    made = {}
    for count in (1, 2):
        threads(count)
        result = merge(recipe, tmp_path / f"out-{count}")
        made[count] = ((tmp_path / f"out-{count}" / WEIGHTS).read_bytes(), result.notes, result.precision)
        assert torch.get_num_threads() == count
        # A bias comes with its weight, whichever is first in the file.
        assert {len(solved) for solved in by.values()} == {1}
        assert ({own for solved in by.values() for own in solved} == {threading.get_ident()}) == (count == 1)
        by.clear()
    assert made[1] == made[2]
    assert set(met) == pair


def test_what_is_wrong_with_a_layer_ends_the_merge(tmp_path, monkeypatch, threads):
    recipe, solve = recipe_of(bert(tmp_path / "models")), LayerSolver.solve

    def broken(self, tensor, *rest):
        merged = solve(self, tensor, *rest)
        return replace(merged, tensor=merged.tensor * float("inf")) if ".1." in tensor.name else merged

    monkeypatch.setattr(LayerSolver, "solve", broken)
    threads(2)
    with pytest.raises(NonFinite, match=r"layer\.1\..*do not fit"):
        merge(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def tensors(inputs: int, outputs: int, count: int = 3):
    one = SimpleNamespace(
        action="solve",
        info=SimpleNamespace(numel=inputs * outputs),
        layer=SimpleNamespace(in_features=inputs),
    )
    return [one] * count


@pytest.mark.parametrize(
    ("inputs", "outputs", "threads", "beside"),
    [(384, 1536, 16, 3), (384, 1536, 2, 1), (384, 1536, 1, 0), (3072, 768, 16, 1), (11008, 4096, 16, 0)],
)
def test_there_are_as_many_as_threads_and_memory_allow(inputs, outputs, threads, beside):
    found = cost.layers_beside(tensors(inputs, outputs), METHODS["regmean"], 2, threads)
    assert found.count == beside
    layer = of_solving(2, inputs * outputs, inputs).beside
    assert found.memory == beside * layer <= 2**27


def test_nothing_is_beside_what_is_combined_or_runs_the_model():
    assert cost.layers_beside([], METHODS["mean"], 2) == cost.Beside()
    assert cost.layers_beside(tensors(384, 384), METHODS["regmean_plus_plus"], 2) == cost.Beside()


def test_a_plan_tells_the_memory_of_all_and_without_room_there_is_one_at_a_time(tmp_path, monkeypatch, threads):
    plan = plan_merge(recipe_of(bert(tmp_path / "models")))
    threads(2)
    beside = cost.layers_beside(plan.tensors.values(), plan.method, 2)
    assert beside.count == 3 and beside.memory > 0
    told = cost.beside_the_process(plan.cost)
    costs = [
        plan.method.cost_of(2, tensor.info.numel, tensor.layer.in_features).memory
        for tensor in plan.tensors.values()
        if tensor.action == "solve"
    ]
    assert told == max(costs) + beside.memory
    assert lanes_of(plan, "cpu") == 2
    monkeypatch.setattr(lanes_module, "memory_of", lambda device: told - 1)
    assert lanes_of(plan, "cpu") == 1
    monkeypatch.setattr(lanes_module, "memory_of", lambda device: None)  # Not told without psutil.
    assert lanes_of(plan, "cpu") == 2
    assert lanes_of(plan, "cuda") == 1
