"""Dense captioning: the truth a patch answers for, whose caption is written, what suppression leaves."""

import itertools

import keras
import numpy as np
import pytest
import reference
from reference import to_numpy

from saccade import backend, losses
from saccade.data.text import BOS, EOS, PAD
from saccade.decoding.settings import GenerationConfig
from saccade.errors import SaccadeError
from saccade.heads.create import create_vlm_head, load_vlm_head
from saccade.heads.dense import region_labels
from saccade.heads.task import VLMTaskConfig
from saccade.train.tasks import _SCORE_WEIGHT, HeadLoss

B, GRID, C, M, T, V = 3, (2, 4), 10, 5, 6, 13
N = GRID[0] * GRID[1]
CONFIG = VLMTaskConfig(
    "dense_captioning", C, dim=12, num_heads=3, grid=GRID, vocab_size=V, max_length=7, decoder_depth=2
)
BOXES = [[[0, 0, 0.3, 0.4], [0.5, 0.5, 0.9, 1], [0.2, 0.6, 0.4, 0.8]], [], [[0.1, 0.1, 0.8, 0.9]]]
CAPTIONS = [[[5, 6, 7, 8], [9], [10, 11]], [], [[3, 4, 12]]]
on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="the Trainer runs on jax")


def stacked(items):
    return {name: np.stack([item[name] for item in items]) for name in items[0]}


def features(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "vision_features": rng.normal(size=(B, N, C)).astype(np.float32),
        "vision_mask": np.arange(N) < np.array([N, 5, 6])[:, None],
    }


def labels():
    return stacked([region_labels(b, c, M, T) for b, c in zip(BOXES, CAPTIONS, strict=True)])


@pytest.fixture(scope="module")
def head():
    return reference.randomize(create_vlm_head(CONFIG))


def numbers(outputs):
    return {name: to_numpy(value) for name, value in outputs.items()}


def loss_of(head, batch):
    """The loss of the batch, and the metrics as numbers."""
    run = backend.compiled(lambda batch: HeadLoss()(head, {}, batch, None)[::2], head)
    loss, metrics = run(batch)
    return float(loss), {k: np.array([float(part) for part in value]) for k, value in metrics.items()}


def same_loss(a, b):
    np.testing.assert_allclose(a[0], b[0], rtol=1e-5)
    for name in a[1]:
        np.testing.assert_allclose(a[1][name], b[1][name], rtol=1e-5, err_msg=name)


# -- the contract


def test_shapes_and_ranges(head):
    outputs = numbers(head(features()))
    assert {name: value.shape for name, value in outputs.items()} == {
        "boxes": (B, N, 4),
        "score_logits": (B, N),
        "regions": (B, N, 12),
    }
    assert (outputs["boxes"] >= 0).all()
    assert (outputs["boxes"] <= 1).all()
    assert (outputs["score_logits"][~features()["vision_mask"]] == -1e9).all()


def test_padded_patches_never_matter(head, caplog):
    batch = {**features(), **labels()}
    keep = batch["vision_mask"]
    changed = {**batch, "vision_features": np.where(keep[..., None], batch["vision_features"], np.nan)}
    changed["vision_mask"] = keep.astype("int32")  # as of transformers
    ours, theirs = numbers(head(batch)), numbers(head(changed))
    for name in ours:
        np.testing.assert_allclose(theirs[name][keep], ours[name][keep], atol=1e-6, err_msg=name)
    same_loss(loss_of(head, changed), loss_of(head, batch))
    assert not caplog.records  # JAX logs a page about a mask that is not bool


def test_a_row_of_padding_is_finite_and_finds_nothing(head):
    batch = {**features(), **labels()}
    batch["vision_mask"][0] = False
    outputs = head(batch)
    assert all(np.isfinite(value).all() for value in numbers(outputs).values())
    assert head.decode(outputs, threshold=1e-6)[0] == []
    assert np.isfinite(loss_of(head, batch)[0])


def test_rows_do_not_see_each_other(head):
    batch = features()
    outputs = numbers(head(batch))
    for row in range(B):
        alone = numbers(head({name: value[row : row + 1] for name, value in batch.items()}))
        for name, value in alone.items():
            np.testing.assert_allclose(value[0], outputs[name][row], atol=1e-5, err_msg=name)


