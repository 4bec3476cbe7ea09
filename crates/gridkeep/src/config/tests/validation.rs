//! Each file of `testdata/config/validation` says on its lines which findings it has to give, and gives no others.

use super::*;
use crate::config::commands;

#[test]
fn every_announced_finding_is_given_and_no_other() {
    let mut files = 0;
    for entry in std::fs::read_dir(crate_directory("testdata/config/validation")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let loaded = loaded(&[&text]);
        let mut given: Vec<&Finding> = at_least(&loaded, Severity::Warning);
        for (number, line) in (1_u32..).zip(text.lines()) {
            for announced in line.split("#~").skip(1).filter(|_| !line.starts_with('#')) {
                let (head, part) = announced.split_once('|').unwrap();
                let (severity, key) = head.trim().split_once(' ').unwrap();
                let found = given.iter().position(|finding| {
                    finding.origin.line() == number
                        && finding.severity.to_string() == severity
                        && finding.key == key.trim()
                        && finding.to_string().contains(part.trim())
                });
                let Some(found) = found else {
                    let here: Vec<String> = given.iter().map(ToString::to_string).collect();
                    panic!(
                        "{}:{number}: not found: {announced}\n{}",
                        path.display(),
                        here.join("\n")
                    );
                };
                given.remove(found);
            }
        }
        let unannounced: Vec<String> = given.iter().map(ToString::to_string).collect();
        assert!(
            unannounced.is_empty(),
            "{}:\n{}",
            path.display(),
            unannounced.join("\n")
        );
        assert!(
            loaded.config.is_some(),
            "faulty items are left out, the rest is used"
        );
        files += 1;
    }
    assert!(files >= 4);
}

#[test]
fn faulty_items_are_left_out_and_only_they() {
    let load = |name: &str| {
        let text =
            std::fs::read_to_string(crate_directory("testdata/config/validation").join(name))
                .unwrap();
        loaded(&[&text]).config.unwrap()
    };
    let names = |config: &crate::config::Config| {
        config
            .issuers
            .iter()
            .map(|i| i.name.value.clone())
            .collect::<Vec<_>>()
    };

    let config = load("issuers.yaml");
    assert_eq!(
        names(&config),
        ["good", "on", "noconfirm", "kerb", "with_underscore"]
    );
    assert_eq!(
        config.issuers[0].clientid.value, "0123",
        "numbers keep their source text"
    );
    assert_eq!(
        config.issuers[0].roles[0].requested_scopes(),
        ["openid", "profile", "offline_access", "wlcg"]
    );
    assert!(
        config
            .kerberos_service(config.issuer("kerb").unwrap())
            .is_none(),
        "a wrong name does not mean the first service"
    );

    let config = load("roles.yaml");
    assert_eq!(names(&config), ["default", "none", "a_b"]);
    let roles: Vec<&str> = config.issuers[0]
        .roles
        .iter()
        .map(|role| role.name.value.as_str())
        .collect();
    assert_eq!(roles, ["default", "twice", "reinterpreted", "dated"]);
    assert_eq!(
        config.issuers[0].roles[0].requested_scopes(),
        [
            "openid",
            "storage.read:",
            "storage.create:",
            "storage.read:/"
        ]
    );
    assert_eq!(config.issuers[2].roles.len(), 1);

    let config = load("extensions.yaml");
    assert_eq!(
        names(&config),
        ["default", "both", "key"]
            .into_iter()
            .filter(|n| *n != "both")
            .collect::<Vec<_>>()
    );
    assert!(
        config.issuers[0].public_client.value && config.issuers[0].reauth_on_scope_change.value
    );
    assert_eq!(config.issuers[0].authorization_params[0].1.value, "consent");
    assert_eq!(
        config.issuers[0].credclaim_of(&config.issuers[0].roles[0]),
        "wlcg.credkey"
    );
    assert_eq!(
        config.issuers[1].private_key.as_ref().unwrap().value,
        Path::new("/etc/htvault-config/config.d/keys/key.pem")
    );
    assert_eq!(config.gridkeep.operators.len(), 1);
    assert_eq!(config.service_url(), "https://node.lab.example:9200");
    assert_eq!(config.gridkeep.listen[0].value.to_string(), "127.0.0.1:0");

    let config = load("terms.yaml");
    let roles: Vec<&str> = config.issuers[0]
        .roles
        .iter()
        .map(|role| role.name.value.as_str())
        .collect();
    assert_eq!(names(&config), ["default"]);
    assert_eq!(
        roles,
        ["default", "production", "long"],
        "a role whose terms are faulty is left out: without them it would be open"
    );
    assert_eq!(config.service_url(), "https://tokens.example.org");

    let config = load("names.yaml");
    assert_eq!(names(&config), ["default", "a", "A_B"]);
    assert!(config.issuers.iter().all(|issuer| issuer.roles.len() == 1));

    let config = load("closing.yaml");
    assert_eq!(names(&config), ["default", "roles"]);
    assert_eq!(config.issuers[1].roles.len(), 1);
    assert_eq!(config.kerberos.len(), 1);
    assert!(config.ssh.is_none() && config.left_out.ssh);

    let config = load("original_extras.yaml");
    assert_eq!((config.issuers.len(), config.kerberos.len()), (1, 1));
    assert!(!config.left_out.any_issuer && config.faults.is_empty());

    let config = load("sections.yaml");
    assert_eq!(config.kerberos.len(), 1);
    assert!(
        config.ssh.is_none(),
        "`yes` is refused, not taken for an answer"
    );
    let limits: Vec<(&str, u64, f64)> = config
        .ratelimits
        .iter()
        .map(|l| {
            (
                l.name.value.as_str(),
                l.rate.value,
                l.interval.value.as_secs_f64(),
            )
        })
        .collect();
    assert_eq!(
        limits,
        [
            ("all", 360, 300.0),
            ("again", 10, 1.0),
            ("login", 1, 90.0),
            ("never", 5, 1.0),
            ("astray", 5, 1.0),
            ("octal", 12, 90.0)
        ]
    );
    assert!(config.cluster.master.is_none());
    assert_eq!(
        config.audit_log(),
        Some(Path::new("/var/log/htvault-config/auditlog"))
    );
    assert_eq!(config.service_name().value, "tokens");
}

