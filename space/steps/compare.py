"""Step 5: experts, their ensemble and the merged models side by side, on texts that are typed and on labelled data."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from fusehub.comparing.tasks import TaskAnswers, answers_of
from fusehub.errors import BadData, FuseHubError
from fusehub.models.tasks import TASKS

from ..access import require_all
from ..events import EACH_PRESS, Pieces
from ..render import html
from ..render.answers import answers_html
from ..render.layers import layers_html
from ..render.scores import scores_html
from ..setting import Setting
from ..step import Step, not_yet
from ..uploads import take_uploads
from ..visit import PICK, PUSH, Visit
from .columns import Columns
from .counting import named_for


class Compare(Step):
    """Texts and answers; labelled data and scores."""

    title = "Compare"
    intro = "The same is asked of all, and what they answer stands side by side."

    def layout(self) -> None:
        self.said = gr.HTML("", js_on_load=html.PRESS)
        self.offering = [self.said]
        with gr.Column(visible=False) as self.form:
            self._fields()
        self.asked = [
            self.texts,
            self.example,
            self.add,
            self.pictures,
            self.scoring,
            self.upload,
            self.named,
            self.datasets,
        ]
        self.painted = [
            self.answers, self.uploads, self.scores, self.layers, self.said, self.form, *self.asked,
            *self.columns.painted,
        ]  # fmt: skip
        self.result_by_work = {"evaluate": self.scores, "layers": self.layers}
        self.own = [self.go]

    def _fields(self) -> None:
        self.texts = gr.Textbox(label="Texts, one a line", lines=4, placeholder="Not bad at all.", elem_id="texts")
        with gr.Row(elem_classes="fh-actions"):
            self.go = gr.Button("Compare", variant="primary", elem_id="compare")
            self.example = gr.Button("Fill in some texts", elem_id="example-texts")
            self.add = gr.UploadButton(
                "Add images", file_count="multiple", file_types=["image"], visible=False, elem_id="ask-images"
            )
        self.pictures = gr.HTML("", js_on_load=html.PRESS)
        self.only = gr.Checkbox(label="Only where the models disagree", elem_id="only-disagreeing")
        self.answers = gr.HTML("")
        self.scoring = gr.HTML("")
        self.datasets = gr.Textbox(
            label="Datasets on the Hub, one a line", lines=2, placeholder="name=user/dataset/test",
            info="user/dataset, or name=user/dataset; what is read of it is shown below.", elem_id="datasets",
        )  # fmt: skip
        with gr.Row(elem_classes="fh-actions"):
            self.upload = gr.UploadButton(
                "Add files with texts and labels",
                file_count="multiple",
                file_types=[".csv", ".jsonl", ".parquet"],
                elem_id="score-files",
            )
            self.named = gr.Button("Fill in the datasets of the cards", visible=False, elem_id="card-datasets")
        self.uploads = gr.HTML("", js_on_load=html.PRESS)
        self.columns = Columns(self.frame, "score", labelled=True)
        self.limit = gr.Slider(
            20, 2000, value=200, step=20, label="Examples of each at most", elem_id="score-limit",
            info="The same examples for all models.",
        )  # fmt: skip
        with gr.Row(elem_classes="fh-actions"):
            self.score = gr.Button("Score", elem_id="score")
        self.scores = gr.HTML("")
        with gr.Row(elem_classes="fh-actions"):
            self.lead("Push a result", PUSH)
        gr.HTML(
            "<h3>What each layer kept of each expert</h3><p class='fh-intro'>From the weights of all, and "
            "from what the layers see where there are statistics.</p>"
        )
        with gr.Row(elem_classes="fh-actions"):
            self.look = gr.Button("Compare the layers", elem_id="layers")
        self.layers = gr.HTML("")

    def wire(self) -> None:
        for event, change in ((self.go.click, self._compare), (self.only.change, self._filter)):
            self.frame.on(
                event, self, change, [self.texts, self.only], paints=[self.answers], busy="Asking all models",
                shows=self.answers, concurrency_limit=40,
            )  # fmt: skip
        self.frame.on(self.score.click, self, self._score, [self.datasets, self.limit])
        self.frame.on(self.look.click, self, self._look)
        changed = [
            self.frame.on(self.upload.upload, self, self._upload, [self.upload], show_progress="hidden"),
            self.frame.on(self.uploads.click, self, self._drop, show_progress="hidden", **EACH_PRESS),
        ]
        named = self.named.click(self._name_datasets, self.frame.key, self.datasets, **self.frame.hidden)
        for event in (*(own.then for own in (*changed, named)), self.datasets.blur):
            self.frame.answer(event, self._look_into, [self.datasets], self.columns.painted, "Looking into the data")
        self.columns.wire()
        self.frame.on(self.add.upload, self, self._add, [self.add], show_progress="hidden")
        self.frame.on(self.pictures.click, self, self._drop_picture, show_progress="hidden", **EACH_PRESS)
        self.frame.presses.connect(
            self.example.click, self._examples, [], [self.texts], prepares=False, **self.frame.hidden
        )

    def show(self, visit: Visit, token: str | None) -> list:
        if not visit.picks:
            nothing = not_yet("Pick models first: they are asked here.", PICK)
            rest = [gr.skip()] * (len(self.painted) - 6)
            return ["", "", "", "", nothing, gr.Column(visible=False), *rest]
        alone = "" if visit.merges_of_picks() else " Nothing is merged yet: the experts alone will answer."
        wanted = is_of_images(visit) and not visit.pictures
        first = "Add images above and press Compare" if wanted else "Press Compare"
        answers = answers_html(visit.comparison) if visit.comparison else html.empty(f"{first}.{alone}")
        first = "Press Score" if visit.uploads else "Name datasets or upload files above and press Score"
        if visit.job is not None and visit.job.is_open and visit.job.kind == "evaluate":
            first = "All models are being scored: their table comes here"
        scores = scores_html(visit.evaluation) if visit.evaluation else html.empty(f"{first}.")
        known = {name: visit.layers[name] for name in visit.merges_of_picks() if name in visit.layers}
        first = "Press" if visit.merges_of_picks() else "Merge in step 4, then press"
        layers = layers_html(known) if known else html.empty(f"{first} Compare the layers.")
        files = html.files(visit.uploads, "Files to score on") or self._files_wanted(visit)
        told = f"<p class='fh-intro'>{html.esc(_said_of_all(visit))}</p>"
        return [
            answers, files, scores, layers, told, gr.Column(visible=True), *self._to_ask(visit),
            *self.columns.show(visit),
        ]  # fmt: skip

    def _to_ask(self, visit: Visit) -> list[Any]:
        """The form that questions have: texts of the task's own kind, or images; and what data to score on has."""
        kind = _answers_of(visit)
        of_images = is_of_images(visit)
        # What was asked for the visitor is there to be changed; what they type themselves stays.
        asked, visit.asked_for_them = visit.asked_for_them, None
        # Nor is there nothing to begin with: what models of the task can be asked.
        before, visit.filled_with = visit.filled_with, (visit.page, visit.picks[0].task)
        if asked is None and not visit.typed and before != visit.filled_with:
            asked = kind.typed
        said: dict[str, Any] = {} if asked is None else {"value": asked}
        is_kept = bool(visit.datasets) and before[0] != visit.page  # By a page that was loaded anew.
        return [
            gr.Textbox(label=kind.asks, visible=not of_images, **said),
            gr.Button(f"Fill in some {kind.one}s", visible=not of_images),
            gr.UploadButton(visible=of_images),
            html.files(visit.pictures, "Images to ask about") if of_images else "",
            f"<h3>Scores on {html.esc(kind.scored_on)}</h3><p class='fh-intro'>Each dataset or file is a column of "
            "the table.</p>",
            gr.UploadButton(f"Add files with {kind.scored_on}"),
            gr.Button(visible=bool(named_for(visit, visit.names()))),
            gr.Textbox(value=visit.datasets) if is_kept else gr.skip(),
        ]

    def _files_wanted(self, visit: Visit) -> str:
        columns = _answers_of(visit).scored_on
        most = self.frame.setting.upload_size
        return f"<p class='fh-intro'>.csv, .jsonl or .parquet with {columns} in columns; {most} each.</p>"

    def _upload(self, visit: Visit, token: str | None, data: Any, files: Any) -> None:
        self._take(visit, files, visit.uploads)

    def _add(self, visit: Visit, token: str | None, data: Any, files: Any) -> None:
        self._take(visit, files, visit.pictures)

    def _take(self, visit: Visit, files: Any, into: dict[str, str]) -> None:
        most = self.frame.setting.most_files
        room = most - len(into)
        taken = take_uploads(visit, files)
        for path in taken[:room]:
            into[_free(Path(path).stem, into)] = path
        for path in taken[room:]:
            Path(path).unlink()
        if len(taken) > room:
            raise BadData(f"{most} files are as many as fit here.", "Remove one that you do not need.")

    def _drop(self, visit: Visit, token: str | None, data: Any) -> None:
        _removed(data.id, visit.uploads)

    def _drop_picture(self, visit: Visit, token: str | None, data: Any) -> None:
        _removed(data.id, visit.pictures)

    def _examples(self, visit: Visit, token: str | None, data: Any) -> Pieces:
        yield from ()
        return [_answers_of(visit).typed]

    def _name_datasets(self, request: gr.Request, key: str) -> str:
        visit = self.frame.visit_of(request, key)
        return "\n".join(dict.fromkeys(own.called for own in named_for(visit, visit.names()).values()))

    def _compare(self, visit: Visit, token: str | None, data: Any, texts: str, only: bool) -> None:
        if is_of_images(visit):
            found = compare_pictures(self.frame, visit, token)
        else:
            lines = [line.strip() for line in texts.splitlines() if line.strip()]
            found = compare_texts(self.frame, visit, lines, token)
            visit.typed = lines
        visit.comparison = found | {"only": only}

    def _filter(self, visit: Visit, token: str | None, data: Any, texts: str, only: bool) -> None:
        if visit.comparison:
            visit.comparison["only"] = only

    def _look(self, visit: Visit, token: str | None, data: Any) -> None:
        merges = {name: str(made.folder) for name, made in visit.merges_of_picks().items() if not made.parts}
        if not merges:
            raise BadData("There is no merge of these models with one head.", "Merge them in step 4.")
        require_all(visit.names(), token)

        def keep(visit: Visit, found: dict[str, Any]) -> None:
            visit.layers |= found

        self.frame.start(visit, "layers", "Comparing the layers", {"merges": merges}, token, keep)

    def _look_into(self, visit: Visit, token: str | None, datasets: str) -> list[Any]:
        """What the data has that models are to be scored on."""
        visit.datasets = datasets
        places: dict[str, str] = {}
        if visit.picks:
            # What is no name of a dataset is said when it is used.
            with suppress(FuseHubError):
                places = {source: name for name, source in named_datasets(datasets, self.frame.setting).items()}
            places |= {path: Path(path).name for path in visit.uploads.values()}
        return self.columns.look(visit, token, places)

    def _score(self, visit: Visit, token: str | None, data: Any, datasets: str, limit: float) -> None:
        sources = named_datasets(datasets, self.frame.setting)
        for name, path in visit.uploads.items():
            sources[_free(name, sources)] = path
        read = {name: self.columns.of(visit, place) for name, place in sources.items()}
        columns = {
            "text_column": {name: own.text_column for name, own in read.items() if own.text_column},
            "label_column": {name: own.label_column for name, own in read.items() if own.label_column},
        }
        places = {name: own.source for name, own in read.items()}
        start_scores(self.frame, visit, places, int(limit), token, **columns)


