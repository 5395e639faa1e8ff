"""How well grams are known: the error that is told is the one that there is, and texts are taken until it is small."""

import contextlib
import json

import pytest
import torch

from fusehub.collecting.collect import collect
from fusehub.collecting.noise import Noise
from fusehub.errors import BadRecipe
from fusehub.publishing.cards.statistics_card import statistics_card
from fusehub.statistics.adding import add_statistics
from fusehub.statistics.grams import GramSum
from fusehub.statistics.halves import halves_of
from fusehub.statistics.resizing import resize_statistics
from fusehub.statistics.settled import FIRST, SETTLED, error_in, error_words, next_limit, typical_error
from tests.unit.experts import text_file
from tests.unit.test_cli import run
from tests.unit.tiny import tiny_texts


def standard_errors(path) -> dict[str, float]:
    return json.loads((path / "statistics.json").read_text())["standard_errors"]


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.1, 0.9)])
def test_the_error_is_as_large_as_it_is_told(shares) -> None:
    """Texts of 10 rows that have a direction in common, on inputs of very unlike scales: the gram is known exactly."""
    random, size, texts = torch.Generator().manual_seed(0), 40, 100
    scales = torch.logspace(-2, 2, size)
    truth = (torch.eye(size) + 1) * scales[:, None] * scales  # Of rows z + c (1, ..., 1), with c of the whole text.
    told, made = [], []
    for _ in range(60):
        sums = GramSum(size)
        for number in range(texts):
            common = torch.randn((), generator=random)
            rows = (torch.randn(10, size, generator=random) + common) * scales
            sums.add(rows, half=int(number >= shares[0] * texts))
        gram = torch.zeros(size, size)
        for start, strip in sums.strips(torch.float32):
            gram[start : start + len(strip), start:] = strip
        gram = gram.triu() + gram.triu(1).T
        scale = truth.diagonal().rsqrt()[:, None]
        made.append(float((scale * (gram / sums.rows - truth)).norm() / (scale * truth).norm()))
        told.append(sums.standard_error)
    # One split in halves is one draw of the error; all together tell its size.
    assert (torch.tensor(told).square().mean() / torch.tensor(made).square().mean()).sqrt() == pytest.approx(
        1, abs=0.3
    )


def test_rows_of_one_batch_are_told_apart_by_their_examples() -> None:
    rows, half = torch.randn(30, 5, generator=torch.Generator().manual_seed(1)), torch.arange(30) % 2
    together, apart = GramSum(5), GramSum(5)
    together.add(rows, half=half)
    for number in (0, 1):
        apart.add(rows[half == number], half=number)
    assert together.standard_error == pytest.approx(apart.standard_error)
    untold = GramSum(5)
    untold.add(rows)
    assert untold.standard_error is None
    untold.add(rows, half=0)
    assert untold.standard_error is None, "one half alone tells nothing"


def test_halves_do_not_go_with_the_order_of_the_data() -> None:
    """Data may have every second text of one label, or all of one first: neither is one half then."""
    halves = halves_of(1000)
    assert int(halves.sum()) == 500 and torch.equal(halves, halves_of(1000))
    for one in (halves[::2], halves[:500]):
        assert 200 < int(one.sum()) < 300


def test_what_is_told_depends_on_no_batches(experts, tmp_path) -> None:
    data = text_file(tmp_path, texts=tiny_texts(60))
    for name, options in {"one": {}, "many": {"batch_tokens": 64}, "blocks": {"stream": "on"}}.items():
        collect(str(experts()[0]), data, tmp_path / name, **options).close()
    one, many, blocks = (standard_errors(tmp_path / name) for name in ("one", "many", "blocks"))
    assert one.keys() == json.loads((tmp_path / "one" / "statistics.json").read_text())["layers"].keys()
    assert many == pytest.approx(one, rel=1e-2) and blocks == pytest.approx(one, rel=1e-2)


