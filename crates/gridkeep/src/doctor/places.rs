//! Where the server keeps things: its data directory and store, the members of etcd, the audit log.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use gridkeep_store::MemberState;

use super::{Findings, State};
use crate::config::{Config, EtcdConfig};
use crate::server::inventory::StatusAnswer;

/// Free space that is too little, and that is little, in bytes.
const TOO_LITTLE: u64 = 100 << 20;
const LITTLE: u64 = 1 << 30;

/// What helps a store that takes no writes.
pub(super) fn mend(config: &Config) -> &'static str {
    match &config.gridkeep.etcd {
        Some(_) => {
            "Look at the members of etcd, their disks and quota, and the way to them (what is said of each below; etcdctl endpoint health); the server goes on by itself"
        }
        None => "Make room or mend the disk of the data directory; the server goes on by itself",
    }
}

pub(super) async fn store(config: &Config, status: Option<&StatusAnswer>, findings: &mut Findings) {
    let data = &config.gridkeep.data.value;
    let shown = data.display();
    let found = match std::fs::metadata(data) {
        Ok(found) => Some(found),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            findings.push(
                "store",
                State::Doubtful,
                format!("{shown} is not there yet."),
                "The first start makes it, when the service's user may write the directory above.",
            );
            None
        }
        Err(error) => {
            findings.push(
                "store",
                State::Bad,
                format!("{shown} cannot be looked at: {error}."),
                "Run this as root.",
            );
            None
        }
    };
    if let Some(found) = &found {
        if found.mode() & 0o077 != 0 {
            findings.push(
                "store",
                State::Doubtful,
                format!("{shown} has mode {:o}.", found.mode() & 0o7777),
                format!("chmod 0700 {shown}"),
            );
        }
        owner("store", &data.join("store"), data, findings);
        free_space(
            "store",
            data,
            "Make room: without it nobody can log in, and refresh tokens live from what was set aside.",
            findings,
        );
    }
    let trouble = status.and_then(|status| status.store.trouble.as_ref());
    match (status, trouble) {
        (Some(_), Some(trouble)) => findings.push(
            "store",
            State::Bad,
            format!("It does not answer, or takes no writes: {trouble}"),
            format!("{}.", mend(config)),
        ),
        (Some(status), None) => {
            findings.good(
                "store",
                format!("It takes writes ({}).", status.store.engine),
            );
        }
        (None, _) if found.is_some() && config.gridkeep.etcd.is_none() => {
            findings.good(
                "store",
                format!("{shown} is there; no server says more of it."),
            );
        }
        (None, _) => {}
    }
    if let Some(etcd) = &config.gridkeep.etcd
        && (status.is_none() || trouble.is_some())
    {
        members(etcd, findings).await;
    }
}

/// Asks each member of etcd, as the server would.
async fn members(etcd: &EtcdConfig, findings: &mut Findings) {
    let members = match gridkeep_store::health(&etcd.settings()).await {
        Ok(members) => members,
        Err(error) => {
            let remedy = "Correct gridkeep.store.etcd: endpoints and the files of TLS.";
            return findings.push("store", State::Bad, format!("{error}."), remedy);
        }
    };
    let healthy = |state: &MemberState| state.has_leader && state.complaints.is_empty();
    let good = members
        .iter()
        .filter(|member| member.state.as_ref().is_ok_and(healthy))
        .count();
    // As long as most of them work, so does etcd.
    let state = if good * 2 > members.len() {
        State::Doubtful
    } else {
        State::Bad
    };
    for member in &members {
        let name = format!("The member of etcd at {}", member.endpoint);
        let (what, remedy) = match &member.state {
            Ok(found) if healthy(found) => {
                findings.good(
                    "store",
                    format!("{name} is well (version {}).", found.version),
                );
                continue;
            }
            Ok(found) if !found.has_leader => (
                format!("{name} has no leader."),
                "Most of the members have to run and reach each other; start the others, look at the network between them.",
            ),
            Ok(found) => (
                format!("{name} says: {}.", found.complaints.join("; ")),
                "NOSPACE: gridkeep makes room by itself, else raise --quota-backend-bytes. CORRUPT: replace the member from the others.",
            ),
            Err(why) => (
                format!("{name} does not answer: {why}."),
                "Start etcd there, look at the network and the firewall; with TLS, do tls.ca, certificate and key fit?",
            ),
        };
        findings.push("store", state, what, remedy);
    }
}

/// The audit log's directory and what is free there.
pub(super) fn audit_log(config: &Config, findings: &mut Findings) {
    let Some(path) = config.audit_log() else {
        return findings.push(
            "audit log",
            State::Doubtful,
            "It is switched off: nobody can say who fetched which token.",
            "Set cluster.auditlog to a file.",
        );
    };
    let directory = path.parent().unwrap_or(Path::new("/"));
    let shown = directory.display();
    let (what, remedy) = match std::fs::metadata(directory) {
        Ok(found) if found.is_dir() => {
            let before = findings.0.len();
            owner("audit log", path, &config.gridkeep.data.value, findings);
            free_space(
                "audit log",
                directory,
                "Make room: while the audit log cannot be written, nobody is served (gridkeep.audit.on_failure).",
                findings,
            );
            if findings.0.len() == before {
                findings.good("audit log", format!("{} has room.", path.display()));
            }
            return;
        }
        Ok(_) => (
            format!("{shown} is no directory."),
            "Make it one, or set cluster.auditlog.".to_owned(),
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => (
            format!("{shown} is not there."),
            format!(
                "Make it and give it to the service's user (install -d -m 0750 -o gridkeep {shown}), or set cluster.auditlog. The server makes it at its start where it may write the directory above."
            ),
        ),
        Err(error) => (
            format!("{shown} cannot be looked at: {error}."),
            "Run this as root.".to_owned(),
        ),
    };
    findings.push("audit log", State::Bad, what, remedy);
}

/// Whether the server, which owns `data`, can write `path`, as far as its owner says.
fn owner(about: &'static str, path: &Path, data: &Path, findings: &mut Findings) {
    let of = |path: &Path| std::fs::metadata(path).ok().map(|found| found.uid());
    if let (Some(here), Some(server)) = (of(path), of(data))
        && here != server
        && server != 0
    {
        let shown = path.display();
        findings.push(
            about,
            State::Bad,
            format!("{shown} belongs to user id {here}, the server's data to {server}."),
            format!("chown -R --reference={} {shown}", data.display()),
        );
    }
}

fn free_space(about: &'static str, place: &Path, remedy: &str, findings: &mut Findings) {
    let Ok(space) = nix::sys::statvfs::statvfs(place) else {
        return;
    };
    let free = space
        .blocks_available()
        .saturating_mul(space.fragment_size());
    let state = match free {
        free if free < TOO_LITTLE => State::Bad,
        free if free < LITTLE => State::Doubtful,
        _ => return,
    };
    let what = format!(
        "Only {} MiB are free where {} is.",
        free >> 20,
        place.display()
    );
    findings.push(about, state, what, remedy);
}
