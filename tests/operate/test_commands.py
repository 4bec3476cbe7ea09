"""What operators and owners see of a server and end on it: status, doctor, lists, revoking here and at the issuer."""

import json
import os
import pwd
import shutil
import socket
import struct
import subprocess

import pytest

from support.etcd import Etcd
from support.processes import GRIDKEEP, PATIENCE, on_small_disk, wait_until
from support.vault import Vault


def gridkeep(server, *words, env=None):
    return subprocess.run(
        [GRIDKEEP, *words, "--config", server.etc / "config.d"], capture_output=True, text=True, timeout=PATIENCE,
        env={"PATH": os.environ["PATH"], **(env or {})},
    )


def told(server, *words, code=0):
    """What a command says in JSON."""
    done = gridkeep(server, *words, "--json")
    assert done.returncode == code, f"{done.returncode}\n{done.stdout}{done.stderr}"
    return json.loads(done.stdout)


def revoked(issuer):
    return [grant["id"] for grant in issuer.admin("counters")["grants"] if not grant["alive"]]


def test_status_says_what_is_stored_and_what_fails(make_issuer, make_server, entry):
    issuer = make_issuer(auto_login="alice", access_token_seconds=20)
    server = make_server([entry(issuer)])
    client = Vault(server)
    token, key = client.login()
    status = told(server, "status")
    (dune,) = status["issuers"]
    assert (dune["name"], dune["credentials"], dune["failing"], dune["trouble"]) == ("dune", 1, 0, None)
    assert status["tokens"] >= 1 and status["store"]["trouble"] is None and status["certificate_days"] > 14
    assert status["failing"] == [] and status["ending"] == []
    text = gridkeep(server, "status").stdout
    assert f", on {server.address}\n" in text, text
    assert "issuer dune: 1 credentials, 0 of them failing" in text, text

    # The issuer forgets the login: the next refresh shows it, and the status says whose and why.
    issuer.admin("revoke", {"user": key})
    wait_until(lambda: client.read(token, key, minimum=19)[0] == 400, "the refresh is refused")
    status = told(server, "status", code=3)
    (failing,) = status["failing"]
    assert failing["name"] == f"dune/{key}:default" and "login needed: invalid_grant" in failing["trouble"]
    assert status["issuers"][0]["failing"] == 1
    assert f"dune/{key}:default  login needed" in gridkeep(server, "status").stdout


def test_an_issuer_that_refuses_the_servers_client_shows_until_it_is_mended(make_issuer, make_server, entry):
    issuer = make_issuer(auto_login="alice", access_token_seconds=20)
    configured = entry(issuer)
    server = make_server([configured])
    client = Vault(server)
    token, key = client.login()
    configured["secret"] = "wrong"
    server.reload()
    wait_until(lambda: client.read(token, key, minimum=19)[0] == 400, "the refresh is refused")
    _, refused = client.read(token, key, minimum=19)
    assert refused["errors"][0].startswith("refresh failed: server rejected request: invalid_client"), refused
    status = told(server, "status", code=3)
    assert "invalid_client" in status["issuers"][0]["client_refused"], status
    text = gridkeep(server, "status").stdout
    assert "REFUSES THIS SERVER AS ITS CLIENT: a refresh was refused: invalid_client" in text and "check clientid and secret of issuers[dune]" in text, text
    doctor = gridkeep(server, "doctor").stdout
    assert "Issuer dune refuses this server as its client: a refresh was refused: invalid_client" in doctor, doctor
    log = server.process.output()
    assert log.count("refuses this server as its client") == 1 and "check clientid and secret of issuers[dune]" in log, log

    # What else is reloaded is no reason to forget it; another secret is.
    server.reload()
    assert told(server, "status", code=3)["issuers"][0]["client_refused"]
    configured["secret"] = issuer.client_secret
    server.reload()
    assert told(server, "status")["issuers"][0]["client_refused"] is None
    assert client.read(token, key, minimum=19)[0] == 200


