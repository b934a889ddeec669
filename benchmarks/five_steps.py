"""The fast CIFAR-10 network beside PyTorch: five steps from the same weights on the same batches.

    MINICNN_DATA=… python benchmarks/five_steps.py --record benchmarks/results/five_steps.json

Needs torch, which is no dependency of minicnn. The PyTorch side is written out in its own words: layers, loss, and the
rules of Muon and of SGD. With average pooling both agree to rounding. With max pooling they part after a few steps, and
so does PyTorch from itself in another precision: the first kernels hand equal numbers on to the pooling, rounding says
which is the largest, and each step makes the difference larger.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from record import write_record

import minicnn
from minicnn.layers import AveragePooling2D, MaxPooling2D
from minicnn.utils import to_categorical

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))
import cifar10_fast as fast  # noqa: E402

STEPS, EPOCHS, BATCH = 5, 1, 500
POOLS = {"average": (AveragePooling2D, F.avg_pool2d), "max": (MaxPooling2D, F.max_pool2d)}


class Peer:
    """The network in PyTorch, its images (N, C, H, W), its kernels (C_out, C_in, KH, KW)."""

    def __init__(self, model: Any, pool: Any, dtype: torch.dtype):
        self.pool, self.step = pool, 0
        self.p = {key: _to_torch(value).to(dtype).requires_grad_() for key, value in _parameters(model).items()}
        self.m = {key: torch.zeros_like(value) for key, value in self.p.items()}

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(F.conv2d(x, self.p["patches/kernel"], self.p["patches/bias"]))
        for block in (1, 2, 3):
            for i in (1, 2):
                x = F.conv2d(x, self.p[f"block{block}_conv{i}/kernel"], padding=1)
                x = self.pool(x, 2) if i == 1 else x
                x = F.batch_norm(x, None, None, None, self.p[f"block{block}_conv{i}/beta"], training=True, eps=1e-12)
                x = F.gelu(x)
        return self.pool(x, 3).flatten(1) @ self.p["head/kernel"].T

    def train(self, x: np.ndarray, y: np.ndarray) -> float:
        """One step of the rung `muon`: its loss before the step."""
        images = _to_torch(x).to(self.p["head/kernel"].dtype)
        loss = F.cross_entropy(self.logits(images), torch.from_numpy(y).argmax(1), label_smoothing=0.2)
        loss.backward()
        left = 1 - self.step / STEPS
        with torch.no_grad():
            for key, p in self.p.items():
                name = key.split("/")[1]
                if key == "patches/kernel":
                    pass
                elif key == "head/kernel":
                    self._sgd(key, 0.67 * BATCH / 256**2 * left, 0.196 / 0.15)
                elif name == "kernel":
                    self._muon(key, 0.24 * left)
                else:  # the first bias falls within three epochs, or as all others in a shorter run
                    self._sgd(key, 0.053 * BATCH * left, 3.77e-5 / 0.15)
                p.grad = None
        self.step += 1
        return loss.item()

    def _sgd(self, key: str, rate: float, decay: float) -> None:
        p, m = self.p[key], self.m[key]
        p -= rate * decay * p
        m.mul_(0.85).sub_(rate * p.grad)
        p += 0.85 * m - rate * p.grad

    def _muon(self, key: str, rate: float) -> None:
        p, m = self.p[key], self.m[key]
        p *= len(p) ** 0.5 / p.norm()
        m.mul_(0.6).add_(p.grad)
        x = (p.grad + 0.6 * m).flatten(1)
        x = x / (x.norm() + 1e-12)
        for _ in range(3):
            a = x @ x.T
            x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
        p -= rate * x.view_as(p)


def _parameters(model: Any) -> dict[str, np.ndarray]:
    """The learned arrays under PyTorch's names here: beta belongs to the convolution before it."""
    found, conv = {}, ""
    for layer in model.layers:
        if "w" in layer.params:
            conv = layer.name
            found[f"{conv}/kernel"] = layer.params["w"]
        for key, name in (("b", "bias"), ("beta", "beta")):
            if key in layer.params:
                found[f"{conv}/{name}"] = layer.params[key]
    return found


def _to_torch(a: np.ndarray) -> torch.Tensor:
    """Images and kernels with the channels where PyTorch has them; a matrix turned."""
    order = {1: (0,), 2: (1, 0), 4: (0, 3, 1, 2) if a.shape[-1] == 3 and a.shape[1] == 32 else (3, 2, 0, 1)}[a.ndim]
    return torch.from_numpy(np.transpose(a, order).copy())


def compared(pooling: str, dtype: str, batches: list[Any]) -> dict[str, Any]:
    """Both trained for five steps: the losses' differences, and the largest relative one of each parameter."""
    ours, theirs = POOLS[pooling]
    fast.MaxPooling2D = ours
    minicnn.utils.set_random_seed(0)
    model = fast.network(10, "muon")
    first = model.get_layer("patches")
    first.set_weights([fast.patch_whitening(batches[0][0], size=2), first.get_weights()[1]])
    peer = Peer(model, theirs, getattr(torch, dtype))
    loss = fast.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)
    model.compile(fast.optimizer("muon", BATCH, STEPS, EPOCHS), loss)
    losses = np.array([(model.train_on_batch(x, y), peer.train(x, y)) for x, y in batches])
    parameters = {}
    for key, value in _parameters(model).items():
        expected = peer.p[key].detach()
        parameters[key] = float((_to_torch(value) - expected).abs().max() / expected.abs().max())
    return {
        "pooling": pooling, "torch_dtype": dtype, "losses": [float(f"{a:.7g}") for a in losses[:, 0]],
        "loss_differences": [float(f"{abs(a - b):.2g}") for a, b in losses],
        "largest_difference_of_parameters": float(f"{max(parameters.values()):.2g}"),
        "parameters": {key: float(f"{value:.2g}") for key, value in parameters.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, metavar="FILE", help="write what was measured to a JSON file")
    args = parser.parse_args()
    minicnn.set_num_threads(1)
    torch.set_num_threads(1)
    (x, y), _, names = minicnn.datasets.load("cifar10")
    size = STEPS * BATCH
    data = fast.Varied(x[:size], to_categorical(y[:size], len(names)), BATCH, 0)
    batches = [data[i] for i in range(STEPS)]
    runs = []
    for pooling, dtype in (("average", "float32"), ("max", "float32")):
        runs.append(compared(pooling, dtype, batches))
        print({key: value for key, value in runs[-1].items() if key != "parameters"})
    if args.record:
        settings = {"batch_size": BATCH, "seed": 0, "threads": 1, "torch": torch.__version__.split("+")[0]}
        write_record(args.record, {**settings, "runs": runs})


if __name__ == "__main__":
    main()
