//! Tests of the configuration as a whole. Data is under `testdata/config`, hostile files under `corpus/yaml`; a file
//! added to either is found and run.

mod diffing;
mod etcd;
mod example;
mod files;
mod host;
mod hostile;
mod left_out;
mod merging;
mod own_rules;
mod shared;
mod validation;
mod yaml;

use super::source::Source;
use super::{Finding, Loaded, Severity, Sources, Surroundings, load_sources};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// A directory beside the crate's sources.
fn crate_directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A host that lends nothing but its name.
fn nowhere() -> Surroundings {
    Surroundings {
        hostname: "node.lab.example".to_owned(),
        etc: PathBuf::from("/nonexistent"),
        look_at_files: false,
    }
}

/// Sources from texts, named `/etc/htvault-config/config.d/<n>.yaml`.
fn sources(texts: &[&str]) -> Sources {
    let base = PathBuf::from("/etc/htvault-config");
    let files = texts.iter().enumerate().map(|(n, text)| Source {
        path: Arc::from(base.join(format!("config.d/{n}.yaml")).as_path()),
        text: Zeroizing::new((*text).to_owned()),
    });
    Sources {
        files: files.collect(),
        base,
        listed: Vec::new(),
    }
}

pub(crate) fn loaded(texts: &[&str]) -> Loaded {
    load_sources(sources(texts), &nowhere())
}

/// Findings of at least a severity.
fn at_least(loaded: &Loaded, severity: Severity) -> Vec<&Finding> {
    loaded
        .findings
        .iter()
        .filter(|finding| finding.severity >= severity)
        .collect()
}

/// A sound issuer with one role, as text to build on.
const ISSUER: &str = "issuers:\n- name: default\n  clientid: c\n  secret: s3cr3t-canary\n  url: https://iam.example.org/\n  credclaim: sub\n  roles:\n  - name: default\n    scopes: [wlcg]\n";
