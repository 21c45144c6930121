"""The published airbench94 in plain PyTorch: the baseline of `speedrun.py`, and of the recipe `cifar-speedrun`.

Written from "94% on CIFAR-10 in 3.29 seconds on a single GPU" (Jordan, 2024, arXiv:2404.00498): its network, its SGD
with decoupled hyper-parameters, Lookahead and a triangular schedule over 9.9 epochs ("sgd"), and, after the author's
later record of 2.59 s on an A100, Muon and 8 epochs ("muon"). On any device, in float32 or bfloat16; eager, channels
last.

Nothing of Linnaeus is in here.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPOCHS = {"sgd": 9.9, "muon": 8.0}
BATCH = {"sgd": 1024, "muon": 2000}
SMOOTHING, WHITEN_EPOCHS, SHIFT = 0.2, 3, 2
BIAS_SCALE = 64


@dataclass(frozen=True)
class Images:
    """A whole set on the device: (N, 3, 32, 32) uint8 and (N,) int64."""

    pixels: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Outcome:
    """Of one run: accuracies in [0, 1] on test, and seconds of training and of scoring with augmentation."""

    accuracy: float
    accuracy_plain: float
    seconds: float


class Norm(nn.BatchNorm2d):
    """Batch normalisation that learns a shift alone."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-12, momentum=0.4)
        self.weight.requires_grad = False


def kernel(in_channels: int, channels: int) -> nn.Conv2d:
    """A 3x3 convolution of which the first filters pass their input on."""
    conv = nn.Conv2d(in_channels, channels, 3, padding="same", bias=False)
    nn.init.dirac_(conv.weight.data[:in_channels])
    return conv


def group(in_channels: int, channels: int) -> nn.Sequential:
    """Two convolutions, a pool after the first."""
    first = [kernel(in_channels, channels), nn.MaxPool2d(2), Norm(channels), nn.GELU()]
    return nn.Sequential(*first, kernel(channels, channels), Norm(channels), nn.GELU())


class Network(nn.Module):
    """Whitening, three groups, a pool and a scaled linear layer. `scale` is 1/9, or that of the later record."""

    def __init__(self, optimizer: str) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad = False
        self.groups = nn.Sequential(nn.GELU(), group(24, 64), group(64, 256), group(256, 256), nn.MaxPool2d(3))
        self.head = nn.Linear(256, 10, bias=False)
        self.scale = 1 / 9
        if optimizer == "muon":
            self.head.weight.data /= self.head.weight.data.std()
            self.scale = 1 / 256

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 32, 32) float -> (B, 10) logits."""
        return self.head(self.groups(self.whiten(images)).flatten(1)) * self.scale

    @torch.no_grad()
    def measure(self, images: Tensor) -> None:
        """Sets the first layer to whiten the 2x2 patches of the images."""
        patches = F.unfold(images, 2).transpose(1, 2).reshape(-1, 12)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (values + 5e-4).sqrt()).T.reshape(12, 3, 2, 2)
        self.whiten.weight.copy_(torch.cat([filters, -filters]))
        self.whiten.bias.zero_()


def batches(images: Tensor, labels: Tensor, size: int, draw: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless shuffled batches of (B, 3, 32, 32) normalised images: shifted, and mirrored in every other epoch."""
    mirrored = (torch.rand(len(images), generator=draw) < 0.5).to(images.device)
    size = min(size, len(images))
    padded = F.pad(images, (SHIFT,) * 4, mode="reflect").to(memory_format=torch.channels_last)
    for epoch in range(10**6):
        order = torch.randperm(len(images), generator=draw).to(images.device)
        flips = mirrored ^ bool(epoch % 2)
        for first in range(0, len(images) - size + 1, size):
            rows = order[first : first + size]
            batch, out = padded[rows], torch.empty_like(images[rows])
            shifts = torch.randint(0, (2 * SHIFT + 1) ** 2, (size,), generator=draw).to(images.device)
            for shift in range((2 * SHIFT + 1) ** 2):
                y, x = divmod(shift, 2 * SHIFT + 1)
                chosen = shifts == shift
                out[chosen] = batch[chosen, :, y : y + 32, x : x + 32]
            yield torch.where(flips[rows].view(-1, 1, 1, 1), out.flip(3), out), labels[rows]


def triangle(progress: float) -> float:
    """From 0.2 to 1 at 23% of the run, and down to 0.07 at its end."""
    return 0.2 + 0.8 * progress / 0.23 if progress < 0.23 else 0.07 + 0.93 * (1 - progress) / 0.77


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for kernels whose norm is kept."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.6) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """One update."""
        for group_ in self.param_groups:
            for parameter in group_["params"]:
                buffer = self.state[parameter].setdefault("buffer", torch.zeros_like(parameter))
                buffer.mul_(group_["momentum"]).add_(parameter.grad)
                update = orthogonal((parameter.grad + group_["momentum"] * buffer).flatten(1))
                parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
                parameter.sub_(update.view_as(parameter), alpha=group_["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix whose singular values are 1, by three rounds of Newton and Schulz."""
    x = matrix.bfloat16() if matrix.is_cuda else matrix
    x = x / (x.norm() + 1e-7)
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    for _ in range(3):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)


Schedule = Callable[[float], float]
Part = tuple[torch.optim.Optimizer, int, float, Schedule]
"""An optimizer, one of its groups, the learning rate of that, and its multiplier by the progress of the run."""


