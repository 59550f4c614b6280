//! Where a token may go: what a tool call asks before every connection.

use anyhow::{Result, ensure};
use std::{hint::black_box, net::IpAddr};
use xylem_activities::AddressPolicy;
use xylem_bench::Timing;
use xylem_ids::Audience;

pub(crate) fn timings() -> Result<Vec<Timing>> {
    let policy = AddressPolicy {
        development: false,
        private: vec!["10.1.0.0/16".parse()?],
    };
    let name = "api.acme.example";
    let public: Vec<IpAddr> = vec!["2606:4700::6810:85e5".parse()?, "104.16.133.229".parse()?];
    let private: IpAddr = "192.168.0.10".parse()?;
    let url = "https://api.acme.example/v1/deploys/7".parse()?;
    let audience: Audience = "https://api.acme.example/v1".parse()?;
    ensure!(
        policy.check_answer(name, &public).is_ok()
            && policy.check(private).is_err()
            && policy.check_url(&url).is_ok()
            && audience.covers(&url),
        "the checks do not say what they should",
    );
    Ok(vec![
        Timing::of_fast("check the two addresses of a name", || {
            policy.check_answer(black_box(name), black_box(&public))
        }),
        Timing::of_fast("refuse a private address", || {
            policy.check(black_box(private))
        }),
        Timing::of_fast("check a URL's scheme and host", || {
            policy.check_url(black_box(&url))
        }),
        Timing::of_fast("check a URL against an audience", || {
            black_box(&audience).covers(&url)
        }),
    ])
}
