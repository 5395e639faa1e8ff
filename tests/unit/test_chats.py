"""Conversations go through the model's own chat template, whatever the shape in which they are published."""

import json

import pytest

from fusehub.collecting.collect import collect
from fusehub.comparing.compare import compare
from fusehub.comparing.evaluate import evaluate
from fusehub.data.chats import Chat
from fusehub.data.examples import load_examples
from fusehub.data.inputs import Inputs
from fusehub.errors import BadData, Incompatible
from fusehub.models.loading import load_tokenizer
from fusehub.models.resolve import resolve
from tests.unit.test_data import write_csv, write_jsonl, write_parquet
from tests.unit.tiny import tiny_model

TURNS = [("user", "is it good"), ("assistant", "the film was great")]
MESSAGES = [{"role": role, "content": text} for role, text in TURNS]
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<{{ m['role'] }}> {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
WORDS = "<user> is it good\n<assistant> the film was great\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny_model(tmp_path_factory.mktemp("chat") / "llama", "llama", task="text-generation")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def read(path):
    return load_examples(str(path), "text-generation")


SHAPES = {
    "messages": {"messages": MESSAGES},
    "beside a text": {"prompt": "x", "text": "y", "messages": MESSAGES},
    "sharegpt": {"conversations": [{"from": "human", "value": TURNS[0][1]}, {"from": "gpt", "value": TURNS[1][1]}]},
    "parts": {"messages": [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in TURNS]},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_conversation_is_given_to_the_model_as_its_template_has_it(model, tmp_path, shape):
    row = SHAPES[shape]
    write_jsonl(tmp_path / "a.jsonl", [row])
    write_parquet(tmp_path / "a.parquet", [row])
    write_csv(tmp_path / "a.csv", [row])
    ref = resolve(str(model))
    expected = load_tokenizer(ref)(WORDS, add_special_tokens=False)["input_ids"]
    for name in ("a.jsonl", "a.parquet", "a.csv"):
        examples = read(tmp_path / name)
        assert examples.texts == [Chat(tuple(TURNS))], name
        assert Inputs.of(ref, examples, max_length=64).encodings[0]["input_ids"] == expected[:64]


def test_models_are_compared_by_what_they_answer(model, tmp_path):
    """The last answer is not shown to the model, which is asked for its own."""
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": MESSAGES}])
    found = compare([str(model)], data=str(path)).texts[0]
    asked = "<user> is it good\n<assistant>"
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(resolve(str(model)))
    ids = torch.tensor([tokenizer(asked, add_special_tokens=False)["input_ids"]])
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    written = network.generate(ids, do_sample=False, max_new_tokens=32, pad_token_id=tokenizer.pad_token_id)
    said = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert found.answers[0].label == said
    assert found.text == "user: is it good\nassistant: the film was great"


def test_statistics_and_perplexity_are_those_of_the_words_of_the_template(model, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": MESSAGES}] * 3)
    made = collect(str(model), str(path), tmp_path / "out")
    expected = load_tokenizer(resolve(str(model)))(WORDS, add_special_tokens=False)["input_ids"]
    assert made.metadata["tokens"] == 3 * min(len(expected), made.metadata["max_length"])
    made.close()
    assert evaluate([str(model)], {"chats": str(path)}).scores[0].metrics["perplexity"] > 1


def test_without_a_template_conversations_are_refused(tmp_path):
    plain = tiny_model(tmp_path / "plain", "llama", task="text-generation")
    path = str(write_jsonl(tmp_path / "a.jsonl", [{"messages": MESSAGES}]))
    for use in (
        lambda: collect(str(plain), path, tmp_path / "out"),
        lambda: compare([str(plain)], data=path),
        lambda: evaluate([str(plain)], {"chats": path}),
    ):
        with pytest.raises(Incompatible, match="no chat template"):
            use()


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}, "turn 2 .* no text"),
        ({"role": "user", "content": [{"type": "image"}]}, "turn 2 .* no text"),
        ({"role": "tool", "content": "x"}, "Conversation 1: the model's chat template does not take it .no tools"),
    ],
)
def test_what_no_template_can_say_is_refused(model, tmp_path, turn, message):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"messages": [MESSAGES[0], turn]}) + "\n")
    with pytest.raises(BadData, match=message):
        Inputs.of(resolve(str(model)), read(path))


def test_models_of_other_tasks_take_no_conversations(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": MESSAGES}])
    with pytest.raises(BadData, match="holds list, not text"):
        load_examples(str(path), "text-classification")