def test_operators_list_show_and_revoke(world):
    issuer, server, client, token, key = world
    name = f"dune/{key}:default"
    (credential,) = told(server, "operator", "credentials")["found"]
    login = credential["login"]
    assert credential["name"] == name and credential["trouble"] is None and login["refreshable"]
    assert login["idle_end"] > login["used"] and login["access_token_until"], login
    assert told(server, "operator", "credentials", "cms/")["found"] == []
    assert told(server, "operator", "show", name)["credential"] == credential
    text = gridkeep(server, "operator", "credentials").stdout
    assert "absolute end: " in text and f"idle end: {login['idle_end']}" in text, text

    tokens = told(server, "operator", "tokens", key)["found"]
    assert tokens and all(key in found["display_name"] for found in tokens)
    accessor = tokens[0]["accessor"]
    assert told(server, "operator", "show", accessor)["token"]["policies"] == tokens[0]["policies"]
    none = gridkeep(server, "operator", "tokens", "nobody")
    assert none.returncode == 0 and none.stdout == "no live vault token was found that speaks for nobody or has this in its display name\n", none
    # A client keeps a child of the login's token, which Vault just calls "token".
    status, made = server.call("POST", "auth/token/create", token, {})
    assert status == 200, made
    looked = server.call("GET", "auth/token/lookup-self", made["auth"]["client_token"])[1]["data"]
    assert looked["display_name"] == "token"
    text = gridkeep(server, "operator", "tokens", key).stdout
    assert f"{looked['accessor']}  token of {key}  until " in text, text
    assert credential["bound_by"] == f"oidc-dune-{key}", credential
    done = gridkeep(server, "operator", "revoke", looked["accessor"])
    assert f"of oidc-dune-{key} and all made of it are revoked" in done.stdout, done
    everything = json.dumps([told(server, "operator", "tokens"), told(server, "operator", "credentials")])
    assert token not in everything and "hvs." not in everything and "eyJ" not in everything, "nothing that gives power is shown"

    assert client.read(token, key)[0] == 200
    done = gridkeep(server, "operator", "revoke", accessor)
    assert done.returncode == 0 and "revoked" in done.stdout, done
    assert client.read(token, key)[0] == 403
    assert revoked(issuer) == []
    done = gridkeep(server, "operator", "revoke", name)
    assert done.returncode == 0 and "is deleted" in done.stdout, done
    wait_until(lambda: revoked(issuer), "the issuer is told")
    assert told(server, "operator", "credentials")["found"] == []
    for gone in (name, accessor, "nonsense", "no/such"):
        done = gridkeep(server, "operator", "revoke", gone)
        assert done.returncode == 1 and done.stderr, done
    paths = [line["request"]["data"] for line in server.audit() if line["request"].get("path") == "operator/socket" and line["type"] == "request"]
    assert {"do": "revoke", "which": name} in paths


def test_people_see_and_revoke_their_own(world, tmp_path):
    issuer, server, client, token, key = world
    stranger_token = server.operator_token()
    vault_token = tmp_path / "vt"
    vault_token.write_text(token + "\n")
    vault_token.chmod(0o600)

    def mine(*words, code=0):
        done = subprocess.run(
            [GRIDKEEP, "mine", *words, "-a", f"localhost:{server.port}", "-i", "dune", f"--credkey={key}", f"--cafile={server.authority.path}",
             f"--vaulttokenfile={vault_token}"],
            capture_output=True, text=True, timeout=PATIENCE, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        )
        assert done.returncode == code, done
        return done.stdout if code == 0 else done.stderr

    name = f"dune/{key}:default"
    kept = json.loads(mine("list", "--json"))
    assert [credential["name"] for credential in kept["credentials"]] == [name]
    assert kept["tokens"] and all(found["display_name"] != "operator-uid-0" for found in kept["tokens"])
    assert name in mine("list") and "idle end" in mine("show", name)
    _, stranger = server.call("GET", "auth/token/lookup-self", stranger_token)
    foreign = stranger["data"]["accessor"]
    assert "no live vault token" in mine("revoke", foreign, code=1)
    assert server.call("GET", "auth/token/lookup-self", stranger_token)[0] == 200, "somebody else's token lives on"
    second, _ = client.login()
    accessor = server.call("GET", "auth/token/lookup-self", second)[1]["data"]["accessor"]
    assert accessor in mine("show", accessor)
    assert "are revoked" in mine("revoke", accessor)
    assert server.call("GET", "auth/token/lookup-self", second)[0] == 403
    assert "is deleted" in mine("revoke", name)
    wait_until(lambda: revoked(issuer), "the issuer is told")
    assert json.loads(mine("list", "--json"))["credentials"] == []
    assert "keeps no" in mine("show", name, code=1)
    assert "Usage" in mine("revoke", code=2)


