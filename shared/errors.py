"""One family of errors; the CLI maps each to an exit status."""


class RoadQAError(Exception):
    """Base of every error a user should read. The message says what to do next."""

    exit_code = 1
    #: A permanent error comes from the input or the recipe: another attempt cannot help.
    permanent = False


class UsageError(RoadQAError):
    """The command line or the pipeline file is wrong."""

    exit_code = 2
    permanent = True


class InputError(RoadQAError):
    """The data is wrong: it names the file, the row and the remedy."""

    permanent = True


class MediaError(InputError):
    """A clip is refused: not a video, damaged, or beyond the limits."""


class BrokerError(RoadQAError):
    """Redis cannot be reached, or is not usable."""

    exit_code = 3


class StoreError(RoadQAError):
    """The object store cannot be reached, lies, or lost something."""

    exit_code = 4


class NotInStoreError(StoreError):
    """An object that was asked for does not exist."""


class LimitReachedError(RoadQAError):
    """The run may spend no more. Its work so far is kept, and goes on once the limit is raised."""


class Stopped(RoadQAError):  # noqa: N818 - not a failure: the work was asked to stop and is kept in scratch
    """The verb stopped because `ctx.stopping` was set; what it had is in scratch."""
