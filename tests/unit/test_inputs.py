"""Examples of each task as models take them: what is in a batch, how it is padded, and what a probe looks like."""

from pathlib import Path

import pytest
import torch

from fusehub.data import Examples
from fusehub.inputs import Inputs
from fusehub.refs import resolve
from fusehub.tasks import load_model
from tests.unit.tiny import tiny_model, tiny_texts

TEXTS = tiny_texts(20, seed=3)


def examples(task: str, texts: list, labels: list | None = None) -> Examples:
    return Examples(task, texts, labels, "texts", None)


@pytest.mark.parametrize("arch", ["bert", "roberta", "gpt2"])
def test_the_batches_of_texts_hold_every_text_once_and_the_model_takes_them(arch: str, tmp_path: Path) -> None:
    ref = resolve(str(tiny_model(tmp_path / arch, arch)))
    inputs = Inputs.of(ref, examples("text-classification", TEXTS))
    made = list(inputs.batches(batch_tokens=100))
    assert sorted(index for indices, _ in made for index in indices) == list(range(len(inputs))) == list(range(20))
    assert sum(int(batch["attention_mask"].sum()) for _, batch in made) == inputs.tokens
    assert all(batch["input_ids"].numel() <= 100 or len(indices) == 1 for indices, batch in made)
    lengths = [batch["input_ids"].shape[1] for _, batch in made]
    assert lengths == sorted(lengths, reverse=True) and len(set(lengths)) > 2
    network = load_model(ref)
    with torch.inference_mode():
        assert network(**made[0][1]).logits.shape == (len(made[0][0]), 2)
        assert network(**inputs.probe()).logits.shape == (3, 2)
    assert inputs.probe()["input_ids"].shape == (3, 11)


def test_a_length_cuts_and_is_remembered(tmp_path: Path) -> None:
    ref = resolve(str(tiny_model(tmp_path / "bert")))
    words = [text.split() for text in TEXTS]
    inputs = Inputs.of(ref, examples("token-classification", words), max_length=9)
    assert inputs.max_length == 9
    assert max(len(encoding["input_ids"]) for encoding in inputs.encodings) == 9
    assert inputs.tokens < Inputs.of(ref, examples("token-classification", words)).tokens
