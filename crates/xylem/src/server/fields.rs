//! Files beside the settings, TOML: of identity providers, of alerts.

use crate::data::DataError;
use serde::de::DeserializeOwned;
use std::{
    fs,
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
    let text = fs::read_to_string(file).map_err(|source| DataError::io("read", file, source))?;
    toml::from_str(&text).map_err(|error| FileError::field(file, error.message()))
}
