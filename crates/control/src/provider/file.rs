//! A file that somebody else writes values into.

use super::{LARGEST, is_ours};
use crate::oauth::Failed;
use rustix::fs::OFlags;
use std::{
    fs,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Whoever else may do anything with it.
const OTHERS: u32 = 0o077;

#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) follow_links: bool,
}

impl File {
    /// What it holds now.
    pub(super) async fn read(&self) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let (path, follow_links) = (self.path.clone(), self.follow_links);
        let read = tokio::task::spawn_blocking(move || read(&path, follow_links)).await;
        let ended = |_| Failed::here("file_not_read", "the provider's file could not be read");
        read.unwrap_or_else(|error| Err(ended(error)))
    }
}

/// Opens it once and looks at what was opened: nobody can exchange it in between.
fn read(path: &Path, follow_links: bool) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let wrong = |code, rule: &str| Failed::here(code, format!("the provider's file: {rule}"));
    let file = open(path, follow_links).map_err(|error| {
        if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
            return wrong(
                "file_refused",
                "must not be a link, unless follow_links says so",
            );
        }
        // What the system says of it: that there is none, or that it may not be opened.
        wrong("file_not_read", &error.kind().to_string())
    })?;
    let opened = file.metadata();
    let opened = opened.map_err(|error| wrong("file_not_read", &error.kind().to_string()))?;
    if !opened.is_file() {
        return Err(wrong("file_refused", "must be a regular file"));
    }
    if !is_ours(opened.uid()) {
        let rule = "must belong to root or to the user that the control plane runs as";
        return Err(wrong("file_refused", rule));
    }
    if opened.mode() & OTHERS != 0 {
        return Err(wrong(
            "file_refused",
            "must be for its owner only: chmod 600",
        ));
    }
    // One piece of memory that is overwritten at the end: it does not grow, and so leaves nothing behind.
    let mut text = Zeroizing::new(Vec::with_capacity(LARGEST + 64));
    let most = u64::try_from(LARGEST + 1).unwrap_or(u64::MAX);
    let whole = file.take(most).read_to_end(&mut text);
    whole.map_err(|error| wrong("file_not_read", &error.kind().to_string()))?;
    if text.len() > LARGEST {
        return Err(wrong("file_too_large", "must have at most 64 KiB"));
    }
    Ok(text)
}

/// Without waiting for whoever writes into a pipe.
fn open(path: &Path, follow_links: bool) -> io::Result<fs::File> {
    let mut flags = OFlags::NONBLOCK;
    if !follow_links {
        flags |= OFlags::NOFOLLOW;
    }
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
}
