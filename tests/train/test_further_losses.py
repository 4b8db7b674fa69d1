"""Perceive, Refer, Tell and Contrast against NumPy, cell by cell and row by row."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny
from reference import log_softmax, to_numpy

from saccade.data.scenes.referents import BRANCHES, CHANNELS
from saccade.models.vlm_hrm import Layout
from saccade.train.labels import Contrast, Perceive, Refer, Tell

B, GRID = tiny.B, (2, 3)
N = GRID[0] * GRID[1]
LAYOUT = Layout(GRID, tiny.T)
S = 1 + N + tiny.T + tiny.CONFIG.fusion_tokens
SEEN, READ = slice(1, 1 + N), slice(1 + N, 1 + N + tiny.T)  # task token, vision, text, fusion tokens
LOSSES = {"perceive": Perceive(), "refer": Refer(), "tell": Tell()}


@pytest.fixture(scope="module")
def model():
    return tiny.vlm_hrm()


@pytest.fixture
def outputs():
    rng = np.random.default_rng(3)
    mask = np.ones((B, S), bool)
    mask[:, READ] = tiny.batch()["padding_mask"]
    states = {
        key: rng.normal(size=(B, S, tiny.CONFIG.dim)).astype(np.float32) for key in ("encoded", "hidden")
    }
    return {**states, "padding_mask": mask}


def of(loss, model, outputs, data):
    """(rows, metrics) in NumPy, of the labels that the loss says it reads."""
    rows, metrics, *_ = loss(model, outputs, {key: data[key] for key in loss.reads}, LAYOUT)
    assert str(rows.dtype).endswith("float32")
    assert rows.shape == (B,)
    return to_numpy(rows), {key: tuple(to_numpy(v) for v in value) for key, value in metrics.items()}


def binary(logit, target):
    """-log of the probability given to the truth."""
    return np.logaddexp(0, -logit if target else logit)


def iou_giou(a, b):
    """Of two boxes xyxy."""
    overlap = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    union = area - overlap
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return overlap / union, overlap / union - (hull - union) / hull


def test_perceive(model, outputs):
    data = tiny.batch()
    head = model.heads["objects"](outputs["encoded"][:, SEEN], grid=GRID)
    presence, boxes = to_numpy(head["presence"]), to_numpy(head["boxes"]).astype(np.float64)
    attributes = [to_numpy(logits).astype(np.float64) for logits in head["attributes"]]
    # Two cells are made right, so that the metric has something to count.
    for row, cell in ((0, 0), (1, int(np.argmax(data["objects"][1, :, 0] >= 0)))):
        data["objects"][row, cell] = [logits[row, cell].argmax() for logits in attributes]
    expected, right, among = np.zeros(B), np.zeros(B), np.zeros(B)
    for b in range(B):
        found, told = [], []
        for n in range(N):
            kinds, present = data["objects"][b, n], data["objects"][b, n, 0] >= 0
            found.append(binary(presence[b, n], present))
            if present:
                x, y, w, h = boxes[b, n]
                corners = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
                target = data["object_boxes"][b, n].astype(np.float64)
                fit = 5 * np.abs(corners - target).mean() + 2 * (1 - iou_giou(corners, target)[1])
                named = [
                    -log_softmax(logits[b, n])[kind] for logits, kind in zip(attributes, kinds, strict=True)
                ]
                told.append(fit + sum(named))
                among[b] += 1
                right[b] += all(
                    logits[b, n].argmax() == kind for logits, kind in zip(attributes, kinds, strict=True)
                )
        expected[b] = 4 * np.mean(found) + np.mean(told)
    rows, metrics = of(Perceive(0.5), model, outputs, data)
    np.testing.assert_allclose(rows, 0.5 * expected, rtol=1e-4)
    np.testing.assert_array_equal(metrics["perceived"][0], right)
    np.testing.assert_array_equal(metrics["perceived"][1], among)
    assert 2 <= right.sum() < among.sum()


def test_refer(model, outputs):
    data = tiny.batch()
    logits = to_numpy(model.heads["referents"](outputs["hidden"][:, SEEN])).astype(np.float64)
    known = data["referents"] >= 0
    data["referents"][1] = np.where(known[1], logits[1] > 0, -1)  # a row with every mark right
    data["referents"][2] = -1  # and one with nothing to say
    assert known[0].any()
    assert not known[0].all()
    expected, all_right, told = np.zeros(B), np.zeros(B), np.zeros(B)
    for b in range(2):
        cells = [(n, c) for n in range(N) for c in range(tiny.REFERENTS) if data["referents"][b, n, c] >= 0]
        marks = [(logits[b, n, c], data["referents"][b, n, c]) for n, c in cells]
        expected[b] = np.mean([binary(logit, mark) for logit, mark in marks])
        all_right[b], told[b] = all((logit > 0) == mark for logit, mark in marks), 1
    rows, metrics = of(Refer(3.0), model, outputs, data)
    np.testing.assert_allclose(rows, 3 * expected, rtol=1e-5)
    np.testing.assert_array_equal(metrics["referred"][0], all_right)
    np.testing.assert_array_equal(metrics["referred"][1], told)
    assert all_right.tolist() == [0, 1, 0]


@pytest.mark.parametrize("hops", [1, 2])
def test_refer_asks_for_no_more_hops_than_the_step_allows(outputs, hops):
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(B, N, CHANNELS)).astype(np.float32)
    marks = rng.integers(-1, 2, size=(B, N, CHANNELS)).astype(np.int8)
    marks[..., :BRANCHES] = 1
    model = SimpleNamespace(heads={"referents": lambda hidden: logits})
    steps = np.array([1, 2, 5], np.int32)
    expected = np.zeros(B)
    for b in range(B):
        allowed = [c for c in range(CHANNELS) if c // BRANCHES < steps[b] * hops]  # levels from 0
        cells = [(n, c) for n in range(N) for c in allowed if marks[b, n, c] >= 0]
        expected[b] = np.mean([binary(float(logits[b, n, c]), marks[b, n, c]) for n, c in cells])
    loss = Refer(hops_per_step=hops)
    rows, _ = of(loss, model, {**outputs, "steps": steps}, {"referents": marks})
    np.testing.assert_allclose(rows, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("steps", "wrong", "settled"), [(1, False, False), (2, False, True), (2, True, False)]
)
def test_refer_settles_when_every_hop_is_asked_for_and_right(outputs, steps, wrong, settled):
    """Two hops, one a step: the second is open in the first step, however well it is marked."""
    marks = np.full((B, N, CHANNELS), -1, np.int8)
    marks[:, :2, 0], marks[:, :2, BRANCHES] = 1, 0
    logits = np.where(marks > 0, 1.0, -1.0).astype(np.float32)
    logits[1, 0, BRANCHES] *= -1 if wrong else 1
    model = SimpleNamespace(heads={"referents": lambda hidden: logits})
    seen = {**outputs, "steps": np.full(B, steps, np.int32)}
    _, _, found = Refer(hops_per_step=1)(model, seen, {"referents": marks}, LAYOUT)
    assert bool(to_numpy(found)[1]) is settled
    marks[1] = -1  # a row with nothing to say has nothing open
    assert to_numpy(Refer(hops_per_step=1)(model, seen, {"referents": marks}, LAYOUT)[2])[1]


def test_tell(model, outputs):
    data = tiny.batch()
    logits = to_numpy(model.heads["vqa"](outputs["hidden"][:, SEEN])).astype(np.float64)
    data["told"][0, 0] = logits[0, 0].argmax()
    data["told"][2] = -1
    expected, hits, asked = np.zeros(B), np.zeros(B), np.zeros(B)
    for b in range(B):
        cells = [n for n in range(N) if data["told"][b, n] >= 0]
        if cells:
            expected[b] = np.mean([-log_softmax(logits[b, n])[data["told"][b, n]] for n in cells])
        hits[b], asked[b] = sum(logits[b, n].argmax() == data["told"][b, n] for n in cells), len(cells)
    rows, metrics = of(Tell(0.5), model, outputs, data)
    np.testing.assert_allclose(rows, 0.5 * expected, rtol=1e-5)
    np.testing.assert_array_equal(metrics["told"][0], hits)
    np.testing.assert_array_equal(metrics["told"][1], asked)
    assert 1 <= hits[0] <= asked[0]
    assert asked[2] == 0


@pytest.mark.parametrize("answer", [(1, 1, 1), (0, 0, 0), (1, 0, 1)])
def test_contrast(model, outputs, answer):
    """Each image against all true descriptions, then all wrong ones; a true text against the images."""
    data = {**tiny.batch(), "answer": np.array(answer, np.int32)}
    head = model.heads["retrieve"]
    images = to_numpy(head(outputs["encoded"][:, SEEN], side="image"))
    shown = to_numpy(head(outputs["encoded"][:, READ], data["padding_mask"], side="text"))
    read = model.encode_text(data["other_tokens"], data["other_padding_mask"])
    other = to_numpy(head(read, data["other_padding_mask"], side="text"))
    true = [shown[b] if answer[b] else other[b] for b in range(B)]
    wrong = [other[b] if answer[b] else shown[b] for b in range(B)]
    scale = min(np.exp(float(to_numpy(head.logit_scale))), 100)
    similarity = scale * images.astype(np.float64) @ np.stack([*true, *wrong]).astype(np.float64).T
    expected = np.zeros(B)
    for b in range(B):
        image_to_text = -log_softmax(similarity[b])[b]
        text_to_image = -log_softmax(similarity[:, b])[b]
        expected[b] = (image_to_text + text_to_image) / 2
    rows, metrics = of(Contrast(2.0), model, outputs, data)
    np.testing.assert_allclose(rows, 2 * expected, rtol=1e-4)
    np.testing.assert_array_equal(metrics["recall_at_1"][0], similarity.argmax(1) == np.arange(B))
    np.testing.assert_array_equal(metrics["recall_at_1"][1], np.ones(B))


def nothing_said() -> dict:
    data = tiny.batch()
    silent = {key: np.full_like(data[key], -1) for key in ("objects", "referents", "told")}
    return {**data, **silent, "object_boxes": np.zeros_like(data["object_boxes"])}


@pytest.mark.parametrize("name", ["refer", "tell"])
def test_where_nothing_is_said_the_loss_is_zero(model, outputs, name):
    rows, metrics = of(LOSSES[name], model, outputs, nothing_said())
    np.testing.assert_array_equal(rows, np.zeros(B))
    for hits, among in metrics.values():
        assert not hits.any()
        assert not among.any()


def test_an_empty_scene_teaches_only_that_nothing_is_there(model, outputs):
    head = model.heads["objects"](outputs["encoded"][:, SEEN], grid=GRID)
    rows, metrics = of(Perceive(), model, outputs, nothing_said())
    expected = 4 * np.logaddexp(0, to_numpy(head["presence"])).mean(-1)
    np.testing.assert_allclose(rows, expected, rtol=1e-5)
    assert not metrics["perceived"][1].any()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_where_nothing_is_said(model, outputs, name):
    loss, data = LOSSES[name], nothing_said()
    state = "encoded" if name == "perceive" else "hidden"

    def total(x):
        return loss(model, {**outputs, state: x}, data, LAYOUT)[0].sum()

    gradient = np.asarray(jax.grad(total)(outputs[state]))
    assert np.isfinite(gradient).all()
    assert gradient.any() == (name == "perceive")
