"""How often a teacher is asked the same, and when that is given up."""

import random
from collections import Counter
from dataclasses import dataclass

from shared.teachers.teacher import Reply, TeacherError, Usage

#: Answers that a fresh sample may mend, with the tries in all that they get.
SAMPLES = {"empty": 3, "malformed": 3, "outside": 3, "cut off": 3, "wrong language": 2}
#: What costs hours each time: a clip uploaded anew, a batch job submitted anew.
REPEATS = {"stuck": 2, "lost": 3}
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
    """The tries of one request: `failed` says whether there is another, the properties what it should be like."""

    def __init__(self, patience: Patience, troubles: Counter[str]) -> None:
        self._patience, self._troubles = patience, troubles
        self._kinds: Counter[str] = Counter()
        self.usage = Usage()

    @property
    def sample(self) -> int:
        """Answers so far that could not be used: a fresh seed may give a better one."""
        return sum(self._kinds[kind] for kind in SAMPLES)

    @property
    def room(self) -> int:
        """How many times the recipe's output tokens the next answer may have."""
        return int(MORE_ROOM ** self._kinds["cut off"])

    def reply(self, reply: Reply) -> Reply:
        """The reply, with what all tries cost."""
        return reply._replace(usage=self.usage.plus(reply.usage))

    def failed(self, error: TeacherError) -> Reply | None:
        """Count the failure. None asks for another try; a reply is an answer that is good enough after all.

        Raises:
            TeacherError: this one, with what all tries cost, where no other may help.
        """
        self._troubles[error.kind] += 1
        self._kinds[error.kind] += 1
        if self._again(error):
            self.usage = self.usage.plus(error.usage)
            return None
        if error.reply is not None:  # a choice that was argued for in another language is a choice all the same
            return self.reply(error.reply)
        error.usage = self.usage.plus(error.usage)
        raise error

    def _again(self, error: TeacherError) -> bool:
        if (error.retry_after or 0) > self._patience.longest_wait_s or self._kinds.total() >= self._patience.tries:
            return False
        bounds = SAMPLES | REPEATS
        return self._kinds[error.kind] < bounds[error.kind] if error.kind in bounds else error.transient

    def wait_s(self, error: TeacherError) -> float:
        """Seconds to wait before the next try, where the service did not say."""
        if not error.transient or error.kind in REPEATS:
            return 0.0
        return backoff(self._kinds.total() - self.sample - 1, self._patience.backoff_s, self._patience.longest_wait_s)


def backoff(attempt: int, base: float, cap: float) -> float:
    """Seconds to wait after the failed `attempt` (0, 1, …): full jitter over a doubling bound.

    Source: "Exponential backoff and jitter", AWS Architecture Blog.
    """
    bound: float = min(cap, base * 2**attempt)
    return random.uniform(0.1, 1.0) * bound
