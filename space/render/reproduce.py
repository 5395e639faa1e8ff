"""How to do the same elsewhere: the commands and the Python lines that make one merge again, with all that was chosen.

A merge is told by what the visit asked for (`asked`): models, method, parameters, weights, labels, base_model, and
statistics by model, of which those that were made in the visit have to be made anew (`made`).
"""

from __future__ import annotations

import json
import pprint
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from fusehub.merging.recipe import Recipe
from fusehub.utils.untrusted.yaml_text import load_yaml

from ..steps.options import changed_options
from . import html

OUT = "merged"
_TEXTS = "texts.txt"
_WIDTH = 90


def command_lines(asked: Mapping[str, Any]) -> str:
    """The commands that make the merge: statistics that were made in the visit, then the merge."""
    return "\n".join([*collect_lines(asked), _wrapped(_merge_parts(asked))])


def collect_lines(asked: Mapping[str, Any]) -> list[str]:
    """The commands that make the statistics which were made in the visit."""
    lines = []
    for model, known in _collected(asked).items():
        if known["dataset"] is None:
            lines.append(f"# {_TEXTS}: {known['data']}, as in this visit")
        lines.append(_wrapped([*_collect_parts(model, known), ["--out", known["folder"]]]))
    return lines


def recipe_text(written: str, asked: Mapping[str, Any]) -> str:
    """A merge's recipe as it is of use elsewhere: with the folders that `collect_lines` fill, none of the visit."""
    for model, folder in _sources(asked).items():
        written = written.replace(asked["statistics"][model], folder)
    return written


def recipe_of(asked: Mapping[str, Any]) -> str:
    """The recipe of a merge that is not made yet, as short as it can be said."""
    recipe = Recipe.of(
        asked["models"], asked["method"], base_model=asked["base_model"], weights=asked["weights"] or None,
        parameters=changed(asked) or None, statistics=_sources(asked) or None, labels=_labels(asked) or None,
        heads=asked["heads"],
    )  # fmt: skip
    return recipe.to_yaml()


def recipe_file(written: str, asked: Mapping[str, Any]) -> str:
    """The same of a recipe as a push would upload it; its first lines have the commands that fill those folders."""
    content = Recipe.parse(load_yaml(written, "The recipe")).model_dump(mode="json")
    sources = _sources(asked)
    for model, entry in zip(asked["models"], content["models"], strict=True):
        if model in asked["made"]:
            entry["statistics"] = sources[model]
    commands = "\n".join(collect_lines(asked))
    said = f"Statistics that were made for this merge, and how to make them again:\n{commands}" if commands else ""
    return "".join(f"# {line}\n" for line in said.splitlines()) + Recipe.parse(content).to_yaml()


def propose_lines(asked: Mapping[str, Any]) -> str:
    """The commands that propose statistics which were made in the visit to the models' owners; "" without any."""
    return "\n".join(
        _wrapped([*_collect_parts(model, known), ["--publish", "--create-pr"]])
        for model, known in _collected(asked).items()
    )


def _collect_parts(model: str, known: Mapping[str, Any]) -> list[list[str]]:
    """The words of the command that makes a model's statistics again, but for where they go."""
    parts = [["fusehub", "collect", model], ["--data", known["dataset"] or _TEXTS]]
    parts += [["--text-column", known["text_column"]]] if known["text_column"] else []
    return [*parts, ["--limit", str(known["limit"])], *([["--fisher"]] if known["fisher"] else [])]


def merge_command(asked: Mapping[str, Any]) -> str:
    """The command of the merge alone, in one line."""
    return shlex.join(word for part in _merge_parts(asked) for word in part)


