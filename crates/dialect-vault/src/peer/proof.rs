//! How two nodes prove to each other that they hold the store's key, each on just this connection.
//!
//! What is signed is the connection's own exported key (RFC 8446 section 7.5, RFC 5705): somebody in the middle has two
//! connections with two of them, so that a proof that he passes on proves nothing. Certificates need not be known to the other
//! node, which would ask every site for one more set of them.

use aws_lc_rs::hmac;
use http::HeaderValue;

/// Label of the exported key.
pub(crate) const LABEL: &[u8] = b"EXPORTER-gridkeep-peer";

/// Key exported from a TLS connection: the same at its two ends and nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channel(pub(crate) [u8; 32]);

impl Channel {
    /// Of a connection; `None` before its handshake is done, or with a TLS version that has no safe one.
    pub(crate) fn of<D>(connection: &rustls::ConnectionCommon<D>) -> Option<Self> {
        // In earlier versions two connections can be made to have the same one (RFC 7627).
        if connection.protocol_version() != Some(rustls::ProtocolVersion::TLSv1_3) {
            return None;
        }
        connection
            .export_keying_material([0; 32], LABEL, None)
            .ok()
            .map(Channel)
    }
}

/// Whose proof it is: one can not be sent back as the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Makes and judges proofs.
pub(crate) struct Proofs {
    key: hmac::Key,
    node: String,
}

impl Proofs {
    pub fn new(key: &[u8], node: &str) -> Self {
        Proofs {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            node: node.to_owned(),
        }
    }

    /// The proof of this node.
    pub fn prove(&self, channel: Channel, side: Side) -> String {
        let tag = hmac::sign(&self.key, &signed(channel, side, &self.node));
        let tag: String = tag
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{tag} {}", self.node)
    }

    /// The name of the node whose proof this is.
    pub fn judge(&self, channel: Channel, side: Side, proof: &str) -> Option<String> {
        let (tag, node) = proof.split_once(' ')?;
        let tag = unhex(tag)?;
        hmac::verify(&self.key, &signed(channel, side, node), &tag).ok()?;
        Some(node.to_owned())
    }

    /// The peer at the other end, by the header it sends.
    pub fn peer(&self, channel: Channel, header: Option<&HeaderValue>) -> Option<String> {
        self.judge(channel, Side::Client, header?.to_str().ok()?)
    }
}

fn signed(channel: Channel, side: Side, node: &str) -> Vec<u8> {
    let side: &[u8] = match side {
        Side::Client => b"client",
        Side::Server => b"server",
    };
    [side, &channel.0, node.as_bytes()].concat()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let bytes = text.as_bytes();
    if bytes.len() != 64 || !bytes.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut out = [0; 32];
    for (index, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_good_on_its_connection_for_its_side_and_its_node_only() {
        let (a, b) = (Channel([1; 32]), Channel([2; 32]));
        let ours = Proofs::new(&[7; 32], "node1");
        let proof = ours.prove(a, Side::Client);
        assert_eq!(
            ours.judge(a, Side::Client, &proof).as_deref(),
            Some("node1")
        );
        assert_eq!(
            ours.judge(b, Side::Client, &proof),
            None,
            "another connection"
        );
        assert_eq!(ours.judge(a, Side::Server, &proof), None, "sent back");
        let renamed = proof.replace("node1", "node2");
        assert_eq!(ours.judge(a, Side::Client, &renamed), None);
        let foreign = Proofs::new(&[8; 32], "node1");
        assert_eq!(foreign.judge(a, Side::Client, &proof), None);
        for nonsense in ["", " ", "x y", "é", &proof[1..]] {
            assert_eq!(ours.judge(a, Side::Client, nonsense), None);
        }
    }
}
