//! Changes of names, addresses, the audit log and our own settings.

use super::{Differ, Impact};
use crate::config::finding::Setting;
use crate::config::model::{AuditLog, Config, GridkeepConfig, IssuerConfig};
use crate::config::robots::RobotConfig;
use std::collections::BTreeSet;
use std::net::SocketAddr;

impl Differ<'_> {
    pub(super) fn service(&mut self) {
        let (old, new) = (self.old.service_name(), self.new.service_name());
        if old.value != new.value {
            let what = format!(
                "The service name changes from `{}` to `{}`.",
                old.value, new.value
            );
            let affected = "Clients have to use the new name, and the certificate and the keytabs have to carry it.";
            self.push(
                Impact::NextLogin,
                "cluster.name",
                what,
                affected,
                &new.origin,
            );
        }
        if self.old.service_url() != self.new.service_url() {
            let issuers: Vec<&IssuerConfig> = self
                .new
                .issuers
                .iter()
                .filter(|issuer| issuer.uses_callback())
                .collect();
            let urls: Vec<String> = issuers
                .iter()
                .map(|issuer| self.new.callback_url(issuer))
                .collect();
            let what = format!(
                "The service's address changes from {} to {}.",
                self.old.service_url(),
                self.new.service_url()
            );
            let affected = if urls.is_empty() {
                "Clients have to use the new address.".to_owned()
            } else {
                format!(
                    "Clients have to use the new address, and these callback addresses have to be registered with the issuers first, or nobody can log in there: {}.",
                    urls.join(", ")
                )
            };
            let (was, now) = (&self.old.gridkeep, &self.new.gridkeep);
            let (key, origin) = match (&was.public_url, &now.public_url) {
                (_, Some(url)) => ("gridkeep.public_url", url.origin.clone()),
                (Some(url), None) => ("gridkeep.public_url", url.origin.clone()),
                (None, None) if was.callback_port.value != now.callback_port.value => {
                    ("gridkeep.callback_port", now.callback_port.origin.clone())
                }
                (None, None) => ("gridkeep.callback_port", new.origin),
            };
            self.push(Impact::NextLogin, key, what, &affected, &origin);
        }
    }

    pub(super) fn cluster(&mut self) {
        let (old, new) = (&self.old.cluster.audit_log, &self.new.cluster.audit_log);
        if old.value != new.value {
            let name = |log: &AuditLog| match log {
                AuditLog::Off => "none".to_owned(),
                AuditLog::File(path) => format!("`{}`", path.display()),
            };
            let what = format!(
                "The audit log moves from {} to {}.",
                name(&old.value),
                name(&new.value)
            );
            let affected = if new.value == AuditLog::Off {
                "No user; from now on nobody can tell who did what."
            } else {
                "No user notices; whoever reads the log has to look there."
            };
            self.push(
                Impact::Restart,
                "cluster.auditlog",
                what,
                affected,
                &new.origin.clone(),
            );
        }
        let (old, new) = (self.old.own_name(), self.new.own_name());
        if old.value != new.value {
            let what = format!(
                "This node's name changes from `{}` to `{}`.",
                old.value, new.value
            );
            let affected = "No user notices; to the other nodes it is a new node, and the old one falls silent.";
            self.push(
                Impact::Restart,
                "cluster.myname",
                what,
                affected,
                &new.origin,
            );
        }
        let members = |config: &Config| config.member_names().into_iter().collect::<BTreeSet<_>>();
        let (old, new) = (members(self.old), members(self.new));
        let list = |names: Vec<&String>| names.into_iter().cloned().collect::<Vec<_>>().join(", ");
        let (added, gone) = (
            list(new.difference(&old).collect()),
            list(old.difference(&new).collect()),
        );
        if !added.is_empty() || !gone.is_empty() {
            let mut parts = Vec::new();
            if !added.is_empty() {
                parts.push(format!("added: {added}"));
            }
            if !gone.is_empty() {
                parts.push(format!("removed: {gone}"));
            }
            let origin = self
                .new
                .cluster
                .master
                .as_ref()
                .map(|name| name.origin.clone())
                .unwrap_or_default();
            let what = format!("Names of the service and its nodes, {}.", parts.join("; "));
            self.push(
                Impact::Unnoticed,
                "cluster",
                what,
                "No user notices, as long as the service name stays.",
                &origin,
            );
        }
    }

    pub(super) fn own(&mut self) {
        let (old, new) = (&self.old.gridkeep, &self.new.gridkeep);
        let texts = |addresses: &[Setting<SocketAddr>]| {
            addresses
                .iter()
                .map(|a| a.value.to_string())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let rows = [
            (
                "listen",
                texts(&old.listen),
                texts(&new.listen),
                new.listen
                    .first()
                    .map(|a| a.origin.clone())
                    .unwrap_or_default(),
            ),
            (
                "plain_listen",
                texts(&old.plain_listen),
                texts(&new.plain_listen),
                new.plain_listen
                    .first()
                    .or(old.plain_listen.first())
                    .map(|a| a.origin.clone())
                    .unwrap_or_default(),
            ),
            (
                "data",
                old.data.display().to_string(),
                new.data.display().to_string(),
                new.data.origin.clone(),
            ),
            (
                "audit.on_failure",
                old.on_audit_failure.value.word().to_owned(),
                new.on_audit_failure.value.word().to_owned(),
                new.on_audit_failure.origin.clone(),
            ),
            (
                "store",
                store(old),
                store(new),
                new.etcd
                    .as_ref()
                    .or(old.etcd.as_ref())
                    .map(|etcd| etcd.prefix.origin.clone())
                    .unwrap_or_default(),
            ),
            (
                "run_directory",
                old.run_directory.display().to_string(),
                new.run_directory.display().to_string(),
                new.run_directory.origin.clone(),
            ),
            (
                "advertise",
                advertised(old),
                advertised(new),
                new.advertise
                    .as_ref()
                    .or(old.advertise.as_ref())
                    .map(|address| address.origin.clone())
                    .unwrap_or_default(),
            ),
            (
                "seal.shamir",
                yes_or_no(old.shamir.value),
                yes_or_no(new.shamir.value),
                if new.shamir.value { new } else { old }
                    .shamir
                    .origin
                    .clone(),
            ),
            (
                "seal.key_file",
                key_file(old),
                key_file(new),
                new.seal_key_file
                    .as_ref()
                    .or(old.seal_key_file.as_ref())
                    .map(|file| file.origin.clone())
                    .unwrap_or_default(),
            ),
        ];
        for (key, was, now, origin) in rows {
            if was != now {
                let affected = match key {
                    "listen" | "plain_listen" => {
                        "Clients that use an address which is no longer served meet nobody there."
                    }
                    "advertise" => "No user notices; the other nodes reach this one there.",
                    "data" => {
                        "Everybody has to log in again, unless the data is moved there first: an empty directory knows no login."
                    }
                    "store" => {
                        "Everybody has to log in again, unless what is stored is copied there first (gridkeep store copy): another store knows no login."
                    }
                    "seal.shamir" => {
                        "Nobody is served: a store keeps the seal it was made with, so the server does not start on the one that is there."
                    }
                    "seal.key_file" => {
                        "Nobody notices, if the file holds the same key; with another one the server does not start."
                    }
                    "audit.on_failure" => {
                        "Nobody notices, as long as the audit log can be written."
                    }
                    _ => "Only programs that use its sockets notice.",
                };
                self.push(
                    Impact::Restart,
                    &format!("gridkeep.{key}"),
                    format!("It changes from {was} to {now}."),
                    affected,
                    &origin,
                );
            }
        }
        if let (Some(was), Some(now)) = (&old.etcd, &new.etcd)
            && store(old) == store(new)
            && was.settled() != now.settled()
        {
            self.push(
                Impact::Restart,
                "gridkeep.store.etcd",
                "The files of TLS, the upkeep or the quota change.".to_owned(),
                "Nobody notices, if the members of etcd take the new certificate.",
                &now.prefix.origin,
            );
        }
        let list = |config: &GridkeepConfig| {
            config
                .other_urls
                .iter()
                .map(|url| url.value.clone())
                .collect::<Vec<_>>()
        };
        if list(old) != list(new) {
            let origin = new.other_urls.first().or(old.other_urls.first());
            self.push(
                Impact::NextLogin,
                "gridkeep.other_urls",
                format!("Browsers may also come back to: {}.", shown(&list(new))),
                "People whose client uses one of those addresses can log in with it, and others no longer.",
                &origin.map(|url| url.origin.clone()).unwrap_or_default(),
            );
        }
        let list = |config: &GridkeepConfig| {
            config
                .trusted_proxies
                .iter()
                .map(|network| network.value.to_string())
                .collect::<Vec<_>>()
        };
        if list(old) != list(new) {
            let origin = new.trusted_proxies.first().or(old.trusted_proxies.first());
            self.push(
                Impact::FromNowOn,
                "gridkeep.trusted_proxies",
                format!("Front servers that are believed: {}.", shown(&list(new))),
                "Whoever comes through a front server counts by the address it tells, or no longer does.",
                &origin.map(|network| network.origin.clone()).unwrap_or_default(),
            );
        }
        let kept = |config: &GridkeepConfig| config.keep_removed.as_ref().map(|kept| kept.value);
        if kept(old) != kept(new) {
            let origin = new.keep_removed.as_ref().or(old.keep_removed.as_ref());
            self.push(
                Impact::FromNowOn,
                "gridkeep.keep_removed",
                "The time that credentials of removed issuers and roles are kept changes.".to_owned(),
                "Nobody notices, unless something was removed: its credentials are deleted after the new time.",
                &origin.map(|kept| kept.origin.clone()).unwrap_or_default(),
            );
        }
        let limit = |config: &GridkeepConfig| config.keep_alive_limit.as_ref().map(|l| l.value);
        if limit(old) != limit(new) {
            let origin = new
                .keep_alive_limit
                .as_ref()
                .or(old.keep_alive_limit.as_ref());
            self.push(
                Impact::FromNowOn,
                "gridkeep.keep_alive.limit",
                "The time for which a login that nobody uses is kept alive changes.".to_owned(),
                "Whoever has not used a login for the new time may have to log in again, since it is refreshed no longer.",
                &origin.map(|limit| limit.origin.clone()).unwrap_or_default(),
            );
        }
        let lives = |config: &GridkeepConfig| {
            (
                config.default_ttl.as_ref().map(|length| length.value),
                config.max_ttl.as_ref().map(|length| length.value),
            )
        };
        if lives(old) != lives(new) {
            let origin = [
                &new.max_ttl,
                &new.default_ttl,
                &old.max_ttl,
                &old.default_ttl,
            ]
            .into_iter()
            .find_map(|length| length.as_ref())
            .map(|length| length.origin.clone())
            .unwrap_or_default();
            self.push(
                Impact::NextLogin,
                "gridkeep.tokens",
                "The life of tokens changes.".to_owned(),
                "Tokens made from now on have the new one, and older ones when they are renewed.",
                &origin,
            );
        }
        if (&old.certificate.value, &old.key.value) != (&new.certificate.value, &new.key.value) {
            let what = format!(
                "The certificate is taken from {}.",
                new.certificate.value.display()
            );
            let affected = "Nobody notices, if clients trust it and it carries the service name.";
            self.push(
                Impact::Restart,
                "gridkeep.tls",
                what,
                affected,
                &new.certificate.origin,
            );
        }
        self.robots(old, new);
        let plain = |config: &GridkeepConfig| -> Vec<(String, String, String)> {
            config
                .operators
                .iter()
                .map(|o| {
                    (
                        o.issuer.value.clone(),
                        o.claim.value.clone(),
                        o.value.value.clone(),
                    )
                })
                .collect()
        };
        let (was, now) = (plain(old), plain(new));
        for (at, (issuer, claim, value)) in now
            .iter()
            .enumerate()
            .filter(|(_, operator)| !was.contains(operator))
        {
            let what = format!("Logins at `{issuer}` with {claim} = {value} become operators.");
            self.push(
                Impact::FromNowOn,
                "gridkeep.operators",
                what,
                "Those named gain power over everybody's credentials.",
                &new.operators[at].issuer.origin,
            );
        }
        for (at, (issuer, claim, value)) in was
            .iter()
            .enumerate()
            .filter(|(_, operator)| !now.contains(operator))
        {
            let what =
                format!("Logins at `{issuer}` with {claim} = {value} are no longer operators.");
            self.push(
                Impact::AccessEnds,
                "gridkeep.operators",
                what,
                "Those named lose that power at once.",
                &old.operators[at].issuer.origin,
            );
        }
    }

    fn robots(&mut self, old: &GridkeepConfig, new: &GridkeepConfig) {
        let words = |config: &GridkeepConfig| -> Vec<String> {
            config.robots.iter().map(RobotConfig::words).collect()
        };
        let (was, now) = (words(old), words(new));
        for (rule, what) in new.robots.iter().zip(&now) {
            if !was.contains(what) {
                self.push(
                    Impact::FromNowOn,
                    "gridkeep.robots",
                    what.clone(),
                    "Those named can do so from their next login on.",
                    &rule.issuer.origin,
                );
            }
        }
        for (rule, what) in old.robots.iter().zip(&was) {
            if !now.contains(what) {
                self.push(
                    Impact::AccessEnds,
                    "gridkeep.robots",
                    format!("No longer: {what}"),
                    "Those named can do so no longer, at once; the robots' tokens go on until they are withdrawn.",
                    &rule.issuer.origin,
                );
            }
        }
    }
}

fn store(config: &GridkeepConfig) -> String {
    config
        .etcd
        .as_ref()
        .map_or("the data directory".to_owned(), |etcd| etcd.place())
}

fn yes_or_no(flag: bool) -> String {
    if flag { "yes" } else { "no" }.to_owned()
}

fn key_file(config: &GridkeepConfig) -> String {
    config
        .seal_key_file
        .as_ref()
        .map_or("the service manager's credential".to_owned(), |file| {
            file.value.display().to_string()
        })
}

fn shown(items: &[String]) -> String {
    if items.is_empty() {
        "none".to_owned()
    } else {
        items.join(", ")
    }
}

fn advertised(config: &GridkeepConfig) -> String {
    config
        .advertise
        .as_ref()
        .map_or("name and port".to_owned(), |address| address.value.clone())
}
