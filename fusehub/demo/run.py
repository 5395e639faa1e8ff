"""The whole way on this machine alone, on real models and real text: what `make demo` runs.

First the owners: three people each fine-tune the same encoder on texts of their own (product reviews, film
reviews, newspaper editorials) and publish the model with its statistics on a Hub that runs on this machine.
Then you, who have none of their texts: find the models, check them, merge them, score the merge in their domains
and on one that none of them saw (tweets), publish it, and read it back. Everything from there on is the command
line that anyone has; each command is shown before it runs.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusehub.cli.console import bar, out, say, table
from fusehub.errors import FuseHubError
from fusehub.utils.extras import needs
from fusehub.utils.formats import size

YOU = "you"
NAME = "minilm-sentiment-merged"
BASE = "sentence-transformers/all-MiniLM-L6-v2"
PORT = 8730
TEXTS = ("The battery died after two days.", "I laughed, I cried, I bought the record.", "Rain is expected on Friday.")


@dataclass(frozen=True)
class Size:
    """How much of the demo's text is used: for training, for an expert's statistics, and to score on (all: None)."""

    name: str
    train: int
    epochs: int
    statistics: int
    test: int | None


FULL = Size("", 2400, 3, 1000, None)
# Far less computing. RegMean is nearly as far ahead of the mean: 4.8 points with seed 0, 5.6 with all texts.
QUICK = Size("-quick", 600, 2, 400, 200)


@dataclass(frozen=True)
class Owner:
    """Somebody with a model and the texts that it was trained on."""

    user: str
    domain: str
    model: str
    dataset: str


OWNERS = (
    Owner("ada", "products", "ada/minilm-product-sentiment", "ada/product-reviews"),
    Owner("ben", "films", "ben/minilm-film-sentiment", "ben/film-reviews"),
    Owner("cleo", "editorials", "cleo/minilm-editorial-sentiment", "cleo/editorials"),
)
UNSEEN = Owner("dana", "tweets", "", "dana/tweets")


def run(folder: Path, *, seed: int = 0, quick: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Runs the demo in `folder` and returns its report, which is also written there as `report.json`.

    `quick` takes a quarter of the texts for training, and fewer of those that models are scored on.

    What an earlier run made (trained experts, the Hub, scores of the same weights) is used again.
    """
    with needs("demo", "The demo"):
        from fusehub.localhub import running
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with running(folder / "hub", _port()) as hub:
        demo = _Demo(folder, hub, seed, QUICK if quick else FULL, quiet)
        demo.say(f"A Hub runs at {hub.url} on the files in {folder / 'hub'}/, for as long as this takes.")
        demo.own()
        demo.use()
        report = demo.report()
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        demo.finish(report)
        if _wants_app(quiet):
            demo.open_app()
    return report


