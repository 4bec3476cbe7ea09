//! The configuration in effect, as YAML for people (secrets masked, the place of every value beside it) and as a
//! digest for nodes to compare.
//!
//! Both walk one tree made of [`Config`], so that a key shown is a key compared. Knows no rule of reading.

mod render;

use self::render::{quote, render_map};
use super::etcd::EtcdConfig;
use super::finding::{Origin, Setting};
use super::model::{AuditLog, Config, GridkeepConfig, IssuerConfig, TermsConfig};
use super::telemetry::{CollectorConfig, TelemetryConfig};
use super::terms;
use aws_lc_rs::digest::{Context, SHA256};
use gridkeep_keeper::{KeepAlive, Lifetimes, Seconds, Setup};
use secrecy::{ExposeSecret, SecretString};
use std::fmt::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

/// Where the root key is when nothing says so.
const KEY_FILE: &str =
    "the systemd credential gridkeep-root-key, else gridkeep-root.key above config.d";

/// What stands for a secret.
const MASK: &str = "********";

/// A configuration as names, lists and texts, each value with its place.
pub(super) enum Tree<'a> {
    Map(Vec<(String, Tree<'a>)>),
    List(Vec<Tree<'a>>),
    Text(String, Origin),
    Secret(&'a SecretString, Origin),
    /// Nothing was written, and this holds instead. A comment to people, not a value: what is shown reads as what was written.
    Unset(String),
}

/// Which part of the configuration is meant.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Part {
    /// All keys.
    Everything,
    /// What all nodes of a cluster have in common.
    Shared,
}

/// A digest of what all nodes of a cluster have in common: every key but those that [`joined`](super::shared::joined) takes from a
/// node's own files (places, node names, addresses, telemetry). It depends on the client secrets and could
/// confirm a guess of a weak one, so it is for nodes and operators, not for publication.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// The digest of the shared part.
pub fn digest(config: &Config) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(b"gridkeep configuration 1\n");
    hash(&tree(config, Part::Shared), &mut context);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    Digest(bytes)
}

/// Every part carries its kind and length, so that no two trees give the same bytes.
fn hash(tree: &Tree<'_>, context: &mut Context) {
    let mut head = |kind: u8, length: usize| {
        context.update(&[kind]);
        context.update(&(length as u64).to_be_bytes());
    };
    match tree {
        Tree::Map(entries) => {
            head(b'm', entries.len());
            for (key, value) in entries {
                context.update(&(key.len() as u64).to_be_bytes());
                context.update(key.as_bytes());
                hash(value, context);
            }
        }
        Tree::List(items) => {
            head(b'l', items.len());
            items.iter().for_each(|item| hash(item, context));
        }
        Tree::Text(text, _) => {
            head(b't', text.len());
            context.update(text.as_bytes());
        }
        Tree::Unset(_) => head(b'u', 0),
        Tree::Secret(secret, _) => {
            head(b's', secret.expose_secret().len());
            context.update(secret.expose_secret().as_bytes());
        }
    }
}

/// The configuration in effect as YAML; the comment behind each value says where it was written.
pub fn show_effective(config: &Config) -> String {
    let service = config.service_name();
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "# Service name {} ({}), address {}",
        service.value,
        service.origin,
        config.service_url()
    );
    if let Tree::Map(entries) = tree(config, Part::Everything) {
        render_map(&entries, 0, "", &mut out);
    }
    out
}

fn text<T: ToString>(setting: &Setting<T>) -> Tree<'static> {
    Tree::Text(setting.value.to_string(), setting.origin.clone())
}

fn path(setting: &Setting<PathBuf>) -> Tree<'static> {
    Tree::Text(
        setting.value.to_string_lossy().into_owned(),
        setting.origin.clone(),
    )
}

fn duration(setting: &Setting<Duration>) -> Tree<'static> {
    Tree::Text(
        format!("{}s", setting.value.as_secs_f64()),
        setting.origin.clone(),
    )
}

struct Entries<'a>(Vec<(String, Tree<'a>)>);

