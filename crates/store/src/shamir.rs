//! Shares of a secret: any `threshold` of them give it back, fewer tell nothing (Shamir, 1979), in Vault's form.
//!
//! Owns the arithmetic: polynomials over GF(2^8) with the polynomial of AES (0x11b), one for each byte of the secret; a share is the
//! values at one place, and that place as its last byte. A threshold of 1 makes every share the secret itself, as in Vault. Works
//! without tables and without branches on secret values. Knows nothing of what is shared.

use zeroize::Zeroizing;

use crate::{StoreError, sealing};

/// Most shares there can be.
pub const MAX_SHARES: u8 = 255;

/// A share, or a secret.
pub type Share = Zeroizing<Vec<u8>>;

/// Why shares do not make a secret. Whether the secret is the right one is for who knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SharesError {
    /// None, or of different lengths, or too short.
    #[error("the shares are not of one length; give those that were made together")]
    Length,
    /// The same place twice.
    #[error("a share was given twice; give different ones")]
    Repeated,
}

/// Splits `secret` into `count` shares.
///
/// # Errors
/// [`StoreError::Sealing`] without randomness, or if not `1 <= threshold <= count`, or for a threshold of 1 with several shares, which
/// would be copies.
pub fn split(secret: &[u8], count: u8, threshold: u8) -> Result<Vec<Share>, StoreError> {
    if threshold == 0 || threshold > count || (threshold == 1 && count > 1) {
        return Err(StoreError::Sealing);
    }
    if threshold == 1 {
        return Ok(vec![Zeroizing::new(secret.to_vec())]);
    }
    let mut shares: Vec<Share> = (1..=count)
        .map(|place| {
            let mut share = Zeroizing::new(vec![0; secret.len() + 1]);
            share[secret.len()] = place;
            share
        })
        .collect();
    // Highest first, for Horner's rule; the secret's byte comes last. A highest coefficient of zero is as likely as any other: to
    // exclude it would tell something to who holds one share too few.
    let mut coefficients = Zeroizing::new(vec![0; usize::from(threshold) - 1]);
    for (index, byte) in secret.iter().enumerate() {
        fill(&mut coefficients)?;
        for share in &mut shares {
            let place = share[secret.len()];
            let high = coefficients
                .iter()
                .fold(0, |value, coefficient| multiply(value, place) ^ coefficient);
            share[index] = multiply(high, place) ^ byte;
        }
    }
    Ok(shares)
}

/// The secret of these shares, which have to be as many as the threshold; with others, some other bytes.
///
/// # Errors
/// [`SharesError`].
pub fn combine(shares: &[Share]) -> Result<Share, SharesError> {
    let length = shares.first().map_or(0, |share| share.len());
    if length < 2 || shares.iter().any(|share| share.len() != length) {
        return Err(SharesError::Length);
    }
    let places: Vec<u8> = shares.iter().map(|share| share[length - 1]).collect();
    if places
        .iter()
        .enumerate()
        .any(|(index, place)| *place == 0 || places[..index].contains(place))
    {
        return Err(SharesError::Repeated);
    }
    let mut secret = Zeroizing::new(vec![0; length - 1]);
    for (index, share) in shares.iter().enumerate() {
        // Lagrange's polynomial of this share at zero. Places are no secret, but are treated as one.
        let weight = places
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != index)
            .fold(1, |weight, (_, other)| {
                multiply(weight, multiply(*other, inverse(other ^ places[index])))
            });
        for (byte, value) in secret.iter_mut().zip(share.iter()) {
            *byte ^= multiply(*value, weight);
        }
    }
    Ok(secret)
}

fn fill(bytes: &mut [u8]) -> Result<(), StoreError> {
    for chunk in bytes.chunks_mut(32) {
        let random = sealing::random::<32>()?;
        chunk.copy_from_slice(&random[..chunk.len()]);
    }
    Ok(())
}

/// Product in GF(2^8), in the same steps whatever the values.
fn multiply(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    for _ in 0..8 {
        product ^= a & 0u8.wrapping_sub(b & 1);
        let carry = 0u8.wrapping_sub(a >> 7);
        a = (a << 1) ^ (carry & 0x1b);
        b >>= 1;
    }
    product
}

/// The inverse, which is the 254th power; 0 for 0.
fn inverse(a: u8) -> u8 {
    let mut power = a;
    // 254 is 0b1111_1110: squares and products from the second highest bit down, the last bit only squared.
    for _ in 0..6 {
        power = multiply(multiply(power, power), a);
    }
    multiply(power, power)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    fn bytes(hex: &str) -> Share {
        let digits = hex.as_bytes().chunks(2);
        digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect::<Vec<_>>()
            .into()
    }

    /// Shares that Vault's own code made.
    #[test]
    fn shares_of_vault_are_understood() {
        #[derive(Deserialize)]
        struct Vector {
            threshold: usize,
            secret: String,
            shares: Vec<String>,
        }
        let vectors: Vec<Vector> =
            serde_json::from_str(include_str!("../tests/vectors/shamir.json")).unwrap();
        assert_eq!(vectors.len(), 5);
        for vector in vectors {
            let shares: Vec<Share> = vector.shares.iter().map(|share| bytes(share)).collect();
            for start in 0..=shares.len() - vector.threshold {
                let some = &shares[start..start + vector.threshold];
                assert_eq!(combine(some).unwrap(), bytes(&vector.secret));
                let mut backwards = some.to_vec();
                backwards.reverse();
                assert_eq!(combine(&backwards).unwrap(), bytes(&vector.secret));
                if vector.threshold > 2 {
                    assert_ne!(combine(&some[1..]).unwrap(), bytes(&vector.secret));
                }
            }
        }
    }

    #[test]
    fn the_field_is_that_of_aes() {
        // FIPS 197, section 4.2.
        assert_eq!(multiply(0x57, 0x83), 0xc1);
        assert_eq!(multiply(0x57, 0x13), 0xfe);
        for a in 1..=255 {
            assert_eq!(multiply(a, inverse(a)), 1, "{a}");
        }
        assert_eq!(inverse(0), 0);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (count, threshold) in [(0, 0), (3, 0), (2, 3), (2, 1)] {
            assert!(split(b"secret", count, threshold).is_err());
        }
        assert_eq!(
            *split(b"secret", 1, 1).unwrap()[0],
            b"secret"[..],
            "as in Vault"
        );
        let shares = split(b"secret", 3, 2).unwrap();
        let short = Zeroizing::new(shares[1][1..].to_vec());
        assert_eq!(combine(&[]), Err(SharesError::Length));
        assert_eq!(
            combine(&[shares[0].clone(), short]),
            Err(SharesError::Length)
        );
        assert_eq!(
            combine(&[shares[0].clone(), shares[0].clone()]),
            Err(SharesError::Repeated)
        );
        let nowhere = Zeroizing::new(vec![0; 7]);
        assert_eq!(
            combine(&[shares[0].clone(), nowhere]),
            Err(SharesError::Repeated)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_shares_give_the_secret_back(
            secret in proptest::collection::vec(any::<u8>(), 1..40), threshold in 2..8u8, more in 0..5u8, skip: u8,
        ) {
            let count = threshold + more;
            let mut shares = split(&secret, count, threshold).unwrap();
            prop_assert_eq!(shares.len(), usize::from(count));
            shares.rotate_left(usize::from(skip % count));
            shares.truncate(threshold.into());
            prop_assert_eq!(&*combine(&shares).unwrap(), &secret);
        }
    }
}
