//! What survives a restart, and a kill at any moment.

use crate::database;
use crate::house::{self, Ask, House, V1, V2, agent, slot, workflow};
use secrecy::ExposeSecret;
use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};
use xylem_ids::TreeId;
use xylem_vault::{
    Revocation, SelectedBy, Selection, Storage, SystemClock, Target, Vault, VersionState,
};

#[tokio::test]
async fn a_restart_changes_nothing() {
    let house = House::new().await;
    let (tree, v1) = house.planted("train").await;
    let v2 = house.deposit(&tree, V2, "d2").await.grant.unwrap();
    let held = house.redeem(Ask::new(&tree, &v1)).await.unwrap();
    let (issuers, entries) = (
        house.vault.issuer_set().await.unwrap(),
        house.log().await.len(),
    );

    let house = house.reopen().await;
    assert_eq!(house.vault.issuer_set().await.unwrap(), issuers);
    assert_eq!(house.log().await.len(), entries);
    assert_eq!(house.vault.grants(&tree).await.unwrap(), [v2]);
    let status = house.vault.status(&tree).await.unwrap();
    assert_eq!(status[1].open_leases, 1);
    assert_eq!(held.order.version.0, 2);
    let redeemed = house.redeem(Ask::new(&tree, &v1)).await.unwrap();
    assert_eq!(redeemed.token.expose_secret(), V2);
    assert!(house.deposit(&tree, V2, "d2").await.repeated);
}

/// What can be seen of a tree: the number of audit entries stands for every change.
async fn seen(house: &House, tree: &TreeId) -> (String, usize) {
    let state = (
        house.vault.tree(tree).await.ok(),
        house.vault.status(tree).await.ok(),
        house.vault.exclusions(tree).await.ok(),
        house.leases().await,
        house.rows("secrets").await,
        house.rows("keys").await,
    );
    (format!("{state:?}"), house.log().await.len())
}

/// Begins an operation, drops it at every place where it can wait, and expects all of it or nothing
/// each time: the state and its audit entries change together or not at all.
async fn all_or_nothing(house: &House, tree: &TreeId, operation: impl AsyncFn()) {
    for steps in 1..500 {
        let before = seen(house, tree).await;
        let mut pending = Box::pin(operation());
        let finished = poll_times(pending.as_mut(), steps).await;
        drop(pending);
        // A commit that was under way goes on without it, and would end in the midst of looking.
        // Whoever has its turn now comes after it.
        drop(Storage::begin(&*house.store).await.unwrap());
        let after = seen(house, tree).await;
        assert_eq!(
            before.0 == after.0,
            before.1 == after.1,
            "dropped after {steps} polls"
        );
        if finished {
            return;
        }
    }
    panic!("the operation never finished");
}

#[tokio::test]
async fn an_operation_that_is_dropped_is_done_or_not_begun() {
    let house = House::new().await;
    let operator = agent("operator");
    let start = house.start("train").await;
    let deposit =
        |token: &str, request: &str| house::deposit(Target::Start(start.clone()), token, request);
    house.vault.deposit(deposit(V1, "d1")).await.unwrap();
    let tree = TreeId {
        namespace: house::namespace(),
        workflow_id: workflow("train"),
        first_run_id: "run-1".parse().unwrap(),
    };
    let bind = async || {
        drop(
            house
                .vault
                .bind(&start, tree.first_run_id.clone())
                .await
                .unwrap(),
        )
    };
    all_or_nothing(&house, &tree, bind).await;
    let v1 = house.vault.grants(&tree).await.unwrap().remove(0);
    let rotate = async || drop(house.vault.deposit(deposit(V2, "d2")).await.unwrap());
    all_or_nothing(&house, &tree, rotate).await;
    let redeem = async || drop(house.redeem(Ask::new(&tree, &v1)).await.unwrap());
    all_or_nothing(&house, &tree, redeem).await;
    let revocation = Revocation {
        tree: tree.clone(),
        slot: slot("default"),
        version: v1.order().version,
        force: false,
        by: operator.clone(),
        note: None,
    };
    let revoke = async || drop(house.vault.revoke(revocation.clone()).await.unwrap());
    all_or_nothing(&house, &tree, revoke).await;
    let exclusion = Selection {
        node: workflow("leaf"),
        exclude: vec![slot("default"), slot("github")],
        include: vec![],
        subtree: true,
    };
    let by = SelectedBy::Agent(operator.clone());
    let exclude = async || house.vault.select(&tree, &exclusion, &by).await.unwrap();
    all_or_nothing(&house, &tree, exclude).await;
    let issuer = async || {
        drop(
            house
                .vault
                .rotate_issuer(&house::namespace(), &operator)
                .await
                .unwrap(),
        )
    };
    all_or_nothing(&house, &tree, issuer).await;
    let stop = async || drop(house.vault.stop(house::stopping(&tree)).await.unwrap());
    all_or_nothing(&house, &tree, stop).await;
}

