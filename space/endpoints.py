"""The steps for programs: `gradio_client` and MCP clients call `/check`, `/merge`, `/compare` and `/evaluate`.

    client = Client("http://localhost:7860")
    client.predict(models=["user/a", "user/b"], api_name="/check")
    merged = client.predict(models=["user/a", "user/b"], method="regmean", options={"alpha": 0.9}, api_name="/merge")
    client.predict(models=["user/a", "user/b", merged["name"]], texts=["Not bad."], api_name="/compare")

A merge's name is a secret that only its maker has: "regmean@KEY", whose key is that of a visit. Nothing hangs on
sessions, because all MCP clients share one. An error comes as the package's words. `oauth_token=` of `gradio_client`
is passed on to the Hub, for private and gated models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gradio as gr

from fusehub.errors import BadData, FuseHubError, NotFound

from .frame import Frame, token_of
from .render import html
from .render.offers import fix_of
from .render.scores import table_of, without_paths
from .steps.check import check as check_visit
from .steps.compare import require_few_datasets, require_readers, require_texts
from .steps.merge import start_merges
from .steps.pick import describe
from .visits import Visit
from .workers.tasks import bug

_PATIENCE = 3600.0


def endpoints(frame: Frame) -> None:
    """Adds the four endpoints to the page that is being built."""

    @contextmanager
    def visit_of(models: list[str], token: str | None, *, keep: bool = False) -> Iterator[Visit]:
        """A visit with these models for one call; with `keep`, and if the call succeeds, for as long as others."""
        visit, done = frame.visits.open(), False
        try:
            _require_few(models, frame.setting.most_models)
            visit.picks = [describe(frame.setting.require_name(model), token) for model in models]
            yield visit
            done = keep
        finally:
            if not done:
                frame.visits.end(visit)

    def finished(visit: Visit) -> None:
        job = visit.job
        assert job is not None  # It was started before.
        frame.jobs.wait(job, _PATIENCE)
        if job.error is not None:
            raise job.error
        if job.state != "done":
            raise FuseHubError(f"{job.title} did not end in {_PATIENCE / 60:.0f} minutes.", "Take smaller models.")

    def check(oauth: gr.OAuthToken | None, request: gr.Request, models: list[str]) -> dict:
        """Tells whether models can be merged, everything that speaks against it, and what a merge would cost.

        Args:
            models: names of two or more models on the Hub, as user/name or user/name@revision.
        """
        token = token_of(oauth)
        with visit_of(_list(models), token) as visit:
            return check_visit(frame, visit, token)

    def merge(
        oauth: gr.OAuthToken | None,
        request: gr.Request,
        models: list[str],
        method: str = "regmean",
        options: dict | None = None,
    ) -> dict:
        """Merges models by one method. Returns the merge's name, to be given to compare and evaluate, and its recipe.

        Args:
            models: names of two or more models on the Hub.
            method: the way to merge: one of those that `fusehub methods` lists, such as regmean or mean.
            options: options of the method, such as {"alpha": 0.9}.
        """
        from fusehub.methods import find_method

        token = token_of(oauth)
        with visit_of(_list(models), token, keep=True) as visit:
            start_merges(frame, visit, {find_method(method).name: dict(options or {})}, {}, token)
            finished(visit)
            frame.visits.trim(frame.setting.most_kept)
            made = next(iter(visit.merges.values()))
            return {
                "name": f"{made.name}@{visit.key}",
                "models": [f"{name}@{visit.key}" for name in made.models],
                "recipe": made.recipe,
                "seconds": made.seconds,
                "notes": list(made.notes),
            }

    def compare(oauth: gr.OAuthToken | None, request: gr.Request, models: list[str], texts: list[str]) -> dict:
        """Tells what each model and their ensemble say about each text.

        Args:
            models: names of models on the Hub, and of merges that were made here.
            texts: the texts to ask about.
        """
        token = token_of(oauth)
        texts = require_texts(_list(texts), frame.setting.most_texts)
        with _asked(frame, _list(models), token) as asked:
            found = frame.worker.ask("compare", {"models": asked, "texts": texts}, token)
        return found | {"source": None}

    def evaluate(
        oauth: gr.OAuthToken | None, request: gr.Request, models: list[str], data: dict, limit: int = 200
    ) -> dict:
        """Scores models and their ensemble on labelled datasets of the Hub.

        Args:
            models: names of models on the Hub, and of merges that were made here.
            data: a name for each dataset, such as {"films": "stanfordnlp/imdb/test"}.
            limit: how many examples of each dataset are taken at most.
        """
        if not isinstance(data, dict) or not data:
            raise BadData("No dataset was named.", 'Give {"films": "stanfordnlp/imdb/test"}.')
        token = token_of(oauth)
        require_few_datasets(len(data), frame.setting)
        sources = {name: frame.setting.require_dataset(str(source)) for name, source in data.items()}
        with _asked(frame, _list(models), token) as asked, visit_of([], token) as visit:
            arguments = {"models": asked, "data": sources, "ensemble": True, "limit": int(limit)}
            scored: list[dict[str, Any]] = []
            frame.start(visit, "evaluate", "Scoring", arguments, token, lambda visit, result: scored.append(result))
            finished(visit)
        told = without_paths(scored[0])
        return {"table": table_of(told), **told}

    # Types of the parameters become the schema that programs and MCP clients see.
    for function in (check, merge, compare, evaluate):
        gr.api(_told(function), api_name=function.__name__, concurrency_limit=8)


@contextmanager
def _asked(frame: Frame, models: list[str], token: str | None) -> Iterator[dict[str, str]]:
    """Name -> what to load: merges by their secret names, other models as this caller may read them.

    Merges are there until the block ends, however long it takes.
    """
    if not models:
        raise NotFound("No model was named.", 'Give ["user/one", "user/two"].')
    _require_few(models, frame.setting.most_models + frame.setting.most_merges)
    asked: dict[str, str] = {}
    with ExitStack() as held:
        for model in models:
            name, _, key = model.partition("@")
            visit = held.enter_context(frame.visits.held(key)) if key else None
            if key and visit is None and "/" not in name:
                raise NotFound(
                    f"There is no merge {name} with that key here.", "It is gone, or never was: merge again."
                )
            picks = [frame.recent.describe(frame.setting.require_name(model), token)] if visit is None else visit.picks
            require_readers((pick.task for pick in picks), frame.setting)
            if visit is None:
                asked[model] = picks[0].id
                continue
            merges = {of: place for made in visit.merges.values() for of, place in made.models.items()}
            if name not in merges:
                raise NotFound(f"There is no merge {name} here.", f"Give one of {', '.join(merges)}, with its key.")
            asked[model] = merges[name]
        yield asked


def _require_few(models: list[str], most: int) -> None:
    if len(models) > most:
        raise FuseHubError(f"{len(models)} models are too many: {most} fit here.", "Do more with the command line.")


def _list(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise FuseHubError("A list of texts is expected.", 'Give ["user/one", "user/two"].')
    return value


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose `FuseHubError`s reach the caller as words, and whose result reaches an MCP client as JSON."""
    import functools

    @functools.wraps(function)
    def run(oauth: gr.OAuthToken | None, request: gr.Request, *args: Any) -> Any:
        try:
            result = function(oauth, request, *args)
            # gradio makes text of it for MCP, as Python writes it.
            return json.dumps(result) if request.headers.get("x-gradio-user") == "mcp" else result
        except FuseHubError as error:
            told = html.told(error)
        except Exception:
            told = bug()
        raise gr.Error(f"{told.what} -> {fix_of(told)}", print_exception=False)

    return run
