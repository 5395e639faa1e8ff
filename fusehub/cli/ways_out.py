"""What can be done, in the words of the command line, by the code of the action."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from fusehub.errors import Action


def command_of(action: Action) -> str:
    """What to type."""
    return _COMMANDS[action.code](action)


def _name_base(action: Action) -> str:
    return "Say --base MODEL."


def _collect(action: Action, *options: str) -> str:
    model = shlex.quote(action.models[0]) if len(action.models) == 1 else "MODEL"
    command = " ".join(["fusehub collect", model, "--data DATA", *options, "--out DIR"])
    return f"Make them where the data is: `{command}`, then `--statistics {model}=DIR`."


def _collect_fisher(action: Action) -> str:
    return _collect(action, "--fisher")


def _give_texts(action: Action) -> str:
    return "Say " + " ".join(f"--data {shlex.quote(name)}=SOURCE" for name in action.models or ("MODEL",)) + "."


def _choose_models(action: Action) -> str:
    return f"Name {action.count} models." if action.count else "Name more or fewer models."


_COMMANDS: dict[str, Callable[[Action], str]] = {
    "name-base": _name_base,
    "collect-statistics": _collect,
    "collect-fisher": _collect_fisher,
    "give-texts": _give_texts,
    "choose-models": _choose_models,
}
