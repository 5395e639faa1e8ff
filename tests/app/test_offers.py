"""The app says in its own words what can be done, by the codes of errors, and never by options of the command line."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusehub import errors
from fusehub.errors import ACTIONS, Action, BadRecipe, BadStatistics, FuseHubError, NotFound, together
from fusehub.statistics.file import Statistics
from fusehub.statistics.fisher_file import FisherFile
from fusehub.utils.findings import Finding, incompatible
from space.render import html
from space.render.offers import LOG_IN, OFFERS, fix_of, pressed

ROOT = Path(__file__).parents[2]
OPTION = re.compile(r"(?:^|[\s(`'\"])(--[a-z][a-z-]+)")
COMMAND = re.compile(r"`(?:hf|fusehub|git|pip) ")
# What the app never asks for: noise, devices, tuning, saved plans, plug-ins, statistics that are added up, shards.
NOT_OF_THE_APP = {
    "--noise",
    "--device",
    "--device-map",
    "--stream",
    "--tune",
    "--tune-over",
    "--tune-weights",
    "--save-plan",
}
NOT_OF_THE_APP |= {"--disjoint", "--allow-few-rows", "--plugin", "--max-shard-size"}
TOLD = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, FuseHubError)}
TOLD |= {"Finding", "_find", "unknown", "retold"}


def _name(call: ast.Call) -> str:
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def told(folder: str, said: re.Pattern[str] = OPTION) -> Iterator[tuple[str, ast.Call, set[str]]]:
    """Every place where an error or a finding is made with options of the command line, or else what is `said`, in its
    words."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        # What starts the app speaks to whoever types.
        if path.relative_to(ROOT).parts[1] in ("cli", "demo", "localhub", "collecting", "serve.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _name(node) in TOLD:
                texts = [own.value for own in ast.walk(node) if isinstance(own, ast.Constant)]
                found = {option for text in texts if isinstance(text, str) for option in said.findall(text)}
                if found:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node, found


def test_statistics_that_are_broken_can_be_made_again(tmp_path) -> None:
    """Their own sentence names a command; the app says what it can do, also of one that came from another process."""
    (tmp_path / "statistics.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadStatistics) as told:
        Statistics(tmp_path / "statistics.safetensors")
    with pytest.raises(BadStatistics) as diagonals:
        FisherFile(tmp_path / "statistics.safetensors", "ada/x", {})
    for error, code in ((told.value, "collect-statistics"), (diagonals.value, "collect-fisher")):
        for one in (error, pickle.loads(pickle.dumps(error)), error.retold("Otherwise.")):
            assert "fusehub collect" in one.fix
            assert fix_of(one) == OFFERS[code].words


def test_errors_that_name_an_option_say_by_a_code_what_can_be_done() -> None:
    found = list(told("fusehub"))
    assert len(found) > 30, "the words of errors are found"
    silent = [
        place
        for place, call, options in found
        if not options <= NOT_OF_THE_APP and all(own.arg != "actions" for own in call.keywords)
    ]
    assert silent == []


def test_what_is_wrong_is_said_without_options_which_stand_in_what_to_do() -> None:
    """The app puts words of its own in the place of the one, and shows the other as it is."""
    wrong = []
    for place, call, _ in told("fusehub"):
        said = call.args[2 if _name(call) in ("Finding", "_find") else 0]
        texts = [own.value for own in ast.walk(said) if isinstance(own, ast.Constant) and isinstance(own.value, str)]
        wrong += [place for text in texts if OPTION.search(text)]
    assert wrong == []
    # Nor do findings get such words from elsewhere in a check.
    for path in (ROOT / "fusehub" / "checking").rglob("*.py"):
        tree = ast.parse(path.read_text())
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        inside = {own for call in calls if _name(call) in TOLD | {"incompatible"} for own in ast.walk(call)}
        documents = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in {*ast.walk(tree)} - inside - documents:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not OPTION.search(node.value), f"{path.name}:{node.lineno}"


def test_warnings_that_the_app_shows_beside_scores_name_no_option() -> None:
    calls = [
        node
        for path in (ROOT / "fusehub").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and _name(node) in ("warn", "warning")
        and path.relative_to(ROOT).parts[1] in ("comparing", "data", "models", "hub", "utils")
    ]  # fmt: skip
    texts = [own for call in calls for own in ast.walk(call) if isinstance(own, ast.Constant)]
    said = [own.value for own in texts if isinstance(own.value, str)]
    assert len(said) > 10 and [text for text in said if OPTION.search(text)] == []


def test_errors_of_the_app_itself_name_no_option_and_no_command() -> None:
    assert [place for place, *_ in told("space")] == []
    assert [place for place, *_ in told("space", COMMAND)] == []


def test_what_is_typed_on_a_command_line_is_not_what_the_app_says() -> None:
    """How one logs in is said by the app, and of the rest the sentences stay that name no command."""
    shown = html.problem(
        NotFound("No such model.", "Look for a typo. See `hf repos list`.\nAsk its owner.", log_in=True)
    )
    assert "Look for a typo." in shown and "Ask its owner." in shown and html.esc(LOG_IN) in shown
    assert "`" not in shown and "hf" not in shown
    texts = [
        own.value
        for _, node, _ in told("fusehub", COMMAND)
        for own in ast.walk(node)
        if isinstance(own, ast.Constant) and isinstance(own.value, str) and own.value.endswith(".")
    ]
    assert len(texts) > 8, "the words of errors are found"
    assert [text for text in texts if COMMAND.search(fix_of(FuseHubError("What.", text)))] == []


@pytest.mark.parametrize("code", ACTIONS)
def test_every_action_is_said_in_words_of_the_app(code: str) -> None:
    action = Action(code, ("a/b", "c/d"))
    error = BadRecipe("It cannot be.", "Say --base MODEL, or `fusehub collect`.", actions=[action])
    shown = html.problem(error)
    assert "--" not in shown and "fusehub" not in shown and html.esc(OFFERS[code].words) in shown
    button = f'data-act="{code}" data-id="a/b\nc/d"' in shown
    assert button == (OFFERS[code].step is not None) == bool(OFFERS[code].label)
    assert pressed(code, "a/b\nc/d") == (action if button else None)


def test_several_errors_keep_what_can_be_done_about_each() -> None:
    base, labels = Action("name-base"), Action("name-labels")
    one, other = BadRecipe("One.", "--base", actions=[base]), BadRecipe("Other.", "--labels", actions=[labels, base])
    assert together([one, other]).actions == (base, labels) == (*one.retold("x").actions, labels)
    assert incompatible([Finding("labels", "error", "Labels.", "--labels", (labels,))]).actions == (labels,)
    assert fix_of(BadRecipe("Plain.", "Do it.", log_in=True), "Sign in.") == "Do it. Sign in."