def _merge_parts(asked: Mapping[str, Any]) -> list[list[str]]:
    """The words of the merge's command, those of one option together."""
    parts = [["fusehub", "merge", *asked["models"]], ["--method", asked["method"]]]
    if asked["base_model"]:
        parts.append(["--base", asked["base_model"]])
    for name, value in changed(asked).items():
        parts.append(["--param", f"{name}={value if isinstance(value, str) else json.dumps(value)}"])
    parts += [["--weight", f"{name}={weight:g}"] for name, weight in asked["weights"].items()]
    parts += [["--labels", f"{name}={','.join(labels)}"] for name, labels in _labels(asked).items()]
    parts += [["--heads", asked["heads"]]] if asked["heads"] != "auto" else []
    parts += [["--statistics", f"{name}={source}"] for name, source in _sources(asked).items()]
    return [*parts, ["--out", OUT]]


def _wrapped(parts: list[list[str]]) -> str:
    """A command that is easily read: in one line where it fits, else a line for each option."""
    lines = [shlex.join(part) for part in parts]
    return " ".join(lines) if len(" ".join(lines)) <= _WIDTH else " \\\n    ".join(lines)


def publish_command(repo: str, *, public: bool, pull_request: bool, demo: bool = False) -> str:
    said = (("--no-private", public), ("--create-pr", pull_request), ("--demo", demo))
    options = [word for word, on in said if on]
    return shlex.join(["fusehub", "publish", OUT, repo, *options])


def python_lines(asked: Mapping[str, Any], repo: str, *, public: bool, pull_request: bool, demo: bool = False) -> str:
    """The same in Python, pushed to `repo`."""
    said = (("private=False", public), ("create_pr=True", pull_request), ("demo=True", demo))
    options = "".join(f", {word}" for word, on in said if on)
    return "\n".join(["import fusehub", "", *merge_python(asked), f"fusehub.publish({OUT!r}, {repo!r}{options})"])


def merge_python(asked: Mapping[str, Any]) -> list[str]:
    """The lines of Python that make the merge."""
    said = {
        "parameters": changed(asked), "weights": dict(asked["weights"]), "labels": _labels(asked),
        "heads": asked["heads"] if asked["heads"] != "auto" else None,
        "statistics": _sources(asked), "base_model": asked["base_model"],
    }  # fmt: skip
    lines = [f"experts = {list(asked['models'])!r}", *collect_python(asked)]
    lines += ["fusehub.merge(", "    experts,", f"    {OUT!r},", f"    method={asked['method']!r},"]
    for name, value in said.items():
        if value:
            lines.append(f"    {name}={pprint.pformat(value, width=10_000, sort_dicts=False)},")
    return [*lines, ")"]


def collect_python(asked: Mapping[str, Any]) -> list[str]:
    """The lines of Python that make the statistics which were made in the visit."""
    lines = []
    for model, known in _collected(asked).items():
        note = f"  # {_TEXTS}: {known['data']}" if known["dataset"] is None else ""
        source = known["dataset"] or _TEXTS
        how = f"limit={known['limit']}" + (", fisher=True" if known["fisher"] else "")
        how += f", text_column={known['text_column']!r}" if known["text_column"] else ""
        lines.append(f"fusehub.collect({model!r}, {source!r}, {known['folder']!r}, {how}){note}")
    return lines


def changed(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that are not at their defaults."""
    return changed_options(asked["method"], asked["parameters"])


def _labels(asked: Mapping[str, Any]) -> dict[str, list[str]]:
    return {name: list(labels) for name, labels in (asked["labels"] or {}).items()}


def _collected(asked: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Model -> how its statistics were made in the visit, and the folder that they go to."""
    return {model: {**known, "folder": _folder_of(model, asked["made"])} for model, known in asked["made"].items()}


def _folder_of(model: str, models: Iterable[str]) -> str:
    """The folder for a model's statistics, called as the model is; with its owner where two are called alike."""
    alike = [other for other in models if html.short(other) == html.short(model)]
    if len(alike) == 1:
        return f"statistics/{html.short(model)}"
    name = re.sub(r"[^\w.-]+", "-", model).strip("-.")
    return f"statistics/{name}"


def _sources(asked: Mapping[str, Any]) -> dict[str, str]:
    """Model -> where its statistics are, elsewhere: no folder of the visit."""
    collected = _collected(asked)
    return {
        model: collected[model]["folder"] if model in collected else source
        for model, source in asked["statistics"].items()
    }
