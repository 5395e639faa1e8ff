"""One command against a Hub that does one thing wrong: what came of it, and whether the next run is well.

A world has experts, an adapter and a dataset on a Hub, and a merge here. Every command is tried from an empty cache.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from fusehub.localhub import Running
from fusehub.localhub.faults import FILENAME, LOG
from tests.unit.at_hub import Session, session
from tests.unit.experts import LABELS, files_of, relatives, texts_of, with_statistics

MODELS = ["ann/expert-0", "ann/expert-1"]
# Pauses are a hundredth of the real ones; answers are waited for as long as a busy machine may need.
HURRIED = (
    "from fusehub.hub import wire; "
    "wire.patience = wire.Patience(pauses=(0.01, 0.02, 0.04), connect=2.0, answer=2.0, commit=4.0)"
)
TIMEOUTS = {"HF_HUB_DOWNLOAD_TIMEOUT": "2", "HF_HUB_ETAG_TIMEOUT": "2"}


@dataclass
class World:
    """What the commands work on."""

    hub: Running
    run: Session
    folder: Path
    api: HfApi = field(init=False)
    number: int = 0
    last: list[tuple[str, str, int | None]] = field(default_factory=list)
    """What the last command that was tried asked."""

    def __post_init__(self) -> None:
        self.api = HfApi(endpoint=self.hub.url, token=self.hub.token("ann"))

    def plan(self, faults: Sequence[dict[str, Any]] | None) -> None:
        """From now on the Hub does this; None for a Hub that is well."""
        path = self.hub.root / FILENAME
        if faults is None:
            path.unlink(missing_ok=True)
            return
        path.with_suffix(".new").write_text(json.dumps(faults))
        path.with_suffix(".new").replace(path)

    def asked(self) -> list[tuple[str, str, int | None]]:
        """What was asked since the last time: method, path, and the number of the fault that it met."""
        log = self.hub.root / LOG
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [tuple(json.loads(line)[:3]) for line in lines]

    def forget(self) -> None:
        """As on a machine where nothing was downloaded yet."""
        shutil.rmtree(self.folder / ".home", ignore_errors=True)


@contextmanager
def world(hub: Running, folder: Path) -> Iterator[World]:
    """A Hub with experts, an adapter and a dataset of ann, and a merge of the experts in `folder`/merged."""
    from fusehub.merging.merge import merge
    from tests.unit.experts import recipe_of
    from tests.unit.lora_cases import adapter

    api = HfApi(endpoint=hub.url, token=hub.token("ann"))
    parts = with_statistics(relatives(folder, layers=1))
    adapted, _ = adapter(folder / "adapter", folder / "base", target_modules=["query"])
    (adapted / "README.md").unlink()
    for part in parts:
        (part / "README.md").write_text(
            "---\nlicense: mit\nbase_model: ann/base\npipeline_tag: text-classification\n---\n"
        )
    for part in (folder / "base", *parts, adapted):
        api.create_repo(f"ann/{part.name}")
        api.upload_folder(repo_id=f"ann/{part.name}", folder_path=part, commit_message="Model")
    rows = [{"text": text, "label": LABELS[number % 2]} for number, text in enumerate(texts_of(0))]
    content = "\n".join(map(json.dumps, rows)).encode()
    api.create_repo("ann/texts", repo_type="dataset")
    api.upload_file(repo_id="ann/texts", repo_type="dataset", path_or_fileobj=content, path_in_repo="train.jsonl")
    merge(recipe_of(parts, "mean"), folder / "merged")
    with session(hub, "ann", folder, forked=True, **TIMEOUTS) as run:
        at = World(hub, run, folder)
        for command in COMMANDS:
            run.warm(*COMMANDS[command]("warm", folder / "warm"))
            _tidy(at, "warm", folder / "warm")
        # What is remembered of files and headers must be asked for again.
        run.warm_python("from fusehub.models.remote_headers import forget_headers; forget_headers()")
        run.warm_python(HURRIED)
        yield at


Arguments = Callable[[str, Path], tuple[object, ...]]

COMMANDS: dict[str, Arguments] = {
    "find": lambda name, out: ("find", "expert", "--base", "ann/base", "--with-statistics"),
    "check": lambda name, out: ("check", *MODELS, "--base", "ann/base"),
    "collect": lambda name, out: ("collect", MODELS[0], "--data", "ann/texts", "--limit", 8, "--out", out),
    "inspect": lambda name, out: ("inspect", MODELS[0], "--against", MODELS[0]),
    "merge": lambda name, out: ("merge", *MODELS, "--method", "regmean", "--out", out),
    "merge an adapter": lambda name, out: (
        *("merge", "ann/base+ann/adapter", MODELS[0], "--method", "mean", "--out", out),
    ),
    "merge, tuned": lambda name, out: (
        *("merge", *MODELS, "--tune", "a=ann/texts/train", "--tune-over", "alpha=0.9", "--tune-limit", 8),
        *("--out", out),
    ),
    "compare": lambda name, out: ("compare", *MODELS, "--text", "a fine film"),
    "evaluate": lambda name, out: ("evaluate", MODELS[0], "--data", "a=ann/texts/train", "--limit", 8, "--out", out),
    "publish": lambda name, out: ("publish", "merged", name),
    "publish, again": lambda name, out: ("publish", "merged", name, "--exist-ok"),
    "publish, as a pull request": lambda name, out: ("publish", "merged", name, "--create-pr"),
    "publish statistics": lambda name, out: (
        *("collect", MODELS[0], "--data", "ann/texts", "--limit", 8, "--out", out),
        *("--publish", "--repo", name, "--allow-few-rows"),
    ),
}
"""Each command that asks the Hub, for a repo of its own name and an output of its own."""


@dataclass(frozen=True)
class Outcome:
    """What came of a command: `right`, `words`, or what is wrong with it; its words; and how often was asked."""

    kind: str
    said: str = ""
    tries: int = 0
    repeated: str = ""
    """What came of the second run, of a Hub that is well."""

    @property
    def is_fine(self) -> bool:
        return self.kind in ("right", "words") and self.repeated in ("", "right")


def trial(at: World, command: str, faults: Sequence[dict[str, Any]], expected: str | None) -> tuple[Outcome, str]:
    """A command while the Hub does what `faults` say, then once more while it is well; and what it gave at last.

    `expected` is what it gives without faults, where that is known.
    """
    at.number += 1
    name, out = f"trial-{at.number}", at.folder / f"out-{at.number}"
    if command in ("publish, again", "publish, as a pull request"):
        at.api.create_repo(f"ann/{name}")
        at.api.upload_file(repo_id=f"ann/{name}", path_or_fileobj=b"# Notes", path_in_repo="notes.md")
    arguments = (*COMMANDS[command](name, out), "--json")
    before = sorted(at.folder.iterdir())
    at.forget()
    at.asked()
    at.plan(faults)
    told = at.run.told(*arguments)
    at.plan(None)
    at.last = at.asked()
    tries = sum(fault is not None for *_, fault in at.last)
    if told["code"] == 0:
        gave = _result(at, told, name, out)
        _tidy(at, name, out)
        return Outcome("right" if expected in (None, gave) else "WRONG", tries=tries), gave
    kind, said = _refusal(told)
    there = [path.name for path in sorted(at.folder.iterdir()) if path not in before and path.name != ".home"]
    # Statistics that were collected before they could not be pushed stay, and are said to.
    if there and not (command == "publish statistics" and complete(out)):
        kind = f"LEFT {there}"
    again, repeated = _second(at, command, arguments, name, out, said)
    gave = _result(at, again, name, out) if again["code"] == 0 else ""
    repeated = repeated if again["code"] else "right" if expected in (None, gave) else "WRONG"
    _tidy(at, name, out)
    return Outcome(kind, said, tries, repeated), gave


def complete(out: Path) -> bool:
    return (out / "statistics.json").is_file() and (out / "statistics.safetensors").is_file()


def _refusal(told: dict[str, Any]) -> tuple[str, str]:
    """How a command was refused, and its words."""
    if told["code"] < 0:
        return "HANGS", ""
    if told["code"] != 1 or "Traceback" in told["err"]:
        return "TRACEBACK", told["err"].strip().splitlines()[-1] if told["err"].strip() else ""
    try:
        said = json.loads(told["out"])
        # What a check cannot read of one model is a finding.
        unread = [finding for finding in said.get("findings", ()) if finding["code"] == "unreadable"]
        error = said["error"] if "error" in said else unread[0]
    except (ValueError, LookupError):
        return "NO WORDS", told["out"][:200]
    return (
        "words" if error["fix"] and "bug" not in error["what"] else "NO WORDS"
    ), f"{error['what']} -> {error['fix']}"


def _second(
    at: World, command: str, arguments: Sequence[object], name: str, out: Path, said: str
) -> tuple[dict[str, Any], str]:
    """The same once more, or what the words of the first told to do where all is there already."""
    if out.exists():
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    if f"All is in ann/{name}" in said and "--exist-ok" not in arguments and command == "publish":
        arguments = (*arguments, "--exist-ok")
    told = at.run.told(*arguments)
    return told, "" if told["code"] == 0 else " ".join(_refusal(told))


def _result(at: World, told: dict[str, Any], name: str, out: Path) -> str:
    """What a command gave, as a text that is the same whenever it gives the same."""
    given: dict[str, Any] = {}
    if out.is_dir():
        tensors = {path: digest for path, digest in files_of(out).items() if path.endswith(".safetensors")}
        given["files"] = tensors, sorted(files_of(out))
    elif out.is_file():
        given["file"] = out.read_text()
    try:
        repo = at.api.model_info(f"ann/{name}", files_metadata=True)
        given["repo"] = sorted(
            (file.rfilename, file.blob_id if not file.rfilename.endswith((".md", ".json", ".yaml")) else "")
            for file in repo.siblings
        )
    except RepositoryNotFoundError:
        pass
    if not given:
        given["said"] = json.loads(told["out"])
        # Each trial downloads, which the Hub counts and sorts by.
        found = [{**model, "downloads": 0} for model in given["said"].get("models", []) if isinstance(model, dict)]
        given["found"] = sorted(found, key=lambda model: model.get("id", ""))
        if found and "statistics_at" in found[0]:
            del given["said"]
    text = json.dumps(given, sort_keys=True).replace(name, "NAME").replace(out.name, "OUT")
    # Times of this run, and commits of the trial's repo.
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.+Z]+|seconds\W+[\d.]+", "TIME", text)


def _tidy(at: World, name: str, out: Path) -> None:
    at.api.delete_repo(f"ann/{name}", missing_ok=True)
    if out.exists():
        shutil.rmtree(out) if out.is_dir() else out.unlink()


def kind_of(path: str) -> str:
    """What is asked, whichever model it is asked of."""
    kind = re.sub(r"[0-9a-f]{40}|main|expert-\d|trial-(\d+|\\d\+)", "*", path)
    kind = re.sub(r"/resolve/.*\.(\w+)$", r"/resolve/\1", kind)
    return re.sub(r"/_lfs/.*", "/_lfs/*", kind)


def kinds_of(asked: Sequence[tuple[str, str, int | None]]) -> list[tuple[str, str]]:
    """The kinds of questions among those that were asked, each as a method and a pattern of paths."""
    found: dict[str, tuple[str, str]] = {}
    for method, path, _ in asked:
        known = "/_lfs/.*" if "/_lfs/" in path else re.sub(r"trial-\d+", r"trial-\\d+", path)
        found.setdefault(f"{method} {kind_of(path)}", (method, known))
    return list(found.values())
