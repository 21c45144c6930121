"""Where the time of our networks goes, and what their alternatives cost: by operator, by memory format, by variant.

Three tables, each in one process, in rounds, by median:

1. The operators of a training step, by their share of the processor's time (torch.profiler).
2. A training step with contiguous tensors beside one in `torch.channels_last`.
3. Parts of the networks beside other ways of writing them, forward and backward, in `torch.channels_last`:
   ConvNeXt's block with linear layers on (B, H, W, C), and with 1x1 convolutions; its layer normalisation of
   (B, C, H, W) through a permutation, and by hand as the reference has it; attention through
   `scaled_dot_product_attention`, and as the formula reads.

    make bench BENCH=where_time_goes ARGS="--networks convnext_tiny vit_small --batch-size 16"
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from linnaeus.models import create_model
from linnaeus.models.convnext import NORM_EPS, Block, LayerNorm2d
from linnaeus.models.vit import Attention

Work = Callable[[], None]


class ConvolutionBlock(nn.Module):
    """ConvNeXt's block as figure 4 draws it, with 1x1 convolutions, and the normalisation by hand."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = LayerNormByHand(dim)
        self.pwconv1 = nn.Conv2d(dim, 4 * dim, 1)
        self.pwconv2 = nn.Conv2d(4 * dim, dim, 1)
        self.gamma = nn.Parameter(torch.full((dim, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.pwconv2(F.gelu(self.pwconv1(self.norm(self.dwconv(x)))))


class LayerNormByHand(nn.Module):
    """Mean and variance over the channels of (B, C, H, W), written out."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim, 1, 1))
        self.bias = nn.Parameter(torch.zeros(dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return self.weight * (centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + NORM_EPS)) + self.bias


class AttentionByFormula(Attention):
    """softmax(q k^T / sqrt(d)) v, each step a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, length, dim))


def training_step(model: nn.Module, images: Tensor) -> Work:
    """Forward, backward and SGD as a function to be timed."""
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-4, momentum=0.9)
    targets = torch.arange(len(images)) % 10

    def step() -> None:
        F.cross_entropy(model(images), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def there_and_back(module: nn.Module, x: Tensor) -> Work:
    """Forward and backward of one part."""
    x = x.detach().requires_grad_()

    def work() -> None:
        module(x).sum().backward()

    return work


def operators(work: Work) -> list[tuple[str, float]]:
    """(name, share of the processor's time) of the six operators that take most of it."""
    work()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    total = sum(times.values())
    return sorted(((name, used / total) for name, used in times.items()), key=lambda item: -item[1])[:6]


def race(sides: dict[str, Work], rounds: int) -> dict[str, float]:
    """Median milliseconds of each side, the order turning from round to round."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(-1, rounds):  # the first round warms up
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            sides[name]()
            if number >= 0:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: median(values) for name, values in times.items()}


def parts(batch_size: int) -> dict[str, dict[str, Work]]:
    """The parts and their alternatives, at the sizes of ConvNeXt-T's first and third stage and of ViT-S."""
    found: dict[str, dict[str, Work]] = {}
    for dim, side in ((96, 56), (384, 14)):
        x = torch.randn(batch_size, dim, side, side).contiguous(memory_format=torch.channels_last)
        ours = Block(dim, grn=False, layer_scale=1e-6, drop_path=0.0)
        nn.init.constant_(ours.gamma, 1e-6)
        theirs = ConvolutionBlock(dim).to(memory_format=torch.channels_last)
        found[f"ConvNeXt block, {dim} x {side} x {side}"] = {
            "linear": there_and_back(ours.to(memory_format=torch.channels_last), x),
            "1x1 convolutions": there_and_back(theirs, x),
        }
        found[f"layer norm, {dim} x {side} x {side}"] = {
            "permuted": there_and_back(LayerNorm2d(dim, eps=NORM_EPS), x),
            "by hand": there_and_back(LayerNormByHand(dim), x),
        }
    tokens = torch.randn(batch_size, 197, 384)
    found["attention, 197 x 384, 6 heads"] = {
        "SDPA": there_and_back(Attention(384, num_heads=6), tokens),
        "formula": there_and_back(AttentionByFormula(384, num_heads=6), tokens),
    }
    return found


def main() -> None:
    """Prints the three tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--networks", nargs="+", default=["resnet18", "resnet50", "vit_small", "convnext_tiny"])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    images = torch.randn(arguments.batch_size, 3, 224, 224)
    last = images.contiguous(memory_format=torch.channels_last)
    for name in arguments.networks:
        step = training_step(create_model(name, num_classes=1000).to(memory_format=torch.channels_last), last)
        print(f"{name}: " + ", ".join(f"{key} {share:.0%}" for key, share in operators(step)), flush=True)
    for name in arguments.networks:
        sides = {
            "contiguous": training_step(create_model(name, num_classes=1000), images),
            "channels last": training_step(
                create_model(name, num_classes=1000).to(memory_format=torch.channels_last), last
            ),
        }
        report(f"{name}, a step", race(sides, min(3, arguments.rounds)))
    for part, ways in parts(arguments.batch_size).items():
        report(part, race(ways, arguments.rounds))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")


def report(title: str, times: dict[str, float]) -> None:
    """One line: each way's milliseconds, and how much faster the first is."""
    first, second = times.values()
    ways = "  ".join(f"{name} {value:.1f} ms" for name, value in times.items())
    print(f"{title:<36} {ways}  {second / first:.2f}x", flush=True)


if __name__ == "__main__":
    main()
