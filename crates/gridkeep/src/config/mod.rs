//! The configuration: htvault-config's YAML files as they are, with our own keys beside them, read into types.
//!
//! Owns the YAML dialect, merging, validation, and the answers to "what is in effect" and "what would change". Refuses
//! to know how the values are used: no network, no store, no server. A new key gets a field in `model`, a line in
//! the reader of its section (`issuers`, `sections`, `own`), one in `effective` and one in `diff`.
//!
//! The way of the data: `source` (files) → `yaml` (trees) → `merge` (one tree) → readers (types and findings) → `host`
//! (files that the values name) → [`Loaded`].

mod advertise;
mod client_key;
pub mod commands;
mod derived;
mod diff;
mod effective;
mod etcd;
mod finding;
mod host;
mod issuers;
mod left_out;
mod merge;
mod model;
mod names;
mod own;
mod plain;
mod published;
mod read;
mod robots;
mod sections;
mod service_user;
pub mod shared;
mod source;
mod telemetry;
mod terms;
#[cfg(test)]
pub(crate) mod tests;
mod values;
mod without_effect;
mod yaml;
mod yaml11;

pub use client_key::parse as client_key;
pub use commands::counted;
pub use diff::{Change, Impact, diff};
pub use effective::{digest, show_effective};
pub use etcd::EtcdConfig;
pub use finding::{Finding, Origin, Setting, Severity};
pub use host::{CERTIFICATE_DAYS, Surroundings, ends, times_of_certificate};
pub use model::{
    AuditLog, CallbackMode, ClientAuth, Config, IssuerConfig, KerberosConfig, OnAuditFailure,
    RateLimitConfig,
};
pub use published::{Comparable, against_discovery};
pub use service_user::{
    Closed, Need, OPERATORS_SOCKET, ROOT_KEY, RunsAs, closed_files, process_of, told_once,
};
pub use source::{Sources, default_paths};
pub use telemetry::CollectorConfig;
pub use terms::of_role as terms_of_role;
pub use without_effect::without_effect;

use finding::{Findings, Refusal};
use read::Reader;
use std::path::PathBuf;
use yaml::{Mapping, Value};

/// What became of a set of files.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The valid part; `None` when there is a fatal finding.
    pub config: Option<Config>,
    /// All there is to say.
    pub findings: Vec<Finding>,
    /// The texts it was read from, to be loaded again elsewhere.
    pub sources: Sources,
}

impl Loaded {
    /// The gravest finding.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }

    /// Has no item been refused? A running server takes over only such a configuration: leaving out an issuer because
    /// of a slip of the pen would cost its users their access.
    pub fn is_faultless(&self) -> bool {
        self.config.is_some() && self.worst().is_none_or(|worst| worst < Severity::Error)
    }

    /// May a server start with it? Strictly: with nothing worse than notes; else: without fatal findings, since faulty items are
    /// left out already.
    pub fn is_acceptable(&self, strict: bool) -> bool {
        let limit = if strict {
            Severity::Warning
        } else {
            Severity::Fatal
        };
        self.config.is_some() && self.worst().is_none_or(|worst| worst < limit)
    }
}

/// Reads configuration files and `config.d` directories, in the order given.
pub fn load(paths: &[PathBuf], surroundings: &Surroundings) -> Loaded {
    let mut findings = Findings::default();
    match source::read(paths, &mut findings) {
        Some(sources) => load_with(sources, surroundings, findings),
        None => Loaded {
            config: None,
            findings: findings.into_vec(),
            sources: Sources::default(),
        },
    }
}

/// As [`load`], from texts that were read before.
#[cfg(test)]
pub fn load_sources(sources: Sources, surroundings: &Surroundings) -> Loaded {
    load_with(sources, surroundings, Findings::default())
}

