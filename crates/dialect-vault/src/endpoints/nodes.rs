//! The nodes of the cluster, in the words of the original: equals, each of which leads while it has its store.

use gridkeep_keeper::Operation;
use gridkeep_keeper::cluster::NodeState;
use serde_json::{Map, Value, json};

use super::status::object;
use crate::answer::Answer;
use crate::failure::Trouble;
use crate::service::{Call, Inner};

/// Nodes are equal, so each with its store is the one that leads.
pub(super) fn leader(inner: &Inner) -> Map<String, Value> {
    if !inner.keeper.is_shared() {
        return object(json!({"ha_enabled": false}));
    }
    let here = inner.keeper.cluster_status();
    let own = here.nodes.iter().find(|node| node.here);
    let address = own.map(|node| format!("https://{}", node.address));
    let mut answer = object(json!({
        "ha_enabled": true,
        "leader_address": address,
        "leader_cluster_address": address,
    }));
    if here.store {
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
    Ok(Answer::data(object(json!({ "nodes": nodes }))))
}
