//! Where key-encryption keys come from.

use crate::VaultError;
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use std::{collections::BTreeSet, env, fmt, fs, io, io::Write, path::Path};
use xylem_ids::KeyId;
use xylem_seal::{CipherKey, Fields, Sealed, random_id};
use zeroize::Zeroizing;

/// Why key-encryption keys could not be had. Never quotes key material.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key file could not be read or written.
    #[error("the key file could not be used")]
    File(#[source] io::Error),
    /// Others than its owner can read the key file.
    #[error("the key file must be readable by its owner alone: set its mode to 0600")]
    Mode,
    /// The environment variable is not set.
    #[error("the environment variable {0} is not set: put the key-encryption keys into it")]
    Unset(String),
    /// The text is not a list of keys.
    #[error(
        "key-encryption keys must be lines of ID:KEY, the current one first, each ID once, KEY being 32 bytes in \
         base64url"
    )]
    Malformed,
    /// A stored key was wrapped by a key that is not here.
    #[error("the key-encryption key {0} is not here: add it to the key file or variable")]
    Unknown(KeyId),
    /// Stored keys were wrapped by a key that is not here.
    #[error(
        "the key-encryption key {id} still wraps {wraps} of the vault's keys and is not here: put its line \
         back behind the first one, and run `xylem vault rewrap` before you remove it"
    )]
    Needed {
        /// Its id.
        id: KeyId,
        /// How many stored keys it wraps.
        wraps: u64,
    },
}

/// Wraps keys. What wraps them stays with the provider; a key management service implements this
/// without ever showing its key.
#[async_trait]
pub trait KeyProvider: Send + Sync {
    /// The key that wraps from now on.
    fn current(&self) -> &KeyId;

    /// Those that unwrap what they wrapped before, and wrap no more.
    fn older(&self) -> Vec<KeyId>;

    /// Wraps a key under the current key, bound to `place`.
    ///
    /// # Errors
    /// The provider did not answer.
    async fn wrap(&self, place: &[u8], key: &[u8]) -> Result<Sealed, VaultError>;

    /// Unwraps a key; `None` where it was not wrapped by `by` for this place.
    ///
    /// # Errors
    /// The provider did not answer, or does not have that key.
    async fn unwrap(
        &self,
        by: &KeyId,
        place: &[u8],
        wrapped: &Sealed,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, VaultError>;
}

/// Key-encryption keys held in this process: from a file or an environment variable. Its `Debug`
/// shows ids only.
pub struct KeyRing {
    current: CipherKey,
    older: Vec<CipherKey>,
}

impl KeyRing {
    /// One fresh key.
    ///
    /// # Errors
    /// The system's random source failed.
    pub fn generate() -> Result<Self, VaultError> {
        Ok(Self {
            current: CipherKey::generate()?,
            older: Vec::new(),
        })
    }

    /// Reads keys from text: one `ID:KEY` per line, the current one first. No id stands for two keys.
    ///
    /// # Errors
    /// [`KeyError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let keys = text
            .split(['\n', ','])
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(parse_line)
            .collect::<Result<Vec<_>, _>>()?;
        let ids: BTreeSet<_> = keys.iter().map(CipherKey::id).collect();
        if ids.len() < keys.len() {
            return Err(KeyError::Malformed);
        }
        let mut keys = keys.into_iter();
        let current = keys.next().ok_or(KeyError::Malformed)?;
        Ok(Self {
            current,
            older: keys.collect(),
        })
    }

    /// Reads keys from an environment variable.
    ///
    /// # Errors
    /// It is not set, or its content is malformed.
    pub fn from_environment(variable: &str) -> Result<Self, KeyError> {
        let text = env::var(variable).map_err(|_| KeyError::Unset(variable.to_owned()))?;
        Self::parse(&Zeroizing::new(text))
    }

    /// Reads keys from a file that only its owner can read.
    ///
    /// # Errors
    /// The file cannot be read, others can read it, or its content is malformed.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        check_mode(path)?;
        let text = Zeroizing::new(fs::read_to_string(path).map_err(KeyError::File)?);
        Self::parse(&text)
    }

    /// Reads keys from a file, and makes the file with a fresh key, mode 0600, where there is none.
    /// The file appears whole or not at all.
    ///
    /// # Errors
    /// As [`KeyRing::from_file`], or the file cannot be made.
    pub fn from_file_or_new(path: &Path) -> Result<Self, VaultError> {
        if !path.try_exists().map_err(KeyError::File)? {
            let line = Self::generate()?.current_line();
            let draft = path.with_extension(format!("{}.new", random_id()?));
            let made = write_private(&draft, line.as_bytes()).and_then(|()| publish(&draft, path));
            let removed = fs::remove_file(&draft);
            made.and(removed).map_err(KeyError::File)?;
        }
        Ok(Self::from_file(path)?)
    }

    fn current_line(&self) -> Zeroizing<String> {
        let mut line = Zeroizing::new(String::with_capacity(128));
        line.push_str(self.current.id().as_str());
        line.push(':');
        URL_SAFE_NO_PAD.encode_string(self.current.bytes(), &mut line);
        line.push('\n');
        line
    }

    fn find(&self, id: &KeyId) -> Result<&CipherKey, KeyError> {
        std::iter::once(&self.current)
            .chain(&self.older)
            .find(|key| key.id() == id)
            .ok_or_else(|| KeyError::Unknown(id.clone()))
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("current", &self.current)
            .field("older", &self.older)
            .finish()
    }
}

