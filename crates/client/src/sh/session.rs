//! What a session of httokensh consists of: the two argument lists for htgettoken, the places of token and log, the command.
//!
//! Worked out from the command line and the environment alone; touches the disk only to see which vault token file exists.
//! Refuses to know how a token is fetched or how a command is run.

use crate::environment::Environment;
use crate::options::grammar::{Item, Items};
use crate::options::{self, Key, Options, Parsed, TABLE};
use gridkeep_token::file::is_device_name;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Why there is no session.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Help was asked for, or nothing at all was given.
    #[error("")]
    Help,
    /// The command line lacks something.
    #[error("{0}")]
    Usage(&'static str),
    /// The options of htgettoken are wrong.
    #[error("{0}")]
    Options(#[from] options::UsageError),
    /// The token would go where nobody can read it again.
    #[error(
        "the bearer token cannot go to {0}: the command reads it from a file that is replaced at every renewal. Name a file with --outfile, or none"
    )]
    NotAFile(String),
}

/// A session, before anything was done for it.
#[derive(Debug, Clone)]
pub struct Session {
    /// Where the bearer token lies, an absolute name.
    pub bearer_file: PathBuf,
    /// Whether the bearer token is ours to remove at the end.
    pub remove_bearer: bool,
    /// Whether a `BEARER_TOKEN` was taken out of the environment of the command.
    pub dropped_bearer_token: bool,
    /// The life that the token must have left, in seconds.
    pub minsecs: u64,
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// The environment of htgettoken's first run and of the command.
    pub environment: Environment,
    /// The arguments of htgettoken's first run.
    pub first: Vec<OsString>,
    renewal: Vec<OsString>,
    vault_token: VaultToken,
}

/// Which vault token files the renewals may read.
#[derive(Debug, Clone)]
enum VaultToken {
    /// The user named it.
    Given,
    /// The file of this session, and the one that the original would use for the same command line.
    Ours { own: PathBuf, original: PathBuf },
}

impl Session {
    /// The session that `args` (without the program's name) ask for; `pid` makes the name of the token file unique.
    pub fn plan(
        args: &[OsString],
        environment: &Environment,
        pid: u32,
    ) -> Result<Session, SessionError> {
        let separator = match args.first() {
            None => return Err(SessionError::Help),
            Some(first) if first == "-h" || first == "--help" => return Err(SessionError::Help),
            Some(_) => args.iter().position(|arg| arg == "--"),
        };
        let Some(separator) = separator else {
            return Err(SessionError::Usage("No -- separator given"));
        };
        let (given, command) = (&args[..separator], &args[separator + 1..]);
        let words = options::words(given, environment)?;
        if words.is_empty() {
            return Err(SessionError::Usage("No htgettoken options given"));
        }
        let Parsed::Run(parsed) = options::parse(&words)? else {
            return Err(SessionError::Help);
        };
        let (bearer_file, remove_bearer) = bearer_file(&parsed, environment, pid)?;
        let mut session_environment = environment.clone();
        session_environment
            .vars
            .insert("BEARER_TOKEN_FILE".into(), bearer_file.clone().into());
        // By the discovery rules it would win over the file, in the command as well.
        let dropped = session_environment
            .vars
            .remove("BEARER_TOKEN".as_ref() as &std::ffi::OsStr)
            .is_some_and(|token| !token.is_empty());
        let mut first = given.to_vec();
        // A pipe is read once: afterwards the token it was exchanged for lies in the vault token file.
        let from_pipe = parsed
            .vaulttokeninfile
            .as_deref()
            .is_some_and(is_device_name);
        let mut renewal = canonical(&words, |key| match key {
            Key::VaultTokenMinTtl
            | Key::Quiet
            | Key::RegisterSsh
            | Key::NoBearerToken
            | Key::ShowBearerUrl => false,
            Key::VaultTokenInFile => !from_pipe,
            _ => true,
        });
        let vault_token = if parsed.vaulttokenfile.is_some() {
            VaultToken::Given
        } else {
            let vault_token = own_vault_token(given, &words, environment);
            if let VaultToken::Ours { own, .. } = &vault_token {
                let option = named("--vaulttokenfile=", own);
                first.push(option.clone());
                renewal.push(option);
            }
            if parsed.vaulttokeninfile.is_none() {
                first.extend(vault_token.reading());
            }
            vault_token
        };
        if parsed.vaulttokenttl.is_none() && parsed.vaulttokenminttl.is_none() {
            first.push("--vaulttokenminttl=6d".into());
        }
        if !parsed.verbose {
            renewal.push("-v".into());
        }
        renewal.extend(["--nooidc", "--nokerberos", "--nossh"].map(OsString::from));
        let vault_token = if parsed.vaulttokeninfile.is_some() && !from_pipe {
            VaultToken::Given
        } else {
            vault_token
        };
        let command = if command.is_empty() {
            vec![
                environment
                    .var_os("SHELL")
                    .filter(|shell| !shell.is_empty())
                    .map_or_else(|| "/bin/sh".into(), OsString::from),
            ]
        } else {
            command.to_vec()
        };
        Ok(Session {
            bearer_file,
            remove_bearer,
            dropped_bearer_token: dropped,
            minsecs: parsed.minimum_seconds(),
            command,
            environment: session_environment,
            first,
            renewal,
            vault_token,
        })
    }

