"""Cards of real merges, read as the Hub and as a person would."""

import json
import re
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors import safe_open

from fusehub.errors import BadData, BadFile, NotFound
from fusehub.merging.merge import merge
from fusehub.merging.recipe import Recipe
from fusehub.publishing.cards.merge_card import model_card
from fusehub.publishing.cards.statistics_card import statistics_card
from fusehub.publishing.merged_folder import read_merge
from fusehub.utils.markdown import md, without_paths
from tests.unit.experts import edit_json, recipe_of, relatives

GOLDEN = """\
---
library_name: transformers
pipeline_tag: text-classification
tags:
- merge
- fusehub
- regmean
---

# fused

One model for text classification, merged from 2 fine-tuned models: expert-0 and expert-1.
It was made by [RegMean](https://arxiv.org/abs/2212.09849) from their weights and statistics of their layers: \
nothing was trained, and no texts were read. The statistics of expert-0 and expert-1 were made from texts by \
whoever made this merge.

## What went in

| Expert | Weight | License | Statistics |
| --- | ---: | --- | --- |
| expert-0 | 1 | not stated | a local folder: 24 texts, TOKENS tokens of texts-0.txt |
| expert-1 | 2.5 | not stated | a local folder: 27 texts, TOKENS tokens of texts-1.txt |

## How it was made

[RegMean](https://arxiv.org/abs/2212.09849): SUMMARY

| Option | Value | Meaning |
| --- | --- | --- |
| `alpha` | `0.5` | MEANING |
| `weighting` | `mean` | MEANING |
| `anchor` | `mean` | MEANING |
| `affine` | `false` | MEANING |
| `ridge` | `0.0` | MEANING |

- 14 tensors were solved by RegMean: the weights of linear layers (4,384 parameters)
- 27 tensors were averaged: not a linear layer's weight (PARAMETERS parameters)

Heads were matched by label name. Labels: negative, positive.

Found on the way:

- The statistics of expert-0 are of 24 texts: a merge by them follows these texts, rather than their kind.
- The statistics of expert-1 are of 27 texts: a merge by them follows these texts, rather than their kind.

## How to use it

```python
from transformers import pipeline

model = pipeline("text-classification", model="ann/fused")
print(model("This is better than I thought."))
```

## How to make it again

```sh
pip install fusehub
hf download ann/fused fusehub_recipe.yaml --local-dir .
fusehub merge fusehub_recipe.yaml --out merged
```

The recipe, with everything resolved (made with fusehub VERSION, torch VERSION):

```yaml
merge_method: regmean
models:
- model: expert-0
  parameters:
    weight: 1.0
  statistics: expert-0/fusehub
- model: expert-1
  parameters:
    weight: 2.5
  statistics: expert-1/fusehub
parameters:
  alpha: 0.5
  weighting: mean
  anchor: mean
  affine: false
  ridge: 0.0
heads: merge
scale: 1.0
seed: 0
provenance:
  weights:
  - model.safetensors: SHA256
  - model.safetensors: SHA256
  software:
    fusehub: VERSION
    torch: VERSION
```

Not on the Hub, but folders of whoever made the merge: expert-0 and expert-1. Put paths in for them first.

The same recipe gives the same bytes:

- `model.safetensors`: sha256 `SHA256`

## Limits

- It inherits what the experts get wrong, their biases included: read their cards.
- Nothing was measured for this card: try the model on data of your own before you rely on it.
- It was fitted to inputs like those that the statistics were made from; on other texts it may do worse than the \
experts.
- No license is stated by expert-0, expert-1: ask the owner before you publish a merge of it. This follows from what \
the experts' cards say and is not legal advice.

## Citation

```bibtex
@inproceedings{jin2023dataless,
  title     = {Dataless Knowledge Fusion by Merging Weights of Language Models},
  author    = {Xisen Jin and Xiang Ren and Daniel Preotiuc-Pietro and Pengxiang Cheng},
  booktitle = {The Eleventh International Conference on Learning Representations},
  year      = {2023},
  url       = {https://arxiv.org/abs/2212.09849}
}
```
"""


# As a report has them of an expert.
STATISTICS = {"origin": "", "examples": 1000, "tokens": 20_000, "data": {"source": "ann/texts", "revision": None}}


@pytest.fixture(scope="module")
def fused(experts, tmp_path_factory):
    """A RegMean merge of two local experts."""
    out = tmp_path_factory.mktemp("out") / "fused"
    merge(recipe_of(experts(), weights=[1, 2.5], parameters={"alpha": 0.5}), out)
    return out


@pytest.fixture
def sources(fused, tmp_path):
    """`sources(0, license="mit")`: a copy of the merge whose first expert says so."""
    copy = shutil.copytree(fused, tmp_path / "fused")

    def change(number, **facts):
        report = json.loads((copy / "fusehub_report.json").read_text())
        report["sources"][number] |= facts
        report["findings"] = []
        (copy / "fusehub_report.json").write_text(json.dumps(report))
        return copy

    return change


