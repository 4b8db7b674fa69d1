"""Tokens, templates and tiles against transformers and torch."""

import chat_parts
import numpy as np
import pytest

from saccade.data.chat import CHATML, ChatTokenizer, Template
from saccade.data.chat_processor import ChatConfig, ChatProcessor
from saccade.data.tiles import choose_grid, cut

SIDE, M = 16, 4
TALKS = [
    [{"role": "user", "content": "What is this?"}],
    [
        {"role": "system", "content": "Say little."},
        {"role": "user", "content": "  how many\n\ncubes? é☃ "},
        {"role": "assistant", "content": "three  cubes\n"},
        {"role": "user", "content": "red?"},
    ],
]
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # of transformers
]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A tokenizer of transformers, with the extra tokens as the reference adds them."""
    transformers = pytest.importorskip("transformers")
    folder = chat_parts.write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "t")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        eos_token="<|im_end|>",
        extra_special_tokens=dict(chat_parts.TILES),
        chat_template=CHATML,
    )


def ours(**changes) -> ChatProcessor:
    settings = {"image_size": SIDE, "image_tokens": M, "max_side": 64, "length_multiple": 1} | changes
    return ChatProcessor(
        chat_parts.tokenizer(), ChatConfig(extra_tokens=tuple(chat_parts.TILES.items()), **settings)
    )


def test_extra_tokens_get_the_ids_of_transformers(theirs):
    tokenizer = ours().tokenizer
    for token in chat_parts.TILES.values():
        assert tokenizer.id_of(token) == theirs.convert_tokens_to_ids(token), token
    assert tokenizer.vocab_size == len(theirs)


@pytest.mark.parametrize("talk", TALKS, ids=["short", "long"])
def test_conversations_are_tokenized_as_by_transformers(theirs, talk):
    processor = ours()
    batch = processor([[np.zeros((20, 20, 3), np.uint8)]], [talk])
    first = next(i for i, m in enumerate(talk) if m["role"] == "user")
    with_image = [dict(m) for m in talk]
    with_image[first]["content"] = processor.image_text([(1, 1)]) + talk[first]["content"]
    expected = theirs.apply_chat_template(with_image, add_generation_prompt=True)
    expected = expected["input_ids"] if hasattr(expected, "keys") else expected
    assert batch["tokens"][0].tolist() == list(expected)


@pytest.mark.parametrize(
    "source",
    [
        CHATML,
        # SmolLM2-Instruct's own: a system message of its own where none is given
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}",
        "{%- for m in messages %}\n    {%- if m.role == 'user' %}\n        {{- '[' + m.content + ']' }}\n"
        "    {%- else %}\n        {{- m.content }}\n    {%- endif %}\n{%- endfor %}\n",
    ],
)
@pytest.mark.parametrize("talk", TALKS, ids=["short", "long"])
def test_templates_render_as_in_transformers(theirs, source, talk):
    pieces = Template(source).pieces(talk, add_generation_prompt=True)
    found = "".join(p if isinstance(p, str) else talk[p]["content"] for p in pieces)
    expected = theirs.apply_chat_template(
        talk, chat_template=source, tokenize=False, add_generation_prompt=True
    )
    assert found == expected


def test_saved_tokenizers_are_read_by_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = ours().tokenizer
    tokenizer.save(tmp_path)
    text = "<|im_start|>user\n<|image|>red cubes é<|im_end|>"
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text).ids
    assert theirs.eos_token == "<|im_end|>"
    assert ChatTokenizer.load(tmp_path).encode(text).ids == tokenizer.encode(text).ids


@pytest.mark.parametrize("size", [(50, 50), (35, 50), (70, 20), (64, 64)])
def test_reference_tiles_equal_torch(size):
    """The view of the whole as torchvision resizes a tensor (torch's interpolate, antialiased)."""
    torch = pytest.importorskip("torch")
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, size=(*size, 3)).astype(np.uint8)
    rows, columns = choose_grid(size, SIDE, 64, reference=True, fill=True)
    found = cut(image, SIDE, (rows, columns), reference=True)
    resized = Image.fromarray(image).resize((columns * SIDE, rows * SIDE), Image.Resampling.BICUBIC)
    x = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float() / 255
    whole = torch.nn.functional.interpolate(
        x, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False
    )
    np.testing.assert_allclose(found[0], whole[0].permute(1, 2, 0).numpy(), atol=2e-6)
    tiles = x[0].unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE)  # 3, rows, columns, h, w
    tiles = tiles.permute(1, 2, 3, 4, 0).reshape(-1, SIDE, SIDE, 3).numpy()
    np.testing.assert_array_equal(found[1:], tiles)


@pytest.mark.parametrize("fill", [True, False])
def test_reference_grids_follow_the_published_rule(fill):
    """long = max_side, or rounded up to whole tiles; short = scaled alike, rounded up."""
    import math

    for height, width in np.random.default_rng(1).integers(2, 3000, size=(300, 2)).tolist():
        long, short = max(height, width), min(height, width)
        target = 2048 if fill else min(2048, math.ceil(long / 512) * 512)
        other = max(512, math.ceil(short * (target / long) / 512) * 512)
        expected = (other // 512, target // 512) if width >= height else (target // 512, other // 512)
        assert choose_grid((height, width), 512, 2048, reference=True, fill=fill) == expected, (height, width)
