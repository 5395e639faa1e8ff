"""Models that stay in memory: the same answers, and no more of them than fit."""

import shutil
import threading
from pathlib import Path

from fusehub.comparing.compare import compare
from fusehub.comparing.model_cache import KeptModels
from fusehub.models.resolve import resolve


def test_kept_models_answer_as_fresh_ones_and_are_loaded_once(experts: list[Path], monkeypatch) -> None:
    from fusehub.comparing import predictor
    from fusehub.data.tasks import task

    models, texts = [str(path) for path in experts()], ["a good film", "a bad plot"]
    fresh = compare(models, texts)
    kept = KeptModels(10**9)
    assert compare(models, texts, kept=kept) == fresh
    # A tokenizer takes longer to load than a small model to answer.
    for module, name in ((predictor, "load_model"), (predictor, "load_tokenizer"), (task, "load_tokenizer")):
        monkeypatch.setattr(module, name, None)
    assert compare(models, texts, kept=kept) == fresh


def test_only_what_fits_is_kept(experts: list[Path]) -> None:
    models = [str(path) for path in experts()]
    kept = KeptModels(1)
    compare(models, ["a good film"], kept=kept)
    assert list(kept._kept) == [models[-1]]


def test_a_model_whose_folder_was_deleted_is_not_kept(experts: list[Path], tmp_path: Path) -> None:
    one, here = experts()
    gone = shutil.copytree(one, tmp_path / "gone")
    kept = KeptModels(10**9)
    compare([str(gone)], ["a good film"], kept=kept)
    shutil.rmtree(gone)
    compare([str(here)], ["a good film"], kept=kept)
    assert list(kept._kept) == [str(here)]


def test_a_model_that_had_to_go_while_it_was_asked_is_not_loaded_beside_itself(experts: list[Path]) -> None:
    one, other = (resolve(str(path)) for path in experts())
    kept, entered = KeptModels(1), threading.Event()

    def ask_again() -> None:
        with kept.predictor(one, "again"):
            entered.set()

    again = threading.Thread(target=ask_again)
    with kept.predictor(one, "one"):
        with kept.predictor(other, "other"):
            pass
        again.start()
        assert not entered.wait(2)
    again.join()
    assert entered.is_set() and not kept._turns
