"""What other systems have otherwise: calls that Windows lacks, and names that paths have there."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fusehub.data.tables.sources import open_table
from fusehub.errors import NotFound
from fusehub.merging.merge import merge
from fusehub.models.resolve import resolve
from fusehub.models.tensor_files import SafetensorsFile
from fusehub.utils.markdown import without_paths
from fusehub.utils.reach import is_path
from tests.unit.experts import WEIGHTS, recipe_of, run_python, sha256_of


def test_weights_are_read_where_the_system_has_no_preadv(experts, monkeypatch) -> None:
    monkeypatch.delattr(os, "preadv")
    path = experts()[0] / WEIGHTS
    file, expected = SafetensorsFile(path, "expert"), load_file(path)
    # Several threads at once, as a merge reads.
    with ThreadPoolExecutor(8) as threads:
        for name, value in [*zip(expected, threads.map(lambda name: file.read(name, 0, None), expected), strict=True)]:
            assert torch.equal(value, expected[name])
    name = next(name for name, value in expected.items() if value.ndim == 2)
    assert torch.equal(file.read(name, 1, 3), expected[name][1:3])
    file.close()


def test_a_merge_without_preadv_gives_the_same_bytes(experts, tmp_path, monkeypatch) -> None:
    merge(recipe_of(experts(), "regmean"), tmp_path / "with")
    monkeypatch.delattr(os, "preadv")
    merge(recipe_of(experts(), "regmean"), tmp_path / "without")
    assert sha256_of(tmp_path / "with" / WEIGHTS) == sha256_of(tmp_path / "without" / WEIGHTS)


def test_a_merge_takes_the_place_of_an_empty_folder_where_a_rename_cannot(experts, tmp_path, monkeypatch) -> None:
    """As on Windows, where what is renamed may take the place of a file and of nothing else."""
    rename = os.replace

    def replace(source: str, target: str) -> None:
        if Path(target).is_dir():
            raise PermissionError(13, "Access is denied", str(target))
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    (tmp_path / "out").mkdir()
    merge(recipe_of(experts(), "mean"), tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS).is_file()


@pytest.mark.parametrize(
    "name", [r"C:\models\expert", "C:/models/expert", r"models\expert", r"\\host\share", r"d:expert"]
)
def test_paths_of_windows_are_no_names_on_the_hub(name) -> None:
    assert is_path(name)
    with pytest.raises(NotFound, match="There is no folder"):
        resolve(name)
    with pytest.raises(NotFound, match="There is no file or folder"):
        open_table(name)


def test_names_on_the_hub_are_no_paths() -> None:
    for name in ("user/model", "user/model/head@v1.0", "hf://user/model", "https://huggingface.co/user/model", "gpt2"):
        assert not is_path(name)


def test_paths_of_windows_are_cut_from_what_is_published() -> None:
    assert without_paths(r"Merged C:\Users\ann\films and \\host\share\shops, see a\b.") == (
        r"Merged films and shops, see a\b."
    )


def test_the_local_hub_says_where_it_runs_if_it_cannot_run_here(tmp_path) -> None:
    code = (
        "import sys; sys.modules['fcntl'] = None; sys.argv = ['fusehub', 'hub', sys.argv[1], '--port', '0']; "
        "from fusehub.cli.start import main; main()"
    )
    done = run_python(code, tmp_path / "hub", fresh=True)
    assert done.returncode == 1
    assert "needs file locks that this system does not have" in done.stderr and "in WSL" in done.stderr
    assert "--port" not in done.stderr and "Traceback" not in done.stderr
