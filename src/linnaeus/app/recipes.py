"""Recipes: functions that return the complete configuration of a run that is worth repeating.

Each says in its docstring how to start it, on what, how long it takes and what comes out. `linnaeus recipes` lists
them, `linnaeus recipes show NAME` prints one as a file of settings, and `linnaeus train DATA --recipe NAME` runs it,
with whatever else is said on the command line changed.
"""

import inspect
import re
from collections.abc import Callable
from difflib import get_close_matches

import yaml

from linnaeus.app.config import Config, make_config
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


def imagenet_resnet50(source: str) -> Config:
    """ResNet-50 on ImageNet in the manner of A3 of "ResNet strikes back" (arXiv:2110.00476): BCE, mixing, 160 pixels.

    AdamW stands for the paper's LAMB, with a learning rate and decay that suit it.

    Command: linnaeus train imagenet/ --recipe imagenet-resnet50
    Hardware: one H100
    Time: about 7 hours, an estimate
    Expected: 78.1% top-1 says the paper, which evaluates at 224 pixels and this at 160; not yet run
    """
    return make_config(
        {
            "data": {"source": source, "loader": "files"},
            "model": {"name": "resnet50", "image_size": 160, "options": {"zero_init_last": True}},
            "preprocess": {"resize": 168, "interpolation": "bicubic"},
            "augment": {
                "crop": "resized",
                "min_area": 0.08,
                "policy": "rand",
                "mixup": 0.1,
                "cutmix": 1.0,
            },
            "optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05, "clip_norm": 1.0, "warmup": "5ep"},
            "train": {
                "duration": "100ep",
                "batch_size": 1024,
                "loss": "bce",
                "loss_options": {"threshold": 0.2},
                "label_smoothing": 0.0,
            },
        }
    )


def imagenet_vit_s(source: str) -> Config:
    """ViT-S/16 on ImageNet as in "Better plain ViT baselines" (arXiv:2205.01580): average pooling, RandAugment, MixUp.

    The positions are learned here, and sines and cosines there.

    Command: linnaeus train imagenet/ --recipe imagenet-vit-s
    Hardware: one H100
    Time: about 13 hours, an estimate
    Expected: 76.5% top-1 says the paper of its 90 epochs; not yet run
    """
    return make_config(
        {
            "data": {"source": source, "loader": "files"},
            "model": {"name": "vit_small", "image_size": 224, "options": {"pool": "avg", "class_token": False}},
            "preprocess": {"resize": 256},
            "augment": {
                "crop": "resized",
                "min_area": 0.05,
                "policy": "rand",
                "policy_options": {"magnitude": 10},
                "mixup": 0.2,
            },
            "optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.1, "clip_norm": 1.0, "warmup": "10000st"},
            "train": {"duration": "90ep", "batch_size": 1024, "label_smoothing": 0.0},
        }
    )


def imagenet_convnext_t(source: str) -> Config:
    """ConvNeXt-T on ImageNet with the settings of its paper (arXiv:2201.03545, appendix A.1).

    The batch is a quarter of the paper's 4096, and so is the learning rate.

    Command: linnaeus train imagenet/ --recipe imagenet-convnext-t
    Hardware: one H100
    Time: about 3 days, an estimate
    Expected: 82.1% top-1 says the paper; not yet run
    """
    return make_config(
        {
            "data": {"source": source, "loader": "files"},
            "model": {"name": "convnext_tiny", "image_size": 224, "options": {"drop_path": 0.1}},
            "preprocess": {"resize": 256, "interpolation": "bicubic"},
            "augment": {
                "crop": "resized",
                "min_area": 0.08,
                "policy": "rand",
                "erase": 0.25,
                "erase_fill": "noise",
                "mixup": 0.8,
                "cutmix": 1.0,
            },
            "optim": {
                "name": "adamw",
                "lr": 1e-3,
                "weight_decay": 0.05,
                "clip_norm": 0.0,
                "warmup": "20ep",
                "ema": 0.9999,
            },
            "train": {"duration": "300ep", "batch_size": 1024, "label_smoothing": 0.1},
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


RECIPES: dict[str, Callable[[str], Config]] = {
    "tutorial-resnet": tutorial_resnet,
    "scratch-small": scratch_small,
    "cifar-resnet18": cifar_resnet18,
    "imagenet-resnet50": imagenet_resnet50,
    "imagenet-vit-s": imagenet_vit_s,
    "imagenet-convnext-t": imagenet_convnext_t,
    "fine-grained": fine_grained,
}
FACTS = ("Command", "Hardware", "Time", "Expected")


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
