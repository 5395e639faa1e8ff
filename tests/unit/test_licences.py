"""The licence of a merge."""

import pytest

from fusehub.licences import licence_of, reconcile


def verdict(*licences):
    return reconcile([(f"m{i}", licence) for i, licence in enumerate(licences)])


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (("mit", "mit"), "mit"),
        (("mit", "apache-2.0"), "mit"),
        (("apache-2.0", "mit"), "apache-2.0"),
        (("cc0-1.0", "mit"), "mit"),
        (("mit", "gpl-3.0", "lgpl-3.0"), "gpl-3.0"),
        (("apache-2.0", "cc-by-nc-4.0", "llama3"), "cc-by-nc-4.0"),
        (("mit", "gemma", "agpl-3.0"), "gemma"),
        (("cc-by-sa-4.0", "cc-by-4.0"), "cc-by-sa-4.0"),
        (("mit", None), "mit"),
        (("mit", "my-own"), "my-own"),
        (("cc-by-nc-4.0", "other"), "other"),
    ],
)
def test_the_strictest_licence_wins(licences, expected):
    found = verdict(*licences)
    assert found.licence == expected and not found.forbids_publishing


def test_a_licence_that_allows_no_derivatives_forbids_publishing():
    for licences in (("mit", "cc-by-nd-4.0"), ("cc-by-nc-nd-4.0", "other")):
        found = verdict(*licences)
        assert found.forbids_publishing and "nd" in found.licence and "does not allow" in found.why


def test_a_missing_licence_is_said_and_none_at_all_gives_none():
    found = verdict("mit", None)
    assert found.licence == "mit" and "No licence is stated by m1" in found.warnings[0]
    nothing = verdict(None, None)
    assert nothing.licence is None and not nothing.forbids_publishing and "m0, m1" in nothing.warnings[0]


def test_an_unknown_licence_is_said():
    assert "does not know the licence of m1 (my-own)" in verdict("mit", "my-own").warnings[0]


def test_licences_of_one_strictness_but_different_terms_are_said():
    assert "gpl-3.0 and cc-by-sa-4.0 are of one strictness" in verdict("gpl-3.0", "cc-by-sa-4.0").warnings[0]
    assert not verdict("mit", "apache-2.0").warnings


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ({"license": "MIT "}, "mit"),
        ({"license": ["apache-2.0", "mit"]}, "apache-2.0"),
        *(({"license": nothing}, None) for nothing in ([], "", "  ", None, 3)),
        ({}, None),
    ],
)
def test_the_licence_is_read_from_a_card(card, expected):
    assert licence_of(card) == expected
