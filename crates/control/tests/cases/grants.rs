//! What workers ask: redemption, release, intake, selection.

use crate::common::{API, QUEUE, Stack, TOKEN_1, TOKEN_2, deposit, id, temporal::Mood, tree};
use secrecy::{ExposeSecret, SecretString};
use xylem_client::{ActivityClaims, Client, Definition, Error, Redeem, Redeemed, Select, v1};
use xylem_ids::Role;

struct Scene {
    stack: Stack,
    worker: Client,
}

impl Scene {
    /// A running tree whose root has activity 7 pending.
    async fn set() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut xylem_control::Settings)) -> Self {
        let stack = Stack::with(change).await;
        let worker = stack.worker().await;
        stack.tree("train").await;
        stack.temporal.activity("train", "7", 1);
        Self { stack, worker }
    }

    fn grant(&self) -> String {
        self.stack.temporal.signals("train").remove(0)
    }

    fn request(&self, workflow_id: &str) -> Redeem {
        Redeem {
            claims: self.stack.claims(workflow_id, "7"),
            grant: self.grant(),
            tool: id("acme.deploy"),
            slot: Some(id("default")),
            api_url: None,
            parameters_json: None,
            request_id: String::new(),
        }
    }

    async fn redeem(&self, change: impl FnOnce(&mut Redeem)) -> Result<Redeemed, Error> {
        let mut request = self.request("train");
        change(&mut request);
        self.worker.redeem(request).await
    }

    async fn refused(&self, change: impl FnOnce(&mut Redeem)) -> String {
        let error = self.redeem(change).await.expect_err("refused");
        assert!(matches!(error, Error::Denied(_)), "{error}");
        assert!(!error.to_string().contains("canary"));
        error.reason().unwrap_or_default().to_owned()
    }

    fn local(&self, workflow_id: &str) -> ActivityClaims {
        let mut claims = self.stack.claims(workflow_id, "1");
        claims.local = true;
        claims
    }
}

#[tokio::test]
async fn an_entitled_node_gets_the_newest_token_for_one_call() {
    let scene = Scene::set().await;
    let redeemed = scene.redeem(|_| {}).await.expect("a token");
    assert_eq!(redeemed.token.expose_secret(), TOKEN_1);
    assert_eq!(redeemed.order.map(|order| order.version.0), Some(1));
    assert_eq!(redeemed.audiences, [id(API)]);
    assert_eq!(redeemed.tool.name, "acme.deploy");
    assert!(redeemed.newer_grant.is_none());
    assert!(!format!("{redeemed:?}").contains("canary"));
    let admin = scene.stack.admin().await;
    let rotated = admin
        .rotate_token(&tree("train"), &id("default"), deposit(TOKEN_2))
        .await;
    rotated.expect("rotated");
    let redeemed = scene.redeem(|_| {}).await.expect("a token");
    assert_eq!(redeemed.token.expose_secret(), TOKEN_2);
    assert!(
        redeemed
            .newer_grant
            .is_some_and(|grant| grant != scene.grant())
    );
}

#[tokio::test]
async fn claims_that_do_not_hold_are_refused() {
    let scene = Scene::set().await;
    assert_eq!(
        scene.refused(|r| r.claims.attempt = 2).await,
        "activity_not_pending"
    );
    let refused = scene
        .refused(|r| r.claims.activity_id = "8".to_owned())
        .await;
    assert_eq!(refused, "activity_not_pending");
    assert_eq!(
        scene.refused(|r| r.claims.workflow_type = id("Leaf")).await,
        "other_type"
    );
    assert_eq!(
        scene.refused(|r| r.claims.run_id = id("run-99")).await,
        "not_running"
    );
    assert_eq!(
        scene.refused(|r| r.claims.namespace = id("other")).await,
        "other_namespace"
    );
    assert_eq!(
        scene.refused(|r| r.claims.task_queue = id("else")).await,
        "other_queue"
    );
    let error = scene
        .redeem(|r| r.claims.local = true)
        .await
        .expect_err("local");
    assert!(matches!(error, Error::Invalid(_)), "{error}");
}