    /// The log of the renewals.
    pub fn log_file(&self) -> PathBuf {
        let mut name = self.bearer_file.clone().into_os_string();
        name.push(".log");
        name.into()
    }

    /// The arguments and the environment of one renewal that asks for `minimum` seconds of life. Nobody is there to log in, so
    /// only the vault token on disk is used.
    pub fn renewal(&self, minimum: u64) -> (Vec<OsString>, Environment) {
        let mut args = self.renewal.clone();
        args.extend(self.vault_token.reading());
        if minimum != self.minsecs {
            args.push(format!("--minsecs={minimum}").into());
        }
        let mut environment = self.environment.clone();
        // Its words stand at the head of the arguments already.
        environment
            .vars
            .remove("HTGETTOKENOPTS".as_ref() as &std::ffi::OsStr);
        environment.terminals = crate::environment::Terminals::default();
        (args, environment)
    }
}

impl VaultToken {
    /// The option that makes htgettoken read the original's file where only that exists.
    fn reading(&self) -> Option<OsString> {
        match self {
            VaultToken::Ours { own, original }
                if own != original && !holds_something(own) && holds_something(original) =>
            {
                Some(named("--vaulttokeninfile=", original))
            }
            _ => None,
        }
    }
}

fn holds_something(path: &Path) -> bool {
    path.symlink_metadata()
        .is_ok_and(|meta| meta.is_file() && meta.len() > 0)
}

fn named(option: &str, path: &Path) -> OsString {
    let mut word = OsString::from(option);
    word.push(path);
    word
}

/// `-o`, else an inherited `BEARER_TOKEN_FILE` (which is then not ours to remove), else a name of this process.
fn bearer_file(
    options: &Options,
    environment: &Environment,
    pid: u32,
) -> Result<(PathBuf, bool), SessionError> {
    let expand = |text: &str| {
        let text = text.replace("%uid", &environment.euid.to_string());
        let path = if text.starts_with("~/") {
            environment.expand_tilde(&text)
        } else {
            PathBuf::from(text)
        };
        environment.absolute(&path)
    };
    if let Some(text) = options.outfile.as_ref().filter(|text| !text.is_empty()) {
        let path = expand(text);
        if path.starts_with("/dev") || path.starts_with("/proc") {
            return Err(SessionError::NotAFile(text.clone()));
        }
        return Ok((path, true));
    }
    if let Some(text) = environment.var("BEARER_TOKEN_FILE") {
        return Ok((expand(text), false));
    }
    let directory = environment
        .var("XDG_RUNTIME_DIR")
        .map_or_else(|| environment.tmp.clone(), PathBuf::from);
    Ok((
        environment.absolute(&directory.join(format!("bt_u{}.sh-{pid}", environment.euid))),
        true,
    ))
}

/// Sessions with the same options share a vault token. The original left `HTGETTOKENOPTS` out of the name, so that sessions for
/// different issuers could share one that fits only one of them.
fn own_vault_token(given: &[OsString], words: &[String], environment: &Environment) -> VaultToken {
    let path = |text: &str| {
        environment.tmp.join(format!(
            "vt_u{}.sh-{:x}",
            environment.euid,
            md5::compute(format!("{text}\n"))
        ))
    };
    let given: Vec<_> = given.iter().map(|word| word.to_string_lossy()).collect();
    VaultToken::Ours {
        own: path(&words.join(" ")),
        original: path(&given.join(" ")),
    }
}

