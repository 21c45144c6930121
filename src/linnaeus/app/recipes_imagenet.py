"""The recipes for ImageNet; `recipes.py` has the others, and the list of all."""

from linnaeus.app.config import Config, make_config


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
