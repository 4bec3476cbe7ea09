//! The nodes of the cluster, in the words of the original: equals, each of which leads while it has its store.

use gridkeep_keeper::cluster::{ClusterStatus, NodeState};
use gridkeep_keeper::{Operation, Peer};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::status::object;
use crate::answer::Answer;
use crate::failure::Trouble;
use crate::route::RaftRoute;
use crate::service::{Call, Inner};

/// The address of the node that leads, as far as somebody asks here: this one while it has its store, else the one to which it passes
/// requests first, if it knows of any.
fn leading(here: &ClusterStatus, peers: Vec<Peer>) -> Option<String> {
    if !here.store {
        return peers.into_iter().next().map(|peer| peer.address);
    }
    let own = here.nodes.iter().find(|node| node.here);
    own.map(|node| node.address.clone())
}

/// Nodes are equal, so each with its store is the one that leads.
pub(super) fn leader(inner: &Inner) -> Map<String, Value> {
    if !inner.keeper.is_shared() {
        return object(json!({"ha_enabled": false}));
    }
    leader_among(&inner.keeper.cluster_status(), inner.keeper.peers())
}

fn leader_among(here: &ClusterStatus, peers: Vec<Peer>) -> Map<String, Value> {
    let mut answer = object(json!({"ha_enabled": true}));
    if let Some(address) = leading(here, peers) {
        let address = format!("https://{address}");
        answer.insert("leader_address".to_owned(), address.clone().into());
        answer.insert("leader_cluster_address".to_owned(), address.into());
    }
    if here.store {
        let own = here.nodes.iter().find(|node| node.here);
        answer.insert("is_self".to_owned(), Value::Bool(true));
        let since = own.map(|node| crate::time::whole(node.started_at));
        answer.insert("active_time".to_owned(), Value::from(since));
    }
    answer
}

/// `sys/ha-status`: all nodes.
pub(super) fn all(inner: &Inner, call: &Call<'_>) -> Result<Answer, Trouble> {
    if call.operation != Operation::Read {
        return Err(Trouble::unsupported());
    }
    let status = inner.keeper.cluster_status();
    let nodes: Vec<Value> = status
        .nodes
        .iter()
        .map(|node| {
            json!({
                "hostname": node.name,
                "api_address": format!("https://{}", node.address),
                "cluster_address": format!("https://{}", node.address),
                "active_node": node.state == NodeState::Live,
                "last_echo": crate::time::whole(node.at),
                "version": node.version,
            })
        })
        .collect();
    Ok(Answer::repeated(object(json!({ "nodes": nodes }))))
}

/// What the original's clusters store with Raft is in etcd here, and so are the nodes.
pub(super) fn raft(inner: &Inner, route: RaftRoute, call: &Call<'_>) -> Result<Answer, Trouble> {
    let not_here = |text| Err(Trouble::text(StatusCode::METHOD_NOT_ALLOWED, text));
    match route {
        RaftRoute::Configuration if call.operation == Operation::Read => configuration(inner),
        RaftRoute::RemovePeer if call.operation == Operation::Update => not_here(
            "no node is removed by API: stop its service (systemctl stop gridkeep); it gets no requests any more and is forgotten a week later",
        ),
        RaftRoute::Snapshot if inner.keeper.is_shared() => not_here(
            "this server's store is in etcd and is copied and restored there: etcdctl snapshot save; keep the root key elsewhere",
        ),
        RaftRoute::Snapshot => not_here(
            "there are no snapshots by API: stop the server, copy its data directory (gridkeep.data) and start it again; keep the root key elsewhere",
        ),
        _ => Err(Trouble::unsupported()),
    }
}

fn configuration(inner: &Inner) -> Result<Answer, Trouble> {
    if !inner.keeper.is_shared() {
        return Err(Trouble::bad("raft storage is not in use"));
    }
    let peers = inner.keeper.peers();
    Ok(Answer::data(servers(&inner.keeper.cluster_status(), peers)))
}