def findings(server, code):
    """The worst state of each thing that doctor looks at, and all that it says."""
    order = ["good", "doubtful", "bad"]
    found = told(server, "doctor", code=code)
    states = {}
    for finding in found:
        about = finding["about"]
        states[about] = max(states.get(about, "good"), finding["state"], key=order.index)
        assert finding["state"] == "good" or finding["remedy"], f"without a remedy: {finding}"
    return states, json.dumps(found)


@pytest.fixture
def healthy(make_issuer, make_server, entry):
    """A server that clients find at every address of its name."""
    server = make_server([entry(make_issuer(auto_login="alice"), name="default")])
    server.stop()
    addresses = sorted({found[4][0] for found in socket.getaddrinfo("localhost", server.port)})
    own = server.config["gridkeep"]
    own["listen"] = [f"[{address}]:{server.port}" if ":" in address else f"{address}:{server.port}" for address in addresses]
    own["callback_port"] = server.port
    server.write_config()
    return server.start()


def test_doctor_finds_nothing_where_nothing_is_wrong(healthy):
    states, said = findings(healthy, 0)
    # The one thing to say of a name that only tests have.
    (named,) = [finding for finding in json.loads(said) if finding["about"] == "configuration"]
    assert "`localhost` is not fully qualified" in named["what"]
    for about in ("certificate", "server", "store", "root key", "ports", "dns", "issuers"):
        assert states[about] == "good", f"{about}: {said}"
    assert "good      server: " in gridkeep(healthy, "doctor").stdout


def test_commands_log_when_they_are_told_to(healthy, make_issuer, entry):
    """In the form of the server's log, on standard error alone; and else nothing."""
    quiet = gridkeep(healthy, "doctor")
    assert quiet.returncode == 0 and quiet.stderr == ""
    healthy.config["issuers"].append({**entry(make_issuer(), name="untrusted"), "ca_file": "/nonexistent/ca.pem"})
    healthy.write_config()
    quiet = gridkeep(healthy, "doctor", "--json")
    assert quiet.returncode == 1 and quiet.stderr == ""
    told_more = gridkeep(healthy, "doctor", "--json", "--log", "warn", "--log-format", "json")
    assert told_more.returncode == 1
    assert [found["about"] for found in json.loads(told_more.stdout)] == [found["about"] for found in json.loads(quiet.stdout)]
    lines = [json.loads(line) for line in told_more.stderr.splitlines()]
    assert [(line["level"], line["issuer"], line["target"]) for line in lines] == [("ERROR", "untrusted", "gridkeep::server::assemble")], told_more.stderr
    wrong = gridkeep(healthy, "doctor", "--log", "=")
    assert wrong.returncode == 2 and "use a level such as info or debug" in wrong.stderr


def test_doctor_names_each_trouble_with_its_remedy(healthy, authority, tmp_path):
    server = healthy
    own = server.config["gridkeep"]
    server.stop()
    with socket.create_server(("127.0.0.1", server.port)):
        states, said = findings(server, 1)
        assert states["server"] == "bad" and "systemctl start gridkeep" in said
        assert states["ports"] == "bad" and f"sport = :{server.port}" in said
    good = json.loads(json.dumps(server.config))
    short, key = authority.issue("short", days=3)
    _, other_key = authority.issue("other")
    for about, state, part, change in [
        ("certificate", "doubtful", "ends in", lambda: own.update(tls={"certificate": str(short), "key": str(key)})),
        ("certificate", "bad", "", lambda: own.update(tls={"certificate": str(short), "key": str(other_key)})),
        ("dns", "bad", "cannot be looked up", lambda: server.config["cluster"].update(name="nowhere.invalid")),
        ("issuers", "bad", "well-known", lambda: server.config["issuers"][0].update(url="https://127.0.0.1:1/")),
        ("store", "doubtful", "is not there yet", lambda: own.update(data=str(tmp_path / "nowhere"))),
        ("configuration", "bad", "gridkeep config check", lambda: own.update(listen="nonsense")),
    ]:
        change()
        server.write_config()
        states, said = findings(server, 1)
        assert states[about] == state and part in said, f"{about}: {said}"
        server.config.clear()
        server.config.update(json.loads(json.dumps(good)))
        own = server.config["gridkeep"]
    server.write_config()
    root_key = server.etc / "root.key"
    root_key.chmod(0o644)
    states, said = findings(server, 1)
    assert states["root key"] == "bad" and "chmod 0600" in said
    root_key.chmod(0o600)