#[tokio::test]
async fn who_is_not_entitled_is_refused() {
    let scene = Scene::set().await;
    let temporal = &scene.stack.temporal;
    assert_eq!(
        scene.refused(|r| r.tool = id("no.such")).await,
        "unknown_tool"
    );
    let forged = |r: &mut Redeem| {
        let at = r.grant.len() - 20;
        let other = if r.grant.as_bytes()[at] == b'A' {
            "B"
        } else {
            "A"
        };
        r.grant.replace_range(at..=at, other);
    };
    assert_eq!(scene.refused(forged).await, "grant_bad_signature");
    assert_eq!(
        scene
            .refused(|r| r.api_url = Some("https://evil.example".into()))
            .await,
        "api_url"
    );
    temporal.start_child("train", "relay", "Relay");
    temporal.activity("relay", "7", 1);
    let relay = scene.stack.claims("relay", "7");
    assert_eq!(
        scene.refused(|r| r.claims = relay).await,
        "slot_transit_only"
    );
    temporal.start_child("train", "plain", "SomethingElse");
    temporal.activity("plain", "7", 1);
    let plain = scene.stack.claims("plain", "7");
    assert_eq!(scene.refused(|r| r.claims = plain).await, "slot_undeclared");
    temporal.start_root("stranger", "Train");
    temporal.activity("stranger", "7", 1);
    let stranger = scene.stack.claims("stranger", "7");
    assert_eq!(scene.refused(|r| r.claims = stranger).await, "unknown_tree");
    let admin = scene.stack.admin().await;
    let withdrawn = admin
        .withdraw_tools(&tree("train"), vec![id("acme.deploy")])
        .await;
    withdrawn.expect("withdrawn");
    assert_eq!(scene.refused(|_| {}).await, "tool_not_allowed");
    let request = v1::StopTreeRequest {
        tree: "train".to_owned(),
        wait: Some(xylem_client::Duration::default()),
        ..v1::StopTreeRequest::default()
    };
    let before = scene.request("train");
    // Its root has not ended yet, so the claim check confirms, from memory or anew: the vault
    // refuses all the same.
    temporal.mood("train", Mood::Stubborn);
    admin.stop_tree(request).await.expect("stopped");
    let error = scene.worker.redeem(before).await.expect_err("stopped");
    assert_eq!(error.reason(), Some("tree_stopped"));
}

#[tokio::test]
async fn a_refusal_names_tool_slot_tree_version_and_what_to_do() {
    let scene = Scene::set().await;
    let admin = scene.stack.admin().await;
    let text = async |change: fn(&mut Redeem)| {
        let error = scene.redeem(change).await.expect_err("refused");
        (
            error.reason().unwrap_or_default().to_owned(),
            error.to_string(),
        )
    };
    let mut refusals = vec![
        text(|r| r.tool = id("no.such")).await,
        text(|r| r.api_url = Some("https://evil.example".into())).await,
    ];
    let withdrawn = admin
        .withdraw_tools(&tree("train"), vec![id("acme.deploy")])
        .await;
    withdrawn.expect("withdrawn");
    refusals.push(text(|_| {}).await);
    let expected = [
        ("unknown_tool", "tool no.such, ", "register it"),
        ("api_url", "tool acme.deploy, ", "api_url"),
        ("tool_not_allowed", "tool acme.deploy, ", "allow it"),
    ];
    for ((reason, text), (code, tool, advice)) in refusals.iter().zip(expected) {
        assert_eq!(reason, code);
        for said in [tool, "slot default of tree train, version 1", advice] {
            assert!(text.contains(said), "{code}: {text}");
        }
        assert!(!text.contains("evil"), "{text}");
    }
    // A grant that is none names no tree.
    let (reason, text) = text(|r| r.grant = "xylem1.canary".to_owned()).await;
    assert_eq!(reason, "grant_malformed");
    assert!(
        text.contains("tool acme.deploy for workflow train"),
        "{text}"
    );
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test]
async fn every_decision_is_in_the_log() {
    let scene = Scene::set().await;
    scene.refused(|r| r.tool = id("no.such")).await;
    scene.refused(|r| r.claims.attempt = 2).await;
    scene.redeem(|_| {}).await.expect("a token");
    let admin = scene.stack.admin().await;
    let request = v1::ListAuditRequest {
        filter: Some(v1::AuditFilter {
            action: "redeem".to_owned(),
            ..v1::AuditFilter::default()
        }),
        ..v1::ListAuditRequest::default()
    };
    let listed = admin.list_audit(request).await.expect("entries").entries;
    let said: Vec<_> = listed
        .iter()
        .map(|e| (e.outcome.as_str(), e.reason.as_str()))
        .collect();
    let expected = [
        ("denied", "unknown_tool"),
        ("denied", "activity_not_pending"),
        ("granted", ""),
    ];
    assert_eq!(said, expected);
}

#[tokio::test]
async fn temporal_down_is_retryable_and_gives_nothing() {
    let scene = Scene::set().await;
    let request = scene.request("train");
    scene.stack.temporal.down(true);
    let error = scene
        .worker
        .redeem(request)
        .await
        .expect_err("nobody to ask");
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test]
async fn a_database_that_takes_nothing_is_retryable_and_gives_nothing() {
    let scene = Scene::set().await;
    let occupied = scene.stack.occupy().await;
    let error = scene.redeem(|_| {}).await.expect_err("nothing is written");
    assert!(error.is_retryable(), "{error}");
    assert_eq!(error.reason(), Some("database_unavailable"));
    drop(occupied);
    let redeemed = scene.redeem(|_| {}).await.expect("a token");
    assert_eq!(redeemed.token.expose_secret(), TOKEN_1);
    let admin = scene.stack.admin().await;
    let versions = admin.token_status(&tree("train"), None).await;
    let versions = versions.expect("a status");
    assert_eq!(versions[0].open_leases, 1, "the first call left none");
}