#[test]
fn a_wrong_setting_of_our_own_refuses_everything() {
    for (wrong, expected) in [
        (
            "gridkeep: {listen: [[::]:8200]}",
            "in quotes if a text is meant",
        ),
        (
            "gridkeep: {listen: ['localhost']}",
            "not an address with port",
        ),
        ("gridkeep: {listen: []}", "No address"),
        (
            "gridkeep: {listen: ['127.0.0.1:82000', '127.0.0.1:1']}",
            "not an address with port",
        ),
        ("gridkeep: {tls: {certificate: /c.pem}}", "given together"),
        ("gridkeep: {data: [x]}", "a list"),
        (
            "gridkeep: {compat: {shell_unescape: often}}",
            "neither true nor false",
        ),
        ("gridkeep: {callback_port: 0}", "not a port"),
        ("gridkeep: {callback_port: 65536.5}", "not a port"),
        (
            "gridkeep: {trusted_proxies: [front.example.org]}",
            "not an address or a network",
        ),
        (
            "gridkeep: {public_url: tokens.example.org}",
            "not an address of",
        ),
        (
            "gridkeep: {public_url: 'http://x.example'}",
            "not an address of",
        ),
        (
            "gridkeep: {other_urls: ['https://x.example/v1']}",
            "not an address of",
        ),
        (
            "gridkeep: {public_url: 'https://u:p@x.example'}",
            "not an address of",
        ),
        ("gridkeep: {tokens: {max_ttl: 0}}", "less than a second"),
        ("gridkeep: {keep_removed: x}", "not a duration"),
        (
            "gridkeep: {keep_removed: 7 days}",
            "numbers with d, h, m or s such as 7d",
        ),
        ("gridkeep: yes", "a mapping is wanted"),
        ("gridkeep: {lisen: '[::1]:1'}", "Did you mean `listen`?"),
        ("gridkeep: {token: {max_ttl: 1h}}", "Did you mean `tokens`?"),
        (
            "gridkeep: {tokens: {maxttl: 1h}}",
            "Did you mean `max_ttl`?",
        ),
        (
            "gridkeep: {audit: {onfailure: refuse}}",
            "Did you mean `on_failure`?",
        ),
        ("gridkep: {}", "Did you mean `gridkeep`?"),
        (
            "gridkeep: {public_url: 'https://x.example/v1'}",
            "it has a path",
        ),
        (
            "gridkeep: {other_urls: ['https://x.example/?a=b']}",
            "it has a query",
        ),
        ("gridkeep: {keep_alive: {limit: 0}}", "less than a second"),
        ("gridkeep: {keep_alive: 90}", "a mapping is wanted"),
        ("gridkeep: {seal: key}", "a mapping is wanted"),
    ] {
        let loaded = loaded(&[ISSUER, wrong]);
        assert!(loaded.config.is_none(), "{wrong}");
        let fatal = at_least(&loaded, Severity::Fatal);
        assert!(
            fatal.iter().any(|f| f.to_string().contains(expected)),
            "{wrong}: {fatal:?}"
        );
    }
}