impl<'a> Entries<'a> {
    fn with(mut self, key: &str, value: Tree<'a>) -> Self {
        self.0.push((key.to_owned(), value));
        self
    }

    fn with_some(self, key: &str, value: Option<Tree<'a>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    fn with_terms(mut self, terms: &TermsConfig) -> Self {
        for (key, length) in [
            ("token_ttl", &terms.token_ttl),
            ("token_max_ttl", &terms.token_max_ttl),
            ("token_period", &terms.token_period),
        ] {
            self = self.with_some(key, length.as_ref().map(duration));
        }
        if !terms.token_bound_cidrs.is_empty() {
            let networks = terms.token_bound_cidrs.iter().map(text).collect();
            self = self.with("token_bound_cidrs", Tree::List(networks));
        }
        if terms.bound_claims.is_empty() {
            return self;
        }
        let claims = terms
            .bound_claims
            .iter()
            .map(|(claim, values)| {
                let values = values.iter().map(text).collect();
                (claim.value.clone(), Tree::List(values))
            })
            .collect();
        self.with("bound_claims", Tree::Map(claims))
    }

    fn with_list<T: ToString>(self, key: &str, items: &[Setting<T>]) -> Self {
        if items.is_empty() {
            return self;
        }
        self.with(key, Tree::List(items.iter().map(text).collect()))
    }

    fn with_unset(self, unset: Vec<(&'static str, String)>) -> Self {
        unset.into_iter().fold(self, |entries, (key, value)| {
            entries.with(key, Tree::Unset(value))
        })
    }

    fn tree(self) -> Tree<'a> {
        Tree::Map(self.0)
    }
}

fn entries<'a>() -> Entries<'a> {
    Entries(Vec::new())
}

/// The configuration, or what of it all nodes have in common.
pub(super) fn tree(config: &Config, part: Part) -> Tree<'_> {
    let kerberos = config.kerberos.iter().map(|service| {
        entries()
            .with("name", text(&service.name))
            .with_some("policydomain", service.policydomain.as_ref().map(text))
            .with_some("keytab", service.keytab.as_ref().map(path))
            .with_some(
                "realms",
                (!service.realms.is_empty())
                    .then(|| Tree::List(service.realms.iter().map(text).collect())),
            )
            .tree()
    });
    let limits = config.ratelimits.iter().map(|limit| {
        entries()
            .with("name", text(&limit.name))
            .with("path", text(&limit.path))
            .with("rate", text(&limit.rate))
            .with("interval", duration(&limit.interval))
            .with("block_interval", duration(&limit.block_interval))
            .with(
                "per",
                Tree::Text(
                    limit.per.value.as_str().to_owned(),
                    limit.per.origin.clone(),
                ),
            )
            .tree()
    });
    let ssh = config.ssh.as_ref().map(|ssh| {
        let word = if ssh.self_registration.value {
            "allowed"
        } else {
            "disallowed"
        };
        entries()
            .with(
                "self-registration",
                Tree::Text(word.to_owned(), ssh.self_registration.origin.clone()),
            )
            .with("cross_issuer", text(&ssh.cross_issuer))
            .tree()
    });
    entries()
        .with(
            "issuers",
            Tree::List(config.issuers.iter().map(issuer).collect()),
        )
        .with("kerberos", Tree::List(kerberos.collect()))
        .with_some("ssh", ssh)
        .with("ratelimits", Tree::List(limits.collect()))
        .with("cluster", cluster(config, part))
        .with("gridkeep", own(config, part))
        .tree()
}

