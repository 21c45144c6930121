"""A table of several labels a cell trains, is judged and predicts as one would do by hand, from words to files."""

import csv
import io
import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import linnaeus
from linnaeus.app.config import make_config
from linnaeus.app.evaluate import evaluate
from linnaeus.app.predict import predict
from linnaeus.app.progress import Display
from linnaeus.app.train import resume, train
from linnaeus.cli import app
from linnaeus.core.errors import DataError, Interrupted, RequestError
from linnaeus.core.record import read_records
from linnaeus.data.sources import open_source
from linnaeus.deploy.bundle import Bundle
from linnaeus.engine import train as loop
from linnaeus.metrics.multilabel import average_precisions, decide
from linnaeus.metrics.thresholds import best_thresholds
from linnaeus.report.tables import headline_table, label_table
from linnaeus.report.words import exact

QUIET = Display(quiet=True)
CLASSES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Noise in some of three colours, or in none; a class is a colour."""
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(1)
    several, columns = ["path,label,split"], ["path,blue,green,red,split"]
    for number in range(60):
        present = noise.random(3) < 0.5  # blue, green, red
        pixels = noise.integers(0, 60 + 190 * present[::-1], (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        cell = "|".join(name for name, is_there in zip(CLASSES, present, strict=True) if is_there)
        split = "test" if number < 20 else "train"
        several.append(f"{number}.png,{cell},{split}")
        columns.append(f"{number}.png,{','.join(str(int(p)) for p in present)},{split}")
    (folder / "several.csv").write_text("\n".join(several) + "\n")
    (folder / "columns.csv").write_text("\n".join(columns) + "\n")
    return folder


def settings(source, duration="3ep", **sections):
    train_section = {"duration": duration, "batch_size": 8, "precision": "fp32", "channels_last": False}
    return make_config(
        {
            "data": {"source": str(source)},
            "model": {"name": "lenet5_modern", "image_size": 28},
            "optim": {"name": "adamw", "lr": 3e-3},
            "train": train_section,
            **sections,
        }
    )


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    return train(settings(pictures / "several.csv"), out=tmp_path_factory.mktemp("runs") / "run", display=QUIET)


def about(run) -> dict:
    return json.loads((run.model / "model.json").read_text())


def test_a_run_learns_chooses_by_mean_average_precision_and_writes_its_task_and_thresholds(run):
    records = read_records(run.folder)
    assert len(records) == 3
    assert all({"train/loss", "train/f1", "val/map", "val/loss"} <= record.keys() for record in records)
    assert not any("top1" in name for name in records[0])
    content = about(run)
    assert content["task"] == "multi"
    assert content["classes"] == list(CLASSES)
    assert len(content["thresholds"]) == 3
    assert content["metrics"]["mean_average_precision"]["value"] > 0.9
    assert content["metrics"]["n"] == 20
    assert "confusion" not in content


def test_probabilities_are_sigmoids_and_labels_all_that_reach_their_thresholds(run, pictures):
    classifier = linnaeus.load(run.folder)
    images = [pictures / f"{number}.png" for number in range(20)]
    rows = list(classifier.rows(images, top=2))
    probabilities = torch.stack([row.probabilities for row in rows])
    fitted = torch.stack([classifier.preprocess.fit(np.array(Image.open(image))) for image in images])
    torch.testing.assert_close(probabilities, classifier.logits(fitted).sigmoid())
    said = decide(probabilities.numpy(), about(run)["thresholds"])
    for row, own, values in zip(rows, said, probabilities.tolist(), strict=True):
        prediction = row.prediction
        assert {name for name, _ in prediction.labels} == {
            name for name, is_said in zip(CLASSES, own, strict=True) if is_said
        }
        assert prediction.label == "|".join(name for name, _ in prediction.labels)
        assert [p for _, p in prediction.labels] == sorted(
            (values[CLASSES.index(n)] for n, _ in prediction.labels), reverse=True
        )
        assert prediction.probability == prediction.top[0][1] == max(values)
        assert len(prediction.top) == 2
    assert {int(own.sum()) for own in said} >= {0, 1, 2}


def test_thresholds_are_those_that_val_chose(run, pictures):
    source, classifier = open_source(str(pictures / "several.csv")), linnaeus.load(run.folder)
    with (run.data / "index.csv").open() as file:
        roles = {row["name"]: row["role"] for row in csv.DictReader(file)}
    val = [index for index in range(60) if roles[source.name(index)] == "val"]
    rows = classifier.rows([source.decode(source.read(index)) for index in val], top=1)
    probabilities = torch.stack([row.probabilities for row in rows]).numpy()
    expected = best_thresholds(probabilities, source.labels.targets[val].astype(bool))
    assert about(run)["thresholds"] == pytest.approx(expected, abs=1e-5)


def test_evaluation_repeats_the_scores_of_training_from_either_kind_of_table(run, pictures):
    own = evaluate(run.folder, None, split=None, device="cpu", display=QUIET)
    columns = evaluate(run.folder, str(pictures / "columns.csv"), split=None, device="cpu", display=QUIET)
    assert own.confusion is None
    for name in ("mean_average_precision", "micro_f1", "macro_f1", "exact_match"):
        assert asdict(getattr(own.scores, name)) == about(run)["metrics"][name]
    assert asdict(columns.scores) == asdict(own.scores)


def test_scores_are_those_of_the_predictions(run, pictures):
    source, classifier = open_source(str(pictures / "several.csv")), linnaeus.load(run.folder)
    images = [source.decode(source.read(index)) for index in range(20)]
    fitted = torch.stack([classifier.preprocess.fit(image) for image in images])
    truths = source.labels.targets[:20].astype(bool)
    precisions = average_precisions(classifier.logits(fitted).numpy(), truths)
    metrics = about(run)["metrics"]
    assert metrics["mean_average_precision"]["value"] == pytest.approx(precisions.mean())
    right = [
        set(p.label.split("|")) - {""} == set(source.labels.text(i).split("|")) - {""}
        for i, p in enumerate(classifier.predict(images))
    ]
    assert metrics["exact_match"]["value"] == pytest.approx(np.mean(right))


def test_images_of_one_class_each_score_a_model_of_several(run, pictures, tmp_path):
    for name, number in {"red": 0, "blue": 1}.items():
        (tmp_path / name).mkdir()
        for copy in range(3):
            (tmp_path / name / f"{copy}.png").write_bytes((pictures / f"{number + copy}.png").read_bytes())
    scores = evaluate(run.folder, str(tmp_path), split=None, device="cpu", display=QUIET).scores
    assert scores.per_class.support == [3, 0, 3]
    assert scores.unseen == [1]
    assert scores.labels_per_image == 1


def test_a_table_too_small_to_show_its_separator_is_read_by_the_names_that_the_model_knows(run, pictures, tmp_path):
    cells = ["blue|red", "green", "red", "blue"]
    rows = [f"{pictures}/{number}.png,{cell}" for number, cell in enumerate(cells)]
    (tmp_path / "few.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    scores = evaluate(run.folder, str(tmp_path / "few.csv"), split=None, device="cpu", display=QUIET).scores
    assert scores.per_class.support == [2, 1, 2]
    (tmp_path / "few.csv").write_text("\n".join(["path,label", *rows]).replace("|red", "|pink") + "\n")
    with pytest.raises(RequestError, match="does not know the class 'pink'"):
        evaluate(run.folder, str(tmp_path / "few.csv"), split=None, device="cpu", display=QUIET)


def test_images_of_several_classes_cannot_score_a_model_of_one(run, pictures, tmp_path):
    content = {**about(run), "task": "single"}
    single = tmp_path / "model"
    single.mkdir()
    (single / "model.safetensors").write_bytes((run.model / "model.safetensors").read_bytes())
    (single / "model.json").write_text(json.dumps(content))
    with pytest.raises(RequestError, match=r"several\.csv: they have several classes each, and the model gives one"):
        evaluate(single, str(pictures / "several.csv"), split=None, device="cpu", display=QUIET)


def test_a_run_of_several_classes_resumes_to_the_same_weights(run, pictures, tmp_path, monkeypatch):
    save, calls = loop.save_checkpoint, []

    def save_and_stop(folder, state, *, keep):
        calls.append(save(folder, state, keep=keep))
        if len(calls) == 2:
            raise Interrupted("stopped here", 2)
        return calls[-1]

    monkeypatch.setattr(loop, "save_checkpoint", save_and_stop)
    with pytest.raises(Interrupted):
        train(settings(pictures / "several.csv"), out=tmp_path / "run", display=QUIET)
    monkeypatch.undo()
    again = resume(tmp_path / "run", display=QUIET)
    ours, theirs = (linnaeus.load(folder.folder).model.state_dict() for folder in (again, run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert about(again)["thresholds"] == about(run)["thresholds"]


def test_mixing_and_smoothing_work_with_several_classes(pictures, tmp_path):
    config = settings(pictures / "columns.csv", "1ep", augment={"mixup": 0.2, "cutmix": 1.0})
    mixed = train(config, out=tmp_path / "run", display=QUIET)
    assert about(mixed)["metrics"]["mean_average_precision"]["value"] > 0.3


def test_the_same_labels_everywhere_are_refused(pictures, tmp_path):
    rows = [f"{pictures}/{number}.png,1,1" for number in range(20)]
    (tmp_path / "same.csv").write_text("\n".join(["path,blue,red", *rows]) + "\n")
    with pytest.raises(DataError, match=r"have the same labels: 'blue\|red'"):
        train(settings(tmp_path / "same.csv"), out=tmp_path / "run", display=QUIET)


def test_the_card_and_the_tables_say_what_kind_of_model_it_is(run):
    scores = evaluate(run.folder, None, split=None, device="cpu", display=QUIET).scores
    card = (run.model / "README.md").read_text()
    assert "An image may have several classes, or none" in card
    assert f"| mAP | {exact(scores.mean_average_precision)} |" in card
    assert headline_table(scores, "test").columns[0]._cells == ["mAP", "micro F1", "macro F1", "all labels right"]
    assert label_table(scores, CLASSES).columns[2]._cells == [f"{t:.1%}" for t in about(run)["thresholds"]]


def test_embeddings_keep_the_labels_as_cells(run, pictures, tmp_path):
    images = [str(pictures / f"{number}.png") for number in range(20)]
    rows = list(predict(run.folder, images, top=1, device="cpu", display=QUIET, embeddings=tmp_path / "seen.npz"))
    with np.load(tmp_path / "seen.npz") as archive:
        assert archive["labels"].tolist() == [prediction.label for _, prediction in rows]
        assert set(archive["labels"]) & {"blue|green", "green|blue", "red|green", "green|red", "blue|red", "red|blue"}


def invoke(*words):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result


def test_the_commands_announce_the_task_and_print_labels_with_their_probabilities(pictures, tmp_path):
    out = tmp_path / "run"
    words = ("--model", "lenet5_modern", "--image-size", 28, "--batch-size", 8, "--epochs", 2, "--out", out)
    done = invoke("train", pictures / "several.csv", *words)
    assert "labels separated by '|': multi-label, 3 classes" in done.stderr
    assert "60 images of 3 classes, 1." in done.stderr
    assert "labels an image" in done.stderr
    assert "val mAP" in done.stderr
    optim = json.loads((out / "config.json").read_text())["optim"]  # of the sum over the classes, which the loss is not
    assert optim["lr"] == pytest.approx(3 * 0.2 * 8 / 256)
    assert optim["weight_decay"] == pytest.approx(5e-4 / 3)
    assert "mAP" in invoke("evaluate", out).stdout
    scores = json.loads(invoke("evaluate", out, "--json").stdout.splitlines()[-1])
    assert scores["mean_average_precision"]["low"] <= scores["mean_average_precision"]["value"]
    assert len(scores["per_class"]["average_precision"]) == 3
    assert "confusion" not in scores
    text = invoke("predict", out, pictures, "--format", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    predictions = json.loads(invoke("predict", out, pictures, "--format", "json").stdout)["predictions"]
    assert len(rows) == len(predictions) == 60
    for row, prediction in zip(rows, predictions, strict=True):
        assert row["label"] == prediction["label"] == "|".join(name for name, _ in prediction["labels"])
        assert row["probability"] == "|".join(f"{p:.6f}" for _, p in prediction["labels"])
    assert "0.png" in invoke("predict", out, pictures / "0.png").stdout


def write_mosaics(folder, cifar, split, count, seed):
    """(name, cell, split) of mosaics of one to four photos of CIFAR-10, each on a quarter of its own."""
    rng = np.random.default_rng(seed)
    files = sorted((cifar / split).glob("*/*.jpg"))
    rows = []
    for number in range(count):
        tiles = rng.choice(len(files), rng.integers(1, 5), replace=False)
        canvas = np.full((64, 64, 3), 128, np.uint8)
        for tile, place in zip(tiles.tolist(), rng.permutation(4).tolist(), strict=False):
            top, left = 32 * (place // 2), 32 * (place % 2)
            canvas[top : top + 32, left : left + 32] = np.asarray(Image.open(files[tile]).convert("RGB"))
        Image.fromarray(canvas).save(folder / f"{split}-{number}.png")
        names = sorted({files[tile].parent.name for tile in tiles.tolist()})
        rows.append(f"{split}-{number}.png,{'|'.join(names)},{split}")
    return rows


@pytest.mark.slow  # a minute: 2,000 mosaics of photos, seen 8 times
def test_mosaics_of_photos_are_learnt_better_than_chance(real_data, tmp_path):
    cifar = real_data("cifar10-jpeg")
    rows = [*write_mosaics(tmp_path, cifar, "train", 2000, 0), *write_mosaics(tmp_path, cifar, "test", 400, 1)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    out = tmp_path / "run"
    invoke("train", tmp_path / "table.csv", "--model", "resnet20", "--image-size", 32, "--epochs", 8, "--out", out)
    scores = json.loads(invoke("evaluate", out, "--json").stdout.splitlines()[-1])
    chance = np.mean([support / scores["n"] for support in scores["per_class"]["support"]])
    assert scores["labels_per_image"] == pytest.approx(2.3, abs=0.1)
    assert scores["mean_average_precision"]["low"] > chance + 0.05
    assert scores["micro_f1"]["low"] > 2 * chance / (1 + chance)  # that of all labels on every image
    bundle = linnaeus.load(out)
    assert isinstance(bundle, Bundle)
    labels = [len(prediction.labels) for prediction in bundle.predict(sorted(tmp_path.glob("test-*.png"))[:100])]
    assert 1 <= np.mean(labels) <= 6
