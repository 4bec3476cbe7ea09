"""What the tests with other people's programs share: one provider and one server for all that do not disturb each other."""

import pytest
from support.house import House


def _all_ended(started):
    trouble = []
    for thing in reversed(started):
        try:
            thing.stop()
        except Exception as error:  # the next must be ended too
            trouble.append(error)
    if trouble:
        raise trouble[0]


@pytest.fixture(scope="session")
def house(tmp_path_factory, authority):
    started = []
    try:
        # Of ten minutes of life the server would give up the last two and a half by itself, in the middle of some test.
        yield House.open(tmp_path_factory.mktemp("house"), authority, started.append, access_seconds=3000)
    finally:
        _all_ended(started)


@pytest.fixture(scope="module")
def module_ending():
    """`ending` for what the tests of one file share."""
    started = []
    try:
        yield started.append
    finally:
        _all_ended(started)


@pytest.fixture
def newcomer(house, tmp_path, kind):
    """A client that nobody has used yet."""
    return house.client(kind, tmp_path / "newcomer")


@pytest.fixture
def resident(house, tmp_path, kind):
    """A client whose user has logged in at the provider; a vault token and the credential key are there, a bearer token is not."""
    return house.resident(kind, tmp_path / "resident")
