"""The registry: names, errors, readouts, and that listing models does not import torch."""

import subprocess
import sys

import pytest
import torch

from snntorch_stbp import zoo
from snntorch_stbp.errors import UsageError

SIZES = {"convnets": 16, "resnet": 8, "vgg": 32}


def small(name, **options):
    """A model at the smallest size that is quick to run, and a batch for it."""
    size = max(SIZES[zoo.info(name).family], zoo.info(name).min_size)
    options = {"image_size": size, "in_channels": 2, "num_classes": 3, **options}
    net = zoo.create(name, **options)
    return net, torch.rand(2, options["in_channels"], size, size)


def test_listing_models_and_recipes_does_not_import_torch():
    code = (
        "import sys\n"
        "from snntorch_stbp import zoo\n"
        "import snntorch_stbp.zoo.registry, snntorch_stbp.zoo.recipes\n"
        "assert zoo.list_models() and zoo.recipe('resnet18', 'digits') and dir(zoo)\n"
        "try: zoo.create('resnet81')\n"
        "except Exception as error: assert type(error).__name__ == 'UsageError', error\n"
        "assert not {'torch', 'snntorch', 'brevitas', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_promised_model_is_listed_and_described():
    vgg = [f"vgg{depth}{suffix}" for depth in (11, 13, 16, 19) for suffix in ("", "_bn")]
    promised = {"mnistnet", "mnistnet_bn", "nmnistnet", "cifarnet", "resnet18", "resnet19"}
    assert promised | {"resnet34", *vgg} <= set(zoo.list_models())
    for name in zoo.list_models():
        info = zoo.info(name)
        assert info.name == name
        assert info.paper
        assert info.description


def test_builders_are_attributes_of_the_package():
    assert type(zoo.mnistnet(in_channels=1)) is type(zoo.create("mnistnet", in_channels=1))
    assert "resnet18" in dir(zoo)
    with pytest.raises(AttributeError, match="resnet81"):
        _ = zoo.resnet81


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet-18"}, r"There is no model 'resnet-18'\. Did you mean 'resnet18'\?"),
        ({"name": "transformer"}, r"There is no model 'transformer'\. Choose one of mnistnet, "),
        (
            {"name": "vgg16", "image_size": 28},
            r"vgg16 needs images of at least 32x32 pixels, not 28x28\.",
        ),
        (
            {"name": "mnistnet", "image_size": (28, 3)},
            r"mnistnet needs images of at least 4x4 pixels, not 28x3\.",
        ),
        ({"name": "mnistnet", "num_classes": 0}, r"num_classes must be at least 1, not 0\."),
        ({"name": "mnistnet", "in_channels": 0}, r"in_channels must be at least 1, not 0\."),
        ({"name": "mnistnet", "num_steps": 0}, r"num_steps must be at least 1, not 0\."),
        (
            {"name": "mnistnet", "readout": "votes"},
            r"There is no readout 'votes': choose one of current, rate, population\.",
        ),
        ({"beta": 1.5}, r"beta is a number in \[0, 1\], not 1\.5\."),
        ({"beta": float("nan")}, r"beta is a number in \[0, 1\], not nan\."),
        ({"beta": "high"}, r"beta is a number in \[0, 1\], not 'high'\."),
        ({"threshold": 0.0}, r"threshold is a positive, finite number, not 0\.0\."),
        ({"threshold": float("inf")}, r"threshold is a positive, finite number, not inf\."),
        ({"num_steps": 2.0}, r"num_steps is a whole number, not 2\.0\."),
        ({"num_steps": True}, r"num_steps is a whole number, not True\."),
        ({"image_size": 32.0}, r"image_size is a whole number .* height and a width, not 32\.0\."),
        ({"image_size": (32, 32, 3)}, r"or a height and a width, not \(32, 32, 3\)\."),
        ({"layer_bits": 3}, r"layer_bits has bits by name of a layer, such as .*, not 3\."),
    ],
)
def test_wrong_values_are_named(arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        zoo.create(**{"name": "mnistnet", **arguments})
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", ["mnistnet", "nmnistnet_bn", "resnet18"])
def test_still_images_and_event_frames_give_a_record(name, steps):
    net, images = small(name, num_steps=steps)
    net.eval()
    record = net(images)
    assert record.shape == (steps, 2, 3)
    frames = images.expand(steps, *images.shape)
    assert torch.equal(net(frames), record)
    assert torch.equal(net(images), record), "a network keeps no state between calls"


def test_readouts():
    torch.manual_seed(0)
    current, images = small("mnistnet")
    assert current(images).unique().numel() > 2
    rate, _ = small("mnistnet", readout="rate")
    assert set(rate(images).unique().tolist()) <= {0.0, 1.0}
    population, _ = small("mnistnet", readout="population")
    assert population(images).shape == (2, 2, 3)
    assert population.head[0].layer.out_features == 10 * 3
    tenths = 10 * population(images)
    assert torch.allclose(tenths, tenths.round(), atol=1e-5)


@pytest.mark.parametrize("name", ["mnistnet", "nmnistnet", "cifarnet", "resnet18", "resnet34"])
def test_the_smallest_size_works_and_odd_and_oblong_ones(name):
    least = zoo.info(name).min_size
    for size in ((least, least), (least + 1, least + 6)):
        net = zoo.create(name, image_size=size, in_channels=1).eval()
        assert net(torch.rand(1, 1, *size)).shape == (2, 1, 10)


@pytest.mark.parametrize("precision", [4, "ternary"])
def test_a_precision_is_no_number_of_bits(precision):
    message = r"precision is a Precision, such as Precision\(weight_bits=4\), not "
    with pytest.raises(TypeError, match=f"{message}{precision!r}"):
        zoo.create("mnistnet", precision=precision)
