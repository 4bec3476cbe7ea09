//! Reads our own settings under the top-level key `gridkeep`, which the original ignores.
//!
//! A wrong value here refuses the whole configuration: falling back to a default could listen on, or write to, a
//! place the operator did not choose. Only an operator entry is left out alone.

use super::finding::{Finding, Setting, Severity, quoted};
use super::left_out;
use super::model::{GridkeepConfig, IssuerConfig, OnAuditFailure, OperatorConfig};
use super::read::{Item, Reader};
use super::telemetry::{self, TelemetryConfig};
use super::terms;
use super::yaml::{Mapping, Value};
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

pub(super) const KEYS: [&str; 21] = [
    "listen",
    "plain_listen",
    "callback_port",
    "public_url",
    "other_urls",
    "trusted_proxies",
    "tokens",
    "keep_removed",
    "keep_alive",
    "tls",
    "data",
    "store",
    "advertise",
    "seal",
    "operators",
    "audit",
    "robots",
    "run_directory",
    "ssh",
    "compat",
    "telemetry",
];
const MEANS: &str = "Nothing of the configuration is used until this is corrected.";
const NO_OPERATOR: &str = "Nobody becomes operator by this entry.";

/// The port of the original, which clients use when none is given.
pub const DEFAULT_PORT: u16 = 8200;
const DEFAULT_DATA: &str = "/var/lib/gridkeep";
const DEFAULT_RUN_DIRECTORY: &str = "/run/gridkeep";

/// The name of our key.
pub const KEY: &str = "gridkeep";

/// Reads the settings; `base` is the directory that holds `config.d`, where the original has its certificate.
pub fn read(reader: &mut Reader<'_>, root: &Mapping, base: &Path) -> GridkeepConfig {
    let mut config = defaults(base);
    let Some(node) = root.get(KEY).filter(|node| node.value != Value::Null) else {
        return config;
    };
    let Some(map) = node.as_map() else {
        let what = format!("Here is {}, but a mapping is wanted.", node.kind());
        reader.findings.push(
            Finding::new(Severity::Fatal, &node.origin, KEY, what, MEANS).allowed(KEYS.join(", ")),
        );
        return config;
    };
    let mut item = Item::new(reader, map, KEY, &node.origin, MEANS).own();
    item.unknown(&KEYS);
    listen(&mut item, &mut config);
    config.plain_listen = super::plain::read(&mut item);
    if let Some(port) = callback_port(&mut item) {
        config.callback_port = port;
    }
    config.public_url = item
        .text("public_url")
        .and_then(|url| service_url(&mut item, "public_url", url));
    if config.public_url.is_some() && config.callback_port.origin.file().is_some() {
        let origin = config.callback_port.origin.clone();
        let what = "It has no effect beside `public_url`, which says the port as well.";
        item.warn(&origin, "callback_port", what, "Take it out.");
    }
    config.other_urls = item
        .texts("other_urls", URL_ALLOWED)
        .into_iter()
        .filter_map(|url| service_url(&mut item, "other_urls", url))
        .collect();
    config.trusted_proxies = terms::networks(&mut item, "trusted_proxies");
    for network in &config.trusted_proxies {
        if network.value.is_everything() {
            let what = "Every address is trusted to say who is calling.";
            let means = "Anybody can pass for any address; name the front servers alone.";
            item.warn(&network.origin, "trusted_proxies", what, means);
        }
    }
    config.keep_removed = terms::positive(&mut item, "keep_removed");
    with_mapping(&mut item, "tokens", &["default_ttl", "max_ttl"], |tokens| {
        config.default_ttl = terms::positive(tokens, "default_ttl");
        config.max_ttl = terms::positive(tokens, "max_ttl");
        let most = terms::most(config.max_ttl.as_ref());
        if let Some(ttl) = config.default_ttl.as_ref().filter(|ttl| ttl.value > most) {
            let what = "It is longer than `max_ttl`.";
            let means = "Tokens end at the latter, which is 672h if it is not given.";
            tokens.warn(&ttl.origin, "default_ttl", what, means);
        }
    });
    with_mapping(&mut item, "keep_alive", &["limit"], |keep_alive| {
        config.keep_alive_limit = terms::positive(keep_alive, "limit");
    });
    config.advertise = super::advertise::read(&mut item);
    if let Some(data) = item.file_path("data") {
        config.data = data;
    }
    if let Some(directory) = item.file_path("run_directory") {
        config.run_directory = directory;
    }
    with_mapping(&mut item, "tls", &["certificate", "key"], |tls| {
        let (certificate, key) = (tls.file_path("certificate"), tls.file_path("key"));
        if certificate.is_some() != key.is_some() {
            let origin = tls.origin.clone();
            let absent = if key.is_none() { "key" } else { "certificate" };
            tls.refuse(
                &origin,
                absent,
                "Certificate and key have to be given together.",
                Some("certificate, key"),
            );
        }
        if let (Some(certificate), Some(key)) = (certificate, key) {
            (config.certificate, config.key) = (certificate, key);
        }
    });
    config.etcd = super::etcd::read(&mut item);
    with_mapping(&mut item, "seal", &["key_file", "shamir"], |seal| {
        config.seal_key_file = seal.file_path("key_file");
        if let Some(flag) = seal.flag("shamir") {
            config.shamir = flag;
        }
        if config.shamir.value && config.seal_key_file.is_some() {
            let origin = config.shamir.origin.clone();
            seal.refuse(
                &origin,
                "shamir",
                "With shares nobody holds the root key, so there is no file with it.",
                Some("either shamir or key_file"),
            );
        }
    });
    with_mapping(&mut item, "audit", &["on_failure"], |audit| {
        let choices = [
            ("refuse", OnAuditFailure::Refuse),
            ("revoke", OnAuditFailure::Revoke),
            ("serve", OnAuditFailure::Serve),
        ];
        if let Some(choice) = audit.choice("on_failure", &choices) {
            config.on_audit_failure = choice;
        }
    });
    with_mapping(&mut item, "ssh", &["authorized_keys", "rsa_sha1"], |ssh| {
        config.ssh_authorized_keys = ssh.file_path("authorized_keys");
        if let Some(flag) = ssh.flag("rsa_sha1") {
            config.ssh_rsa_sha1 = flag;
        }
    });
    with_mapping(&mut item, "compat", &["shell_unescape"], |compat| {
        if let Some(flag) = compat.flag("shell_unescape") {
            config.shell_unescape = flag;
        }
    });
    config.telemetry = telemetry::read(&mut item);
    config.operators = operators(&mut item);
    config.robots = super::robots::read(&mut item);
    config
}

