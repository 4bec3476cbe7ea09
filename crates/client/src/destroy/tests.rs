use super::*;
use crate::jwks::testing::{Seen, Server};
use std::sync::{Arc, Mutex};

struct Case {
    directory: tempfile::TempDir,
    environment: Environment,
    /// What the stand-in for htgettoken prints, and its code.
    answer: (String, i32),
    called: Arc<Mutex<Vec<Vec<String>>>>,
}

struct Outcome {
    code: i32,
    out: String,
    err: String,
}

impl Case {
    fn new(vars: &[(&str, &str)]) -> Case {
        let directory = tempfile::tempdir().unwrap();
        let mut environment = Environment::current();
        environment.vars = vars
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        environment
            .vars
            .insert("HOME".into(), directory.path().into());
        environment.cwd = directory.path().to_owned();
        environment.tmp = directory.path().to_owned();
        environment.euid = 1234;
        Case {
            directory,
            environment,
            answer: (String::new(), 0),
            called: Arc::default(),
        }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    fn exists(&self, name: &str) -> bool {
        self.directory.path().join(name).exists()
    }

    fn run(&self, args: &[&str]) -> Outcome {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let (answer, called) = (self.answer.clone(), self.called.clone());
        let get: Get = Arc::new(move |args, environment, streams| {
            assert!(environment.var("HTGETTOKENOPTS").is_none());
            called.lock().unwrap().push(
                args.iter()
                    .map(|arg| arg.to_str().unwrap().to_owned())
                    .collect(),
            );
            streams.out.write_all(answer.0.as_bytes()).unwrap();
            answer.1
        });
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams {
            input: &mut io::empty(),
            out: &mut out,
            err: &mut err,
        };
        let code = run_with(&args, &self.environment, &mut streams, &get);
        Outcome {
            code,
            out: String::from_utf8(out).unwrap(),
            err: String::from_utf8(err).unwrap(),
        }
    }
}

#[test]
fn without_options_both_files_go_and_nobody_is_asked() {
    let case = Case::new(&[]);
    let (bearer, vault) = (case.write("bt_u1234", "x"), case.write("vt_u1234", "x"));
    let done = case.run(&[]);
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert_eq!(
        done.out,
        format!(
            "Removing {}\nRemoving {}\n",
            bearer.display(),
            vault.display()
        )
    );
    assert!(!bearer.exists() && !vault.exists() && case.called.lock().unwrap().is_empty());
    let done = case.run(&[]);
    assert_eq!(
        (done.code, done.out.as_str()),
        (0, ""),
        "missing files are fine"
    );
}

#[test]
fn private_copies_of_vault_tokens_go_too() {
    use std::os::unix::fs::DirBuilderExt as _;
    let case = Case::new(&[]);
    let run = case.directory.path().join(".config/htgettoken/run");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&run)
        .unwrap();
    let mut environment = case.environment.clone();
    environment.euid = nix::unistd::geteuid().as_raw();
    fs::write(run.join("vt-1"), "hvs.x").unwrap();
    fs::write(run.join("other"), "x").unwrap();
    let case = Case {
        environment,
        ..case
    };
    assert_eq!(
        case.run(&[]).out,
        format!("Removing {}\n", run.join("vt-1").display())
    );
    assert!(!run.join("vt-1").exists() && run.join("other").exists());
}

#[test]
fn variables_name_the_files_and_quiet_is_quiet() {
    let case = Case::new(&[
        ("BEARER_TOKEN_FILE", "my bt_%uid"),
        ("VAULT_TOKEN_FILE", "my vt"),
        ("BEARER_TOKEN", "x"),
    ]);
    for name in ["my bt_1234", "my vt", "bt_u1234", "vt_u1234"] {
        case.write(name, "x");
    }
    let done = case.run(&["-q"]);
    assert_eq!(
        (done.code, done.out.as_str(), done.err.as_str()),
        (0, "", "")
    );
    assert!(!case.exists("my bt_1234") && !case.exists("my vt"));
    assert!(case.exists("bt_u1234") && case.exists("vt_u1234"));
}

