//! The dependency table: what `ARCHITECTURE.md` says about who may use whom, compared with what
//! the manifests say.
//!
//! Three tables are read, told apart by their first heading. `room` lists every room and the rooms
//! it may use; `tests of` lists rooms whose tests reach further; `crate` lists crates from outside
//! that only some rooms may use.

use crate::metadata::{Dependency, Kind, Metadata, Package};
use anyhow::{Context, Result, bail, ensure};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// What a room may use.
#[derive(Debug, PartialEq, Eq)]
enum Uses {
    Any,
    Named(BTreeSet<String>),
}

#[derive(Debug, PartialEq, Eq)]
struct Room {
    /// Its directory, or `examples/<name>` for every directory in `examples`.
    path: String,
    uses: Uses,
    /// Whether others may use it in tests only, unless they are such rooms themselves.
    dev_only: bool,
}

#[derive(Debug)]
struct Rules {
    /// By short name.
    rooms: BTreeMap<String, Room>,
    /// What the tests of a room may use besides.
    tests: BTreeMap<String, BTreeSet<String>>,
    /// Crates from outside, `*` standing for any ending, and the rooms that may use them.
    outside: Vec<(String, BTreeSet<String>)>,
}

/// Every way in which the workspace and the tables of `architecture` differ.
pub(crate) fn violations(architecture: &str, metadata: &Metadata) -> Result<Vec<String>> {
    let rules = Rules::parse(architecture)?;
    let members = Members::of(metadata, &rules);
    let mut found = members.unknown.clone();
    found.extend(rules.without_crate(&members));
    for (package, room) in &members.known {
        for dependency in &package.dependencies {
            found.extend(rules.violation(room, dependency, &members));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The workspace's packages and the short names of their rooms.
struct Members<'a> {
    known: Vec<(&'a Package, &'a str)>,
    unknown: Vec<String>,
}

impl<'a> Members<'a> {
    fn of(metadata: &'a Metadata, rules: &'a Rules) -> Self {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for package in metadata.members() {
            let directory = package.directory();
            let path = directory
                .strip_prefix(&metadata.workspace_root)
                .unwrap_or(directory);
            match rules.room_at(path) {
                Some(room) => known.push((package, room)),
                None => unknown.push(format!("{} is no room of the table", path.display())),
            }
        }
        Self { known, unknown }
    }

    fn room_at(&self, directory: &Path) -> Option<&'a str> {
        let mut known = self.known.iter();
        known
            .find(|(package, _)| package.directory() == directory)
            .map(|(_, room)| *room)
    }
}

impl Rules {
    fn parse(architecture: &str) -> Result<Self> {
        let tables = tables(architecture);
        let mut rules = Self {
            rooms: BTreeMap::new(),
            tests: BTreeMap::new(),
            outside: Vec::new(),
        };
        for row in rows(&tables, "room")? {
            let (name, room) =
                Room::parse(row).with_context(|| format!("room {}", row.join(" | ")))?;
            ensure!(
                !rules.rooms.contains_key(&name),
                "two rooms are called {name}"
            );
            rules.rooms.insert(name, room);
        }
        for row in rows(&tables, "tests of")? {
            let [name, .., also] = row else {
                bail!("a row of the table of tests has one cell");
            };
            let name = unquoted(name).to_owned();
            rules.all_known(&BTreeSet::from([name.clone()]))?;
            let also = rules
                .named(also)
                .with_context(|| format!("tests of {name}"))?;
            rules.tests.insert(name, also);
        }
        for row in rows(&tables, "crate")? {
            let [name, .., only] = row else {
                bail!("a row of the table of crates has one cell");
            };
            let only = rules.named(only).with_context(|| format!("crate {name}"))?;
            rules.outside.push((unquoted(name).to_owned(), only));
        }
        for (name, room) in &rules.rooms {
            if let Uses::Named(names) = &room.uses {
                rules
                    .all_known(names)
                    .with_context(|| format!("room {name}"))?;
            }
        }
        Ok(rules)
    }

    fn named(&self, cell: &str) -> Result<BTreeSet<String>> {
        let names = names(cell);
        self.all_known(&names)?;
        Ok(names)
    }

    fn all_known(&self, names: &BTreeSet<String>) -> Result<()> {
        match names.iter().find(|name| !self.rooms.contains_key(*name)) {
            Some(name) => bail!("{name} is no room of the table"),
            None => Ok(()),
        }
    }

    fn room_at(&self, path: &Path) -> Option<&str> {
        let fits = |room: &Room| match room.path.strip_suffix("/<name>") {
            Some(parent) => path.parent() == Some(Path::new(parent)),
            None => path == Path::new(&room.path),
        };
        self.rooms
            .iter()
            .find(|(_, room)| fits(room))
            .map(|(name, _)| name.as_str())
    }

    fn without_crate(&self, members: &Members<'_>) -> Vec<String> {
        self.rooms
            .iter()
            .filter(|(name, _)| !members.known.iter().any(|(_, room)| room == name))
            .map(|(_, room)| format!("{} is in the table, but there is no such crate", room.path))
            .collect()
    }

    fn violation(&self, from: &str, edge: &Dependency, members: &Members<'_>) -> Option<String> {
        let room = self.rooms.get(from)?;
        match &edge.path {
            Some(path) => {
                let to = members.room_at(path)?;
                let target = self.rooms.get(to)?;
                let also = self.tests.get(from).is_some_and(|also| also.contains(to));
                let ok = if edge.kind == Some(Kind::Dev) && also {
                    true
                } else if target.dev_only {
                    edge.kind == Some(Kind::Dev) || room.dev_only && room.may_use(to)
                } else {
                    to == from && edge.kind == Some(Kind::Dev) || room.may_use(to)
                };
                (!ok).then(|| format!("{from} uses {to}, which the table does not allow"))
            }
            None => {
                let allowed =
                    edge.kind == Some(Kind::Dev) || self.outside_allowed(from, &edge.name);
                (!allowed).then(|| format!("{from} uses {}, which only others may use", edge.name))
            }
        }
    }

    fn outside_allowed(&self, room: &str, name: &str) -> bool {
        let fits = |pattern: &str| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        };
        let mut rules = self.outside.iter().filter(|(pattern, _)| fits(pattern));
        rules.all(|(_, only)| only.contains(room))
    }
}

