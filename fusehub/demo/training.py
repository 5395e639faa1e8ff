"""Fine-tunes the demo's experts: one pretrained encoder, one domain, a few minutes on two cores.

    done = train_expert(encoder_folder(), domains["films"], out, seed=0)
    done["test_accuracy"]

`new_model`, `fit` and `save` are its parts, for experts of other labels, tasks and settings.

Experts that are to be merged must start from the same weights, and that includes the new classification head:
it is drawn from HEAD_SEED, whatever the seed of the training. The rest is an ordinary fine-tuning: AdamW, a
linear warm-up and decay, batches of texts of about the same length.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fusehub.demo.corpus import Domain, Example
from fusehub.errors import OutputExists
from fusehub.models.loading import moved, quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD_SEED = 0
# One size for every domain, so that no expert gets its strength from more data, and the three are trained in
# about five minutes on two cores. The smallest domain has about this many.
TRAIN_TEXTS = 2400
WARMUP = 0.1
WEIGHT_DECAY = 0.01
# Cuts about one text in a thousand: nearly all are single sentences of 15 to 30 tokens.
MAX_LENGTH = 96
# So many batches are shuffled together before they are sorted by length.
BUCKET = 16

Row = tuple[list[int], int | list[int]]
"""The token ids of a text and the id of its label, or one a token, IGNORED where a token has none."""
IGNORED = -100
OnProgress = Callable[[int, int, float], None]
"""Called with the step that is done, the number of steps, and the loss of this step."""


@dataclass(frozen=True)
class Settings:
    """How long and how fast to train."""

    epochs: int = 3
    # A text takes about two thirds of the time that it takes in batches of 16.
    batch_size: int = 32
    # With this rate, seed 0: plain mean .638, RegMean .694 in domain. 1e-4 in batches of 16 over four epochs gave
    # .679 and .723: better merges and a smaller gap, for about twice the computing.
    learning_rate: float = 2e-4


def train_expert(
    encoder: Path,
    domain: Domain,
    out: Path,
    *,
    texts: int = TRAIN_TEXTS,
    scored: int | None = None,
    settings: Settings | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """What was done to fine-tune `encoder` on `domain`, for the card; the expert itself is written to `out`.

    It sees the first `texts` of the domain's training texts, and is scored on the first `scored` of its validation and
    test texts (all: None). On the CPU the same seed gives the same
    weights with the same number of threads. Raises OutputExists if `out` is there; an interrupted run leaves
    nothing under that name.
    """
    out = Path(out)
    if out.exists():
        raise OutputExists(f"{out} is already there.", "Choose another folder, or remove this one first.")
    with quiet_transformers():
        return _train_expert(
            Path(encoder), domain, out, texts, scored, settings or Settings(), seed, device, on_progress
        )


def _train_expert(
    encoder: Path,
    domain: Domain,
    out: Path,
    texts: int,
    scored: int | None,
    settings: Settings,
    seed: int,
    device: str | torch.device,
    on_progress: OnProgress | None,
) -> dict[str, Any]:
    from transformers import AutoTokenizer

    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = moved(new_model(encoder, domain.labels), device)
    train, test = domain.train[:texts], domain.test[:scored]
    fit(
        model,
        encode(tokenizer, train, domain.labels),
        settings,
        pad=tokenizer.pad_token_id,
        seed=seed,
        on_progress=on_progress,
    )
    seconds = time.perf_counter() - started
    done = {
        "domain": domain.name,
        "train_texts": len(train),
        **asdict(settings),
        "weight_decay": WEIGHT_DECAY,
        "warmup": WARMUP,
        "max_length": MAX_LENGTH,
        "seed": seed,
        "head_seed": HEAD_SEED,
        "seconds": round(seconds, 1),
        "validation_accuracy": accuracy(model, tokenizer, domain.validation[:scored], domain.labels),
        "test_accuracy": accuracy(model, tokenizer, test, domain.labels),
        "test_texts": len(test),
    }
    # A tokenizer keeps the cut of its last call, so the one that is saved is a fresh one.
    save(model.cpu(), AutoTokenizer.from_pretrained(encoder), out)
    return done


def new_model(
    encoder: Path, labels: Sequence[str], auto_class: str = "AutoModelForSequenceClassification"
) -> PreTrainedModel:
    """The encoder with a classification head on top, the same head for every expert of the same labels."""
    import transformers

    texts = auto_class == "AutoModelForSequenceClassification"
    model = getattr(transformers, auto_class).from_pretrained(
        encoder,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        problem_type="single_label_classification" if texts else None,
        dtype=torch.float32,
    )
    drawn = torch.Generator().manual_seed(HEAD_SEED)
    with torch.no_grad():
        model.classifier.weight.normal_(std=model.config.initializer_range, generator=drawn)
        model.classifier.bias.zero_()
    return model


def accuracy(model: Any, tokenizer: Any, examples: list[Example], labels: tuple[str, ...]) -> float:
    """The share of examples whose label the model, put in eval mode, gives the highest score."""
    rows = sorted(encode(tokenizer, examples, labels), key=lambda row: len(row[0]))
    model.eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(rows), 64):
            inputs, targets = _pad(rows[start : start + 64], tokenizer.pad_token_id, model.device)
            right += int((model(**inputs).logits.argmax(-1) == targets).sum())
    return right / len(rows)


def fit(
    model: PreTrainedModel,
    rows: Sequence[Row],
    settings: Settings,
    *,
    pad: int,
    seed: int,
    on_progress: OnProgress | None = None,
) -> None:
    """Fine-tunes the model in place, with dropout and the order of batches drawn from `seed`."""
    from transformers import get_linear_schedule_with_warmup

    steps = settings.epochs * -(-len(rows) // settings.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, int(WARMUP * steps), steps)
    order = torch.Generator().manual_seed(seed)
    model.train()
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        step = 0
        for _ in range(settings.epochs):
            for batch in _batches(rows, settings.batch_size, order):
                inputs, targets = _pad(batch, pad, model.device)
                loss = model(**inputs, labels=targets).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                step += 1
                if on_progress:
                    on_progress(step, steps, loss.item())
    model.eval()


def _batches(rows: Sequence[Row], size: int, order: torch.Generator) -> Iterator[list[Row]]:
    """One epoch in random batches of about equal lengths, so that little is computed on padding."""
    shuffled = torch.randperm(len(rows), generator=order).tolist()
    batches = []
    for start in range(0, len(rows), BUCKET * size):
        bucket = sorted(shuffled[start : start + BUCKET * size], key=lambda i: len(rows[i][0]))
        batches += [bucket[i : i + size] for i in range(0, len(bucket), size)]
    for i in torch.randperm(len(batches), generator=order).tolist():
        yield [rows[j] for j in batches[i]]


def encode(tokenizer: Any, examples: Sequence[Example], labels: Sequence[str]) -> list[Row]:
    """Token ids, cut to MAX_LENGTH, and the label's id of each example."""
    longest = min(MAX_LENGTH, tokenizer.model_max_length)
    ids = tokenizer([text for text, _ in examples], truncation=True, max_length=longest)["input_ids"]
    return [(tokens, labels.index(label)) for tokens, (_, label) in zip(ids, examples, strict=True)]


def _pad(rows: list[Row], pad: int, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """A batch as tensors: ids and mask, both (rows, longest), and label ids, (rows,) or (rows, longest)."""
    longest = max(len(tokens) for tokens, _ in rows)
    ids = [tokens + [pad] * (longest - len(tokens)) for tokens, _ in rows]
    mask = [[1] * len(tokens) + [0] * (longest - len(tokens)) for tokens, _ in rows]
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    labels = [label + [IGNORED] * (longest - len(label)) if isinstance(label, list) else label for _, label in rows]
    targets = torch.tensor(labels, device=device)
    return {name: tensor.to(device) for name, tensor in inputs.items()}, targets


def save(model: Any, tokenizer: Any, out: Path) -> None:
    """Model and tokenizer under the name `out`, complete or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.chmod(0o755)
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
