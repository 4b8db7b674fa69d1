"""The command `scene`: a new picture to ask about, with what it means and questions that have answers."""

from collections.abc import Iterator
from enum import StrEnum
from random import Random
from typing import Any

import typer

from saccade.cli.output import JsonOption, plural, print_json, say

_TRIES_PER_QUESTION = 60
_MAX_DEPTH = 3


class Style(StrEnum):
    world = "world"
    nlvr = "nlvr"


def scene(
    seed: int = typer.Option(0, "--seed", min=0, help="The same seed makes the same scene."),
    out: str | None = typer.Option(None, "--out", "-o", metavar="OUT.png", help="Default: scene-SEED.png."),
    style: Style = typer.Option(Style.world, "--style", help="world, or three gray panels as in NLVR."),
    scale: int = typer.Option(1, "--scale", min=1, max=8, help="Pixels for each pixel of the scene."),
    objects: int | None = typer.Option(None, "--objects", min=1, max=10, help="How many (nlvr: a panel)."),
    questions: int = typer.Option(3, "--questions", min=0, max=100, help="How many to print with answers."),
    json: bool = JsonOption,
) -> None:
    """Draw a random scene, and print questions about it with their answers."""
    import numpy as np
    from PIL import Image

    from saccade.data.scenes.render import render
    from saccade.data.scenes.sample import sample_scene
    from saccade.draw import check_output, save_image

    path = out or f"scene-{seed}.png"
    check_output(path)
    made = sample_scene(np.random.default_rng(seed), style=str(style), num_objects=objects)
    asked = list(_questions(made, seed, questions))
    save_image(Image.fromarray(render(made, scale)), path)
    if json:
        return print_json({"image": path, "seed": seed, "scene": made.to_json(), "questions": asked})
    say(
        f"{path}: {plural(len(made.objects), 'object')}, {made.width_px * scale} x {made.height_px * scale}",
        "bold",
    )
    for item in asked:
        say(f"{item['text']}  {item['answer']}")
    return None


def _questions(made: Any, seed: int, count: int) -> Iterator[dict]:
    """Up to `count` different texts about a scene with their answers, as even as the scene allows."""
    from saccade.data.scenes.builders import answer_word
    from saccade.data.scenes.english import UnsayableError, ask, state
    from saccade.data.scenes.execute import IllPosedError, execute
    from saccade.data.scenes.program import depth
    from saccade.data.scenes.questions import PALETTES, draw_kind, draw_question
    from saccade.data.scenes.statements import draw_panel_statement

    rng = Random(seed)
    palette: dict[str, tuple[str, ...]] = {**PALETTES[made.style]}
    seen: set[str] = set()
    found = 0
    for attempt in range(count * _TRIES_PER_QUESTION):
        if found == count:
            return
        hops = 1 + attempt % _MAX_DEPTH
        if made.style == "nlvr":
            program, task, speak = draw_panel_statement(rng, hops, palette)[1], "statement", state
        else:
            program, task, speak = draw_question(rng, draw_kind(rng, hops), hops, palette), "vqa", ask
        try:
            text = speak(rng, program)
            answer = answer_word(execute(program, made))
        except (UnsayableError, IllPosedError):
            continue
        if task == "statement":
            answer = {"yes": "true", "no": "false"}[answer]
        # Most random questions have the answer "no" or "0"; most of these are left out.
        if text in seen or (answer in ("no", "0", "false") and rng.random() < 0.8):
            continue
        seen.add(text)
        found += 1
        yield {"task": task, "text": text, "answer": answer, "depth": depth(program)}


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(scene)
