//! Tools, their versions and approvals on a real database.

use crate::house::{Ask, House, agent, namespace, stopping, tool, tools};
use std::collections::BTreeSet;
use xylem_audit::{Kind, Note, Verdict};
use xylem_ids::ToolName;
use xylem_registry::{
    Decided, Editor, NotCallable, RegistryError, Tool, ToolFilter, ToolState, Unchanged,
};
use xylem_vault::{Refusal, VaultError};

fn name(text: &str) -> ToolName {
    text.parse().unwrap()
}

/// A tool with another description, tags and slot.
fn described(name: &str, description: &str, tags: &[&str]) -> Tool {
    let mut definition = tool(name, "default").definition().clone();
    definition.description = description.to_owned();
    definition.tags = tags.iter().map(|tag| tag.parse().unwrap()).collect();
    Tool::new(definition).unwrap()
}

#[tokio::test]
async fn a_name_is_taken_once() {
    let house = House::new().await;
    let here = namespace();
    let act = house.act(&here, "publisher");
    let same = house.tools.register(&act, tool("acme.deploy", "default"));
    assert_eq!(same.await.unwrap().version, 1);
    let other = house.tools.register(&act, tool("acme.deploy", "github"));
    assert!(matches!(other.await, Err(RegistryError::ToolExists)));
    let elsewhere = "other".parse().unwrap();
    let found = house.tools.get(&elsewhere, &name("acme.deploy")).await;
    assert!(matches!(
        found,
        Err(RegistryError::NotFound { what: "tool" })
    ));
    let all = ToolFilter::default();
    let listed = house.tools.find(&elsewhere, &all, None, 9).await;
    assert_eq!(listed.unwrap(), []);
}

/// What the record says is what a redemption acts on.
#[tokio::test]
async fn a_changed_tool_stops_calls_until_it_is_approved() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let here = namespace();
    let act = house.act(&here, "publisher");
    let changed = described("acme.deploy", "again", &[]);
    let updated = house.tools.update(&act, changed, Some(1), false);
    let updated = updated.await.unwrap();
    assert_eq!(
        (updated.version, updated.record.state()),
        (2, ToolState::Changed)
    );
    let refused = house.redeem(Ask::new(&tree, &grant)).await.unwrap_err();
    let expected = Refusal::Tool(NotCallable::Changed);
    assert!(matches!(refused, VaultError::Refused(why) if why == expected));
    let entry = house.last_entry().await;
    assert_eq!((entry.kind, entry.verdict), (Kind::Redeem, Verdict::Denied));
    house.approve(&updated).await;
    let redeemed = house.redeem(Ask::new(&tree, &grant)).await.unwrap();
    assert_eq!(redeemed.tool_hash, updated.tool.hash().as_str());
}

#[tokio::test]
async fn a_staged_change_does_not_stop_calls() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let here = namespace();
    let act = house.act(&here, "publisher");
    let before = house.tools.get(&here, &name("acme.deploy")).await.unwrap();
    let changed = described("acme.deploy", "again", &[]);
    house.tools.update(&act, changed, None, true).await.unwrap();
    let redeemed = house.redeem(Ask::new(&tree, &grant)).await.unwrap();
    assert_eq!(redeemed.tool_hash, before.tool.hash().as_str());
    let called = house.tools.callable(&here, &name("acme.deploy")).await;
    assert_eq!(called.unwrap().tool, before.tool);
    let latest = house.tools.get(&here, &name("acme.deploy")).await.unwrap();
    assert_eq!(
        (latest.version, latest.record.state()),
        (2, ToolState::Staged)
    );
}

