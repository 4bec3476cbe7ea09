//! The key set of an issuer: whatever it holds, the keys that come out can be written and read again, and none verifies nonsense.
#![no_main]

use gridkeep_token::jws::{Algorithm, JwkSet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(set) = JwkSet::from_json(bytes) else {
        return;
    };
    for skipped in set.skipped() {
        assert!(!format!("{skipped:?}").is_empty());
    }
    for key in set.keys().iter().take(8) {
        for algorithm in Algorithm::ALL {
            assert!(!key.verify_signature(algorithm, b"message", &[0; 64]));
            assert!(!key.verify_signature(algorithm, b"message", b""));
        }
        assert!(!key.thumbprint().is_empty());
    }
    let again = JwkSet::from_value(&set.to_json()).expect("what we write we read");
    assert_eq!(again.keys().len(), set.keys().len());
});
