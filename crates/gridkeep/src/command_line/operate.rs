//! The commands of `gridkeep operator`.

use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;
use gridkeep_client::inventory;

use super::{Files, run_directory};
use crate::config::{self, Surroundings};
use crate::keys;
use crate::server::inventory::Listing;
use crate::server::operator::{self, Order};

#[derive(Debug, Subcommand)]
pub(super) enum OperatorCommand {
    /// Get an operator's token of 15 minutes (for root, or the user the server runs as)
    Token {
        #[command(flatten)]
        files: Files,
        /// Print accessor and lifetime too, as JSON
        #[arg(long)]
        json: bool,
    },
    /// List the credentials that are stored
    Credentials {
        #[command(flatten)]
        files: Files,
        /// Report as JSON
        #[arg(long)]
        json: bool,
        /// Only names that begin so: ISSUER/ or ISSUER/CREDKEY
        #[arg(default_value = "")]
        below: String,
    },
    /// List the vault tokens that are alive
    Tokens {
        #[command(flatten)]
        files: Files,
        /// Report as JSON
        #[arg(long)]
        json: bool,
        /// Only those that speak for this person (a credkey) or for a robot below it, and those whose display name contains this
        #[arg(default_value = "")]
        of: String,
    },
    /// Show a credential (ISSUER/CREDKEY:ROLE) or a vault token (its accessor)
    Show {
        #[command(flatten)]
        files: Files,
        /// Report as JSON
        #[arg(long)]
        json: bool,
        /// The credential's name or the token's accessor
        which: String,
    },
    /// End a credential, at its issuer too, or a vault token with all made of it
    Revoke {
        #[command(flatten)]
        files: Files,
        /// The credential's name or the token's accessor
        which: String,
    },
    /// Tell the server that its wall clock is right after a jump
    ConfirmClock {
        #[command(flatten)]
        files: Files,
    },
    /// Let the server drop its keys: every request is refused until it is unsealed
    Seal {
        #[command(flatten)]
        files: Files,
    },
    /// Give a sealed server one share of its root key, from the terminal or standard input; or let it read its root key again
    Unseal {
        #[command(flatten)]
        files: Files,
    },
    /// Seal new records under a new data key, and the others in the background
    RotateKeyring {
        #[command(flatten)]
        files: Files,
    },
    /// Seal the store under a new root key, which takes the place of the old one's file
    RotateRootKey {
        #[command(flatten)]
        files: Files,
        /// Take the new key from this file, made if it is missing, and leave it there; for a key that the service manager provides
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// Also if live nodes of the cluster do not know the new key: they serve nobody by themselves until they are told
        #[arg(long)]
        force: bool,
    },
    /// Let this node of a cluster know the root key that another is about to rotate to
    ExpectRootKey {
        #[command(flatten)]
        files: Files,
        /// The file with the new key
        #[arg(value_name = "FILE")]
        key: PathBuf,
    },
}

pub(super) fn operate(command: OperatorCommand, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        OperatorCommand::Token { files, json } => {
            let answer = operator::ask(&run_directory(&files)?, &Order::Token)?;
            if json {
                writeln!(out, "{answer}")?;
            } else {
                let token: operator::TokenAnswer = serde_json::from_str(&answer)?;
                writeln!(out, "{}", token.token)?;
            }
        }
        OperatorCommand::Credentials { files, json, below } => {
            let nothing = match below.as_str() {
                "" => "no credential is stored".to_owned(),
                below => format!("no credential is stored whose name begins with {below}"),
            };
            let answer = operator::ask(&run_directory(&files)?, &Order::Credentials { below })?;
            list(
                &answer,
                json,
                |all| inventory::credentials(all),
                &nothing,
                out,
            )?;
        }
        OperatorCommand::Tokens { files, json, of } => {
            let nothing = match of.as_str() {
                "" => "no vault token is alive".to_owned(),
                of => format!(
                    "no live vault token was found that speaks for {of} or has this in its display name"
                ),
            };
            let answer = operator::ask(&run_directory(&files)?, &Order::Tokens { of })?;
            list(&answer, json, |all| inventory::tokens(all), &nothing, out)?;
        }
        OperatorCommand::Show { files, json, which } => {
            let answer = operator::ask(&run_directory(&files)?, &Order::Show { which })?;
            let shown: serde_json::Value = serde_json::from_str(&answer)?;
            if json {
                writeln!(out, "{shown:#}")?;
            } else {
                let text = inventory::credentials(shown.get("credential"))
                    + &inventory::tokens(shown.get("token"));
                out.write_all(text.as_bytes())?;
            }
        }
        OperatorCommand::Revoke { files, which } => {
            let answer = operator::ask(&run_directory(&files)?, &Order::Revoke { which })?;
            writeln!(out, "{answer}")?;
        }
        OperatorCommand::ConfirmClock { files } => {
            let answer = operator::ask(&run_directory(&files)?, &Order::ConfirmClock)?;
            writeln!(out, "{answer}")?;
        }
        OperatorCommand::Seal { files } => {
            keys::seal(&run_directory(&files)?, out)?;
        }
        OperatorCommand::RotateKeyring { files } => {
            let answer = operator::ask(&run_directory(&files)?, &Order::RotateKeyring)?;
            writeln!(out, "{answer}")?;
        }
        OperatorCommand::Unseal { files } => {
            let loaded = config::load(&files.paths(), &Surroundings::of_this_host());
            keys::unseal(&loaded, &run_directory(&files)?, out)?;
        }
        OperatorCommand::RotateRootKey { files, key, force } => {
            let loaded = config::load(&files.paths(), &Surroundings::of_this_host());
            let order = Order::ReplaceRootKey { force };
            keys::replace_root_key(
                &loaded,
                &run_directory(&files)?,
                key.as_deref(),
                &order,
                out,
            )?;
        }
        OperatorCommand::ExpectRootKey { files, key } => {
            let loaded = config::load(&files.paths(), &Surroundings::of_this_host());
            keys::expect_root_key(&loaded, &run_directory(&files)?, &key, out)?;
        }
    }
    Ok(())
}

fn list(
    answer: &str,
    json: bool,
    text: impl FnOnce(&[serde_json::Value]) -> String,
    nothing: &str,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let listing: Listing = serde_json::from_str(answer)?;
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&listing)?)?;
        return Ok(());
    }
    if listing.found.is_empty() {
        writeln!(out, "{nothing}")?;
    }
    out.write_all(text(&listing.found).as_bytes())?;
    if listing.more {
        writeln!(out, "There is more; ask for a part of it.")?;
    }
    Ok(())
}