impl Room {
    fn parse(row: &[String]) -> Result<(String, Self)> {
        let [path, responsibility, .., uses] = row else {
            bail!("a room has a path, a responsibility and the rooms it may use");
        };
        let path = unquoted(path).trim_end_matches('/').to_owned();
        let (parent, last) = path.rsplit_once('/').unwrap_or(("", &path));
        let name = if last == "<name>" { parent } else { last }.to_owned();
        let uses = match uses.as_str() {
            "any" => Uses::Any,
            "" => bail!("write ∅ for a room that uses none"),
            cell => Uses::Named(names(cell)),
        };
        let dev_only = responsibility.contains("dev-dependency only");
        Ok((
            name,
            Self {
                path,
                uses,
                dev_only,
            },
        ))
    }

    fn may_use(&self, name: &str) -> bool {
        match &self.uses {
            Uses::Any => true,
            Uses::Named(names) => names.contains(name),
        }
    }
}

/// Rows of cells, heading first.
type Table = Vec<Vec<String>>;

fn tables(markdown: &str) -> Vec<Table> {
    let mut tables = vec![Table::new()];
    for line in markdown.lines().map(str::trim) {
        match line
            .strip_prefix('|')
            .and_then(|rest| rest.strip_suffix('|'))
        {
            Some(row) => {
                let cells = row.split('|').map(|cell| cell.trim().to_owned()).collect();
                if let Some(table) = tables.last_mut() {
                    table.push(cells);
                }
            }
            None => tables.push(Table::new()),
        }
    }
    tables.retain(|table| !table.is_empty());
    tables
}

/// The rows of the table whose first heading is this word, without the heading and the line below.
fn rows<'a>(tables: &'a [Table], heading: &str) -> Result<impl Iterator<Item = &'a [String]>> {
    let starts_so = |table: &&Table| {
        table
            .first()
            .and_then(|row| row.first())
            .is_some_and(|cell| cell == heading)
    };
    let mut fitting = tables.iter().filter(starts_so);
    match (fitting.next(), fitting.next()) {
        (Some(table), None) => Ok(table.iter().skip(2).map(Vec::as_slice)),
        (None, _) => bail!("ARCHITECTURE.md has no table that begins with '{heading}'"),
        _ => bail!("ARCHITECTURE.md has several tables that begin with '{heading}'"),
    }
}

fn unquoted(cell: &str) -> &str {
    cell.trim_matches('`')
}

