//! Defaults that hang together.

use super::*;
use crate::options::{Parsed, parse};
use crate::testserver::environment as bare;

struct Bench {
    _directory: tempfile::TempDir,
    environment: Environment,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut environment = bare(directory.path());
        environment.euid = 4711;
        environment.tmp = "/tmp".into();
        Self {
            _directory: directory,
            environment,
        }
    }

    fn var(mut self, name: &str, value: &str) -> Self {
        self.environment.vars.insert(name.into(), value.into());
        self
    }

    fn options(words: &[&str]) -> Options {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        match parse(&words).unwrap() {
            Parsed::Run(options) => *options,
            other => panic!("{other:?}"),
        }
    }

    fn with(&self, words: &[&str]) -> Result<Settings, SettingsError> {
        Settings::new(&Self::options(words), &self.environment)
    }

    fn settings(&self, words: &[&str]) -> Settings {
        let mut all = vec!["-a", "h"];
        all.extend(words);
        self.with(&all).unwrap()
    }

    fn fatal(&self, words: &[&str]) -> String {
        let mut all = vec!["-a", "h"];
        all.extend(words);
        match self.with(&all).unwrap_err() {
            SettingsError::Fatal(text) => text,
            SettingsError::Usage(error) => panic!("{error}"),
        }
    }
}

fn file(path: &str) -> Place {
    Place::File(path.into())
}

#[test]
fn servers() {
    let bench = Bench::new();
    let settings = bench.settings(&[]);
    assert_eq!(settings.server.to_string(), "https://h:8200");
    assert_eq!(settings.alias, settings.server);
    let settings = bench.settings(&["--vaultalias", "cluster:1", "--vaultcertname", "name"]);
    assert_eq!(settings.alias.to_string(), "https://cluster:1");
    assert_eq!(settings.certificate_name.as_deref(), Some("name"));
    for words in [
        &[][..],
        &["-a", ""],
        &["-a", "http://h"],
        &["-a", "h/v1"],
        &["-a", "h", "--vaultalias", "x/y"],
    ] {
        assert!(
            matches!(bench.with(words), Err(SettingsError::Usage(_))),
            "{words:?}"
        );
    }
}

#[test]
fn where_the_bearer_token_goes() {
    let at = |bench: &Bench, words: &[&str]| bench.settings(words).bearer_out;
    let bench = Bench::new();
    assert_eq!(at(&bench, &[]), file("/tmp/bt_u4711"));
    let bench = bench
        .var("XDG_RUNTIME_DIR", "/run/user/4711")
        .var("BEARER_TOKEN_FILE", "");
    assert_eq!(at(&bench, &[]), file("/run/user/4711/bt_u4711"));
    let bench = bench.var("BEARER_TOKEN_FILE", "/x/bt-%uid");
    assert_eq!(at(&bench, &[]), file("/x/bt-4711"));
    assert_eq!(at(&bench, &["-o", "/y/%uid"]), file("/y/4711"));
    assert_eq!(at(&bench, &["-o", "/dev/stdout"]), Place::Descriptor(1));
    assert_eq!(at(&bench, &["-o", "/proc/self/fd/1"]), Place::Descriptor(1));
    assert_eq!(at(&bench, &["-o", "/dev/null"]), file("/dev/null"));
    let home = bench.environment.home().unwrap();
    assert_eq!(at(&bench, &["--outfile=~/x"]), Place::File(home.join("x")));
    assert_eq!(
        at(&bench, &["-o", "x"]),
        Place::File(bench.environment.cwd.join("x"))
    );
}

#[test]
fn where_the_vault_token_is() {
    let bench = Bench::new();
    let settings = bench.settings(&[]);
    assert_eq!(settings.vault_out, file("/tmp/vt_u4711"));
    assert_eq!(settings.vault_in, VaultTokenIn::Usual);
    assert!(settings.private_copies);

    let settings = bench.settings(&["--vaulttokenfile", "/x/%uid"]);
    assert_eq!(settings.vault_out, file("/x/4711"));
    assert_eq!(settings.vault_in, VaultTokenIn::Named("/x/4711".into()));
    assert!(!settings.private_copies);

    let settings = bench.settings(&["--vaulttokeninfile", "%vaulttokenfile-2"]);
    assert_eq!(settings.vault_out, file("/tmp/vt_u4711"));
    assert_eq!(
        settings.vault_in,
        VaultTokenIn::Named("/tmp/vt_u4711-2".into())
    );
    assert!(!settings.private_copies);

    for (words, expected) in [
        (&["--vaulttokeninfile", ""][..], VaultTokenIn::None),
        (
            &["--vaulttokeninfile=/dev/stdin"],
            VaultTokenIn::Device("/dev/stdin".to_owned()),
        ),
        (
            &["--vaulttokeninfile=/dev/fd/7"],
            VaultTokenIn::Device("/dev/fd/7".to_owned()),
        ),
        (&["--vaulttokenfile=/dev/stdout"], VaultTokenIn::None),
        (&["--vaulttokenttl=28d"], VaultTokenIn::None),
        (
            &[
                "--vaulttokenfile=/dev/stdout",
                "--vaulttokeninfile=%vaulttokenfile",
            ],
            VaultTokenIn::None,
        ),
        // Only the spelling counts.
        (
            &["--vaulttokeninfile=/proc/self/fd/0"],
            VaultTokenIn::Named("/proc/self/fd/0".into()),
        ),
    ] {
        assert_eq!(bench.settings(words).vault_in, expected, "{words:?}");
    }
}

