//! The vault token: where htgettoken would look for it, and how long the server lets it live.

use super::{Fate, Place, length, list, places_json, printable};
use crate::environment::Environment;
use crate::files::Keep;
use crate::get::settings::{Settings, SettingsError, VaultTokenIn};
use crate::http::{Client, NoLog, Target};
use crate::options::Options;
use crate::vault::Vault;
use gridkeep_token::file::{Doubt, read_secret_noting};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// What there is to say about the vault token.
#[derive(Default)]
pub struct VaultToken {
    server: Option<String>,
    credkey: Option<(String, String)>,
    places: Vec<Place>,
    /// What the server says, if it was asked: seconds left.
    left: Option<Result<u64, String>>,
    notes: Vec<String>,
}

/// Looks where htgettoken would look.
pub fn look(options: &Options, environment: &Environment, ask: bool) -> VaultToken {
    let mut vault = VaultToken::default();
    let settings = match Settings::new(options, environment) {
        Ok(settings) => settings,
        Err(SettingsError::Usage(error)) => {
            vault.notes.push(format!(
                "htgettoken would not run ({error}): give its options here or in $HTGETTOKENOPTS."
            ));
            return vault;
        }
        Err(SettingsError::Fatal(reason)) => {
            vault
                .notes
                .push(format!("htgettoken would not run: {reason}."));
            return vault;
        }
    };
    if options.optserver.is_some() {
        vault
            .notes
            .push("What the option server (--optserver) adds is not considered.".to_owned());
    }
    vault.server = Some(settings.server.to_string());
    let keep = Keep::new(
        settings.config_dir.clone(),
        &settings.server.to_string(),
        &options.issuer,
        &options.role,
        environment,
    );
    vault.credkey = match options
        .credkey
        .clone()
        .filter(|credkey| !credkey.is_empty())
    {
        Some(credkey) => Some((credkey, "--credkey".to_owned())),
        None => keep
            .credkey()
            .map(|(credkey, path)| (credkey, path.display().to_string())),
    };
    if vault.credkey.is_none() && !options.nobearertoken {
        vault.notes.push(format!(
            "No credkey is known for issuer {} and role {}, so htgettoken would use no existing vault token: log in once, or give --credkey.",
            options.issuer, options.role
        ));
    }
    let token = vault.try_places(&settings, &keep, options, environment);
    if let (true, Some(token)) = (ask, &token) {
        vault.left = Some(ask_server(token, &settings, environment));
    }
    vault
}

impl VaultToken {
    /// Fills in the places; the answer is the first token found.
    fn try_places(
        &mut self,
        settings: &Settings,
        keep: &Keep,
        options: &Options,
        environment: &Environment,
    ) -> Option<SecretString> {
        match &settings.vault_in {
            VaultTokenIn::None => self.notes.push(
                "The options leave htgettoken no place to look for a vault token.".to_owned(),
            ),
            VaultTokenIn::Device(name) => self.notes.push(format!(
                "htgettoken would read a vault token from {name} and exchange it for a new one."
            )),
            VaultTokenIn::Named(_) | VaultTokenIn::Usual => {}
        }
        let credkey = self.credkey.as_ref().map(|(credkey, _)| credkey.as_str());
        let mut used = None;
        for (path, policy, what) in settings.vault_token_places(keep, credkey, options, environment)
        {
            let name = format!("{} ({what})", path.display());
            let mut doubts: Vec<Doubt> = Vec::new();
            let (fate, why) =
                match read_secret_noting(&path, policy, &mut |doubt| doubts.push(doubt)) {
                    _ if used.is_some() => (
                        Fate::NotReached,
                        "tried only if the one before is refused".to_owned(),
                    ),
                    Ok(None) if path.exists() => (Fate::PassedOver, "the file is empty".to_owned()),
                    Ok(None) => (Fate::PassedOver, "the file does not exist".to_owned()),
                    Ok(Some(token)) => {
                        used = Some(token);
                        (
                            Fate::Used,
                            doubts
                                .iter()
                                .map(|doubt| format!("note: {doubt}"))
                                .collect::<Vec<_>>()
                                .join("; "),
                        )
                    }
                    Err(error) => (Fate::Refused, error.to_string()),
                };
            self.places.push(Place { name, fate, why });
        }
        if used.is_some() && options.nobearertoken && !options.showbearerurl {
            self.notes.push("With --nobearertoken htgettoken wants a new vault token and does not use this one.".to_owned());
        }
        used
    }

    /// For people.
    pub fn text(&self, text: &mut String) {
        text.push_str("Vault token\n");
        if let Some(server) = &self.server {
            let _ = writeln!(text, "  server    {}", printable(server));
        }
        if let Some((credkey, from)) = &self.credkey {
            let _ = writeln!(
                text,
                "  credkey   {} (from {})",
                printable(credkey),
                printable(from)
            );
        }
        list(&self.places, text);
        match &self.left {
            Some(Ok(left)) => {
                let _ = writeln!(
                    text,
                    "  The server lets it live for {}.",
                    length(i64::try_from(*left).unwrap_or(i64::MAX))
                );
            }
            Some(Err(reason)) => {
                let _ = writeln!(
                    text,
                    "  The server does not say how long it lives: {}",
                    printable(reason)
                );
            }
            None if self.places.iter().any(|place| place.fate == Fate::Used) => {
                text.push_str(
                    "  Only the server knows how long it lives: ask with --ask-server.\n",
                );
            }
            None => {}
        }
        for note in &self.notes {
            let _ = writeln!(text, "  {}", printable(note));
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "server": self.server,
            "credkey": self.credkey.as_ref().map(|(credkey, _)| credkey),
            "places": places_json(&self.places),
            "found": self.places.iter().any(|place| place.fate == Fate::Used),
            "seconds_left": self.left.as_ref().and_then(|left| left.as_ref().ok()),
            "server_error": self.left.as_ref().and_then(|left| left.as_ref().err()),
            "notes": self.notes,
        })
    }
}

fn ask_server(
    token: &SecretString,
    settings: &Settings,
    environment: &Environment,
) -> Result<u64, String> {
    let target = Target {
        server: settings.server.clone(),
        alias: Some(settings.alias.clone()),
        certificate_name: settings.certificate_name.clone(),
        trust: settings.trust.clone(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let answer = runtime.block_on(async {
        let mut client = Client::new(target, environment).map_err(|error| error.to_string())?;
        client.limit(Some(environment.timing.unattended));
        Vault::new(client)
            .lookup_self(token, &mut NoLog)
            .await
            .map_err(|error| error.to_string())
    });
    // A lookup that hangs must not hold up the end.
    runtime.shutdown_background();
    answer
}
