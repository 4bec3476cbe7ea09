//! Opening the login page in a browser. Owns which program and with which environment; its failure is never fatal.

use std::ffi::OsString;
use std::process::Stdio;

use tokio::process::Command;
use tokio::time::timeout;

use crate::environment::Environment;

/// Browsers with windows; one that draws in the terminal would take it over.
const GRAPHICAL: &str =
    "x-www-browser:firefox:chromium:chromium-browser:google-chrome:konqueror:epiphany:falkon";
/// A program that does not exist, so that `xdg-open` fails at once instead of starting a browser in the terminal.
const NONE: &str = "no-browser";

/// The program to use, if one is to be tried: `option` is `--web-open-command`.
pub(super) fn command(option: Option<&str>, environment: &Environment) -> Option<String> {
    match option {
        Some("") => None,
        Some(command) => Some(command.to_owned()),
        None if environment.var_os("SSH_CLIENT").is_some() => None,
        None if cfg!(target_os = "macos") => Some("open".to_owned()),
        None => Some("xdg-open".to_owned()),
    }
}

/// Starts `command` with `url` as its only argument, and watches a moment for an early failure.
///
/// # Errors
/// Why no browser opened.
pub(super) async fn open(
    command: &str,
    url: &str,
    environment: &Environment,
) -> Result<(), String> {
    let mut child = Command::new(command);
    child
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir(&environment.cwd)
        .env_clear()
        .envs(&environment.vars)
        // It stays when this program ends, and an interrupt from the terminal is not for it.
        .process_group(0);
    if let Some(browser) = browser(environment) {
        child.env("BROWSER", browser);
    }
    let mut child = child
        .spawn()
        .map_err(|error| format!("cannot run {command}: {error}"))?;
    match timeout(environment.timing.browser, child.wait()).await {
        Ok(Ok(status)) if !status.success() => Err(format!("{command} failed ({status})")),
        _ => Ok(()),
    }
}

/// What `$BROWSER` is to be, if it is not set.
fn browser(environment: &Environment) -> Option<OsString> {
    if environment.var_os("BROWSER").is_some() {
        return None;
    }
    let graphical = ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| environment.var(name).is_some());
    Some(if graphical { GRAPHICAL } else { NONE }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(vars: &[(&str, &str)]) -> Environment {
        let mut environment = Environment::current();
        environment.vars = vars
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .collect();
        environment
    }

    #[test]
    fn which_program() {
        assert_eq!(
            command(Some("x"), &environment(&[("SSH_CLIENT", "")])).as_deref(),
            Some("x")
        );
        assert_eq!(command(Some(""), &environment(&[])), None);
        assert_eq!(command(None, &environment(&[("SSH_CLIENT", "")])), None);
        assert!(command(None, &environment(&[])).is_some());
    }

    #[test]
    fn which_browser() {
        assert_eq!(browser(&environment(&[("BROWSER", "")])), None);
        assert_eq!(browser(&environment(&[])).unwrap(), NONE);
        assert_eq!(
            browser(&environment(&[("WAYLAND_DISPLAY", "w")])).unwrap(),
            GRAPHICAL
        );
    }

    #[tokio::test]
    async fn failures_are_told() {
        let environment = environment(&[("PATH", "/usr/bin:/bin")]);
        assert!(
            open("/no/such/program", "https://x", &environment)
                .await
                .unwrap_err()
                .contains("cannot run")
        );
        assert!(
            open("false", "https://x", &environment)
                .await
                .unwrap_err()
                .contains("failed")
        );
        open("true", "https://x", &environment).await.unwrap();
    }
}
