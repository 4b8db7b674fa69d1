"""Several heads as one: each as if alone, absent ones free, weighed losses, one stream a task."""

import keras
import numpy as np
import pytest
import reference
from reference import to_numpy

from saccade import backend
from saccade.errors import SaccadeError
from saccade.heads.create import create_vlm_head, load_vlm_head
from saccade.heads.dense import region_labels
from saccade.heads.multitask import MultiTaskHead, create_multi_task_vlm_head
from saccade.heads.task import VLMTaskConfig
from saccade.layers import attention
from saccade.train import Stream, TrainConfig, Trainer, flops
from saccade.train.tasks import HeadLoss

B, GRID, C, D = 3, (2, 3), 10, 14
N = GRID[0] * GRID[1]
CONFIGS = {
    "vqa": VLMTaskConfig("vqa", C, D, dim=12, num_heads=3, num_answers=7),
    "grounding": VLMTaskConfig("grounding", C, D, dim=12, num_heads=3, grid=GRID),
    "matching": VLMTaskConfig("matching", C, D, dim=24, num_heads=3, embedding_dim=18),
    "dense_captioning": VLMTaskConfig(
        "dense_captioning", C, dim=12, num_heads=3, grid=GRID, vocab_size=13, max_length=7, decoder_depth=1
    ),
}
on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="the Trainer runs on jax")


def vision(rows=B, seed=0):
    mask = np.arange(N) < np.array([N, 4, 2] * rows)[:rows, None]
    values = np.random.default_rng(seed).normal(size=(rows, N, C)).astype(np.float32)
    return {"vision_features": values, "vision_mask": mask}


def text(length, rows=B):
    values = np.random.default_rng(length).normal(size=(rows, length, D)).astype(np.float32)
    return {"text_features": values, "text_mask": np.arange(length) < np.array([2, 5, 3] * rows)[:rows, None]}


def batch():
    """Texts of a length of their own; the image features stand beside the tasks."""
    tasks = {"vqa": text(5), "grounding": text(4), "matching": text(7), "dense_captioning": {}}
    return {**vision(), **tasks}


def labels():
    regions = region_labels([[0, 0, 0.4, 0.5], [0.3, 0.2, 0.9, 1]], [[3, 4], [5, 6, 7]], 2, 6)
    return {
        "vqa": {"answer_targets": np.eye(7, dtype=np.float32)[:B], "answer_types": np.arange(B)},
        "grounding": {"box": np.array([[0, 0, 0.4, 0.5], [0.3, 0.5, 0.6, 1], [0, 0, 1, 1]], np.float32)},
        "matching": {},
        "dense_captioning": {name: np.stack([value] * B) for name, value in regions.items()},
    }


@pytest.fixture(scope="module")
def head():
    return reference.randomize(create_multi_task_vlm_head(CONFIGS))


def single(head, name):
    """A head of its own, with the weights that the task has in `head`."""
    own, values = create_vlm_head(CONFIGS[name]), head.named_variables()
    for path, variable in own.named_variables().items():
        variable.assign(values[f"{name}/{path}"].value)
    return own


@pytest.mark.parametrize("name", CONFIGS)
def test_each_task_is_as_if_alone(head, name):
    own = single(head, name)
    expected = own({**vision(), **batch()[name]})
    outputs = head(batch())
    assert list(outputs) == list(CONFIGS)
    assert outputs[name].keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(to_numpy(outputs[name][key]), to_numpy(value), atol=1e-6, err_msg=key)
    theirs = head.decode({name: outputs[name]})[name]
    assert repr(theirs) == repr(own.decode(outputs[name]))


def test_each_task_has_its_own_text_and_may_have_its_own_image(head):
    plain, own = batch(), {**vision(seed=1), **text(5)}
    own.pop("vision_mask")  # with features of its own no mask is borrowed
    changed = head({**plain, "vqa": own})
    expected = single(head, "vqa")(own)
    np.testing.assert_allclose(
        to_numpy(changed["vqa"]["answer_logits"]), to_numpy(expected["answer_logits"]), atol=1e-6
    )
    before = head(plain)
    np.testing.assert_array_equal(
        to_numpy(changed["grounding"]["boxes"]), to_numpy(before["grounding"]["boxes"])
    )
    assert (to_numpy(changed["vqa"]["answer_logits"]) != to_numpy(before["vqa"]["answer_logits"])).any()


@on_jax
def test_an_absent_task_costs_nothing(head):
    import jax

    def cost(model, given):
        return flops.count(jax.make_jaxpr(lambda b: model(b))(given)).total

    whole = batch()
    alone = {name: cost(head, {**vision(), name: whole[name]}) for name in CONFIGS}
    for name in CONFIGS:
        assert alone[name] == cost(single(head, name), {**vision(), **whole[name]}) > 0
    assert cost(head, whole) == sum(alone.values())
    assert list(head({**vision(), "vqa": whole["vqa"]})) == ["vqa"]


