"""Whether prose is in the language that was asked for, told from its letters alone.

Cheap, and enough for what goes wrong: a model that reasons in English about a Vietnamese question, or in Chinese
about either. More than a quarter of a Vietnamese text's letters carry marks that English has not.
"""

import unicodedata
from collections.abc import Iterator
from typing import Any

LETTERS = 40  #: fewer say nothing
MARKED = 0.06  #: share of letters with a mark: Vietnamese has more, English that quotes a sign has less
LATIN = 0.7  #: share of Latin letters, in either


def spoken(data: dict[str, Any], language: str | None) -> bool:
    """False where the prose in `data` is clearly not in `language`; True where too little of it is there to tell.

    Looks at Vietnamese (`vi`) and English (`en`); of any other language it says True.
    """
    letters = [letter for text in _prose(data) for letter in unicodedata.normalize("NFC", text) if letter.isalpha()]
    if language not in ("en", "vi") or len(letters) < LETTERS:
        return True
    names = [unicodedata.name(letter, "") for letter in letters]
    if sum(name.startswith("LATIN") for name in names) < LATIN * len(letters):
        return False
    marked = sum(letter > "\x7f" for letter in letters) / len(letters)
    return marked >= MARKED if language == "vi" else marked < MARKED


def _prose(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _prose(item)
    elif isinstance(value, str) and " " in value.strip():  # a single word may be one of the schema's own
        yield value
