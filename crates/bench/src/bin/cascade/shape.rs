//! The trees that are measured.

use serde::Serialize;
use std::{fmt, str::FromStr};
use xylem_stateful::Selection;
use xylem_workflows::{Branch, ToolTreeInput};

/// How many children a node has, level by level: `10,10` is a root, 10 inner nodes and 100 leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape(Vec<usize>);

/// Where in a tree a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    Root,
    Inner,
    Leaf,
}

/// One node of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) role: Role,
}

impl Shape {
    /// The most children that any node has.
    pub(crate) fn widest(&self) -> usize {
        self.0.iter().copied().max().unwrap_or_default()
    }

    /// What the root is told to do: its whole tree, which does nothing but be there.
    pub(crate) fn input(&self) -> ToolTreeInput {
        self.0
            .iter()
            .rev()
            .fold(ToolTreeInput::default(), |below, width| {
                let branch = |index: usize| Branch {
                    name: name(index),
                    node: below.clone(),
                    selection: Selection::All,
                };
                ToolTreeInput {
                    children: (0..*width).map(branch).collect(),
                    ..ToolTreeInput::default()
                }
            })
    }

    /// Every node, the root first, level by level.
    pub(crate) fn nodes(&self, root: &str) -> Vec<Node> {
        let mut nodes = vec![Node {
            id: root.to_owned(),
            role: Role::Root,
        }];
        let mut level = vec![root.to_owned()];
        for (depth, width) in self.0.iter().enumerate() {
            let role = if depth + 1 == self.0.len() {
                Role::Leaf
            } else {
                Role::Inner
            };
            let below = |parent: &String| {
                let parent = parent.clone();
                (0..*width).map(move |index| format!("{parent}/{}", name(index)))
            };
            level = level.iter().flat_map(below).collect();
            nodes.extend(level.iter().map(|id| Node {
                id: id.clone(),
                role,
            }));
        }
        nodes
    }
}

fn name(index: usize) -> String {
    format!("n{index}")
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let widths = text
            .split(',')
            .map(str::parse)
            .collect::<Result<Vec<usize>, _>>();
        let widths = widths.map_err(|_| "children per level, such as 10,10".to_owned())?;
        if widths.contains(&0) {
            return Err("a level has at least one node".to_owned());
        }
        Ok(Self(widths))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&widths.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_names_every_node_that_its_input_starts() {
        let shape: Shape = "2,3".parse().unwrap();
        let nodes = shape.nodes("t");
        let of = |role| nodes.iter().filter(|node| node.role == role).count();
        assert_eq!((of(Role::Root), of(Role::Inner), of(Role::Leaf)), (1, 2, 6));
        assert_eq!(nodes.last().unwrap().id, "t/n1/n2");
        let input = shape.input();
        assert_eq!(input.children.len(), 2);
        assert_eq!(input.children[1].node.children[2].name, "n2");
        assert_eq!((shape.widest(), shape.to_string()), (3, "2,3".to_owned()));
    }

    #[test]
    fn what_is_no_shape_is_refused() {
        for text in ["", "10,", "0", "a", "10 10"] {
            assert!(text.parse::<Shape>().is_err(), "{text}");
        }
    }
}
