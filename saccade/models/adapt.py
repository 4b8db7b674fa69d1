"""Start a VLM-HRM from the weights of another: more words, another canvas, two nets from one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from saccade.data.text import Tokenizer
from saccade.errors import SaccadeError
from saccade.files import load_tensors
from saccade.layers.embeddings import resize_positions
from saccade.model import WEIGHTS, read_config
from saccade.models.vlm_hrm import VLMHRM, VLMHRMConfig

TEXT_TABLE, PLACES = "text/table", "vision/patches/positions"


def adapt(
    folder: str | Path,
    old: Tokenizer,
    new: Tokenizer,
    dtype: str = "float32",
    image_size: tuple[int, int] | None = None,
    **changes,
) -> VLMHRM:
    """The model in a directory, changed before its weights are put in; every task it has learned stays.

    Args:
        old: the tokenizer it was trained with.  new: an extension of it, see `extend_table`.
        dtype: of the model, such as "mixed_bfloat16".
        image_size: (height, width) that the table of positions is made for, interpolated from the old one;
            None =
            as it is. Any canvas can be seen without: then the table is interpolated at every call, and cannot
            learn what is finer than its own grid.
        changes: fields of its configuration. shared=False gives both nets the weights of the one,
            decoder_depth=0 leaves the writer out, and its tasks.
    Raises: SaccadeError: `new` is no extension; a change that the weights do not fit.
    """
    folder = Path(folder)
    record = read_config(folder)
    if record.get("model") != "VLMHRM":
        raise SaccadeError(f"{folder} holds a {record.get('model')!r}, not a VLMHRM")
    before = VLMHRMConfig.from_json(record["config"])
    try:
        config = replace(before, vocab_size=new.vocab_size, **changes)
    except TypeError as error:
        raise SaccadeError(f"unknown field of a VLM-HRM's configuration: {error}") from error
    tensors = load_tensors(folder / WEIGHTS, record.get("weights_sha256"))
    tensors[TEXT_TABLE] = extend_table(tensors[TEXT_TABLE], old, new)
    if image_size is not None:
        config = replace(config, vision=replace(config.vision, image_size=tuple(image_size)))
        grid = config.vision.grid(image_size)
        places = np.asarray(tensors[PLACES], np.float32)
        resized = resize_positions(places, grid, config.vision.interpolation)
        tensors[PLACES] = np.asarray(keras.ops.convert_to_numpy(resized))
    if before.shared and not config.shared:
        for name in [name for name in tensors if name.startswith("core/net/")]:
            value = tensors.pop(name)
            for level in ("low", "high"):
                tensors[name.replace("core/net/", f"core/{level}/", 1)] = value
    if before.decoder_depth and not config.decoder_depth:
        tensors = {name: value for name, value in tensors.items() if not name.startswith("write/")}
    model = VLMHRM.with_weights(config, tensors, dtype, str(folder))
    model.tasks = tuple(task for task in record["tasks"] if task in model.tasks)
    return model


def extend_table(table: np.ndarray, old: Tokenizer, new: Tokenizer) -> np.ndarray:
    """A table with a row for every token of `new`: the old rows, then for each new token the mean of its
    pieces'.

    A new word thus means at first what its spelling meant.
    Args: table: (old.vocab_size, D).
    Returns: float32 (new.vocab_size, D).
    Raises: SaccadeError: a token of `old` has another id in `new`, or the table is of another tokenizer.
    """
    count = old.vocab_size
    if len(table) != count:
        raise SaccadeError(
            f"the table has {len(table)} rows, the tokenizer {count} tokens; use its own tokenizer"
        )
    if new.vocab_size < count or _spelled(old, range(count)) != _spelled(new, range(count)):
        raise SaccadeError(
            "the new tokenizer is no extension of the old one: make it with Tokenizer.extended"
        )
    table = np.asarray(table, np.float32)
    rows = [table[old.encode(text)].mean(0) for text in _spelled(new, range(count, new.vocab_size))]
    return np.concatenate([table, np.stack(rows)]) if rows else table


def _spelled(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    return [tokenizer.decode([i]) for i in ids]
