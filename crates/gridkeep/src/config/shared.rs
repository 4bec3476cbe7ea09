//! The part of the configuration that all nodes of a cluster have in common, as it lies in the store, and a node's own part
//! joined with it.
//!
//! What is stored are the texts of the files of the node that published them, so that a node of another version reads them by
//! its own rules. What is a node's own (addresses, places, its name, telemetry) always comes from its own files. A new key is one or
//! the other: either it is in the shared part of `effective`, by which nodes compare their files, or [`joined`] takes it from the
//! node's files; a test holds every key to that.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::source::{Source, Sources};
use super::{Config, Findings, Surroundings, load_with};

#[derive(Serialize, Deserialize)]
struct Stored {
    base: PathBuf,
    files: Vec<StoredFile>,
}

#[derive(Serialize, Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
struct StoredFile {
    #[zeroize(skip)]
    path: PathBuf,
    text: String,
}

/// The files as one text.
///
/// # Errors
/// When a path is not text.
pub fn to_text(sources: &Sources) -> anyhow::Result<Zeroizing<String>> {
    let stored = Stored {
        base: sources.base.clone(),
        files: sources
            .files
            .iter()
            .map(|file| StoredFile {
                path: file.path.to_path_buf(),
                text: file.text.to_string(),
            })
            .collect(),
    };
    Ok(Zeroizing::new(serde_json::to_string(&stored)?))
}

/// The configuration of this node: what is shared from `text`, its own part from `own`.
///
/// # Errors
/// When the text cannot be used by this version of the program.
pub fn joined(own: &Config, text: &str) -> anyhow::Result<Config> {
    let stored: Stored = serde_json::from_str(text)
        .map_err(|_| anyhow::anyhow!("it is not of the form that this version stores"))?;
    let sources = Sources {
        base: stored.base.clone(),
        listed: Vec::new(),
        files: stored
            .files
            .iter()
            .map(|file| Source {
                path: Arc::from(file.path.as_path()),
                text: Zeroizing::new(file.text.clone()),
            })
            .collect(),
    };
    // The places it names are looked at on each node by what is made of them.
    let surroundings = Surroundings {
        look_at_files: false,
        ..Surroundings::of_this_host()
    };
    let loaded = load_with(sources, &surroundings, Findings::default());
    let worst = loaded
        .findings
        .iter()
        .max_by_key(|finding| finding.severity);
    let Some(mut config) = loaded.config else {
        anyhow::bail!(
            "{}",
            worst.map_or_else(|| "it cannot be read".to_owned(), ToString::to_string)
        );
    };
    config.hostname.clone_from(&own.hostname);
    if config.cluster.name.is_none() {
        config.cluster.name.clone_from(&own.cluster.name);
    }
    config.cluster.myname.clone_from(&own.cluster.myname);
    config.cluster.master.clone_from(&own.cluster.master);
    config.cluster.peers.clone_from(&own.cluster.peers);
    config.cluster.members.clone_from(&own.cluster.members);
    let (shared, own) = (&mut config.gridkeep, own.gridkeep.clone());
    shared.listen = own.listen;
    shared.certificate = own.certificate;
    shared.key = own.key;
    shared.data = own.data;
    shared.etcd = own.etcd;
    shared.plain_listen = own.plain_listen;
    shared.advertise = own.advertise;
    shared.seal_key_file = own.seal_key_file;
    shared.shamir = own.shamir;
    // Where a node sends what, and whether issuers get the traces it sends, is its own; what issuers do is the same for all.
    let life = shared.telemetry.refresh_token_life.clone();
    shared.telemetry = own.telemetry;
    shared.telemetry.refresh_token_life = life;
    shared.run_directory = own.run_directory;
    Ok(config)
}
