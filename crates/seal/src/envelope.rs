//! A file that only the holder of a private key reads: HPKE in base mode, RFC 9180.
//!
//! ```text
//! file = "xylem envelope 1\n" || encapsulated key (32 bytes) || part… || end
//! part = 0 || length of the ciphertext (32 bits, big-endian) || ciphertext of at most 64 KiB
//! end  = 1 || length of the ciphertext (32 bits, big-endian) || ciphertext of the closing word
//! ```
//!
//! The suite is X25519, HKDF-SHA-256 and AES-256-GCM. HPKE counts what is sealed, and the first byte
//! is bound to it: a part that is moved, left out or added does not open, and a file without its end
//! is cut off. Whoever has the public key can make such a file: what is in it says who did.

use crate::CryptoError;
use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE,
    hpke::{EncapsulatedSecret, Hpke, HpkeOpener, HpkePrivateKey, HpkePublicKey, HpkeSealer},
};
use std::{
    fmt,
    io::{self, Read, Write},
    str::FromStr,
};
use zeroize::Zeroizing;

const MAGIC: &[u8] = b"xylem envelope 1\n";
const KEY: usize = 32;
const TAG: usize = 16;
/// How much is sealed at once, in bytes.
const PART: usize = 64 * 1024;

const PUBLIC: &str = "xylem-backup-public-";
const PRIVATE: &str = "xylem-backup-private-";

/// The public key that envelopes are sealed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeKey([u8; KEY]);

/// The private key that opens them. It shows itself to nobody but who writes it down.
pub struct EnvelopeOpener(Zeroizing<[u8; KEY]>);

/// Why text is no key of an envelope. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a key that begins with {0}")]
pub struct NoEnvelopeKey(&'static str);

impl EnvelopeOpener {
    /// A fresh pair of keys.
    ///
    /// # Errors
    /// The cryptographic library failed.
    pub fn generate() -> Result<(EnvelopeKey, Self), CryptoError> {
        let (public, private) = SUITE.generate_key_pair().map_err(|_| CryptoError)?;
        let public = public.0.try_into().map_err(|_| CryptoError)?;
        let mut secret = Zeroizing::new([0; KEY]);
        if private.secret_bytes().len() != KEY {
            return Err(CryptoError);
        }
        secret.copy_from_slice(private.secret_bytes());
        Ok((EnvelopeKey(public), Self(secret)))
    }

    /// The key as text, to be kept where the envelopes are not.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(PRIVATE.len() + 2 * KEY));
        text.push_str(PRIVATE);
        URL_SAFE_NO_PAD.encode_string(self.0.as_slice(), &mut text);
        text
    }
}

impl fmt::Debug for EnvelopeOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnvelopeOpener")
    }
}

impl fmt::Display for EnvelopeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC}{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl FromStr for EnvelopeKey {
    type Err = NoEnvelopeKey;

    fn from_str(text: &str) -> Result<Self, NoEnvelopeKey> {
        Ok(Self(*key(text, PUBLIC)?))
    }
}

impl FromStr for EnvelopeOpener {
    type Err = NoEnvelopeKey;

    fn from_str(text: &str) -> Result<Self, NoEnvelopeKey> {
        Ok(Self(key(text, PRIVATE)?))
    }
}

fn key(text: &str, prefix: &'static str) -> Result<Zeroizing<[u8; KEY]>, NoEnvelopeKey> {
    let encoded = text.trim().strip_prefix(prefix);
    let decoded = encoded.and_then(|encoded| URL_SAFE_NO_PAD.decode(encoded).ok());
    let decoded = Zeroizing::new(decoded.ok_or(NoEnvelopeKey(prefix))?);
    let mut key = Zeroizing::new([0; KEY]);
    if decoded.len() != KEY {
        return Err(NoEnvelopeKey(prefix));
    }
    key.copy_from_slice(&decoded);
    Ok(key)
}

/// What a part is; bound to it when it is sealed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Part = 0,
    End = 1,
}

impl Kind {
    fn byte(self) -> u8 {
        self as u8
    }
}

/// An envelope that is being filled. One that is not closed does not open.
pub struct Envelope<W> {
    to: W,
    sealer: Box<dyn HpkeSealer>,
    part: Zeroizing<Vec<u8>>,
    digest: digest::Context,
}

