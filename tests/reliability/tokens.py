"""A marked token on its whole way, and then the search for it: command line, Python and app, with faults and errors.

    python -m tests.reliability.tokens

The token is one of a local Hub, which nobody else has. It goes the whole way three times, given in HF_TOKEN, stored by
a login, and said in Python; with the client's own debugging on, which tells every address that is asked. Then it is
looked for in what was printed, in every file, in the Hub's repos, and in the command lines and environments of all
processes that were started meanwhile.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi

from fusehub.localhub import Running, running
from tests.app.conftest import DATASET, SENTIMENT, fill, serving
from tests.app.processes import Watched
from tests.app.programs import Client
from tests.reliability.report import keep
from tests.unit.experts import relatives, with_statistics

WAYS = ("stored", "HF_TOKEN", "token=")
# What goes wrong on the way; the last is a token that the Hub does not know.
ERRORS = ("nothing", "401", "403", "503", "connections end", "a wrong token")
_MODELS = ("marked/one", "marked/two")
# All commands in one process, which goes on after an error, as a person does.
_RUN = """
import json, sys
import fusehub
from fusehub.cli.main import app
for name, arguments, said in json.load(sys.stdin):
    try:
        if name:
            getattr(fusehub, name)(*arguments, **said)
        else:
            app(arguments)
    except fusehub.FuseHubError as error:
        print(error, file=sys.stderr)
    except SystemExit as end:
        print("exit", end.code, file=sys.stderr)
"""


@dataclass(frozen=True)
class Told:
    """One way with what went wrong on it; where the token was `found`; and what shows that the way was gone."""

    what: str
    looked: int
    found: list[str]
    log: str = ""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="fusehub-tokens-") as folder:
        told = [*command_line(Path(folder)), *in_app(Path(folder))]
    rows = [(one.what, one.looked, ", ".join(one.found) or "nowhere") for one in told]
    keep("tokens", "python -m tests.reliability.tokens", ("the way", "files, addresses and processes", "found"), rows)
    if any(one.found for one in told):
        raise SystemExit("The token was found.")


def command_line(folder: Path, ways: Sequence[str] = WAYS, errors: Sequence[str] = ERRORS) -> Iterator[Told]:
    """Each way that a token is given, with each error."""
    with running(folder / "cli-hub") as hub:
        _publish(hub, folder)
        for way in ways:
            for number, error in enumerate(errors):
                place = folder / f"{way.strip('=')}-{number}"
                place.mkdir()
                yield _walk(hub, place, way, error)


def _publish(hub: Running, folder: Path) -> None:
    """Two private models with statistics, and private data."""
    api = HfApi(endpoint=hub.url, token=hub.token("marked"))
    for repo, path in zip(_MODELS, with_statistics(relatives(folder / "experts")), strict=True):
        (path / "README.md").write_text("---\nlicense: apache-2.0\nbase_model: marked/base\n---\n")
        api.create_repo(repo, private=True)
        api.upload_folder(repo_id=repo, folder_path=path)
    api.create_repo("marked/texts", repo_type="dataset", private=True)
    rows = b"text,label\na good film,positive\nan awful plot,negative\n"
    api.upload_file(repo_id="marked/texts", repo_type="dataset", path_in_repo="test.csv", path_or_fileobj=rows)


def _walk(hub: Running, place: Path, way: str, error: str) -> Told:
    secret = hub.token("marked") if error != "a wrong token" else "hf_" + "WrongAndMarked" * 2
    home, temporary = place / "home", place / "tmp"
    home.mkdir()
    temporary.mkdir()
    environment = hub.env(home=home) | {"TMPDIR": str(temporary)}
    environment |= {"HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug", "TRANSFORMERS_VERBOSITY": "debug"}
    environment.pop("HF_TOKEN", None)
    allowed: set[str] = set()
    if way == "HF_TOKEN":
        environment["HF_TOKEN"] = secret
        allowed = {f"HF_TOKEN={secret}"}  # That process was given it; it starts no other.
    elif way == "stored":
        (home / "token").write_text(f"{secret}\n")
    (hub.root / "faults.json").write_text(json.dumps(_faults(error)))
    log = place / "log.txt"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", _RUN], cwd=place, env=environment, stdin=subprocess.PIPE, stdout=out, stderr=out
        )
        with Watched(process.pid) as watched:
            steps = _in_python(place, secret) if way == "token=" else _commands(place)
            process.communicate(json.dumps(list(steps)).encode())
    (hub.root / "faults.json").write_text("[]")
    known = {home / "token", hub.root / "users.json"}
    files = [path for top in (place, hub.root) for path in _files(top) if path not in known]
    said = [line for line in watched.lines if line not in allowed]
    return Told(f"{way}, {error}", len(files) + len(said), _found(secret, files, said), log.read_text())


def _commands(place: Path) -> Iterator[tuple[None, list[str], dict[str, Any]]]:
    out, data = str(place / "merged"), "marked/texts/test"
    for line in (
        ["find", "marked"], ["check", *_MODELS],
        ["collect", _MODELS[0], "--data", data, "--out", str(place / "statistics")],
        ["collect", _MODELS[0], "--data", data, "--out", str(place / "pushed"), "--push"],
        ["merge", *_MODELS, "--method", "regmean", "--out", out], ["compare", *_MODELS, out, "--text", "a good film"],
        ["evaluate", *_MODELS, out, "--data", data], ["publish", out, f"marked/{place.name.lower()}"],
        ["publish", out, "nobody/of-mine"], ["check", _MODELS[0], "nobody/nothing"],
    ):  # fmt: skip
        yield None, line, {}


def _in_python(place: Path, secret: str) -> Iterator[tuple[str, list[Any], dict[str, Any]]]:
    out, data, token = str(place / "merged"), "marked/texts/test", {"token": secret}
    yield "check", [list(_MODELS)], token
    yield "collect", [_MODELS[0], data, str(place / "statistics")], token
    yield "merge", [list(_MODELS), out], {"method": "regmean"} | token
    yield "compare", [[*_MODELS, out], ["a good film"]], token
    yield "evaluate", [[*_MODELS, out], {"texts": data}], token
    yield "publish", [out, f"marked/{place.name.lower()}"], token


def _faults(error: str) -> list[dict[str, Any]]:
    """Each second answer or so is what the error says."""
    if error.isdigit():
        what: dict[str, Any] = {"do": "status", "status": int(error)}
    elif error == "connections end":
        what = {"do": "cut", "after": 10}
    else:
        return []
    return [{"path": ".*", "skip": skip, "count": 2, **what} for skip in range(3, 90, 5)]


def in_app(folder: Path) -> Iterator[Told]:
    """A signed-in visitor's token, and one that the Hub does not know, by every endpoint of a Space."""
    with running(folder / "app-hub") as hub:
        fill(hub, folder / "app-experts")
        for error, secret in (("nothing", hub.token("ada")), ("a wrong token", "hf_" + "WrongAndMarked" * 2)):
            place = folder / f"app-{error.replace(' ', '-')}"
            place.mkdir()
            with serving(hub, place, SPACE_ID="ada/fusehub") as app, Watched(app.process.pid) as watched:
                told = "\n".join(_asked(app.url, secret))
            files = [path for top in (place, hub.root) for path in _files(top) if path.name != "users.json"]
            found = _found(secret, files, [*watched.lines, told])
            yield Told(f"app, {error}", len(files) + len(watched.lines), found, told)