fn defaults(base: &Path) -> GridkeepConfig {
    GridkeepConfig {
        listen: vec![Setting::builtin(SocketAddr::from((
            Ipv6Addr::UNSPECIFIED,
            DEFAULT_PORT,
        )))],
        callback_port: Setting::builtin(DEFAULT_PORT),
        public_url: None,
        other_urls: Vec::new(),
        trusted_proxies: Vec::new(),
        keep_removed: None,
        keep_alive_limit: None,
        default_ttl: None,
        max_ttl: None,
        certificate: Setting::builtin(base.join("hostcert.pem")),
        key: Setting::builtin(base.join("hostkey.pem")),
        data: Setting::builtin(PathBuf::from(DEFAULT_DATA)),
        etcd: None,
        advertise: None,
        seal_key_file: None,
        plain_listen: Vec::new(),
        shamir: Setting::builtin(false),
        operators: Vec::new(),
        on_audit_failure: Setting::builtin(OnAuditFailure::Revoke),
        robots: Vec::new(),
        run_directory: Setting::builtin(PathBuf::from(DEFAULT_RUN_DIRECTORY)),
        ssh_authorized_keys: None,
        ssh_rsa_sha1: Setting::builtin(true),
        shell_unescape: Setting::builtin(false),
        telemetry: TelemetryConfig::default(),
    }
}

const URL_ALLOWED: &str = "the beginning of an address such as https://tokens.example.org:8200";

/// An address of the service: scheme, host and port. A slash at the end is dropped.
fn service_url(
    item: &mut Item<'_, '_, '_>,
    key: &str,
    url: Setting<String>,
) -> Option<Setting<String>> {
    let text = url.value.strip_suffix('/').unwrap_or(&url.value);
    // What stands before an `@` may be a password, which no message may show.
    let shown = if text.contains('@') {
        "The value".to_owned()
    } else {
        quoted(&url.value)
    };
    let wrong = match url::Url::parse(text) {
        Err(error) => Some(error.to_string()),
        Ok(parsed) if parsed.scheme() != "https" => {
            Some("it does not begin with https://".to_owned())
        }
        Ok(parsed) if !parsed.username().is_empty() || parsed.password().is_some() => {
            Some("it holds a user name or password".to_owned())
        }
        Ok(parsed) if parsed.query().is_some() || parsed.fragment().is_some() => {
            Some("it has a query or a fragment".to_owned())
        }
        Ok(parsed) if parsed.path() != "/" || text.ends_with('/') => {
            Some("it has a path, which clients add themselves; leave that out".to_owned())
        }
        Ok(_) => None,
    };
    if let Some(why) = wrong {
        let what = format!("{shown} is not an address of this service: {why}.");
        item.refuse(&url.origin, key, what, Some(URL_ALLOWED));
        return None;
    }
    Some(Setting::new(text.to_owned(), url.origin))
}