#[test]
fn long_lives_do_not_lie_on_disk() {
    let bench = Bench::new();
    assert_eq!(
        bench.settings(&["--vaulttokenttl", "10d"]).vault_out,
        file("/tmp/vt_u4711")
    );
    assert_eq!(
        bench.settings(&["--vaulttokenttl", "1000000s"]).vault_out,
        file("/tmp/vt_u4711")
    );
    assert_eq!(
        bench.settings(&["--vaulttokenttl", "1000001s"]).vault_out,
        Place::Descriptor(1)
    );
    assert!(
        bench
            .fatal(&["--vaulttokenttl=28d", "--vaulttokenfile=/x"])
            .contains("1000000 s")
    );
    let settings = bench.settings(&["--vaulttokenttl=28d", "--vaulttokenfile=/dev/fd/5"]);
    assert_eq!(settings.vault_out, Place::Descriptor(5));
}

#[test]
fn lives() {
    let bench = Bench::new();
    assert_eq!(
        (bench.settings(&[]).ttl, bench.settings(&[]).min_ttl),
        (604_800, 0)
    );
    assert!(
        bench
            .fatal(&["--vaulttokenttl="])
            .contains("--vaulttokenttl")
    );
    assert!(
        bench
            .fatal(&["--vaulttokenminttl=5"])
            .contains("--vaulttokenminttl")
    );
    assert!(
        bench
            .fatal(&["--vaulttokenminttl=7d"])
            .contains("must be less")
    );
    assert_eq!(bench.settings(&["--vaulttokenminttl=6d"]).min_ttl, 518_400);
}

#[test]
fn which_stream_carries_the_log() {
    let bench = Bench::new();
    for (words, stderr) in [
        (&[][..], false),
        (&["--showbearerurl"], true),
        (&["--vaulttokenfile=/dev/stdout"], true),
        (&["--vaulttokenttl=28d"], true),
        (&["-o", "/dev/fd/1"], true),
        (&["-o", "/proc/self/fd/1"], true),
        (&["--vaulttokenfile=/dev/stderr"], false),
        (&["-o", "-"], false),
    ] {
        assert_eq!(bench.settings(words).log_to_stderr, stderr, "{words:?}");
    }
}

#[test]
fn server_paths() {
    let path =
        |words: &[&str], credkey: &str| Settings::bearer_path(&Bench::options(words), credkey);
    assert_eq!(
        path(&["-i", "dune"], "alice"),
        "secret/oauth/creds/dune/alice:default"
    );
    assert_eq!(
        path(&["-i", "dune", "--scopes", "a"], "a/creds/%role"),
        "secret/oauth/sts/dune/a/creds/%role:default"
    );
    assert_eq!(
        path(&["--audience", "x", "--scopes="], "k"),
        "secret/oauth/sts/default/k:default"
    );
    assert_eq!(
        path(&["--scopes=", "--role="], "k"),
        "secret/oauth/creds/default/k:"
    );
    assert_eq!(
        path(&["--secretpath=own/%role/%x", "--scopes", "a"], "k"),
        "own/default/%x"
    );
    let bench = Bench::new();
    assert_eq!(
        bench.settings(&["-i", "dune"]).oidc_path,
        "auth/oidc-dune/oidc"
    );
}

#[test]
fn certificates() {
    let bench = Bench::new()
        .var("X509_CERT_DIR", "/grid")
        .var("SSL_CERT_FILE", "/no/such/file");
    let trust = bench.settings(&[]).trust;
    assert_eq!(trust.directory, Some("/grid".into()));
    assert_ne!(trust.bundle, Some("/no/such/file".into()));
    let trust = bench.settings(&["--cafile", "x", "--capath", "/y"]).trust;
    assert_eq!(trust.bundle, Some(bench.environment.cwd.join("x")));
    assert_eq!(trust.directory, Some("/y".into()));
    let bench = bench.var("SSL_CERT_FILE", "/etc/passwd");
    assert_eq!(bench.settings(&[]).trust.bundle, Some("/etc/passwd".into()));
}