def test_patches_see_each_other_and_know_where_they_are(head):
    batch = {"vision_features": features()["vision_features"]}
    other = batch["vision_features"].copy()
    other[:, 0] += 1
    assert (
        to_numpy(head({"vision_features": other})["regions"])[:, 3] != to_numpy(head(batch)["regions"])[:, 3]
    ).any()
    same = np.repeat(batch["vision_features"][:, :1], N, axis=1)
    regions = to_numpy(head({"vision_features": same})["regions"])
    assert np.abs(regions[:, 1] - regions[:, 2]).max() > 1e-3


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras, reading variables
@pytest.mark.parametrize("suffix", ["", ".keras"])
def test_saved_and_loaded_it_is_the_same(head, tmp_path, suffix):
    path = tmp_path / f"head{suffix}"
    head.save(path)
    again = keras.saving.load_model(path) if suffix else load_vlm_head(path)
    assert again.config == head.config
    for name, value in numbers(head(features())).items():
        np.testing.assert_array_equal(to_numpy(again(features())[name]), value, err_msg=name)


def test_mixed_precision_gives_float32():
    half = reference.randomize(create_vlm_head(CONFIG, dtype="mixed_bfloat16"))
    outputs = half(features())
    logits = half.describe(outputs, np.zeros((B, M), np.int32), labels()["region_tokens"])
    for name, value in {**outputs, "logits": logits}.items():
        assert keras.backend.standardize_dtype(value.dtype) == "float32", name
        assert np.isfinite(to_numpy(value)).all(), name
    assert len(half.decode(outputs, threshold=0.0)) == B


# -- the loss


def test_the_order_of_the_truths_does_not_matter(head):
    batch, order = {**features(), **labels()}, [4, 2, 0, 3, 1]
    moved = {name: value[:, order] if name.startswith("region") else value for name, value in batch.items()}
    same_loss(loss_of(head, moved), loss_of(head, batch))


def test_what_is_no_truth_does_not_matter(head):
    batch = {**features(), **labels()}
    some = batch["region_mask"]
    changed = {
        **batch,
        "region_boxes": np.where(some[..., None], batch["region_boxes"], np.nan),
        "region_tokens": np.where(some[..., None], batch["region_tokens"], 7),
    }
    same_loss(loss_of(head, changed), loss_of(head, batch))


def test_no_object_at_all_teaches_that_there_is_none(head):
    batch = {**features(), **labels(), "region_mask": np.zeros((B, M), bool)}
    scores, keep = to_numpy(head(batch)["score_logits"]).astype(np.float64), batch["vision_mask"]
    expected = np.mean([np.logaddexp(0, s[k]).mean() for s, k in zip(scores, keep, strict=True)])
    loss, metrics = loss_of(head, batch)
    np.testing.assert_allclose(loss, _SCORE_WEIGHT * expected, rtol=1e-5)
    assert metrics["iou"].tolist() == metrics["accuracy"].tolist() == [0, 0]


def by_hand(boxes, scores, truths):
    """The cheapest matching of all, and its loss, without captions."""
    sure = 1 / (1 + np.exp(-scores))
    pairs = np.array([to_numpy(losses.box_loss(boxes, np.tile(t, (len(boxes), 1)))[0]) for t in truths])
    cost = pairs - _SCORE_WEIGHT * sure
    options = itertools.permutations(range(len(boxes)), len(truths))
    best = min(options, key=lambda chosen: sum(cost[i, k] for i, k in enumerate(chosen)))
    hit = np.isin(np.arange(len(boxes)), best)
    bce = np.where(hit, np.logaddexp(0, -scores), np.logaddexp(0, scores)).mean()
    return best, np.mean([pairs[i, k] for i, k in enumerate(best)]) + _SCORE_WEIGHT * bce


def test_set_loss_matches_what_is_cheapest_of_the_kept(head):
    batch = {**features(), **labels()}
    outputs = numbers(head(batch))
    keep, some = batch["vision_mask"], batch["region_mask"]
    loss, match = losses.set_loss(
        outputs["boxes"],
        np.where(keep, outputs["score_logits"], 1e9),  # tempting, and never taken
        batch["region_boxes"],
        some,
        score_weight=_SCORE_WEIGHT,
        kept=keep,
    )
    for row in (0, 2):
        boxes, scores = outputs["boxes"][row, keep[row]], outputs["score_logits"][row, keep[row]]
        best, expected = by_hand(boxes, scores.astype(np.float64), batch["region_boxes"][row, some[row]])
        assert tuple(to_numpy(match)[row, some[row]]) == best
        np.testing.assert_allclose(to_numpy(loss)[row], expected, rtol=1e-5)
    assert (to_numpy(match)[~some] == -1).all()


