//! The schema of a new database.

use crate::database;
use tempfile::tempdir;

#[tokio::test]
async fn whoever_opens_a_new_database_at_the_same_time_finds_the_schema_made() {
    let folder = tempdir().unwrap();
    let open = || database::open(folder.path());
    let (one, two, three) = tokio::join!(open(), open(), open());
    for opened in [one, two, three] {
        opened.unwrap().ping().await.unwrap();
    }
}
