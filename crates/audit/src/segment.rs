//! Segments: the oldest part of a log, written out whole and dropped from where it was.
//!
//! A segment ends at a checkpoint. Its archive is text, and says by itself that nothing in it was
//! edited: the hashes are the chain's, and the signatures the checkpoint key's.
//!
//! ```text
//! {"format":"xylem-audit-segment/1","chain":"…","first":1,"last":4711,"before":"…"}
//! {"seq":1,"hash":"…","body":"…"}             for each entry, with its text as it was chained
//! {"checkpoint":"…"}                          behind each entry that one was taken at, and last
//! ```
//!
//! That a segment was written out is sealed like an entry: where one is missing, somebody who has no
//! key cannot say that it was archived.

use crate::{
    ChainError, ChainId, Checkpoint, CheckpointPublicKey, Entry, Finding, Hash, Line, LogError,
    Mac, Scribe,
    chain::{leaf, link},
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{
    io,
    ops::ControlFlow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const FORMAT: &str = "xylem-audit-segment/1";

/// The record of a segment that was archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its first entry.
    pub first: u64,
    /// Its last.
    pub last: u64,
    /// The hash that the first follows.
    pub before: Hash,
    /// The hash of the last.
    pub hash: Hash,
    /// When the checkpoint at its end was taken, in milliseconds since 1970: no entry is younger.
    pub until_ms: u64,
    /// The name of its archive.
    pub file: String,
    /// When it was archived, in milliseconds since 1970.
    pub at_ms: u64,
    /// Whether its entries were dropped, all of them.
    pub dropped: bool,
    /// Covers everything above.
    pub mac: Mac,
}

impl Segment {
    /// When the checkpoint at its end was taken: no entry is younger.
    #[must_use]
    pub fn until(&self) -> SystemTime {
        let until = UNIX_EPOCH.checked_add(Duration::from_millis(self.until_ms));
        until.unwrap_or(UNIX_EPOCH)
    }
}

impl Scribe {
    /// The record with its seal.
    #[must_use]
    pub fn seal_segment(&self, chain: &ChainId, mut segment: Segment) -> Segment {
        segment.mac = self.keys.seal(
            b"segment\0",
            &[
                &chain.0,
                &segment.first.to_be_bytes(),
                &segment.last.to_be_bytes(),
                &segment.before.0,
                &segment.hash.0,
                &segment.until_ms.to_be_bytes(),
                &segment.at_ms.to_be_bytes(),
                &[u8::from(segment.dropped)],
                segment.file.as_bytes(),
            ],
        );
        segment
    }

    /// Whether the record of a segment is what was written.
    ///
    /// # Errors
    /// [`Finding::Segment`].
    pub fn check_segment(&self, chain: &ChainId, segment: &Segment) -> Result<(), Finding> {
        let last = segment.last;
        let sealed = self.seal_segment(chain, segment.clone()).mac == segment.mac;
        sealed.then_some(()).ok_or(Finding::Segment { last })
    }

    /// Whether these records are what was written, each following the one before it: the first one
    /// begins the log.
    ///
    /// # Errors
    /// [`Finding::Segment`].
    pub fn check_segments(&self, chain: &ChainId, segments: &[Segment]) -> Result<(), Finding> {
        let mut end = (0, self.begin(*chain, UNIX_EPOCH).hash);
        for segment in segments {
            let last = segment.last;
            self.check_segment(chain, segment)?;
            let follows = (segment.first.checked_sub(1), segment.before) == (Some(end.0), end.1);
            if !follows {
                return Err(Finding::Segment { last });
            }
            end = (last, segment.hash);
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    chain: String,
    first: u64,
    last: u64,
    before: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryLine {
    seq: u64,
    hash: String,
    body: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointLine {
    checkpoint: String,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Item {
    Entry(EntryLine),
    Checkpoint(CheckpointLine),
}

/// Which entries an archive has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Which log they are of.
    pub chain: ChainId,
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// The hash that the first follows.
    pub before: Hash,
}

impl Span {
    /// The first line of the archive.
    ///
    /// # Errors
    /// None in practice: numbers and hashes are text.
    pub fn header(&self) -> Result<String, ChainError> {
        let header = Header {
            format: FORMAT.to_owned(),
            chain: self.chain.to_string(),
            first: self.first,
            last: self.last,
            before: self.before.to_string(),
        };
        serde_json::to_string(&header).map_err(ChainError::Text)
    }
}

/// An entry as a line of an archive.
///
/// # Errors
/// None in practice: it is text.
pub fn archive_entry(line: &Line) -> Result<String, ChainError> {
    let line = EntryLine {
        seq: line.seq,
        hash: line.hash.to_string(),
        body: line.body.clone(),
    };
    serde_json::to_string(&line).map_err(ChainError::Text)
}

/// A checkpoint as a line of an archive.
///
/// # Errors
/// None in practice: it is text.
pub fn archive_checkpoint(checkpoint: &Checkpoint) -> Result<String, ChainError> {
    let line = CheckpointLine {
        checkpoint: checkpoint.signed.clone(),
    };
    serde_json::to_string(&line).map_err(ChainError::Text)
}

/// An archive that was read to its end, and is what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Archived {
    /// Which entries it has.
    pub span: Span,
    /// The hash of the last.
    pub hash: Hash,
    /// How many checkpoints cover them.
    pub checkpoints: u64,
}

/// Reads an archive line by line, and names the first entry that is not what was written. Nothing but
/// the public key is needed, and nothing that the archive says about itself is believed.
#[derive(Debug)]
pub struct ArchiveReader {
    key: CheckpointPublicKey,
    line: u64,
    reading: Option<Archived>,
    /// The last entry that was read, and the last checkpoint.
    last: u64,
    checkpoint: u64,
}

impl ArchiveReader {
    /// With the key that verifies checkpoints.
    #[must_use]
    pub fn new(key: CheckpointPublicKey) -> Self {
        Self {
            key,
            line: 0,
            reading: None,
            last: 0,
            checkpoint: 0,
        }
    }

    /// The next line.
    ///
    /// # Errors
    /// What is wrong with it or before it.
    pub fn line(&mut self, text: &str) -> Result<(), Finding> {
        self.line = self.line.saturating_add(1);
        let forged = Finding::ArchiveForged { line: self.line };
        let Some(mut reading) = self.reading else {
            let span = span(text).ok_or(forged)?;
            self.last = span.first.saturating_sub(1);
            self.checkpoint = self.last;
            self.reading = Some(Archived {
                span,
                hash: span.before,
                checkpoints: 0,
            });
            return Ok(());
        };
        match serde_json::from_str(text).map_err(|_| forged)? {
            Item::Entry(line) => self.entry(&mut reading, &line)?,
            Item::Checkpoint(line) => self.checkpoint(&mut reading, &line.checkpoint)?,
        }
        self.reading = Some(reading);
        Ok(())
    }

    fn entry(&mut self, reading: &mut Archived, line: &EntryLine) -> Result<(), Finding> {
        let seq = line.seq;
        let expected = self.last.saturating_add(1);
        if seq < expected {
            return Err(Finding::Changed { seq });
        }
        if seq > expected {
            return Err(Finding::Missing {
                from: expected,
                to: seq.saturating_sub(1),
            });
        }
        if seq > reading.span.last {
            return Err(Finding::Beyond { seq });
        }
        let hash = link(&reading.hash, &leaf(&reading.span.chain, seq, &line.body));
        if hash.to_string() != line.hash {
            return Err(Finding::Changed { seq });
        }
        reading.hash = hash;
        self.last = seq;
        Ok(())
    }

    fn checkpoint(&mut self, reading: &mut Archived, signed: &str) -> Result<(), Finding> {
        let seq = self.last;
        let claims = self.key.verify(signed);
        let claims = claims.filter(|claims| claims.is_of(&reading.span.chain));
        let claims = claims.ok_or(Finding::CheckpointForged { seq })?;
        if claims.seq != seq || !claims.says(&reading.hash) {
            return Err(Finding::CheckpointDiffers { seq: claims.seq });
        }
        if claims.prev != self.checkpoint {
            return Err(Finding::CheckpointMissing { seq: claims.prev });
        }
        self.checkpoint = seq;
        reading.checkpoints = reading.checkpoints.saturating_add(1);
        Ok(())
    }

    /// The end: where it is the end that the archive should have, under a checkpoint.
    ///
    /// # Errors
    /// It is not.
    pub fn finish(self) -> Result<Archived, Finding> {
        let line = self.line.saturating_add(1);
        let reading = self.reading.ok_or(Finding::ArchiveForged { line })?;
        let (last, expected) = (self.last, reading.span.last);
        if last != expected {
            return Err(Finding::Truncated { last, expected });
        }
        if self.checkpoint != last {
            return Err(Finding::CheckpointMissing { seq: last });
        }
        Ok(reading)
    }
}

fn span(header: &str) -> Option<Span> {
    let header: Header = serde_json::from_str(header).ok()?;
    let mut span = Span {
        chain: ChainId([0; 16]),
        first: header.first,
        last: header.last,
        before: Hash([0; 32]),
    };
    hex::decode_to_slice(&header.chain, &mut span.chain.0).ok()?;
    hex::decode_to_slice(&header.before, &mut span.before.0).ok()?;
    let fits = header.format == FORMAT && (1..=header.last).contains(&header.first);
    fits.then_some(span)
}

/// Why the oldest entries were not archived. Nothing is dropped that is not in an archive that was
/// read back.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The folder of archives, or a file in it.
    #[error("the audit log's archive {file} cannot be read or written")]
    File {
        /// The file's name.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// A file under the name of an archive is not that archive.
    #[error(
        "{file} is not the archive of these entries, {finding}: move it away and keep it; what is \
         still in the log is archived again"
    )]
    Damaged {
        /// The file's name.
        file: String,
        /// What is wrong with it.
        finding: Finding,
    },
    /// A file under the name of an archive has other entries than those.
    #[error("{file} is an archive, but not the one that belongs there: move it away and keep it")]
    Other {
        /// The file's name.
        file: String,
    },
    /// Entries were dropped already that are in this archive alone, and it is gone or not what it was.
    #[error(
        "{file} is not in the folder of archives as it was written, and entries in it were dropped \
         already: bring back a copy of it; nothing is archived before"
    )]
    Needed {
        /// The file's name.
        file: String,
    },
    /// Another control plane does it.
    #[error("the audit log is being archived already, by this control plane or another one")]
    UnderWay,
}

