"""One side of benchmarks/models.py: PyTorch. `python worker_torch.py WORKLOAD THREADS [nchw|channels_last|flushed]`.

flushed: nchw, and numbers too small for float32's full precision count as 0 (torch.set_flush_denormal), which PyTorch
does not do by itself. The running means in Adam fade into such numbers where a unit is dead.

The bare loop: forward, loss, backward, step, on batches that lie ready in memory.
"""

from __future__ import annotations

import sys

import torch
import workloads
from protocol import serve
from torch import nn


def dense() -> nn.Module:
    """documents.md A: the first network."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


class MaxNormLinear(nn.Linear):
    """A linear layer, each of whose outputs' weights have at most norm 3 after `constrain`."""

    @torch.no_grad()
    def constrain(self) -> None:
        norms = self.weight.norm(dim=1, keepdim=True)
        self.weight.mul_(norms.clamp(max=3) / (norms + 1e-7))


def cifar() -> nn.Module:
    """documents.md B: the CIFAR-10 network."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU()]
    channels = 32
    for filters, pool in ((64, True), (64, True), (128, False)):
        layers += [nn.Dropout(0.2), _norm(nn.BatchNorm2d, channels)]
        layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pool else []
        channels = filters
    layers += [nn.Dropout(0.2), _norm(nn.BatchNorm2d, 128), nn.Flatten(), nn.Dropout(0.2)]
    inputs = 8192
    for units in (256, 128):
        layers += [MaxNormLinear(inputs, units), nn.ReLU(), nn.Dropout(0.2), _norm(nn.BatchNorm1d, units)]
        inputs = units
    return nn.Sequential(*layers, nn.Linear(128, 10))


def _norm(kind: type, channels: int) -> nn.Module:
    return kind(channels, eps=1e-3, momentum=0.01)


def main(workload: str, threads: int, layout: str = "nchw") -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    torch.set_flush_denormal(layout == "flushed")
    spec = workloads.WORKLOADS[workload]
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    model = {"dense": dense, "cifar": cifar}[workload]().to(memory_format=memory_format)
    constrained = [layer for layer in model if isinstance(layer, MaxNormLinear)]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-7)
    loss = nn.CrossEntropyLoss()
    x, y = workloads.data(spec)
    images = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
    batches = [
        (images[i : i + spec.batch].to(memory_format=memory_format), torch.from_numpy(y[i : i + spec.batch]))
        for i in range(0, len(x), spec.batch)
    ]

    def round_of_steps() -> int:
        for batch, target in batches:
            optimizer.zero_grad(set_to_none=True)
            loss(model(batch), target).backward()
            optimizer.step()
            for layer in constrained:
                layer.constrain()
        return len(batches)

    serve(round_of_steps, {"torch": torch.__version__})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
