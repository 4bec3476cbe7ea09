"""What operators do to a server; the client is ours."""

import pytest

from support.vault import Vault


@pytest.fixture
def kind():
    return "ours"


@pytest.fixture
def world(make_issuer, make_server, entry):
    issuer = make_issuer(auto_login="alice")
    server = make_server([entry(issuer)])
    client = Vault(server)
    token, key = client.login()
    return issuer, server, client, token, key
