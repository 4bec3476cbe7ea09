use super::*;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use std::fs;

const PAYLOAD: &str =
    r#"{"sub":"anna","exp":1900000000,"n":18446744073709551617,"f":1.0,"note":"a 123 b"}"#;

struct Outcome {
    code: i32,
    out: String,
    err: String,
}

struct Case {
    directory: tempfile::TempDir,
    environment: Environment,
    input: String,
}

fn jwt(payload: &str) -> String {
    format!(
        "{}.{}.c2ln",
        URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"ES256"}"#),
        URL_SAFE_NO_PAD.encode(payload)
    )
}

impl Case {
    fn new(vars: &[(&str, &str)]) -> Case {
        let directory = tempfile::tempdir().unwrap();
        let mut environment = Environment::current();
        environment.vars = vars
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        environment.vars.insert("TZ".into(), "UTC".into());
        environment
            .vars
            .insert("HOME".into(), directory.path().into());
        environment.cwd = directory.path().to_owned();
        environment.tmp = directory.path().join("tmp");
        environment.terminals = crate::environment::Terminals::default();
        fs::create_dir(&environment.tmp).unwrap();
        Case {
            directory,
            environment,
            input: String::new(),
        }
    }

    fn write(&self, name: &str, text: &str) -> &Case {
        let path = self.directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn run(&self, args: &[&str]) -> Outcome {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams {
            input: &mut self.input.as_bytes(),
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
}

const PLAIN: &str = "{\n  \"sub\": \"anna\",\n  \"exp\": 1900000000,\n  \"n\": 18446744073709551617,\n  \"f\": 1.0,\n  \"note\": \"a 123 b\"\n}\n";
const HUMAN: &str = "{\n  \"sub\": \"anna\",\n  \"exp\": \"Sun Mar 17 17:46:40 UTC 2030\",\n  \"n\": 18446744073709551617,\n  \"f\": 1.0,\n  \"note\": \"a 123 b\"\n}\n";
const HEADER: &str = "{\n  \"typ\": \"JWT\",\n  \"alg\": \"ES256\"\n}\n";

#[test]
fn a_file_is_shown_with_every_digit() {
    let case = Case::new(&[]);
    case.write("my token", &format!(" {} \nsecond line", jwt(PAYLOAD)));
    let shown = case.run(&["my token"]);
    assert_eq!(
        (shown.code, shown.out.as_str(), shown.err.as_str()),
        (0, PLAIN, "")
    );
}

#[test]
fn clusters_keep_the_file_argument() {
    let case = Case::new(&[("BEARER_TOKEN", "no.token")]);
    case.write("t", &jwt(PAYLOAD));
    for args in [
        &["-aH", "t"][..],
        &["-a", "-H", "t"],
        &["t", "-Ha"],
        &["-aH", "--", "t"],
        &["-a", "t", "-H"],
    ] {
        let shown = case.run(args);
        assert_eq!(
            (shown.code, shown.out),
            (0, format!("{HEADER}{HUMAN}")),
            "{args:?}"
        );
    }
    case.write("-x", &jwt(PAYLOAD));
    assert_eq!(case.run(&["--", "-x"]).out, PLAIN);
}

#[test]
fn standard_input_needs_no_final_newline() {
    let mut case = Case::new(&[]);
    for end in ["", "\n", " \r\nmore"] {
        case.input = format!("{}{end}", jwt(PAYLOAD));
        let shown = case.run(&["-v", "-"]);
        assert_eq!(
            (shown.code, shown.out.as_str(), shown.err.as_str()),
            (0, PLAIN, "Token source: stdin\n")
        );
    }
}

#[test]
fn the_first_applicable_source_decides() {
    let (a, b, c) = (
        jwt(r#"{"s":"a"}"#),
        jwt(r#"{"s":"b"}"#),
        jwt(r#"{"s":"c"}"#),
    );
    let case = Case::new(&[("BEARER_TOKEN", &a), ("BEARER_TOKEN_FILE", "f")]);
    case.write("f", &b);
    let shown = case.run(&["-v"]);
    assert_eq!(
        (shown.out.as_str(), shown.err.as_str()),
        ("{\n  \"s\": \"a\"\n}\n", "Token source: $BEARER_TOKEN\n")
    );
    let mut case = Case::new(&[
        ("BEARER_TOKEN", ""),
        ("BEARER_TOKEN_FILE", "f"),
        ("XDG_RUNTIME_DIR", "run"),
    ]);
    let name = format!("bt_u{}", case.environment.euid);
    case.write(&format!("run/{name}"), &c);
    let shown = case.run(&[]);
    assert_eq!(
        (shown.code, shown.err.as_str()),
        (1, "f not found\n"),
        "no fall-through from a named file"
    );
    case.write("f", &b);
    let shown = case.run(&["-v"]);
    assert_eq!(
        (shown.out.as_str(), shown.err.as_str()),
        ("{\n  \"s\": \"b\"\n}\n", "Token source: f\n")
    );
    case.environment
        .vars
        .insert("BEARER_TOKEN_FILE".into(), "".into());
    assert_eq!(case.run(&[]).out, "{\n  \"s\": \"c\"\n}\n");
    fs::remove_file(case.directory.path().join("run").join(&name)).unwrap();
    assert_eq!(
        case.run(&[]).err,
        format!("{}/run/{name} not found\n", case.directory.path().display())
    );
    case.write(&format!("tmp/{name}"), &a);
    assert_eq!(case.run(&[]).out, "{\n  \"s\": \"a\"\n}\n");
}

#[test]
fn wrong_usage_ends_with_1_and_shows_the_usage_on_stderr() {
    let case = Case::new(&[("BEARER_TOKEN", &jwt("{}"))]);
    case.write("t", &jwt("{}"));
    for args in [
        &["-h"][..],
        &["--help"],
        &["-x"],
        &["-s", "-f"],
        &["-sf"],
        &["t", "t"],
    ] {
        let shown = case.run(args);
        assert_eq!((shown.code, shown.out.as_str()), (1, ""), "{args:?}");
        assert!(shown.err.contains("Usage: htdecodetoken"), "{args:?}");
    }
    case.write("empty", "\n");
    let shown = case.run(&["empty"]);
    assert_eq!(shown.code, 1);
    assert!(shown.err.starts_with("Token is empty\nUsage"));
}

#[test]
fn what_is_no_jwt_gives_nothing_on_stdout() {
    let mut case = Case::new(&[]);
    for token in [
        "opaque",
        "a.b",
        "a.b.c.d.e",
        "!.!.!",
        &jwt("[1]"),
        &jwt("{\"a\":1"),
        "..",
        &format!("x.{}.y", URL_SAFE_NO_PAD.encode("\u{0}")),
    ] {
        case.input = token.to_owned();
        let shown = case.run(&["-a", "-"]);
        assert_eq!((shown.code, shown.out.as_str()), (1, ""), "{token}");
        assert!(
            !shown.err.is_empty() && !shown.err.contains(token),
            "{}",
            shown.err
        );
    }
    case.input = format!("!!.{}.x", URL_SAFE_NO_PAD.encode("{}"));
    assert_eq!(
        case.run(&["-"]).code,
        0,
        "a header that is not shown is not looked at"
    );
}

#[test]
fn padding_and_the_other_alphabet_are_read() {
    let mut case = Case::new(&[]);
    for payload in [
        URL_SAFE.encode(r#"{"a":"??>"}"#),
        STANDARD.encode(r#"{"a":"??>"}"#),
    ] {
        case.input = format!("x.{payload}.y");
        assert_eq!(case.run(&["-"]).out, "{\n  \"a\": \"??>\"\n}\n");
    }
}

#[test]
fn a_piped_expired_token_is_fine_and_needs_no_network() {
    let case = Case::new(&[(
        "BEARER_TOKEN",
        &jwt(r#"{"iss":"https://issuer.invalid","exp":1}"#),
    )]);
    let shown = case.run(&["-H"]);
    assert_eq!((shown.code, shown.err.as_str()), (0, ""));
}

#[test]
fn colours_only_on_a_terminal_that_wants_them() {
    let mut case = Case::new(&[("BEARER_TOKEN", &jwt(r#"{"a":1}"#))]);
    case.environment.terminals.stdout = true;
    assert!(case.run(&["-s"]).out.contains("\x1b["));
    case.environment.vars.insert("NO_COLOR".into(), "1".into());
    assert_eq!(case.run(&["-s"]).out, "{\n  \"a\": 1\n}\n");
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    struct Closed;
    impl io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let case = Case::new(&[("BEARER_TOKEN", &jwt("{}"))]);
    let mut err = Vec::new();
    let code = run(
        &[],
        &case.environment,
        &mut Streams {
            input: &mut io::empty(),
            out: &mut Closed,
            err: &mut err,
        },
    );
    assert_eq!((code, err.as_slice()), (0, &b""[..]));
}

#[test]
fn moments_of_claims_are_whole_seconds() {
    let claims = claims(&jwt(r#"{"exp":1900000000.9,"iat":"1"}"#)).unwrap();
    assert_eq!(moment(&claims["exp"]), Some(1_900_000_000));
    assert_eq!(moment(&claims["iat"]), None);
}
