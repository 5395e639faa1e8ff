"""The two families of experts: what their domains are, and how one is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fusehub.demo.corpus import LABELS, encoder_folder, sentiment, write_dataset
from fusehub.demo.training import IGNORED, MAX_LENGTH, TRAIN_TEXTS, Row, Settings, encode

ENTITY_LABELS = ("O", *(f"{begin}-{kind}" for kind in ("PER", "LOC", "ORG", "MISC") for begin in "BI"))
ENTITY_MAX_LENGTH = 128
SENTIMENT_SOURCE = (
    'Texts and ratings of C.J. Hutto and Eric Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis '
    'of Social Media Text", ICWSM 2014, made into three labels as `fusehub demo` does.'
)
# After fewer passes the experts do not know their genre yet, and nothing can be told apart.
ENTITY_SETTINGS = Settings(epochs=24, batch_size=16, learning_rate=2e-4)


@dataclass(frozen=True)
class Family:
    """Experts of one encoder and one set of labels; `data` has a folder or the files of every domain.

    `source` says for readers where the texts are from.
    """

    name: str
    title: str
    domains: tuple[str, ...]
    labels: tuple[str, ...]
    metric: str
    auto_class: str
    settings: Settings
    max_length: int
    data: Path
    source: str

    def file(self, domain: str, split: str) -> Path:
        """The file of a domain's `train`, `validation` or `test` split."""
        if self.name == "entities":
            return self.data / f"{domain}.{'val' if split == 'validation' else split}.jsonl"
        return self.data / domain / f"{split}.jsonl"

    def rows(self, domains: Sequence[str], tokenizer: object) -> list[Row]:
        """The training texts of some domains as the trainer takes them."""
        if self.name == "entities":
            return [
                row for domain in domains for row in _word_rows(self.file(domain, "train"), tokenizer, self.labels)
            ]
        rows: list[Row] = []
        for domain in domains:
            lines = self.file(domain, "train").read_text(encoding="utf-8").splitlines()[:TRAIN_TEXTS]
            examples = [(example["text"], example["label"]) for example in map(json.loads, lines)]
            rows += encode(tokenizer, examples, self.labels)
        return rows

    def count(self, domain: str) -> int:
        """How many texts the domain has for training."""
        with self.file(domain, "train").open(encoding="utf-8") as file:
            return sum(1 for _ in file)

    def new_model(self) -> object:
        """The pretrained encoder with a new head, the same one for every expert: the base of the family."""
        from fusehub.demo.training import new_model

        return new_model(encoder_folder(), self.labels, self.auto_class)


def families(folder: Path, entities: Path | None) -> dict[str, Family]:
    """The families whose texts are here: sentiment as the demo fetches it, entities from a folder of JSON lines."""
    data = folder / "data"
    domains = sentiment(folder / "cache")
    for name, domain in domains.items():
        if not (data / name).exists():
            write_dataset(domain, data / name)
    found = {
        "sentiment": Family(
            "sentiment",
            "Sentiment",
            tuple(domains),
            LABELS,
            "Accuracy",
            "AutoModelForSequenceClassification",
            Settings(),
            MAX_LENGTH,
            data,
            SENTIMENT_SOURCE,
        )
    }
    if entities is not None:
        genres = tuple(sorted(path.name.partition(".")[0] for path in entities.glob("*.train.jsonl")))
        found["entities"] = Family(
            "entities",
            "Named entities",
            genres,
            ENTITY_LABELS,
            "F1 of whole entities",
            "AutoModelForTokenClassification",
            ENTITY_SETTINGS,
            ENTITY_MAX_LENGTH,
            entities,
            _said_by(entities / "README.md"),
        )
    return found


def _said_by(readme: Path) -> str:
    """What a folder of data says of itself: the first paragraph below the title; nothing where it has no README.md."""
    paragraphs = readme.read_text(encoding="utf-8").split("\n\n") if readme.exists() else []
    said = next((part.strip() for part in paragraphs if not part.startswith("#")), "")
    return said and f"The folder of texts says of itself: {said}"


def _word_rows(path: Path, tokenizer: object, labels: Sequence[str]) -> list[Row]:
    """Token ids, and the label of each word at its first token."""
    rows: list[Row] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        example = json.loads(line)
        encoded = tokenizer(example["tokens"], is_split_into_words=True, truncation=True, max_length=ENTITY_MAX_LENGTH)
        words, targets = encoded.word_ids(), []
        for position, word in enumerate(words):
            first = word is not None and (position == 0 or words[position - 1] != word)
            targets.append(labels.index(example["ner_tags"][word]) if first else IGNORED)
        rows.append((encoded["input_ids"], targets))
    return rows
