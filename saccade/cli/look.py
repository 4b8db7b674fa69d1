"""Commands that run a model on an image: ask, caption, ground, match; and list, which says what there is."""

import math
from enum import StrEnum
from typing import Any

import typer

from saccade.cli.output import JsonOption, ModelOption, bar, plural, print_json, say
from saccade.errors import SaccadeError


class AskTask(StrEnum):
    auto = "auto"
    vqa = "vqa"
    statement = "statement"


ImageArgument: Any = typer.Argument(metavar="IMAGE", help="A PNG, JPEG or WEBP file.")
StepsOption: Any = typer.Option(None, "--max-steps", min=1, help="Stop after so many reasoning steps.")
ThresholdOption: Any = typer.Option(
    None, "--threshold", min=0.0, max=1.0, help="Stop when the halting value exceeds this."
)


# What a model is for, by the first of its verbs.
_KINDS = {
    "classify": "compares images and texts",
    "ask": "answers questions",
    "caption": "writes captions",
}


def load_pipeline(name: str, *verbs: str):
    """The model of that name, which must see and read, and know one of the verbs ("ask" if none is named)."""
    import saccade

    model = saccade.load(name)
    verbs = verbs or ("ask",)
    if any(hasattr(model, verb) for verb in verbs):
        return model
    verb = next((verb for verb in _KINDS if hasattr(model, verb)), None)
    if verb:
        raise SaccadeError(f"{name} {_KINDS[verb]}, but has no {verbs[0]!r}; use `saccade {verb}`")
    raise SaccadeError(f"{name} is a model of puzzles; use `saccade solve`, or another --model")


def logit(share: float | None) -> float | None:
    """The halting value as people see it, 0 to 1, in the pipeline's terms."""
    if share is None or share in (0.0, 1.0):
        return {None: None, 0.0: -math.inf, 1.0: math.inf}[share]
    return math.log(share / (1 - share))


def _pixels(path: str):
    """Read before the model is loaded: a wrong path is told at once."""
    from saccade.data.image import read_image

    return read_image(path)


def ask(
    image: str = ImageArgument,
    question: str = typer.Argument(metavar="QUESTION", help="A question, or a statement to judge."),
    explain: bool = typer.Option(False, "--explain", help="One line for each reasoning step."),
    attention: str | None = typer.Option(
        None, "--attention", metavar="OUT.png", help="Write a picture of what each step looked at."
    ),
    task: AskTask = typer.Option(AskTask.auto, "--task", help="auto: it depends on the text."),
    max_steps: int | None = StepsOption,
    threshold: float | None = ThresholdOption,
    max_tokens: int = typer.Option(
        64, "--max-tokens", min=1, help="Longest answer, for models that write (nanoVLM, Flamingo, BLIP-2)."
    ),
    shot: list[str] = typer.Option(
        [], "--shot", metavar="IMAGE=ANSWER", help="An image and the answer to the same text; again for more."
    ),
    max_tiles: int | None = typer.Option(
        None,
        "--max-tiles",
        min=1,
        help="Most tiles of a large image, for models that see tiles (nanoVLM 8k).",
    ),
    model: str = ModelOption,
    json: bool = JsonOption,
) -> None:
    """Ask about an image, or have a statement judged true or false."""
    from saccade.data.text import check_text
    from saccade.draw import check_output, save_image

    if attention:
        check_output(attention)
    question = check_text(question)
    pixels, shots = _pixels(image), _demonstrations(shot, question)
    pipeline = load_pipeline(model)
    options: dict[str, Any] = {"shots": shots} if shots else {}
    if shots and not hasattr(pipeline, "complete"):
        raise SaccadeError(f"{model} learns from no demonstrations (Flamingo does); leave --shot out")
    if not hasattr(pipeline, "explain"):
        given: dict[str, Any] = {"--explain": explain, "--attention": attention, "--max-steps": max_steps}
        given |= {"--threshold": threshold, "--task": task != AskTask.auto}
        options["max_new_tokens"] = max_tokens
        return _say_reply(_within(pipeline, max_tiles), pixels, question, options, given, json)
    if max_tiles is not None:
        raise SaccadeError(f"{model} sees an image whole, not in tiles; leave --max-tiles out")
    options = {"task": str(task), "max_steps": max_steps, "threshold": logit(threshold)}
    if not (explain or attention):
        answer = pipeline.ask(pixels, question, **options)
        if json:
            return print_json(answer.to_json())
        return _say_answer(answer)
    explanation = pipeline.explain(pixels, question, **options)
    if attention:
        save_image(_attention_picture(pixels, explanation, question), attention)
    if json:
        return print_json(explanation.to_json() | ({"attention_image": attention} if attention else {}))
    if explain:
        _say_steps(explanation)
    _say_answer(explanation.answer)
    if attention:
        say(f"attention: {attention}", "dim")
    return None