/// Reads the mapping under `key`, whose keys are `known`, if it is there.
pub(super) fn with_mapping(
    item: &mut Item<'_, '_, '_>,
    key: &str,
    known: &[&str],
    read: impl FnOnce(&mut Item<'_, '_, '_>),
) {
    let Some(node) = item.mapping(key) else {
        return;
    };
    let Some(map) = node.as_map() else { return };
    let path = item.key(key);
    let mut inner = Item::new(item.reader, map, &path, &node.origin, MEANS).own();
    inner.unknown(known);
    read(&mut inner);
}

fn listen(item: &mut Item<'_, '_, '_>, config: &mut GridkeepConfig) {
    const ALLOWED: &str =
        "a list of addresses with port in quotes, such as [\"[::]:8200\"] or [\"127.0.0.1:8200\"]";
    if item.node("listen").is_none() {
        return;
    }
    let mut addresses = Vec::new();
    for text in item.texts("listen", ALLOWED) {
        match text.value.parse::<SocketAddr>() {
            Ok(address) => addresses.push(Setting::new(address, text.origin)),
            Err(_) => item.refuse(
                &text.origin,
                "listen",
                format!("{} is not an address with port.", quoted(&text.value)),
                Some(ALLOWED),
            ),
        }
    }
    if addresses.is_empty() && item.sound {
        let origin = item.key_origin("listen");
        item.refuse(&origin, "listen", "No address is given.", Some(ALLOWED));
    }
    config.listen = addresses;
}

fn callback_port(item: &mut Item<'_, '_, '_>) -> Option<Setting<u16>> {
    let number = item.number("callback_port")?;
    // The cast saturates; only whole numbers in range come back equal.
    let port = number.value as u16;
    if port == 0 || f64::from(port) != number.value {
        let what = format!("{} is not a port.", number.value);
        item.refuse(
            &number.origin,
            "callback_port",
            what,
            Some("a number from 1 to 65535"),
        );
        return None;
    }
    Some(Setting::new(port, number.origin))
}

fn operators(item: &mut Item<'_, '_, '_>) -> Vec<OperatorConfig> {
    let Some(node) = item.node("operators") else {
        return Vec::new();
    };
    let Value::List(entries) = &node.value else {
        let what = format!("Here is {}, but a list is wanted.", node.kind());
        item.refuse(
            &node.origin,
            "operators",
            what,
            Some("a list of items with issuer, claim and value"),
        );
        return Vec::new();
    };
    let mut operators = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let path = format!("{KEY}.operators[{at}]");
        let Some(map) = entry.as_map() else {
            let what = format!("Here is {}, but a mapping is wanted.", entry.kind());
            let finding = Finding::new(Severity::Error, &entry.origin, path, what, NO_OPERATOR);
            item.reader
                .findings
                .push(finding.allowed("issuer, claim, value"));
            continue;
        };
        let mut operator =
            Item::new(item.reader, map, &path, &entry.origin, NO_OPERATOR).own_item();
        operator.unknown(&["issuer", "claim", "value"]);
        let (issuer, claim, value) = (
            operator.required("issuer"),
            operator.required("claim"),
            operator.required("value"),
        );
        if let (true, Some(issuer), Some(claim), Some(value)) =
            (operator.sound, issuer, claim, value)
        {
            operators.push(OperatorConfig {
                issuer,
                claim,
                value,
            });
        }
    }
    operators
}

/// Leaves out operators of issuers that do not exist.
pub fn check_operators(
    reader: &mut Reader<'_>,
    config: &mut GridkeepConfig,
    issuers: &[IssuerConfig],
) {
    let names: Vec<&str> = issuers
        .iter()
        .map(|issuer| issuer.name.value.as_str())
        .collect();
    config.operators.retain(|operator| {
        let known = names.contains(&operator.issuer.value.as_str());
        if !known {
            let what = format!(
                "There is no usable issuer {}.",
                quoted(&operator.issuer.value)
            );
            let finding = Finding::new(
                Severity::Error,
                &operator.issuer.origin,
                format!("{KEY}.operators"),
                what,
                NO_OPERATOR,
            );
            reader.findings.push(
                finding
                    .nearest_of(&operator.issuer.value, &names)
                    .allowed(names.join(", ")),
            );
        }
        known
    });
}

/// The keys at the top.
pub const TOP: [&str; 6] = ["issuers", "kerberos", "ssh", "ratelimits", "cluster", KEY];

/// Warns of unknown top-level keys, and says so when one of ours stands outside `gridkeep`.
pub fn check_top_level(reader: &mut Reader<'_>, root: &Mapping) {
    for entry in root
        .entries
        .iter()
        .filter(|entry| !TOP.contains(&entry.key.as_str()))
    {
        let what = format!(
            "The key {} is not known at the top level.",
            quoted(&entry.key)
        );
        let ours = KEYS.contains(&entry.key.as_str());
        let means = if ours {
            format!("It is ignored; it belongs under `{KEY}:`.")
        } else {
            "It is ignored.".to_owned()
        };
        let mut finding = Finding::new(
            Severity::Warning,
            &entry.key_origin,
            &entry.key,
            what,
            means,
        )
        .nearest_of(&entry.key, &TOP)
        .allowed(TOP.join(", "));
        // A whole section is missing.
        match left_out::stands_for(root, entry) {
            Some(KEY) => {
                finding.severity = Severity::Fatal;
                finding.means = MEANS.to_owned();
            }
            Some(meant) => {
                finding.severity = Severity::Error;
                finding.means = format!("All of `{meant}` is left out.");
            }
            None => {}
        }
        reader.findings.push(finding);
    }
}
