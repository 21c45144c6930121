"""Recipes: functions that return the complete configuration of a run that is worth repeating.

Each says in its docstring how to start it, on what, how long it takes and what comes out. `linnaeus recipes` lists
them, `linnaeus recipes show NAME` prints one as a file of settings, and `linnaeus train DATA --recipe NAME` runs it,
with whatever else is said on the command line changed.
"""

import inspect
import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import yaml

from linnaeus.app.config import Config, make_config
from linnaeus.app.recipes_imagenet import imagenet_convnext_t, imagenet_resnet50, imagenet_vit_s
from linnaeus.core.errors import RequestError

PLACEHOLDER = "DATA"
"""Stands in a printed recipe for the images, which the command line names."""


def tutorial_resnet(source: str) -> Config:
    """ResNet-50 as a widely read tutorial trains it: its augmentation, and its cosine with restarts under a warm-up.

    The tutorial leaves open learning rate, batch and weight decay; these are the ResNet paper's. T_0 = 10 epochs and
    T_mult = 2 make 70 epochs three whole cycles, and eta_min = 1e-6 is the floor times the learning rate.

    Command: linnaeus train imagenet/ --recipe tutorial-resnet
    Hardware: one H100
    Time: about 9 hours, an estimate
    Expected: 76% top-1 says the tutorial of ResNet on ImageNet; not yet run
    """
    return make_config(
        {
            "data": {"source": source, "loader": "files"},
            "model": {"name": "resnet50", "image_size": 224, "in_channels": 3},
            "preprocess": {"resize": 256, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
            "augment": {
                "crop": "resized",
                "min_area": 0.08,
                "policy": "jitter",
                "policy_options": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2},
            },
            "optim": {
                "name": "sgd",
                "lr": 0.1,
                "weight_decay": 1e-4,
                "clip_norm": 0.0,
                "schedule": "cosine_restarts",
                "schedule_options": {"t_0": "10ep", "t_mult": 2},
                "warmup": "100st",
                "floor": 1e-5,
            },
            "train": {"duration": "70ep", "batch_size": 256, "label_smoothing": 0.0},
        }
    )


def scratch_small(source: str) -> Config:
    """A ResNet-18 for some thousand images and no trained weights: strong augmentation, a long run, averaged weights.

    Command: linnaeus train photos/ --recipe scratch-small
    Hardware: one GPU; for images of up to 64 pixels a CPU will do
    Time: about 2 minutes on an H100 for 5,000 photos and 8 cores to decode them, an estimate
    Expected: a few points of accuracy above `linnaeus train` with its defaults; not yet run
    """
    return make_config(
        {
            "data": {"source": source},
            "model": {"name": "resnet18", "options": {"zero_init_last": True, "drop_path": 0.05}},
            "augment": {"policy": "trivial", "cutmix": 1.0, "mix_probability": 0.5, "min_area": 0.25},
            "optim": {"name": "sgd", "lr": 0.05, "weight_decay": 5e-4, "clip_norm": 1.0, "ema": 0.999},
            "train": {"duration": "200ep", "batch_size": 64, "label_smoothing": 0.1},
        }
    )


def cifar_resnet18(source: str) -> Config:
    """ResNet-18 with a 3x3 stem on CIFAR-10, with the augmentation of the ResNet paper and one long cosine.

    Command: linnaeus train cifar10 --recipe cifar-resnet18
    Hardware: one H100
    Time: about 15 minutes, an estimate
    Expected: about 95.5% on the 10,000 test images, as public implementations report; not yet run
    """
    return make_config(
        {
            "data": {"source": source, "loader": "memory"},
            "model": {"name": "resnet18", "image_size": 32, "options": {"stem": "small"}},
            "augment": {"crop": "pad", "padding": 4},
            "optim": {"name": "sgd", "lr": 0.1, "weight_decay": 5e-4, "clip_norm": 0.0},
            "train": {"duration": "200ep", "batch_size": 128, "label_smoothing": 0.0},
        }
    )


def cifar_speedrun(source: str) -> Config:
    """CIFAR-10 in eight epochs: the network and the augmentation of airbench94 (arXiv:2404.00498), with Muon.

    As there: whitened patches, shifts by two pixels, every image mirrored in every other epoch, labels smoothed by 0.2.
    Muon trains the kernels, and AdamW the rest; the whitening has no bias, so that no gradient need reach the image.

    Command: linnaeus train cifar10 --recipe cifar-speedrun
    Hardware: 2 CPU cores, or one GPU
    Time: a quarter of an hour on cores with bfloat16, two hours on others, an estimate
    Expected: the goal is airbench94's accuracy in 0.8 of its time (make bench BENCH=speedrun); not yet run
    """
    return make_config(
        {
            "data": {"source": source, "loader": "memory", "val_share": 0.02},
            "model": {"name": "airbench94", "image_size": 32, "in_channels": 3, "options": {"whiten_bias": False}},
            "augment": {"crop": "pad", "padding": 2, "padding_mode": "reflect", "alternate_flips": True},
            "optim": {
                "name": "muon",
                "lr": 0.02,
                "weight_decay": 0.5,
                "momentum": 0.6,
                "clip_norm": 0.0,
                "schedule": "linear",
                "warmup": 0.0,
            },
            "train": {"duration": "8ep", "batch_size": 1000, "label_smoothing": 0.2, "tta": "shift"},
        }
    )


