"""How an endpoint is told: arguments checked by their types, a caller's mistake answered, a fault of ours raised.

    gr.api(told(function, frame, {"method": Literal["mean", "regmean"]}))

`function(frame, caller, *arguments)` is typed and documented; of both is made what programs and agents see of it. What
it raises as a `FuseHubError` is an answer (`Refused`) with words for who calls, and the service has not failed by it.
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, get_type_hints

import gradio as gr
from gradio.route_utils import get_root_url
from pydantic import Field, TypeAdapter, ValidationError

from fusehub.errors import Action, BadData, FuseHubError

from ..events import token_of
from ..frame import Frame
from ..render import html
from ..workers.tasks import OwnFault, bug
from .answers import Doing, Problem, Refused

Examples = Annotated[int, Field(ge=1, le=5000)]
_BY_PLACE = inspect.Parameter.POSITIONAL_OR_KEYWORD
LOG_IN = "Give a token of yours: Client(..., oauth_token=...)."
DOES = {
    "name-base": "Give `base_model`: the pretrained model that they share.",
    "collect-statistics": "Make statistics by `statistics`, and give its name under `statistics`.",
    "collect-fisher": "Make statistics by `statistics` with fisher=true, and give its name under `statistics`.",
    "give-texts": "Take another method, or the command line: no endpoint gives texts to a merge.",
    "choose-models": "Take other models, or another number of them.",
    "leave-out": "Leave those models out that do not fit the others.",
    "choose-method": "Take another method: see `methods`.",
    "name-labels": 'Give `labels`: {"user/one": ["negative", "positive"]}.',
    "keep-heads": 'Give heads="keep": each model keeps its own.',
    "set-shares": 'Give `weights`: {"user/one": 2.0}.',
    "give-data": "Give texts, or labelled data.",
    "name-columns": "Name the columns of the data by `text_column` and `label_column`.",
    "leave-ensemble": "Ask the models one by one.",
    "choose-dtype": "Name first a model that is stored wider: a merge is stored as the first one is.",
    "merge-whole": "Take the command line: an endpoint writes merged weights as they are.",
    "name-another": "Give another `repo_id`.",
    "push-again": "Look at it on the Hub. To send it once more, push with create_pr=true.",
    "keep-private": "Push with private=true, or leave that model out.",
    "leave-demo": "Push with demo=false.",
}
"""What each action is at an endpoint, by its code."""


@dataclass(frozen=True)
class Caller:
    """Whose token it is (None: nobody's on a shared machine, that of its user on a laptop), and the address that the
    app was called by."""

    token: str | None = field(repr=False)
    address: str


def told(function: Callable[..., Any], frame: Frame, shown: Mapping[str, Any]) -> Callable[..., Any]:
    """`function` as an endpoint; `shown` are types that callers see of arguments in the place of its own."""
    hints = get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)
    arguments = list(signature.parameters)[2:]
    takes = {name: TypeAdapter(hints[name]) for name in arguments}
    about = _flowing(inspect.getdoc(function) or "")
    meant = {name: said for name in arguments for said in re.findall(rf"(?m)^ *{name}: (.*)$", about)}

    def run(oauth: gr.OAuthToken | None, request: gr.Request, *values: Any) -> Any:
        answer: Any
        try:
            given = {
                name: _checked(name, takes[name], value, meant[name])
                for name, value in zip(arguments, values, strict=True)
            }
            answer = function(frame, Caller(token_of(oauth), _address_of(request)), **given)
        except OwnFault as error:
            raise _failed(error) from None
        except FuseHubError as error:
            answer = refused(error)
        except Exception:
            raise _failed(bug()) from None
        # gradio makes text of it for MCP, as Python writes it.
        return json.dumps(answer) if request.headers.get("x-gradio-user") == "mcp" else answer

    plain = get_type_hints(function) | dict(shown)
    special = {"oauth": gr.OAuthToken | None, "request": gr.Request}
    result = typing.cast(Any, hints["return"]) | Refused
    run.__annotations__ = special | {name: plain[name] for name in arguments} | {"return": result}
    own = [signature.parameters[name].replace(annotation=plain[name]) for name in arguments]
    first = [inspect.Parameter(name, _BY_PLACE, annotation=hint) for name, hint in special.items()]
    run.__signature__ = inspect.Signature([*first, *own], return_annotation=result)  # type: ignore[attr-defined]  # What inspect looks for.
    run.__name__, run.__doc__ = function.__name__, about
    return run


def _flowing(doc: str) -> str:
    """A docstring with each argument in one line: gradio reads no more of it."""
    head, *rest = re.split(r"(?m)^(Args|Returns):\n", doc)
    parts = [" ".join(head.split())]
    for name, body in zip(rest[::2], rest[1::2], strict=True):
        lines = textwrap.dedent(re.sub(r"\n {8,}", " ", body)).strip()
        parts.append(f"{name}:\n{textwrap.indent(lines, '    ')}")
    return "\n\n".join(parts)


def _checked(name: str, takes: TypeAdapter[Any], value: Any, meant: str) -> Any:
    """`value`, as the argument takes it. Raises `BadData` where it cannot be that."""
    try:
        return takes.validate_python(value)
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)[0]
        place = "".join(f"[{part!r}]" for part in wrong["loc"] if not isinstance(part, str) or "[" not in part)
        raise BadData(f"{name}{place}: {wrong['msg'][0].lower()}{wrong['msg'][1:]}.", f"It takes: {meant}") from None


def refused(error: FuseHubError) -> Refused:
    """The answer to what cannot be done, in words for programs; on a shared machine no path of it is in them."""
    said = html.told(error)
    problem: Problem = {
        "kind": type(error).__name__,
        "what": said.what,
        "fix": _fix_of(said),
        "actions": [doing(action) for action in said.actions],
    }
    return {"error": problem}


def _fix_of(error: FuseHubError) -> str:
    if not error.actions:
        return error.fix_by(LOG_IN)
    return " ".join(dict.fromkeys([*(DOES[own.code] for own in error.actions), *([LOG_IN] if error.log_in else [])]))


def doing(action: Action) -> Doing:
    """An action, as programs take it."""
    return {"code": action.code, "does": DOES[action.code], "models": list(action.models)}


def _address_of(request: gr.Request) -> str:
    """Behind a proxy too; without a slash at its end."""
    asked = request.request
    return get_root_url(asked, asked.url.path, None) if asked is not None else ""


def _failed(error: FuseHubError) -> gr.Error:
    return gr.Error(f"{error.what} {error.fix_by(LOG_IN)}", print_exception=False)
