"""Logins with Kerberos tickets of a real key distribution centre: the original client, ours, and tools that speak SPNEGO."""

import base64
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from support.clients import Client
from support.house import lookup
from support.issuers import Issuer
from support.kerberos import KRB5, PROOF, SPNEGO, Realms, negotiate, proof, refused
from support.namespaces import with_hosts
from support.processes import BIN, GRIDKEEP, PATIENCE, WITH_US, wait_until
from support.servers import Server
from support.tokens import claims

LAB, PARTNER = "LAB.EXAMPLE", "PARTNER.EXAMPLE"
PRODUCTION = "wlcg.capabilityset:/dune/production"
BASE = ["profile", "offline_access", "wlcg", "storage.read:/"]
ROBOT = "dunepro/managedtokens/node.lab.example"
LIFE = 1200
UNUSABLE = "Kerberos logins do not work on this server at present; tell its operators"

def users():
    """People, and two who look after a group account: its capability set brings the group's credential key."""
    people = [
        {"name": name, "password": name, "claims": {"wlcg.credkey": name}, "default_groups": ["/dune"]}
        for name in ("alice", "original-alice", "ours-alice", "bob", "original-bob", "ours-bob")
    ]
    keepers = [
        {
            "name": name, "password": name, "claims": {"wlcg.credkey": name}, "claims_when": {PRODUCTION: {"wlcg.credkey": "dunepro"}},
            "default_groups": ["/dune"], "optional_groups": ["/dune/production"],
            "capability_sets": {"/dune/production": ["storage.read:/dune", "storage.create:/dune"]},
        }
        for name in ("original-keeper", "ours-keeper")
    ]
    return people + keepers


@pytest.fixture(scope="module")
def realms(tmp_path_factory, module_ending):
    realms = Realms(tmp_path_factory.mktemp("realms"), (LAB, PARTNER))
    module_ending(realms)
    realms.trust(PARTNER, LAB)
    realms.admin(*[f"addprinc -pw {name} {name}" for name in ("alice", "bob", "original-alice", "ours-alice", "original-bob", "ours-bob")])
    realms.person("alice", PARTNER)
    realms.keytab(realms.directory / "server.keytab", "host/localhost", "HTTP/localhost")
    realms.keytab(realms.directory / "node.keytab", "host/node.lab.example")
    realms.keytab(realms.directory / "robot.keytab", ROBOT)
    realms.keytab(realms.directory / "stray.keytab", "bob/managedtokens/node.lab.example")
    return realms


@pytest.fixture(scope="module")
def issuer(tmp_path_factory, module_ending):
    issuer = Issuer(tmp_path_factory.mktemp("kerberos-issuer"), "issuer", {"users": users()}, access_token_seconds=LIFE)
    module_ending(issuer)
    return issuer


@pytest.fixture(scope="module")
def server(tmp_path_factory, authority, realms, issuer, module_ending, entry):
    roles = [{"name": "default", "scopes": BASE}, {"name": "production", "scopes": [*BASE[:3], PRODUCTION]}]
    services = {"dune": "lab", "open": "open", "node": "node", "absent": "absent"}
    entries = [{**entry(issuer, name=name, roles=roles), "kerbservice": service} for name, service in services.items()]
    keytab = str(realms.directory / "server.keytab")
    kerberos = [
        {"name": "lab", "keytab": keytab},
        {"name": "open", "keytab": keytab, "realms": [LAB, PARTNER], "policydomain": "@lab.example"},
        {"name": "node", "keytab": str(realms.directory / "node.keytab")},
        {"name": "absent", "keytab": str(realms.directory / "absent.keytab")},
    ]
    directory = tmp_path_factory.mktemp("kerberos") / "server"
    directory.mkdir()
    server = Server(directory, authority, entries, extra={"kerberos": kerberos})
    server.config["cluster"]["myname"] = "node.lab.example"
    server.write_config()
    module_ending(server)
    return server.start(env={"KRB5_CONFIG": str(realms.config)})


