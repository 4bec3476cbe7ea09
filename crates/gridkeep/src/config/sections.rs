//! Reads `kerberos`, `ssh`, `ratelimits` and `cluster` (profile sections 3.3 to 3.6 and 16).
//!
//! A fault leaves out the item or the single name it concerns.

use super::finding::{Origin, Setting, Severity, quoted};
use super::model::{
    AuditLog, ClusterConfig, IssuerConfig, KerberosConfig, RateLimitConfig, SshConfig,
};
use super::read::{Item, Reader};
use super::yaml::{Mapping, Value};
use gridkeep_keeper::CountedBy;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

pub(super) const KERBEROS_KEYS: [&str; 7] = [
    "name",
    "ldapurl",
    "ldapdn",
    "ldapattr",
    "policydomain",
    "keytab",
    "realms",
];
pub(super) const SSH_KEYS: [&str; 2] = ["self-registration", "cross_issuer"];
pub(super) const LIMIT_KEYS: [&str; 6] =
    ["name", "path", "rate", "interval", "block_interval", "per"];
pub(super) const CLUSTER_KEYS: [&str; 7] = [
    "name", "master", "peer1", "peer2", "myname", "auditlog", "members",
];

/// Where the original's audit log went when nothing was said.
pub const DEFAULT_AUDIT_LOG: &str = "/var/log/htvault-config/auditlog";

/// The interval of a rate limit when nothing was said.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// More nodes than this are not a cluster but a mistake.
const MOST_MEMBERS: usize = 99;

/// Warns of a cluster whose nodes share no store, as in untouched files of an original with three nodes.
pub fn lonely_cluster(reader: &mut Reader<'_>, root: &Mapping, shared_store: bool) {
    let other_nodes = root
        .get("cluster")
        .and_then(|node| node.as_map())
        .and_then(|cluster| {
            let mut keys = ["master", "peer1", "peer2", "members"].into_iter();
            keys.find_map(|key| {
                let entry = cluster.entry(key)?;
                (entry.value.value != Value::Null).then(|| (key, entry.key_origin.clone()))
            })
        });
    if let Some((key, origin)) = other_nodes.filter(|_| !shared_store) {
        reader.find(
            Severity::Warning,
            &origin,
            &format!("cluster.{key}"),
            "Other nodes are named, but no store that they share.",
            "Each of these nodes is a server of its own: it knows no login, token or revocation of the others, and refuses clients that come to it from them. Set `gridkeep.store.etcd` on each node (docs/cluster.md, A cluster), or take the key out where this server is to run alone.",
        );
    }
}

/// Reads `kerberos`.
pub fn kerberos(reader: &mut Reader<'_>, root: &Mapping) -> Vec<KerberosConfig> {
    let means = "This Kerberos service is left out.";
    let mut services = Vec::new();
    for named in reader.named_items(root.get("kerberos"), "kerberos", means) {
        let mut item = Item::new(reader, named.map, &named.path, &named.origin, means);
        item.unknown(&KERBEROS_KEYS);
        let policydomain = item.text("policydomain");
        if let Some(domain) = policydomain
            .as_ref()
            .filter(|domain| !domain.value.starts_with('@'))
        {
            let what = format!("{} does not begin with `@`.", quoted(&domain.value));
            item.refuse(
                &domain.origin,
                "policydomain",
                what,
                Some("text such as \"@example.org\", in quotes"),
            );
        } else if let Some(domain) = policydomain.as_ref().filter(|domain| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            domain.value.len() < 2 || !domain.value[1..].chars().all(allowed)
        }) {
            // It becomes a part of paths and policies.
            let what = format!(
                "{} holds more than letters, digits, `.`, `-` and `_` behind its `@`.",
                quoted(&domain.value)
            );
            item.refuse(
                &domain.origin,
                "policydomain",
                what,
                Some("text such as \"@example.org\", in quotes"),
            );
        }
        let keytab = item.file_path("keytab");
        let realms = realms(&mut item);
        if item.sound {
            services.push(KerberosConfig {
                name: named.name,
                policydomain,
                keytab,
                realms,
            });
        }
    }
    services
}

fn realms(item: &mut Item<'_, '_, '_>) -> Vec<Setting<String>> {
    const ALLOWED: &str = "a list of realms such as [EXAMPLE.ORG]";
    let realms = item.texts("realms", ALLOWED);
    for realm in &realms {
        if realm.value.is_empty()
            || realm
                .value
                .contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '@'))
        {
            let what = format!("{} is not a Kerberos realm.", quoted(&realm.value));
            item.refuse(&realm.origin, "realms", what, Some(ALLOWED));
        }
    }
    if let [_, second, ..] = realms.as_slice() {
        let origin = second.origin.clone();
        item.warn(
            &origin,
            "realms",
            "People of several realms may log in.",
            "Who has the same name in two of them is one person here; name only realms that give a name to one person among them.",
        );
    }
    realms
}

