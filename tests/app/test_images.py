"""A run from files decodes as it wrote down, keeps what it decoded, and says what keeps it waiting."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from linnaeus.app import images as images_module
from linnaeus.app.config import DataConfig, make_config
from linnaeus.app.images import Images, explain_wait
from linnaeus.app.narrator import Narrator
from linnaeus.app.prepare import prepare
from linnaeus.app.progress import Display
from linnaeus.app.resolve import resolve
from linnaeus.core.errors import RequestError
from linnaeus.core.preprocess import Preprocess
from linnaeus.data.cache import ImageCache
from linnaeus.data.fast import FastPath, best_decoder


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setenv("LINNAEUS_CACHE", str(tmp_path / "cache"))
    for label, name in enumerate("ab"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(8):
            pixels = np.random.default_rng((label, number)).integers(0, 256, (150, 170, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.jpg")
    return tmp_path / "photos"


def settled(photos, crop="resized", duration="3ep", **data):
    content = {"data": {"source": str(photos), "workers": 0, **data}, "train": {"duration": duration, "batch_size": 4}}
    content |= {"model": {"name": "lenet5", "image_size": 32}, "augment": {"crop": crop}}
    config = make_config(content)
    prepared = prepare(config.data, seed=0, display=Display(quiet=True))
    return resolve(config, prepared), prepared


def epoch(config, prepared, number=0) -> torch.Tensor:
    loader = Images(config, prepared, Display(quiet=True)).training()
    return torch.cat([batch.images for batch in loader.epoch(number)])


def test_the_decoder_and_the_room_are_decided_once_and_written_down(photos):
    config, _ = settled(photos)
    assert config.data.decoder == best_decoder()
    assert config.data.cache_gib > 0
    assert settled(photos, duration="1ep")[0].data.cache_gib == 0  # nothing would be read a second time
    chosen, _ = settled(photos, decoder="pillow", cache_gib=0.5)
    assert (chosen.data.decoder, chosen.data.cache_gib) == ("pillow", 0.5)


@pytest.mark.parametrize("setting", [{"decoder": "pillow"}, {"cache_gib": 1.0}])
def test_a_setting_without_effect_is_refused(photos, setting):
    with pytest.raises(RequestError, match=r"no effect with data\.loader=memory"):
        settled(photos, crop="auto", loader="memory", **setting)


@pytest.mark.parametrize("crop", ["resized", "none", "pad"])
def test_pixels_do_not_depend_on_the_cache(photos, tmp_path, crop):
    off = epoch(*settled(photos, crop, cache_gib=0))
    assert not (tmp_path / "cache" / "images").exists()
    for _ in range(2):  # empty, then filled
        assert torch.equal(epoch(*settled(photos, crop, cache_gib=0.1)), off)
    assert len(list((tmp_path / "cache" / "images").glob("*/pixels"))) == 1


def test_a_filled_cache_is_read_instead_of_the_files(photos, monkeypatch):
    config, prepared = settled(photos, cache_gib=0.1)
    epoch(config, prepared)
    monkeypatch.setattr(FastPath, "bounded", None)
    epoch(config, prepared, 1)
    monkeypatch.setattr(ImageCache, "read", lambda self, position: None)
    with pytest.raises(TypeError):
        epoch(config, prepared, 2)


def test_evaluation_decodes_with_the_reference(photos, monkeypatch):
    config, prepared = settled(photos)
    monkeypatch.setattr(FastPath, "bounded", None)
    images = Images(config, prepared, Display(quiet=True))
    (batch,) = images.evaluation("test").epoch(0)
    preprocess = Preprocess(images.preprocess.geometry)
    for image, position in zip(batch.images[batch.valid], batch.index[batch.valid].tolist(), strict=True):
        pixels = prepared.source.decode(prepared.source.read(position))
        assert torch.equal(image, preprocess.fit(pixels))


def test_what_vanished_is_named_with_its_reason(photos):
    config, prepared = settled(photos, cache_gib=0)
    images = Images(config, prepared, Display(quiet=True))
    assert images.remarks() == []
    position = int(prepared.split.indices("train")[0])
    name = prepared.source.name(position)
    (photos / name).unlink()
    for _ in images.training().epoch(0):
        pass
    assert images.missing == [position]
    assert images.remarks() == [
        f"left out, since they could no longer be read: 1 of 16 images: {name} (No such file or directory)"
    ]


def test_a_disk_that_becomes_full_is_told_and_changes_no_pixel(photos, monkeypatch):
    config, prepared = settled(photos, cache_gib=0.1)
    images = Images(config, prepared, Display(quiet=True))
    loader = images.training()
    monkeypatch.setattr("linnaeus.data.cache.SPARE", 1 << 60)  # from now on there is never so much space left
    pixels = torch.cat([batch.images for batch in loader.epoch(0)])
    assert images.remarks() == ["not all decoded images could be kept: the disk is full, or cannot be written"]
    assert torch.equal(pixels, epoch(*settled(photos, cache_gib=0)))


def test_what_keeps_training_waiting_is_said_with_what_helps(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(images_module, "has_extra", lambda: False)
    files = DataConfig(source="photos", loader="files", workers=8, decoder="fast", cache_gib=4.0)
    told = {
        "a simpler augment.policy helps": (changed(files, loader="memory"), 1.0),
        "data.workers=8 helps": (changed(files, workers=0), 1.0),
        "slow to read": (files, 1.0),
        "decoding on 2 of 8 cores is slow; data.workers=8 helps": (changed(files, workers=2), 1.9),
        "decoding on 8 cores is slow; what helps: smaller files": (files, 7.5),
        "pip install 'linnaeus[fast-data]', smaller files": (changed(files, decoder="pillow"), 7.5),
        "a data.cache_gib above 0 from the second epoch on": (changed(files, cache_gib=0.0), 7.5),
    }
    for words, (config, busy) in told.items():
        assert words in explain_wait(config, busy), words


def changed(config: DataConfig, **changes: object) -> DataConfig:
    return config.model_copy(update=changes)


@pytest.mark.parametrize(("wait", "waited", "is_told"), [(0.34, 9.0, True), (0.05, 9.0, False), (0.34, 1.0, False)])
def test_only_a_wait_that_matters_is_told(wait, waited, is_told):
    class Loader:
        num_images, num_batches, busy = 40, 10, 3.5

    class Heard(list):
        def say(self, text):
            self.append(text)

        def record(self, step, values):
            self.append(values)

    class State:
        step, best = 0, None

    loader, recorder, display = Loader(), Heard(), Heard()
    loader.wait, loader.waited = wait, waited
    narrator = Narrator(State(), loader, recorder, display, lambda *_: None, lambda busy: f"{busy} cores")
    scores = {"train/loss": 1.0, "train/top1": 0.5, "val/top1": 0.5, **narrator.measure(10)}
    narrator.record(10, scores)
    assert recorder[-1]["data/wait"] == wait
    assert ("34% of the time training waited for images: 3.5 cores" in " ".join(display)) == is_told
