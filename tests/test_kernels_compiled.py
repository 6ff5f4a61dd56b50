"""The compiled neuron equals the plain loop, and its absence is no error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import snntorch_stbp as stbp
from snntorch_stbp import surrogate
from snntorch_stbp.kernels import compiled

from .test_kernels import CURVES, RESETS, compare, sequence

needs_compiler = pytest.mark.skipif(
    compiled._compiler() is None, reason="no C++ compiler: the compiled neuron was not tried"
)


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Afterwards nothing may have fallen back."""
    monkeypatch.setattr(compiled, "_failed", False)
    yield
    assert not compiled._failed


@needs_compiler
@pytest.mark.usefixtures("compiles")
def test_compiled_equals_the_loop() -> None:
    neuron = stbp.Leaky(torch.rand(5), 0.4, learn_beta=True, learn_threshold=True)
    compare(neuron.double(), sequence(2, 2, 5, 3, 3), backend="compiled")


@pytest.mark.slow
@needs_compiler
@pytest.mark.usefixtures("compiles")
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("spike_grad", CURVES, ids=lambda s: s.curve)
def test_compiled_equals_the_loop_everywhere(reset: str, spike_grad: surrogate.Surrogate) -> None:
    for detach in (False, True):
        neuron = stbp.Leaky(
            0.6, 0.4, spike_grad, learn_beta=True, learn_threshold=True,
            detach_reset=detach, reset_mechanism=reset,
        )  # fmt: skip
        compare(neuron.double(), sequence(4, 3, 40), backend="compiled")
    for dtype in (torch.float32, torch.bfloat16):
        plain = stbp.Leaky(0.3, 0.4, spike_grad, reset_mechanism=reset)
        tolerance = 1e-5 if dtype == torch.float32 else 1e-2
        compare(plain, sequence(4, 3, 40, dtype=dtype), tolerance, backend="compiled")


@pytest.mark.parametrize("why", ["no compiler", "it fails"])
def test_without_a_working_compiler_nothing_is_compiled(
    why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("the compiler broke")

    monkeypatch.setattr(compiled, "_failed", False)
    monkeypatch.setattr(compiled, "_compiler", lambda: "g++" if why == "it fails" else None)
    monkeypatch.setattr(compiled, "_compile", fail)
    with caplog.at_level("DEBUG", logger=compiled.__name__):
        compare(stbp.Leaky().double(), sequence(3, 2, 5), backend="compiled")
    assert [r.levelname for r in caplog.records] == ["DEBUG"] * (why == "it fails")
