"""Filters and draws against the definitions, one token at a time."""

import numpy as np
import pytest
from keras import ops
from reference import softmax, to_numpy

from saccade.decoding.sampling import choose, filtered
from saccade.decoding.settings import GenerationConfig


def by_definition(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """The filtered distribution of one row, token by token."""
    p = softmax(logits / temperature)
    order = np.argsort(-p)
    kept = list(order[: top_k or None])
    if top_p < 1:
        mass, nucleus = 0.0, []
        for token in kept:
            if mass >= top_p * p[kept].sum():
                break
            nucleus.append(token)
            mass += p[token]
        kept = nucleus
    kept = [token for token in kept if p[token] >= min_p * p.max()]
    result = np.zeros_like(p)
    result[kept] = p[kept] / p[kept].sum()
    return result


FILTERS = [
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_k": 1},
    {"top_k": 99},
    {"top_p": 0.6},
    {"top_p": 1e-4},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"temperature": 1.6, "top_k": 11, "top_p": 0.7, "min_p": 0.15},
    {"temperature": 0.5, "top_p": 0.93, "min_p": 0.01},
]


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_filters(options):
    logits = np.random.default_rng(5).normal(size=(4, 31)) * 2
    config = GenerationConfig(**{"temperature": 1.0, **options})
    found = softmax(to_numpy(filtered(logits.astype(np.float32), config, config.numbers)).astype(np.float64))
    np.testing.assert_allclose(found, [by_definition(row, **options) for row in logits], atol=1e-6)


def test_draws_follow_the_filtered_distribution():
    logits = np.random.default_rng(6).normal(size=(1, 9)).astype(np.float32)
    options = {"temperature": 1.2, "top_p": 0.85}
    config = GenerationConfig(**options)
    expected = by_definition(logits[0].astype(np.float64), **options)
    rows = 20_000
    for step in (0, 4):
        drawn = choose(
            np.repeat(logits, rows, axis=0), ops.arange(rows), np.int32(step), config, config.numbers
        )
        share = np.bincount(to_numpy(drawn), minlength=9) / rows
        assert (share[expected == 0] == 0).all()
        deviation = np.sqrt(expected * (1 - expected) / rows)
        assert (np.abs(share - expected) <= 4.5 * deviation).all()


def test_steps_of_one_seed_are_independent():
    logits = np.zeros((500, 2), np.float32)
    config = GenerationConfig(temperature=1.0)
    first, second = (
        to_numpy(choose(logits, ops.arange(500), np.int32(step), config, config.numbers)) for step in (0, 1)
    )
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.15