#[tokio::test]
async fn an_excluded_subtree_is_refused_until_it_is_included_again() {
    let scene = Scene::set().await;
    let temporal = &scene.stack.temporal;
    temporal.start_child("train", "leaf", "Leaf");
    temporal.start_child("leaf", "below", "Leaf");
    temporal.activity("below", "7", 1);
    let change = |exclude: &[&str], include: &[&str]| Select {
        claims: scene.local("train"),
        child: id("leaf"),
        exclude: exclude.iter().map(|slot| id(slot)).collect(),
        include: include.iter().map(|slot| id(slot)).collect(),
        subtree: true,
    };
    scene
        .worker
        .select(change(&["default"], &[]))
        .await
        .expect("excluded");
    let below = scene.stack.claims("below", "7");
    assert_eq!(
        scene.refused(|r| r.claims = below.clone()).await,
        "excluded"
    );
    scene
        .worker
        .select(change(&[], &["default"]))
        .await
        .expect("included");
    scene.redeem(|r| r.claims = below).await.expect("a token");
    let mut itself = change(&["default"], &[]);
    itself.child = id("train");
    let error = scene.worker.select(itself).await.expect_err("not below");
    assert_eq!(error.reason(), Some("not_below"));
}

#[tokio::test]
async fn a_sibling_does_not_lift_what_the_parent_excluded() {
    let scene = Scene::set().await;
    let temporal = &scene.stack.temporal;
    for child in ["leaf", "beside"] {
        temporal.start_child("train", child, "Leaf");
    }
    temporal.activity("leaf", "7", 1);
    let change = |by: &str, exclude: &[&str], include: &[&str]| Select {
        claims: scene.local(by),
        child: id("leaf"),
        exclude: exclude.iter().map(|slot| id(slot)).collect(),
        include: include.iter().map(|slot| id(slot)).collect(),
        subtree: true,
    };
    let select = async |change| scene.worker.select(change).await;
    let excluded = select(change("train", &["default"], &[])).await;
    excluded.expect("excluded");
    let error = select(change("beside", &[], &["default"])).await;
    let error = error.expect_err("its parent's");
    assert_eq!(error.reason(), Some("excluded_by_other"));
    let leaf = scene.stack.claims("leaf", "7");
    assert_eq!(scene.refused(|r| r.claims = leaf.clone()).await, "excluded");
    let included = select(change("train", &[], &["default"])).await;
    included.expect("included");
    scene.redeem(|r| r.claims = leaf).await.expect("a token");
}

#[tokio::test]
async fn a_stranger_learns_its_tree_and_whose_grants_it_trusts() {
    let scene = Scene::set().await;
    let known = scene
        .worker
        .issuers(scene.local("train"), Vec::new())
        .await
        .expect("an answer");
    assert_eq!(known.tree.workflow_id, id("train"));
    assert!(!known.intake && known.issuers.len() == 1);
    scene.stack.temporal.start_root("stock", "Train");
    let adopted = scene
        .worker
        .issuers(scene.local("stock"), Vec::new())
        .await
        .expect("an answer");
    assert_eq!(adopted.tree.workflow_id, id("stock"));
    let mut foreign = scene.local("stock");
    foreign.task_queue = id("else");
    let error = scene
        .worker
        .issuers(foreign, Vec::new())
        .await
        .expect_err("not its queue");
    assert_eq!(error.reason(), Some("queue_not_served"));
}

#[tokio::test]
async fn a_raw_token_is_taken_in_where_the_tree_says_so() {
    let scene = Scene::with(|settings| {
        settings.intake_adopted = true;
        settings.intake_audiences = vec![id(API)];
    })
    .await;
    let raw = SecretString::from("canary-signalled-raw-token");
    let error = scene
        .worker
        .take_in(scene.local("train"), id("default"), &raw)
        .await;
    let error = error.expect_err("off");
    assert_eq!(error.reason(), Some("intake_off"));
    assert!(!error.to_string().contains("canary"));
    scene.stack.temporal.start_root("stock", "Train");
    let grant = scene
        .worker
        .take_in(scene.local("stock"), id("default"), &raw)
        .await;
    assert!(grant.expect("taken in").starts_with("xylem1."));
    let admin = scene.stack.admin().await;
    let versions = admin
        .token_status(&tree("stock"), None)
        .await
        .expect("a status");
    assert!(versions[0].exposed);
}

