//! What is shown as being in effect, its digest, and what is said of changes.

use super::*;
use crate::config::diff::Change;
use crate::config::{Impact, commands, diff, digest, show_effective};

const BASE: &str = "
issuers:
- name: default
  clientid: c
  secret: 0ne-canary
  url: https://iam.example.org/
  callbackmode: device
  credclaim: sub
  roles:
  - {name: default, scopes: [wlcg, profile]}
  - {name: production, scopes: [wlcg]}
kerberos: [{name: lab, policydomain: '@lab.example'}, {name: other}]
ssh: {self-registration: allowed}
ratelimits: [{name: all, rate: 5}]
cluster: {name: tokens.lab.example, master: gk1.lab.example, peer1: gk2.lab.example, auditlog: /var/log/a}
gridkeep:
  data: /srv/data
  operators: [{issuer: default, claim: groups, value: admins}]
";

fn changes(from: &str, to: &str) -> Vec<Change> {
    let text = BASE.replace(from, to);
    assert_ne!(text, BASE, "{from}");
    let new = loaded(&[&text]);
    let new = new.config.unwrap_or_else(|| panic!("{:?}", new.findings));
    diff(&loaded(&[BASE]).config.unwrap(), &new)
}

#[test]
fn each_change_names_its_effect() {
    use Impact::{AccessEnds, FromNowOn, LoginAgain, NextLogin, Restart, Unnoticed};
    for (from, to, impact, key, part) in [
        (
            "org/",
            "org",
            LoginAgain,
            "issuers[default].url",
            "never sent to another address",
        ),
        (
            "clientid: c",
            "clientid: d",
            LoginAgain,
            "issuers[default].clientid",
            "has to log in again",
        ),
        (
            "secret: 0ne-canary",
            "secret: two",
            Unnoticed,
            "issuers[default].secret",
            "credentials go on",
        ),
        (
            "secret: 0ne-canary",
            "public_client: true",
            Unnoticed,
            "issuers[default].client_auth",
            "none, a public client",
        ),
        (
            "device",
            "direct",
            NextLogin,
            "issuers[default].callbackmode",
            "https://tokens.lab.example:8200/v1/auth/oidc-default/oidc/callback has to be registered",
        ),
        (
            "credclaim: sub",
            "credclaim: eppn",
            LoginAgain,
            "issuers[default].roles[production].credclaim",
            "from `sub` to `eppn`",
        ),
        (
            "profile]",
            "email]",
            NextLogin,
            "issuers[default].roles[default].scopes",
            "added: `email`; no longer asked for: `profile`",
        ),
        (
            "- name: default\n",
            "- name: default\n  reauth_on_scope_change: true\n",
            LoginAgain,
            "issuers[default].reauth_on_scope_change",
            "switched on",
        ),
        (
            "  - {name: production, scopes: [wlcg]}\n",
            "",
            AccessEnds,
            "issuers[default].roles[production]",
            "kept for 7 days",
        ),
        (
            "name: production",
            "name: second",
            FromNowOn,
            "issuers[default].roles[second]",
            "asks for `openid wlcg`",
        ),
        (
            "roles:",
            "kerbservice: other\n  roles:",
            FromNowOn,
            "issuers[default].kerbservice",
            "from `lab` to `other`",
        ),
        (
            "'@lab.example'",
            "'@b'",
            AccessEnds,
            "kerberos[lab].policydomain",
            "from `@lab.example` to `@b`",
        ),
        (
            ", {name: other}",
            "",
            AccessEnds,
            "kerberos[other]",
            "removed",
        ),
        (
            "ssh: {self-registration: allowed}\n",
            "",
            AccessEnds,
            "ssh",
            "kept, without effect, for 7 days",
        ),
        (
            "registration: allowed",
            "registration: disallowed",
            FromNowOn,
            "ssh.self-registration",
            "no longer register",
        ),
        (
            "gridkeep:\n",
            "gridkeep:\n  ssh: {rsa_sha1: false}\n",
            AccessEnds,
            "gridkeep.ssh.rsa_sha1",
            "no longer",
        ),
        (
            "gridkeep:\n",
            "gridkeep:\n  ssh: {authorized_keys: /etc/keys}\n",
            FromNowOn,
            "gridkeep.ssh.authorized_keys",
            "are read from /etc/keys. Whoever's key stands there can log in with it.",
        ),
        (
            "rate: 5",
            "rate: 6",
            FromNowOn,
            "ratelimits[all]",
            "6 requests per address in 1s for everything",
        ),
        (
            "credclaim: sub",
            "credclaim: sub\n  token_ttl: 1h",
            NextLogin,
            "issuers[default].roles[default].token_ttl",
            "tokens made before keep their life",
        ),
        (
            "{name: production,",
            "{name: production, token_bound_cidrs: 192.0.2.0/24,",
            NextLogin,
            "issuers[default].roles[production].token_bound_cidrs",
            "may be used from",
        ),
        (
            "{name: production,",
            "{name: production, bound_claims: {groups: x},",
            NextLogin,
            "issuers[default].roles[production].bound_claims",
            "logins made before go on",
        ),
        (
            "credclaim: sub",
            "credclaim: sub\n  request_timeout: 5",
            Unnoticed,
            "issuers[default].request_timeout",
            "how patiently",
        ),
        (
            "  data: /srv/data",
            "  public_url: https://front.example.org",
            NextLogin,
            "gridkeep.public_url",
            "to https://front.example.org",
        ),
        (
            "  data:",
            "  other_urls: ['https://old.lab.example:8200']\n  data:",
            NextLogin,
            "gridkeep.other_urls",
            "https://old.lab.example:8200",
        ),
        (
            "  data:",
            "  trusted_proxies: [192.0.2.1]\n  data:",
            FromNowOn,
            "gridkeep.trusted_proxies",
            "192.0.2.1/32",
        ),
        (
            "  data:",
            "  tokens: {max_ttl: 1h}\n  data:",
            NextLogin,
            "gridkeep.tokens",
            "when they are renewed",
        ),
        (
            "  data:",
            "  keep_removed: 1h\n  data:",
            FromNowOn,
            "gridkeep.keep_removed",
            "deleted after the new time",
        ),
        (
            "  data:",
            "  keep_alive: {limit: 2160h}\n  data:",
            FromNowOn,
            "gridkeep.keep_alive.limit",
            "refreshed no longer",
        ),
        (
            "ssh: {self-registration: allowed}\nratelimits: [{name: all, rate: 5}]\n",
            "gridkeep: {keep_removed: 48h}\n",
            AccessEnds,
            "ssh",
            "kept, without effect, for 7 days",
        ),
        (
            "/var/log/a",
            "none",
            Restart,
            "cluster.auditlog",
            "from `/var/log/a` to none",
        ),
        (
            "peer1: gk2",
            "peer1: gk3",
            Unnoticed,
            "cluster",
            "added: gk3.lab.example; removed: gk2.lab.example",
        ),
        (
            "name: tokens",
            "name: keys",
            NextLogin,
            "cluster.name",
            "from `tokens.lab.example` to `keys.lab.example`",
        ),
        (
            "data: /srv/data",
            "data: /srv/other",
            Restart,
            "gridkeep.data",
            "knows no login",
        ),
        (
            "data: /srv/data",
            "data: /srv/data\n  seal: {shamir: true}",
            Restart,
            "gridkeep.seal.shamir",
            "from no to yes",
        ),
        (
            "peer1: gk2",
            "myname: gk9.lab.example, peer1: gk2",
            Restart,
            "cluster.myname",
            "to `gk9.lab.example`",
        ),
        (
            "data: /srv/data",
            "data: /srv/data\n  advertise: gk1.lab.example:8201",
            Restart,
            "gridkeep.advertise",
            "to gk1.lab.example:8201",
        ),
        (
            "data: /srv/data",
            "data: /srv/data\n  telemetry: {metrics: {listen: ['127.0.0.1:9465']}}",
            Restart,
            "gridkeep.telemetry.metrics.listen[0]",
            "127.0.0.1:9465",
        ),
        (
            "data: /srv/data",
            "listen: ['127.0.0.1:1']",
            Restart,
            "gridkeep.listen",
            "to 127.0.0.1:1",
        ),
        (
            "admins",
            "staff",
            AccessEnds,
            "gridkeep.operators",
            "groups = admins are no longer operators",
        ),
        (
            "admins",
            "staff",
            FromNowOn,
            "gridkeep.operators",
            "groups = staff become operators",
        ),
    ] {
        let changes = changes(from, to);
        let found = changes
            .iter()
            .any(|c| c.impact == impact && c.key == key && c.to_string().contains(part));
        assert!(found, "{from} -> {to}: {changes:#?}");
        assert!(
            changes
                .iter()
                .all(|change| !change.to_string().contains("0ne-canary")),
            "a secret shows: {changes:?}"
        );
    }
}

