"""YAML from strangers: plain data, or words."""

import json

import pytest

from fusehub.errors import BadRecipe
from fusehub.utils.untrusted.limits import NESTED
from fusehub.utils.untrusted.yaml_text import load_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a: 1\n---\nb: 2\n", "holds 2 recipes"),
        ("a: 1\nb: 2\na: 3\n", "line 3: 'a' is said twice"),
        ("a: {b: {c: 1, c: 2}}", "'c' is said twice"),
        (BOMB, "stand for more than"),
        ("a: &a [*a]", "an anchor holds itself"),
        ("a: &a {b: {c: *a}}", "an anchor holds itself"),
        ("[" * 5000, "(deeper than can be read|is not YAML)"),
        ("[" * 3000 + "]" * 3000, "deeper than can be read"),
        ("a: " + "[" * 101 + "]" * 101, "deeper than can be read"),
        ("{a: " * 101 + "}" * 101, "deeper than can be read"),
        ("- " * 3000 + "a", "deeper than can be read"),
        ("? [a, b]\n: c", "where a key should"),
        ("? {a: b}\n: c", "where a key should"),
        ("a: !!python/object/apply:os.system ['true']", "is not YAML"),
        ("a: !!int x", "is not YAML .no int can be read in .* line 1, column 4"),
        ('a: !!int ""', "no int can be read"),
        (f"a:\n- b\n- {'9' * 6000}", "no int can be read in .* line 3, column 3"),
        ("a: !!float x", "is not YAML"),
        ("a: !!binary é", "is not YAML"),
        ("a: *nowhere", "is not YAML"),
        ("a: \x00", "is not YAML"),
        ("%YAML 9.9\n---\na", "is not YAML"),
        ("a: !!timestamp x", "is not YAML"),
        ("<<: 3\na: 1", "is not YAML"),
    ],
)
def test_what_is_not_plain_is_refused_in_words(text: str, shown: str) -> None:
    with pytest.raises(BadRecipe, match=shown) as caught:
        load_yaml(text, "my.yaml")
    assert caught.value.what.startswith("my.yaml") and caught.value.fix


def test_anchors_and_merge_keys_are_plain() -> None:
    text = "one: &one {weight: 1, density: 2}\ntwo: {<<: *one, density: 3}\nthree: [*one, *one]\n"
    assert load_yaml(text, "my.yaml") == {
        "one": {"weight": 1, "density": 2},
        "two": {"weight": 1, "density": 3},
        "three": [{"weight": 1, "density": 2}] * 2,
    }
    assert load_yaml("", "my.yaml") is None


def test_lists_are_read_as_deep_as_json_is() -> None:
    assert load_yaml("[" * NESTED + "]" * NESTED, "my.yaml") == json.loads("[" * NESTED + "]" * NESTED)
