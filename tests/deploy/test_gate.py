"""The gate lets good artefacts pass, and refuses every planted fault for a reason that a person understands."""

from dataclasses import replace

import numpy as np
import pytest

from linnaeus.deploy.formats import FORMATS
from linnaeus.deploy.formats.base import Unrunnable
from linnaeus.deploy.gate import FLOAT_GAP, LOSS_RISE, Held, Limits, judge, measure
from linnaeus.deploy.graph import Graph

from .small import bundle, held, job, needs, photos, probabilities

LOOSE = Limits(max_drop=5.0, min_agreement=0.95)


@pytest.fixture(scope="module")
def source():
    return bundle()


@pytest.fixture(scope="module")
def images(source):
    return held(source, 192)


@pytest.fixture(scope="module")
def good(source, tmp_path_factory):
    """A good ONNX artefact, as it runs."""
    needs("onnx", "f32")
    folder = tmp_path_factory.mktemp("good")
    FORMATS["onnx"].write(job(source, "f32"), folder)
    return FORMATS["onnx"].open(folder, "f32")


def reason(verdict):
    """Why it was refused, in a line that a person can read."""
    assert verdict.outcome == "refused"
    assert not verdict.passed
    assert all(len(each) < 300 and "\n" not in each for each in verdict.reasons)
    return "; ".join(verdict.reasons)


def asked(run, images, precision="f32", limits=LOOSE):
    return judge(run, images, precision=precision, limits=limits)


def test_a_good_artefact_is_delivered(good, images):
    verdict = asked(good, images)
    assert verdict.outcome == "delivered"
    assert verdict.reasons == ()
    assert verdict.score.agreement.value == verdict.score.accuracy.value == 1.0
    assert verdict.score.gap < FLOAT_GAP
    assert verdict.score.lost == verdict.score.gained == 0


def test_a_good_artefact_for_several_labels_is_delivered(tmp_path):
    needs("onnx", "f32")
    of = bundle(task="multi")
    FORMATS["onnx"].write(job(of, "f32"), tmp_path)
    verdict = asked(FORMATS["onnx"].open(tmp_path, "f32"), held(of))
    assert verdict.outcome == "delivered"
    assert verdict.score.accuracy.value == 1.0


WRONG = {
    "swapped classes": lambda run, x: run(x)[:, [1, 0, 2]],
    "colours in the order of BGR": lambda run, x: run(np.ascontiguousarray(x[..., ::-1])),
    "transposed axes": lambda run, x: run(np.ascontiguousarray(x.transpose(0, 2, 1, 3))),
    "channels first": lambda run, x: run(np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(x.shape)),
    "the answer of the first image for all": lambda run, x: np.repeat(run(x[:1]), len(x), 0),
    "images out of order": lambda run, x: run(x)[::-1],
}


@pytest.mark.parametrize("precision", ["f32", "int8"])
@pytest.mark.parametrize("fault", WRONG)
def test_what_gives_other_probabilities_is_refused(fault, precision, good, images):
    said = reason(asked(lambda x: WRONG[fault](good, x), images, precision))
    if precision == "int8":
        assert "points of accuracy" in said
        assert "agrees with the network on" in said
        assert "probabilities mean less" in said
    else:
        assert "a probability differs by" in said
        assert "float32 is allowed 0.0001" in said


