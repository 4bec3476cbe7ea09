//! `gridkeep.telemetry`: where metrics are served, and where spans and log lines are sent.
//!
//! Owns the types and the reading of this section. Refuses to know how anything is sent.

use super::finding::{Setting, quoted};
use super::own::with_mapping;
use super::read::Item;
use super::yaml::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use url::{Host, Url};

/// The port that exporters of OpenTelemetry have for Prometheus.
const METRICS_PORT: u16 = 9464;
/// What INDIGO IAM does with a refresh token that nobody uses.
const REFRESH_TOKEN_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// The share of traces that is sent when nobody says otherwise.
const SAMPLE: f64 = 0.1;
const COLLECTOR_KEYS: [&str; 5] = ["url", "ca_file", "token_file", "user", "password_file"];
const LISTEN: &str =
    "a list of addresses with port in quotes, such as [\"127.0.0.1:9464\"], or [] for none";

/// The section.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// `metrics.listen`: where `/metrics` is served, without authentication.
    pub metrics_listen: Vec<Setting<SocketAddr>>,
    /// `metrics.refresh_token_life`: how long issuers keep a refresh token that is not used.
    pub refresh_token_life: Setting<Duration>,
    /// `traces`
    pub traces: Option<TracesConfig>,
    /// `loki`
    pub loki: Option<LokiConfig>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            metrics_listen: vec![Setting::builtin(SocketAddr::from((
                Ipv4Addr::LOCALHOST,
                METRICS_PORT,
            )))],
            refresh_token_life: Setting::builtin(REFRESH_TOKEN_LIFE),
            traces: None,
            loki: None,
        }
    }
}

/// A place that takes what is sent to it.
#[derive(Clone, Debug)]
pub struct CollectorConfig {
    /// `url`, with its path.
    pub url: Setting<String>,
    /// `ca_file`: authorities that may certify it, besides the system's.
    pub ca_file: Option<Setting<PathBuf>>,
    /// `token_file`: holds a bearer token.
    pub token_file: Option<Setting<PathBuf>>,
    /// `user` and `password_file`.
    pub password: Option<(Setting<String>, Setting<PathBuf>)>,
}

/// Where spans are sent.
#[derive(Clone, Debug)]
pub struct TracesConfig {
    /// The collector.
    pub to: CollectorConfig,
    /// `sample`: share of traces, 0 to 1.
    pub sample: Setting<f64>,
    /// `propagate`: whether issuers are told which trace a request belongs to.
    pub propagate: Setting<bool>,
}

/// Where log lines are sent.
#[derive(Clone, Debug)]
pub struct LokiConfig {
    /// Loki.
    pub to: CollectorConfig,
    /// `tenant`: header `X-Scope-OrgID`.
    pub tenant: Option<Setting<String>>,
    /// `labels` of the streams.
    pub labels: Vec<(String, Setting<String>)>,
}