def keytab(*hosts):
    """A keytab with one key (of zeros) for each host."""
    out = b"\x05\x02"
    for host in hosts:
        parts = [part.encode() for part in ("LAB.EXAMPLE", "host", host)]
        entry = (2).to_bytes(2) + b"".join(len(part).to_bytes(2) + part for part in parts) + bytes([0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 18, 0, 32]) + bytes(32)
        out += len(entry).to_bytes(4) + entry
    return out


def test_doctor_looks_at_keytabs(healthy, tmp_path):
    server, file = healthy, tmp_path / "lab.keytab"
    server.config["kerberos"] = [{"name": "lab", "keytab": str(file)}]
    server.write_config()
    unreadable = tmp_path / "directory"
    unreadable.mkdir()
    for content, state, part in [
        (None, "doubtful", "There is no keytab"), (keytab("other.example"), "doubtful", "has no key for host/localhost"), (b"PK", "doubtful", "is not a keytab"),
        (keytab("localhost"), "good", "holds a key for this service (lab)"),
    ]:
        if content is not None:
            file.write_bytes(content)
        states, said = findings(server, 0)
        assert states["keytab"] == state and part in said, said
    server.config["kerberos"][0]["keytab"] = str(unreadable)
    server.write_config()
    states, said = findings(server, 0)
    assert states["keytab"] == "doubtful" and "cannot be examined" in said, said


def of(about, said):
    """The findings about one thing."""
    return [finding for finding in json.loads(said) if finding["about"] == about]


def test_doctor_says_of_a_root_key_that_it_is_not_that_of_the_data(healthy, make_server, entry, make_issuer):
    server, file = healthy, healthy.etc / "root.key"
    assert "is that of the data" in findings(server, 0)[1]
    own = file.read_text()
    make_server([entry(make_issuer(name="second"))], name="another").stop()
    others = (file.parents[2] / "another" / "etc" / "root.key").read_text()
    store = server.directory / "data" / "store"
    for runs in (True, False):
        if not runs:
            server.stop()
            before = {path: path.stat().st_mtime_ns for path in [store, *store.iterdir()]}
        code = 0 if runs else 1
        file.write_text(own)
        (found,) = of("root key", findings(server, code)[1])
        assert found["state"] == "good" and "is that of the data" in found["what"], found
        for content, part in [("garbage", "is not a root key"), (others, "the next start fails")]:
            file.write_text(content)
            (found,) = of("root key", findings(server, 1)[1])
            assert found["state"] == "bad" and part in found["what"] and "mode 0600" in found["remedy"], found
        file.unlink()
        (found,) = of("root key", findings(server, 1)[1])
        assert found["state"] == "bad" and "is not there, and the data cannot be opened without it" in found["what"], found
        assert ("do not stop the server" in found["remedy"]) == runs, found
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.close(descriptor)
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before, "it changes nothing"
    file.write_text(own)
    server.start()


def test_a_server_whose_root_key_was_lost_gets_another_as_doctor_says(healthy, tmp_path):
    server, file = healthy, healthy.etc / "root.key"
    file.unlink()
    assert "gridkeep operator rotate-root-key --key FILE" in findings(server, 1)[1]
    done = gridkeep(server, "operator", "rotate-root-key", "--key", tmp_path / "new.key")
    assert done.returncode == 0, done.stderr
    (tmp_path / "new.key").rename(file)
    assert findings(server, 0)[0]["root key"] == "good"
    server.stop()
    server.start()


