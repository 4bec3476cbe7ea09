//! The complete example of the profile (section 15) with the results it states.

use super::*;
use crate::config::host::tests::keytab;
use crate::config::{CallbackMode, Config, load};
use secrecy::ExposeSecret;
use std::os::unix::fs::PermissionsExt;

fn example() -> Loaded {
    load(&[crate_directory("testdata/config/example")], &nowhere())
}

fn config() -> Config {
    example().config.unwrap()
}

#[test]
fn gives_the_stated_mounts_callback_scopes_and_paths() {
    let config = config();
    let mut mounts = config.mounts();
    mounts.sort();
    let mut expected = [
        "oidc-default/",
        "oidc-helix/",
        "kerberos-default_default/",
        "kerberos-default_production/",
        "kerberos-helix_default/",
        "kerberos-helix_readonly/",
        "ssh/",
        "secret/oauth/",
    ];
    expected.sort_unstable();
    assert_eq!(mounts, expected);

    let (default, helix) = (
        config.issuer("default").unwrap(),
        config.issuer("helix").unwrap(),
    );
    assert_eq!(
        config.callback_url(helix),
        "https://tokens.lab.example:8200/v1/auth/oidc-helix/oidc/callback"
    );
    let production = default.role("production").unwrap();
    assert_eq!(
        production.requested_scopes().join(" "),
        "openid profile offline_access wlcg wlcg.groups:/lab/production storage.modify:/prod eduperson_entitlement"
    );
    assert_eq!(config.kerberos_service(default).unwrap().name.value, "lab");
    assert_eq!(config.kerberos_service(helix).unwrap().name.value, "helix");
    assert_eq!(
        config.kerberos_paths(default, production, "alice"),
        [
            "secret/oauth/creds/default/alice@lab.example:production",
            "secret/oauth/creds/default/alice:production"
        ]
    );
    assert!(default.role("pilot").is_none(), "90-local.yaml deletes it");
}

#[test]
fn gives_the_values_as_written() {
    let config = config();
    let helix = config.issuer("helix").unwrap();
    assert_eq!(helix.callback_mode.value, CallbackMode::NoConfirm);
    assert_eq!(helix.url.value, "https://login.helix.example");
    assert_eq!(helix.credclaim.value, "helix.credkey");
    assert_eq!(
        helix.secret.as_ref().unwrap().value.expose_secret(),
        "9aZ-not-a-real-secret"
    );
    assert_eq!(
        helix.role("default").unwrap().requested_scopes(),
        [
            "openid",
            "profile",
            "org.helix.userinfo",
            "storage.read:",
            "storage.create:"
        ]
    );
    assert_eq!(
        config.issuer("default").unwrap().url.value,
        "https://iam.lab.example/"
    );
    assert_eq!(config.service_name().value, "tokens.lab.example");
    assert_eq!(
        config.audit_log(),
        Some(Path::new("/data/audit/gridkeep.log"))
    );
    assert_eq!(
        config.member_names(),
        [
            "tokens.lab.example",
            "node.lab.example",
            "gk1.lab.example",
            "gk2.lab.example",
            "gk3.lab.example"
        ]
    );
    assert!(config.ssh.as_ref().unwrap().self_registration.value);
    let limits: Vec<(&str, u64, u64, u64)> = config
        .ratelimits
        .iter()
        .map(|l| {
            (
                l.path.value.as_str(),
                l.rate.value,
                l.interval.value.as_secs(),
                l.block_interval.value.as_secs(),
            )
        })
        .collect();
    assert_eq!(
        limits,
        [("", 600, 300, 120), ("auth/oidc-default", 30, 60, 0)]
    );
    let secret = &config
        .issuer("default")
        .unwrap()
        .secret
        .as_ref()
        .unwrap()
        .origin;
    assert!(secret.file().unwrap().ends_with("80-secrets.yaml"));
    assert_eq!(secret.line(), 3);
}

