"""Names of data sets: parsed, suggested and shortened, without torch."""

import re
import subprocess
import sys

import pytest

from snntorch_stbp.errors import UsageError
from snntorch_stbp.train import catalog


def test_torch_is_not_imported():
    code = "import sys, snntorch_stbp.train.catalog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("digits", ("digits", None)),
        ("npz:a/b.npz", ("npz", "a/b.npz")),
        ("folder:c:/images", ("folder", "c:/images")),
    ],
)
def test_parse(spec, expected):
    assert catalog.parse(spec) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mnits", "Unknown data set 'mnits'.*Did you mean 'mnist'"),
        ("MNIST", "Did you mean 'mnist'"),
        ("x/mnist.npz", "Did you mean 'npz:x/mnist.npz'"),
        ("", "Unknown data set ''; choose one of digits, mnist"),
        ("npz", "'npz' needs a path: npz:FILE"),
        ("folder:", "'folder' needs a path: folder:PATH"),
        ("digits:x", "'digits' takes no path"),
    ],
)
def test_wrong_names_are_usage_errors(spec, message):
    with pytest.raises(UsageError, match=message) as caught:
        catalog.parse(spec)
    assert caught.value.exit_code == 2


def test_run_names_are_short_and_safe(tmp_path, monkeypatch):
    assert catalog.run_name("digits") == "digits"
    assert catalog.run_name("npz:../x/mnist.npz") == "npz_mnist"
    assert catalog.run_name("folder:/d/cifar10/") == "folder_cifar10"
    (tmp_path / "my set").mkdir()
    monkeypatch.chdir(tmp_path / "my set")
    assert catalog.run_name("folder:.") == "folder_my_set"
    odd = catalog.run_name("npz:/d/" + "a b$é/"[:5] * 3 + "-" * 60 + "q.npz")
    assert re.fullmatch(r"npz_[A-Za-z0-9_]{1,40}", odd)
    assert catalog.run_name("npz:/d/é.npz") == "npz"


def test_every_entry_is_complete():
    for name, info in catalog.DATASETS.items():
        assert info.name == name
        assert info.source
        assert info.note
        facts = (info.classes, info.channels, info.size, info.train, info.test)
        assert all(f is None for f in facts) if info.takes_path else None not in facts
