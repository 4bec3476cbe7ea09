"""Logging in with a real ssh-agent, PyPI's htgettoken and ours: keys of all kinds, registering, ending, removing, and ways around."""

import json

import pytest
from support.clients import Client, Outcome
from support.hardware_keys import HardwareAgent
from support.issuers import Issuer
from support.processes import GRIDKEEP
from support.servers import Server
from support.ssh import KINDS, SshAgent, proof
from support.tokens import claims

DENIED_KEY = "validation public_key failed: permission denied"


# People of the issuer: each test takes those that nobody has been yet.
PEOPLE = [f"person{number}" for number in range(40)]
MIXED = {kind: f"{kind}.Mixed.Case" for kind in ("original", "ours")}


def human(name: str) -> dict:
    return {"name": name, "password": name, "claims": {"wlcg.credkey": name}}


@pytest.fixture(scope="module")
def lab(tmp_path_factory, authority, module_ending, entry):
    """One issuer under two names and one server that serves ssh; no test disturbs another's people."""
    directory = tmp_path_factory.mktemp("ssh")
    issuer = Issuer(directory, config={"users": [human(name) for name in [*PEOPLE, *MIXED.values()]]})
    module_ending(issuer)
    roles = [{"name": name, "scopes": ["profile", "offline_access", "wlcg", "storage.read:/"]} for name in ("default", "production")]
    (directory / "server").mkdir()
    (directory / "keys").mkdir()
    server = Server(
        directory / "server", authority, [entry(issuer, name, roles=roles) for name in ("dune", "cms")],
        own={"ssh": {"authorized_keys": str(directory / "keys")}}, extra={"ssh": {"self-registration": "allowed"}},
    )
    module_ending(server)
    server.start()
    server.keys = directory / "keys"
    server.issuer = issuer
    server.people = iter(PEOPLE)
    return server


@pytest.fixture
def agent(tmp_path, ending):
    agent = SshAgent(tmp_path / "agent")
    ending(agent)
    return agent


@pytest.fixture
def user(kind, tmp_path, lab):
    """A client whose user nobody has been yet, and whose ssh-agent is not left out."""
    return member(lab, tmp_path, kind)


def member(lab, directory, kind, name=None):
    home = directory / "member"
    home.mkdir()
    client = Client(kind, home, lab)
    client.left_out = ["--nokerberos"]
    client.user = name or next(lab.people)
    return client


def log_in(lab, client, *words, issuer="dune", env=None) -> Outcome:
    """A login in a browser that the person approves."""
    waiting = lab.issuer.approve(client.user)
    outcome = client.run(*words, issuer=issuer, env=env)
    waiting.join()
    return outcome


def register(lab, client, agent, issuer="dune", env=None) -> Outcome:
    # The original stumbles over --registerssh while no credkey is known, and says nothing else.
    outcome = log_in(lab, client, "--registerssh", f"--credkey={client.user}", issuer=issuer, env={**agent.environment, **(env or {})})
    assert outcome.code == 0, outcome
    return outcome


def by_agent(client, agent, *words, issuer="dune") -> Outcome:
    """A login with the agent alone: no vault token is there, and no browser."""
    client.vault_token.unlink(missing_ok=True)
    client.bearer.unlink(missing_ok=True)
    return client.run(f"--credkey={client.user}", "--nooidc", *words, issuer=issuer, terminal=False, env=agent.environment)


def test_a_key_of_each_kind(lab, user, agent):
    for key in KINDS:
        agent.add(key)
    register(lab, user, agent)
    for key in KINDS:
        agent.hold_only(key)
        outcome = by_agent(user, agent)
        assert outcome.code == 0, f"{key}: {outcome}"
        assert claims(user.bearer.read_text())["iss"] == lab.issuer.url
    kept = lab.call("GET", "auth/token/lookup-self", user.vault_token.read_text().strip())[1]["data"]
    assert kept["policies"] == ["default", "ssh", "tokenops"]
    assert kept["orphan"] is False, "the login token of 28 days was exchanged for the usual one of 7"
    # The next run needs neither agent nor browser.
    user.bearer.unlink()
    again = user.run(f"--credkey={user.user}", "--nooidc", terminal=False)
    assert again.code == 0, again


