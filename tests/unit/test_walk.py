"""A walk through files as strangers have them: one thing of a sound model is changed, and all is asked of it.

There are three outcomes. It is right: what comes of it loads, and answers as without the change. It is refused, in
words that name the thing. Or it is noted, and goes on. Anything else, a traceback most of all, is a failure.

`make test` takes the same steps each time; WALK=2000 takes that many of each kind, others each time.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
import yaml
from huggingface_hub import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusehub.checking.check import check
from fusehub.collecting.collect import collect
from fusehub.comparing.compare import compare
from fusehub.errors import FuseHubError
from fusehub.merging.merge import merge
from fusehub.merging.plan import plan_merge
from fusehub.merging.recipe import Recipe
from fusehub.statistics.inspection import inspect
from tests.unit.experts import WEIGHTS, relatives, text_file
from tests.unit.lora_cases import adapter
from tests.unit.walk import GONE, ODD, WHOLE, Change, places

STEPS = int(os.environ.get("WALK", 0))
Result = TypeVar("Result")
# Keys that strangers' configs have and these do not, or that are read here.
KEYS = (
    "architectures", "id2label", "label2id", "num_labels", "problem_type", "quantization_config", "auto_map",
    "tie_word_embeddings", "rope_scaling", "torch_dtype", "dtype", "text_config", "model_type", "_name_or_path",
    "license", "transformers_version", "finetuning_task", "use_cache", "is_decoder", "unsloth_fixed",
)  # fmt: skip
LABELS = ("id2label", "label2id", "num_labels", "architectures")


def steps(usual: int) -> settings:
    """How far the walk goes."""
    return settings(
        max_examples=STEPS or usual,
        derandomize=not STEPS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


class World:
    """Two experts with statistics, an adapter for their base, and a place for what is made of changed ones."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        self.experts = relatives(folder / "models", layers=1)
        self.base = folder / "models" / "base"
        self.texts = text_file(folder, 0, ["a good film", "the plot is bad and very slow", "fine"])
        for expert in self.experts:
            collect(str(expert), self.texts, expert / "fusehub").close()
        self.adapters = [
            adapter(folder / f"adapter-{seed}", self.base, seed=seed, target_modules=["query", "value"])[0]
            for seed in (1, 2)
        ]
        self.usual = merge([str(expert) for expert in self.experts], folder / "usual", method="mean").folder
        self.answer = answer_of(self.usual)

    @contextmanager
    def changed(self, change: Change, of: Path | None = None) -> Iterator[Path]:
        """A copy of the first expert (or of another folder) with that change, for as long as the block lasts."""
        self.number += 1
        place = self.folder / f"step-{self.number}"
        try:
            shutil.copytree(of or self.experts[0], place / "stranger")
            change.apply(place / "stranger")
            yield place / "stranger"
        finally:
            shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[World]:
    """Off the network: a name that is changed may become one that is looked for on the Hub."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        yield World(tmp_path_factory.mktemp("walk"))


def answer_of(folder: Path) -> torch.Tensor:
    """What transformers' model says, by its own class, about tokens that are always the same."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    model, loading = getattr(transformers, config.architectures[0]).from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    with torch.inference_mode():
        return model(input_ids=torch.tensor([[2, 9, 31, 7, 3]]), return_dict=True).logits


def said_of(step: Callable[[], Result], *names: object) -> Result | None:
    """What a step gave; None where it was refused, in words that have one of `names`."""
    try:
        return step()
    except FuseHubError as error:
        assert error.what.strip() and error.fix.strip()
        known = [*map(str, names), *(name.name for name in names if isinstance(name, Path))]
        known += [name.encode("unicode_escape").decode() for name in known]
        # JSON writes NaN where Python says nan.
        said = str(error).casefold()
        assert any(name.casefold() in said for name in known), f"It does not say what: {error}"
        return None


def all_of(file: Path, keys: tuple[str, ...] = ()) -> list[Change]:
    """Everything that can be done to one JSON file, and to keys that it does not have."""
    known = places(json.loads(file.read_text()))
    found = [Change(file.name, place, value) for place in known for value in (*ODD, GONE)]
    found += [Change(file.name, (key,), value) for key in keys if (key,) not in known for value in ODD]
    return found + [Change(file.name, (), what) for what in WHOLE] * 5