fn names(cell: &str) -> BTreeSet<String> {
    cell.split(',')
        .map(|name| unquoted(name.trim()).to_owned())
        .filter(|name| name != "∅")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const TABLE: &str = "
text | with | bars

| room | is for | may use |
|---|---|---|
| `crates/a` | letters | ∅ |
| `crates/b` | more | a |
| `b2/` | top level | a, b |
| `crates/kit` | tests; dev-dependency only | any |
| `crates/speed` | benchmarks; dev-dependency only | any |
| `examples/<name>` | programs | b |

| tests of | also use |
|---|---|
| `a` | b2 |

| crate | only in |
|---|---|
| `sqlx` | b |
| `temporalio-*` | `b2`, examples |
";

    fn package(path: &str, dependencies: &[Value]) -> Value {
        json!({
            "id": path, "name": path, "version": "1.0.0", "source": null, "license": null,
            "license_file": null, "manifest_path": format!("/w/{path}/Cargo.toml"),
            "dependencies": dependencies,
        })
    }

    fn inside(path: &str, kind: Value) -> Value {
        json!({"name": path, "kind": kind, "path": format!("/w/{path}")})
    }

    fn outside(name: &str, kind: Value) -> Value {
        json!({"name": name, "kind": kind, "path": null})
    }

    fn found(extra: &[(&str, Value)]) -> Vec<String> {
        let paths = [
            "crates/a",
            "crates/b",
            "b2",
            "crates/kit",
            "crates/speed",
            "examples/x",
        ];
        let packages: Vec<Value> = paths
            .iter()
            .map(|path| {
                let edges = extra.iter().filter(|(from, _)| from == path);
                package(
                    path,
                    &edges.map(|(_, edge)| edge.clone()).collect::<Vec<_>>(),
                )
            })
            .collect();
        differences(&packages)
    }

    fn differences(packages: &[Value]) -> Vec<String> {
        let ids: Vec<&Value> = packages.iter().map(|package| &package["id"]).collect();
        let metadata = json!({
            "workspace_root": "/w", "target_directory": "/w/target", "packages": packages,
            "workspace_members": ids,
        });
        let metadata = serde_json::from_value(metadata).expect("metadata");
        violations(TABLE, &metadata).expect("a table")
    }

    #[test]
    fn tests_reach_as_far_as_their_table_says() {
        assert_eq!(found(&[("crates/a", inside("b2", json!("dev")))]), [""; 0]);
        let library = found(&[("crates/a", inside("b2", Value::Null))]);
        assert_eq!(library, ["a uses b2, which the table does not allow"]);
        let other = found(&[("crates/b", inside("b2", json!("dev")))]);
        assert_eq!(other, ["b uses b2, which the table does not allow"]);
    }

    #[test]
    fn edges_of_the_table_are_allowed() {
        let none = Value::Null;
        assert_eq!(
            found(&[
                ("crates/b", inside("crates/a", none.clone())),
                ("b2", inside("crates/b", json!("build"))),
                ("crates/kit", inside("b2", none.clone())),
                ("crates/speed", inside("crates/kit", none.clone())),
                ("crates/a", inside("crates/kit", json!("dev"))),
                ("examples/x", inside("crates/b", none.clone())),
                ("crates/b", outside("sqlx", none.clone())),
                ("examples/x", outside("temporalio-sdk", none.clone())),
                ("crates/a", outside("serde", none)),
                ("crates/a", outside("sqlx", json!("dev"))),
            ]),
            [""; 0]
        );
    }

    #[test]
    fn every_other_edge_is_named() {
        for (from, edge, named) in [
            ("crates/a", inside("crates/b", Value::Null), "a uses b,"),
            ("crates/a", inside("crates/b", json!("dev")), "a uses b,"),
            ("crates/a", inside("crates/b", json!("build")), "a uses b,"),
            ("b2", inside("crates/kit", Value::Null), "b2 uses kit,"),
            (
                "examples/x",
                inside("crates/a", Value::Null),
                "examples uses a,",
            ),
            ("crates/a", outside("sqlx", Value::Null), "a uses sqlx,"),
            (
                "crates/b",
                outside("temporalio-sdk", Value::Null),
                "b uses temporalio-sdk,",
            ),
        ] {
            let found = found(&[(from, edge)]);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(named), "{found:?}");
        }
    }

    #[test]
    fn table_and_crates_are_the_same_set() {
        let found = differences(&[package("crates/a", &[]), package("crates/new", &[])]);
        assert!(
            found.contains(&"crates/new is no room of the table".to_owned()),
            "{found:?}"
        );
        assert!(
            found.contains(&"crates/b is in the table, but there is no such crate".to_owned()),
            "{found:?}"
        );
    }

    #[test]
    fn a_table_that_means_nothing_is_refused() {
        for (from, to) in [
            ("| room |", "| place |"),
            ("| more | a |", "| more | nobody |"),
            ("| more | a |", "| more | |"),
            ("`crates/b`", "`crates/a`"),
            ("| `sqlx` | b |", "| `sqlx` | nobody |"),
        ] {
            let text = TABLE.replace(from, to);
            assert_ne!(text, TABLE);
            assert!(Rules::parse(&text).is_err(), "{to}");
        }
    }
}
