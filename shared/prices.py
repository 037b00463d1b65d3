"""What a teacher's tokens cost, from a table in a file with a date."""

import math
from datetime import date
from functools import lru_cache
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from shared.contracts import TeacherRecipe
from shared.errors import UsageError
from shared.schema import Frozen
from shared.settings import settings

TABLE = Path(__file__).with_name("prices.yaml")
#: Of a frame, by media resolution (ai.google.dev/gemini-api/docs/video-understanding).
FRAME_TOKENS = {"low": 66, "default": 258, "medium": 258, "high": 258}
CHARS_PER_TOKEN = 4  #: of English (ai.google.dev/gemini-api/docs/tokens)
ANSWER_TOKENS = 600  #: an answer with its reasoning: assumed
THINKING_TOKENS = 1000  #: where the model may choose: assumed
_MILLION = 1_000_000


class Rate(Frozen):
    """US dollars for a million tokens."""

    input: float = Field(ge=0)
    cached: float = Field(ge=0)  #: input that the service had in its cache
    output: float = Field(ge=0)


class LongRate(Rate):
    """The rate of a request whose input is longer than `above`."""

    above: int  #: tokens


class Price(Rate):
    long: LongRate | None = None


class Prices(Frozen):
    """The table."""

    date: date
    batch: float = Field(gt=0, le=1)  #: share of the price in batch mode
    models: dict[str, Price]

    def usd(self, model: str, tokens_in: int, tokens_out: int, cached: int = 0, *, batch: bool = False) -> float | None:
        """What one request cost, in US dollars; None for a model without a price.

        Args:
            tokens_in: all of the input, `cached` included.
        """
        price = self.models.get(model)
        if price is None:
            return None
        rate = price.long if price.long is not None and tokens_in > price.long.above else price
        full = (tokens_in - cached) * rate.input + cached * rate.cached + tokens_out * rate.output
        return full * (self.batch if batch else 1) / _MILLION


def expected_tokens(seconds: float, teacher: TeacherRecipe, prompt_chars: int) -> tuple[int, int]:
    """Tokens in and out that one request about a clip is expected to take, before any was made."""
    video = math.ceil(seconds * teacher.fps) * FRAME_TOKENS[teacher.media_resolution]
    thinking = THINKING_TOKENS if teacher.thinking_budget < 0 else teacher.thinking_budget
    return video + math.ceil(prompt_chars / CHARS_PER_TOKEN), ANSWER_TOKENS + thinking


@lru_cache(maxsize=1)
def prices() -> Prices:
    """The process's table: `ROADQA_PRICES`, else the one that ships.

    Raises:
        UsageError: the file is missing or not of its form; names it.
    """
    return read(settings().prices or TABLE)


def read(path: Path) -> Prices:
    """Read a table of prices.

    Raises:
        UsageError: one line that names the file and what is wrong.
    """
    try:
        return Prices.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UsageError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; see {TABLE.name}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: no table of prices: {' '.join(str(error).split())}; see {TABLE.name}") from error
