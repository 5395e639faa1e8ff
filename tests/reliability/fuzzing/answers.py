"""What came of the questions about one changed repo: what was refused or noted, and what must not be."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeVar

import yaml

from fusehub.errors import BadFile, BadStatistics, FuseHubError, NonFinite
from tests.reliability.fuzzing.text_changes import yaml_of
from tests.reliability.fuzzing.worlds import Repo, World

Result = TypeVar("Result")
# What a merge alone can know: it reads the numbers, and the statistics that go with its method.
_LATE = (NonFinite, BadStatistics)
_LATE_WORDS = ("unrelated weights",)
_OF_A_RECIPE = ("recipe", "option", "model")
_WORD = re.compile(r'\w{3,}|""')


@dataclass
class Defect:
    """Something that must not be: its kind, the question, what was said, and where in the code it came from."""

    kind: str
    step: str
    said: str
    where: str = ""


@dataclass
class Asked:
    """The questions about one changed copy, `folder`, in a place of its own, and what came of them."""

    world: World
    repo: Repo
    folder: Path
    random: Random
    changes: Sequence[tuple[str, str]] = ()
    """The files that were changed, each with what was done."""
    method: str | None = None
    """How it is merged; drawn where nothing is said."""
    thorough: bool = True
    """Whether the model is compared and its statistics are collected; else one of both, which is drawn."""
    refused: list[str] = field(default_factory=list)
    late: bool = False
    """Whether something was refused that only who reads all numbers can know."""
    noted: list[str] = field(default_factory=list)
    defects: list[Defect] = field(default_factory=list)

    @property
    def place(self) -> Path:
        return self.folder.parent

    def step(self, name: str, work: Callable[[], Result]) -> Result | None:
        """What a question gave; None where it was refused in words, or went wrong."""
        try:
            return work()
        except FuseHubError as error:
            self.refused.append(f"{name}: {error}")
            self.late |= isinstance(error, _LATE) or any(word in error.what for word in _LATE_WORDS)
            self._require_words(name, error)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # A panic of Rust is no Exception.
            self.fail("traceback", name, f"{type(error).__name__}: {error}"[:300], _origin(error))
        return None

    def fail(self, kind: str, step: str, said: str, where: str = "") -> None:
        self.defects.append(Defect(kind, step, said, where))

    def _require_words(self, name: str, error: FuseHubError) -> None:
        said = str(error)
        if not error.what.strip() or not error.fix.strip():
            self.fail("no words", name, said)
        elif len(said) > 3000 or "Traceback" in said or " object at 0x" in said:
            self.fail("no words for a person", name, said[:300])
        elif not self._is_named(name, error):
            self.fail("does not say what", name, said[:300])

    def _is_named(self, name: str, error: FuseHubError) -> bool:
        """Whether a refusal says what it is of: a changed file, or what that belongs to.

        Where a file is broken, that is its name, or the model's with what was changed inside.
        """
        said = str(error).casefold()

        def has(names: Iterable[str]) -> bool:
            return any(own.casefold() in said for own in names)

        owners = [str(self.place), self.folder.name]
        files = [file.rpartition("/")[2] for file, _ in self.changes]
        inside = {word for _, done in self.changes for word in _WORD.findall(done.partition(": ")[2])}
        if isinstance(error, BadStatistics):
            return has([*files, "statistics", str(self.folder / "fusehub")])
        if isinstance(error, BadFile):
            return has(files) or (has(owners) and has(inside))
        # The texts that a model is asked about may not fit another kind of model, as which a file can make it.
        more = {"recipe": [*_OF_A_RECIPE, *inside], "merged": inside}.get(self.repo.ask, [self.world.texts.name])
        if (file := {"merged": "fusehub_recipe.yaml", "recipe": "recipe.yaml"}.get(self.repo.ask)) and name == "plan":
            # The question is the recipe itself: what it names is told as it is named there.
            more = {*more, *_named_by(self.folder / file)}
        return has([*files, *owners, *more])

    def outcome(self) -> str:
        return "failed" if self.defects else "refused" if self.refused else "noted" if self.noted else "right"


def _named_by(recipe: Path) -> list[str]:
    """What a refusal of a changed recipe may name: its method, in quotes, its options, as `name=`, and what it merges;
    nothing where it is broken."""
    try:
        said = yaml_of(recipe.read_text(encoding="utf-8"))
        entries = [entry if isinstance(entry, dict) else {"model": entry} for entry in said["models"]]
        places = [entry.get(key) for entry in entries for key in ("model", "statistics")] + [said.get("base_model")]
        options = [name for own in (said, *entries) for name in own.get("parameters") or ()]
        return [f"'{said['merge_method']}'", *(f"{name}=" for name in options), *(str(own) for own in places if own)]
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError, AttributeError, RecursionError):
        return []


def _origin(error: BaseException) -> str:
    """The last place in the package that the error passed, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/fusehub/" in frame.filename]
    last = frames[-1]
    place = f"{own[-1].filename.rpartition('/fusehub/')[2]}:{own[-1].name}" if own else "?"
    return f"{place} <- {last.filename.rpartition('/')[2]}:{last.name}"
