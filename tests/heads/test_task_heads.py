"""Task heads: the contract, learning through the Trainer, saving, bad input."""

import keras
import numpy as np
import pytest
import reference
from reference import to_numpy

from saccade import backend
from saccade.errors import SaccadeError
from saccade.heads.create import create_vlm_head, load_vlm_head
from saccade.heads.grounding import check_boxes
from saccade.heads.task import VLMTaskConfig
from saccade.heads.vqa import soft_targets
from saccade.train.config import TrainConfig
from saccade.train.objectives import ground_loss
from saccade.train.stream import Stream
from saccade.train.tasks import HeadLoss, same_text
from saccade.train.trainer import Trainer

B, N, C, T, D = 3, 6, 10, 5, 14
GRID = (2, 3)
CONFIGS = {
    "vqa": VLMTaskConfig("vqa", C, D, dim=12, num_heads=3, num_answers=7),
    "grounding": VLMTaskConfig("grounding", C, D, dim=12, num_heads=3, grid=GRID),
    "matching": VLMTaskConfig("matching", C, D, dim=24, num_heads=3, embedding_dim=18),
}


def features(rows=B, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "vision_features": rng.normal(size=(rows, N, C)).astype(np.float32),
        "text_features": rng.normal(size=(rows, T, D)).astype(np.float32),
        "vision_mask": np.arange(N) < np.array([N, 4, 2])[:rows, None],
        "text_mask": np.arange(T) < np.array([2, T, 3])[:rows, None],
    }


def head_of(task, **kwargs):
    return reference.randomize(create_vlm_head(CONFIGS[task], **kwargs))


def numbers(outputs):
    return {name: to_numpy(value) for name, value in outputs.items()}


