//! Requests for access on a real database: who may approve, what an approval opens, and when it ends.

use crate::house::{self, Ask, House, agent, namespace};
use std::time::Duration;
use xylem_audit::{Entry, Kind, Note, Verdict};
use xylem_identity::NewAgent;
use xylem_ids::{AgentKind, Role};
use xylem_policy::{
    Access, AccessState, Act, Action, Document, NewAccess, PolicyError, ToolFacts, USUAL_ACCESS,
    Wanted,
};
use xylem_vault::{Clock, VaultError};

/// Who owns the trees of the house.
const OWNER: &str = "service";

fn act(house: &House, by: &str) -> Act {
    Act {
        by: agent(by),
        reason: Note::new("for the release").unwrap(),
        entry: Entry::new(house.clock.now(), Kind::AccessRequested, Verdict::Succeeded),
    }
}

fn deploy() -> ToolFacts {
    ToolFacts {
        name: "acme.deploy".parse().unwrap(),
        tags: [].into(),
        origin: "https://api.acme.example".to_owned(),
        method: "POST".to_owned(),
        owner: None,
    }
}

async fn ask_for(
    house: &House,
    who: &str,
    action: Action,
    by: &str,
) -> Result<Access, PolicyError> {
    let (who, tool) = (agent(who), deploy());
    let new = NewAccess {
        agent: &who,
        tool: &tool,
        action,
        policy: None,
        lasts: USUAL_ACCESS,
    };
    house.policies.ask(&namespace(), new, act(house, by)).await
}

async fn ask(house: &House) -> Access {
    ask_for(house, OWNER, Action::Execute, OWNER).await.unwrap()
}

async fn decide(
    house: &House,
    access: &Access,
    approve: bool,
    by: &str,
) -> Result<Access, PolicyError> {
    let act = act(house, by);
    house
        .policies
        .decide_access(&namespace(), &access.id, approve, false, act)
        .await
}

async fn retire(house: &House, policy: &str) {
    let (policy, author) = (policy.parse().unwrap(), house.author());
    house
        .policies
        .retire(&namespace(), &policy, None, &author)
        .await
        .unwrap();
}

async fn write(house: &House, json: serde_json::Value) {
    let document: Document = serde_json::from_value(json).unwrap();
    let author = house.author();
    house
        .policies
        .create(&namespace(), &document, &author)
        .await
        .unwrap();
}

/// A call that one policy allows, once somebody approves.
async fn waiting() -> (House, Ask) {
    let house = House::new().await;
    create(&house, "approver", AgentKind::User, None).await;
    let (tree, grant) = house.planted("train").await;
    retire(&house, "everybody").await;
    write(
        &house,
        serde_json::json!({
            "name": "deploys", "effect": "allow", "requires_approval": true,
            "who": {"agents": [OWNER]}, "what": {"tools": ["acme.deploy"]}, "actions": ["execute"],
        }),
    )
    .await;
    let ask = Ask::new(&tree, &grant);
    (house, ask)
}

async fn create(house: &House, name: &str, kind: AgentKind, by: Option<&str>) {
    let new = NewAgent {
        id: agent(name),
        kind,
        roles: [Role::User].into(),
    };
    let mut entry = Entry::new(house.clock.now(), Kind::AgentCreated, Verdict::Succeeded);
    entry.agent = by.map(agent);
    let created = house.identity.create_agent(&namespace(), new, entry).await;
    assert_eq!(created.unwrap().created_by, by.map(agent));
}

async fn reason(house: &House, ask: &Ask) -> &'static str {
    house.refused(ask.clone()).await.code()
}

#[tokio::test]
async fn a_call_goes_on_once_somebody_else_approves() {
    let (house, call) = waiting().await;
    assert_eq!(reason(&house, &call).await, "approval_required");
    let asked = ask(&house).await;
    assert_eq!(asked.policy.as_ref().unwrap().as_str(), "deploys");
    let entry = house.last_entry().await;
    assert_eq!(entry.kind, Kind::AccessRequested);
    assert_eq!(entry.owner, Some(agent(OWNER)));
    assert_eq!(entry.note.unwrap().as_str(), "for the release");
    assert_eq!(reason(&house, &call).await, "approval_required");

    let own = decide(&house, &asked, true, OWNER).await;
    assert!(matches!(own, Err(PolicyError::OwnRequest)), "{own:?}");
    let entry = house.last_entry().await;
    assert_eq!(
        (entry.kind, entry.verdict, entry.agent),
        (Kind::AccessApproved, Verdict::Denied, Some(agent(OWNER)))
    );
    assert_eq!(entry.reason.unwrap().as_str(), "own_request");
    assert_eq!(
        entry.subject.unwrap().to_string(),
        format!("access:{}", asked.id)
    );
    let approved = decide(&house, &asked, true, "approver").await.unwrap();
    assert_eq!(approved.state.code(), "approved");
    let entry = house.last_entry().await;
    assert_eq!(entry.kind, Kind::AccessApproved);
    assert_eq!(entry.agent, Some(agent("approver")));
    assert_eq!(
        entry.subject.unwrap().to_string(),
        format!("access:{}", asked.id)
    );
    house.redeem(call.clone()).await.unwrap();
    // The policy decides, as before; it was only waiting.
    assert_eq!(
        house.last_entry().await.policy.unwrap().as_str(),
        "deploys@1"
    );
}

