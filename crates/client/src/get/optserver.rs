//! The option server: a text on a web server that holds the first layer of options. Owns its address, its fetching and the copy
//! kept for bad days.

use std::fs;
use std::path::PathBuf;

use super::{FAILED, USAGE};
use crate::environment::Environment;
use crate::files;
use crate::http::{Call, Client, NoLog, Reply, ServerUrl, Target, TrustSources};
use crate::options::{Options, words::split};

/// Why there are no options, and the exit code.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) text: String,
    pub(super) code: i32,
}

impl Failure {
    fn fatal(text: String) -> Self {
        Self { text, code: FAILED }
    }
}

/// Fetches and splits the text.
pub(super) async fn words(
    server: &str,
    options: &Options,
    environment: &Environment,
) -> Result<Vec<String>, Failure> {
    let (host, path) = address(server)?;
    let url = format!("{host}{path}");
    let copy = options
        .optserver_cache
        .then(|| copy(&url, options, environment))
        .flatten();
    let text = match fetch(host, path, options, environment).await {
        Ok(text) => {
            if let Some(copy) = &copy {
                // A copy that cannot be written only misses the next outage.
                if let Some(Ok(())) = copy.parent().map(files::make_dir) {
                    let _ = files::write(copy, text.as_bytes());
                }
            }
            text
        }
        Err(reason) => match copy.and_then(|copy| fs::read_to_string(copy).ok()) {
            Some(text) => text,
            None => {
                return Err(Failure::fatal(format!(
                    "fetching options from {url} failed: {reason}"
                )));
            }
        },
    };
    split(&text).map_err(|error| Failure {
        text: format!("cannot read the options from {url}: {error}"),
        code: USAGE,
    })
}

fn copy(url: &str, options: &Options, environment: &Environment) -> Option<PathBuf> {
    files::config_dir(options.configdir.as_deref(), environment)
        .map(|directory| directory.join(format!("gridkeep/optserver-{}", files::digest(&[url]))))
}

/// A host stands for `https://<host>/htgettokenopts.txt`; the query of a URL is dropped.
fn address(text: &str) -> Result<(ServerUrl, String), Failure> {
    let (authority, path) = match text.split_once("://") {
        None => (text.to_owned(), "/htgettokenopts.txt".to_owned()),
        Some((scheme, rest)) => {
            let rest = rest.split(['?', '#']).next().unwrap_or_default();
            match rest.split_once('/') {
                Some((authority, path)) if !path.is_empty() => {
                    (format!("{scheme}://{authority}"), format!("/{path}"))
                }
                _ => {
                    return Err(Failure::fatal(format!(
                        "--optserver {text} has no path; write the whole URL of the file, or only the host"
                    )));
                }
            }
        }
    };
    let server = ServerUrl::parse(&authority, 443).map_err(|error| Failure {
        text: format!("--optserver: {error}"),
        code: USAGE,
    })?;
    Ok((server, path))
}

async fn fetch(
    server: ServerUrl,
    path: String,
    options: &Options,
    environment: &Environment,
) -> Result<String, String> {
    // --vaultcertname is about the other server.
    let target = Target {
        server,
        alias: None,
        certificate_name: None,
        trust: TrustSources::choose(
            options.cafile.as_deref(),
            options.capath.as_deref(),
            environment,
        ),
    };
    let fetched = async {
        let mut client = Client::new(target, environment)?;
        client.limit(Some(environment.timing.unattended / 2));
        let reply = client.send(&Call::get(path, None), &mut NoLog).await;
        reply.and_then(Reply::success)
    };
    let reply = fetched.await.map_err(|error| error.to_string())?;
    String::from_utf8(reply.body.to_vec()).map_err(|_| "the answer is not UTF-8 text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let read = |text| address(text).map(|(server, path)| format!("{server}{path}"));
        assert_eq!(read("h").unwrap(), "https://h:443/htgettokenopts.txt");
        assert_eq!(read("h:1").unwrap(), "https://h:1/htgettokenopts.txt");
        assert_eq!(read("https://h/a/b?c").unwrap(), "https://h:443/a/b");
        assert_eq!(read("https://h").unwrap_err().code, FAILED);
        assert_eq!(read("https://h/").unwrap_err().code, FAILED);
        assert_eq!(read("http://h/x").unwrap_err().code, USAGE);
    }
}
