"""Conversations as a stream of the Trainer."""

from typing import Any

from saccade.data.chat_processor import ChatProcessor
from saccade.data.conversations import Packer, Tally, Tolerant
from saccade.data.conversations.rows import Rows
from saccade.train.stream import Stream


def conversation_stream(
    source: Rows,
    processor: ChatProcessor,
    objective: Any,
    batch_size: int,
    *,
    length: int | None = None,
    tiles: int | None = None,
    pack: bool = True,
    fill: float = 0.95,
    max_bad: float = 0.01,
    workers: int = 0,
    weight: float = 1.0,
) -> Stream:
    """A stream of packed conversations, whose `tally` says what was left out.

    Args:
        source: of Conversation: Conversations, StreamedConversations, SceneConversations, or one's own.
        batch_size: B, sequences.
        length, tiles, pack, fill: see Packer.measured.  max_bad: see Tally.  workers, weight: see Stream.
    """
    packer = Packer.measured(processor, source, batch_size, length, tiles, pack, fill)
    return Stream(
        Tolerant(source),
        packer,
        objective,
        batch_size,
        weight,
        workers,
        shuffle=not getattr(source, "in_order", False),
        items=packer.rows,
        tally=Tally(max_bad),
    )
