"""A snnTorch user's script runs with our modules in it."""

from __future__ import annotations

import snntorch as snn
import snntorch.functional as SF
import torch
from sklearn.datasets import load_digits
from snntorch import utils
from torch import nn

import snntorch_stbp as stbp


class Net(nn.Module):
    """Our layers over the sequence, then a snnTorch neuron stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.coding = stbp.DirectCoding(4)
        self.conv = stbp.TimeDistributed(nn.Conv2d(1, 8, 3), stbp.TDBatchNorm2d(8, threshold=1.0))
        self.lif1 = stbp.Leaky(0.5, 1.0)
        self.fc = stbp.TimeDistributed(nn.Sequential(nn.Flatten(), nn.Linear(288, 10)))
        self.lif2 = snn.Leaky(0.5, init_hidden=True, output=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        utils.reset(self)
        current = self.fc(self.lif1(self.conv(self.coding(x))))
        steps = [self.lif2(step) for step in current]
        return torch.stack([s for s, _ in steps]), torch.stack([m for _, m in steps])


def test_a_snntorch_script_mixes_our_modules_with_its_losses_and_reset() -> None:
    data = load_digits()
    x = torch.tensor(data.images[:256], dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(data.target[:256])
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    rate_loss, membrane_loss = SF.ce_rate_loss(), SF.ce_max_membrane_loss()
    for _ in range(40):
        spikes, membrane = net(x)
        loss = rate_loss(spikes, y) + membrane_loss(membrane, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    spikes, _ = net(x)
    assert SF.accuracy_rate(spikes, y) > 0.8
    net.eval()
    assert torch.equal(net(x)[0], net(x)[0])
