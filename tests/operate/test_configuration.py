"""What the configuration files can say beyond the original, and what a change of them does to people."""

import base64
import urllib.parse

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from support.processes import wait_until
from support.vault import Vault
from test_running import gridkeep

def role(name, **terms):
    return {"name": name, "scopes": ["profile", "offline_access", "wlcg", "storage.read:/"], **terms}


def begin(server, issuer="dune", role="default", headers=None):
    body = {"role": role, "client_nonce": "n" * 43, "redirect_uri": ""}
    return server.call("POST", f"auth/oidc-{issuer}/oidc/auth_url", body=body, headers=headers)


def poll_until_decided(server, state):
    body = {"state": state, "client_nonce": "n" * 43}

    def decided():
        status, answer = server.call("POST", "auth/oidc-dune/oidc/poll", body=body)
        return None if status == 400 and answer["errors"] == ["authorization_pending"] else (status, answer)

    return wait_until(decided, "the login is decided", server.process)


def remote_addresses(server, path):
    return [line["request"]["remote_address"] for line in server.audit() if line["type"] == "request" and line["request"]["path"] == path]


def test_the_terms_of_a_role(make_issuer, make_server, entry):
    issuer = make_issuer(auto_login="alice")
    roles = [
        role("default", token_ttl="2h", bound_claims={"wlcg.credkey": ["alice", "carol"]}),
        role("production", bound_claims={"wlcg.credkey": "bob"}),
        role("robots", token_period="1h"),
    ]
    server = make_server([entry(issuer, roles=roles)], own={"tokens": {"default_ttl": "4h", "max_ttl": "5h"}})
    client = Vault(server)
    look = lambda token: client.request("GET", "auth/token/lookup-self", token)[1]["data"]  # noqa: E731
    token, key = client.login()
    assert look(token)["creation_ttl"] == 2 * 3600
    assert client.read(token, key)[0] == 200
    made = client.request("POST", "auth/token/create", token, {"ttl": "100h"})[1]
    assert made["auth"]["lease_duration"] == 5 * 3600, made
    robot, _ = client.login(role="robots")
    assert (look(robot)["period"], look(robot)["creation_ttl"]) == (3600, 3600)

    status, started = begin(server, role="production")
    assert status == 200
    status, answer = poll_until_decided(server, started["data"]["state"])
    assert status == 400 and 'claim "wlcg.credkey" does not match' in answer["errors"][0], answer
    assert "permission denied" not in answer["errors"][0]

    shown = server.call("GET", "auth/oidc-dune/role/production", server.operator_token())[1]["data"]
    assert shown["bound_claims"] == {"wlcg.credkey": ["bob"]}


def test_a_forged_x_forwarded_for_is_ignored_and_a_front_servers_is_believed(make_issuer, make_server, entry):
    issuer = make_issuer(auto_login="alice")
    roles = [role("default", token_bound_cidrs=["127.0.0.1", "198.51.100.0/24"])]
    limits = {"ratelimits": [{"name": "logins", "path": "auth/oidc-dune/oidc/auth_url", "rate": 2, "interval": "1h"}]}
    server = make_server([entry(issuer, roles=roles)], extra=limits)
    token, _ = Vault(server).login()
    path = "auth/token/lookup-self"
    via = lambda address: server.call("GET", path, token, headers={"X-Forwarded-For": address})[0]  # noqa: E731
    assert via("203.0.113.9") == 200, "nobody is trusted, so nobody is believed"
    assert set(remote_addresses(server, path)) == {"127.0.0.1"}
    assert [begin(server, headers={"X-Forwarded-For": f"198.51.100.{n}"})[0] for n in (1, 2)] == [200, 429]

    server.config["gridkeep"]["trusted_proxies"] = ["127.0.0.1"]
    server.reload()
    assert via("203.0.113.9") == 403, "the client's own address counts"
    assert via("198.51.100.7") == 200
    assert via("198.51.100.7, 203.0.113.9") == 403, "what stands left of the client may be forged"
    assert via("not an address") == 400
    assert remote_addresses(server, path)[-3:] == ["203.0.113.9", "198.51.100.7", "203.0.113.9"]
    assert [begin(server, headers={"X-Forwarded-For": f"198.51.100.{n}"})[0] for n in (1, 1, 1, 2)] == [200, 200, 429, 200]


