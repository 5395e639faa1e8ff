"""Sizes that strangers state: what is beyond its limit is refused in words, or cut, before it takes memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from fusehub.utils.untrusted import limits
from tests.reliability.hostile import HOSTILE, Hostile
from tests.reliability.limits import attempt, workshop

# What a run may take beyond what was imported: a large part of it is torch's own, and the rest the file some times.
ROOM, TIMES = 250e6, 6


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with workshop() as place:
        yield place


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_what_is_beyond_a_limit_takes_no_memory(hostile: Hostile, folder: Path, little_patience: int) -> None:
    run, nbytes = attempt(hostile, folder)
    says = hostile.says
    if hostile.limit.endswith("_SECONDS"):
        says = says.replace(f"{getattr(limits, hostile.limit):g} seconds", f"{little_patience} seconds")
    assert says in " ".join(run.said.split()), run.said[-2000:]
    assert run.code == 0 if hostile.is_cut else run.is_refused, run.said[-2000:]
    assert run.nbytes < ROOM + TIMES * nbytes


TOLD = """
from fusehub.models.resolve import resolve
from fusehub.models.checkpoints.checkpoint import headers
from fusehub.errors import BadFile
try:
    headers(resolve("ann/wide"))
except BadFile as error:
    print(error.what)
"""


def test_what_a_header_at_the_hub_states_is_held_against_the_size_of_its_file(hub, ann, folder: Path) -> None:
    wide = next(hostile for hostile in HOSTILE if "[1000000000, 0]" in hostile.name)
    attempt(wide, folder)
    api = HfApi(hub.url, token=hub.token("ann"))
    api.create_repo("ann/wide")
    api.upload_folder(repo_id="ann/wide", folder_path=folder / "attempt" / "model")
    assert wide.says in ann.python(TOLD)


def test_every_limit_is_tried() -> None:
    named = {name for name in vars(limits) if name.isupper()} - {"MIB", "PARQUET_RATIO"}
    assert named == {hostile.limit for hostile in HOSTILE}
