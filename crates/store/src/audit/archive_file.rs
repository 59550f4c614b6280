//! Archives as files: compressed, for their owner alone, under their name only when they are whole.

use super::file::{make_folder, private};
use flate2::{Compression, bufread::GzDecoder, write::GzEncoder};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};
use xylem_audit::{ArchiveReader, Archived, CheckpointPublicKey, Finding, Span};

/// No line is longer, in bytes: an entry has a few kibibytes.
const LONGEST_LINE: u64 = 1024 * 1024;
const SUFFIX: &str = ".jsonl.gz";
const DRAFT: &str = ".part";

/// Why a file is no archive that can be relied on.
#[derive(Debug, thiserror::Error)]
pub enum UnfitArchive {
    /// It cannot be read, or what it was compressed to was damaged.
    #[error("the file cannot be read")]
    Io(#[from] io::Error),
    /// What is in it was edited.
    #[error("{0}")]
    Damaged(Finding),
}

/// Reads an archive to its end and checks every entry, with nothing but the public key of the
/// checkpoints.
///
/// # Errors
/// It is not what was written; the error names the first entry that is not.
pub fn read_archive(path: &Path, key: &CheckpointPublicKey) -> Result<Archived, UnfitArchive> {
    let mut text = BufReader::new(GzDecoder::new(BufReader::new(File::open(path)?)));
    let mut reader = ArchiveReader::new(key.clone());
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut text)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)?;
        if read == 0 {
            return reader.finish().map_err(UnfitArchive::Damaged);
        }
        // What is no text is no line of an archive either.
        let line = std::str::from_utf8(&line).unwrap_or_default();
        let read = reader.line(line.trim_end_matches('\n'));
        read.map_err(UnfitArchive::Damaged)?;
    }
}

/// The name of an archive: names sort by place.
pub(super) fn name(span: &Span) -> String {
    let last = span.last;
    format!("{}{last:012}{SUFFIX}", prefix(span))
}

fn prefix(span: &Span) -> String {
    let chain: String = span.chain.to_string().chars().take(8).collect();
    format!("audit-{chain}-{:012}-", span.first)
}

/// Where archives of these entries end that an earlier attempt has left.
pub(super) fn begun(folder: &Path, span: &Span) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let prefix = prefix(span);
    let mut ends = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let last = name.strip_prefix(&prefix);
        let last: Option<u64> = last.and_then(|name| name.strip_suffix(SUFFIX)?.parse().ok());
        ends.extend(last);
    }
    ends.sort_unstable();
    Ok(ends)
}

/// An archive that is being written.
pub(super) struct Draft {
    path: PathBuf,
    draft: Part,
    out: GzEncoder<BufWriter<File>>,
}

/// A file that is gone where it was not given its name.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Draft {
    /// Removes what attempts before it have left of what begins here. Whoever writes there still has
    /// lost the turn, and finds nothing to be published.
    pub(super) fn begin(folder: &Path, span: &Span, holder: &str) -> io::Result<Self> {
        make_folder(folder)?;
        let prefix = prefix(span);
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(&prefix) && name.ends_with(DRAFT) {
                fs::remove_file(entry.path())?;
            }
        }
        let draft = folder.join(format!("{prefix}{holder}{DRAFT}"));
        let mut options = OpenOptions::new();
        let file = private(&draft, options.write(true).create(true).truncate(true))?;
        Ok(Self {
            path: folder.join(name(span)),
            draft: Part(draft),
            out: GzEncoder::new(BufWriter::new(file), Compression::default()),
        })
    }

    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.write_all(b"\n")
    }

    /// On disk, under its name.
    pub(super) fn publish(self) -> io::Result<()> {
        let file = self.out.finish()?.into_inner()?;
        file.sync_all()?;
        fs::rename(&self.draft.0, &self.path)?;
        match self.path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xylem_audit::{ChainId, Hash};

    fn read(path: &Path) -> String {
        let mut text = String::new();
        let mut packed = GzDecoder::new(BufReader::new(File::open(path).unwrap()));
        packed.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn who_lost_the_turn_publishes_nothing_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let span = Span {
            chain: ChainId([3; 16]),
            first: 1,
            last: 20,
            before: Hash([0; 32]),
        };
        let begin = |holder| Draft::begin(folder, &span, holder).unwrap();
        let mut slow = begin("slow");
        slow.line("slow").unwrap();
        let mut next = begin("next");
        next.line("next").unwrap();
        slow.line("slow").unwrap();
        assert_eq!(slow.publish().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(begun(folder, &span).unwrap().is_empty());
        next.publish().unwrap();
        assert_eq!(begun(folder, &span).unwrap(), vec![20_u64]);
        assert_eq!(read(&folder.join(name(&span))), "next\n");
        drop(begin("failed"));
        assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
    }
}
