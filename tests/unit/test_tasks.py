"""A task is a protocol: one that nobody has heard of is collected, compared and scored like the built-in ones."""

import ast
import contextlib
import json
from pathlib import Path

import pytest
import torch

import fusehub
from fusehub.comparing.metrics.measured import Measured
from fusehub.comparing.predictor import predict
from fusehub.comparing.tasks import ANSWERS, add_task
from fusehub.comparing.tasks.labelled import LabelledAnswers
from fusehub.data.columns import Guesses
from fusehub.data.tasks import DATA
from fusehub.data.tasks.labelled import LabelledData
from fusehub.errors import BadData, Incompatible, NotFound
from fusehub.models import tasks
from fusehub.models.tasks import TASKS, Task
from fusehub.publishing.cards.usage import example_code
from tests.unit import tiny
from tests.unit.experts import relatives

ROOT = Path(__file__).parents[2]
NAME, AUTO_CLASS = "next-sentence-prediction", "AutoModelForNextSentencePrediction"
LABELS = {0: "follows", 1: "strange"}


class Follows(LabelledData):
    """Two sentences a row, and whether the second follows the first: as somebody would add it."""

    kinds = (tuple,)
    columns = Guesses("two sentences", "orders", pairs=(("before", "after"),), targets=("order",), most=2, least=2)

    def example(self):
        return ("Anna sings.", "Bruno listens."), None


class FollowsAnswers(LabelledAnswers):
    """Whether one sentence follows another, typed with an arrow between."""

    question = '"Anna sings.", text_pair="Bruno listens."'

    def read_typed(self, texts):
        return [tuple(text.split(" -> ")) for text in texts], [[] for _ in texts]

    def to_read(self, text):
        return " -> ".join(text), []

    def score(self, said, examples):
        pairs = zip(self.answers(said), examples.labels, strict=True)
        return Measured({"right": sum(label == right for (label, _), right in pairs) / len(examples)})


@pytest.fixture
def follows():
    """The task, registered for one test."""
    task = Task(
        NAME, ("ForNextSentencePrediction",), AUTO_CLASS, "NEXT_SENTENCE_PREDICTION", "pairs of sentences", labels=True
    )
    add_task(task, Follows(), FollowsAnswers())
    yield task
    for registry in (TASKS, DATA, ANSWERS):
        registry.pop(NAME)


@pytest.fixture
def experts(tmp_path, monkeypatch):
    """Two models for the task."""
    monkeypatch.setitem(tiny.TASKS, NAME, AUTO_CLASS)
    numbers = {name: number for number, name in LABELS.items()}
    return list(map(str, relatives(tmp_path, task=NAME, id2label=LABELS, label2id=numbers)))


def data_of(folder: Path) -> str:
    texts = tiny.tiny_texts(12, longest=6)
    rows = [
        {"before": before, "after": after, "order": LABELS[number % 2]}
        for number, (before, after) in enumerate(zip(texts, reversed(texts), strict=True))
    ]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def said_by(model: str, before: str, after: str) -> dict[str, float]:
    """What transformers says, without FuseHub."""
    import transformers

    network = getattr(transformers, AUTO_CLASS).from_pretrained(model)
    inputs = transformers.AutoTokenizer.from_pretrained(model)(before, after, return_tensors="pt")
    with torch.inference_mode():
        chances = network(**inputs).logits[0].softmax(-1).tolist()
    return dict(zip(LABELS.values(), chances, strict=True))


def test_a_task_from_outside_goes_the_whole_way(tmp_path, follows, experts):
    data = data_of(tmp_path)
    statistics = {}
    for number, expert in enumerate(experts):
        statistics[expert] = str(tmp_path / f"statistics-{number}")
        with contextlib.closing(fusehub.collect(expert, data, statistics[expert], fisher=True)) as made:
            assert (made.metadata["task"], made.metadata["labels"]) == (NAME, {"follows": 6, "strange": 6})
            assert made.metadata["fisher"]["kind"] == "exact", "of two labels, both are summed over"
    fusehub.merge(experts, tmp_path / "merged", method="regmean", statistics=statistics)
    models = [*experts, str(tmp_path / "merged")]
    compared = fusehub.compare(models, ["Anna visited Paris -> Bruno works in London"])
    [text] = compared.texts
    assert compared.models == ["expert-0", "expert-1", "ensemble", "merged"]
    for model, answer in zip((models[0], models[1], models[2]), (text.answers[i] for i in (0, 1, 3)), strict=True):
        expected = said_by(model, "Anna visited Paris", "Bruno works in London")
        assert answer.probabilities == pytest.approx(expected, abs=1e-5)
        assert answer.label == max(expected, key=expected.get)
    means = [
        (text.answers[0].probabilities[name] + text.answers[1].probabilities[name]) / 2 for name in LABELS.values()
    ]
    assert list(text.answers[2].probabilities.values()) == pytest.approx(means, abs=1e-6)
    scores = fusehub.evaluate(models, {"pairs": data}, ensemble=True)
    rows = fusehub.compare(models, data=data, limit=12).texts
    assert " -> " in rows[0].text
    for number, score in enumerate(scores.scores):
        assert score.metrics == {"right": sum(row.answers[number].label == row.label for row in rows) / 12}


def test_a_task_from_outside_refuses_what_it_does_not_take(tmp_path, follows, experts):
    (tmp_path / "texts.txt").write_text("Anna sings.\n")
    with pytest.raises(BadData, match=r"(?s)cannot take a text.*pairs of sentences"):
        predict(experts[0], ["Anna sings."])
    with pytest.raises(NotFound, match="no column looks like two sentences"):
        fusehub.collect(experts[0], str(tmp_path / "texts.txt"), tmp_path / "out")
    assert "AutoModelForNextSentencePrediction" in example_code(
        {"a": json.loads((Path(experts[0]) / "config.json").read_text())}, "user/model"
    )
    with pytest.raises(ValueError, match="already"):
        add_task(follows, Follows(), FollowsAnswers())


def test_nobody_knows_the_task_before_it_is_there(experts):
    with pytest.raises(Incompatible, match="BertForNextSentencePrediction"):
        fusehub.compare(experts, ["Anna visited Paris -> Bruno works in London"])


def test_every_task_has_its_data_and_its_answers():
    assert list(TASKS) == list(DATA) == list(ANSWERS)


# What lists tasks, and what is a task's own. The local Hub knows nothing of the rest.
OWN = ("fusehub/models/tasks.py", "fusehub/data/tasks/", "fusehub/comparing/tasks/", "fusehub/localhub/")


def test_nothing_asks_which_task_it_is():
    """Neither by a comparison, nor by a table that has their names as keys."""
    constants = {name for name, value in vars(tasks).items() if isinstance(value, str) and value in TASKS}
    assert len(constants) == len(TASKS)
    wrong = []
    paths = [path for place in ("fusehub", "space") for path in (ROOT / place).rglob("*.py")]
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(OWN):
            continue
        tree = ast.parse(path.read_text())
        imported = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "fusehub.models.tasks"
            for alias in node.names
            if alias.name in constants
        }
        for node in ast.walk(tree):
            asked = [node] if isinstance(node, ast.Compare | ast.MatchValue) else []
            asked += [key for key in node.keys if key] if isinstance(node, ast.Dict) else []
            for part in (part for one in asked for part in ast.walk(one)):
                is_name = isinstance(part, ast.Name) and part.id in imported
                is_name |= isinstance(part, ast.Attribute) and part.attr in constants
                if is_name or (isinstance(part, ast.Constant) and part.value in TASKS):
                    wrong.append(f"{name}:{part.lineno}")
    assert wrong == []