@pytest.fixture
def at(tmp_path, server, kind):
    """Homes on hosts that nobody has used yet, of users who may try Kerberos."""

    def make(name="host"):
        directory = tmp_path / name
        directory.mkdir()
        client = Client(kind, directory, server)
        client.left_out = ["--nossh"]
        return client

    return make


@pytest.fixture
def tickets(tmp_path, realms):
    def make(principal, keytab=None, *words):
        return realms.tickets(tmp_path / f"cc-{principal.replace('/', '-')}", principal, keytab, *words)

    return make


@pytest.fixture(scope="module")
def stored(tmp_path_factory, server, issuer):
    """Alice of each kind of client has logged in once, on another host."""
    directory = tmp_path_factory.mktemp("stored")
    for user in ("alice", "original-alice", "ours-alice"):
        place = directory / user
        place.mkdir()
        outcome = Client("ours", place, server).log_in_elsewhere(issuer, user, "--nokerberos")
        assert outcome.code == 0, outcome
    place = directory / "open"
    place.mkdir()
    outcome = Client("ours", place, server).log_in_elsewhere(issuer, "alice", "--nokerberos", issuer="open")
    assert outcome.code == 0, outcome


def credkey_file(client, issuer="dune", role="default"):
    return client.home / f".config/htgettoken/credkey-{issuer}-{role}"


def test_ticket_instead_of_a_browser(at, tickets, stored, server, issuer, kind):
    """A host that nobody has used, no browser: the original has to be told the credential key, ours learns it."""
    user = f"{kind}-alice"
    client, environment = at(), tickets(f"{kind}-alice@{LAB}")
    given = [f"--credkey={user}"] if kind == "original" else []
    outcome = client.run("--nooidc", *given, terminal=False, env=environment)
    assert outcome.code == 0, outcome
    assert claims(client.bearer.read_text())["sub"]
    told = lookup(server, client.vault_token.read_text().strip())
    assert told["policies"] == ["kerberos-dune_default", "tokenops"] and told["ttl"] <= 7 * 86400
    if kind == "ours":
        assert credkey_file(client).read_text().strip() == user
        # From now on the vault token does, without a ticket.
        again = client.run("--nooidc", terminal=False, env={"KRB5CCNAME": "FILE:/nonexistent"})
        assert again.code == 0 and "erberos" not in again.out + again.err, again
    # Somebody else's credential stays closed.
    stranger = at("stranger")
    outcome = stranger.run("--nooidc", f"--credkey={user}", terminal=False, env=tickets(f"{kind}-bob@{LAB}"))
    assert outcome.code == 1 and not stranger.vault_token.exists(), outcome


def test_nothing_stored_leads_to_the_browser(at, tickets, server, issuer, kind):
    """A ticket whose principal has no credential yet: a login is what helps, and it is offered."""
    client, environment = at(), tickets(f"{kind}-bob@{LAB}")
    outcome = client.log_in_elsewhere(issuer, f"{kind}-bob", f"--credkey={kind}-bob", env=environment)
    assert outcome.code == 0, outcome
    client.vault_token.unlink()
    outcome = client.run("--nooidc", f"--credkey={kind}-bob", terminal=False, env=environment)
    assert outcome.code == 0, outcome


def test_ticket_of_another_realm(at, tickets, stored, server, issuer, kind):
    """Trust between realms alone lets nobody in; where the operator allows it, both realms' alice are one person."""
    environment = tickets(f"alice@{PARTNER}")
    assert f"realm {PARTNER} is not allowed" in refused(negotiate(server, proof(environment)))
    # The original ends at any refusal but this one; it goes on to the browser.
    client = at()
    outcome = client.log_in_elsewhere(issuer, "alice", "--credkey=alice", env=environment)
    assert outcome.code == 0, outcome
    status, body = negotiate(server, proof(environment), "kerberos-open_default")
    assert status == 200 and body["auth"]["metadata"] == {"user": "alice", "domain": PARTNER, "credkey": "alice"}, body