#[tokio::test]
async fn what_was_decided_stays_decided() {
    let (house, call) = waiting().await;
    let asked = ask(&house).await;
    decide(&house, &asked, false, "approver").await.unwrap();
    for approve in [true, false] {
        let again = decide(&house, &asked, approve, "approver").await;
        assert!(
            matches!(again, Err(PolicyError::Decided("rejected"))),
            "{again:?}"
        );
    }
    assert_eq!(reason(&house, &call).await, "approval_required");
    let ended = house
        .policies
        .end_access(&namespace(), &asked.id, act(&house, OWNER))
        .await;
    assert!(
        matches!(ended, Err(PolicyError::Decided("rejected"))),
        "{ended:?}"
    );
}

#[tokio::test]
async fn an_expired_approval_does_not_help_and_is_written_down() {
    let (house, call) = waiting().await;
    let asked = ask(&house).await;
    decide(&house, &asked, true, "approver").await.unwrap();
    house.clock.advance(USUAL_ACCESS - Duration::from_secs(1));
    house.redeem(call.clone()).await.unwrap();
    house.clock.advance(Duration::from_secs(1));
    assert_eq!(reason(&house, &call).await, "approval_required");
    // The clock said so; now the row does too.
    let now = house.clock.now();
    let read = house
        .policies
        .access(&namespace(), &asked.id, now)
        .await
        .unwrap();
    assert_eq!(read.state.code(), "expired");
    let entry = Entry::new(now, Kind::AccessExpired, Verdict::Succeeded);
    let here = namespace();
    let expire = || house.policies.expire_accesses(&here, entry.clone());
    expire().await.unwrap();
    let entry = house.last_entry().await;
    assert_eq!(entry.kind, Kind::AccessExpired);
    assert_eq!(
        entry.subject.unwrap().to_string(),
        format!("access:{}", asked.id)
    );
    assert_eq!(
        house.rows("access_requests WHERE state = 'expired'").await,
        1
    );
    let entries = house.log().await.len();
    expire().await.unwrap();
    assert_eq!(house.log().await.len(), entries);
}

#[tokio::test]
async fn a_request_that_nobody_decides_expires() {
    let (house, _) = waiting().await;
    let asked = ask(&house).await;
    house.clock.advance(Duration::from_secs(7 * 24 * 3600));
    let late = decide(&house, &asked, true, "approver").await;
    assert!(
        matches!(late, Err(PolicyError::Decided("expired"))),
        "{late:?}"
    );
    let next = ask(&house).await;
    assert_ne!(next.id, asked.id);
}

#[tokio::test]
async fn an_approval_ends_before_its_time() {
    let (house, call) = waiting().await;
    let asked = ask(&house).await;
    decide(&house, &asked, true, "approver").await.unwrap();
    house.redeem(call.clone()).await.unwrap();
    let ended = house
        .policies
        .end_access(&namespace(), &asked.id, act(&house, "approver"))
        .await
        .unwrap();
    assert!(matches!(ended.state, AccessState::Ended(_)), "{ended:?}");
    assert_eq!(house.last_entry().await.kind, Kind::AccessEnded);
    assert_eq!(reason(&house, &call).await, "approval_required");
}

#[tokio::test]
async fn a_retired_policys_approvals_do_not_match() {
    let (house, call) = waiting().await;
    let asked = ask(&house).await;
    decide(&house, &asked, true, "approver").await.unwrap();
    retire(&house, "deploys").await;
    assert_eq!(reason(&house, &call).await, "no_policy");
    write(
        &house,
        serde_json::json!({
            "name": "deploys-too", "effect": "allow", "requires_approval": true,
            "who": {"anyone": true}, "what": {"all": true}, "actions": ["execute"],
        }),
    )
    .await;
    assert_eq!(reason(&house, &call).await, "approval_required");
}

#[tokio::test]
async fn asking_twice_is_one_request_and_so_many_may_wait() {
    let (house, _) = waiting().await;
    let first = ask(&house).await;
    let entries = house.log().await.len();
    assert_eq!(ask(&house).await, first);
    assert_eq!(house.log().await.len(), entries);
    // Without a policy that waits, an approval stands for itself: to read and execute.
    let read = ask_for(&house, OWNER, Action::Read, OWNER).await.unwrap();
    assert_eq!(read.policy, None);
    let admin = ask_for(&house, OWNER, Action::Admin, OWNER).await;
    let admin = admin.unwrap_err().to_string();
    assert!(
        admin.starts_with("action must be read or execute"),
        "{admin}"
    );

    let mut tool = deploy();
    for number in 0..18 {
        tool.name = format!("acme.t{number}").parse().unwrap();
        asks(&house, &tool).await.unwrap();
    }
    tool.name = "acme.last".parse().unwrap();
    let error = asks(&house, &tool).await.unwrap_err();
    assert!(matches!(error, PolicyError::TooManyRequests), "{error:?}");
    let wanted = Wanted {
        pending_at: Some(0),
        ..Wanted::default()
    };
    let now = house.clock.now();
    assert_eq!(
        house
            .policies
            .accesses(&namespace(), wanted, 100, now)
            .await
            .unwrap()
            .len(),
        20
    );
}

