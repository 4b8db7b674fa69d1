"""The command `classify`: which of several texts fits an image."""

import typer

from saccade.cli.look import ImageArgument, load_pipeline
from saccade.cli.output import JsonOption, bar, print_json, say


def classify(
    image: str = ImageArgument,
    labels: list[str] = typer.Argument(metavar="LABEL...", help="What it may show, each in quotes."),
    template: str = typer.Option("{}", "--template", help="The text of a label: `a photo of {}`."),
    model: str = typer.Option(
        "clip_scenes",
        "--model",
        "-m",
        help="A CLIP or SigLIP: a bundled model's name (see `saccade list`), a directory (`saccade train "
        "clip_scenes` makes one), or a hub name, as openai/clip-vit-base-patch32[@revision].",
    ),
    json: bool = JsonOption,
) -> None:
    """Say which of several labels fits an image, any labels (zero-shot)."""
    from saccade.data.clip_processor import check_labels
    from saccade.data.image import read_image

    # What is wrong is told before the model is loaded.
    labels = check_labels(labels, template)
    pixels = read_image(image)
    result = load_pipeline(model, "classify").classify([pixels], labels, template)[0]
    if json:
        return print_json(result.to_json())
    width = max(len(label.text) for label in result.labels)
    for place, label in enumerate(result.labels):
        shown = f"{label.text:<{width}}  {bar(label.probability)} {label.probability:6.1%}"
        say(f"{shown}  similarity {label.similarity:.3f}", None if place else "bold")
    return None


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(classify)
