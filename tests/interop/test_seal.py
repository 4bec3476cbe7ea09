"""Sealing as Vault's clients know it: init, unseal, seal and key rotation by hvac, and the operators' commands."""

import base64
import os
import stat
import subprocess

import hvac
import hvac.exceptions
import pytest
import requests
import requests.adapters
import urllib3

from support.etcd import Etcd
from support.processes import GRIDKEEP, PATIENCE, wait_until
from support.vault import Vault


def client_of(server, token=None):
    return hvac.Client(url=server.url, token=token, verify=str(server.authority.path))


def client_of_node(server, token=None):
    """Of a node of a cluster, which says "later" while it is late with its heartbeat: such an answer is waited out."""
    session = requests.Session()
    session.verify = str(server.authority.path)
    later = urllib3.Retry(
        total=None, connect=0, read=0, status=PATIENCE, status_forcelist=[503], allowed_methods=None, raise_on_status=False, backoff_factor=0.1,
        backoff_max=1,
    )
    session.mount("https://", requests.adapters.HTTPAdapter(max_retries=later))
    return hvac.Client(url=server.url, token=token, session=session)


class VaultOfNode(Vault):
    """The same for requests by hand."""

    def request(self, *what, **more):
        found = []

        def answered():
            found[:] = super(VaultOfNode, self).request(*what, **more)
            return found[0] != 503

        wait_until(answered, "the node serves", self.server.process)
        return tuple(found)


def gridkeep(server, *words, **options):
    return subprocess.run(
        [GRIDKEEP, *words, "--config", server.etc / "config.d"], capture_output=True, text=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"]},
        **options,
    )


def operator(server, *words, **options):
    return gridkeep(server, "operator", *words, **options)


@pytest.fixture
def sealed(make_issuer, make_server, entry):
    issuer = make_issuer(auto_login="alice")
    return make_server([entry(issuer)], own={"seal": {"shamir": True}})


def opened(server, vault=Vault):
    """Waits until the server serves again, and returns a client on a fresh connection."""
    wait_until(lambda: server.call("GET", "sys/health")[0] == 200, "the server is unsealed", server.process)
    return vault(server)


def test_whoever_initialises_gets_the_shares_whatever_fails_after_the_store_was_made(sealed):
    """Without them the store could never be opened."""
    server = sealed
    # Where the keeper that makes the first token wants its directory.
    spool = server.directory / "data" / "spool"
    spool.parent.mkdir(mode=0o700, exist_ok=True)
    spool.write_text("in the way")
    client = client_of(server)
    made = client.sys.initialize(3, 2)
    assert len(made["keys"]) == 3 and made["root_token"] == "", made
    wait_until(lambda: server.call("GET", "sys/seal-status")[1]["n"] == 3, "it has begun anew", server.process)
    assert "the first operator's token could not be made" in server.log()
    spool.unlink()
    client.sys.submit_unseal_keys(made["keys"][:2])
    vault = opened(server)
    token, key = vault.login()
    assert vault.read(token, key)[0] == 200
    assert operator(server, "token").stdout.startswith("hvs.")