impl<W: Write> Envelope<W> {
    /// An empty one, for whoever has the private half of `key`.
    ///
    /// # Errors
    /// `to` cannot be written, or the cryptographic library failed.
    pub fn new(mut to: W, key: &EnvelopeKey) -> io::Result<Self> {
        let public = HpkePublicKey(key.0.to_vec());
        let sealed = SUITE.setup_sealer(MAGIC, &public);
        let (encapsulated, sealer) = sealed.map_err(|_| io::Error::other(CryptoError))?;
        to.write_all(MAGIC)?;
        to.write_all(&encapsulated.0)?;
        Ok(Self {
            to,
            sealer,
            part: Zeroizing::new(Vec::with_capacity(PART)),
            digest: digest::Context::new(&digest::SHA256),
        })
    }

    /// The SHA-256 digest of what was written so far.
    #[must_use]
    pub fn digest(&self) -> Vec<u8> {
        self.digest.clone().finish().as_ref().to_vec()
    }

    /// Seals what is left and the closing word, and answers what was written to.
    ///
    /// # Errors
    /// It cannot be written, or the cryptographic library failed.
    pub fn close(mut self, word: &[u8]) -> io::Result<W> {
        self.seal_part()?;
        self.seal(Kind::End, word)?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn seal_part(&mut self) -> io::Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let part = std::mem::replace(&mut self.part, Zeroizing::new(Vec::with_capacity(PART)));
        self.seal(Kind::Part, &part)
    }

    fn seal(&mut self, kind: Kind, plain: &[u8]) -> io::Result<()> {
        let sealed = self.sealer.seal(&[kind.byte()], plain);
        let sealed = sealed.map_err(|_| io::Error::other(CryptoError))?;
        let length = u32::try_from(sealed.len()).map_err(io::Error::other)?;
        self.to.write_all(&[kind.byte()])?;
        self.to.write_all(&length.to_be_bytes())?;
        self.to.write_all(&sealed)
    }
}

impl<W: Write> Write for Envelope<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PART.saturating_sub(self.part.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.part.extend_from_slice(taken);
        self.digest.update(taken);
        if self.part.len() == PART {
            self.seal_part()?;
        }
        Ok(taken.len())
    }

    /// A part is sealed once it is full: small ones would only cost.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An envelope that is being read. What is read is what was written in this place, but whether it is
/// all of it only [`Opened::finish`] knows.
pub struct Opened<R> {
    from: R,
    opener: Box<dyn HpkeOpener>,
    part: Zeroizing<Vec<u8>>,
    read: usize,
    word: Option<Vec<u8>>,
    digest: digest::Context,
}

impl<R: Read> Opened<R> {
    /// Opens an envelope.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn new(mut from: R, key: &EnvelopeOpener) -> io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        let mut encapsulated = vec![0; KEY];
        from.read_exact(&mut magic).map_err(cut_off)?;
        if magic != MAGIC {
            return Err(invalid("is no backup of Xylem, or one of a newer version"));
        }
        from.read_exact(&mut encapsulated).map_err(cut_off)?;
        let private = HpkePrivateKey::from(key.0.to_vec());
        let opener = SUITE.setup_opener(&EncapsulatedSecret(encapsulated), MAGIC, &private);
        Ok(Self {
            from,
            opener: opener.map_err(|_| invalid(DAMAGED))?,
            part: Zeroizing::default(),
            read: 0,
            word: None,
            digest: digest::Context::new(&digest::SHA256),
        })
    }

    /// Reads to the end. Answers the SHA-256 digest of everything that was in it, and the closing
    /// word.
    ///
    /// # Errors
    /// It was cut off, or edited, or cannot be read.
    pub fn finish(mut self) -> io::Result<(Vec<u8>, Vec<u8>)> {
        io::copy(&mut self, &mut io::sink())?;
        if self.from.read(&mut [0])? > 0 {
            return Err(invalid(DAMAGED));
        }
        let word = self.word.ok_or_else(|| invalid(DAMAGED))?;
        Ok((self.digest.finish().as_ref().to_vec(), word))
    }

    /// Reads the next part.
    fn next(&mut self) -> io::Result<()> {
        let mut kind = [0];
        let mut length = [0; 4];
        self.from.read_exact(&mut kind)?;
        self.from.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > PART + TAG {
            return Err(invalid(DAMAGED));
        }
        let mut sealed = vec![0; length];
        self.from.read_exact(&mut sealed)?;
        let plain = self.opener.open(&kind, &sealed);
        let plain = plain.map_err(|_| invalid(DAMAGED))?;
        if kind == [Kind::End.byte()] {
            self.word = Some(plain);
        } else {
            self.digest.update(&plain);
            self.part = Zeroizing::new(plain);
            self.read = 0;
        }
        Ok(())
    }
}