def _said_of_all(visit: Visit) -> str:
    """Who is asked, and what each of them does."""
    kind = _answers_of(visit)
    everybody = (
        "Each expert, their ensemble and each merged model" if kind.has_mean else "Each expert and merged model"
    )
    return f"{everybody} {kind.does}."


def named_datasets(text: str, setting: Setting) -> dict[str, str]:
    """Name -> dataset, of lines of `name=user/dataset` or `user/dataset`."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    require_few_datasets(len(lines), setting)
    sources: dict[str, str] = {}
    for line in lines:
        name, separator, source = line.partition("=")
        source = setting.require_dataset(source.strip() if separator else name)
        sources[_free(name.strip() if separator else html.short(_without_split(source)), sources)] = source
    return sources


def require_few_datasets(count: int, setting: Setting) -> None:
    """Raises `BadData` for more datasets than files could be uploaded."""
    if count > setting.most_files:
        raise BadData(f"{count} datasets are too many: {setting.most_files} fit here.", "Score on fewer at once.")


def compare_texts(frame: Any, visit: Visit, texts: list[str], token: str | None) -> dict[str, Any]:
    """The comparison of all models of the visit on `texts`, as plain data with the visit's names."""
    require_texts(texts, frame.setting.most_texts, _answers_of(visit).one)
    require_readers((pick.task for pick in visit.picks), frame.setting)
    return _asked(frame, visit, {"texts": texts}, token)