def test_a_renamed_service_takes_logins_under_both_names(make_issuer, make_server, entry):
    issuer = make_issuer(auto_login="alice")
    server = make_server([entry(issuer, mode="direct")], own={"public_url": "https://tokens.example.org", "other_urls": ["https://former.example.org:8200"]})
    for base, known in (("https://tokens.example.org", True), ("https://former.example.org:8200", True), ("https://other.example.org", False)):
        body = {"role": "default", "client_nonce": "n" * 43, "redirect_uri": f"{base}/v1/auth/oidc-dune/oidc/callback"}
        status, answer = server.call("POST", "auth/oidc-dune/oidc/auth_url", body=body)
        assert status == 200 and bool(answer["data"]["auth_url"]) == known, answer


def test_a_removed_role_is_explained_and_the_diff_says_who_is_met(world):
    issuer, server, client, token, key = world
    server.config["issuers"][0]["roles"] = [role("production")]
    server.write_config()
    told = gridkeep(server, "config", "diff")
    assert "[access ends] issuers[dune].roles[default]" in told.stdout, told
    assert f"It is about 1 user of role `default` ({key})." in told.stdout, told
    server.reload()
    status, body = client.read(token, key)
    assert status == 503 and 'role "default" of issuer "dune" was taken out' in body["errors"][0], body
    assert begin(server)[0] == 503
    server.config["issuers"][0]["roles"].append(role("default"))
    server.reload()
    assert client.read(token, key)[0] == 200, "a slip of the pen costs nobody a login"


@pytest.mark.parametrize("slip", ["issuer", "role", "name"])
def test_a_slip_of_the_pen_at_a_start_costs_nobody_a_login(slip, make_issuer, make_server, entry):
    """The server starts without what it cannot read; its users are told to wait, and have all when it is put right."""
    issuers = [entry(make_issuer(name, auto_login="alice"), name=name) for name in ("dune", "cms")]
    server = make_server(issuers)
    client = Vault(server)
    token, key = client.login()
    server.stop()
    wrong = {
        "issuer": {**issuers[0], "callbackmode": "devise"},
        "role": {**issuers[0], "roles": [{"name": "default", "token_ttl": "soon"}, role("other")]},
        "name": {"nmae": "dune", **{key: value for key, value in issuers[0].items() if key != "name"}},
    }
    server.config["issuers"] = [wrong[slip], issuers[1]]
    server.write_config()
    server.start()
    client = Vault(server)
    status, answer = client.read(token, key)
    assert status == 503 and "because of an error in this server's configuration; its logins are kept" in answer["errors"][0], answer
    assert begin(server)[0] == 503
    assert begin(server, issuer="cms")[0] == 200
    server.stop()
    server.config["issuers"] = issuers
    server.write_config()
    server.start()
    assert Vault(server).read(token, key)[0] == 200


def test_a_changed_url_asks_for_a_new_login_and_the_old_token_is_not_sent_there(world, make_issuer):
    issuer, server, client, token, key = world
    other = make_issuer("other", auto_login="alice")
    for member, value in (("url", other.url), ("ca_file", other.ca)):
        server.config["issuers"][0][member] = value
    server.write_config()
    told = gridkeep(server, "config", "diff")
    assert "[login again] issuers[dune].url" in told.stdout and f"1 user of role `default` ({key})" in told.stdout, told
    server.reload()
    status, body = client.read(token, key)
    assert status == 400 and "log in again" in body["errors"][0].lower(), body
    assert "refresh_token" not in other.admin("counters")["grant_types"]
    again, key = client.login()
    assert client.read(again, key)[0] == 200


