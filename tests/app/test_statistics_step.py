"""Statistics of several models at once, and a form that stands there while something is missing."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.app.conftest import NAMED, SENTIMENT
from tests.app.steps import go, grave_faults, open_form, pick, sticks_out


def test_statistics_of_all_that_have_none_are_made_in_one_go(visitor) -> None:
    """And of no others; with the last of them the form folds away, and it opens where one is forgotten."""
    page = visitor(width=360)
    # Of the first the owner has published some.
    pick(page, SENTIMENT[0], *NAMED)
    go(page, "Statistics")
    page.get_by_text("2 models have no statistics yet").wait_for()
    form = page.locator("#statistics-source")
    assert form.is_visible()
    page.get_by_role("combobox", name="For the model").click()
    models = page.get_by_role("option")
    # The one that is chosen is ticked.
    assert [name.split("\n")[-1] for name in models.all_inner_texts()] == [
        SENTIMENT[0],
        *NAMED,
        "All 2 that have none",
    ]
    models.get_by_text("All 2 that have none").click()
    assert grave_faults(page) == [] and sticks_out(page) == []
    page.get_by_label("Texts that I paste").check()
    page.locator("#statistics-texts textarea").fill("a good film\nan awful plot")
    page.locator("#make-statistics").click()
    page.get_by_role("status").get_by_text("Statistics of 2 models: done").wait_for()
    page.get_by_text("All statistics are there").wait_for()
    form.wait_for(state="hidden")
    cards = page.get_by_role("list", name="Statistics of each model").get_by_role("article")
    told = [" ".join(card.inner_text().split()) for card in cards.all()]
    assert ["made in this visit" in card for card in told] == [False, True, True] and "published" in told[0]
    assert all("2 pasted texts" in card for card in told[1:])
    for name, count, card in zip((SENTIMENT[0], *NAMED), (24, 2, 2), told, strict=True):
        assert f"The statistics of {name} are of {count} texts" in card, "models are called as the visitor knows them"
    page.get_by_role("button", name=f"Forget statistics of {NAMED[0]}").click()
    page.get_by_text("1 model has no statistics yet").wait_for()
    form.wait_for()
    page.get_by_role("combobox", name="For the model").click()
    assert [name.split("\n")[-1] for name in models.all_inner_texts()] == [SENTIMENT[0], *NAMED], (
        "one alone is called by its name"
    )


def test_the_model_that_is_chosen_stays_whatever_is_given_for_it(visitor, tmp_path) -> None:
    page = visitor()
    pick(page, *NAMED)
    go(page, "Statistics")
    open_form(page)
    models = page.get_by_role("combobox", name="For the model")
    expect(models).to_have_value(NAMED[0])
    models.click()
    page.get_by_role("option", name=NAMED[1]).click()
    path = tmp_path / "films.txt"
    path.write_text("a good film\nan awful plot\n")
    page.get_by_label("A file", exact=True).check()
    page.locator("#statistics-file input").set_input_files(path)
    page.get_by_role("list", name="File with texts").get_by_text("films.txt").wait_for()
    expect(models).to_have_value(NAMED[1])
    page.locator("#make-statistics").click()
    page.get_by_text("1 model has no statistics yet").wait_for()
    made = page.get_by_role("list", name="Statistics of each model").get_by_role("article").nth(1)
    assert "made in this visit" in made.inner_text()
    expect(models).to_have_value(NAMED[0])
