"""How often a teacher is asked the same, and when that is given up."""

import random
from collections import Counter
from dataclasses import dataclass

from shared.teachers.teacher import Reply, TeacherError, Usage

#: Tries in all of what a fresh sample may mend, or a second upload.
SAMPLES = {"empty": 3, "malformed": 3, "outside": 3, "cut off": 3, "wrong language": 2, "stuck": 2}
MORE_ROOM = 2  #: an answer that was cut off may be this many times as long at its next try


@dataclass(frozen=True)
class Patience:
    """How long a teacher is waited for."""

    timeout_s: float = 180.0  #: for one HTTP request
    tries: int = 6
    backoff_s: float = 1.0  #: bound of the first wait; it doubles
    longest_wait_s: float = 120.0  #: a service that asks for more is taken as out of quota
    poll_s: float = 1.0  #: between looks at an uploaded clip
    polls: int = 300


class Tries:
    """The tries of one request: `failed` says whether there is another, and what it should be like."""

    def __init__(self, patience: Patience, troubles: Counter[str]) -> None:
        self._patience, self._troubles = patience, troubles
        self._kinds: Counter[str] = Counter()
        self.usage = Usage()

    @property
    def sample(self) -> int:
        """Answers so far that could not be used: a fresh seed may give a better one."""
        return self._kinds.total() - self._transient

    @property
    def room(self) -> int:
        """How many times the recipe's output tokens the next answer may have."""
        return int(MORE_ROOM ** self._kinds["cut off"])

    @property
    def _transient(self) -> int:
        return self._kinds["transient"]

    def reply(self, reply: Reply) -> Reply:
        """The reply, with what all tries cost."""
        return reply._replace(usage=self.usage.plus(reply.usage))

    def failed(self, error: TeacherError) -> Reply | None:
        """Count the failure. None asks for another try; a reply is an answer that is good enough after all.

        Raises:
            TeacherError: this one, with what all tries cost, where no other may help.
        """
        self._troubles[error.kind] += 1
        self._kinds["transient" if error.transient and error.kind != "stuck" else error.kind] += 1
        before, self.usage = self.usage, self.usage.plus(error.usage)
        if self._again(error):
            return None
        if error.reply is not None:  # a choice made in another language is a choice all the same
            return error.reply._replace(usage=before.plus(error.usage))
        error.usage = self.usage
        raise error

    def _again(self, error: TeacherError) -> bool:
        if (error.retry_after or 0) > self._patience.longest_wait_s or self._kinds.total() >= self._patience.tries:
            return False
        if error.kind in SAMPLES:
            return self._kinds[error.kind] < SAMPLES[error.kind]
        return error.transient

    def wait_s(self, error: TeacherError) -> float:
        """Seconds to wait before the next try, where the service did not say: full jitter over a doubling bound.

        Source: "Exponential backoff and jitter", AWS Architecture Blog.
        """
        if not error.transient or error.kind == "stuck":
            return 0.0
        bound = min(self._patience.longest_wait_s, self._patience.backoff_s * 2.0 ** (self._transient - 1))
        return random.uniform(0.1, 1.0) * bound