@dataclass
class _Demo:
    """One run: the Hub it works against, and how long each step took."""

    folder: Path
    hub: Any
    seed: int
    amount: Size
    quiet: bool
    steps: dict[str, dict[str, float]] = field(default_factory=dict)
    trained: dict[str, Any] = field(default_factory=dict)

    def say(self, text: str, style: str | None = None) -> None:
        if not self.quiet:
            say(text, style)

    def own(self) -> None:
        """Each owner trains an expert, and publishes texts, model and statistics; what is there already stays."""
        from fusehub.demo.corpus import sentiment, write_dataset

        self.say("\nThree people each have a model for the sentiment of their own kind of text.", "bold")
        started = time.perf_counter()
        domains = sentiment(self.folder / "cache")
        for owner in (*OWNERS, UNSEEN):
            data = self.folder / "data" / owner.domain
            if not data.exists():
                write_dataset(domains[owner.domain], data)
            self._push_dataset(owner, data)
        self._took("prepare texts", started)
        for owner in OWNERS:
            expert = self.folder / "experts" / f"{owner.domain}-seed{self.seed}{self.amount.name}"
            self._train(owner, domains[owner.domain], expert)
            if self._is_published(owner, expert):
                self.say(f"{owner.model} is on the Hub already, with its statistics.")
                continue
            self._command(
                owner.user,
                f"publish {owner.domain}",
                ["publish", str(expert), owner.model, "--no-private", "--exist-ok"],
            )
            self._command(
                owner.user,
                f"collect {owner.domain}",
                [
                    "collect",
                    owner.model,
                    "--data",
                    f"{owner.dataset}/train",
                    "--limit",
                    str(self.amount.statistics),
                    "--publish",
                ],
            )

    def _train(self, owner: Owner, domain: Any, expert: Path) -> None:
        record = expert.with_suffix(".json")
        if not expert.exists():
            from fusehub.demo.corpus import encoder_folder
            from fusehub.demo.training import Settings, train_expert

            started = time.perf_counter()
            self.say(f"{owner.user} fine-tunes MiniLM on {domain.title.lower()} ...")
            with bar(f"Training on {owner.domain}", quiet=self.quiet) as progress:
                expert.parent.mkdir(exist_ok=True)
                done = train_expert(
                    encoder_folder(), domain, expert, texts=self.amount.train, scored=self.amount.test,
                    settings=Settings(epochs=self.amount.epochs), seed=self.seed,
                    on_progress=lambda step, steps, loss: progress(step, steps, "steps"),
                )  # fmt: skip
            record.write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
            (expert / "README.md").write_text(_expert_card(owner, domain, done), encoding="utf-8")
            self._took(f"train {owner.domain}", started)
        self.trained[owner.domain] = json.loads(record.read_text(encoding="utf-8"))

    def _is_published(self, owner: Owner, expert: Path) -> bool:
        """Whether these weights and their statistics are on the Hub."""
        from fusehub.models.tensor_files import sha256_of

        api = self._api(owner.user)
        if not api.repo_exists(owner.model):
            return False
        files = {item.path: item for item in api.list_repo_tree(owner.model, recursive=True)}
        weights = files.get("model.safetensors")
        same = weights is not None and weights.lfs and weights.lfs.sha256 == sha256_of(expert / "model.safetensors")
        return bool(same) and "fusehub/statistics.safetensors" in files

    def _push_dataset(self, owner: Owner, data: Path) -> None:
        api = self._api(owner.user)
        if not api.repo_exists(owner.dataset, repo_type="dataset"):
            api.create_repo(owner.dataset, repo_type="dataset")
            api.upload_folder(repo_id=owner.dataset, repo_type="dataset", folder_path=data, commit_message="Texts")

    def _api(self, user: str) -> Any:
        # Read by the client when it is imported: a plain Hub has no xet storage.
        os.environ["HF_HUB_DISABLE_XET"] = "1"
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.hub.url, token=self.hub.token(user))

    def use(self) -> None:
        """What a user does with other people's models, with the command line alone."""
        models = [owner.model for owner in OWNERS]
        self.say("\nYou have none of their texts, and want one model that does what all three do.", "bold")
        self._command(YOU, "find", ["find", "sentiment", "--with-statistics"])
        self._command(YOU, "check", ["check", *models])
        for method in ("mean", "regmean"):
            target = self.folder / method
            shutil.rmtree(target, ignore_errors=True)
            self._command(YOU, f"merge by {method}", ["merge", *models, "--method", method, "--out", str(target)])
        merged = str(self.folder / "regmean")
        texts = [word for text in TEXTS for word in ("--text", text)]
        self._command(YOU, "compare", ["compare", *models, str(self.folder / "mean"), merged, "--ensemble", *texts])
        data = [
            word for owner in (*OWNERS, UNSEEN) for word in ("--data", f"{owner.domain}={owner.dataset}/test")
        ]  # fmt: skip
        if self.amount.test:
            data += ["--limit", str(self.amount.test)]
        scores = str(self.folder / "scores.json")
        everyone = [*models, str(self.folder / "mean"), merged]
        what = self._weights()
        if _recorded(self.folder / "scored.json") == what and Path(scores).exists():
            self.say(f"\nThe scores of exactly these weights are in {scores} already.")
        else:
            self._command(YOU, "evaluate", ["evaluate", *everyone, "--ensemble", *data, "--out", scores])
            (self.folder / "scored.json").write_text(json.dumps(what), encoding="utf-8")
        repo = f"{YOU}/{NAME}"
        self._command(YOU, "publish", ["publish", merged, repo, "--results", scores, "--exist-ok"])
        self.say("Read back from the Hub, into an empty cache:")
        shutil.rmtree(self.folder / "cache" / "second", ignore_errors=True)
        self._command(YOU, "read back", ["compare", repo, models[0], *texts], cache="second")

    def _weights(self) -> dict[str, Any]:
        """sha256 of the two merges, and the commits that they and their scores were made from."""
        from fusehub.models.tensor_files import sha256_of

        api = self._api(YOU)
        merges = {name: sha256_of(self.folder / name / "model.safetensors") for name in ("mean", "regmean")}
        experts = {owner.model: api.model_info(owner.model).sha for owner in OWNERS}
        scored = {"limit": self.amount.test}
        return merges | experts | scored | {o.dataset: api.dataset_info(o.dataset).sha for o in (*OWNERS, UNSEEN)}

    def _command(self, user: str, step: str, arguments: list[str], *, cache: str = "first") -> None:
        """Runs one command of the command line as `user`; its output is the demo's."""
        shown = " ".join(shlex.quote(word) for word in ("fusehub", *arguments))
        self.say(f"\n{user} $ {shown}", "cyan")
        environment = self.hub.env(user, (self.folder / "cache" / cache).resolve())
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "fusehub", *arguments],
            env=environment,
            stdout=subprocess.DEVNULL if self.quiet else None,
        )
        peak = 0
        try:
            while process.poll() is None:
                peak = max(peak, _peak_memory(process.pid))
                time.sleep(0.05)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        self._took(step, started)
        if peak:
            self.steps[step]["peak_memory_bytes"] = peak
        if process.returncode:
            raise FuseHubError(f"`{shown}` ended with code {process.returncode}.", "See what it printed above.")

    def _took(self, step: str, started: float) -> None:
        self.steps[step] = {"seconds": round(time.perf_counter() - started, 1)}

    def open_app(self) -> None:
        """The app on all this, for as long as the person looks at it."""
        command = ["app", *(owner.model for owner in OWNERS)]
        self.say(f"\n{YOU} $ fusehub {' '.join(command)}", "cyan")
        environment = self.hub.env(YOU, (self.folder / "cache" / "first").resolve())
        process = subprocess.Popen([sys.executable, "-m", "fusehub", *command], env=environment)
        try:
            process.wait()
        except KeyboardInterrupt:
            # Ctrl-C reached the app as well, and is how one leaves it.
            process.wait()

    def report(self) -> dict[str, Any]:
        """Scores, times and sizes of this run, as plain data."""
        scores = json.loads((self.folder / "scores.json").read_text(encoding="utf-8"))
        table: dict[str, dict[str, float]] = {}
        for score in scores["scores"]:
            table.setdefault(score["model"], {})[score["data"]] = round(score["metrics"]["accuracy"], 4)
        for row in table.values():
            row["in_domain"] = round(sum(row[owner.domain] for owner in OWNERS) / len(OWNERS), 4)
        weights = (self.folder / "regmean" / "model.safetensors").stat().st_size
        api = self._api(YOU)
        sizes = {
            owner.model: next(
                item.size
                for item in api.list_repo_tree(owner.model, recursive=True)
                if item.path == "fusehub/statistics.safetensors"
            )
            for owner in OWNERS
        }
        return {
            "metric": "accuracy",
            "seed": self.seed,
            "table": table,
            "regmean_beats_mean": table["regmean"]["in_domain"] > table["mean"]["in_domain"],
            "steps": self.steps,
            "model_bytes": weights,
            "statistics_bytes": sizes,
            "training": self.trained,
            "published": f"{YOU}/{NAME}",
        }

    def finish(self, report: Mapping[str, Any]) -> None:
        """The table and the lines to go on with, for a person."""
        if self.quiet:
            return
        columns = [owner.domain for owner in OWNERS]
        best = max(row["in_domain"] for model, row in report["table"].items() if model.startswith("minilm"))
        rows = [
            [model, *(row[column] for column in columns), row["in_domain"], row[UNSEEN.domain]]
            for model, row in report["table"].items()
        ]
        heads = ["accuracy of", *columns, "their mean", "tweets"]
        out.print()
        table(None, heads, rows, numbers=heads[1:])
        merged, mean = report["table"]["regmean"]["in_domain"], report["table"]["mean"]["in_domain"]
        out.print("Tweets are a kind of text that no expert has seen.")
        out.print(
            f"RegMean: {100 * (merged - mean):+.1f} points against the mean, {100 * (merged - best):+.1f} against the "
            "best single expert, in domain.",
            markup=False,
        )
        step = report["steps"]["merge by regmean"]
        memory = f" and {size(step['peak_memory_bytes'])} of memory" if "peak_memory_bytes" in step else ""
        self.say(
            f"The merge took {step['seconds']} s{memory}; one model is {size(report['model_bytes'])}. "
            f"All figures: {self.folder / 'report.json'}"
        )
        self.say(_YOUR_OWN.format(folder=self.folder / "hub", experts=" ".join(owner.model for owner in OWNERS)))


