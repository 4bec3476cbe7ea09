//! Metadata and keys are renewed behind the callers' backs.

use std::sync::Arc;
use std::time::Duration;

use gridkeep_issuer::TokenIssuer;
use tokio::sync::watch;

use crate::support::*;

#[tokio::test]
async fn documents_in_use_are_read_again_and_the_task_stops() {
    let server = issuer(|_| Answer::Json(200, tokens())).await;
    let client = Arc::new(client(&server));
    let (stop, stopped) = watch::channel(false);
    let running = Arc::clone(&client);
    let task = tokio::spawn(async move { running.run_background(stopped).await });
    tokio::task::yield_now().await;
    assert_eq!(
        server.count(DISCOVERY),
        0,
        "nothing is read before it is needed"
    );

    client.metadata().await.unwrap();
    server.asked.notified().await;
    // Lets the task take note of when the document ends.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(6 * 3600)).await;
    tokio::time::resume();
    server.asked.notified().await;
    assert_eq!(server.count(DISCOVERY), 2);

    stop.send(true).unwrap();
    task.await.unwrap();
}

#[tokio::test]
async fn the_task_ends_with_its_owner() {
    let server = issuer(|_| Answer::Json(200, tokens())).await;
    let client = client(&server);
    let (stop, stopped) = watch::channel(false);
    drop(stop);
    client.run_background(stopped).await;
}

#[tokio::test]
async fn without_the_task_a_caller_renews_what_is_due() {
    let server = issuer(|_| Answer::Json(200, tokens())).await;
    let client = client(&server);
    client.metadata().await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(6 * 3600)).await;
    tokio::time::resume();
    assert!(client.status().metadata_age.unwrap() >= Duration::from_secs(6 * 3600));
    client.metadata().await.unwrap();
    assert_eq!(server.count(DISCOVERY), 2);
    assert!(client.status().metadata_age.unwrap() < Duration::from_secs(3600));
}