/// Polls up to `times` times; whether the future ended.
async fn poll_times<F: Future>(mut future: std::pin::Pin<&mut F>, times: usize) -> bool {
    let mut left = times;
    std::future::poll_fn(|context| {
        if left == 0 {
            return std::task::Poll::Ready(false);
        }
        left -= 1;
        future.as_mut().poll(context).map(|_| true)
    })
    .await
}

const KILLED: &str = "XYLEM_TEST_KILLED_IN";

/// Not a test of its own: the process that the next test kills. It deposits and reports, for ever.
#[tokio::test]
async fn depositor_that_is_killed() {
    let Ok(folder) = env::var(KILLED) else {
        return;
    };
    let (tree, vault) = tree_in(Path::new(&folder)).await;
    for n in vault.status(&tree).await.unwrap().len() + 1.. {
        let deposit = house::deposit(Target::Tree(tree.clone()), &token(n), &format!("d{n}"));
        vault.deposit(deposit).await.unwrap();
        println!("\ndeposited {n}");
    }
}

fn token(n: usize) -> String {
    format!("acme-token-number-{n}")
}

async fn tree_in(folder: &Path) -> (TreeId, Arc<Vault>) {
    let (_, vault) = house::open(folder, Arc::new(SystemClock)).await.unwrap();
    let start = vault.open_tree(house::new_tree("train")).await.unwrap();
    let bound = vault.bind(&start, "run-1".parse().unwrap()).await.unwrap();
    (bound.tree, vault)
}

#[tokio::test]
async fn a_kill_loses_no_reported_deposit_and_leaves_no_half_of_one() {
    let folder = tempfile::tempdir().unwrap();
    // A server of the process that is killed would end with it.
    database::open(folder.path()).await.unwrap().close().await;
    let mut reported = 0;
    for round in 1..=4 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "cases::restart::depositor_that_is_killed",
                "--nocapture",
            ])
            .env(KILLED, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut numbers =
            lines.filter_map(|line| line.ok()?.strip_prefix("deposited ")?.parse().ok());
        reported = numbers.by_ref().take(5 * round).last().unwrap_or(reported);
        child.kill().unwrap();
        child.wait().unwrap();
        // What it went on to report until it was killed.
        reported = numbers.last().unwrap_or(reported);

        let (tree, vault) = tree_in(folder.path()).await;
        let status = vault.status(&tree).await.unwrap();
        let found = status.len();
        assert!(
            found == reported || found == reported + 1,
            "{found} of {reported}"
        );
        let numbers = status.iter().map(|v| v.info.version.0);
        assert!(numbers.eq(1..=u32::try_from(found).unwrap()));
        let active = status
            .iter()
            .filter(|v| v.info.state == VersionState::Active);
        assert_eq!(active.count(), 1);
        assert_eq!(vault.grants(&tree).await.unwrap().len(), 1);
        assert_eq!(status[found - 1].info.state, VersionState::Active);
        reported = found;
    }
}
