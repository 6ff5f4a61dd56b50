"""Layers and parameter counts against the papers, written out or computed here by formula."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from snntorch_stbp import Leaky, NeuNorm, zoo
from snntorch_stbp.norm import TDBatchNorm2d


def count(net):
    return sum(p.numel() for p in net.parameters())


def conv(cin, cout, kernel, bias=False):
    return cin * cout * kernel**2 + bias * cout


def norm(channels):
    return 2 * channels


def linear(fin, fout):
    return fin * fout + fout


def structure(net):
    """Layer list in the notation of Wu 2019: 128C3, AP2, 300FC, with neurons as dots."""
    words = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            words.append(f"{module.out_channels}C{module.kernel_size[0]}")
        elif isinstance(module, nn.AvgPool2d):
            words.append(f"AP{module.kernel_size}")
        elif isinstance(module, nn.Linear):
            words.append(f"{module.out_features}FC")
        elif isinstance(module, TDBatchNorm2d):
            words.append("BN")
        elif isinstance(module, NeuNorm):
            words.append("NN")
        elif isinstance(module, Leaky):
            words.append(".")
    return " ".join(words)


def test_mnistnet():
    net = zoo.mnistnet(in_channels=1, image_size=28, readout="rate")
    assert structure(net) == "15C5 . AP2 . 40C5 . AP2 . 300FC . 10FC ."
    assert count(net) == 375 + 15_000 + linear(7 * 7 * 40, 300) + linear(300, 10)
    assert net.features[0].layer.bias is None


def test_mnistnet_bn():
    net = zoo.mnistnet_bn(in_channels=1, image_size=28)
    assert structure(net) == "15C5 BN . AP2 . 40C5 BN . AP2 . 300FC . 10FC"
    plain = zoo.mnistnet(in_channels=1, image_size=28)
    assert count(net) == count(plain) + norm(15) + norm(40) + norm(300)


def test_nmnistnet():
    net = zoo.nmnistnet(in_channels=2, image_size=34)
    assert structure(net) == "20C3 . AP2 . 50C3 . AP2 . 500FC . 10FC"
    convolutions = conv(2, 20, 3, True) + conv(20, 50, 3, True)
    assert count(net) == convolutions + linear(7 * 7 * 50, 500) + linear(500, 10)


def test_cifarnet():
    net = zoo.cifarnet()
    assert structure(net) == (
        "128C3 BN . 256C3 BN . AP2 . 512C3 BN . AP2 . 1024C3 BN . 512C3 BN . 1024FC . 512FC . 10FC"
    )
    widths = [3, 128, 256, 512, 1024, 512]
    expected = sum(conv(a, b, 3) + norm(b) for a, b in pairwise(widths))
    expected += linear(8 * 8 * 512, 1024) + linear(1024, 512) + linear(512, 10)
    assert count(net) == expected


def test_cifarnet_neunorm():
    net = zoo.cifarnet_neunorm(readout="population")
    assert structure(net) == (
        "128C3 . NN 256C3 . AP2 . NN 512C3 . AP2 . NN 1024C3 . NN 512C3 . 1024FC . 512FC . 100FC ."
    )


def residual(stem, kernel, widths, blocks, strides, hidden, classes):
    """Parameters of a residual network of basic blocks."""
    total = conv(3, stem, kernel) + norm(stem)
    channels = stem
    for width, number, stride in zip(widths, blocks, strides, strict=True):
        for block in range(number):
            total += conv(channels, width, 3) + conv(width, width, 3) + 2 * norm(width)
            if block == 0 and (channels != width or stride != 1):
                total += conv(channels, width, 1) + norm(width)
            channels = width
    for width in hidden:
        total += linear(channels, width)
        channels = width
    return total + linear(channels, classes)


CIFAR = ((128, 256, 512), (3, 3, 2), (1, 2, 2), (256,))


def test_resnet18():
    net = zoo.resnet18()
    assert count(net) == residual(64, 3, *CIFAR, 10)
    # 17 convolutions and the 2 linear layers; 3 stages change their width, so 3 projections.
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == 17 + 3
    assert sum(isinstance(m, nn.Linear) for m in net.modules()) == 2


def test_resnet19():
    net = zoo.resnet19()
    assert count(net) == residual(128, 3, *CIFAR, 10)
    # The first stage keeps width and size, so only two projections remain.
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == 17 + 2


def test_resnet34_is_torchvisions_but_for_one_projection():
    torchvision = pytest.importorskip("torchvision")
    net = zoo.resnet34(num_classes=1000, image_size=224)
    assert count(net) == residual(64, 7, (64, 128, 256, 512), (3, 4, 6, 3), (2, 2, 2, 2), (), 1000)
    theirs = torchvision.models.resnet34(weights=None)
    assert count(net) == count(theirs) + conv(64, 64, 1) + norm(64)
    assert net.pool[0].layer.kernel_size == (7, 7)


@pytest.mark.parametrize("name", ["resnet18", "resnet19", "resnet34"])
def test_summed_branches_end_in_tdbn_of_alpha_one_over_root_two(name):
    net = zoo.create(name)
    alphas = {n: m.alpha for n, m in net.named_modules() if isinstance(m, TDBatchNorm2d)}
    for key, alpha in alphas.items():
        summed = key.endswith(("conv2.norm", "shortcut.norm"))
        assert alpha == pytest.approx(2**-0.5 if summed else 1.0), key


@pytest.mark.parametrize("bn", [False, True])
@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_vgg_has_torchvisions_convolutions_and_a_512_512_classifier(depth, bn):
    torchvision = pytest.importorskip("torchvision")
    name = f"vgg{depth}" + bn * "_bn"
    net = zoo.create(name)
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(weights=None)
    classifier = 2 * linear(512, 512) + linear(512, 10)
    assert count(net) == count(theirs.features) + classifier
    ours = [m.weight.shape for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert ours == [m.weight.shape for m in theirs.modules() if isinstance(m, nn.Conv2d)]
    # One neuron behind each convolution, one behind the last pooling, two in the classifier.
    assert sum(isinstance(m, Leaky) for m in net.modules()) == depth - 3 + 1 + 2


def test_vgg11_layer_by_layer():
    net = zoo.vgg11(readout="rate")
    assert structure(net) == (
        "64C3 . AP2 128C3 . AP2 256C3 . 256C3 . AP2 512C3 . 512C3 . AP2 512C3 . 512C3 . AP2 . "
        "512FC . 512FC . 10FC ."
    )


@pytest.mark.parametrize("name", ["mnistnet", "mnistnet_bn", "resnet18", "vgg11"])
def test_beta_and_threshold_reach_every_neuron_and_norm(name):
    net = zoo.create(name, beta=0.5, threshold=0.7)
    for module in net.modules():
        if isinstance(module, Leaky):
            assert (float(module.beta), float(module.threshold)) == pytest.approx((0.5, 0.7))
        if isinstance(module, TDBatchNorm2d):
            assert module.threshold == 0.7
