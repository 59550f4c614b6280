//! The schema, and how it came to be.
//!
//! A migration that is on `main` is in databases: it is never edited. A later one goes forward only,
//! and leaves what the version of this program before it reads and writes, because control planes are
//! replaced one after the other.

use crate::sql::Work;
use sqlx::{
    SqlSafeStr,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};

/// A number that grows, a name, and the statements.
type File = (i64, &'static str, &'static str);

/// One folder for each database, with the same files in it.
macro_rules! files {
    ($folder:literal: $($number:literal $name:literal,)*) => {
        &[$((
            $number,
            $name,
            include_str!(concat!("../migrations/", $folder, "/", $name, ".sql")),
        )),*]
    };
}

macro_rules! folder {
    ($folder:literal) => {
        files! { $folder:
            1 "0001_vault",
            2 "0002_registry",
            3 "0003_audit",
            4 "0004_audit_subject",
            5 "0005_audit_people",
            6 "0006_audit_segments",
            10 "0010_identity",
            11 "0011_access_tokens",
            12 "0012_accounts",
            13 "0013_second_factors",
            14 "0014_federated_agents",
            20 "0020_tools",
            21 "0021_tool_leases",
            22 "0022_attempts",
            23 "0023_repeated_redemptions",
            30 "0030_policies",
            31 "0031_access",
            40 "0040_credentials",
            41 "0041_credential_sources",
            42 "0042_credential_providers",
            50 "0050_watch",
            60 "0060_restores",
            70 "0070_usage",
            80 "0080_revision",
            90 "0090_wrapped_keys",
        }
    };
}

const SQLITE: &[File] = folder!("sqlite");
const POSTGRES: &[File] = folder!("postgres");

fn migrator<'a>(files: impl IntoIterator<Item = &'a File>) -> Migrator {
    let migrations = files.into_iter().map(|&(number, name, sql)| {
        let simple = MigrationType::Simple;
        Migration::new(number, name.into(), simple, sql.into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    // Whoever migrates has the turn to write.
    migrator.set_locking(false);
    migrator
}

/// Brings the schema up to date, or leaves it as it was.
pub(crate) async fn migrate(work: &mut Work) -> Result<(), MigrateError> {
    match work {
        Work::Sqlite(tx) => migrator(SQLITE).run(&mut **tx).await,
        Work::Postgres(tx) => migrator(POSTGRES).run(&mut **tx).await,
    }
}

/// Makes the schema that these migrations made, in a database that has none.
pub(crate) async fn migrate_to(work: &mut Work, numbers: &[i64]) -> Result<(), MigrateError> {
    let known = |number: &&i64| SQLITE.iter().any(|(known, ..)| known == *number);
    if let Some(unknown) = numbers.iter().find(|number| !known(number)) {
        return Err(MigrateError::VersionMissing(*unknown));
    }
    let wanted = |(number, ..): &&File| numbers.contains(number);
    match work {
        Work::Sqlite(tx) => migrator(SQLITE.iter().filter(wanted)).run(&mut **tx).await,
        Work::Postgres(tx) => {
            migrator(POSTGRES.iter().filter(wanted))
                .run(&mut **tx)
                .await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    #[test]
    fn numbers_grow_and_begin_their_files_names() {
        assert!(SQLITE.is_sorted_by(|(before, ..), (after, ..)| before < after));
        for (number, name, _) in SQLITE {
            assert!(name.starts_with(&format!("{number:04}_")), "{name}");
        }
    }

    /// What is on `main` stands here and is never changed; a new migration is added with it.
    const KEPT: &str = include_str!("migrations.golden");

    #[test]
    fn migrations_that_are_in_databases_stay_as_they_are() {
        let mut table = String::new();
        for (database, files) in [("sqlite", SQLITE), ("postgres", POSTGRES)] {
            for (migration, (_, name, _)) in migrator(files).iter().zip(files) {
                let checksum = hex::encode(&migration.checksum);
                let _ = writeln!(table, "{database:<8} {name:<24} {checksum}");
            }
        }
        for kept in KEPT.lines() {
            assert!(table.lines().any(|line| line == kept), "{kept}\n{table}");
        }
    }
}