def test_doctor_asks_etcd_which_root_key_it_wants(etcd, make_issuer, make_server, entry):
    server = make_server([entry(make_issuer(), name="default")], own={"store": {"etcd": {"endpoints": [etcd.client]}}})
    file = server.etc / "root.key"
    own = file.read_text()

    def rotate():
        done = gridkeep(server, "operator", "rotate-root-key")
        assert done.returncode == 0, done.stderr

    assert of("root key", json.dumps(told(server, "doctor", code=1)))[0]["state"] == "good"
    rotate()
    new = file.read_text()
    # As on a node that was away while another one rotated.
    for runs in (True, False):
        if not runs:
            server.stop()
        file.write_text(own)
        (found,) = of("root key", json.dumps(told(server, "doctor", code=1)))
        assert found["state"] == "bad" and "another node" in found["remedy"], found
        file.write_text(new)
        (found,) = of("root key", json.dumps(told(server, "doctor", code=1)))
        assert found["state"] == "good", found
    file.unlink()
    (found,) = of("root key", json.dumps(told(server, "doctor", code=1)))
    assert found["state"] == "bad" and "is not there" in found["what"], found
    etcd.stop()
    (found,) = of("root key", json.dumps(told(server, "doctor", code=1)))
    assert found["state"] == "doubtful" and "cannot be seen now" in found["what"], found


@pytest.fixture
def of_nobody(as_root, public, authority, make_issuer, make_server, entry):
    """A server that does not run, whose data belongs to user 65534, and all of its files too."""
    server = make_server([entry(make_issuer(), name="default")], below=public)
    server.stop()
    certificate, key = (str(file.rename(server.etc / file.name)) for file in authority.issue("nobodys"))
    server.config["gridkeep"]["tls"] = {"certificate": certificate, "key": key}
    (issuer,) = server.config["issuers"]
    issuer["ca_file"] = shutil.copy(issuer["ca_file"], server.etc)
    server.write_config()
    for path in [server.directory, *server.directory.rglob("*")]:
        os.chown(path, 65534, 65534)
    return server


def typed(remedy):
    """Types what is proposed; what setfacl does is done here where it is not installed."""
    words = remedy.split()
    if words[0] != "setfacl" or shutil.which("setfacl"):
        subprocess.run(remedy, shell=True, check=True)
        return
    option, (kind, name, letters), path = words[1], words[2].split(":"), words[3]
    assert (option, kind) == ("-m", "u"), remedy
    user = int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid
    rights = sum({"r": 4, "w": 2, "x": 1}[letter] for letter in letters)
    mode, nobody = os.stat(path).st_mode, 0xFFFFFFFF
    group = mode >> 3 & 7
    entries = [(1, mode >> 6 & 7, nobody), (2, rights, user), (4, group, nobody), (16, group | rights, nobody), (32, mode & 7, nobody)]
    os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries))


def test_doctor_judges_files_as_for_the_servers_user(of_nobody):
    server = of_nobody
    tls, root_key = server.config["gridkeep"]["tls"], server.etc / "root.key"
    configuration = server.etc / "config.d" / "10-test.yaml"
    server.config["kerberos"] = [{"name": "lab", "keytab": str(server.etc / "lab.keytab")}]
    keytab_file = server.etc / "lab.keytab"
    keytab_file.write_bytes(keytab("localhost"))
    keytab_file.chmod(0o600)
    server.write_config()
    files = {"configuration": configuration, "certificate": tls["key"], "root key": root_key, "keytab": keytab_file}
    for file in files.values():
        os.chown(file, 65534, 65534)
    states, said = findings(server, 1)
    for about in files:
        assert states[about] == ("doubtful" if about == "configuration" else "good"), f"{about}: {said}"
    assert "cannot read" not in said
    for about, file in files.items():
        os.chown(file, 0, 0)
        states, said = findings(server, 1)
        (found,) = [finding for finding in of(about, said) if "cannot read" in finding["what"]]
        assert found["what"].startswith("The server's user ") and f"{file} (root:root, mode 0600)" in found["what"], found
        assert found["state"] == ("doubtful" if about == "keytab" else "bad") and "chown" in found["remedy"] and "setfacl" not in found["remedy"], found
        assert all(finding["state"] != "good" for finding in of(about, said)), said
        checked = gridkeep(server, "config", "check")
        assert checked.returncode == 0 and "note: " in checked.stdout and f"cannot read {file}" in checked.stdout, checked.stdout
        # What is proposed helps.
        subprocess.run(found["remedy"], shell=True, check=True)
        assert "cannot read" not in findings(server, 1)[1]
        assert "cannot read" not in gridkeep(server, "config", "check").stdout
        os.chown(file, 65534, 65534)
    # The directory of the configuration is looked into, too.
    os.chown(configuration.parent, 0, 0)
    configuration.parent.chmod(0o711)
    (found,) = [finding for finding in of("configuration", findings(server, 1)[1]) if "cannot look into" in finding["what"]]
    assert found["state"] == "bad" and "chgrp" in found["remedy"], found
    typed(found["remedy"])
    assert "cannot look into" not in findings(server, 1)[1]
    # The same of a directory above: said once, and nothing behind it is good.
    os.chown(server.etc, 0, 0)
    server.etc.chmod(0o700)
    said = findings(server, 1)[1]
    (found,) = [finding for finding in json.loads(said) if "does not let it through" in finding["what"]]
    assert f"{server.etc} (root:root, mode 0700)" in found["what"] and "The same of " in found["what"], found
    assert all(finding["state"] != "good" for about in files for finding in of(about, said)), said
    typed(found["remedy"])
    states, said = findings(server, 1)
    assert "does not let it through" not in said and states["certificate"] == states["root key"] == states["keytab"] == "good", said


