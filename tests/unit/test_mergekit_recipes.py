"""Recipes in the shapes that people publish, merged: what mergekit means, by values worked out here."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from fusehub.cli.main import app
from fusehub.errors import BadRecipe, Incompatible
from fusehub.merging.merge import merge
from fusehub.merging.plan import plan_merge
from fusehub.merging.recipe import FILENAME, Recipe
from tests.unit.experts import WEIGHTS, edit_json, files_of, recipe_of, rel, relatives

ATTENTION, MLP, NORM = (
    f"model.layers.1.{name}.weight" for name in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm")
)


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A base and two experts of it, which generate text."""
    folder = tmp_path_factory.mktemp("llamas")
    return folder / "base", *relatives(folder, "llama", task="text-generation", noise=0.1)


def values(path: Path, name: str) -> np.ndarray:
    return load_file(path / WEIGHTS)[name].double().numpy()


def arc(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    cosine = np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)
    if cosine > 0.9995:
        return (1 - t) * a + t * b
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def test_what_a_slice_leaves_open_the_recipe_decides(llamas, tmp_path: Path) -> None:
    _, one, two = llamas
    sources = "".join(f"\n          - {{model: {path}, layer_range: [0, 2]}}" for path in (one, two))
    recipe = Recipe.parse(
        yaml.safe_load(f"""
        merge_method: slerp
        base_model: {one}
        slices:
        - sources: {sources}
          parameters: {{t: [{{filter: self_attn, value: 0.9}}]}}
          residual_weight: 0.5
        parameters: {{t: [{{filter: mlp, value: 0.2}}, {{value: 0.6}}]}}
        """)
    )
    merged = merge(recipe, tmp_path / "merged")
    again = merge(tmp_path / "merged" / FILENAME, tmp_path / "again").folder
    for folder in (merged.folder, again):
        for name, t in ((ATTENTION, 0.9), (MLP, 0.2), (NORM, 0.6)):
            assert rel(values(folder, name), arc(values(one, name), values(two, name), t)) < 1e-6
    assert any("residual_weight does nothing" in note for note in merged.plan.notes)


def test_weights_that_are_all_zero_leave_the_base(llamas, tmp_path: Path) -> None:
    base, one, two = llamas
    recipe = recipe_of(
        [one, two], "task_arithmetic", weights=[[0, 1], [0, 0.5]], base_model=str(base),
        parameters={"normalize": True},
    )  # fmt: skip
    folder = merge(recipe, tmp_path / "merged").folder
    embedding, first = "model.embed_tokens.weight", ATTENTION.replace(".1.", ".0.")
    for name in (embedding, first):
        assert np.array_equal(values(folder, name), values(base, name))
    start = values(base, ATTENTION)
    change = (values(one, ATTENTION) - start + 0.5 * (values(two, ATTENTION) - start)) / 1.5
    assert rel(values(folder, ATTENTION), start + change) < 1e-6


def test_nuslerp_does_not_count_a_base_that_is_listed(llamas, tmp_path: Path) -> None:
    base, one, two = llamas
    listed = merge(recipe_of([base, one, two], "nuslerp", base_model=str(base)), tmp_path / "listed").folder
    name = ATTENTION
    start = values(base, name)
    assert rel(values(listed, name), start + arc(values(one, name) - start, values(two, name) - start, 0.5)) < 1e-6


def test_a_plan_shows_the_base_and_what_holds_for_each_model(llamas) -> None:
    base, one, two = llamas
    recipe = Recipe.parse(
        {
            "merge_method": "ties",
            "base_model": str(base),
            "models": [
                {"model": str(base), "parameters": {"weight": 0.2}},
                {"model": str(one), "parameters": {"weight": [0.1, 0.7]}},
                {"model": str(two), "parameters": {"density": 0.3}},
            ],
            "parameters": {"weight": 0.4},
        }
    )
    plan = plan_merge(recipe)
    content = json.loads(json.dumps(plan.to_dict()))
    assert content["model_options"] == [{"weight": [0.1, 0.7], "density": 1.0}, {"weight": 0.4, "density": 0.3}]
    assert content["base"] == str(base) and content["files"]["config"] == str(base)
    assert any(note.startswith(f"weight of {base} does nothing") for note in plan.notes)