fn issuer(issuer: &IssuerConfig) -> Tree<'_> {
    let roles = issuer.roles.iter().map(|role| {
        entries()
            .with("name", text(&role.name))
            .with_some("credclaim", role.credclaim.as_ref().map(text))
            .with_terms(&role.terms)
            .with("scopes", Tree::List(role.scopes.iter().map(text).collect()))
            .tree()
    });
    let mode = Tree::Text(
        issuer.callback_mode.value.as_str().to_owned(),
        issuer.callback_mode.origin.clone(),
    );
    let auth = issuer
        .client_auth
        .as_ref()
        .map(|auth| Tree::Text(auth.value.as_str().to_owned(), auth.origin.clone()));
    let params: Vec<_> = issuer
        .authorization_params
        .iter()
        .map(|(key, value)| (key.clone(), text(value)))
        .collect();
    let secret = issuer
        .secret
        .as_ref()
        .map(|secret| Tree::Secret(&secret.value, secret.origin.clone()));
    entries()
        .with("name", text(&issuer.name))
        .with("url", text(&issuer.url))
        .with("clientid", text(&issuer.clientid))
        .with_some("secret", secret)
        .with("public_client", text(&issuer.public_client))
        .with_some("client_auth", auth)
        .with_some("private_key", issuer.private_key.as_ref().map(path))
        .with_some("ca_file", issuer.ca_file.as_ref().map(path))
        .with("callbackmode", mode)
        .with("credclaim", text(&issuer.credclaim))
        .with_some("kerbservice", issuer.kerbservice.as_ref().map(text))
        .with("authorization_params", Tree::Map(params))
        .with(
            "reauth_on_scope_change",
            text(&issuer.reauth_on_scope_change),
        )
        .with_some(
            "credclaim_json_pointer",
            issuer
                .credclaim_json_pointer
                .value
                .then(|| text(&issuer.credclaim_json_pointer)),
        )
        .with_some(
            "connect_timeout",
            issuer.connect_timeout.as_ref().map(duration),
        )
        .with_some(
            "request_timeout",
            issuer.request_timeout.as_ref().map(duration),
        )
        .with_some(
            "requests_per_second",
            issuer.requests_per_second.as_ref().map(text),
        )
        .with_some(
            "refresh_token_life",
            issuer.refresh_token_life.as_ref().map(duration),
        )
        .with_terms(&issuer.terms)
        .with("roles", Tree::List(roles.collect()))
        .tree()
}

fn cluster(config: &Config, part: Part) -> Tree<'_> {
    let cluster = &config.cluster;
    let audit = match &cluster.audit_log.value {
        AuditLog::Off => "none".to_owned(),
        AuditLog::File(path) => path.to_string_lossy().into_owned(),
    };
    let audit = Tree::Text(audit, cluster.audit_log.origin.clone());
    if part == Part::Shared {
        let place = cluster.name.as_ref().map(|name| name.origin.clone());
        let name = Tree::Text(config.service_name().value, place.unwrap_or_default());
        return entries().with("name", name).with("auditlog", audit).tree();
    }
    let mut shown = entries()
        .with_some("name", cluster.name.as_ref().map(text))
        .with_some("myname", cluster.myname.as_ref().map(text))
        .with_some("master", cluster.master.as_ref().map(text));
    for (key, peer) in ["peer1", "peer2"].into_iter().zip(&cluster.peers) {
        shown = shown.with(key, text(peer));
    }
    if !cluster.members.is_empty() {
        shown = shown.with(
            "members",
            Tree::List(cluster.members.iter().map(text).collect()),
        );
    }
    shown.with("auditlog", audit).tree()
}

