"""Fixtures: everything a test starts is its own and is gone when it ends."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from support.certificates import Authority  # noqa: E402
from support.clients import Client  # noqa: E402
from support.issuers import Issuer, Provider  # noqa: E402
from support.processes import GRIDKEEP  # noqa: E402
from support.servers import Server  # noqa: E402


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def ending():
    """Registers things with a `stop`; ends them in reverse order, all of them even when one fails."""
    started = []
    yield started.append
    trouble = []
    for thing in reversed(started):
        try:
            thing.stop()
        except Exception as error:  # the next must be ended too
            trouble.append(error)
    if trouble:
        raise trouble[0]


@pytest.fixture
def as_root():
    """For tests that become another user, or look into other programs: elsewhere they are left out, in CI that is a failure."""
    if os.geteuid() != 0:
        assert not os.environ.get("CI"), "CI has to run this test, and only root can"
        pytest.skip("only root can become another user and look into other programs")


@pytest.fixture
def public():
    """A directory that every user can enter; those above pytest's are closed anew whenever another run begins."""
    with tempfile.TemporaryDirectory(prefix="gridkeep-test-") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.fixture(scope="session")
def everybodys():
    """The program where every user can run it: the place where it was built may be closed, as a home is."""
    with tempfile.TemporaryDirectory(prefix="gridkeep-program-") as directory:
        os.chmod(directory, 0o755)
        yield Path(shutil.copy(GRIDKEEP, directory))


@pytest.fixture
def make_issuer(tmp_path, ending):
    def make(name="issuer", **options):
        issuer = Issuer(tmp_path, name, **options)
        ending(issuer)
        return issuer

    return make


@pytest.fixture
def make_provider(tmp_path, authority, ending):
    def make(redirect_uri):
        provider = Provider(tmp_path, authority, redirect_uri)
        ending(provider)
        return provider

    return make


@pytest.fixture
def make_server(tmp_path, authority, ending):
    def make(issuers, name="server", start=True, below=tmp_path, **options):
        directory = below / name
        directory.mkdir()
        server = Server(directory, authority, issuers, **options)
        ending(server)
        return server.start() if start else server

    return make


@pytest.fixture(params=["original", "ours"])
def kind(request):
    """Every test that takes this runs with PyPI's htgettoken and with ours."""
    return request.param


@pytest.fixture
def make_client(tmp_path, kind):
    def make(server, name="user", kind=kind):
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        return Client(kind, directory, server)

    return make


def issuer_entry(issuer, name="dune", mode="device", claim="wlcg.credkey", roles=None):
    """An issuer in the schema of the original's files."""
    return {
        "name": name,
        "clientid": issuer.client_id,
        "secret": issuer.client_secret,
        "url": issuer.url,
        "callbackmode": mode,
        "credclaim": claim,
        "ca_file": issuer.ca,
        "roles": roles or [{"name": "default", "scopes": ["profile", "offline_access", "wlcg", "storage.read:/"]}],
    }


@pytest.fixture(scope="session")
def entry():
    return issuer_entry
