"""Heads against NumPy: classes, boxes, objects, the shared space."""

import numpy as np
import pytest
import reference
from reference import dense, part, rms_norm, sigmoid, silu, to_numpy, weights

from saccade.heads.classify import Classifier
from saccade.heads.dual_encoder import DualEncoderHead
from saccade.heads.region import GroundingHead, ObjectHead, best_box, containing_patch, patch_centers

B, D, GRID, E = 2, 24, (3, 5), 10
N = GRID[0] * GRID[1]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def built(layer):
    layer.build()
    return reference.randomize(layer)


def test_classifier():
    head, x = built(Classifier(D, 7)), normal(B, D)
    np.testing.assert_allclose(to_numpy(head(x)), dense(part(weights(head), "linear"), x), atol=1e-5)
    tokens = normal(B, N, D)
    expected = dense(part(weights(head), "linear"), tokens)
    np.testing.assert_allclose(to_numpy(head(tokens)), expected, atol=1e-5)


def test_the_halting_head_starts_by_going_on():
    head = Classifier(D, 2, bias=-5.0, zero_kernel=True)
    head.build()
    np.testing.assert_array_equal(to_numpy(head(normal(B, D))), np.full((B, 2), -5))


def test_classifier_computes_in_float32():
    head = Classifier(D, 7, dtype="mixed_bfloat16")
    head.build()
    assert str(head(normal(B, D)).dtype).endswith("float32")


def test_patch_centers_are_row_major():
    centers = to_numpy(patch_centers(GRID))
    assert centers.shape == (1, N, 2)
    np.testing.assert_allclose(centers[0, 0], [0.1, 1 / 6], atol=1e-6)
    np.testing.assert_allclose(centers[0, 1], [0.3, 1 / 6], atol=1e-6)
    np.testing.assert_allclose(centers[0, GRID[1]], [0.1, 0.5], atol=1e-6)


def test_the_containing_patch_of_a_patch_is_itself():
    centers = to_numpy(patch_centers(GRID))[0]
    boxes = np.concatenate([centers - 0.02, centers + 0.02], -1)
    np.testing.assert_array_equal(to_numpy(containing_patch(boxes, GRID)), np.arange(N))


def test_boxes_at_the_edge_stay_inside():
    boxes = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [0.9, 0, 1.1, 0]], np.float32)
    np.testing.assert_array_equal(to_numpy(containing_patch(boxes, GRID)), [0, N - 1, GRID[1] - 1])


def boxes_of(raw):
    """cxcywh: at most 1.5 patches from the patch's own centre, sizes in shares of the image."""
    reach = np.array([1.5 / GRID[1], 1.5 / GRID[0]])
    center = np.clip(to_numpy(patch_centers(GRID)) + np.tanh(raw[..., :2]) * reach, 0, 1)
    return np.concatenate([center, sigmoid(raw[..., 2:4] - 1.5)], -1)


def test_grounding():
    head, vision = built(GroundingHead(D)), normal(B, N, D)
    w = weights(head)
    raw = dense(part(w, "output"), silu(dense(part(w, "hidden"), rms_norm(part(w, "norm"), vision))))
    outputs = head(vision, grid=GRID)
    boxes = to_numpy(outputs["boxes"])
    np.testing.assert_allclose(to_numpy(outputs["score_logits"]), raw[..., 4], atol=1e-4)
    np.testing.assert_allclose(boxes, boxes_of(raw), atol=1e-4)


def test_best_box():
    scores = np.full((B, N), -1.0, np.float32)
    scores[0, 4], scores[1, 11] = 3, 2
    boxes = np.full((B, N, 4), 0.5, np.float32)
    boxes[0, 4], boxes[1, 11] = [0.3, 0.4, 0.2, 0.6], [0.05, 0.9, 0.3, 0.4]
    box, confidence = best_box({"boxes": boxes, "score_logits": scores})
    np.testing.assert_allclose(
        to_numpy(box), [[0.2, 0.1, 0.4, 0.7], [0, 0.7, 0.2, 1.0]], atol=1e-6
    )  # cut at the border
    np.testing.assert_allclose(to_numpy(confidence), reference.softmax(scores).max(-1), atol=1e-6)


def test_objects():
    head, vision = built(ObjectHead(D, (3, 2, 4))), normal(B, N, D)
    w = weights(head)
    raw = dense(part(w, "output"), silu(dense(part(w, "hidden"), vision)))
    outputs = head(vision, grid=GRID)
    assert outputs.keys() == {"presence", "attributes", "boxes"}
    np.testing.assert_allclose(to_numpy(outputs["presence"]), raw[..., 4], atol=1e-4)
    for logits, (start, stop) in zip(outputs["attributes"], ((5, 8), (8, 10), (10, 14)), strict=True):
        np.testing.assert_allclose(to_numpy(logits), raw[..., start:stop], atol=1e-4)
    np.testing.assert_allclose(to_numpy(outputs["boxes"]), boxes_of(raw), atol=1e-4)


@pytest.mark.parametrize("side", ["image", "text"])
def test_dual_encoder_gives_unit_vectors(side):
    head, x = built(DualEncoderHead(D, E)), normal(B, N, D)
    mask = np.random.default_rng(1).random((B, N)) < 0.6
    w = weights(head)
    score = dense(part(w, f"{side}_pool/score"), x)
    share = reference.softmax(np.where(mask[..., None], score, -np.inf), axis=1)
    heads = x.reshape(B, N, score.shape[-1], -1)
    pooled = np.einsum("bna,bnae->bae", share, heads).reshape(B, D)
    expected = dense(part(w, f"{side}_projection"), pooled)
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(to_numpy(head(x, mask, side=side)), expected, atol=2e-5)


@pytest.mark.parametrize(("logit_scale", "factor"), [(0.7, np.exp(0.7)), (9.0, 100.0)])
def test_temperature_is_clamped(logit_scale, factor):
    head = built(DualEncoderHead(D, E))
    head.logit_scale.assign(logit_scale)
    images, texts = normal(3, E, seed=1), normal(4, E, seed=2)
    np.testing.assert_allclose(to_numpy(head.similarity(images, texts)), factor * images @ texts.T, rtol=1e-4)