def test_texts_are_taken_until_the_grams_are_settled(experts, tmp_path) -> None:
    model = str(experts()[0])
    many = text_file(tmp_path, 0, tiny_texts(3000))
    found = collect(model, many, tmp_path / "auto", limit="auto")
    taken, error = found.metadata["examples"], error_in(found.metadata)
    assert FIRST <= taken < 3000 and error <= SETTLED
    collect(model, many, tmp_path / "said", limit=taken).close()
    for name in ("statistics.safetensors", "statistics.json"):
        assert (tmp_path / "auto" / name).read_bytes() == (tmp_path / "said" / name).read_bytes()
    assert not list(tmp_path.glob(".*")), "no work of any attempt is left"


def test_where_all_texts_do_not_settle_them_that_is_said(experts, tmp_path, caplog) -> None:
    few = text_file(tmp_path, 1, tiny_texts(20, longest=3))
    found = collect(str(experts()[0]), few, tmp_path / "few", limit="auto")
    assert found.metadata["examples"] == 20 and error_in(found.metadata) > SETTLED
    assert "all 20 examples are taken, and the grams are known to" in caplog.text


def test_the_next_number_is_foreseen() -> None:
    assert next_limit(64, 2 * SETTLED) == pytest.approx(64 * 4 * 1.1, abs=1)
    assert next_limit(64, 1.01 * SETTLED) == next_limit(64, None) == 128
    assert typical_error({}) is None and typical_error({"a": 0.5}) == 0.5
    errors = {str(number): number / 100 for number in range(101)}
    assert typical_error(errors) == pytest.approx(0.9)


def test_of_private_statistics_nothing_is_told(experts, tmp_path) -> None:
    data = text_file(tmp_path, texts=tiny_texts(30))
    collect(str(experts()[0]), data, tmp_path / "private", noise=Noise(8.0)).close()
    assert json.loads((tmp_path / "private" / "statistics.json").read_text())["standard_errors"] is None
    with pytest.raises(BadRecipe, match="not told"):
        collect(str(experts()[0]), data, tmp_path / "auto", noise=Noise(8.0), limit="auto")


def test_what_is_made_of_statistics_tells_it_where_it_is_known(experts, tmp_path) -> None:
    model = str(experts()[0])
    for number in range(2):
        collect(model, text_file(tmp_path, number, tiny_texts(30, seed=number)), tmp_path / f"{number}").close()
    with contextlib.closing(resize_statistics(str(tmp_path / "0"), tmp_path / "tiny", size="tiny")) as small:
        assert small.metadata["standard_errors"] == standard_errors(tmp_path / "0")
        text = statistics_card(small.metadata, "you/expert", "0" * 40).text
        assert "Standard error" in text and "% of the grams" in text
    with contextlib.closing(add_statistics([str(tmp_path / "0"), str(tmp_path / "1")], tmp_path / "sum")) as added:
        assert not added.metadata.get("standard_errors")


def test_the_command_line_takes_a_limit_and_tells_the_error(experts, tmp_path) -> None:
    data = text_file(tmp_path, texts=tiny_texts(30))
    code, _, said = run("collect", experts()[0], "--data", data, "--limit", "many", "--out", tmp_path / "out")
    assert code == 2 and "'many' is neither a number of 1 or more nor auto" in " ".join(said.split())
    code, out, _ = run("collect", experts()[0], "--data", data, "--limit", "auto", "--out", tmp_path / "out", "--json")
    error = json.loads(out)["standard_error"]
    assert code == 0 and error == typical_error(standard_errors(tmp_path / "out"))
    _, _, told = run("inspect", tmp_path / "out")
    assert f"known to {error_words(error)}" in told
    _, out, _ = run("inspect", tmp_path / "out", "--json")
    assert {layer["name"]: layer["standard_error"] for layer in json.loads(out)["layers"]} == standard_errors(
        tmp_path / "out"
    )
