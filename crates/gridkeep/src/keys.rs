//! The operator's part in sealing, unsealing and replacing the root key: what is read from terminals and files on this side of the
//! socket. The server never writes key files; who gives the order does.

use std::io::{BufRead as _, IsTerminal as _, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use gridkeep_store::RootKey;
use nix::sys::termios::{self, LocalFlags, SetArg};
use zeroize::Zeroizing;

use crate::config::{Loaded, process_of};
use crate::server::operator::{self, Order, Settled};
use crate::server::place::KeySource;
use crate::server::refusal::reason_of;
use crate::server::replacement;

/// How long it is waited for what becomes of a server that was sealed or unsealed.
const SETTLING: Duration = Duration::from_secs(30);

/// Gives the server a share, read from the terminal without showing it, or from standard input; where it needs none, tells it to
/// read its root key again.
///
/// # Errors
/// When the server refuses it.
pub fn unseal(loaded: &Loaded, directory: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let shamir = loaded
        .config
        .as_ref()
        .is_some_and(|config| config.gridkeep.shamir.value);
    let share = if shamir {
        // Asked first, so that nobody types a share for nothing.
        writeln!(out, "{}", operator::ask(directory, &Order::Unseal)?)?;
        let share = read_hidden("Share: ", out)?;
        anyhow::ensure!(
            !share.is_empty(),
            "no share was given: type or paste one, or send it by standard input"
        );
        Some(share)
    } else {
        None
    };
    let process = process_of(directory);
    let told = operator::ask_with(directory, &Order::Unseal, share)?;
    writeln!(out, "{told}")?;
    if told.ends_with(operator::SHARES_GIVEN) {
        return Ok(());
    }
    let log = "its log says why (journalctl -u gridkeep)";
    match operator::settle(directory, process, SETTLING) {
        Settled::Serves => writeln!(out, "the server serves")?,
        Settled::Says(text) => anyhow::bail!("the server does not serve; it answers: {text}"),
        Settled::Waits => {
            anyhow::bail!(
                "the server waits to be unsealed again, so it did not start with that key; {log}"
            )
        }
        Settled::Ended => anyhow::bail!("the server has ended instead of serving; {log}"),
        Settled::Unknown => anyhow::bail!(
            "the server does not serve within {} s; gridkeep status shows when it does, and if it stays so {log}",
            SETTLING.as_secs()
        ),
    }
    Ok(())
}

/// Seals the server, and says what became of it.
///
/// # Errors
/// When the server refuses it, or ends.
pub fn seal(directory: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let process = process_of(directory);
    writeln!(out, "{}", operator::ask(directory, &Order::Seal)?)?;
    match operator::settle(directory, process, SETTLING) {
        Settled::Waits => writeln!(
            out,
            "it has begun anew without keys, and waits to be unsealed (gridkeep operator unseal)"
        )?,
        Settled::Serves => writeln!(out, "it serves again: somebody has unsealed it")?,
        Settled::Says(text) => writeln!(out, "the server answers: {text}")?,
        Settled::Ended => anyhow::bail!(
            "the server has ended instead of waiting to be unsealed; its log says why (journalctl -u gridkeep)"
        ),
        Settled::Unknown => writeln!(
            out,
            "it still finishes what was under way, answers of issuers above all; gridkeep status shows when it waits to be unsealed"
        )?,
    }
    Ok(())
}

fn read_hidden(prompt: &str, out: &mut dyn Write) -> anyhow::Result<Zeroizing<String>> {
    let input = std::io::stdin();
    let mut line = Zeroizing::new(String::with_capacity(256));
    if !input.is_terminal() {
        input.lock().read_line(&mut line)?;
        return Ok(Zeroizing::new(line.trim().to_owned()));
    }
    write!(out, "{prompt}")?;
    out.flush()?;
    let usual = termios::tcgetattr(&input)?;
    let mut hidden = usual.clone();
    hidden.local_flags.remove(LocalFlags::ECHO);
    termios::tcsetattr(&input, SetArg::TCSAFLUSH, &hidden)?;
    let read = input.lock().read_line(&mut line);
    termios::tcsetattr(&input, SetArg::TCSAFLUSH, &usual)?;
    writeln!(out)?;
    read?;
    Ok(Zeroizing::new(line.trim().to_owned()))
}

/// Replaces the root key of the running server: by a new one in place of its file, or by that in `given`, which is made if it is
/// missing and which the operator then puts where the server finds it. `order` is what the server is asked. Where that is refused before
/// anything is changed, a key that was made for it is removed again.
///
/// # Errors
/// When a step fails; the text says what is in force.
pub fn replace_root_key(
    loaded: &Loaded,
    directory: &Path,
    given: Option<&Path>,
    order: &Order,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let config = loaded
        .config
        .as_ref()
        .context("there is no configuration")?;
    let (file, new) = match (given, KeySource::of(config, loaded)) {
        (Some(given), _) => (None, given.to_owned()),
        (None, KeySource::File(path)) if path.exists() => {
            let new = replacement::next(&path);
            (Some(path), new)
        }
        (None, _) => anyhow::bail!(
            "the root key does not lie in a file that this command finds; give the file for the new one with --key, and put it where the server finds its key afterwards"
        ),
    };
    // One command at a time: none takes away a key that another has put in force meanwhile.
    let place = match new.parent() {
        Some(place) if !place.as_os_str().is_empty() => place,
        _ => Path::new("."),
    };
    let held = std::fs::File::open(place).and_then(|place| place.lock().map(|()| place));
    let _held = held.with_context(|| format!("{} cannot be locked", place.display()))?;
    let old = file.as_deref().map(RootKey::from_file).transpose()?;
    let found = new.exists();
    let key = if found {
        RootKey::from_file(&new)?
    } else {
        let present = file.clone().or_else(|| to_be_replaced(loaded));
        make(&new, present.as_deref())?
    };
    let id = match operator::ask_with(directory, order, Some(key.to_text())) {
        Ok(id) => id,
        Err(error) if reason_of(&error).is_before_all() => {
            if !found {
                // Nothing is sealed under it, and nobody else knows it.
                std::fs::remove_file(&new).with_context(|| {
                    format!(
                        "{} is a key that nothing needs and that cannot be removed",
                        new.display()
                    )
                })?;
            }
            return Err(error.context("the root key was not replaced, and nothing was changed"));
        }
        Err(error) => {
            return Err(error.context(format!(
                "the root key was not replaced, or that is not known; the new one stays in {}: give the order again",
                new.display()
            )));
        }
    };
    anyhow::ensure!(
        id == key.id(),
        "the server answers for another key ({id}) than the one given ({}); do not remove any key",
        key.id()
    );
    match (file, old) {
        (Some(path), Some(old)) => {
            replacement::put_in_place(&path, &old.id())?;
            writeln!(
                out,
                "the store is sealed under root key {id}, which lies in {}; the old one lies in {}.old-{}: copies of the data from before today need it\nthe copy of the key in your safe place is out of date: copy {} there now, beside the old one",
                path.display(),
                path.display(),
                old.id(),
                path.display()
            )?;
        }
        _ => writeln!(
            out,
            "the store is sealed under root key {id} in {}; put it where the server finds its key before it is next started, and keep the old one for copies of the data from before today\nthe copy of the key in your safe place is out of date: copy {} there now, beside the old one",
            new.display(),
            new.display()
        )?,
    }
    Ok(())
}

/// Makes a key in a new file, with the owner of that of the present one where there is such.
fn make(new: &Path, present: Option<&Path>) -> anyhow::Result<RootKey> {
    let key = RootKey::generate_file(new)?;
    if let Some(present) = present {
        let old = std::fs::metadata(present)?;
        std::os::unix::fs::chown(new, Some(old.uid()), Some(old.gid())).with_context(|| {
            format!(
                "{} cannot be given the owner of {}",
                new.display(),
                present.display()
            )
        })?;
    }
    Ok(key)
}

/// The file of the present key, where a new one is made by root that is to be put in its place for the user of the service.
fn to_be_replaced(loaded: &Loaded) -> Option<PathBuf> {
    let config = loaded.config.as_ref()?;
    match KeySource::of(config, loaded) {
        KeySource::File(path) if nix::unistd::geteuid().is_root() && path.exists() => Some(path),
        _ => None,
    }
}

/// Lets a node of a cluster know the key that another node is about to put into force. The first node's makes it.
///
/// # Errors
/// When the file is no key or the server refuses it.
pub fn expect_root_key(
    loaded: &Loaded,
    directory: &Path,
    file: &Path,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let key = if file.exists() {
        RootKey::from_file(file)?
    } else {
        writeln!(out, "a new root key is made in {}", file.display())?;
        make(file, to_be_replaced(loaded).as_deref())?
    };
    let told = operator::ask_with(directory, &Order::ExpectRootKey, Some(key.to_text()))?;
    writeln!(out, "{told}")?;
    Ok(())
}
