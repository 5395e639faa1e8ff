"""Work that endpoints start and wait for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fusehub.errors import BadData, FuseHubError

from ..access import require_all
from ..frame import Frame
from ..render import html
from ..setting import Setting
from ..steps.counting import Texts, counting
from ..visit import Made, Visit

_PATIENCE = 3600.0


def finish(frame: Frame, visit: Visit) -> None:
    """Waits for the work of a visit. Raises its error."""
    job = visit.job
    assert job is not None  # It was started before.
    frame.jobs.wait(job, _PATIENCE)
    if job.error is not None:
        raise job.error
    if job.state != "done":
        raise FuseHubError(f"{job.title} did not end in {_PATIENCE / 60:.0f} minutes.", "Take smaller models.")


def pushed(frame: Frame, visit: Visit) -> dict[str, Any]:
    """Waits for a push, and returns what came of it. Raises its error, and why a demonstration could not be made."""
    finish(frame, visit)
    published = visit.published
    assert published is not None  # The work has just succeeded.
    if published["failed"] is not None:
        raise published["failed"]
    return published


def start_statistics(
    frame: Frame, visit: Visit, model: str, texts: Texts, token: str | None, *, limit: int, fisher: bool
) -> None:
    """Puts statistics of a model into the queue."""
    require_all([model], token)
    part = counting(visit, model, texts, limit=limit, fisher=fisher)
    frame.start_parts(visit, "statistics", f"Statistics of {model}", lambda job: iter([part]), token)


def scores(frame: Frame, visit: Visit, arguments: dict[str, Any], token: str | None) -> dict[str, Any]:
    """What scoring gives, once it is done."""
    scored: list[dict[str, Any]] = []
    frame.start(visit, "evaluate", "Scoring", arguments, token, lambda _, result: scored.append(result))
    finish(frame, visit)
    return scored[0]


def written(visit: Visit, texts: Sequence[str], setting: Setting) -> Texts:
    """Texts that were given, in a file of the visit, one a line. Raises `BadData` for more than could be uploaded."""
    content = "".join(f"{' '.join(text.split())}\n" for text in texts).encode()
    if len(content) > setting.upload:
        raise BadData(f"The texts are too long: at most {setting.upload_size} are taken.", "Give fewer of them.")
    target = visit.new_folder("texts.txt")
    target.parent.mkdir(parents=True)
    target.write_bytes(content)
    return Texts(html.count(len(texts), "text"), str(target))


def card_of(frame: Frame, visit: Visit, made: Made, repo_id: str | None, license: str | None) -> dict[str, Any]:
    """What the package writes as the card of a merge."""
    scored = visit.evaluation if not made.parts else None
    asked = {"folder": str(made.folder), "repo_id": repo_id, "evaluation": scored, "license": license}
    told: dict[str, Any] = frame.worker.ask("card", asked)
    return told
