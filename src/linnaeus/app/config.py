"""The complete configuration of a run: data only, frozen, strict. An unknown key is an error, as is a wrong type."""

from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from linnaeus.app.learning import OptimConfig, TrainConfig
from linnaeus.app.section import Section
from linnaeus.core.errors import RequestError

VERSION = 1


class DataConfig(Section):
    """Which images, and who learns from which.

    Attributes:
        quarantine: a list of images to leave out, with the columns path and reason, in place of the doctor's own; such
            as an edited data/quarantine.csv of an earlier run.
        source: a folder, a table, Parquet files, "hf:owner/name" or the name of a built-in set (`data/sources`).
        path_column, label_column, split_column: columns of a table; null for those with the usual names.
        val_share, test_share: shares to carve where the source has no such split.
        limit: use at most this many images of each class, for a quick trial; null for all.
        balance: show all classes equally often in training: images of small classes several times an epoch.
        loader: "memory" keeps all images decoded; "files" decodes in worker processes; "auto" takes memory for sets of
            small images.
        workers: processes of the file loader; null for one a core, at most 8.
        decoder: what decodes the files for training: "fast" needs linnaeus[fast-data], "pillow" needs nothing; "auto"
            takes fast where it is installed. Evaluation and prediction have one decoder and no choice.
        cache_gib: GiB of disk that decoded training images may take, of all runs together; 0 for none; null for half of
            the memory, or a quarter of the free disk if that is less, where a run from files has several epochs.
    """

    source: str
    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    quarantine: str | None = None
    val_share: float = Field(0.10, gt=0, lt=1)
    test_share: float = Field(0.20, gt=0, lt=1)
    limit: int | None = Field(None, ge=3)
    balance: bool = False
    loader: Literal["auto", "memory", "files"] = "auto"
    workers: int | None = Field(None, ge=0)
    decoder: Literal["auto", "pillow", "fast"] = "auto"
    cache_gib: float | None = Field(None, ge=0)