fn own(config: &Config, part: Part) -> Tree<'_> {
    let own = &config.gridkeep;
    let operators = own.operators.iter().map(|operator| {
        entries()
            .with("issuer", text(&operator.issuer))
            .with("claim", text(&operator.claim))
            .with("value", text(&operator.value))
            .tree()
    });
    let operators = Tree::List(operators.collect());
    let robots = own.robots.iter().map(|rule| {
        entries()
            .with("issuer", text(&rule.issuer))
            .with("claim", text(&rule.claim))
            .with("value", text(&rule.value))
            .with_some("account", rule.account.as_ref().map(text))
            .tree()
    });
    let robots: Vec<Tree<'_>> = robots.collect();
    let robots = (!robots.is_empty()).then_some(Tree::List(robots));
    let lives = [("default_ttl", &own.default_ttl), ("max_ttl", &own.max_ttl)];
    let lives = lives.into_iter().fold(entries(), |lives, (key, length)| {
        lives.with_some(key, length.as_ref().map(duration))
    });
    let lives = (!lives.0.is_empty()).then(|| lives.tree());
    let keep_alive = own
        .keep_alive_limit
        .as_ref()
        .map(|limit| entries().with("limit", duration(limit)).tree());
    let ssh = entries()
        .with_some(
            "authorized_keys",
            own.ssh_authorized_keys.as_ref().map(path),
        )
        .with("rsa_sha1", text(&own.ssh_rsa_sha1))
        .tree();
    let on_failure = Tree::Text(
        own.on_audit_failure.value.word().to_owned(),
        own.on_audit_failure.origin.clone(),
    );
    let audit = entries().with("on_failure", on_failure).tree();
    let compat = entries()
        .with("shell_unescape", text(&own.shell_unescape))
        .tree();
    if part == Part::Shared {
        return entries()
            .with("callback_port", text(&own.callback_port))
            .with_some("public_url", own.public_url.as_ref().map(text))
            .with_list("other_urls", &own.other_urls)
            .with_list("trusted_proxies", &own.trusted_proxies)
            .with_some("tokens", lives)
            .with_some("keep_removed", own.keep_removed.as_ref().map(duration))
            .with_some("keep_alive", keep_alive)
            .with("operators", operators)
            .with("audit", audit)
            .with_some("robots", robots)
            .with("ssh", ssh)
            .with("telemetry", shared_telemetry(&own.telemetry))
            .with("compat", compat)
            .tree();
    }
    let tls = entries()
        .with("certificate", path(&own.certificate))
        .with("key", path(&own.key))
        .tree();
    let plain = (!own.plain_listen.is_empty())
        .then(|| Tree::List(own.plain_listen.iter().map(text).collect()));
    let seal = match &own.seal_key_file {
        Some(file) => Some(entries().with("key_file", path(file)).tree()),
        None if own.shamir.value => Some(entries().with("shamir", text(&own.shamir)).tree()),
        None => None,
    };
    let proxies = own.trusted_proxies.iter().map(text).collect();
    entries()
        .with("listen", Tree::List(own.listen.iter().map(text).collect()))
        .with_some("plain_listen", plain)
        .with("callback_port", text(&own.callback_port))
        .with_some("public_url", own.public_url.as_ref().map(text))
        .with_list("other_urls", &own.other_urls)
        .with("trusted_proxies", Tree::List(proxies))
        .with_some("tokens", lives)
        .with_some("keep_removed", own.keep_removed.as_ref().map(duration))
        .with_some("keep_alive", keep_alive)
        .with("tls", tls)
        .with("data", path(&own.data))
        .with_some("store", own.etcd.as_ref().map(store))
        .with_some("advertise", own.advertise.as_ref().map(text))
        .with_some("seal", seal)
        .with("operators", operators)
        .with("audit", audit)
        .with_some("robots", robots)
        .with("run_directory", path(&own.run_directory))
        .with("ssh", ssh)
        .with("telemetry", telemetry(&own.telemetry))
        .with("compat", compat)
        .with_unset(unset(own))
        .tree()
}

/// What holds where nothing was written, by the whole key below `gridkeep`.
fn unset(own: &GridkeepConfig) -> Vec<(&'static str, String)> {
    let usual = Lifetimes::default();
    let most = terms::most(own.max_ttl.as_ref()).as_secs();
    let seconds = |length: Seconds| format!("{}s", length.0);
    let default_ttl = Seconds(usual.default_ttl.0.min(most));
    let sealed = own.seal_key_file.is_some() || own.shamir.value;
    [
        (
            "tokens.default_ttl",
            own.default_ttl.is_none(),
            seconds(default_ttl),
        ),
        (
            "tokens.max_ttl",
            own.max_ttl.is_none(),
            seconds(usual.max_ttl),
        ),
        (
            "keep_removed",
            own.keep_removed.is_none(),
            seconds(Setup::default().removed_kept()),
        ),
        (
            "keep_alive.limit",
            own.keep_alive_limit.is_none(),
            seconds(KeepAlive::default().limit),
        ),
        ("seal.key_file", !sealed, KEY_FILE.to_owned()),
    ]
    .into_iter()
    .filter_map(|(key, unset, value)| unset.then_some((key, value)))
    .collect()
}

