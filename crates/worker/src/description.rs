//! What a worker says of the version that it has loaded.

use std::time::Duration;

use bytes::Bytes;

use crate::frame::{Damaged, Put, Take};

/// The longest name of a platform or runtime.
const MAX_NAME_BYTES: usize = 64;

const NO_LIMIT: u64 = u64::MAX;

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(NO_LIMIT)
}

/// A loaded version, as the server needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its serialized `tensorflow.serving.SignatureDefMap`.
    pub signature_defs: Bytes,
    /// See `Executor::platform`.
    pub platform: String,
    /// See `Executor::runtime`.
    pub runtime: String,
    /// See `Executor::is_repeatable`.
    pub is_repeatable: bool,
    /// See `Executor::longest_run`.
    pub longest_run: Option<Duration>,
}

impl Description {
    /// The encoded description.
    pub fn encode(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(self.signature_defs.len() + 256);
        frame.put_bytes(&self.signature_defs);
        frame.put_bytes(self.platform.as_bytes());
        frame.put_bytes(self.runtime.as_bytes());
        frame.put_u8(self.is_repeatable.into());
        frame.put_u64(self.longest_run.map_or(NO_LIMIT, micros));
        frame
    }

    /// Decodes a description of a worker, which is not trusted.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn decode(encoded: &[u8]) -> Result<Self, String> {
        Self::take(Take(encoded)).map_err(|damaged| format!("the worker sent a damaged description: {damaged}"))
    }

    fn take(mut frame: Take<'_>) -> Result<Self, Damaged> {
        let signature_defs = Bytes::copy_from_slice(frame.bytes()?);
        let mut name = || {
            // They become labels of metrics, and are sent to clients.
            let name = frame.text()?;
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-. ".contains(c);
            if name.len() > MAX_NAME_BYTES || !name.chars().all(is_plain) {
                Err(Damaged("a name is odd"))
            } else {
                Ok(name)
            }
        };
        let (platform, runtime) = (name()?, name()?);
        let is_repeatable = frame.u8()? != 0;
        let longest_run = Some(frame.u64()?).filter(|&micros| micros != NO_LIMIT).map(Duration::from_micros);
        frame.end()?;
        Ok(Self { signature_defs, platform, runtime, is_repeatable, longest_run })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_passes_unchanged_and_a_damaged_one_is_refused() {
        let described = Description {
            signature_defs: Bytes::from_static(b"\x0a\x00"),
            platform: "tensorflow_savedmodel".to_owned(),
            runtime: "TF1".to_owned(),
            is_repeatable: true,
            longest_run: Some(Duration::from_secs(300)),
        };
        let encoded = described.encode();
        assert_eq!(Description::decode(&encoded), Ok(described.clone()));
        for len in 0..encoded.len() {
            assert!(Description::decode(&encoded[..len]).is_err(), "{len}");
        }
        let odd = Description { runtime: "TF1\"} 1\n".to_owned(), longest_run: None, ..described };
        let error = Description::decode(&odd.encode()).expect_err("it would break the metrics page");
        assert_eq!(error, "the worker sent a damaged description: a name is odd");
    }
}
