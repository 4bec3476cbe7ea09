//! Reading `gridkeep.store`.

use super::super::{commands, diff, show_effective};
use super::*;

fn own(text: &str) -> String {
    format!("{ISSUER}gridkeep:\n  store:\n    etcd: {text}\n")
}

#[test]
fn a_store_in_etcd_is_read_whole() {
    let text = own(
        "{endpoints: ['https://e1.lab.example:2379', 'https://e2.lab.example'], prefix: lab/gridkeep/, \
         tls: {ca: tls/ca.pem, certificate: /tls/cert.pem, key: /tls/key.pem}, upkeep: false, quota_backend_bytes: 8589934592}",
    );
    let loaded = loaded(&[&text]);
    assert!(
        at_least(&loaded, Severity::Warning).is_empty(),
        "{:?}",
        loaded.findings
    );
    let config = loaded.config.unwrap();
    let etcd = config.gridkeep.etcd.as_ref().unwrap();
    let settings = etcd.settings();
    assert_eq!(
        settings.endpoints,
        ["https://e1.lab.example:2379", "https://e2.lab.example"]
    );
    assert_eq!(settings.prefix, "lab/gridkeep/");
    let tls = settings.tls.clone().unwrap();
    assert_eq!(tls.ca, Path::new("/etc/htvault-config/config.d/tls/ca.pem"));
    assert_eq!(
        tls.identity,
        Some((
            PathBuf::from("/tls/cert.pem"),
            PathBuf::from("/tls/key.pem")
        ))
    );
    assert!(!settings.upkeep.act);
    assert_eq!(settings.upkeep.quota_bytes, 8 << 30);
    let shown = show_effective(&config);
    for line in [
        "prefix: lab/gridkeep/",
        "ca: /etc/htvault-config/config.d/tls/ca.pem",
        "upkeep: false",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
}

#[test]
fn without_more_than_endpoints_the_rest_is_as_etcd_has_it() {
    let config = loaded(&[&own("{endpoints: ['http://127.0.0.1:2379']}")])
        .config
        .unwrap();
    let settings = config.gridkeep.etcd.unwrap().settings();
    assert_eq!(
        (settings.prefix.as_str(), settings.tls),
        ("gridkeep/", None)
    );
    assert_eq!(settings.upkeep, gridkeep_store::EtcdUpkeep::default());
    assert!(loaded(&[ISSUER]).config.unwrap().gridkeep.etcd.is_none());
}

#[test]
fn what_could_open_another_store_refuses_everything() {
    for (wrong, expected) in [
        ("{}", "endpoints: No member is named"),
        ("{endpoints: []}", "No member is named"),
        (
            "{endpoints: ['etcd1:2379']}",
            "begins neither with https://",
        ),
        ("{endpoints: ['https://e1.lab.example']}", "tls.ca"),
        ("{endpoints: ['http://e1/path']}", "has a path"),
        (
            "{endpoints: ['http://e1'], prefix: gridkeep}",
            "does not end with a slash",
        ),
        (
            "{endpoints: ['http://e1'], tls: {certificate: /c, key: /k}}",
            "gridkeep.store.etcd.tls",
        ),
        (
            "{endpoints: ['http://e1'], tls: {ca: /ca, certificate: /c}}",
            "given together",
        ),
        (
            "{endpoints: ['http://e1'], quota_backend_bytes: 5}",
            "too few",
        ),
        (
            "{endpoints: ['http://e1'], upkeep: sometimes}",
            "neither true nor false",
        ),
        ("7", "a mapping is wanted"),
    ] {
        let loaded = loaded(&[&own(wrong)]);
        assert_eq!(commands::exit_code(&loaded, false), commands::UNUSABLE);
        let fatal = at_least(&loaded, Severity::Fatal);
        assert!(
            fatal.iter().any(|f| f.to_string().contains(expected)),
            "{wrong}: {fatal:?}"
        );
    }
    let misspelt = loaded(&[&own("{endpoints: ['http://e1'], prefx: x/}")]);
    assert!(
        at_least(&misspelt, Severity::Warning)
            .iter()
            .any(|f| f.to_string().contains("prefix")),
        "{:?}",
        misspelt.findings
    );
}

#[test]
fn moving_the_store_is_a_matter_for_a_restart() {
    let old = loaded(&[ISSUER]).config.unwrap();
    let new = loaded(&[&own("{endpoints: ['http://127.0.0.1:2379']}")])
        .config
        .unwrap();
    let changes = diff(&old, &new);
    let change = changes
        .iter()
        .find(|change| change.key == "gridkeep.store")
        .unwrap();
    assert!(
        change
            .what
            .contains("from the data directory to etcd at http://127.0.0.1:2379")
    );
    assert!(change.affected.contains("gridkeep store copy"));
    assert!(diff(&new, &new).is_empty());
}
