//! The schema of a new database.

use tempfile::tempdir;
use xylem_store::Store;

#[tokio::test]
async fn whoever_opens_a_new_database_at_the_same_time_finds_the_schema_made() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("xylem.db");
    let open = || Store::sqlite(&path);
    let (one, two, three) = tokio::join!(open(), open(), open());
    for opened in [one, two, three] {
        opened.unwrap().ping().await.unwrap();
    }
}
