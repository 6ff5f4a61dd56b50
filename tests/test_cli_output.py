"""What the reporters print, for a terminal, a file and a program."""

import io
import json

import click
import pytest
from rich.console import Console

from snntorch_stbp.cli import output, text
from snntorch_stbp.cli.blocks import HEADING, SMALL, start_block
from snntorch_stbp.cli.output import (
    JsonReporter,
    PlainReporter,
    QuietReporter,
    TerminalReporter,
    make_reporter,
)
from snntorch_stbp.cli.text import Column

SUMMARY = {
    "model": "resnet18", "dataset": "digits", "source": "1,797 real images of 8x8 pixels",
    "classes": 10, "train": 1298, "val": 144, "test": 355, "val_name": "held-out 10 % of train",
    "bits": 4, "act_bits": None, "membrane_bits": 6, "input_bits": 8, "steps": 2,
    "device": "cpu", "devices": 1, "precision": "32", "parameters": 12629706, "size_kb": 6204.2,
    "run": "runs/resnet18-digits-w4-T2-1", "epochs": 2, "start_epoch": 1,
}  # fmt: skip
ROW = {
    "epoch": 1, "train_loss": 2.29971, "train_accuracy": 0.1555, "val_loss": 1.924,
    "val_accuracy": 0.9861, "lr": 0.002, "seconds": 75.2, "images_per_second": 2664.3,
    "spike_rate": 0.31012, "best": 1,
}  # fmt: skip
RESULT = {
    "status": "finished", "test_accuracy": 0.9775, "test_loss": 0.1, "best_val_accuracy": 0.9861,
    "best_epoch": 2, "val_name": "held-out 10 % of train", "epochs": 2, "seconds": 192.0,
    "run": SUMMARY["run"], "next": "snntorch-stbp evaluate runs/resnet18-digits-w4-T2-1",
}  # fmt: skip
RESUME = f"snntorch-stbp train --resume {SUMMARY['run']}"


def play(reporter):
    """Send a reporter what a run of two epochs sends."""
    reporter.started(SUMMARY)
    for epoch in (1, 2):
        reporter.epoch_started(epoch, 2, 3)
        for done in (1, 2, 3):
            reporter.step(done, 2.3, 0.15, 2000.0)
        reporter.epoch_ended({**ROW, "epoch": epoch, "best": int(epoch == 1)})
    reporter.finished(RESULT)
    reporter.close()


def test_plain_output_has_a_block_a_line_per_epoch_and_the_next_command(capsys):
    play(PlainReporter())
    assert (
        capsys.readouterr().out
        == f"""\
model    resnet18, 4-bit weights, 8-bit input, 6-bit membranes, 2 time steps
data     digits, 1,797 real images of 8x8 pixels
         1,298 to train, 144 to validate (held-out 10 % of train), 355 to test; 10 classes
device   cpu, 32-bit floats
size     12,629,706 parameters, 6,204 KB at these bits
run      runs/resnet18-digits-w4-T2-1
note     {SMALL}

  epoch       loss       acc  val loss   val acc   images/s  spikes  time
   1/2      2.2997   15.55 %    1.9240   98.61 %*     2,664   0.310  1 min 15 s
   2/2      2.2997   15.55 %    1.9240   98.61 %      2,664   0.310  1 min 15 s

test accuracy: 97.75 %
validation (held-out 10 % of train): 98.61 % at epoch 2
trained for 3 min 12 s; all of it is in runs/resnet18-digits-w4-T2-1
next: snntorch-stbp evaluate runs/resnet18-digits-w4-T2-1
"""
    )


def test_a_terminal_of_80_columns_gets_the_same_lines_and_a_bar(monkeypatch):
    reporter = TerminalReporter()
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(reporter.progress.live, "console", console)
    monkeypatch.setattr(output, "terminal_width", lambda: 80)
    reporter.started(SUMMARY)
    reporter.epoch_started(1, 200, 4)
    reporter.step(1, 2.3, 0.1555, 12345.6)
    reporter.step(2, 1.25, 0.1555, 12345.6)
    bar = Console(file=io.StringIO(), width=80, color_system=None)
    bar.print(reporter.progress.get_renderable())
    (line,) = bar.file.getvalue().splitlines()
    assert line.startswith("epoch 1/200 ━")
    assert "loss 1.2500 acc 15.55 % 12,346 images/s 0:00 left" in line
    reporter.epoch_ended(ROW)
    reporter.finished(RESULT)
    shown = console.file.getvalue()
    assert HEADING in shown
    assert "test accuracy: 97.75 %" in shown
    assert reporter.progress.live.is_started is False


def test_the_start_block_fits_the_terminal():
    summary = {**SUMMARY, "source": "found in a folder whose name is " + "long " * 20}
    assert max(map(len, start_block(summary, 80))) <= 80


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bits": None}, "fp32 weights"),
        ({"bits": "ternary"}, "ternary weights"),
        ({"bits": 1}, "1-bit weights"),
        ({"act_bits": 8}, "8-bit currents"),
        ({"steps": 1}, "1 time step"),
        ({"devices": 2}, "cpu x 2"),
        ({"precision": "bf16-mixed"}, "cpu, bf16-mixed"),
    ],
)
def test_the_start_block_tells_the_choices(changes, words):
    assert words in "\n".join(start_block({**SUMMARY, **changes}))