@pytest.mark.parametrize("task", CONFIGS)
def test_what_is_padded_never_matters(task):
    head, batch = head_of(task), features()
    changed = {
        **batch,
        "vision_features": np.where(batch["vision_mask"][..., None], batch["vision_features"], np.nan),
        "text_features": np.where(batch["text_mask"][..., None], batch["text_features"], np.nan),
        **{name: batch[name].astype("int32") for name in ("vision_mask", "text_mask")},  # as of transformers
    }
    other = numbers(head(changed))
    for name, value in numbers(head(batch)).items():
        if name == "boxes":  # a padded patch's box belongs to nothing
            keep = batch["vision_mask"]
            np.testing.assert_allclose(other[name][keep], value[keep], atol=1e-5)
            continue
        np.testing.assert_allclose(other[name], value, atol=1e-5, err_msg=name)
    losses = [float(HeadLoss()(head, {}, {**given, **LABELS[task]}, None)[0]) for given in (batch, changed)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("task", CONFIGS)
def test_a_row_of_padding_is_finite(task):
    batch = features()
    batch["vision_mask"][1] = batch["text_mask"][1] = False
    for name, value in numbers(head_of(task)(batch)).items():
        assert np.isfinite(value).all(), name


@pytest.mark.parametrize("task", CONFIGS)
def test_saved_and_loaded_it_is_the_same(task, tmp_path):
    head = head_of(task)
    head.save(tmp_path / "head")
    again = numbers(load_vlm_head(tmp_path / "head")(features()))
    for name, value in numbers(head(features())).items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


@pytest.mark.parametrize("task", CONFIGS)
def test_mixed_bfloat16_gives_float32(task):
    for name, value in head_of(task, dtype="mixed_bfloat16")(features()).items():
        assert keras.backend.standardize_dtype(value.dtype) == "float32", name


def test_vqa_shapes_pooled_features_and_decode():
    head, batch = head_of("vqa"), features()
    outputs = head(batch)
    assert outputs["answer_logits"].shape == (B, 7)
    assert outputs["answer_type_logits"].shape == (B, 3)
    pooled = head(
        {"vision_features": batch["vision_features"][:, 0], "text_features": batch["text_features"][:, 0]}
    )
    assert pooled["answer_logits"].shape == (B, 7)
    best = to_numpy(outputs["answer_logits"]).argmax(-1).tolist()
    assert head.decode(outputs) == best
    assert head.decode(outputs, list("abcdefg")) == ["abcdefg"[k] for k in best]


def test_an_answer_outside_the_set_counts_for_nothing():
    targets = soft_targets([["red", "red", "pink"], ["pink"], ["blue"] * 5], ["red", "blue"])
    np.testing.assert_allclose(targets, [[2 / 3, 0], [0, 0], [0, 1]], atol=1e-6)


BAD = {
    "no 'text_features'": lambda b: b.pop("text_features"),
    "vision_mask is": lambda b: b.update(vision_mask=b["vision_mask"][:, :-1]),
    "13 wide, not 14; set text_dim": lambda b: b.update(text_features=b["text_features"][..., :-1]),
    "different numbers of rows": lambda b: b.update(text_features=b["text_features"][:2], text_mask=None),
    "give \\(rows, tokens, width\\)": lambda b: b.update(vision_features=b["vision_features"][None]),
    "vision_features is \\(0, 6, 10\\).*at least 1": lambda b: b.update({k: v[:0] for k, v in b.items()}),
    "text_features is \\(3, 0, 14\\).*at least 1": lambda b: b.update(
        {k: b[k][:, :0] for k in ("text_features", "text_mask")}
    ),
    "vision_features is a list; give an array": lambda b: b.update(vision_features=[[0.0] * C]),
    "text_mask is a list; give an array": lambda b: b.update(text_mask=[[1] * T] * B),
    "the batch has no 'vision_features'; it has nothing": lambda b: b.clear(),
    "answer_targets is \\(3, 5\\), not \\(3, 7\\)": lambda b: b.update(answer_targets=np.ones((B, 5))),
    "answer_targets are not all in \\[0, 1\\]": lambda b: b.update(answer_targets=np.full((B, 7), 10)),
    "answer_types holds 3; give 0 to 2": lambda b: b.update(answer_types=np.array([0, 1, 3])),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_features_are_named_in_one_line(message):
    batch = features()
    BAD[message](batch)
    with pytest.raises(SaccadeError, match=message) as caught:
        head_of("vqa")(batch)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([0.1, 0.1, 40, 40], r"box 1 is \[0.1, 0.1, 40, 40\]; give xyxy in \[0, 1\], not pixels"),
        ([0.5, 0.1, 0.4, 0.4], r"box 1 is \[0.5, 0.1, 0.4, 0.4\], of no area"),
        ([0.5, 0.1, np.nan, 0.4], "box 1 is .*nan"),
        ([0.1, 0.2, 0.3], r"box is \(3, 3\), not \(3, 4\)"),
    ],
)
def test_a_box_that_cannot_be_learned_is_refused(box, message):
    batch = features()
    batch["box"] = np.tile(np.array([0.1, 0.2, 0.3, 0.4][: len(box)], np.float32), (B, 1))
    batch["box"][1] = box
    with pytest.raises(SaccadeError, match=message):
        HeadLoss()(head_of("grounding"), {}, batch, None)


@pytest.mark.parametrize(("task", "label"), [("vqa", "answer_targets"), ("grounding", "box")])
def test_a_missing_label_is_named(task, label):
    with pytest.raises(SaccadeError, match=f"the batch has no '{label}' for {task} to learn from"):
        HeadLoss()(head_of(task), {}, features(), None)


def test_what_is_no_list_of_answers_is_refused():
    with pytest.raises(SaccadeError, match=r"said\[1\] is the text 'red'"):
        soft_targets([["red"], "red"], ["red", "blue"])
    head = head_of("vqa")
    with pytest.raises(SaccadeError, match="answers are 2, the head has 7"):
        head.decode(head(features()), ["red", "blue"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "poetry"}, "no task"),
        ({"dim": 12.0}, "dim of vqa is 12.0; give at least 1, whole"),
        ({"task": "grounding", "grid": 6}, "grid of grounding is 6; give \\(rows, columns\\)"),
        ({"task": "grounding", "grid": (2, 3, 1)}, "give \\(rows, columns\\)"),
        ({"fusion": "glue"}, "no fusion"),
        ({"num_answers": None}, "num_answers"),
        ({"dim": 13}, "does not divide"),
    ],
)
def test_bad_configurations(change, message):
    good = {"task": "vqa", "vision_dim": C, "text_dim": D, "dim": 12, "num_heads": 3, "num_answers": 7}
    with pytest.raises(SaccadeError, match=message):
        VLMTaskConfig(**{**good, **change})


