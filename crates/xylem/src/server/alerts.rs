//! The file that says what raises alerts and where they are sent.

use super::fields::{FileError, Parsed, Text, read};
use crate::data::read_secret;
use secrecy::ExposeSecret;
use serde::{Deserialize, Deserializer, de::Error as _};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use url::Url;
use xylem_audit::{Rule, Rules};
use xylem_control::{Alerts, Webhook, WebhookSecret};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Fields {
    off: Vec<String>,
    denials: u64,
    #[serde(deserialize_with = "duration")]
    denials_within: Duration,
    #[serde(deserialize_with = "duration")]
    network_unused: Duration,
    #[serde(deserialize_with = "duration")]
    superseded: Duration,
    rate_factor: u64,
    #[serde(deserialize_with = "duration")]
    rate_within: Duration,
    rate_hours: u64,
    rate_calls: u64,
    #[serde(deserialize_with = "duration")]
    quiet: Duration,
    #[serde(deserialize_with = "duration")]
    quiet_credential: Duration,
    webhook: Option<WebhookFields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookFields {
    url: String,
    secret_file: PathBuf,
    previous_secret_file: Option<PathBuf>,
}

impl Default for Fields {
    fn default() -> Self {
        let rules = Rules::default();
        Self {
            off: Vec::new(),
            denials: rules.denials,
            denials_within: rules.denials_within,
            network_unused: rules.network_unused,
            superseded: rules.superseded,
            rate_factor: rules.rate_factor,
            rate_within: rules.rate_within,
            rate_hours: rules.rate_hours,
            rate_calls: rules.rate_calls,
            quiet: rules.quiet,
            quiet_credential: rules.quiet_credential,
            webhook: None,
        }
    }
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let parsed = humantime::parse_duration(&text);
    parsed.map_err(|_| D::Error::custom("expected a duration with its unit, such as 60s or 30d"))
}

/// Reads the file.
///
/// # Errors
/// It, or a file it names, cannot be read, or a field breaks its rule.
pub fn alerts(file: &Path) -> Result<Alerts, FileError> {
    let Parsed { fields, text } = read::<Fields>(file)?;
    let mut off = std::collections::BTreeSet::new();
    for code in &fields.off {
        let codes: Vec<_> = Rule::ALL.iter().map(|rule| rule.code()).collect();
        let rule = Rule::from_code(code).ok_or_else(|| {
            text.wrong(
                &["off"],
                format!("off must be some of {}", codes.join(", ")),
            )
        })?;
        off.insert(rule);
    }
    for (name, given) in [
        ("denials", fields.denials),
        ("rate_factor", fields.rate_factor),
        ("rate_calls", fields.rate_calls),
    ] {
        if given == 0 {
            return Err(text.wrong(&[name], format!("{name} must be at least 1")));
        }
    }
    let webhook = fields.webhook.map(|webhook| hook(webhook, &text));
    Ok(Alerts {
        rules: Rules {
            off,
            denials: fields.denials,
            denials_within: fields.denials_within,
            network_unused: fields.network_unused,
            superseded: fields.superseded,
            rate_factor: fields.rate_factor,
            rate_within: fields.rate_within,
            rate_hours: fields.rate_hours,
            rate_calls: fields.rate_calls,
            quiet: fields.quiet,
            quiet_credential: fields.quiet_credential,
        },
        webhook: webhook.transpose()?,
    })
}

fn hook(fields: WebhookFields, text: &Text) -> Result<Webhook, FileError> {
    let url = Url::parse(&fields.url).ok();
    let url = url.filter(|url| url.scheme() == "https");
    let wrong =
        |name: &str, rule: String| text.wrong(&["webhook", name], format!("webhook.{name} {rule}"));
    let url = url.ok_or_else(|| wrong("url", "must be an https URL".to_owned()))?;
    let files = [
        ("secret_file", Some(fields.secret_file)),
        ("previous_secret_file", fields.previous_secret_file),
    ];
    let mut secrets = Vec::new();
    for (name, file) in files {
        let Some(file) = file else { continue };
        let held = read_secret(&file)?;
        let secret = WebhookSecret::parse(held.expose_secret());
        let rule = || {
            let file = file.display();
            let rule = format!(
                "must name a file with whsec_ and 24 to 64 bytes in base64: (echo -n whsec_; openssl rand \
                 -base64 32) > {file}"
            );
            wrong(name, rule)
        };
        secrets.push(secret.ok_or_else(rule)?);
    }
    Ok(Webhook { url, secrets })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn of(text: &str) -> Result<Alerts, String> {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("hook.secret");
        fs::write(&secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let file = folder.path().join("alerts.toml");
        let other = folder.path().join("other");
        fs::write(&other, "canary\n").unwrap();
        let text = text.replace("SECRET", &secret.display().to_string());
        let text = text.replace("OTHER", &other.display().to_string());
        fs::write(&file, text).unwrap();
        alerts(&file).map_err(|error| error.to_string())
    }

    #[test]
    fn every_threshold_can_be_said_and_the_others_stay() {
        let given = of(
            "off = [\"new_tool\"]\ndenials = 3\ndenials_within = \"5m\"\n\
             [webhook]\nurl = \"https://siem.example/xylem\"\nsecret_file = \"SECRET\"\n\
             previous_secret_file = \"SECRET\"\n",
        )
        .unwrap();
        let expected = Rules {
            off: [Rule::NewTool].into(),
            denials: 3,
            denials_within: Duration::from_secs(300),
            ..Rules::default()
        };
        assert_eq!(given.rules, expected);
        let webhook = given.webhook.unwrap();
        assert_eq!(webhook.url.as_str(), "https://siem.example/xylem");
        assert_eq!(webhook.secrets.len(), 2);
        assert_eq!(of("").unwrap().rules, Rules::default());
    }

    #[test]
    fn what_is_no_field_or_no_value_is_refused_by_name() {
        for (text, expected) in [
            ("\ndenial = 3", "line 2: unknown field `denial`"),
            ("denials = 0", "line 1: denials must be at least 1"),
            ("quiet = \"1h\"\nrate_calls = 0", "line 2: rate_calls"),
            (
                "\n\ndenials_within = \"soon\"",
                "line 3: expected a duration",
            ),
            (
                "off = []\n[webhook]\nsecret_file = \"SECRET\"",
                "line 2: missing field `url`",
            ),
            ("\noff = [\"all\"]", "line 2: off must be some of denials"),
            (
                "[webhook]\nurl = \"http://siem.example\"\nsecret_file = \"SECRET\"",
                "line 2: webhook.url must be",
            ),
            (
                "[webhook]\nurl = \"https://siem.example\"\nsecret_file = \"OTHER\"",
                "line 3: webhook.secret_file must name",
            ),
            (
                "[webhook]\nurl = \"https://siem.example\"\nsecret_file = \"/nowhere\"",
                "/nowhere",
            ),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