def test_mounts_without_a_login(at, tickets, stored, server, kind):
    """An issuer that is unknown, or whose keytab is missing, lets its clients go on."""
    environment = tickets(f"alice@{LAB}")
    assert "no Kerberos login at kerberos-nowhere_default" in refused(negotiate(server, proof(environment), "kerberos-nowhere_default"))
    assert refused(negotiate(server, proof(environment), "kerberos-absent_default")) == UNUSABLE
    wait_until(lambda: "there is no keytab" in server.log(), "the log says why", server.process)
    client = at()
    outcome = client.run("--nooidc", "--credkey=alice", issuer="absent", terminal=False, env=environment)
    assert outcome.code == 1, outcome
    if kind == "ours":
        assert UNUSABLE in outcome.err, outcome


def test_bare_and_spnego_and_field(tickets, server):
    environment = tickets(f"alice@{LAB}")
    for mechanism in (KRB5, SPNEGO):
        for method in ("POST", "GET"):
            status, body = negotiate(server, proof(environment, mechanism=mechanism), method=method)
            assert status == 200 and body["auth"]["metadata"]["user"] == "alice", (mechanism, body)
    status, body = server.call("POST", "auth/kerberos-dune_default/login", body={"authorization": f"Negotiate {proof(environment)}"})
    assert status == 200 and body["auth"]["lease_duration"] == 2419200 and body["auth"]["renewable"] is False, body
    status, body = server.call("POST", "auth/kerberos-dune_default/login")
    assert (status, body["errors"]) == (401, ["authentication required"])


def test_curl_negotiates(tickets, server):
    """curl waits for the challenge and then sends SPNEGO."""
    done = subprocess.run(
        ["curl", "-q", "-sS", "--negotiate", "-u", ":", "--cacert", str(server.authority.path), f"{server.url}/v1/auth/kerberos-dune_default/login"],
        capture_output=True, text=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"], **tickets(f"alice@{LAB}")},
    )
    # curl names the service HTTP, which is not ours to accept; that it came this far shows the challenge, and why it is declined.
    assert done.returncode == 0 and "is for HTTP/localhost@LAB.EXAMPLE" in done.stdout, done


def test_replay_is_refused(tickets, server):
    environment = tickets(f"alice@{LAB}")
    once = proof(environment)
    assert negotiate(server, once)[1]["auth"]["client_token"]
    assert "used before" in refused(negotiate(server, once))
    assert "used before" in refused(negotiate(server, once, "kerberos-dune_production"))
    # The same proof in another wrapping, by somebody who listened.
    raw = base64.b64decode(once)
    wrapped = _der(0x60, bytes.fromhex("06062b0601050502") + _der(0xA0, _der(0x30, _der(0xA0, _der(0x30, bytes.fromhex("06092a864886f712010202"))) + _der(0xA2, _der(0x04, raw)))))
    assert "used before" in refused(negotiate(server, base64.b64encode(wrapped).decode()))
    assert "malformed" in refused(negotiate(server, base64.b64encode(raw + b"\0").decode()))
    # Forgotten by no restart.
    server.stop()
    server.start(env=_krb5(environment))
    assert "used before" in refused(negotiate(server, once))
    fresh = proof(environment, mechanism=SPNEGO)
    assert negotiate(server, fresh)[1]["auth"]["client_token"]
    assert "used before" in refused(negotiate(server, fresh))


