"""Shared by all tests: one thread, one seed, no noise from imports."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side: one process, one core

import numpy as np
import pytest
import torch
from hypothesis import settings
from sklearn.datasets import load_digits

settings.register_profile("project", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the repository; tests that need it skip without it."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the real data sets are not here (../shared/data)")
    return path


@pytest.fixture(scope="session")
def small_digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """320 training and 80 test images of the digits, as an npz data set."""
    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8) / 16 * 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, x_train=x[:320], y_train=y[:320], x_test=x[320:400], y_test=y[320:400])
    return f"npz:{path}"
