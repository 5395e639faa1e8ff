"""The results section of a card: the table, what it says in words, and the entries for the Hub's index."""

import json

import pytest

from fusehub.comparing.evaluate import evaluate
from fusehub.errors import BadData
from fusehub.merging.merge import merge
from fusehub.publishing.cards.merge_card import model_card
from tests.unit.experts import recipe_of
from tests.unit.tiny import tiny_texts


@pytest.fixture(scope="module")
def fused(experts, tmp_path_factory):
    """A RegMean merge of two local experts."""
    out = tmp_path_factory.mktemp("out") / "fused"
    merge(recipe_of(experts(), weights=[1, 2.5], parameters={"alpha": 0.5}), out)
    return out


def results(fused, /, **scores):
    """An evaluation by hand: model -> accuracy on the data sets `films` and `news`."""
    ids = {"fused": str(fused), "expert-0": "/elsewhere/expert-0", "expert-1": "bob/expert-1@" + "b" * 40}
    hub = {"source": "ann/films:en/test", "split": "test", "revision": "c" * 40}
    local = {"source": "news.csv", "split": None, "revision": "d" * 64}
    return {
        "task": "text-classification",
        "models": list(scores),
        "data": ["films", "news"],
        "ensemble_of": [],
        "scores": [
            {"model": model, "model_id": ids.get(model), "data": data, "examples": 1200, "seconds": 1.0, **where}
            | {"metrics": {"accuracy": value, "f1_macro": value / 2}}
            for model, values in scores.items()
            for data, where, value in zip(("films", "news"), (hub, local), values, strict=True)
        ],
    }


def rows_of(card):
    section = card.text.partition("## Results")[2].partition("## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]


def test_results_of_a_merge_that_wins_on_average(fused):
    found = results(fused, **{"expert-0": [0.9, 0.5], "expert-1": [0.4, 0.8], "fused": [0.85, 0.8]})
    card = model_card(fused, evaluation=found)
    assert rows_of(card) == [
        ["Model", "films", "news", "on average"],
        ["---", "---:", "---:", "---:"],
        ["expert-0", "**0.900**", "0.500", "0.700"],
        ["expert-1", "0.400", "**0.800**", "0.600"],
        ["fused (this model)", "0.850", "**0.800**", "**0.825**"],
    ]
    assert "better than the best single expert, expert-0: 0.825 against 0.700 on average." in card.text
    assert "On 1 of 2 data sets (films) an expert has the better score." in card.text
    assert "Nothing was measured" not in card.text and "\nAccuracy; the best of each column" in card.text
    assert (
        f"[ann/films](https://huggingface.co/datasets/ann/films/tree/{'c' * 40}), config en, split test" in card.text
    )
    assert "- news: news.csv, 1,200 examples" in card.text


def test_a_merge_that_loses_says_so(fused):
    found = results(fused, **{"expert-0": [0.9, 0.8], "fused": [0.6, 0.7], "ensemble": [0.9, 0.9], "mean": [0.1, 0.1]})
    text = model_card(fused, evaluation=found).text
    assert "**The merge does not beat the best single expert**, expert-0: 0.650 against 0.850 on average." in text
    assert "On 2 of 2 data sets (films and news)" in text
    assert "ensemble reaches 0.900." in text and "mean reaches" not in text


def test_what_examples_cannot_tell_is_not_called_better(fused):
    found = results(fused, **{"expert-0": [0.9, 0.5], "fused": [0.85, 0.6]})
    found["resampling"] = {"confidence_level": 0.9, "resamples": 1000, "seed": 0}

    def difference(data, value, low, high):
        interval = {"low": low, "high": high}
        told = {"model": "fused", "against": "expert-0", "data": data, "metric": "accuracy", "value": value}
        return told | {"interval": interval, "chosen": "best"}

    found["differences"] = [difference("films", -0.05, -0.09, -0.01), difference(None, 0.025, -0.01, 0.06)]
    found["scores"][2]["examples"] = 60
    text = model_card(fused, evaluation=found).text
    assert (
        "These examples do not tell the merge from the best single expert, expert-0: 0.725 against 0.700 on average, "
        "+2.5 points [−1.0, +6.0]."
    ) in text
    assert "On films it lost to expert-0: −5.0 points [−9.0, −1.0]." in text and "90 % intervals" in text
    assert "so that the numbers say little: films (60)." in text
    found["differences"][1]["interval"]["low"] = 0.01
    assert "The merge is better than the best single expert" in model_card(fused, evaluation=found).text
    found["differences"] = [{"model": "fused"}]
    with pytest.raises(BadData, match="not those of an evaluation"):
        model_card(fused, evaluation=found)


def test_a_draw_is_a_draw(fused):
    text = model_card(fused, evaluation=results(fused, **{"expert-0": [0.7, 0.8], "fused": [0.8, 0.70001]})).text
    assert "as good as the best single expert, expert-0 (0.750 on average)" in text


def test_only_results_of_the_merge_go_into_the_index(fused):
    found = results(fused, **{"expert-0": [0.9, 0.5], "fused": [0.85, 0.0]})
    found["scores"][3]["metrics"] = {"accuracy": None, "f1_macro": 0.5}
    card = model_card(fused, repo_id="ann/fused", evaluation=found)
    [index] = card.data.to_dict()["model-index"]
    assert index["name"] == "fused"
    films, news = index["results"]
    assert films["task"] == {"type": "text-classification"}
    assert films["dataset"] == {
        "name": "films",
        "type": "ann/films",
        "config": "en",
        "split": "test",
        "revision": "c" * 40,
    }
    assert films["metrics"] == [
        {"type": "accuracy", "value": 0.85, "name": "Accuracy"},
        {"type": "f1", "value": 0.425, "name": "F1 (macro)", "args": {"average": "macro"}},
    ]
    assert news["dataset"]["type"] == "news.csv" and [m["value"] for m in news["metrics"]] == [0.5]
    # Nothing was trained on it.
    assert card.data.datasets is None
    assert rows_of(card)[3] == ["fused (this model)", "0.850", "–", "–"]


def test_results_of_something_else_are_refused(fused):
    with pytest.raises(BadData, match="not of the merge"):
        model_card(fused, evaluation=results(fused, **{"expert-0": [0.9, 0.5]}))
    with pytest.raises(BadData, match="not those of an evaluation"):
        model_card(fused, evaluation={"scores": 3})


def test_a_real_evaluation(fused, experts, tmp_path):
    rows = [json.dumps({"text": text, "label": "positive"}) for text in tiny_texts(6)]
    (tmp_path / "d.jsonl").write_text("\n".join(rows))
    found = evaluate([*map(str, experts()), str(fused)], {"d": str(tmp_path / "d.jsonl")}, ensemble=True)
    for given in (found, json.loads(json.dumps(found.to_dict()))):
        card = model_card(fused, evaluation=given)
        assert [row[0] for row in rows_of(card)[2:]] == ["expert-0", "expert-1", "ensemble", "fused (this model)"]
        assert rows_of(card)[-1][1].strip("*") == f"{found.mean()['fused']:.3f}"
        assert str(tmp_path) not in str(card)
