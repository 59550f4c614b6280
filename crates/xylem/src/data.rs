//! The data directory: databases, keys, credentials, log, and where everything listens.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// An API key has 55 characters; a file far larger than that is not one.
const LARGEST_KEY_FILE: u64 = 4096;

/// A private key in PEM form is at most a few kibibytes.
const LARGEST_PEM_FILE: u64 = 64 * 1024;

/// A directory that belongs to one running `xylem dev` or `xylem server`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir(PathBuf);

/// Where everything listens: what `xylem dev` prints, and what it leaves in the data directory for
/// the other commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// The Temporal server, `host:port`.
    pub temporal_address: String,
    /// The Temporal namespace.
    pub namespace: String,
    /// The Temporal web UI; absent where it was not started here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub web_ui: Option<String>,
    /// The control plane: gRPC and REST.
    pub control_plane: String,
    /// The data directory.
    pub data_directory: PathBuf,
    /// The task queue that a worker with the shipped workflows polls.
    pub task_queue: String,
}

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// There is neither `XDG_DATA_HOME` nor `HOME`.
    #[error("no place for data: HOME is not set; name one with --data-dir")]
    NoHome,
    /// A file or directory cannot be read or written.
    #[error("cannot {verb} {}", .path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it did not work.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} {what}", .path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl DataDir {
    /// This directory.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where `xylem dev` keeps its data if it is not told: `$XDG_DATA_HOME/xylem/dev`, or
    /// `~/.local/share/xylem/dev`.
    ///
    /// # Errors
    /// There is neither `XDG_DATA_HOME` nor `HOME`.
    pub fn dev() -> Result<Self, DataError> {
        Self::standard("dev")
    }

    /// Where `xylem server` keeps its data if it is not told.
    ///
    /// # Errors
    /// There is neither `XDG_DATA_HOME` nor `HOME`.
    pub fn server() -> Result<Self, DataError> {
        Self::standard("server")
    }

    fn standard(leaf: &str) -> Result<Self, DataError> {
        let directory = |name| std::env::var_os(name).filter(|path| !path.is_empty());
        let base = directory("XDG_DATA_HOME").map(PathBuf::from).or_else(|| {
            directory("HOME").map(|home| PathBuf::from(home).join(".local").join("share"))
        });
        Ok(Self(
            base.ok_or(DataError::NoHome)?.join("xylem").join(leaf),
        ))
    }

    /// Makes the directory, for its owner only, where there is none.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(&self) -> Result<(), DataError> {
        for directory in [self.path().to_owned(), self.keys()] {
            let made = DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory);
            made.map_err(|source| DataError::io("make", directory, source))?;
        }
        Ok(())
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Keys that encrypt, sign and hash.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }

    /// Key-encryption keys.
    #[must_use]
    pub fn kek(&self) -> PathBuf {
        self.keys().join("kek")
    }

    /// The control plane's database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.0.join("xylem.db")
    }

    /// Where the audit log's checkpoints are copied to: outside its database.
    #[must_use]
    pub fn audit_checkpoints(&self) -> PathBuf {
        self.0.join("audit").join("checkpoints.jws")
    }

    /// The Temporal server's database, where it was started here.
    #[must_use]
    pub fn temporal_database(&self) -> PathBuf {
        self.0.join("temporal.db")
    }

    /// The administrator's API key.
    #[must_use]
    pub fn admin_key(&self) -> PathBuf {
        self.0.join("admin.key")
    }

    /// The settings of `xylem server`, where it is not told which.
    #[must_use]
    pub fn settings(&self) -> PathBuf {
        self.0.join("server.toml")
    }

    /// The API key of the worker that runs here.
    #[must_use]
    pub fn worker_key(&self) -> PathBuf {
        self.0.join("worker.key")
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.0.join("xylem.log")
    }

    /// What the Temporal server says, where it was started here.
    #[must_use]
    pub fn temporal_log(&self) -> PathBuf {
        self.0.join("temporal.log")
    }

    fn endpoints_file(&self) -> PathBuf {
        self.0.join("endpoints.json")
    }

    /// Where everything listened when it was last started; none before the first start.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub fn endpoints(&self) -> Result<Option<Endpoints>, DataError> {
        let path = self.endpoints_file();
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|_| DataError::Content {
                    path,
                    what: "is damaged: delete it, it is written anew at the next start",
                }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataError::io("read", path, source)),
        }
    }

    /// Leaves word of where everything listens.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn record(&self, endpoints: &Endpoints) -> Result<(), DataError> {
        let path = self.endpoints_file();
        let text = serde_json::to_vec_pretty(endpoints).map_err(|_| DataError::Content {
            path: path.clone(),
            what: "cannot be written: the data directory's path is not Unicode",
        })?;
        // Renamed into place, so that nobody reads half of it.
        let draft = path.with_extension("new");
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .map_err(|source| DataError::io("write", path, source))
    }
}