/// Reads the section out of `gridkeep`.
pub fn read(own: &mut Item<'_, '_, '_>) -> TelemetryConfig {
    let mut config = TelemetryConfig::default();
    with_mapping(own, "telemetry", &["metrics", "traces", "loki"], |item| {
        with_mapping(item, "metrics", &["listen", "refresh_token_life"], |item| {
            if let Some(addresses) = listen(item) {
                config.metrics_listen = addresses;
            }
            if let Some(life) = item.duration("refresh_token_life") {
                config.refresh_token_life = life;
            }
        });
        let known = |more: &[&'static str]| [COLLECTOR_KEYS.as_slice(), more].concat();
        with_mapping(item, "traces", &known(&["sample", "propagate"]), |item| {
            config.traces = traces(item);
        });
        with_mapping(item, "loki", &known(&["tenant", "labels"]), |item| {
            config.loki = loki(item);
        });
    });
    config
}

fn listen(item: &mut Item<'_, '_, '_>) -> Option<Vec<Setting<SocketAddr>>> {
    item.node("listen")?;
    let mut addresses: Vec<Setting<SocketAddr>> = Vec::new();
    for text in item.texts("listen", LISTEN) {
        match text.value.parse() {
            Ok(address) => addresses.push(Setting::new(address, text.origin)),
            Err(_) => item.refuse(
                &text.origin,
                "listen",
                format!("{} is not an address with port.", quoted(&text.value)),
                Some(LISTEN),
            ),
        }
    }
    for address in &addresses {
        if !address.value.ip().is_loopback() {
            item.warn(
                &address.origin,
                "listen",
                format!("{} is not a loopback address.", address.value),
                "Metrics are served there without TLS and without a token; make sure that only those who may read them reach it.",
            );
        }
    }
    Some(addresses)
}

fn traces(item: &mut Item<'_, '_, '_>) -> Option<TracesConfig> {
    let to = collector(item, "/v1/traces")?;
    let sample = item.number("sample").unwrap_or(Setting::builtin(SAMPLE));
    if !(0.0..=1.0).contains(&sample.value) {
        let what = format!("{} is not a share.", sample.value);
        item.refuse(
            &sample.origin,
            "sample",
            what,
            Some("a number from 0 to 1, such as 0.1 for one trace in ten"),
        );
    }
    Some(TracesConfig {
        to,
        sample,
        propagate: item.flag("propagate").unwrap_or(Setting::builtin(false)),
    })
}

fn loki(item: &mut Item<'_, '_, '_>) -> Option<LokiConfig> {
    let to = collector(item, "/loki/api/v1/push")?;
    let mut labels = vec![("job".to_owned(), Setting::builtin("gridkeep".to_owned()))];
    with_labels(item, &mut labels);
    Some(LokiConfig {
        to,
        tenant: item.text("tenant"),
        labels,
    })
}

fn with_labels(item: &mut Item<'_, '_, '_>, labels: &mut Vec<(String, Setting<String>)>) {
    const ALLOWED: &str = "names of letters, digits and `_`, not beginning with a digit, and not `level`, with a text each";
    let Some(map) = item.mapping("labels").and_then(|node| node.as_map()) else {
        return;
    };
    for entry in &map.entries {
        let name = &entry.key;
        let good = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !name.is_empty()
            && !name.as_bytes()[0].is_ascii_digit()
            && name != "level";
        let value = match &entry.value.value {
            Value::Scalar(scalar) if good => {
                Setting::new(scalar.text().to_owned(), entry.value.origin.clone())
            }
            _ => {
                let what = format!("The label {} cannot be used.", quoted(name));
                item.refuse(&entry.key_origin, "labels", what, Some(ALLOWED));
                continue;
            }
        };
        labels.retain(|(known, _)| known != name);
        labels.push((name.clone(), value));
    }
}

/// `path` is that of the API, for an address without one.
fn collector(item: &mut Item<'_, '_, '_>, path: &str) -> Option<CollectorConfig> {
    let given = item.required("url")?;
    let url = address(item, given, path)?;
    let token_file = item.file_path("token_file");
    let (user, password_file) = (item.text("user"), item.file_path("password_file"));
    let origin = item.origin.clone();
    if user.is_some() != password_file.is_some() {
        item.refuse(
            &origin,
            "user",
            "User and password file have to be given together.",
            Some("user, password_file"),
        );
    }
    let password = user.zip(password_file);
    if token_file.is_some() && password.is_some() {
        item.refuse(
            &origin,
            "token_file",
            "Two ways to prove who sends are given.",
            Some("either token_file, or user and password_file"),
        );
    }
    let proves = token_file.is_some() || password.is_some();
    if proves && url.value.starts_with("http://") && !is_loopback(&url.value) {
        item.refuse(
            &url.origin.clone(),
            "url",
            "Credentials would be sent there in clear.",
            Some("an address that begins with https://"),
        );
    }
    Some(CollectorConfig {
        url,
        ca_file: item.file_path("ca_file"),
        token_file,
        password,
    })
}

fn address(
    item: &mut Item<'_, '_, '_>,
    given: Setting<String>,
    path: &str,
) -> Option<Setting<String>> {
    let parsed = Url::parse(&given.value).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.host_str().is_some_and(|host| !host.is_empty())
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
    });
    let Some(mut url) = parsed else {
        // It may hold a password, which no message may show.
        item.refuse(
            &given.origin,
            "url",
            "The value is not the address of a collector.",
            Some("an address such as https://collector.example.org:4318, without user and query"),
        );
        return None;
    };
    if url.path() == "/" {
        url.set_path(path);
    }
    Some(Setting::new(url.into(), given.origin))
}

fn is_loopback(url: &str) -> bool {
    match Url::parse(url).as_ref().map(Url::host) {
        Ok(Some(Host::Ipv4(address))) => address.is_loopback(),
        Ok(Some(Host::Ipv6(address))) => address.is_loopback(),
        Ok(Some(Host::Domain(name))) => name == "localhost",
        _ => false,
    }
}