#[test]
fn issuers_that_come_go_or_are_renamed() {
    let other = ISSUER.replace("name: default\n  clientid", "name: other\n  clientid");
    let (one, two) = (
        loaded(&[ISSUER]).config.unwrap(),
        loaded(&[ISSUER, &other]).config.unwrap(),
    );
    let added = diff(&one, &two);
    assert_eq!(
        (added.len(), added[0].impact, added[0].key.as_str()),
        (1, Impact::FromNowOn, "issuers[other]")
    );
    let removed = diff(&two, &one);
    assert_eq!((removed.len(), removed[0].impact), (1, Impact::AccessEnds));
    assert!(
        removed[0].affected.contains("loses access at once")
            && removed[0].affected.contains("7 days")
    );
    let renamed = diff(&one, &loaded(&[&other]).config.unwrap());
    assert!(
        renamed[0]
            .what
            .contains("`other` at the same URL looks like its new name"),
        "{renamed:?}"
    );
}

#[test]
fn moving_values_between_files_changes_nothing() {
    let split = BASE.replace("  secret: 0ne-canary\n", "");
    let one = loaded(&[BASE]).config.unwrap();
    let two = loaded(&["", &split, "issuers: [{name: default, secret: 0ne-canary}]"])
        .config
        .unwrap();
    assert!(diff(&one, &two).is_empty());
    assert_eq!(digest(&one), digest(&two));
}

