"""The compiled neuron equals the plain loop, and its absence is no error."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import snntorch_stbp as stbp
from snntorch_stbp import kernels, surrogate
from snntorch_stbp.kernels import cpu, native

from .nets import reset_options
from .test_kernels import CURVES, RESETS, compare, sequence

needs_compiler = pytest.mark.skipif(
    native._compiler() is None, reason="no C compiler: the compiled neuron was not tried"
)


@pytest.fixture
def forgets() -> Iterator[None]:
    """What was found out about compiler and cache is found out anew, and again afterwards."""
    found = (native.library, native._compiler, native._cache_folder)
    for each in found:
        each.cache_clear()
    yield
    for each in found:
        each.cache_clear()


@pytest.fixture
def cache(forgets: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "snntorch-stbp"


@pytest.fixture
def no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise AssertionError("the fused neuron computed, not the compiled one")

    monkeypatch.setattr(cpu, "forward", fail)
    monkeypatch.setattr(cpu, "backward", fail)


@needs_compiler
@pytest.mark.usefixtures("no_fallback")
@pytest.mark.parametrize("output", [False, True])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("spike_grad", CURVES, ids=lambda s: s.curve)
def test_equals_the_loop(spike_grad: surrogate.Surrogate, reset: str, output: bool) -> None:
    for detach in (False, True):
        neuron = stbp.Leaky(
            0.6, 0.4, spike_grad, learn_beta=True, learn_threshold=True, output=output,
            detach_reset=detach, **reset_options(reset),
        )  # fmt: skip
        compare(neuron.double(), sequence(4, 3, 40), backend="compiled")
    for dtype in (torch.float32, torch.bfloat16):
        plain = stbp.Leaky(0.3, 0.4, spike_grad, output=output, **reset_options(reset))
        tolerance = 1e-5 if dtype == torch.float32 else 1e-2
        compare(plain, sequence(4, 3, 40, dtype=dtype), tolerance, backend="compiled")


@needs_compiler
@pytest.mark.usefixtures("no_fallback")
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("steps", [21, 22, 23])
def test_steps_in_stretches_are_steps_in_a_row(steps: int, reset: str) -> None:
    """7 at once, 11 at once, and one after the other: what the state between them carries."""
    neuron = stbp.Leaky(
        0.6, 0.4, surrogate.rectangular(), learn_beta=True, learn_threshold=True, output=True,
        **reset_options(reset),
    )  # fmt: skip
    compare(neuron.double(), sequence(steps, 3, 40), backend="compiled")


@needs_compiler
@pytest.mark.usefixtures("no_fallback")
@pytest.mark.parametrize("channels_last", [False, True])
def test_values_per_channel_in_both_layouts(channels_last: bool) -> None:
    neuron = stbp.Leaky(torch.rand(5), torch.rand(5), learn_beta=True, learn_threshold=True)
    x = sequence(3, 4, 5, 6, 7)
    if channels_last:
        x = x.transpose(2, 4).contiguous().transpose(2, 4)
    compare(neuron.double(), x, backend="compiled")


@needs_compiler
@pytest.mark.parametrize("steps", [1, 2, 16, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_the_fused_neuron_bit_for_bit(steps: int, dtype: torch.dtype) -> None:
    """Many blocks, the last one shorter; the rectangular window needs no function of libm."""
    results = []
    for backend in ("fused", "compiled"):
        x = sequence(steps, 2, 5001, dtype=torch.float32)
        x = x.to(dtype) if not results else results[0][0].detach().clone()
        x.requires_grad_()
        with kernels.backend(backend):
            spikes = stbp.Leaky()(x)
            (spikes * torch.linspace(-1, 1, spikes.numel()).view(spikes.shape)).sum().backward()
        results.append((x, spikes, x.grad))
    for fused, ours in zip(*results, strict=True):
        assert torch.equal(fused, ours)


def test_half_precision_without_a_kernel_is_computed_by_the_fused_one() -> None:
    x = sequence(4, 3, 40, dtype=torch.float16)
    compare(stbp.Leaky(), x, 1e-2, backend="compiled")


@pytest.mark.usefixtures("forgets")
@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_working_compiler_the_fused_neuron_computes(
    compiler: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if shutil.which("false") is None:
        pytest.skip("no program that fails")
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level("DEBUG", logger=native.__name__):
        compare(stbp.Leaky().double(), sequence(3, 2, 5), backend="compiled")
    assert caplog.records
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    assert not list(tmp_path.rglob("*.so"))


@needs_compiler
def test_libraries_are_kept_where_only_the_user_can_write(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    compare(stbp.Leaky().double(), sequence(3, 2, 5), backend="compiled")
    kept = sorted(cache.iterdir())
    assert [file.suffix for file in kept] == [".so"]  # one: nothing is learned
    assert cache.stat().st_mode & 0o077 == 0

    native.library.cache_clear()
    monkeypatch.setattr(native, "_run", lambda command: pytest.fail("compiled again"))
    compare(stbp.Leaky().double(), sequence(3, 2, 5), backend="compiled")
    assert sorted(cache.iterdir()) == kept

    native._cache_folder.cache_clear()
    os.chmod(cache, 0o777)
    assert native._cache_folder() != cache
    native._cache_folder().rmdir()


@needs_compiler
def test_a_damaged_library_is_compiled_again(cache: Path) -> None:
    """Never loaded, where the process would die of it."""
    cache.mkdir(mode=0o700)
    built = native._build(str(native._compiler()), "bytes", [])
    whole = built.read_bytes()
    for damaged in (b"", whole[:1000], whole[:-1], whole[: len(whole) // 2]):
        built.unlink()  # this process runs it
        built.write_bytes(damaged)
        native.library.cache_clear()
        assert native.library("bytes") is not None
        assert list(cache.iterdir()) == [built]
        assert built.read_bytes() == whole


@needs_compiler
@pytest.mark.usefixtures("cache")
def test_what_cannot_be_loaded_is_compiled_once_more_and_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[list[str]] = []

    def run(command: list[str]) -> None:
        made.append(command)
        Path(command[command.index("-o") + 1]).write_bytes(b"no library")

    monkeypatch.setattr(native, "_run", run)
    assert native.library("bytes") is None
    assert len(made) == 2
