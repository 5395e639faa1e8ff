"""The page as gradio keeps it, where what an event leaves as it is costs nothing, and nothing is shown twice."""

from __future__ import annotations

import copy
from typing import Any

import gradio as gr
from gradio.blocks import BlockFunction, postprocess_update_dict
from gradio.data_classes import BlocksConfigDict
from gradio.state_holder import SessionState

# What no part of this page has: chats, streams, lists to select from, parts that are made anew while it is shown.
_UNUSED = ("_retryable", "_undoable", "likeable", "_selectable", "streamable", "preserved_by_key")


class Page(gr.Blocks):
    """Gradio makes each output that an event skips anew and describes it again, a millisecond each.

    Most events here have all hundred parts that a visitor can see as outputs, and skip most of them; and while work
    goes on, one comes every moment.
    """

    def get_config_file(self) -> BlocksConfigDict:
        """What programs are told of the app, and of that what the browser is told, which takes it in at each load.

        The arguments of endpoints are components to gradio, but no part of what is seen; what a value is like is said
        three times of each component, also where it is taken and given as it is; and nobody asks for the rest.
        """
        config = super().get_config_file()
        for component in config["components"]:
            component.pop("example_inputs", None)
            for prop in _UNUSED:
                component["props"].pop(prop, None)
            for way in ("api_info_as_input", "api_info_as_output"):
                if way in component and component[way] == component["api_info"]:
                    del component[way]
        unseen = {component["id"] for component in config["components"] if component["type"] == "api"}
        page: Any
        for page in config["page"].values():
            page["components"] = [own for own in page["components"] if own not in unseen]
            page["layout"]["children"] = [own for own in page["layout"]["children"] if own["id"] not in unseen]
        return config

    async def postprocess_data(
        self, block_fn: BlockFunction, predictions: list | dict, state: SessionState | None
    ) -> list[Any]:
        """What the outputs of an event become, as gradio says it."""
        outputs, skipped = block_fn.outputs, gr.skip()
        if len(outputs) < 2 or not isinstance(predictions, list | tuple) or len(predictions) != len(outputs):
            return await super().postprocess_data(block_fn, predictions, state)
        kept = [
            place
            for place, (block, value) in enumerate(zip(outputs, predictions, strict=True))
            if block.stateful or not (isinstance(value, dict) and value == skipped)
        ]
        # The only output of an event is told otherwise than one of several.
        kept += [place for place in range(len(outputs)) if place not in kept][: max(0, 2 - len(kept))]
        narrow = copy.copy(block_fn)
        narrow.outputs = [outputs[place] for place in kept]
        made = await super().postprocess_data(narrow, [predictions[place] for place in kept], state)
        told: list[Any] = [postprocess_update_dict(block, gr.skip(), block_fn.postprocess) for block in outputs]
        for place, value in zip(kept, made, strict=True):
            told[place] = value
        return told

    def handle_streaming_diffs(
        self,
        block_fn: BlockFunction,
        data: list,
        session_hash: str | None,
        run: str | None,
        final: bool,
        simple_format: bool = False,
    ) -> list[Any]:
        """What the page is told of an answer in pieces: at its end, that all stays as it is.

        Gradio ends with the last piece once more, over whatever was typed since. It is not for the pieces themselves
        to end with one that leaves all as it is: the browser works what is new in a piece into the one before, also
        where that still waits to be shown, and what it was to show would be lost.
        """
        told = super().handle_streaming_diffs(block_fn, data, session_hash, run, final, simple_format)
        # A program that waits for an endpoint reads its answer at the end.
        return [gr.skip()] * len(told) if final and block_fn.api_visibility == "private" else told