def test_init_unseal_seal(sealed):
    server = sealed
    client = client_of(server)
    assert not client.sys.is_initialized() and client.sys.is_sealed()
    assert server.call("GET", "sys/health")[0] == 501
    assert server.call("GET", "sys/health?uninitcode=200")[0] == 200
    # As Sys().Health() of the Go library asks.
    go = "sys/health?drsecondarycode=299&haunhealthycode=299&performancestandbycode=299&removedcode=299&sealedcode=299&standbycode=299&uninitcode=299"
    status, body = server.call("GET", go)
    assert (status, body["initialized"], body["sealed"]) == (299, False, True)
    status, body = server.call("GET", "secret/oauth/creds/dune/alice:default", "hvs.x")
    assert (status, body["errors"]) == (503, ["Vault is sealed"])
    for wrong in ({}, {"secret_shares": 2, "secret_threshold": 3}, {"secret_shares": 2, "secret_threshold": 1}, {"secret_shares": 300, "secret_threshold": 2}):
        assert server.call("PUT", "sys/init", body=wrong)[0] == 400, wrong
    status, body = server.call("PUT", "sys/unseal", body={"key": "ab" * 33})
    assert status == 400 and "not yet initialized" in body["errors"][0]
    for words in (("status",), ("doctor",), ("operator", "unseal")):
        told = gridkeep(server, *words, input="")
        text = told.stdout + told.stderr
        assert told.returncode == 1 and "not initialised yet: PUT sys/init" in text and "Shares instead of a key" in text, told
        assert words == ("doctor",) or "operator unseal" not in text, told
    assert "not initialised yet: PUT sys/init" in server.log()

    made = client.sys.initialize(5, 3)
    keys, root = made["keys"], made["root_token"]
    assert [base64.b64decode(key).hex() for key in made["keys_base64"]] == keys and len(keys) == 5
    assert client.sys.is_initialized() and client.sys.is_sealed()
    with pytest.raises(hvac.exceptions.InvalidRequest, match="already initialized"):
        client.sys.initialize(1, 1)
    assert server.call("GET", "sys/health")[0] == 503
    status, body = server.call("GET", go)
    assert (status, body["initialized"], body["sealed"]) == (299, True, True)
    assert client.sys.read_seal_status()["storage_type"] == "file"

    status = client.sys.submit_unseal_key(keys[0])
    assert (status["sealed"], status["t"], status["n"], status["progress"], status["type"]) == (True, 3, 5, 1, "shamir")
    assert status["nonce"]
    assert client.sys.submit_unseal_key(keys[0])["progress"] == 1, "the same share again counts once"
    assert client.sys.submit_unseal_key(reset=True)["progress"] == 0
    for bad in ("nonsense", "abcd"):
        with pytest.raises(hvac.exceptions.InvalidRequest):
            client.sys.submit_unseal_key(bad)
    client.sys.submit_unseal_keys([keys[0], made["keys_base64"][1]])
    forged = keys[2][:-4] + ("00" if keys[2][-4:-2] != "00" else "11") + keys[2][-2:]
    with pytest.raises(hvac.exceptions.InvalidRequest, match="invalid key"):
        client.sys.submit_unseal_key(forged)
    assert client.sys.read_seal_status()["progress"] == 0
    client.sys.submit_unseal_keys([keys[4], made["keys_base64"][1]])
    assert client.sys.submit_unseal_key(keys[3])["sealed"] is False

    vault = opened(server)
    token, key = vault.login()
    assert vault.read(token, key)[0] == 200
    admin = client_of(server, root)
    assert admin.lookup_token()["data"]["policies"] == ["operator"]
    status = client.sys.read_seal_status()
    assert (status["sealed"], status["t"], status["n"], status["type"]) == (False, 3, 5, "shamir")
    with pytest.raises(hvac.exceptions.InvalidRequest, match="vault is unsealed"):
        client.sys.submit_unseal_key(reset=True)
    assert vault.request("PUT", "sys/seal", token)[0] == 403, "only operators seal"
    assert vault.read(token, key)[0] == 200

    waits = server.log().count("sealed on")
    admin.sys.seal()
    assert client.sys.is_sealed()
    status, body = server.call("GET", f"secret/oauth/creds/dune/{key}:default", token)
    assert (status, body["errors"]) == (503, ["Vault is sealed"])
    refused = operator(server, "token")
    assert refused.returncode == 1, refused
    wait_until(lambda: server.log().count("sealed on") > waits, "what was under way is finished", server.process)
    refused = operator(server, "token")
    assert refused.returncode == 1 and "the server is sealed" in refused.stderr, refused
    told = operator(server, "unseal", input="\n")
    assert told.returncode == 1 and "no share was given" in told.stderr, told
    for share in keys[:2]:
        told = operator(server, "unseal", input=share + "\n")
        assert told.returncode == 0 and "of 3 shares given" in told.stdout, told
    told = operator(server, "unseal", input=made["keys_base64"][2] + "\n")
    assert "unsealed" in told.stdout and told.stdout.endswith("the server serves\n"), told
    assert gridkeep(server, "status").returncode == 0, "it answers as soon as the command has ended"
    vault = opened(server)
    assert vault.read(token, key)[0] == 200, "what was kept is there"

    server.stop()
    server.start()
    assert client.sys.is_sealed(), "a restart is sealed"
    for share in keys[:3]:
        client.sys.submit_unseal_key(share)
    assert opened(server).read(token, key)[0] == 200
    server.stop()
    server.config["gridkeep"]["seal"] = {}
    server.write_config()
    done = gridkeep(server, "server")
    assert done.returncode == 1 and "it was split into 5 shares, of which 3 open it. Set gridkeep.seal.shamir" in done.stdout + done.stderr, done
    everything = b"".join(path.read_bytes() for path in server.directory.rglob("*") if path.is_file())
    for share, text in zip(keys, made["keys_base64"]):
        assert share.encode() not in everything and text.encode() not in everything and bytes.fromhex(share) not in everything