def logins(lab, issuer):
    """How far logins with a key came at an issuer."""
    told = lab.call("GET", "sys/metrics", lab.operator_token())[1]["Counters"]
    return {
        counter["Labels"]["step"]: counter["Count"] for counter in told
        if counter["Name"] == "gridkeep_logins_total" and (counter["Labels"]["issuer"], counter["Labels"]["method"]) == (issuer, "ssh")
    }


def test_logins_are_counted(lab, user, agent):
    start = logins(lab, "dune")
    assert set(start) == {"started", "polled", "completed", "denied", "failed", "expired"}, "known before the first"
    elsewhere = logins(lab, "cms")
    agent.add("ed25519")
    register(lab, user, agent)
    assert by_agent(user, agent).code == 0
    after = logins(lab, "dune")
    assert {step: after[step] - start[step] for step in after} == {
        "started": 1, "polled": 0, "completed": 1, "denied": 0, "failed": 0, "expired": 0,
    }
    # A nonce of nobody's is no proof; the attempt is counted where it was made.
    nobody = {"role": user.user, "public_key": "ssh-ed25519 AAAA", "signature": "AAAA", "nonce": "AAAA", "metadata": {"issuer": "dune"}}
    assert lab.call("POST", "auth/ssh/login", body=nobody)[0] == 400
    assert lab.call("POST", "auth/ssh/login", body={**nobody, "metadata": {"issuer": "nosuch"}})[0] == 400
    end = logins(lab, "dune")
    assert (end["started"] - after["started"], end["denied"] - after["denied"]) == (1, 1)
    assert logins(lab, "cms") == elsewhere


def test_the_right_key_among_many(lab, user, agent):
    """The registered key is the last of twelve; nobody is locked out on the way to it."""
    strangers = [agent.add("ed25519", f"stranger{number}") for number in range(11)]
    assert len(strangers) == 11
    own = agent.add("ecdsa-256", "own")
    operator = lab.operator_token()
    status, body = lab.call("POST", f"auth/ssh/role/{user.user}", operator, {"public_keys": own + "\n"})
    assert status == 204, body
    log_in(lab, user, f"--credkey={user.user}", "--nossh")
    requests = len(lab.audit())
    outcome = by_agent(user, agent)
    assert outcome.code == 0, outcome
    seen = [line["request"]["path"] for line in lab.audit()[requests:] if line["type"] == "request"]
    logins = seen.count("auth/ssh/login")
    assert logins == (1 if user.kind == "ours" else 12), seen


def test_registering_adds_and_the_kept_token_cannot(lab, user, agent, tmp_path, ending):
    agent.add("ed25519")
    register(lab, user, agent)
    kept = user.vault_token.read_text().strip()
    policies = lab.call("GET", "auth/token/lookup-self", kept)[1]["data"]["policies"]
    assert not any(name.startswith("sshregister") for name in policies)
    status, body = lab.call("POST", f"auth/ssh/role/{user.user}", kept, {"public_keys": [agent.add("ecdsa-256")]})
    assert status == 403, body
    # A second machine's keys come beside those of the first.
    second = SshAgent(tmp_path / "second")
    ending(second)
    second.add("ed25519")
    register(lab, user, second)
    for machine in (agent, second):
        outcome = by_agent(user, machine)
        assert outcome.code == 0, outcome


def test_a_mixed_case_name(lab, kind, tmp_path, agent):
    client = member(lab, tmp_path, kind, MIXED[kind])
    agent.add("ed25519")
    register(lab, client, agent)
    outcome = by_agent(client, agent)
    assert outcome.code == 0, outcome


def test_keys_from_files(lab, user, agent):
    line = agent.add("ed25519")
    log_in(lab, user, f"--credkey={user.user}", "--nossh")
    assert by_agent(user, agent).code == 1
    path = lab.keys / "dune" / user.user
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"# desk\nrestrict {line}\n")
    path.chmod(0o644)
    outcome = by_agent(user, agent)
    assert outcome.code == 0, outcome
    # It stands there for one issuer.
    log_in(lab, user, f"--credkey={user.user}", "--nossh", issuer="cms")
    assert by_agent(user, agent, issuer="cms").code == 1
    # One that cannot be used is no proof that the key is not in it.
    path.chmod(0o666)
    outcome = by_agent(user, agent)
    assert outcome.code == 1 and "is registered" not in str(outcome), outcome
    # The original says of no failure what it was.
    assert user.kind == "original" or "keep ssh keys cannot be used" in str(outcome), outcome
    if user.kind == "ours":
        # Nor is it in the way of a person who can log in otherwise.
        browser = log_in(lab, user, f"--credkey={user.user}", env=agent.environment)
        assert browser.code == 0, browser
    path.unlink()
    assert by_agent(user, agent).code == 1