#[tokio::test]
async fn what_was_decided_stands_beside_the_versions_and_in_the_log() {
    let house = House::new().await;
    let here = namespace();
    let (publisher, approver) = (house.act(&here, "publisher"), house.act(&here, "approver"));
    let of = name("acme.deploy");
    for description in ["second", "third", "fourth"] {
        let next = described("acme.deploy", description, &[]);
        house
            .tools
            .update(&publisher, next, None, false)
            .await
            .unwrap();
    }
    let reason = Note::new("not this").unwrap();
    let rejected = house.tools.reject(&approver, &of, 4, reason.clone()).await;
    assert_eq!(rejected.unwrap().record.state(), ToolState::Approved);
    let next = described("acme.deploy", "fifth", &[]);
    house
        .tools
        .update(&publisher, next, None, false)
        .await
        .unwrap();
    let reverted = house.tools.revert(&publisher, &of).await.unwrap();
    assert_eq!(reverted.version, 1);
    let versions = house.tools.versions(&here, &of, None, 10).await.unwrap();
    let decided: Vec<_> = versions
        .iter()
        .map(|it| {
            (
                it.published.version,
                it.decision.as_ref().map(|it| it.decided),
            )
        })
        .collect();
    let expected = [
        (5, Some(Decided::Reverted)),
        (4, Some(Decided::Rejected)),
        (3, None),
        (2, None),
        (1, Some(Decided::Approved)),
    ];
    assert_eq!(decided, expected);
    let decision = versions[1].decision.clone().unwrap();
    assert_eq!(
        (decision.by, decision.reason),
        (agent("approver"), Some(reason))
    );
    let below = house.tools.versions(&here, &of, Some(3), 1).await.unwrap();
    assert_eq!(below[0].published.version, 2);
    let kinds: BTreeSet<_> = house
        .log()
        .await
        .into_iter()
        .map(|it| it.entry.kind)
        .collect();
    for kind in [
        Kind::ToolRegistered,
        Kind::ToolUpdated,
        Kind::ToolApproved,
        Kind::ToolRejected,
        Kind::ToolReverted,
    ] {
        assert!(kinds.contains(&kind), "{kind}");
    }
}

#[tokio::test]
async fn two_changes_at_once_do_not_overwrite_each_other() {
    let house = House::new().await;
    let here = namespace();
    let act = house.act(&here, "publisher");
    let (one, other) = tokio::join!(
        house
            .tools
            .update(&act, described("acme.list", "one", &[]), Some(1), false),
        house
            .tools
            .update(&act, described("acme.list", "other", &[]), Some(1), false),
    );
    let (done, refused) = if one.is_ok() {
        (one, other)
    } else {
        (other, one)
    };
    assert_eq!(done.unwrap().version, 2);
    assert!(matches!(
        refused,
        Err(RegistryError::Unchanged(Unchanged::OtherVersion))
    ));
}

#[tokio::test]
async fn a_retired_tool_serves_its_trees_and_no_others() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let here = namespace();
    let act = house.act(&here, "publisher");
    let of = name("acme.deploy");
    house.tools.retire(&act, &of, false).await.unwrap();
    let usable = house.tools.usable(&here, &of).await;
    assert!(matches!(
        usable,
        Err(RegistryError::NotCallable(NotCallable::Retired))
    ));
    assert!(house.redeem(Ask::new(&tree, &grant)).await.is_ok());
    house.tools.retire(&act, &of, true).await.unwrap();
    let refused = house.redeem(Ask::new(&tree, &grant)).await.unwrap_err();
    let expected = Refusal::Tool(NotCallable::Retired);
    assert!(matches!(refused, VaultError::Refused(why) if why == expected));
}

