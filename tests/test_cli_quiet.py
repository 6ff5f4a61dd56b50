"""Noise is dropped by name; everything else is still heard."""

import logging
import warnings

import pytest

from snntorch_stbp.cli.quiet import hush


@pytest.fixture(autouse=True)
def _restored():
    """Take the rules away again: other tests want to hear everything."""
    names = (
        "torch.utils.cpp_extension", "matplotlib.font_manager", "lightning_fabric.utilities",
        "lightning_utilities",
    )  # fmt: skip
    loggers = [logging.getLogger(name) for name in names]
    before = [(list(logger.filters), logger.level) for logger in loggers]
    with warnings.catch_warnings():
        yield
    for logger, (filters, level) in zip(loggers, before, strict=True):
        logger.filters[:] = filters
        logger.setLevel(level)


def heard(name: str, level: int, message: str) -> bool:
    """Whether a handler of the logger itself gets the message; torch's may go no further."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    logger.log(level, message)
    logger.removeHandler(handler)
    return message in messages


def test_known_noise_is_dropped():
    hush()
    warnings.warn("fast_hadamard_transform package not found, using ...", stacklevel=1)
    names = "Named tensors and all their associated APIs are an experimental feature and subject to"
    warnings.warn(names, stacklevel=1)
    strides = "Grad strides do not match bucket view strides. This may indicate grad was not"
    warnings.warn(strides, stacklevel=1)
    noise = "No CUDA runtime is found, using CUDA_HOME='/usr/local'"
    assert not heard("torch.utils.cpp_extension", logging.WARNING, noise)
    banner = "Initializing distributed: GLOBAL_RANK: 0, MEMBER: 1/2"
    assert not heard("lightning_fabric.utilities.distributed", logging.INFO, banner)


def test_real_warnings_are_heard():
    hush()
    with pytest.warns(UserWarning, match="something else"):
        warnings.warn("something else", stacklevel=1)
    assert heard("torch.utils.cpp_extension", logging.WARNING, "your compiler is old")
    assert heard("lightning_fabric.utilities.rank_zero", logging.WARNING, "mind this")
    assert heard("torch", logging.ERROR, "broken")


def test_hushing_twice_is_hushing_once():
    hush()
    hush()
    assert len(logging.getLogger("torch.utils.cpp_extension").filters) == 1
