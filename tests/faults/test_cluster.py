"""Three etcd members and three gridkeep nodes: kill -9, stop, partition of single nodes, of a minority and of a majority.

What clients were told is recorded and checked: no acknowledged write is lost, no revoked token is accepted later than a second after
its revocation was acknowledged, and nobody hears "permission denied" without proof. GRIDKEEP_SOAK sets how many faults.
"""

import os
import random
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.away import Away, others
from support.canaries import assert_hidden, everything
from support.clock import HostClock
from support.cluster import NODES, Cluster, node_address, pause
from support.processes import GRIDKEEP, PATIENCE, wait_until

FAULTS = int(os.environ.get("GRIDKEEP_SOAK", "5"))
# Clients have to succeed within this time while a host is away, in seconds.
FAIL_OVER = 15
# Life of access tokens in seconds; see test_kills.py.
LIFE = 15
# An answer that reached the socket this shortly before a fault may not have been committed; seconds.
IN_FLIGHT = 2.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, authority, entry):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), authority, entry, auto_login="alice", access_token_seconds=LIFE, rotation="grace")
    yield cluster
    cluster.stop()


@pytest.fixture
def whole(cluster):
    cluster.settled()
    return cluster


@pytest.fixture
def away(whole, tmp_path):
    return Away(whole, HostClock(tmp_path / "clock"))


def credential(known) -> str:
    """The path of what a login is for, as the audit log has it."""
    return f"secret/oauth/creds/dune/{known['key']}:default"


def reading(known) -> dict:
    """A read that is not content with a token which is two seconds old, so that some of these go to the issuer."""
    return {"method": "GET", "path": f"{credential(known)}?minimum_seconds={LIFE - 1}", "token": known["token"]}


def answered(cluster, name, **what):
    """Asks one node for as long as it says "later" and why, as one that is late with its heartbeat may: status and body."""
    found = []

    def asked():
        found[:] = cluster.ask("once", address=node_address(name), **what)
        status, body, trouble = found
        assert status is not None and (status != 503 or body["errors"]), (status, body, trouble)
        return status != 503

    wait_until(asked, f"{name} answers", cluster.nodes[name].process)
    return found[0], found[1]


def served(cluster, name, **what):
    """The body of a 200; see `answered`."""
    status, body = answered(cluster, name, **what)
    assert status == 200, (status, body)
    return body


def test_any_node_serves_any_request(whole):
    known = whole.ask("login")
    for name in NODES:
        served(whole, name, **reading(known))

        def leads():
            """What a node says of itself while it has its store."""
            leader, health = (whole.ask("once", address=node_address(name), method="GET", path=path) for path in ("sys/leader", "sys/health?standbyok=true"))
            assert leader[1]["ha_enabled"] and health[0] == 200, (leader, health)
            return leader[1].get("is_self") and health[1]["standby"] is False

        wait_until(leads, f"{name} leads", whole.nodes[name].process)
    # A policy written on one node counts on the others, and the revocation of a token on one holds on all a second later.
    operator = whole.nodes["n2"].operator_token()
    path = {"policy": 'path "sys/ha-status" { capabilities = ["read"] }'}
    status, body = answered(whole, "n1", method="PUT", path="sys/policies/acl/watchers", token=operator, body=path)
    assert status == 204, body
    wait_until(
        lambda: whole.ask("once", address=node_address("n3"), method="GET", path="sys/policies/acl/watchers", token=operator)[0] == 200, "it is seen"
    )
    body = served(whole, "n3", method="GET", path="sys/ha-status", token=operator)
    assert [node["hostname"] for node in body["data"]["nodes"]] == [f"{name}.test" for name in NODES], body
    status, body = answered(whole, "n1", method="POST", path="auth/token/revoke", token=operator, body={"token": known["token"]})
    assert status == 204, body
    revoked = time.monotonic()
    for name in NODES:
        while True:
            asked = time.monotonic()
            status, body, trouble = whole.ask("once", address=node_address(name), method="GET", path="auth/token/lookup-self", token=known["token"])
            if status == 403:
                break
            # Until then the node may not have heard of it; later it says "later" if it cannot know.
            assert status == 503 or (status == 200 and asked <= revoked + 1), (name, asked - revoked, status, body, trouble)
            assert asked < revoked + PATIENCE, "the node says nothing but later"