def merged_or_refused(world: World, stranger: Path, change: Change) -> None:
    """The first expert with something changed, merged with the second: as without the change, or refused."""
    models, out = [str(stranger), str(world.experts[1])], stranger.parent / "out"
    report = said_of(lambda: check(models), stranger, change.file)
    done = said_of(lambda: merge(models, out, method="mean"), stranger, change.file)
    if report is not None:
        assert report.ok or done is None, "check refuses what merge takes"
    if done is None:
        assert not out.exists() and not list(stranger.parent.glob(".out.*"))
        return
    if not (out / "config.json").exists():  # Heads of other labels are kept apart.
        assert all(bool(torch.isfinite(answer_of(path.parent)).all()) for path in out.glob("*/config.json"))
        return
    answer = answer_of(out)
    assert bool(torch.isfinite(answer).all())
    if not change.place or change.place[0] not in LABELS:
        torch.testing.assert_close(answer, world.answer)


@steps(120)
@given(number=st.integers(0, 10**6))
def test_configs(world, number) -> None:
    changes = all_of(world.experts[0] / "config.json", KEYS)
    change = changes[number % len(changes)]
    with world.changed(change) as stranger:
        merged_or_refused(world, stranger, change)


@steps(40)
@given(number=st.integers(0, 10**6))
def test_configs_of_models_that_are_run(world, number) -> None:
    changes = all_of(world.experts[0] / "config.json", KEYS)
    change = changes[number % len(changes)]
    with world.changed(change) as stranger:
        said_of(lambda: compare([str(stranger)], ["a good film"]), stranger, change.file)
        made = said_of(lambda: collect(str(stranger), world.texts, stranger.parent / "made"), stranger, change.file)
        if made is not None:
            made.close()
            inspect(str(stranger.parent / "made"))


@steps(40)
@given(number=st.integers(0, 10**6))
def test_indexes(world, number) -> None:
    sharded = world.folder / "sharded"
    if not sharded.exists():
        import transformers

        shutil.copytree(world.experts[0], sharded)
        (sharded / WEIGHTS).unlink()
        model = transformers.AutoModelForSequenceClassification.from_pretrained(world.experts[0])
        model.save_pretrained(sharded, max_shard_size="8KB")
    changes = all_of(sharded / f"{WEIGHTS}.index.json", ("weight_map", "metadata"))
    change = changes[number % len(changes)]
    with world.changed(change, sharded) as stranger:
        merged_or_refused(world, stranger, change)


@steps(25)
@given(file=st.sampled_from([WEIGHTS, "tokenizer.json", "tokenizer_config.json"]), what=st.sampled_from(WHOLE))
def test_files_as_a_whole(world, file, what) -> None:
    with world.changed(Change(file, (), what)) as stranger:
        merged_or_refused(world, stranger, Change(file, (), what))
        said_of(lambda: compare([str(stranger)], ["a good film"]), stranger, file)


@steps(60)
@given(number=st.integers(0, 10**6))
def test_tokenizers(world, number) -> None:
    keys = ("added_tokens", "model", "do_lower_case", "tokenizer_class")
    changes: list[Change] = []
    for name in ("tokenizer.json", "tokenizer_config.json"):
        changes += all_of(world.experts[0] / name, keys)
    change = changes[number % len(changes)]
    with world.changed(change) as stranger:
        merged_or_refused(world, stranger, change)
        said_of(lambda: compare([str(stranger)], ["a good film"]), stranger, change.file)


@steps(60)
@given(number=st.integers(0, 10**6))
def test_adapters(world, number) -> None:
    one, other = world.adapters
    changes = all_of(one / "adapter_config.json", ("alpha_pattern", "rank_pattern", "auto_mapping", "modules_to_save"))
    changes += [Change("adapter_model.safetensors", (), what) for what in WHOLE]
    change = changes[number % len(changes)]
    with world.changed(change, one) as stranger:
        models, out = [f"{world.base}+{stranger}", f"{world.base}+{other}"], stranger.parent / "out"
        said_of(lambda: check(models), stranger, change.file)
        if said_of(lambda: merge(models, out, method="mean"), stranger, change.file) is not None:
            assert bool(torch.isfinite(answer_of(out)).all())


