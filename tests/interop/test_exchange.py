"""Tokens with fewer scopes or other audiences (RFC 8693) at an issuer in each character: the original client and ours."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.clients import Client, finish, read_line, read_url
from support.house import lookup
from support.issuers import Issuer
from support.processes import wait_until
from support.servers import Server
from support.tokens import claims

CHARACTERS = ["wlcg", "iam", "cilogon", "keycloak"]
USERS = ["original-user", "ours-user", "original-leaver", "ours-leaver"]
BASE = ["profile", "offline_access", "wlcg", "storage.read:/", "storage.create:/", "compute.create"]
PRODUCTION = "wlcg.capabilityset:/testvo/prod"
READ, CREATE = "storage.read:/testvo", "storage.create:/testvo/data"
# Where an audience is asked for by a scope, as at Keycloak, the issuer was told which.
AUDIENCE_SCOPE, AUDIENCE = "aud:https://se.example.org", "https://se.example.org"


def user(name):
    """Somebody whose capability set for production brings another credential key, as the role of a robot would."""
    return {
        "name": name, "password": name,
        "claims": {"wlcg.credkey": name, "email": f"{name}@vo.example.org", "eppn": f"{name}@site.example.org"},
        "claims_when": {PRODUCTION: {"wlcg.credkey": f"{name}pro"}},
        "default_groups": ["/testvo"], "optional_groups": ["/testvo/prod"],
        "capability_sets": {"/testvo/prod": [READ, CREATE]},
    }


@pytest.fixture(scope="module")
def issuers(tmp_path_factory, module_ending):
    """One of each character; those of people who log in by a form."""
    directory = tmp_path_factory.mktemp("issuers")
    made = {}
    for character in CHARACTERS:
        made[character] = Issuer(
            directory, character, {"users": [user(name) for name in USERS], "ask_consent": True}, character=character
        )
        module_ending(made[character])
    # One that will be told to fail, so that its back-off does not hit the others.
    made["shaky"] = Issuer(directory, "shaky", {"users": [user(name) for name in USERS]})
    module_ending(made["shaky"])
    return made


@pytest.fixture(scope="module")
def server(tmp_path_factory, authority, issuers, module_ending, entry):
    roles = [
        {"name": "default", "scopes": BASE},
        {"name": "production", "scopes": ["profile", "offline_access", "wlcg", PRODUCTION]},
        {"name": "eppn", "scopes": BASE, "credclaim": "eppn"},
    ]
    entries = [entry(issuer, name=character, roles=roles) for character, issuer in issuers.items()]
    directory = tmp_path_factory.mktemp("exchange") / "server"
    directory.mkdir()
    made = Server(directory, authority, entries)
    module_ending(made)
    return made.start()


@pytest.fixture(params=CHARACTERS)
def character(request):
    return request.param


# Every login of this file: where, in which role, and as whom.
LOGINS = [
    *((character, role, user) for character in CHARACTERS for role, user in (("default", "user"), ("production", "user"), ("default", "leaver"))),
    ("wlcg", "eppn", "user"), ("shaky", "default", "user"),
]


def name_of(kind, character, role, user):
    return f"{kind}-{user}-{character}-{role}"


def first_login(server, issuer, homes, kind, character, role, user):
    directory = homes / name_of(kind, character, role, user)
    directory.mkdir()
    process = Client(kind, directory, server).start("-r", role, issuer=character)
    try:
        # Several logins are under way at each issuer: this one is known by its code, in the address or below it.
        code = re.search(r"user_code=(\S+)", read_url(process)) or read_line(process, r"enter code (\S+)\n")
        assert issuer.admin("approve", {"user_code": code.group(1), "user": f"{kind}-{user}"}) == {"done": 1}
    finally:
        outcome = finish(process)
    assert outcome.code == 0, outcome


@pytest.fixture(scope="module")
def homes(tmp_path_factory, server, issuers):
    """The homes after all logins, made side by side: most of a login is waiting for the time of the next question."""
    directory = tmp_path_factory.mktemp("homes")
    with ThreadPoolExecutor(8) as pool:
        # The slow ones first: IAM lets its clients ask every five seconds.
        todo = sorted(((kind, *login) for kind in ("original", "ours") for login in LOGINS), key=lambda login: login[1] != "iam")
        for done in [pool.submit(first_login, server, issuers[login[1]], directory, *login) for login in todo]:
            done.result()
    return directory


@pytest.fixture
def log_in(server, homes, kind, tmp_path):
    """A client whose user is logged in at an issuer with a role; the home is a copy."""

    def make(character, role="default", user="user"):
        name = name_of(kind, character, role, user)
        directory = tmp_path / name
        directory.mkdir()
        client = Client(kind, directory, server)
        shutil.copytree(homes / name / "home", client.home, dirs_exist_ok=True)
        return client

    return make


def jwt(client):
    return claims(client.bearer.read_text())


def scopes(client):
    return jwt(client)["scope"].split()


def audiences(client):
    found = jwt(client).get("aud")
    return found if isinstance(found, list) else [found]


def test_narrowed(log_in, server, issuers, character, kind):
    client = log_in(character)
    wide = jwt(client)
    assert {"storage.read:/", "storage.create:/"} <= set(scopes(client))

    outcome = client.run(f"--scopes={READ}", issuer=character, terminal=False)
    assert outcome.code == 0, outcome
    narrow = jwt(client)
    assert READ in scopes(client) and "storage.create:/" not in scopes(client)
    assert narrow["sub"] == wide["sub"] and narrow["jti"] != wide["jti"]

    # The same once more is the same token, and does not trouble the issuer.
    asked = issuers[character].admin("counters")["grant_types"]
    assert client.run("--scopes", READ, issuer=character, terminal=False).code == 0
    assert jwt(client)["jti"] == narrow["jti"]
    assert issuers[character].admin("counters")["grant_types"] == asked

    # Commas and blanks separate alike.
    for separator in (",", " "):
        both = client.run(f"--scopes={READ}{separator}compute.create", issuer=character, terminal=False)
        assert both.code == 0, both
        assert {READ, "compute.create"} <= set(scopes(client))

    # An audience of one's own, alone and with scopes, in the issuer's own way of asking for it.
    if character == "keycloak":
        words = (f"--scopes={READ},{AUDIENCE_SCOPE}",)
    else:
        words = (f"--scopes={READ}", f"--audience={AUDIENCE}")
    outcome = client.run(*words, issuer=character, terminal=False)
    assert outcome.code == 0, outcome
    assert AUDIENCE in audiences(client) and READ in scopes(client)
    if character in ("wlcg", "cilogon"):
        outcome = client.run("--audience=https://a.example.org,https://b.example.org", issuer=character, terminal=False)
        assert outcome.code == 0, outcome
        assert {"https://a.example.org", "https://b.example.org"} <= set(audiences(client))

    if character == "iam":
        # IAM exchanges nothing without a scope: the server names the login's own.
        outcome = client.run("--audience=https://c.example.org", issuer=character, terminal=False)
        assert outcome.code == 0, outcome
        assert "https://c.example.org" in audiences(client) and "storage.read:/" in scopes(client)

    # The wide token is still there, and a vault token of the login may be used for all of it.
    assert client.run(issuer=character, terminal=False).code == 0
    assert jwt(client)["jti"] == wide["jti"]
    assert lookup(server, client.vault_token.read_text().strip())["ttl"] > 6 * 86400


def test_scopes_beyond_the_grant(log_in, issuers, server, character, kind):
    """What the issuer refuses or leaves out is never handed out, and never taken for a dead vault token."""
    client = log_in(character)
    client.bearer.unlink()
    token = client.vault_token.read_text().strip()
    outcome = client.run("--scopes=storage.modify:/", "--nooidc", issuer=character, terminal=False)
    if outcome.code == 0:
        assert "storage.modify:/" not in scopes(client)
    else:
        assert outcome.code == 1, outcome
        status, body = server.call("GET", f"secret/oauth/sts/{character}/{kind}-user:default?scopes=storage.modify:/", token)
        assert status in (400, 502, 503) and "permission denied" not in str(body).lower(), body
    assert lookup(server, token)["ttl"] > 0


def test_credential_key_depends_on_the_role(log_in, character, kind):
    """A capability set among the role's scopes changes the claim that the credential is kept under."""
    client = log_in(character, role="production")
    remembered = client.home / f".config/htgettoken/credkey-{character}-production"
    assert remembered.read_text() == f"{kind}-userpro\n"
    assert {READ, CREATE} <= set(scopes(client))
    assert "storage.create:/" not in scopes(client)
    again = client.run("-r", "production", "--nooidc", issuer=character, terminal=False)
    assert again.code == 0, again