def test_only_digits_are_called_small():
    assert SMALL not in "\n".join(start_block({**SUMMARY, "dataset": "mnist"}))


def test_a_test_set_that_chose_the_checkpoint_is_not_called_a_test(capsys):
    PlainReporter().finished({**RESULT, "test_accuracy": None, "val_name": "test set"})
    shown = capsys.readouterr().out
    assert "best accuracy on the test set: 98.61 % at epoch 2" in shown
    assert "--validate-on-test" in shown
    assert "test accuracy:" not in shown


def test_a_test_set_that_chose_nothing_is_not_said_to(capsys):
    chosen = {"test_accuracy": None, "val_name": "test set", "select": "last"}
    PlainReporter().finished({**RESULT, **chosen})
    shown = capsys.readouterr().out
    assert "accuracy on the test set: 98.61 % at epoch 2, the last one" in shown
    assert "chose" not in shown


@pytest.mark.parametrize("kind", [PlainReporter, TerminalReporter])
def test_an_interruption_says_how_to_go_on(kind, capsys, monkeypatch):
    reporter = kind()
    if kind is TerminalReporter:
        console = Console(force_terminal=False, width=80)
        monkeypatch.setattr(reporter.progress.live, "console", console)
    reporter.message("a notice")
    reporter.interrupted(SUMMARY["run"], 3, 7, RESUME)
    shown = capsys.readouterr().out
    assert "a notice" in shown
    assert "Stopped in epoch 3 after step 7; the state is saved." in shown
    assert f"Go on with: {RESUME}" in shown


def test_json_is_one_object_a_line(capsys):
    reporter = JsonReporter()
    play(reporter)
    reporter.message("a notice")
    reporter.interrupted(SUMMARY["run"], 3, 7, RESUME)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = ["started", "epoch", "epoch", "finished", "message", "interrupted"]
    assert [event["event"] for event in events] == kinds
    assert events[0] == {"event": "started", **SUMMARY}
    assert events[1] == {"event": "epoch", **ROW}
    assert events[3] == {"event": "finished", **RESULT}
    assert events[5]["next"] == RESUME


def test_json_has_no_nan():
    data = {"loss": float("nan"), "rows": [{"x": float("inf")}, (1, 2.5)]}
    assert json.loads(text.to_json(data)) == {"loss": None, "rows": [{"x": None}, [1, 2.5]]}


def test_quiet_prints_the_run_folder_only(capsys):
    reporter = QuietReporter()
    play(reporter)
    reporter.interrupted(SUMMARY["run"], 3, 7, RESUME)
    shown = capsys.readouterr()
    assert shown.out == f"{SUMMARY['run']}\n"
    assert shown.err == f"Stopped in epoch 3; go on with: {RESUME}\n"


def test_the_reporter_suits_the_reader(monkeypatch):
    assert type(make_reporter(False, False)) is PlainReporter
    assert type(make_reporter(True, False)) is QuietReporter
    assert type(make_reporter(False, True)) is JsonReporter
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert type(make_reporter(False, False)) is TerminalReporter
    monkeypatch.setenv("TERM", "dumb")
    assert type(make_reporter(False, False)) is PlainReporter


@pytest.mark.parametrize(
    ("seconds", "words", "clock"),
    [(0.44, "0.4 s", "0:00"), (41.2, "41 s", "0:41"), (192, "3 min 12 s", "3:12"),
     (7500, "2 h 05 min", "2:05:00"), (59.7, "1 min 00 s", "1:00")],
)  # fmt: skip
def test_durations(seconds, words, clock):
    assert text.duration(seconds) == words
    assert text.clock(seconds) == clock


def test_a_narrow_terminal_loses_the_spare_columns():
    columns = [Column("run"), Column("model", spare=1), Column("note", spare=2), Column("n", True)]
    rows = [["a", "mnistnet", "x" * 20, "1"], ["bcd", "vgg11", "y", "10"]]
    wide = text.table(columns, rows)
    assert wide[0] == "run  model     note                   n"
    assert wide[1] == "a    mnistnet  xxxxxxxxxxxxxxxxxxxx   1"
    assert text.table(columns, rows, 20) == [
        "run  model      n",
        "a    mnistnet   1",
        "bcd  vgg11     10",
    ]
    assert text.table(columns, rows, 3)[0] == "run   n"


def test_cells_of_a_table_are_one_line_each():
    rows = [["\x1b[2Jrun\nfake", "Zürich"], ["b\r", "雪"]]
    assert text.table([Column("run"), Column("at")], rows)[1:] == [
        "?[2Jrun?fake  Zürich",
        "b?            雪",
    ]


def test_an_empty_table_is_its_heading():
    assert text.table([Column("run"), Column("n")], []) == ["run  n"]


def test_output_to_a_file_has_no_colours(capsys):
    text.print_table([Column("run")], [["x"]])
    shown = capsys.readouterr().out
    assert shown == click.unstyle(shown) == "run\nx\n"


@pytest.mark.parametrize("width", [1, 7, 8, 20])
def test_a_terminal_of_few_columns_wraps_errors(width):
    lines = text.paragraph("Error:", "there is no run folder 'x'; look with `runs`.", 7, width)
    assert lines == ["Error: there is no run", "       folder 'x'; look", "       with `runs`."]