#[test]
fn the_digest_covers_what_nodes_share_and_only_that() {
    let of = |text: &str| digest(&loaded(&[text]).config.unwrap());
    let base = of(BASE);
    for (from, to) in [
        ("peer1: gk2", "peer1: gk3"),
        ("data: /srv/data", "data: /x"),
        ("data: /srv/data", "listen: ['[::1]:1']"),
        ("\nssh", "\n# comment\nssh"),
    ] {
        assert_eq!(of(&BASE.replace(from, to)), base, "{from} -> {to}");
    }
    for (from, to) in [
        ("secret: 0ne-canary", "secret: two"),
        ("name: tokens", "name: keys"),
        ("/var/log/a", "none"),
        ("admins", "staff"),
        ("rate: 5", "rate: 6"),
        ("profile", "email"),
        ("{name: production,", "{name: production, token_ttl: 5,"),
        (
            "{name: production,",
            "{name: production, bound_claims: {a: b},",
        ),
        ("operators:", "tokens: {max_ttl: 5}\n  operators:"),
        ("operators:", "public_url: https://x.example\n  operators:"),
        ("operators:", "keep_alive: {limit: 90}\n  operators:"),
    ] {
        assert_ne!(of(&BASE.replace(from, to)), base, "{from} -> {to}");
    }
    assert_eq!(base.to_string().len(), 64);
}

#[test]
fn what_is_in_effect_is_shown_with_places_and_without_secrets() {
    let shown = show_effective(&loaded(&[BASE]).config.unwrap());
    for line in [
        "# Service name tokens.lab.example (/etc/htvault-config/config.d/0.yaml:15), address https://tokens.lab.example:8200",
        "  - name: default  # /etc/htvault-config/config.d/0.yaml:3",
        "    secret: \"********\"  # /etc/htvault-config/config.d/0.yaml:5",
        "          - wlcg  # /etc/htvault-config/config.d/0.yaml:10",
        "    policydomain: \"@lab.example\"  # /etc/htvault-config/config.d/0.yaml:12",
        "    - \"[::]:8200\"  # built-in default",
        "  # tokens.default_ttl: 2419200s  # built-in default",
        "  # tokens.max_ttl: 2419200s  # built-in default",
        "  # keep_removed: 604800s  # built-in default",
        "  # keep_alive.limit: 15552000s  # built-in default",
        "  trusted_proxies: []",
        "  # seal.key_file: the systemd credential gridkeep-root-key, else gridkeep-root.key above config.d  # built-in default",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
    }
    assert!(!shown.contains("0ne-canary"));
}

