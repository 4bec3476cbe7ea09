//! How long a client waits, whatever holds its request up, and what goes on without it.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::advance;

use super::common::{Gate, House, house};
use super::{DENIED, text};

const CREDS: &str = "secret/oauth/creds/dune/alice:default";
const SECOND: Duration = Duration::from_secs(1);

/// Keeps tokio's paused clock from moving by itself, as it does while all tasks wait for the store's own thread.
struct HeldTime(
    #[expect(dead_code, reason = "dropping it ends the task")] std::sync::mpsc::Sender<()>,
);

impl HeldTime {
    fn new() -> Self {
        let (hold, released) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || released.recv());
        HeldTime(hold)
    }
}

/// Sends a request without waiting for its answer.
fn begin(
    house: &House,
    method: &str,
    path: &str,
    token: &str,
) -> JoinHandle<Response<Full<Bytes>>> {
    let request = Request::builder()
        .method(method)
        .uri(format!("/v1/{path}"))
        .header("x-vault-token", token)
        .body(Full::new(Bytes::new()))
        .unwrap();
    let service = house.service.clone();
    tokio::spawn(async move { Box::pin(service.handle(request, House::peer())).await })
}

/// The answer, which is there by now, but for what is done without time passing.
async fn answer(task: JoinHandle<Response<Full<Bytes>>>) -> (u16, Value) {
    let begun = std::time::Instant::now();
    while !task.is_finished() {
        assert!(begun.elapsed() < 60 * SECOND, "no answer comes");
        tokio::task::yield_now().await;
    }
    let (parts, body) = task.await.unwrap().into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (
        parts.status.as_u16(),
        serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    )
}

async fn late(task: JoinHandle<Response<Full<Bytes>>>) -> String {
    let (status, body) = answer(task).await;
    assert_eq!(status, 503, "{body}");
    let said = text(&body, "/errors/0").to_owned();
    assert!(!said.contains("permission denied"), "{said}");
    said
}

#[tokio::test(start_paused = true)]
async fn an_audit_log_that_hangs_holds_nobody_up_for_longer_than_clients_wait() {
    let (_held, house) = (HeldTime::new(), house().await);
    let login = house.log_in("alice").await;
    let token = text(&login, "/client_token");
    house.audit.writing.close();
    for (method, path, token, said) in [
        (
            "GET",
            "auth/token/lookup-self",
            token,
            "did not finish this within 9 seconds",
        ),
        (
            "GET",
            "auth/token/lookup-self",
            "hvs.guess",
            "did not finish this within 9 seconds",
        ),
        (
            "POST",
            "auth/oidc-dune/oidc/auth_url",
            "",
            "has not finished this within 9 seconds and goes on with it",
        ),
        (
            "POST",
            "auth/token/create",
            token,
            "has not finished this within 9 seconds and goes on with it",
        ),
        (
            "DELETE",
            CREDS,
            token,
            "has not finished this within 9 seconds and goes on with it",
        ),
    ] {
        house.audit.writing.forget();
        let task = begin(&house, method, path, token);
        house.audit.writing.came().await;
        advance(9 * SECOND).await;
        let told = late(task).await;
        assert!(told.contains(said), "{method} {path}: {told}");
        if method == "GET" {
            // Which the log is told too, behind the line that it has not taken yet.
            let lines = house.audit.drain();
            let last = lines.last().unwrap();
            assert_eq!(last["type"], "response");
            assert!(last["error"].as_str().unwrap().contains(said), "{last}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_steps_of_a_request_share_its_time() {
    let (_held, house) = (HeldTime::new(), house().await);
    let login = house.log_in("alice").await;
    let token = text(&login, "/client_token");
    house.clock.pass(3590 * SECOND);
    house.audit.writing.forget();
    house.audit.writing.close();
    house.issuer.refreshing.close();
    let task = begin(&house, "GET", &format!("{CREDS}?minimum_seconds=60"), token);
    house.audit.writing.came().await;
    advance(6 * SECOND).await;
    house.audit.writing.open();
    house.issuer.refreshing.came().await;
    advance(3 * SECOND).await;
    assert!(
        late(task)
            .await
            .contains("did not finish this within 9 seconds")
    );
    let lines = house.audit.drain();
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["type"], &last["request"]["path"]),
        (&json!("response"), &json!(CREDS))
    );
    assert!(text(last, "/error").contains("did not finish"));
}

#[tokio::test(start_paused = true)]
async fn what_changes_something_goes_on_without_the_one_who_asked() {
    for leaves in [false, true] {
        let (_held, house) = (HeldTime::new(), house().await);
        let login = house.log_in("alice").await;
        let token = text(&login, "/client_token");
        house.audit.drain();
        house.audit.writing.forget();
        house.audit.writing.close();
        let task = begin(&house, "POST", "auth/token/revoke-self", token);
        house.audit.writing.came().await;
        if leaves {
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
        } else {
            advance(9 * SECOND).await;
            assert!(late(task).await.contains("goes on with it"));
        }
        house.audit.writing.open();
        house.keeper.drain(60 * SECOND).await;
        let lines = house.audit.drain();
        let types: Vec<&str> = lines.iter().map(|line| text(line, "/type")).collect();
        assert_eq!(types, ["request", "response"]);
        assert!(lines[1].get("error").is_none(), "{}", lines[1]);
        assert_eq!(
            house.get("auth/token/lookup-self", token).await.error(),
            DENIED
        );
    }
}

#[tokio::test(start_paused = true)]
async fn time_in_which_a_body_arrives_is_the_clients() {
    let (_held, house) = (HeldTime::new(), house().await);
    let login = house.log_in("alice").await;
    let token = text(&login, "/client_token").to_owned();
    house.audit.writing.forget();
    house.audit.writing.close();
    let sending = std::sync::Arc::new(Gate::default());
    sending.close();
    let gate = sending.clone();
    let body = StreamBody::new(futures_util::stream::once(async move {
        gate.pass().await;
        Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"{\"ttl\": \"1h\"}")))
    }));
    let request = Request::post("/v1/auth/token/create")
        .header("x-vault-token", token)
        .body(body)
        .unwrap();
    let service = house.service.clone();
    let task = tokio::spawn(async move { Box::pin(service.handle(request, House::peer())).await });
    sending.came().await;
    advance(7 * SECOND).await;
    sending.open();
    house.audit.writing.came().await;
    advance(5 * SECOND).await;
    house.audit.writing.open();
    let (status, body) = answer(task).await;
    assert_eq!(
        (status, &body["auth"]["lease_duration"]),
        (200, &json!(3600)),
        "{body}"
    );
}

#[tokio::test]
async fn deleting_a_credential_does_not_wait_for_the_issuer() {
    let house = house().await;
    let login = house.log_in("alice").await;
    let token = text(&login, "/client_token");
    // Its handle is redeemed, so that nothing else refers to the login.
    let body =
        json!({"server": "dune", "refresh_token": login["metadata"]["oauth2_refresh_token"]});
    house.call("POST", CREDS, Some(token), body).await;
    house.issuer.revoking.close();
    let deleted = house.call("DELETE", CREDS, Some(token), Value::Null).await;
    assert_eq!(deleted.status, 204, "{}", deleted.text);
    assert_eq!(house.get(CREDS, token).await.status, 404);
    // The issuer is asked, and has not answered yet.
    house.issuer.revoking.came().await;
}
