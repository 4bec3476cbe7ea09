"""The files of a node whose cluster has the configuration in its store: what counts of them, what does not, and what is said of it."""

import json
import shutil

import pytest

from support.etcd import Etcd
from support.processes import wait_until
from support.servers import past_later
from support.vault import Vault
from test_metrics import LISTENING, scrape
from test_running import gridkeep

RULE = {"issuer": "dune", "claim": "wlcg.groups", "value": "/dune/operators"}


@pytest.fixture
def etcd(tmp_path, ending):
    made = Etcd(tmp_path / "etcd")
    ending(made)
    return made


@pytest.fixture
def first(etcd, make_issuer, make_server, entry):
    """A node with issuers, whose audit log goes to a directory that nobody has made."""
    issuers = [entry(make_issuer(auto_login="alice"))]
    server = make_server(issuers, "first", start=False, own={"store": {"etcd": {"endpoints": [etcd.client]}}, "operators": [RULE]})
    server.config["cluster"] |= {"myname": "first.test", "auditlog": str(server.directory / "logs" / "of" / "all" / "audit.log")}
    server.write_config()
    return server.start()


@pytest.fixture
def make_second(first, make_server):
    """Makes a node with the first one's key and, by its own files, no issuers and no audit log."""

    def make(**own):
        server = make_server([], "second", start=False, own={"store": first.config["gridkeep"]["store"], "operators": [RULE], **own})
        server.config["cluster"] = {"name": "localhost", "myname": "second.test"}
        del server.config["issuers"]
        server.write_config()
        shutil.copy(first.etc / "root.key", server.etc / "root.key")
        return server

    return make


def cluster(server):
    """`gridkeep cluster status` by node, and its text."""
    status = json.loads(gridkeep(server, "cluster", "status", "--json").stdout)
    return {node["name"]: node for node in status["nodes"]}, gridkeep(server, "cluster", "status").stdout


def test_a_node_that_takes_all_from_the_store_is_reloaded_and_tells_the_truth(first, make_second):
    token, key = Vault(first).login()
    first.stop()
    shutil.rmtree(first.directory / "logs")
    second = make_second().start()
    log = first.directory / "logs" / "of" / "all" / "audit.log"
    assert log.is_file(), "the log of all is made on a node that has none in its files"
    client = Vault(second)
    wait_until(lambda: client.read(token, key)[0] == 200, "it serves the issuers of the first", second.process)
    assert "No issuer is configured in the files of this node" in second.log()
    second.reload()
    assert "configuration reloaded" in second.log() and "not reloaded" not in second.log(), second.log()
    nodes, _ = cluster(second)
    assert not nodes["second.test"]["drift"] and nodes["second.test"]["without_effect"] == [], nodes

    told = gridkeep(second, "config", "diff")
    assert (told.returncode, told.stdout) == (0, "Nothing changes.\n"), told
    # Its own part is compared as before.
    second.config["gridkeep"]["advertise"] = "second.test:1"
    second.write_config()
    told = gridkeep(second, "config", "diff")
    assert "gridkeep.advertise: It changes from name and port to second.test:1." in told.stdout and "access ends" not in told.stdout, told

    shown = gridkeep(second, "config", "show", "--effective")
    assert shown.returncode == 0 and "version 1 of the configuration of all nodes, of the files of first.test" in shown.stdout, shown
    assert "- name: dune" in shown.stdout and first.config["issuers"][0]["secret"] not in shown.stdout, shown
    status, answer = past_later(second, "POST", "auth/oidc-dune/config", second.operator_token(), {"oidc_client_id": "x"})
    assert status == 405 and "configuration files of node first.test" in answer["errors"][0], answer
    second.stop()
    shown = gridkeep(second, "config", "show")
    assert "# These are the files of this node alone." in shown.stdout and "- name: dune" not in shown.stdout, shown


def test_keys_that_count_for_nothing_are_named_with_their_places(first, make_second):
    second = make_second(callback_port=443, trusted_proxies=["192.0.2.7"])
    second.config["ssh"] = {"self-registration": "disallowed"}
    second.write_config()
    second.start()
    place = f"({second.etc / 'config.d' / '10-test.yaml'}:1)"
    expected = [f"{key} {place}" for key in ("ssh", "gridkeep.callback_port", "gridkeep.trusted_proxies")]
    # Also to who looks at another node.
    nodes, text = wait_until(lambda: (seen := cluster(first))[0].get("second.test", {}).get("configuration") and seen, "the first hears what the second has in force", first.process)
    assert nodes["second.test"]["without_effect"] == expected, nodes
    assert nodes["first.test"]["without_effect"] == []
    assert "second.test: without effect in its files" in text and all(f"  {key}\n" in text for key in expected), text
    second.reload()
    for key in expected:
        assert second.log().count(f"{key} in the files of this node has no effect") == 1, second.log()


def test_a_front_server_taken_out_on_one_node_is_out_on_all(first, make_second):
    first.config["gridkeep"]["trusted_proxies"] = ["127.0.0.1"]
    first.reload()
    second = make_second().start()
    told = lambda: gridkeep(second, "config", "show").stdout  # noqa: E731
    assert "- 127.0.0.1" in told().split("trusted_proxies:")[1].split("tls:")[0]
    said = gridkeep(first, "config", "publish").stdout
    assert said.startswith("nothing was published: ") and "version 2" in said, said

    del first.config["gridkeep"]["trusted_proxies"]
    first.write_config()
    diff = gridkeep(first, "config", "diff").stdout
    assert "gridkeep.trusted_proxies: Front servers that are believed: none." in diff, diff
    assert diff.endswith("A reload makes these files the configuration of all nodes.\n"), diff
    first.reload()
    wait_until(lambda: "trusted_proxies: []" in told(), "the second believes it no longer", second.process)
    # Files that a reload leaves without effect say so beforehand.
    first.stop()
    first.config["gridkeep"]["trusted_proxies"] = ["127.0.0.2"]
    first.write_config()
    first.start()
    diff = gridkeep(first, "config", "diff").stdout
    assert diff.startswith("Nothing changes.\n") and "`gridkeep config publish` would" in diff, diff
    assert gridkeep(first, "config", "publish").stdout == "the files of this node are version 4 of the configuration of all nodes\n"
    wait_until(lambda: "127.0.0.2" in told(), "the second believes the new one", second.process)


def test_what_errors_leave_out_is_in_the_status(make_issuer, make_server, entry):
    issuers = [entry(make_issuer(name), name=name) for name in ("dune", "cms")]
    issuers[1]["callbackmode"] = "devise"
    server = make_server(issuers, own=LISTENING)
    done = gridkeep(server, "status")
    assert done.returncode == 3 and "NOT ALL OF IT IS SERVED" in done.stdout, done
    assert "10-test.yaml:1:" in done.stdout and "issuers[cms].callbackmode" in done.stdout, done
    assert scrape(server)["gridkeep_configuration_left_out"] == 1
    (error,) = json.loads(gridkeep(server, "status", "--json").stdout)["left_out"]
    assert "issuers[cms].callbackmode" in error
    server.config["issuers"][1]["callbackmode"] = "device"
    server.reload()
    assert scrape(server)["gridkeep_configuration_left_out"] == 0
    done = gridkeep(server, "status")
    assert "NOT ALL OF IT" not in done.stdout and json.loads(gridkeep(server, "status", "--json").stdout)["left_out"] == [], done
