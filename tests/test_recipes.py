"""Recipes: one for every model and data set, and each of them can be run."""

import dataclasses

import pytest
import torch

from snntorch_stbp import Leaky, surrogate, zoo
from snntorch_stbp.errors import UsageError
from snntorch_stbp.train.build import build_data, build_model
from snntorch_stbp.train.catalog import AUGMENTATIONS, DATASETS
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.train.optimizer import learning_rate
from snntorch_stbp.zoo.recipes import RECIPES

PAIRS = [(model, dataset) for model in zoo.list_models() for dataset in DATASETS]


def test_every_model_has_a_recipe_for_every_data_set_that_makes_a_valid_run():
    for model, dataset in PAIRS:
        recipe = zoo.recipe(model, dataset)
        spec = dataset + ":x" * DATASETS[dataset].takes_path
        config = RunConfig.from_recipe(model, spec)  # checks names and ranges
        assert config.steps == recipe.num_steps
        assert {name.partition(":")[0] for name in recipe.augment} <= set(AUGMENTATIONS)
        assert recipe.warmup_epochs < recipe.epochs


def test_images_are_large_enough_for_the_model():
    for model, dataset in PAIRS:
        size = DATASETS[dataset].size
        least = zoo.info(model).min_size
        given = zoo.recipe(model, dataset).image_size or (min(size) if size else least)
        assert given >= least, (model, dataset)


def test_mirror_images_are_never_made_of_characters():
    for model in zoo.list_models():
        for dataset in ("digits", "mnist", "npz", "nmnist", "dvsgesture"):
            assert "flip" not in zoo.recipe(model, dataset).augment


def test_events_are_learnt_step_by_step():
    for dataset in ("nmnist", "dvsgesture", "cifar10dvs"):
        recipe = zoo.recipe("vgg11_bn", dataset)
        assert recipe.num_steps > 2
        assert recipe.loss == "tet"


def test_rows_name_models_data_sets_and_fields_that_exist():
    rows = {"*", *zoo.list_models()} | {zoo.info(m).family for m in zoo.list_models()}
    fields = {field.name for field in dataclasses.fields(zoo.Recipe)}
    for (row, column, *bits), values in RECIPES.items():
        assert row in rows
        assert column in {"*", *DATASETS}
        assert set(bits) <= {None, "ternary", *range(1, 9)}
        assert set(values) <= fields


def test_rows_for_a_number_of_bits_win_over_those_for_all():
    recipes = {bits: zoo.recipe("mnistnet_bn", "mnist", bits=bits) for bits in (None, 2, 1)}
    assert recipes[1].lr < recipes[2].lr == recipes[None].lr
    assert recipes[None].label_smoothing > recipes[2].label_smoothing == 0
    for bits, recipe in recipes.items():
        config = RunConfig.from_recipe("mnistnet_bn", "mnist", bits=bits)
        assert (config.bits, config.lr, config.augment) == (bits, recipe.lr, recipe.augment)
        assert (config.ema, config.select, config.val_fraction) == (0.998, "last", 0.02)
    assert RunConfig.from_recipe("mnistnet_bn", "mnist", recipe="seed").ema is None


def test_fewer_epochs_have_their_share_of_warm_up_and_light_end():
    def parts(**given):
        config = RunConfig.from_recipe("vgg11_bn", "cifar10", **given)
        return config.epochs, config.warmup_epochs, config.refine_epochs

    assert parts() == (200, 1, 20)
    assert parts(epochs=300) == (300, 1, 20)
    assert parts(epochs=50) == (50, 1, 5)
    assert parts(epochs=5) == (5, 1, 0)
    assert parts(epochs=1) == (1, 0, 0)
    assert parts(epochs=5, warmup_epochs=0, refine_epochs=2) == (5, 0, 2)

    config = RunConfig.from_recipe("vgg11_bn", "cifar10", warmup_epochs=5)
    for expected in ((300, 5, 20), (100, 3, 10), (50, 2, 5), (29, 1, 2)):
        shorter = config.shortened(expected[0])
        assert (shorter.epochs, shorter.warmup_epochs, shorter.refine_epochs) == expected


