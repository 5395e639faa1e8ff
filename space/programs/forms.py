"""What the package gives, in the form of the endpoints' answers: each model by the name that it was asked by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fusehub.comparing.ensemble import ENSEMBLE
from fusehub.comparing.evaluation import Evaluation
from fusehub.comparing.intervals import Interval
from fusehub.comparing.summary import summary
from fusehub.errors import Action
from fusehub.finding import FoundModel
from fusehub.methods import Method
from fusehub.recommending.recommendation import need_of, sentence_of

from ..links.recipes import ReadRecipe
from ..render.offers import fix_of_finding
from ..steps.advice import offered
from ..steps.options import options_of
from ..workers.pace import seconds_of
from . import answers
from .told import DOES, doing


def model(found: FoundModel) -> answers.Model:
    told = found.to_dict()
    return {
        "id": told["id"], "task": told["task"], "base": told["base"], "parents": list(told["parents"]),
        "parameters": told["parameters"], "weight_bytes": told["weight_bytes"], "license": told["license"],
        "downloads": told["downloads"], "likes": told["likes"], "gated": told["gated"], "private": told["private"],
        "updated": told["updated"],
        "statistics_at": told["statistics_at"], "offered_at": list(told["offered_at"]),
    }  # fmt: skip


def way(method: Method) -> answers.Way:
    fewest, most = method.models
    return {
        "name": method.name, "title": method.title, "sentence": sentence_of(method), "when": method.when,
        "need": need_of(method), "takes_base": method.base, "fewest_models": fewest, "most_models": most,
        "negative_weights": method.negative_weights, "paper": method.paper, "options": options_schema(method),
    }  # fmt: skip


def options_schema(method: Method) -> dict[str, Any]:
    """What a merge takes as the options of a method, as JSON schema."""
    known = [kind.model_json_schema().get("properties", {}) for kind in (method.own_options, method.options)]
    properties = {name: schema for own in known for name, schema in own.items() if name in options_of(method)}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def judged(way: Mapping[str, Any]) -> answers.Judged:
    return {
        "method": way["method"], "title": way["title"], "sentence": way["sentence"], "options": way["options"],
        "base_model": way["base_model"], "gain": way["gain"], "can_run": way["can_run"],
        "obstacles": [
            {"code": own["code"], "what": own["what"], "action": _doing(own["action"])} for own in way["obstacles"]
        ],
    }  # fmt: skip


def recommended(advice: Mapping[str, Any]) -> answers.Recommended:
    known = offered()
    others = [way for ways in advice["alternatives"].values() for way in ways if way["method"] in known]
    better = advice["better"]
    return {
        "recommended": judged(advice["recommended"]), "reason": advice["reason"],
        "baseline": judged(advice["baseline"]), "better": judged(better) if better else None,
        "others": [judged(way) for way in others], "is_measured": advice["is_measured"],
    }  # fmt: skip


def checked(report: Mapping[str, Any], names: Sequence[str]) -> answers.Checked:
    """A report of the worker on models that were called `names`."""
    labels, cost = report["labels"], report["cost"]
    return {
        "ok": report["ok"],
        "findings": [finding(own) for own in report["findings"]],
        "models": [_facts(own, name) for own, name in zip(report["models"], names, strict=True)],
        "labels": list(labels["labels"]) if labels else None,
        "statistics": {name: published(report["statistics"][name] or {}) for name in names},
        "cost": _cost(cost) if cost else None,
    }


def finding(found: Mapping[str, Any]) -> answers.Finding:
    actions = [_doing(own) for own in found["actions"]]
    fix = fix_of_finding(found, DOES)
    return {"code": found["code"], "level": found["level"], "what": found["what"], "fix": fix, "actions": actions}


def published(found: Mapping[str, Any]) -> answers.Statistics:
    """What the worker says of a model's published statistics (see `space.workers.published`)."""
    return {
        "published_at": found.get("origin"), "when": found.get("when"), "data": found.get("data"),
        "examples": found.get("examples"), "tokens": found.get("tokens"), "rows": found.get("rows"),
        "warnings": [own["what"] for own in found.get("findings", ())],
        "offered_at": list(found.get("offered", ())), "problem": found.get("problem"),
    }  # fmt: skip


def recipe(read: ReadRecipe) -> answers.Recipe:
    return {
        "recipe": read.text,
        "arguments": {
            "models": list(read.models), "method": read.method, "options": dict(read.options),
            "base_model": read.base, "weights": dict(read.weights), "labels": dict(read.labels), "heads": read.heads,
            "statistics": dict(read.statistics),
        },
        "left_out": list(read.left_out),
        "notes": list(read.notes),
    }  # fmt: skip


