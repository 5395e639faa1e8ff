"""The license of a merge."""

import pytest

from fusehub.hub.licenses import license_of, reconcile


def verdict(*licenses):
    return reconcile([(f"m{i}", license) for i, license in enumerate(licenses)])


@pytest.mark.parametrize(
    ("licenses", "expected"),
    [
        (("mit", "mit"), "mit"),
        (("mit", "apache-2.0"), "mit"),
        (("apache-2.0", "mit"), "apache-2.0"),
        (("cc0-1.0", "mit"), "mit"),
        (("mit", "gpl-3.0", "lgpl-3.0"), "gpl-3.0"),
        (("apache-2.0", "cc-by-nc-4.0", "llama3"), "cc-by-nc-4.0"),
        (("mit", "gemma", "lgpl-3.0"), "gemma"),
        (("cc-by-sa-4.0", "cc-by-4.0"), "cc-by-sa-4.0"),
        (("cc-by-sa-4.0", "gpl-3.0"), "gpl-3.0"),
        (("gpl", "gpl-3.0", "agpl-3.0"), "agpl-3.0"),
        (("cc-by-nc-4.0", "cc-by-nc-sa-4.0"), "cc-by-nc-sa-4.0"),
        (("apache-2.0, cc-by-nc-4.0", "mit"), "cc-by-nc-4.0"),
        (("mit", None), "mit"),
        (("mit", "my-own"), "my-own"),
        (("cc-by-nc-4.0", "other"), "other"),
    ],
)
def test_the_strictest_license_wins(licenses, expected):
    found = verdict(*licenses)
    assert found.license == expected and not found.forbids_publishing


def test_a_license_that_allows_no_derivatives_forbids_publishing():
    for licenses in (("mit", "cc-by-nd-4.0"), ("cc-by-nc-nd-4.0", "other")):
        found = verdict(*licenses)
        assert found.forbids_publishing and "nd" in found.license and "does not allow" in found.why


def test_a_missing_license_is_said_and_none_at_all_gives_none():
    found = verdict("mit", None)
    assert found.license == "mit" and "No license is stated by m1" in found.warnings[0]
    nothing = verdict(None, None)
    assert nothing.license is None and not nothing.forbids_publishing and "m0, m1" in nothing.warnings[0]


def test_an_unknown_license_is_said():
    assert "does not know the license of m1 (my-own)" in verdict("mit", "my-own").warnings[0]


def test_licenses_of_one_strictness_but_different_terms_are_said():
    assert "eupl-1.1 and mpl-2.0 are of one strictness" in verdict("eupl-1.1", "mpl-2.0").warnings[0]
    for together in (("mit", "apache-2.0"), ("cc-by-sa-4.0", "gpl-3.0"), ("gpl-3.0", "agpl-3.0")):
        assert not verdict(*together).warnings


@pytest.mark.parametrize(
    "licenses",
    [
        ("gpl-3.0", "cc-by-nc-sa-4.0"),
        ("cc-by-nc-4.0", "gpl"),
        ("agpl-3.0", "llama3"),
        ("gemma", "gpl-2.0"),
        ("openrail", "gpl-3.0"),
        ("gpl-2.0", "apache-2.0"),
        ("gpl-2.0", "gpl-3.0"),
        ("cc-by-sa-4.0", "gpl-2.0"),
        ("cc-by-sa-3.0", "gpl-3.0"),
        ("cc-by-sa-4.0", "cc-by-nc-4.0"),
        ("cc-by-nc-sa-4.0", "llama3.1"),
        ("odbl", "cc-by-nc-4.0"),
        ("odbl", "cc-by-sa-4.0"),
        ("epl-2.0", "gpl-3.0"),
        ("apache-2.0, gpl-3.0", "cc-by-nc-4.0"),
    ],
)
def test_licenses_that_cannot_hold_together_give_none_and_are_told_in_either_order(licenses):
    for order in (licenses, licenses[::-1]):
        found = verdict(*order, "mit")
        assert found.license is None and not found.forbids_publishing
        (said,) = found.conflicts
        assert "m0 is under" in said and "m1 under" in said and "m2" not in said


@pytest.mark.parametrize(
    "licenses",
    [
        ("gpl-3.0", "apache-2.0"),
        ("gpl-2.0", "mit", "lgpl-2.1", "mpl-2.0"),
        ("apache-2.0", "cc-by-nc-4.0"),
        ("llama3", "cc-by-nc-4.0"),
        ("cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
        ("gpl-3.0, cc-by-nc-4.0", "mit"),
        ("gpl-3.0", "my-own"),
        ("gpl-3.0", None),
        ("gpl-3.0", "other"),
    ],
)
def test_what_is_not_known_to_be_forbidden_is_not_said_to_be(licenses):
    assert verdict(*licenses).conflicts == ()


def test_restrictions_that_hold_beside_a_stricter_license_are_said():
    assert "What m1 (llama3) may be used for is restricted" in verdict("cc-by-nc-4.0", "llama3").warnings[0]


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ({"license": "MIT "}, "mit"),
        ({"license": ["apache-2.0", "CC-BY-NC-4.0"]}, "apache-2.0, cc-by-nc-4.0"),
        ({"license": "other", "license_name": "Llama3"}, "llama3"),
        ({"license": "other", "license_name": "my terms"}, "my-terms"),
        ({"license": "mit", "license_name": "my terms"}, "mit"),
        ({"license": "unknown"}, None),
        *(({"license": nothing}, None) for nothing in ([], "", "  ", None, 3)),
        ({}, None),
    ],
)
def test_the_license_is_read_from_a_card(card, expected):
    assert license_of(card) == expected