#[test]
fn usage_errors_have_code_2() {
    let case = Case::new(&[]);
    case.write("vt_u1234", "hvs.x");
    for args in [
        &["-h"][..],
        &["-f", "-a", "x", "-h"],
        &["-a", "x"],
        &["file"],
        &["--revoke"],
    ] {
        let done = case.run(args);
        assert_eq!((done.code, done.out.as_str()), (2, ""), "{args:?}");
        assert!(done.err.contains("Usage: htdestroytoken"), "{args:?}");
    }
    let done = case.run(&["-f", "-q"]);
    assert_eq!(done.code, 2);
    assert!(
        done.err
            .starts_with("htdestroytoken: no htgettoken options were given\nUsage")
    );
    assert_eq!(case.run(&["-f", "--bogus"]).code, 2);
    assert!(case.exists("vt_u1234"));
}

#[test]
fn without_a_vault_token_the_server_part_is_left_out_and_said_so() {
    let case = Case::new(&[]);
    case.write("bt_u1234", "x");
    let done = case.run(&["-f", "-a", "host"]);
    assert_eq!(done.code, 0);
    assert!(done.err.contains("nothing was deleted on the server"));
    assert!(!case.exists("bt_u1234"));
}

#[test]
fn without_an_address_no_file_goes() {
    for answer in [
        (String::new(), 0),
        ("garbage\n".to_owned(), 0),
        ("https://x:8200/v1/y\n".to_owned(), 1),
    ] {
        let mut case = Case::new(&[]);
        case.answer = answer;
        case.write("vt_u1234", "hvs.x");
        case.write("bt_u1234", "x");
        let done = case.run(&["-f", "-a", "host"]);
        assert_eq!(done.code, 3);
        assert!(done.err.contains("Unable to obtain vault URL"));
        assert!(case.exists("vt_u1234") && case.exists("bt_u1234"));
    }
}

#[test]
fn the_refresh_token_goes_first_with_the_vault_token_of_the_file() {
    let server = Server::start();
    let path = "/v1/secret/oauth/creds/dune/anna@example.org/robot:default";
    server.answer(path, 204, "");
    let mut case = Case::new(&[
        ("HTGETTOKENOPTS", "-a 'host' --scopes 'a b'"),
        ("VAULT_TOKEN_FILE", "vt"),
    ]);
    case.answer = (format!("{}{path}\n", server.url()), 0);
    case.write("vt", "hvs.secret\n");
    case.write("bt_u1234", "x");
    let ca = server.cafile(case.directory.path());
    let done = case.run(&[
        "-f",
        "-i",
        "dune",
        "--audience=x",
        "--cafile",
        ca.to_str().unwrap(),
    ]);
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert!(done.out.starts_with(&format!(
        "Deleting refresh token\n  at path {}{path}\nRemoving ",
        server.url()
    )));
    assert!(!done.out.contains("hvs.secret"));
    assert_eq!(
        server.seen(),
        [Seen {
            line: format!("DELETE {path}"),
            token: Some("hvs.secret".into())
        }]
    );
    let called = case.called.lock().unwrap().concat();
    let expected = [
        "--vaultserver=host",
        "--issuer=dune",
        &format!("--cafile={}", ca.display()),
        "--vaulttokenfile=vt",
        "--novaulttoken",
        "--nobearertoken",
        "--showbearerurl",
    ];
    assert_eq!(called, expected);
    assert!(!case.exists("vt") && !case.exists("bt_u1234"));
}