fn store(etcd: &EtcdConfig) -> Tree<'static> {
    let tls = etcd.ca.as_ref().map(|ca| {
        let identity = etcd.identity.as_ref();
        entries()
            .with("ca", path(ca))
            .with_some("certificate", identity.map(|(shown, _)| path(shown)))
            .with_some("key", identity.map(|(_, key)| path(key)))
            .tree()
    });
    let etcd = entries()
        .with(
            "endpoints",
            Tree::List(etcd.endpoints.iter().map(text).collect()),
        )
        .with("prefix", text(&etcd.prefix))
        .with_some("tls", tls)
        .with("upkeep", text(&etcd.upkeep))
        .with("quota_backend_bytes", text(&etcd.quota));
    entries().with("etcd", etcd.tree()).tree()
}

/// Every value of `gridkeep.telemetry` with its whole key.
pub(super) fn telemetry_lines(config: &Config) -> Vec<(String, String, Origin)> {
    let mut lines = Vec::new();
    flatten(
        "gridkeep.telemetry",
        &telemetry(&config.gridkeep.telemetry),
        &mut lines,
    );
    lines
}

fn flatten(key: &str, tree: &Tree<'_>, lines: &mut Vec<(String, String, Origin)>) {
    match tree {
        Tree::Map(entries) => {
            for (name, value) in entries {
                flatten(&format!("{key}.{name}"), value, lines);
            }
        }
        Tree::List(items) => {
            for (at, item) in items.iter().enumerate() {
                flatten(&format!("{key}[{at}]"), item, lines);
            }
        }
        Tree::Text(text, origin) => lines.push((key.to_owned(), quote(text), origin.clone())),
        Tree::Unset(_) => {}
        Tree::Secret(_, origin) => lines.push((key.to_owned(), MASK.to_owned(), origin.clone())),
    }
}

/// What telemetry says of issuers, not of where a node sends anything.
fn shared_telemetry(telemetry: &TelemetryConfig) -> Tree<'static> {
    let life = duration(&telemetry.refresh_token_life);
    let metrics = entries().with("refresh_token_life", life).tree();
    entries().with("metrics", metrics).tree()
}

fn telemetry(telemetry: &TelemetryConfig) -> Tree<'static> {
    let listen = telemetry.metrics_listen.iter().map(text).collect();
    let metrics = entries()
        .with("listen", Tree::List(listen))
        .with(
            "refresh_token_life",
            duration(&telemetry.refresh_token_life),
        )
        .tree();
    let traces = telemetry.traces.as_ref().map(|traces| {
        collector(&traces.to)
            .with("sample", text(&traces.sample))
            .with("propagate", text(&traces.propagate))
            .tree()
    });
    let loki = telemetry.loki.as_ref().map(|loki| {
        let labels = loki
            .labels
            .iter()
            .map(|(name, value)| (name.clone(), text(value)));
        collector(&loki.to)
            .with_some("tenant", loki.tenant.as_ref().map(text))
            .with("labels", Tree::Map(labels.collect()))
            .tree()
    });
    entries()
        .with("metrics", metrics)
        .with_some("traces", traces)
        .with_some("loki", loki)
        .tree()
}

fn collector(to: &CollectorConfig) -> Entries<'static> {
    let user = to.password.as_ref().map(|(user, _)| text(user));
    let password = to.password.as_ref().map(|(_, file)| path(file));
    entries()
        .with("url", text(&to.url))
        .with_some("ca_file", to.ca_file.as_ref().map(path))
        .with_some("token_file", to.token_file.as_ref().map(path))
        .with_some("user", user)
        .with_some("password_file", password)
}
