"""Tokens: what is none is refused in words that do not repeat it, and a good one is found in nothing that is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fusehub.errors import AccessDenied
from fusehub.hub.client import client, cut_token
from tests.reliability.tokens import ERRORS, WAYS, command_line


@pytest.mark.parametrize("token", ["", " ", "\n", None])
def test_an_empty_token_is_none(token: str | None) -> None:
    assert cut_token(token) is None


def test_a_token_is_taken_without_what_surrounds_it() -> None:
    assert cut_token(" hf_abc\r\n") == "hf_abc"


@pytest.mark.parametrize("token", ["hf_a b", "hf_a\nb", "hf_ä", "hf_a\x00", "hf_\ud800", "Bearer hf_a", "“hf_a”"])
def test_what_is_no_token_is_refused_without_being_repeated(token: str) -> None:
    with pytest.raises(AccessDenied, match="What was given as a token is none") as said:
        client(token)
    assert token not in str(said.value)


@pytest.mark.parametrize("stored", [b"hf_\xff\xfe", b"Bearer hf_abc", "hf_ä".encode()])
def test_a_stored_token_that_is_none_is_refused_in_words(stored: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(stored)
    environment = {**os.environ, "HF_TOKEN_PATH": str(tmp_path / "token")}
    environment.pop("HF_TOKEN", None)
    done = subprocess.run([sys.executable, "-m", "fusehub", "find"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "token" in done.stderr and "Traceback" not in done.stderr


def test_a_token_is_found_in_nothing_that_the_command_line_leaves(tmp_path: Path) -> None:
    (told,) = command_line(tmp_path, ways=WAYS[:1], errors=ERRORS[:1])
    assert told.found == []
    # It went the whole way: models, data and the place to publish to are its owner's alone.
    assert "(authenticated: True)" in told.log and "Published (private)" in told.log
    assert (tmp_path / "stored-0" / "merged" / "fusehub_recipe.yaml").is_file()