def test_the_command_prints_base_weights_and_whose_files_and_reads_the_folder_after_the_recipe(
    llamas, tmp_path: Path
) -> None:
    base, one, two = llamas
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_of([one, two], "ties", weights=[0.25, 0.75], base_model=str(base)).to_yaml())
    shown = CliRunner().invoke(app, ["merge", str(path), "--dry-run"], env={"COLUMNS": "400"}).output
    assert "0.25" in shown and "0.75" in shown and f"base: {base}" in shown and f"config of {base}" in shown
    done = CliRunner().invoke(app, ["merge", str(path), str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["base"] == str(base)
    assert (tmp_path / "out" / "config.json").is_file()
    wrong = CliRunner().invoke(app, ["merge", str(path), str(one), "--out", str(tmp_path / "other")])
    assert wrong.exit_code == 2 and not (tmp_path / "other").exists()
    two_recipes = CliRunner().invoke(app, ["merge", str(path), str(tmp_path / "b.yaml")])
    assert two_recipes.exit_code == 2 and not (tmp_path / "b.yaml").exists()


def speaking(folder: Path, **templates: str) -> tuple[Path, Path, Path]:
    """A base and two experts, some with a chat template."""
    experts = relatives(folder, "llama", task="text-generation", layers=1, noise=0.1)
    for name, text in templates.items():
        path = folder / name.replace("_", "-") / "chat_template.jinja"
        path.write_text(text)
    return folder / "base", *experts


def template_in(folder: Path) -> str | None:
    from fusehub.models.loading import load_tokenizer
    from fusehub.models.resolve import resolve

    return load_tokenizer(resolve(str(folder))).chat_template


def test_config_generation_config_and_chat_template_are_the_bases(tmp_path: Path) -> None:
    texts = {"base": "{{ 'base' }}", "expert_0": "{{ 'one' }}", "expert_1": "{{ 'two' }}"}
    base, one, two = speaking(tmp_path, **texts)
    for path in (one, two):
        edit_json(path / "generation_config.json", eos_token_id=[0, 1], temperature=0.3)
        edit_json(path / "config.json", eos_token_id=[0, 1])
    merged = merge(recipe_of([one, two], "ties", base_model=str(base)), tmp_path / "merged")
    for name in ("generation_config.json", "chat_template.jinja"):
        assert (merged.folder / name).read_bytes() == (base / name).read_bytes()
    config = json.loads((merged.folder / "config.json").read_text())
    assert config["eos_token_id"] == json.loads((base / "config.json").read_text())["eos_token_id"]
    assert any(f"The chat template is that of {base}" in note for note in merged.plan.notes)
    assert any(f"The config of the result is that of {base}, the generation" in note for note in merged.plan.notes)
    plain = merge(recipe_of([one, two], "mean"), tmp_path / "plain").folder
    assert template_in(plain) == texts["expert_0"]
    assert json.loads((plain / "config.json").read_text())["eos_token_id"] == [0, 1]


def test_what_a_head_is_for_the_experts_say(tmp_path: Path) -> None:
    experts = relatives(tmp_path, "bert", layers=1)
    base = tmp_path / "base"
    edit_json(base / "config.json", problem_type="regression", hidden_dropout_prob=0.3, finetuning_task="stsb")
    for path in experts:
        edit_json(path / "config.json", problem_type="single_label_classification")
    folder = merge(recipe_of(experts, "ties", base_model=str(base)), tmp_path / "merged").folder
    config = json.loads((folder / "config.json").read_text())
    assert (config["problem_type"], config["hidden_dropout_prob"]) == ("single_label_classification", 0.3)
    assert "finetuning_task" not in config


def test_where_the_base_lacks_tokens_what_names_them_comes_with_the_tokenizer(tmp_path: Path) -> None:
    import torch

    base, one, two = speaking(tmp_path, base="{{ 'base' }}", expert_0="{{ 'one' }}")
    tensors = load_file(one / WEIGHTS)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            tensors[name] = torch.cat([tensors[name], torch.ones(1, tensors[name].shape[1])])
    from tests.unit.experts import save_weights

    save_weights(one, tensors)
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(one)
    tokenizer.add_tokens(["<|im_end|>"])
    tokenizer.save_pretrained(one)
    new = len(tokenizer) - 1
    edit_json(one / "config.json", vocab_size=new + 1, eos_token_id=new)
    edit_json(one / "generation_config.json", eos_token_id=new)
    edit_json(base / "config.json", rms_norm_eps=1e-5)
    edit_json(one / "config.json", rms_norm_eps=1e-6)
    edit_json(two / "config.json", rms_norm_eps=1e-6)
    folder = merge(recipe_of([two, one], "task_arithmetic", base_model=str(base)), tmp_path / "merged").folder
    config = json.loads((folder / "config.json").read_text())
    assert (config["vocab_size"], config["eos_token_id"], config["rms_norm_eps"]) == (new + 1, new, 1e-5)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == new
    assert template_in(folder) == "{{ 'one' }}"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("auto", "{{ 'two' }}"),
        ("chatml", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
        ("{% for m in messages %}{{ m['content'] }}!{% endfor %}", "Hi!"),
    ],
)
def test_a_chat_template_can_be_chosen(said: str, expected: str, tmp_path: Path) -> None:
    base, one, two = speaking(tmp_path, base="{{ 'two' }}", expert_0="{{ 'one' }}", expert_1="{{ 'two' }}")
    edit_json(one / "tokenizer_config.json", chat_template="{{ 'stale' }}")
    recipe = recipe_of([one, two], "linear", base_model=str(base), chat_template=said)
    folder = merge(recipe, tmp_path / "merged").folder
    if said == "auto":
        assert template_in(folder) == expected
    else:
        from fusehub.models.loading import load_tokenizer
        from fusehub.models.resolve import resolve

        tokenizer = load_tokenizer(resolve(str(folder)))
        chat = [{"role": "user", "content": "Hi"}]
        assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == expected
    assert Recipe.read(folder / FILENAME).chat_template == said


@pytest.mark.parametrize("name", ["alpaca", "chatml", "llama3", "mistral"])
def test_named_chat_templates_say_every_turn_in_order(name: str, llamas) -> None:
    from fusehub.models.chat_templates import named_template
    from fusehub.models.loading import load_tokenizer
    from fusehub.models.resolve import resolve

    tokenizer = load_tokenizer(resolve(str(llamas[0])))
    turns = ["Be brief.", "What is 2 + 2?", "It is 4.", "And 3 + 3?"]
    chat = [
        {"role": role, "content": text}
        for role, text in zip(("system", "user", "assistant", "user"), turns, strict=True)
    ]
    text = tokenizer.apply_chat_template(
        chat, chat_template=named_template(name), tokenize=False, add_generation_prompt=True
    )
    places = [text.index(turn) for turn in turns]
    assert places == sorted(places) and all(text.count(turn) == 1 for turn in turns)
    marks = {"alpaca": "### Response:\n", "chatml": "<|im_start|>assistant\n", "mistral": "[/INST]"}
    assert text.endswith(marks.get(name, "<|start_header_id|>assistant<|end_header_id|>\n\n"))


@pytest.mark.parametrize("said", ["exaone", "{short}", "nothing like it is here at all"])
def test_a_chat_template_that_there_is_not_is_refused(said: str, llamas) -> None:
    with pytest.raises(BadRecipe, match="There is no chat template"):
        plan_merge(recipe_of(llamas[1:], "linear", chat_template=said))


@pytest.mark.parametrize("source", ["union", "base", "MODEL"])
def test_a_choice_of_tokens_that_changes_nothing_is_taken(source: str, llamas, tmp_path: Path) -> None:
    base, one, two = llamas
    source = str(two) if source == "MODEL" else source
    plain = merge(recipe_of([one, two], "ties", base_model=str(base)), tmp_path / "plain").folder
    said = recipe_of([one, two], "ties", base_model=str(base), tokenizer={"source": source})
    assert files_of(merge(said, tmp_path / "said").folder) == files_of(plain)


def test_a_choice_of_tokens_that_changes_something_is_refused_as_what_it_is(llamas, tmp_path: Path) -> None:
    import transformers

    base, one, two = speaking(tmp_path)
    with pytest.raises(BadRecipe, match="is none of the merge's models"):
        plan_merge(recipe_of([one, two], "linear", tokenizer_source="other/model"))
    for path, token in ((one, "<|im_start|>"), (two, "<|im_end|>")):
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        tokenizer.add_tokens([token])
        tokenizer.save_pretrained(path)
    with pytest.raises(BadRecipe, match="union puts the tokens of different vocabularies together"):
        plan_merge(recipe_of([one, two], "linear", tokenizer_source="union"))
    with pytest.raises(BadRecipe, match="would drop tokens"):
        plan_merge(recipe_of([one], "task_arithmetic", base_model=str(base), tokenizer_source="base"))
    with pytest.raises(Incompatible, match="different vocabularies"):
        plan_merge(recipe_of([one, two], "linear"))


def test_a_chat_template_that_is_no_jinja_is_refused(llamas) -> None:
    broken = "{% for message in messages %}{{ message['content'] }}"
    with pytest.raises(BadRecipe, match="is not sound Jinja"):
        plan_merge(recipe_of(llamas[1:], "linear", chat_template=broken))