def code_of(card, language):
    return re.search(rf"^(`{{3,}}){language}\n(.*?)\n\1$", card.text, re.DOTALL | re.MULTILINE)[2]


def plain(text):
    """The card without what differs from one release or machine to the next."""
    text = re.sub(r"\b[0-9a-f]{64}\b", "SHA256", text)
    text = re.sub(r"(fusehub|torch):? \d[\w.+]*", lambda m: re.sub(r"\d[\w.+]*", "VERSION", m[0]), text)
    text = re.sub(r"(?m)^(\| `\w+` \| `[^`]+` \|) .+ \|$", r"\1 MEANING |", text)
    text = re.sub(r"(?m)^(\[RegMean\]\S+:) .+$", r"\1 SUMMARY", text)
    text = re.sub(r"[\d,]+ tokens", "TOKENS tokens", text)
    return re.sub(r"(averaged.*)\([\d,]+ parameters\)", r"\1(PARAMETERS parameters)", text)


def test_the_whole_card(fused):
    assert plain(str(model_card(fused, repo_id="ann/fused"))) == GOLDEN


def test_numbers_of_the_card_are_those_of_the_weights(fused):
    text = str(model_card(fused))
    with safe_open(fused / "model.safetensors", "numpy") as file:
        sizes = {name: file.get_tensor(name).size for name in file.keys()}  # noqa: SIM118
    said = re.findall(r"- (\d+) tensors? w\w+ .* \(([\d,]+) parameters\)", text)
    assert sum(int(count) for count, _ in said) == len(sizes)
    assert sum(int(numbers.replace(",", "")) for _, numbers in said) == sum(sizes.values())


def test_the_card_is_the_same_each_time_and_tells_no_time(fused):
    text = str(model_card(fused))
    assert text == str(model_card(fused))
    assert not re.search(r"20\d\d-\d\d|\d\d:\d\d", text)


def test_the_card_survives_a_round_trip(fused):
    card = model_card(fused, repo_id="ann/fused")
    again = ModelCard(str(card))
    assert again.data.to_dict() == card.data.to_dict() and again.text.strip() == card.text.strip()
    assert "\n\n\n" not in str(card) and not re.search(r"\{\{|\{%|None|undefined|More Information", str(card))


def test_no_folder_of_this_machine_is_told(fused, experts):
    machine = str(experts()[0].parent)
    merged = read_merge(fused)
    assert machine in (fused / "fusehub_recipe.yaml").read_text(), "or there is nothing to hide"
    for text in (str(model_card(fused)), merged.public_recipe(), merged.public_report()):
        assert machine not in text and "/tmp" not in text and str(fused.parent) not in text
    public = json.loads(merged.public_report())
    assert public["sources"][0]["name"] == "expert-0" and public["labels"] == merged.report["labels"]
    assert public["tensors"] == merged.report["tensors"]


def test_without_paths_keeps_what_is_none():
    assert without_paths("see /home/ann/models/films and ~/x/y.csv") == "see films and y.csv"
    for kept in ("user/model@rev", "https://hub.co/a/b", "n/a", "and/or", "user/data:en/test"):
        assert without_paths(f"x {kept} y") == f"x {kept} y"


def test_the_recipe_in_the_card_is_the_one_that_was_merged(fused):
    shown = Recipe.parse(yaml.safe_load(code_of(model_card(fused), "yaml")))
    own = Recipe.read(fused / "fusehub_recipe.yaml")
    assert [entry.model for entry in shown.models] == ["expert-0", "expert-1"]
    assert shown.model_copy(update={"models": own.models}) == own


def test_the_code_in_the_card_runs(fused, monkeypatch, capsys):
    monkeypatch.chdir(fused.parent)
    exec(code_of(model_card(fused), "python"), {})
    assert re.search(r"'label': '(negative|positive)', 'score': 0\.\d+", capsys.readouterr().out)


def test_experts_that_keep_their_heads(tmp_path, monkeypatch, capsys):
    labels = (["O", "B-PER", "I-PER"], ["O", "B-LOC"])
    parts = relatives(tmp_path, "bert", labels=labels, task="token-classification")
    out = tmp_path / "both"
    merge(recipe_of(parts, "mean", heads="keep"), out)
    card = model_card(out)
    assert card.data.pipeline_tag == "token-classification"
    assert "- `expert-0`: O, B-PER, I-PER\n- `expert-1`: O, B-LOC" in card.text
    assert "each keeps its own head in a subfolder" in card.text
    with safe_open(out / "expert-0" / "head.safetensors", "numpy") as file:
        heads = set(file.keys())
    with safe_open(out / "expert-0" / "body-model.safetensors", "numpy") as file:
        assert f"- {len(list(file.keys()))} tensors were combined" in card.text and len(heads) == 2
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code_of(card, "python"), names)
    assert set(names["model"].model.config.id2label.values()) == {"O", "B-LOC"}, "the last one's"
    assert len(capsys.readouterr().out.splitlines()) == 2
    together = card.text[card.text.index("All heads on one body in memory") :]
    exec(re.search("```python\n(.*?)\n```", together, re.DOTALL)[1], names)
    assert set(names["outputs"]) == {"expert-0", "expert-1"} and "tensor([[[" in capsys.readouterr().out


