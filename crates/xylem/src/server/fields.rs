//! Files beside the settings, TOML: of identity providers, of alerts, of what gives credentials.

use crate::data::DataError;
use serde::de::DeserializeOwned;
use std::{
    fs::File,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Why such a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file, or one that it names, cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// It is not what it is to be. The text names the field and the rule.
    #[error("{}: {rule}", .file.display())]
    Field {
        /// The file.
        file: PathBuf,
        /// What it says.
        rule: String,
    },
}

impl FileError {
    /// A field of the file breaks this rule.
    pub(super) fn field(file: &Path, rule: impl Into<String>) -> Self {
        Self::Field {
            file: file.to_owned(),
            rule: rule.into(),
        }
    }
}

/// The fields of the file.
pub(super) fn read<T: DeserializeOwned>(file: &Path) -> Result<T, FileError> {
    let opened = File::open(file).map_err(|source| DataError::io("read", file, source))?;
    parsed(file, opened)
}

/// The same of a file that nobody else may read or change. What is looked at is what was opened.
pub(super) fn read_private<T: DeserializeOwned>(file: &Path) -> Result<T, FileError> {
    let failed = |source| DataError::io("read", file, source);
    let opened = File::open(file).map_err(failed)?;
    let found = opened.metadata().map_err(failed)?;
    if found.mode() & 0o077 != 0 {
        return Err(FileError::field(
            file,
            "must be for its owner only: chmod 600",
        ));
    }
    if found.uid() != 0 && found.uid() != rustix::process::geteuid().as_raw() {
        let rule = "must belong to root or to the user that runs this";
        return Err(FileError::field(file, rule));
    }
    parsed(file, opened)
}

fn parsed<T: DeserializeOwned>(file: &Path, mut opened: File) -> Result<T, FileError> {
    let mut text = String::new();
    let read = opened.read_to_string(&mut text);
    read.map_err(|source| DataError::io("read", file, source))?;
    toml::from_str(&text).map_err(|error| {
        let rule = error.message();
        match error.span() {
            Some(at) => FileError::field(file, format!("line {}: {rule}", line(&text, at.start))),
            None => FileError::field(file, rule),
        }
    })
}

/// The line that a byte of the text is in.
fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}
