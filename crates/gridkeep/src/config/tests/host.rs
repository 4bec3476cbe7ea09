//! What is said of the files on this host that the configuration names.

use super::*;
use crate::config::host::tests::keytab;
use crate::config::load;

/// Findings of at least a warning about `text` on a host whose keytab, certificate and other files are made by `files`.
fn warnings(text: &str, certified: &str, keys: &[&str], files: &[(&str, &str)]) -> Vec<String> {
    let etc = tempfile::tempdir().unwrap();
    let path = etc.path().join("config.yaml");
    std::fs::write(
        &path,
        format!("{ISSUER}{text}").replace("AT", &etc.path().display().to_string()),
    )
    .unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec![certified.to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    std::fs::write(etc.path().join("hostcert.pem"), certificate.pem()).unwrap();
    let private = |name: &str, text: &[u8]| {
        let path = etc.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
    };
    private("hostkey.pem", key.serialize_pem().as_bytes());
    private("client.pem", key.serialize_pem().as_bytes());
    let keys: Vec<(&str, &str)> = keys.iter().map(|host| ("host", *host)).collect();
    private("krb5.keytab", &keytab(&keys));
    for (name, text) in files {
        private(name, text.as_bytes());
    }
    let host = Surroundings {
        etc: etc.path().to_path_buf(),
        look_at_files: true,
        ..nowhere()
    };
    let loaded = load(&[path], &host);
    at_least(&loaded, Severity::Warning)
        .iter()
        .map(ToString::to_string)
        .filter(|text| !text.contains("no role") && !text.contains("no issuer"))
        .collect()
}

const NAMED: &str = "cluster: {name: tokens.lab.example}\nkerberos: [{name: lab}]\n";

#[test]
fn a_keytab_needs_the_key_that_clients_ask_for() {
    let only_node = warnings(NAMED, "tokens.lab.example", &["node.lab.example"], &[]);
    assert_eq!(only_node.len(), 1, "{only_node:?}");
    assert!(
        only_node[0].contains("has no key for host/tokens.lab.example."),
        "{only_node:?}"
    );
    let both = ["node.lab.example", "TOKENS.lab.example"];
    assert!(warnings(NAMED, "tokens.lab.example", &both, &[]).is_empty());
}

#[test]
fn certificate_and_keytab_are_for_all_hosts_that_clients_use() {
    let public = format!(
        "{NAMED}gridkeep: {{public_url: 'https://front.lab.example', other_urls: ['https://former.lab.example:8200', 'https://FRONT.lab.example:8200']}}\n"
    );
    let found = warnings(&public, "tokens.lab.example", &["tokens.lab.example"], &[]);
    for expected in [
        "is not valid for the host `front.lab.example`",
        "is not valid for the host `former.lab.example`",
        "has no key for host/front.lab.example, host/former.lab.example.",
    ] {
        assert!(
            found.iter().any(|text| text.contains(expected)),
            "{expected}: {found:?}"
        );
    }
    assert_eq!(found.len(), 3, "{found:?}");
    // A front server has its own certificate.
    let behind = public.replace("{public_url", "{trusted_proxies: [192.0.2.1], public_url");
    let keys = ["front.lab.example", "former.lab.example"];
    assert!(warnings(&behind, "tokens.lab.example", &keys, &[]).is_empty());
}

#[test]
fn tickets_for_all_these_hosts_and_the_nodes_are_taken() {
    let text = "cluster: {name: tokens.lab.example, master: gk1.lab.example}\ngridkeep: {public_url: 'https://front.lab.example', other_urls: ['https://former.lab.example:8200', 'https://[2001:db8::1]:8200', 'https://gk1.lab.example']}";
    let config = loaded(&[text]).config.unwrap();
    assert_eq!(
        config.ticket_hosts(),
        [
            "tokens.lab.example",
            "node.lab.example",
            "gk1.lab.example",
            "front.lab.example",
            "former.lab.example",
            "2001:db8::1",
        ]
    );
    let places = config.public_places();
    assert_eq!(places[0], ("front.lab.example".to_owned(), 443));
    assert_eq!(places[2], ("2001:db8::1".to_owned(), 8200));
    let hosts: Vec<String> = config
        .public_hosts()
        .into_iter()
        .map(|host| host.value)
        .collect();
    assert_eq!(
        hosts,
        [
            "front.lab.example",
            "former.lab.example",
            "2001:db8::1",
            "gk1.lab.example"
        ]
    );
}

#[test]
fn files_of_an_issuer_are_looked_into() {
    let entry = "- name: other\n  clientid: c\n  url: https://iam.example.org/\n  credclaim: sub\n  client_auth: private_key_jwt\n  private_key: AT/client.pem\n  ca_file: AT/ca.pem\n  roles: [{name: default}]\ncluster: {name: tokens.lab.example}\n";
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertificateParams::new(vec!["ca".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap()
        .pem();
    let name = "tokens.lab.example";
    assert!(warnings(entry, name, &[], &[("ca.pem", &authority)]).is_empty());
    for (file, text, key, expected) in [
        ("client.pem", "garbage", "private_key", "put a PKCS #8 PEM"),
        (
            "client.pem",
            authority.as_str(),
            "private_key",
            "put a PKCS #8 PEM",
        ),
        (
            "ca.pem",
            "garbage",
            "ca_file",
            "there is no certificate in it",
        ),
        (
            "ca.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "ca_file",
            "not a usable CA",
        ),
    ] {
        let files = [("ca.pem", authority.as_str()), (file, text)];
        let found = warnings(entry, name, &[], &files);
        assert_eq!(found.len(), 1, "{file}: {found:?}");
        let key = format!("issuers[other].{key}: ");
        assert!(
            found[0].contains(&key) && found[0].contains(expected),
            "{file}: {found:?}"
        );
    }
}
