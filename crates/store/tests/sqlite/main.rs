//! The store on SQLite.

#[path = "../cases/mod.rs"]
mod cases;
mod database;
#[path = "../house/mod.rs"]
mod house;
mod kill;

use xylem_audit::Finding;

#[tokio::test]
async fn an_entry_that_is_no_text_is_named() {
    let found = cases::log_tamper::after(&["UPDATE audit SET body = x'ff' WHERE seq = 17"]);
    assert_eq!(found.await, Finding::Changed { seq: 17 });
}

#[cfg(unix)]
#[tokio::test]
async fn every_file_is_for_its_owner_alone() {
    use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};
    let house = house::House::bare().await;
    house.planted("train").await;
    house.clock.advance(Duration::from_secs(10));
    house.store.checkpoint().await.unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let files = house.files();
    assert!(files.contains(&house.checkpoint_file()), "{files:?}");
    // A public key is for whoever verifies.
    for path in files
        .iter()
        .filter(|path| !path.ends_with("checkpoint.jwk"))
    {
        assert_eq!(mode(path), 0o600, "{}", path.display());
    }
    assert_eq!(mode(&house.folder.path().join("audit")), 0o700);
}
