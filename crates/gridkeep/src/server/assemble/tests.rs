//! From files to what the keeper and the clients of issuers are set up with, key by key.

use std::os::unix::fs::PermissionsExt as _;

use gridkeep_keeper::{ClaimName, CountedBy};

use super::*;
use crate::config::Surroundings;

/// A configuration from a text in which `AT` stands for a directory with a key of a client.
fn config(text: &str) -> (Config, tempfile::TempDir) {
    let at = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(at.path().join("client.pem"), key.serialize_pem()).unwrap();
    let path = at.path().join("config.yaml");
    let text = text.replace("AT", &at.path().display().to_string());
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let host = Surroundings {
        hostname: "node.lab.example".to_owned(),
        etc: at.path().to_owned(),
        look_at_files: false,
    };
    let loaded = config::load(&[path], &host);
    let faults: Vec<String> = loaded.findings.iter().map(ToString::to_string).collect();
    (loaded.config.unwrap_or_else(|| panic!("{faults:?}")), at)
}

const FULL: &str = "
issuers:
- name: dune
  clientid: c
  secret: s
  url: https://iam.example.org/
  callbackmode: noconfirm
  credclaim: /realm/user
  credclaim_json_pointer: true
  reauth_on_scope_change: true
  authorization_params: {prompt: consent, resource: 'https://x'}
  connect_timeout: 5
  request_timeout: 45
  requests_per_second: 2.5
  refresh_token_life: 240h
  token_ttl: 2h
  token_max_ttl: 3h
  token_bound_cidrs: [192.0.2.0/24]
  bound_claims: {groups: /lab}
  roles:
  - {name: default, scopes: [wlcg, offline_access]}
  - {name: production, credclaim: /other, token_ttl: 1h, token_max_ttl: 4h, token_period: 30m, token_bound_cidrs: 198.51.100.7, bound_claims: {/roles: [a, b]}}
- name: plain
  clientid: c
  secret: s
  url: https://plain.example.org/
  credclaim: sub
  kerbservice: other
  roles: [{name: default}]
- {name: half}
kerberos:
- {name: lab, policydomain: '@lab.example'}
- {name: other}
ssh: {self-registration: disallowed, cross_issuer: true}
ratelimits: [{name: all, path: /secret/oauth/, rate: 5, interval: 1m, block_interval: 2m, per: user}]
cluster: {name: tokens.lab.example}
gridkeep:
  public_url: https://front.lab.example
  other_urls: ['https://former.lab.example:8200/']
  keep_removed: 48h
  keep_alive: {limit: 2160h}
  tokens: {default_ttl: 72h, max_ttl: 48h}
  operators: [{issuer: dune, claim: groups, value: admins}]
  robots: [{issuer: dune, claim: groups, value: /prod, account: dunepro}]
  ssh: {authorized_keys: /etc/keys, rsa_sha1: false}
  telemetry: {metrics: {refresh_token_life: 100h}}
";

#[tokio::test]
async fn every_key_comes_to_where_it_is_used() {
    let (config, _at) = config(FULL);
    let mut issuers = Issuers::default();
    let setup = setup(&config, &mut issuers);
    let hours = |hours: u64| Seconds(hours * 3600);

    assert_eq!(setup.public_url, "https://front.lab.example");
    assert_eq!(setup.other_urls, ["https://former.lab.example:8200"]);
    assert_eq!(setup.keep_removed, Some(hours(48)));
    assert_eq!(
        (setup.keep_alive.limit, setup.keep_alive.issuer_keeps),
        (hours(2160), hours(100))
    );
    assert_eq!(
        setup.lifetimes,
        Lifetimes {
            default_ttl: hours(48),
            max_ttl: hours(48)
        }
    );
    let ssh = setup.ssh.as_ref().unwrap();
    assert!(ssh.cross_issuer && !ssh.rsa_sha1 && !setup.self_registration);
    assert_eq!(ssh.authorized_keys.as_deref(), Some(Path::new("/etc/keys")));
    assert_eq!(
        ssh.domains.get("dune").map(String::as_str),
        Some("@lab.example")
    );
    let kerberos = |issuer: &str| setup.kerberos[issuer].policy_domain.as_deref();
    assert_eq!(
        (kerberos("dune"), kerberos("plain")),
        (Some("@lab.example"), None)
    );
    let rule = &setup.operators[0];
    assert_eq!(
        (&*rule.issuer, &*rule.claim, &*rule.value),
        ("dune", "groups", "admins")
    );
    let rule = &setup.robots[0];
    assert_eq!(
        (&*rule.value, rule.account.as_deref()),
        ("/prod", Some("dunepro"))
    );
    let limit = &setup.rate_limits[0];
    assert_eq!(
        (&*limit.name, &*limit.path, limit.rate, limit.per),
        ("all", "secret/oauth", 5, CountedBy::User)
    );
    assert_eq!(
        (limit.interval, limit.block_interval),
        (Duration::from_secs(60), Duration::from_secs(120))
    );
    assert!(setup.left_out.issuers.contains("half"));

    let names: Vec<&str> = setup.issuers.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["dune", "plain"]);
    let issuer = &setup.issuers[0];
    assert_eq!(issuer.callback_mode, CallbackMode::NoConfirm);
    assert_eq!(issuer.credclaim, "/realm/user");
    assert!(issuer.credclaim_pointer && issuer.reauth_on_scope_change);
    assert_eq!(issuer.refresh_token_life, Some(hours(240)));
    let [default, production] = &issuer.roles[..] else {
        panic!("{:?}", issuer.roles)
    };
    assert_eq!(default.scopes, ["openid", "wlcg", "offline_access"]);
    assert_eq!(production.credclaim.as_deref(), Some("/other"));
    let terms = &default.terms;
    assert_eq!(
        (terms.ttl, terms.max_ttl, terms.period),
        (Some(hours(2)), Some(hours(3)), None)
    );
    let terms = &production.terms;
    assert_eq!(
        (terms.ttl, terms.max_ttl, terms.period),
        (Some(hours(1)), Some(hours(4)), Some(Seconds(1800)))
    );
    assert_eq!(terms.bound_cidrs, ["198.51.100.7/32".parse().unwrap()]);
    let claims: Vec<&ClaimName> = terms.bound_claims.iter().map(|c| &c.claim).collect();
    assert_eq!(
        claims,
        [&ClaimName::parse("groups"), &ClaimName::parse("/roles")]
    );

    let made = &issuers.clients["dune"].made_from;
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        made.parameters,
        [pair("prompt", "consent"), pair("resource", "https://x")]
    );
    assert_eq!(made.connect_timeout, Some(Duration::from_secs(5)));
    assert_eq!(made.request_timeout, Some(Duration::from_secs(45)));
    assert_eq!(made.requests_per_second, Some(2.5_f64.to_bits()));
    issuers.stop();
}

