"""What a visitor's data has, and what of it is read: shown as soon as it is given, and chosen from what is there.

    self.columns = Columns(frame, "score", labelled=True)            # in the layout of a step
    self.columns.look(visit, token, {path: "films.csv"})             # when a file was uploaded
    self.columns.of(visit, path).source                              # what is read: with config and split

Nothing of it is needed: data that nobody looked into is read as the package guesses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from fusehub.data.preview import with_parts
from fusehub.errors import FuseHubError
from fusehub.models.tasks import TASKS

from ..readings import Reading, Readings
from ..render.data import data_html
from ..visit import Visit


class Columns:
    """The first rows of data, and what is read of it: config, split, columns. `name` begins the ids of its parts."""

    def __init__(self, frame: Any, name: str, *, labelled: bool) -> None:
        self.frame, self.name, self.labelled = frame, name, labelled
        with gr.Column(visible=False, elem_id=f"{name}-columns") as self.box:
            self.which = gr.Dropdown([], label="Look into", visible=False, elem_id=f"{name}-which")
            self.told = gr.HTML("")
            with gr.Row():
                self.config = gr.Dropdown([], label="Config", visible=False, elem_id=f"{name}-config")
                self.split = gr.Dropdown([], label="Split", visible=False, elem_id=f"{name}-split")
            with gr.Row():
                self.texts = gr.Dropdown(
                    [], label="Read as input", multiselect=True, visible=False, elem_id=f"{name}-text-column"
                )
                self.label = gr.Dropdown(
                    [], label="Read as labels", visible=False, elem_id=f"{name}-label-column"
                )  # fmt: skip
        self.painted = [self.box, self.which, self.told, self.config, self.split, self.texts, self.label]

    def wire(self) -> None:
        for box, choose in (
            (self.which, _turn), (self.config, _take_config), (self.split, _take_split), (self.texts, _take_texts),
            (self.label, _take_label),
        ):  # fmt: skip
            self.frame.answer(box.input, self._chosen(choose), [box], self.painted, "Looking into the data")

    def of(self, visit: Visit, place: str) -> Reading:
        """What is to be read of data."""
        return self.all_of(visit).of(place)

    def look(self, visit: Visit, token: str | None, places: Mapping[str, str]) -> list[Any]:
        """Looks into all that is given at this moment, place -> what it is called, where nobody has yet; gives what
        the parts show then."""
        known = self.all_of(visit)
        for place, called in places.items():
            if place not in known.all:
                known.all[place] = Reading(called, place)
                self._read(visit, token, known.all[place])
                known.current = place
        known.given = tuple(places)
        return self.show(visit)

    def show(self, visit: Visit) -> list[Any]:
        """What the parts show."""
        known = self.all_of(visit)
        given = [place for place in known.given if place in known.all]
        if not given:
            return [gr.Column(visible=False), *[gr.skip()] * (len(self.painted) - 1)]
        if known.current not in given:
            known.current = given[-1]
        reading = known.all[known.current]
        seen: Mapping[str, Any] = reading.seen or {}
        columns: list[str] = seen.get("columns", [])
        label: str | None = seen.get("label_column")
        several, wanted = len(columns) > 1, self.labelled and not _is_unlabelled(visit)
        # Several columns that are labels by themselves are one choice.
        together = [label] if label is not None and label not in columns else []
        return [
            gr.Column(visible=True),
            gr.Dropdown([(known.all[own].called, own) for own in given], value=known.current, visible=len(given) > 1),
            data_html(reading),
            _part(seen.get("configs", []), seen.get("config")),
            _part(seen.get("splits", []), seen.get("split")),
            gr.Dropdown(
                columns, value=seen.get("text_columns", []), multiselect=True, visible=several,
                max_choices=seen.get("most_text_columns"),
            ),
            gr.Dropdown([*columns, *together], value=label, visible=several and wanted),
        ]  # fmt: skip

    def all_of(self, visit: Visit) -> Readings:
        """What was given to the form."""
        return visit.readings.setdefault(self.name, Readings())

    def _read(self, visit: Visit, token: str | None, reading: Reading) -> None:
        picks = visit.picks if self.labelled else visit.picks[:1]
        asked = {
            "models": {pick.short: pick.id for pick in picks}, "source": reading.source, "labelled": self.labelled,
            "text_column": reading.text_column, "label_column": reading.label_column,
        }  # fmt: skip
        try:
            for pick in picks:
                # Tells whether the visitor may read it, still.
                self.frame.recent.describe(pick.name, token)
            seen = self.frame.worker.ask("preview", asked, token)
            reading.seen, reading.problem, reading.source = seen, None, seen["source"]
        except FuseHubError as error:
            reading.seen, reading.problem = None, error

    def _chosen(self, choose: Callable[[Readings, Reading, Any], bool]) -> Callable[..., list[Any]]:
        """What answers a choice: the reading that is shown takes it in, and is shown anew."""

        def answered(visit: Visit, token: str | None, value: Any) -> list[Any]:
            known = self.all_of(visit)
            reading = known.shown
            if reading is not None and choose(known, reading, value):
                self._read(visit, token, reading)
            return self.show(visit)

        return answered


def _turn(known: Readings, reading: Reading, place: str) -> bool:
    known.current = place if place in known.given else known.current
    return False


def _take_config(known: Readings, reading: Reading, config: str) -> bool:
    """Splits and columns are the config's own."""
    reading.source = with_parts(reading.source, config, split="")
    reading.text_column = reading.label_column = None
    return True


def _take_split(known: Readings, reading: Reading, split: str) -> bool:
    reading.source = with_parts(reading.source, split=split)
    return True


def _take_texts(known: Readings, reading: Reading, columns: list[str] | None) -> bool:
    reading.text_column = ",".join(columns or []) or None
    return True


def _take_label(known: Readings, reading: Reading, column: str | None) -> bool:
    reading.label_column = column or None
    return True


def _part(parts: list[str], chosen: str | None) -> gr.Dropdown:
    return gr.Dropdown(parts, value=chosen, visible=len(parts) > 1)


def _is_unlabelled(visit: Visit) -> bool:
    task = visit.picks[0].task if visit.picks else None
    return task in TASKS and TASKS[task].unlabelled
