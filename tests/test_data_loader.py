"""Batches: each sample once, in an order that seed and epoch decide, whoever asks."""

import signal
from itertools import chain

import pytest
import torch

from snntorch_stbp.errors import StbpError, UsageError
from snntorch_stbp.train.data import (
    ArrayDataset,
    drawn,
    examples,
    make_loader,
    seeded_generator,
)
from snntorch_stbp.train.data.split import every_fifth, hold_out


def numbered(count):
    """A set whose label is the number of the sample."""
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    return ArrayDataset(images.contiguous(), torch.arange(count))


def labels(dataset, **options):
    settings = {"batch_size": 4, "shuffle": True, "seed": 1, "epoch": 0, "drop_last": True}
    loader = make_loader(dataset, **(settings | options))
    batches = [y.tolist() for _, y in loader]
    assert len(loader) == len(batches)
    return batches


def test_batches_are_whole_and_belong_together():
    x, y = next(iter(make_loader(numbered(9), batch_size=4, shuffle=True, seed=0, epoch=0,
                                 drop_last=True)))  # fmt: skip
    assert x.dtype == torch.float32
    assert x.shape == (4, 1, 2, 2)
    assert torch.equal(x[:, 0, 0, 0], y / 255)


def test_order_follows_from_seed_and_epoch_only():
    data = numbered(30)
    torch.manual_seed(0)
    first = labels(data)
    torch.manual_seed(1)
    torch.rand(7)
    assert labels(data) == first
    assert labels(data, workers=1) == first
    assert labels(data, epoch=1) != first
    assert labels(data, seed=2) != first
    assert len({i for batch in first for i in batch}) == 28


class Masks:
    """Samples that say which signals are blocked where they are fetched."""

    def __len__(self):
        return 4

    def __getitems__(self, indices):
        held = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return torch.tensor(indices), torch.tensor([held] * len(indices))


def test_workers_leave_interrupts_to_the_process_that_trains():
    loader = make_loader(
        Masks(), batch_size=2, shuffle=False, seed=0, epoch=0, workers=1, drop_last=False
    )
    assert [held.tolist() for _, held in loader] == [[True, True]] * 2
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_global_random_state_is_left_alone():
    state = torch.get_rng_state()
    labels(numbered(10))
    assert torch.equal(torch.get_rng_state(), state)


def test_resumed_epoch_goes_on_with_the_same_batches():
    data = numbered(30)
    for start in range(8):
        assert labels(data, start_step=start) == labels(data)[start:]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_take_contiguous_slices_of_the_same_global_batches(world):
    data = numbered(30)
    shares = [labels(data, batch_size=8, rank=r, world_size=world) for r in range(world)]
    joined = [list(chain(*parts)) for parts in zip(*shares, strict=True)]
    assert joined == labels(data, batch_size=8)


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 3, 16, 17, 30])
def test_evaluation_covers_everything_exactly_once(world, count):
    seen = []
    for rank in range(world):
        share = labels(numbered(count), batch_size=8, shuffle=False, drop_last=False, rank=rank,
                       world_size=world)  # fmt: skip
        assert all(share)
        seen += chain(*share)
    assert sorted(seen) == list(range(count))


def test_evaluation_is_in_order():
    batches = labels(numbered(10), shuffle=False, drop_last=False)
    assert list(chain(*batches)) == list(range(10))


def test_training_ranks_keep_in_step_on_a_small_last_batch():
    for count in (17, 18, 21):
        steps = {
            len(labels(numbered(count), drop_last=False, rank=r, world_size=4)) for r in range(4)
        }
        assert len(steps) == 1


def test_wrong_sizes_are_errors():
    data = numbered(6)
    with pytest.raises(UsageError, match=r"A batch of 7 is larger than the 6 training samples"):
        labels(data, batch_size=7)
    with pytest.raises(UsageError, match=r"4 cannot be shared by 3 processes"):
        labels(data, world_size=3)
    with pytest.raises(UsageError, match=r"at least 1, not 0"):
        labels(data, batch_size=0)
    with pytest.raises(StbpError, match=r"Cannot go on at step 2 of an epoch of 1 steps"):
        labels(data, start_step=2)
    assert labels(data, batch_size=7, shuffle=False, drop_last=False) == [list(range(6))]


def test_generators_differ_by_every_part_of_their_key():
    keys = [(0,), (0, 0), (1, 0), (0, 1), (2**32, 1), (-1,), (1, 2, 3)]
    draws = {float(torch.rand((), generator=seeded_generator(*key), dtype=torch.float64))
             for key in keys}  # fmt: skip
    assert len(draws) == len(keys)


def test_hold_out_is_stratified_and_seeded():
    y = torch.tensor([0] * 50 + [1] * 30 + [2] * 20 + [3])
    kept, held = hold_out(y, 0.1, seed=0)
    assert sorted(torch.cat([kept, held]).tolist()) == list(range(101))
    assert torch.bincount(y[held], minlength=4).tolist() == [5, 3, 2, 0]
    assert torch.equal(hold_out(y, 0.1, seed=0)[1], held)
    assert not torch.equal(hold_out(y, 0.1, seed=1)[1], held)


def test_hold_out_leaves_every_class_a_sample():
    y = torch.arange(10).repeat_interleave(torch.tensor([1, 1, 1, 1, 1, 1, 1, 1, 1, 11]))
    kept, held = hold_out(y, 0.5, seed=0)
    assert set(y[kept].tolist()) == set(range(10))
    assert len(held) < 10 == round(20 * 0.5)


def test_hold_out_refuses_what_it_cannot_do():
    y = torch.tensor([0, 1, 2])
    for fraction in (0.0, 1.0, -1.0):
        with pytest.raises(UsageError, match=r"between 0 and 1"):
            hold_out(y, fraction, seed=0)
    with pytest.raises(StbpError, match=r"leaves none for validation; validate on the test set"):
        hold_out(y, 0.9, seed=0)
    with pytest.raises(StbpError, match=r"validation; use a larger fraction, or validate on the"):
        hold_out(torch.tensor([0, 0, 1, 1]), 0.1, seed=0)


def test_every_fifth_of_each_class():
    train, test = every_fifth(torch.tensor([0, 1] * 10))
    assert test.tolist() == [8, 9, 18, 19]
    assert len(train) == 16


def test_samples_are_drawn_without_replacement_and_always_the_same():
    dataset = numbered(100)
    state = torch.get_rng_state()
    part = drawn(dataset, 20)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(part) == len(set(part.labels.tolist())) == 20
    assert max(part.labels) > 60  # and not the first ones
    assert torch.equal(part.labels, drawn(dataset, 20).labels)
    assert torch.equal(part.labels, drawn(dataset, 30).labels[:20])
    assert sorted(drawn(dataset, 1000).labels.tolist()) == list(range(100))
    images = examples(dataset, 20)
    assert images.shape == (20, 1, 2, 2)
    assert torch.equal((images[:, 0, 0, 0] * 255).round().long(), part.labels)