#[tokio::test]
async fn a_client_authenticates_as_the_files_say() {
    let entry = |rest: &str| {
        format!(
            "issuers: [{{name: dune, clientid: c, url: 'https://iam.example.org/', credclaim: sub, roles: [{{name: default}}], {rest}}}]"
        )
    };
    type Is = fn(&ClientAuth) -> bool;
    let ways: [(&str, Is); 5] = [
        (
            "secret: s",
            |auth| matches!(auth, ClientAuth::Auto { secret } if secret.expose_secret() == "s"),
        ),
        ("secret: s, client_auth: client_secret_basic", |auth| {
            matches!(auth, ClientAuth::Basic { .. })
        }),
        (
            "secret: s, client_auth: client_secret_post",
            |auth| matches!(auth, ClientAuth::Post { secret } if secret.expose_secret() == "s"),
        ),
        (
            "client_auth: private_key_jwt, private_key: AT/client.pem",
            |auth| matches!(auth, ClientAuth::PrivateKeyJwt { .. }),
        ),
        ("public_client: true", |auth| {
            matches!(auth, ClientAuth::Public)
        }),
    ];
    for (rest, is) in ways {
        let (config, _at) = config(&entry(rest));
        let issuer = &config.issuers[0];
        let made_from = MadeFrom::read(issuer, false).unwrap();
        assert!(is(&auth(issuer, &made_from).unwrap()), "{rest}");
    }
}

#[tokio::test]
async fn a_client_lives_until_something_of_it_changes() {
    let (base, at) = config(FULL);
    let mut issuers = Issuers::default();
    setup(&base, &mut issuers);
    let client = |issuers: &Issuers| issuers.clients["dune"].client.clone();
    let first = client(&issuers);
    setup(&base, &mut issuers);
    assert!(Arc::ptr_eq(&first, &client(&issuers)));
    let mut last = first;
    for (from, to) in [
        ("secret: s", "secret: t"),
        ("prompt: consent", "prompt: login"),
        ("request_timeout: 45", "request_timeout: 46"),
        ("per_second: 2.5", "per_second: 3"),
    ] {
        let (changed, _at) = config(&FULL.replacen(from, to, 1));
        setup(&changed, &mut issuers);
        assert!(!Arc::ptr_eq(&last, &client(&issuers)), "{to}");
        last = client(&issuers);
    }
    drop(at);
    let (without, _at) = config("cluster: {name: tokens.lab.example}");
    issuers.forget_unused(&without);
    assert!(issuers.clients.is_empty());
}

#[tokio::test]
async fn an_issuer_whose_key_is_unusable_keeps_its_place() {
    let (config, at) = config(
        "issuers: [{name: dune, clientid: c, client_auth: private_key_jwt, private_key: AT/client.pem, url: 'https://iam.example.org/', credclaim: sub, roles: [{name: default}]}]",
    );
    std::fs::write(at.path().join("client.pem"), "garbage").unwrap();
    let mut issuers = Issuers::default();
    let setup = setup(&config, &mut issuers);
    assert_eq!(setup.issuers[0].name, "dune");
    assert!(issuers.clients.is_empty());
    assert!(setup.issuers[0].client.metadata().await.is_err());
}
