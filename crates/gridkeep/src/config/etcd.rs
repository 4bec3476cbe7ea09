//! Reads `gridkeep.store`, which says that the store is in etcd: types, reading, and what the store's crate is to be told.
//!
//! Without it the store is in the data directory. A wrong value refuses the whole configuration: another store than the one that was
//! meant knows no login.

use std::path::PathBuf;

use gridkeep_store::{EtcdSettings, EtcdTls, EtcdUpkeep};

use super::finding::Setting;
use super::own::with_mapping;
use super::read::Item;

const PREFIX: &str = "gridkeep/";
const KEYS: [&str; 5] = [
    "endpoints",
    "prefix",
    "tls",
    "upkeep",
    "quota_backend_bytes",
];
const ENDPOINTS: &str = "a list of addresses in quotes such as [\"https://etcd1.example.org:2379\"], one for each member";
/// Less leaves etcd no room for its own needs.
const LEAST_QUOTA: f64 = 16.0 * 1024.0 * 1024.0;

/// Where in etcd the store is (`gridkeep.store.etcd`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `endpoints`: the members' addresses for clients.
    pub endpoints: Vec<Setting<String>>,
    /// `prefix`: what all keys begin with, with a slash at its end.
    pub prefix: Setting<String>,
    /// `tls.ca`: who has signed the members' certificates.
    pub ca: Option<Setting<PathBuf>>,
    /// `tls.certificate` and `tls.key`: what this node shows to them.
    pub identity: Option<(Setting<PathBuf>, Setting<PathBuf>)>,
    /// `upkeep`: compact, defragment, and end the alarm of a full etcd.
    pub upkeep: Setting<bool>,
    /// `quota_backend_bytes`: what etcd's option of this name says.
    pub quota: Setting<u64>,
}

impl EtcdConfig {
    /// What the store is opened with.
    pub fn settings(&self) -> EtcdSettings {
        let endpoints = self
            .endpoints
            .iter()
            .map(|endpoint| endpoint.value.clone())
            .collect();
        let mut settings = EtcdSettings::new(endpoints, &self.prefix.value);
        settings.tls = self.ca.as_ref().map(|ca| EtcdTls {
            ca: ca.value.clone(),
            identity: self
                .identity
                .as_ref()
                .map(|(certificate, key)| (certificate.value.clone(), key.value.clone())),
        });
        settings.upkeep = EtcdUpkeep {
            act: self.upkeep.value,
            quota_bytes: self.quota.value,
            ..EtcdUpkeep::default()
        };
        settings
    }

    /// Its values without where they stand, to be compared.
    pub fn settled(&self) -> impl PartialEq + use<> {
        let files: Vec<_> = self
            .files()
            .into_iter()
            .map(|(file, key)| (file.value.clone(), key))
            .collect();
        (self.place(), files, self.upkeep.value, self.quota.value)
    }

    /// Members and prefix in one line.
    pub fn place(&self) -> String {
        let endpoints: Vec<_> = self.endpoints.iter().map(|e| e.value.as_str()).collect();
        format!(
            "etcd at {}, prefix {}",
            endpoints.join(", "),
            self.prefix.value
        )
    }

    /// The files it names, with their keys.
    pub fn files(&self) -> Vec<(&Setting<PathBuf>, &'static str)> {
        let identity = self.identity.iter().flat_map(|(certificate, key)| {
            [
                (certificate, "gridkeep.store.etcd.tls.certificate"),
                (key, "gridkeep.store.etcd.tls.key"),
            ]
        });
        let ca = self.ca.iter().map(|ca| (ca, "gridkeep.store.etcd.tls.ca"));
        ca.chain(identity).collect()
    }
}

/// Reads `store`; `None` where it says nothing of etcd.
pub fn read(item: &mut Item<'_, '_, '_>) -> Option<EtcdConfig> {
    let mut found = None;
    with_mapping(item, "store", &["etcd"], |store| {
        with_mapping(store, "etcd", &KEYS, |etcd| found = etcd_of(etcd));
    });
    found
}

fn etcd_of(etcd: &mut Item<'_, '_, '_>) -> Option<EtcdConfig> {
    let mut config = EtcdConfig {
        endpoints: etcd.texts("endpoints", ENDPOINTS),
        prefix: etcd
            .text("prefix")
            .unwrap_or_else(|| Setting::builtin(PREFIX.to_owned())),
        ca: None,
        identity: None,
        upkeep: etcd.flag("upkeep").unwrap_or(Setting::builtin(true)),
        quota: Setting::builtin(EtcdUpkeep::default().quota_bytes),
    };
    if let Some(quota) = etcd.number("quota_backend_bytes") {
        if quota.value < LEAST_QUOTA {
            let what = format!("{} bytes are too few.", quota.value);
            let allowed = "a number of bytes, as etcd's --quota-backend-bytes; at least 16777216";
            etcd.refuse(&quota.origin, "quota_backend_bytes", what, Some(allowed));
        }
        // The cast saturates, and no etcd holds so much.
        config.quota = Setting::new(quota.value as u64, quota.origin);
    }
    with_mapping(etcd, "tls", &["ca", "certificate", "key"], |tls| {
        config.ca = tls.required("ca").and_then(|_| tls.file_path("ca"));
        let (certificate, key) = (tls.file_path("certificate"), tls.file_path("key"));
        if certificate.is_some() != key.is_some() {
            let origin = tls.origin.clone();
            let absent = if key.is_none() { "key" } else { "certificate" };
            let what = "Certificate and key have to be given together.";
            tls.refuse(&origin, absent, what, Some("certificate, key"));
        }
        config.identity = certificate.zip(key);
    });
    if config.endpoints.is_empty() && etcd.sound {
        let origin = etcd.key_origin("endpoints");
        etcd.refuse(&origin, "endpoints", "No member is named.", Some(ENDPOINTS));
    }
    // Each alone, so that the finding stands at its line.
    let settings = config.settings();
    for endpoint in &config.endpoints {
        let mut one = settings.clone();
        one.endpoints = vec![endpoint.value.clone()];
        one.prefix = PREFIX.to_owned();
        if let Err(error) = one.check() {
            etcd.refuse(
                &endpoint.origin,
                "endpoints",
                sentence(&error),
                Some(ENDPOINTS),
            );
        }
    }
    let mut prefix = EtcdSettings::new(vec!["http://127.0.0.1".to_owned()], "");
    prefix.prefix.clone_from(&config.prefix.value);
    if let Err(error) = prefix.check() {
        let origin = config.prefix.origin.clone();
        let allowed = "text such as gridkeep/";
        etcd.refuse(&origin, "prefix", sentence(&error), Some(allowed));
    }
    Some(config)
}

/// What is wrong, without what the store's crate says before it.
fn sentence(error: &gridkeep_store::StoreError) -> String {
    let problem = match error {
        gridkeep_store::StoreError::Connection { problem } => problem.clone(),
        other => other.to_string(),
    };
    let mut letters = problem.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).chain(['.']).collect()
}
