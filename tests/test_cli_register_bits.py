"""`--register-bits`: wider integers, where graphs of float32 are not what they are for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .runs import call

SIMPLE = ("--fixed-point", "--arithmetic", "simple")


@pytest.fixture(scope="module")
def run(small_digits: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A network with a long memory, whose decay is no binary fraction."""
    out = tmp_path_factory.mktemp("runs")
    code, output = call(
        "train", "mnistnet_bn", "--dataset", small_digits, "--beta", "0.97", "--threshold", "1",
        "--steps", "12", "--bits", "8", "--epochs", "2", "--device", "cpu", "--quiet", "--out",
        str(out),
    )  # fmt: skip
    assert code == 0, output
    return output.strip().splitlines()[-1]


def test_more_of_them_change_fewer_spikes(run: str) -> None:
    code, output = call("evaluate", run, *SIMPLE)
    assert code == 1
    assert "more than the 24 that are exact here: use fewer weight bits, or more bits" in output
    assert "(--register-bits 30, for C and folders)" in output
    shares = []
    for bits in ("27", "31"):
        code, output = call("evaluate", run, *SIMPLE, "--register-bits", bits, "--json")
        assert code == 0, output
        shares.append(json.loads(output.splitlines()[-1])["spikes_differ"])
    assert shares[1] < shares[0]
    assert shares[1] < 0.01


def test_folders_and_c_hold_them(run: str, tmp_path: Path) -> None:
    for kind in ("folder", "c"):
        code, output = call(
            "export", run, *SIMPLE, "--format", kind, "--register-bits", "30", "--verify", "2",
            "--output", str(tmp_path / kind),
        )  # fmt: skip
        assert code == 0, output
        assert "of 2 test samples in" in output
    text = json.loads((tmp_path / "folder" / "network.json").read_text())
    assert text["settings"]["register_bits"] == "30"
    assert text["metadata"]["command"].endswith("--arithmetic simple --register-bits 30")
    widest = max(stage["registers"]["membrane"]["bits"] for stage in text["stages"])
    assert 24 < widest <= 31
    verify = ("verify", str(tmp_path / "folder"), "--run", run, "--samples", "2")
    assert call(*verify)[0] == 0
    text["settings"]["register_bits"] = "99"
    (tmp_path / "folder" / "network.json").write_text(json.dumps(text))
    code, output = call(*verify)
    assert (code, "names registers of '99' bits, not of 16 to 31." in output) == (1, True), output


@pytest.mark.parametrize(("arguments", "message"), [
    (["export", "--fixed-point"], "is for --format folder and --format c: graphs hold 24 bits exa"),
    (["export", "--format", "c"], "--format c writes integers: it needs --fixed-point"),
    (["export", "--format", "nir"], "--register-bits is for other formats: --format nir, which wr"),
    (["evaluate"], "--register-bits are those of integers: it needs --fixed-point"),
    (["evaluate", "--frozen"], "--register-bits are those of integers: it needs --fixed-point"),
])  # fmt: skip
def test_usage_errors(run: str, arguments: list[str], message: str) -> None:
    command, *others = arguments
    code, output = call(command, run, *others, "--register-bits", "30")
    assert (code, message in output) == (2, True), output
