//! A request as bytes: its path, query and body go through the parsers that meet them before anybody is asked who he is.
#![no_main]

use gridkeep_dialect_vault::untrusted;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (head, body) = match bytes.windows(4).position(|end| end == b"\r\n\r\n") {
        Some(at) => (&bytes[..at], &bytes[at + 4..]),
        None => (bytes, bytes),
    };
    let head = String::from_utf8_lossy(head);
    let target = head.split([' ', '\r']).nth(1).unwrap_or(&head);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if let Some(path) = untrusted::decoded_path(path.strip_prefix("/v1/").unwrap_or(path)) {
        assert!(path.len() <= 4096);
        assert!(!path.chars().any(char::is_control), "{path:?}");
        assert!(
            !path
                .split('/')
                .any(|component| component == "." || component == ".."),
            "{path:?}"
        );
        assert!(!path.contains("//"), "{path:?}");
        // Writing the decoded text again as an address leads to the same place.
        let spelled: String = path.bytes().map(|byte| format!("%{byte:02x}")).collect();
        assert_eq!(
            untrusted::decoded_path(&spelled).as_deref(),
            Some(path.as_str())
        );
    }
    let _ = untrusted::query(query);
    let content_type = head
        .lines()
        .find_map(|line| line.strip_prefix("content-type: "));
    for content_type in [
        content_type,
        Some("application/x-www-form-urlencoded"),
        None,
    ] {
        let _ = untrusted::body(content_type, body);
    }
    for text in [query, &String::from_utf8_lossy(body)] {
        let _ = untrusted::duration(text);
    }
});
