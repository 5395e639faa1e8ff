"""A Hub with tiny experts of every kind, whose data they can be scored on; taught for two steps here."""

from __future__ import annotations

import json
import os
from dataclasses import replace

from fusehub.demo.kinds import KINDS, data_of, fill, names_of
from fusehub.localhub import running
from tests.unit.at_hub import session


def test_every_kind_has_two_experts_with_statistics_on_data_of_their_own(tmp_path) -> None:
    said: list[str] = []
    kinds = [replace(kind, steps=2) for kind in KINDS]
    with running(tmp_path / "hub") as hub:
        fill(hub, said.append, kinds)
        assert len(said) == len(KINDS)
        fill(hub, said.append, kinds)
        assert all("there already" in line for line in said[len(KINDS) :]), "what is there stays"
        with session(hub, "ada", tmp_path / "home") as fusehub:
            for kind in KINDS:
                checked = json.loads(fusehub("check", *names_of(kind), "--json"))
                assert checked["ok"] and all(model["statistics"] for model in checked["models"]), kind.task
                for data in data_of(kind):
                    seen = json.loads(fusehub("preview", f"{data}/test", *names_of(kind), "--json"))
                    assert seen["ok"] and seen["task"] == kind.task and seen["splits"] == ["train", "test"]
    assert os.environ["HF_HUB_DISABLE_XET"] == "1"