def compare_pictures(frame: Any, visit: Visit, token: str | None) -> dict[str, Any]:
    """The same of the images that the visitor has uploaded."""
    if not visit.pictures:
        raise BadData("There is no image.", "Add one or more.")
    names = [Path(path).name for path in visit.pictures.values()]
    return _asked(frame, visit, {"texts": list(visit.pictures.values()), "pictures": names}, token)


def _asked(frame: Any, visit: Visit, asked: dict[str, Any], token: str | None) -> dict[str, Any]:
    models = models_to_ask(visit)
    for name in visit.names():
        # Tells whether the visitor may read it, still.
        frame.recent.describe(name, token)
    found = frame.worker.ask("compare", {"models": models, **asked}, token)
    if models_to_ask(visit) != models:
        raise FuseHubError("The models were changed meanwhile.", "Compare again, those that are there now.")
    return renamed(found, models)


def require_texts(texts: list[str], most: int, one: str = "text") -> list[str]:
    """`texts`, if there are some and not too many; `one` says what they are."""
    if not texts:
        raise BadData(f"There is no {one}.", "Type at least one, one a line.")
    if len(texts) > most:
        raise BadData(f"{len(texts)} {one}s are too many at once.", f"Take at most {most}; score a file for more.")
    return texts


def start_scores(
    frame: Any,
    visit: Visit,
    sources: dict[str, str],
    limit: int | None,
    token: str | None,
    *,
    text_column: dict[str, str] | None = None,
    label_column: dict[str, str] | None = None,
) -> None:
    """Puts scoring of all models of the visit into the queue; columns are said by the names of the sources."""
    if not sources:
        raise BadData("There is no data to score on.", "Name a dataset of the Hub, or upload a file with labels.")
    models = models_to_ask(visit)
    require_all(visit.names(), token)

    picked = visit.names()

    def keep(visit: Visit, scored: dict[str, Any]) -> None:
        if visit.names() != picked:
            raise FuseHubError("The models were changed meanwhile.", "Score again, those that are there now.")
        visit.evaluation = scored

    ensemble = has_ensemble(visit.picks[0].task)
    arguments = {"models": models, "data": sources, "ensemble": ensemble, "limit": limit}
    arguments |= {"text_column": text_column, "label_column": label_column}
    # What stands there is of other data.
    visit.evaluation = None
    frame.start(visit, "evaluate", "Scoring all models", arguments, token, keep)


