"""A Space that shows what a model answers: written from what its config says, and pushed after the model.

    shown = demonstration_of("out/merged", read_merge("out/merged"), target)     # raises where there can be none
    published = shown.push(target.push(files, message, progress), progress)

Its app.py is a program of some fifty lines that loads the model by transformers and shows it by gradio: no FuseHub is
needed to run it, and whoever has it may change it. It is looked at before anything is pushed whether it can be made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fusehub.comparing.said import REGRESSION
from fusehub.comparing.tasks import ANSWERS, answers_of
from fusehub.comparing.tasks.task import Shown
from fusehub.comparing.tasks.written import NEW_TOKENS
from fusehub.errors import Action, BadRecipe, FuseHubError, Incompatible, NotFound, OutputExists, PartlyPublished
from fusehub.hub.upload import CARD, Files, Published, Target
from fusehub.models.adapters.ref import CONFIG as ADAPTER_CONFIG
from fusehub.models.resolve import resolve
from fusehub.models.tasks import Task, problem_type_of, task_of
from fusehub.publishing.merged_folder import MergedFolder
from fusehub.utils.markdown import link, listed, render
from fusehub.utils.progress import Progress
from fusehub.utils.untrusted.yaml_text import load_yaml, split_front_matter

TAG = "fusehub-demo"
# What a Space runs where no gradio is installed here.
_GRADIO = "6.31.0"
# The Hub's longest name of a repo, without its owner.
_LONGEST = 96
_ENDING = "-demo"
_LICENSE = ("license", "license_name", "license_link")


@dataclass(frozen=True)
class _Part:
    """One model of the repo, as app.py loads and asks it."""

    folder: str
    function: str
    task: Task
    shown: Shown
    options: str
    examples: Sequence[Any]
    is_number: bool

    @property
    def template(self) -> str:
        """The piece of app.py that asks it."""
        return self.shown.template


@dataclass(frozen=True)
class Demonstration:
    """The Space and what goes into it."""

    target: Target
    model: Target
    files: Files

    def push(self, published: Published, progress: Progress) -> Published:
        """Pushes it, and returns what was `published` with its address.

        Raises `PartlyPublished`, which says where the model is, where this fails.
        """
        try:
            made = self.target.push(self.files, f"Demonstration of {self.model.repo_id}", progress)
        except FuseHubError as error:
            failed = PartlyPublished(
                f"The model is on the Hub: {published.url} (commit {published.commit[:8]}). Its demonstration could "
                f"not be made: {error.what}",
                f"{error.own_fix} Then push the same again with --exist-ok --demo.".strip(),
                log_in=error.log_in,
                actions=error.actions,
            )
            failed.published = published
            raise failed from error
        return replace(published, demo_url=made.url, demo_needs_token=self.needs_token)

    @property
    def needs_token(self) -> bool:
        """Whether the Space can read the model only with a token that it is given."""
        return bool(_restricted(self.model))


def demonstration_of(
    folder: Path,
    merge: MergedFolder | None,
    model: Target,
    *,
    card: str,
    exist_ok: bool = False,
    token: bool | str | None = None,
) -> Demonstration:
    """The demonstration of the model in `folder`, which is to be pushed to the repo `model`; nothing is pushed yet.

    `merge` is what is known of the folder where a merge wrote it, and `card` the model's, whose license the Space has
    too. A demonstration of this very model that is there is replaced with `exist_ok`.

    Raises `NotFound` where the model will not be in its repo, `Incompatible` where there is no demonstration of such
    a model, `OutputExists` where the Space is there, `AccessDenied` where the token may not write there, `BadData`
    where the Hub would refuse what the Space says of itself.
    """
    if model.create_pr:
        raise NotFound(
            f"What is proposed to {model.repo_id} is not in it before its owner agrees: a demonstration would have "
            "nothing to show.",
            "Leave the demonstration out, or push to a repo of your own.",
            actions=[Action("leave-demo"), Action("name-another")],
        )
    if merge is None and (folder / ADAPTER_CONFIG).is_file():
        raise Incompatible(
            f"{folder} is an adapter that no merge wrote: a demonstration is made of merges and of whole models.",
            "Leave the demonstration out.",
            actions=[Action("leave-demo")],
        )
    configs = merge.configs if merge is not None else {"": resolve(str(folder)).config}
    base = merge.adapter_base if merge is not None else None
    on_base = base is not None
    parts = [_part(own, place, number, on_base) for number, (place, own) in enumerate(configs.items())]
    target = Target.of(demo_name(model.repo_id), token, private=model.private, exist_ok=True, kind="space")
    if target.info is not None and not target.repo.is_empty(target.info):
        _require_ours(target, model.repo_id, exist_ok)
    files = _files(model, parts, base, _license_in(card))
    target.require_card(files[CARD].decode())
    return Demonstration(target, model, dict(files))


def _license_in(card: str) -> dict[str, Any]:
    """What a card says of its license; whether the Hub takes it as a card is asked elsewhere."""
    try:
        front = load_yaml(split_front_matter(card)[0] or "", CARD)
    except BadRecipe:
        return {}
    return {key: front[key] for key in _LICENSE if key in front} if isinstance(front, Mapping) else {}


def half_of(progress: Progress, number: int) -> Progress:
    """The progress of the first (0) or the second (1) of two pushes as that of both."""

    def told(done: int, total: int, what: str) -> None:
        second = f"the demonstration: {what}" if number else "the demonstration"
        progress(number * total + done, 2 * total, second if number or done == total else what)

    return told


def demo_name(repo_id: str) -> str:
    """`user/merged` -> `user/merged-demo`, cut to what the Hub takes."""
    owner, _, name = repo_id.rpartition("/")
    return f"{owner}/{name[: _LONGEST - len(_ENDING)].rstrip('-._')}{_ENDING}"


def _part(config: Mapping[str, Any], folder: str, number: int, on_base: bool) -> _Part:
    task = task_of(dict(config), folder or "the model")
    shown = answers_of(task.name).shown
    if shown is None:
        others = sorted(name for name, answers in ANSWERS.items() if answers.shown)
        raise Incompatible(
            f"There is no demonstration of models for {task.name}.",
            f"Leave it out: there is one for {listed(others)}.",
            actions=[Action("leave-demo")],
        )
    typed = answers_of(task.name).typed.splitlines()
    examples: list[Any] = (
        [[half.strip() for half in text.split("|")] for text in typed] if "|" in "".join(typed) else typed
    )
    # Half precision lacks operations on the CPU of a free Space.
    options = ', dtype="float32"' if config.get("dtype") == "float16" else ""
    # The head of the base is of other labels.
    options += ", ignore_mismatched_sizes=True" if on_base and task.labels else ""
    name = re.sub(r"[^a-z0-9]+", "_", folder.lower()).strip("_")
    return _Part(
        folder=folder,
        function=f"page_{number}_{name}".rstrip("_"),
        task=task,
        shown=shown,
        options=options,
        examples=examples,
        is_number=task.labels and problem_type_of(config, "the model") == REGRESSION,
    )


def _files(
    model: Target, parts: Sequence[_Part], base: tuple[str, str | None] | None, license: Mapping[str, Any]
) -> dict[str, bytes]:
    """app.py, requirements.txt and README.md of the Space."""
    classes = {part.task.auto_class for part in parts} | ({"AutoConfig"} if base else set())
    classes |= {"AutoImageProcessor" if part.task.of_images else "AutoTokenizer" for part in parts}
    imported = sorted(classes) + (["pipeline"] if any(part.shown.by_pipeline for part in parts) else [])
    app = render(
        "demo_app.py.jinja",
        repo=model.repo_id,
        revision=model.revision,
        base=base,
        imported=", ".join(imported),
        uses_torch=not all(part.shown.by_pipeline for part in parts),
        uses_texts=not all(part.task.of_images for part in parts),
        parts=parts,
        new_tokens=NEW_TOKENS,
    )
    return {"app.py": app.encode(), "requirements.txt": _requirements(base, parts), CARD: _card(model, parts, license)}


def _requirements(base: object, parts: Sequence[_Part]) -> bytes:
    """The libraries that app.py imports; gradio is the Space's own."""
    transformers = version("transformers").partition("+")[0]
    major = int(transformers.partition(".")[0])
    lines = ["torch", f"transformers>={transformers},<{major + 1}", *(["peft"] if base else [])]
    lines += ["pillow", "torchvision"] if any(part.task.of_images for part in parts) else []
    return "".join(f"{line}\n" for line in lines).encode()


