"""The report says the verdict first, shows what was planted, stands alone, and leaves nothing blank."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from linnaeus.metrics.intervals import Interval
from linnaeus.metrics.robustness import summarize_versions
from linnaeus.report.card import model_card
from linnaeus.report.confusion import MOST, worst_classes
from linnaeus.report.exported import Covered, Exported
from linnaeus.report.exports import change_in_points
from linnaeus.report.record import Counted, Shown, Wish, from_json
from linnaeus.report.run_page import run_page
from linnaeus.report.verdict import judge
from linnaeus.report.words import number

from .records import answers, exports, record
from .test_doctor_page import Balance

EMPTY = {"learning": None, "speed": None, "probabilities": None, "slices": [], "mistakes": [], "curves": []}


def text_of(page: str) -> str:
    return " ".join(" ".join(Balance(page).text).split())


def test_the_page_stands_alone_and_is_well_formed():
    page = run_page(record())
    links = [value for name, value in Balance(page).attributes if name in ("src", "href", "srcset", "data")]
    assert links
    assert all(link.startswith(("#", "data:image/")) for link in links)
    assert not re.search(r"https?:|@import|url\(|<link", page)
    assert "default-src 'none'" in page


def test_every_plot_says_what_it_shows_and_every_link_leads_somewhere():
    page = run_page(record())
    plots = re.findall(r"<svg [^>]*>", page)
    assert plots
    assert all('role="img"' in plot and re.search(r'aria-label="[^"]+"', plot) for plot in plots)
    anchors = re.findall(r'href="#([^"]+)"', page)
    assert anchors
    assert all(f'id="{anchor}"' in page for anchor in anchors)


def test_true_probabilities_raise_no_worry_about_them():
    assert not [worry for worry in judge(record()).worries if "confidence" in worry]


def test_planted_miscalibration_is_found_and_shown():
    sure = record(answers(sharpen=3.0))
    (worry,) = [worry for worry in judge(sure).worries if "confidence" in worry]
    assert "too sure of itself" in worry
    assert worry in text_of(run_page(sure))
    (shy,) = [worry for worry in judge(record(answers(sharpen=0.3))).worries if "confidence" in worry]
    assert "less sure than it could be" in shy


def test_a_planted_slice_failure_is_found_and_shown():
    page = text_of(run_page(record(answers(dark=0.9))))
    assert "by more than chance where light is 'dark'" in page
    assert "worse than elsewhere by more than chance" in text_of(run_page(record()))  # and none is named
    assert not [worry for worry in judge(record()).worries if "elsewhere" in worry]


def test_planted_label_errors_are_shown():
    wrong = Shown("a/7.jpg", "val", "class 1", "class 2", 0.01, 0.98)
    page = text_of(run_page(record(suspects=[wrong], num_suspects=5)))
    assert "5 labels look wrong among 1,200 held-out images" in page
    assert "a/7.jpg" in page
    assert "And 4 more in data/suspects.csv" in page


def test_an_accuracy_that_val_cannot_promise_is_told_with_the_true_reason():
    few = Wish(0.99, None, 528)
    many = Wish(0.95, None, 104)
    counted = Counted({"train": 400, "val": 121, "test": 600}, ["val", "test"], 0)
    page = text_of(run_page(record(wishes=[many, few], counted=counted)))
    assert "among its 104 surest answers on val, the fewest that can show it, are too many errors" in page
    assert "val has 121 images, and it takes 528 or more" in page


def test_where_training_helped_nothing_it_is_said():
    head = {"step": 0, "val/loss": 0.4, "val/top1": 0.92}
    later = {"step": 9, "train/loss": 0.4, "val/loss": 0.5, "train/top1": 0.8, "val/top1": 0.85}
    kept = record(curves=[head, later], best_step=0)
    (worry,) = [worry for worry in judge(kept).worries if "helped nothing" in worry]
    page = text_of(run_page(kept))
    assert worry.split("`")[0] in page
    assert "The model is the fitted linear head of before the first epoch" in page
    for others in ({"curves": [head], "best_step": 0}, {"curves": [head, {**later, "val/top1": 0.95}], "best_step": 9}):
        assert not [worry for worry in judge(record(**others)).worries if "helped nothing" in worry]


def test_a_command_to_copy_is_code_and_names_the_folder():
    page = run_page(record(folder="runs/photos-1", exports=[]))
    assert "<code>linnaeus evaluate runs/photos-1 --robustness</code>" in page
    assert "<code>linnaeus export runs/photos-1 --to onnx,onnx:int8</code>" in page
    assert "`" not in text_of(page)


def test_a_probability_that_is_not_nothing_is_never_rounded_to_nothing():
    shown = Shown("a/1.jpg", "test", "class 0", "class 1", 0.0004, 0.9996)
    assert "labelled class 0 (<1%), said class 1 (>99%)" in text_of(run_page(record(mistakes=[shown])))


def test_the_head_says_what_to_expect():
    made = record()
    low, high = 100 * (1 - made.top.high), 100 * (1 - made.top.low)
    assert f"expect {low:.0f} to {high:.0f} wrong answers in 100 on average" in text_of(run_page(made))


def test_spoiled_images_are_told_with_the_worst_kind_and_no_false_ranking():
    clean, severities = np.ones(50), 1 + np.arange(50) % 5
    clean[:5] = 0
    dark = np.where(severities > 3, 0.0, clean)
    found = summarize_versions(
        clean,
        clean,
        {("darkness", "underexposed"): (severities, dark), ("shift", "off centre"): (severities, clean)},
        {("jpeg", "the file saved again as JPEG"): {"95": clean, "30": clean}},
        about={"measure": "accuracy", "images": "all test images", "seed": 0},
    )
    page = text_of(run_page(record(robustness=found)))
    assert "The worst is this: underexposed" in page
    assert "as they are: 90%" in page
    assert "together with its mirror image changes that by +0.0 points (95% interval" in page
    assert "kinds whose lines overlap cannot be ranked" in page
    assert "-0.0 points" not in page
    assert [worry for worry in judge(record(robustness=found)).worries if "underexposed" in worry]


def test_a_model_no_better_than_guessing_is_called_so():
    test = answers()
    blind = record(replace(test, logits=np.roll(test.truths, 1, axis=1).astype(np.float32)))
    verdict = judge(blind)
    assert verdict.tone == "bad"
    assert "always saying" in verdict.summary


def test_what_is_not_all_is_never_rounded_to_all():
    assert number(0.9996, 500) == "99.96"
    assert number(1.0, 500) == "100"
    assert number(0.0004, 5000) == "0.04"
    assert number(0.944, 500) == "94"


def test_a_record_survives_its_json():
    made = record(answers(dark=0.5))
    assert from_json(json.loads(json.dumps(made.to_json()))) == made


def test_every_export_is_told_with_its_verdict_reason_and_interval():
    page = text_of(run_page(record()))
    assert "4 artefacts tried: 1 delivered; 1 delivered with a warning; 1 refused; 1 written but not scored." in page
    assert "on 600 test images of photos/" in page
    assert "torchscript:tutorial-int8: it loses 5.0 points." in page
    change = exports()[1].score.change
    told = f"-0.5 ({100 * change.low:+.1f} to {100 * change.high:+.1f})"
    assert told in page
    assert told in model_card(record())
    assert "98% 97% 62%" in page
    assert "onnx:int8 keeps in floating point: head" in page


def test_what_is_true_of_several_exports_is_said_once_and_a_refusal_first():
    warned = [Exported(name, "warned", ["too few images"]) for name in ("onnx:f16", "onnx:int8")]
    page = text_of(run_page(record(exports=[*warned, Exported("aoti:f32", "refused", ["it stops"])])))
    assert "aoti:f32: it stops onnx:f16, onnx:int8: too few images" in page


def test_a_share_of_an_export_that_is_not_all_is_never_rounded_to_all():
    most = Exported("onnx:int8", "delivered", [], None, Covered(1.0, 0.9996, 0.0003))
    assert "100% >99% <1%" in text_of(run_page(record(exports=[most])))


def test_a_change_of_nothing_has_no_minus():
    assert change_in_points(Interval(-0.0001, -0.02, 0.02, 100)) == "+0.0 (-2.0 to +2.0)"


def test_without_exports_the_page_names_the_command_and_the_card_is_silent():
    bare = record(exports=[])
    assert "None was made. linnaeus export photos-1" in text_of(run_page(bare))
    assert "Exported artefacts" not in model_card(bare)


def test_export_is_the_next_step_only_once_nothing_is_urgent():
    done = record(exports=[], learning=None, curves=[])
    assert [step for step in judge(done).steps if "linnaeus export photos-1" in step]
    for changes in ({"num_suspects": 3}, {"exports": exports()}, {"curves": record().curves}):
        assert not [step for step in judge(replace(done, **changes)).steps if "linnaeus export" in step]


def test_a_record_from_before_there_were_exports_still_loads():
    content = record().to_json()
    del content["exports"]
    assert from_json(content) == record(exports=[])


def test_what_is_absent_is_said_in_a_sentence():
    page = text_of(run_page(record(**EMPTY, suspects=None, missing={"learning": "It was left out."})))
    for words in ("It was left out.", "They were not looked for.", "No answers were kept.", "It was not measured."):
        assert words in page


def test_names_cannot_become_markup_in_page_or_card():
    evil = '<script>alert("1")</script>: &'
    made = record(title=evil, source=evil, classes=[evil, "b", "c", "d"])
    assert "<script>alert" not in run_page(made)
    Balance(run_page(made))
    head = model_card(made).split("---")[1]
    assert f"- name: {json.dumps(evil)}" in head


def test_the_card_begins_with_metadata_that_yaml_reads():
    yaml = pytest.importorskip("yaml")
    made = record()
    content = yaml.safe_load(model_card(made).split("---")[1])
    assert content["pipeline_tag"] == "image-classification"
    (result,) = content["model-index"][0]["results"]
    values = {each["name"]: each["value"] for each in result["metrics"]}
    assert values["top-1"] == pytest.approx(made.top.value, abs=1e-6)


def test_of_many_classes_those_with_the_most_errors_are_drawn():
    table = np.diag(np.full(100, 9))
    table[70, 80] = 5
    shown = worst_classes(table)
    assert len(shown) == MOST
    assert {70, 80} <= set(shown)
    assert shown == sorted(shown)


def test_a_page_of_many_classes_stays_small():
    test = answers(800, classes=120)
    assert len(run_page(record(test))) < 5_000_000
