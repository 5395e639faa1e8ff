"""Whether two runs see the same: a hash of everything that is given to the model, and of what is recorded about it.

digest_of(inputs, examples, seed=0)     # "9f86d0..."
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from fusehub.data.images import Picture

if TYPE_CHECKING:
    from fusehub.data.examples import Examples
    from fusehub.data.inputs import Inputs


def digest_of(inputs: Inputs, examples: Examples, *, seed: int) -> str:
    """A hash of the rows by their content (tokens, or the bytes of images and how they are scaled), their labels,
    the data's revision and what was chosen of it; the same on every machine."""
    digest = hashlib.sha256()
    said: list[Any] = [examples.revision, examples.split, examples.labels, examples.names, seed, inputs.max_length]
    if inputs.of_images:
        said.append(inputs.processor.to_dict())
    digest.update(json.dumps(said, default=str).encode())
    for encoding in inputs.encodings:
        digest.update(json.dumps(encoding, default=_content).encode())
    return digest.hexdigest()


def _content(value: Any) -> Any:
    if not isinstance(value, Picture):
        raise TypeError(f"{type(value).__name__} has no digest")
    return value.digest()