def test_doctor_takes_no_file_from_others(of_nobody, public):
    """Where certificates are kept behind closed directories and links, as certbot does, and other programs read them."""
    server = of_nobody
    live, archive = public / "live", public / "archive"
    tls = server.config["gridkeep"]["tls"]
    for directory in (live, archive):
        directory.mkdir()
        directory.chmod(0o700)
    for key in tls:
        file = shutil.move(tls[key], archive / f"{key}1.pem")
        os.chown(file, 0, 0)
        file.chmod(0o600)
        (live / f"{key}.pem").symlink_to(f"../archive/{key}1.pem")
        tls[key] = str(live / f"{key}.pem")
    server.write_config()
    os.chown(server.etc / "config.d" / "10-test.yaml", 65534, 65534)
    before = {path: path.stat() for path in (live, archive, archive / "key1.pem")}
    for stopped in (live, archive, archive / "certificate1.pem", archive / "key1.pem"):
        states, said = findings(server, 1)
        found = next(finding for finding in of("certificate", said) if finding["remedy"].endswith(f" {stopped}"))
        assert states["certificate"] == "bad" and found["remedy"].startswith("setfacl -m u:"), said
        typed(found["remedy"])
    assert findings(server, 1)[0]["certificate"] == "good"
    for path, was in before.items():
        now = path.stat()
        assert (now.st_uid, now.st_gid, now.st_mode & 0o707) == (was.st_uid, was.st_gid, was.st_mode & 0o707)


def test_doctor_asks_the_running_server_whom_it_runs_as(as_root, public, make_issuer, make_server, entry):
    """Who owns its data tells only while it is down."""
    server = make_server([entry(make_issuer(), name="default")], below=public)
    certificate = server.etc / "hostcert.pem"
    shutil.copy(server.config["gridkeep"]["tls"]["certificate"], certificate)
    server.config["gridkeep"]["tls"]["certificate"] = str(certificate)
    server.write_config()
    os.chown(certificate, 0, 0)
    certificate.chmod(0o600)
    # Its data is another's, but it is root that runs.
    os.chown(server.directory / "data", 65534, 65534)
    assert "The server's user" not in gridkeep(server, "doctor").stdout
    server.stop()
    assert f"cannot read {certificate}" in findings(server, 1)[1]


def test_doctor_looks_at_files_of_ssh_keys(of_nobody):
    server = of_nobody
    keys = server.etc / "keys"
    (keys / "default").mkdir(parents=True)
    for path in (keys, keys / "default"):
        path.chmod(0o755)
    server.config["ssh"] = {"self-registration": "allowed"}
    server.config["gridkeep"]["ssh"] = {"authorized_keys": str(keys)}
    server.write_config()
    os.chown(server.etc / "config.d" / "10-test.yaml", 65534, 65534)
    assert findings(server, 1)[0]["ssh keys"] == "good"
    file = keys / "default" / "alice"
    for content, mode, part in [("", 0o666, "others can write it"), ("", 0o600, "cannot read"), ("from=x ssh-ed25519 AAAA\n", 0o644, "line 1 is left out")]:
        file.write_text(content)
        file.chmod(mode)
        (found,) = of("ssh keys", findings(server, 1)[1])
        assert found["state"] == "doubtful" and part in found["what"] and str(file) in found["what"], found
        if "left out" not in part:
            assert "chown" not in found["remedy"], found
            typed(found["remedy"])
            assert findings(server, 1)[0]["ssh keys"] == "good"
    # What no change of rights mends, and what is nobody's.
    file.write_bytes(b"\xff")
    (found,) = of("ssh keys", findings(server, 1)[1])
    assert "UTF-8" in found["remedy"], found
    file.unlink()
    os.mkfifo(file, 0o644)
    (found,) = of("ssh keys", findings(server, 1)[1])
    assert "not a regular file" in found["what"] and "chmod" not in found["remedy"], found
    file.unlink()
    for name in ("alice~", "#alice#"):
        (keys / "default" / name).touch(0o600)
    assert findings(server, 1)[0]["ssh keys"] == "good"
    (keys / "default").chmod(0o700)
    (found,) = of("ssh keys", findings(server, 1)[1])
    assert found["state"] == "bad" and "at issuer default gets 503" in found["what"], found
    typed(found["remedy"])
    assert findings(server, 1)[0]["ssh keys"] == "good"
    keys.chmod(0o666)
    (found,) = of("ssh keys", findings(server, 1)[1])
    assert found["state"] == "bad" and "503" in found["what"], found
    keys.rename(server.etc / "elsewhere")
    (found,) = of("ssh keys", findings(server, 1)[1])
    assert found["state"] == "doubtful" and "cannot be looked into" in found["what"], found


