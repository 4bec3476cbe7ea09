"""Vault tokens that do not serve, names that do not exist, an issuer that is away: what clients hear, and what they never hear.

The words "permission denied" make HTCondor's credential monitor delete what a user has stored. They are said only on proof.
"""

import time

import pytest
from support.house import House, lookup, new_token
from support.processes import wait_until
from support.tokens import claims

FATAL = "permission denied"


def read(server, token, name, query=""):
    status, body = server.call("GET", f"secret/oauth/creds/{name}{query}", token)
    return status, " ".join((body or {}).get("errors") or [])


@pytest.fixture
def token(resident):
    return resident.vault_token.read_text().strip()


def keep(resident, token):
    resident.vault_token.write_text(token + "\n")


def test_revoked(house, resident, token):
    child = new_token(house.server, token, "1h")
    assert house.server.call("POST", "auth/token/revoke-self", child)[0] == 204
    keep(resident, child)
    outcome = resident.run("--nooidc", terminal=False)
    assert outcome.code == 1, outcome
    assert not resident.bearer.exists()
    assert read(house.server, child, f"dune/{resident.user}:default") == (403, FATAL), "a revoked token is provably dead"
    with_minimum = resident.run("--nooidc", "--vaulttokenminttl=1m", terminal=False)
    assert with_minimum.code == 1, with_minimum
    healed = resident.log_in(house.person(resident.user))
    assert healed.code == 0, healed
    assert lookup(house.server, resident.vault_token.read_text().strip())["ttl"] > 6 * 86400


@pytest.mark.parametrize("unknown", ["hvs.CAESINotOneOfOursAtAll0123456789", "s.6Qb2h0dYw8sK3mVt1RzXcN7e", "rubbish"])
def test_unknown(house, resident, unknown):
    keep(resident, unknown)
    outcome = resident.run("--nooidc", terminal=False)
    assert outcome.code == 1, outcome
    assert read(house.server, unknown, f"dune/{resident.user}:default") == (403, FATAL), "it does not carry our proof"


def test_expired_a_moment_ago(house, resident, token):
    dying = new_token(house.server, token, "1s")
    keep(resident, dying)
    name = f"dune/{resident.user}:default"
    status, text = wait_until(lambda: (lambda answer: answer[0] != 200 and answer)(read(house.server, dying, name)), "the token expires")
    # Within the tolerance for clocks nothing is proven yet.
    assert status == 503 and FATAL not in text and "expired" in text
    outcome = resident.run("--nooidc", terminal=False)
    assert outcome.code == 1, outcome
    assert FATAL not in outcome.out + outcome.err
    assert not resident.bearer.exists()


def test_wrong_role(house, resident, token):
    status, text = read(house.server, token, f"dune/{resident.user}:nosuch")
    assert status != 200 and FATAL not in text, "a role that does not exist proves nothing about the token"
    outcome = resident.run("-r", "nosuch", f"--credkey={resident.user}")
    assert outcome.code == 1, outcome
    assert "nosuch" in outcome.err and FATAL not in outcome.out + outcome.err
    assert not resident.bearer.exists()


def test_role_of_another_login(house, resident, token):
    """A policy of a live token refuses a role that exists: proof, and the way out is a login for that role."""
    status, text = read(house.server, token, f"dune/{resident.user}:other")
    assert status == 403 and FATAL in text
    outcome = resident.run("-r", "other", f"--credkey={resident.user}", "--nooidc", terminal=False)
    assert outcome.code == 1, outcome
    healed = resident.log_in(house.person(resident.user), "-r", "other")
    assert healed.code == 0, healed
    assert (resident.home / ".config/htgettoken/credkey-dune-other").read_text().strip() == resident.user


def test_wrong_issuer(house, resident, token):
    status, text = read(house.server, token, f"nosuch/{resident.user}:default")
    assert status != 200 and FATAL not in text
    outcome = resident.run(f"--credkey={resident.user}", issuer="nosuch")
    assert outcome.code == 1, outcome
    assert FATAL not in outcome.out + outcome.err
    assert not resident.bearer.exists()


@pytest.fixture(scope="module")
def lonely(tmp_path_factory, authority, module_ending):
    """A house of its own whose provider is gone after both clients have logged in."""
    # So long that the tests are over well within the tenth of a token's life in which it is as good as a new one.
    house = House.open(tmp_path_factory.mktemp("lonely"), authority, module_ending, access_seconds=2400)
    for kind in ("original", "ours"):
        house.resident(kind, house.directory / f"first-{kind}")
    house.provider.stop()
    return house


def test_issuer_down(lonely, kind, tmp_path):
    client = lonely.resident(kind, tmp_path / "client")
    cached = client.run(terminal=False)
    assert cached.code == 0, cached
    client.bearer.unlink()

    # Asked for more than any token of this issuer was seen to live, a new one would be no better than what there is.
    best = client.run("--minsecs=3000", "--nooidc", terminal=False)
    assert best.code == 0, best
    life = claims(client.bearer.read_text())
    client.bearer.unlink()
    minimum = life["exp"] - life["iat"] - 2
    wait_until(lambda: life["exp"] - time.time() < minimum - 1, "the cached token is three seconds old")
    more = client.run(f"--minsecs={minimum}", "--nooidc", terminal=False)
    assert more.code == 1, more
    assert FATAL not in more.out + more.err
    name = f"dune/{client.user}:default"
    status, text = read(lonely.server, client.vault_token.read_text().strip(), name, f"?minimum_seconds={minimum}")
    assert status == 503 and text and FATAL not in text, "not the credential's fault"
    assert not client.bearer.exists() and client.vault_token.exists()

    # Somebody who needs a login hears of the issuer, and at once.
    client.vault_token.unlink()
    login = client.run()
    assert login.code == 1, login
    assert login.err.splitlines()[-1].startswith("htgettoken: ")
    assert FATAL not in login.out + login.err


def test_server_down(lonely, kind, tmp_path):
    client = lonely.resident(kind, tmp_path / "client")
    lonely.server.stop()
    try:
        outcome = client.run(terminal=False)
    finally:
        lonely.server.start()
    assert outcome.code == 1, outcome
    assert FATAL not in outcome.out + outcome.err
    assert client.run(terminal=False).code == 0, "what was cached outlives a restart"


def test_expired_beyond_doubt(house, resident, kind):
    """A minute after its end, the tolerance for clocks, the expiry is proof."""
    dead = house.dying[kind]
    name = f"dune/{resident.user}:default"
    # Mostly over long ago: the token was made at the first login of this session.
    status, text = wait_until(
        lambda: (lambda answer: answer if answer[0] == 403 else None)(read(house.server, dead, name)), "the tolerance is over", patience=90
    )
    assert text == FATAL
    keep(resident, dead)
    outcome = resident.run("--nooidc", terminal=False)
    assert outcome.code == 1, outcome
    assert not resident.bearer.exists()
    healed = resident.log_in(house.person(resident.user))
    assert healed.code == 0, healed
    assert resident.vault_token.read_text().strip() != dead
