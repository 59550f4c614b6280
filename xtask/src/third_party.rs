//! Where packages come from and under which licences, compared with `third-party.toml`.

use crate::{metadata::Package, temporal::sha256};
use anyhow::{Context, Result};
use serde::Deserialize;
use spdx::{Expression, ParseMode};
use std::collections::{BTreeMap, BTreeSet};

/// What is accepted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rules {
    sources: BTreeSet<String>,
    licences: BTreeSet<String>,
    /// A package that may be under another licence.
    exceptions: BTreeMap<String, String>,
    /// A package that may not be used, and why.
    refused: BTreeMap<String, String>,
    text: Vec<LicenceText>,
}

/// A licence that was recognised by reading it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LicenceText {
    licence: String,
    sha256: String,
    packages: BTreeSet<String>,
}

impl Rules {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).context("reading the rules for third-party packages")
    }

    /// Every way in which a package breaks the rules.
    pub(crate) fn violations<'a>(
        &self,
        packages: impl Iterator<Item = &'a Package>,
    ) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for package in packages {
            for problem in self.problems(package)? {
                found.push(format!("{} {}: {problem}", package.name, package.version));
            }
        }
        Ok(found)
    }

    fn problems(&self, package: &Package) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        if let Some(reason) = self.refused.get(&package.name) {
            problems.push(format!("refused, {reason}"));
        }
        if let Some(source) = package
            .source
            .as_ref()
            .filter(|s| !self.sources.contains(*s))
        {
            problems.push(format!("comes from {source}"));
        }
        let licence = match &package.license {
            Some(expression) => self.expression_problem(&package.name, expression),
            None => self.text_problem(package)?,
        };
        problems.extend(licence);
        Ok(problems)
    }

    fn expression_problem(&self, package: &str, text: &str) -> Option<String> {
        let accepted = |one: &str| {
            self.licences.contains(one) || self.exceptions.get(package).is_some_and(|x| x == one)
        };
        match Expression::parse_mode(text, ParseMode::LAX) {
            Ok(expression) if expression.evaluate(|one| accepted(&one.to_string())) => None,
            Ok(_) => Some(format!("its licence is {text}")),
            Err(error) => Some(format!(
                "its licence is not an SPDX expression: {}",
                error.reason
            )),
        }
    }

    fn text_problem(&self, package: &Package) -> Result<Option<String>> {
        let Some(file) = &package.license_file else {
            return Ok(Some("names no licence".to_owned()));
        };
        let checksum = sha256(&package.directory().join(file))?;
        let known = self.text.iter().find(|text| {
            text.packages.contains(&package.name)
                && text.sha256 == checksum
                && self.licences.contains(&text.licence)
        });
        let problem = || format!("the text of its licence, SHA-256 {checksum}, has not been read");
        Ok(known.is_none().then(problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    const RULES: &str = r#"
        sources = ["registry+good"]
        licences = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]
        [exceptions]
        special = "MPL-2.0"
        [refused]
        evil = "it is evil"
        [[text]]
        licence = "MIT"
        sha256 = "770e607624d689265ca6c44884d0807d9b054d23c473c106c72be9de08b7376c"
        packages = ["shipped"]
    "#;

    fn package(name: &str, source: &str, license: Option<&str>, file: Option<&Path>) -> Package {
        let package = json!({
            "id": name, "name": name, "version": "1.0.0", "source": source, "license": license,
            "license_file": file, "manifest_path": "/w/Cargo.toml", "dependencies": [],
        });
        serde_json::from_value(package).expect("a package")
    }

    fn problems(package: &Package) -> Vec<String> {
        let rules = Rules::parse(RULES).expect("rules");
        rules.violations([package].into_iter()).expect("readable")
    }

    fn licensed(expression: &str) -> Vec<String> {
        problems(&package("p", "registry+good", Some(expression), None))
    }

    #[test]
    fn one_accepted_licence_is_enough_and_all_of_a_conjunction_are_needed() {
        for good in [
            "MIT",
            "MIT OR GPL-3.0-only",
            "MIT/Apache-2.0",
            "Apache-2.0 / MIT",
            "Apache-2.0 WITH LLVM-exception",
            "(GPL-2.0-only OR MIT) AND Apache-2.0",
        ] {
            assert_eq!(licensed(good), [""; 0], "{good}");
        }
        for bad in [
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "MIT WITH LLVM-exception",
            "LicenseRef-mine",
            "whatever",
            "",
        ] {
            assert_eq!(licensed(bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn an_exception_is_for_one_package_and_one_licence() {
        let licensed = |name, licence| package(name, "registry+good", Some(licence), None);
        assert_eq!(problems(&licensed("special", "MPL-2.0")), [""; 0]);
        assert_eq!(problems(&licensed("other", "MPL-2.0")).len(), 1);
        assert_eq!(problems(&licensed("special", "GPL-3.0-only")).len(), 1);
    }

    #[test]
    fn source_and_name_count_too() {
        let found = problems(&package("evil", "git+elsewhere", Some("MIT"), None));
        assert_eq!(
            found,
            [
                "evil 1.0.0: refused, it is evil",
                "evil 1.0.0: comes from git+elsewhere"
            ]
        );
    }

    #[test]
    fn a_shipped_text_has_to_be_the_one_that_was_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("LICENSE");
        std::fs::write(&file, "good").expect("written");
        let shipped = package("shipped", "registry+good", None, Some(&file));
        assert_eq!(problems(&shipped), [""; 0]);
        assert_eq!(
            problems(&package("other", "registry+good", None, Some(&file))).len(),
            1
        );
        std::fs::write(&file, "changed").expect("written");
        assert_eq!(problems(&shipped).len(), 1);
        let none = package("shipped", "registry+good", None, None);
        assert_eq!(problems(&none), ["shipped 1.0.0: names no licence"]);
    }

    #[test]
    fn the_rules_in_use_are_readable() {
        let rules = Rules::parse(include_str!("../third-party.toml")).expect("rules");
        let names = rules
            .licences
            .iter()
            .chain(rules.text.iter().map(|text| &text.licence))
            .chain(rules.exceptions.values());
        for name in names {
            assert!(Expression::parse(name).is_ok(), "{name}");
        }
    }
}
