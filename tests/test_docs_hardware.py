"""What docs/hardware.md tells a user to type runs as it stands there, from `train` to hardware."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from snntorch_stbp.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
PYTHON = [code for language, code in BLOCKS if language == "python"]
FINN = [code for language, code in BLOCKS if language == "bash" and "FINN_ROOT" in code]
COMMANDS = [code for language, code in BLOCKS if language == "bash" and code not in FINN]


def run(folder: Path, *command: str) -> str:
    """The output of a command in `folder`, with the tools of this environment."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which the commands of the page were run in their order, and what they said."""
    folder = tmp_path_factory.mktemp("hardware")
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in "".join(COMMANDS).replace("\\\n", "").splitlines():
            program, *arguments = shlex.split(line)
            assert program == "snntorch-stbp"
            done = CliRunner().invoke(main, arguments)
            assert done.exit_code == 0, f"{line}\n{done.output}"
            said.append(done.stdout)
    return folder, "".join(said)


def test_the_commands_train_freeze_export_and_inspect(walk: tuple[Path, str]) -> None:
    folder, said = walk
    assert "as trained" in said
    assert said.count("of 8 test samples in QONNX's executor: all equal") == 2
    assert "of 8 test samples in snnTorch: " in said
    exported = {path.name for path in (folder / "runs/mnistnet-digits-w4-T2-2/export").iterdir()}
    for name in ("hls4ml-step.onnx", "hls4ml-step.step.json", "hls4ml-step.hls4ml.json",
                 "hls4ml-step.samples.npz", "finn-step.onnx"):  # fmt: skip
        assert name in exported
    assert "one of 2 time steps" in said  # of `inspect`


@pytest.mark.slow
def test_the_simulation_in_cpp_is_equal(walk: tuple[Path, str]) -> None:
    said = "".join(run(walk[0], sys.executable, "-c", code) for code in PYTHON)
    assert "36800 spikes and 80 scores: equal" in said


@pytest.mark.slow
def test_the_front_end_of_finn_is_equal(walk: tuple[Path, str]) -> None:
    assert FINN
    if "FINN_ROOT" not in os.environ:
        pytest.skip("FINN is no package: set FINN_ROOT to a checkout to run its front end")
    for code in FINN:
        said = run(walk[0], "bash", "-euo", "pipefail", "-c", code)
        assert "left to the host: 1 Mul 1 Quant" in said


def test_other_blocks_are_not_to_be_run() -> None:
    assert {language for language, _ in BLOCKS} <= {"bash", "python", "console", ""}