def test_nobody_else_speaks_for_a_clients_address(whole):
    known = whole.ask("login")
    forged = {"X-Gridkeep-Client": "192.0.2.1:1", "X-Gridkeep-Peer": f"{'0' * 64} n1.test", "X-Forwarded-For": "192.0.2.1"}
    look = {"method": "GET", "path": "auth/token/lookup-self", "token": known["token"]}
    served(whole, "n2", extra=forged, **look)
    lines = [line for name in NODES for line in whole.nodes[name].audit() if line["request"]["path"] == look["path"]]
    assert {line["request"]["remote_address"] for line in lines} == {"10.77.0.100"}, lines
    # Nor does anybody else get the answer of a node.
    plain = whole.ask("once", address=node_address("n2"), method="GET", path="/gridkeep/peer", extra=forged)
    assert plain[0] == 404, plain


def test_the_configuration_is_that_of_the_node_that_published_it(whole):
    def agreed():
        status, code = whole.status("n3")
        return code == 0 and {node["configuration"] for node in status["nodes"]} == {status["configuration"]} and status["configuration"]

    first = wait_until(agreed, "all serve the same")
    assert first >= 1
    # Other files on another node: it serves what is stored, and says that its own differ.
    server = whole.nodes["n2"]
    other = {**whole.issuers[0], "name": "other"}
    server.config["issuers"] = [other]
    server.write_config()
    server.stop()
    server.start()

    def drifting():
        status, code = whole.status("n1")
        return code == 1 and [node["name"] for node in status["nodes"] if node["drift"]]

    assert wait_until(drifting, "the drift is seen on another node") == ["n2.test"]
    login = lambda issuer: {
        "method": "POST", "path": f"auth/oidc-{issuer}/oidc/auth_url", "body": {"role": "default", "client_nonce": "n" * 43, "redirect_uri": ""},
    }
    ask = lambda name, issuer: whole.ask("once", address=node_address(name), **login(issuer))[0]
    assert [answered(whole, "n2", **login(issuer))[0] for issuer in ("dune", "other")] == [200, 400]
    # A reload of old files, as log rotation does it, changes nothing.
    server.reload()
    assert whole.status("n2")[0]["configuration"] == first
    # Changed files and a reload do: on all nodes.
    server.config["issuers"] = [whole.issuers[0], other]
    server.reload()
    for name in NODES:
        wait_until(lambda: ask(name, "other") == 200, f"{name} serves what n2 has published")
    server.config["issuers"] = whole.issuers
    server.reload()
    wait_until(lambda: whole.status("n1")[1] == 0, "all agree again")
    # The master's files count from its start, but not while they have errors: what has them would be gone everywhere.
    server = whole.nodes["n1"]
    server.config["issuers"] = [{**whole.issuers[0], "callbackmode": "devise"}, other]
    server.write_config()
    server.stop()
    server.start()
    wait_until(lambda: ask("n1", "dune") == 200, "the master serves what is stored", server.process)
    assert ask("n1", "other") == 503, "it was taken out a moment ago"
    server.config["issuers"] = whole.issuers
    server.reload()
    wait_until(lambda: whole.status("n1")[1] == 0, "all agree once more")


# How a node is away, which one, and whether its member leads etcd; where that is of no account, as it comes.
AWAY = [
    ("unplug", "n1", True), ("unplug", "n3", False),
    ("minority", "n1", False), ("minority", "n2", True), ("minority", "n3", False),
    ("majority_gone", "n1", None),
    ("stop", "n3", None), ("kill", "n2", None),
    ("storeless", "n1", True), ("storeless", "n3", False),
    ("kill_etcd", "n1", False), ("kill_etcd", "n3", True),
    ("slow_disk", "n1", True), ("slow_disk", "n2", False),
    ("skew", "n1", None), ("skew_back", "n2", None),
]
# What may keep a request from being answered, besides a 503 in JSON. No host takes up to ten seconds, no process is no connection.
TROUBLE = {"stop": {"read"}, "kill": {"refused"}, "minority": {"read"}, "majority_gone": {"read"}}
# From the first moment on, until well after everybody has noticed; in seconds.
WATCHED = 3