@steps(60)
@given(number=st.integers(0, 10**6))
def test_statistics(world, number) -> None:
    changes = all_of(world.experts[0] / "fusehub" / "statistics.json")
    change = changes[number % len(changes)]
    change = Change(f"fusehub/{change.file}", change.place, change.value)
    with world.changed(change) as stranger:
        said_of(lambda: inspect(str(stranger / "fusehub")), stranger, "statistics")
        models, out = [str(stranger), str(world.experts[1])], stranger.parent / "out"
        if said_of(lambda: merge(models, out, method="regmean"), stranger, "statistics") is not None:
            assert bool(torch.isfinite(answer_of(out)).all())


@steps(120)
@given(number=st.integers(0, 10**6))
def test_recipes(world, number) -> None:
    experts = [str(expert) for expert in world.experts]
    recipe = {
        "merge_method": "ties",
        "models": [{"model": model, "parameters": {"weight": 0.5, "density": 0.5}} for model in experts],
        "base_model": str(world.base),
        "parameters": {"normalize": True, "lambda": [0.5, 1]},
        "dtype": "float32",
    }
    path = world.folder / "recipe.json"
    path.write_text(json.dumps(recipe))
    keys = ("slices", "modules", "tokenizer", "scale", "seed", "heads", "limit", "plugins", "provenance", "layers")
    changes = all_of(path, (*keys, "out_dtype", "max_length", "as_adapter", "name"))
    change = changes[number % len(changes)]
    with world.changed(change, _only(path)) as stranger:
        file = stranger / path.name
        names = [file, "ecipe", "option", "model", *map(str, change.place), *_words_of(change.value)]
        # JSON is YAML; and as people write it.
        said_of(lambda: plan_merge(Recipe.read(file)), *names)
        try:
            content = json.loads(file.read_text())
        except (ValueError, OSError, RecursionError):
            return
        file.write_text(yaml.safe_dump(content))
        said_of(lambda: plan_merge(Recipe.read(file)), *names)


def _words_of(value: Any) -> list[str]:
    """What a refusal may call a value."""
    return (
        [str(inner) for inner in value if inner] if isinstance(value, dict | list) else [str(value)] if value else []
    )


def _only(file: Path) -> Path:
    """A folder with nothing but that file."""
    folder = file.parent / f"{file.stem}-alone"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(file, folder / file.name)
    return folder


@pytest.mark.parametrize("place", ["file/out", "file/a/out", "x" * 300, "a/" + "y" * 300])
def test_folders_that_cannot_be_made(world, tmp_path, place) -> None:
    (tmp_path / "file").write_text("mine")
    models, out = [str(expert) for expert in world.experts], tmp_path / place
    for step in (lambda: merge(models, out, method="mean"), lambda: collect(models[0], world.texts, out)):
        with pytest.raises(FuseHubError, match=r"Not a directory|File name too long|exists"):
            step()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("alpha_pattern",), {r"(\w|\w\w|\w\w\w|\.)+\d": 8}, "alpha_pattern cannot be used"),
        (("alpha_pattern",), {"(": 8}, "alpha_pattern cannot be used"),
        (("lora_alpha",), "16", r'lora_alpha in adapter_config\.json is "16"'),
        (("lora_alpha",), 10**400, "lora_alpha in adapter_config"),
        (("rank_pattern",), {"query": 0}, r"rank_pattern\.query in adapter_config"),
    ],
)
def test_settings_of_an_adapter_that_nothing_can_be_computed_by(world, place, value, said) -> None:
    one, other = world.adapters
    with world.changed(Change("adapter_config.json", place, value), one) as stranger:
        models = [f"{world.base}+{stranger}", f"{world.base}+{other}"]
        with pytest.raises(FuseHubError, match=said):
            merge(models, stranger.parent / "out", method="mean")