def test_a_key_file_unseals_by_itself_and_on_order(make_issuer, make_server, entry):
    server = make_server([entry(make_issuer(auto_login="alice"))])
    vault = Vault(server)
    token, key = vault.login()
    told = operator(server, "seal")
    assert told.returncode == 0 and "it has begun anew without keys, and waits to be unsealed" in told.stdout, told
    refused = gridkeep(server, "status")
    assert refused.returncode == 1 and "the server is sealed" in refused.stderr, "it answers as soon as the command has ended"
    client = client_of(server)
    assert client.sys.is_initialized() and client.sys.is_sealed()
    status, body = server.call("PUT", "sys/unseal", body={"key": "ab" * 32})
    assert status == 400 and "operator unseal" in body["errors"][0], "nobody unseals it from afar"
    told = operator(server, "unseal")
    assert told.returncode == 0 and told.stdout.endswith("the server serves\n"), told
    assert gridkeep(server, "status").returncode == 0, "it answers as soon as the command has ended"
    assert opened(server).read(token, key)[0] == 200

    assert operator(server, "seal").returncode == 0
    root_key = server.etc / "root.key"
    root_key.rename(server.etc / "elsewhere")
    told = operator(server, "unseal")
    assert told.returncode == 1 and "the server has ended instead of serving" in told.stderr, told
    server.kill()


