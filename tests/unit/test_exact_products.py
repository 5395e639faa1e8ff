"""Grams of bfloat16 are exact sums in float32, whatever instructions make them, and nobody else's products change."""

import pytest
import torch

from fusehub.statistics.grams import GramSum, unpack
from fusehub.utils.products import _precision_setting
from tests.unit.experts import run_python


def gram(rows: torch.Tensor) -> torch.Tensor:
    sums = GramSum(rows.shape[1])
    for part in rows.split(100):
        sums.add(part)
    return unpack(sums.packed(), sums.size)


def test_a_gram_of_bfloat16_is_as_exact_as_one_of_float32():
    rows = (torch.randn(300, 600, generator=torch.Generator().manual_seed(0)) * 3).bfloat16()
    wanted = rows.double().T @ rows.double()
    far = (gram(rows) - wanted).abs().max() / wanted.abs().max()
    assert far < 1e-6
    # Of numbers that bfloat16 does not hold nothing is lost either.
    others = rows.float() + 1e-3
    wanted = others.double().T @ others.double()
    assert (gram(others) - wanted).abs().max() / wanted.abs().max() < 1e-6


# In a process of its own: that of the tests may have other threads.
SWITCH = """
import threading, torch
from fusehub.utils.products import exact_products
setting, narrow = torch.backends.mkldnn.matmul, torch.zeros(1, dtype=torch.bfloat16)
said = [setting.fp32_precision]
try:
    with exact_products(narrow):
        said.append(setting.fp32_precision)
        raise ValueError
except ValueError:
    said.append(setting.fp32_precision)
with exact_products(narrow.float()):
    said.append(setting.fp32_precision)
done = threading.Event()
other = threading.Thread(target=done.wait)
other.start()
with exact_products(narrow):
    said.append(setting.fp32_precision)
done.set()
print(said)
"""


@pytest.mark.skipif(_precision_setting() is None, reason="this processor, or this torch, has no such instructions")
def test_the_switch_is_turned_back_and_not_touched_while_other_threads_are_alive():
    assert run_python(SWITCH).stdout == "['none', 'bf16', 'none', 'none', 'none']\n"