def _krb5(environment):
    return {"KRB5_CONFIG": environment["KRB5_CONFIG"]}


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    size = bytes([length]) if length < 128 else bytes([0x80 + (length.bit_length() + 7) // 8]) + length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag]) + size + content


@pytest.mark.parametrize("kind", ["ours"])
def test_expired_ticket(at, tickets, realms, stored, kind):
    """Ours says so and what to do. The original tries it, and the server lets five minutes pass, as clocks may disagree by them."""
    environment = tickets(f"{kind}-alice@{LAB}", None, "-l", "2s")
    cache = environment["KRB5CCNAME"]

    def expired():
        return subprocess.run(["klist", "-s", cache], env=realms.environment, timeout=PATIENCE).returncode != 0

    wait_until(expired, "the ticket is expired")
    client = at()
    outcome = client.run("--nooidc", f"--credkey={kind}-alice", terminal=False, env=environment)
    assert outcome.code == 1 and "the Kerberos ticket is expired" in outcome.err and "kinit" in outcome.err, outcome


def test_expired_ticket_at_the_server(tmp_path, authority, realms, issuer, tickets, ending, entry):
    """With clocks that agree to the second, a proof of an hour ago is worth nothing, however it was kept."""
    (tmp_path / "strict").mkdir()
    extra = {"kerberos": [{"name": "lab", "keytab": str(realms.directory / "server.keytab")}]}
    server = Server(tmp_path / "strict", authority, [entry(issuer)], extra=extra)
    ending(server)
    server.start(env={"KRB5_CONFIG": str(realms.write_config("strict.conf", clockskew="1"))})

    def in_time():
        """On a slow host a ticket of two seconds may be over before its proof is made; then the next may do."""
        try:
            return proof(tickets(f"alice@{LAB}", None, "-l", "2s")), time.time()
        except AssertionError as error:
            if "expired" not in str(error):
                raise
            return None

    kept, made = wait_until(in_time, "a proof is made while its ticket lives")
    wait_until(lambda: time.time() > made + 4, "two seconds of life and one of tolerance are over")
    why = refused(negotiate(server, kept))
    assert "skew" in why or "expired" in why, why


def test_a_ticket_for_a_further_address_of_the_service(tmp_path, authority, realms, issuer, tickets, ending, entry):
    keytab = realms.keytab(tmp_path / "further.keytab", "host/former.lab.example", "host/front.lab.example", "host/other.lab.example")
    (tmp_path / "further").mkdir()
    own = {"public_url": "https://front.lab.example", "other_urls": ["https://former.lab.example:8200"]}
    server = Server(tmp_path / "further", authority, [entry(issuer)], own=own, extra={"kerberos": [{"name": "lab", "keytab": str(keytab)}]})
    ending(server)
    environment = tickets(f"alice@{LAB}")
    server.start(env=_krb5(environment))
    for host in ("former", "front"):
        status, body = negotiate(server, proof(environment, f"host@{host}.lab.example"))
        assert status == 200 and body["auth"]["metadata"]["user"] == "alice", (host, body)
    assert refused(negotiate(server, proof(environment, "host@other.lab.example")))


def test_keytab_rotation(realms, tickets, server, tmp_path):
    """Keys are replaced while the server runs: it never reads them but at a login. They may be a member's, not the service's."""
    keytab = realms.directory / "node.keytab"
    first = tickets(f"alice@{LAB}")

    def logs_in(environment):
        return negotiate(server, proof(environment, "host@node.lab.example"), "kerberos-node_default")

    assert logs_in(first)[1]["auth"]["metadata"]["user"] == "alice"
    # A new key beside the old one: old tickets go on, new ones work.
    realms.keytab(keytab, "host/node.lab.example", new=False)
    assert logs_in(first)[1]["auth"]
    second = realms.tickets(tmp_path / "cc-second", f"alice@{LAB}")
    assert logs_in(second)[1]["auth"]
    # The old key is gone: so is what it opened.
    (tmp_path / "only-new").unlink(missing_ok=True)
    realms.keytab(tmp_path / "only-new", "host/node.lab.example", new=False)
    third = realms.tickets(tmp_path / "cc-third", f"alice@{LAB}")
    os.replace(tmp_path / "only-new", keytab)
    assert "not accepted" in refused(logs_in(first))
    assert logs_in(third)[1]["auth"]
    # No keytab, no login; and back.
    keytab.rename(tmp_path / "away")
    assert refused(logs_in(third)) == UNUSABLE
    wait_until(lambda: f"there is no keytab {keytab}" in server.log(), "the log says why", server.process)
    keytab.write_bytes(b"not a keytab")
    assert refused(logs_in(third)) == UNUSABLE
    wait_until(lambda: f"{keytab} is not a keytab" in server.log(), "the log says why", server.process)
    os.replace(tmp_path / "away", keytab)
    assert logs_in(third)[1]["auth"]


def test_ways_of_asking(at, tickets, realms, stored, server, kind, tmp_path):
    """The alias names the service, and a path the mount; tokens go where callers want them, at most as long as they want them."""
    user, environment = f"{kind}-alice", tickets(f"{kind}-alice@{LAB}")
    client = at()
    common = ["--nooidc", f"--credkey={user}"]

    def run(*words, **options):
        return client.run(*common, *words, terminal=False, env=environment, **options)

    # The server by its address, which no ticket is for.
    outcome = run("-a", f"127.0.0.1:{server.port}", "--vaultalias", f"localhost:{server.port}", "--vaultcertname=localhost")
    assert outcome.code == 0, outcome
    client.vault_token.unlink()
    assert run("--kerbpath=auth/kerberos-%issuer_default").code == 0
    client.vault_token.unlink()
    assert run("--kerbpath=auth/kerberos-nowhere_%role").code == 1

    # A vault token alone.
    client.bearer.unlink(missing_ok=True)
    outcome = run("--nobearertoken", "--vaulttokenttl=3600s")
    assert outcome.code == 0 and not client.bearer.exists(), outcome
    assert 3500 < lookup(server, client.vault_token.read_text().strip())["ttl"] <= 3600

    # The storer of HTCondor: 28 days on standard output, and the address, and nothing else.
    outcome = run("--vaulttokenttl=28d", "--vaulttokenfile=/dev/stdout", "--showbearerurl", "-q", f"--vaulttokeninfile={tmp_path}/none")
    assert outcome.code == 0, outcome
    lines = sorted(outcome.out.splitlines(), key=lambda line: not line.startswith("hvs."))
    assert len(lines) == 2 and lines[1] == f"{server.url}/v1/secret/oauth/creds/dune/{user}:default", outcome
    told = lookup(server, lines[0])
    assert told["path"] == "auth/kerberos-dune_default/login" and told["ttl"] > 27 * 86400, "the login token itself, no child of it"


@pytest.mark.parametrize("kind", ["ours"])
def test_choice_of_the_principal(at, realms, stored, tmp_path):
    """Only ours heeds --kerbprincipal, and takes keys without a ticket; no cache is left behind."""
    collection = tmp_path / "collection"
    collection.mkdir()
    environment = {"KRB5_CONFIG": str(realms.config), "KRB5CCNAME": f"DIR:{collection}"}
    for name in ("ours-alice", "bob"):
        done = subprocess.run(["kinit", f"{name}@{LAB}"], input=f"{name}\n", env={**realms.environment, **environment}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    client = at()
    outcome = client.run("--nooidc", "-v", f"--kerbprincipal=ours-alice@{LAB}", terminal=False, env=environment)
    assert outcome.code == 0 and f"as ours-alice@{LAB} for host/localhost@{LAB}" in outcome.out, outcome
    client.vault_token.unlink()
    credkey_file(client).unlink()
    outcome = client.run("--nooidc", f"--kerbprincipal=nobody@{LAB}", terminal=False, env=environment)
    assert outcome.code == 1 and f"nobody@{LAB}" in outcome.err, outcome
    before = sorted(path.name for path in tmp_path.iterdir())
    outcome = client.run(
        "--nooidc", "-v", f"--kerbkeytab={realms.directory}/robot.keytab", f"--kerbprincipal={ROBOT}", terminal=False,
        env={"KRB5_CONFIG": str(realms.config), "KRB5CCNAME": f"FILE:{tmp_path}/never"},
    )
    # The login works; whether anything is stored for the robot is another test's business.
    assert f"as {ROBOT}@{LAB}" in outcome.out, outcome
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_robots_keytab_works_for_ever(at, tickets, realms, server, issuer, kind):
    """Who may act for a group account logs in once for a robot of it; its keytab then brings tokens without end. Nobody else can."""
    role = ["-r", "production", f"--credkey={ROBOT}"]
    keytab = realms.directory / "robot.keytab"

    # Somebody without that right is refused: by the issuer for the role, and by the server for the name.
    outsider = at("outsider")

    def refuse_the_outsider():
        assert outsider.log_in_elsewhere(issuer, f"{kind}-bob", "--nokerberos", *role).code == 1
        outcome = outsider.log_in_elsewhere(issuer, f"{kind}-bob", "--nokerberos", f"--credkey={ROBOT}")
        assert outcome.code == 1 and "permission denied" in outcome.out + outcome.err, outcome

    refuse_the_outsider()

    keeper = at("keeper")
    outcome = keeper.log_in_elsewhere(issuer, f"{kind}-keeper", "--nokerberos", *role)
    assert outcome.code == 0, outcome
    subject = claims(keeper.bearer.read_text())["sub"]
    refuse_the_outsider()

    seen, rounds = set(), 0

    def renewed():
        """Each time another host with nothing but the keytab, as cron would be after months."""
        nonlocal rounds
        rounds += 1
        robot = at(f"robot-{rounds}")
        words = ["--nooidc", "-r", "production", f"--minsecs={LIFE}"]
        if kind == "ours" and rounds % 2:
            # No ticket, no credential key: the keytab says it all.
            words += [f"--kerbkeytab={keytab}"]
            environment = {"KRB5_CONFIG": str(realms.config), "KRB5CCNAME": "FILE:/nonexistent"}
        else:
            words += [f"--credkey={ROBOT}"]
            environment = tickets(f"{ROBOT}@{LAB}", keytab)
        outcome = robot.run(*words, terminal=False, env=environment)
        assert outcome.code == 0, outcome
        got = claims(robot.bearer.read_text())
        assert got["sub"] == subject and "storage.create:/dune" in got["scope"].split(), got
        seen.add(got["jti"])
        return len(seen) >= 3

    wait_until(renewed, "three refresh tokens were used one after the other")
    server.stop()
    server.start(env={"KRB5_CONFIG": str(realms.config)})
    seen.clear()
    wait_until(renewed, "and three more after a restart")

    # Another robot's keytab opens only what is its own.
    stray = at("stray")
    environment = tickets(f"bob/managedtokens/node.lab.example@{LAB}", realms.directory / "stray.keytab")
    outcome = stray.run("--nooidc", *role, terminal=False, env=environment)
    assert outcome.code == 1 and not stray.bearer.exists(), outcome


def bare_root(root, *places):
    """Words in front of gridkeep that run it where there are these directories, the libraries it was linked with, and nothing else."""
    linked = subprocess.run(["ldd", GRIDKEEP], capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
    for library in re.findall(r"(/\S+) \(0x", linked):
        assert "krb5" not in library and "gssapi" not in library, linked
        (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library[1:])
    (root / "etc").mkdir()
    shutil.copy("/etc/hosts", root / "etc/hosts")
    mounts = "".join(f"mkdir -p '{root}{place}'; mount --rbind '{place}' '{root}{place}'; " for place in places)
    return ["unshare", "-rm", "sh", "-c", f"set -e; {mounts} exec {' '.join(WITH_US)} chroot '{root}' \"$@\"", "sh"]


@pytest.mark.parametrize("kind", ["ours"])
def test_the_reverse_name_of_the_server_does_not_count(tmp_path, authority, realms, issuer, tickets, ending, entry, kind):
    """The address of the server has another name than people know it by, and only the latter has a key: as behind a load balancer."""
    alias, reverse = "grid.lab.example", "backend7.lab.example"
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 {reverse}\n127.0.0.1 localhost\n127.0.0.1 {alias}\n")
    inside = with_hosts(hosts)
    looked = subprocess.run([*inside, sys.executable, "-c", NAMES, alias], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert looked.stdout.split() == [alias, reverse], looked
    keytab = realms.keytab(tmp_path / "alias.keytab", f"host/{alias}")
    (tmp_path / "server").mkdir()
    server = Server(
        tmp_path / "server", authority, [{**entry(issuer), "kerbservice": "lab"}], extra={"kerberos": [{"name": "lab", "keytab": str(keytab)}]},
    )
    certificate, private = authority.issue("alias", (alias, "localhost"))
    server.config["cluster"]["name"] = alias
    server.config["gridkeep"]["tls"] = {"certificate": str(certificate), "key": str(private)}
    server.write_config()
    ending(server)
    server.start(env={"KRB5_CONFIG": str(realms.config)})
    for place in ("elsewhere", "host"):
        (tmp_path / place).mkdir()
    assert Client(kind, tmp_path / "elsewhere", server).log_in_elsewhere(issuer, "ours-alice").code == 0

    environment = tickets(f"ours-alice@{LAB}")
    client = Client(kind, tmp_path / "host", server)
    client.left_out = ["--nossh"]
    words = [word.replace("localhost:", f"{alias}:") for word in client.arguments(["--nooidc", "-v"], "dune")]
    outcome = client.execute([*inside, *words], env=client.environment(environment))
    assert outcome.code == 0 and f"for host/{alias}@" in outcome.out, outcome
    assert claims(client.bearer.read_text())["iss"] == issuer.url
    # By itself the library goes by the reverse name, for which there is no key.
    done = subprocess.run(
        [*inside, sys.executable, "-c", PROOF, f"host@{alias}", KRB5], capture_output=True, text=True, timeout=PATIENCE,
        env={"PATH": os.environ["PATH"], **environment},
    )
    assert done.returncode != 0 and f"host/{reverse}" in done.stderr, done


# What the name service has for a name, and for its address.
NAMES = """
import socket, sys
(found, *_) = socket.getaddrinfo(sys.argv[1], None, socket.AF_INET, socket.SOCK_STREAM, 0, socket.AI_CANONNAME)
print(found[3], socket.getnameinfo(found[4], socket.NI_NAMEREQD)[0])
"""


def test_a_host_without_the_library(tmp_path, authority, realms, issuer, tickets, ending, entry):
    """Everything but Kerberos works there, and both ends say what is missing."""
    home = tmp_path / "bare"
    home.mkdir()
    wrapper = bare_root(tmp_path / "root", BIN, home, realms.directory, authority.directory)
    extra = {"kerberos": [{"name": "lab", "keytab": str(realms.directory / "server.keytab")}]}
    server = Server(home, authority, [entry(issuer)], extra=extra, wrapper=wrapper)
    # What the server trusts has to be inside of its root.
    server.config["issuers"][0]["ca_file"] = str(shutil.copy(issuer.ca, home / "issuer.pem"))
    server.write_config()
    ending(server)
    server.start()
    assert refused(negotiate(server, proof(tickets(f"alice@{LAB}")))) == UNUSABLE
    log = wait_until(lambda: "could not be loaded" in server.log() and server.log(), "the log says why", server.process)
    assert "libgssapi-krb5-2" in log, log

    client = Client("ours", home / "user", server)
    assert client.log_in_elsewhere(issuer, "alice", "--nokerberos").code == 0
    client.program = [*wrapper, str(GRIDKEEP), "get"]
    client.left_out = ["--nossh"]
    assert client.run("--nooidc", terminal=False).code == 0, "the vault token is all it takes"
    client.vault_token.unlink()
    outcome = client.run("--nooidc", terminal=False)
    assert outcome.code == 1 and "could not be loaded" in outcome.err and "krb5-libs" in outcome.err, outcome