def compared(found: Mapping[str, Any], asked: Sequence[str]) -> answers.Compared:
    names = _in_order(found, asked)
    return {
        "task": found["task"],
        "models": names,
        "ensemble_of": _ensemble_of(found, names),
        "texts": [
            {
                "text": text["text"],
                "differs": text["differs"],
                "answers": [
                    {
                        "model": name, "label": answer["label"], "probability": answer["probability"],
                        "probabilities": answer["probabilities"], "entities": answer["entities"],
                    }
                    for name, answer in zip(names, text["answers"], strict=True)
                ],
            }
            for text in found["texts"]
        ],
    }  # fmt: skip


def scored(told: Mapping[str, Any], asked: Sequence[str]) -> answers.Scored:
    """Scores of the worker."""
    found = _called(told, asked)
    return {
        "task": found.task,
        "metric": found.scores[0].metric,
        "summary": summary(found),
        "table": [_row(found, model) for model in found.models],
        "scores": [
            {
                "model": score.model, "data": score.data, "source": score.source, "split": score.split,
                "revision": score.revision, "examples": score.examples, "few": score.few, "seconds": score.seconds,
                "metrics": {name: _finite(value) for name, value in score.metrics.items()},
                "intervals": {name: _interval(own) for name, own in score.intervals.items()},
            }
            for score in found.scores
        ],
        "differences": [
            {
                "model": own.model, "against": own.against, "data": own.data, "value": _finite(own.value),
                "interval": _interval(own.interval),
            }
            for own in found.differences
        ],
        "ensemble_of": found.ensemble_of,
        "warnings": found.warnings,
    }  # fmt: skip


def _called(told: Mapping[str, Any], asked: Sequence[str]) -> Evaluation:
    """The evaluation with each model by the name that it was asked by."""
    found, names = Evaluation.from_dict(told), _in_order(told, asked)
    by = dict(zip(found.models, names, strict=True))
    return replace(
        found,
        models=names,
        scores=[replace(score, model=by[score.model]) for score in found.scores],
        ensemble_of=[by[name] for name in found.ensemble_of],
        experts=[by[name] for name in found.experts],
        mean_intervals={by[name]: own for name, own in found.mean_intervals.items()},
        differences=[replace(own, model=by[own.model], against=by[own.against]) for own in found.differences],
    )


def _row(found: Evaluation, model: str) -> answers.Row:
    gain = found.difference_of(model, None if len(found.data) > 1 else found.data[0])
    return {
        "model": model,
        "is_expert": model in found.experts,
        "main": {name: _finite(found.score_of(model, name).main) for name in found.data},
        "mean": _finite(found.mean()[model]),
        "gain": _finite(gain.value) if gain else None,
        "interval": _interval(gain.interval) if gain else None,
    }


def _interval(own: Interval | None) -> answers.Interval | None:
    return {"low": own.low, "high": own.high} if own is not None else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def card(told: Mapping[str, Any]) -> answers.Card:
    return {
        "text": told["text"], "license": told["license"], "why": told["why"], "forbidden": told["forbidden"],
        "conflicts": told["conflicts"], "warnings": told["warnings"], "loosened": told["loosened"],
        "must_stay_private_for": told["restricted"],
    }  # fmt: skip


def pushed(published: Mapping[str, Any]) -> answers.Pushed:
    return {
        "repo_id": published["repo_id"], "url": published["url"], "commit": published["commit"],
        "private": published["private"], "pull_request_url": published["pull_request_url"],
        "demo_url": published["demo_url"], "demo_needs_token": published["demo_needs_token"],
    }  # fmt: skip


def _cost(cost: Mapping[str, int]) -> answers.Cost:
    return {
        "download_bytes": cost["download_bytes"], "output_bytes": cost["output_bytes"],
        "memory_bytes": cost["memory_bytes"], "gflop": cost["gflop"], "seconds": seconds_of(cost),
    }  # fmt: skip


def _facts(told: Mapping[str, Any], name: str) -> answers.Facts:
    return {
        "name": name, "id": told["id"], "task": told["task"], "architecture": told["architecture"],
        "base": told["base"], "parameters": told["parameters"], "size": told["size"], "dtypes": list(told["dtypes"]),
        "labels": list(told["labels"]), "license": told["license"], "gated": told["gated"],
    }  # fmt: skip


def _doing(action: Mapping[str, Any]) -> answers.Doing:
    return doing(Action(action["code"], tuple(action["models"]), action["count"]))


def _in_order(found: Mapping[str, Any], asked: Sequence[str]) -> list[str]:
    """The models of a comparison as they were asked for; their ensemble stands after the last of its members."""
    names = list(asked)
    if found["ensemble_of"]:
        names.insert(_place(found), ENSEMBLE)
    return names


def _place(found: Mapping[str, Any]) -> int:
    return max(found["models"].index(name) for name in found["ensemble_of"]) + 1


def _ensemble_of(found: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [names[found["models"].index(name)] for name in found["ensemble_of"]]
