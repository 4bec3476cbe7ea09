use super::*;

#[test]
fn what_belongs_to_the_clients_connection_stays_behind() {
    let (parts, ()) = Request::post("https://gk.example:8200/v1/auth/token/create?a=1")
        .header("x-vault-token", "hvs.x")
        .header("connection", "close, te")
        .header("te", "trailers")
        .header("transfer-encoding", "chunked")
        .header("content-length", "17")
        .header("x-forwarded-for", "192.0.2.9")
        .body(())
        .unwrap()
        .into_parts();
    let from = "[2001:db8::7]:4711".parse().unwrap();
    let request = outgoing(&parts, Bytes::from_static(b"{}"), from);
    assert_eq!(request.uri().to_string(), "/v1/auth/token/create?a=1");
    let names: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(request.headers()["x-vault-token"], "hvs.x");
    assert_eq!(request.headers()["x-gridkeep-client"], "[2001:db8::7]:4711");
    assert_eq!(request.headers()["host"], "gridkeep");
}

#[test]
fn every_node_speaks_for_itself() {
    for (path, local) in [
        ("/v1/sys/health", true),
        ("/v1/sys/seal-status", true),
        ("/v1/sys/leader/", true),
        ("/ui/", true),
        ("/v1/%zz", true),
        ("/v1/auth/token/lookup-self", false),
        ("/v1/secret/oauth/creds/dune/alice:default", false),
        ("/v1/auth/oidc-dune/oidc/callback", false),
    ] {
        assert_eq!(is_local(path), local, "{path}");
    }
}

#[test]
fn no_node_gives_another_ones_numbers() {
    for (path, own) in [
        ("/v1/sys/metrics", true),
        ("/v1/sys/metrics/", true),
        ("/v1/sys/%6detrics", true),
        ("/v1/sys/health", false),
        ("/v1/%zz", false),
        ("/sys/metrics", false),
    ] {
        assert_eq!(is_about_this_node(path), own, "{path}");
    }
}
