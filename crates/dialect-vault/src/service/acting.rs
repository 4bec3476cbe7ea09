//! Doing what a request asks for, once it may: the audit line before, the endpoint, the audit line after, and how long the client
//! waits for all of it.
//!
//! What changes something is done in a task of its own, which neither the end of the client's patience nor its going away breaks off;
//! reading leaves nothing half done.

use std::future::Future;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;

use futures_util::FutureExt as _;
use gridkeep_keeper::{Bearer, Granted, Operation};
use http::{HeaderMap, StatusCode};
use secrecy::SecretString;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::auditing::unaudited;
use super::received::{MountTable, Received};
use super::{Caller, Inner};
use crate::answer::Answer;
use crate::audit::{AuditFailure, Common};
use crate::endpoints;
use crate::failure::Trouble;
use crate::params::Params;
use crate::route::Route;

/// Who asks, at endpoints that need a token, and that it may.
pub(super) struct Asker {
    pub bearer: Bearer,
    pub granted: Granted,
    pub secret: SecretString,
}

/// A request that outlives the one who sent it.
struct Owned {
    id: String,
    operation: Operation,
    path: String,
    headers: HeaderMap,
    peer: SocketAddr,
    writes: bool,
    until: Instant,
}

impl Owned {
    fn of(request: &Received<'_>) -> Self {
        Owned {
            id: request.id.to_owned(),
            operation: request.operation,
            path: request.path.to_owned(),
            headers: request.headers.clone(),
            peer: request.peer,
            writes: request.writes,
            until: request.until,
        }
    }

    fn received(&self) -> Received<'_> {
        Received {
            id: &self.id,
            operation: self.operation,
            path: &self.path,
            route: Route::of(self.path.strip_suffix('/').unwrap_or(&self.path)),
            headers: &self.headers,
            peer: self.peer,
            writes: self.writes,
            help: false,
            until: self.until,
        }
    }
}

impl Inner {
    /// Does what may be done, and answers before the request's time is over.
    pub(super) async fn carry_out(
        self: &Arc<Self>,
        request: Received<'_>,
        mounts: Arc<MountTable>,
        params: Params,
        asker: Option<Asker>,
    ) -> Answer {
        // Also a login that is read, as browsers do at its end, is made of steps that belong together.
        let changes = request.writes || request.operation == Operation::Delete || asker.is_none();
        let until = request.until;
        if !changes || request.help {
            let acting = self.act(&request, &mounts, params, asker.as_ref(), Some(until));
            return Box::pin(acting).await;
        }
        let (inner, owned) = (Arc::clone(self), Owned::of(&request));
        let acting = Box::pin(async move {
            let request = owned.received();
            inner
                .act(&request, &mounts, params, asker.as_ref(), None)
                .await
        });
        let (tell, told) = oneshot::channel();
        self.keeper.own(async move {
            let done = AssertUnwindSafe(acting).catch_unwind().await;
            // Nobody may be waiting any more.
            let _ = tell.send(done);
        });
        match timeout_at(until, told).await {
            Ok(Ok(Ok(answer))) => answer,
            Ok(Ok(Err(panic))) => resume_unwind(panic),
            Ok(Err(_)) => later(
                "the server stopped while this was under way; whether it was done is not known: look, or repeat it".to_owned(),
            ),
            Err(_) => later(format!(
                "the server has not finished this within {} seconds and goes on with it; look in a moment whether it is done, or repeat it",
                self.options.limits.answer.as_secs()
            )),
        }
    }

    /// Audits, does and audits, until the given moment if there is one.
    async fn act(
        &self,
        request: &Received<'_>,
        mounts: &MountTable,
        params: Params,
        asker: Option<&Asker>,
        until: Option<Instant>,
    ) -> Answer {
        let route = request.route;
        let secret = asker.map(|asker| &asker.secret);
        let shown = asker.map(|asker| (&*asker.bearer.token, Some(&asker.granted)));
        let common = Common::new(
            &self.hasher,
            &request.exchange(mounts, secret, &params, shown),
        );
        let passes = match self.options.on_audit_failure {
            AuditFailure::Refuse => false,
            AuditFailure::Revoke => route.cannot_wait(request.operation),
            AuditFailure::Serve => true,
        };
        match self.by(until, self.announce(&common, None, passes)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return unaudited(&error),
            // The first line is with the log, which may take its time.
            Err(late) => return self.finish(&common, request.call(params).fields, late, passes),
        }
        let mut call = request.call(params);
        let acting = async {
            match asker {
                None => endpoints::open(self, route, &mut call).await,
                Some(_) if request.help => endpoints::help::answer(route, request.path),
                Some(asker) => {
                    let caller = Caller {
                        bearer: &asker.bearer,
                        granted: &asker.granted,
                        secret: &asker.secret,
                    };
                    endpoints::guarded(self, route, &mut call, &caller).await
                }
            }
        };
        let answer = match self.by(until, acting).await {
            Ok(acted) => acted.unwrap_or_else(Answer::from),
            Err(late) => late,
        };
        self.finish(&common, call.fields, answer, passes)
    }

    /// The outcome of `work`, or the answer that it takes longer than the stock clients wait.
    pub(super) async fn by<T>(
        &self,
        until: Option<Instant>,
        work: impl Future<Output = T>,
    ) -> Result<T, Answer> {
        let Some(until) = until else {
            return Ok(work.await);
        };
        timeout_at(until, work).await.map_err(|_| {
            later(format!(
                "the server did not finish this within {} seconds; try again in a moment",
                self.options.limits.answer.as_secs()
            ))
        })
    }

    /// The same for work that may fail.
    pub(super) async fn in_time<T>(
        &self,
        until: Instant,
        work: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        self.by(Some(until), work)
            .await
            .unwrap_or_else(|late| Err(Trouble::Answer(Box::new(late))))
    }
}

fn later(text: String) -> Answer {
    Answer::error(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(Some(5))
}