impl DataError {
    pub(crate) fn io(verb: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        Self::Io { verb, path, source }
    }
}

/// Writes a secret to a new file that only its owner can read; never over another file.
///
/// # Errors
/// There is such a file, or it cannot be written.
pub fn write_secret(path: &Path, secret: &SecretString) -> Result<(), DataError> {
    let write = || {
        let mut file = new_private_file(path)?;
        file.write_all(secret.expose_secret().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    };
    write().map_err(|source| DataError::io("write", path, source))
}

/// Writes a new file that only its owner can read; never over another file.
///
/// # Errors
/// There is such a file, or it cannot be written.
pub(crate) fn write_new(path: &Path, text: &str) -> Result<(), DataError> {
    let write = || {
        let mut file = new_private_file(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| DataError::io("write", path, source))
}

/// Makes a new file that only its owner can read.
pub(crate) fn new_private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Reads a secret: one line.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub fn read_secret(path: &Path) -> Result<SecretString, DataError> {
    let mut text = Zeroizing::new(String::new());
    File::open(path)
        .and_then(|file| file.take(LARGEST_KEY_FILE).read_to_string(&mut text))
        .map_err(|source| DataError::io("read", path, source))?;
    let line = text.trim_end_matches(['\r', '\n']);
    if line.is_empty() || line.contains(char::is_whitespace) {
        return Err(DataError::Content {
            path: path.to_owned(),
            what: "does not hold a key: one line, as it was shown when the key was made",
        });
    }
    Ok(SecretString::from(line))
}

/// Reads a private key in PEM form: several lines, whatever they hold.
pub(crate) fn read_pem_key(path: &Path) -> Result<SecretString, DataError> {
    let mut text = Zeroizing::new(String::new());
    File::open(path)
        .and_then(|file| file.take(LARGEST_PEM_FILE).read_to_string(&mut text))
        .map_err(|source| DataError::io("read", path, source))?;
    Ok(SecretString::from(text.as_str()))
}

/// Whether anybody but its owner can open a file.
///
/// # Errors
/// It cannot be looked at.
pub(crate) fn is_private(path: &Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.permissions().mode().trailing_zeros() >= 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, DataDir) {
        let guard = tempfile::tempdir().expect("a directory");
        let data = DataDir::at(guard.path().join("data"));
        data.create().expect("made");
        (guard, data)
    }

    #[test]
    fn a_secret_is_its_owners_alone_and_never_written_over() {
        let (_guard, data) = directory();
        let path = data.admin_key();
        write_secret(&path, &SecretString::from("xyk_one")).expect("written");
        assert!(is_private(&path).expect("is there"));
        let again = write_secret(&path, &SecretString::from("xyk_two"));
        assert!(again.is_err(), "a key was written over");
        let read = read_secret(&path).expect("read");
        assert_eq!(read.expose_secret(), "xyk_one");
    }

    #[test]
    fn a_readable_key_is_seen() {
        let (_guard, data) = directory();
        let path = data.admin_key();
        fs::write(&path, "xyk_one\n").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("changed");
        assert!(!is_private(&path).expect("is there"));
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_quoted() {
        let (_guard, data) = directory();
        let path = data.admin_key();
        for content in ["", "\n", "canary two words", "canary\nlines\n"] {
            fs::write(&path, content).expect("written");
            let error = read_secret(&path).expect_err(content);
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }

    #[test]
    fn endpoints_are_found_again() {
        let (_guard, data) = directory();
        assert_eq!(data.endpoints().expect("readable"), None);
        let endpoints = Endpoints {
            temporal_address: "127.0.0.1:7233".into(),
            namespace: "default".into(),
            web_ui: None,
            control_plane: "http://127.0.0.1:7243".into(),
            data_directory: data.path().to_owned(),
            task_queue: "xylem".into(),
        };
        data.record(&endpoints).expect("written");
        assert_eq!(data.endpoints().expect("readable"), Some(endpoints));
    }
}