#[tokio::test]
async fn deleting_waits_for_trees_and_leaves_the_name_taken() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let here = namespace();
    let act = house.act(&here, "publisher");
    let of = name("acme.deploy");
    let early = house.tools.delete(&act, &of).await;
    assert!(matches!(
        early,
        Err(RegistryError::Unchanged(Unchanged::NotRetired))
    ));
    house.tools.retire(&act, &of, false).await.unwrap();
    house.redeem(Ask::new(&tree, &grant)).await.unwrap();
    let used = house.tools.delete(&act, &of).await;
    assert!(matches!(used, Err(RegistryError::InUse)));
    house.vault.stop(stopping(&tree)).await.unwrap();
    house.clock.advance(crate::house::HOUR);
    house
        .tools
        .delete(&house.act(&here, "publisher"), &of)
        .await
        .unwrap();
    assert_eq!(house.last_entry().await.kind, Kind::ToolDeleted);
    assert_eq!(
        house.rows("tool_versions WHERE name = 'acme.deploy'").await,
        0
    );
    for found in [
        house.tools.get(&here, &of).await,
        house.tools.callable(&here, &of).await,
    ] {
        assert!(matches!(found, Err(RegistryError::NotFound { .. })));
    }
    let again = house.tools.register(&act, tool("acme.deploy", "default"));
    assert!(matches!(again.await, Err(RegistryError::ToolExists)));
    let listed = house
        .tools
        .find(&here, &ToolFilter::default(), None, 9)
        .await;
    let listed: BTreeSet<_> = listed
        .unwrap()
        .iter()
        .map(|it| it.tool.name().clone())
        .collect();
    assert_eq!(listed, tools(&["acme.list", "git.pull"]));
}

#[tokio::test]
async fn a_search_finds_by_words_tags_state_and_owner() {
    let house = House::new().await;
    let here = namespace();
    house
        .propose(described(
            "crm.find",
            "Finds Ärger 100% of_the time",
            &["crm", "read"],
        ))
        .await;
    house
        .propose(described("crm.note", "Notes down", &["crm"]))
        .await;
    let found = async |change: &dyn Fn(&mut ToolFilter), words: &str| {
        let mut filter = ToolFilter::words(words).unwrap();
        change(&mut filter);
        let found = house.tools.find(&here, &filter, None, 9).await.unwrap();
        let names = found.iter().map(|it| it.tool.name().to_string());
        names.collect::<Vec<_>>().join(" ")
    };
    let any = |_: &mut ToolFilter| {};
    for (words, expected) in [
        ("", "acme.deploy acme.list crm.find crm.note git.pull"),
        ("CRM", "crm.find crm.note"),
        ("ärger", "crm.find"),
        ("crm notes", "crm.note"),
        ("read", "crm.find"),
        // Wildcards are text.
        ("100%", "crm.find"),
        ("f_the", "crm.find"),
        ("%", "crm.find"),
        ("m_f", ""),
        ("\\", ""),
    ] {
        assert_eq!(found(&any, words).await, expected, "{words}");
    }
    let tagged = |filter: &mut ToolFilter| {
        filter.tags = ["crm", "read"]
            .iter()
            .map(|tag| tag.parse().unwrap())
            .collect();
    };
    assert_eq!(found(&tagged, "").await, "crm.find");
    let proposed = |filter: &mut ToolFilter| filter.state = Some(ToolState::Proposed);
    assert_eq!(found(&proposed, "").await, "crm.find crm.note");
    let other = |filter: &mut ToolFilter| filter.owner = Some(agent("nobody"));
    assert_eq!(found(&other, "").await, "");
    assert!(ToolFilter::words("a b c d e f g h i").is_err());
    assert!(ToolFilter::words(&"x".repeat(65)).is_err());
    let (all, after) = (ToolFilter::default(), name("acme.list"));
    let page = house.tools.find(&here, &all, Some(&after), 2).await;
    let page = page.unwrap();
    assert_eq!(page[0].tool.name().as_str(), "crm.find");
    assert_eq!(page.len(), 2);
}

