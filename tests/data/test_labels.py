"""Short labels: true of their own picture, false of the twin's."""

import numpy as np
import pytest

from saccade.data.scenes import Source, words
from saccade.data.scenes import builders as builders_module
from saccade.data.scenes.captions import caption_is_true
from saccade.data.scenes.labels import Labelled
from saccade.errors import SaccadeError

SOURCE = Source("retrieve", seed=3)


@pytest.fixture(autouse=True)
def texts_alone(monkeypatch):
    monkeypatch.setattr(builders_module, "render", lambda scene: np.zeros((2, 2, 3), np.uint8))


def shows(scene, text: str) -> bool:
    """Whether one object may be called by every word of a label."""
    said = set(text.split()[1:])
    named = [(o.shape, o.color, o.size, o.material) for o in scene.objects]
    return any(said <= {word for value in values for word in spoken(value)} for values in named)


def spoken(value: str) -> tuple[str, ...]:
    return words.ADJECTIVES.get(value) or words.NOUNS[value]


def test_a_label_is_true_of_its_own_picture_only():
    examples = [Labelled(SOURCE, 1.0)[i] for i in range(150)]
    rows = [row for e in examples for row in ((e, e.pair), (e.pair, e))]
    short = [(own, twin) for own, twin in rows if own.kind == "label"]
    assert 0.6 < len(short) / len(rows) < 0.9  # swaps keep their descriptions, and one side of add and remove
    for own, twin in short:
        assert shows(own.scene, own.text)
        assert not shows(twin.scene, own.text)
        assert 3 <= len(own.text.split()) <= 5
    for own, twin in rows:
        assert own.kind == "label" or caption_is_true(own.text, own.scene)
        assert own.kind == "label" or not caption_is_true(own.text, twin.scene)


def test_the_share_is_kept_and_an_index_means_one_example():
    source = Labelled(SOURCE, 0.3)
    drawn = [source[i] for i in range(300)]
    some = [("label" in (e.kind, e.pair.kind)) for e in drawn]
    assert 0.17 < np.mean(some) < 0.33
    assert [e.text for e in drawn[:20]] == [Labelled(SOURCE, 0.3)[i].text for i in range(20)]
    assert {Labelled(SOURCE, 0.0)[i].kind for i in range(40)} == {"describe"}


def test_bad_settings_are_refused():
    with pytest.raises(SaccadeError, match=r"share is 1\.5"):
        Labelled(SOURCE, 1.5)
    with pytest.raises(SaccadeError, match="'vqa'"):
        Labelled(Source("vqa"))