@pytest.mark.parametrize(("how", "name", "leads"), AWAY, ids=[f"{how}-{name}{'-leader' if leads else ''}" for how, name, leads in AWAY])
def test_clients_while_a_node_is_away(whole, away, how, name, leads):
    if leads is not None:
        whole.lead(name if leads else others(name)[0])
        whole.settled()
    known = whole.ask("login")
    read = reading(known)
    create = {"method": "POST", "path": "auth/token/create", "token": known["token"], "body": {"ttl": "1h"}}
    address = node_address(name)
    hour = served(whole, name, **create)["auth"]["client_token"]
    order = [address, *[node_address(other) for other in others(name)]]
    end = getattr(away, how)(name)
    try:
        began, answers = time.monotonic(), []
        while time.monotonic() < began + WATCHED:
            status, body, trouble, _, took = whole.ask("call", order=order, **read)
            answers.append((status, body, trouble, took))
        for status, body, trouble, took in answers:
            assert "permission denied" not in str(body), body
            assert trouble is None or trouble.split(":")[0] in TROUBLE.get(how, ()), trouble
            assert took < FAIL_OVER and (status == 200 or trouble or (status == 503 and body["errors"])), (status, body, trouble)
        last, *_ = answers[-1]
        if how in ("unplug", "storeless", "kill_etcd", "slow_disk", "skew", "skew_back"):
            # Clients move on from a host that is away, and another node answers for one that cannot; one that is late may say "later".
            if last != 200:
                wait_until(lambda: whole.ask("call", order=order, **read)[0] == 200, "clients are served", patience=FAIL_OVER)
        elif how in ("minority", "majority_gone"):
            status, body, trouble = whole.ask("once", address=address, **read)
            assert status == 503 and body["errors"], (status, body, trouble)
            status, body, _ = whole.ask("once", address=address, method="GET", path="sys/health")
            assert status in (429, 503), body
        elif how == "stop":
            assert {trouble for _, _, trouble, _ in answers} == {"read"}, answers
        elif how == "kill":
            assert {trouble.split(":")[0] for _, _, trouble, _ in answers} == {"refused"}, answers
        if how in ("skew", "skew_back"):
            # To the others the time is right; and everybody says whose clock is wrong.
            wait_until(lambda: whole.status(name)[0]["clock_outvoted"], "the others outvote the node")

            def wrong():
                status, code = whole.status(others(name)[0])
                assert not status["clock_outvoted"], status
                return code == 1 and [node["name"] for node in status["nodes"] if abs(node["clock_ahead_seconds"] or 0) > 60]

            assert wait_until(wrong, "another node has heard it twice") == [f"{name}.test"]
            # What has long expired by the wrong clock is alive.
            served(whole, name, method="GET", path="auth/token/lookup-self", token=hour)
        if how == "storeless":
            # The other node saw the client's address, not the first node's.
            lines = [line for other in others(name) for line in whole.nodes[other].audit()]
            passed = [line for line in lines if line["type"] == "request" and line["request"]["path"] == credential(known)]
            assert passed and {line["request"]["remote_address"] for line in passed[-3:]} == {"10.77.0.100"}, passed[-3:]
        for other in others(name):
            if how == "majority_gone":
                status, body, trouble = whole.ask("once", address=node_address(other), **read)
                assert trouble == "read" or (status == 503 and body["errors"]), (status, body, trouble)
            else:
                # Whoever asks another node is served all the while, and what is written there stays.
                served(whole, other, **read)
                hour = served(whole, other, **create)["auth"]["client_token"]
    finally:
        end()
    whole.settled()
    for each in NODES:
        served(whole, each, **read)
        served(whole, each, method="GET", path="auth/token/lookup-self", token=hour)


