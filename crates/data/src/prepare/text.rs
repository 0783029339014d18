use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor},
};

use super::{InvalidUtf8, PrepareError, documents::RawDocument, sources::SourceKind};

/// How bytes become text.
pub(super) struct TextRules {
    pub(super) text_key: String,
    pub(super) invalid_utf8: InvalidUtf8,
}

/// A document's text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) repairs: Repairs,
}

/// Whether invalid UTF-8 was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repairs {
    None,
    Some,
}

impl TextRules {
    /// The text of a document. Line ends and everything else stay as they are.
    pub(super) fn text(&self, document: RawDocument) -> Result<Text, PrepareError> {
        let RawDocument {
            source,
            line,
            byte,
            bytes,
        } = document;
        let (text, repairs) = match (String::from_utf8(bytes), self.invalid_utf8) {
            (Ok(text), _) => (text, Repairs::None),
            (Err(error), InvalidUtf8::Replace) => (
                String::from_utf8_lossy(error.as_bytes()).into_owned(),
                Repairs::Some,
            ),
            (Err(error), InvalidUtf8::Reject) => {
                let byte = byte + error.utf8_error().valid_up_to() as u64;
                return Err(PrepareError::Utf8 {
                    path: source.path.clone(),
                    byte,
                });
            }
        };
        let text = match source.kind {
            SourceKind::Text => text,
            SourceKind::JsonLines => {
                self.json_text(&text)
                    .map_err(|error| PrepareError::JsonLine {
                        path: source.path.clone(),
                        line,
                        reason: reason(&error),
                    })?
            }
        };
        Ok(Text { text, repairs })
    }

    fn json_text(&self, line: &str) -> Result<String, serde_json::Error> {
        let mut json = serde_json::Deserializer::from_str(line);
        let text = TextUnder(&self.text_key).deserialize(&mut json)?;
        json.end()?;
        Ok(text)
    }
}

/// The JSON library counts lines within the one line it is given: only the column says something.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((text, _)) => format!("{text}, at column {}", error.column()),
        None => text,
    }
}

/// Reads an object, keeps the string under one key, and skips everything else without building it.
struct TextUnder<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for TextUnder<'_> {
    type Value = String;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TextUnder<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a JSON object with a string under the key {:?}", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<String, A::Error> {
        let mut text = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0 {
                text = Some(map.next_value::<String>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        text.ok_or_else(|| {
            A::Error::custom(format!(
                "no key {:?}; name the text's key with the text key option",
                self.0
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::prepare::sources::Source;

    fn document(kind: SourceKind, bytes: &[u8]) -> RawDocument {
        let source = Arc::new(Source {
            path: "in.x".into(),
            kind,
            bytes: 0,
        });
        RawDocument {
            source,
            line: 7,
            byte: 100,
            bytes: bytes.into(),
        }
    }

    fn rules(invalid_utf8: InvalidUtf8) -> TextRules {
        TextRules {
            text_key: "text".into(),
            invalid_utf8,
        }
    }

    #[test]
    fn json_lines_give_their_text() {
        let line = |line: &str| {
            rules(InvalidUtf8::Reject).text(document(SourceKind::JsonLines, line.as_bytes()))
        };
        let given =
            line("{\"id\": [1, {\"text\": 5}], \"text\": \"a\\n\\u00e9🦀\", \"more\": null}\r\n")
                .unwrap();
        assert_eq!(
            given,
            Text {
                text: "a\né🦀".into(),
                repairs: Repairs::None
            }
        );
        for (wrong, hint) in [
            ("{\"body\": \"a\"}", "no key \"text\""),
            ("{\"text\": 5}", "expected a string, at column 10"),
            ("[1]", "expected a JSON object with a string"),
            ("{\"text\": \"a\"", "EOF"),
            ("{\"text\": \"a\"} x", "trailing"),
            ("{\"text\": \"\\ud800\"}", "hex escape"),
        ] {
            let error = line(wrong).unwrap_err().to_string();
            assert!(
                error.starts_with("in.x, line 7: ") && error.contains(hint),
                "{wrong}: {error}"
            );
        }
    }

    #[test]
    fn invalid_utf8_is_placed_or_replaced() {
        let broken = document(SourceKind::Text, b"ok \xe6\xbc x");
        let error = rules(InvalidUtf8::Reject).text(broken.clone()).unwrap_err();
        assert!(
            matches!(error, PrepareError::Utf8 { byte: 103, .. }),
            "{error}"
        );
        let repaired = rules(InvalidUtf8::Replace).text(broken).unwrap();
        assert_eq!(
            repaired,
            Text {
                text: "ok \u{fffd} x".into(),
                repairs: Repairs::Some
            }
        );
    }
}
