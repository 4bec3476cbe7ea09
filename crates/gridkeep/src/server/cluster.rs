//! A node among others: which configuration is in force on it, and what it tells operators of the cluster.
//!
//! The configuration of all nodes is in the store. A node whose own files say something else serves the stored one and says so
//! (drift). A node's files become those of all when none are stored yet; when they were changed and the node is then reloaded;
//! when they were changed, have no errors and the node, being `cluster.master`, is then started; and when an operator says so
//! (`gridkeep config publish`). A reload alone does not: log rotation reloads servers whose files may be old.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::Context as _;
use gridkeep_keeper::UnixSeconds;
use gridkeep_keeper::clock::TOLERANCE;
use gridkeep_keeper::cluster::{
    ClusterOptions, ClusterStatus, NodeReport, NodeState, NodeStatus, StoredConfiguration,
    previous_files,
};
use gridkeep_store::Store;
use serde::{Deserialize, Serialize};

use super::sight;
use crate::config::{self, Config, Loaded, Sources};

/// How this node takes part in a cluster; `None` when its store is its own.
pub(super) fn options(config: &Config, first: Option<SocketAddr>) -> Option<ClusterOptions> {
    config.gridkeep.etcd.as_ref()?;
    let address = match &config.gridkeep.advertise {
        Some(address) => address.value.clone(),
        None => {
            let port = first.map_or(config.gridkeep.callback_port.value, |local| local.port());
            format!("{}:{port}", config.own_name().value)
        }
    };
    Some(ClusterOptions::new(address, env!("CARGO_PKG_VERSION")))
}

/// Why the configuration is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// The node starts.
    Start,
    /// It was told to read its files anew.
    Reload,
    /// An operator wants its files to be those of all.
    Publish,
    /// Another node has published.
    Seen,
}

/// This node's own files.
#[derive(Clone)]
pub(super) struct Own {
    pub config: Config,
    sources: Sources,
    /// Whether nothing was left out of it because of an error.
    faultless: bool,
    /// Digest of the shared part; `None` when there is none: such a node takes everything from the store.
    digest: Option<String>,
}

impl Own {
    pub fn of(config: &Config, loaded: &Loaded) -> Self {
        Own {
            config: config.clone(),
            sources: loaded.sources.clone(),
            faultless: loaded.is_faultless(),
            digest: (!config.issuers.is_empty()).then(|| digest_of(config)),
        }
    }

    fn name(&self) -> String {
        self.config.own_name().value
    }

    /// Whether its files are to be published: there are none yet, or they say something else and were `changed`.
    fn is_due(&self, stored: Option<&StoredConfiguration>, changed: bool) -> bool {
        let differs = stored.map(|stored| &stored.digest) != self.digest.as_ref();
        self.digest.is_some() && differs && (stored.is_none() || changed)
    }

    fn is_master(&self) -> bool {
        let name = self.name();
        let master = self.config.cluster.master.as_ref();
        master.is_some_and(|master| master.value.eq_ignore_ascii_case(&name))
    }
}

/// What stands before a digest and says which keys it covers; raised whenever there are others.
const SCHEME: &str = "2:";

fn digest_of(config: &Config) -> String {
    format!("{SCHEME}{}", config::digest(config))
}

/// What is stored, with its digest as this program makes it.
async fn stored(store: &Store, own: &Own) -> anyhow::Result<Option<StoredConfiguration>> {
    let stored = StoredConfiguration::read(store).await?;
    Ok(stored.map(|stored| comparable(own, stored)))
}

/// A digest that covers other keys, as one of an older program does, says nothing beside one of ours: that of the same text does.
fn comparable(own: &Own, mut stored: StoredConfiguration) -> StoredConfiguration {
    if !stored.digest.starts_with(SCHEME)
        && let Ok(config) = config::shared::joined(&own.config, &stored.text)
    {
        stored.digest = digest_of(&config);
    }
    stored
}

/// Keys without effect that a node tells the others of; they go with every heartbeat.
const MOST_NAMED: usize = 10;

/// The configuration to put in force, and what to tell the others.
pub(super) struct Settled {
    pub config: Config,
    pub report: NodeReport,
    /// The node whose files it follows from, where that is another one.
    pub by: Option<String>,
    /// Whether this node's files were made those of all just now.
    pub published: bool,
    /// The keys of this node's files that have no effect, with their places.
    without_effect: Vec<String>,
}