def test_nodes_are_restarted_one_after_another(whole, away):
    """As for a new version. Whoever asks the others is served all the while, and nothing is lost."""
    known = whole.ask("login")
    read = reading(known)
    create = {"method": "POST", "path": "auth/token/create", "token": known["token"], "body": {"ttl": "1h"}}
    whole.ask("load", logins=[known], operator=whole.nodes["n1"].operator_token(), threads=6, minimum=LIFE - 1)
    stopped, asked = [], {}

    def ask_the_others(name):
        """Until it is told that the node serves again, and once more after that."""
        over = False
        while not over:
            over = name not in stopped
            for other in others(name):
                served(whole, other, **read)
                served(whole, other, **create)
                asked[name] = asked.get(name, 0) + 1

    with ThreadPoolExecutor(1) as pool:
        for name in NODES:
            stopped.append(name)
            asking = pool.submit(ask_the_others, name)
            try:
                wait_until(lambda: asked.get(name) or asking.done(), "the others are asked")
                away.restart(name)()
            finally:
                stopped.remove(name)
            asking.result()
            whole.settled()
    told = whole.ask("stop")
    print(told, asked)
    assert not told["wrong"], told["wrong"]
    # A connection of before an orderly end is answered; one that comes too late finds nobody.
    assert set(told["counts"]) <= {"200", "204", "403", "404", "503", "refused", "broken"}, told["counts"]
    assert told["made"] > 10, told
    assert whole.ask("check") == {"lost": [], "risen": []}


def tokens_of(cluster, before):
    """The refresh tokens of the one grant that is not among `before`, with how often each was presented."""
    (grant,) = [grant for grant in cluster.ask("issuer", what="counters")["grants"] if grant["id"] not in before]
    return grant["id"], grant["refresh_tokens"], grant["refreshes"]


def test_a_grant_is_refreshed_once_in_the_whole_cluster(whole):
    """Whatever node is asked: of many requests at once for a new access token one goes to the issuer, with each refresh token once."""
    before = {grant["id"] for grant in whole.ask("issuer", what="counters")["grants"]}
    known = whole.ask("login")
    whole.ask("load", logins=[known], operator=whole.nodes["n1"].operator_token(), threads=12, minimum=LIFE - 1)
    wait_until(lambda: tokens_of(whole, before)[2]["delivered"] >= 3, "it was refreshed some times", whole.nodes["n1"].process)
    told = whole.ask("stop")
    assert not told["wrong"] and told["counts"]["200"] > 20, told
    _, tokens, refreshes = tokens_of(whole, before)
    assert sum(token["presented"] for token in tokens) == refreshes["received"] >= 3, (tokens, refreshes)
    assert max(token["presented"] for token in tokens) == 1, tokens
    assert whole.ask("check") == {"lost": [], "risen": []}


def test_a_node_that_starts_without_its_store_passes_requests_on(whole, away):
    """Requests that come to it are answered, by others, until it reaches etcd; then it serves as if nothing had been."""
    known = whole.ask("login")
    read = reading(known)
    server, address = whole.nodes["n2"], node_address("n2")

    remembered = server.directory / "data" / "peers.sealed"
    server.stop()
    assert remembered.stat().st_mode & 0o777 == 0o600
    assert not any(word in remembered.read_bytes() for word in (b"n1.test", b"10.77"))
    end = away.storeless("n2")
    try:
        server.start()
        assert "requests are passed to n1.test, n3.test" in server.log()
        served(whole, "n2", **read)
        lines = [line for name in others("n2") for line in whole.nodes[name].audit() if line["request"]["path"] == credential(known)]
        assert lines and lines[-1]["request"]["remote_address"] == "10.77.0.100", lines[-1:]
        # Writes and logins as well; what is refused is refused by a node that knows.
        served(whole, "n2", method="POST", path="auth/token/create", token=known["token"], body={"ttl": "1h"})
        status, body = answered(whole, "n2", **{**read, "token": "hvs.unknown"})
        assert status == 403, body
        status, body, _ = whole.ask("once", address=address, method="GET", path="sys/health")
        assert (status, body["standby"], body["sealed"]) == (429, True, False), body
        status, body, _ = whole.ask("once", address=address, method="GET", path="sys/health?standbyok=true")
        assert status == 200, body
        status, body, _ = whole.ask("once", address=address, method="GET", path="sys/leader")
        assert status == 503 and "has not reached its store" in body["errors"][0], body
        # Nobody else is passed on as somebody, and operators on the host hear what is the matter.
        forged = {"X-Gridkeep-Client": "192.0.2.1:1", "X-Gridkeep-Peer": f"{'0' * 64} n1.test"}
        look = {"method": "GET", "path": "auth/token/lookup-self", "token": known["token"]}
        served(whole, "n2", extra=forged, **look)
        lines = [line for name in others("n2") for line in whole.nodes[name].audit() if line["request"]["path"] == look["path"]]
        assert {line["request"]["remote_address"] for line in lines} == {"10.77.0.100"}, lines
        done = subprocess.run(
            [*whole.network["n2"].enter, GRIDKEEP, "cluster", "status", "--config", server.etc / "config.d"],
            capture_output=True, text=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"]},
        )
        assert done.returncode != 0 and "has not reached etcd since it started" in done.stderr, done
        # Told to stop, it stops; killed, it starts the same way again.
        server.stop()
        server.start()
        server.kill()
        server.start()
        served(whole, "n2", **read)
    finally:
        end()
    whole.settled()
    before = len(server.audit())
    wait_until(lambda: served(whole, "n2", **read) and len(server.audit()) > before, "it serves by itself", server.process)


