"""What models of other tasks than classification say: spans of a text, words for a mask, texts that go on.

Each function runs a model over all texts and gives one answer a text; predictions are made of them in
`fusehub.comparing.predictor`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fusehub.data.examples import Examples
from fusehub.data.inputs import Inputs
from fusehub.data.language_models import IGNORED, require_mask
from fusehub.data.questions import best_spans, spans_of
from fusehub.data.tokenizing import Text, batches, encode, max_length_of, positions_of, require_rows
from fusehub.errors import BadData, NonFinite
from fusehub.models.loading import quiet_transformers, running, strange_files
from fusehub.models.tasks import CAUSAL, MASKED, QUESTIONS
from fusehub.utils.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fusehub.models.resolve import ModelRef

# Tokens that a model may write.
NEW_TOKENS = 40
# How a mask is written in a text, whatever the model calls its own.
MASKS = ("[MASK]", "<mask>")


def find_spans(
    ref: ModelRef,
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    *,
    max_length: int | None,
    batch_size: int,
    progress: Progress,
) -> list[dict[str, float]]:
    """For each (question, text) its likeliest answers with their probabilities; "" is that the text holds none."""
    import torch

    examples = Examples(QUESTIONS, list(pairs), None, "", None)
    inputs = Inputs.of(ref, examples, max_length=max_length, tokenizer=tokenizer)
    windows: list[list[Any]] = [[] for _ in pairs]
    done = 0
    for indices, batch in inputs.batches(batch_size=batch_size):
        with torch.inference_mode(), running(ref.name):
            output = network(**_on(network, batch))
        start, end = (_finite(logits.float().cpu(), ref.name) for logits in (output.start_logits, output.end_logits))
        for row, index in enumerate(indices):
            encoding = inputs.encodings[index]
            windows[encoding["example"]].append(spans_of(start[row].numpy(), end[row].numpy(), encoding))
        done += len(indices)
        progress(done * len(pairs) // len(inputs), len(pairs), ref.name)
    answers = []
    for (_, text), own in zip(pairs, windows, strict=True):
        found: dict[str, float] = {}
        for span, probability in best_spans(own, may_be_none=True):
            said = text[span.start : span.end]
            found[said] = found.get(said, 0.0) + probability
        answers.append(found)
    return answers


def fill_masks(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    name: str,
    max_length: int | None,
    batch_size: int,
    progress: Progress,
) -> list[np.ndarray]:
    """For each text the probabilities of all tokens for each of its masks, [masks, tokens].

    A mask is written [MASK] or <mask>, whatever the model's own is. Raises `BadData` where a text has none.
    """
    import torch

    require_mask(tokenizer)
    own = []
    for text in texts:
        for mask in MASKS:
            text = text.replace(mask, tokenizer.mask_token)
        own.append(text)
    length = max_length_of(tokenizer, network.config, max_length)
    encodings = encode(own, tokenizer, max_length=length)
    require_rows(name, _embedded(network), encodings, tokenizer)
    for text, encoding in zip(texts, encodings, strict=True):
        if tokenizer.mask_token_id not in encoding["input_ids"]:
            raise BadData(f"There is no mask in '{text[:60]}'.", "Write [MASK] where a word is to be found.")
    found: list[Any] = [None] * len(texts)
    done = 0
    for indices, batch in batches(encodings, tokenizer, batch_size=batch_size):
        with torch.inference_mode(), running(name):
            logits = network(**_on(network, batch)).logits.float().cpu()
        for row, index in enumerate(indices):
            masks = batch["input_ids"][row] == tokenizer.mask_token_id
            found[index] = _finite(logits[row][masks], name).softmax(-1)[:, : len(tokenizer)].numpy()
        done += len(indices)
        progress(done, len(texts), name)
    return found


def write_texts(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    texts: Sequence[Text],
    *,
    name: str,
    max_length: int | None,
    batch_size: int,
    progress: Progress,
) -> list[str]:
    """What the model writes after each text, or for each source: greedily, at most 40 tokens (`NEW_TOKENS`)."""
    import torch
    from transformers import GenerationMixin

    assert isinstance(network, GenerationMixin)  # Its task is one of those that write.
    positions = positions_of(network.config)
    new = NEW_TOKENS if positions is None else min(NEW_TOKENS, positions // 2)
    length = max_length_of(tokenizer, network.config, max_length)
    side = "right"
    if task == CAUSAL:
        # What stands right before what is to be written counts most; and the model has to have room for it.
        tokenizer, side = copy.deepcopy(tokenizer), "left"
        tokenizer.truncation_side = "left"
        length = min(length, positions - new) if positions else length
    encodings = encode(texts, tokenizer, max_length=length, reply=task == CAUSAL)
    require_rows(name, _embedded(network), encodings, tokenizer)
    for encoding in encodings:
        ids = encoding["input_ids"]
        if task == CAUSAL and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
            encoding["input_ids"], encoding["attention_mask"] = ids[:-1], encoding["attention_mask"][:-1]
    found = [""] * len(texts)
    done = 0
    for indices, batch in batches(encodings, tokenizer, batch_size=batch_size, padding_side=side):
        given = {key: batch[key] for key in ("input_ids", "attention_mask")}
        with torch.inference_mode(), quiet_transformers(), strange_files(name, "its generation_config.json"):
            written: Any = network.generate(  # type: ignore[misc]  # Its protocol asks for what no class declares.
                **_on(network, given),
                do_sample=False,
                num_beams=1,
                max_new_tokens=new,
                pad_token_id=tokenizer.pad_token_id,
            )
        if task == CAUSAL:
            written = written[:, given["input_ids"].shape[1] :]
        for index, text in zip(indices, tokenizer.batch_decode(written, skip_special_tokens=True), strict=True):
            found[index] = text.strip()
        done += len(indices)
        progress(done, len(texts), name)
    return found


def perplexity(
    ref: ModelRef,
    network: PreTrainedModel,
    examples: Examples,
    *,
    max_length: int | None,
    seed: int,
    batch_size: int,
    progress: Progress,
) -> float:
    """exp of the mean negative log-likelihood of a token: of the next one, or of those that are masked by `seed`."""
    import torch

    inputs = Inputs.of(ref, examples, max_length=max_length, seed=seed)
    losses: list[float] = []
    count = done = 0
    # All tokens of the vocabulary for all places are kept at once, so batches are small.
    for indices, batch in inputs.batches(batch_size=min(batch_size, 8)):
        if examples.task == MASKED:
            longest = batch["input_ids"].shape[1]
            rows = [inputs.encodings[index]["labels"] for index in indices]
            targets = torch.tensor([row + [IGNORED] * (longest - len(row)) for row in rows])
        else:
            # Padding is on the right, so what follows a text's last token is the first that is ignored.
            targets = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        with torch.inference_mode(), running(ref.name):
            logits = network(**_on(network, batch)).logits.float()
        if examples.task == CAUSAL:
            logits, targets = logits[:, :-1], targets[:, 1:]
        targets = targets.to(logits.device)
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=IGNORED, reduction="sum"
        )
        losses.append(float(_finite(loss, ref.name)))
        count += int((targets != IGNORED).sum())
        done += len(indices)
        progress(done, len(inputs), ref.name)
    if not count:
        raise BadData(f"{examples.source} holds no text of more than one token.", "Give longer texts.")
    return math.exp(min(math.fsum(losses) / count, 700.0))


def _embedded(network: PreTrainedModel) -> int:
    """How many tokens the model has a row for."""
    embeddings: Any = network.get_input_embeddings()  # Some classes of transformers' own are no nn.Embedding.
    return embeddings.num_embeddings


def _on(network: PreTrainedModel, batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value.to(network.device) for name, value in batch.items()}


def _finite(value: Any, name: str) -> Any:
    import torch

    if not torch.isfinite(value).all():
        raise NonFinite(f"{name} predicts NaN or infinity.", "Its weights are broken: check how it was made.")
    return value
