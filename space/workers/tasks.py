"""What runs in other processes: each piece of work is a few calls of the package, and tells how far it is.

`carry_out` is long work (statistics, merges, scores, a push), a generator of events:

    ("progress", step, done, total, unit, share)      ("result", content)      ("error", FuseHubError)

`answer` is what takes a moment (a check, a comparison, a card), which can be a part of long work too. Everything that
goes in and comes out is plain data.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import fusehub
from fusehub.errors import FuseHubError, NotFound, OutputExists, PartlyPublished
from fusehub.hub.access import STORED
from fusehub.hub.client import be_patient
from fusehub.utils import interrupts

from .checks import check
from .merging import merge
from .pace import DISK, NETWORK, START, UPLOAD, Course, Tell, untold
from .previews import preview
from .published import of_metadata
from .thumbnails import thumbnail

# Progress is told at most this often, in seconds.
_EVERY = 0.15
# Bytes of models that the process which answers keeps in memory.
_KEEP = 2 * 10**9
# Models by name and commit, as the process which answers knows them; no token is in them.
_REFS: dict[str, Any] = {}
_MOST_REFS = 200


def run(pipe: Any) -> None:
    """The whole life of a process of work: what to do comes through the pipe, and the events go back."""
    be_patient()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whoever waits for it to end knows for how long.
    interrupts.listen(grace=None)
    _step_back()
    try:
        kind, arguments, token = pipe.recv()
        pipe.send(("begun",))
        _perform(kind, arguments, token, pipe.send)
    except KeyboardInterrupt as cancelled:
        # What was half-made is gone by now, or a note says what may be left.
        with suppress(BrokenPipeError):
            pipe.send(("cleared", not getattr(cancelled, "__notes__", ())))
    except BrokenPipeError:
        pass
    finally:
        pipe.close()


def serve(pipe: Any, meek: bool = False) -> None:
    """The life of the process that answers: questions of several visitors side by side."""
    be_patient()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if meek:
        _step_back()
    sending = threading.Lock()

    def reply(number: int, kind: str, arguments: Mapping[str, Any], token: str | None) -> None:
        def emit(event: tuple) -> None:
            with sending:
                pipe.send((number, event[0], event[1:]))

        emit(("begun",))
        try:
            content, said = answer(kind, arguments, token, _telling(emit)), "result"
        except BaseException as error:
            content, said = _in_words(error), "error"
        with sending:
            pipe.send((number, said, content))

    with ThreadPoolExecutor(8) as threads:
        try:
            while True:
                threads.submit(reply, *pipe.recv())
        except (EOFError, OSError):
            os._exit(0)


def carry_out(kind: str, arguments: Mapping[str, Any], token: str | None) -> Iterator[tuple]:
    """The events of one piece of work; `result` or `error` is the last."""
    events: queue.Queue[tuple] = queue.Queue()
    threading.Thread(target=_perform, args=(kind, arguments, token, events.put), daemon=True).start()
    while True:
        event = events.get()
        yield event
        if event[0] != "progress":
            return


def _perform(kind: str, arguments: Mapping[str, Any], token: str | None, emit: Callable[[tuple], None]) -> None:
    """Does one piece of work, here and now; an error ends it, and leaves nothing half-made."""
    try:
        emit(("result", (_WORK | _ANSWERS)[kind](_telling(emit), token, **arguments)))
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except BaseException as error:
        emit(("error", _in_words(error)))


def _telling(emit: Callable[[tuple], None]) -> Tell:
    """Progress as events, not too many of them."""
    last, told = "", 0.0

    def tell(step: str, done: int = 0, total: int = 0, unit: str = "", share: float | None = None) -> None:
        nonlocal last, told
        now = time.monotonic()
        if step != last or done >= total or now - told > _EVERY:
            last, told = step, now
            emit(("progress", step, done, total, unit, share))

    return tell


def answer(kind: str, arguments: Mapping[str, Any], token: str | None, tell: Tell = untold) -> Any:
    """The answer to one question, as plain data. Raises a `FuseHubError`."""
    return _ANSWERS[kind](tell, token, **arguments)


# --- long work -----------------------------------------------------------------------------------------------------


def _statistics(
    tell: Tell,
    token: str | None,
    *,
    model: str,
    data: str,
    out: str,
    limit: int | None,
    fisher: bool,
    text_column: str | None = None,
) -> dict[str, Any]:
    tell(f"Reading {model} and the texts")

    def progress(done: int, total: int, unit: str) -> None:
        tell(f"Counting what the layers of {model} see", done, total, unit, done / total if total else None)

    made = fusehub.collect(
        model, data, out, limit=limit, fisher=fisher, text_column=text_column, token=token, progress=progress
    )
    assert made is not None  # There is one process of it.
    with closing(made) as statistics:
        return of_metadata(statistics.metadata, model)


def _evaluate(
    tell: Tell,
    token: str | None,
    *,
    models: dict[str, str],
    data: dict[str, str],
    ensemble: bool,
    limit: int | None,
    text_column: dict[str, str] | None = None,
    label_column: dict[str, str] | None = None,
) -> dict[str, Any]:
    tell("Reading the data")
    asked: list[str] = []

    def progress(done: int, total: int, model: str) -> None:
        if model not in asked:
            asked.append(model)
        # Each model is asked all examples.
        each, place = total // len(models), len(asked) - 1
        step = f"Asking {model} ({place + 1} of {len(models)})"
        tell(step, min(each, max(0, done - place * each)), each, "examples", done / total if total else None)

    scored = fusehub.evaluate(
        list(models.values()), data, ensemble=ensemble, limit=limit, text_column=text_column,
        label_column=label_column, token=token, progress=progress,
    )  # fmt: skip
    return scored.to_dict()


def _layers(tell: Tell, token: str | None, *, merges: dict[str, str]) -> dict[str, Any]:
    tell("Reading the models")
    found = {}
    for place, (name, folder) in enumerate(merges.items()):

        def progress(done: int, total: int, unit: str, name: str = name, place: int = place) -> None:
            share = (place + (done / total if total else 1.0)) / len(merges)
            tell(f"Comparing the layers of {name}", done, total, unit, share)

        found[name] = fusehub.layer_changes(folder, token=token, progress=progress).to_dict()
    return found


def _push(
    tell: Tell,
    token: str | None,
    *,
    folder: str,
    repo_id: str,
    card: str,
    public: bool,
    pull_request: bool,
    demo: bool,
) -> dict[str, Any]:
    """Where the merge is; `failed` is why there is no demonstration where one was wanted."""
    size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    # It is loaded, sent, and read back.
    course = Course(
        [START + size / DISK, START + size / UPLOAD, START + size / NETWORK, *([0, START, START] if demo else [])]
    )

    def progress(done: int, total: int, doing: str) -> None:
        tell(f"Pushing: {doing}", share=course.share(done, 0) if done < total else 1.0)

    readme = Path(folder) / "README.md"
    readme.write_text(card, encoding="utf-8")
    try:
        published = fusehub.publish(
            folder, repo_id, private=not public, create_pr=pull_request, demo=demo, token=token, progress=progress
        )
    except PartlyPublished as error:
        return error.published.to_dict() | {"failed": error}
    except OutputExists as error:
        raise error.retold(error.what, "Choose another name, or push it as a pull request to that repo.") from error
    finally:
        readme.unlink(missing_ok=True)
    return published.to_dict() | {"failed": None}


def _recipe(tell: Tell, token: str | None, *, folder: str, repo_id: str, public: bool) -> dict[str, Any]:
    def progress(done: int, total: int, doing: str) -> None:
        tell(f"Publishing the recipe: {doing}", share=done / total)

    return fusehub.publish_recipe(folder, repo_id, private=not public, token=token, progress=progress).to_dict()


_WORK: dict[str, Callable[..., Any]] = {
    "statistics": _statistics,
    "merge": merge,
    "evaluate": _evaluate,
    "layers": _layers,
    "push": _push,
    "recipe": _recipe,
}


# --- what takes a moment --------------------------------------------------------------------------------------------


def _compare(
    tell: Tell,
    token: str | None,
    *,
    models: dict[str, str],
    texts: list[str],
    ensemble: bool | list[str] = True,
    pictures: list[str] | None = None,
) -> dict[str, Any]:
    """`pictures` are the names of images, whose files `texts` are then."""
    tell("Reading the models")
    refs = [_resolved(model, token) for model in models.values()]

    def progress(done: int, total: int, model: str) -> None:
        tell(f"Asking {model}", done, total, "answers", done / total if total else None)

    compared = fusehub.compare(refs, texts, ensemble=ensemble, token=token, progress=progress, kept=_kept())
    found = compared.to_dict()
    for name, path, text in zip(pictures or (), texts, found["texts"], strict=False):
        # By its name, and not by where it lies on this machine.
        text["text"], text["picture"] = name, thumbnail(name, path)
        for answer in text["answers"]:
            answer["marked"] = name
    return found


def _resolved(model: str, token: str | None) -> Any:
    """The model at its commit, which stays what it is: a public one is asked of the Hub once, whoever asks first."""
    from fusehub.models.ref import ModelRef
    from fusehub.models.resolve import resolve

    ref = _REFS.get(model)
    if ref is None:
        ref = resolve(model, token=token)
        # An adapter holds two models, each with the token. Folders cost nothing to look at again.
        if type(ref) is ModelRef and ref.repo_id and ref.id == model and not (ref.gated or ref.private):
            if len(_REFS) >= _MOST_REFS:
                _REFS.clear()
            _REFS[model] = replace(ref, access=STORED)
    return ref


@cache
def _kept() -> Any:
    """The models that this process keeps in memory; who may ask them is settled before (see `space.access`)."""
    from fusehub.comparing.model_cache import KeptModels

    return KeptModels(_KEEP)


def _card(
    tell: Tell,
    token: str | None,
    *,
    folder: str,
    repo_id: str | None,
    evaluation: dict[str, Any] | None,
    license: str | None,
) -> dict[str, Any]:
    from fusehub.publishing.merged_folder import read_merge

    merge = read_merge(folder)
    verdict = merge.license if merge else None
    if verdict is not None and license == verdict.license:
        license = None  # What follows of itself.
    return {
        "text": str(fusehub.model_card(folder, repo_id=repo_id, evaluation=evaluation, license=license)),
        "license": verdict and verdict.license,
        "why": verdict.why if verdict else "",
        "forbidden": bool(verdict and verdict.forbids_publishing),
        "conflicts": list(verdict.conflicts) if verdict else [],
        "warnings": list(verdict.warnings) if verdict else [],
        "loosened": bool(verdict and license and verdict.is_loosened_by(license)),
        "restricted": [source["short_name"] for source in merge.sources if source["private"]] if merge else [],
    }


def _recommend(tell: Tell, token: str | None, *, models: list[str], **said: Any) -> dict[str, Any]:
    tell("Choosing a way to merge")
    return fusehub.recommend(models, token=token, **said).to_dict()


def _preview(tell: Tell, token: str | None, *, models: dict[str, str], **asked: Any) -> dict[str, Any]:
    tell("Reading the data")
    return preview({name: _resolved(model, token) for name, model in models.items()}, token, **asked)


def _files(tell: Tell, token: str | None, *, folder: str, card: str | None) -> dict[str, str | bytes]:
    """What a push of a merge would upload: path in it -> the file here, or its content."""
    from fusehub.publishing.merged_folder import read_merge

    merge = read_merge(folder)
    if merge is None:
        raise NotFound(f"There is no merge in {folder}.", "Merge again.")
    files = {path: str(content) if isinstance(content, Path) else content for path, content in
             merge.public_files().items()}  # fmt: skip
    return files | {"README.md": (card or str(fusehub.model_card(folder))).encode()}


_ANSWERS: dict[str, Callable[..., Any]] = {
    "check": check,
    "recommend": _recommend,
    "compare": _compare,
    "preview": _preview,
    "card": _card,
    "files": _files,
}


def _step_back() -> None:
    """Lets what visitors wait for go first."""
    if hasattr(os, "nice"):
        os.nice(5)


def _in_words(error: BaseException) -> FuseHubError:
    """What a visitor is told of what ended work: of a library in Rust that gives up too, which is no `Exception`."""
    return error if isinstance(error, FuseHubError) else bug()


class OwnFault(FuseHubError):
    """Something that no visitor has caused, nor can mend."""


def bug() -> OwnFault:
    """A bug of ours: its traceback is for whoever runs the app, the visitor gets words."""
    traceback.print_exc(file=sys.stderr)
    return OwnFault(
        "Something went wrong in FuseHub itself.",
        "Try again; if it stays so, please report it on FuseHub's page with what you did.",
    )
