"""Experts with statistics, made once a session and never written to."""

import os

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import pytest

from tests.unit.experts import relatives, with_statistics


@pytest.fixture(scope="session")
def experts(tmp_path_factory):
    """`experts("gpt2")`: folders of two experts with statistics; their base lies beside them, as `base`."""
    made = {}

    def make(arch="bert", **options):
        key = repr((arch, sorted(options.items())))
        if key not in made:
            made[key] = with_statistics(relatives(tmp_path_factory.mktemp(arch), arch, **options))
        return made[key]

    return make