class ModelConfig(Section):
    """Which network.

    Attributes:
        name: of `linnaeus models`, or "auto".
        weights: where training starts from: "default" for the weights that `linnaeus models` names, the path of a file
            or of a model's folder, an address, or "hf:owner/name"; null for weights drawn at random.
        image_size: pixels; null for that of the weights, or the images' own where they are small, or the network's.
        in_channels: 1 for grey, 3 for colour; null for what the images are.
        options: further keywords of the network, such as {"drop_path": 0.1}.
    """

    name: str = "auto"
    weights: str | None = Field(None, min_length=1)
    image_size: int | None = Field(None, ge=1)
    in_channels: int | None = Field(None, ge=1)
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _options(cls, options: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
        elsewhere = {"pretrained": "model.weights", "num_classes": "the folders of data.source"}
        elsewhere |= {name: f"model.{name}" for name in ("name", "image_size", "in_channels")}
        for name in elsewhere.keys() & options.keys():
            raise ValueError(f"'{name}' is not an option of a network: {elsewhere[name]} says it")
        return options


class PreprocessConfig(Section):
    """How the network is shown an image. Null stands for what the weights it starts from were trained with.

    Without such weights: the statistics of the training images where these are in memory, and ImageNet's for photos;
    and the centre of an image, 7/8 of its shorter side.

    Attributes:
        resize: length of the shorter side before the centre is cropped, pixels.
        mean, std: one value a channel, for pixels in [0, 1].
        interpolation: filter of the resize.
    """

    resize: int | None = Field(None, ge=1)
    mean: list[float] | None = None
    std: list[float] | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None


class AugmentConfig(Section):
    """What training does to images, in this order.

    Attributes:
        repeats: of how many copies of each image an epoch is made, with as many fewer images.
        crop: "pad" shifts small images by a few pixels; "resized" takes a random part; "none" the centre; "auto" takes
            pad for images in memory and resized for files.
        padding: pixels of the shift.
        padding_mode: what moves in.
        min_area: smallest part, as a share of the image's area.
        flip: mirror left to right, half of the time.
        alternate_flips: mirror an image in every other epoch, rather than by chance in each.
        policy: "jitter" changes colours a little; "trivial" does one thing to an image, strong or weak; "rand" several.
        policy_options: keywords of the policy, such as {"magnitude": 12}.
        cutout: side of a square that covers a part of each image, pixels; 0 for none.
        erase: probability with which a rectangle covers a part of an image.
        erase_fill: the colour of the rectangle: the mean of all images, or noise.
        mixup, cutmix: a of Beta(a, a), which draws how much of its neighbour is mixed into an image; 0 for none.
        mix_probability: share of the steps that mix.
        mix_switch: share of the mixing steps that take CutMix, where both are on.
    """

    repeats: int = Field(1, ge=1)
    crop: Literal["auto", "none", "pad", "resized"] = "auto"
    padding: int = Field(4, ge=1)
    padding_mode: Literal["zeros", "reflect"] = "zeros"
    min_area: float = Field(0.35, gt=0, le=1)
    flip: bool = True
    alternate_flips: bool = False
    policy: Literal["none", "jitter", "trivial", "rand"] = "none"
    policy_options: dict[str, int | float] = Field(default_factory=dict)
    cutout: int = Field(0, ge=0)
    erase: float = Field(0.0, ge=0, le=1)
    erase_fill: Literal["mean", "noise"] = "mean"
    mixup: float = Field(0.0, ge=0)
    cutmix: float = Field(0.0, ge=0)
    mix_probability: float = Field(1.0, gt=0, le=1)
    mix_switch: float = Field(0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _no_setting_without_effect(self) -> "AugmentConfig":
        idle = {
            "alternate_flips": (self.alternate_flips and not self.flip, "flip"),
            "policy_options": (bool(self.policy_options) and self.policy == "none", "a policy"),
            "erase_fill": (self.erase_fill != "mean" and self.erase == 0, "erase"),
            "mix_probability": (self.mix_probability != 1 and not self.mixes, "mixup or cutmix"),
            "mix_switch": (self.mix_switch != 0.5 and not (self.mixup and self.cutmix), "mixup and cutmix"),
        }
        for name, (is_idle, needed) in idle.items():
            if is_idle:
                raise ValueError(f"{name} has no effect without {needed}")
        return self

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed."""
        return self.mixup > 0 or self.cutmix > 0


class CheckpointConfig(Section):
    """When the state is saved.

    Attributes:
        seconds: longest time without a checkpoint within an epoch; every epoch ends with one.
        keep: how many to keep, beside the best weights.
    """

    seconds: float = Field(300.0, ge=0)
    keep: int = Field(2, ge=1)


class RecordConfig(Section):
    """What is written down of the training itself.

    Attributes:
        microscope: histograms of weights and gradients, lengths of the updates, dead units, memory, images and the
            graph, in the record and in TensorBoard, for about 2% of the time; the weights are the same to the bit.
    """

    microscope: bool = False


class ConfidenceConfig(Section):
    """When the finished model says that it is not sure; decided on val, written into the model.

    Attributes:
        min_accuracy: wished among the images that get an answer, such as 0.99; the others are "not sure". Null answers
            all.
        set_coverage: how often the candidates that are named for an image hold its class.
        false_alarms: of images like those of training, the share that may be called unlike them.
    """

    min_accuracy: float | None = Field(None, gt=0, lt=1)
    set_coverage: float = Field(0.95, gt=0, lt=1)
    false_alarms: float = Field(0.05, gt=0, lt=1)


class Config(Section):
    """A run from data to deliverable."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    record: RecordConfig = RecordConfig()
    confidence: ConfidenceConfig = ConfidenceConfig()

    @model_validator(mode="after")
    def _what_fits_together(self) -> "Config":
        if self.train.head_start and not self.model.weights:
            raise ValueError("train.head_start fits a head to features of trained weights: give --weights as well")
        if self.record.microscope and self.train.compile:
            raise ValueError("record.microscope looks into networks that are not compiled: set train.compile=false")
        if self.train.tta != "none" and not self.augment.flip:
            raise ValueError(
                f"train.tta={self.train.tta} mirrors images, and augment.flip=false says that mirror images are others"
            )
        return self

    def replace(self, **sections: dict[str, Any]) -> "Config":
        """A copy with some settings changed and all of them checked again."""
        content = self.model_dump()
        for name, changes in sections.items():
            content[name] = {**content[name], **changes}
        return make_config(content)


def make_config(content: dict[str, Any]) -> Config:
    """Checks a nested dict.

    Raises:
        RequestError: for the first unknown key or unfit value, naming it.
    """
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise RequestError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = Config.model_fields
        section = first["loc"][0]
        names = known if len(first["loc"]) == 1 else known[str(section)].annotation.model_fields  # type: ignore[union-attr]
        return f"unknown setting '{where}'; known here: {', '.join(names)}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error" and isinstance(first["input"], dict):  # of several settings, which it names
        return f"{where}: {message}" if where else message
    return f"{where}: {message}, and {first['input']!r} was given"
