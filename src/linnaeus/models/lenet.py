"""LeNet-5: convolution and subsampling twice, then three fully connected layers.

LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition", Proceedings of the IEEE
86(11), 1998, section II-B. The layers keep the paper's names: C1 and S2, C3 and S4, C5, F6.

Shapes: B batch, C channels, H and W height and width, K classes.

What differs from the paper:
- S2 and S4 average, no more; the paper's also have a trainable coefficient and bias for each map.
- tanh follows each convolution; the paper squashes after each subsampling, and by 1.7159 tanh(2x/3).
- C3 sees all maps of S2; in the paper's table I each map of C3 sees 3, 4 or 6 of them.
- The output is linear, for softmax and cross-entropy; the paper's is the distance to a fixed 7x12 bitmap of each
  class (Euclidean radial basis functions).
- Weights start from Glorot's uniform distribution; the paper's from one within 2.4 / fan-in.

`modern` keeps the sizes of the layers and replaces what has since been improved: batch normalisation after the
convolutions, ReLU, max pooling, and He's initialisation.
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from linnaeus.core.classifier import Classifier


def activation(*, modern: bool) -> nn.Module:
    """ReLU where modern, tanh in the paper: a new module at each call, one for each place."""
    return nn.ReLU() if modern else nn.Tanh()


def conv_stage(in_channels: int, channels: int, *, padding: int = 0, modern: bool) -> nn.Sequential:
    """A 5x5 convolution and subsampling by 2: C1 with S2, C3 with S4."""
    stage = nn.Sequential()
    stage.conv = nn.Conv2d(in_channels, channels, kernel_size=5, padding=padding, bias=not modern)
    if modern:
        stage.norm = nn.BatchNorm2d(channels)
    stage.act = activation(modern=modern)
    stage.pool = nn.MaxPool2d(2) if modern else nn.AvgPool2d(2)
    return stage


class LeNet5(Classifier):
    """LeNet-5 for images of 32x32 pixels, or of 28x28, which C1 then pads to 32x32.

    Args:
        num_classes: K.
        in_channels: C; the paper has 1.
        image_size: 28 or 32.
        modern: batch normalisation, ReLU and max pooling instead of tanh and average pooling.
    """

    def __init__(self, *, num_classes: int, in_channels: int = 3, image_size: int = 32, modern: bool = False) -> None:
        super().__init__()
        if image_size not in (28, 32):
            raise ValueError(f"LeNet-5 got image_size={image_size}, expected 28 or 32: choose one of these")
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, image_size
        self.modern = modern

        self.c1 = conv_stage(in_channels, 6, padding=(32 - image_size) // 2, modern=modern)
        self.c3 = conv_stage(6, 16, modern=modern)
        self.c5 = nn.Linear(16 * 5 * 5, 120)  # in the paper a 5x5 convolution, of maps that are 5x5: the same
        self.act5 = activation(modern=modern)
        self.f6 = nn.Linear(120, 84)
        self.act6 = activation(modern=modern)
        self.head = nn.Linear(84, num_classes)
        self.init_weights()

    def features(self, images: Tensor) -> Tensor:
        x = self.c1(images)  # (B, C, H, W) -> (B, 6, 14, 14)
        x = self.c3(x).flatten(1)  # (B, 16, 5, 5) -> (B, 400)
        x = self.act5(self.c5(x))
        features: Tensor = self.act6(self.f6(x))  # (B, 84)
        return features

    @property
    def blocks(self) -> Sequence[nn.Module]:  # type: ignore[override]
        return [self.c1, self.c3]

    def init_weights(self) -> None:
        """Weights are Glorot's, or He's for ReLU; biases are 0; batch normalisation starts at scale 1, shift 0."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, nn.Conv2d | nn.Linear):
                if self.modern:
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                else:
                    nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


lenet5 = partial(LeNet5, modern=False)
lenet5_modern = partial(LeNet5, modern=True)