def _within(pipeline, max_tiles: int | None):
    if max_tiles is None:
        return pipeline
    if not getattr(pipeline.processor.config, "tiled", False):
        raise SaccadeError("this checkpoint sees an image whole, not in tiles; leave --max-tiles out")
    return pipeline.configure(max_tiles=max_tiles)


def _demonstrations(shots: list[str], question: str) -> list:
    """Each "IMAGE=ANSWER" as what was asked and answered before."""
    from saccade.data.interleaved import Chunk

    chunks = []
    for shot in shots:
        path, _, answer = shot.rpartition("=")
        if not path.strip() or not answer.strip():
            raise SaccadeError(f"--shot is {shot!r}; give IMAGE=ANSWER, as --shot red.png=dax")
        chunks.append(Chunk(question, _pixels(path), answer.strip()))
    return chunks


def _say_reply(pipeline, pixels, question: str, options: dict, given: dict, json: bool) -> None:
    odd = [option for option, value in given.items() if value not in (None, False)]
    if odd:
        raise SaccadeError(f"{odd[0]} is for models that reason in steps, this one writes; leave it out")
    reply = pipeline.ask(pixels, question, **options)
    if json:
        return print_json(reply.to_json())
    say(reply.text, "bold")
    return say(f"confidence {reply.confidence:.1%}, {plural(reply.tokens, 'token')}", "dim")


def _say_steps(explanation) -> None:
    width = max([len("answer"), *(len(step.answer) for step in explanation.steps)])
    say(f"step  {'answer':<{width}}  {'confidence':<18}  halting", "dim")
    for number, step in enumerate(explanation.steps, 1):
        shown = f"{bar(step.confidence)} {step.confidence:5.1%}"
        say(f"{number:>4}  {step.answer:<{width}}  {shown:<18}  {step.halting:7.3f}")
    if explanation.rationale:
        say(f"because: {explanation.rationale}")


def _say_answer(answer) -> None:
    say(answer.text, "bold")
    say(f"confidence {answer.confidence:.1%}, {plural(answer.steps, 'step')}, {answer.task}", "dim")


def _attention_picture(pixels, explanation, question: str):
    from saccade.draw import Panel, draw_steps

    panels = [
        Panel(f"step {number}", step.answer, step.confidence, step.attention)
        for number, step in enumerate(explanation.steps, 1)
    ]
    return draw_steps(pixels, panels, f"{question}  {explanation.answer.text}")


def caption(
    image: str = ImageArgument,
    attention: str | None = typer.Option(
        None,
        "--attention",
        metavar="OUT.png",
        help="Write a picture of what each word looked at (ShowAttendTell).",
    ),
    beams: int = typer.Option(
        1, "--beams", min=1, help="Texts to compare by beam search, for models that reason in no steps."
    ),
    model: str = ModelOption,
    json: bool = JsonOption,
) -> None:
    """Describe an image."""
    from saccade.draw import check_output, save_image

    if attention:
        check_output(attention)
    pixels = _pixels(image)
    pipeline = load_pipeline(model, "caption")
    reasons = hasattr(pipeline, "explain")
    if attention and reasons:
        raise SaccadeError(f"{model} looks in steps, not word by word; use `saccade ask --attention`")
    if attention and not hasattr(pipeline, "write"):
        raise SaccadeError(f"{model} keeps no attention of its words; leave --attention out")
    if beams > 1 and reasons:
        raise SaccadeError(f"--beams is {beams}, but {model} writes its likeliest words; leave it out")
    options: dict[str, Any] = {"words": True} if attention else {}
    result = pipeline.caption(pixels, **options, **({"num_beams": beams} if beams > 1 else {}))
    if attention:
        save_image(_words_picture(pixels, result, model), attention)
    if json:
        return print_json(result.to_json() | ({"attention_image": attention} if attention else {}))
    say(result.text, "bold")
    steps = f", {plural(result.steps, 'step')}" if reasons else ""
    say(f"confidence {result.confidence:.1%}{steps}", "dim")
    if attention:
        say(f"attention: {attention}", "dim")
    return None


