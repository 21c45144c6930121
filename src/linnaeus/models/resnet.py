"""ResNet, ResNeXt and Wide ResNet: a stem, four stages of residual blocks, average pooling, one linear layer.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385, section 3.3 and table 1;
Xie et al., "Aggregated Residual Transformations for Deep Neural Networks", CVPR 2017, arXiv:1611.05431, table 1;
Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, arXiv:1605.07146: WRN-50-2-bottleneck.

Shapes: B batch, C channels, H and W height and width, D width of the features, K classes.
Parameters have torchvision's names.

What differs from the paper:
- A bottleneck's stride is on its 3x3 convolution, as in torchvision ("v1.5"), not on its first 1x1 convolution.
- Small images get a stem that keeps their resolution; the paper's divides it by 4.
- Stochastic depth (arXiv:1603.09382) and blocks that start as the identity (arXiv:1706.02677, section 5.1) are options.

Every call of an activation has its own module (`relu1`, `relu2`, ...), because quantization observes modules. They work
in place, as torchvision's do: a forward pass allocates less. `core/capture.py` sees what each returned all the same.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn

from linnaeus.core.classifier import Classifier
from linnaeus.models.layers import DropPath, drop_path_rates


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The shortcut of the paper's option B: the identity, or a 1x1 convolution where the shape changes."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: figure 5, left."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int = 1,
        drop_path: float = 0.0,
        shortcut: Callable[[int, int, int], nn.Module] = projection,
    ) -> None:
        super().__init__()
        self.out_channels = channels
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.drop_path = DropPath(drop_path)
        self.downsample = shortcut(in_channels, channels, stride)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.relu1(self.bn1(self.conv1(x)))
        branch = self.drop_path(self.bn2(self.conv2(branch)))
        branch += self.downsample(x)  # in place, as the ReLUs: on a CPU new memory costs more than the sum
        output: Tensor = self.relu2(branch)
        return output

    @property
    def last_bn(self) -> nn.BatchNorm2d:
        return self.bn2


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut: figure 5, right.

    The 3x3 convolution has `groups` groups. In the first stage, where `channels` is 64, each is `width_per_group`
    channels wide, and in proportion later: 1 x 64 is ResNet, 32 x 4 ResNeXt, 1 x 128 the wide network.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int = 1,
        drop_path: float = 0.0,
        groups: int = 1,
        width_per_group: int = 64,
    ) -> None:
        super().__init__()
        self.out_channels = 4 * channels
        width = groups * (channels * width_per_group // 64)
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, self.out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.out_channels)
        self.drop_path = DropPath(drop_path)
        self.downsample = projection(in_channels, self.out_channels, stride)
        self.relu3 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.relu1(self.bn1(self.conv1(x)))
        branch = self.relu2(self.bn2(self.conv2(branch)))
        branch = self.drop_path(self.bn3(self.conv3(branch)))
        branch += self.downsample(x)
        output: Tensor = self.relu3(branch)
        return output

    @property
    def last_bn(self) -> nn.BatchNorm2d:
        return self.bn3


Block = BasicBlock | Bottleneck


def make_stages(
    block: Callable[..., Block], widths: Sequence[int], depths: Sequence[int], drop_path: float
) -> Iterator[nn.Sequential]:
    """One stage after the other; each but the first halves H and W with its first block.

    Args:
        block: makes a block from (in_channels, channels, stride=..., drop_path=...).
        widths: `channels` of the blocks of each stage; the first is also the width of the stem.
        depths: number of blocks in each stage.
        drop_path: rate of the last block.
    """
    rates = iter(drop_path_rates(drop_path, sum(depths)))
    in_channels = widths[0]
    for stage, (channels, depth) in enumerate(zip(widths, depths, strict=True)):
        blocks = []
        for i in range(depth):
            stride = 2 if stage > 0 and i == 0 else 1
            blocks.append(block(in_channels, channels, stride=stride, drop_path=next(rates)))
            in_channels = blocks[-1].out_channels
        yield nn.Sequential(*blocks)


class ResNet(Classifier):
    """The networks for ImageNet.

    Args:
        num_classes: K.
        in_channels: C.
        image_size: pixels. It chooses the stem; the network accepts other sizes too.
        block: makes a block from (in_channels, channels, stride=..., drop_path=...).
        depths: number of blocks in each stage.
        stem: "imagenet" is the paper's, a 7x7 convolution and max pooling, both with stride 2; "small" is one 3x3
            convolution with stride 1; "auto" is small for images of up to 64 pixels.
        zero_init_last: lets every block start as its shortcut, by a scale of 0 in its last batch normalisation.
        drop_path: rate of stochastic depth in the last block; it grows linearly from 0 in the first.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 224,
        block: Callable[..., Block],
        depths: tuple[int, int, int, int],
        stem: Literal["auto", "imagenet", "small"] = "auto",
        zero_init_last: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if stem not in ("auto", "imagenet", "small"):
            raise ValueError(f"ResNet got stem='{stem}', expected 'auto', 'imagenet' or 'small'")
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, image_size
        self.zero_init_last = zero_init_last

        small = stem == "small" or (stem == "auto" and image_size <= 64)
        kernel_size, stride = (3, 1) if small else (7, 2)
        self.conv1 = nn.Conv2d(in_channels, 64, kernel_size, stride, padding=kernel_size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        stages = make_stages(block, (64, 128, 256, 512), depths, drop_path)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.blocks[-1].out_channels, num_classes)
        self.init_weights()

    @property
    def head(self) -> nn.Linear:  # type: ignore[override]
        """torchvision's name for it is `fc`."""
        return self.fc

    def features(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        features: Tensor = self.avgpool(x).flatten(1)  # (B, D, H, W) -> (B, D)
        return features

    @property
    def blocks(self) -> Sequence[Block]:  # type: ignore[override]
        return [*self.layer1, *self.layer2, *self.layer3, *self.layer4]

    def init_weights(self) -> None:
        """Convolutions are He's, by fan-out; batch normalisation has scale 1, shift 0; `fc` is PyTorch's default."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d | nn.Linear):
                module.reset_parameters()
        if self.zero_init_last:
            for block in self.blocks:
                nn.init.zeros_(block.last_bn.weight)


resnet18 = partial(ResNet, block=BasicBlock, depths=(2, 2, 2, 2))
resnet34 = partial(ResNet, block=BasicBlock, depths=(3, 4, 6, 3))
resnet50 = partial(ResNet, block=Bottleneck, depths=(3, 4, 6, 3))
resnet101 = partial(ResNet, block=Bottleneck, depths=(3, 4, 23, 3))
resnet152 = partial(ResNet, block=Bottleneck, depths=(3, 8, 36, 3))
resnext50_32x4d = partial(ResNet, block=partial(Bottleneck, groups=32, width_per_group=4), depths=(3, 4, 6, 3))
wide_resnet50_2 = partial(ResNet, block=partial(Bottleneck, width_per_group=128), depths=(3, 4, 6, 3))
