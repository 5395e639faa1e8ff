"""Statistics made smaller, out of statistics that are there: no model and no data are needed.

    resize_statistics("user/expert", "statistics", size="tiny")

Only ever smaller: what was stored coarsely cannot be had back. Noise, sums of several parts and whatever else the
metadata tells stay told; Fisher diagonals go along as they are.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from pathlib import Path

from fusehub.errors import BadStatistics
from fusehub.hub.access import Access
from fusehub.statistics.encodings import SIZES, check_size
from fusehub.statistics.file import Statistics, write_statistics
from fusehub.statistics.fisher_file import FISHER_FILENAME
from fusehub.statistics.sources import locate_fisher, open_statistics
from fusehub.utils.folders.places import require_place

# What writing says anew.
_WRITTEN = ("format", "version", "size", "layers", "aliases")


def resize_statistics(
    source: str,
    out: str | Path,
    *,
    size: str,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Statistics:
    """The statistics at `source` in `size`, written into the folder `out` and opened.

    Args:
        source: A file, a folder or a repo.
        out: A folder, new or empty.
        size: `half`, `compact` or `tiny`.
        token: The Hub's token; None for the one of `hf auth login` if there is one, True where there must be, False
            for none.
        cache_dir: Where downloads lie; the Hub's cache of this machine where nothing is said.
        local_files_only: Read what is in the cache already, and ask the Hub for nothing.

    Returns:
        The smaller statistics, open.

    Raises:
        BadStatistics: They are not larger than that.

    Examples:
        >>> small = fusehub.resize_statistics("user/expert-1", "small", size="tiny")
        >>> small.metadata["size"]
        'tiny'
    """
    check_size(size)
    require_place(Path(out))
    access = Access(token, cache_dir, local_files_only)
    with contextlib.closing(open_statistics(source, access)) as statistics:
        metadata = statistics.metadata
        if SIZES.index(size) <= SIZES.index(metadata["size"]):
            raise BadStatistics(
                f"{source} has the size {metadata['size']} already: {size} would not be smaller.",
                "Choose a smaller size, or collect again from the data.",
            )
        stored = {name: statistics.layers[name] for name in metadata["layers"]}
        kept = {key: value for key, value in metadata.items() if key not in _WRITTEN}
        beside = None
        if metadata.get("fisher"):
            fisher = locate_fisher(source, access)
            beside = functools.partial(_copied, fisher)
        path = write_statistics(Path(out), stored, statistics.aliases, kept, size=size, beside=beside)
    return Statistics(path)


def _copied(fisher: Path, folder: Path) -> None:
    shutil.copyfile(fisher, folder / FISHER_FILENAME)
