//! The store on PostgreSQL.

#[path = "../cases/mod.rs"]
mod cases;
mod database;
#[path = "../house/mod.rs"]
mod house;
mod schema;
mod tls;
mod turns;

use cases::copy::{copied, furnished, loaded, without_state};
use xylem_store::{Empty, Store};

#[tokio::test]
async fn a_copy_goes_into_either_kind_of_database_and_back() {
    let house = furnished().await;
    let lines = copied(&house.store).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("copy.db");
    let empty = Empty::sqlite(&file).await.unwrap();
    loaded(empty, lines.clone()).await.unwrap();
    let sqlite = copied(&Store::sqlite(&file).await.unwrap()).await;
    let empty = database::empty(folder.path()).await;
    loaded(empty, sqlite).await.unwrap();
    let back = copied(&database::open(folder.path()).await.unwrap()).await;
    // Rows come in no order of their own.
    let sorted = |lines: &[String]| {
        let mut lines = without_state(lines);
        lines.sort();
        lines
    };
    assert_eq!(sorted(&back), sorted(&lines));
}