def test_words_from_outside_cannot_break_the_page(tmp_path):
    labels = ["good|bad", "`code`\n\n# Title", "[x](http://evil)", "<script>"]
    parts = relatives(tmp_path / "e", labels=(labels, labels))
    for name in ("a_b*c", "d|e"):
        parts.append(parts.pop(0).rename(tmp_path / "e" / name))
    for part in parts:
        (part / "README.md").write_text('---\nlicense: "apache-2.0 | x\\n# Title"\nlanguage: no\n---\n')
    out = tmp_path / "o_u_t"
    merge(recipe_of(parts, "mean"), out)
    card = model_card(out)
    assert r"good\|bad, \`code\` \# Title, \[x\](http://evil), \<script\>" in card.text
    headings = [line for line in card.text.splitlines() if line.startswith("# ")]
    assert headings == [r"# o\_u\_t"]
    for table in re.findall(r"(?:^\|.*\n)+", card.text, re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1, table
    assert card.data.language == ["no"], "Norwegian, which YAML takes for false"
    assert card.data.license == "other" and re.fullmatch(r"[a-z0-9.-]+", card.data.license_name)
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()


def test_a_recipe_with_backticks_stays_in_its_fence(fused, tmp_path):
    copy = shutil.copytree(fused, tmp_path / "fused")
    recipe = yaml.safe_load((copy / "fusehub_recipe.yaml").read_text())
    recipe["models"][0]["labels"] = ["```", "# x"]
    (copy / "fusehub_recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert Recipe.parse(yaml.safe_load(code_of(model_card(copy), "yaml"))).models[0].labels == ("```", "# x")


# --- licenses and lineage --------------------------------------------------------------------------------------------


def test_the_strictest_license_wins(sources):
    sources(0, license="mit")
    card = model_card(sources(1, license="cc-by-nc-4.0"))
    assert card.data.license == "cc-by-nc-4.0"
    assert "License: cc-by-nc-4.0, because expert-1 has the strictest license." in card.text
    assert "| expert-0 | 1 | mit |" in card.text


def test_a_license_that_its_publisher_says_is_told_beside_what_follows(sources):
    sources(0, license="mit")
    folder = sources(1, license="cc-by-nc-4.0")
    card = model_card(folder, license="cc-by-nc-sa-4.0")
    assert card.data.license == "cc-by-nc-sa-4.0"
    assert "License: cc-by-nc-sa-4.0, as its publisher says; the experts' cards lead to cc-by-nc-4.0" in card.text
    other = model_card(folder, license="Our Terms")
    assert (other.data.license, other.data.license_name) == ("other", "our-terms")


def test_the_card_says_whose_texts_the_statistics_were_made_from(sources):
    """What is true of each expert's: its owner's, a companion's by others, the publisher's own, and none at all."""
    origins = {0: f"ann/one@{'a' * 40}", 1: f"bob/two-statistics@{'b' * 40}"}
    for number, origin in origins.items():
        at = {"repo_id": f"ann/{'two' if number else 'one'}", "statistics": STATISTICS | {"origin": origin}}
        folder = sources(number, **at)
    text = model_card(folder).text
    assert "no texts were read. The statistics of expert-0 were made from texts by the owner" in text
    assert "those of expert-1 were made from texts by others than the owner" in text
    text = model_card(sources(1, statistics=STATISTICS | {"origin": "data-free"})).text
    assert "in the place of those of expert-1 stands the difference to the base" in text


@pytest.mark.parametrize("nothing", [None, "unknown"])
def test_a_license_that_not_all_state_is_left_out(sources, nothing):
    sources(0, license="mit")
    card = model_card(sources(1, license=nothing))
    assert card.data.license is None
    assert "No license is stated by expert-1" in card.text


def test_a_license_that_the_hub_does_not_know_is_other(sources):
    sources(0, license="My Own License", repo_id="ann/expert", commit="0" * 40)
    card = model_card(sources(1, license="mit"))
    assert (card.data.license, card.data.license_name) == ("other", "my-own-license")
    assert card.data.license_link.endswith("/ann/expert/tree/" + "0" * 40)
    assert "FuseHub does not know the license of expert-0 (My Own License)" in card.text
    sources(0, license="etalab-2.0")
    assert model_card(sources(1, license="mit")).data.license == "etalab-2.0"


def test_the_card_names_experts_languages_and_data(sources):
    sources(0, repo_id="ann/a", commit="a" * 40, languages="en", datasets=["imdb", "bad id!"])
    card = model_card(sources(1, repo_id="bob/b", commit="b" * 40, languages=["de", "en"], datasets="bob/texts"))
    assert card.data.base_model == ["ann/a", "bob/b"] and card.data.base_model_relation == "merge"
    assert card.data.language == ["en", "de"] and card.data.datasets == ["imdb", "bob/texts"]
    assert "/ann/a/tree/" + "a" * 40 in card.text


# --- notes, other folders --------------------------------------------------------------------------------------------


def test_what_was_found_on_the_way_is_told_once(sources):
    copy = sources(0, license="mit")
    copy = sources(1, license=None)
    report = json.loads((copy / "fusehub_report.json").read_text())
    report["findings"] = [
        {
            "code": "license-unclear",
            "level": "warning",
            "what": "No license is stated by expert-1: ask the owner",
            "fix": "",
        },
        {"code": "config-differs", "level": "error", "what": f"{report['sources'][0]['name']} is odd.", "fix": ""},
        {"code": "license-result", "level": "note", "what": "License of the result: mit (x).", "fix": ""},
    ]
    report["layer_notes"] = {
        "a.weight": [{"kind": "span", "text": "inputs span 3 of 16 directions: the rest kept at the anchor"}],
        "b.weight": [{"kind": "span", "text": "five directions of 16 alone are known"}],
        "c.weight": [{"kind": "unused", "text": "1 of 16 input features never used: kept at the anchor"}],
    }
    (copy / "fusehub_report.json").write_text(json.dumps(report))
    text = model_card(copy).text
    assert "- expert-0 is odd. It was merged all the same." in text
    assert "- inputs span 3 of 16 directions: the rest kept at the anchor (a.weight, and so in 1 more layers)" in text
    assert "- 1 of 16 input features never used: kept at the anchor (c.weight)" in text
    assert "License of the result" not in text


def test_affine_says_that_biases_were_solved(experts, tmp_path):
    merge(recipe_of(experts(), parameters={"affine": True}), tmp_path / "out")
    text = model_card(tmp_path / "out").text
    assert "- 14 tensors were solved by RegMean" in text
    assert "- 14 tensors were solved together with their layer's weight: biases" in text


def test_a_model_that_is_no_merge_gets_a_short_card(experts):
    card = model_card(experts()[0], repo_id="ann/expert")
    assert card.data.to_dict() == {"library_name": "transformers", "pipeline_tag": "text-classification"}
    assert 'model="ann/expert"' in card.text and "Its labels: negative, positive." in card.text
    with pytest.raises(BadData, match="not a merge"):
        model_card(experts()[0], evaluation={})


def test_a_card_for_an_unknown_task_has_to_be_written(experts, tmp_path):
    copy = shutil.copytree(experts()[0], tmp_path / "base")
    edit_json(copy / "config.json", architectures=["BertModel"])
    with pytest.raises(BadData, match="BertModel"):
        model_card(copy)


def test_folders_without_a_finished_model(tmp_path, fused):
    with pytest.raises(NotFound, match=r"no config\.json"):
        model_card(tmp_path)
    copy = shutil.copytree(fused, tmp_path / "broken")
    (copy / "fusehub_report.json").write_text("{")
    with pytest.raises(BadFile, match="not complete"):
        model_card(copy)


def test_the_card_of_statistics(experts):
    path = experts()[0] / "fusehub" / "statistics.json"
    metadata = json.loads(path.read_text())
    card = statistics_card(metadata, "ann/a_model", "a" * 40, repo_id="bob/stats")
    assert card.data.tags == ["fusehub-statistics", "fusehub"] and card.data.base_model == ["ann/a_model"]
    assert card.data.pipeline_tag is None
    rows = sorted(layer["rows"] for layer in metadata["layers"].values())
    assert f"sum over {rows[0]} to {rows[-1]:,} rows" in card.text and "| Texts | 24 |" in card.text
    assert "fewer rows than inputs" not in card.text
    assert "fusehub merge ann/a_model OTHER/MODEL --method regmean --statistics ann/a_model=bob/stats" in card.text
    metadata["layers"] = {name: layer | {"rows": 5} for name, layer in metadata["layers"].items()}
    assert (
        f"**{len(metadata['layers'])} layers have fewer rows than inputs**"
        in statistics_card(metadata, "ann/a", "a" * 40).text
    )


def test_md():
    assert md("a|b\n *c* _d_") == r"a\|b \*c\* \_d\_"
