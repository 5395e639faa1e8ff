"""What a visitor can do about an error, or about a method that cannot run: in the app's words, mostly with one button.

The package says by a code what can be done (`fusehub.errors.Action`); a button leads to the step where it is done,
which finds it chosen (`Visit.wanted`). An error that says no code has words of its own that fit everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fusehub.errors import Action, FuseHubError
from fusehub.utils.markdown import listed

from ..visit import CHECK, COMPARE, MERGE, PICK, PUSH, STATISTICS


@dataclass(frozen=True)
class Offer:
    """What the app says of an action; what its button says, and the step that it leads to, where it has one."""

    words: str
    label: str = ""
    step: int | None = None

    def label_for(self, models: Sequence[str]) -> str:
        """What its button says where it is about these models."""
        return self.label.format(models=listed([name.rpartition("/")[2] for name in models] or ["models"]))


OFFERS = {
    "name-base": Offer("Name the pretrained model that they share, in step 2.", "Name the base model", CHECK),
    "name-labels": Offer("Say what their labels mean, in step 2.", "Name the labels", CHECK),
    "keep-heads": Offer("Let each model keep its own head, in step 2.", "Keep the heads", CHECK),
    "choose-models": Offer("Pick other models in step 1.", "Choose other models", PICK),
    "leave-out": Offer("Leave out what does not fit the others.", "Leave out {models}", CHECK),
    "collect-statistics": Offer("Make statistics of them from texts, in step 3.", "Make statistics", STATISTICS),
    "collect-fisher": Offer("Make statistics for Fisher merging, in step 3.", "Make Fisher statistics", STATISTICS),
    "choose-method": Offer("Choose another way to merge, in step 4.", "Choose another way", MERGE),
    "set-shares": Offer("Say in step 4 how much each model counts.", "Set the shares", MERGE),
    "give-texts": Offer("The app has no texts for it while it merges: choose another way, or use the command line."),
    "give-data": Offer("Give texts or a dataset.", "Give texts", COMPARE),
    "name-columns": Offer(
        "Choose what is read as text and as labels from the columns that the data has, or name them so: text, label. "
        "Labels have to be called as the models call theirs."
    ),
    "leave-ensemble": Offer("Leave the ensemble out.", "Compare without it", COMPARE),
    "choose-dtype": Offer("The app stores a merge as the first model is stored: pick one first that is stored wider."),
    "merge-whole": Offer("The app writes merged weights as a whole."),
    "name-another": Offer("Choose another name for it in step 6.", "Choose another name", PUSH),
    "push-again": Offer(
        "Look at it on the Hub. To send it once more, propose it to that repo as a pull request, in step 6."
    ),
    "keep-private": Offer("Keep the repo private, or leave that model out.", "Keep it private", PUSH),
    "leave-demo": Offer("Push it without a demonstration: untick that in step 6."),
}
"""Every action as the app says it, by its code."""

OTHERS = frozenset({"choose-models", "leave-out"})
"""Those that take other models, where nothing that can be said of these helps."""


LOG_IN = "Log in to Hugging Face on this machine, then try again."
"""How a visitor gets what only a token opens, where nobody signs in by the page."""
SIGN_IN = "Sign in with Hugging Face in step 6."
"""The same where they do."""
# What is typed on a command line, in a sentence.
_COMMAND = re.compile(r"`(hf|fusehub|git|pip) [^`]+`")


def fix_of(error: FuseHubError, log_in: str = LOG_IN) -> str:
    """What to do about an error, as the app says it; `log_in` says how the visitor logs in."""
    if not error.actions:
        own = [_without_commands(line) for line in error.own_fix.splitlines()]
        return error.retold(error.what, "\n".join(filter(None, own))).fix_by(log_in)
    said = [OFFERS[action.code].words for action in error.actions]
    return "\n".join(dict.fromkeys([*said, *([log_in] if error.log_in else [])]))


def _without_commands(line: str) -> str:
    """A line but for the sentences that name a command."""
    return " ".join(own for own in re.split(r"(?<=[.!?]) ", line) if not _COMMAND.search(own))


def fix_of_finding(finding: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """What to do about a finding, by the `words` for each action; as it says itself where others are wanted."""
    codes = [action["code"] for action in finding["actions"]]
    if finding["fix"] and set(codes) <= OTHERS:
        return str(finding["fix"])
    return " ".join(dict.fromkeys(words[code] for code in codes)) or finding["fix"]


def action_of(told: Mapping[str, Any]) -> Action:
    """An action, as plain data tell it."""
    return Action(told["code"], tuple(told["models"]), told["count"])


def pressed(code: str, models: str) -> Action | None:
    """The action of a button, whose models stand one a line; None where it is no such button."""
    offer = OFFERS.get(code)
    return Action(code, tuple(filter(None, models.split("\n")))) if offer and offer.step is not None else None