def test_credential_claim_of_one_role(log_in, kind):
    client = log_in("wlcg", role="eppn")
    assert (client.home / ".config/htgettoken/credkey-wlcg-eppn").read_text() == f"{kind}-user@site.example.org\n"
    outcome = client.run("-r", "eppn", "--showbearerurl", issuer="wlcg", terminal=False)
    assert outcome.code == 0, outcome
    assert outcome.out == f"{client.server.url}/v1/secret/oauth/creds/wlcg/{kind}-user@site.example.org:eppn\n"


def test_narrowing_is_never_ignored(log_in, server, kind):
    """Stored URLs of older storers have /creds/ with scopes and a singular audience."""
    client = log_in("wlcg")
    token = client.vault_token.read_text().strip()
    name = f"wlcg/{kind}-user:default"
    for path, query in (("creds", f"scopes={READ}&audience={AUDIENCE}"), ("sts", f"scopes={READ}&audiences={AUDIENCE}")):
        status, body = server.call("GET", f"secret/oauth/{path}/{name}?minimum_seconds=60&{query}", token)
        assert status == 200, body
        got = claims(body["data"]["access_token"])
        assert "storage.create:/" not in got["scope"].split() and AUDIENCE in str(got["aud"])


@pytest.mark.parametrize("fault", ["drop", "garbage", "busy"])
def test_issuer_fails_at_an_exchange(log_in, server, issuers, kind, fault):
    """Whatever becomes of the issuer, the vault token is alive and is not called dead."""
    issuer = issuers["shaky"]
    client = log_in("shaky")
    token = client.vault_token.read_text().strip()
    path = f"secret/oauth/sts/shaky/{kind}-user:default?scopes=compute.create&audiences=https://{fault}.{kind}.example.org"
    kinds = {"drop": {"kind": "drop"}, "garbage": {"kind": "garbage"}, "busy": {"kind": "status", "status": 503, "body": "<html>busy</html>"}}
    issuer.admin("faults", {"endpoint": "token", **kinds[fault]})
    try:
        status, body = server.call("GET", path, token)
        outcome = client.run(
            "--scopes=compute.create", f"--audience=https://{fault}.{kind}.example.org", "--nooidc", issuer="shaky", terminal=False
        )
    finally:
        issuer.admin("faults", method="DELETE")
    assert status == 503 and "permission denied" not in str(body).lower(), body
    assert outcome.code == 1, outcome
    assert "permission denied" not in (outcome.out + outcome.err).lower()
    assert lookup(server, token)["ttl"] > 0


