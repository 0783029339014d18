use std::{
    fs, io,
    path::{Path, PathBuf},
};

use blake3::Hash;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Identity, Role, Secret, is_a_name,
    new_file::{self, Readers},
};

/// The tokens that a coordinator knows: digests of them, with whom they make of who presents one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenFile {
    #[serde(default)]
    tokens: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    role: Role,
    /// Of the token, in hex. A token is as random as a key, so no slow digest is called for.
    blake3: String,
    created: Timestamp,
}

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read or written.
    #[error("the token file {path} cannot be used: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// It is no token file.
    #[error("{path} is no token file: {reason}; `muster token new` writes one")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong. Never what it holds.
        reason: String,
    },
    /// One token a name.
    #[error("{name} has a token already; revoke it first, or give the new one another name")]
    Taken {
        /// The name.
        name: String,
    },
    /// No such token.
    #[error("there is no token of {name}")]
    Unknown {
        /// The name.
        name: String,
    },
    /// A name that cannot be one.
    #[error(
        "{name:?} cannot be a name; use up to 63 letters, digits, dots, dashes, underscores and @"
    )]
    Name {
        /// What was given.
        name: String,
    },
}

impl TokenFile {
    /// Reads a token file.
    ///
    /// # Errors
    /// If it cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let text = fs::read_to_string(path).map_err(|source| TokenError::Io {
            path: path.into(),
            source,
        })?;
        let malformed = |reason: String| TokenError::Malformed {
            path: path.into(),
            reason,
        };
        // The parser's own display quotes the line.
        let file: Self = toml::from_str(&text).map_err(|error| {
            let line = error
                .span()
                .map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            malformed(format!("line {line}: {}", error.message()))
        })?;
        for (index, entry) in file.tokens.iter().enumerate() {
            let earlier = &file.tokens[..index];
            if !is_a_name(&entry.name) {
                return Err(malformed(format!("name {index} is none")));
            }
            if earlier.iter().any(|other| other.name == entry.name) {
                return Err(malformed(format!("{} is in it twice", entry.name)));
            }
            if Hash::from_hex(&entry.blake3).is_err() {
                let name = &entry.name;
                return Err(malformed(format!(
                    "the blake3 of {name} is not 64 hex digits"
                )));
            }
        }
        Ok(file)
    }

    /// Writes it, readable for its owner only.
    ///
    /// # Errors
    /// If it cannot be written; the old file is then still there.
    pub fn write(&self, path: &Path) -> Result<(), TokenError> {
        let wrong = |source| TokenError::Io {
            path: path.into(),
            source,
        };
        let text = toml::to_string(self).map_err(|error| wrong(io::Error::other(error)))?;
        new_file::put(path, text.as_bytes(), Readers::Owner).map_err(wrong)
    }

    /// Makes `secret` the token of `identity`.
    ///
    /// # Errors
    /// If the name cannot be one, or has a token.
    pub fn add(
        &mut self,
        identity: Identity,
        secret: &Secret,
        now: Timestamp,
    ) -> Result<(), TokenError> {
        let Identity { name, role } = identity;
        if !is_a_name(&name) {
            return Err(TokenError::Name { name });
        }
        if self.tokens.iter().any(|entry| entry.name == name) {
            return Err(TokenError::Taken { name });
        }
        self.tokens.push(Entry {
            name,
            role,
            blake3: digest(secret).to_string(),
            created: now,
        });
        Ok(())
    }

    /// Takes the token of `name` out.
    ///
    /// # Errors
    /// If there is none.
    pub fn revoke(&mut self, name: &str) -> Result<(), TokenError> {
        let before = self.tokens.len();
        self.tokens.retain(|entry| entry.name != name);
        match self.tokens.len() < before {
            true => Ok(()),
            false => Err(TokenError::Unknown { name: name.into() }),
        }
    }

    /// Who has a token, and since when.
    pub fn holders(&self) -> impl Iterator<Item = (Identity, Timestamp)> {
        self.tokens
            .iter()
            .map(|entry| (entry.identity(), entry.created))
    }

    /// Whose token this is. Takes as long for a wrong one as for a right one.
    pub fn holder(&self, secret: &Secret) -> Option<Identity> {
        let presented = digest(secret);
        let mut holder = None;
        for entry in &self.tokens {
            // blake3 compares digests in constant time.
            if Hash::from_hex(&entry.blake3).is_ok_and(|known| known == presented) {
                holder = Some(entry.identity());
            }
        }
        holder
    }
}

impl Entry {
    fn identity(&self) -> Identity {
        Identity {
            name: self.name.clone(),
            role: self.role,
        }
    }
}

fn digest(secret: &Secret) -> Hash {
    blake3::hash(secret.reveal().as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn anna() -> Identity {
        Identity {
            name: "anna".into(),
            role: Role::Submitter,
        }
    }

    #[test]
    fn a_token_is_known_until_it_is_revoked_and_never_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.toml");
        let secret = Secret::generate().unwrap();
        let mut file = TokenFile::default();
        file.add(anna(), &secret, Timestamp::UNIX_EPOCH).unwrap();
        let again = file.add(anna(), &secret, Timestamp::UNIX_EPOCH);
        assert!(matches!(again, Err(TokenError::Taken { .. })));
        file.write(&path).unwrap();
        assert!(!fs::read_to_string(&path).unwrap().contains(secret.reveal()));
        let mut file = TokenFile::read(&path).unwrap();
        assert_eq!(file.holder(&secret), Some(anna()));
        assert_eq!(file.holder(&Secret::new("")), None);
        file.revoke("anna").unwrap();
        assert_eq!(file.holder(&secret), None);
        assert!(file.revoke("anna").is_err());
    }

    #[test]
    fn a_wrong_file_is_refused_without_showing_what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.toml");
        let refused = |text: &str| {
            fs::write(&path, text).unwrap();
            TokenFile::read(&path).unwrap_err().to_string()
        };
        let entry = |name: &str, digest: &str| {
            format!(
                "[[tokens]]\nname = {name:?}\nrole = \"viewer\"\nblake3 = {digest:?}\ncreated = \"2026-01-31T00:00:00Z\"\n"
            )
        };
        let digest = "0".repeat(64);
        assert!(refused("muster-0123").contains("line 1"));
        assert!(!refused("\n[[tokens]]\nsecret = \"hush\"").contains("hush"));
        assert!(refused(&entry("a", "hush")).contains("64 hex digits"));
        assert!(!refused(&entry("a", "hush")).contains("hush"));
        assert!(refused(&entry("a/b", &digest)).contains("name 0"));
        let twice = entry("a", &digest) + &entry("a", &digest);
        assert!(refused(&twice).contains("twice"));
    }
}
