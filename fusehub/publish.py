"""Pushes a merged model to the Hub, and reads back what lies there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusehub.progress import Progress, silent

if TYPE_CHECKING:
    from fusehub.evaluate import Evaluation
    from fusehub.refs import ModelRef


@dataclass(frozen=True)
class Published:
    """What was pushed: its page, its commit, and the pull request where it is one."""

    url: str
    commit: str
    repo_id: str
    private: bool
    pull_request_url: str | None = None


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    public: bool = False,
    pull_request: bool = False,
    exist_ok: bool = False,
    evaluation: Evaluation | Mapping[str, Any] | None = None,
    force: bool = False,
    token: str | None = None,
    progress: Progress = silent,
) -> Published:
    """Pushes the model in `folder` to the repo `repo_id`, private unless `public`."""
    raise NotImplementedError


def publish_statistics(
    folder: str | Path,
    repo_id: str | None = None,
    *,
    model: str | ModelRef,
    public: bool = False,
    pull_request: bool = False,
    exist_ok: bool = True,
    force: bool = False,
    token: str | None = None,
    progress: Progress = silent,
) -> Published:
    """Pushes the statistics in `folder` into the repo of `model`, or into the companion repo `repo_id`."""
    raise NotImplementedError