@pytest.mark.parametrize("weights", [None, {"vqa": 0.5}, "uncertainty"])
def test_saved_and_loaded_it_is_the_same(tmp_path, weights):
    own = reference.randomize(create_multi_task_vlm_head(CONFIGS, weights))
    own.save(tmp_path / "head")
    again = load_vlm_head(tmp_path / "head")
    assert type(again) is MultiTaskHead
    assert again.config == own.config
    ours, theirs = own.named_variables(), again.named_variables()
    assert ours.keys() == theirs.keys()
    assert ("weigh/log_variance" in ours) == (weights == "uncertainty")
    for name, variable in ours.items():
        np.testing.assert_array_equal(to_numpy(theirs[name]), to_numpy(variable), err_msg=name)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras, reading variables
def test_keras_file(tmp_path):
    configs = {name: CONFIGS[name] for name in ("vqa", "dense_captioning")}
    own = reference.randomize(create_multi_task_vlm_head(configs, "uncertainty"))
    own.save(tmp_path / "head.keras")
    again = keras.saving.load_model(tmp_path / "head.keras")
    assert again.config == own.config
    ours, theirs = own.named_variables(), again.named_variables()
    assert ours.keys() == theirs.keys()
    for name, variable in ours.items():
        np.testing.assert_array_equal(to_numpy(theirs[name]), to_numpy(variable), err_msg=name)


def test_names():
    listed = create_multi_task_vlm_head([CONFIGS["vqa"]])
    assert list(listed.heads) == ["vqa"]
    two = create_multi_task_vlm_head({"yes_no": CONFIGS["vqa"], "count": CONFIGS["vqa"]})
    assert len(two.named_variables()) == 2 * len(listed.named_variables())
    assert list(two({**vision(), "count": text(5)})) == ["count"]


def refused(message, call, *args):
    with pytest.raises(SaccadeError, match=message) as caught:
        call(*args)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("configs", "weights", "message"),
    [
        ({}, None, "has no task"),
        ([CONFIGS["vqa"]] * 2, None, "vqa is there twice"),
        ({"a b": CONFIGS["vqa"]}, None, "'a b' cannot name a task"),
        ({"vision_mask": CONFIGS["vqa"]}, None, "cannot name a task"),
        ({"vqa": CONFIGS["vqa"]}, "grad_norm", "no weights 'grad_norm'"),
        ({"vqa": CONFIGS["vqa"]}, {"talk": 1.0}, "weight 1.0 of 'talk'"),
        ({"vqa": CONFIGS["vqa"]}, {"vqa": -1.0}, "weight -1.0 of 'vqa'"),
    ],
)
def test_bad_configurations(configs, weights, message):
    refused(message, create_multi_task_vlm_head, configs, weights)


def test_bad_batches(head):
    refused("no task 'talk'; the heads are vqa, grounding", head, {**vision(), "talk": text(5)})
    refused("the batch has no task", head, vision())
    refused(
        "task grounding: .* a grid of",
        head,
        {"grounding": {**text(5), "vision_features": vision()["vision_features"][:, :2]}},
    )
    refused("task vqa: the batch has no 'text_features'", head, {**vision(), "vqa": {}})


# -- learning


def test_the_loss_of_a_task_is_its_head_s_and_is_weighed(head):
    given = {**vision(), **text(5), **labels()["vqa"]}
    expected = float(to_numpy(HeadLoss()(single(head, "vqa"), {}, given, None)[0]))
    weighed = create_multi_task_vlm_head(CONFIGS, {"vqa": 0.5})
    learned = create_multi_task_vlm_head(CONFIGS, "uncertainty")
    learned.weigh.log_variance.assign([0.3, 0.0, 0.0, 0.0])
    for own, total in ((weighed, expected / 2), (learned, expected * np.exp(-0.3) + 0.15)):
        for variable, value in zip(own.heads["vqa"].variables, head.heads["vqa"].variables, strict=True):
            variable.assign(value.value)
        loss, carry, metrics, rows = HeadLoss("vqa")(own, {}, given, None)
        assert (carry, rows) == ({}, B)
        np.testing.assert_allclose(to_numpy(loss), total, rtol=1e-5)
        np.testing.assert_allclose(to_numpy(metrics["task_loss"]), expected, rtol=1e-5)


def test_a_loss_wants_the_name_of_a_head(head):
    given = {**vision(), **text(5), **labels()["vqa"]}
    refused("HeadLoss\\('talk'\\).* vqa, grounding", HeadLoss("talk"), head, {}, given, None)
    refused("HeadLoss\\(None\\).* vqa, grounding", HeadLoss(), head, {}, given, None)
    refused("HeadLoss\\('vqa'\\)", HeadLoss("vqa"), single(head, "vqa"), {}, given, None)


