"""Recipes: one for every model and data set, and each of them can be run."""

import dataclasses

import pytest

from snntorch_stbp import zoo
from snntorch_stbp.errors import UsageError
from snntorch_stbp.train.catalog import AUGMENTATIONS, DATASETS
from snntorch_stbp.train.config import RunConfig
from snntorch_stbp.zoo.recipes import RECIPES

PAIRS = [(model, dataset) for model in zoo.list_models() for dataset in DATASETS]


def test_every_model_has_a_recipe_for_every_data_set_that_makes_a_valid_run():
    for model, dataset in PAIRS:
        recipe = zoo.recipe(model, dataset)
        spec = dataset + ":x" * DATASETS[dataset].takes_path
        config = RunConfig.from_recipe(model, spec)  # checks names and ranges
        assert config.steps == recipe.num_steps
        assert set(recipe.augment) <= set(AUGMENTATIONS)
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
    for (row, column), values in RECIPES.items():
        assert row in rows
        assert column in {"*", *DATASETS}
        assert set(values) <= fields


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
