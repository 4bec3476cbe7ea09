//! Command lines as callers of htgettoken write them.

use super::*;

fn list(text: &[&str]) -> Vec<String> {
    text.iter().map(|&word| word.to_owned()).collect()
}

fn run(text: &[&str]) -> Options {
    match parse(&list(text)).unwrap() {
        Parsed::Run(options) => *options,
        other => panic!("{other:?}"),
    }
}

fn refused(text: &[&str]) -> String {
    let mut message = Vec::new();
    parse(&list(text)).unwrap_err().write(&mut message).unwrap();
    String::from_utf8(message).unwrap()
}

#[test]
fn every_option_is_known_once_and_sets_something() {
    let plain = run(&[]);
    for (index, spec) in TABLE.iter().enumerate() {
        assert!(
            TABLE[index + 1..]
                .iter()
                .all(|other| other.long != spec.long
                    && (spec.short.is_none() || other.short != spec.short)),
            "{}",
            spec.long
        );
        let parsed = match spec.value {
            None => parse(&list(&[spec.long])).unwrap(),
            Some(_) => parse(&list(&[spec.long, "7"])).unwrap(),
        };
        match (spec.key, parsed) {
            (Key::Help, parsed) => assert_eq!(parsed, Parsed::Help),
            (Key::Version, parsed) => assert_eq!(parsed, Parsed::Version),
            (_, Parsed::Run(options)) => assert_ne!(*options, plain, "{}", spec.long),
            (_, other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn documented_abbreviations() {
    assert_eq!(
        run(&["--scope", "gwdatafind.read"]).scopes.unwrap(),
        "gwdatafind.read"
    );
    assert_eq!(run(&["--aud=x"]).audience.unwrap(), "x");
    assert_eq!(run(&["--out", "f"]).outfile.unwrap(), "f");
    assert!(run(&["--opts", "h", "--deb"]).verbose);
    assert!(refused(&["--vault", "x"]).contains(
        "ambiguous option: --vault (--vaultalias, --vaultcertname, --vaultserver, --vaulttokenfile, "
    ));
    assert!(refused(&["--ver"]).contains("ambiguous option: --ver (--verbose, --version?)"));
    // An exact name wins over longer ones.
    assert_eq!(run(&["--vaulttokenfile", "x"]).vaulttokenfile.unwrap(), "x");
}

#[test]
fn new_names_never_take_part_in_an_abbreviation() {
    for spec in TABLE.iter().filter(|spec| !spec.abbreviates) {
        let shortened = &spec.long[..spec.long.len() - 1];
        assert!(
            refused(&[shortened]).contains("no such option"),
            "{shortened}"
        );
    }
    assert_eq!(run(&["--optserv", "x"]).optserver.unwrap(), "x");
    assert!(run(&["--show"]).showbearerurl);
}

#[test]
fn habits_of_optparse() {
    assert_eq!(run(&["-a", "-v"]).vaultserver.unwrap(), "-v");
    assert!(!run(&["-a", "-v"]).verbose);
    let cluster = run(&["-vqahost"]);
    assert!(cluster.verbose && cluster.quiet);
    assert_eq!(cluster.vaultserver.unwrap(), "host");
    assert_eq!(run(&["-i", "a", "-i", "b"]).issuer, "b");
    assert_eq!(run(&["--role="]).role, "");
    assert_eq!(run(&["-a", "h"]).role, "default");
}

#[test]
fn integers() {
    for (text, seconds) in [
        ("0x10", 16),
        ("0X1f", 31),
        ("0b101", 5),
        ("010", 10),
        ("+7", 7),
        ("-0", 0),
        ("900", 900),
    ] {
        assert_eq!(
            run(&[&format!("--minsecs={text}")]).minimum_seconds(),
            seconds,
            "{text}"
        );
    }
    assert_eq!(run(&[]).minimum_seconds(), 60);
    for text in ["", "x", "1.5", "0x", "+-3", "0b2", "99999999999999999999"] {
        assert!(
            refused(&["--minsecs", text]).contains("option --minsecs: invalid integer value: '"),
            "{text}"
        );
    }
    assert!(refused(&["--minsecs", "-5"]).contains("must not be negative"));
}

#[test]
fn implied_switches() {
    let debug = run(&["-d"]);
    assert!(debug.verbose && debug.debug);
    let none = run(&["--novaulttoken"]);
    assert!(none.nooidc && none.nokerberos && none.nossh);
    let register = run(&["--registerssh"]);
    assert!(!register.nooidc && register.nokerberos && register.nossh);
}

#[test]
fn help_and_version_end_the_reading() {
    assert_eq!(
        parse(&list(&["-v", "-h", "--bogus"])).unwrap(),
        Parsed::Help
    );
    assert_eq!(parse(&list(&["--version", "x"])).unwrap(), Parsed::Version);
    assert!(parse(&list(&["--bogus", "-h"])).is_err());
    let text = help();
    for spec in TABLE {
        assert!(text.contains(spec.long) && !spec.help.is_empty());
    }
    assert!(text.lines().all(|line| line.len() < 120));
}

#[test]
fn usage_errors_look_like_the_originals() {
    assert_eq!(
        refused(&["--bogus"]),
        "Usage: htgettoken [-h] [otheroptions]\n\nhtgettoken: error: no such option: --bogus\n"
    );
    let extra = refused(&["-a", "h", "--", "-v"]);
    assert!(
        extra.starts_with("htgettoken: unexpected argument \"-v\""),
        "{extra}"
    );
    assert!(extra.contains("--web-open-command"));
}

#[test]
fn environment_comes_before_arguments() {
    let mut environment = Environment::current();
    environment.vars.clear();
    environment.vars.insert(
        "HTGETTOKENOPTS".into(),
        "-i env --credkey='a b' --minsecs 5 -v".into(),
    );
    let words = words(&["-i".into(), "line".into()], &environment).unwrap();
    let Parsed::Run(options) = parse(&words).unwrap() else {
        panic!()
    };
    assert_eq!(options.issuer, "line");
    assert_eq!(options.credkey.as_deref(), Some("a b"));
    assert_eq!(options.minsecs, Some(5));
    assert!(options.verbose);
}

#[test]
fn open_quote_in_the_environment() {
    let mut environment = Environment::current();
    environment.vars.clear();
    environment
        .vars
        .insert("HTGETTOKENOPTS".into(), "-i 'x".into());
    let error = words(&[], &environment).unwrap_err();
    assert!(error.to_string().contains("HTGETTOKENOPTS"), "{error}");
}

#[test]
fn lifetimes() {
    assert_eq!(lifetime("--vaulttokenttl", "7d"), Ok(604_800));
    assert_eq!(lifetime("--vaulttokenttl", "90s"), Ok(90));
    assert_eq!(lifetime("--vaulttokenttl", "2m"), Ok(120));
    assert_eq!(lifetime("--vaulttokenttl", "010h"), Ok(36_000));
    for text in [
        "",
        "7",
        "d",
        "7D",
        "-1d",
        "1.5h",
        "7dd",
        "7 d",
        "é",
        "99999999999999999999d",
    ] {
        let message = lifetime("--vaulttokenttl", text).unwrap_err();
        assert!(message.contains("--vaulttokenttl"), "{message}");
    }
}
