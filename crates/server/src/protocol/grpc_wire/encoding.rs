//! Compression of messages: negotiation, and limits of decompression.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use servable_http::body::{self, BodyLimits, BodyMemory, Encoding, Unpacking};
use servable_model::error::{Code, Result, ServingError};

pub(crate) const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub(crate) const ACCEPT: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// The value of `grpc-accept-encoding`: the compressions that requests may use.
pub(crate) const ACCEPTED: HeaderValue = HeaderValue::from_static("identity,deflate,gzip");

/// The largest ratio of decompressed to compressed size, for messages above the limit of decompressed bytes. Tensors rarely
/// compress to less than a quarter.
const ALLOWED_GROWTH: usize = 32;

/// The compression of the messages of a request; `None` without one.
///
/// # Errors
///
/// `UNIMPLEMENTED` for an unsupported compression.
pub(crate) fn encoding_of(headers: &HeaderMap) -> Result<Option<Encoding>> {
    match headers.get(ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(None),
        Some(name) => Encoding::of(name).map(Some).ok_or_else(|| {
            ServingError::unimplemented(format!(
                "Content is compressed with `{}` which isn't supported; supported are {}",
                String::from_utf8_lossy(name),
                ACCEPTED.to_str().expect("it is ASCII")
            ))
        }),
    }
}

/// Whether the caller accepts replies with this compression.
pub(crate) fn is_accepted(encoding: Encoding, headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).into_iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    values.into_iter().any(|name| name.trim_ascii() == encoding.name().as_bytes())
}

/// Decompresses a message.
///
/// # Errors
///
/// `INTERNAL` if it is damaged; `RESOURCE_EXHAUSTED` if it exceeds a limit or the allowed ratio.
pub(crate) fn unpack(
    encoding: Encoding,
    mut compressed: &[u8],
    limits: BodyLimits,
    memory: &Arc<BodyMemory>,
) -> Result<Bytes> {
    let in_proportion = compressed.len().saturating_mul(ALLOWED_GROWTH);
    let limit = limits.max_bytes.min(limits.max_decompressed_bytes.max(in_proportion));
    let damaged = |error| ServingError::internal(format!("the message is not valid {}: {error}", encoding.name()));
    match body::unpack_bounded(encoding, &mut compressed, limit, limits.max_total_bytes, memory) {
        Ok(plain) => plain.map_err(damaged),
        Err(Unpacking::Shortage(shortage)) => Err(shortage.into()),
        Err(Unpacking::TooLarge(_) | Unpacking::Damaged(_)) => {
            let text = format!("the message is larger than {limit} bytes when decompressed");
            Err(ServingError::new(Code::ResourceExhausted, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits(max_bytes: usize) -> BodyLimits {
        BodyLimits {
            max_bytes,
            max_total_bytes: usize::MAX,
            max_decompressed_bytes: usize::MAX,
            part_timeout: Duration::from_secs(10),
            min_bytes_per_second: 100,
        }
    }

    #[test]
    fn messages_come_out_as_they_went_in() {
        let plain = [&b"head."[..], &b"tensor ".repeat(1000)].concat();
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let packed = encoding.pack(&plain, 5).expect("it is long and repeats itself");
            assert!(packed.len() < 200, "{}", packed.len());
            assert_eq!(unpack(encoding, &packed[5..], limits(7000), &Arc::default()).as_deref(), Ok(&plain[5..]));
            let error = unpack(encoding, &packed[5..], limits(6999), &Arc::default()).expect_err("one byte too long");
            assert_eq!(error.code, Code::ResourceExhausted);
            let error = unpack(encoding, &packed[5..packed.len() - 5], limits(7000), &Arc::default())
                .expect_err("it is cut off");
            assert_eq!(error.code, Code::Internal);
        }
        assert_eq!(Encoding::Gzip.pack(b"head.short", 5), None);
    }

    #[test]
    fn a_small_message_does_not_grow_without_bound() {
        let bomb = Encoding::Gzip.pack(&vec![0; 1_000_002], 0).expect("it is long");
        let error = unpack(
            Encoding::Gzip,
            &bomb,
            BodyLimits { max_decompressed_bytes: 1_000_000, ..limits(usize::MAX) },
            &Arc::default(),
        )
        .expect_err("a thousand times its size");
        assert_eq!(error.code, Code::ResourceExhausted);
    }

    #[test]
    fn encodings_are_read_from_headers() {
        let headers = |name: HeaderName, value| HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        let request = |value| encoding_of(&headers(ENCODING, value));
        assert_eq!(request("identity"), Ok(None));
        assert_eq!(request("gzip"), Ok(Some(Encoding::Gzip)));
        assert_eq!(request("snappy").expect_err("it is not on offer").code, Code::Unimplemented);
        assert!(is_accepted(Encoding::Gzip, &headers(ACCEPT, "identity, deflate, gzip")));
        assert!(!is_accepted(Encoding::Gzip, &headers(ACCEPT, "identity,xgzip")));
        assert!(!is_accepted(Encoding::Gzip, &HeaderMap::new()));
    }
}
