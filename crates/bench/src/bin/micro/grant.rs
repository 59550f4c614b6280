//! Grants: what a node does with every signal, and the vault with every redemption.

use anyhow::{Result, ensure};
use std::time::{Duration, SystemTime};
use xylem_bench::Timing;
use xylem_grant::{Claims, IssuerKey, IssuerSet, UnixSeconds, UnverifiedGrant};
use xylem_ids::{Epoch, Order, Serial, Slot, TreeId, Version};

pub(crate) fn timings() -> Result<Vec<Timing>> {
    let issuer = IssuerKey::generate(1)?;
    let trusted = IssuerSet::new([issuer.public().clone()]);
    let claims = claims()?;
    let grant = issuer.issue(claims.clone())?;
    let text = grant.as_str();
    let verify = || UnverifiedGrant::parse(text).and_then(|grant| grant.verify(&trusted));
    ensure!(verify().is_ok(), "the grant is not valid");
    Ok(vec![
        Timing::of_fast("verify a grant", verify),
        Timing::of_fast("sign a grant", || issuer.issue(claims.clone())),
    ])
}

fn claims() -> Result<Claims> {
    let now = UnixSeconds::from(SystemTime::now());
    Ok(Claims {
        tree: TreeId {
            namespace: "default".parse()?,
            workflow_id: "release-train".parse()?,
            first_run_id: "0198f1c2-7a55-7cc0-8000-123456789abc".parse()?,
        },
        slot: Slot::default_slot(),
        order: Order {
            epoch: Epoch(1),
            version: Version(7),
            serial: Serial(1),
        },
        issued_at: now,
        expires_at: now.plus(Duration::from_secs(3600)),
        audiences: vec!["https://api.acme.example/v1".parse()?],
        fingerprint: "0123456789abcdef".parse()?,
        exposed: false,
        retires: Vec::new(),
    })
}
