"""What docs/own-networks.md shows runs as it stands there, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from snntorch_stbp.zoo import registry

PAGE = Path(__file__).resolve().parents[1] / "docs" / "own-networks.md"


@pytest.mark.filterwarnings("ignore::DeprecationWarning:qonnx")
def test_the_page_is_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.setattr(registry, "_REGISTERED", {})
    exec(compile("\n".join(blocks), str(PAGE), "exec"), {"__name__": "page"})
    printed = capsys.readouterr().out
    first, second = re.findall(r"([\d.]+)% of the last 297 digits", printed)
    assert float(first) > 85
    assert float(second) > 90
    (integers,) = re.findall(r"([\d.]+)% as integers", printed)
    assert abs(float(integers) - float(first)) < 2
    assert "samples=100" in printed
    assert "torch.Size([4, 5, 10])" in printed
    assert {"net.onnx", "net.samples.npz", "net.step.json", "net.hls4ml.json", "net-c99"} == {
        path.name for path in tmp_path.iterdir()
    }
