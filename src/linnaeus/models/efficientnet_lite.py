"""EfficientNet-Lite: EfficientNet without what mobile hardware and integer arithmetic do badly.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, arXiv:1905.11946,
table 1. The Lite networks have no paper of their own (reference: tensorflow/tpu, models/official/efficientnet/lite): no
squeeze-and-excitation, ReLU6 instead of swish, and a stem and a head that do not grow with the network.

Shapes: B batch, C channels, H and W height and width, D width of the features, K classes.
Parameters have timm's names; blocks are numbered through, and the first has the names of the others.

What differs from the reference:
- There is no dropout before the head; stochastic depth (arXiv:1603.09382) is the regulariser.
- Batch normalisation moves its statistics by 0.1 a step, PyTorch's default, instead of 0.01: a short fine-tuning would
  be over before they have followed.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from linnaeus.core.classifier import Classifier
from linnaeus.models.layers import DropPath, drop_path_rates

BN_EPS = 1e-3

# Expansion, kernel size and stride of each stage, the stride being that of its first block: table 1.
STAGES = ((1, 3, 1), (6, 3, 2), (6, 5, 2), (6, 3, 2), (6, 5, 1), (6, 5, 2), (6, 3, 1))


class Conv2dSame(nn.Conv2d):
    """A convolution of an odd kernel with TensorFlow's "SAME" padding, for images of any size.

    The output has ceil(size / stride) pixels. Where the padding is odd, the extra pixel is below and on the right; a
    stride above 1 makes it depend on the size of the image. Without a stride it is `kernel_size // 2` on all sides.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, groups: int = 1):
        padding = kernel_size // 2 if stride == 1 else 0
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride != (1, 1):
            top, bottom = self._padding_of(x.shape[-2])
            left, right = self._padding_of(x.shape[-1])
            x = F.pad(x, (left, right, top, bottom))
        return super().forward(x)

    def _padding_of(self, size: int) -> tuple[int, int]:
        """How many pixels before and behind: in all, what lets the last window begin at the last multiple of stride."""
        total = self.kernel_size[0] - self.stride[0] + -size % self.stride[0]
        return total // 2, total - total // 2


class InvertedResidual(nn.Module):
    """A 1x1 convolution widens, a depthwise one mixes space, a 1x1 without activation narrows: MBConv of the paper.

    From Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, arXiv:1801.04381,
    section 3.3. Nothing is widened where `expansion` is 1, and there is a shortcut where the shape does not change.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        expansion: int,
        kernel_size: int,
        stride: int = 1,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.has_shortcut = stride == 1 and in_channels == out_channels
        width = expansion * in_channels
        widens = expansion > 1
        self.conv_pw = nn.Conv2d(in_channels, width, kernel_size=1, bias=False) if widens else nn.Identity()
        self.bn1 = nn.BatchNorm2d(width, eps=BN_EPS) if widens else nn.Identity()
        self.act1 = nn.ReLU6() if widens else nn.Identity()
        self.conv_dw = Conv2dSame(width, width, kernel_size, stride=stride, groups=width)
        self.bn2 = nn.BatchNorm2d(width, eps=BN_EPS)
        self.act2 = nn.ReLU6()
        self.conv_pwl = nn.Conv2d(width, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels, eps=BN_EPS)
        self.drop_path = DropPath(drop_path) if self.has_shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.act1(self.bn1(self.conv_pw(x)))
        branch = self.act2(self.bn2(self.conv_dw(branch)))
        branch = self.drop_path(self.bn3(self.conv_pwl(branch)))
        output: Tensor = x + branch if self.has_shortcut else branch
        return output


class EfficientNetLite(Classifier):
    """A stem, seven stages of inverted residuals, a 1x1 convolution, average pooling, one linear layer.

    Args:
        num_classes: K.
        in_channels: C.
        image_size: pixels; the network accepts other sizes too.
        widths: number of channels after each stage.
        depths: number of blocks in each stage.
        drop_path: rate of stochastic depth in the last block; it grows linearly from 0 in the first. Blocks without a
            shortcut have none.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 224,
        widths: tuple[int, int, int, int, int, int, int],
        depths: tuple[int, int, int, int, int, int, int],
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, image_size

        self.conv_stem = Conv2dSame(in_channels, 32, kernel_size=3, stride=2)
        self.bn1 = nn.BatchNorm2d(32, eps=BN_EPS)
        self.act1 = nn.ReLU6()
        self.blocks = nn.ModuleList()
        rates = iter(drop_path_rates(drop_path, sum(depths)))
        channels = 32
        for (expansion, kernel_size, stride), width, depth in zip(STAGES, widths, depths, strict=True):
            block = partial(InvertedResidual, expansion=expansion, kernel_size=kernel_size)
            for i in range(depth):
                self.blocks.append(block(channels, width, stride=1 if i else stride, drop_path=next(rates)))
                channels = width
        self.conv_head = nn.Conv2d(channels, 1280, kernel_size=1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280, eps=BN_EPS)
        self.act2 = nn.ReLU6()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(1280, num_classes)
        self.init_weights()

    def features(self, images: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv_stem(images)))
        for block in self.blocks:
            x = block(x)
        x = self.act2(self.bn2(self.conv_head(x)))
        features: Tensor = self.avgpool(x).flatten(1)  # (B, D, H, W) -> (B, D)
        return features

    def init_weights(self) -> None:
        """As the reference: convolutions are He's by fan-out within a group, the head is uniform by its fan-out.

        Batch normalisation starts at scale 1, shift 0; the head's bias at 0.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.weight[:, 0].numel() // module.groups
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                bound = module.out_features**-0.5
                nn.init.uniform_(module.weight, -bound, bound)
                nn.init.zeros_(module.bias)


efficientnet_lite0 = partial(
    EfficientNetLite, widths=(16, 24, 40, 80, 112, 192, 320), depths=(1, 2, 2, 3, 3, 4, 1), image_size=224
)
efficientnet_lite1 = partial(
    EfficientNetLite, widths=(16, 24, 40, 80, 112, 192, 320), depths=(1, 3, 3, 4, 4, 5, 1), image_size=240
)
efficientnet_lite2 = partial(
    EfficientNetLite, widths=(16, 24, 48, 88, 120, 208, 352), depths=(1, 3, 3, 4, 4, 5, 1), image_size=260
)
