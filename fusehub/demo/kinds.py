"""Tiny experts of every kind on a Hub of this machine, to see how each is merged and compared: `fusehub demo --kinds`.

    run(Path("demo"))     # a Hub with entities, questions, language and images: two experts of each, and their data

Of each kind two owners teach one small network texts (or pictures) of their own. The texts are made up from a few
words, so that all of it takes about a minute: what these models say shows what each comparison is like, and is no
measure of any method.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fusehub.cli.console import say
from fusehub.demo import networks
from fusehub.demo.networks import COLOURS, SIDE, Row
from fusehub.models.loading import quiet_transformers
from fusehub.utils.extras import needs

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedModel

OWNERS = ("ada", "ben")
TRAIN, TEST = 240, 40

_PEOPLE = ("Anna", "Bruno", "Clara", "David", "Emil", "Frida")
_PLACES = ("Berlin", "Lisbon", "London", "Munich", "Oslo", "Paris")
_FIRMS = ("Acme", "Bosch", "Nokia", "Siemens", "Sony", "Volvo")
_TAG_OF = (
    dict.fromkeys(_PEOPLE, "B-PER") | dict.fromkeys(_PLACES, "B-LOC") | dict.fromkeys(_FIRMS, "B-ORG")
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """One kind of model, and what its owners teach it: `rows(owner, count, random)` are examples, as in a table."""

    task: str
    short: str
    about: tuple[str, str]
    """What each owner's data is about."""
    rows: Callable[[int, int, random.Random], list[Row]]
    steps: int
    new: Callable[[Sequence[Row]], networks.Network]
    """Of examples a network that has seen none, and what reads its texts or images."""
    batch: Callable[[Any, Sequence[Row]], dict[str, torch.Tensor]]


def _entities(owner: int, count: int, chance: random.Random) -> list[Row]:
    """People and places in letters, or firms and places in news."""
    letters = ("{p} lives in {l} .", "{p} met {q} in {l} yesterday .", "we visited {p} in {l} .", "{p} wrote to {q} .")
    news = ("{f} opened in {l} .", "{f} bought {g} in {l} .", "shares of {f} fell .", "{f} moved from {l} to {m} .")
    rows = []
    for _ in range(count):
        people, places, firms = (chance.sample(names, 2) for names in (_PEOPLE, _PLACES, _FIRMS))
        text = chance.choice((letters, news)[owner]).format(
            p=people[0], q=people[1], l=places[0], m=places[1], f=firms[0], g=firms[1]
        )
        rows.append({"tokens": text.split(), "ner_tags": [_TAG_OF.get(word, "O") for word in text.split()]})
    return rows


def _questions(owner: int, count: int, chance: random.Random) -> list[Row]:
    """Where people live and since when, or what firms sell and where."""
    goods = ("bread", "cars", "lamps", "phones", "shoes", "tools")
    rows = []
    for _ in range(count):
        name, place = chance.choice((_PEOPLE, _FIRMS)[owner]), chance.choice(_PLACES)
        other = chance.choice((("March", "April", "May", "June"), goods)[owner])
        context = (f"{name} lives in {place} since {other} .", f"{name} sells {other} in {place} .")[owner]
        asked = (
            ((f"where does {name} live ?", place), (f"since when does {name} live there ?", other)),
            ((f"where is {name} ?", place), (f"what does {name} sell ?", other)),
        )[owner]
        question, answer = chance.choice(asked)
        answers = {"text": [answer], "answer_start": [context.index(answer)]}
        rows.append({"question": question, "context": context, "answers": answers})
    return rows


def _language(owner: int, count: int, chance: random.Random) -> list[Row]:
    """The weather, or the kitchen."""
    parts = (
        (("the sun", "the wind", "the rain", "the snow"), ("comes", "goes", "falls", "turns"),
         ("over the hills", "from the west", "on the sea", "in the night")),
        (("the soup", "the bread", "the fish", "the cake"), ("tastes", "smells", "looks", "is"),
         ("of fresh herbs", "very good today", "best with butter", "too hot to eat")),
    )[owner]  # fmt: skip
    # What one begins with goes on in one way only: that can be learnt.
    first, verbs, ends = parts
    return [
        {"text": f"{first[at]} {verbs[(at + more) % 4]} {ends[(at + more) % 4]} ."}
        for at, more in ((chance.randrange(4), chance.choice((0, 0, 0, 1))) for _ in range(count))
    ]


def _images(owner: int, count: int, chance: random.Random) -> list[Row]:
    """Balls or boxes, each of a colour."""
    rows = []
    for _ in range(count):
        label = chance.choice([*COLOURS])
        rows.append({"image": _picture(COLOURS[label], owner, chance), "label": label})
    return rows


def _picture(colour: Sequence[int], owner: int, chance: random.Random) -> Image:
    from PIL import Image, ImageDraw

    ground = chance.randrange(150, 256)
    image = Image.new("RGB", (SIDE, SIDE), (ground, ground, ground))
    own = tuple(min(255, max(0, value + chance.randrange(-30, 31))) for value in colour)
    x, y, side = chance.randrange(2, 10), chance.randrange(2, 10), chance.randrange(14, 20)
    draw = ImageDraw.Draw(image)
    (draw.ellipse, draw.rectangle)[owner]((x, y, x + side, y + side), fill=own)
    return image


