"""What of published statistics is not on this machine yet."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fusehub.hub.client import hub_errors
from fusehub.statistics.file import FILENAME, INDEX_FILENAME
from fusehub.statistics.fisher_file import FISHER_FILENAME
from fusehub.statistics.sources import FOLDER, is_in_repo

if TYPE_CHECKING:
    from fusehub.statistics.sources import FoundStatistics

_SHARD = re.compile(r"statistics-\d{5}-of-\d{5}\.safetensors")


def missing_bytes(found: FoundStatistics, *, fisher: bool) -> int:
    """Bytes that have to be downloaded before the grams, or the `fisher` diagonals, can be opened.

    0 where no request may be made. The Hub is not asked again for what it has said in this run.
    """
    from huggingface_hub import try_to_load_from_cache

    access = found.access
    if access.is_offline or not is_in_repo(found.origin):
        return 0
    repo_id, _, revision = found.origin.partition("@")
    with hub_errors(found.origin):
        info = access.info(repo_id, revision)
    sizes = {file.rfilename.removeprefix(f"{FOLDER}/"): file.size or 0 for file in info.siblings or []}
    if fisher:
        names = [FISHER_FILENAME]
    else:
        names = [name for name in sizes if _SHARD.fullmatch(name)] if INDEX_FILENAME in sizes else [FILENAME]
    return sum(
        sizes.get(name, 0)
        for name in names
        if not isinstance(try_to_load_from_cache(repo_id, f"{FOLDER}/{name}", access.cache, info.sha), str)
    )
