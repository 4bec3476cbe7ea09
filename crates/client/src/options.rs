//! The options of `htgettoken`, which its companions share: where they come from, how they are spelled, what was given.
//!
//! Owns the table of options, the three layers they come from (option server, `HTGETTOKENOPTS`, command line) and the texts of
//! usage errors. Refuses to know what follows from an option: defaults that depend on anything but the option itself are
//! worked out in `get::settings`. A new option is one line of [`TABLE`], one field of [`Options`] and one arm of `take`; it
//! must not abbreviate, see [`grammar::Spec::abbreviates`].

pub mod grammar;
pub mod words;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write};

use thiserror::Error;

use crate::environment::Environment;
use grammar::{Item, Items, Spec};

/// The version of the original whose behaviour is kept: what `--version` prints, because packaging scripts compare it.
pub const COMPATIBLE_VERSION: &str = "2.6";

/// What `--help` and usage errors print first, for the program called `htgettoken`.
pub const USAGE: &str = "Usage: htgettoken [-h] [otheroptions]";

/// Every option, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the long names, described in TABLE")]
pub enum Key {
    Version,
    Help,
    Verbose,
    Debug,
    Quiet,
    OptServer,
    VaultServer,
    VaultAlias,
    VaultCertName,
    Issuer,
    Role,
    NoKerberos,
    KerbPath,
    KerbPrincipal,
    KerbKeytab,
    NoOidc,
    OidcPath,
    NoSsh,
    SshPath,
    RegisterSsh,
    NoVaultToken,
    ConfigDir,
    CredKey,
    SecretPath,
    VaultTokenTtl,
    VaultTokenMinTtl,
    VaultTokenFile,
    VaultTokenInFile,
    ShowBearerUrl,
    NoBearerToken,
    OutFile,
    MinSecs,
    Scopes,
    Audience,
    CaFile,
    CaPath,
    WebOpenCommand,
    OptServerCache,
    ShowSecrets,
}

const fn switch(
    key: Key,
    short: Option<char>,
    long: &'static str,
    help: &'static str,
) -> Spec<Key> {
    Spec {
        key,
        short,
        long,
        value: None,
        abbreviates: true,
        help,
    }
}

const fn value(
    key: Key,
    short: Option<char>,
    long: &'static str,
    value: &'static str,
    help: &'static str,
) -> Spec<Key> {
    Spec {
        key,
        short,
        long,
        value: Some(value),
        abbreviates: true,
        help,
    }
}

/// A switch the original does not have: it must be written in full.
const fn new_switch(key: Key, long: &'static str, help: &'static str) -> Spec<Key> {
    Spec {
        key,
        short: None,
        long,
        value: None,
        abbreviates: false,
        help,
    }
}