def test_the_loss_is_of_boxes_scores_and_captions(head):
    batch = {**features(), **labels()}
    outputs = head(batch)
    expected, hits, count = [], 0, 0
    describe = backend.compiled(head.describe, head)
    boxed, match = losses.set_loss(
        outputs["boxes"],
        outputs["score_logits"],
        batch["region_boxes"],
        batch["region_mask"],
        score_weight=_SCORE_WEIGHT,
        kept=batch["vision_mask"],
    )
    for row, captions in enumerate(CAPTIONS):
        means = []
        for region, caption in enumerate(captions):
            text = [BOS, *caption, EOS]
            index = np.full((B, 1), int(to_numpy(match)[row, region]), np.int32)
            padded = np.array(text + [PAD] * (T - len(text)), np.int32)
            logits = to_numpy(describe(outputs, index, np.tile(padded, (B, 1, 1))))[row, 0, : len(text)]
            log_p = reference.log_softmax(logits.astype(np.float64))[:-1]
            means.append(-np.mean([log_p[t, token] for t, token in enumerate(text[1:])]))
            hits += int((log_p.argmax(-1) == text[1:]).sum())
            count += len(text) - 1
        expected.append(to_numpy(boxed)[row] + (np.mean(means) if means else 0.0))
    loss, metrics = loss_of(head, batch)
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)
    assert metrics["accuracy"].tolist() == [hits, count]
    assert metrics["iou"][1] == 4


@on_jax
def test_a_finite_gradient_reaches_every_weight():
    own = reference.randomize(create_vlm_head(CONFIG))
    batch = {**features(), **labels()}

    def loss(values):
        with keras.StatelessScope(state_mapping=list(zip(own.trainable_variables, values, strict=True))):
            return HeadLoss()(own, {}, batch, None)[0], ()

    step = backend.jit(lambda values: backend.value_and_grad(loss, values))
    _, gradients = step([variable.value for variable in own.trainable_variables])
    for variable, gradient in zip(own.trainable_variables, gradients, strict=True):
        assert np.isfinite(to_numpy(gradient)).all(), variable.path
        assert np.abs(to_numpy(gradient)).max() > 0, variable.path


# -- captions and suppression


def test_the_caption_of_a_region_is_its_own(head):
    outputs, tokens = numbers(head(features())), labels()["region_tokens"]
    index = np.array([[3, 0, 7, 1, 3], [2, 2, 4, 0, -1], [5, 4, 3, 2, 1]], np.int32)
    logits = to_numpy(head.describe(outputs, index, tokens))
    assert logits.shape == (B, M, T, V)
    for row, region in ((0, 0), (1, 2), (2, 4)):
        chosen = index[row, region]
        others = {name: np.full_like(value, 0.3) for name, value in outputs.items()}
        for name in others:
            others[name][row, chosen] = outputs[name][row, chosen]
        alone = to_numpy(head.describe(others, index, tokens))
        np.testing.assert_allclose(alone[row, region], logits[row, region], atol=1e-5)
    future = tokens.copy()
    future[:, :, 4:] = 9
    np.testing.assert_allclose(
        to_numpy(head.describe(outputs, index, future))[:, :, :4], logits[:, :, :4], atol=1e-5
    )


def greedy(head, outputs, row, region, longest):
    written = [BOS]
    while len(written) <= longest:
        text = np.array(written[:7] + [PAD] * (7 - len(written)), np.int32)
        index = np.full((B, 1), region, np.int32)
        logits = to_numpy(head.describe(outputs, index, np.tile(text, (B, 1, 1))))[row, 0, len(written) - 1]
        token = int(logits.argmax())
        if token in (PAD, EOS):
            break
        written.append(token)
    return written[1:]