fn servers(here: &ClusterStatus, peers: Vec<Peer>) -> Map<String, Value> {
    let leader = leading(here, peers);
    let servers: Vec<Value> = here
        .nodes
        .iter()
        .filter(|node| node.state != NodeState::Stopped)
        .map(|node| {
            json!({
                "node_id": node.name,
                "address": node.address,
                "leader": leader.as_ref() == Some(&node.address),
                "protocol_version": "3",
                "voter": true,
            })
        })
        .collect();
    object(json!({"config": {"servers": servers, "index": here.configuration}}))
}

/// The answer to `sys/storage/raft/join`.
pub(crate) fn cannot_join() -> Trouble {
    Trouble::text(
        StatusCode::METHOD_NOT_ALLOWED,
        "no node joins by API: give it the same gridkeep.store.etcd and the same root key as the others, and start it (gridkeep server); gridkeep cluster status shows it then",
    )
}

/// `sys/step-down`: nothing to do. Nodes are equal, and clients may as well go on with this one.
pub(super) fn step_down(call: &Call<'_>) -> Result<Answer, Trouble> {
    if call.operation != Operation::Update {
        return Err(Trouble::unsupported());
    }
    Ok(Answer::done())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gridkeep_keeper::UnixSeconds;
    use gridkeep_keeper::cluster::{NodeReport, NodeStatus};
    use gridkeep_store::RootKeys;

    use super::*;

    fn node(name: &str, state: NodeState) -> NodeStatus {
        NodeStatus {
            name: name.to_owned(),
            here: name == "n1",
            state,
            since: Duration::ZERO,
            at: UnixSeconds(1_785_500_000),
            ahead: None,
            started_at: UnixSeconds(1_785_500_000),
            address: format!("{name}.example:8200"),
            version: "1.2.3".to_owned(),
            level: 1,
            commit: Duration::ZERO,
            report: NodeReport::default(),
            root_keys: Vec::new(),
        }
    }

    /// What `n1` sees, with or without its store.
    fn seen(store: bool) -> ClusterStatus {
        ClusterStatus {
            shared: true,
            node: "n1".to_owned(),
            store,
            answered: None,
            heartbeat_trouble: None,
            root_keys: RootKeys {
                in_force: String::new(),
                known: Vec::new(),
                lacking: None,
            },
            fresh: store,
            outvoted: false,
            level: 1,
            configuration: 7,
            nodes: vec![
                node("n1", NodeState::Live),
                node("n2", NodeState::Live),
                node("n3", NodeState::Silent),
                node("n4", NodeState::Stopped),
            ],
        }
    }

    fn n2() -> Vec<Peer> {
        vec![Peer {
            name: "n2".to_owned(),
            address: "n2.example:8200".to_owned(),
        }]
    }

    #[test]
    fn a_node_with_its_store_leads_and_one_without_names_the_node_it_asks() {
        let own = "https://n1.example:8200";
        assert_eq!(
            Value::Object(leader_among(&seen(true), n2())),
            json!({
                "ha_enabled": true,
                "is_self": true,
                "active_time": "2026-07-31T12:13:20Z",
                "leader_address": own,
                "leader_cluster_address": own,
            })
        );
        let other = "https://n2.example:8200";
        assert_eq!(
            Value::Object(leader_among(&seen(false), n2())),
            json!({
                "ha_enabled": true,
                "leader_address": other,
                "leader_cluster_address": other,
            })
        );
        assert_eq!(
            Value::Object(leader_among(&seen(false), Vec::new())),
            json!({"ha_enabled": true}),
            "nobody is known"
        );
    }

    #[test]
    fn the_nodes_are_told_as_of_raft_with_one_leader() {
        let server = |name: &str, leader: bool| {
            json!({
                "node_id": name,
                "address": format!("{name}.example:8200"),
                "leader": leader,
                "protocol_version": "3",
                "voter": true,
            })
        };
        for (store, leader) in [(true, "n1"), (false, "n2")] {
            let servers = ["n1", "n2", "n3"].map(|name| server(name, name == leader));
            assert_eq!(
                Value::Object(super::servers(&seen(store), n2())),
                json!({"config": {"servers": servers, "index": 7}})
            );
        }
    }
}