def optimizers(network: Network, name: str, batch_size: int, fast: float) -> list[Part]:
    """What trains which parameters how fast.

    Args:
        network: of the method `name`.
        batch_size: B; losses are sums over it.
        fast: the share of the run in which the bias of the whitening learns.
    """
    norms = [p for n, p in network.groups.named_parameters() if n.endswith("bias")]
    kernels = [p for p in network.groups.parameters() if p.ndim == 4]
    whitening, head = [network.whiten.bias], [network.head.weight]

    def until(schedule: Schedule) -> Schedule:
        return lambda progress: schedule(progress) if progress < fast else 0.0

    if name == "muon":
        decay = 2e-6 * batch_size
        groups = [(whitening, 0.053), (norms, 0.053), (head, 0.67)]
        settings = [{"params": p, "lr": lr, "weight_decay": decay / lr} for p, lr in groups]
        sgd = torch.optim.SGD(settings, momentum=0.85, nesterov=True)
        muon = Muon(kernels, lr=0.24)
        parts = [(sgd, i, lr, (lambda p: 1 - p)) for i, (_, lr) in enumerate(groups)]
        parts[0] = (sgd, 0, 0.053, until(lambda p: 1 - p / fast))
        return [*parts, (muon, 0, 0.24, lambda p: 1 - p)]
    # The paper states rate and decay for 1024 images and decoupled from the momentum, which multiplies them.
    scale = 1024 * (1 + 1 / (1 - 0.85))
    lr, decay = 11.5 / scale, 0.0153 * batch_size / scale
    groups = [(whitening, lr * BIAS_SCALE), (norms, lr * BIAS_SCALE), ([*kernels, *head], lr)]
    settings = [{"params": p, "lr": rate, "weight_decay": decay / rate} for p, rate in groups]
    sgd = torch.optim.SGD(settings, momentum=0.85, nesterov=True)
    return [(sgd, i, rate, until(triangle) if i == 0 else triangle) for i, (_, rate) in enumerate(groups)]


class Lookahead:
    """Slow weights that the fast ones are set to now and then (Zhang et al., arXiv:1907.08610), as the paper has it."""

    def __init__(self, network: nn.Module) -> None:
        self.slow = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, decay: float) -> None:
        """Moves the slow weights towards the fast ones, and these to where the slow ones are."""
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and name != "whiten.weight":
                self.slow[name].lerp_(tensor, 1 - decay)
                tensor.copy_(self.slow[name])


@torch.inference_mode()
def logits_of(network: nn.Module, images: Tensor, *, augmented: bool) -> Tensor:
    """(N, 3, 32, 32) -> (N, 10): of the images, or of six views: each of three shifts, as it is and mirrored."""

    def mirrored(x: Tensor) -> Tensor:
        return (network(x) + network(x.flip(3))) / 2

    found = []
    for x in images.split(1000):
        if augmented:
            padded = F.pad(x, (1,) * 4, mode="reflect")
            shifted = (mirrored(padded[:, :, :32, :32]) + mirrored(padded[:, :, 2:, 2:])) / 2
            found.append((mirrored(x) + shifted) / 2)
        else:
            found.append(network(x))
    return torch.cat(found)


def run(train: Images, test: Images, *, optimizer: str, epochs: float, seed: int, bf16: bool) -> Outcome:
    """Trains on one set and scores the other. Images are read before, and the clock runs from here on.

    Args:
        train, test: on the same device.
        optimizer: "sgd" or "muon".
        epochs: passes over the training images.
        seed: of all that is random.
        bf16: whether the network computes in bfloat16.
    """
    device = train.pixels.device
    draw = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in _statistics(train.pixels))
    pixels, tests = (((s.pixels / 255.0 - mean) / std).to(memory_format=torch.channels_last) for s in (train, test))
    torch.manual_seed(seed)
    network = Network(optimizer).to(device, memory_format=torch.channels_last).train()
    network.measure(pixels[:5000])
    size = min(BATCH[optimizer], len(pixels))
    total = math.ceil(len(pixels) // size * epochs)
    parts = optimizers(network, optimizer, size, min(1.0, WHITEN_EPOCHS / epochs))
    lookahead = Lookahead(network) if optimizer == "sgd" else None
    steppers = {id(part[0]): part[0] for part in parts}.values()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
    loader = batches(pixels, train.labels, size, draw)
    for step in range(total):
        images, labels = next(loader)
        network.whiten.bias.requires_grad = step < total * min(1.0, WHITEN_EPOCHS / epochs)
        with autocast:
            logits = network(images)
        F.cross_entropy(logits.float(), labels, label_smoothing=SMOOTHING, reduction="sum").backward()
        for stepper, number, rate, schedule in parts:
            stepper.param_groups[number]["lr"] = rate * schedule(step / total)
        for stepper in steppers:
            stepper.step()
        network.zero_grad(set_to_none=True)
        if lookahead and (step + 1) % 5 == 0:
            lookahead.update(network, decay=0.95**5 * (step / total) ** 3)
    if lookahead:
        lookahead.update(network, decay=1.0)
    network.eval()
    with autocast:
        score = (logits_of(network, tests, augmented=True).argmax(1) == test.labels).float().mean().item()
        seconds = time.perf_counter() - start
        plain = (logits_of(network, tests, augmented=False).argmax(1) == test.labels).float().mean().item()
    return Outcome(score, plain, seconds)


def _statistics(pixels: Tensor) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel of uint8 images, in [0, 1]."""
    flat = pixels.float().div_(255).transpose(0, 1).flatten(1)
    return flat.mean(1).tolist(), flat.std(1).tolist()
