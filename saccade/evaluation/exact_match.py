"""How many conversations a model ends with the very words that belong there."""

from collections.abc import Callable, Sequence

from saccade.chat import ChatPipeline


def exact_match(
    pipeline: ChatPipeline,
    rows: Sequence,
    number: int,
    batch_size: int = 32,
    max_new_tokens: int = 16,
    read: Callable[[str], str] = str.strip,
) -> float:
    """Share of the first `number` rows whose last answer is written exactly, greedily, space around it aside.

    Args:
        rows: of saccade.data.conversations, each ending with the assistant's answer.
        read: what of a reply is its answer, such as `texts.conclusion` of one that says how it knows.
    """
    hits = 0
    for start in range(0, number, batch_size):
        batch = [rows[i] for i in range(start, min(start + batch_size, number))]
        images = [list(row.images) for row in batch]
        asked = [row.messages[:-1] for row in batch]
        replies = pipeline.chat(images, asked, max_new_tokens=max_new_tokens)
        wanted = [row.messages[-1]["content"].strip() for row in batch]
        hits += sum(read(reply.text) == text for reply, text in zip(replies, wanted, strict=True))
    return hits / number