def fit(task, rows, steps, **config):
    head = create_vlm_head(CONFIGS[task])
    collate = lambda items: {k: np.stack([item[k] for item in items]) for k in items[0]}  # noqa: E731
    stream = Stream(rows, collate, HeadLoss(), 32)
    Trainer(head, {task: stream}, TrainConfig(steps=steps, learning_rate=1e-2, **config)).fit()
    return head, collate(rows)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the Trainer runs on jax")
def test_vqa_learns_which_token_the_question_asks_for():
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(256):
        asked, values = rng.integers(2), rng.integers(2, size=2)
        image = rng.normal(size=(2, C)).astype(np.float32) * 0.1
        image[:, 0], image[:, 1] = 2 * values - 1, [-1, 1]
        text = np.zeros((1, D), np.float32)
        text[0, asked] = 1.0
        target = np.eye(7, dtype=np.float32)[2 * asked + values[asked]]
        rows.append({"vision_features": image, "text_features": text, "answer_targets": target})
    head, batch = fit("vqa", rows, 150)
    predicted = np.array(head.decode(backend.compiled(head, head)(batch)))
    assert np.mean(predicted == batch["answer_targets"].argmax(-1)) >= 0.95


def test_grounding_decodes_the_most_confident_patch():
    head, batch = head_of("grounding"), features()
    batch["vision_mask"][1] = False
    outputs = head(batch)
    boxes, confidence = head.decode(outputs)
    assert boxes.shape == (B, 4)
    assert (boxes >= 0).all()
    assert (boxes <= 1).all()
    assert (boxes[:, :2] <= boxes[:, 2:]).all()
    shares = to_numpy(outputs["confidence"])
    np.testing.assert_allclose(shares.sum(-1), [1, 0, 1], atol=1e-5)
    np.testing.assert_allclose(confidence, shares.max(-1))


def test_grounding_wants_the_patches_of_its_grid():
    batch = features()
    with pytest.raises(SaccadeError, match="a grid of \\(2, 3\\) has 6 patches"):
        head_of("grounding")(
            {**batch, "vision_features": batch["vision_features"][:, 0], "vision_mask": None}
        )


@pytest.mark.parametrize("fusion", ["concat", "q_former", "perceiver"])
def test_grounding_refuses_a_fusion_without_patches(fusion):
    with pytest.raises(SaccadeError, match="tells no patch"):
        VLMTaskConfig("grounding", C, D, grid=GRID, fusion=fusion)


def test_matching_refuses_a_width_its_pooling_cannot_split():
    with pytest.raises(SaccadeError, match="multiple of 8"):
        VLMTaskConfig("matching", C, D, dim=12, num_heads=3, embedding_dim=5)


@pytest.mark.parametrize(("box", "message"), [([0, 0, 12, 9], "not pixels"), ([0.5, 0, 0.2, 1], "no area")])
def test_boxes_are_checked(box, message):
    with pytest.raises(SaccadeError, match=f"box 1 is .*{message}"):
        check_boxes([[0, 0, 1, 1], box])
    with pytest.raises(SaccadeError, match="boxes are \\(3,\\); give"):
        check_boxes(box[:3])


