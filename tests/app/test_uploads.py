"""Files that a visitor adds stay in the order in which they came, also where two are called alike."""

from __future__ import annotations

from pathlib import Path

from tests.app.steps import example, go


def test_files_are_shown_and_scored_in_the_order_in_which_they_came(visitor, tmp_path) -> None:
    page = visitor()
    example(page)
    go(page, "Compare")
    _add(page, _rows(tmp_path / "shops.csv", 3), _rows(tmp_path / "films.csv", 2))
    _add(page, _rows(tmp_path / "more" / "shops.csv", 4), _rows(tmp_path / "books.csv", 1))
    files = page.get_by_role("list", name="Files to score on").get_by_role("listitem")
    files.nth(3).wait_for()
    assert [_name(file) for file in files.all()] == ["shops.csv", "films.csv", "shops.csv", "books.csv"]
    page.get_by_role("button", name="Remove films.csv").click()
    files.nth(3).wait_for(state="detached")
    page.reload()
    files.nth(2).wait_for()
    assert [_name(file) for file in files.all()] == ["shops.csv", "shops.csv", "books.csv"]
    page.locator("#score").click()
    page.get_by_text("shops 3 examples, shops-2 4 examples, books 1 example").wait_for()
    columns = page.get_by_role("region", name="accuracy").get_by_role("columnheader").all_inner_texts()
    places = [columns.index(name) for name in ("shops", "shops-2", "books")]
    assert places == sorted(places)


def _add(page, *files: Path) -> None:
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="Add files with texts and labels").click()
    chosen.value.set_files(files)
    page.get_by_role("list", name="Files to score on").get_by_text(files[-1].name).last.wait_for()


def _name(file) -> str:
    return file.inner_text().split()[0]


def _rows(path: Path, count: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("text,label\n" + "a good film,positive\n" * count)
    return path