def test_doctor_says_one_thing_of_a_certificate(healthy, authority):
    server = healthy
    good = server.config["gridkeep"]["tls"]
    other, other_key = authority.issue("other-name", hosts=("other.example",))
    ended, ended_key = authority.issue("ended", days=-58.5, before=90)
    early, early_key = authority.issue("early", days=90, before=-30)
    for certificate, key, code, state, part, remedy in [
        (other, other_key, 0, "doubtful", "is not valid for", ""), (good["certificate"], other_key, 1, "bad", "does not fit", "made for each other"),
        (early, early_key, 1, "bad", "is not valid before", "Renew"), (ended, ended_key, 1, "bad", "ended 59 days ago", "Renew"),
    ]:
        server.config["gridkeep"]["tls"] = {"certificate": str(certificate), "key": str(key)}
        server.write_config()
        (found,) = of("certificate", findings(server, code)[1])
        assert found["state"] == state and part in found["what"] and remedy in found["remedy"], found
    checked = gridkeep(server, "config", "check")
    assert "warning: gridkeep.tls.certificate" in checked.stdout and "ended 59 days ago" in checked.stdout, checked.stdout
    soon, soon_key = authority.issue("soon", days=2.5)
    server.config["gridkeep"]["tls"] = {"certificate": str(soon), "key": str(soon_key)}
    server.write_config()
    checked = gridkeep(server, "config", "check", "--strict")
    assert "note: gridkeep.tls.certificate" in checked.stdout and "ends in 2 days" in checked.stdout, checked.stdout


def test_doctor_says_which_places_hold_no_configuration(as_root, everybodys):
    """To an ordinary user before whom /etc/gridkeep is closed, and where there is nothing at all."""
    for make, part in [
        ("mkdir -p /etc/gridkeep/config.d && chmod 0770 /etc/gridkeep", "/etc/gridkeep/config.d: It cannot be read: Permission denied"),
        ("true", "/etc/htvault-config/config.d: It cannot be read: No such file"),
    ]:
        script = f'mount -t tmpfs tmpfs /etc && {make} && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"'
        done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", everybodys, "doctor"], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 1 and part in done.stdout, done.stdout + done.stderr
        assert ("run this as root (sudo)" if "Permission" in part else "Nor is there /etc/gridkeep/config.d") in done.stdout, done.stdout


def test_doctor_of_a_sealed_server(healthy):
    assert gridkeep(healthy, "operator", "seal").returncode == 0

    def sealed():
        """What doctor finds, and that of the server: for a moment it begins anew, and nobody answers."""
        found = told(healthy, "doctor", code=1)
        (server,) = [finding for finding in found if finding["about"] == "server"]
        return server["what"].startswith("It runs and says: the server is sealed") and (found, server)

    found, server = wait_until(sealed, "doctor hears that it is sealed", healthy.process)
    assert server["state"] == "bad", server
    assert "gridkeep operator unseal" in server["remedy"], server
    assert "systemctl start" not in json.dumps(found) and "Another program" not in json.dumps(found)


