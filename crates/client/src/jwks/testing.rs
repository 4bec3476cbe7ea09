//! A test server whose answers are given path by path, before it is asked or while it runs.

use crate::testserver::{self, Act};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A request as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// `GET /path`.
    pub(crate) line: String,
    /// The value of `X-Vault-Token`.
    pub(crate) token: Option<String>,
}

/// Status and body, by path; the last one of a path is repeated.
type Answers = Arc<Mutex<BTreeMap<String, VecDeque<(u16, String)>>>>;

/// A server that stops when dropped.
pub(crate) struct Server {
    server: testserver::Server,
    answers: Answers,
    told: Mutex<usize>,
}

impl Server {
    pub(crate) fn start() -> Server {
        let answers = Answers::default();
        let known = Arc::clone(&answers);
        let server = testserver::Server::start(move |seen| {
            let mut known = known.lock().unwrap();
            let Some(queue) = known.get_mut(&seen.path) else {
                return Act::json(404, "{}");
            };
            let (status, body) = queue.front().cloned().unwrap();
            if queue.len() > 1 {
                queue.pop_front();
            }
            Act::json(status, body)
        });
        Server {
            server,
            answers,
            told: Mutex::new(0),
        }
    }

    /// `https://address:port`.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.server.address)
    }

    /// Writes the authority's certificate into `directory`.
    pub(crate) fn cafile(&self, directory: &Path) -> PathBuf {
        testserver::ca_file(directory)
    }

    /// What to answer to `path` from now on; anything else is 404.
    pub(crate) fn answer(&self, path: &str, status: u16, body: impl ToString) {
        self.answers
            .lock()
            .unwrap()
            .insert(path.to_owned(), [(status, body.to_string())].into());
    }

    /// What to answer to `path` after that.
    pub(crate) fn then(&self, path: &str, status: u16, body: impl ToString) {
        self.answers
            .lock()
            .unwrap()
            .entry(path.to_owned())
            .or_default()
            .push_back((status, body.to_string()));
    }

    /// The requests since the last look.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let all = self.server.seen();
        let before = std::mem::replace(&mut *self.told.lock().unwrap(), all.len());
        all[before..]
            .iter()
            .map(|seen| Seen {
                line: seen.line(),
                token: seen.headers.get("x-vault-token").cloned(),
            })
            .collect()
    }

    /// The request lines since the last look.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }
}