def test_no_secret_of_what_is_passed_on_is_found(whole, away):
    """Neither at the node that passes it nor at the one that answers, however much they log."""
    def restarted(*arguments):
        for name in NODES[:2]:
            whole.nodes[name].arguments = list(arguments)
            away.restart(name)()
        whole.settled()

    known = whole.ask("login")
    secrets = {"vault token": known["token"], "client secret": whole.issuer.client_secret, "operator token": whole.nodes["n1"].operator_token()}
    restarted("--log", "trace", "--log-format", "json")
    seen = {name: len(whole.nodes[name].audit()) for name in NODES}
    end = away.storeless("n1")
    try:
        read = reading(known)
        wait_until(lambda: not whole.status("n1")[0]["fresh"], "the node notices")
        secrets["access token"] = served(whole, "n1", **read)["data"]["access_token"]
        made = served(whole, "n1", method="POST", path="auth/token/create", token=known["token"], body={"ttl": "1h"})
        secrets["child"] = made["auth"]["client_token"]
        served(whole, "n1", method="GET", path="auth/token/lookup-self", token=secrets["operator token"])
        for wrong in ({"path": f"auth/token/lookup-self?token={known['token']}"}, {"path": f"secret/oauth/creds/dune/{known['token']}:default"}):
            whole.ask("once", address=node_address("n1"), method="GET", token=known["token"], **wrong)
    finally:
        end()
    whole.settled()
    try:
        assert '"level":"TRACE"' in whole.nodes["n1"].log(), "the test looks at the right lines"
        for name in NODES:
            assert_hidden(secrets, everything(whole.nodes[name]))
        elsewhere = {line["request"]["path"] for name in others("n1") for line in whole.nodes[name].audit()[seen[name]:]}
        assert credential(known) in elsewhere, "the requests were passed on"
    finally:
        restarted()


