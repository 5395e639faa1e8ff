"""Answers of the Hub that are broken: JSON of other kinds, and what is no JSON, for every question that is asked.

    with asking(folder) as hub:
        verdict = hub.run(Random(7))

The local Hub is told to answer so; the commands run in a process of their own, against it, with the real client.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx2
from huggingface_hub import HfApi

from fusehub.localhub import running
from fusehub.localhub.faults import FILENAME
from fusehub.merging.merge import merge
from tests.reliability.fuzzing.answers import Defect
from tests.reliability.fuzzing.cases import Verdict
from tests.reliability.fuzzing.json_changes import change_content, change_json_text
from tests.reliability.fuzzing.worlds import TEXTS
from tests.unit.at_hub import Session, session
from tests.unit.experts import recipe_of, relatives, with_statistics

MODELS = ("ann/expert-0", "ann/expert-1")
# Long pauses are a person's patience; an old cache would answer instead of the Hub.
_BEGIN = "import fusehub.hub.wire; fusehub.hub.wire.PAUSES = (0.01, 0.01, 0.01)"
_FORGET = "import shutil; from huggingface_hub.constants import HF_HUB_CACHE; shutil.rmtree(HF_HUB_CACHE, True)"
# What is asked: the path, the method, and the commands that ask it.
_READ, _WRITE = ("check", "merge", "collect", "compare", "inspect"), ("publish", "publish")
_QUESTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "/api/models/ann/expert-0": ("GET", _READ),
    "/api/models/ann/expert-0/revision/{sha}": ("GET", _READ),
    "/api/models/ann/expert-0/auth-check": ("GET", ("check", "merge")),
    "/api/models": ("GET", ("find", "merge")),
    "/api/whoami-v2": ("GET", _WRITE),
    "/api/models/ann/merged-{number}": ("GET", _WRITE),
    "/api/models/ann/merged-{number}/paths-info/{sha}": ("POST", _WRITE),
    "/api/models/ann/merged-{number}/preupload/main": ("POST", _WRITE),
    "/api/models/ann/merged-{number}/commit/main": ("POST", _WRITE),
    "/api/repos/create": ("POST", _WRITE),
    "/api/validate-yaml": ("POST", _WRITE),
    "/ann/merged-{number}.git/info/lfs/objects/batch": ("POST", _WRITE),
    "/ann/expert-0/resolve/.*/config.json": ("GET", _READ),
}
# What those are answered with that are not simply asked.
_USUAL: dict[str, Any] = {
    "paths-info": [
        {"type": "file", "path": "config.json", "oid": "0" * 40, "size": 7, "lfs": {"oid": "0" * 64, "size": 7}}
    ],
    "preupload": {"files": [{"path": "config.json", "uploadMode": "regular", "shouldIgnore": False, "oid": None}]},
    "commit": {"commitUrl": "http://x/ann/x/commit/0", "commitOid": "0" * 40, "hookOutput": "", "success": True},
    "create": {"url": "http://x/ann/x", "name": "ann/x", "id": "0"},
    "validate-yaml": {"errors": [], "warnings": []},
    "batch": {"transfer": "basic", "objects": [{"oid": "0" * 64, "size": 7, "actions": {"upload": {"href": "http://x/"}}}]},
    "config.json": {"architectures": ["BertForSequenceClassification"], "model_type": "bert"},
    "auth-check": {},
}  # fmt: skip


class HubAnswers:
    """A Hub with two experts, and a process that works with it."""

    def __init__(self, folder: Path, server: Any, run: Session) -> None:
        self.folder, self.server, self.run_ = folder, server, run
        self.number = 0
        self.work = folder / "work"
        self.work.mkdir()
        parts = with_statistics(relatives(folder / "models", layers=1, hidden=8))
        api = HfApi(endpoint=server.url, token=server.token("ann"))
        for repo, part in zip(MODELS, parts, strict=True):
            api.create_repo(repo)
            api.upload_folder(repo_id=repo, folder_path=part, commit_message="Model")
        merge(recipe_of(parts, "mean"), folder / "merged")
        (folder / "texts.txt").write_text("\n".join(TEXTS))
        self.sha = api.model_info(MODELS[0]).sha
        run.python(_BEGIN)
        self.usual = json.loads(run("merge", *MODELS, "--method", "mean", "--out", self.work / "out", "--json"))[
            "sha256"
        ]
        shutil.rmtree(self.work / "out")

    def run(self, random: Random) -> Verdict:
        """One broken answer, and the commands that meet it."""
        self.number += 1
        path = random.choice(list(_QUESTIONS))
        method, commands = _QUESTIONS[path]
        body, said = self._broken(random, path)
        place = path.format(sha="[^/]*", number=self.number)
        self._tell([{"path": place, "method": method, "do": "json", "body": body}])
        self.run_.python(_FORGET)
        outcomes, defects = [], []
        for command in random.sample(commands, min(2, len(commands))):
            code, told = self.run_.outcome(*self._arguments(command))
            if code not in (0, 1, 2) or "Traceback" in told:
                defects.append(Defect("traceback", command, told[-600:], _last(told)))
            elif code == 0 and command == "merge" and json.loads(told)["sha256"] != self.usual:
                defects.append(Defect("other numbers than usual", command, told[:200]))
            outcomes.append(f"{command}: {code} {told[:300]}")
        self._tell([])
        for left in [*self.work.glob(".*"), *(own for own in self.work.iterdir() if own.name not in ("out", "made"))]:
            defects.append(Defect("left", "all", left.name))
        for own in self.work.iterdir():
            shutil.rmtree(own)
        refused = any(": 1" in text for text in outcomes)
        outcome = "failed" if defects else "refused" if refused else "right"
        kind = "values" if not said.startswith("text") else "structure"
        return Verdict("Hub", "answer of the Hub", kind, [f"{path}: {said}"], outcome, outcomes, defects)

    def _arguments(self, command: str) -> tuple[object, ...]:
        made = {
            "check": ("check", *MODELS), "find": ("find", "expert"), "inspect": ("inspect", MODELS[0]),
            "merge": ("merge", *MODELS, "--method", "mean", "--out", self.work / "out"),
            "collect": ("collect", MODELS[0], "--data", self.folder / "texts.txt", "--out", self.work / "made"),
            "compare": ("compare", *MODELS, "--text", TEXTS[0]),
            "publish": ("publish", self.folder / "merged", f"merged-{self.number}", "--exist-ok"),
        }  # fmt: skip
        return (*made[command], "--json")

    def _broken(self, random: Random, path: str) -> tuple[str, str]:
        """The text of an answer that is another than the usual one, and what was changed."""
        asked = path.format(sha=self.sha, number=0)
        key = next((key for key in _USUAL if key in path), None)
        if key is None:
            asked = asked.replace("/ann/merged-0", f"/{MODELS[0]}")
            headers = {"Authorization": f"Bearer {self.server.token('ann')}"}
            content = httpx2.get(f"{self.server.url}{asked}", params={"blobs": "true"}, headers=headers).json()
        else:
            content = json.loads(json.dumps(_USUAL[key]))
        if random.random() < 0.75:
            said = change_content(random, content)
            if random.random() < 0.2:
                said += "; " + change_content(random, content)
            return json.dumps(content), said
        file = self.folder / "answer.json"
        file.write_text(json.dumps(content))
        said = change_json_text(random, file)
        return file.read_text(), f"text {said}"

    def _tell(self, faults: list[dict[str, Any]]) -> None:
        plan = self.server.root / FILENAME
        plan.with_suffix(".new").write_text(json.dumps(faults))
        plan.with_suffix(".new").replace(plan)


def _last(told: str) -> str:
    """The last place of the package in a traceback."""
    lines = [line.strip() for line in told.splitlines() if 'File "' in line and "/fusehub/" in line]
    return lines[-1].rpartition("/fusehub/")[2] if lines else ""


@contextmanager
def asking(folder: Path) -> Iterator[HubAnswers]:
    """A Hub and a process for it, for as long as the block lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    with running(folder / "hub") as server:
        server.add_user("ann")
        with session(server, "ann", folder / "ann") as run:
            yield HubAnswers(folder, server, run)