def nan(found):
    found[len(found) // 2] = np.nan
    return found


NONSENSE = {
    "logits": (lambda p: np.log(p) * 4 + 1, "numbers that are no probabilities"),
    "not a number": (nan, "numbers that are no probabilities"),
    "a class too few": (lambda p: p[:, :2], r"gives \(1, 2\), and \(1, 3\) was expected"),
    "a class too many": (lambda p: np.concatenate([p, p[:, :1]], 1), r"and \(1, 3\) was expected"),
    "an image too few": (lambda p: p[:-1] if len(p) > 1 else p, r"gives \(1, 3\), and \(2, 3\) was expected"),
    "no axis of images": (lambda p: p.ravel(), r"gives \(3,\), and \(1, 3\) was expected"),
    "independent probabilities": (lambda p: p * 0.5, "do not sum to 1"),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_what_gives_no_probabilities_is_refused(kind, good, images):
    change, said = NONSENSE[kind]
    verdict = asked(lambda x: change(np.array(good(x))), images)
    assert verdict.score is None
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(reason(verdict))


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_what_depends_on_the_other_images_is_refused(precision, good, images):
    """As with batch normalisation that still averages over what it is given."""

    def run(x):
        found = np.array(good(x))
        return found * 0.8 + found.mean(0) * 0.2

    assert "in company than alone" in reason(asked(run, images, precision))


def test_what_is_wrong_for_many_images_alone_is_refused(good, images):
    """Right for one, two and seven images, which is all that is tried by hand."""

    def run(x):
        return good(x) if len(x) <= 7 else good(np.repeat(x[:1], len(x), 0))

    assert "in company than alone" in reason(asked(run, images))


def test_what_stops_is_refused_with_what_it_said(images):
    def run(x):
        raise Unrunnable(f"{len(x)} images at once: no memory")

    assert reason(asked(run, images)) == "1 images at once: no memory"


# --- faults in real files, by ONNX Runtime ---


def by_onnx(graph, folder, batch=None):
    """The artefact of a graph that something was done to."""
    from linnaeus.deploy.formats.onnx import FILE, export

    needs("onnx", "f32")
    export(graph, batch, folder / FILE)
    return FORMATS["onnx"].open(folder, "f32")


def test_a_wrong_normalisation_is_refused(source, images, tmp_path):
    graph = Graph(source)
    graph.shift.fill_(-0.5 / 0.25)  # the mean of one channel for all
    assert "float32 is allowed" in reason(asked(by_onnx(graph, tmp_path), images))


def test_a_frozen_batch_of_one_is_refused(source, images, tmp_path):
    said = reason(asked(by_onnx(Graph(source), tmp_path, batch=1), images))
    assert "2 images at once: ONNX Runtime stopped" in said


def test_a_corrupted_weight_is_refused(source, images, tmp_path):
    """One bit of one number, as a bad disk may turn it."""
    by_onnx(Graph(source), tmp_path)
    file = tmp_path / "model.onnx"
    weight = Graph(source).network.c3.conv.weight.numpy()
    content, place = bytearray(file.read_bytes()), np.unravel_index(np.abs(weight).argmax(), weight.shape)
    at = content.index(weight.tobytes()) + 4 * int(np.ravel_multi_index(place, weight.shape))
    content[at + 3] ^= 0x80  # its sign
    file.write_bytes(content)
    assert "float32 is allowed" in reason(asked(FORMATS["onnx"].open(tmp_path, "f32"), images))


def quantized(source, folder, calibration):
    needs("onnx", "int8")
    FORMATS["onnx"].write(replace(job(source, "int8"), calibration=calibration), folder)
    return FORMATS["onnx"].open(folder, "int8")


def test_good_8_bit_integers_pass(source, images, tmp_path):
    verdict = asked(quantized(source, tmp_path, photos(64)), images, "int8")
    assert verdict.outcome == "delivered"
    assert verdict.score.gap > FLOAT_GAP


def test_a_calibration_on_noise_is_refused(source, images, tmp_path):
    """Grey noise has none of the values that photos have, so that these are cut off."""
    noise = np.random.default_rng(0).integers(120, 136, (64, 28, 28, 3), np.uint8)
    said = reason(asked(quantized(source, tmp_path, noise), images, "int8"))
    assert "points of accuracy" in said or "agrees with the network on" in said


def test_an_overflow_of_8_bit_integers_is_refused(source, images, tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    quantized(source, tmp_path, photos(64))
    model = onnx.load(tmp_path / "model.onnx")
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    scales = {n.input[1] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    for name in scales:
        stored[name].CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(stored[name]) / 8, name))
    onnx.save(model, tmp_path / "model.onnx")
    said = reason(asked(FORMATS["onnx"].open(tmp_path, "int8"), images, "int8"))
    assert "points of accuracy" in said or "agrees with the network on" in said


# --- the figures ---


def of_answers(right, otherwise=0):
    """So many images of the first class, of which a network is right in all; and the answers of an artefact.

    Args:
        right: images that the artefact answers rightly too; after these come `otherwise` that it does not.
    """
    number = right + otherwise
    truths = np.tile(np.arange(2) == 0, (number, 1))
    expected = np.tile(np.float32([0.6, 0.4]), (number, 1))
    found = expected.copy()
    found[right:] = [0.4, 0.6]
    pixels = np.zeros((number, 1, 1, 1), np.uint8)
    return Held("images", pixels, truths, expected, None), found


def judged(right, otherwise, limits, **more):
    """The verdict on an artefact that says so by the place of the image in the pixels."""
    case, found = of_answers(right, otherwise)
    places = np.arange(len(case))
    pixels = np.stack([places // 256, places % 256], 1).astype(np.uint8).reshape(-1, 1, 1, 2)
    return judge(
        lambda x: found[x[:, 0, 0, 0].astype(int) * 256 + x[:, 0, 0, 1]],
        replace(case, images=pixels),
        precision="int8",
        limits=limits,
        **more,
    )


def test_the_limits_have_effect():
    assert judged(990, 10, Limits(2.0, 0.98)).outcome == "delivered"
    said = reason(judged(990, 10, Limits(0.5, 0.98)))
    assert said.startswith("it loses 1.0 points of accuracy")
    assert said.endswith("and 0.5 are allowed (--max-drop)")
    said = reason(judged(990, 10, Limits(2.0, 0.995)))
    assert said == "it agrees with the network on 99.0% of the images, and 99.5% are asked for (--min-agreement)"


def test_too_few_images_are_a_warning_and_not_a_delivery():
    verdict = judged(20, 0, Limits(1.0, 0.97))
    assert verdict.outcome == "warned"
    assert verdict.passed
    assert "20 images are too few to show that no more than 1 points are lost" in verdict.reasons[0]
    assert judged(2000, 0, Limits(1.0, 0.97)).outcome == "delivered"


def test_no_allowance_at_all_can_be_met_by_the_estimate():
    assert judged(50, 0, Limits(0.0, 1.0)).outcome == "warned"
    assert judged(49, 1, Limits(0.0, 1.0)).outcome == "refused"


def test_probabilities_that_mean_less_are_refused():
    """The answers are the same, and the confidence in them is gone."""
    case, _ = of_answers(1000)
    unsure = np.tile(np.float32([0.55, 0.45]), (1000, 1))
    assert np.log(0.6 / 0.55) > LOSS_RISE
    said = reason(judge(lambda x: unsure[: len(x)], case, precision="int8", limits=Limits()))
    assert said.startswith("its probabilities mean less: the log-loss rises by 0.087 nats")


def test_the_paired_interval_is_that_of_bonett_and_price():
    """Two images lost and none gained of 100: the difference of (0 + 1) and (2 + 1) of 102."""
    score = measure(*of_answers(98, 2))
    lost, gained = 3 / 102, 1 / 102
    centre, wide = gained - lost, 1.959964 * np.sqrt((lost + gained - (gained - lost) ** 2) / 102)
    assert score.change.value == pytest.approx(-0.02)
    assert (score.change.low, score.change.high) == (pytest.approx(centre - wide), pytest.approx(centre + wide))
    assert (score.lost, score.gained, score.change.n) == (2, 0, 100)
    assert score.gap == pytest.approx(0.2)


def test_labels_agree_where_all_of_them_do():
    of = bundle(task="multi")
    case = held(of)
    other = case.expected.copy()
    other[0, 0] = 1 - other[0, 0] if abs(other[0, 0] - 0.4) > 0.1 else 1.0
    assert (case.answers(other) != case.answers(case.expected)).sum() == 1
    score = measure(case, other)
    assert score.agreement.value == score.accuracy.value == 63 / 64


def test_the_network_itself_passes(source, images):
    assert asked(lambda x: probabilities(source, x), images).outcome == "delivered"