@pytest.mark.parametrize("trouble", ["refused", "unknown-name", "garbage", "not-found"])
def test_an_issuer_in_trouble_at_the_start_keeps_no_other_from_service(trouble, make_issuer, make_server, entry):
    good, bad = make_issuer(auto_login="alice"), make_issuer("bad", auto_login="alice")
    broken = entry(bad, name="helix")
    if trouble == "refused":
        # A port of loopback that nobody listens on: that of an issuer that is gone.
        gone = make_issuer("gone")
        broken["url"] = gone.url
        gone.stop()
    elif trouble == "unknown-name":
        broken["url"] = "https://issuer.invalid/"
    elif trouble == "garbage":
        bad.admin("faults", {"endpoint": "discovery", "kind": "garbage"})
    else:
        bad.admin("faults", {"endpoint": "discovery", "kind": "status", "status": 404})
    server = make_server([entry(good), broken])
    client = Vault(server)
    token, key = client.login()
    assert client.read(token, key)[0] == 200
    status, body = begin(server, issuer="helix")
    assert status == 503 and "permission denied" not in body["errors"][0], body
    wait_until(lambda: "the issuer does not answer yet" in server.log(), "the log names it", server.process)
    if trouble in ("garbage", "not-found"):
        bad.admin("faults", method="DELETE")
        wait_until(lambda: begin(server, issuer="helix")[0] == 200, "it is served as soon as it answers", server.process)