def test_bypass_a_key_of_one_issuer_at_another(lab, user, agent):
    agent.add("ed25519")
    register(lab, user, agent, issuer="dune")
    log_in(lab, user, f"--credkey={user.user}", "--nossh", issuer="cms")
    refused = by_agent(user, agent, issuer="cms")
    assert refused.code == 1 and not user.bearer.exists(), refused
    assert by_agent(user, agent, issuer="dune").code == 0
    token = user.vault_token.read_text().strip()
    status, body = lab.call("GET", f"secret/oauth/creds/cms/{user.user}:default?minimum_seconds=60", token)
    assert status == 403, body
    register(lab, user, agent, issuer="cms")
    assert by_agent(user, agent, issuer="cms").code == 0


def test_bypass_with_a_foreign_key_an_old_nonce_and_another_signature(lab, user, agent, tmp_path, ending):
    line = agent.add("ed25519")
    register(lab, user, agent)
    stranger = SshAgent(tmp_path / "stranger")
    ending(stranger)
    foreign = stranger.add("ed25519")

    def attempt(machine, public_key, signed, shown, role=None):
        body = proof(machine, role or user.user, public_key, shown, signed)
        status, answer = lab.call("POST", "auth/ssh/login", body=body)
        return status, (answer.get("errors") or [None])[0]

    def nonce():
        return lab.call("GET", "auth/ssh/nonce")[1]["data"]["nonce"]

    fresh = nonce()
    assert attempt(stranger, foreign, fresh, fresh) == (403, DENIED_KEY)
    assert attempt(agent, line, nonce(), fresh) == (400, "ssh: signature did not verify")
    assert attempt(agent, line, fresh, fresh, "nobody-at-all") == (400, 'role "nobody-at-all" could not be found')
    assert attempt(agent, line, fresh, fresh)[0] == 200
    assert attempt(agent, line, fresh, fresh) == (400, "nonce time expired or invalid")
    assert attempt(agent, line, "made up", "made up") == (400, "nonce time expired or invalid")


def test_an_agent_that_cannot_help(lab, user, agent):
    """Locked, empty, gone: the next way to log in is tried, and ours says why this one led nowhere."""
    agent.add("ed25519")
    register(lab, user, agent)
    agent.lock("secret")
    locked = by_agent(user, agent)
    assert locked.code == 1, locked
    agent.stop()
    if user.kind == "ours":
        gone = by_agent(user, agent)
        assert gone.code == 1 and "no ssh-agent answers" in gone.err, gone
    browser = log_in(lab, user, f"--credkey={user.user}", *(["--nossh"] if user.kind == "original" else []), env=agent.environment)
    assert browser.code == 0, browser


def ssh_keys(lab, user, *words):
    arguments = [GRIDKEEP, "ssh-keys", *words, "-a", f"localhost:{lab.port}", "-i", "dune", f"--credkey={user.user}",
                 f"--cafile={lab.authority.path}", f"--vaulttokenfile={user.vault_token}"]
    return user.execute(arguments)


