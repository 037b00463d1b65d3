"""README.md of a quantised model, made from its card.json: what Hugging Face and people read."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from shared.schemes import SCHEMES
from workers.quantizer.calibration import FILE

_SHOWS = {
    "video": "clips and text together, as in training and serving",
    "frame": "the middle frame of each clip, and text",
    "text": "text alone",
    "nothing": "none: each weight was rounded by itself",
}


def readme(card: Mapping[str, Any], recipe: str) -> str:
    """Front matter, then base, scheme, calibration set, recipe and sizes; `recipe` is llm-compressor's own."""
    parts = (_front(card), _base(card), _scheme(card), _calibration(card), _recipe(recipe), _figures(card))
    return "\n".join([line for part in parts for line in part] + [""])


def _front(card: Mapping[str, Any]) -> Iterator[str]:
    matter: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "video-text-to-text",
        "tags": ["roadqa", "traffic", "video-question-answering", "compressed-tensors", card["recipe"]["scheme"]],
    }
    if name := _origin(card):
        matter = {"base_model": name, "base_model_relation": "quantized", **matter}
    yield from ("---", yaml.safe_dump(matter, sort_keys=False).strip(), "---")
    yield from (f"# Quantised by RoadQA: {card['recipe']['scheme']}", "")
    yield "Answers multiple-choice questions on traffic clips with the letter of one choice. Made by `roadqa run`; the"
    yield from ("whole record is `card.json`. transformers and vLLM load this folder as it is.", "")


def _origin(card: Mapping[str, Any]) -> str | None:
    """The published model at the root of it all."""
    base = card["base"]
    while base:
        if name := base.get("base_model"):
            return str(name)
        base = base.get("base")
    return None


def _base(card: Mapping[str, Any]) -> Iterator[str]:
    base, name = card["base"] or {}, _origin(card)
    yield from ("## Base", "")
    if base.get("made_by") == "train":
        yield f"Fine-tuned on {base['data']['rows']:,} rows" + (f", from `{name}`." if name else ".")
    else:
        yield f"`{name}`." if name else "A model folder without a name of its own."
    yield ""


def _scheme(card: Mapping[str, Any]) -> Iterator[str]:
    scheme, layers = card["recipe"]["scheme"], card["layers"]
    yield from ("## Scheme", "")
    yield f"{scheme}: {SCHEMES[scheme].title} (`{card['format']}`)."
    yield f"{len(layers['quantized']):,} Linears of the text tower; vision tower, embeddings, norms and `lm_head` stay"
    yield from ("in bfloat16.", "")


def _calibration(card: Mapping[str, Any]) -> Iterator[str]:
    held = card["calibration"]
    yield from ("## Calibration", "", f"{_SHOWS[held['shows']].capitalize()}.")
    if held["rows"]:
        yield f"{held['rows']:,} rows on {held['clips']:,} clips of {held['recordings']:,} recordings"
        yield f"(`{FILE}`)."
        yield from ("", "| rows | count |", "|---|---|")
        yield from (f"| answered by: {origin} | {count:,} |" for origin, count in held["origins"].items())
        yield from (f"| category: {_plain(name)} | {count:,} |" for name, count in held["categories"].items())
    yield ""


def _recipe(recipe: str) -> Iterator[str]:
    yield from (
        "## Recipe",
        "",
        "What llm-compressor was told (`recipe.yaml`):",
        "",
        "```yaml",
        recipe.strip(),
        "```",
        "",
    )


def _figures(card: Mapping[str, Any]) -> Iterator[str]:
    held = card["bytes"]
    yield from ("## Figures", "")
    times = held["bf16"] / held["quantized"]
    yield f"- {held['quantized']:,} bytes of weights, {held['bf16']:,} in bfloat16: {times:.2f}× smaller"
    yield from (f"- {package} {found}" for package, found in card["versions"].items())
    yield ""
    yield "What it kept of its parent's accuracy is measured on questions that neither was trained on: the verdict of"
    yield "`roadqa report`, and `verdict.json` of the scores that `roadqa trace` finds."


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