impl Settled {
    /// This node's files alone.
    pub fn alone(own: &Own) -> Self {
        Settled {
            config: own.config.clone(),
            report: NodeReport::default(),
            by: None,
            published: false,
            without_effect: Vec::new(),
        }
    }

    /// Says in the log which keys have no effect here, unless that was said before.
    pub fn tell(&self, before: &NodeReport) {
        if self.report.without_effect == before.without_effect {
            return;
        }
        for key in &self.without_effect {
            tracing::warn!(
                version = self.report.configuration,
                by = self.by,
                "{key} in the files of this node has no effect: the configuration that all nodes share says otherwise; take it out here, or change it on the node that published"
            );
        }
    }
}

/// What a reload would put in force, and what else it would do, as a sentence.
pub(super) struct Foreseen {
    pub config: Config,
    pub remark: Option<String>,
}

/// Finds what a reload would put in force if the files were `own`; `before`: what they were when they were last read.
///
/// # Errors
/// As [`settle`].
pub(super) async fn foresee(store: &Store, own: &Own, before: &Own) -> anyhow::Result<Foreseen> {
    let stored = stored(store, own).await?;
    let changed = before.digest != own.digest && own.faultless;
    if own.is_due(stored.as_ref(), changed) {
        return Ok(Foreseen {
            config: own.config.clone(),
            remark: Some("A reload makes these files the configuration of all nodes.".to_owned()),
        });
    }
    let settled = in_force(own, stored)?;
    let remark = settled.report.drift.then(|| {
        format!(
            "A reload does not make these files the configuration of all nodes, which is that of {}; `gridkeep config publish` would.",
            settled.by.as_deref().unwrap_or("this node as it was before")
        )
    });
    Ok(Foreseen {
        config: settled.config,
        remark,
    })
}

/// Finds what is to be in force; publishes this node's files where that is due. `before`: its files as they were before a reload.
///
/// # Errors
/// When the store cannot be asked, or what is in it cannot be used by this version.
pub(super) async fn settle(
    store: &Store,
    own: &Own,
    occasion: Occasion,
    before: Option<&Own>,
) -> anyhow::Result<Settled> {
    let changed = match occasion {
        Occasion::Start if own.is_master() => previous_files(store, &own.name())
            .await?
            // What an older program has noted of the same files is not comparable.
            .is_some_and(|before| before.starts_with(SCHEME) && Some(before) != own.digest),
        Occasion::Reload => before.is_some_and(|before| before.digest != own.digest),
        Occasion::Start | Occasion::Publish | Occasion::Seen => false,
    };
    let changed = if changed && !own.faultless {
        tracing::warn!(
            "the files of this node were changed and have errors (named above): they do not become the configuration of all nodes, for leaving out what has errors would cost its users their access everywhere; mend them and reload or start this node anew"
        );
        false
    } else {
        changed
    };
    let wanted = changed || occasion == Occasion::Publish;
    let mut done = false;
    loop {
        let stored = stored(store, own).await?;
        let due = own.is_due(stored.as_ref(), wanted);
        let Some(digest) = own.digest.as_ref().filter(|_| due) else {
            if let Some(stored) = &stored {
                warn_of_drift(own, stored);
            } else {
                tracing::warn!(
                    "no node has put a configuration into the store yet, and the files of this one name no issuer: nobody can log in until one with issuers is started"
                );
            }
            let mut settled = in_force(own, stored)?;
            settled.published = done;
            return Ok(settled);
        };
        let text = config::shared::to_text(&own.sources)?;
        let over = stored.as_ref().map_or(0, |stored| stored.version);
        let now = UnixSeconds(jiff::Timestamp::now().as_second());
        let published =
            StoredConfiguration::publish(store, Some(over), digest, &text, &own.name(), now)
                .await?;
        if let Some(version) = published {
            done = true;
            tracing::info!(
                version,
                "the files of this node are the configuration of all nodes now"
            );
        }
    }
}

fn drifts(own: &Own, stored: &StoredConfiguration) -> bool {
    own.digest
        .as_ref()
        .is_some_and(|digest| *digest != stored.digest)
}

fn warn_of_drift(own: &Own, stored: &StoredConfiguration) {
    if drifts(own, stored) {
        tracing::warn!(
            version = stored.version,
            by = stored.by,
            "the files of this node are not the configuration that all nodes share, which is served: copy the files of that node here, or make these the ones of all nodes with `gridkeep config publish`"
        );
    }
}

