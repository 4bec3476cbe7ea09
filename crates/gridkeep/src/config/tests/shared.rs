//! What the nodes of a cluster share and what is each one's own: every key is one or the other.

use super::super::{digest, issuers, own, sections, shared, show_effective, without_effect};
use super::*;
use secrecy::ExposeSecret as _;

const BASE: &str = "
issuers:
- name: default
  clientid: c
  secret: s3cr3t-canary
  url: https://iam.example.org/
  credclaim: /sub
  roles:
  - {name: default, scopes: [wlcg]}
kerberos: [{name: lab}, {name: other}]
ssh: {self-registration: allowed}
ratelimits: [{name: all, rate: 5}]
cluster: {name: tokens.lab.example, myname: gk1.lab.example, master: gk1.lab.example, peer1: gk2.lab.example, peer2: gk3.lab.example}
gridkeep:
  store: {etcd: {endpoints: ['http://127.0.0.1:2379']}}
  telemetry:
    traces: {url: 'https://traces.lab.example:4318'}
    loki: {url: 'https://logs.lab.example:3100'}
";

fn config(texts: &[&str]) -> crate::config::Config {
    let loaded = loaded(texts);
    let errors = at_least(&loaded, Severity::Error);
    assert!(errors.is_empty(), "{texts:?}: {errors:?}");
    loaded.config.unwrap()
}

/// What is shown, without the places, and the secrets.
fn values(config: &crate::config::Config) -> Vec<String> {
    let secrets = config.issuers.iter().filter_map(|issuer| {
        let secret = issuer.secret.as_ref()?;
        Some(secret.value.expose_secret().to_owned())
    });
    show_effective(config)
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split("  # ").next().unwrap().to_owned())
        .chain(secrets)
        .collect()
}

/// Keys of the original that are read and have no effect.
const WITHOUT_MEANING: [&str; 3] = ["ldapurl", "ldapdn", "ldapattr"];

/// Holds that each of `keys` has a row, and that a change of its value is seen either by the digest or on the node alone. A row: the
/// key, what is added to the files of all, and what is added to those of one node; both in the place of `{}` in `form`.
fn each_is_one_or_the_other(form: &str, keys: &[&str], rows: &[(&str, &str, &str)]) {
    for key in keys {
        assert!(rows.iter().any(|row| row.0 == *key), "no row for {key}");
    }
    for (key, before, after) in rows {
        assert!(keys.contains(key), "no key {key}");
        let (all, one) = (form.replace("{}", before), form.replace("{}", after));
        let texts = [BASE, &all];
        let common = config(&texts);
        let node = config(&[BASE, &all, &one]);
        let stored = shared::to_text(&sources(&texts)).unwrap();
        let joined = shared::joined(&node, &stored).unwrap();
        if WITHOUT_MEANING.contains(key) {
            assert_eq!(values(&node), values(&common), "{one}");
            continue;
        }
        assert_ne!(values(&node), values(&common), "{one} has no effect");
        let seen = digest(&node) != digest(&common);
        let kept = values(&joined) == values(&node);
        assert!(seen != kept, "{one}: seen {seen}, kept {kept}");
        let named = without_effect(&node, &joined);
        assert_eq!(seen, !named.is_empty(), "{one}: {named:?}");
        if seen {
            assert_eq!(values(&joined), values(&common), "{one}");
            assert!(named[0].ends_with("/2.yaml:1)"), "{one}: {named:?}");
        }
    }
}