def _words_picture(pixels, result, model: str):
    from saccade.draw import Panel, draw_steps

    if any(word.attention is None for word in result.words):
        raise SaccadeError(f"{model} looks at the image once, before the first word; leave --attention out")
    panels = [Panel(word.text, "", word.confidence, word.attention) for word in result.words]
    return draw_steps(pixels, panels, result.text)


def ground(
    image: str = ImageArgument,
    phrase: str = typer.Argument(metavar="PHRASE", help="What to find, as in `the red cube`."),
    out: str | None = typer.Option(
        None, "--out", "-o", metavar="OUT.png", help="Write the image and its box."
    ),
    model: str = ModelOption,
    json: bool = JsonOption,
) -> None:
    """Find what a phrase means: a box in pixels, x0 y0 x1 y1."""
    from saccade.data.text import check_text
    from saccade.draw import check_output, draw_box, save_image

    if out:
        check_output(out)
    phrase = check_text(phrase)
    pixels = _pixels(image)
    result = load_pipeline(model, "ground").ground(pixels, phrase)
    if out:
        save_image(draw_box(pixels, result.box_px, f"{phrase}  {result.confidence:.0%}"), out)
    if json:
        return print_json(result.to_json() | ({"image": out} if out else {}))
    say(" ".join(f"{value:.1f}" for value in result.box_px), "bold")
    say(f"x0 y0 x1 y1 in pixels, confidence {result.confidence:.1%}, {plural(result.steps, 'step')}", "dim")
    if out:
        say(f"picture: {out}", "dim")
    return None


def match(
    image: str = ImageArgument,
    text: str = typer.Argument(metavar="TEXT", help="A sentence that may or may not describe the image."),
    model: str = ModelOption,
    json: bool = JsonOption,
) -> None:
    """Say how well a text describes an image."""
    from saccade.data.text import check_text

    text = check_text(text)
    pixels = _pixels(image)
    result = load_pipeline(model, "match").match(pixels, text)
    if json:
        return print_json(result.to_json())
    verdict = "match" if result.probability >= 0.5 else "no match"
    say(f"{verdict}  {bar(result.probability)} {result.probability:.1%}", "bold")
    steps = f", {plural(result.steps, 'step')}" if hasattr(result, "steps") else ""
    return say(f"similarity {result.similarity:.3f}{steps}", "dim")


def list_models(json: bool = JsonOption) -> None:
    """List the models that are here, and the architectures to train."""
    from saccade.pipeline import available, presets

    models, architectures = available(), presets()
    if json:
        return print_json(
            {"models": [m.to_json() for m in models], "presets": [p.to_json() for p in architectures]}
        )
    if models:
        width = max(len(model.name) for model in models)
        say(f"{'name':<{width}}  {'kind':<8}  {'parameters':>10}  {'size':>8}  tasks", "dim")
        for model in models:
            size = f"{model.bytes / 1e6:.1f} MB" if model.bytes >= 1e6 else f"{model.bytes / 1e3:.0f} kB"
            numbers = f"{model.parameters:>10,}  {size:>8}"
            say(f"{model.name:<{width}}  {model.kind:<8}  {numbers}  {' '.join(model.tasks)}")
    else:
        say("no models: train one with `saccade train RECIPE`")
    width = max(len(preset.name) for preset in architectures)
    say(
        "\narchitectures to train; a preset has no weights, and is not the model that may have its name",
        "dim",
    )
    wide = max(len(preset.kind) for preset in architectures)
    say(f"{'preset':<{width}}  {'kind':<{wide}}  {'parameters':>11}", "dim")
    for preset in architectures:
        say(f"{preset.name:<{width}}  {preset.kind:<{wide}}  {preset.parameters:>11,}")
    return None


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(ask)
    app.command()(caption)
    app.command()(ground)
    app.command()(match)
    app.command(name="list")(list_models)
