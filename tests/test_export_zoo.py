"""Every network of the zoo exports at every precision, in both forms, and verifies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from snntorch_stbp import zoo
from snntorch_stbp.export import to_qonnx
from snntorch_stbp.frozen import freeze

from .nets import digits, make

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")
SIZES = {"nmnistnet": 12, "nmnistnet_bn": 12}


def size(name: str) -> int:
    return max(SIZES.get(name, 8), zoo.info(name).min_size)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [None, 4, 2, "ternary", 1])
@pytest.mark.parametrize("name", zoo.list_models())
def test_exports_and_verifies(tmp_path: Path, name: str, bits: Any) -> None:
    net = freeze(make(name, size=size(name), bits=bits))
    for form in ("unrolled", "step"):
        result = to_qonnx(net, digits(1, size(name)), tmp_path / f"{form}.onnx", form=form)
        assert result.agreement.samples == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in zoo.list_models() if n != "cifarnet_neunorm"])
def test_exports_as_trained_and_verifies(tmp_path: Path, name: str) -> None:
    net = make(name, size=size(name), bits=4)
    for form in ("unrolled", "step"):
        path = tmp_path / f"{form}.onnx"
        result = to_qonnx(net, digits(2, size(name)), path, form=form, as_trained=True, vectors=1)
        assert result.onnxruntime.samples == 2