def test_doctor_without_root_asks_for_root(as_root, everybodys, healthy):
    directory = healthy.etc
    (directory / "config.d" / "10-test.yaml").chmod(0o644)
    while str(directory) not in ("/", "/tmp"):
        directory.chmod(directory.stat().st_mode | 0o055)
        directory = directory.parent
    done = subprocess.run(
        [everybodys, "doctor", "--json", "--config", healthy.etc / "config.d"], capture_output=True, text=True, timeout=PATIENCE, user=65534, group=65534,
        extra_groups=[], env={"PATH": os.environ["PATH"]},
    )
    found = json.loads(done.stdout)
    (server,) = [finding for finding in found if finding["about"] == "server"]
    assert server["state"] == "doubtful" and "user id 65534 may not do this" in server["what"] and "sudo gridkeep doctor" in server["remedy"], server
    assert [finding["state"] for finding in found if finding["about"] == "ports"].count("good") == len(healthy.config["gridkeep"]["listen"])


def test_doctor_looks_at_the_audit_logs_disk(healthy, tmp_path):
    server = healthy
    assert findings(server, 0)[0]["audit log"] == "good"
    server.stop()
    server.config["cluster"]["auditlog"] = str(tmp_path / "nowhere" / "audit.log")
    server.write_config()
    states, said = findings(server, 1)
    assert states["audit log"] == "bad" and "nowhere is not there" in said, said
    disk = tmp_path / "disk"
    disk.mkdir()
    server.config["cluster"]["auditlog"] = str(disk / "audit.log")
    server.write_config()
    done = subprocess.run(
        [*on_small_disk(disk, 1), GRIDKEEP, "doctor", "--json", "--config", server.etc / "config.d"], capture_output=True, text=True, timeout=PATIENCE,
        env={"PATH": os.environ["PATH"]},
    )
    (little,) = [finding for finding in json.loads(done.stdout) if finding["about"] == "audit log"]
    assert little["state"] == "bad" and "MiB are free" in little["what"] and "Make room" in little["remedy"], little


@pytest.fixture
def etcd(tmp_path, ending):
    made = Etcd(tmp_path / "etcd")
    ending(made)
    return made


def test_the_state_is_told_when_the_store_is_away(etcd, make_issuer, make_server, entry):
    server = make_server([entry(make_issuer(auto_login="alice"), name="default")], own={"store": {"etcd": {"endpoints": [etcd.client]}}})
    assert told(server, "status")["store"]["trouble"] is None
    etcd.stop()
    status = told(server, "status", code=3)
    assert status["store"]["trouble"] and status["certificate_days"] > 14 and status["clock_doubtful"] is False, status
    (default,) = status["issuers"]
    assert (default["name"], default["credentials"], default["failing"]) == ("default", None, None)
    text = gridkeep(server, "status").stdout
    assert "DOES NOT ANSWER" in text and "issuer default: ? credentials" in text, text

    found = told(server, "doctor", code=1)
    said = json.dumps([finding for finding in found if finding["about"] == "store"])
    assert "takes no writes" in said and "members of etcd" in said and "mend the disk" not in said, said
    assert f"The member of etcd at {etcd.client} does not answer" in said, said
    assert "systemctl start gridkeep" not in json.dumps(found)
    server.stop()
    said = json.dumps(told(server, "doctor", code=1))
    assert f"The member of etcd at {etcd.client} does not answer" in said, said


def test_doctor_asks_etcd_where_no_server_runs(etcd, make_issuer, make_server, entry):
    server = make_server([entry(make_issuer(), name="default")], start=False, own={"store": {"etcd": {"endpoints": [etcd.client]}}})
    said = json.dumps([finding for finding in told(server, "doctor", code=1) if finding["about"] == "store"])
    assert f"The member of etcd at {etcd.client} is well (version 3." in said, said


def test_an_absolute_end_is_shown(make_issuer, make_server, entry):
    """From the issuer's refresh token to the operator's terminal."""
    issuer = make_issuer(auto_login="alice", character="keycloak", config={"refresh_token_seconds": 3 * 86_400})
    server = make_server([entry(issuer)])
    _, key = Vault(server).login()
    status = told(server, "status")
    (ending,) = status["ending"]
    assert ending["name"] == f"dune/{key}:default" and ending["login"]["ends"] and status["ended"] == 0, status
    text = gridkeep(server, "status").stdout
    assert "ending within a week:" in text and f"absolute end: {ending['login']['ends']}" in text, text
