//! What a node says of its store and of its sight of the other nodes, where one of them is in trouble: what is known, and not more.

use gridkeep_keeper::cluster::{ClusterStatus, NodeState, NodeStatus, WithoutKey};

/// Why this node cannot use the store that it shares with others, and what helps; `None` if it can.
pub(super) fn trouble(status: &ClusterStatus) -> Option<String> {
    if !status.shared {
        return None;
    }
    if let (Some(lacking), Some(_)) = (&status.root_keys.lacking, &status.heartbeat_trouble) {
        return Some(format!(
            "it is sealed under root key {lacking}, which another node has put in force and this one does not know (it knows {}): nothing can be written here, and requests are passed to other nodes; copy the file with that key here and run gridkeep operator expect-root-key FILE, or put it where the server finds its key and start it anew",
            status.root_keys.known.join(", ")
        ));
    }
    let last = status
        .heartbeat_trouble
        .as_ref()
        .map_or_else(String::new, |trouble| {
            format!("; what it said last: {trouble}")
        });
    if !status.store {
        let since = status.answered.map_or_else(
            || "since it was started".to_owned(),
            |since| format!("for {} s", since.as_secs()),
        );
        return Some(format!(
            "it has not answered this node {since}: requests are passed to other nodes that reach it, of which nothing is known here meanwhile; look at etcd (etcdctl endpoint health) and at the way from this host to it{last}"
        ));
    }
    // One that is late and the next that is not are no trouble.
    (!last.is_empty() && !status.fresh).then(|| {
        format!(
            "it answers, and does not take the heartbeats of this node, which writes nothing meanwhile and counts as silent after some seconds; look at etcd (etcdctl endpoint health){last}"
        )
    })
}

/// Whether nothing can be said of nodes that are not heard of: this one hears nobody.
fn is_blind(status: &ClusterStatus) -> bool {
    let hears = |node: &NodeStatus| !node.here && node.state == NodeState::Live;
    !status.fresh && !status.nodes.iter().any(hears)
}

/// How a node is doing, in a word.
pub(super) fn word(node: &NodeStatus, status: &ClusterStatus) -> &'static str {
    match node.state {
        NodeState::Live => "live",
        NodeState::Stopped => "stopped",
        // Who says this runs.
        NodeState::Silent if node.here => "cut off",
        NodeState::Silent if is_blind(status) => "unknown",
        NodeState::Silent => "silent",
    }
}

/// What it means that a node is not heard of, and what helps.
pub(super) fn meaning(node: &NodeStatus, status: &ClusterStatus) -> Option<String> {
    let in_force = &status.root_keys.in_force;
    let lacks_key = status.root_keys.lacking.is_none()
        && !node.root_keys.is_empty()
        && !node.root_keys.contains(in_force);
    Some(match word(node, status) {
        "cut off" => "cut off: it runs, and its heartbeats do not come to the other nodes; see what is said of the store".to_owned(),
        "unknown" => "unknown: nothing is heard of it, for this node hears nothing from the store; ask a node that does".to_owned(),
        "silent" if lacks_key => format!(
            "silent: when it was last heard of it did not know root key {in_force}, under which the store is sealed since: if it runs, it writes nothing and passes requests to other nodes; copy the file with that key there and run gridkeep operator expect-root-key FILE there, or put it where that server finds its key and start it anew (it knew {})",
            node.root_keys.join(", ")
        ),
        "silent" => "silent: it was not stopped, and nothing is heard of it: its host or program is down, or it does not reach etcd; start it, look at its log and the network (if it is gone for good, it is forgotten after a week)".to_owned(),
        _ => return None,
    })
}