def _wants_app(quiet: bool) -> bool:
    """Whether somebody sits there to look at the app: in a terminal, unless APP=0."""
    return sys.stdout.isatty() and not quiet and os.environ.get("APP") != "0"


def _port() -> int:
    """The port that `fusehub hub` uses, so that links in cards work later too; any other where it is taken."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError:
            return 0
        return PORT


def _recorded(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _peak_memory(pid: int) -> int:
    """Most bytes that a running process ever had in memory, by Linux; 0 where that is not told.

    The account that a parent gets of its child begins with the parent's own memory, which training has filled.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


_YOUR_OWN = """
The same with models of your own, or of anybody on the Hub:
  fusehub find QUERY --with-statistics
  fusehub check USER/EXPERT-1 USER/EXPERT-2
  fusehub collect USER/EXPERT-1 --data USER/TEXTS --publish        # once, by whoever has the texts
  fusehub merge USER/EXPERT-1 USER/EXPERT-2 --method regmean --out merged
  fusehub evaluate USER/EXPERT-1 USER/EXPERT-2 merged --ensemble --data NAME=USER/DATASET/test --out scores.json
  fusehub publish merged YOU/NAME --results scores.json
To look at the demo's Hub again, and then at its models in the app:  fusehub hub {folder}
  HF_ENDPOINT=http://127.0.0.1:8730 HF_HUB_DISABLE_XET=1 fusehub app {experts}"""


def _expert_card(owner: Owner, domain: Any, done: Mapping[str, Any]) -> str:
    """The card that an owner wrote for their model."""
    return f"""---
base_model: {BASE}
datasets:
- {owner.dataset}
language: en
library_name: transformers
license: apache-2.0
pipeline_tag: text-classification
tags:
- sentiment
---
# {owner.model.partition("/")[2]}

MiniLM, fine-tuned on {domain.title.lower()} to tell negative, neutral and positive sentences apart
({done["train_texts"]} texts, {done["epochs"]} passes, learning rate {done["learning_rate"]}).
Accuracy on {done["test_texts"]} texts of the test split of `{owner.dataset}`: {done["test_accuracy"]:.3f}.
"""
