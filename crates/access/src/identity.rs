use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The name in a node's certificate that lets it join under any name.
pub const ANY_NODE: &str = "*";

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks at jobs, nodes, events and logs.
    Viewer,
    /// A viewer who also submits jobs, and stops and resumes those of the same name.
    Submitter,
    /// Everything that people do, to everyone's jobs.
    Admin,
    /// An agent and the workers of its node; nothing that people do.
    Node,
}

impl Role {
    /// Every role, the weakest of people's first.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Submitter, Self::Admin, Self::Node];

    /// The role's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Submitter => "submitter",
            Self::Admin => "admin",
            Self::Node => "node",
        }
    }

    /// Whether this role may do what asks for `needed`. Nodes and people do different things.
    pub fn covers(self, needed: Self) -> bool {
        match (self, needed) {
            (Self::Node, Self::Node) => true,
            (Self::Node, _) | (_, Self::Node) => false,
            _ => self >= needed,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No such role.
#[derive(Debug, thiserror::Error)]
#[error("{given:?} is no role; give viewer, submitter, admin or node")]
pub struct UnknownRole {
    /// What was given.
    pub given: String,
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| UnknownRole { given: text.into() })
    }
}

/// A caller who is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Whose jobs they are, for people; the node's name, or [`ANY_NODE`], for nodes.
    pub name: String,
    /// What they may do.
    pub role: Role,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.role)
    }
}

/// Whether `text` can name a caller: it is shown in tables and becomes a directory's name.
pub fn is_a_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._@".contains(c);
    (1..=63).contains(&text.len()) && !text.starts_with('.') && text.chars().all(fits)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn people_and_nodes_do_different_things() {
        let covered = |role: Role| Role::ALL.map(|needed| role.covers(needed));
        assert_eq!(covered(Role::Viewer), [true, false, false, false]);
        assert_eq!(covered(Role::Submitter), [true, true, false, false]);
        assert_eq!(covered(Role::Admin), [true, true, true, false]);
        assert_eq!(covered(Role::Node), [false, false, false, true]);
    }

    #[test]
    fn a_role_is_known_by_its_name() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse::<Role>().unwrap(), role);
        }
        assert!(
            "root"
                .parse::<Role>()
                .unwrap_err()
                .to_string()
                .contains("admin")
        );
    }

    #[test]
    fn names_are_plain() {
        for good in ["anna", "anna@lab", "node-1.rack-2"] {
            assert!(is_a_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "*", "\u{e9}", &"x".repeat(64)] {
            assert!(!is_a_name(bad), "{bad}");
        }
    }
}
