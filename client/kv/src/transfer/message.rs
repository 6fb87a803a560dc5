// SPDX-License-Identifier: MIT OR Apache-2.0
//! The small messages around the data: end of transfer and verdict, as JSON.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Done, TransferError};

/// Bytes that such a message can have at most.
pub(super) const MAX_MESSAGE: u64 = 4096;
/// Characters of an error's text in a verdict; JSON may escape each as six bytes.
const MAX_REASON: usize = 512;

/// The sender's last message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// Chunks sent.
    pub chunks: u64,
    /// Bytes sent in chunks.
    pub bytes: u64,
}

/// The receiver's judgement of the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Every chunk came once and every layer has its digest.
    pub ok: bool,
    /// Why not.
    pub error: Option<String>,
    /// Chunks received.
    pub chunks: u64,
    /// Bytes received in chunks.
    pub bytes: u64,
}

impl Verdict {
    /// Refuses the cache.
    pub(super) fn refuse(error: &TransferError, chunks: u64, bytes: u64) -> Self {
        let text: String = error.to_string().chars().take(MAX_REASON).collect();
        Self {
            ok: false,
            error: Some(text),
            chunks,
            bytes,
        }
    }

    /// Turns a negative verdict into an error, and keeps the peer's text printable.
    pub(super) fn check(self) -> Done<Self> {
        if self.ok {
            return Ok(self);
        }
        let text = self.error.unwrap_or_else(|| "it gave no reason".into());
        let text = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        Err(TransferError::Refused(text))
    }
}

/// Writes a message.
pub(super) fn encode(message: &impl Serialize) -> Done<Vec<u8>> {
    let json = serde_json::to_vec(message).map_err(|error| {
        TransferError::Protocol(format!("a message cannot be written: {error}"))
    })?;
    if json.len() as u64 > MAX_MESSAGE {
        return Err(TransferError::Protocol(format!(
            "a message of {} bytes",
            json.len()
        )));
    }
    Ok(json)
}

/// Reads a message that the peer wrote.
pub(super) fn decode<T: DeserializeOwned>(what: &str, json: &[u8]) -> Done<T> {
    serde_json::from_slice(json)
        .map_err(|error| TransferError::Protocol(format!("its {what} cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_its_reason_and_always_fits() {
        let error = TransferError::Limit("\u{7}".repeat(10_000));
        let json = encode(&Verdict::refuse(&error, 3, 4)).unwrap();
        let read: Verdict = decode("verdict", &json).unwrap();
        assert_eq!((read.ok, read.chunks, read.bytes), (false, 3, 4));
        let text = read.check().unwrap_err().to_string();
        assert!(text.contains("refused") && !text.contains('\u{7}'));
    }

    #[test]
    fn junk_is_a_protocol_error() {
        let error = decode::<End>("end", b"{\"chunks\":1}").unwrap_err();
        assert!(matches!(error, TransferError::Protocol(text) if text.contains("end")));
    }
}
