"""The step that a visit is at, done elsewhere: on the command line, in Python, and by the app's endpoints; to copy."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fusehub.comparing.tasks import answers_of
from fusehub.models.tasks import TASKS

from ..visit import CHECK, COMPARE, MERGE, PICK, PUSH, STATISTICS, Visit, statistics_of
from . import html, reproduce
from .reproduce import OUT

_WIDTH = 90
_TEXT, _IMAGE = "Not bad at all.", "picture.png"


class Same(NamedTuple):
    """The same three times, and as a recipe."""

    command: str
    python: str
    call: str
    recipe: str = ""
    """The recipe, at a step that has one."""


def elsewhere_html(visit: Visit, address: str) -> str:
    """The step of a visit, to be copied; the app is called by its `address`. Nothing where there is nothing to do."""
    same = _STEPS[visit.step](visit)
    if same is None:
        return ""
    client = f"from gradio_client import Client\n\nclient = Client({json.dumps(address)})\n{same.call}"
    codes = html.code(same.command, "On the command line") + html.code(f"import fusehub\n\n{same.python}", "In Python")
    codes += html.code(client, "By the API of this app")
    codes += html.code(same.recipe, "As a recipe") if same.recipe else ""
    return f'<details class="fh-elsewhere"><summary>The same elsewhere, as code</summary>{codes}</details>'


def _find(visit: Visit) -> Same:
    """What was searched for last; before that, what the step shows first."""
    sought = {name: value for name, value in visit.sought.items() if value} or {"with_statistics": True}
    words = ["fusehub", "find", *([sought["query"]] if "query" in sought else [])]
    words += [word for name in ("base", "task") if name in sought for word in (f"--{name}", sought[name])]
    words += ["--with-statistics"] if "with_statistics" in sought else []
    said = [f"{name}={_written(value)}" for name, value in sought.items()]
    return Same(shlex.join(words), _laid("fusehub.find", said), _call("find", **sought))


def _check(visit: Visit) -> Same | None:
    if len(visit.picks) < 2:
        return None
    words = ["fusehub", "check", *visit.names(), *(["--base", visit.base] if visit.base else [])]
    words += [word for name, own in visit.labels.items() for word in ("--labels", f"{name}={','.join(own)}")]
    words += ["--heads", visit.heads] if visit.heads != "auto" else []
    heads = visit.heads if visit.heads != "auto" else None
    own: dict[str, Any] = {"base": visit.base, "labels": visit.labels, "heads": heads}
    return Same(
        shlex.join(words),
        _function("fusehub.check", visit.names(), **own),
        _call("check", models=visit.names(), base_model=visit.base, labels=visit.labels, heads=heads),
    )


def _statistics(visit: Visit) -> Same | None:
    if not visit.picks:
        return None
    known = {name: own for name, own in visit.statistics.items() if not own.get("free")}
    made = {
        name: {key: own[key] for key in ("data", "dataset", "limit", "fisher", "text_column")}
        for name, own in known.items()
    }
    if not made:
        own = {"data": "", "dataset": "user/texts", "limit": 1000, "fisher": False, "text_column": None}
        made = {visit.names()[0]: own}
    asked = {"made": made}
    return Same(
        "\n".join(reproduce.collect_lines(asked)),
        "\n".join(reproduce.collect_python(asked)),
        "\n".join(_statistics_calls(made).values()),
    )


def _merge(visit: Visit) -> Same | None:
    asked = _asked(visit)
    if asked is None:
        return None
    calls = _statistics_calls(asked["made"])
    names = {name: f"statistics_{number}" for number, name in enumerate(calls, 1)}
    lines = [f'{names[name]} = {call}["name"]' for name, call in calls.items()]
    sources = {name: source for name, source in asked["statistics"].items() if name not in calls}
    said = [
        f"{json.dumps(name)}: {value}"
        for name, value in [*names.items(), *((n, json.dumps(s)) for n, s in sources.items())]
    ]
    merged = _call(
        "merge", models=list(asked["models"]), method=asked["method"], options=reproduce.changed(asked),
        base_model=asked["base_model"], weights=asked["weights"], labels=asked["labels"],
        heads=asked["heads"] if asked["heads"] != "auto" else None,
        statistics=_Code("{" + ", ".join(said) + "}") if said else None,
    )  # fmt: skip
    return Same(
        reproduce.command_lines(asked),
        "\n".join(reproduce.merge_python(asked)),
        "\n".join([*lines, f"merged = {merged}"]),
        _recipe(visit, asked),
    )


def _recipe(visit: Visit, asked: Mapping[str, Any]) -> str:
    """The recipe of a merge as the merge has written it; of one that is not made yet, as it would be asked for."""
    made = next((own for own in visit.merges.values() if own.asked is asked), None)
    return reproduce.recipe_text(made.recipe, asked) if made else reproduce.recipe_of(asked)


def _compare(visit: Visit) -> Same | None:
    if not visit.picks:
        return None
    task = visit.picks[0].task
    texts, models = visit.typed or _first_example(task), [*visit.names(), OUT]
    words = ["fusehub", "compare", *models, *(word for text in texts for word in ("--text", text))]
    words += ["--ensemble"] if task not in TASKS or answers_of(task).has_mean else []
    everyone = _Code(f'[{", ".join(json.dumps(name) for name in visit.names())}, merged["name"]]')
    return Same(
        shlex.join(words),
        _function("fusehub.compare", models, texts=texts),
        _call("compare", models=everyone, texts=texts),
    )


def _first_example(task: str | None) -> list[str]:
    """Something that models of the task can be asked."""
    if task not in TASKS:
        return [_TEXT]
    return [_IMAGE] if TASKS[task].of_images else answers_of(task).typed.splitlines()[:1]


def _push(visit: Visit) -> Same | None:
    if not visit.merges:
        return None
    made, draft = visit.merges.get(visit.pushing, next(iter(visit.merges.values()))), visit.cards.get(visit.pushing)
    repo = (draft.repo if draft else "") or "you/merged"
    public = bool(draft and draft.public)
    return Same(
        reproduce.publish_command(repo, public=public, pull_request=False),
        f"fusehub.publish({OUT!r}, {repo!r}{', private=False' if public else ''})",
        _call("push", merge=_Code('merged["name"]'), repo_id=repo, private=False if public else None),
        _recipe(visit, made.asked),
    )


_STEPS: Mapping[int, Callable[[Visit], Same | None]] = {
    PICK: _find, CHECK: _check, STATISTICS: _statistics, MERGE: _merge, COMPARE: _compare, PUSH: _push,
}  # fmt: skip


def _asked(visit: Visit) -> Mapping[str, Any] | None:
    """The last merge of the picked models; before there is one, that which is recommended."""
    made = list(visit.merges_of_picks().values())
    if made:
        return made[-1].asked
    if visit.advice is None or len(visit.picks) < 2:
        return None
    best = visit.advice["recommended"]
    return {
        "models": visit.names(), "method": best["method"], "parameters": best["options"],
        "base_model": best["base_model"], "weights": {}, "labels": visit.labels, "heads": visit.heads,
        "statistics": dict(statistics_of(visit)) if best["need"] in ("statistics", "fisher") else {},
        "made": {
            name: own for name, own in visit.statistics.items()
            if best["need"] in ("statistics", "fisher") and not own.get("free")
        },
    }  # fmt: skip


def _statistics_calls(made: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Model -> the call that makes its statistics."""
    calls = {}
    for model, own in made.items():
        texts = None if own["dataset"] else _Code('open("texts.txt").read().splitlines()')
        calls[model] = _call(
            "statistics", model=model, data=own["dataset"], texts=texts, limit=own["limit"],
            fisher=True if own["fisher"] else None, text_column=own["text_column"] if own["dataset"] else None,
        )  # fmt: skip
    return calls


class _Code(str):
    """A piece of code, in the place of a value."""


def _call(endpoint: str, **arguments: Any) -> str:
    """The call of an endpoint; what says nothing is left out."""
    said = [f"{name}={_written(value)}" for name, value in arguments.items() if value or value is False]
    return _laid("client.predict", [*said, f'api_name="/{endpoint}"'])


def _function(name: str, models: list[str], **arguments: Any) -> str:
    said = [f"{key}={_written(value)}" for key, value in arguments.items() if value]
    return _laid(name, [_written(models), *said])


def _laid(name: str, arguments: list[str]) -> str:
    """A call in one line where it is easily read, else a line for each argument."""
    line = f"{name}({', '.join(arguments)})"
    return line if len(line) <= _WIDTH else "\n".join([f"{name}(", *(f"    {own}," for own in arguments), ")"])


def _written(value: Any) -> str:
    """A value as Python writes it."""
    return str(value) if isinstance(value, _Code) else repr(value)