/// Reads `ssh`, and tells whether it is there and cannot be used.
pub fn ssh(reader: &mut Reader<'_>, root: &Mapping) -> (Option<SshConfig>, bool) {
    let means = "ssh login stays off.";
    let Some((map, origin)) = section(reader, root, "ssh", means) else {
        let given = root
            .get("ssh")
            .is_some_and(|node| node.value != Value::Null);
        return (None, given);
    };
    let mut item = Item::new(reader, map, "ssh", &origin, means);
    item.unknown(&SSH_KEYS);
    let self_registration = item.choice(
        "self-registration",
        &[("allowed", true), ("disallowed", false)],
    );
    let cross_issuer = item.flag("cross_issuer").unwrap_or(Setting::builtin(false));
    // Without the key ssh is off; but who writes others beside it means to have it.
    if !map.entries.is_empty() && map.entry("self-registration").is_none() {
        item.missing("self-registration");
    }
    let sound = item.sound;
    let config = self_registration
        .filter(|_| sound)
        .map(|self_registration| SshConfig {
            self_registration,
            cross_issuer,
        });
    (config, !sound)
}

/// Reads `ratelimits`. `mounts`: what is served, if that is known from these files.
pub fn ratelimits(
    reader: &mut Reader<'_>,
    root: &Mapping,
    issuers: &[IssuerConfig],
    mounts: Option<&[String]>,
) -> Vec<RateLimitConfig> {
    let means = "This rate limit is left out.";
    let mut limits: Vec<RateLimitConfig> = Vec::new();
    let mut paths: HashMap<(String, &str), Setting<String>> = HashMap::new();
    for named in reader.named_items(root.get("ratelimits"), "ratelimits", means) {
        let mut item = Item::new(reader, named.map, &named.path, &named.origin, means);
        item.unknown(&LIMIT_KEYS);
        let path = item.text("path").unwrap_or(Setting::builtin(String::new()));
        if item.node("rate").is_none() {
            item.missing("rate");
        }
        let rate = rate(&mut item);
        let mut interval = item
            .duration_of_original("interval")
            .unwrap_or(Setting::builtin(DEFAULT_INTERVAL));
        if interval.value.is_zero() {
            item.warn(
                &interval.origin,
                "interval",
                "The interval is zero.",
                "One second is used, as in the original; write a duration such as 5m.",
            );
            interval.value = DEFAULT_INTERVAL;
        }
        let block_interval = item
            .duration_of_original("block_interval")
            .unwrap_or(Setting::builtin(Duration::ZERO));
        let per = item
            .choice("per", &CountedBy::CHOICES)
            .unwrap_or(Setting::builtin(CountedBy::Address));
        if let Some(whole) = ["secret/oauth/creds", "secret/oauth/sts"]
            .into_iter()
            .find(|whole| path.value.trim_matches('/') == *whole)
        {
            let what = format!("The path {} alone is what no client reads.", quoted(whole));
            let means = format!("Write `{whole}/*` for all that is below it.");
            item.warn(&path.origin, "path", what, &means);
        }
        if !path.value.is_empty()
            && mounts.is_some_and(|mounts| !below_a_mount(&path.value, mounts))
        {
            let what = format!(
                "The path {} is not below anything that is served.",
                quoted(&path.value)
            );
            let names: Vec<String> = issuers
                .iter()
                .map(|issuer| format!("auth/oidc-{}", issuer.name.value))
                .collect();
            let hint = format!(
                "The limit will not apply to any request. Issuers are at: {}.",
                names.join(", ")
            );
            item.warn(&path.origin, "path", what, &hint);
        }
        if let (true, Some(rate)) = (item.sound, rate) {
            let place = (path.value.trim_matches('/').to_owned(), per.value.as_str());
            if let Some(other) = paths.get(&place) {
                let what = format!("Rate limit `{}` has the same path.", other.value);
                let means =
                    "The original refused the second one; here the stricter of the two decides.";
                item.warn(&named.origin, "path", what, means);
            }
            paths.insert(place, named.name.clone());
            limits.push(RateLimitConfig {
                name: named.name,
                path,
                rate,
                interval,
                block_interval,
                per,
            });
        }
    }
    limits
}

fn rate(item: &mut Item<'_, '_, '_>) -> Option<Setting<u64>> {
    let rate = item.number("rate")?;
    let rounded = rate.value.round();
    if rounded < 1.0 || rounded > u32::MAX.into() {
        let what = format!("The rate {} is not a number of requests.", rate.value);
        item.refuse(
            &rate.origin,
            "rate",
            what,
            Some("a number from 1 to 4294967295"),
        );
        return None;
    }
    // In range by the test above.
    Some(Setting::new(rounded as u64, rate.origin))
}