def test_matching_shapes_and_order():
    head = head_of("matching")
    outputs = head(features())
    assert outputs["similarity"].shape == (B, B)
    assert outputs["match_logit"].shape == (B,)
    np.testing.assert_allclose(np.linalg.norm(to_numpy(outputs["image_embeddings"]), axis=-1), 1, atol=1e-4)
    order = head.decode(outputs)
    falling = np.take_along_axis(to_numpy(outputs["similarity"]), order, axis=1)
    assert (np.diff(falling) <= 0).all()


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the Trainer runs on jax")
def test_grounding_learns_to_find_the_named_patch():
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(256):
        kinds, named = rng.permutation(N), rng.integers(N)
        y, x = divmod(int(np.argmax(kinds == named)), GRID[1])
        box = [x / GRID[1], y / GRID[0], (x + 1) / GRID[1], (y + 1) / GRID[0]]
        text = np.eye(D, dtype=np.float32)[[named]]
        image = np.eye(C, dtype=np.float32)[kinds]
        rows.append({"vision_features": image, "text_features": text, "box": check_boxes(box)})
    head, batch = fit("grounding", rows, 300)
    boxes, _ = head.decode(backend.compiled(head, head)(batch))
    low, high = np.maximum(boxes, batch["box"])[:, :2], np.minimum(boxes, batch["box"])[:, 2:]
    overlap = np.prod(np.maximum(high - low, 0), -1)
    union = np.prod(boxes[:, 2:] - boxes[:, :2], -1) + 1 / N - overlap
    assert np.mean(overlap / union >= 0.5) >= 0.9


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the Trainer runs on jax")
def test_matching_learns_pairs():
    rng = np.random.default_rng(0)
    turn = rng.normal(size=(C, D)).astype(np.float32) / C**0.5
    images = rng.normal(size=(256, 1, C)).astype(np.float32)
    rows = [{"vision_features": image, "text_features": image @ turn} for image in images]
    head, batch = fit("matching", rows, 200)
    few = {name: value[:64] for name, value in batch.items()}
    outputs = backend.compiled(head, head)(few)
    assert np.mean(head.decode(outputs)[:, 0] == np.arange(64)) >= 0.9
    swapped = {**few, "text_features": np.roll(few["text_features"], 1, axis=0)}
    right = to_numpy(outputs["match_logit"]) > 0
    wrong = to_numpy(backend.compiled(head, head)(swapped)["match_logit"]) < 0
    assert (right.mean() + wrong.mean()) / 2 >= 0.95


def test_the_same_text_is_told_by_what_is_read():
    rng = np.random.default_rng(1)
    texts = 5 + rng.normal(size=(6, T, D))  # far from 0, as features are
    kept = np.arange(T) < np.array([T, T, 3, 3, 4, T])[:, None]
    texts[1] = texts[0]
    texts[1, 2, :4] += 1.0  # one token differs, in part
    texts[3] = np.where(kept[3][:, None], texts[2] + 1e-4 * rng.normal(size=(T, D)), 99)  # noise, padding
    texts[4] = texts[2]  # a token more
    same = np.eye(6, dtype=bool)
    same[2, 3] = same[3, 2] = True
    np.testing.assert_array_equal(to_numpy(same_text(texts.astype(np.float32), kept)), same)
    alike = np.repeat(texts[:1].astype(np.float32), 4, axis=0)
    assert to_numpy(same_text(alike)).all()
    vectors = texts[:, 0].astype(np.float32)  # (B, D): of rows 0 and 1 the first token is the same
    same[0, 1] = same[1, 0] = same[2, 4] = same[4, 2] = same[3, 4] = same[4, 3] = True
    np.testing.assert_array_equal(to_numpy(same_text(vectors)), same)


def test_hard_texts_count_before_the_head_tells_texts_apart():
    """All text embeddings are equal, as they nearly are at the start: the wrong texts are learnt from."""
    head, batch = head_of("matching"), features(2)
    head.text_projection.kernel.assign(np.zeros((D, 24)))
    outputs = numbers(head(batch))
    np.testing.assert_allclose(np.ptp(outputs["text_embeddings"], axis=0), 0, atol=1e-6)
    loss, *_ = HeadLoss()(head, {}, batch, None)
    others = {name: batch[name][::-1] for name in ("text_features", "text_mask")}
    true, other = outputs["match_logit"], to_numpy(head.match({**batch, **others}))
    pairs = (np.logaddexp(0, -true) + np.logaddexp(0, other)) / 2
    rows = [-reference.log_softmax(s).diagonal() for s in (outputs["similarity"], outputs["similarity"].T)]
    np.testing.assert_allclose(to_numpy(loss), np.mean(np.mean(rows, axis=0) + pairs), rtol=1e-4)


