"""Models with different numbers of rows, one a token or padding: what all have goes through the method."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fusehub.merging.merge import merge
from fusehub.merging.plan import plan_merge
from fusehub.publishing.loadable import require_loadable
from tests.unit.experts import (
    WEIGHTS,
    edit_json,
    least_squares,
    raw_inputs,
    recipe_of,
    rel,
    relatives,
    save_weights,
    text_file,
    texts_of,
)

TABLES = ("model.embed_tokens.weight", "lm_head.weight")
SEED = 7


def three(folder: Path, **options: object) -> tuple[Path, Path, Path]:
    """A base and two experts of it, which generate text and whose heads are not tied."""
    experts = relatives(
        folder, "llama", task="text-generation", layers=1, tie_word_embeddings=False, noise=0.1, **options
    )
    return folder / "base", *experts


def grow(path: Path, rows: int, *, seed: int = SEED) -> None:
    """Puts `rows` more under every table of tokens, as padding to a round number does: no token is added."""
    tensors = load_file(path / WEIGHTS)
    random = torch.Generator().manual_seed(seed)
    for name in TABLES:
        more = torch.randn(rows, tensors[name].shape[1], generator=random)
        tensors[name] = torch.cat([tensors[name], more])
    save_weights(path, tensors)
    edit_json(path / "config.json", vocab_size=len(tensors[TABLES[0]]))


def table(path: Path, name: str) -> np.ndarray:
    return load_file(path / WEIGHTS)[name].double().numpy()


def merged_table(folder: Path, name: str) -> np.ndarray:
    require_loadable(folder)
    tensors = load_file(folder / WEIGHTS)
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == len(tensors[name])
    return tensors[name].double().numpy()


@pytest.mark.parametrize("name", TABLES)
def test_an_expert_with_one_token_more_goes_through_task_arithmetic(tmp_path: Path, name: str) -> None:
    base, one, two = three(tmp_path)
    grow(one, 1)
    recipe = recipe_of([one, two], "task_arithmetic", weights=[0.3, 0.2], base_model=str(base))
    got = merged_table(merge(recipe, tmp_path / "merged").folder, name)
    a, b, start = (table(path, name) for path in (one, two, base))
    n = len(start)
    assert rel(got[:n], start + 0.3 * (a[:n] - start) + 0.2 * (b - start)) < 1e-6
    assert rel(got[n:], a[n:]) < 1e-6, "a row that one model alone has is kept"


def test_rows_that_the_base_lacks_are_averaged_by_weight_over_the_experts_that_have_them(tmp_path: Path) -> None:
    """The usual case: chat experts that brought the same new tokens to a base without them."""
    base, one, two = three(tmp_path)
    grow(one, 1, seed=1)
    grow(two, 3, seed=2)
    recipe = recipe_of(
        [one, two], "ties", weights=[0.6, 0.2], base_model=str(base), parameters={"density": 0.5, "normalize": False}
    )
    merged = merge(recipe, tmp_path / "merged")
    for name in TABLES:
        got = merged_table(merged.folder, name)
        a, b, start = (table(path, name) for path in (one, two, base))
        n = len(start)
        assert rel(got[:n], ties(start, [a[:n], b[:n]], [0.6, 0.2], 0.5)) < 1e-6
        assert rel(got[n : n + 1], 0.75 * a[n:] + 0.25 * b[n : n + 1]) < 1e-6
        assert rel(got[n + 1 :], b[n + 1 :]) < 1e-6
        assert merged.plan.tensors[name].action == "combine"
    note = next(note for note in merged.plan.notes if "rows" in note)
    assert all(name in note for name in TABLES) and str(n) in note and str(n + 3) in note


def ties(base: np.ndarray, experts: Sequence[np.ndarray], weights: Sequence[float], density: float) -> np.ndarray:
    """Trim to the largest, elect signs, add up those that agree; unnormalised."""
    deltas = []
    for expert, weight in zip(experts, weights, strict=True):
        delta = (expert - base).ravel()
        kept = np.argsort(-np.abs(delta), kind="stable")[: int(density * delta.size)]
        trimmed = np.zeros_like(delta)
        trimmed[kept] = delta[kept]
        deltas.append(weight * trimmed)
    sign = np.where(sum(deltas) >= 0, 1.0, -1.0)
    return base + sum(np.where(delta * sign > 0, delta, 0) for delta in deltas).reshape(base.shape)


def test_a_model_that_lacks_a_token_of_the_base_has_learned_nothing_of_it(tmp_path: Path) -> None:
    base, one, two = three(tmp_path)
    grow(base, 2, seed=1)
    grow(one, 2, seed=2)
    recipe = recipe_of([one, two], "task_arithmetic", weights=[0.4, 0.9], base_model=str(base))
    folder = merge(recipe, tmp_path / "merged").folder
    for name in TABLES:
        a, b, start = (table(path, name) for path in (one, two, base))
        n = len(b)
        got = merged_table(folder, name)
        assert rel(got[:n], start[:n] + 0.4 * (a[:n] - start[:n]) + 0.9 * (b - start[:n])) < 1e-6
        assert rel(got[n:], start[n:] + 0.4 * (a[n:] - start[n:])) < 1e-6


def test_a_base_that_alone_is_padded_is_still_the_base(tmp_path: Path) -> None:
    base, one, two = three(tmp_path)
    grow(base, 5)
    recipe = recipe_of([one, two], "task_arithmetic", weights=[0.3, 0.3], base_model=str(base))
    merged = merge(recipe, tmp_path / "merged")
    for name in TABLES:
        a, b, start = (table(path, name) for path in (one, two, base))
        start = start[: len(a)]
        assert rel(merged_table(merged.folder, name), start + 0.3 * (a - start) + 0.3 * (b - start)) < 1e-6
    assert any("padding" in note for note in merged.plan.notes)


def test_slerp_keeps_its_t_where_one_model_has_a_row_more(tmp_path: Path) -> None:
    _, one, two = three(tmp_path)
    grow(two, 1)
    folder = merge(recipe_of([one, two], "slerp", parameters={"t": 0.1}), tmp_path / "merged").folder
    for name in TABLES:
        a, b = table(one, name), table(two, name)
        angle = np.arccos(np.sum(a * b[:-1]) / np.linalg.norm(a) / np.linalg.norm(b[:-1]))
        arc = (np.sin(0.9 * angle) * a + np.sin(0.1 * angle) * b[:-1]) / np.sin(angle)
        got = merged_table(folder, name)
        assert rel(got[:-1], arc) < 1e-6
        assert rel(got[-1:], b[-1:]) < 1e-6


def test_a_sum_that_is_not_normalised_is_as_large_in_rows_that_one_model_has(tmp_path: Path) -> None:
    _, one, two = three(tmp_path)
    grow(two, 2)
    recipe = recipe_of([one, two], "linear", weights=[0.8, 0.4], parameters={"normalize": False})
    folder = merge(recipe, tmp_path / "merged").folder
    for name in TABLES:
        a, b = table(one, name), table(two, name)
        got = merged_table(folder, name)
        assert rel(got[:-2], 0.8 * a + 0.4 * b[:-2]) < 1e-6
        assert rel(got[-2:], 1.2 * b[-2:]) < 1e-6


def test_regmean_solves_the_rows_of_the_head_that_all_have(tmp_path: Path) -> None:
    from fusehub.collecting.collect import collect

    _, one, two = three(tmp_path)
    grow(two, 3)
    for number, path in enumerate((one, two)):
        collect(str(path), text_file(tmp_path, number), path / "fusehub").close()
    merged = merge(recipe_of([one, two], "regmean", weights=[1, 3]), tmp_path / "merged")
    a, b = table(one, TABLES[1]), table(two, TABLES[1])
    inputs = [raw_inputs(path, texts_of(number))[TABLES[1]] for number, path in enumerate((one, two))]
    got = merged_table(merged.folder, TABLES[1])
    solved = least_squares(inputs, [a, b[: len(a)]], coefficients=[1, 3])
    assert rel(got[: len(a)] - a, solved - a) < 0.02, "but for grams stored in eight bits"
    assert rel(solved, (a + 3 * b[: len(a)]) / 4) > 0.01
    assert rel(got[len(a) :], b[len(a) :]) < 1e-6
    assert merged.plan.tensors[TABLES[1]].action == "solve"


def test_regmean_plus_plus_solves_them_while_it_runs_the_model(tmp_path: Path) -> None:
    _, one, two = three(tmp_path)
    grow(two, 3)
    data = {str(path): text_file(tmp_path, number) for number, path in enumerate((one, two))}
    for models in ([one, two], [two, one]):
        merged = merge(recipe_of(models, "regmean_plus_plus").changed(data=data), tmp_path / f"first-{models[0].name}")
        a, b = table(one, TABLES[1]), table(two, TABLES[1])
        got = merged_table(merged.folder, TABLES[1])
        assert rel(got[len(a) :], b[len(a) :]) < 1e-6
        assert 0.01 < rel(got[: len(a)], (a + b[: len(a)]) / 2) < 0.3, "solved, and near the mean of relatives"


def test_tokens_along_the_other_axis_are_told_apart_too(tmp_path: Path) -> None:
    """BART's bias of its logits is a row of them."""
    one, two = relatives(tmp_path, "bart", task="text2text-generation", layers=1)
    base, name = tmp_path / "base", "final_logits_bias"
    for number, path in enumerate((base, one, two)):
        tensors = load_file(path / WEIGHTS)
        size = tensors[name].shape[1]
        tensors[name] = torch.randn(1, size, generator=torch.Generator().manual_seed(number))
        if path == one:
            tensors[name] = torch.cat([tensors[name], torch.full((1, 2), 5.0)], 1)
            shared = tensors["model.shared.weight"]
            tensors["model.shared.weight"] = torch.cat([shared, torch.ones(2, shared.shape[1])])
            edit_json(path / "config.json", vocab_size=size + 2)
        save_weights(path, tensors)
    recipe = recipe_of([one, two], "task_arithmetic", weights=[0.3, 0.5], base_model=str(base))
    got = load_file(merge(recipe, tmp_path / "merged").folder / WEIGHTS)[name].double().numpy()
    a, b, start = (table(path, name) for path in (one, two, base))
    assert rel(got[:, :size], start + 0.3 * (a[:, :size] - start) + 0.5 * (b - start)) < 1e-6
    assert rel(got[:, size:], np.full((1, 2), 5.0)) < 1e-6


def test_models_with_the_same_rows_have_nothing_to_tell(tmp_path: Path) -> None:
    base, one, two = three(tmp_path)
    plan = plan_merge(recipe_of([one, two], "ties", base_model=str(base)))
    assert not any("rows" in note for note in plan.notes)
    assert all(not tensor.token_rows for tensor in plan.tensors.values())
