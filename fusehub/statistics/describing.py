"""What the metadata of statistics say of the model that they are of."""

from __future__ import annotations

from typing import Any

from fusehub.models.checkpoints.checkpoint import weight_hashes
from fusehub.models.resolve import ModelRef
from fusehub.models.side_files import VOCABULARIES
from fusehub.models.tensor_files import sha256_of


def describe_model(ref: ModelRef) -> dict[str, Any]:
    """Name, commit, architecture, sha256 of the weight files, and the base that the card names."""
    said = ref.card.get("base_model")
    is_known = isinstance(said, str) or (isinstance(said, list) and all(isinstance(name, str) for name in said))
    return {
        "id": ref.own_name,
        "commit": ref.commit,
        "architecture": ref.config["architectures"][0],
        "weights": weight_hashes(ref),
        "bytes": sum(ref.files[name].size for name in ref.weight_files()),
        "base_model": said if is_known else None,
    }


def describe_tokenizer(ref: ModelRef) -> dict[str, str]:
    """sha256 of the files that decide how texts are cut."""
    return {name: sha256_of(ref.path(name)) for name in ref.side_files() if name in VOCABULARIES or "token" in name}
