"""On a machine that strangers share, words lead to the one folder that was named, and to no other file of it."""

import pytest

from fusehub.data.images import Picture, picture_of
from fusehub.data.tables.sources import open_table
from fusehub.errors import BadFile, FuseHubError, NotFound
from fusehub.models.resolve import resolve
from fusehub.statistics.sources import open_statistics
from fusehub.utils.reach import VARIABLE, confine, is_confined, local_path
from tests.unit.tiny import tiny_images, tiny_model


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """The folder of a visit; a model, texts and images of the server beside it, where the server was started."""
    tiny_model(tmp_path / "model", hidden=16)
    tiny_images(tmp_path / "photos")
    (tmp_path / "texts.csv").write_text("text\nthe server's own\n")
    (tmp_path / "visit").mkdir()
    (tmp_path / "visit" / "own.csv").write_text("text\nthe visitor's own\n")
    (tmp_path / "visit" / "link").symlink_to(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "")
    confine(tmp_path / "visit")
    return tmp_path


def test_no_form_of_a_path_leads_out_of_the_folder(shared):
    assert is_confined()
    for text in (shared / "model", shared / "visit" / ".." / "model", shared / "visit" / "link"):
        assert local_path(str(text)) is None
        with pytest.raises(NotFound):
            resolve(str(text))
        with pytest.raises(FuseHubError):
            open_statistics(str(text))
    # A word is a name on the Hub, whatever is called so in the folder that the server was started in.
    for text in ("model", "./model", "texts.csv", "~", "visit", "a\0b"):
        assert local_path(text) is None
    for source in (shared / "texts.csv", "texts.csv", "./texts.csv"):
        with pytest.raises(NotFound):
            open_table(str(source))


def test_what_lies_in_the_folder_is_read(shared):
    assert next(open_table(str(shared / "visit" / "own.csv")).rows) == {"text": "the visitor's own"}


def test_tables_name_no_images_of_the_machine_or_of_other_hosts(shared):
    image = next(path for path in (shared / "photos").rglob("*") if path.is_file())
    with pytest.raises(NotFound):
        picture_of(str(image), shared / "visit", "row 1")
    for place in (str(image), "http://127.0.0.1:9/x.png"):
        with pytest.raises(BadFile, match="is not in the data itself"):
            Picture("x", place).open()


def test_a_machine_of_ones_own_is_not_confined(shared, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    assert resolve("model").folder is not None and open_table("texts.csv").columns == ["text"]


@pytest.mark.parametrize(
    "text",
    ["a" * 300, "a/" * 3000, "a\x00b", "~\x00", "a\ud800b"],
    ids=["a long name", "a long path", "a zero", "of a user", "half of a character"],
)
def test_what_no_path_can_be_is_said_to_be_no_model(text):
    assert local_path(text) is None
    with pytest.raises(FuseHubError):
        resolve(text, local_files_only=True)
