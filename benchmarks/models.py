"""Our networks beside torchvision's and timm's: one process, the same images and memory format, in rounds, by median.

For each network: a forward pass (evaluation) and a training step (forward, backward, SGD), in float32 and in bfloat16
autocast where the processor computes it, at batch 1 and 16. In each round every side is built anew and timed once, in
an order that turns; a ratio is the median over the rounds of (time of the faster peer / our time), the faster peer
being the one with the smaller median. 1.00x is as fast as the faster peer. The last line of stdout is one JSON object.

Built anew, because where in memory the weights come to lie moves ResNet-50 by up to 20% from one build to the next:
with networks built once, two copies of the same one differ by more than what is looked for.

    make bench BENCH=models ARGS="--networks resnet18 vit_small --rounds 7"
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from statistics import median

import timm
import torch
import torchvision
from torch import Tensor, nn

from linnaeus.core.device import autocast, has_bf16
from linnaeus.models import create_model

CPU = torch.device("cpu")
Build = Callable[[], nn.Module]


def tutorial_lenet() -> nn.Module:
    """LeNet-5 as tutorials write it: the layers in one `nn.Sequential`."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)),
    )


def torchvision_vit_small() -> nn.Module:
    """torchvision's class with the sizes of ViT-S/16, of which it has no constructor."""
    sizes = {"num_layers": 12, "num_heads": 6, "hidden_dim": 384, "mlp_dim": 1536}
    return torchvision.models.VisionTransformer(image_size=224, patch_size=16, **sizes)


PEERS: dict[str, dict[str, Build]] = {
    "lenet5": {"nn.Sequential": tutorial_lenet},
    "resnet18": {"torchvision": torchvision.models.resnet18, "timm": partial(timm.create_model, "resnet18")},
    "resnet50": {"torchvision": torchvision.models.resnet50, "timm": partial(timm.create_model, "resnet50")},
    "vit_small": {
        "torchvision": torchvision_vit_small,
        "timm": partial(timm.create_model, "vit_small_patch16_224"),
    },
    "convnext_tiny": {
        "torchvision": torchvision.models.convnext_tiny,
        "timm": partial(timm.create_model, "convnext_tiny"),
    },
}


@dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        work: "forward" or "step".
        precision: "fp32" or "bf16".
    """

    network: str
    work: str
    precision: str
    batch_size: int

    def __str__(self) -> str:
        return f"{self.network:<14} {self.work:<8} {self.precision:<5} batch {self.batch_size:>2}"


def prepare(model: nn.Module, images: Tensor, case: Case) -> Callable[[], None]:
    """One forward pass, or one training step, as a function to be timed."""
    model = model.to(memory_format=torch.channels_last)
    if case.work == "forward":
        model.eval()

        def forward() -> None:
            with torch.inference_mode(), autocast(CPU, case.precision):
                model(images)

        return forward

    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    targets = torch.arange(len(images)) % 10

    def step() -> None:
        with autocast(CPU, case.precision):
            logits = model(images)
        nn.functional.cross_entropy(logits.float(), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(case: Case, *, rounds: int, seconds: float) -> dict[str, float]:
    """Median milliseconds of each side, and "ratio": the faster peer's time over ours, by round."""
    size = 32 if case.network == "lenet5" else 224
    classes = 10 if case.network == "lenet5" else 1000
    images = torch.randn(case.batch_size, 3, size, size).contiguous(memory_format=torch.channels_last)
    builds: dict[str, Build] = {"linnaeus": partial(create_model, case.network, num_classes=classes)}
    builds |= PEERS[case.network]
    times: dict[str, list[float]] = {name: [] for name in builds}
    names = list(builds)
    for number in range(rounds):
        turn = number % len(names)
        order = names[turn:] + names[:turn]
        sides = {name: prepare(builds[name](), images, case) for name in order}
        for name in order:
            once = timed(sides[name], 2)  # the warm-up
            times[name].append(timed(sides[name], max(1, round(seconds / once))))
    middle = {name: median(values) for name, values in times.items()}
    peer = min(PEERS[case.network], key=lambda name: middle[name])
    ratio = median(p / o for p, o in zip(times[peer], times["linnaeus"], strict=True))
    return {**{name: 1000 * value for name, value in middle.items()}, "ratio": ratio}


def timed(run: Callable[[], None], repeats: int) -> float:
    """Seconds a call, over `repeats` calls."""
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


def cases(networks: list[str]) -> Iterator[Case]:
    """All that this processor can compute."""
    precisions = ["fp32", "bf16"] if has_bf16(CPU) else ["fp32"]
    for network, work, precision, batch_size in product(networks, ("forward", "step"), precisions, (1, 16)):
        yield Case(network, work, precision, batch_size)


def main() -> None:
    """Times every case and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one turn of one side")
    parser.add_argument("--networks", nargs="+", default=list(PEERS), choices=list(PEERS))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if not has_bf16(CPU):
        print("bf16 is left out: this processor has no bfloat16 instructions")
    rows = {}
    for case in cases(arguments.networks):
        rows[str(case)] = row = measure(case, rounds=arguments.rounds, seconds=arguments.seconds)
        others = "  ".join(f"{name} {value:8.2f} ms" for name, value in row.items() if name != "ratio")
        print(f"{case}  {others}  {row['ratio']:.2f}x", flush=True)
    ratios = [row["ratio"] for row in rows.values()]
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    print(f"geometric mean {mean:.3f}x, worst {min(ratios):.2f}x of {len(ratios)}")
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm.__version__}
    machine = {"threads": torch.get_num_threads(), "platform": platform.machine(), **versions}
    print(json.dumps({"machine": machine, "rows": rows, "geometric_mean": mean}))


if __name__ == "__main__":
    main()
