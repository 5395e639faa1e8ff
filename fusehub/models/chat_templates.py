"""Chat templates: which one a model has, and those that a recipe may name.

The named ones are written from the formats that their models document.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from fusehub.errors import BadRecipe
from fusehub.models.ref import ModelRef
from fusehub.utils.untrusted.documents import read_text

FILENAME = "chat_template.jinja"

_NAMED = {
    "alpaca": (
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
        "{% elif message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
        "{% elif message['role'] == 'assistant' %}{{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
    ),
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
        "{{ message['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% set first = namespace(text='') %}{% for message in messages %}"
        "{% if message['role'] == 'system' %}{% set first.text = message['content'] + '\\n\\n' %}"
        "{% elif message['role'] == 'user' %}{{ '[INST] ' + first.text + message['content'] + ' [/INST]' }}"
        "{% set first.text = '' %}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
        "{% endif %}{% endfor %}"
    ),
}


def template_of(ref: ModelRef) -> str | None:
    """The chat template that the model's tokenizer has; of several the default one. Raises `BadFile`."""
    if FILENAME in ref.files:
        return read_text(ref.path(FILENAME), ref.name)
    said: Any = (
        ref.json("tokenizer_config.json").get("chat_template") if "tokenizer_config.json" in ref.files else None
    )
    if isinstance(said, list):
        named = {own.get("name"): own.get("template") for own in said if isinstance(own, dict)}
        said = named.get("default")
    return said if isinstance(said, str) and said else None


def require_template(said: str | None) -> None:
    """Raises `BadRecipe` where a recipe's `chat_template` names none that there is, and is none."""
    if said is None or said in ("auto", *_NAMED):
        return
    if "{" in said and len(said) >= 20:
        _require_jinja(said)
        return
    raise BadRecipe(
        f"There is no chat template '{said}' here.",
        f"Known: auto, {', '.join(_NAMED)}; or give the text of a template in Jinja.",
    )


def _require_jinja(text: str) -> None:
    """Raises `BadRecipe` where the text of a template is broken; it is parsed and not run."""
    import jinja2

    # A mark of transformers for what the model says, which stands for nothing.
    plain = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", text)
    try:
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)
    except (jinja2.TemplateError, RecursionError) as error:
        raise BadRecipe(f"The chat template of the recipe is not sound Jinja: {error}.", "Correct it.") from error


def named_template(said: str) -> str:
    """The text of a template that a recipe names or holds."""
    return _NAMED.get(said, said)


def most_common(templates: Iterable[str]) -> str | None:
    """The template that most models have, by their texts alone; of several the first."""
    counts = Counter(template.strip() for template in templates)
    return max(counts, key=counts.__getitem__, default=None)