def test_decode_keeps_the_surest_and_writes_for_those_only(head, monkeypatch):
    outputs = numbers(head(features()))
    corner = np.array([0.25, 0.25, 0.5, 0.5], np.float32)
    outputs["boxes"][:] = corner
    outputs["boxes"][0, [2, 5]] = [[0.75, 0.75, 0.5, 0.5], [0.78, 0.75, 0.5, 0.5]]
    outputs["score_logits"] = np.full((B, N), -2.0, np.float32)
    outputs["score_logits"][0, [1, 2, 4, 5]] = [1, 2, 3, 4]  # 4 before 1, 5 before 2
    outputs["score_logits"][2, 6] = 0.5
    rows, generate = [], head._compiled.generate
    monkeypatch.setattr(
        head._compiled,
        "generate",
        lambda prompt, settings: rows.append(len(prompt[0])) or generate(prompt, settings),
    )
    found = head.decode(outputs, settings=GenerationConfig(max_new_tokens=5))
    assert rows == [4]  # 3, to a power of two
    assert [len(image) for image in found] == [2, 0, 1]
    np.testing.assert_allclose(found[0][0]["box"], [0.53, 0.5, 1, 1], atol=1e-6)
    np.testing.assert_allclose(found[0][1]["box"], [0, 0, 0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(found[0][0]["score"], reference.sigmoid(4.0), rtol=1e-5)
    for row, position, region in ((0, 0, 5), (0, 1, 4), (2, 0, 6)):
        assert found[row][position]["caption"] == greedy(head, outputs, row, region, 5)
    assert head.decode(outputs, threshold=0.999) == [[], [], []]
    assert len(head.decode(outputs, threshold=0.1, overlap=1.0)[0]) == N


# -- bad input


def refused(message, call, *args, **kwargs):
    with pytest.raises(SaccadeError, match=message) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)


BAD = {
    "vision_features are \\(3, 10\\), a grid of \\(2, 4\\) has 8 patches": lambda b: b.update(
        vision_features=b["vision_features"][:, 0], vision_mask=None
    ),
    "vision_features are \\(3, 7, 10\\)": lambda b: b.update(
        vision_features=b["vision_features"][:, :7], vision_mask=None
    ),
    "the batch has region_boxes, region_mask of": lambda b: b.pop("region_tokens"),
    "region_boxes are \\(3, 5, 3\\), not": lambda b: b.update(region_boxes=b["region_boxes"][..., :3]),
    "region_boxes are \\(3, 4\\), not": lambda b: b.update(region_boxes=b["region_boxes"][:, 0]),
    "region_mask are \\(3, 4\\), not \\(3, 5\\)": lambda b: b.update(region_mask=b["region_mask"][:, :4]),
    "9 true regions exceed the 8 patches": lambda b: b.update(
        {name: np.repeat(b[name][:, :3], 3, axis=1) for name in labels()}
    ),
    "region_tokens holds 99": lambda b: b.update(region_tokens=np.where(b["region_tokens"] > 2, 99, 1)),
    "box 0 is .* not pixels": lambda b: b.update(region_boxes=b["region_boxes"] * 40),
    "region_tokens are 8 long, max_length is 7": lambda b: b.update(
        region_tokens=np.zeros((B, M, 8), np.int32)
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_batches_are_named_in_one_line(head, message):
    batch = {**features(), **labels()}
    BAD[message](batch)
    refused(message, head, batch)


@pytest.mark.parametrize(
    ("boxes", "captions", "message"),
    [
        ([[0, 0, 12, 9]], [[3]], "box 0 is .* not pixels"),
        ([[0, 0, 1, 1], [0.5, 0, 0.2, 1]], [[3], [3]], "box 1 is .* no area"),
        ([[0, 0, 1, 1]], [], "1 boxes and 0 captions"),
        ([[0, 0, 1, 1]] * 3, [[3]] * 3, "3 regions exceed the 2"),
        ([[0, 0, 1, 1]], [[3, 4, 5, 6]], "caption 0 has 6 tokens .* at most 5"),
    ],
)
def test_bad_labels_are_named_in_one_line(boxes, captions, message):
    refused(message, region_labels, boxes, captions, 2, 5)


def test_labels_are_padded():
    found = region_labels([[0, 0, 0.5, 1]], [[7, 8]], 2, 5)
    assert found["region_tokens"].tolist() == [[BOS, 7, 8, EOS, PAD], [PAD] * 5]
    assert found["region_mask"].tolist() == [True, False]
    assert found["region_boxes"].tolist() == [[0, 0, 0.5, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize("missing", ["grid", "vocab_size", "max_length"])
def test_what_the_task_needs(missing):
    given = {"grid": GRID, "vocab_size": V, "max_length": 7, missing: None}
    refused(f"{missing} of dense_captioning is None", VLMTaskConfig, "dense_captioning", C, **given)


def test_the_other_tasks_need_a_text_width():
    refused("text_dim of vqa is None", VLMTaskConfig, "vqa", C, num_answers=3)