/// The options, in the order of the help text.
#[rustfmt::skip]
pub const TABLE: &[Spec<Key>] = &[
    switch(Key::Version, None, "--version", "print the version of htgettoken that this program replaces, and end"),
    switch(Key::Help, Some('h'), "--help", "print this text and end"),
    switch(Key::Verbose, Some('v'), "--verbose", "say each action and the reason of each failure"),
    switch(Key::Debug, Some('d'), "--debug", "as --verbose, and show every request and answer with the secrets blacked out"),
    switch(Key::Quiet, Some('q'), "--quiet", "no progress and no error text; the prompt of a login is still shown"),
    value(Key::OptServer, Some('s'), "--optserver", "HOST_OR_URL", "fetch further options from this web server"),
    value(Key::VaultServer, Some('a'), "--vaultserver", "HOST_OR_URL", "the server that keeps the credentials [required]"),
    value(Key::VaultAlias, None, "--vaultalias", "HOST_OR_URL", "service name of a cluster when --vaultserver names one member [default: vaultserver]"),
    value(Key::VaultCertName, None, "--vaultcertname", "HOST", "name expected in the server certificate [default: host of vaultserver]"),
    value(Key::Issuer, Some('i'), "--issuer", "NAME", "the server's name for the token issuer [default: default]"),
    value(Key::Role, Some('r'), "--role", "NAME", "the server's name for a set of scopes of the issuer [default: default]"),
    switch(Key::NoKerberos, None, "--nokerberos", "do not try Kerberos"),
    value(Key::KerbPath, None, "--kerbpath", "PATH", "server path of the Kerberos login [default: auth/kerberos-%issuer_%role]"),
    value(Key::KerbPrincipal, None, "--kerbprincipal", "PRINCIPAL", "which Kerberos principal to use [default: the current one]"),
    value(Key::KerbKeytab, None, "--kerbkeytab", "PATH", "log in with the keys of this keytab instead of a ticket that is there"),
    switch(Key::NoOidc, None, "--nooidc", "do not log in with a web browser"),
    value(Key::OidcPath, None, "--oidcpath", "PATH", "server path of the browser login [default: auth/oidc-%issuer/oidc]"),
    switch(Key::NoSsh, None, "--nossh", "do not try the ssh-agent"),
    value(Key::SshPath, None, "--sshpath", "PATH", "server path of the ssh login [default: auth/ssh]"),
    switch(Key::RegisterSsh, None, "--registerssh", "log in with a browser and register the public keys of the ssh-agent"),
    switch(Key::NoVaultToken, None, "--novaulttoken", "obtain no new vault token: --nooidc --nokerberos --nossh; an existing one is used"),
    value(Key::ConfigDir, Some('c'), "--configdir", "DIR", "directory of the remembered credkeys [default: ~/.config/htgettoken]"),
    value(Key::CredKey, None, "--credkey", "KEY", "key under which the server keeps the credential [default: remembered from the last login]"),
    value(Key::SecretPath, None, "--secretpath", "PATH", "server path of the bearer token [default: secret/oauth/creds/%issuer/%credkey:%role]"),
    value(Key::VaultTokenTtl, None, "--vaulttokenttl", "TIME", "life of a new vault token, a number and s, m, h or d [default: 7d]"),
    value(Key::VaultTokenMinTtl, None, "--vaulttokenminttl", "TIME", "use an existing vault token only if it lives this long [default: 0s]"),
    value(Key::VaultTokenFile, None, "--vaulttokenfile", "PATH", "where a new vault token goes [default: /tmp/vt_u%uid, or /dev/stdout if it lives longer than 1000000 s]"),
    value(Key::VaultTokenInFile, None, "--vaulttokeninfile", "PATH", "where an existing vault token is read; one from /dev/stdin or /dev/fd/N is exchanged for a new one [default: %vaulttokenfile]"),
    switch(Key::ShowBearerUrl, None, "--showbearerurl", "print the URL of the bearer token on standard output"),
    switch(Key::NoBearerToken, None, "--nobearertoken", "end after obtaining a vault token"),
    value(Key::OutFile, Some('o'), "--outfile", "PATH", "where the bearer token goes [default: $BEARER_TOKEN_FILE, else $XDG_RUNTIME_DIR/bt_u%uid, else /tmp/bt_u%uid]"),
    value(Key::MinSecs, None, "--minsecs", "N", "seconds that the bearer token must still live [default: 60]"),
    value(Key::Scopes, None, "--scopes", "LIST", "ask for these scopes only, separated by commas or blanks"),
    value(Key::Audience, None, "--audience", "LIST", "ask for these audiences only, separated by commas or blanks"),
    value(Key::CaFile, None, "--cafile", "FILE", "file of trusted certificate authorities, PEM"),
    value(Key::CaPath, None, "--capath", "DIR", "directory of further trusted certificate authorities [default: $X509_CERT_DIR, else /etc/grid-security/certificates]"),
    value(Key::WebOpenCommand, None, "--web-open-command", "COMMAND", "program that opens a URL in a browser; empty for none"),
    new_switch(Key::OptServerCache, "--optserver-cache", "keep a copy of what the option server said, and use it when the server cannot be reached"),
    new_switch(Key::ShowSecrets, "--show-secrets", "with --debug: do not black out the secrets"),
];