LABELS = {
    "vqa": {
        "answer_targets": np.eye(7, dtype=np.float32)[:B],
        "answer_types": np.arange(B, dtype=np.int32),
    },
    "grounding": {"box": np.array([[0, 0, 0.4, 0.5], [0.3, 0.5, 0.6, 1], [0, 0, 1, 1]], np.float32)},
    "matching": {},
}


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="takes the gradient with jax")
@pytest.mark.parametrize("task", CONFIGS)
def test_a_gradient_reaches_every_weight(task):
    import jax

    head, batch = head_of(task), {**features(), **LABELS[task]}

    def loss(values):
        with keras.StatelessScope(state_mapping=list(zip(head.trainable_variables, values, strict=True))):
            return HeadLoss()(head, {}, batch, None)[0]

    gradients = jax.jit(jax.grad(loss))([variable.value for variable in head.trainable_variables])
    for variable, gradient in zip(head.trainable_variables, gradients, strict=True):
        assert np.isfinite(gradient).all(), variable.path
        assert np.abs(gradient).max() > 0, variable.path


def grounded(outputs, boxes, kept):
    """Loss of each row, and its gradient by the outputs, from sums of each row alone."""
    import jax

    def total(values):
        loss, iou = ground_loss(values, boxes, GRID, kept)
        return loss.sum(), (loss, iou)

    gradients, (loss, iou) = jax.grad(total, has_aux=True)(outputs)
    return numbers({"loss": loss, "iou": iou}), numbers(gradients)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="gradients by jax")
def test_a_centre_on_a_padded_patch():
    """Row 0: kept. Row 1: the centre's patch is padded, nothing to find. Row 2: no patch at all."""
    rng = np.random.default_rng(0)
    kept = np.array([[True] * N, [True] * (N - 1) + [False], [False] * N])
    boxes = np.tile(np.array([0.7, 0.6, 0.9, 0.8], np.float32), (3, 1))  # the last patch
    outputs = {
        "boxes": rng.uniform(0.2, 0.8, size=(3, N, 4)).astype(np.float32),
        "score_logits": np.where(kept, rng.normal(size=(3, N)), -1e9).astype(np.float32),
    }
    found, gradients = grounded(outputs, boxes, kept)
    assert all(np.isfinite(value).all() for value in (*found.values(), *gradients.values()))
    free, _ = grounded(outputs, boxes, None)
    assert free["loss"][1] > 1e8  # what the rule is there for
    np.testing.assert_allclose(found["loss"][0], free["loss"][0], rtol=1e-6)
    assert 0 < found["loss"][1] < 10
    assert found["loss"][2] == 0
    assert np.abs(gradients["score_logits"][0]).max() > 0
    assert not gradients["score_logits"][1:].any()
    assert not gradients["boxes"][~kept].any()
    assert gradients["boxes"][1, : N - 1].any()


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="gradients by jax")
def test_the_grounding_head_learns_from_kept_patches():
    head, batch = head_of("grounding"), features()
    batch["box"] = np.tile(np.array([0.7, 0.6, 0.9, 0.8], np.float32), (B, 1))
    assert not batch["vision_mask"][1:, -1].any()
    loss, _, _, _ = HeadLoss()(head, {}, batch, None)
    assert 0 < float(loss) < 20
    batch["vision_mask"][:] = False
    assert float(HeadLoss()(head, {}, batch, None)[0]) == 0


@pytest.mark.parametrize("task", CONFIGS)
def test_rows_do_not_see_each_other(task):
    head, batch, order = head_of(task), features(), [2, 0, 1]
    straight = numbers(head(batch))
    moved = numbers(head({name: value[order] for name, value in batch.items()}))
    for name, value in straight.items():
        expected = value[order][:, order] if name == "similarity" else value[order]
        np.testing.assert_allclose(moved[name], expected, atol=1e-5, err_msg=name)
