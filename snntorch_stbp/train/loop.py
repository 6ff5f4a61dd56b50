"""The training loop, on Lightning Fabric (device, mixed precision, several processes).

Nothing in it depends on anything but the configuration and the state that a checkpoint holds: the
order of the samples follows from (seed, epoch), the augmentation of a batch from (seed, epoch,
step), the learning rate from the position. A run that was killed and resumed therefore ends with
the same weights as one that was not.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from ..frozen import freeze
from ..lowering import FixedPointAware
from ..memory import KeptPages
from ..neuron import Leaky
from ..time import readout
from . import build, optimizer, sources
from .average import WeightAverage
from .config import RunConfig
from .data import DataBundle, augment, make_loader, seeded_generator, upload
from .distill import Teachers
from .graphed import can_capture, capture
from .launch import launch, summary
from .measure import all_sum, measure
from .metrics import Means, best_row, tensorboard
from .objective import Objective
from .run.record import Record
from .run.reporter import Reporter
from .run.rundir import RunDir
from .run.state import TrainState, read_last
from .stop import asked_to_stop

LOOK_EVERY = 20
"""Steps between looks at the loss on an accelerator, where a look waits for the device."""


def fit(
    config: RunConfig, *, out: Path, reporter: Reporter, resume: RunDir | None = None
) -> dict[str, Any]:
    """Train a network as configured, or go on with a run.

    Args:
        config: What to do. With `resume`, the configuration of that run, possibly with other
            `epochs`, `device`, `devices`, `num_nodes`, `workers`, `data_dir`, `download`,
            `compile`, `cuda_graphs`, `save_memory` or `checkpoint_activations`, or with `select`
            changed to `"last"`.
        out: Folder in which the folder of a new run is made.
        reporter: Receives what happens (on the first process only).
        resume: The run to go on with.

    Returns:
        `status`, `test_accuracy` (`None` where the test set chose the checkpoint), `test_loss`,
        `best_val_accuracy`, `best_epoch`, `val_name`, `select`, `epochs`, `seconds` (of training,
        in all sittings), `run`, `next`, `asked_to_stop` (at the test, too late).

    Raises:
        StbpError: If data, checkpoint or folder cannot be used, or the loss diverges.
        Interrupted: If SIGINT or SIGTERM asked the run to stop; its state is saved.
    """
    if resume is None:
        config = sources.inherit(config)
    fabric = launch(config)
    if fabric.global_rank != 0:
        reporter = Reporter()
    with fabric.rank_zero_first():  # one process downloads, the others find the files
        bundle = build.build_data(config, resume)
    if config.workers == 0:
        bundle = bundle.kept_on(fabric.device)
    torch.manual_seed(config.seed)
    model = build.build_model(config, bundle)
    if config.init_from and not (resume and (resume.path / "last.pt").is_file()):
        build.init_from(model, config.init_from, config)
    teachers = None
    if config.teacher and not (resume and resume.finished(config.epochs)):
        teachers = Teachers(config, bundle, fabric.device)
    augment.make(config.augment, bundle.image_size)  # this and the next refuse what does not fit
    _epoch_loader(fabric, config, bundle)  # before a folder is made
    path = resume.path if resume else None
    if path is None and fabric.global_rank == 0:
        path = RunDir.create(Path(out), config).path
    run = RunDir(Path(str(fabric.broadcast(path))), config)
    with run.locked() if fabric.global_rank == 0 else nullcontext():
        if resume and fabric.global_rank == 0:
            resume.check_unchanged()
        trainer = _Trainer(
            fabric, config, bundle, model, teachers, run, reporter, resuming=bool(resume)
        )
        return trainer.run_all()


class _Trainer:
    """The state of a run in this process: what a checkpoint holds, and what it is built from."""

    def __init__(
        self,
        fabric: Fabric,
        config: RunConfig,
        bundle: DataBundle,
        model: nn.Module,
        teachers: Teachers | None,
        run: RunDir,
        reporter: Reporter,
        resuming: bool,
    ) -> None:
        self.fabric, self.config, self.bundle = fabric, config, bundle
        self.model, self.run, self.reporter = model, run, reporter
        self.record = Record(run, reporter, writes=fabric.global_rank == 0)
        if fabric.device.type != "mps":  # the layout of matrix units, and faster on CPUs
            self.model.to(memory_format=torch.channels_last)
        last = read_last(run, model) if resuming else None
        # Fabric's wrapper would keep the parameter groups from before a `load_state_dict`: the
        # learning rate and the state go through the optimizer itself.
        self.optimizer = optimizer.build_optimizer(config, self.model)
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        net: Any = self.model
        if config.frozen_aware:
            net = freeze(self.model)
            net.refolds = True
        elif config.fixed_point_aware:
            net = FixedPointAware(self.model)
        if config.compile:
            net = torch.compile(net, dynamic=False)  # batches have a few sizes
        self.unwrapped = net  # computes in float32, whatever the precision of training
        self.net, self.wrapped_optimizer = fabric.setup(net, self.optimizer)
        self.pages = KeptPages(fabric.device.type == "cpu" and not config.save_memory)
        torch.manual_seed(config.seed + fabric.global_rank)
        self.teachers = teachers
        self.to_capture = can_capture(config, fabric.device, fabric.world_size)
        learns = config.learn_beta or config.learn_threshold
        self.learning = [m for m in self.model.modules() if learns and isinstance(m, Leaky)]
        steps = len(_epoch_loader(fabric, config, bundle))
        self.average = WeightAverage(self.model, config.ema) if config.ema else None
        self.state = TrainState(
            fabric, run, self.model, self.optimizer, bundle.classes, steps, self.average
        )
        if last is not None:
            self.state.restore(last)
            self.state.check_end()
        if resuming and fabric.global_rank == 0:
            run.reopen()
        self.state.mend_best()

    def run_all(self) -> dict[str, Any]:
        """All epochs that are left, then the test set."""
        self.reporter.started(
            summary(self.fabric, self.config, self.bundle, self.model, self.run, self.state.epoch)
        )
        self.record.log(f"start at epoch {self.state.epoch} of {self.config.epochs}")
        for text in sources.notices(self.config, self.bundle.class_sizes):
            self.record.notice(text)
        board_path = self.run.path if self.fabric.global_rank == 0 else None
        try:
            with asked_to_stop() as stop:  # a run at its test is finished before it stops
                with tensorboard(board_path, self.state.epoch) as board:
                    self._train(stop, board)
                return {**self._finish(), "asked_to_stop": bool(stop)}
        finally:
            self.state.writer.join()

    def _train(self, stop: list[int], board: Any) -> None:
        """All epochs that are left."""
        while self.state.epoch <= self.config.epochs:
            whole = self._train_epoch(stop)
            if whole:
                self._end_epoch(board)
            else:
                self.state.save()
            left = self.state.epoch <= self.config.epochs
            if left and (not whole or self._anyone_asked(stop)):
                self.state.writer.wait()
                raise self.record.interrupted(self.state)

    def _train_epoch(self, stop: list[int]) -> bool:
        """The steps of this epoch that are left; `False` if asked to stop before its end."""
        state, device = self.state, self.fabric.device
        config = self.config.at(state.epoch)
        self.augment = augment.make(config.augment, self.bundle.image_size)
        self.objective = Objective(config, self.teachers)
        self.reporter.epoch_started(state.epoch, self.config.epochs, state.steps)
        earlier, start = state.seconds, time.perf_counter()
        self.net.train()
        for x, y in _epoch_loader(self.fabric, self.config, self.bundle, state.epoch, state.step):
            x, y = upload(x, device), upload(y, device)
            loss, scores = self._train_step(x, y)
            state.means.update(loss, scores, y)
            state.step += 1
            state.seconds = earlier + time.perf_counter() - start
            last = state.step == state.steps
            if state.step % LOOK_EVERY == 0 or last or device.type == "cpu":
                self.record.step(state, self.fabric.world_size)
            if self._anyone_asked(stop) and not last:
                return False
        return True

    def _train_step(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One step of the optimizer; the loss and the scores `[B, classes]`."""
        config, state, fabric = self.config, self.state, self.fabric
        generator = seeded_generator(config.seed, state.epoch, state.step)
        x = self.augment(x, generator, rank=fabric.global_rank, world_size=fabric.world_size)
        progress = state.epoch - 1 + state.step / state.steps
        optimizer.set_learning_rate(
            self.optimizer.param_groups, optimizer.learning_rate(config, progress)
        )
        self.wrapped_optimizer.zero_grad(set_to_none=True)
        if self.to_capture:
            self.to_capture = False
            self._capture(x)
        loss, record = self.objective(self.net, x, y, generator)
        fabric.backward(loss)
        if config.clip_grad is not None:
            fabric.clip_gradients(
                self.net, self.wrapped_optimizer, max_norm=config.clip_grad,
                error_if_nonfinite=False,  # the scaler leaves such a step out, or the loss tells
            )  # fmt: skip
        self.wrapped_optimizer.step()
        optimizer.keep_in_range(self.learning)
        if self.average:
            self.average.update()
        return loss.detach(), readout(record.detach())

    def _capture(self, x: torch.Tensor) -> None:
        """Let the network train as CUDA graphs, if it can."""
        problem = capture(self.model, x, self.config.precision)
        if problem:
            self.record.notice(f"training without CUDA graphs, which is slower ({problem})")

    def _end_epoch(self, board: Any) -> None:
        """Validate, write the row and the checkpoints, go on to the next epoch."""
        state, sums = self.state, all_sum(self.fabric, self.state.means.sums)
        loss, accuracy, count = Means(torch.device("cpu"), sums.tolist()).read()
        with self.average.applied() if self.average else nullcontext():
            val = self._measure(self.net, self.bundle.val)
        row = {
            "epoch": state.epoch,
            "train_loss": round(loss, 6),
            "train_accuracy": round(accuracy, 6),
            "val_loss": round(val["loss"], 6),
            "val_accuracy": round(val["accuracy"], 6),
            "lr": float(f"{self.optimizer.param_groups[0]['lr']:.4g}"),
            "seconds": round(state.seconds, 2),
            "images_per_second": round(count / max(state.seconds, 1e-9), 1),
            "spike_rate": round(val["spike_rate"], 5),
        }
        best = best_row([*state.history, row], self.config.select) is row
        so_far = self.config.select == "best"  # of `last`, no epoch counts before the end
        row["best"] = int(best and (so_far or state.epoch == self.config.epochs))
        state.next_epoch(row)
        state.save(best=best)
        if len(state.history) == 1:
            state.writer.wait()  # a run that has a row has a checkpoint
        self.record.epoch_ended(state.history, board)
        self.pages.settle()

    def _measure(self, net: nn.Module, part: Any) -> dict[str, Any]:
        return measure(self.fabric, net, self.config, part, self.config.batch_size)

    def _finish(self) -> dict[str, Any]:
        """Test the best weights, as `evaluate` does, and write how the run ended."""
        best = self.state.selected()
        self.state.writer.wait()
        self.record.history(self.state.history)
        result: dict[str, Any] = {
            "status": "finished",
            "test_accuracy": None,
            "test_loss": None,
            "best_val_accuracy": best["val_accuracy"],
            "best_epoch": best["epoch"],
            "val_name": self.bundle.val_name,
            "select": self.config.select,
            "epochs": self.config.epochs,
            "seconds": round(sum(row["seconds"] for row in self.state.history), 1),
        }
        if not self.config.validate_on_test:
            self.state.load_best(best)
            test = self._measure(self.unwrapped, self.bundle.test)
            result |= {"test_accuracy": test["accuracy"], "test_loss": round(test["loss"], 6)}
            result |= {"test_spike_rate": round(test["spike_rate"], 5)}
        return self.record.finished(result)

    def _anyone_asked(self, stop: list[int]) -> bool:
        return bool(all_sum(self.fabric, torch.tensor(float(bool(stop)))))


def _epoch_loader(
    fabric: Fabric, config: RunConfig, bundle: DataBundle, epoch: int = 1, start: int = 0
) -> Any:
    """The training batches of `epoch` for this process, from step `start` on."""
    return make_loader(
        bundle.train,
        batch_size=config.batch_size,
        shuffle=True,
        seed=config.seed,
        epoch=epoch,
        start_step=start,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        workers=config.workers,
        drop_last=True,
    )