fn in_force(own: &Own, stored: Option<StoredConfiguration>) -> anyhow::Result<Settled> {
    let Some(stored) = stored else {
        return Ok(Settled::alone(own));
    };
    let drift = drifts(own, &stored);
    let same = own.digest.as_ref() == Some(&stored.digest);
    let config = if same {
        own.config.clone()
    } else {
        config::shared::joined(&own.config, &stored.text).with_context(|| {
            format!(
                "version {} of the configuration in the store, published by {}, cannot be used on this node; is that node of a newer version?",
                stored.version, stored.by
            )
        })?
    };
    let without_effect = config::without_effect(&own.config, &config);
    let mut named = without_effect.clone();
    if named.len() > MOST_NAMED {
        named.truncate(MOST_NAMED);
        let more = without_effect.len() - MOST_NAMED;
        named.push(format!("and {more} more, named in its log"));
    }
    Ok(Settled {
        config,
        report: NodeReport {
            files: own.digest.clone(),
            configuration: stored.version,
            drift,
            trouble: None,
            without_effect: named,
        },
        by: Some(stored.by).filter(|by| *by != own.name()),
        published: false,
        without_effect,
    })
}

/// What `gridkeep cluster status` prints and how it exits.
#[derive(Debug, Serialize, Deserialize)]
pub struct StatusAnswer {
    /// For people.
    pub text: String,
    /// For programs.
    pub json: serde_json::Value,
    /// Whether something wants an operator's attention.
    pub attention: bool,
}

/// How far a live node's clock is ahead, where that is more than clocks may differ.
fn clock_apart(node: &NodeStatus) -> Option<i64> {
    node.ahead
        .filter(|ahead| node.state == NodeState::Live && ahead.unsigned_abs() > TOLERANCE.as_secs())
}

/// What the words in a node's row mean, and what helps.
fn meanings(node: &NodeStatus, status: &ClusterStatus) -> Vec<String> {
    let configuration = status.configuration;
    let mut meanings: Vec<String> = sight::meaning(node, status).into_iter().collect();
    if let Some(trouble) = &node.report.trouble {
        meanings.push(format!(
            "unusable: it does not serve version {configuration} of the configuration: {trouble}; mend that and reload it"
        ));
    } else if node.report.drift {
        meanings.push(format!(
            "files differ: it serves version {} and not what its own files say; copy the files of a node without this remark there, or, if they are to count for all, run gridkeep config publish there",
            node.report.configuration
        ));
    } else if node.state == NodeState::Live && node.report.configuration != configuration {
        meanings.push(format!(
            "behind: it still serves version {}; it follows by itself within seconds, else look at its log",
            node.report.configuration
        ));
    }
    meanings
}

