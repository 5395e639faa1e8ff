"""Heads of one merge on one body in memory: the outputs of one by one, from weights and work that are there once."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fusehub
from fusehub.errors import Incompatible, NotFound
from fusehub.merging.merge import merge
from fusehub.models.loading import load_model, load_tokenizer
from fusehub.models.resolve import resolve, resolve_all
from tests.unit.experts import WEIGHTS, recipe_of, save_weights
from tests.unit.test_merge_tasks import tasks
from tests.unit.tiny import tiny_model

CASES = {
    "bert": ("token-classification", "question-answering", "fill-mask"),
    "llama": ("text-generation",),
}


def merged(folder: Path, arch: str = "bert", *others: str) -> Path:
    return merge(recipe_of(tasks(folder, arch, *others), "mean"), folder / "merged").folder


def inputs_of(folder: Path) -> dict[str, torch.Tensor]:
    tokenizer = load_tokenizer(next(iter(resolve_all(str(folder)).values())))
    return dict(tokenizer(["a fine film", "Anna lives in Paris and works"], return_tensors="pt", padding=True))


def outputs_of(output: object) -> list[torch.Tensor]:
    """Logits, or what an answer's head has in their place."""
    return [output[key] for key in ("logits", "start_logits", "end_logits") if key in output]


@pytest.mark.parametrize("arch", CASES)
@pytest.mark.parametrize("backwards", [False, True])
def test_heads_say_what_each_says_alone_and_the_body_runs_once(arch: str, backwards: bool, tmp_path: Path) -> None:
    folder = merged(tmp_path, arch, *CASES[arch])
    names = sorted(resolve_all(str(folder)), reverse=backwards)
    assert len(names) == 1 + len(CASES[arch])
    model = fusehub.load_heads(str(folder), names)
    assert list(model.heads) == names and not model.training
    [body] = {head.base_model for head in model.heads.values()}
    runs = []
    first = next(module for name, module in body.named_modules() if name.endswith(("layer.0", "layers.0")))
    first.register_forward_hook(lambda *_: runs.append(1))
    inputs = inputs_of(folder)
    with torch.inference_mode():
        outputs = model(**inputs)
        assert len(runs) == 1
        for name in names:
            alone = load_model(resolve(str(folder / name)))
            for ours, theirs in zip(outputs_of(outputs[name]), outputs_of(alone(**inputs)), strict=True):
                assert torch.equal(ours, theirs), name
        # Other inputs are not taken for the same, and a head by itself computes.
        other = model(**{key: value[:1] for key, value in inputs.items()})
        assert len(runs) == 2 and outputs_of(other[names[0]])[0].shape[0] == 1
        model.heads[names[0]](**inputs)
        assert len(runs) == 3


def test_the_body_is_in_memory_once(tmp_path: Path) -> None:
    folder = merged(tmp_path, "bert", *CASES["bert"])
    model = fusehub.load_heads(str(folder))
    # The body's file is the same in all subfolders.
    files = {path.stat().st_ino: path for path in folder.glob("*/*.safetensors")}
    stored = sum(value.numel() for path in files.values() for value in load_file(path).values())
    assert len(files) == 1 + len(model.heads) and sum(value.numel() for value in model.parameters()) == stored
    writer = model.heads["fill-mask"]
    assert writer.get_output_embeddings().weight is writer.get_input_embeddings().weight


def test_gradients_of_all_heads_meet_in_the_body(tmp_path: Path) -> None:
    folder = merged(tmp_path)
    model = fusehub.load_heads(str(folder))
    outputs = model(**inputs_of(folder))
    sum(output.logits.sum() for output in outputs.values()).backward()
    body = next(iter(model.heads.values())).base_model
    assert body.encoder.layer[0].attention.self.query.weight.grad.abs().sum() > 0
    assert all(head.classifier.weight.grad is not None for head in model.heads.values())


def test_experts_that_kept_their_poolers_share_the_rest(tmp_path: Path) -> None:
    """Two classifiers beside a tagger, which has no pooler to merge theirs with: layers in common, and two poolers."""
    experts = tasks(tmp_path)
    other = tmp_path / "expert-1"
    folder = merge(recipe_of([*experts, other], "mean"), tmp_path / "merged").folder
    model = fusehub.load_heads(str(folder))
    inputs = inputs_of(folder)
    with torch.inference_mode():
        together = model(**inputs)
        for name, output in together.items():
            assert torch.equal(output.logits, load_model(resolve(str(folder / name)))(**inputs).logits), name
    one, two, tagger = (model.heads[path.name].base_model for path in (experts[0], other, experts[1]))
    assert one is not two and tagger in (one, two)
    assert not torch.equal(one.pooler.dense.weight, two.pooler.dense.weight)
    assert one.embeddings.word_embeddings.weight is two.embeddings.word_embeddings.weight


def test_a_head_that_asks_the_body_something_else_gets_its_own_answer(tmp_path: Path) -> None:
    model = fusehub.load_heads(str(merged(tmp_path)))
    ids = torch.tensor([[2, 7, 9, 3]])
    first, second = model.heads
    straight = model.heads[second].forward
    model.heads[second].forward = lambda input_ids: straight(input_ids=input_ids.flip(1))
    with torch.inference_mode():
        outputs = model(input_ids=ids)
        assert torch.equal(outputs[first].logits, model.heads[first](input_ids=ids).logits)
        assert torch.equal(outputs[second].logits, straight(input_ids=ids.flip(1)).logits)


def test_what_shares_no_body_is_refused(tmp_path: Path) -> None:
    folder = merged(tmp_path)
    with pytest.raises(NotFound, match=r"has no head nobody.*\n.*expert-0, token-classification"):
        fusehub.load_heads(str(folder), ["nobody"])
    with pytest.raises(NotFound, match="has no models in subfolders"):
        fusehub.load_heads(str(folder / "expert-0"))
    with pytest.raises(NotFound, match=r"There is no folder .*nowhere"):
        fusehub.load_heads(str(tmp_path / "nowhere"))
    stranger = tiny_model(tmp_path / "stranger", "bert", seed=9, hidden=16)
    own = load_file(stranger / WEIGHTS)
    save_weights(stranger, {name: value + 0.1 for name, value in own.items()})
    heads = [(path.name, load_model(resolve(str(path)))) for path in (folder / "expert-0", stranger)]
    with pytest.raises(Incompatible, match="expert-0 and stranger have no weights in common"):
        fusehub.SharedBody(heads)
    writer = tiny_model(tmp_path / "writer", "t5", task="text2text-generation", hidden=16)
    with pytest.raises(Incompatible, match="T5ForConditionalGeneration is in one piece"):
        fusehub.SharedBody([("writer", load_model(resolve(str(writer))))])