#[test]
fn a_refusal_keeps_the_files() {
    let server = Server::start();
    server.answer(
        "/v1/p",
        403,
        r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#,
    );
    let mut case = Case::new(&[]);
    case.answer = (format!("{}/v1/p\n", server.url()), 0);
    case.write("vt_u1234", "hvs.secret");
    let ca = server.cafile(case.directory.path());
    let done = case.run(&[
        "-q",
        "-f",
        "-a",
        "host",
        &format!("--cafile={}", ca.display()),
    ]);
    assert_eq!((done.code, done.out.as_str()), (3, ""));
    assert!(
        done.err.contains("Unable to delete refresh token") && done.err.contains("403 Forbidden"),
        "{}",
        done.err
    );
    assert!(case.exists("vt_u1234"));
    assert_eq!(case.called.lock().unwrap().concat().last().unwrap(), "-q");
}

#[test]
fn the_vault_token_is_revoked_only_on_request() {
    let server = Server::start();
    server.answer("/v1/auth/token/revoke-self", 204, "");
    let mut case = Case::new(&[]);
    case.answer = (format!("{}/v1/secret/x\n", server.url()), 0);
    case.write("vt_u1234", "hvs.secret");
    let ca = server.cafile(case.directory.path());
    let done = case.run(&[
        "--revoke-vault-token",
        "-a",
        "host",
        "--cafile",
        ca.to_str().unwrap(),
    ]);
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert_eq!(server.lines(), ["POST /v1/auth/token/revoke-self"]);
    assert!(!case.exists("vt_u1234"));
}

#[test]
fn the_real_htgettoken_knows_the_path() {
    let server = Server::start();
    let path = "/v1/secret/oauth/creds/dune/anna@example.org:prod";
    server.answer(path, 204, "");
    let case = Case::new(&[]);
    let vault = case.write("vt_u1234", "hvs.secret");
    fs::set_permissions(&vault, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut environment = case.environment.clone();
    environment
        .vars
        .insert("VAULT_TOKEN_FILE".into(), vault.clone().into());
    let address = server.url();
    let ca = server.cafile(case.directory.path());
    let args = [
        "-f",
        "-a",
        &address,
        "-i",
        "dune",
        "-r",
        "prod",
        "--credkey",
        "anna@example.org",
        "--scopes=a",
        "--cafile",
        ca.to_str().unwrap(),
    ];
    let args: Vec<OsString> = args.iter().map(OsString::from).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run(
        &args,
        &environment,
        &mut Streams {
            input: &mut io::empty(),
            out: &mut out,
            err: &mut err,
        },
    );
    assert_eq!(code, 0, "{}", String::from_utf8_lossy(&err));
    assert_eq!(
        server.seen(),
        [Seen {
            line: format!("DELETE {path}"),
            token: Some("hvs.secret".into())
        }]
    );
    assert!(!vault.exists());
}

#[test]
fn the_private_copy_is_tried_before_the_default_file() {
    let server = Server::start();
    let path = "/v1/secret/oauth/creds/default/anna:default";
    server.answer(path, 403, r#"{"errors":["permission denied"]}"#);
    server.then(path, 204, "");
    let mut case = Case::new(&[("XDG_RUNTIME_DIR", "run")]);
    case.environment.euid = nix::unistd::geteuid().as_raw();
    fs::create_dir(case.directory.path().join("run")).unwrap();
    let keep = Keep::new(None, &server.url(), "default", "default", &case.environment);
    let private = keep
        .make_private("anna", 600, b"hvs.private\n")
        .unwrap()
        .unwrap();
    let default = case.write(&format!("vt_u{}", case.environment.euid), "hvs.default");
    case.answer = (format!("{}{path}\n", server.url()), 0);
    let ca = server.cafile(case.directory.path());
    let done = case.run(&[
        "-f",
        "-a",
        &server.url(),
        "--credkey=anna",
        "--cafile",
        ca.to_str().unwrap(),
    ]);
    assert_eq!(done.code, 0, "{}", done.err);
    let tokens: Vec<String> = server
        .seen()
        .into_iter()
        .filter_map(|seen| seen.token)
        .collect();
    assert_eq!(tokens, ["hvs.private", "hvs.default"]);
    assert!(!private.exists() && !default.exists());
}