#[tokio::test]
async fn a_worker_registers_and_reports_for_its_own_queues() {
    let scene = Scene::set().await;
    let error = scene
        .worker
        .register_definitions(id("else"), Vec::new())
        .await;
    assert_eq!(
        error.expect_err("not its queue").reason(),
        Some("queue_not_served")
    );
    let entry = v1::NewAuditEntry {
        action: "signal.rejected".to_owned(),
        reason: "stale".to_owned(),
        count: 3,
        ..v1::NewAuditEntry::default()
    };
    let appended = scene
        .worker
        .append_audit(scene.local("train"), vec![entry.clone()])
        .await;
    appended.expect("appended");
    let bad = v1::NewAuditEntry {
        reason: "Bearer canary".to_owned(),
        ..entry
    };
    let error = scene
        .worker
        .append_audit(scene.local("train"), vec![bad])
        .await;
    assert!(matches!(error.expect_err("no code"), Error::Invalid(_)));
    let other = scene.stack.client(Role::Worker).await;
    let request = scene.request("train");
    let redeemed = scene.worker.redeem(request).await.expect("a token");
    let end = xylem_client::CallEnd {
        outcome: v1::CallOutcome::Refused401,
        http_status: Some(401),
        duration: std::time::Duration::ZERO,
        bytes_out: 512,
        bytes_in: 2048,
    };
    let error = other.release(redeemed.lease.clone(), end.clone()).await;
    assert!(matches!(
        error.expect_err("another worker's"),
        Error::NotFound(_)
    ));
    scene
        .worker
        .release(redeemed.lease, end)
        .await
        .expect("released");
}

#[tokio::test]
async fn a_slot_that_holds_no_token_says_which_and_what_to_do() {
    let scene = Scene::set().await;
    let admin = scene.stack.admin().await;
    let tool = v1::Tool {
        name: "git.pull".to_owned(),
        method: "POST".to_owned(),
        base_url: API.to_owned(),
        path: "/pulls".to_owned(),
        slot: "github".to_owned(),
        ..v1::Tool::default()
    };
    scene.stack.offer(tool).await;
    let name = tree("train");
    let allowed = admin.allow_tools(&name, vec![id("git.pull")]).await;
    allowed.expect("allowed");
    // A node holds a grant for an empty slot where a restore has lost the deposit.
    let (stack, restored) = scene.stack.twice().await;
    let admin = stack.admin().await;
    let set = admin
        .set_token(&name, &id("github"), deposit(TOKEN_2))
        .await;
    set.expect("set, after the backup");
    let grant = stack.temporal.signals("train").pop().expect("signalled");
    let worker = restored.client(Role::Worker).await;
    let definition = Definition {
        workflow_type: id("Train"),
        slots: [id("github")].into(),
        transit: [].into(),
    };
    let registered = worker.register_definitions(id(QUEUE), vec![definition]);
    registered.await.expect("registered");
    let redeem = Redeem {
        claims: restored.claims("train", "7"),
        grant,
        tool: id("git.pull"),
        slot: Some(id("github")),
        api_url: None,
        parameters_json: None,
        request_id: String::new(),
    };
    let error = worker.redeem(redeem).await.expect_err("nothing there");
    assert!(matches!(error, Error::Denied(_)), "{error}");
    assert_eq!(error.reason(), Some("no_token"));
    let text = error.to_string();
    for said in ["slot github", "tree train", "set one"] {
        assert!(text.contains(said), "{text}");
    }
}

#[tokio::test]
async fn a_call_that_a_worker_refused_is_a_denied_redemption_of_its_node() {
    let scene = Scene::set().await;
    let entry = v1::NewAuditEntry {
        action: "tool.refused".to_owned(),
        reason: "address".to_owned(),
        slot: "default".to_owned(),
        tool: "acme.deploy".to_owned(),
        count: 1,
    };
    let claims = scene.stack.claims("train", "7");
    let appended = scene.worker.append_audit(claims, vec![entry]);
    appended.await.expect("appended");
    let admin = scene.stack.admin().await;
    let request = v1::ListAuditRequest {
        filter: Some(v1::AuditFilter {
            tree: "train".to_owned(),
            action: "redeem".to_owned(),
            outcome: "denied".to_owned(),
            ..v1::AuditFilter::default()
        }),
        ..v1::ListAuditRequest::default()
    };
    let listed = admin.list_audit(request).await.expect("entries").entries;
    assert_eq!(listed.len(), 1, "{listed:?}");
    let entry = &listed[0];
    assert_eq!((entry.reason.as_str(), entry.count), ("address", 1));
    assert_eq!(
        (entry.tool.as_str(), entry.slot.as_str()),
        ("acme.deploy", "default")
    );
    assert_eq!(
        (entry.workflow_id.as_str(), entry.activity_id.as_str()),
        ("train", "7")
    );
    assert_eq!(entry.lease_id, "", "no token was handed out");
}
