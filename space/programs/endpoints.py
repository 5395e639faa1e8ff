"""The endpoints: every step of the way, for `gradio_client`, plain HTTP and MCP clients.

    client = Client("http://localhost:7860")
    client.predict(models=["user/a", "user/b"], api_name="/check")
    merged = client.predict(models=["user/a", "user/b"], method="regmean", options={"alpha": 0.9}, api_name="/merge")
    client.predict(models=["user/a", "user/b", merged["name"]], texts=["Not bad."], api_name="/compare")

Answers are plain data of known types (see `answers`); a caller's mistake is one of them: {"error": {...}}.
`oauth_token=` of `gradio_client` is passed on to the Hub, for private and gated models, and to push.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote

import gradio as gr
from pydantic import Field

from fusehub.checking.heads import Heads
from fusehub.errors import AccessDenied, BadData, BadRecipe, unknown
from fusehub.finding import ANY_TASK, Sort, find
from fusehub.methods import find_method
from fusehub.models.tasks import TASKS

from ..downloads import files_of, size_of
from ..frame import Frame
from ..setting import Setting
from ..steps.advice import advise, offered
from ..steps.check import check
from ..steps.compare import has_ensemble, require_few_datasets, require_texts
from ..steps.counting import Texts
from ..steps.merge import start_merges
from ..steps.push import start_push
from ..visit import Made, Visit
from . import answers, forms, named, work
from .told import Caller, told

ENDPOINTS = (
    "find", "methods", "recommend", "check", "statistics", "merge", "compare", "evaluate", "card", "push", "download",
)  # fmt: skip
_MOST_FOUND = 100

Count = Annotated[int, Field(ge=1, le=_MOST_FOUND)]
Examples = Annotated[int, Field(ge=1, le=5000)]


def endpoints(frame: Frame) -> None:
    """Adds the endpoints to the page that is being built."""
    programs = Programs(frame)
    shown = {"method": Literal[tuple(offered())] | None, "task": Literal[(*TASKS, ANY_TASK)] | None}
    for name in ENDPOINTS:
        gr.api(told(getattr(programs, name), shown), api_name=name, concurrency_limit=8)


class Programs:
    """What each endpoint does, with the caller's own token; their docstrings are what agents read."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    @property
    def setting(self) -> Setting:
        return self.frame.setting

    def find(
        self,
        caller: Caller,
        query: str | None = None,
        task: str | None = None,
        base: str | None = None,
        author: str | None = None,
        with_statistics: bool = False,
        sort: Sort = "downloads",
        limit: Count = 20,
    ) -> answers.Found:
        """Finds models on the Hub that can go into a merge.

        Args:
            query: words of the name.
            task: the Hub's name of a task, or "any"; left out: all tasks whose models can be merged.
            base: the model that they were fine-tuned from, as user/name.
            author: whose models.
            with_statistics: true for those alone whose owners have published statistics, which RegMean needs.
            sort: "downloads" or "last_modified", largest or latest first.
            limit: how many at most, up to 100.

        Returns:
            {"models": [...]}: id, task, base, parameters, license, downloads, and where statistics of it are.
        """
        if task is not None and task not in (*TASKS, ANY_TASK):
            raise unknown("task", task, (*TASKS, ANY_TASK))
        found = find(
            self.setting.require_words(query) or None if query else None,
            task=task,
            base=self.setting.require_name(base) if base else None,
            author=self.setting.require_words(author) or None if author else None,
            with_statistics=with_statistics,
            sort=sort,
            limit=limit,
            token=caller.token,
        )
        return {"models": [forms.model(model) for model in found]}

    def methods(self, caller: Caller) -> answers.Methods:
        """Lists the ways to merge: what each does in one sentence, what it needs, and the schema of its options.

        Returns:
            {"methods": [...]}: name, title, sentence, when to use it, what it needs, and options (JSON schema).
        """
        return {"methods": [forms.way(method) for method in offered().values()]}

    def recommend(
        self,
        caller: Caller,
        models: list[str],
        base_model: str | None = None,
        statistics: dict[str, str] | None = None,
    ) -> answers.Recommended:
        """Recommends a way to merge these models, with the reason, and says what each other way would need.

        Args:
            models: names of two or more models on the Hub, as user/name or user/name@revision.
            base_model: the pretrained model that they share; left out: the one that all of them name.
            statistics: where statistics of models are, by model, as `merge` takes them.

        Returns:
            The recommended way with its options, the reason, the mean to compare it with, and all others.
        """
        with named.visit_of(self.frame, models, caller.token) as visit:
            self._require_two(visit)
            self._take_base(visit, base_model)
            with named.statistics_named(self.frame, visit, statistics or {}):
                return forms.recommended(advise(self.frame, visit, caller.token))

    def check(
        self,
        caller: Caller,
        models: list[str],
        base_model: str | None = None,
        labels: dict[str, list[str]] | None = None,
        heads: Heads = "auto",
    ) -> answers.Checked:
        """Tells whether models can be merged, everything that speaks against it, and what a merge would cost.

        Nothing is downloaded but configurations and headers.

        Args:
            models: names of two or more models on the Hub, as user/name or user/name@revision.
            base_model: the pretrained model that they share, if it is to be checked too.
            labels: what the rows of a model's head mean, by model, where it only numbers them.
            heads: "keep" each model's own, "merge" them, or "auto": merged where their labels agree.

        Returns:
            ok, all findings, facts of each model, the labels of a merge, published statistics, and the cost.
        """
        with named.visit_of(self.frame, models, caller.token) as visit:
            self._require_two(visit)
            self._take_base(visit, base_model)
            self._take_labels(visit, labels)
            visit.heads = heads
            return forms.checked(check(self.frame, visit, caller.token), visit.names())

    def statistics(
        self,
        caller: Caller,
        model: str,
        data: str | None = None,
        texts: list[str] | None = None,
        limit: Examples = 1000,
        fisher: bool = False,
        text_column: str | None = None,
    ) -> answers.Collected:
        """Makes statistics of a model from texts of its kind: sums of what its layers see, which RegMean weighs by.

        Args:
            model: the name of a model on the Hub.
            data: a dataset on the Hub, as user/dataset or user/dataset/split.
            texts: texts in the place of a dataset; some hundreds make good statistics.
            limit: how many texts are taken at most, up to 5000.
            fisher: true makes the Fisher diagonals that Fisher merging needs, too; it takes about three times as long.
            text_column: the column of the dataset with the texts; left out: guessed by what it is called.

        Returns:
            The name that stands for them under `statistics` of `merge`, and how much was counted.
        """
        if bool(data) == bool(texts):
            raise BadData("There must be a dataset or texts, and not both.", "Give `data` or `texts`.")
        with named.visit_of(self.frame, [model], caller.token, keep=True) as visit:
            if texts:
                given = work.written(visit, texts, self.setting)
            else:
                name = self.setting.require_dataset(str(data))
                given = Texts(name, name, is_dataset=True, column=text_column)
            work.start_statistics(self.frame, visit, model, given, caller.token, limit=limit, fisher=fisher)
            work.finish(self.frame, visit)
            made = visit.statistics[model]
            return {
                "name": f"{named.STATISTICS}@{visit.key}", "model": model, "examples": made["examples"],
                "tokens": made["tokens"], "rows": made["rows"], "fisher": fisher,
                "warnings": [own["what"] for own in made["findings"]],
            }  # fmt: skip

    def merge(
        self,
        caller: Caller,
        models: list[str],
        method: str | None = None,
        options: dict[str, Any] | None = None,
        base_model: str | None = None,
        weights: dict[str, float] | None = None,
        labels: dict[str, list[str]] | None = None,
        heads: Heads = "auto",
        statistics: dict[str, str] | None = None,
    ) -> answers.Merged:
        """Merges models into one, without their training data.

        Args:
            models: names of two or more models on the Hub, as user/name or user/name@revision.
            method: one of those that `methods` lists; left out: the one that `recommend` recommends.
            options: options of the method, such as {"alpha": 0.9}; `methods` has their schema.
            base_model: the pretrained model that they share, for methods and statistics that need it.
            weights: how much each model counts, by model; 1 where nothing is said.
            labels: what the rows of a model's head mean, by model, where it only numbers them.
            heads: "keep" each model's own, "merge" them, or "auto": merged where their labels agree.
            statistics: by model: a name that `statistics` gave, a repo that holds some, or "data-free"; left out: what
                its owner has published.

        Returns:
            The merge's name, which compare, evaluate, card, push and download take, its recipe, and notes.
        """
        with named.visit_of(self.frame, models, caller.token, keep=True) as visit:
            self._require_two(visit)
            self._take_base(visit, base_model)
            self._take_labels(visit, labels)
            visit.heads = heads
            named.require_known(visit, weights or {}, "weights")
            shares = {name: (weights or {}).get(name, 1.0) for name in visit.names()} if weights else {}
            with named.statistics_named(self.frame, visit, statistics or {}) as folders:
                if method is None:
                    best = advise(self.frame, visit, caller.token)["recommended"]
                    chosen, own = best["method"], best["options"] | (options or {})
                    visit.base = visit.base or best["base_model"] or ""
                else:
                    chosen, own = find_method(method).name, dict(options or {})
                start_merges(self.frame, visit, {chosen: own}, shares, caller.token)
                work.finish(self.frame, visit)
            return self._merged(visit, next(iter(visit.merges.values())), folders)

    def compare(self, caller: Caller, models: list[str], texts: list[str]) -> answers.Compared:
        """Tells what each model, and the ensemble of those that are no merges, say about each text.

        Args:
            models: names of models on the Hub, and of merges that were made here.
            texts: the texts to ask about.

        Returns:
            For each text the answer of each model with its probability, and whether the answers differ.
        """
        texts = require_texts(texts, self.setting.most_texts)
        with named.asked(self.frame, models, caller.token) as asked:
            found = self.frame.worker.ask("compare", {"models": asked.places, "texts": texts}, caller.token)
        return forms.compared(found, list(asked.places))

    def evaluate(
        self, caller: Caller, models: list[str], data: dict[str, str], limit: Examples = 200,
        text_column: dict[str, str] | None = None, label_column: dict[str, str] | None = None,
    ) -> answers.Scored:  # fmt: skip
        """Scores models, and the ensemble of those that are no merges, on labelled datasets of the Hub.

        The scores of a merge that was made here are in its card from then on.

        Args:
            models: names of models on the Hub, and of merges that were made here.
            data: a name for each dataset, such as {"films": "stanfordnlp/imdb/test"}.
            limit: how many examples of each dataset are taken at most, up to 5000.
            text_column: the column with the texts, by the names in `data`; left out: guessed by what it is called.
            label_column: the column with the labels, said in the same way.

        Returns:
            A table with the main metric of each model and its gain over the best expert, and all scores.
        """
        if not data:
            raise BadData("No dataset was named.", 'Give {"films": "stanfordnlp/imdb/test"}.')
        require_few_datasets(len(data), self.setting)
        sources = {name: self.setting.require_dataset(source) for name, source in data.items()}
        with (
            named.asked(self.frame, models, caller.token) as asked,
            named.visit_of(self.frame, [], caller.token) as visit,
        ):
            ensemble = has_ensemble(asked.task)
            arguments = {"models": asked.places, "data": sources, "ensemble": ensemble, "limit": limit}
            arguments |= {"text_column": text_column, "label_column": label_column}
            scored = work.scores(self.frame, visit, arguments, caller.token)
            for own, made in asked.merges.values():
                if not made.parts:
                    own.evaluation = scored
        return forms.scored(scored, list(asked.places))

    def card(self, caller: Caller, merge: str, repo_id: str | None = None, license: str | None = None) -> answers.Card:
        """Writes the model card of a merge, and says what follows from the licences of the models in it.

        Args:
            merge: the name of a merge that was made here.
            repo_id: the name that it will have on the Hub, as user/name.
            license: the licence that the card says, in the Hub's words; left out: the one that follows.

        Returns:
            The card's text, the licence with the reason, and what speaks against publishing.
        """
        with named.merge_named(self.frame, merge) as (visit, made):
            return forms.card(work.card_of(self.frame, visit, made, repo_id, license))

    def push(
        self,
        caller: Caller,
        merge: str,
        repo_id: str,
        private: bool = True,
        create_pr: bool = False,
        license: str | None = None,
        card: str | None = None,
        demo: bool = False,
    ) -> answers.Pushed:
        """Pushes a merge to the Hub as the caller, after it was loaded and asked, and compares what arrived.

        It needs the caller's token, with the right to write.

        Args:
            merge: the name of a merge that was made here.
            repo_id: user/name, or a name for a repo of the caller's own.
            private: false makes it public.
            create_pr: true proposes it to the owner of a repo that is there.
            license: the licence that the card says, in the Hub's words; left out: the one that follows.
            card: the text of the card, changed by hand; left out: what `card` writes.
            demo: true makes a Space too that shows what the model answers.

        Returns:
            Where it is: repo_id, url, commit, and the addresses of pull request and Space where there are any.
        """
        if card and license is not None:
            raise BadData("A card that was written by hand says its own licence.", "Give `card` or `license`.")
        if caller.token is None and self.setting.shared:
            raise AccessDenied(
                "Nobody is signed in.",
                "Give a token of yours that can write: Client(..., oauth_token=...). Who has none here downloads the "
                "merge by `download`.",
            )
        with named.merge_named(self.frame, merge) as (visit, made):
            text = card or work.card_of(self.frame, visit, made, repo_id, license)["text"]
            start_push(
                self.frame, visit, made, repo_id, text,
                public=not private, pull_request=create_pr, demo=demo, token=caller.token,
            )  # fmt: skip
            return forms.pushed(work.pushed(self.frame, visit))

    def download(self, caller: Caller, merge: str) -> answers.Download:
        """Gives the addresses that a merge is downloaded from, by plain HTTP, for as long as it is here.

        Args:
            merge: the name of a merge that was made here.

        Returns:
            An address for each file with its size in bytes, and one for all files in a zip.
        """
        with named.merge_named(self.frame, merge) as (visit, made):
            files = files_of(self.frame, visit, made)
            return {
                "name": merge,
                "zip": f"{caller.address}/{made.address}.zip",
                "files": [
                    {"name": path, "size": size_of(content), "url": f"{caller.address}/{made.address}/{quote(path)}"}
                    for path, content in files.items()
                ],
            }

    def _require_two(self, visit: Visit) -> None:
        if len(visit.picks) < 2:
            raise BadRecipe("A merge takes two models or more.", 'Give ["user/one", "user/two"].')

    def _take_base(self, visit: Visit, base: str | None) -> None:
        visit.base = self.setting.require_name(base) if base else ""
        visit.base_is_said = True

    def _take_labels(self, visit: Visit, labels: dict[str, list[str]] | None) -> None:
        named.require_known(visit, labels or {}, "labels")
        visit.labels = dict(labels or {})

    def _merged(self, visit: Visit, made: Made, folders: dict[str, str]) -> answers.Merged:
        def told(text: str) -> str:
            for folder, name in folders.items():
                text = text.replace(folder, name)
            return text

        return {
            "name": f"{made.name}@{visit.key}", "models": [f"{name}@{visit.key}" for name in made.models],
            "method": made.method, "options": made.asked["parameters"], "base_model": made.asked["base_model"],
            "weights": made.asked["weights"], "recipe": told(made.recipe), "seconds": made.seconds,
            "notes": [told(note) for note in made.notes],
        }  # fmt: skip
