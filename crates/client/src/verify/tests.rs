use super::*;
use crate::jwks::testing::Server;
use gridkeep_token::jws::{Algorithm, SigningKey};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

const NOW: i64 = 1_900_000_000;
const ISSUER: &str = "https://vo.example.org";

struct Case {
    directory: tempfile::TempDir,
    environment: Environment,
    key: SigningKey,
}

struct Outcome {
    code: i32,
    out: String,
    err: String,
}

impl Case {
    fn new() -> Case {
        let directory = tempfile::tempdir().unwrap();
        let mut environment = Environment::current();
        environment.vars.clear();
        environment
            .vars
            .insert("HOME".into(), directory.path().into());
        environment.cwd = directory.path().to_owned();
        environment.tmp = directory.path().to_owned();
        environment.now = std::sync::Arc::new(|| NOW);
        let key = SigningKey::generate(Algorithm::Es256, "k1").unwrap();
        let case = Case {
            directory,
            environment,
            key,
        };
        case.write(
            "keys.json",
            &JwkSet::new(vec![case.key.public_jwk()])
                .to_json()
                .to_string(),
        );
        case
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The baseline token of the profile's vectors with `changes`; null removes a claim.
    fn token(&self, changes: Value) -> String {
        let mut claims = json!({
            "wlcg.ver": "1.0", "iss": ISSUER, "sub": "2f6a0c7e", "aud": "https://se.example.org", "iat": NOW - 600, "nbf": NOW - 660,
            "exp": NOW + 3000, "jti": "b7a4e0f2", "scope": "storage.read:/data", "wlcg.groups": ["/vo"],
        });
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        self.key.sign(Some("JWT"), &claims).unwrap()
    }

    fn run(&self, token: &str, args: &[&str]) -> Outcome {
        self.write("token", token);
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams {
            input: &mut token.as_bytes(),
            out: &mut out,
            err: &mut err,
        };
        let code = run(&args, &self.environment, &mut streams);
        Outcome {
            code,
            out: String::from_utf8(out).unwrap(),
            err: String::from_utf8(err).unwrap(),
        }
    }

    /// Offline, as JSON.
    fn json(&self, token: &str, args: &[&str]) -> (i32, Value) {
        let mut all = vec!["--json", "--jwks", "keys.json", "token"];
        all.extend(args);
        let outcome = self.run(token, &all);
        (
            outcome.code,
            serde_json::from_str(&outcome.out)
                .unwrap_or_else(|_| panic!("{} {}", outcome.out, outcome.err)),
        )
    }
}

#[test]
fn a_good_token_is_reported_step_by_step() {
    let case = Case::new();
    let args = [
        "--jwks",
        "keys.json",
        "--issuer",
        ISSUER,
        "--audience",
        "https://se.example.org",
        "--operation",
        "read",
        "--path",
        "/data/f",
        "-",
    ];
    let done = case.run(&case.token(json!({})), &args);
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    for line in [
        "Token: standard input\n",
        " 3 issuer        passed   https://vo.example.org is trusted\n",
        " 7 time          passed   valid until",
        " 8 audience      passed ",
        "10 authorization passed ",
        "Subject: 2f6a0c7e\n",
        "Expires: 2030-03-17T18:36:40Z (in 50 min)\n",
        "Scopes: storage.read:/data\n",
        "Groups: /vo\n",
        "Result: accepted, and the operation is allowed\n",
    ] {
        assert!(done.out.contains(line), "{line:?} in {}", done.out);
    }
    assert_eq!(done.out.lines().count(), 16, "{}", done.out);
}

#[test]
fn what_nobody_asked_for_is_skipped_and_said_so() {
    let case = Case::new();
    let (code, report) = case.json(&case.token(json!({})), &[]);
    assert_eq!((code, report["result"].as_str()), (0, Some("accepted")));
    let verdicts: Vec<&str> = report["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["verdict"].as_str().unwrap())
        .collect();
    assert_eq!(
        verdicts,
        [
            "passed", "passed", "passed", "passed", "passed", "passed", "passed", "skipped",
            "passed", "skipped"
        ]
    );
    assert!(
        report["steps"][2]["text"]
            .as_str()
            .unwrap()
            .contains("--issuer")
    );
    assert!(
        report["steps"][7]["text"]
            .as_str()
            .unwrap()
            .contains("--audience")
    );
    assert_eq!(
        (report["profile"].as_str(), report["expires"].as_i64()),
        (Some("WLCG 1.x"), Some(NOW + 3000))
    );
}

#[test]
fn each_refusal_names_its_step_and_claim() {
    let case = Case::new();
    /// Changes to the token, arguments, and what comes of them: step, code, claim.
    type Row<'a> = (Value, &'a [&'a str], u64, &'a str, Option<&'a str>);
    let rows: [Row; 9] = [
        (
            json!({"iss": "https://other.example.org"}),
            &["--issuer", ISSUER],
            3,
            "untrusted_issuer",
            Some("iss"),
        ),
        (
            json!({"iss": format!("{ISSUER}/")}),
            &["--issuer", ISSUER],
            3,
            "untrusted_issuer",
            Some("iss"),
        ),
        (
            json!({"wlcg.ver": "2.0"}),
            &[],
            5,
            "bad_version",
            Some("wlcg.ver"),
        ),
        (
            json!({"jti": null}),
            &[],
            6,
            "missing_claim:jti",
            Some("jti"),
        ),
        (json!({"exp": NOW}), &[], 7, "expired", Some("exp")),
        (
            json!({"nbf": NOW + 61}),
            &[],
            7,
            "not_yet_valid",
            Some("nbf"),
        ),
        (
            json!({}),
            &["--audience", "https://SE.example.org"],
            8,
            "bad_audience",
            Some("aud"),
        ),
        (
            json!({"scope": "storage.read:/ storage.create"}),
            &[],
            9,
            "bad_scope",
            Some("scope"),
        ),
        (
            json!({}),
            &["--operation", "read", "--path", "/database"],
            10,
            "denied",
            Some("scope"),
        ),
    ];
    for (changes, args, step, code, claim) in rows {
        let (exit, report) = case.json(&case.token(changes), args);
        assert_eq!(exit, REFUSED, "{code}");
        assert_eq!(
            (
                report["step"].as_u64(),
                report["code"].as_str(),
                report["claim"].as_str()
            ),
            (Some(step), Some(code), claim)
        );
        let steps = report["steps"].as_array().unwrap();
        assert_eq!(
            steps[usize::try_from(step).unwrap() - 1]["verdict"],
            "FAILED",
            "{code}"
        );
        assert!(
            steps[usize::try_from(step).unwrap()..]
                .iter()
                .all(|step| step["verdict"] == "-"),
            "{code}: {report}"
        );
        assert!(!report["reason"].as_str().unwrap().is_empty());
    }
}

#[test]
fn forged_and_foreign_signatures_are_told_apart() {
    let case = Case::new();
    let other = SigningKey::generate(Algorithm::Es256, "k1").unwrap();
    let claims = json!({"iss": ISSUER, "wlcg.ver": "1.0"});
    assert_eq!(
        case.json(&other.sign(None, &claims).unwrap(), &[]).1["code"],
        "bad_signature"
    );
    let unknown = SigningKey::generate(Algorithm::Es256, "k9").unwrap();
    assert_eq!(
        case.json(&unknown.sign(None, &claims).unwrap(), &[]).1["code"],
        "unknown_kid"
    );
    assert_eq!(case.json("not-a-token", &[]).1["code"], "malformed");
}

#[test]
fn profiles_areas_and_moments_can_be_chosen() {
    let case = Case::new();
    let scitoken = case.token(
        json!({"wlcg.ver": null, "ver": "scitoken:2.0", "scope": "read:/a", "wlcg.groups": null}),
    );
    assert_eq!(case.json(&scitoken, &["--profile", "scitokens"]).0, 0);
    assert_eq!(
        case.json(&scitoken, &["--profile", "wlcg"]).1["code"],
        "bad_version"
    );
    let token = case.token(json!({}));
    let at = (NOW + 3000).to_string();
    assert_eq!(case.json(&token, &["--at", &at]).1["code"], "expired");
    let reading = ["--base-path", "/vo", "--operation", "read", "--path"];
    assert_eq!(
        case.json(&token, &[&reading[..], &["/vo/data/x"]].concat())
            .0,
        0
    );
    assert_eq!(
        case.json(&token, &[&reading[..], &["/data/x"]].concat()).1["code"],
        "denied"
    );
    let jobs = case.token(json!({"scope": "compute.create compute.modify compute.cancel"}));
    let (code, report) = case.json(&jobs, &["--operation", "submit-jobs"]);
    assert_eq!(
        (code, report["condor_levels"][0].as_str()),
        (0, Some("WRITE"))
    );
}

#[test]
fn the_map_file_line_and_account_are_named() {
    let case = Case::new();
    let file = case.write(
        "map",
        "# comment\nSCITOKENS /^https:\\/\\/other,/ other\nSCITOKENS /^https:\\/\\/vo\\.example\\.org,2f6a0c7e$/ anna\nSCITOKENS /.*/ nobody\nbroken\n",
    );
    let token = case.token(json!({}));
    let done = case.run(
        &token,
        &["--jwks", "keys.json", "--mapfile", "map", "token"],
    );
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(
        done.out
            .contains(&format!("Account: anna (by {}:3, /^https:", file.display())),
        "{}",
        done.out
    );
    assert!(
        done.out
            .contains(&format!("Map file: {}:5: ", file.display())),
        "{}",
        done.out
    );
    let (_, report) = case.json(&token, &["--mapfile", "map"]);
    assert_eq!(
        (
            report["mapping"]["account"].as_str(),
            report["mapping"]["place"]["line"].as_u64()
        ),
        (Some("anna"), Some(3))
    );
    let expired = case.run(
        &case.token(json!({"exp": NOW})),
        &["--jwks", "keys.json", "--mapfile", "map", "token"],
    );
    assert_eq!(expired.code, REFUSED);
    assert!(
        expired.out.contains("Account: anna (would be by "),
        "{}",
        expired.out
    );
    case.write("map", "SCITOKENS /^https:\\/\\/other,/ other\n");
    let (code, report) = case.json(&token, &["--mapfile", "map"]);
    assert_eq!(
        (
            code,
            report["result"].as_str(),
            &report["mapping"]["account"]
        ),
        (REFUSED, Some("accepted"), &Value::Null)
    );
}

#[test]
fn wrong_questions_have_code_2() {
    let case = Case::new();
    let token = case.token(json!({}));
    for args in [
        &["--bogus"][..],
        &["--audience"],
        &["a", "b"],
        &["--profile", "x", "token"],
        &["--operation", "fly", "token"],
        &["--path", "/x", "token"],
        &["--base-path", "x", "token"],
        &["--at", "noon", "token"],
        &["--jwks", "missing", "token"],
        &["--mapfile", "missing", "token"],
        &["missing"],
        &[],
    ] {
        let done = case.run(&token, args);
        assert_eq!((done.code, done.out.as_str()), (USAGE, ""), "{args:?}");
        assert!(done.err.starts_with("gridkeep verify: "), "{args:?}");
        assert!(!done.err.contains(&token));
    }
    let help = case.run("", &["--help"]);
    assert_eq!(help.code, 0);
    assert!(help.out.contains("--mapfile") && help.out.contains("read, stat"));
    let quiet = case.run(&token, &["-q", "--jwks", "keys.json", "token"]);
    assert_eq!((quiet.code, quiet.out.as_str()), (0, ""));
}

#[test]
fn without_a_file_discovery_finds_the_token() {
    let mut case = Case::new();
    let token = case.token(json!({}));
    case.environment
        .vars
        .insert("BEARER_TOKEN".into(), token.clone().into());
    let done = case.run("", &["--jwks", "keys.json"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.starts_with("Token: $BEARER_TOKEN (step 1)\n") && !done.out.contains(&token));
}

#[test]
fn keys_come_from_the_issuer_and_their_absence_is_no_refusal() {
    let case = Case::new();
    let server = Server::start();
    let url = server.url();
    let cafile = server.cafile(case.directory.path());
    let cafile = cafile.to_str().unwrap();
    let token = case.token(json!({"iss": url}));
    let done = case.run(&token, &["--cafile", cafile, "token"]);
    assert_eq!(done.code, UNAVAILABLE);
    assert!(
        done.out.contains(" 4 signature     unknown ")
            && done
                .out
                .contains("Result: cannot be said (keys_unavailable)"),
        "{}",
        done.out
    );
    server.answer(
        "/.well-known/openid-configuration",
        200,
        json!({"issuer": url, "jwks_uri": format!("{url}/jwks")}),
    );
    server.answer(
        "/jwks",
        200,
        JwkSet::new(vec![case.key.public_jwk()]).to_json(),
    );
    assert_eq!(case.run(&token, &["--cafile", cafile, "token"]).code, 0);
    let count = server.seen().len();
    drop(server);
    assert_eq!(count, 3);
    assert_eq!(
        case.run(&token, &["--cafile", cafile, "token"]).code,
        0,
        "the copy outlives the issuer"
    );
}

#[test]
fn the_decoder_tells_bad_from_unknown() {
    let mut case = Case::new();
    let server = Server::start();
    let url = server.url();
    let cafile = server.cafile(case.directory.path());
    case.environment
        .vars
        .insert("SSL_CERT_FILE".into(), cafile.into());
    let decode = |token: &str, args: &[&str]| {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams {
            input: &mut token.as_bytes(),
            out: &mut out,
            err: &mut err,
        };
        let code = crate::decode::run(&args, &case.environment, &mut streams);
        (code, !out.is_empty(), String::from_utf8(err).unwrap())
    };
    let token = case.token(json!({"iss": url, "aud": "anything", "scope": "storage.read"}));
    let (code, shown, err) = decode(&token, &["-f", "-"]);
    assert_eq!((code, shown), (1, true));
    assert!(
        err.starts_with("htdecodetoken: the token was not verified: "),
        "{err}"
    );
    server.answer(
        "/.well-known/openid-configuration",
        200,
        json!({"issuer": url, "jwks_uri": format!("{url}/jwks")}),
    );
    server.answer(
        "/jwks",
        200,
        JwkSet::new(vec![case.key.public_jwk()]).to_json(),
    );
    assert_eq!(
        decode(&token, &["-f", "-"]),
        (0, true, String::new()),
        "neither audience nor scopes are judged"
    );
    let (code, shown, err) = decode(&case.token(json!({"iss": url, "exp": NOW})), &["-f", "-"]);
    assert_eq!((code, shown), (1, true));
    assert!(
        err.starts_with("htdecodetoken: the token is not valid: ") && err.contains("expired"),
        "{err}"
    );
    assert_eq!(
        decode(&case.token(json!({"iss": "http://x"})), &["-f", "-"]).0,
        1
    );
    assert_eq!(
        decode(&case.token(json!({"iss": url, "exp": NOW})), &["-"]).0,
        0
    );
}

#[test]
fn on_a_terminal_an_absent_issuer_is_only_noted() {
    let mut case = Case::new();
    case.environment.terminals.stdout = true;
    let token = case.token(json!({"iss": "https://127.0.0.1:1"}));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = crate::decode::run(
        &["-".into()],
        &case.environment,
        &mut Streams {
            input: &mut token.as_bytes(),
            out: &mut out,
            err: &mut err,
        },
    );
    assert_eq!(code, 0);
    assert!(String::from_utf8(err).unwrap().contains("was not verified"));
    let code = crate::decode::run(
        &["-f".into()],
        &case.environment,
        &mut Streams {
            input: &mut io::empty(),
            out: &mut Vec::new(),
            err: &mut Vec::new(),
        },
    );
    assert_eq!(code, 1);
}
