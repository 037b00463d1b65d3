"""One engine and one copy of the project for all tests here."""

from collections.abc import Iterator

import pytest

from tests.containers.engine import NoEngineError, engine, packages_served
from tests.containers.project import Project, copy


@pytest.fixture(scope="session")
def maybe() -> Iterator[Project | NoEngineError]:
    """The project, or why there can be none here."""
    try:
        with engine() as running, packages_served():
            made = copy(running)
            yield made
            made.remove()
    except NoEngineError as error:
        yield error


@pytest.fixture(scope="session")
def project(maybe: Project | NoEngineError) -> Project:
    """The project; without an engine it is an error."""
    if isinstance(maybe, NoEngineError):
        raise maybe
    return maybe
