"""The words a teacher is asked with: the prompts' files, and the block that carries the question."""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from string import Template
from typing import NamedTuple

from shared.schema import Question, Vote
from shared.teachers.block import block, language_name, one_line

FOLDER = Path(__file__).parent / "prompts"
_NAME = re.compile(r"(?P<name>[\w-]+)\.v(?P<version>\d+)(?:\.(?P<language>[a-z]{2}))?\.md")


class Prompt(NamedTuple):
    """A prompt's text in one language, and its id: name, version and language of its file."""

    id: str
    template: Template
    language: str


@lru_cache(maxsize=1)
def _files() -> dict[tuple[str, str], Prompt]:
    """Prompts by (name, language); those without a language in their name are English."""
    prompts = {}
    for path in sorted(FOLDER.glob("*.md")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise ValueError(f"{path}: name it <name>.v<version>[.<language>].md")
        key = (match["name"], match["language"] or "en")
        prompts[key] = Prompt(path.name.removesuffix(".md"), Template(path.read_text(encoding="utf-8")), key[1])
    return prompts


def _in_language(name: str, language: str) -> Prompt:
    files = _files()
    return files.get((name, language)) or files[name, "en"]


def voters(language: str) -> list[Prompt]:
    """The diverse prompts, one a vote, in the question's language where they have it."""
    names = sorted({name for name, _ in _files() if name != "verify"})
    return [_in_language(name, language) for name in names]


def verifier(language: str) -> Prompt:
    """The cross-verification's prompt."""
    return _in_language("verify", language)


def vote_prompt(prompt: Prompt, question: Question, order: Sequence[int]) -> str:
    return prompt.template.substitute(block=block(question, order), language=language_name(question.language))


def verify_prompt(prompt: Prompt, question: Question, order: Sequence[int], votes: Sequence[Vote]) -> str:
    """The votes' choices are named by their number in `order`, and by their words."""
    lines = [_line(number, vote, question, order) for number, vote in enumerate(votes, 1)]
    return prompt.template.substitute(
        block=block(question, order), language=language_name(question.language), votes="\n".join(lines)
    )


def _line(number: int, vote: Vote, question: Question, order: Sequence[int]) -> str:
    if vote.choice is None:
        return f"Vote {number}: none."
    text = one_line(question.choices[vote.choice].text)
    return f"Vote {number}: choice {order.index(vote.choice) + 1} ({text}). Reasoning: {one_line(vote.reasoning)}"
