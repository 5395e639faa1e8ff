"""The steps for programs: `gradio_client` and MCP clients call `/check`, `/merge`, `/compare` and `/evaluate`.

    client = Client("http://localhost:7860")
    client.predict(models=["user/a", "user/b"], api_name="/check")
    client.predict(models=["user/a", "user/b"], method="regmean", options={"alpha": 0.9}, api_name="/merge")
    client.predict(models=["user/a", "user/b", "regmean"], texts=["Not bad."], api_name="/compare")

What `/merge` makes belongs to the caller's session; `/compare` and `/evaluate` call it by its name. An error comes as
the package's words. `oauth_token=` of the client is passed on to the Hub, for private and gated models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from fusehub.errors import FuseHubError, unknown
from space.check import check as check_visit
from space.compare import ENSEMBLE, table_of
from space.frame import Frame, token_of
from space.merge import start_merges
from space.pick import describe
from space.visit import Visit
from space.work import bug

_PATIENCE = 3600.0


def endpoints(frame: Frame) -> None:
    """Adds the four endpoints to the page that is being built."""
    session = gr.State("")

    def visit_of(key: str) -> Visit:
        return frame.visits.open(key or None)

    def picked(visit: Visit, models: list[str], token: str | None) -> None:
        if [pick.name for pick in visit.picks] == models:
            return
        visit.picks = [describe(frame.setting.require_name(model), token) for model in models]
        visit.changed_models()

    def finished(visit: Visit) -> None:
        job = visit.job
        frame.jobs.wait(job, _PATIENCE)
        if job.error is not None:
            raise job.error

    def check(oauth: gr.OAuthToken | None, key: str, models: list[str]) -> tuple[str, dict]:
        """Tells whether models can be merged, everything that speaks against it, and what a merge would cost.

        Args:
            models: names of two or more models on the Hub, as user/name or user/name@revision.
        """
        visit, token = visit_of(key), token_of(oauth)
        picked(visit, _list(models), token)
        return visit.key, check_visit(frame, visit, token)

    def merge(
        oauth: gr.OAuthToken | None, key: str, models: list[str], method: str = "regmean", options: dict | None = None
    ) -> tuple[str, dict]:
        """Merges models by one method, and returns the merge's name (for compare and evaluate) and its recipe.

        Args:
            models: names of two or more models on the Hub.
            method: the way to merge: one of those that `fusehub methods` lists, such as regmean or mean.
            options: options of the method, such as {"alpha": 0.9}.
        """
        from fusehub.methods import find_method

        visit, token = visit_of(key), token_of(oauth)
        picked(visit, _list(models), token)
        before = set(visit.merges)
        start_merges(frame, visit, {find_method(method).name: dict(options or {})}, {}, token)
        finished(visit)
        made = next(made for name, made in visit.merges.items() if name not in before)
        return visit.key, {
            "name": made.name, "recipe": made.recipe, "seconds": made.seconds, "notes": list(made.notes),
            "models": list(made.models),
        }  # fmt: skip

    def compare(oauth: gr.OAuthToken | None, key: str, models: list[str], texts: list[str]) -> tuple[str, dict]:
        """Tells what each model and their ensemble say about each text.

        Args:
            models: names of models on the Hub, and of merges made in this session.
            texts: the texts to ask about.
        """
        visit, token = visit_of(key), token_of(oauth)
        asked = _asked(frame, visit, _list(models), token)
        texts = _list(texts)[: frame.setting.most_texts]
        found = frame.worker.ask("compare", {"models": asked, "texts": texts}, token)
        return visit.key, found | {"source": None}

    def evaluate(
        oauth: gr.OAuthToken | None, key: str, models: list[str], data: dict, limit: int = 200
    ) -> tuple[str, dict]:
        """Scores models and their ensemble on labelled datasets of the Hub.

        Args:
            models: names of models on the Hub, and of merges made in this session.
            data: a name for each dataset, such as {"films": "stanfordnlp/imdb/test"}.
            limit: how many examples of each dataset are taken at most.
        """
        visit, token = visit_of(key), token_of(oauth)
        asked = _asked(frame, visit, _list(models), token)
        for source in dict(data).values():
            frame.setting.require_name(str(source).partition(":")[0], "dataset")
        scored: list[dict[str, Any]] = []
        arguments = {"models": asked, "data": dict(data), "ensemble": True, "limit": int(limit)}
        frame.start(visit, "evaluate", "Scoring", arguments, token, lambda visit, result: scored.append(result))
        finished(visit)
        return visit.key, {"table": table_of(scored[0] | {"merges": [*visit.merges, ENSEMBLE]}), **scored[0]}

    for function, inputs in (
        (check, [gr.JSON(visible=False, label="models")]),
        (merge, [gr.JSON(visible=False, label="models"), gr.Textbox("regmean", visible=False, label="method"),
                 gr.JSON(visible=False, label="options")]),
        (compare, [gr.JSON(visible=False, label="models"), gr.JSON(visible=False, label="texts")]),
        (evaluate, [gr.JSON(visible=False, label="models"), gr.JSON(visible=False, label="data"),
                    gr.Number(200, visible=False, label="limit")]),
    ):  # fmt: skip
        trigger = gr.Button(visible=False)
        trigger.click(
            _told(function), [session, *inputs], [session, gr.JSON(visible=False, label="result")],
            api_name=function.__name__, api_description=function.__doc__, concurrency_limit=8,
        )  # fmt: skip


def _asked(frame: Frame, visit: Visit, models: list[str], token: str | None) -> dict[str, str]:
    """Name -> what to load: the session's merges by their names, other models as this caller may read them."""
    merges = {name: place for made in visit.merges.values() for name, place in made.models.items()}
    asked = {}
    for model in models:
        if model in merges:
            asked[model] = merges[model]
        elif "/" not in model and not frame.setting.shared:
            raise unknown("merge in this session", model, merges)
        else:
            asked[model] = describe(frame.setting.require_name(model), token).id
    return asked


def _list(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise FuseHubError("A list of texts is expected.", 'Give ["user/one", "user/two"].')
    return value


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose `FuseHubError`s reach the caller as words."""
    import functools

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        try:
            return function(*args)
        except FuseHubError as error:
            raise gr.Error(f"{error.what} -> {error.fix}", print_exception=False) from None
        except Exception:
            error = bug()
            raise gr.Error(f"{error.what} -> {error.fix}", print_exception=False) from None

    return run