/// The options among `words` that `keep` likes, each as one unambiguous word.
pub fn canonical(words: &[String], keep: impl Fn(Key) -> bool) -> Vec<OsString> {
    let long = |key: Key| {
        TABLE
            .iter()
            .find(|spec| spec.key == key)
            .map_or("", |spec| spec.long)
    };
    Items::new(TABLE, words)
        .filter_map(|item| match item {
            Ok(Item::Switch(key)) if keep(key) => Some(long(key).into()),
            Ok(Item::Value(key, value)) if keep(key) => {
                Some(format!("{}={value}", long(key)).into())
            }
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        tmp: tempfile::TempDir,
        environment: Environment,
    }

    fn place(vars: &[(&str, &str)]) -> Place {
        let tmp = tempfile::tempdir().unwrap();
        let mut environment = Environment::current();
        environment.vars = vars
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        environment.tmp = tmp.path().to_owned();
        environment.cwd = "/scratch".into();
        environment.euid = 1000;
        Place { tmp, environment }
    }

    impl Place {
        fn plan(&self, args: &[&str]) -> Result<Session, SessionError> {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            Session::plan(&args, &self.environment, 77)
        }

        fn file(&self, name: &str) -> String {
            self.tmp.path().join(name).to_str().unwrap().to_owned()
        }
    }

    fn texts(args: &[OsString]) -> Vec<&str> {
        args.iter().map(|arg| arg.to_str().unwrap()).collect()
    }

    #[test]
    fn what_is_missing_is_said() {
        let place = place(&[]);
        assert_eq!(place.plan(&[]).unwrap_err(), SessionError::Help);
        assert_eq!(place.plan(&["-h"]).unwrap_err(), SessionError::Help);
        assert_eq!(
            place.plan(&["--help", "--", "x"]).unwrap_err(),
            SessionError::Help
        );
        assert_eq!(
            place.plan(&["-a", "host"]).unwrap_err(),
            SessionError::Usage("No -- separator given")
        );
        assert_eq!(
            place.plan(&["--", "x"]).unwrap_err(),
            SessionError::Usage("No htgettoken options given")
        );
        assert!(matches!(
            place.plan(&["--bogus", "--", "x"]),
            Err(SessionError::Options(_))
        ));
        assert!(matches!(
            place.plan(&["-a", "h", "-o", "/dev/stdout", "--", "x"]),
            Err(SessionError::NotAFile(_))
        ));
    }

    #[test]
    fn options_may_come_from_the_environment_alone_and_the_shell_is_the_command() {
        let place = place(&[
            ("HTGETTOKENOPTS", "-a 'host' --minsecs 0x78"),
            ("SHELL", "/bin/zsh"),
        ]);
        let session = place.plan(&["--"]).unwrap();
        assert_eq!(session.minsecs, 120);
        assert_eq!(session.command, ["/bin/zsh"]);
    }

    #[test]
    fn the_command_starts_after_the_first_separator() {
        let session = place(&[])
            .plan(&["-a", "h", "--", "env", "--", "-x"])
            .unwrap();
        assert_eq!(session.command, ["env", "--", "-x"]);
    }

    #[test]
    fn every_spelling_of_an_option_is_noticed() {
        for args in [
            &["-o", "t%uid", "--"][..],
            &["-ot%uid", "--"],
            &["--outfile", "t%uid", "--"],
            &["--outf=t%uid", "--"],
            &["-vot%uid", "--"],
        ] {
            let session = place(&[("BEARER_TOKEN_FILE", "/elsewhere")])
                .plan(args)
                .unwrap();
            assert_eq!(session.bearer_file, Path::new("/scratch/t1000"), "{args:?}");
            assert!(session.remove_bearer);
            assert_eq!(
                session.environment.var("BEARER_TOKEN_FILE"),
                Some("/scratch/t1000")
            );
            assert_eq!(session.log_file(), Path::new("/scratch/t1000.log"));
        }
    }

    #[test]
    fn an_inherited_token_file_is_used_and_not_ours() {
        let session = place(&[
            ("BEARER_TOKEN_FILE", "/run/bt_u%uid"),
            ("BEARER_TOKEN", "x"),
        ])
        .plan(&["-a", "h", "--"])
        .unwrap();
        assert_eq!(session.bearer_file, Path::new("/run/bt_u1000"));
        assert!(!session.remove_bearer);
        assert!(session.dropped_bearer_token);
        assert_eq!(session.environment.var_os("BEARER_TOKEN"), None);
    }

    #[test]
    fn without_names_the_process_makes_one() {
        let session = place(&[
            ("XDG_RUNTIME_DIR", "/run/user/1000"),
            ("BEARER_TOKEN_FILE", ""),
        ])
        .plan(&["-a", "h", "--"])
        .unwrap();
        assert_eq!(
            session.bearer_file,
            Path::new("/run/user/1000/bt_u1000.sh-77")
        );
        let place = place(&[]);
        assert_eq!(
            place.plan(&["-a", "h", "--"]).unwrap().bearer_file,
            Path::new(&place.file("bt_u1000.sh-77"))
        );
    }

    #[test]
    fn the_vault_token_file_has_the_original_name() {
        let place = place(&[]);
        let session = place.plan(&["-a", "host", "-i", "dune", "--"]).unwrap();
        // printf -- '-a host -i dune\n' | md5sum
        let file = place.file("vt_u1000.sh-7331c29ad37ea868e58232b91b7ede4f");
        assert_eq!(
            texts(&session.first),
            [
                "-a",
                "host",
                "-i",
                "dune",
                &format!("--vaulttokenfile={file}"),
                "--vaulttokenminttl=6d"
            ]
        );
        let (args, _) = session.renewal(60);
        assert_eq!(
            texts(&args),
            [
                "--vaultserver=host",
                "--issuer=dune",
                &format!("--vaulttokenfile={file}"),
                "-v",
                "--nooidc",
                "--nokerberos",
                "--nossh"
            ]
        );
        let (args, _) = session.renewal(30);
        assert_eq!(args.last().unwrap(), "--minsecs=30");
    }

    #[test]
    fn the_environment_enters_the_name_and_the_original_file_is_read_while_there_is_no_other() {
        let place = place(&[("HTGETTOKENOPTS", "-i dune")]);
        let mut without = place.environment.clone();
        without.vars.clear();
        let plain =
            Session::plan(&["-a".into(), "host".into(), "--".into()], &without, 77).unwrap();
        let VaultToken::Ours { own: original, .. } = &plain.vault_token else {
            panic!("not ours")
        };
        let session = place.plan(&["-a", "host", "--"]).unwrap();
        let VaultToken::Ours { own, .. } = &session.vault_token else {
            panic!("not ours")
        };
        assert_ne!(own, original);
        assert!(
            !texts(&session.first)
                .iter()
                .any(|arg| arg.starts_with("--vaulttokeninfile"))
        );
        std::fs::write(original, "hvs.old\n").unwrap();
        let reading = format!("--vaulttokeninfile={}", original.display());
        let session = place.plan(&["-a", "host", "--"]).unwrap();
        assert!(texts(&session.first).contains(&reading.as_str()));
        assert!(texts(&session.renewal(60).0).contains(&reading.as_str()));
        std::fs::write(own, "hvs.new\n").unwrap();
        assert!(!texts(&session.renewal(60).0).contains(&reading.as_str()));
    }

    #[test]
    fn renewals_drop_what_needs_a_person_or_hides_reasons() {
        let place = place(&[("HTGETTOKENOPTS", "--vaulttokenmint 3d --scopes 'a b'")]);
        let session = place
            .plan(&[
                "-qa",
                "h",
                "--vaulttokenfile",
                "/v",
                "--registerssh",
                "--showbearerurl",
                "--vaulttokenttl=9d",
                "--",
            ])
            .unwrap();
        assert!(!texts(&session.first).contains(&"--vaulttokenminttl=6d"));
        let (args, environment) = session.renewal(60);
        assert_eq!(
            texts(&args),
            [
                "--scopes=a b",
                "--vaultserver=h",
                "--vaulttokenfile=/v",
                "--vaulttokenttl=9d",
                "-v",
                "--nooidc",
                "--nokerberos",
                "--nossh"
            ]
        );
        assert_eq!(environment.var_os("HTGETTOKENOPTS"), None);
        assert!(!environment.terminals.any());
    }

    #[test]
    fn a_vault_token_from_a_pipe_is_read_once() {
        let place = place(&[]);
        let session = place
            .plan(&["-a", "h", "--vaulttokeninfile=/dev/stdin", "--"])
            .unwrap();
        assert!(texts(&session.first).contains(&"--vaulttokeninfile=/dev/stdin"));
        let (args, _) = session.renewal(60);
        let args = texts(&args);
        assert!(
            !args.iter().any(|arg| arg.starts_with("--vaulttokeninfile")),
            "{args:?}"
        );
        assert!(
            args.iter().any(|arg| arg.starts_with("--vaulttokenfile=")),
            "{args:?}"
        );
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

        #[test]
        fn canonical_words_mean_the_same(words in proptest::collection::vec(
            proptest::sample::select(vec!["-a", "h", "-v", "-vq", "--scope", "a b", "--role=", "-oX", "--minsecs", "7", "-i-v", "--nooidc", "--credkey=#=x", "-qa"]),
            0..8,
        )) {
            let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
            if let Ok(Parsed::Run(options)) = options::parse(&words) {
                let again: Vec<String> = canonical(&words, |_| true).into_iter().map(|word| word.into_string().unwrap()).collect();
                proptest::prop_assert_eq!(options::parse(&again), Ok(Parsed::Run(options)));
            }
        }
    }
}
