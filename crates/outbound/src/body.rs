//! Content encodings, taken off within bounds.

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, header::CONTENT_ENCODING};
use std::io::Read;

/// A body with its content encoding taken off.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// All of it.
    Whole(Vec<u8>),
    /// In an encoding that is not understood here, so that anything could hide in it.
    Opaque,
    /// It is longer than the limit once it is unpacked.
    TooLarge,
}

/// Takes the content encoding off a body. More than `limit` bytes are not unpacked.
pub fn decode(headers: &HeaderMap, body: Vec<u8>, limit: usize) -> Decoded {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    let encoding = match (encodings.next(), encodings.next()) {
        (None, _) => "identity".to_owned(),
        (Some(one), None) => one.to_str().unwrap_or_default().trim().to_ascii_lowercase(),
        _ => return Decoded::Opaque,
    };
    match encoding.as_str() {
        "identity" | "" => Decoded::Whole(body),
        "gzip" | "x-gzip" => unpack(MultiGzDecoder::new(body.as_slice()), limit),
        "deflate" => unpack(ZlibDecoder::new(body.as_slice()), limit),
        _ => Decoded::Opaque,
    }
}

fn unpack(decoder: impl Read, limit: usize) -> Decoded {
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut body = Vec::new();
    match decoder.take(most).read_to_end(&mut body) {
        Ok(_) if body.len() > limit => Decoded::TooLarge,
        Ok(_) => Decoded::Whole(body),
        Err(_) => Decoded::Opaque,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use http::HeaderValue;
    use std::io::Write;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).expect("memory");
        encoder.finish().expect("memory")
    }

    fn encoded(encoding: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(encoding))])
    }

    #[test]
    fn known_encodings_are_taken_off_within_the_limit() {
        let whole = Decoded::Whole(b"hello".to_vec());
        assert_eq!(decode(&HeaderMap::new(), b"hello".to_vec(), 5), whole);
        assert_eq!(decode(&encoded("GZip"), gzip(b"hello"), 5), whole);
        assert_eq!(
            decode(&encoded("gzip"), gzip(b"hello!"), 5),
            Decoded::TooLarge
        );
        let bomb = gzip(&vec![0; 10_000_000]);
        assert!(bomb.len() < 20_000);
        assert_eq!(decode(&encoded("gzip"), bomb, 100_000), Decoded::TooLarge);
    }

    #[test]
    fn what_is_not_understood_stays_closed() {
        for encoding in ["br", "zstd", "gzip, gzip", "compress"] {
            assert_eq!(decode(&encoded(encoding), gzip(b"x"), 100), Decoded::Opaque);
        }
        assert_eq!(
            decode(&encoded("gzip"), b"not gzip".to_vec(), 100),
            Decoded::Opaque
        );
        let mut twice = encoded("gzip");
        twice.append(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert_eq!(decode(&twice, gzip(&gzip(b"x")), 100), Decoded::Opaque);
    }
}