fn load_with(sources: Sources, surroundings: &Surroundings, mut findings: Findings) -> Loaded {
    let config = match tree(&sources, &mut findings) {
        Ok(root) => Some(typed(&root, &sources, surroundings, &mut findings)),
        Err(finding) => {
            findings.push(*finding);
            None
        }
    };
    let findings = findings.into_vec();
    let fatal = findings
        .iter()
        .any(|finding| finding.severity == Severity::Fatal);
    let faults = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error);
    let config = config.filter(|_| !fatal).map(|config| Config {
        faults: faults.cloned().collect(),
        ..config
    });
    Loaded {
        config,
        findings,
        sources,
    }
}

/// All files merged.
fn tree(sources: &Sources, findings: &mut Findings) -> Result<Mapping, Refusal> {
    let mut root = None;
    for source in &sources.files {
        let Some(node) = yaml::parse(&source.text, &source.path, findings)? else {
            continue;
        };
        if !matches!(node.value, Value::Map(_)) {
            let what = format!(
                "The file holds {}, but keys with values are wanted.",
                node.kind()
            );
            let means = "Nothing of the configuration is used until this is corrected.";
            return Err(Box::new(Finding::new(
                Severity::Fatal,
                &node.origin,
                "",
                what,
                means,
            )));
        }
        root = Some(merge::merge(root, node, findings)?);
    }
    match root.map(|root| root.value) {
        Some(Value::Map(map)) => Ok(map),
        _ => Ok(Mapping::default()),
    }
}

fn typed(
    root: &Mapping,
    sources: &Sources,
    surroundings: &Surroundings,
    findings: &mut Findings,
) -> Config {
    let mut reader = Reader {
        findings,
        shell_unescape: false,
        ran_on_original: root.get(own::KEY).is_none(),
    };
    own::check_top_level(&mut reader, root);
    let mut gridkeep = own::read(&mut reader, root, &sources.base);
    reader.shell_unescape = gridkeep.shell_unescape.value;
    let cluster = sections::cluster(&mut reader, root);
    let kerberos = sections::kerberos(&mut reader, root);
    let services: Vec<String> = kerberos
        .iter()
        .map(|service| service.name.value.clone())
        .collect();
    let issuers = issuers::read(&mut reader, root, &services);
    terms::check(&mut reader, &issuers, gridkeep.max_ttl.as_ref());
    let none_here = root.get("issuers").is_none_or(|node| match &node.value {
        Value::Null => true,
        Value::List(items) => items.is_empty(),
        _ => false,
    });
    // Those of the store are not known here, so nothing is said of what depends on them.
    let elsewhere = none_here && gridkeep.etcd.is_some();
    if !elsewhere {
        own::check_operators(&mut reader, &mut gridkeep, &issuers);
        robots::check(&mut reader, &mut gridkeep.robots, &issuers);
    }
    let (ssh, ssh_refused) = sections::ssh(&mut reader, root);
    let left_out = left_out::find(root, &issuers, &kerberos, ssh_refused);
    let hostname = surroundings.hostname.clone();
    let mut config = Config {
        issuers,
        kerberos_names: left_out::kerberos_names(root),
        kerberos,
        ssh,
        ratelimits: Vec::new(),
        cluster,
        gridkeep,
        hostname,
        left_out,
        faults: Vec::new(),
    };
    let mounts = config.mounts();
    let served = (!elsewhere).then_some(mounts.as_slice());
    config.ratelimits = sections::ratelimits(&mut reader, root, &config.issuers, served);
    if none_here {
        let origin = sources
            .files
            .first()
            .map(|file| Origin::whole_file(&file.path))
            .unwrap_or_default();
        let (severity, what, means) = if elsewhere {
            (
                Severity::Info,
                "No issuer is configured in the files of this node.",
                "It serves those that another node has put into the store.",
            )
        } else {
            (
                Severity::Warning,
                "No issuer is configured.",
                "Nobody can log in.",
            )
        };
        reader.find(severity, &origin, "issuers", what, means);
    }
    let shared_store = config.gridkeep.etcd.is_some();
    sections::lonely_cluster(&mut reader, root, shared_store);
    if surroundings.look_at_files {
        host::check(&config, surroundings, findings);
        service_user::note_closed(&config, sources, &surroundings.etc, findings);
    }
    config
}