def gradients_of(own, given, scale=1.0):
    """Outputs of every task, and the gradient of the sum of the losses by each trainable variable."""

    def loss(values):
        with keras.StatelessScope(state_mapping=list(zip(own.trainable_variables, values, strict=True))):
            total = sum(HeadLoss(name)(own, {}, batch, None)[0] for name, batch in given.items())
            return scale * total, own(given)

    step = backend.jit(lambda values: backend.value_and_grad(loss, values))
    (_, outputs), gradients = step([variable.value for variable in own.trainable_variables])
    found = zip(own.trainable_variables, gradients, strict=True)
    return outputs, {variable.path: to_numpy(gradient) for variable, gradient in found}


def check_gradients(gradients):
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all(), path
        assert np.abs(gradient).max() > 0, path


@on_jax
def test_a_gradient_reaches_every_weight():
    own = reference.randomize(create_multi_task_vlm_head(CONFIGS, "uncertainty"))
    given = {name: {**vision(), **batch()[name], **labels()[name]} for name in CONFIGS}
    _, gradients = gradients_of(own, given)
    check_gradients(gradients)
    assert np.all(gradients["multitaskhead/weigh/log_variance"] != 0)


@on_jax
@pytest.mark.parametrize("task", CONFIGS)
def test_a_step_in_float16_with_a_loss_scale_of_2_to_the_15(task, monkeypatch):
    # JAX has no fused float16 attention on a CPU; the one that shows its scores runs there.
    def attend(queries, keys, values, mask, causal, flash):
        assert not causal
        return attention._attend_with_scores(queries, keys, values, mask)[0]

    monkeypatch.setattr(attention, "_attend", attend)
    keras.utils.set_random_seed(0)
    own = create_multi_task_vlm_head({task: CONFIGS[task]}, dtype="mixed_float16")
    kept = {name: np.repeat(value, 8, axis=0) for name, value in labels()[task].items()}
    if task == "grounding":
        kept["box"][:] = [0, 0, 0.3, 0.4]  # its centre is in a patch that no row has padded
    given = {**vision(24), **text(5, 24), **kept}
    outputs, gradients = gradients_of(own, {task: given}, scale=2.0**15)
    for name, value in outputs[task].items():
        assert keras.backend.standardize_dtype(value.dtype) == "float32", name
        assert np.isfinite(to_numpy(value)).all(), name
    check_gradients(gradients)


def rows_of(task, rng):
    """Patches say what stands there; asked: what is first (vqa), where is it (grounding)."""
    kinds, named = rng.permutation(N), int(rng.integers(N))
    y, x = divmod(int(np.argmax(kinds == named)), GRID[1])
    image = np.eye(C, dtype=np.float32)[kinds]
    image[:, -1] = 0.5 * (np.arange(N) == 0)
    box = np.array([x / GRID[1], y / GRID[0], (x + 1) / GRID[1], (y + 1) / GRID[0]], np.float32)
    answer = np.eye(7, dtype=np.float32)[y]
    own = {"vqa": {"answer_targets": answer}, "grounding": {"box": box}}[task]
    image = np.concatenate([image[:, :-1], (np.arange(N)[:, None] >= GRID[1]).astype(np.float32)], axis=1)
    return {"vision_features": image, "text_features": np.eye(D, dtype=np.float32)[[named]], **own}


@on_jax
def test_two_streams_teach_two_tasks():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    collate = lambda items: {k: np.stack([item[k] for item in items]) for k in items[0]}  # noqa: E731
    data = {task: [rows_of(task, rng) for _ in range(256)] for task in ("vqa", "grounding")}
    own = create_multi_task_vlm_head({task: CONFIGS[task] for task in data}, "uncertainty")
    streams = {task: Stream(rows, collate, HeadLoss(task), 32) for task, rows in data.items()}
    result = Trainer(own, streams, TrainConfig(steps=300, learning_rate=1e-2)).fit()
    assert {"vqa/task_loss", "vqa/accuracy", "grounding/task_loss", "grounding/iou"} <= set(
        result.history[-1]
    )
    unseen = {task: collate([rows_of(task, rng) for _ in range(64)]) for task in data}
    answers = own.decode(backend.compiled(own, own)(unseen))
    assert np.mean(np.array(answers["vqa"]) == unseen["vqa"]["answer_targets"].argmax(-1)) >= 0.9
    center = (answers["grounding"][0][:, :2] + answers["grounding"][0][:, 2:]) / 2
    box = unseen["grounding"]["box"]
    assert np.mean(((center > box[:, :2]) & (center < box[:, 2:])).all(-1)) >= 0.9
    assert (np.abs(to_numpy(own.weigh.log_variance)) > 0.01).all()  # learned with the heads