const DAMAGED: &str = "is damaged or cut off, or is sealed to another key";

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A file that ends too early is damaged, one that cannot be read is not.
fn cut_off(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => invalid(DAMAGED),
        _ => error,
    }
}

impl<R: Read> Read for Opened<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.word.is_none() && self.read == self.part.len() {
            self.next().map_err(cut_off)?;
        }
        let left = self.part.get(self.read..).unwrap_or_default();
        let count = left.len().min(to.len());
        for (to, from) in to.iter_mut().zip(left) {
            *to = *from;
        }
        self.read = self.read.saturating_add(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(key: &EnvelopeKey, plain: &[u8]) -> Vec<u8> {
        let mut envelope = Envelope::new(Vec::new(), key).unwrap();
        envelope.write_all(plain).unwrap();
        envelope.close(b"word").unwrap()
    }

    fn opened(key: &EnvelopeOpener, file: &[u8]) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let mut opened = Opened::new(file, key)?;
        let mut plain = Vec::new();
        opened.read_to_end(&mut plain)?;
        let (digest, word) = opened.finish()?;
        let expected = digest::digest(&digest::SHA256, &plain);
        assert_eq!(digest, expected.as_ref());
        Ok((plain, word))
    }

    #[test]
    fn what_was_written_is_read_by_the_private_key_alone() {
        let (public, private) = EnvelopeOpener::generate().unwrap();
        for length in [0, 1, PART - 1, PART, PART + 1, 3 * PART] {
            let plain: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let file = sealed(&public, &plain);
            assert_eq!(
                opened(&private, &file).unwrap(),
                (plain, b"word".to_vec()),
                "{length}"
            );
            let (_, other) = EnvelopeOpener::generate().unwrap();
            assert!(opened(&other, &file).is_err());
        }
    }

    #[test]
    fn a_file_that_was_edited_or_cut_off_does_not_open() {
        let (public, private) = EnvelopeOpener::generate().unwrap();
        let file = sealed(&public, b"all that there is");
        for at in 0..file.len() {
            let mut flipped = file.clone();
            flipped[at] ^= 1;
            assert!(opened(&private, &flipped).is_err(), "byte {at}");
            let cut_off = opened(&private, &file[..at]).unwrap_err();
            assert_eq!(cut_off.kind(), io::ErrorKind::InvalidData, "{at}");
        }
        let mut longer = file.clone();
        longer.push(0);
        assert!(opened(&private, &longer).is_err());
    }

    #[test]
    fn parts_open_in_their_order_only() {
        let (public, private) = EnvelopeOpener::generate().unwrap();
        let file = sealed(&public, &vec![7; 2 * PART]);
        let (head, rest) = file.split_at(MAGIC.len() + KEY);
        let whole = 5 + PART + TAG;
        let (first, second, end) = (&rest[..whole], &rest[whole..2 * whole], &rest[2 * whole..]);
        assert!(opened(&private, &[head, first, second, end].concat()).is_ok());
        assert!(opened(&private, &[head, second, first, end].concat()).is_err());
        assert!(opened(&private, &[head, first, end].concat()).is_err());
        assert!(opened(&private, &[head, end].concat()).is_err());
    }

    #[test]
    fn keys_read_back_from_their_text_and_are_not_taken_for_each_other() {
        let (public, private) = EnvelopeOpener::generate().unwrap();
        let (shown, secret) = (public.to_string(), private.to_text());
        assert_eq!(shown.parse(), Ok(public));
        let read: EnvelopeOpener = format!("{}\n", *secret).parse().unwrap();
        assert_eq!(read.0, private.0);
        assert!(secret.parse::<EnvelopeKey>().is_err());
        assert!(shown.parse::<EnvelopeOpener>().is_err());
        assert!(!format!("{private:?}").contains(&secret[PRIVATE.len()..]));
    }
}