def _asked(url: str, secret: str) -> Iterator[str]:
    """What the app says to one who is signed in, and then what it says to a stranger."""
    own = Client(url, oauth_token=secret)
    models = ["ada/secret-sentiment", SENTIMENT[1]]
    merged = {"name": "mean@none"}
    calls: dict[str, Callable[[], Any]] = {
        "find": lambda: own.predict(query="sentiment", api_name="/find"),
        "check": lambda: own.predict(models=models, api_name="/check"),
        "recommend": lambda: own.predict(models=models, api_name="/recommend"),
        "statistics": lambda: own.predict(model=models[0], texts=["fine"] * 3, api_name="/statistics"),
        "merge": lambda: merged.update(own.predict(models=models, method="mean", api_name="/merge")) or merged,
        "compare": lambda: own.predict(models=models, texts=["fine"], api_name="/compare"),
        "evaluate": lambda: own.predict(models=models, data={"x": f"{DATASET}/test"}, limit=2, api_name="/evaluate"),
        "card": lambda: own.predict(merge=merged["name"], api_name="/card"),
        "download": lambda: own.predict(merge=merged["name"], api_name="/download"),
        "push": lambda: own.predict(merge=merged["name"], repo_id="pushed-by-a-program", api_name="/push"),
    }
    for name, call in calls.items():
        try:
            yield f"{name}: {call()}"
        except Exception as error:
            yield f"{name}: {error}"
    for page in ("", "config", "gradio_api/info", "gradio_api/mcp/schema"):
        yield httpx.get(f"{url}{page}").text


def _files(top: Path) -> list[Path]:
    return [path for path in top.rglob("*") if path.is_file() and not path.is_symlink()]


def _found(secret: str, files: Iterable[Path], lines: Iterable[str]) -> list[str]:
    """Where the token is: files by their names, lines by their beginnings."""
    hits = [str(path.name) for path in files if secret.encode() in path.read_bytes()]
    return hits + [line.partition(secret)[0][-60:] for line in lines if secret in line]


if __name__ == "__main__":
    main()
