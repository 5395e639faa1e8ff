"""Answers that are texts: what goes on after a text, or what is written for a source."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusehub.comparing.answers import Answer, Span
from fusehub.comparing.metrics.measured import Measured
from fusehub.comparing.metrics.texts import written_metrics
from fusehub.comparing.said import Asked, Said, embedded, on_device, require_choices
from fusehub.comparing.tasks.task import Shown, TaskAnswers
from fusehub.data.chats import Chat
from fusehub.data.examples import Examples
from fusehub.data.inputs import Inputs
from fusehub.data.language_models import IGNORED
from fusehub.data.tokenizing import Text, are_texts, batches, encode, max_length_of, positions_of, require_rows
from fusehub.errors import Incompatible
from fusehub.models.loading import quiet_transformers, strange_files

if TYPE_CHECKING:
    from torch import Tensor

# Tokens that a model may write.
NEW_TOKENS = 40


class WrittenAnswers(TaskAnswers):
    """Texts of a model's own."""

    has_mean = False
    continues = False
    """What is written goes on with the text that the model was given."""

    def predict(self, asked: Asked, texts: Sequence[Text]) -> Said:
        """What the model writes after each text, or for each source: greedily, at most 40 tokens (`NEW_TOKENS`)."""
        import torch
        from transformers import GenerationMixin, LogitsProcessorList

        network, tokenizer = asked.network, asked.of_texts
        assert isinstance(network, GenerationMixin)  # Its task is one of those that write.
        positions = positions_of(network.config)
        new = NEW_TOKENS if positions is None else min(NEW_TOKENS, positions // 2)
        length = max_length_of(tokenizer, network.config, asked.max_length)
        side = "right"
        if self.continues:
            # What stands right before what is to be written counts most; and the model has to have room for it.
            tokenizer, side = copy.deepcopy(tokenizer), "left"
            tokenizer.truncation_side = "left"
            length = min(length, positions - new) if positions else length
        encodings = encode(texts, tokenizer, max_length=length, reply=self.continues)
        require_rows(asked.name, embedded(network), encodings, tokenizer)
        for encoding in encodings:
            ids = encoding["input_ids"]
            if self.continues and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
                encoding["input_ids"], encoding["attention_mask"] = ids[:-1], encoding["attention_mask"][:-1]
        found = [""] * len(texts)
        done = 0

        def look(_: Tensor, logits: Tensor) -> Tensor:
            # The largest of what is no number would be written like any other.
            require_choices(logits, asked.name)
            return logits

        for indices, batch in batches(encodings, tokenizer, batch_size=asked.batch_size, padding_side=side):
            given = {key: batch[key] for key in ("input_ids", "attention_mask")}
            with torch.inference_mode(), quiet_transformers(), strange_files(asked.name, "its generation_config.json"):
                written: Any = network.generate(  # type: ignore[misc]  # Its protocol asks for what no class declares.
                    **on_device(network, given),
                    do_sample=False,
                    num_beams=1,
                    max_new_tokens=new,
                    pad_token_id=tokenizer.pad_token_id,
                    logits_processor=LogitsProcessorList([look]),
                )
            if self.continues:
                written = written[:, given["input_ids"].shape[1] :]
            for index, text in zip(indices, tokenizer.batch_decode(written, skip_special_tokens=True), strict=True):
                found[index] = text.strip()
            done += len(indices)
            asked.progress(done, len(texts), asked.name)
        return asked.said([], written=found)

    def answers(self, said: Said) -> list[Any]:
        """(the text, None)."""
        return [(text, None) for text in said.written or ()]

    def _mean(self, said: Sequence[Said]) -> tuple[list[str], Any]:
        raise Incompatible(
            f"{said[0].model} and the others write texts, which have no mean.", "Compare them without an ensemble."
        )

    def answer(self, said: Said, index: int, given: Any, text: str, spans: Sequence[Span]) -> Answer:
        """The text that was written."""
        label, probability = given
        return Answer(said.model, label, probability, {}, [], text)

    def score(self, said: Said, examples: Examples) -> Measured:
        """chrF, BLEU and exact match."""
        labels, written = examples.labels, said.written
        assert labels is not None and are_texts(labels) and written is not None  # It was read for its labels.
        return written_metrics(labels, written)


class TextGenerationAnswers(WrittenAnswers):
    """What goes on after a text; how good that is, the perplexity of texts says."""

    shown = Shown("it writes what goes on after a text", "demo_continued.py.jinja")
    continues = True
    one = "beginning"
    does = "goes on with every beginning"
    typed = "Once upon a time\nThe best way to learn is"
    asks = "Beginnings, one a line: each model goes on with them"
    scored_on = "texts"
    question = '"It was a dark and stormy", max_new_tokens=30'

    def to_read(self, text: Text) -> tuple[str, list[Span]]:
        return text.name if isinstance(text, Chat) else str(text), []

    def targets(self, inputs: Inputs, indices: Sequence[int], batch: Mapping[str, Tensor]) -> Tensor:
        """The token after each."""
        from torch.nn.functional import pad

        # Padding is on the right, so what follows a text's last token is the first that is ignored.
        tokens = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        return pad(tokens[:, 1:], (0, 1), value=IGNORED)


class Text2TextGenerationAnswers(WrittenAnswers):
    """What is written for a source."""

    shown = Shown("it writes another text from one", "demo_rewritten.py.jinja", by_pipeline=False)
    one = "source"
    does = "writes what follows from every source"
    asks = "Sources, one a line: each model writes what follows from them"
    scored_on = "sources and targets"
    typed = "The committee met on Tuesday, and after a long debate it agreed to build the bridge."
    by_hand = (
        'inputs = tokenizer("This is better than I thought.", return_tensors="pt")',
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=60)[0], skip_special_tokens=True))",
    )

    def require_library(self) -> None:
        written_metrics(["a"], ["a"])
