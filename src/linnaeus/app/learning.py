"""The sections of the configuration that say how a network learns."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from linnaeus.app.section import Section
from linnaeus.core.duration import Duration


class OptimConfig(Section):
    """How weights change. Null stands for the default of the network's family, and of trained weights it starts from.

    Attributes:
        name: "muon" takes the matrices inside the blocks; the other parameters are AdamW's then.
        lr: learning rate at the top of the schedule.
        momentum: of SGD and Muon; null for 0.9 and 0.95.
        layer_decay: factor of the learning rate from each layer to the one below it, for fine-tuning; 1 for none.
        freeze: share of the run in which the head alone learns.
        schedule_options: keywords of the schedule (`optim/schedule.py`), lengths as durations: {"t_0": "10ep"}.
        warmup: share of the run in which the learning rate rises, or a duration such as "500st".
        floor: share of the learning rate that is left at the end.
        clip_norm: largest norm of the gradient; 0 for no limit.
        ema: decay of the averaged weights; 0 for none.
        average: at the end the weights of so many epochs are averaged as well, and delivered if they rank higher on val
            than those of the best epoch; 0 for none.
        average_of: the best epochs, or the last.
    """

    name: Literal["sgd", "adamw", "muon"] | None = None
    lr: float | None = Field(None, gt=0)
    weight_decay: float | None = Field(None, ge=0)
    momentum: float | None = Field(None, gt=0, lt=1)
    layer_decay: float = Field(1.0, gt=0, le=1)
    freeze: float = Field(0.0, ge=0, lt=1)
    schedule: Literal[
        "constant", "step", "linear", "polynomial", "cosine", "cosine_restarts", "one_cycle", "trapezoid"
    ] = "cosine"
    schedule_options: dict[str, int | float | str | list[str]] = Field(default_factory=dict)
    warmup: float | str = 0.05
    floor: float = Field(0.0, ge=0, le=1)
    clip_norm: float | None = Field(None, ge=0)
    ema: float = Field(0.0, ge=0, lt=1)
    average: int = Field(0, ge=0)
    average_of: Literal["best", "last"] = "best"

    @field_validator("warmup")
    @classmethod
    def _warmup(cls, warmup: float | str) -> float | str:
        if isinstance(warmup, str):
            Duration.parse(warmup)
        elif not 0 <= warmup < 1:
            raise ValueError("expected a share of the run in [0, 1), or a duration such as 500st")
        return warmup

    @model_validator(mode="after")
    def _no_average_without_effect(self) -> "OptimConfig":
        if self.average == 1:
            raise ValueError("average=1 is the epoch itself: expected 2 or more, or 0 for none")
        if self.average_of != "best" and not self.average:
            raise ValueError("average_of has no effect without average")
        return self

    @model_validator(mode="after")
    def _no_momentum_without_effect(self) -> "OptimConfig":
        if self.momentum is not None and self.name == "adamw":
            raise ValueError("momentum has no effect with adamw: it is of sgd and muon")
        return self


class TrainConfig(Section):
    """How long and how.

    Attributes:
        duration: "30ep" epochs, "5000st" steps, or a time such as "10min" or "2h" for the whole command: the learning
            rate is then a function of the time gone by (`core/budget.py`). "0ep" fits the head and trains nothing else.
        head_start: before the first step, a linear head is fitted to the features that the weights give, its penalty
            chosen on val; that state is evaluated like any other.
        patience: "5ep" or "500st": the run ends where no better state came for so long, at the end of an epoch; null
            for never.
        metric: the score on val that says which state is better: "top1", "balanced" accuracy, macro "f1" or "loss";
            where images may have several classes "map", "f1" or "loss". Null for top1 and map.
        tta: test-time augmentation of the finished model, whose logits are averaged over views of an image: "flip" for
            its mirror image as well, "shift" for six views of small images (`deploy/views.py`).
        batch_size: images a step; "auto" measures and takes the smallest that is nearly as fast as the fastest.
        accumulate: micro-batches a step, to save memory.
        recompute: compute what is inside the blocks again in the backward pass rather than keep it, to save memory.
        loss: null for cross-entropy, or for "bce" where images may have several classes.
        loss_options: keywords of the loss (`engine/loss.py`), such as {"gamma": 2.0} of "focal".
        class_weights: what errors on a class count: "balanced" for the inverse of its frequency, "effective" for a
            milder form, or weights by name, 1 for those not named.
        logit_adjustment: tau of the logit-adjusted cross-entropy, which favours no class as a frequent one; 0 for none.
        class_shares: how frequent it takes each class to be; null for the training images' own shares.
        teacher: the folder of a run or a model; the network learns to say what that one says. Null for none.
        teacher_weight: share of the teacher in the loss.
        temperature: above 1 the teacher shows more of what it thinks of the other classes.
        precision, channels_last: "auto" and null measure and take the fastest.
        compile: translate the network into code made for it (torch.compile), which takes about a minute; null does so
            where the run is long enough to try it, and is measured to be shorter with it.
        autotune: false measures nothing: float32, channels first and not compiled where these are left open.
        on_nonfinite: what becomes of a step whose loss or gradient is NaN or infinite: "stop" ends the run and finds
            its cause; "skip" leaves the step out; "rollback" goes back to the last evaluation, with half the rate.
        spike: a loss more than so many times the usual one is taken like one that is not finite; 0 for no such limit.
    """

    duration: str = "20ep"
    head_start: bool = False
    patience: str | None = None
    metric: Literal["top1", "balanced", "f1", "map", "loss"] | None = None
    tta: Literal["none", "flip", "shift"] = "none"
    batch_size: int | Literal["auto"] = 64
    accumulate: int = Field(1, ge=1)
    recompute: bool = False
    loss: Literal["cross_entropy", "bce", "focal"] | None = None
    loss_options: dict[str, float] = Field(default_factory=dict)
    class_weights: Literal["balanced", "effective"] | dict[str, float] | None = None
    logit_adjustment: float = Field(0.0, ge=0)
    class_shares: dict[str, float] | None = None
    teacher: str | None = None
    teacher_weight: float = Field(0.5, gt=0, le=1)
    temperature: float = Field(1.0, gt=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    channels_last: bool | None = None
    compile: bool | None = None
    autotune: bool = True
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    spike: float = Field(0.0, ge=0)
    seed: int = Field(0, ge=0)
    device: str = "auto"

    @field_validator("duration")
    @classmethod
    def _duration(cls, text: str) -> str:
        duration = Duration.parse(text)
        if duration.unit == "%":
            raise ValueError("expected epochs (30ep), steps (5000st) or a time (10min): the run itself has no share")
        return text

    @field_validator("patience")
    @classmethod
    def _patience(cls, text: str | None) -> str | None:
        if text is not None and (Duration.parse(text).unit not in ("ep", "st") or Duration.parse(text).amount == 0):
            raise ValueError("expected epochs (5ep) or steps (500st)")
        return text

    @field_validator("batch_size", mode="before")
    @classmethod
    def _batch_size(cls, size: Any) -> Any:
        if size != "auto" and (type(size) is not int or size < 1):
            raise ValueError('expected a number from 1 on, or "auto"')
        return size

    @model_validator(mode="after")
    def _no_setting_without_effect(self) -> "TrainConfig":
        if self.batch_size == "auto" and not self.autotune:
            raise ValueError("batch_size=auto is measured, and autotune=false measures nothing: give a number")
        if self.batch_size == "auto" and not self.takes_steps:
            raise ValueError("batch_size=auto measures training steps, and a run of 0ep takes none: give a number")
        if not (self.takes_steps or self.head_start):
            raise ValueError("duration is 0ep, and nothing would be learned: set head_start=true, or a longer one")
        if self.class_shares and not self.logit_adjustment:
            raise ValueError("class_shares has no effect without logit_adjustment")
        if 0 < self.spike <= 1:
            raise ValueError("spike is a multiple of the usual loss: expected more than 1, such as 5, or 0 for none")
        if self.teacher is None and (self.teacher_weight, self.temperature) != (0.5, 1.0):
            raise ValueError("teacher_weight and temperature have no effect without teacher")
        return self

    @property
    def images_per_step(self) -> int:
        """The batch size, once it is decided."""
        assert self.batch_size != "auto", "resolve() decides"
        return self.batch_size

    @property
    def takes_steps(self) -> bool:
        """Whether the network is trained, and not its head alone fitted."""
        return Duration.parse(self.duration).amount > 0