def operator(cluster, name, *words, code=0):
    """What an operator's command on a node says, and that it ends with this exit code."""
    done = subprocess.run(
        [*cluster.network[name].enter, GRIDKEEP, "operator", *words, "--config", cluster.nodes[name].etc / "config.d"],
        capture_output=True, text=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == code, done
    return done.stderr if code else done.stdout


def test_a_sealed_node_says_so_and_the_others_go_on(whole):
    known = whole.ask("login")
    read = reading(known)
    sealed = node_address("n2")
    status, body = answered(whole, "n2", method="PUT", path="sys/seal", token=whole.nodes["n2"].operator_token())
    assert status == 204, body
    for _ in range(20):
        status, body, trouble = whole.ask("once", address=sealed, **read)
        assert (status, body) == (503, {"errors": ["Vault is sealed"]}), (status, body, trouble)
    wait_until(lambda: "sealed on" in whole.nodes["n2"].log(), "what was under way is finished", whole.nodes["n2"].process)
    assert whole.ask("once", address=sealed, **read)[:2] == [503, {"errors": ["Vault is sealed"]}]
    status, body, _ = whole.ask("once", address=sealed, method="GET", path="sys/health")
    assert status == 503 and body["sealed"] and body["initialized"], body
    status, body, _ = whole.ask("once", address=sealed, method="GET", path="sys/seal-status")
    assert status == 200 and body["sealed"] and body["type"] == "auto", body
    wait_until(lambda: [node["state"] for node in whole.status("n1")[0]["nodes"]] == ["live", "stopped", "live"], "the others see it")
    for name in others("n2"):
        for path in (read["path"], credential(known)):
            served(whole, name, **{**read, "path": path})
    operator(whole, "n2", "unseal")
    wait_until(lambda: whole.ask("once", address=sealed, method="GET", path="sys/health")[0] == 200, "it serves again", whole.nodes["n2"].process)
    whole.settled()
    served(whole, "n2", **read)


def test_the_root_key_of_all_nodes_is_replaced(whole):
    new = whole.directory / "new.key"
    known = whole.ask("login")

    def writes(name):
        made = whole.ask("once", address=node_address(name), method="POST", path="auth/token/create", token=known["token"], body={"ttl": "1h"})
        return made[0] == 200

    assert "is made in" in operator(whole, "n1", "expect-root-key", new)
    assert "is expected" in operator(whole, "n2", "expect-root-key", new)
    refused = operator(whole, "n1", "rotate-root-key", "--key", new, code=1)
    assert "n3.test" in refused and "n2.test" not in refused and "nothing was changed" in refused, refused
    assert "put it where the server finds its key" in operator(whole, "n1", "rotate-root-key", "--key", new, "--force")
    # A node that was not told says so, and goes on when it is told late.
    wait_until(lambda: "is sealed under root key" in whole.nodes["n3"].log(), "the node says what it lacks", whole.nodes["n3"].process)
    operator(whole, "n3", "expect-root-key", new)
    whole.settled()
    for name in NODES:
        wait_until(lambda: writes(name), f"{name} writes", whole.nodes[name].process)
    # With the new key in its place a node starts; with the old one none does.
    server = whole.nodes["n3"]
    server.stop()
    done = subprocess.run(
        [*whole.network["n3"].enter, GRIDKEEP, "server", "--config", server.etc / "config.d"],
        capture_output=True, text=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 1 and "is sealed under root key" in done.stdout + done.stderr, done
    for name in NODES:
        (whole.nodes[name].etc / "root.key").write_text(new.read_text())
    server.start()
    whole.settled()
    wait_until(lambda: writes("n3"), "n3 writes", server.process)


@pytest.mark.timeout(120 + FAULTS * 60)
def test_faults_under_load(whole, away):
    chance = random.Random(f"cluster {FAULTS}")
    before = {grant["id"] for grant in whole.ask("issuer", what="counters")["grants"]}
    known = whole.ask("login")
    read = reading(known)
    create = {"method": "POST", "path": "auth/token/create", "token": known["token"], "body": {"ttl": "1h"}}
    kinds, faults = away.kinds(), []
    whole.ask("load", logins=[known], operator=whole.nodes["n1"].operator_token(), threads=6, minimum=LIFE - 1)
    for number in range(FAULTS):
        whole.ask("operator", token=whole.nodes[chance.choice(NODES)].operator_token())
        answers = whole.ask("answers")
        wait_until(lambda: whole.ask("answers") > answers + 30, "the load goes on")
        fault, name = kinds[number % len(kinds)] if number < len(kinds) else chance.choice(kinds), chance.choice(NODES)
        print(fault.__name__, name)
        began = time.time()
        end = fault(name)
        pause(chance.uniform(1, 4))
        if away.spares_others(fault):
            for other in others(name):
                served(whole, other, **read)
                served(whole, other, **create)
        end()
        whole.settled()
        for each in NODES:
            served(whole, each, **read)
            served(whole, each, **create)
        faults.append((began, time.time()))
    told = whole.ask("stop")
    print(told)
    assert not told["wrong"], told["wrong"]
    assert told["made"] > 10 and told["revoked"] > 3, told
    checked = whole.ask("check")
    assert checked == {"lost": [], "risen": []}
    # With a grace period no refresh token is lost, and every one was sent by one node only: once, but where a fault took the answer.
    served(whole, "n1", **read)
    grant, tokens, _ = tokens_of(whole, before)
    again = sum(max(0, token["presented"] - 1) for token in tokens)
    taken = [
        answer for answer in whole.ask("issuer", what="counters")["answers"]
        if answer["grant"] == grant and answer["grant_type"] == "refresh_token" and (
            answer["delivery"] == "lost" or any(began - IN_FLIGHT <= (answer["written_at_ms"] or 0) / 1000 <= ended for began, ended in faults)
        )
    ]
    assert again <= len(taken), (tokens, taken)
    for name in NODES:
        log = whole.nodes[name].log()
        assert "panicked" not in log and "login needed" not in log