def _card(model: Target, parts: Sequence[_Part], license: Mapping[str, Any]) -> bytes:
    from huggingface_hub import SpaceCardData

    title = model.repo_id.partition("/")[2]
    data = SpaceCardData(
        title=title, emoji="🧬", colorFrom="indigo", colorTo="green", sdk="gradio", sdk_version=_gradio(),
        app_file="app.py", pinned=False, models=[model.repo_id], tags=[TAG, "fusehub"], **license,
    )  # fmt: skip
    body = render(
        "demo_card.md",
        title=title,
        model_link=link(model.repo_id, model.repo.url),
        does=listed(list(dict.fromkeys(part.shown.does for part in parts))),
        needs_token=_restricted(model),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{body}".encode()


def _gradio() -> str:
    try:
        return version("gradio")
    except PackageNotFoundError:
        return _GRADIO


def _restricted(model: Target) -> str:
    """Why not everyone can read the model; empty where everyone can."""
    if model.private:
        return "private"
    return "gated" if model.info is not None and model.info.gated else ""


def _require_ours(target: Target, model: str, exist_ok: bool) -> None:
    """Raises `OutputExists` for a Space that is there, unless it is this model's and may be replaced."""
    said = target.info.card_data if target.info is not None else None
    if TAG not in (said.tags or [] if said else []) or model not in (said.get("models") or [] if said else []):
        raise OutputExists(
            f"{target.repo.place} exists already, and is no demonstration of {model} that FuseHub wrote.",
            "Choose another name for the model, rename that Space, or leave the demonstration out.",
            actions=[Action("name-another"), Action("leave-demo")],
        )
    if not exist_ok:
        raise OutputExists(
            f"{target.repo.place} exists already, and shows {model}.",
            "Choose another name for the model, or replace what is there: --exist-ok.",
            actions=[Action("name-another"), Action("leave-demo")],
        )
