"""Statistics out of what other projects publish: matrices that quantisation was calibrated with.

    import_statistics("user/model", "imatrix.gguf", "statistics")     # llama.cpp: diagonals
    import_statistics("user/model", "hessians/", "statistics")        # QuIP# and its kin: whole grams

They are sums over the inputs of the same linear layers, under other names. Whether they are of these very weights
is told by whoever imports them: such files do not say it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fusehub.errors import BadStatistics, NotFound
from fusehub.hub.access import Access
from fusehub.hub.client import software
from fusehub.models.checkpoints.checkpoint import Checkpoint, headers
from fusehub.models.layout import Linear, layout_of
from fusehub.models.resolve import ModelRef, ref_of
from fusehub.models.tasks import load_config
from fusehub.statistics.describing import describe_model, describe_tokenizer
from fusehub.statistics.encodings import DEFAULT_SIZE
from fusehub.statistics.file import Statistics, write_statistics
from fusehub.statistics.importers.found import Imported
from fusehub.statistics.importers.hessians import read_hessians
from fusehub.statistics.importers.imatrix import read_imatrix
from fusehub.utils.folders.places import require_ordinary, require_place

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def import_statistics(
    model: str | ModelRef,
    source: str | Path,
    out: str | Path,
    *,
    description: str | None = None,
    size: str = DEFAULT_SIZE,
    revision: str | None = None,
    subfolder: str | None = None,
    token: bool | str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Statistics:
    """The statistics of `model` that another project's file holds, written into the folder `out` and opened.

    Layers that the file lacks are listed as uncounted, and what it has beside them as `ignored`.

    Args:
        model: The model that they were made with, which the file does not say.
        source: An imatrix file of llama.cpp, or a folder of Hessians as QuIP# has them.
        out: A folder, new or empty.
        description: What data they were made from, where the file's own word for it is not to be told.
        size: How finely grams are stored.
        revision: A branch, a tag or a commit of the model's repo.
        subfolder: The folder of the repo that the model is in.
        token: The Hub's token; None for the one of `hf auth login` if there is one, True where there must be, False
            for none.
        cache_dir: Where downloads lie; the Hub's cache of this machine where nothing is said.
        local_files_only: Read what is in the cache already, and ask the Hub for nothing.

    Returns:
        The statistics, open.

    Raises:
        NotFound: There is no such file, or no such model.
        BadStatistics: Nothing in it is of a layer of this model, or is of another size.

    Examples:
        >>> statistics = fusehub.import_statistics("user/writer", "imatrix.gguf", "statistics")
        >>> statistics.metadata["imported"]["from"]
        'llama.cpp imatrix'
    """
    source = Path(source).expanduser()
    require_ordinary(source)
    if not source.exists():
        raise NotFound(f"There is no file or folder {source}.", "Give an imatrix file, or a folder of Hessians.")
    require_place(Path(out))
    access = Access(token, cache_dir, local_files_only)
    ref = ref_of(model, access, revision=revision, subfolder=subfolder)
    config = load_config(ref)
    linears = _linears(ref, config)
    found = (read_hessians if source.is_dir() else read_imatrix)(source, linears, config)
    _require_fit(found, source, linears, ref)
    known = {*found.sums, *found.aliases}
    path = write_statistics(
        Path(out),
        found.sums,
        found.aliases,
        {
            "model": describe_model(ref),
            "task": None,
            "tokenizer": describe_tokenizer(ref),
            "data": {"source": description or found.data or "not told by the file", "revision": None},
            "examples": found.examples,
            "tokens": found.tokens,
            "max_length": found.max_length,
            "seed": None,
            "uncounted": sorted(linears.keys() - known),
            "imported": {
                "from": found.kind,
                "file": source.resolve().name,
                "means": found.means,
                "ignored": sorted(found.ignored),
            },
            "software": software("torch"),
        },
        size=size,
    )
    return Statistics(path)


def _linears(ref: ModelRef, config: PretrainedConfig) -> dict[str, Linear]:
    """The model's linear layers by the name of their weight in its checkpoint."""
    infos = headers(ref)
    if infos is None:
        with Checkpoint(ref) as checkpoint:
            infos = checkpoint.tensors
    layout = layout_of(config)
    return {
        name: layout.linears[parameter]
        for name, parameter in layout.names(infos).items()
        if parameter in layout.linears
    }


def _require_fit(found: Imported, source: Path, linears: dict[str, Linear], ref: ModelRef) -> None:
    if not found.sums:
        named = f" It has {', '.join(sorted(found.ignored)[:3])}." if found.ignored else ""
        raise BadStatistics(
            f"{source} holds nothing of a linear layer of {ref.name}.{named}", "Give what was made with this model."
        )
    for name in (*found.sums, *found.aliases):
        size = found.sums[found.aliases.get(name, name)].size
        if size != linears[name].in_features:
            raise BadStatistics(
                f"{source}: {name} has {linears[name].in_features} inputs in {ref.name}, and {size} in the file.",
                "Give what was made with this model.",
            )