def fine_grained(source: str) -> Config:
    """ConvNeXt-T from ImageNet weights at 384 pixels, for classes that differ in details, such as species of birds.

    Large images show the details, mild crops keep them, and the lower layers change less than the head.

    Command: linnaeus train birds/ --recipe fine-grained
    Hardware: one H100
    Time: about 30 minutes for 6,000 photos, an estimate
    Expected: not yet run
    """
    return make_config(
        {
            "data": {"source": source, "loader": "files"},
            "model": {
                "name": "convnext_tiny",
                "weights": "default",
                "image_size": 384,
                "options": {"drop_path": 0.2},
            },
            "augment": {"crop": "resized", "min_area": 0.5, "policy": "trivial"},
            "optim": {
                "name": "adamw",
                "lr": 2e-4,
                "weight_decay": 0.05,
                "clip_norm": 1.0,
                "layer_decay": 0.8,
                "warmup": "5ep",
                "ema": 0.999,
            },
            "train": {"duration": "50ep", "batch_size": 32, "label_smoothing": 0.1},
        }
    )


def probe(source: str) -> Config:
    """A linear head on the features of EfficientNet-Lite0 as ImageNet left them: the quickest answer.

    Each image is shown to the network once. The head is a logistic regression, its penalty chosen on held-out images.

    Command: linnaeus train photos/ --recipe probe
    Hardware: 2 CPU cores
    Time: 26 s for the 398 photos of hymenoptera, in all; with AVX512
    Expected: 94.1% ± 0.0% on the 153 test photos of hymenoptera, five seeds (`make bench BENCH=photos`)
    """
    return make_config(
        {
            "data": {"source": source},
            "model": {"name": "efficientnet_lite0", "weights": "default"},
            "train": {"duration": "0ep", "head_start": True, "label_smoothing": 0.0},
        }
    )


def finetune(source: str) -> Config:
    """The head of `probe`, then the whole network from there: the default where training starts from trained weights.

    Kumar et al. (arXiv:2202.10054): a network that starts with a fitted head keeps more of what it knows than one that
    starts with a random one. The state before the first step is evaluated too, and kept if none after it is better.

    Command: linnaeus train photos/ --recipe finetune
    Hardware: 2 CPU cores
    Time: 72 s for the 398 photos of hymenoptera, in all; with AVX512
    Expected: 94.6% ± 0.3% on the 153 test photos of hymenoptera, five seeds (`make bench BENCH=photos`)
    """
    return make_config(
        {
            "data": {"source": source},
            "model": {"name": "efficientnet_lite0", "weights": "default"},
            "augment": {"min_area": 0.35},
            "optim": {"layer_decay": 0.9, "warmup": 0.1},
            "train": {
                "duration": "4ep",
                "batch_size": 32,
                "head_start": True,
                "label_smoothing": 0.1,
                "channels_last": True,
                "compile": False,
            },
        }
    )


RECIPES: dict[str, Callable[[str], Config]] = {
    "probe": probe,
    "finetune": finetune,
    "tutorial-resnet": tutorial_resnet,
    "scratch-small": scratch_small,
    "cifar-resnet18": cifar_resnet18,
    "cifar-speedrun": cifar_speedrun,
    "imagenet-resnet50": imagenet_resnet50,
    "imagenet-vit-s": imagenet_vit_s,
    "imagenet-convnext-t": imagenet_convnext_t,
    "fine-grained": fine_grained,
}
FACTS = ("Command", "Hardware", "Time", "Expected")


def over_finetune(content: dict[str, Any]) -> dict[str, Any]:
    """Settings with those of `finetune` beneath them, where they start from trained weights; else as they are.

    What they say wins. The network is theirs, or the usual one.
    """
    if not content.get("model", {}).get("weights"):
        return content
    usual = finetune(PLACEHOLDER).model_dump()
    beneath = {name: usual[name] for name in ("augment", "optim", "train")}
    return {**content, **{name: {**section, **content.get(name, {})} for name, section in beneath.items()}}


def find_recipe(name: str) -> Callable[[str], Config]:
    """The recipe of that name.

    Raises:
        RequestError: if there is none, with the nearest name.
    """
    if name not in RECIPES:
        close = get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(RECIPES)}"
        raise RequestError(f"there is no recipe named '{name}': {hint}")
    return RECIPES[name]


def recipe_facts(name: str) -> dict[str, str]:
    """What the docstring of a recipe says under "What", its first line, and each of `FACTS`."""
    text = inspect.getdoc(find_recipe(name)) or ""
    return {"What": text.splitlines()[0], **dict(re.findall(rf"^({'|'.join(FACTS)}): (.+)$", text, re.MULTILINE))}


def recipe_file(name: str) -> str:
    """A recipe as a file of settings that `linnaeus train --config` reads: every setting, under what is known of it."""
    text = inspect.getdoc(find_recipe(name)) or ""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in text.splitlines())
    return comment + yaml.safe_dump(RECIPES[name](PLACEHOLDER).model_dump(), sort_keys=False, width=120)
