use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

const NOW: i64 = 1_900_000_000;

struct Case {
    directory: tempfile::TempDir,
    environment: Environment,
}

fn token(subject: &str, expires: i64) -> String {
    let payload = json!({"iss": "https://vo.example.org", "sub": subject, "aud": ["a", "b"], "scope": "storage.read:/", "wlcg.groups": ["/vo"], "exp": expires, "nbf": NOW});
    format!("eyJ9.{}.c2ln", URL_SAFE_NO_PAD.encode(payload.to_string()))
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
        environment.tmp = directory.path().join("tmp");
        environment.now = std::sync::Arc::new(|| NOW);
        fs::create_dir(&environment.tmp).unwrap();
        Case {
            directory,
            environment,
        }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self
            .directory
            .path()
            .join(name.replace("UID", &self.environment.euid.to_string()));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(
            &args,
            &self.environment,
            &mut Streams {
                input: &mut io::empty(),
                out: &mut out,
                err: &mut err,
            },
        );
        (
            code,
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    }

    fn json(&self, args: &[&str]) -> (i32, Value) {
        let (code, out, err) = self.run(&[&["--json"], args].concat());
        assert_eq!(err, "");
        (code, serde_json::from_str(&out).unwrap())
    }
}

fn fates(value: &Value) -> Vec<(&str, &str)> {
    let places = value["places"].as_array().unwrap();
    places
        .iter()
        .map(|place| {
            (
                place["fate"].as_str().unwrap(),
                place["why"].as_str().unwrap(),
            )
        })
        .collect()
}

#[test]
fn every_earlier_place_has_its_reason() {
    let case = Case::new(&[
        ("BEARER_TOKEN", " \n"),
        ("BEARER_TOKEN_FILE", "mine"),
        ("XDG_RUNTIME_DIR", "run"),
    ]);
    let secret = token("anna", NOW + 3600);
    case.write("run/bt_uUID", &secret);
    let (code, out, _) = case.run(&[]);
    assert_eq!(code, 0, "{out}");
    let (_, report) = case.json(&[]);
    assert_eq!(
        fates(&report["bearer_token"]),
        [
            ("no", "BEARER_TOKEN holds only white space"),
            ("no", "the file does not exist"),
            ("used", ""),
            ("-", "")
        ]
    );
    assert!(!out.contains(&secret) && !report.to_string().contains(&secret));
    for line in [
        "issuer    https://vo.example.org\n",
        "subject   anna\n",
        "audience  a b\n",
        "scope     storage.read:/\n",
        "groups    /vo\n",
        "expires   2030-03-17T18:46:40Z (in 1 h)\n",
        "  used   $XDG_RUNTIME_DIR/bt_u",
    ] {
        assert!(out.contains(line), "{line:?} in {out}");
    }
    case.write("mine", "");
    let (_, report) = case.json(&[]);
    assert_eq!(
        fates(&report["bearer_token"])[1],
        ("no", "the file is empty")
    );
}

#[test]
fn a_variable_that_hides_a_file_is_pointed_out() {
    let case = Case::new(&[("BEARER_TOKEN", &token("old", NOW + 10))]);
    case.write("tmp/bt_uUID", &token("new", NOW + 3600));
    let (code, report) = case.json(&[]);
    assert_eq!(
        (code, report["bearer_token"]["sub"].as_str()),
        (0, Some("old"))
    );
    assert_eq!(
        fates(&report["bearer_token"]),
        [("used", ""), ("-", ""), ("-", ""), ("-", "")]
    );
    assert!(
        report["bearer_token"]["notes"][0]
            .as_str()
            .unwrap()
            .contains("$BEARER_TOKEN hides")
    );
}

#[test]
fn what_stops_the_search_is_said() {
    let case = Case::new(&[("BEARER_TOKEN", ""), ("BEARER_TOKEN_FILE", "mine")]);
    case.write("mine", "two\nlines");
    case.write("tmp/bt_uUID", &token("unreached", NOW + 3600));
    let (code, report) = case.json(&[]);
    let fates = fates(&report["bearer_token"]);
    assert_eq!(code, 1);
    assert_eq!(fates[0], ("no", "BEARER_TOKEN is set to nothing"));
    assert_eq!(fates[1].0, "ERROR");
    assert!(
        fates[1].1.contains("more than one line") && !fates[1].1.contains("two"),
        "{fates:?}"
    );
    assert_eq!(fates[2].0, "-");
    assert_eq!(report["bearer_token"]["found"], false);
}

