"""A thousand broken repos in every run: the cases of `python -m tests.reliability.fuzz`, drawn by hypothesis.

There are three outcomes: right, refused in words, noted. A case that fails is made smaller first; what is told are the
changes that are left.
"""

import gc
import shutil

import pytest
from huggingface_hub import constants
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from tests.reliability.fuzzing.cases import run, usual
from tests.reliability.fuzzing.watching import install
from tests.reliability.fuzzing.worlds import World

# How many of the thousand each repo has.
CASES = {
    "model": 200, "sharded": 50, "bin": 40, "bins": 30, "adapter": 120, "words": 40, "pairs": 30, "pieces": 20,
    "gpt2": 25, "llama": 25, "t5": 20, "pictures": 30, "merged": 80, "kept": 20, "recipe": 90, "again": 40,
    "rows-data.csv": 25, "rows-data.tsv": 20, "rows-data.jsonl": 25, "rows-data.json": 15, "rows-data.txt": 10,
    "rows-words.txt": 10, "rows-squad.json": 15, "rows-chats.jsonl": 10, "rows-data.parquet": 10,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Off the network: a name that is changed may become one that is looked for on the Hub."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        yield tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def world(place):
    install()
    made = World(place / "world")
    gc.freeze()
    yield made
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@pytest.mark.parametrize("repo", CASES)
def test_broken_repos_are_right_or_refused_in_words_or_noted(world, place, repo) -> None:
    usual(world, place / "usual", repo)

    @settings(
        max_examples=CASES[repo],
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(random=st.randoms(use_true_random=False, note_method_calls=False))
    def case(random) -> None:
        shutil.rmtree(place / "case", ignore_errors=True)
        verdict = run(world, random, place / "case", repo, thorough=False)
        note("\n".join(verdict.changes))
        assert verdict.defects == []

    case()


def test_the_cases_are_a_thousand() -> None:
    assert sum(CASES.values()) == 1000