/// What was given, layers merged. A value that was not given is `None` where a default depends on more than the option.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "command line switches are booleans"
)]
pub struct Options {
    /// `-v`, or `-d`.
    pub verbose: bool,
    /// `-d`.
    pub debug: bool,
    /// `-q`.
    pub quiet: bool,
    /// `-s`.
    pub optserver: Option<String>,
    /// `-a`; empty counts as missing.
    pub vaultserver: Option<String>,
    /// `--vaultalias`.
    pub vaultalias: Option<String>,
    /// `--vaultcertname`.
    pub vaultcertname: Option<String>,
    /// `-i`.
    pub issuer: String,
    /// `-r`.
    pub role: String,
    /// `--nokerberos`, or what implies it.
    pub nokerberos: bool,
    /// `--kerbpath`.
    pub kerbpath: String,
    /// `--kerbprincipal`.
    pub kerbprincipal: Option<String>,
    /// `--kerbkeytab`, which the original does not have.
    pub kerbkeytab: Option<String>,
    /// `--nooidc`, or what implies it.
    pub nooidc: bool,
    /// `--oidcpath`.
    pub oidcpath: String,
    /// `--nossh`, or what implies it.
    pub nossh: bool,
    /// `--sshpath`.
    pub sshpath: String,
    /// `--registerssh`.
    pub registerssh: bool,
    /// `--novaulttoken`.
    pub novaulttoken: bool,
    /// `-c`.
    pub configdir: Option<String>,
    /// `--credkey`.
    pub credkey: Option<String>,
    /// `--secretpath`.
    pub secretpath: String,
    /// `--vaulttokenttl`, as written; [`lifetime`] reads it.
    pub vaulttokenttl: Option<String>,
    /// `--vaulttokenminttl`, as written; [`lifetime`] reads it.
    pub vaulttokenminttl: Option<String>,
    /// `--vaulttokenfile`.
    pub vaulttokenfile: Option<String>,
    /// `--vaulttokeninfile`.
    pub vaulttokeninfile: Option<String>,
    /// `--showbearerurl`.
    pub showbearerurl: bool,
    /// `--nobearertoken`.
    pub nobearertoken: bool,
    /// `-o`.
    pub outfile: Option<String>,
    /// `--minsecs`, seconds; none if not given (60 then).
    pub minsecs: Option<u64>,
    /// `--scopes`; empty counts as not given.
    pub scopes: Option<String>,
    /// `--audience`; empty counts as not given.
    pub audience: Option<String>,
    /// `--cafile`.
    pub cafile: Option<String>,
    /// `--capath`.
    pub capath: Option<String>,
    /// `--web-open-command`.
    pub web_open_command: Option<String>,
    /// `--optserver-cache`.
    pub optserver_cache: bool,
    /// `--show-secrets`.
    pub show_secrets: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            verbose: false,
            debug: false,
            quiet: false,
            optserver: None,
            vaultserver: None,
            vaultalias: None,
            vaultcertname: None,
            issuer: "default".to_owned(),
            role: "default".to_owned(),
            nokerberos: false,
            kerbpath: "auth/kerberos-%issuer_%role".to_owned(),
            kerbprincipal: None,
            kerbkeytab: None,
            nooidc: false,
            oidcpath: "auth/oidc-%issuer/oidc".to_owned(),
            nossh: false,
            sshpath: "auth/ssh".to_owned(),
            registerssh: false,
            novaulttoken: false,
            configdir: None,
            credkey: None,
            secretpath: "secret/oauth/creds/%issuer/%credkey:%role".to_owned(),
            vaulttokenttl: None,
            vaulttokenminttl: None,
            vaulttokenfile: None,
            vaulttokeninfile: None,
            showbearerurl: false,
            nobearertoken: false,
            outfile: None,
            minsecs: None,
            scopes: None,
            audience: None,
            cafile: None,
            capath: None,
            web_open_command: None,
            optserver_cache: false,
            show_secrets: false,
        }
    }
}

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Work, with these options.
    Run(Box<Options>),
    /// The help text on standard output, and nothing else.
    Help,
    /// The version on standard output, and nothing else.
    Version,
}

/// The command line is wrong; exit code 2.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum UsageError {
    /// The words do not follow the grammar: unknown or ambiguous option, missing value, bad number.
    #[error("{0}")]
    Grammar(String),
    /// The words are well formed and make no sense together.
    #[error("{0}")]
    Meaning(String),
}