#[test]
fn no_token_and_a_dead_token_have_code_1() {
    let case = Case::new(&[]);
    let (code, out, _) = case.run(&[]);
    assert_eq!(code, 1);
    assert!(
        out.contains("No token would be used.") && out.contains("BEARER_TOKEN is not set"),
        "{out}"
    );
    case.write("tmp/bt_uUID", &token("anna", NOW - 61));
    let (code, out, _) = case.run(&[]);
    assert_eq!(code, 1);
    assert!(
        out.contains("(1 min 1 s ago)") && out.contains("The token has expired"),
        "{out}"
    );
    case.write("tmp/bt_uUID", "opaque");
    let (code, out, _) = case.run(&[]);
    assert_eq!(code, 0);
    assert!(out.contains("not a JWT"), "{out}");
}

#[test]
fn claims_cannot_drive_the_terminal() {
    let case = Case::new(&[("BEARER_TOKEN", &token("\x1b[2Jx", NOW + 10))]);
    let (_, out, _) = case.run(&[]);
    assert!(
        out.contains("\\u{1b}[2Jx") && !out.contains('\x1b'),
        "{out}"
    );
}

#[test]
fn the_vault_token_places_are_those_of_htgettoken() {
    let case = Case::new(&[("HTGETTOKENOPTS", "-a vault.example.org -i dune")]);
    case.write(".config/htgettoken/credkey-dune-prod", "anna@example.org\n");
    let service = case.write("tmp/vt_uUID-dune_prod", "hvs.service\n");
    let (_, out, _) = case.run(&["-r", "prod"]);
    assert!(
        out.contains("server    https://vault.example.org:8200\n"),
        "{out}"
    );
    assert!(out.contains("credkey   anna@example.org (from "), "{out}");
    assert!(
        out.contains(&format!("  used   {}", service.display())),
        "{out}"
    );
    assert!(
        out.contains("--ask-server") && !out.contains("hvs."),
        "{out}"
    );
    let (_, report) = case.json(&["--role=prod"]);
    let vault = &report["vault_token"];
    assert_eq!(
        fates(vault).iter().map(|fate| fate.0).collect::<Vec<_>>(),
        ["no", "no", "used"]
    );
    let default = case.write("tmp/vt_uUID", "hvs.default\n");
    fs::set_permissions(&default, fs::Permissions::from_mode(0o644)).unwrap();
    let (_, report) = case.json(&["--role=prod"]);
    let fates = fates(&report["vault_token"]);
    assert_eq!((fates[1].0, fates[2].0), ("ERROR", "used"));
    assert!(fates[1].1.contains("0644"), "{fates:?}");
}

#[test]
fn named_files_and_missing_options_are_explained() {
    let case = Case::new(&[]);
    let (_, report) = case.json(&[]);
    assert!(
        report["vault_token"]["notes"][0]
            .as_str()
            .unwrap()
            .contains("--vaultserver")
    );
    case.write("vt", "hvs.x");
    let (_, report) = case.json(&["-a", "h", "--vaulttokeninfile=vt", "--nobearertoken"]);
    assert_eq!(fates(&report["vault_token"]), [("used", "")]);
    assert!(
        report["vault_token"]["notes"]
            .to_string()
            .contains("wants a new vault token")
    );
    let (_, report) = case.json(&["-a", "h"]);
    assert!(
        report["vault_token"]["notes"]
            .to_string()
            .contains("No credkey is known")
    );
    assert_eq!(case.run(&["--bogus"]).0, 2);
    assert_eq!(case.run(&["--help"]).0, 0);
}

#[test]
fn the_server_is_asked_only_on_request() {
    use crate::jwks::testing::{Seen, Server};
    let server = Server::start();
    server.answer(
        "/v1/auth/token/lookup-self",
        200,
        json!({"data": {"ttl": 7200}}),
    );
    let case = Case::new(&[]);
    case.write("vt", "hvs.x");
    let cafile = server.cafile(case.directory.path());
    let address = server.url();
    let args = [
        "-a",
        &address,
        "--credkey=anna",
        "--vaulttokeninfile=vt",
        "--cafile",
        cafile.to_str().unwrap(),
    ];
    assert_eq!(
        case.json(&args).1["vault_token"]["seconds_left"],
        Value::Null
    );
    assert_eq!(server.seen(), []);
    let (_, out, _) = case.run(&[&["--ask-server"], &args[..]].concat());
    assert!(out.contains("The server lets it live for 2 h."), "{out}");
    assert_eq!(
        server.seen(),
        [Seen {
            line: "GET /v1/auth/token/lookup-self".into(),
            token: Some("hvs.x".into())
        }]
    );
    server.answer(
        "/v1/auth/token/lookup-self",
        403,
        r#"{"errors":["permission denied"]}"#,
    );
    let (_, report) = case.json(&[&["--ask-server"], &args[..]].concat());
    assert!(
        report["vault_token"]["server_error"]
            .as_str()
            .unwrap()
            .contains("403 Forbidden: permission denied")
    );
}