/// Why a root key is not put in force while these nodes do not know it, and what to do first.
pub(super) fn not_told(nodes: &[WithoutKey], key: &str) -> String {
    let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    let names = names.join(", ");
    let silent = if nodes.iter().all(|node| node.says) {
        ""
    } else {
        " A node of an older version does not say which keys it knows: once it was told, give --force."
    };
    format!(
        "these nodes are live and do not know root key {key}: {names}. Once it is in force they can write nothing and serve nobody by themselves. Run `gridkeep operator expect-root-key FILE` here, which makes the key if there is no such file; copy the file to each of these nodes and run the same there; then run `gridkeep operator rotate-root-key --key FILE` here. With --force it is put in force without them.{silent}"
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gridkeep_keeper::UnixSeconds;
    use gridkeep_keeper::cluster::NodeReport;
    use gridkeep_store::RootKeys;

    use super::*;

    fn node(name: &str, state: NodeState, root_keys: &[&str]) -> NodeStatus {
        NodeStatus {
            name: name.to_owned(),
            here: name == "n1",
            state,
            since: Duration::from_secs(9),
            at: UnixSeconds(1_785_500_000),
            ahead: None,
            started_at: UnixSeconds(1_785_500_000),
            address: format!("{name}.example:8200"),
            version: "1.2.3".to_owned(),
            level: 1,
            commit: Duration::ZERO,
            report: NodeReport::default(),
            root_keys: root_keys.iter().map(|&key| key.to_owned()).collect(),
        }
    }

    fn seen(by: NodeState, of: NodeState) -> ClusterStatus {
        ClusterStatus {
            shared: true,
            node: "n1".to_owned(),
            store: by == NodeState::Live,
            answered: Some(Duration::from_secs(12)),
            heartbeat_trouble: None,
            root_keys: RootKeys {
                in_force: "new".to_owned(),
                known: vec!["old".to_owned(), "new".to_owned()],
                lacking: None,
            },
            fresh: by == NodeState::Live,
            outvoted: false,
            level: 1,
            configuration: 7,
            nodes: vec![
                node("n1", by, &["old", "new"]),
                node("n2", of, &["old"]),
                node("n3", of, &[]),
            ],
        }
    }

    fn meanings(status: &ClusterStatus) -> Vec<String> {
        let nodes = status.nodes.iter();
        nodes
            .map(|node| meaning(node, status).unwrap_or_default())
            .collect()
    }

    #[test]
    fn a_node_that_hears_nobody_accuses_nobody() {
        let status = seen(NodeState::Silent, NodeState::Silent);
        let words: Vec<_> = status
            .nodes
            .iter()
            .map(|node| word(node, &status))
            .collect();
        assert_eq!(words, ["cut off", "unknown", "unknown"]);
        for text in meanings(&status) {
            assert!(!text.contains("down") && !text.contains("start"), "{text}");
        }
        let told = trouble(&status).unwrap();
        for part in ["for 12 s", "etcdctl endpoint health", "nothing is known"] {
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn a_silent_node_without_the_key_in_force_is_told_what_it_lacks() {
        let status = seen(NodeState::Live, NodeState::Silent);
        let [here, without, unsaid] = &meanings(&status)[..] else {
            panic!()
        };
        assert!(here.is_empty() && trouble(&status).is_none());
        assert!(
            without.contains("did not know root key new")
                && without.contains("expect-root-key FILE there"),
            "{without}"
        );
        assert!(unsaid.contains("its host or program is down"), "{unsaid}");
    }

    #[test]
    fn a_node_that_lacks_the_key_says_so_and_sees_the_others() {
        let mut status = seen(NodeState::Silent, NodeState::Live);
        status.root_keys.lacking = Some("newest".to_owned());
        status.heartbeat_trouble = Some("the data is sealed under root key newest".to_owned());
        let words: Vec<_> = status
            .nodes
            .iter()
            .map(|node| word(node, &status))
            .collect();
        assert_eq!(words, ["cut off", "live", "live"]);
        let told = trouble(&status).unwrap();
        assert!(
            told.contains("root key newest") && told.contains("expect-root-key FILE"),
            "{told}"
        );
        // Heartbeats that are not taken are trouble while the store answers, too.
        status.root_keys.lacking = None;
        status.store = true;
        let told = trouble(&status).unwrap();
        assert!(told.contains("does not take the heartbeats"), "{told}");
        // One that was late is not.
        status.fresh = true;
        assert_eq!(trouble(&status), None);
    }

    #[test]
    fn only_of_old_programs_it_is_said_that_they_say_nothing() {
        let without = |says| WithoutKey {
            name: "n2".to_owned(),
            says,
        };
        assert!(!not_told(&[without(true)], "new").contains("older version"));
        assert!(not_told(&[without(true), without(false)], "new").contains("older version"));
    }
}