KINDS = (
    Kind(
        "token-classification",
        "entities",
        ("letters", "news"),
        _entities,
        100,
        networks.new_of_entities,
        networks.batch_of_entities,
    ),
    Kind(
        "question-answering",
        "questions",
        ("people", "shops"),
        _questions,
        150,
        networks.new_of_questions,
        networks.batch_of_questions,
    ),
    Kind(
        "text-generation",
        "language",
        ("weather", "kitchen"),
        _language,
        120,
        networks.new_of_language,
        networks.batch_of_language,
    ),
    Kind(
        "image-classification",
        "images",
        ("balls", "boxes"),
        _images,
        80,
        networks.new_of_images,
        networks.batch_of_images,
    ),
)


def run(folder: Path, *, quiet: bool = False) -> dict[str, Any]:
    """Fills a Hub in `folder`/hub, and gives the models and the data of each kind."""
    with needs("demo", "The demo"):
        from fusehub.localhub import running
    hub = Path(folder) / "hub"
    hub.parent.mkdir(parents=True, exist_ok=True)
    with running(hub) as server:
        fill(server, say if not quiet else lambda text: None)
    if not quiet:
        say("\nTo look at them, serve that Hub in one terminal and open the app in another:", "bold")
        say(f"  fusehub hub {hub}")
        for kind in KINDS:
            say(f"  HF_ENDPOINT=http://127.0.0.1:8730 HF_HUB_DISABLE_XET=1 fusehub app {' '.join(names_of(kind))}")
    return {kind.task: {"models": names_of(kind), "data": data_of(kind)} for kind in KINDS}


def fill(hub: Any, say: Callable[[str], None], kinds: Sequence[Kind] = ()) -> None:
    """Puts two experts of each kind onto a local Hub, with their statistics and their data; what is there stays."""
    for kind in kinds or KINDS:
        if _api(hub, OWNERS[0]).repo_exists(names_of(kind)[-1]):
            say(f"The models for {kind.task} are there already.")
            continue
        say(f"Two people teach a tiny model for {kind.task}: {kind.about[0]}, and {kind.about[1]}.")
        with tempfile.TemporaryDirectory() as folder:
            for repo, path in _made(kind, Path(folder)):
                api = _api(hub, repo.partition("/")[0])
                repo_type = "dataset" if (path / "train.parquet").exists() else "model"
                api.create_repo(repo, repo_type=repo_type, exist_ok=True)
                api.upload_folder(repo_id=repo, repo_type=repo_type, folder_path=path, commit_message="Tiny")


def _api(hub: Any, user: str) -> Any:
    # Read by the client when it is imported: a plain Hub has no xet storage.
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    from huggingface_hub import HfApi

    return HfApi(endpoint=hub.url, token=hub.token(user))


def names_of(kind: Kind) -> list[str]:
    """The models of a kind, `ada/tiny-entities-letters` and another."""
    return [f"{owner}/tiny-{kind.short}-{about}" for owner, about in zip(OWNERS, kind.about, strict=True)]


def data_of(kind: Kind) -> list[str]:
    """Their data sets."""
    return [f"{owner}/{about}" for owner, about in zip(OWNERS, kind.about, strict=True)]


def _made(kind: Kind, folder: Path) -> Iterator[tuple[str, Path]]:
    """Repos and their folders: data, base, and experts with their statistics."""
    from fusehub.collecting.collect import collect

    rows = [kind.rows(owner, TRAIN + TEST, random.Random(owner)) for owner in range(2)]
    for owner, name in enumerate(data_of(kind)):
        yield name, _written(rows[owner], folder / f"data-{owner}")
    both = [row for own in rows for row in own[:TRAIN]]
    torch.manual_seed(0)
    model, reader = kind.new(both)
    # What both begin with has seen a little of all, as what people fine-tune has.
    _fit(kind, model, reader, both, kind.steps // 4)
    base = folder / "base"
    _save(model, reader, base, f"pipeline_tag: {kind.task}\nlicense: apache-2.0")
    yield f"{OWNERS[0]}/tiny-{kind.short}-base", base
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for owner, repo in enumerate(names_of(kind)):
        model.load_state_dict(start)
        _fit(kind, model, reader, rows[owner][:TRAIN], kind.steps)
        card = f"pipeline_tag: {kind.task}\nlicense: apache-2.0\nbase_model: {OWNERS[0]}/tiny-{kind.short}-base\n"
        path = folder / f"expert-{owner}"
        _save(model, reader, path, card + f"datasets: [{data_of(kind)[owner]}]")
        made = collect(str(path), str(folder / f"data-{owner}" / "train.parquet"), path / "fusehub", limit=200)
        assert made is not None  # There is one process of it.
        made.close()
        yield repo, path


def _written(rows: Sequence[Row], folder: Path) -> Path:
    import datasets

    datasets.disable_progress_bars()
    folder.mkdir()
    for split, own in (("train", rows[:TRAIN]), ("test", rows[TRAIN:])):
        table = datasets.Dataset.from_list(list(own))
        if "image" in table.column_names:
            table = table.cast_column("image", datasets.Image())
        table.to_parquet(folder / f"{split}.parquet")
    return folder


def _fit(kind: Kind, model: PreTrainedModel, reader: Any, rows: Sequence[Row], steps: int) -> None:
    """So many steps of 32 rows, drawn anew for each."""
    chance = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        batch = kind.batch(reader, chance.sample(list(rows), 32))
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def _save(model: PreTrainedModel, reader: Any, folder: Path, card: str) -> None:
    with quiet_transformers():
        model.save_pretrained(folder)
        reader.save_pretrained(folder)
    (folder / "README.md").write_text(f"---\n{card}\n---\nA tiny model of FuseHub's demo.\n", encoding="utf-8")
