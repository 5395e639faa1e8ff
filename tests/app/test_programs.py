"""The endpoints, from the real `gradio_client`."""

from __future__ import annotations

import pytest
from gradio_client import Client

from tests.app.conftest import SENTIMENT


@pytest.fixture(scope="module")
def client(app):
    return Client(app.url, verbose=False)


def test_a_program_checks_merges_compares_and_evaluates(client: Client, hub, tmp_path) -> None:
    report = client.predict(models=SENTIMENT, api_name="/check")
    assert report["ok"]
    merged = client.predict(models=SENTIMENT, method="regmean", options={"alpha": 0.5}, api_name="/merge")
    assert "alpha: 0.5" in merged["recipe"]
    compared = client.predict(models=[*SENTIMENT, merged["name"]], texts=["a good film"], api_name="/compare")
    assert compared["models"] == ["films-sentiment", "shops-sentiment", "ensemble", "regmean"]


def test_errors_reach_a_program_as_words(client: Client) -> None:
    with pytest.raises(Exception, match="does not exist"):
        client.predict(models=["nobody/nothing", SENTIMENT[0]], api_name="/check")
    with pytest.raises(Exception, match="Did you mean 'regmean'"):
        client.predict(models=SENTIMENT, method="regmaen", options={}, api_name="/merge")


def test_only_the_four_endpoints_are_documented(client: Client) -> None:
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert sorted(named) == ["/check", "/compare", "/evaluate", "/merge"]
    assert all(parameters["parameters"] for parameters in named.values())