#[tokio::test]
async fn an_edited_record_or_definition_is_named() {
    for sql in [
        "UPDATE tool_records SET owner = 'thief' WHERE name = 'acme.deploy'",
        "UPDATE tool_records SET approved_by = 'thief' WHERE name = 'acme.deploy'",
        "UPDATE tool_records SET approved_own = 1 WHERE name = 'acme.deploy'",
        "UPDATE tool_records SET staged = 1 WHERE name = 'acme.deploy'",
        "UPDATE tool_records SET slot = 'github', approved_slot = 'github' WHERE name = 'acme.deploy'",
        "UPDATE tool_records SET hash = (SELECT hash FROM tool_records WHERE name = 'acme.list'),
            approved_hash = (SELECT hash FROM tool_records WHERE name = 'acme.list')
         WHERE name = 'acme.deploy'",
        "UPDATE tool_records SET seal = (SELECT seal FROM tool_records WHERE name = 'acme.list')
         WHERE name = 'acme.deploy'",
        "UPDATE tool_records SET seal = NULL WHERE name = 'acme.deploy'",
    ] {
        let house = House::new().await;
        let (tree, grant) = house.planted("train").await;
        house.tamper(sql).await;
        let read = house.tools.get(&namespace(), &name("acme.deploy")).await;
        assert!(edited(&read), "{sql}: {read:?}");
        match house.redeem(Ask::new(&tree, &grant)).await {
            Err(VaultError::Tampered(place)) => assert_eq!(place.to_string(), "tool acme.deploy"),
            other => panic!("{sql}: {other:?}"),
        }
        assert_eq!(house.last_entry().await.kind, Kind::Tampered);
    }
    let house = House::new().await;
    house
        .tamper("UPDATE tool_versions SET definition = replace(definition, 'api.acme', 'evil') WHERE name = 'acme.list'")
        .await;
    let read = house.tools.callable(&namespace(), &name("acme.list")).await;
    assert!(edited(&read), "{read:?}");
    // A whole version that was put in another's place has another hash.
    house
        .tamper(
            "UPDATE tool_versions SET (hash, definition) = (SELECT hash, definition
                FROM tool_versions WHERE name = 'git.pull') WHERE name = 'acme.deploy'",
        )
        .await;
    let read = house
        .tools
        .callable(&namespace(), &name("acme.deploy"))
        .await;
    assert!(edited(&read), "{read:?}");
}

fn edited<T>(read: &Result<T, RegistryError>) -> bool {
    matches!(read, Err(RegistryError::Tampered { what: "tool", .. }))
}

/// Before tools were approved they were just there. They wait for their first approval then.
#[tokio::test]
async fn tools_of_an_older_database_wait_for_approval() {
    let house = House::new().await;
    house
        .tamper(
            "UPDATE tool_records SET revision = 1, owner = NULL, published_by = NULL,
                approved_version = NULL, approved_hash = NULL, approved_slot = NULL,
                approved_published_by = NULL, approved_published_at = NULL, approved_by = NULL,
                approved_at = NULL, approved_own = NULL, seal = NULL, state = 'proposed'
             WHERE name = 'acme.deploy'",
        )
        .await;
    let here = namespace();
    let of = name("acme.deploy");
    let known = house.tools.get(&here, &of).await.unwrap();
    assert_eq!(known.record.state(), ToolState::Proposed);
    let called = house.tools.callable(&here, &of).await;
    assert!(matches!(
        called,
        Err(RegistryError::NotCallable(NotCallable::NotApproved))
    ));
    assert_eq!(
        house.approve(&known).await.record.state(),
        ToolState::Approved
    );
    let administrator = Editor {
        agent: agent("administrator"),
        of_all: true,
    };
    let mut act = house.act(&here, "publisher");
    let denied = house
        .tools
        .update(&act, tool("acme.deploy", "github"), None, false);
    assert!(matches!(
        denied.await,
        Err(RegistryError::Unchanged(Unchanged::NotOwner))
    ));
    act.editor = administrator;
    let updated = house
        .tools
        .update(&act, tool("acme.deploy", "github"), None, false);
    assert_eq!(updated.await.unwrap().version, 2);
}

/// A change that cannot be audited does not happen.
#[tokio::test]
async fn a_change_whose_entry_cannot_be_written_does_not_happen() {
    let house = House::new().await;
    house.tamper("UPDATE audit_head SET seq = seq + 1").await;
    let here = namespace();
    let act = house.act(&here, "publisher");
    let refused = house
        .tools
        .register(&act, described("crm.find", "", &[]))
        .await;
    assert!(refused.is_err());
    assert_eq!(house.rows("tool_records WHERE name = 'crm.find'").await, 0);
}