#[test]
fn has_two_warnings() {
    let loaded = example();
    let warnings: Vec<String> = loaded.findings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("applied `noconfirm` to the first role only"));
    let alone = &warnings[1];
    assert!(
        alone.contains("warning: cluster.master: Other nodes are named")
            && alone.contains("a server of its own")
            && alone.contains("Set `gridkeep.store.etcd` on each node"),
        "{alone}"
    );
}

/// The whole `/etc` of such a host: nothing to warn about but the two things above.
#[test]
fn on_a_well_kept_host_nothing_else_is_found() {
    let etc = tempfile::tempdir().unwrap();
    let base = etc.path().join("htvault-config");
    let directory = base.join("config.d");
    std::fs::create_dir_all(&directory).unwrap();
    let write = |path: &Path, bytes: &[u8], mode: u32| {
        std::fs::write(path, bytes).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for file in std::fs::read_dir(crate_directory("testdata/config/example")).unwrap() {
        let file = file.unwrap().path();
        write(
            &directory.join(file.file_name().unwrap()),
            &std::fs::read(&file).unwrap(),
            0o600,
        );
    }
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["tokens.lab.example".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    write(
        &base.join("hostcert.pem"),
        certificate.pem().as_bytes(),
        0o644,
    );
    write(
        &base.join("hostkey.pem"),
        key.serialize_pem().as_bytes(),
        0o400,
    );
    write(
        &etc.path().join("krb5.keytab"),
        &keytab(&[("host", "gk9.lab.example"), ("host", "tokens.lab.example")]),
        0o600,
    );
    write(
        &etc.path().join("krb5-helix.keytab"),
        &keytab(&[("host", "tokens.lab.example")]),
        0o600,
    );
    let host = Surroundings {
        etc: etc.path().to_path_buf(),
        look_at_files: true,
        ..nowhere()
    };
    let load_here = || load(std::slice::from_ref(&directory), &host);
    let texts = |loaded: &Loaded| {
        at_least(loaded, Severity::Warning)
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };

    let good = load_here();
    assert_eq!(texts(&good).len(), 2, "{:?}", texts(&good));
    assert_eq!(
        good.config.unwrap().gridkeep.certificate.value,
        base.join("hostcert.pem")
    );

    write(
        &directory.join("80-secrets.yaml"),
        &std::fs::read(directory.join("80-secrets.yaml")).unwrap(),
        0o644,
    );
    write(
        &base.join("hostkey.pem"),
        key.serialize_pem().as_bytes(),
        0o644,
    );
    write(
        &etc.path().join("krb5.keytab"),
        &keytab(&[
            ("HTTP", "tokens.lab.example"),
            ("host", "elsewhere.example"),
        ]),
        0o600,
    );
    write(
        &etc.path().join("krb5-helix.keytab"),
        b"not a keytab",
        0o600,
    );
    let other = rcgen::CertificateParams::new(vec!["other.example".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    write(&base.join("hostcert.pem"), other.pem().as_bytes(), 0o644);
    let bad = texts(&load_here());
    for expected in [
        "80-secrets.yaml: warning: The file holds a client secret and everybody",
        "gridkeep.tls.key: Everybody on this host may read",
        "is not valid for the service name `tokens.lab.example`",
        "krb5.keytab has no key for host/tokens.lab.example",
        "krb5-helix.keytab is not a keytab",
    ] {
        assert!(
            bad.iter().any(|text| text.contains(expected)),
            "{expected}: {bad:?}"
        );
    }
    assert_eq!(bad.len(), 7);

    for file in ["krb5.keytab", "krb5-helix.keytab"] {
        std::fs::remove_file(etc.path().join(file)).unwrap();
    }
    std::fs::remove_file(base.join("hostcert.pem")).unwrap();
    let missing = texts(&load_here());
    assert!(missing.iter().any(|text| text.contains("There is no keytab") && text.contains("krb5-lab.keytab or ")), "{missing:?}");
    assert!(
        missing
            .iter()
            .any(|text| text.contains("hostcert.pem cannot be read")),
        "{missing:?}"
    );
}
