"""Exact sums leave torch's settings of precision as they were, whichever way they were chosen."""

import subprocess
import sys
import threading

import pytest
import torch

from snntorch_stbp.exact import exact_sums, full_precision

SCRIPT = """
import torch, snntorch_stbp as stbp
from torch import backends, nn
from snntorch_stbp.exact import exact_sums, full_precision

places = (backends, backends.cuda.matmul, backends.cudnn, backends.cudnn.conv,
          backends.mkldnn.matmul, backends.mkldnn.conv)
layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 9))
net = nn.Sequential(stbp.DirectCoding(2), stbp.TimeDistributed(layers), stbp.Leaky()).eval()
x = torch.rand(2, 1, 8, 8)

def settings():
    found = [place.fp32_precision for place in places]
    for read in (torch.get_float32_matmul_precision, lambda: backends.cudnn.allow_tf32):
        try:
            found.append(read())
        except RuntimeError:
            found.append("mixed")
    return found

def set_to(place, value):
    place.fp32_precision = value

for choose in (
    lambda: None,
    lambda: torch.set_float32_matmul_precision("high"),
    lambda: torch.set_float32_matmul_precision("highest"),
    lambda: setattr(backends.cudnn, "allow_tf32", False),
    lambda: setattr(backends.cudnn, "allow_tf32", True),
    lambda: set_to(backends.cuda.matmul, "tf32"),
    lambda: set_to(backends.mkldnn.conv, "bf16"),
    lambda: set_to(backends.cudnn, "tf32"),
    lambda: set_to(backends.cudnn.conv, "ieee"),
    lambda: set_to(backends, "tf32"),
    lambda: set_to(backends, "ieee"),
):
    choose()
    before = settings()
    for block in (full_precision, lambda: exact_sums(x.device)):
        with block():
            inside = [place.fp32_precision for place in places[1:2] + places[3:]]
            assert inside == ["ieee"] * 4, inside
        assert settings() == before, (settings(), before)
    stbp.lower(net)(x)
    assert settings() == before, (settings(), before)
print("all the same")
"""


@pytest.mark.skipif(
    not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9 has one way to choose"
)
def test_what_was_chosen_holds_again() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert run.stdout == "all the same\n", run.stderr


def test_cudnn_is_off_where_sums_are_exact() -> None:
    assert torch.backends.cudnn.enabled
    with exact_sums(torch.device("cpu")):
        assert not torch.backends.cudnn.enabled
    with full_precision():
        assert torch.backends.cudnn.enabled
    assert torch.backends.cudnn.enabled


@pytest.mark.parametrize("block", [full_precision, lambda: exact_sums(torch.device("cpu"))])
def test_what_was_chosen_holds_again_once_the_last_thread_is_done(block):
    """A enters, B enters, A leaves, B leaves."""

    def chosen():
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.enabled

    torch.set_float32_matmul_precision("medium")
    before, b_is_in, a_is_out = chosen(), threading.Event(), threading.Event()

    def other():
        with block():
            b_is_in.set()
            assert a_is_out.wait(10)
            inside.append(torch.get_float32_matmul_precision())

    inside: list[str] = []
    thread = threading.Thread(target=other)
    try:
        with block():
            thread.start()
            assert b_is_in.wait(10)
        a_is_out.set()
        thread.join()
        assert inside == ["highest"]
        assert chosen() == before
    finally:
        torch.set_float32_matmul_precision("highest")