#[async_trait]
impl KeyProvider for KeyRing {
    fn current(&self) -> &KeyId {
        self.current.id()
    }

    fn older(&self) -> Vec<KeyId> {
        self.older.iter().map(|key| key.id().clone()).collect()
    }

    async fn wrap(&self, place: &[u8], key: &[u8]) -> Result<Sealed, VaultError> {
        Ok(self
            .current
            .seal(&wrapping(self.current.id(), place), key)?)
    }

    async fn unwrap(
        &self,
        by: &KeyId,
        place: &[u8],
        wrapped: &Sealed,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, VaultError> {
        Ok(self.find(by)?.open(&wrapping(by, place), wrapped)?)
    }
}

fn wrapping(by: &KeyId, place: &[u8]) -> Fields {
    Fields::new("xylem wrapped key")
        .text(by.as_str())
        .bytes(place)
}

fn parse_line(line: &str) -> Result<CipherKey, KeyError> {
    let (id, encoded) = line.split_once(':').ok_or(KeyError::Malformed)?;
    let id = id.parse().map_err(|_| KeyError::Malformed)?;
    let decoded = URL_SAFE_NO_PAD.decode(encoded);
    let decoded = Zeroizing::new(decoded.map_err(|_| KeyError::Malformed)?);
    let mut bytes = Zeroizing::new([0; 32]);
    if decoded.len() != bytes.len() {
        return Err(KeyError::Malformed);
    }
    bytes.copy_from_slice(&decoded);
    Ok(CipherKey::new(id, bytes))
}

/// Gives a finished file its name, unless somebody else was first.
fn publish(draft: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(unix)]
fn check_mode(path: &Path) -> Result<(), KeyError> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(path)
        .map_err(KeyError::File)?
        .permissions()
        .mode();
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(KeyError::Mode)
    }
}

#[cfg(not(unix))]
fn check_mode(_: &Path) -> Result<(), KeyError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const TWO: &str = "k2:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";

    fn block<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn the_first_key_wraps_and_every_key_unwraps() {
        let old = KeyRing::parse(ONE).unwrap();
        let both = KeyRing::parse(&format!("# rotated\n{TWO}\n{ONE}\n")).unwrap();
        assert_eq!(both.current().as_str(), "k2");
        assert_eq!(both.older(), [old.current().clone()]);
        let wrapped = block(old.wrap(b"place", b"key")).unwrap();
        let unwrapped = |place: &[u8]| block(both.unwrap(old.current(), place, &wrapped)).unwrap();
        assert_eq!(unwrapped(b"place").unwrap().as_slice(), b"key");
        assert!(unwrapped(b"elsewhere").is_none());
        assert!(block(old.unwrap(both.current(), b"place", &wrapped)).is_err());
    }

    #[test]
    fn what_is_no_list_of_keys_is_refused_and_not_quoted() {
        for bad in ["", "k1", "k1:short", "k 1:AAAA", "#k1:AAAA"] {
            let error = KeyRing::parse(bad).unwrap_err().to_string();
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
    }

    #[test]
    fn an_id_stands_for_one_key() {
        let twice = format!("{ONE}\n{}", TWO.replace("k2", "k1"));
        assert!(matches!(KeyRing::parse(&twice), Err(KeyError::Malformed)));
    }

    #[test]
    fn a_key_file_is_made_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kek");
        let first = KeyRing::from_file_or_new(&path).unwrap();
        let second = KeyRing::from_file_or_new(&path).unwrap();
        assert_eq!(first.current(), second.current());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            assert!(matches!(KeyRing::from_file(&path), Err(KeyError::Mode)));
        }
    }

    #[test]
    fn debug_shows_ids_only() {
        let shown = format!("{:?}", KeyRing::parse(ONE).unwrap());
        assert!(shown.contains("k1") && !shown.contains("AAAA"), "{shown}");
    }
}