def has_ensemble(task: str | None) -> bool:
    """Whether the answers of models for a task have a mean that can be scored."""
    return task is None or (answers_of(task).has_mean and not TASKS[task].unlabelled)


def models_to_ask(visit: Visit) -> dict[str, str]:
    """Name -> model, of experts of the first one's task and all merges."""
    if not visit.picks:
        raise FuseHubError("There is no model yet.", "Pick models in step 1.")
    return visit.all_models()


def renamed(found: dict[str, Any], models: dict[str, str]) -> dict[str, Any]:
    """Short names that the package gave are kept; commits and folders never show."""
    return found | {"source": None, "asked": list(models)}


def _answers_of(visit: Visit) -> TaskAnswers | type[TaskAnswers]:
    """How models of the visit's task are asked."""
    task = visit.picks[0].task if visit.picks else None
    return answers_of(task) if task in TASKS else TaskAnswers


def is_of_images(visit: Visit) -> bool:
    """Whether its models are asked about images, and not about texts."""
    return any(pick.task in TASKS and TASKS[pick.task].of_images for pick in visit.picks)


def _removed(name: str, files: dict[str, str]) -> None:
    """Takes away a file that was uploaded."""
    if path := files.pop(name, None):
        Path(path).unlink(missing_ok=True)


def _free(name: str, taken: dict[str, str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def _without_split(source: str) -> str:
    parts = source.partition(":")[0].split("/")
    return "/".join(parts[:2])


def require_readers(tasks: Iterable[str | None], setting: Setting) -> None:
    """Raises `BadData` for models of images where strangers come: their texts would name files of this machine."""
    if setting.shared and any(task in TASKS and TASKS[task].of_images for task in tasks):
        raise BadData(
            "Models of images cannot be asked here by names of files.", "Add images in the app, or score on a dataset."
        )