/// What archiving does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A segment is written to a file, and the file read back.
    Write,
    /// The record of the segment is sealed.
    Seal,
    /// Entries of the segment are dropped.
    Drop,
    /// It is noted that all of them are.
    Finish,
}

/// Hears what comes next; [`ControlFlow::Break`] ends it before that. What is left is taken up the
/// next time.
pub type Steps<'a> = dyn FnMut(Step) -> ControlFlow<()> + Send + 'a;

/// How far archiving is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Retained {
    /// The newest segment; none before the first.
    pub archived: Option<Segment>,
    /// When the oldest entry that is kept was written; none where none is.
    pub oldest: Option<SystemTime>,
}

/// Drops the oldest entries of a log, after they were written to a file.
#[async_trait]
pub trait Archives: Send + Sync {
    /// Archives and drops what is older than it is to be kept, in whole segments, and answers which.
    /// Entries that say so are like `entry`, by whom and from where.
    ///
    /// # Errors
    /// Nothing that is not archived was dropped; what was begun is taken up the next time.
    async fn archive(
        &self,
        entry: &Entry,
        steps: &mut Steps<'_>,
    ) -> Result<Vec<Segment>, ArchiveError>;

    /// How far it is.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn retained(&self) -> Result<Retained, LogError>;

    /// How long entries are kept at least.
    fn keep(&self) -> Duration;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Stored, keys};
    use proptest::prelude::*;

    impl Stored {
        /// The archive of entries 11 to 30, with checkpoints at 20 and 30.
        fn archive(&self) -> Vec<String> {
            let span = Span {
                chain: self.head.chain,
                first: 11,
                last: 30,
                before: self.lines[9].0.hash,
            };
            let mut lines = vec![span.header().unwrap()];
            for (line, _) in &self.lines[10..30] {
                lines.push(archive_entry(line).unwrap());
                let row = self.table.iter().find(|row| row.seq == line.seq);
                lines.extend(row.map(|row| archive_checkpoint(row).unwrap()));
            }
            lines
        }

        fn segment(&self, first: usize, last: usize) -> Segment {
            let before = match first {
                1 => self.scribe.begin(self.head.chain, UNIX_EPOCH).hash,
                first => self.lines[first - 2].0.hash,
            };
            let segment = Segment {
                first: first as u64,
                last: last as u64,
                before,
                hash: self.lines[last - 1].0.hash,
                until_ms: 7,
                file: "a.jsonl.gz".to_owned(),
                at_ms: 8,
                dropped: false,
                mac: Mac([0; 32]),
            };
            self.scribe.seal_segment(&self.head.chain, segment)
        }
    }

    fn read(lines: &[String]) -> Result<Archived, Finding> {
        let mut reader = ArchiveReader::new(keys().checkpoint_key().clone());
        lines.iter().try_for_each(|line| reader.line(line))?;
        reader.finish()
    }

    #[test]
    fn an_archive_verifies_under_the_public_key_alone() {
        let stored = Stored::with(35);
        let archived = read(&stored.archive()).unwrap();
        assert_eq!((archived.span.first, archived.span.last), (11, 30));
        assert_eq!(archived.hash, stored.lines[29].0.hash);
        assert_eq!(archived.checkpoints, 2);
    }

    #[test]
    fn the_format_is_frozen() {
        let lines = Stored::with(35).archive();
        let begins = "{\"format\":\"xylem-audit-segment/1\",\
                      \"chain\":\"03030303030303030303030303030303\",\
                      \"first\":11,\"last\":30,\"before\":\"";
        assert!(lines[0].starts_with(begins), "{}", lines[0]);
        assert!(
            lines[1].starts_with("{\"seq\":11,\"hash\":\""),
            "{}",
            lines[1]
        );
        assert!(
            lines[11].starts_with("{\"checkpoint\":\"ey"),
            "{}",
            lines[11]
        );
    }

    #[test]
    fn what_was_done_to_an_archive_is_named() {
        let whole = Stored::with(35).archive();
        let edited = |edit: &dyn Fn(&mut Vec<String>)| {
            let mut lines = whole.clone();
            edit(&mut lines);
            read(&lines).unwrap_err()
        };
        let body =
            |lines: &mut Vec<String>| lines[5] = lines[5].replace("\\\"n\\\":1", "\\\"n\\\":2");
        assert_eq!(edited(&body), Finding::Changed { seq: 15 });
        let gone = |lines: &mut Vec<String>| drop(lines.remove(5));
        assert_eq!(edited(&gone), Finding::Missing { from: 15, to: 15 });
        let twice = |lines: &mut Vec<String>| lines.insert(5, lines[5].clone());
        assert_eq!(edited(&twice), Finding::Changed { seq: 15 });
        let short = |lines: &mut Vec<String>| lines.truncate(8);
        let truncated = Finding::Truncated {
            last: 17,
            expected: 30,
        };
        assert_eq!(edited(&short), truncated);
        let unsealed = |lines: &mut Vec<String>| drop(lines.pop());
        assert_eq!(edited(&unsealed), Finding::CheckpointMissing { seq: 30 });
        let between = |lines: &mut Vec<String>| drop(lines.remove(11));
        assert_eq!(edited(&between), Finding::CheckpointMissing { seq: 20 });
        let rubbish = |lines: &mut Vec<String>| lines[3] = "{}".to_owned();
        assert_eq!(edited(&rubbish), Finding::ArchiveForged { line: 4 });
        let newer = |lines: &mut Vec<String>| lines[0] = lines[0].replace("/1", "/2");
        assert_eq!(edited(&newer), Finding::ArchiveForged { line: 1 });
        assert_eq!(read(&[]), Err(Finding::ArchiveForged { line: 1 }));
    }

    #[test]
    fn a_recomputed_archive_is_found_at_its_checkpoint() {
        let mut stored = Stored::with(35);
        let chain = stored.head.chain;
        let mut before = stored.lines[9].0.hash;
        stored.lines[14].0.body = stored.lines[14].0.body.replace("\"n\":1", "\"n\":2");
        for (line, _) in &mut stored.lines[10..30] {
            line.hash = link(&before, &leaf(&chain, line.seq, &line.body));
            before = line.hash;
        }
        let found = read(&stored.archive());
        assert_eq!(found, Err(Finding::CheckpointDiffers { seq: 20 }));
    }

    #[test]
    fn an_archive_under_another_key_is_none() {
        let pkcs8 = crate::new_checkpoint_key().unwrap();
        let people = xylem_seal::SubKey::from_secret(&[8; 32], "people").unwrap();
        let other = crate::Keys::new(&[8; 32], people, &pkcs8).unwrap();
        let mut reader = ArchiveReader::new(other.checkpoint_key().clone());
        let lines = Stored::with(35).archive();
        let found = lines.iter().try_for_each(|line| reader.line(line));
        assert_eq!(found, Err(Finding::CheckpointForged { seq: 20 }));
    }

    #[test]
    fn records_of_segments_are_sealed_and_follow_each_other() {
        let stored = Stored::with(35);
        let chain = stored.head.chain;
        let check = |segments: &[Segment]| stored.scribe.check_segments(&chain, segments);
        let both = [stored.segment(1, 10), stored.segment(11, 30)];
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&both), Ok(()));
        let found = |last| Err(Finding::Segment { last });
        assert_eq!(check(&both[1..]), found(30), "the first is gone");
        let edits: [fn(&mut Segment); 5] = [
            |it| it.last = 20,
            |it| it.hash = Hash([0; 32]),
            |it| it.until_ms += 1,
            |it| it.file.push('x'),
            |it| it.dropped = true,
        ];
        for edit in edits {
            let mut edited = both[0].clone();
            edit(&mut edited);
            assert_eq!(check(&[edited.clone()]), found(edited.last));
        }
        let elsewhere = stored.scribe.check_segments(&ChainId([4; 16]), &both);
        assert_eq!(elsewhere, found(10));
    }

    proptest! {
        #[test]
        fn any_changed_byte_of_an_archive_is_found(line in 0_usize..23, at: prop::sample::Index) {
            let mut lines = Stored::with(35).archive();
            let mut bytes = std::mem::take(&mut lines[line]).into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            lines[line] = String::from_utf8(bytes).unwrap();
            // A digit of the first entry's number, say, or of a hash: whatever it is, it is named.
            prop_assert!(read(&lines).is_err());
        }
    }
}
