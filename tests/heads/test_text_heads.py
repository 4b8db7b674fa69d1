"""Heads that write: causality, shift, masks, generation, ranking, learning, saving, bad input."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import reference
from reference import to_numpy

from saccade import backend
from saccade.data.text import BOS, EOS, PAD
from saccade.decoding.settings import GenerationConfig
from saccade.errors import SaccadeError
from saccade.fusion.multimodal import STRATEGIES
from saccade.generate import Writer, generate
from saccade.heads.create import create_vlm_head, load_vlm_head
from saccade.heads.dialogue import ROLES, flatten_history
from saccade.heads.task import VLMTaskConfig
from saccade.train.config import TrainConfig
from saccade.train.stream import Stream
from saccade.train.tasks import HeadLoss
from saccade.train.trainer import Trainer

B, N, C, T, D, R, K, V, LONGEST = 3, 6, 10, 5, 14, 6, 4, 13, 9
SIZES = {"dim": 12, "num_heads": 3, "vocab_size": V, "max_length": LONGEST, "decoder_depth": 1}
CONFIGS = {
    "captioning": VLMTaskConfig("captioning", C, D, **SIZES),
    "dialogue": VLMTaskConfig("dialogue", C, D, **SIZES, max_turns=4),
}
IMAGES_ONLY = VLMTaskConfig("captioning", C, None, **SIZES)
on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="the Trainer runs on jax")


def said(rng, *shape):
    """Texts of unequal length, BOS first and, where there is room, EOS last."""
    tokens = rng.integers(3, V, size=(*shape, R)).astype(np.int32)
    tokens[..., 0] = BOS
    length = rng.integers(3, R + 1, size=(*shape, 1))
    place = np.arange(R)
    return np.where(place == length - 1, EOS, np.where(place < length, tokens, PAD)).astype(np.int32)


def batch_of(task, seed=0):
    rng = np.random.default_rng(seed)
    batch = {
        "vision_features": rng.normal(size=(B, N, C)).astype(np.float32),
        "text_features": rng.normal(size=(B, T, D)).astype(np.float32),
        "vision_mask": np.arange(N) < np.array([N, 4, 2])[:, None],
        "text_mask": np.arange(T) < np.array([2, T, 3])[:, None],
    }
    if task == "captioning":
        return {**batch, "tokens": said(rng, B)}
    return {
        **batch,
        "turns": rng.integers(4, size=(B, T)).astype(np.int32),
        "roles": rng.integers(len(ROLES), size=(B, T)).astype(np.int32),
        "response": said(rng, B),
        "candidates": said(rng, B, K),
        "candidate_mask": np.arange(K) < np.array([K, 3, 2])[:, None],
        "answer_index": np.array([3, 0, 1], np.int32),
    }


TEXT = {"captioning": "tokens", "dialogue": "response"}
_heads: dict = {}
_programs: dict = {}


def head_of(task, **kwargs):
    """Shared by the tests: not to be changed."""
    key = task, *kwargs.items()
    if key not in _heads:
        _heads[key] = reference.randomize(create_vlm_head(CONFIGS[task], **kwargs))
    return _heads[key]


def compiled(head, name):
    """A method of a head, or the objective, as one program; rank by likelihood is "likelihood"."""
    if (head, name) not in _programs:
        functions = {
            "call": head,
            "score": lambda batch: head.rank(batch),
            "likelihood": lambda batch: head.rank(batch, "likelihood"),
            "loss": lambda batch: HeadLoss()(head, {}, batch, None),
            "smooth": lambda batch: HeadLoss(0.1)(head, {}, batch, None),
        }
        _programs[head, name] = backend.compiled(functions[name], head)
    return _programs[head, name]


def write(head, batch, settings=None):
    if (head, "write") not in _programs:
        _programs[head, "write"] = Writer(head)
    settings = settings or GenerationConfig(max_new_tokens=LONGEST)
    return _programs[head, "write"].generate(head.prompt(batch), settings)


def outputs_of(head, batch):
    """Compiled, and checked as an eager call is."""
    head.check(batch)
    return {name: to_numpy(value) for name, value in compiled(head, "call")(batch).items()}


def without(batch, *names):
    return {name: value for name, value in batch.items() if name not in names}


def same(one, other, **kwargs):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, atol=2e-5, err_msg=name, **kwargs)


# -- what is read


@pytest.mark.parametrize("task", CONFIGS)
def test_no_token_sees_a_later_one(task):
    head, batch, name = head_of(task), batch_of(task), TEXT[task]
    changed = batch[name].copy()
    changed[:, 3:] = (changed[:, 3:] + 1) % V
    before, after = (outputs_of(head, {**batch, name: tokens})["logits"] for tokens in (batch[name], changed))
    np.testing.assert_allclose(after[:, :3], before[:, :3], atol=2e-5)
    assert np.abs(after[:, 3:] - before[:, 3:]).max(-1).min() > 1e-3


@pytest.mark.parametrize("task", CONFIGS)
def test_what_is_padded_never_matters(task):
    head, batch = head_of(task), batch_of(task)
    changed = {
        **batch,
        "vision_features": np.where(batch["vision_mask"][..., None], batch["vision_features"], np.nan),
        "text_features": np.where(batch["text_mask"][..., None], batch["text_features"], np.nan),
    }
    if task == "dialogue":
        changed["turns"] = np.where(batch["text_mask"], batch["turns"], 3 - batch["turns"])
        changed["candidates"] = np.where(batch["candidate_mask"][..., None], batch["candidates"], 7)
        changed["candidates"][..., 0] = BOS
    same(outputs_of(head, batch), outputs_of(head, changed))


@pytest.mark.parametrize("task", CONFIGS)
def test_a_text_is_the_same_with_more_padding(task):
    head, batch, name = head_of(task), batch_of(task), TEXT[task]
    longer = {name: np.pad(batch[name], [(0, 0), (0, 2)])}
    if task == "dialogue":
        longer["candidates"] = np.pad(batch["candidates"], [(0, 0), (0, 0), (0, 2)])
    longer = {**batch, **longer}
    before, after = outputs_of(head, batch), outputs_of(head, longer)
    same(before, {**after, "logits": after["logits"][:, :R]})


@pytest.mark.parametrize("task", CONFIGS)
def test_a_row_of_padding_is_finite_and_leaves_the_others_alone(task):
    head, batch = head_of(task), batch_of(task)
    padded = {name: value.copy() for name, value in batch.items()}
    padded["vision_mask"][1] = padded["text_mask"][1] = False
    padded[TEXT[task]][1] = PAD
    if task == "dialogue":
        padded["candidates"][1] = PAD
        padded.pop("answer_index")
    before, after = outputs_of(head, batch), outputs_of(head, padded)
    for name, value in after.items():
        assert np.isfinite(value).all(), name
        np.testing.assert_allclose(value[[0, 2]], before[name][[0, 2]], atol=2e-5)
    loss = compiled(head, "loss")(padded)[0]
    assert np.isfinite(to_numpy(loss))
    assert np.isfinite(write(head, padded)[1]).all()


@pytest.mark.parametrize("task", CONFIGS)
def test_rows_do_not_see_each_other(task):
    head, batch = head_of(task), batch_of(task)
    whole = outputs_of(head, batch)
    for row in range(B):
        alone = outputs_of(head, {name: value[row : row + 1] for name, value in batch.items()})
        same({name: value[row : row + 1] for name, value in whole.items()}, alone)


def test_image_and_text_both_tell_the_writer_something():
    head, batch = head_of("captioning"), batch_of("captioning")
    before = outputs_of(head, batch)["logits"]
    for name in ("vision_features", "text_features"):
        after = outputs_of(head, {**batch, name: -batch[name]})["logits"]
        assert np.abs(after - before).max((1, 2)).min() > 1e-3, name


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_fusion_makes_a_memory(strategy):
    config = VLMTaskConfig("captioning", C, D, **SIZES, fusion=strategy)
    head, batch = create_vlm_head(config), batch_of("captioning")
    assert head(batch)["logits"].shape == (B, R, V)


def test_text_may_be_left_out_of_captioning():
    head, batch = head_of("captioning"), batch_of("captioning")
    alone = without(batch, "text_features", "text_mask")
    logits = outputs_of(head, alone)["logits"]
    # The image tokens are what is read then, padded ones not.
    w = reference.part(reference.weights(head), "memory/fusion/vision_projection")
    memory = reference.rms(reference.dense(w, batch["vision_features"]))
    expected = head.decoder(batch["tokens"], memory.astype(np.float32), batch["vision_mask"])
    np.testing.assert_allclose(logits, to_numpy(expected), atol=1e-4)
    assert write(head, alone)[0].shape == (B, LONGEST)


def test_a_head_of_images_only_has_no_weights_for_text(tmp_path):
    head, batch = reference.randomize(create_vlm_head(IMAGES_ONLY)), batch_of("captioning")
    assert not [v.path for v in head.variables if "text" in v.path or "fusion" in v.path]
    with pytest.raises(SaccadeError, match="reads images only"):
        head(batch)
    alone = without(batch, "text_features", "text_mask")
    head.save(tmp_path / "head")
    again = load_vlm_head(tmp_path / "head")
    assert again.config == IMAGES_ONLY
    np.testing.assert_array_equal(to_numpy(again(alone)["logits"]), to_numpy(head(alone)["logits"]))
    pooled = {**alone, "vision_features": alone["vision_features"][:, 0], "vision_mask": None}
    assert head(pooled)["logits"].shape == (B, R, V)


@pytest.mark.parametrize("name", ["turns", "roles"])
def test_dialogue_is_told_who_speaks_and_when(name):
    head, batch = head_of("dialogue"), batch_of("dialogue")
    before = outputs_of(head, batch)
    after = outputs_of(head, {**batch, name: (batch[name] + 1) % len(ROLES)})
    assert np.abs(after["logits"] - before["logits"]).max((1, 2)).min() > 1e-4
    # As if the row of the table had been added to the features.
    table = to_numpy(head.role_table if name == "roles" else head.turn_table)
    told = {**without(batch, name), "text_features": batch["text_features"] + table[batch[name]]}
    same(before, outputs_of(head, told))


# -- the loss


def next_token_loss(logits, tokens, smoothing):
    log_p = reference.log_softmax(logits.astype(np.float64))
    rows = []
    for b in range(len(tokens)):
        terms = []
        for t in range(1, tokens.shape[1]):
            if tokens[b, t] != PAD:
                told = log_p[b, t - 1]
                terms.append(-(1 - smoothing) * told[tokens[b, t]] - smoothing * told.mean())
        rows.append(np.mean(terms) if terms else 0.0)
    return np.array(rows)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("task", CONFIGS)
def test_the_loss_is_of_the_next_token_and_of_the_right_candidate(task, smoothing):
    head, batch = head_of(task), batch_of(task)
    outputs = outputs_of(head, batch)
    expected = next_token_loss(outputs["logits"], batch[TEXT[task]], smoothing)
    if task == "dialogue":
        scores = np.where(batch["candidate_mask"], outputs["candidate_scores"], -np.inf).astype(np.float64)
        chosen = np.log(reference.softmax(scores)[np.arange(B), batch["answer_index"]])
        only = compiled(head, "loss")(without(batch, "response"))[0]
        np.testing.assert_allclose(to_numpy(only), -chosen.mean(), rtol=1e-4)
        expected = expected - chosen
    loss, _, metrics, consumed = compiled(head, "smooth" if smoothing else "loss")(batch)
    np.testing.assert_allclose(to_numpy(loss), expected.mean(), rtol=1e-4)
    assert consumed == B
    tokens = batch[TEXT[task]]
    counted = tokens[:, 1:] != PAD
    hits = (outputs["logits"][:, :-1].argmax(-1) == tokens[:, 1:]) & counted
    share = np.mean(hits.sum(1) / counted.sum(1))
    np.testing.assert_allclose(to_numpy(metrics["token_accuracy"]), share, atol=1e-6)
    if task == "dialogue":
        first = outputs["candidate_scores"].argmax(-1) == batch["answer_index"]
        np.testing.assert_allclose(to_numpy(metrics["recall"]), first.mean())


@on_jax
@pytest.mark.parametrize("task", CONFIGS)
def test_a_gradient_reaches_every_weight(task):
    import jax

    head, batch = head_of(task), batch_of(task)

    def loss(values):
        with keras.StatelessScope(state_mapping=list(zip(head.trainable_variables, values, strict=True))):
            return HeadLoss()(head, {}, batch, None)[0]

    gradients = jax.jit(jax.grad(loss))([variable.value for variable in head.trainable_variables])
    for variable, gradient in zip(head.trainable_variables, gradients, strict=True):
        assert np.isfinite(gradient).all(), variable.path
        if not variable.path.endswith("pool/score/bias"):  # a softmax is blind to it
            assert np.abs(gradient).max() > 1e-6, variable.path


# -- writing


@pytest.mark.parametrize("task", CONFIGS)
def test_greedy_writing_is_what_a_call_finds_likeliest(task):
    head = head_of(task)
    for seed in range(3):
        batch = batch_of(task, seed)
        tokens, log_probability = write(head, batch)
        assert tokens.shape == (B, LONGEST)
        read = np.concatenate([np.full((B, 1), BOS), tokens[:, :-1]], axis=1).astype(np.int32)
        logits = outputs_of(head, {**batch, TEXT[task]: read})["logits"]
        log_p = reference.log_softmax(logits.astype(np.float64))
        for row in range(B):
            ended = tokens[row] == EOS
            length = int(ended.argmax()) + 1 if ended.any() else LONGEST
            np.testing.assert_array_equal(tokens[row, :length], logits[row, :length].argmax(-1))
            assert (tokens[row, length:] == PAD).all()
            mean = log_p[row, np.arange(length), tokens[row, :length]].mean()
            np.testing.assert_allclose(log_probability[row], mean, atol=1e-4)


@pytest.mark.parametrize("task", CONFIGS)
def test_beams_find_a_text_at_least_as_likely(task):
    head, batch = head_of(task), batch_of(task)
    settings = {"max_new_tokens": 4, "eos_token_id": V - 1}
    _, greedy = write(head, batch, GenerationConfig(**settings))
    tokens, best = write(head, batch, GenerationConfig(**settings, num_beams=16))
    assert (best >= greedy - 1e-5).all()
    assert tokens.shape == (B, 4)


@pytest.mark.parametrize("task", CONFIGS)
def test_writing_inside_a_compiled_function_and_by_row(task):
    head, batch = head_of(task), without(batch_of(task), TEXT[task])
    settings = GenerationConfig(max_new_tokens=LONGEST)
    inside, _ = backend.compiled(lambda f: generate(head, (f,), settings), head)(*head.prompt(batch))
    whole, _ = write(head, batch)
    np.testing.assert_array_equal(to_numpy(inside), whole)
    alone, _ = write(head, {name: value[1:2] for name, value in batch.items()})
    np.testing.assert_array_equal(alone, whole[1:2])
    with pytest.raises(SaccadeError, match="writes at most 9"):
        write(head, batch, GenerationConfig(max_new_tokens=LONGEST + 1))


class Words:
    """Token 5 is "w5"."""

    def decode(self, ids):
        return " ".join(f"w{i}" for i in ids)


def test_strings_end_at_eos_and_have_no_specials():
    head, batch = head_of("captioning"), batch_of("captioning")
    tokens = np.array([[BOS, 5, 6, EOS, 7, PAD], [EOS, 5, 5, 5, 5, 5], [4, 5, 6, 7, 8, 9]])
    assert head.decode(tokens, Words()) == ["w5 w6", "", "w4 w5 w6 w7 w8 w9"]
    outputs = outputs_of(head, batch)
    likeliest = outputs["logits"].argmax(-1)
    assert head.decode(outputs, Words()) == head.decode(likeliest, Words())


# -- ranking


def test_candidates_are_ordered_and_padded_ones_never_win():
    head, batch = head_of("dialogue"), batch_of("dialogue")
    batch["candidates"][0, 2] = PAD  # nothing in it: padded too
    outputs = outputs_of(head, batch)
    order = head.decode(outputs)["order"]
    for by in ("score", "likelihood"):
        scores = to_numpy(compiled(head, by)(batch))
        assert scores.dtype == np.float32
        kept = batch["candidate_mask"].copy()
        kept[0, 2] = False
        assert (scores[~kept] == -1e9).all()
        assert (scores[kept] > -1e6).all()
    np.testing.assert_allclose(
        to_numpy(compiled(head, "score")(batch)), outputs["candidate_scores"], atol=2e-5
    )
    falling = np.take_along_axis(outputs["candidate_scores"], order, 1)
    assert (np.diff(falling) <= 0).all()
    assert sorted(order[2, :2].tolist()) == [0, 1]
    assert order[2, 2:].tolist() == [2, 3]
    tie = {"candidate_scores": np.zeros((1, 3), np.float32)}
    assert head.decode(tie)["order"].tolist() == [[0, 1, 2]]


def test_a_score_depends_on_its_candidate_alone():
    head, batch = head_of("dialogue"), without(batch_of("dialogue"), "answer_index", "candidate_mask")
    turn = [2, 0, 3, 1]
    moved = {**batch, "candidates": batch["candidates"][:, turn]}
    for by in ("score", "likelihood"):
        before, after = (to_numpy(compiled(head, by)(b)) for b in (batch, moved))
        np.testing.assert_allclose(after, before[:, turn], atol=2e-5)
        assert np.abs(np.diff(before, axis=1)).min() > 1e-5


def test_likelihood_is_that_of_the_candidate_as_a_response():
    head, batch = head_of("dialogue"), without(batch_of("dialogue"), "answer_index", "candidate_mask")
    found = to_numpy(compiled(head, "likelihood")(batch))
    for k in range(K):
        tokens = batch["candidates"][:, k]
        logits = outputs_of(head, {**batch, "response": tokens})["logits"]
        log_p = reference.log_softmax(logits.astype(np.float64))[:, :-1]
        each = np.take_along_axis(log_p, tokens[:, 1:, None], -1)[..., 0]
        np.testing.assert_allclose(found[:, k], (each * (tokens[:, 1:] != PAD)).sum(1), rtol=1e-4)


def test_dialogue_decodes_what_there_is():
    head, batch = head_of("dialogue"), batch_of("dialogue")
    tokens, _ = write(head, batch)
    answers = head.decode({**outputs_of(head, batch), "tokens": tokens}, Words())
    assert answers["order"].shape == (B, K)
    assert answers["text"] == head.decode({"tokens": tokens}, Words())["text"]
    assert len(answers["text"]) == B
    assert head.decode({"tokens": tokens}) == {}
    only = outputs_of(head, without(batch, "candidates", "candidate_mask", "answer_index"))
    assert only.keys() == {"logits"}


# -- dtypes, saving


@pytest.mark.parametrize("task", CONFIGS)
def test_mixed_bfloat16_gives_float32(task):
    head, batch = head_of(task, dtype="mixed_bfloat16"), batch_of(task)
    outputs = compiled(head, "call")(batch)
    whole = outputs_of(head_of(task), batch)
    for name, value in outputs.items():
        assert keras.backend.standardize_dtype(value.dtype) == "float32", name
        np.testing.assert_allclose(to_numpy(value), whole[name], atol=0.5, err_msg=name)
    assert write(head, batch)[1].dtype == np.float32


@pytest.mark.parametrize("task", CONFIGS)
@pytest.mark.parametrize("form", ["head", "head.keras"])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's saving on NumPy 2
def test_saved_and_loaded_it_is_the_same(task, form, tmp_path):
    head, batch = head_of(task), batch_of(task)
    head.save(tmp_path / form)
    if form == "head":
        again = load_vlm_head(tmp_path / form)
    else:
        again = keras.saving.load_model(tmp_path / form)
    assert type(again) is type(head)
    assert len(again.variables) == len(head.variables)
    outputs = outputs_of(again, batch)
    for name, value in outputs_of(head, batch).items():
        np.testing.assert_array_equal(outputs[name], value, err_msg=name)


# -- the history


def test_a_history_is_flattened_and_loses_its_oldest_rounds():
    encode = lambda text: [int(word) for word in text.split()]  # noqa: E731
    rows = [
        SimpleNamespace(text="7 8", turns=(("3", "4"), ("5", "6 6")), context="1 2"),
        SimpleNamespace(text="9", turns=(), context=None),
    ]
    batch = flatten_history(rows, encode, length=10, max_turns=4)
    question, answer, caption = range(3)
    assert batch["tokens"].tolist() == [[1, 2, 3, 4, 5, 6, 6, 7, 8, 0], [9] + [0] * 9]
    assert batch["turns"].tolist() == [[0, 0, 2, 2, 1, 1, 1, 0, 0, 0], [0] * 10]
    assert batch["roles"][0, :9].tolist() == [
        *[caption] * 2, question, answer, question, answer, answer, question, question,
    ]  # fmt: skip
    assert batch["text_mask"].sum(1).tolist() == [9, 1]
    for limits in ({"length": 8, "max_turns": 4}, {"length": 10, "max_turns": 2}):
        shorter = flatten_history(rows, encode, **limits)
        assert shorter["tokens"][0, :7].tolist() == [1, 2, 5, 6, 6, 7, 8]
        assert shorter["text_mask"].sum(1).tolist() == [7, 1]
    with pytest.raises(SaccadeError, match="are 4 tokens, length=3"):
        flatten_history(rows, encode, length=3, max_turns=4)


# -- bad input

BAD = {
    "no 'tokens' to score": ("captioning", lambda b: b.pop("tokens")),
    "tokens have 10 tokens, not 2 to 9": (
        "captioning",
        lambda b: b.update(tokens=np.pad(b["tokens"], [(0, 0), (0, 10 - R)])),
    ),
    "tokens have 1 tokens": ("captioning", lambda b: b.update(tokens=b["tokens"][:, :1])),
    "tokens are \\(2, 6\\)": ("captioning", lambda b: b.update(tokens=b["tokens"][:2])),
    "give whole numbers": ("captioning", lambda b: b.update(tokens=b["tokens"].astype(np.float32))),
    "tokens holds 13; give 0 to 12": ("captioning", lambda b: b["tokens"].__setitem__((0, 1), V)),
    "tokens holds -1": ("captioning", lambda b: b["tokens"].__setitem__((0, 1), -1)),
    "starts with 5; put BOS": ("captioning", lambda b: b["tokens"].__setitem__((2, 0), 5)),
    "text_features are 13 wide": (
        "captioning",
        lambda b: b.update(text_features=b["text_features"][..., :-1]),
    ),
    "no 'text_features'": ("dialogue", lambda b: b.pop("text_features")),
    "no 'response' and no 'candidates'": (
        "dialogue",
        lambda b: [b.pop(name) for name in ("response", "candidates")],
    ),
    "K = 0; give at least 1": ("dialogue", lambda b: b.update(candidates=b["candidates"][:, :0])),
    "candidates are \\(3, 6\\)": ("dialogue", lambda b: b.update(candidates=b["candidates"][:, 0])),
    "candidates have 10 tokens": (
        "dialogue",
        lambda b: b.update(candidates=np.pad(b["candidates"], [(0, 0), (0, 0), (0, 10 - R)])),
    ),
    "candidate_mask is \\(3, 3\\)": (
        "dialogue",
        lambda b: b.update(candidate_mask=b["candidate_mask"][:, :3]),
    ),
    "answer_index holds 4; give 0 to 3": ("dialogue", lambda b: b["answer_index"].__setitem__(1, K)),
    "answer_index holds -1": ("dialogue", lambda b: b["answer_index"].__setitem__(1, -1)),
    "answer_index of row 2 is 3, a padded": ("dialogue", lambda b: b["answer_index"].__setitem__(2, 3)),
    "turns holds 4; give 0 to 3": ("dialogue", lambda b: b["turns"].__setitem__((0, 0), 4)),
    "roles holds 3; give 0 to 2": ("dialogue", lambda b: b["roles"].__setitem__((0, 0), 3)),
    "turns are \\(3, 4\\)": ("dialogue", lambda b: b.update(turns=b["turns"][:, :4])),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_batches_are_named_in_one_line(message):
    task, spoil = BAD[message]
    batch = batch_of(task)
    spoil(batch)
    with pytest.raises(SaccadeError, match=message) as caught:
        head_of(task)(batch)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_ranked_or_learned_is_refused():
    head, batch = head_of("dialogue"), batch_of("dialogue")
    with pytest.raises(SaccadeError, match="text_features are 13 wide"):
        head.prompt({**batch, "text_features": batch["text_features"][..., :-1]})
    with pytest.raises(SaccadeError, match="no rank_by 'taste'"):
        head.rank(batch, "taste")
    with pytest.raises(SaccadeError, match="no 'candidates' to rank"):
        head.rank(without(batch, "candidates"))
    with pytest.raises(SaccadeError, match="no 'answer_index' to learn from"):
        HeadLoss()(head, {}, without(batch, "answer_index", "response"), None)


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("captioning", {"vocab_size": None}, "vocab_size of captioning is None"),
        ("captioning", {"vocab_size": 3}, "give at least 4"),
        ("captioning", {"max_length": 1}, "give at least 2"),
        ("captioning", {"decoder_depth": 0}, "depth of captioning is 0"),
        ("captioning", {"text_dim": 0}, "text_dim of captioning is 0"),
        ("dialogue", {"max_turns": None}, "max_turns of dialogue is None"),
        ("dialogue", {"text_dim": None}, "text_dim of dialogue is None"),
    ],
)
def test_bad_configurations(task, change, message):
    good = {"vision_dim": C, "text_dim": D, **SIZES, "max_turns": 4}
    with pytest.raises(SaccadeError, match=message):
        VLMTaskConfig(task, **{**good, **change})


# -- learning


def fit(config, rows, steps):
    head = create_vlm_head(config)
    collate = lambda items: {k: np.stack([item[k] for item in items]) for k in items[0]}  # noqa: E731
    stream = Stream(rows, collate, HeadLoss(), 16)
    Trainer(head, {"task": stream}, TrainConfig(steps=steps, learning_rate=1e-2)).fit()
    return head, collate(rows)


@on_jax
def test_captioning_learns_three_words_of_each_image():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(16, 4, C)).astype(np.float32)
    words = rng.integers(3, V, size=(16, 3))
    tokens = np.concatenate([np.full((16, 1), BOS), words, np.full((16, 1), EOS)], 1).astype(np.int32)
    rows = [{"vision_features": i, "tokens": t} for i, t in zip(images, tokens, strict=True)]
    config = VLMTaskConfig("captioning", C, None, **{**SIZES, "dim": 24})
    head, batch = fit(config, rows, 150)
    for beams in (1, 3):
        written, _ = write(head, batch, GenerationConfig(max_new_tokens=5, num_beams=beams))
        np.testing.assert_array_equal(written[:, :4], tokens[:, 1:])


@on_jax
def test_ranking_learns_what_the_last_question_asks_of_the_image():
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(256):
        values, asked, asked_before = rng.integers(4, size=2), *rng.integers(2, size=2)
        image = np.zeros((2, C), np.float32)
        image[[0, 1], values], image[0, 8], image[1, 9] = 1, 1, 1
        text = np.zeros((2, D), np.float32)  # two questions that differ in their turns only
        text[0, asked_before], text[1, asked] = 1, 1
        swap = rng.permutation(2)
        order = rng.permutation(4)
        candidates = np.stack([np.full(4, BOS), order + 4, np.full(4, EOS)], 1)
        rows.append(
            {
                "vision_features": image,
                "text_features": text[swap],
                "turns": np.array([1, 0], np.int32)[swap],
                "roles": np.zeros(2, np.int32),
                "candidates": candidates.astype(np.int32),
                "answer_index": np.int32(np.argmax(order == values[asked])),
            }
        )
    config = VLMTaskConfig("dialogue", C, D, **{**SIZES, "dim": 24}, max_turns=2)
    head, batch = fit(config, rows, 400)
    order = head.decode(backend.compiled(head, head)(batch))["order"]
    assert np.mean(order[:, 0] == batch["answer_index"]) >= 0.95