/// Puts the status into words.
pub(super) fn status(status: &ClusterStatus, engine: &str, trouble: Option<&str>) -> StatusAnswer {
    let mut text = String::new();
    let unusable = sight::trouble(status);
    let mut attention = trouble.is_some() || unusable.is_some();
    let said = |text: &mut String, line: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{line}");
    };
    let store = match (&unusable, trouble) {
        (_, Some(trouble)) if status.store => format!("refuses writes: {trouble}"),
        (Some(unusable), _) => format!("CANNOT BE USED: {unusable}"),
        (None, _) => "answers".to_owned(),
    };
    said(&mut text, format!("store: {engine}, {store}"));
    if !status.shared {
        said(
            &mut text,
            "nodes: this one alone; a cluster needs a store that nodes share (gridkeep.store)"
                .to_owned(),
        );
    } else {
        said(
            &mut text,
            format!(
                "configuration: version {}; records: level {}",
                status.configuration, status.level
            ),
        );
        let head = [
            "node",
            "state",
            "heartbeat",
            "commit",
            "version",
            "configuration",
            "address",
        ];
        let mut rows = vec![head.map(str::to_owned)];
        for node in &status.nodes {
            let behind = node.report.configuration != status.configuration;
            let configuration = match (&node.report, node.state) {
                (report, _) if report.trouble.is_some() => "unusable".to_owned(),
                (report, _) if report.drift => format!("{}, files differ", report.configuration),
                (report, NodeState::Live) if behind => format!("{}, behind", report.configuration),
                (report, _) => report.configuration.to_string(),
            };
            attention |= node.state == NodeState::Silent
                || node.report.drift
                || node.report.trouble.is_some();
            rows.push([
                format!("{}{}", node.name, if node.here { " (here)" } else { "" }),
                sight::word(node, status).to_owned(),
                format!("{:.1} s ago", node.since.as_secs_f64()),
                format!("{} ms", node.commit.as_millis()),
                node.version.clone(),
                configuration,
                node.address.clone(),
            ]);
        }
        let mut widths = [0; 7];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in &rows {
            let mut line = String::new();
            for (width, cell) in widths.iter().zip(row) {
                let _ = write!(line, "{cell:width$}  ");
            }
            said(&mut text, line.trim_end().to_owned());
        }
        for node in &status.nodes {
            for line in meanings(node, status) {
                said(&mut text, format!("{}: {line}", node.name));
            }
            if !node.report.without_effect.is_empty() {
                said(
                    &mut text,
                    format!(
                        "{}: without effect in its files, for the configuration that all nodes share says otherwise:",
                        node.name
                    ),
                );
                for key in &node.report.without_effect {
                    said(&mut text, format!("  {key}"));
                }
            }
            if let Some(ahead) = clock_apart(node) {
                attention = true;
                let way = if ahead < 0 { "behind" } else { "ahead of" };
                said(
                    &mut text,
                    format!(
                        "{}: its clock is {} s {way} this node's; set the wrong one right",
                        node.name,
                        ahead.unsigned_abs()
                    ),
                );
            }
        }
        if status.outvoted {
            attention = true;
            said(
                &mut text,
                "this node's clock is not that of most of the cluster: requests are passed to other nodes until it is set right, or until `gridkeep operator confirm-clock` says that it is"
                    .to_owned(),
            );
        }
    }
    let nodes: Vec<serde_json::Value> = status
        .nodes
        .iter()
        .map(|node| {
            serde_json::json!({
                "name": node.name,
                "here": node.here,
                "state": sight::word(node, status),
                "heartbeat_age_seconds": node.since.as_secs_f64(),
                "heartbeat_at": node.at.0,
                "started_at": node.started_at.0,
                "clock_ahead_seconds": node.ahead,
                "commit_seconds": node.commit.as_secs_f64(),
                "version": node.version,
                "record_level": node.level,
                "address": node.address,
                "configuration": node.report.configuration,
                "files_digest": node.report.files,
                "drift": node.report.drift,
                "trouble": node.report.trouble,
                "without_effect": node.report.without_effect,
                "root_keys": node.root_keys,
            })
        })
        .collect();
    let json = serde_json::json!({
        "shared": status.shared,
        "node": status.node,
        "store": { "engine": engine, "answers": status.store, "refusing_writes": trouble, "trouble": unusable },
        "root_key": status.root_keys.in_force,
        "root_key_lacking": status.root_keys.lacking,
        "fresh": status.fresh,
        "clock_outvoted": status.outvoted,
        "record_level": status.level,
        "configuration": status.configuration,
        "nodes": nodes,
        "attention": attention,
    });
    StatusAnswer {
        text,
        json,
        attention,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::loaded;

    #[test]
    fn what_an_older_program_stored_of_the_same_files_is_no_other_configuration() {
        let issuers = |secret: &str| {
            let text = format!(
                "gridkeep: {{store: {{etcd: {{endpoints: [http://e.example:2379]}}}}}}\nissuers: [{{name: default, clientid: c, secret: {secret}, url: 'https://i.example/', credclaim: sub, roles: [{{name: default}}]}}]\n"
            );
            let loaded = loaded(&[&text]);
            Own::of(loaded.config.as_ref().unwrap(), &loaded)
        };
        let own = issuers("s");
        let stored_of = |own: &Own| StoredConfiguration {
            version: 1,
            digest: "0123".to_owned(),
            by: "gk1".to_owned(),
            at: UnixSeconds(0),
            text: config::shared::to_text(&own.sources).unwrap(),
        };
        let same = comparable(&own, stored_of(&own));
        assert!(!drifts(&own, &same) && !own.is_due(Some(&same), true));
        let other = comparable(&own, stored_of(&issuers("t")));
        assert!(drifts(&own, &other) && own.is_due(Some(&other), true));
    }
}
