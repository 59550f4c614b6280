//! Archives of the audit log, checked on this machine with nothing but the public key.

use super::failure::{Exit, Failure};
use serde::Serialize;
use std::{
    fmt, fs,
    path::{Path, PathBuf},
};
use xylem_audit::{Archived, CheckpointPublicKey};
use xylem_client::v1;
use xylem_store::read_archive;

/// Archives that follow each other, every entry of which is what was written.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Archives {
    first: u64,
    last: u64,
    checkpoints: u64,
    hash: String,
}

impl fmt::Display for Archives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            first,
            last,
            checkpoints,
            hash,
        } = self;
        write!(
            f,
            "the archives are intact: entries {first} to {last}, {checkpoints} checkpoints\nlast hash {hash}"
        )?;
        if *first > 1 {
            write!(f, "\nentries before {first} are in none of them")?;
        }
        Ok(())
    }
}

impl Archives {
    /// Reads and checks them, in whatever order they are named.
    pub(super) fn read(files: &[PathBuf], key: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(key).map_err(|error| unfit(key, &error))?;
        let public = CheckpointPublicKey::from_jwk(&text).ok_or_else(|| {
            let what = format!("{} is no key of checkpoints", key.display());
            Failure::new(Exit::Usage, what).hint(
                "name the checkpoint.jwk that lies beside the control plane's checkpoint file",
            )
        })?;
        let mut archived: Vec<(Archived, &Path)> = Vec::new();
        for file in files {
            let read = read_archive(file, &public).map_err(|error| unfit(file, &error))?;
            archived.push((read, file));
        }
        archived.sort_by_key(|(it, _)| it.span.first);
        joined(&archived)
    }

    /// Whether the log goes on where these end.
    pub(super) fn lead_to(&self, archived: Option<&v1::AuditSegment>) -> Result<(), Failure> {
        let last = self.last;
        let begins = archived.map(|it| (it.last.as_str(), it.hash.as_str()));
        let what = match begins {
            Some((begins, hash)) if begins == last.to_string() && hash == self.hash => {
                return Ok(());
            }
            Some((begins, _)) if begins != last.to_string() => format!(
                "the archives end with entry {last}, and the log begins after entry {begins}"
            ),
            Some(_) => "the archives are of another log, or of another past of this one".to_owned(),
            None => "the archives are not of this log: nothing of it was archived".to_owned(),
        };
        Err(Failure::new(Exit::Failed, what).hint("name the archives of this log up to the newest"))
    }
}

#[cfg(test)]
impl Archives {
    pub(super) fn of(first: u64, last: u64, hash: &str) -> Self {
        Self {
            first,
            last,
            checkpoints: 1,
            hash: hash.to_owned(),
        }
    }

    pub(super) fn hash(&self) -> &str {
        &self.hash
    }
}

/// Each has to follow from the one before it.
fn joined(archived: &[(Archived, &Path)]) -> Result<Archives, Failure> {
    for (before, after) in archived.iter().zip(archived.iter().skip(1)) {
        let (one, two) = (&before.0, &after.0);
        let follows = one.span.last.checked_add(1) == Some(two.span.first)
            && (one.span.chain, one.hash) == (two.span.chain, two.span.before);
        if !follows {
            let what = format!(
                "{} does not follow from {}: it begins with entry {}, after entry {}",
                after.1.display(),
                before.1.display(),
                two.span.first,
                one.span.last
            );
            let hint = "name every archive of one log once, without a gap";
            return Err(Failure::new(Exit::Failed, what).hint(hint));
        }
    }
    let ends = archived.first().zip(archived.last());
    let ((first, _), (last, _)) =
        ends.ok_or_else(|| Failure::new(Exit::Usage, "name an archive with --archive"))?;
    Ok(Archives {
        first: first.span.first,
        last: last.span.last,
        checkpoints: archived.iter().map(|(it, _)| it.checkpoints).sum(),
        hash: last.hash.to_string(),
    })
}

fn unfit(file: &Path, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::from_error(Exit::Failed, error).about(&file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use xylem_audit::{ChainId, Hash, Span};

    fn archived(first: u64, last: u64, before: u8, hash: u8) -> Archived {
        Archived {
            span: Span {
                chain: ChainId([1; 16]),
                first,
                last,
                before: Hash([before; 32]),
            },
            hash: Hash([hash; 32]),
            checkpoints: 2,
        }
    }

    fn join(archived: &[Archived]) -> Result<Archives, String> {
        let path = Path::new("a.jsonl.gz");
        let named: Vec<_> = archived.iter().map(|it| (*it, path)).collect();
        joined(&named).map_err(|failure| failure.to_string())
    }

    #[test]
    fn archives_follow_each_other_without_a_gap() {
        let one = archived(1, 10, 0, 1);
        let both = join(&[one, archived(11, 20, 1, 2)]).expect("they follow");
        assert_eq!((both.first, both.last, both.checkpoints), (1, 20, 4));
        let gap = join(&[one, archived(12, 20, 1, 2)]).expect_err("a gap");
        assert!(
            gap.contains("begins with entry 12, after entry 10"),
            "{gap}"
        );
        join(&[one, archived(11, 20, 7, 2)]).expect_err("another past");
        join(&[]).expect_err("none");
    }

    #[test]
    fn the_log_goes_on_where_the_archives_end() {
        let archives = join(&[archived(1, 10, 0, 1)]).expect("one");
        let begins = |last: &str, hash: u8| v1::AuditSegment {
            last: last.into(),
            hash: Hash([hash; 32]).to_string(),
            ..v1::AuditSegment::default()
        };
        archives.lead_to(Some(&begins("10", 1))).expect("it does");
        archives
            .lead_to(Some(&begins("10", 2)))
            .expect_err("another past");
        archives.lead_to(Some(&begins("20", 2))).expect_err("a gap");
        archives.lead_to(None).expect_err("another log");
    }
}