#[test]
fn each_of_our_own_keys_is_shared_or_a_nodes_own() {
    let rule = "[{issuer: default, claim: g, value: v}]";
    each_is_one_or_the_other(
        "gridkeep: {{}}",
        &own::KEYS,
        &[
            ("listen", "", "listen: ['127.0.0.1:9']"),
            ("plain_listen", "", "plain_listen: ['127.0.0.1:8202']"),
            ("callback_port", "", "callback_port: 443"),
            ("public_url", "", "public_url: 'https://x.lab.example'"),
            ("other_urls", "", "other_urls: ['https://y.lab.example']"),
            ("trusted_proxies", "", "trusted_proxies: ['192.0.2.1']"),
            ("tokens", "", "tokens: {max_ttl: 1h}"),
            ("tokens", "", "tokens: {default_ttl: 1h}"),
            ("keep_removed", "", "keep_removed: 48h"),
            ("keep_alive", "", "keep_alive: {limit: 400h}"),
            ("tls", "", "tls: {certificate: /a, key: /b}"),
            ("data", "", "data: /srv/x"),
            ("store", "", "store: {etcd: {prefix: other/}}"),
            ("advertise", "", "advertise: 'gk1.lab.example:8201'"),
            ("seal", "", "seal: {key_file: /k}"),
            ("seal", "", "seal: {shamir: true}"),
            ("operators", "", &format!("operators: {rule}")),
            ("audit", "", "audit: {on_failure: serve}"),
            ("robots", "", &format!("robots: {rule}")),
            ("run_directory", "", "run_directory: /run/x"),
            ("ssh", "", "ssh: {authorized_keys: /d}"),
            ("ssh", "", "ssh: {rsa_sha1: false}"),
            ("compat", "", "compat: {shell_unescape: true}"),
            ("telemetry", "", "telemetry: {metrics: {listen: []}}"),
            (
                "telemetry",
                "",
                "telemetry: {metrics: {refresh_token_life: 10h}}",
            ),
            ("telemetry", "", "telemetry: {traces: {propagate: true}}"),
            ("telemetry", "", "telemetry: {traces: {sample: 1}}"),
            ("telemetry", "", "telemetry: {loki: {tenant: x}}"),
        ],
    );
}

#[test]
fn each_key_of_the_original_is_shared_or_a_nodes_own() {
    let signed = "client_auth: private_key_jwt, secret: '', private_key: /a";
    let second = "name: second}, {name: second, clientid: c, secret: s, url: 'https://x.example/', credclaim: sub, roles: [{name: default}]";
    each_is_one_or_the_other(
        "issuers: [{name: default, {}}]",
        &issuers::KEYS,
        &[
            (
                "name",
                "",
                &second.replacen("name: second}", "url: 'https://iam.example.org/'}", 1),
            ),
            ("clientid", "", "clientid: d"),
            ("secret", "", "secret: an0ther-canary"),
            ("url", "", "url: https://iam.example.org"),
            ("callbackmode", "", "callbackmode: direct"),
            ("credclaim", "", "credclaim: eppn"),
            ("kerbservice", "", "kerbservice: other"),
            ("roles", "", "roles: [{name: production}]"),
            ("public_client", "", "public_client: true, secret: ''"),
            ("client_auth", "", "client_auth: client_secret_post"),
            ("private_key", signed, "private_key: /b"),
            ("ca_file", "", "ca_file: /ca"),
            ("authorization_params", "", "authorization_params: {a: b}"),
            ("reauth_on_scope_change", "", "reauth_on_scope_change: true"),
            ("credclaim_json_pointer", "", "credclaim_json_pointer: true"),
            ("connect_timeout", "", "connect_timeout: 3s"),
            ("request_timeout", "", "request_timeout: 3s"),
            ("requests_per_second", "", "requests_per_second: 2"),
            ("refresh_token_life", "", "refresh_token_life: 3h"),
            ("token_ttl", "", "token_ttl: 1h"),
            ("token_max_ttl", "", "token_max_ttl: 2h"),
            ("token_period", "", "token_period: 3h"),
            (
                "token_bound_cidrs",
                "",
                "token_bound_cidrs: ['192.0.2.0/24']",
            ),
            ("bound_claims", "", "bound_claims: {g: v}"),
        ],
    );
    each_is_one_or_the_other(
        "issuers: [{name: default, roles: [{name: default, {}}]}]",
        &issuers::ROLE_KEYS,
        &[
            ("name", "", "scopes: []}, {name: pilot"),
            ("scopes", "", "scopes: [profile]"),
            ("credclaim", "", "credclaim: eppn"),
            ("token_ttl", "", "token_ttl: 1h"),
            ("token_max_ttl", "", "token_max_ttl: 2h"),
            ("token_period", "", "token_period: 3h"),
            (
                "token_bound_cidrs",
                "",
                "token_bound_cidrs: ['192.0.2.0/24']",
            ),
            ("bound_claims", "", "bound_claims: {g: v}"),
        ],
    );
    each_is_one_or_the_other(
        "kerberos: [{name: lab, {}}]",
        &sections::KERBEROS_KEYS,
        &[
            ("name", "", "realms: []}, {name: third"),
            ("policydomain", "", "policydomain: '@lab.example'"),
            ("keytab", "", "keytab: /k"),
            ("realms", "", "realms: [LAB.EXAMPLE]"),
            ("ldapurl", "", "ldapurl: 'ldaps://x'"),
            ("ldapdn", "", "ldapdn: 'dc=x'"),
            ("ldapattr", "", "ldapattr: uid"),
        ],
    );
    each_is_one_or_the_other(
        "ssh: {{}}",
        &sections::SSH_KEYS,
        &[
            ("self-registration", "", "self-registration: disallowed"),
            ("cross_issuer", "", "cross_issuer: true"),
        ],
    );
    each_is_one_or_the_other(
        "ratelimits: [{name: all, {}}]",
        &sections::LIMIT_KEYS,
        &[
            ("name", "", "rate: 5}, {name: second, path: sys, rate: 5"),
            ("path", "", "path: sys"),
            ("rate", "", "rate: 6"),
            ("interval", "", "interval: 7s"),
            ("block_interval", "", "block_interval: 7s"),
            ("per", "", "per: user"),
        ],
    );
    each_is_one_or_the_other(
        "cluster: {{}}",
        &sections::CLUSTER_KEYS,
        &[
            ("name", "", "name: other.lab.example"),
            ("master", "", "master: gk9.lab.example"),
            ("peer1", "", "peer1: gk9.lab.example"),
            ("peer2", "", "peer2: gk9.lab.example"),
            ("myname", "", "myname: gk9.lab.example"),
            ("members", "", "members: [gk9.lab.example]"),
            ("auditlog", "", "auditlog: /srv/audit.log"),
        ],
    );
}

