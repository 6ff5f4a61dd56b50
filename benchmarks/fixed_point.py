"""The fixed-point network of trained runs in every runtime, on many test images.

    python -m benchmarks.fixed_point RUN [RUN ...] [--images 1000] [--runtimes qonnx c ...]

For each run: torch in float32, QONNX's executor, onnxruntime (graph of the unrolled form) and the C
program against the NumPy reference, spike by spike; and what lowering changed against the trained
network. Prints a row of Markdown per run: spikes and scores that differ, a dash if not asked for.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snntorch_stbp.export import golden
from snntorch_stbp.export.c99 import to_c99
from snntorch_stbp.export.qonnx import fixed
from snntorch_stbp.export.qonnx.frozen import build
from snntorch_stbp.export.verify import onnxruntime_executor, qonnx_executor, verify
from snntorch_stbp.lowering import FixedPointNet, lower
from snntorch_stbp.train.evaluate import load_trained
from snntorch_stbp.train.metrics import spike_record
from snntorch_stbp.train.run.rundir import RunDir

ROWS = 50
RUNTIMES = ("qonnx", "onnxruntime", "c")
COLUMNS = (
    "run", "images", "spikes", "torch", "qonnx", "onnxruntime", "c", "trained", "fixed point",
    "predictions differ", "spikes differ", "bits", "minutes",
)  # fmt: skip


def torch_differences(net: FixedPointNet, samples: torch.Tensor, expected: golden.Golden) -> int:
    """Spikes and scores of the torch module that differ from the reference."""
    record: dict[str, torch.Tensor] = {}
    scores = net(samples, record).sum(0).numpy()
    unit = net.integers.stages[-1].unit.item()
    differing = int((scores != expected["record"] * unit).sum())
    for stage in net.integers.stages:
        if stage.neuron is not None:
            spikes = record[stage.name].transpose(0, 1).numpy()
            differing += int((spikes != expected[f"spikes/{stage.name}"]).sum())
    return differing


def c_differences(net: FixedPointNet, test: Any, count: int, folder: str) -> int | str:
    """Spikes that differ in the C program: none, or `to_c99` raises."""
    samples, _ = test.__getitems__(list(range(count)))
    compiled = to_c99(net, samples, Path(folder) / "c").compiled
    return 0 if compiled else "no compiler"


def measure(path: str, images: int, wanted: list[str]) -> dict[str, Any]:
    """One row."""
    start = time.perf_counter()
    trained = load_trained(RunDir.open(path))
    model, test = trained.model, trained.bundle.test
    net = lower(model)
    count = min(images, len(test)) // ROWS * ROWS
    totals = dict.fromkeys(("spikes", "torch", "changed", "predictions", "right", "ours"), 0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.onnx"
        first, _ = test.__getitems__([0])
        built = build(net, first, form="unrolled", target="generic", batch=ROWS, parts=fixed.PARTS)
        file.write_bytes(built.model.SerializeToString())
        runtimes = {
            "qonnx": qonnx_executor(file),
            "onnxruntime": onnxruntime_executor(file, built.names),
        }
        runtimes = {name: run for name, run in runtimes.items() if name in wanted}
        for start_row in range(0, count, ROWS):
            x, y = test.__getitems__(list(range(start_row, start_row + ROWS)))
            expected = golden.compute(net, x)
            totals["torch"] += torch_differences(net, x, expected)
            for execute in runtimes.values():
                verify(execute, expected, built.names, first=start_row)
            totals["spikes"] += sum(v.size for k, v in expected.items() if k[:7] == "spikes/")
            with torch.no_grad(), spike_record(model) as spikes:
                theirs = model(x).sum(0).argmax(1)
            ours = torch.from_numpy(np.argmax(expected["record"], 1))
            totals["predictions"] += int((ours != theirs).sum())
            totals["right"] += int((theirs == y).sum())
            totals["ours"] += int((ours == y).sum())
            for name, value in spikes.items():
                want = torch.from_numpy(expected[f"spikes/{name}"]).transpose(0, 1)
                totals["changed"] += int((want != value).sum())
        in_c = c_differences(net, test, count, folder) if "c" in wanted else "-"
    return {
        "run": f"{trained.config.model}, {trained.config.bits}",
        "images": count,
        "spikes": f"{totals['spikes']:,}",
        "torch": totals["torch"],
        # `verify` raises at the first difference.
        **{name: 0 if name in runtimes else "-" for name in ("qonnx", "onnxruntime")},
        "c": in_c,
        "trained": f"{100 * totals['right'] / count:.2f} %",
        "fixed point": f"{100 * totals['ours'] / count:.2f} %",
        "predictions differ": totals["predictions"],
        "spikes differ": f"{totals['changed'] / totals['spikes']:.1e}",
        "bits": max(row.largest for row in net.ranges.values()).bit_length(),
        "minutes": f"{(time.perf_counter() - start) / 60:.1f}",
    }


def main() -> None:
    """Print a row of the table for every run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--runtimes", nargs="*", default=RUNTIMES, choices=RUNTIMES)
    arguments = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n| {' | '.join('---' for _ in COLUMNS)} |")
    for run in arguments.runs:
        row = measure(run, arguments.images, arguments.runtimes)
        print(f"| {' | '.join(str(row[column]) for column in COLUMNS)} |", flush=True)


if __name__ == "__main__":
    main()