fn below_a_mount(path: &str, mounts: &[String]) -> bool {
    let path = format!("{}/", path.trim_matches('/'));
    let built_in = [
        "auth/token/",
        "cubbyhole/",
        "delegation/",
        "identity/",
        "robot/",
        "sys/",
        "secret/oauth/",
    ];
    built_in.iter().any(|mount| path.starts_with(mount))
        || mounts.iter().any(|mount| {
            path.strip_prefix("auth/")
                .is_some_and(|rest| rest.starts_with(mount.as_str()))
        })
}

fn section<'n>(
    reader: &mut Reader<'_>,
    root: &'n Mapping,
    key: &str,
    means: &str,
) -> Option<(&'n Mapping, Origin)> {
    let node = root.get(key).filter(|node| node.value != Value::Null)?;
    match node.as_map() {
        Some(map) => Some((map, node.origin.clone())),
        None => {
            let what = format!("Here is {}, but a mapping is wanted.", node.kind());
            reader.find(Severity::Error, &node.origin, key, what, means);
            None
        }
    }
}

/// Reads `cluster`.
pub fn cluster(reader: &mut Reader<'_>, root: &Mapping) -> ClusterConfig {
    let empty = Mapping::default();
    let means = "This key is left out.";
    let (map, origin) = section(reader, root, "cluster", "All of `cluster` is left out.")
        .unwrap_or((&empty, Origin::builtin()));
    let mut item = Item::new(reader, map, "cluster", &origin, means);
    item.unknown(&CLUSTER_KEYS);
    let name = host_name(&mut item, "name", Qualified::Wanted);
    let myname = host_name(&mut item, "myname", Qualified::Wanted);
    let master = host_name(&mut item, "master", Qualified::Needed);
    let peers: Vec<Setting<String>> = ["peer1", "peer2"]
        .into_iter()
        .filter_map(|key| host_name(&mut item, key, Qualified::Needed))
        .collect();
    let mut members = item.texts("members", "a list of host names");
    if members.len() > MOST_MEMBERS {
        let origin = item.key_origin("members");
        let what = format!("A cluster of {} nodes is too large.", members.len());
        item.refuse(&origin, "members", what, Some("at most 99 host names"));
        members.clear();
    }
    let members = members
        .into_iter()
        .filter_map(|name| checked_name(&mut item, "members", name, Qualified::Needed))
        .collect();
    if let (Some(peer), None) = (peers.first(), &master) {
        let origin = peer.origin.clone();
        item.warn(
            &origin,
            "master",
            "There are peers but no master.",
            "The original took such a node for a single server.",
        );
    }
    let audit_log = audit_log(&mut item);
    ClusterConfig {
        name,
        master,
        peers,
        members,
        myname,
        audit_log,
    }
}

fn audit_log(item: &mut Item<'_, '_, '_>) -> Setting<AuditLog> {
    let default = || Setting::builtin(AuditLog::File(PathBuf::from(DEFAULT_AUDIT_LOG)));
    let Some(text) = item.text("auditlog") else {
        return default();
    };
    if text.value == "none" {
        return Setting::new(AuditLog::Off, text.origin);
    }
    let path = PathBuf::from(&text.value);
    if path.is_absolute() && !text.value.contains('\0') && !text.value.ends_with('/') {
        return Setting::new(AuditLog::File(path), text.origin);
    }
    let what = format!(
        "{} is not the absolute path of a file. The audit log goes to {DEFAULT_AUDIT_LOG}.",
        quoted(&text.value)
    );
    item.refuse(
        &text.origin,
        "auditlog",
        what,
        Some("an absolute path, none"),
    );
    default()
}

/// Must a host name be fully qualified?
#[derive(Clone, Copy, PartialEq)]
enum Qualified {
    /// Refused if not.
    Needed,
    /// A warning if not.
    Wanted,
}

fn host_name(
    item: &mut Item<'_, '_, '_>,
    key: &str,
    qualified: Qualified,
) -> Option<Setting<String>> {
    let name = item.text(key)?;
    checked_name(item, key, name, qualified)
}

fn checked_name(
    item: &mut Item<'_, '_, '_>,
    key: &str,
    name: Setting<String>,
    qualified: Qualified,
) -> Option<Setting<String>> {
    const ALLOWED: &str = "a host name with its domain such as gk1.example.org, without port";
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.value.len() > 253 || !name.value.split('.').all(label) {
        item.refuse(
            &name.origin,
            key,
            format!("{} is not a host name.", quoted(&name.value)),
            Some(ALLOWED),
        );
        return None;
    }
    if name.value.contains('.') {
        return Some(name);
    }
    let what = format!(
        "The host name {} is not fully qualified.",
        quoted(&name.value)
    );
    match qualified {
        Qualified::Needed => {
            item.refuse(&name.origin, key, what, Some(ALLOWED));
            None
        }
        Qualified::Wanted => {
            item.warn(
                &name.origin,
                key,
                what,
                "Certificates, keytabs and callback addresses usually carry the full name.",
            );
            Some(name)
        }
    }
}