def test_two_bits_that_start_from_another_run_learn_their_ranges():
    def kind(bits, **given):
        given = {"init_from": "runs/x"} | given
        return RunConfig.from_recipe("resnet18", "cifar10", bits=bits, **given).weight_range

    assert kind(2) == "learned"
    assert kind(2, weight_range="fitted") == "fitted"
    assert kind(2, weight_range="max") == "max"
    assert kind(2, recipe="seed") == "max"
    assert kind(2, frozen_aware=True) == kind(2, fixed_point_aware=True) == "learned"
    assert kind(2, init_from=None) == "fitted"
    assert {kind(bits) for bits in (None, 1, "ternary", 4, 8)} == {"fitted"}


def test_the_recipe_of_the_seed_project_is_what_its_main_does():
    config = RunConfig.from_recipe("resnet18", "cifar10", recipe="seed", bits=8)
    assert (config.optimizer, config.lr, config.momentum) == ("sgd", 1e-3, 0.0)
    assert {learning_rate(config, progress) for progress in (0, 10.5, 199)} == {1e-3}
    assert (config.epochs, config.batch_size, config.augment) == (200, 64, ("flip", "crop"))
    assert (config.readout, config.loss, config.beta, config.threshold) == (
        "rate",
        "cross_entropy",
        0.25,
        0.4,
    )
    assert (config.per_channel, config.weight_range, config.act_bits) == (False, "max", None)
    assert config.surrogate_centre == "zero"
    for model, dataset in PAIRS:
        RunConfig.from_recipe(model, dataset + ":x" * DATASETS[dataset].takes_path, recipe="seed")


def test_the_recipe_of_the_seed_project_reaches_the_network(small_digits):
    config = RunConfig.from_recipe("mnistnet", small_digits, recipe="seed", bits=4)
    net = build_model(config, build_data(config))
    neurons = [m for m in net.modules() if isinstance(m, Leaky)]
    assert {m.spike_grad for m in neurons} == {surrogate.rectangular(1.0, centre=-0.4)}
    linear = [m for m in net.modules() if isinstance(m, torch.nn.Linear)]
    for layer in linear:  # torch's default is uniform in +-1/sqrt(inputs)
        bound = layer.in_features**-0.5
        assert 0.95 * bound < layer.weight.abs().max() <= bound
        assert layer.bias.abs().max() > 0
        step = layer.weight.abs().max() / 7
        expected = (layer.weight / step).round() * step
        torch.testing.assert_close(layer.quant_weight().value, expected)


def test_an_unknown_recipe_is_refused():
    with pytest.raises(UsageError, match=r"no recipe 'sed'.*standard, seed\. Did you mean 'seed'"):
        RunConfig.from_recipe("resnet18", "digits", recipe="sed")
    with pytest.raises(UsageError, match="There is no init 'zero': choose one of threshold, torch"):
        zoo.create("mnistnet", init="zero")


def test_particular_rows_win_over_general_ones():
    assert zoo.recipe("resnet18", "digits").image_size is None
    assert zoo.recipe("vgg16", "digits").image_size == 32
    assert zoo.recipe("vgg16", "digits").batch_size == zoo.recipe("resnet18", "digits").batch_size
    assert zoo.recipe("vgg16", "digits").lr < zoo.recipe("vgg16_bn", "digits").lr
    assert zoo.recipe("resnet18", "unheard-of") == zoo.Recipe()


def test_a_recipe_of_no_model():
    with pytest.raises(
        UsageError, match=r"There is no model 'resnet_18'\. Did you mean 'resnet18'\?"
    ):
        zoo.recipe("resnet_18", "digits")