impl UsageError {
    /// Writes the message in the layout of the original: grammar errors after the short usage, others before the whole help.
    ///
    /// # Errors
    /// What `err` reports.
    pub fn write(&self, err: &mut dyn Write) -> io::Result<()> {
        match self {
            UsageError::Grammar(text) => write!(err, "{USAGE}\n\nhtgettoken: error: {text}\n"),
            UsageError::Meaning(text) => write!(err, "htgettoken: {text}\n{}", help()),
        }
    }
}

/// The words of `HTGETTOKENOPTS` followed by the arguments (without the program's name): the layers that need no server.
///
/// # Errors
/// The variable has an open quote, or a word is not UTF-8.
pub fn words(args: &[OsString], environment: &Environment) -> Result<Vec<String>, UsageError> {
    let mut all = match environment.var_os("HTGETTOKENOPTS") {
        None => Vec::new(),
        Some(text) => {
            let text = text.to_str().ok_or_else(|| {
                UsageError::Meaning("HTGETTOKENOPTS is not UTF-8 text".to_owned())
            })?;
            words::split(text).map_err(|error| {
                UsageError::Meaning(format!("cannot read HTGETTOKENOPTS: {error}"))
            })?
        }
    };
    for arg in args {
        let word = arg.to_str().ok_or_else(|| {
            UsageError::Meaning(format!("the argument {} is not UTF-8 text", arg.display()))
        })?;
        all.push(word.to_owned());
    }
    Ok(all)
}

/// Reads words in order; later values replace earlier ones, switches stay on. `--help` and `--version` end the reading.
///
/// # Errors
/// Anything [`UsageError`] describes, a left-over word included. Whether a server was named is not looked at here.
pub fn parse(words: &[String]) -> Result<Parsed, UsageError> {
    let mut options = Options::default();
    let mut positional = None;
    for item in Items::new(TABLE, words) {
        match item.map_err(UsageError::Grammar)? {
            Item::Switch(Key::Help) => return Ok(Parsed::Help),
            Item::Switch(Key::Version) => return Ok(Parsed::Version),
            Item::Switch(key) => options.switch_on(key),
            Item::Value(key, value) => options.take(key, value)?,
            Item::Positional(word) => {
                positional.get_or_insert(word);
            }
        }
    }
    if let Some(word) = positional {
        return Err(UsageError::Meaning(format!(
            "unexpected argument \"{word}\": every word must be an option or the value of one"
        )));
    }
    options.imply();
    Ok(Parsed::Run(Box::new(options)))
}

impl Options {
    /// `--minsecs` or its default.
    #[must_use]
    pub fn minimum_seconds(&self) -> u64 {
        self.minsecs.unwrap_or(60)
    }

    fn switch_on(&mut self, key: Key) {
        match key {
            Key::Verbose => self.verbose = true,
            Key::Debug => self.debug = true,
            Key::Quiet => self.quiet = true,
            Key::NoKerberos => self.nokerberos = true,
            Key::NoOidc => self.nooidc = true,
            Key::NoSsh => self.nossh = true,
            Key::RegisterSsh => self.registerssh = true,
            Key::NoVaultToken => self.novaulttoken = true,
            Key::ShowBearerUrl => self.showbearerurl = true,
            Key::NoBearerToken => self.nobearertoken = true,
            Key::OptServerCache => self.optserver_cache = true,
            Key::ShowSecrets => self.show_secrets = true,
            _ => {}
        }
    }