def test_grant_revoked_at_the_issuer(log_in, server, issuers, character, kind):
    """A refused refresh asks for a login, whatever the issuer calls it (401 and invalid_token at IAM); the vault token stays alive."""
    client = log_in(character, user="leaver")
    issuer = issuers[character]
    token = client.vault_token.read_text().strip()
    life = jwt(client)["exp"] - jwt(client)["iat"]
    assert issuer.admin("revoke", {"user": f"{kind}-leaver"})["done"] > 0
    path = f"secret/oauth/creds/{character}/{kind}-leaver:default?minimum_seconds={life - 2}"

    def refused():
        status, body = server.call("GET", path, token)
        return (status, body) if status != 200 else None

    status, body = wait_until(refused, "the cached token is too old for this")
    assert status == 400 and "permission denied" not in str(body).lower(), body
    assert lookup(server, token)["ttl"] > 0
    outcome = client.run(f"--minsecs={life - 2}", "--nooidc", issuer=character, terminal=False)
    assert outcome.code == 1, outcome
    assert "permission denied" not in (outcome.out + outcome.err).lower()
    if kind == "ours":
        assert "login" in outcome.err, outcome

    if character == "iam":
        return  # the same as elsewhere, at its own slow pace
    approval = issuer.approve(f"{kind}-leaver")
    healed = client.run(f"--minsecs={life - 2}", issuer=character)
    approval.join()
    assert healed.code == 0, healed