#[test]
fn the_commands_say_what_they_found_and_return_it() {
    let text = |out: Vec<u8>| String::from_utf8(out).unwrap();
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    let faulty = loaded(&[BASE, "issuers: [{name: x}]\ntypo: 1\n"]);
    assert_eq!(
        commands::check(&faulty, false, &mut out).unwrap(),
        commands::FAULTY
    );
    let checked = text(std::mem::take(&mut out));
    assert!(checked.contains("1.yaml:1:11: error: issuers[x].url: The key `url` is missing. This issuer is not served."), "{checked}");
    assert!(
        checked.contains("2 files, 1 issuer with 2 roles. 5 errors, 2 warnings."),
        "{checked}"
    );
    assert!(checked.find("error:").unwrap() < checked.find("warning:").unwrap());

    let old = loaded(&[BASE]).config.unwrap();
    let told = BASE.replace("  - {name: production, scopes: [wlcg]}\n", "");
    let people = |change: &Change| change.meets().map(|met| format!("{met:?}"));
    commands::show_diff(&old, &loaded(&[&told]), &people, &mut out, &mut notes).unwrap();
    let said = text(std::mem::take(&mut out));
    assert!(
        said.contains("\n    (\"default\", Some(\"production\"))\n"),
        "{said}"
    );
    let new = loaded(&[&BASE.replace("org/", "org")]);
    assert_eq!(
        commands::show_diff(&old, &new, &|_| None, &mut out, &mut notes).unwrap(),
        commands::OK
    );
    let said = text(std::mem::take(&mut out));
    assert!(
        said.starts_with("[login again] issuers[default].url: It changes from")
            && said.contains("1 change; one of them"),
        "{said}"
    );
    let new = loaded(&[&BASE.replace("tokens.lab.example", "keys.lab.example")]);
    commands::show_diff(&old, &new, &|_| None, &mut out, &mut notes).unwrap();
    let said = text(std::mem::take(&mut out));
    assert!(
        said.contains("Clients have to use the new name")
            && said.contains("at once, but 2 of them show at the next login"),
        "{said}"
    );
    assert_eq!(
        commands::show_diff(&old, &loaded(&[BASE]), &|_| None, &mut out, &mut notes).unwrap(),
        commands::OK
    );
    assert_eq!(text(std::mem::take(&mut out)), "Nothing changes.\n");
    assert!(notes.is_empty());
    assert_eq!(
        commands::show_diff(&old, &loaded(&["a: ["]), &|_| None, &mut out, &mut notes).unwrap(),
        commands::UNUSABLE
    );
    assert!(text(notes).contains("fatal"));
}

#[test]
fn what_an_error_leaves_out_is_not_called_removed() {
    let old = loaded(&[BASE]).config.unwrap();
    let tests = [
        ("url: https", "url: http", "issuers[default]"),
        ("- name: default\n", "- nmae: default\n", "issuers[default]"),
        (
            "{name: production,",
            "{name: production, token_ttl: soon,",
            "issuers[default].roles[production]",
        ),
        (
            "{name: production,",
            "{nmae: production,",
            "issuers[default].roles[production]",
        ),
        (
            "{name: other}",
            "{name: other, realms: ['a b']}",
            "kerberos[other]",
        ),
        ("self-registration", "self_registration", "ssh"),
        (
            "credclaim: sub",
            "credclaim: sub\n  kerbservice: lap",
            "issuers[default].kerbservice",
        ),
    ];
    for (from, to, key) in tests {
        let new = loaded(&[&BASE.replace(from, to)]).config.unwrap();
        let changes = diff(&old, &new);
        let found = changes
            .iter()
            .find(|change| change.key == key)
            .unwrap_or_else(|| panic!("{to}: {changes:?}"));
        assert!(
            found.affected.contains("A reload is refused") && !found.what.contains("removed"),
            "{to}: {found}"
        );
        assert_eq!(found.impact, Impact::AccessEnds, "{to}");
    }
}
