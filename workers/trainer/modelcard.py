"""README.md of a trained model, made from its card.json: what Hugging Face and people read."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from shared import curves

PICTURE = "curves.svg"


def readme(card: Mapping[str, Any]) -> str:
    """Front matter, then base, data, recipe and figures."""
    return "\n".join([*_front(card), *_base(card), *_data(card), *_recipe(card), *_figures(card), ""])


def _front(card: Mapping[str, Any]) -> Iterator[str]:
    tags = ["roadqa", "traffic", "video-question-answering", "lora" if card["recipe"]["lora"] else "full-fine-tuning"]
    matter: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "video-text-to-text",
        "tags": tags,
    }
    if name := card["base"].get("base_model"):
        matter = {"base_model": name, **matter}
    yield "---"
    yield yaml.safe_dump(matter, sort_keys=False).strip()
    yield "---"
    yield "# Fine-tuned by RoadQA"
    yield ""
    yield "Answers multiple-choice questions on traffic clips with a choice's letter. Made by `roadqa run`; all that"
    yield "is known of it is in `card.json`, and `runs/` is for TensorBoard."
    yield ""


def _base(card: Mapping[str, Any]) -> Iterator[str]:
    base = card["base"]
    yield "## Base"
    yield ""
    yield f"`{base['base_model']}`." if base.get("base_model") else "A model folder without a name of its own."
    if base.get("made_by") == "train":
        yield f"It was fine-tuned itself, on {base['data']['rows']:,} rows."
    yield ""


def _data(card: Mapping[str, Any]) -> Iterator[str]:
    data = card["data"]
    yield "## Data"
    yield ""
    yield f"{data['rows']:,} rows on {data['clips']:,} clips of {data['recordings']:,} recordings."
    yield ""
    yield "| rows from | count |"
    yield "|---|---|"
    yield from (f"| {origin} | {count:,} |" for origin, count in data["rows_by_origin"].items())
    yield from (f"| left out: {why} | {count:,} |" for why, count in data["rows_left_out"].items())
    if judged := card.get("validation"):
        yield ""
        yield f"Chosen by {judged['rows']:,} validation rows of {judged['recordings']:,} other recordings."
    yield ""


def _recipe(card: Mapping[str, Any]) -> Iterator[str]:
    yield "## Recipe"
    yield ""
    yield "| setting | value |"
    yield "|---|---|"
    for name, value in card["recipe"].items():
        if isinstance(value, Mapping):
            yield from (f"| {name}.{inner} | {_shown(given)} |" for inner, given in value.items())
        else:
            yield f"| {name} | {_shown(value)} |"
    yield ""


def _shown(value: Any) -> str:
    return "–" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def _figures(card: Mapping[str, Any]) -> Iterator[str]:
    training, way = card["training"], curves.Training.of(card)
    moved = training["trained_parameters"] / training["parameters"]
    yield "## Figures"
    yield ""
    yield f"- {training['parameters']:,} parameters, {100 * moved:.3g}% of them trained"
    yield f"- Liger kernels: {'yes' if training.get('liger') else 'no'}"
    if way.losses:
        yield f"- {curves.told(way)}"
    if training.get("stopped_early"):
        yield "- stopped early: the validations after the best one were no better"
    yield ""
    if way.best is None:
        yield "A low loss is no score; `roadqa report` has one."
    else:
        yield "The validation rows chose the weights, so their accuracy is no score; `roadqa report` has one."
    if curves.svg(way, "") is not None:
        yield ""
        yield f"![loss and validation accuracy]({PICTURE})"
