"""The thin ResNets for CIFAR-10: a 3x3 convolution, three stages of basic blocks, average pooling, one linear layer.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385, section 4.2 and table 6.

Shapes: B batch, C channels, H and W height and width, D width of the features (64), K classes.

What the paper leaves open: where the zeros of a shortcut's new channels go. Half of them stand before the old channels,
half behind.
"""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from linnaeus.core.classifier import Classifier
from linnaeus.models.resnet import BasicBlock, make_stages


class ZeroPadding(nn.Module):
    """The shortcut of the paper's option A, without parameters: every `stride`-th pixel, and zeros as new channels."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.behind = out_channels - in_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.behind))  # (B, C, H, W) -> (B, out_channels, H, W)

    def extra_repr(self) -> str:
        return f"stride={self.stride}, before={self.before}, behind={self.behind}"


class CifarResNet(Classifier):
    """The networks of 6n + 2 layers.

    Args:
        num_classes: K.
        in_channels: C.
        image_size: pixels; the network accepts other sizes too.
        depth: number of layers with weights, 6n + 2.
        zero_init_last: lets every block start as its shortcut, by a scale of 0 in its last batch normalisation.
        drop_path: rate of stochastic depth in the last block; it grows linearly from 0 in the first.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        depth: int,
        zero_init_last: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"CifarResNet got depth={depth}, expected 6n + 2: 8, 14, 20, ...")
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, image_size
        self.zero_init_last = zero_init_last

        self.conv1 = nn.Conv2d(in_channels, 16, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        block = partial(BasicBlock, shortcut=ZeroPadding)
        stages = make_stages(block, (16, 32, 64), [(depth - 2) // 6] * 3, drop_path)
        self.layer1, self.layer2, self.layer3 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)
        self.init_weights()

    @property
    def head(self) -> nn.Linear:  # type: ignore[override]
        """Named `fc` as in `ResNet`."""
        return self.fc

    def features(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        features: Tensor = self.avgpool(x).flatten(1)  # (B, D, H, W) -> (B, D)
        return features

    @property
    def blocks(self) -> Sequence[BasicBlock]:  # type: ignore[override]
        return [*self.layer1, *self.layer2, *self.layer3]

    def init_weights(self) -> None:
        """Convolutions are He's, by fan-in; batch normalisation has scale 1, shift 0; `fc` is PyTorch's default."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d | nn.Linear):
                module.reset_parameters()
        if self.zero_init_last:
            for block in self.blocks:
                nn.init.zeros_(block.last_bn.weight)


resnet20 = partial(CifarResNet, depth=20)
resnet32 = partial(CifarResNet, depth=32)
resnet44 = partial(CifarResNet, depth=44)
resnet56 = partial(CifarResNet, depth=56)
resnet110 = partial(CifarResNet, depth=110)