    fn take(&mut self, key: Key, value: String) -> Result<(), UsageError> {
        match key {
            Key::OptServer => self.optserver = Some(value),
            Key::VaultServer => self.vaultserver = Some(value),
            Key::VaultAlias => self.vaultalias = Some(value),
            Key::VaultCertName => self.vaultcertname = Some(value),
            Key::Issuer => self.issuer = value,
            Key::Role => self.role = value,
            Key::KerbPath => self.kerbpath = value,
            Key::KerbPrincipal => self.kerbprincipal = Some(value),
            Key::KerbKeytab => self.kerbkeytab = Some(value),
            Key::OidcPath => self.oidcpath = value,
            Key::SshPath => self.sshpath = value,
            Key::ConfigDir => self.configdir = Some(value),
            Key::CredKey => self.credkey = Some(value),
            Key::SecretPath => self.secretpath = value,
            Key::VaultTokenTtl => self.vaulttokenttl = Some(value),
            Key::VaultTokenMinTtl => self.vaulttokenminttl = Some(value),
            Key::VaultTokenFile => self.vaulttokenfile = Some(value),
            Key::VaultTokenInFile => self.vaulttokeninfile = Some(value),
            Key::OutFile => self.outfile = Some(value),
            Key::MinSecs => self.minsecs = Some(minsecs(&value)?),
            Key::Scopes => self.scopes = Some(value),
            Key::Audience => self.audience = Some(value),
            Key::CaFile => self.cafile = Some(value),
            Key::CaPath => self.capath = Some(value),
            Key::WebOpenCommand => self.web_open_command = Some(value),
            _ => {}
        }
        Ok(())
    }

    /// Switches that follow from others.
    fn imply(&mut self) {
        self.verbose |= self.debug;
        self.nokerberos |= self.registerssh || self.novaulttoken;
        self.nossh |= self.registerssh || self.novaulttoken;
        self.nooidc |= self.novaulttoken;
    }
}

/// `--minsecs`: decimal (leading zeros allowed), `0x…` or `0b…`, with an optional sign.
fn minsecs(text: &str) -> Result<u64, UsageError> {
    let bad = || UsageError::Grammar(format!("option --minsecs: invalid integer value: '{text}'"));
    let trimmed = text.trim();
    let (negative, digits) = match trimmed.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, trimmed.strip_prefix('+').unwrap_or(trimmed)),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, radix) = if let Some(hex) = lower.strip_prefix("0x") {
        (hex, 16)
    } else if let Some(binary) = lower.strip_prefix("0b") {
        (binary, 2)
    } else {
        (lower.as_str(), 10)
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(bad());
    }
    let number = u64::from_str_radix(digits, radix).map_err(|_| bad())?;
    if negative && number > 0 {
        return Err(UsageError::Grammar(format!(
            "option --minsecs: the number of seconds must not be negative: '{text}'"
        )));
    }
    Ok(number)
}

/// Reads a life: digits and one of `s`, `m`, `h`, `d`. Answers seconds.
///
/// # Errors
/// A sentence that names `option`.
pub fn lifetime(option: &str, text: &str) -> Result<u64, String> {
    let bad = || {
        format!(
            "{option} wants a number followed by s, m, h or d, for example 7d, and got \"{text}\""
        )
    };
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86400,
        _ => return Err(bad()),
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(bad)
}

/// The help text.
#[must_use]
pub fn help() -> String {
    let mut text = format!(
        "{USAGE}\n\nObtains a bearer token for grid services and stores it in a file.\n\nOptions:\n"
    );
    for spec in TABLE {
        let mut names = String::from("  ");
        if let Some(short) = spec.short {
            let _ = write!(names, "-{short}, ");
        }
        names.push_str(spec.long);
        if let Some(value) = spec.value {
            let _ = write!(names, "={value}");
        }
        let _ = writeln!(text, "{names}");
        wrap(&mut text, spec.help);
    }
    text.push_str(
        "\nOptions are taken from the option server, then from HTGETTOKENOPTS, then from the command line; the last one wins.\n\
         GRIDKEEP_LOGIN_TIMEOUT sets how long a login in a browser may take [default: 2m].\n",
    );
    text
}

/// Appends `sentence` in lines of at most 79 characters, indented.
fn wrap(text: &mut String, sentence: &str) {
    const INDENT: &str = "        ";
    let mut line = String::from(INDENT);
    for word in sentence.split(' ') {
        if line.len() > INDENT.len() && line.len() + 1 + word.len() > 79 {
            text.push_str(&line);
            text.push('\n');
            line = String::from(INDENT);
        }
        if line.len() > INDENT.len() {
            line.push(' ');
        }
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

#[cfg(test)]
mod tests;
