"""What a recipe says, as plain data that nobody can change, however deep it lies, and that is written as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainSerializer

from fusehub.utils.frozen import frozen, thawed

Said = Annotated[Mapping[str, Any], AfterValidator(frozen), PlainSerializer(thawed)]
Files = Annotated[tuple[Mapping[str, str], ...], AfterValidator(frozen), PlainSerializer(thawed)]


class Strict(BaseModel):
    """Values by the keys that are known, and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, with `update` as data that nobody can change either."""
        return super().model_copy(update=dict(frozen(update or {})), deep=deep)