def test_keys_are_rotated_while_it_serves(make_issuer, make_server, entry):
    server = make_server([entry(make_issuer(auto_login="alice"))])
    vault = Vault(server)
    token, key = vault.login()
    admin = client_of(server, server.operator_token())
    assert admin.sys.get_encryption_key_status()["data"]["term"] == 1
    admin.sys.rotate_encryption_key()
    assert operator(server, "rotate-keyring").returncode == 0

    def done():
        status = admin.sys.get_encryption_key_status()["data"]
        return status["term"] == 3 and status["generations"] == 1

    wait_until(done, "everything is sealed under the newest key", server.process)
    assert vault.read(token, key)[0] == 200

    path = server.etc / "root.key"
    old = path.read_text()
    told = operator(server, "rotate-root-key")
    assert told.returncode == 0 and "lies in" in told.stdout, told
    assert f"safe place is out of date: copy {path} there now" in told.stdout, told
    assert path.read_text() != old and stat.S_IMODE(path.stat().st_mode) == 0o600
    (aside,) = server.etc.glob("root.key.old-*")
    assert aside.read_text() == old
    assert vault.read(token, key)[0] == 200
    server.stop()
    server.start()
    assert Vault(server).read(token, key)[0] == 200
    server.stop()
    # The old key opens nothing any more.
    new = path.read_text()
    path.write_text(old)
    done = subprocess.run([GRIDKEEP, "server", "--config", server.etc / "config.d"], capture_output=True, text=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 1 and "is sealed under root key" in done.stdout + done.stderr
    path.write_text(new)


def made_with_shares(server, count, threshold):
    """A new server, unsealed: its shares and a client with an operator's token."""
    client = client_of(server)
    made = client.sys.initialize(count, threshold)
    client.sys.submit_unseal_keys(made["keys"][:threshold])
    opened(server)
    return made["keys"], client_of(server, made["root_token"])


def altered(share):
    """A share that nobody made."""
    return share[:-4] + ("00" if share[-4:-2] != "00" else "11") + share[-2:]


def test_the_root_key_is_split_anew(sealed):
    server = sealed
    old, admin = made_with_shares(server, 3, 2)
    vault = Vault(server)
    token, key = vault.login()
    wanted = {"secret_shares": 5, "secret_threshold": 3}
    assert server.call("PUT", "sys/rekey/init", body=wanted)[0] == 403, "not without a token"
    assert server.call("PUT", "sys/rekey/init", token, wanted)[0] == 403, "operators only"
    idle = {"nonce": "", "started": False, "t": 0, "n": 0, "progress": 0, "required": 2, "pgp_fingerprints": None, "backup": False, "verification_required": False}
    assert admin.sys.read_rekey_progress() == idle
    for wrong in ({"secret_shares": 2, "secret_threshold": 3}, {"secret_shares": 2, "secret_threshold": 1}, {}, {**wanted, "pgp_keys": ["x"] * 5}, {**wanted, "backup": True}):
        assert server.call("PUT", "sys/rekey/init", admin.token, wrong)[0] == 400, wrong
    with pytest.raises(hvac.exceptions.InvalidRequest, match="no rekey in progress"):
        admin.sys.rekey(old[0], nonce="x")

    begun = admin.sys.start_rekey(5, 3)
    assert (begun["started"], begun["t"], begun["n"], begun["progress"], begun["required"]) == (True, 3, 5, 0, 2)
    with pytest.raises(hvac.exceptions.InvalidRequest, match="already in progress"):
        admin.sys.start_rekey(5, 3)
    admin.sys.cancel_rekey()
    assert admin.sys.read_rekey_progress() == idle
    nonce = admin.sys.start_rekey(5, 3)["nonce"]
    assert nonce != begun["nonce"]
    for share, given, why in ((old[0], begun["nonce"], "incorrect nonce"), ("abcd", nonce, "invalid key"), ("no share!", nonce, "hex or base64")):
        with pytest.raises(hvac.exceptions.InvalidRequest, match=why):
            admin.sys.rekey(share, nonce=given)
    assert admin.sys.rekey(old[0], nonce=nonce)["progress"] == 1
    assert admin.sys.rekey(old[0], nonce=nonce)["progress"] == 1, "the same share again counts once"
    with pytest.raises(hvac.exceptions.InvalidRequest, match="not of the present root key"):
        admin.sys.rekey(altered(old[1]), nonce=nonce)
    assert admin.sys.read_rekey_progress()["progress"] == 0
    done = admin.sys.rekey_multi([old[2], old[0]], nonce=nonce)
    assert (done["complete"], done["nonce"], done["verification_required"], len(done["keys"])) == (True, nonce, False, 5)
    new = done["keys"]
    assert [base64.b64decode(share).hex() for share in done["keys_base64"]] == new
    # The answer may have been lost: enough of the shares from before tell it again.
    assert admin.sys.rekey_multi([old[1], old[2]], nonce=nonce)["keys"] == new
    status = admin.sys.read_seal_status()
    assert (status["t"], status["n"], status["sealed"]) == (3, 5, False)
    assert vault.read(token, key)[0] == 200

    # With verification the present shares count until the new ones were given back.
    verified = {"secret_shares": 2, "secret_threshold": 2, "require_verification": True}
    status, body = server.call("PUT", "sys/rekey/init", admin.token, verified)
    assert status == 200 and body["verification_required"] is True, body
    assert server.call("GET", "sys/rekey/verify", admin.token)[0] == 400
    done = admin.sys.rekey_multi(new[1:4], nonce=body["nonce"])
    assert done["complete"] and done["verification_required"]
    assert admin.sys.read_seal_status()["t"] == 3, "not yet"
    status, before = server.call("GET", "sys/rekey/verify", admin.token)
    assert (status, before["nonce"], before["t"], before["n"], before["progress"]) == (200, done["verification_nonce"], 2, 2, 0)
    assert server.call("PUT", "sys/rekey/verify", admin.token, {"key": done["keys"][0], "nonce": before["nonce"]})[1]["progress"] == 1
    status, again = server.call("DELETE", "sys/rekey/verify", admin.token)
    assert status == 200 and again["progress"] == 0 and again["nonce"] != before["nonce"]
    give_back = lambda share: server.call("PUT", "sys/rekey/verify", admin.token, {"key": share, "nonce": again["nonce"]})
    assert give_back(done["keys"][0])[1]["progress"] == 1
    status, body = give_back(altered(done["keys"][1]))
    assert status == 400 and "verification failed" in body["errors"][0], body
    assert give_back(done["keys"][1])[1]["progress"] == 1
    assert give_back(done["keys"][0]) == (200, {"nonce": again["nonce"], "complete": True})
    assert admin.sys.read_seal_status()["t"] == 2
    for part in (*old, *new, *done["keys"]):
        assert part not in server.log() and part not in (server.directory / "audit.log").read_text()

    server.stop()
    server.start()
    client = client_of(server)
    with pytest.raises(hvac.exceptions.InvalidRequest, match="invalid key"):
        client.sys.submit_unseal_keys(new[:3])
    client.sys.submit_unseal_keys(done["keys"])
    assert opened(server).read(token, key)[0] == 200


def test_what_a_server_without_shares_says_of_them(make_issuer, make_server, entry):
    server = make_server([entry(make_issuer())])
    admin = client_of(server, server.operator_token())
    with pytest.raises(hvac.exceptions.InvalidRequest, match="rotate-root-key"):
        admin.sys.start_rekey(1, 1)
    # The form of old that needs no token is off by default in the original, and tokens come from the host itself.
    for path in ("sys/generate-root/attempt", "sys/generate-root/update", "sys/rekey/backup"):
        assert server.call("PUT", path, body={})[0] == 403, path
        status, body = server.call("PUT", path, admin.token, {})
        assert (status, body["errors"]) == (404, ["1 error occurred:\n\t* unsupported path\n\n"]), (path, body)


def test_a_credential_of_the_service_manager_is_replaced(make_issuer, make_server, entry, tmp_path):
    """As systemd's LoadCredential hands it over: the key lies in a directory that the server only reads."""
    given = tmp_path / "credentials"
    given.mkdir(mode=0o700)
    credential, new = given / "gridkeep-root-key", tmp_path / "new.key"
    credential.write_text("gridkeep-root-key-1:" + base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=") + "\n")
    credential.chmod(0o400)
    server = make_server([entry(make_issuer(auto_login="alice"))], start=False, own={"seal": {}}, arguments=["--initialise"])
    env = {"CREDENTIALS_DIRECTORY": str(given)}
    server.start(env)
    vault = Vault(server)
    token, key = vault.login()
    # The command is not the service: it sees no credential, and asks for a place.
    told = operator(server, "rotate-root-key")
    assert told.returncode == 1 and "--key" in told.stderr, told
    told = operator(server, "rotate-root-key", "--key", new)
    assert told.returncode == 0 and "put it where the server finds its key" in told.stdout, told
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    assert vault.read(token, key)[0] == 200
    # The service manager still hands over the old one.
    server.stop()
    server.arguments = []
    done = subprocess.run(
        [GRIDKEEP, "server", "--config", server.etc / "config.d"], capture_output=True, text=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"], **env}
    )
    assert done.returncode == 1 and "is sealed under root key" in done.stdout + done.stderr, done
    credential.chmod(0o600)
    credential.write_text(new.read_text())
    server.start(env)
    assert opened(server).read(token, key)[0] == 200
    assert operator(server, "seal").returncode == 0
    wait_until(lambda: "sealed on" in server.log(), "what was under way is finished", server.process)
    assert operator(server, "unseal").returncode == 0
    assert opened(server).read(token, key)[0] == 200


@pytest.mark.parametrize("engine", ["embedded", "etcd"])
def test_a_replacement_of_the_root_key_that_was_interrupted_is_finished(engine, make_issuer, make_server, entry, tmp_path, ending):
    own, extra, vault = {}, None, Vault
    if engine == "etcd":
        vault = VaultOfNode
        etcd = Etcd(tmp_path / "etcd")
        ending(etcd)
        own = {"store": {"etcd": {"endpoints": [etcd.client]}}}
        extra = {"cluster": {"name": "localhost", "myname": "one.test", "master": "one.test", "auditlog": "none"}}
    server = make_server([entry(make_issuer(auto_login="alice"))], own=own, extra=extra)
    # A node of a cluster serves from its first heartbeat on.
    token, credential = opened(server, vault).login()
    key, waiting = server.etc / "root.key", server.etc / "root.key.new"
    old = key.read_text()
    # All but the last step: a key that the operator names stays where it is.
    assert operator(server, "rotate-root-key", "--key", waiting).returncode == 0
    new = waiting.read_text()
    assert key.read_text() == old != new
    server.kill()
    server.start()
    assert key.read_text() == new and not waiting.exists()
    assert [path.read_text() for path in server.etc.glob("root.key.old-*")] == [old]
    assert opened(server, vault).read(token, credential)[0] == 200
    # Of the key that the first start made it is said that it is new, and of no other.
    assert server.log().count("a new root key was made") == 1 and f"a new root key was made: {key};" in server.log()


def test_nodes_on_one_store_have_the_same_shares(make_issuer, make_server, entry, tmp_path, ending):
    issuer = make_issuer(auto_login="alice")
    etcd = Etcd(tmp_path / "etcd")
    ending(etcd)
    one, two = (
        make_server(
            [entry(issuer)], name=name, own={"seal": {"shamir": True}, "store": {"etcd": {"endpoints": [etcd.client]}}},
            extra={"cluster": {"name": "localhost", "myname": f"{name}.test", "master": "one.test", "auditlog": "none"}},
        )
        for name in ("one", "two")
    )
    first, second = client_of_node(one), client_of_node(two)
    assert not first.sys.is_initialized() and not second.sys.is_initialized()
    shares = first.sys.initialize(3, 2)["keys"]
    assert {client.sys.read_seal_status()["storage_type"] for client in (first, second)} == {"raft"}
    # It looks at the store once a second at most.
    wait_until(second.sys.is_initialized, "the other node has looked again", two.process)
    assert second.sys.read_seal_status()["t"] == 2
    with pytest.raises(hvac.exceptions.InvalidRequest, match="already initialized"):
        second.sys.initialize(1, 1)
    first.sys.submit_unseal_keys(shares[:2])
    vault = opened(one, VaultOfNode)
    token, key = vault.login()
    assert two.call("GET", "sys/health")[0] == 503, "each is unsealed by itself"
    second.sys.submit_unseal_keys(shares[1:])
    other = opened(two, VaultOfNode)
    wait_until(lambda: other.read(token, key)[0] == 200, "what one knows the other knows", two.process)

    # Another root key, which the other node would not know: only while it is sealed.
    admin = client_of_node(one, one.operator_token())

    def serving():
        """The nodes that are heard of at the first, or were a moment ago."""
        return [node["hostname"] for node in admin.read("sys/ha-status")["data"]["nodes"] if node["active_node"]]

    wait_until(lambda: serving() == ["one.test", "two.test"], "each node hears the other", one.process)
    with pytest.raises(hvac.exceptions.InvalidRequest, match="other nodes serve on this store.*two.test"):
        admin.sys.start_rekey(2, 2)
    waits = two.log().count("sealed on")
    client_of_node(two, two.operator_token()).sys.seal()
    wait_until(lambda: two.log().count("sealed on") > waits, "what was under way is finished", two.process)
    assert second.sys.is_sealed() and vault.read(token, key)[0] == 200
    given = second.sys.submit_unseal_key(shares[0])
    assert given["progress"] == 1
    wait_until(lambda: serving() == ["one.test"], "the other node has said goodbye", one.process)
    nonce = admin.sys.start_rekey(2, 2)["nonce"]
    new = admin.sys.rekey_multi(shares[:2], nonce=nonce)["keys"]
    assert vault.read(token, key)[0] == 200
    assert second.sys.submit_unseal_key(new[0])["progress"] == 1, "what was given of the old key is forgotten"
    second.sys.submit_unseal_key(new[1])
    other = opened(two, VaultOfNode)
    wait_until(lambda: other.read(token, key)[0] == 200, "the other node is back", two.process)
    kept = etcd.ctl("get", "", "--prefix")
    for share in (*shares, *new):
        assert share not in kept