@pytest.mark.parametrize("kind", ["ours"], indirect=True)
class TestOurs:
    def test_a_list_of_no_keys(self, lab, user, agent):
        agent.add("ed25519")
        register(lab, user, agent)
        (only,) = agent.fingerprints()
        assert ssh_keys(lab, user, "remove", only).code == 0
        listed = ssh_keys(lab, user, "list")
        assert (listed.code, listed.out) == (0, f"no ssh keys are registered of {user.user} for issuer dune\n"), listed
        assert json.loads(ssh_keys(lab, user, "list", "--json").out) == {"keys": {}}

    def test_registering_needs_no_credkey(self, lab, user, agent):
        """The first use of --registerssh on a machine, at which the original ends with a traceback."""
        agent.add("ed25519")
        outcome = log_in(lab, user, "--registerssh", env=agent.environment)
        assert outcome.code == 0, outcome
        assert by_agent(user, agent).code == 0

    def test_why_no_key_can_be_registered(self, lab, user, agent):
        agent.add("rsa-1024")
        outcome = user.run("--registerssh", env=agent.environment)
        assert outcome.code == 1, outcome
        assert "no key that could be registered: key1 (key of a test): the RSA key has 1024 bits, and only 2048 to 8192 are taken" in outcome.err, outcome

    def test_list_end_and_remove_own_keys(self, lab, user, agent):
        agent.add("ed25519")
        agent.add("rsa-2048")
        register(lab, user, agent)
        ed25519, rsa = agent.fingerprints()

        def keys(*words):
            return ssh_keys(lab, user, *words)

        shown = keys("list", "--json")
        assert shown.code == 0, shown
        listed = json.loads(shown.out)["keys"]
        assert set(listed) == {ed25519, rsa}
        assert listed[rsa][0]["issuer"] == "dune" and listed[rsa][0]["expires"] is None
        assert ed25519 in keys("list").out
        assert keys("remove", ed25519).code == 0
        again = keys("remove", ed25519)
        assert again.code == 1 and "no such ssh key" in again.err, again
        ending = keys("expire", rsa, "1d")
        assert ending.code == 0, ending
        later = keys("expire", rsa, "30d")
        end = json.loads(keys("list", "--json").out)["keys"][rsa][0]["expires"]
        for told in (ending, later):
            assert told.out == f"{rsa} may log in until {end}; an end that was nearer stays\n", told
        outcome = by_agent(user, agent, "-v")
        assert outcome.code == 0 and "ssh-rsa" in outcome.out, outcome
        # The vault token of an ssh login ends its own key as well.
        assert keys("expire", rsa, "0s").code == 0
        refused = by_agent(user, agent)
        assert refused.code == 1 and "--registerssh" in refused.err, refused
        assert keys("list").code == 1, "no vault token is left"
        wrong = keys("remove", "nonsense")
        assert wrong.code == 2 and "fingerprint" in wrong.err


    @pytest.mark.parametrize("algorithm", ["sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"])
    def test_hardware_keys(self, lab, user, tmp_path, ending, algorithm):
        """They count only when somebody has touched them, and not in the form in which the original would send them."""
        agent = HardwareAgent(tmp_path / "hardware")
        ending(agent)
        key = agent.add(algorithm)
        register(lab, user, agent)
        for _ in range(2):
            outcome = by_agent(user, agent, "-v")
            assert outcome.code == 0 and algorithm in outcome.out, outcome
        assert key.counter == 2 and claims(user.bearer.read_text())["iss"] == lab.issuer.url
        key.touched = False
        refused = by_agent(user, agent, "-v")
        assert refused.code == 1 and not user.bearer.exists(), refused
        assert "without being touched" in refused.out + refused.err, refused
        key.touched = True
        nonce = lab.call("GET", "auth/ssh/nonce")[1]["data"]["nonce"]
        status, body = lab.call("POST", "auth/ssh/login", body=proof(agent, user.user, key.line, nonce))
        assert status == 400 and "use the htgettoken of gridkeep" in body["errors"][0], body
        assert by_agent(user, agent).code == 0


def test_sha1_switched_off(authority, make_server, make_issuer, entry, tmp_path, agent):
    """Ours signs RSA with SHA-2; with the original's SHA-1 only the setting decides."""
    issuer = make_issuer()
    server = make_server([entry(issuer)], own={"ssh": {"rsa_sha1": False}}, extra={"ssh": {"self-registration": "allowed"}})
    server.issuer = issuer
    line = agent.add("rsa-2048")
    client = member(server, tmp_path, "ours", "alice")
    register(server, client, agent)
    assert by_agent(client, agent).code == 0
    fresh = server.call("GET", "auth/ssh/nonce")[1]["data"]["nonce"]
    status, answer = server.call("POST", "auth/ssh/login", body=proof(agent, "alice", line, fresh))
    assert status == 400 and "SHA-1" in answer["errors"][0]
    server.config["ssh"] = {"self-registration": "disallowed"}
    server.reload()
    outcome = log_in(server, client, "--registerssh", env=agent.environment)
    assert outcome.code == 1 and "may not let people register" in outcome.err, outcome
    assert by_agent(client, agent).code == 0, "keys registered before go on working"