#[test]
fn without_our_key_the_defaults_of_the_original_hold() {
    let config = loaded(&[ISSUER]).config.unwrap();
    let own = &config.gridkeep;
    assert_eq!(
        own.certificate.value,
        Path::new("/etc/htvault-config/hostcert.pem")
    );
    assert_eq!(own.key.value, Path::new("/etc/htvault-config/hostkey.pem"));
    assert_eq!(own.listen[0].value.to_string(), "[::]:8200");
    assert_eq!(own.data.value, Path::new("/var/lib/gridkeep"));
    assert_eq!(own.run_directory.value, Path::new("/run/gridkeep"));
    assert!(own.seal_key_file.is_none() && own.operators.is_empty() && !own.shell_unescape.value);
    assert_eq!(
        config.audit_log(),
        Some(Path::new("/var/log/htvault-config/auditlog"))
    );
    assert_eq!(config.service_name().value, "node.lab.example");
    assert_eq!(
        config.callback_url(&config.issuers[0]),
        "https://node.lab.example:8200/v1/auth/oidc-default/oidc/callback"
    );
    assert_eq!(
        loaded(&["cluster: {myname: gk1.lab.example}"])
            .config
            .unwrap()
            .service_name()
            .value,
        "gk1.lab.example"
    );
}

#[test]
fn strictness_refuses_warnings_but_not_notes() {
    let clean = loaded(&[
        "kerberos: [{name: lab}]\nssh: {self-registration: disallowed}\ngridkeep: {store: {etcd: {endpoints: ['http://127.0.0.1:2379']}}}\n",
    ]);
    assert!(
        clean
            .findings
            .iter()
            .all(|finding| finding.severity == Severity::Info),
        "{:?}",
        clean.findings
    );
    assert_eq!(clean.findings.len(), 1, "its issuers are in the store");
    assert!(clean.is_acceptable(true));
    assert_eq!(commands::exit_code(&clean, true), commands::OK);

    let warned = loaded(&[ISSUER, "typo: x"]);
    assert!(warned.is_acceptable(false) && !warned.is_acceptable(true));
    assert_eq!(
        (
            commands::exit_code(&warned, false),
            commands::exit_code(&warned, true)
        ),
        (commands::OK, commands::FAULTY)
    );

    let faulty = loaded(&[ISSUER, "issuers: [{name: other}]"]);
    assert!(faulty.is_acceptable(false) && !faulty.is_acceptable(true));
    assert!(!faulty.is_faultless() && warned.is_faultless());
    assert_eq!(commands::exit_code(&faulty, false), commands::FAULTY);

    let broken = loaded(&[ISSUER, "a: [b"]);
    assert!(!broken.is_acceptable(false));
    assert_eq!(commands::exit_code(&broken, false), commands::UNUSABLE);
}

#[test]
fn shell_escapes_are_removed_where_that_is_asked_for() {
    use secrecy::ExposeSecret;
    let text = ISSUER.replace("s3cr3t-canary", r#"'a\$b\\c'"#).replace(
        "name: default\n  clientid: c",
        "name: default\n  clientid: 'c\\`d'",
    );
    let secret = |texts: &[&str]| {
        let config = loaded(texts).config.unwrap();
        (
            config.issuers[0]
                .secret
                .as_ref()
                .unwrap()
                .value
                .expose_secret()
                .to_owned(),
            config.issuers[0].clientid.value.clone(),
        )
    };
    assert_eq!(
        secret(&[&text]),
        (r"a\$b\\c".to_owned(), r"c\`d".to_owned())
    );
    let switched_on = [text.as_str(), "gridkeep: {compat: {shell_unescape: true}}"];
    assert_eq!(
        secret(&switched_on),
        (r"a$b\c".to_owned(), "c`d".to_owned())
    );
    assert!(at_least(&loaded(&switched_on), Severity::Warning).is_empty());
}