async fn asks(house: &House, tool: &ToolFacts) -> Result<Access, PolicyError> {
    let who = agent(OWNER);
    let new = NewAccess {
        agent: &who,
        tool,
        action: Action::Execute,
        policy: None,
        lasts: USUAL_ACCESS,
    };
    house
        .policies
        .ask(&namespace(), new, act(house, OWNER))
        .await
}

#[tokio::test]
async fn what_stands_for_itself_allows_what_nothing_denies() {
    let (house, call) = waiting().await;
    retire(&house, "deploys").await;
    let asked = ask(&house).await;
    assert_eq!(asked.policy, None);
    assert_eq!(reason(&house, &call).await, "no_policy");
    decide(&house, &asked, true, "approver").await.unwrap();
    house.redeem(call.clone()).await.unwrap();
    let granted = house.last_entry().await.policy.unwrap();
    assert_eq!(granted.as_str(), format!("access:{}", asked.id));
    write(
        &house,
        serde_json::json!({
            "name": "freeze", "effect": "deny", "guardrail": true, "who": {"anyone": true},
            "what": {"all": true}, "actions": ["execute"],
        }),
    )
    .await;
    assert_eq!(reason(&house, &call).await, "guardrail");
}

#[tokio::test]
async fn nobody_approves_for_a_bot_of_their_own() {
    let (house, _) = waiting().await;
    create(&house, "boss", AgentKind::User, None).await;
    create(&house, "bot", AgentKind::Bot, Some("boss")).await;
    create(&house, "other-bot", AgentKind::Service, Some("boss")).await;
    create(&house, "colleague", AgentKind::User, Some("boss")).await;
    let same_hands = async |a: &str, b: &str| {
        let (namespace, a, b) = (namespace(), agent(a), agent(b));
        let same = house.policies.same_hands(&namespace, &a, &b).await;
        same.unwrap()
    };
    for own in ["bot", "boss", "other-bot"] {
        assert!(same_hands("bot", own).await && same_hands(own, "bot").await);
    }
    assert!(!same_hands("bot", "colleague").await && !same_hands("boss", "colleague").await);
    let asked = ask_for(&house, "bot", Action::Execute, "bot")
        .await
        .unwrap();
    for by in ["bot", "boss", "other-bot"] {
        let own = decide(&house, &asked, true, by).await;
        assert!(matches!(own, Err(PolicyError::OwnRequest)), "{by}: {own:?}");
    }
    decide(&house, &asked, true, "colleague").await.unwrap();
    // A person is nobody's: who registered it has not got its keys.
    let asked = ask_for(&house, "colleague", Action::Execute, "colleague").await;
    decide(&house, &asked.unwrap(), true, "boss").await.unwrap();
    // Who asks for another one asked all the same.
    let asked = ask_for(&house, "colleague", Action::Read, "boss").await;
    let own = decide(&house, &asked.unwrap(), true, "boss").await;
    assert!(matches!(own, Err(PolicyError::OwnRequest)), "{own:?}");
}

#[tokio::test]
async fn a_single_operator_approves_and_it_shows() {
    let (house, call) = waiting().await;
    let asked = ask(&house).await;
    let act = act(&house, OWNER);
    let approved = house
        .policies
        .decide_access(&namespace(), &asked.id, true, true, act)
        .await
        .unwrap();
    assert!(approved.state.decision().unwrap().own);
    let entry = house.last_entry().await;
    assert_eq!(entry.reason.unwrap().as_str(), "single_operator");
    house.redeem(call).await.unwrap();
}

#[tokio::test]
async fn an_edited_approval_is_noticed() {
    for sql in [
        "UPDATE access_requests SET state = 'approved', decided_by = 'approver', decided_at = 1, note = 'x', ends_at = 9000000000",
        "UPDATE access_requests SET ends_at = ends_at + 1000000 WHERE state = 'approved'",
        "UPDATE access_requests SET agent = 'service', policy = NULL WHERE state = 'approved'",
        "UPDATE access_requests SET decided_by = 'somebody' WHERE state = 'approved'",
    ] {
        let (house, call) = waiting().await;
        let asked = ask(&house).await;
        if !sql.contains("SET state") {
            decide(&house, &asked, true, "approver").await.unwrap();
        }
        house.tamper(sql).await;
        let answer = house.redeem(call).await;
        assert!(
            matches!(answer, Err(VaultError::Tampered(_))),
            "{sql}: {answer:?}"
        );
        assert_eq!(house.leases().await, 0);
    }
}

#[tokio::test]
async fn an_approval_holds_on_another_instance_at_once() {
    let (house, call) = waiting().await;
    let other = house::policies(&house.store, &house.vault);
    let asked = ask(&house).await;
    decide(&house, &asked, true, "approver").await.unwrap();
    house
        .vault
        .redeem(call.redemption, &call.check, &other)
        .await
        .unwrap();
}