def client_key(path, kid):
    """A new EC key in a PEM file; returns what the issuer has to know of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    path.chmod(0o600)
    numbers = key.public_key().public_numbers()
    text = lambda number: base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()  # noqa: E731
    return {"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid, "x": text(numbers.x), "y": text(numbers.y)}]}


@pytest.mark.parametrize("way", ["client_secret_basic", "client_secret_post", "private_key_jwt", "none"])
def test_each_way_of_authenticating_the_client(way, make_issuer, make_server, entry, tmp_path):
    """The issuer takes one way and refuses all others."""
    known = {"id": "gridkeep", "auth": [way]}
    if way == "private_key_jwt":
        known["jwks"] = client_key(tmp_path / "client.pem", "gridkeep")
    elif way != "none":
        known["secret"] = "gridkeep-secret"
    # What the issuer says of itself is no help: every way is listed.
    issuer = make_issuer(config={"clients": [known], "auth_methods": ["client_secret_basic", "client_secret_post", "private_key_jwt", "none"]}, auto_login="alice")
    ours = {key: value for key, value in entry(issuer).items() if key != "secret"}
    if way == "none":
        ours["public_client"] = True
    else:
        ours["client_auth"] = way
        ours.update({"private_key": str(tmp_path / "client.pem")} if way == "private_key_jwt" else {"secret": "gridkeep-secret"})
    server = make_server([ours])
    client = Vault(server)
    token, key = client.login()
    assert client.refreshed(token, key)["status"] == 200
    # Another way is refused, and costs nobody the credential.
    other = "client_secret_post" if way != "client_secret_post" else "client_secret_basic"
    server.config["issuers"][0] = {**{key: value for key, value in ours.items() if key not in ("public_client", "private_key")}, "client_auth": other, "secret": "gridkeep-secret"}
    server.reload()
    status, body = begin(server)
    assert status != 200 and "permission denied" not in body["errors"][0], body
    assert client.read(token, key)[0] == 200
    server.config["issuers"][0] = ours
    server.reload()
    wait_until(lambda: begin(server)[0] == 200, "people can log in again", server.process)
    assert client.refreshed(token, key)["status"] == 200


def test_a_changed_secret_ends_no_credential(make_issuer, make_server, entry):
    issuer = make_issuer(auto_login="alice")
    server = make_server([entry(issuer)])
    client = Vault(server)
    token, key = client.login()
    issuer.admin("settings", {"secrets": {"gridkeep": "another-secret"}})
    server.config["issuers"][0]["secret"] = "another-secret"
    server.write_config()
    told = gridkeep(server, "config", "diff")
    assert "issuers[dune].secret" in told.stdout and "nobody loses access" in told.stdout and "another-secret" not in told.stdout, told
    server.reload()
    assert client.refreshed(token, key)["status"] == 200
    again, key = client.login()
    assert client.read(again, key)[0] == 200


def test_further_parameters_of_a_login_request(make_issuer, make_server, entry):
    issuer = make_issuer(auto_login="alice")
    params = {"prompt": "login", "resource": "https://storage.example.org/a?b=c"}
    own = {"public_url": "https://tokens.example.org"}
    server = make_server([{**entry(issuer, mode="direct"), "authorization_params": params}], own=own)
    redirect = f"{own['public_url']}/v1/auth/oidc-dune/oidc/callback"
    body = {"role": "default", "client_nonce": "n" * 43, "redirect_uri": redirect}
    status, answer = server.call("POST", "auth/oidc-dune/oidc/auth_url", body=body)
    assert status == 200, answer
    # In direct mode the address is ours and leads there.
    asked = urllib.parse.parse_qs(urllib.parse.urlsplit(answer["data"]["auth_url"]).query)
    assert {name: asked[name] for name in params} == {name: [value] for name, value in params.items()}, answer
    assert asked["redirect_uri"] == [redirect] and "state" in asked


def test_a_claim_inside_another_names_the_credential(make_issuer, make_server, entry):
    users = [{"name": "alice", "password": "alice", "claims": {"realm": {"user": "alice.deep"}}}]
    issuer = make_issuer(config={"users": users}, auto_login="alice")
    server = make_server([{**entry(issuer, claim="/realm/user"), "credclaim_json_pointer": True}])
    token, key = Vault(server).login()
    assert key == "alice.deep" and Vault(server).read(token, key)[0] == 200


def test_an_issuer_is_asked_no_more_often_and_no_longer_than_said(make_issuer, make_server, entry):
    issuer, slow = make_issuer(auto_login="alice"), make_issuer("slow", auto_login="alice")
    server = make_server([{**entry(issuer), "requests_per_second": 0.01}, {**entry(slow, name="slow"), "request_timeout": 1}])
    # One request at once, and the next after a hundred seconds.
    answers = [begin(server) for _ in range(3)]
    assert [status for status, _ in answers].count(503) >= 2, answers
    assert all("permission denied" not in str(answer) for _, answer in answers)
    slow.admin("faults", {"endpoint": "device_authorization", "kind": "delay", "delay_ms": 3000})
    status, answer = begin(server, issuer="slow")
    assert status == 503 and "permission denied" not in str(answer), answer


def test_front_servers_are_believed_from_the_start_on(make_issuer, make_server, entry):
    roles = [role("default", token_bound_cidrs=["127.0.0.1", "198.51.100.0/24"])]
    server = make_server([entry(make_issuer(auto_login="alice"), roles=roles)], own={"trusted_proxies": ["127.0.0.1"]})
    token, _ = Vault(server).login()
    via = lambda address: server.call("GET", "auth/token/lookup-self", token, headers={"X-Forwarded-For": address})[0]  # noqa: E731
    assert (via("198.51.100.7"), via("203.0.113.9")) == (200, 403)


def test_a_limit_per_user_counts_users_and_not_addresses(make_issuer, make_server, entry):
    first, second = make_issuer("first", auto_login="alice"), make_issuer("second", auto_login="bob")
    limits = {"ratelimits": [{"name": "self", "path": "auth/token/lookup-self", "rate": 2, "interval": "1h", "per": "user"}]}
    server = make_server([entry(first), entry(second, name="cms")], extra=limits)
    client = Vault(server)
    tokens = [client.login()[0], client.login("cms")[0]]
    looks = lambda token: [client.request("GET", "auth/token/lookup-self", token)[0] for _ in range(3)]  # noqa: E731
    assert [looks(token) for token in tokens] == [[200, 200, 429]] * 2


def test_the_discovery_document_is_compared_as_soon_as_it_can_be_and_after_changes(make_issuer, make_server, entry):
    issuer = make_issuer(auto_login="alice")
    issuer.admin("faults", {"endpoint": "discovery", "kind": "status", "status": 404})
    server = make_server([entry(issuer, roles=[{"name": "default", "scopes": ["wlcg"]}])])
    wait_until(lambda: "the issuer does not answer yet" in server.log(), "it is tried", server.process)
    assert "url of this issuer has to be what the issuer calls itself" in server.log()
    issuer.admin("faults", method="DELETE")
    wait_until(lambda: begin(server)[0] == 200, "it is served", server.process)
    said = "the role does not ask for it"
    assert said not in server.log()
    server.reload()
    wait_until(lambda: server.log().count(said) == 1, "it is compared", server.process)
    server.config["issuers"][0]["roles"].append({"name": "second", "scopes": ["wlcg"]})
    server.reload()
    wait_until(lambda: server.log().count(said) == 3, "it is compared anew, both roles", server.process)
