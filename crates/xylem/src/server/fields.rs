//! Files beside the settings, TOML: of identity providers, of alerts, of what gives credentials.

use crate::data::DataError;
use serde::de::DeserializeOwned;
use std::{
    fmt::Display,
    fs::File,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use toml::de::{DeTable, DeValue};

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
    /// The file as a whole breaks this rule.
    fn field(file: &Path, rule: impl Into<String>) -> Self {
        Self::Field {
            file: file.to_owned(),
            rule: rule.into(),
        }
    }

    /// What the file says here breaks this rule.
    fn at(text: &Text, at: Option<usize>, rule: impl Display) -> Self {
        Self::field(
            &text.file,
            match at {
                Some(at) => format!("line {}: {rule}", line(&text.text, at)),
                None => rule.to_string(),
            },
        )
    }
}

/// What such a file says, and where it says it.
pub(super) struct Parsed<T> {
    pub(super) fields: T,
    pub(super) text: Text,
}

/// The file, for what is found wrong in it later.
pub(super) struct Text {
    file: PathBuf,
    text: String,
}

impl Text {
    /// The field that this path leads to breaks a rule: of the first table of a list `provider`, that is
    /// `["provider", "0", "issuer"]`. What says nothing of the field is named by the line that could.
    pub(super) fn wrong(&self, path: &[&str], rule: impl Display) -> FileError {
        let table = DeTable::parse(&self.text).ok();
        let at = table.and_then(|table| place(table.get_ref(), path));
        FileError::at(self, at, rule)
    }
}

/// Where the text says so much of a path as it says.
fn place(table: &DeTable<'_>, path: &[&str]) -> Option<usize> {
    let (first, mut rest) = path.split_first()?;
    let (key, mut value) = table.get_key_value(*first)?;
    let mut at = key.span().start;
    while let (DeValue::Array(values), Some((index, after))) = (value.get_ref(), rest.split_first())
    {
        value = values.get(index.parse::<usize>().ok()?)?;
        (at, rest) = (value.span().start, after);
    }
    match value.get_ref() {
        DeValue::Table(table) => place(table, rest).or(Some(at)),
        _ => Some(at),
    }
}

/// The fields of the file.
pub(super) fn read<T: DeserializeOwned>(file: &Path) -> Result<Parsed<T>, FileError> {
    let opened = File::open(file).map_err(|source| DataError::io("read", file, source))?;
    parsed(file, opened)
}

/// The same of a file that nobody else may read or change. What is looked at is what was opened.
pub(super) fn read_private<T: DeserializeOwned>(file: &Path) -> Result<Parsed<T>, FileError> {
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

fn parsed<T: DeserializeOwned>(file: &Path, mut opened: File) -> Result<Parsed<T>, FileError> {
    let mut text = Text {
        file: file.to_owned(),
        text: String::new(),
    };
    let read = opened.read_to_string(&mut text.text);
    read.map_err(|source| DataError::io("read", file, source))?;
    match toml::from_str(&text.text) {
        Ok(fields) => Ok(Parsed { fields, text }),
        Err(error) => {
            let at = error.span().map(|span| span.start);
            Err(FileError::at(&text, at, error.message()))
        }
    }
}

/// The line that a byte of the text is in.
fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}