#[test]
fn no_secret_is_in_findings_debug_texts_or_output() {
    let canary = "s3cr3t-canary";
    let texts = [
        ISSUER.to_owned(),
        format!(
            "issuers: [{{name: x, secret: [{canary}]}}, {{name: y, secret: '{canary}\\$'}}, {{name: z, secret: {{{canary}: x}}}}, {{name: w, url: 'http://u:{canary}@h'}}, {{name: v, url: 'u:{canary}@h'}}]"
        ),
    ];
    let loaded = loaded(&[&texts[0], &texts[1]]);
    let mut out = Vec::new();
    commands::check(&loaded, true, &mut out).unwrap();
    let mut notes = Vec::new();
    commands::show(&loaded, &mut out, &mut notes).unwrap();
    out.extend(notes);
    let all = format!(
        "{}{loaded:?}{:?}",
        String::from_utf8(out).unwrap(),
        loaded.sources
    );
    assert!(all.contains("********"));
    assert!(!all.contains(canary), "{all}");
    assert!(texts[0].contains(canary), "the canary was there");
}

#[test]
fn a_role_has_its_own_terms_before_those_of_its_issuer_and_the_claims_of_both() {
    let text =
        std::fs::read_to_string(crate_directory("testdata/config/validation/terms.yaml")).unwrap();
    let config = loaded(&[&text]).config.unwrap();
    let issuer = &config.issuers[0];
    let terms =
        |role: usize| crate::config::terms_of_role(&issuer.terms, &issuer.roles[role].terms);
    let general = terms(0);
    assert_eq!(general.ttl.map(|ttl| ttl.0), Some(12 * 3600));
    assert_eq!((general.period, general.max_ttl), (None, None));
    let networks = |terms: &gridkeep_keeper::LoginTerms| -> Vec<String> {
        terms.bound_cidrs.iter().map(ToString::to_string).collect()
    };
    assert_eq!(networks(&general), ["192.0.2.0/24", "2001:db8::/32"]);
    let own = terms(1);
    assert_eq!(own.ttl.map(|ttl| ttl.0), Some(3600));
    assert_eq!(own.period.map(|period| period.0), Some(24 * 3600));
    assert_eq!(networks(&own), ["198.51.100.7/32"]);
    let claims: Vec<(&str, Vec<&str>)> = own
        .bound_claims
        .iter()
        .map(|bound| {
            let values = bound.values.iter().map(String::as_str).collect();
            (bound.claim.as_str(), values)
        })
        .collect();
    assert_eq!(
        claims,
        [
            ("groups", vec!["/lab"]),
            ("/realm/roles", vec!["submitter", "operator"]),
            ("verified", vec!["true"])
        ]
    );
}

#[test]
fn what_is_wrong_says_what_to_do() {
    let entry = |rest: &str| {
        format!(
            "issuers: [{{name: other, clientid: c, url: 'https://x.example/', credclaim: sub, roles: [{{name: default}}]{rest}}}]"
        )
    };
    for (wrong, expected) in [
        (
            "kerberos: [{name: lab, policydomain: @x}]",
            "Put the text in quotes",
        ),
        (
            &*entry(""),
            "without one `public_client: true`; for one with a key `client_auth: private_key_jwt` and `private_key`",
        ),
        (
            &*entry(", public_client: true, client_auth: client_secret_post"),
            "take one of the two out",
        ),
        (
            &*entry(", secret: s, authorization_params: {state: x}"),
            "take it out",
        ),
        (
            "issuers: [{name: default, roles: [{name: a}, {name: A}]}]",
            "Rename or delete one",
        ),
    ] {
        let loaded = loaded(&[ISSUER, wrong]);
        let faults = at_least(&loaded, Severity::Error);
        assert!(
            faults.iter().any(|f| f.to_string().contains(expected)),
            "{wrong}: {faults:?}"
        );
    }
    let shown = loaded(&[
        ISSUER,
        "gridkeep: {public_url: 'https://u:s3cret@x.example'}",
    ]);
    let faults = format!("{:?}", at_least(&shown, Severity::Error));
    assert!(
        faults.contains("holds a user name") && !faults.contains("s3cret"),
        "{faults}"
    );
}