/// A node whose files are as the manual has them, and more of what is on the first: none of it is wrong.
const NODE: &str = "
cluster: {name: tokens.lab.example, myname: gk2.lab.example, master: gk1.lab.example, peer1: gk1.lab.example}
gridkeep:
  store: {etcd: {endpoints: ['http://127.0.0.1:2379']}}
  operators: [{issuer: default, claim: g, value: v}]
  robots: [{issuer: default, claim: g, value: v}]
ratelimits: [{name: all, rate: 5}, {name: logins, rate: 5, path: auth/oidc-default}]
";

#[test]
fn a_node_without_issuers_of_its_own_is_not_judged_by_them() {
    for text in [NODE.to_owned(), format!("{NODE}issuers: []\n")] {
        let node = loaded(&[&text]);
        let [note] = node.findings.as_slice() else {
            panic!("{:?}", node.findings);
        };
        assert_eq!(
            (note.severity, note.key.as_str()),
            (Severity::Info, "issuers")
        );
        assert!(node.is_acceptable(true) && node.is_faultless());
        let config = node.config.unwrap();
        assert_eq!(config.gridkeep.operators.len(), 1);
        assert_eq!(config.gridkeep.robots.len(), 1);
    }
    // Where nothing else has issuers, they are missed.
    let alone = loaded(&["gridkeep: {operators: [{issuer: default, claim: g, value: v}]}"]);
    assert!(!alone.is_faultless());
    let missed = at_least(&alone, Severity::Warning);
    assert!(
        missed.iter().any(|found| found.key == "issuers"),
        "{missed:?}"
    );
    // Nor is a slip in a node that has some forgiven.
    let slip = loaded(&[
        ISSUER,
        NODE,
        "gridkeep: {robots: [{issuer: defualt, claim: g, value: v}]}",
    ]);
    assert!(!slip.is_faultless());
}

#[test]
fn keys_without_effect_are_named_with_their_places() {
    let text = "
ssh: {self-registration: disallowed}
ratelimits:
- {name: all, rate: 5}
- {name: mine, rate: 1}
cluster: {name: tokens.lab.example, myname: gk2.lab.example}
gridkeep:
  callback_port: 443
  listen: ['192.0.2.2:8200']
  operators: [{issuer: default, claim: g, value: mine}]
";
    let node = loaded(&[NODE, text]).config.unwrap();
    let stored = shared::to_text(&sources(&[BASE])).unwrap();
    let joined = shared::joined(&node, &stored).unwrap();
    let place = |line: u32| format!("(/etc/htvault-config/config.d/1.yaml:{line})");
    let first = |line: u32| format!("(/etc/htvault-config/config.d/0.yaml:{line})");
    assert_eq!(
        without_effect(&node, &joined),
        [
            format!("ssh.self-registration {}", place(2)),
            format!("ratelimits[logins] {}", first(7)),
            format!("ratelimits[mine] {}", place(5)),
            format!("gridkeep.callback_port {}", place(8)),
            format!("gridkeep.operators {}", first(5)),
            format!("gridkeep.robots {}", first(6)),
        ]
    );
    assert_eq!(without_effect(&joined, &joined), [""; 0]);
}
