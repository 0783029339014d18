//! Rust source without what is not code: comments, literals and, on request, tests.

/// `text` with comments and literals blanked; line breaks stay, so that line numbers hold.
pub fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = skip(bytes, at);
        if end == at {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(
                bytes[at..end]
                    .iter()
                    .map(|&byte| if byte == b'\n' { b'\n' } else { b' ' }),
            );
            at = end;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `code` (as of [`code_only`]) with each item under `#[cfg(test)]` blanked.
pub fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut rest = code;
    let mut out = String::with_capacity(code.len());
    while let Some(start) = rest.find(MARK) {
        out.push_str(&rest[..start]);
        let end = item_end(rest, start + MARK.len());
        out.extend(
            rest[start..end]
                .chars()
                .map(|c| if c == '\n' { '\n' } else { ' ' }),
        );
        rest = &rest[end..];
    }
    out + rest
}

/// Where the item that begins at `at` ends: behind its closing brace, or its semicolon.
fn item_end(code: &str, at: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, byte) in code.as_bytes()[at..].iter().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + offset + 1;
                }
            }
            b';' if depth == 0 => return at + offset + 1,
            _ => {}
        }
    }
    code.len()
}

/// The end of the comment or literal that begins at `at`; `at` itself where none does.
fn skip(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return rest
            .iter()
            .position(|&b| b == b'\n')
            .map_or(bytes.len(), |n| at + n);
    }
    if rest.starts_with(b"/*") {
        return block_comment_end(bytes, at);
    }
    let starts_word = at == 0 || !(bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if starts_word && let Some(end) = raw_string_end(bytes, at) {
        return end;
    }
    match rest[0] {
        b'"' => quoted_end(bytes, at, b'"'),
        b'\'' if is_char(rest) => quoted_end(bytes, at, b'\''),
        _ => at,
    }
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            [b'*', b'/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

/// Of `r"…"`, `r#"…"#`, `br#"…"#` and so on.
fn raw_string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + usize::from(matches!(bytes[start], b'b' | b'c'));
    if bytes.get(at) != Some(&b'r') {
        return None;
    }
    at += 1;
    let hashes = bytes[at..].iter().take_while(|&&b| b == b'#').count();
    at += hashes;
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(hashes + 1, b'#');
    let found = bytes[at + 1..]
        .windows(close.len())
        .position(|window| window == close)?;
    Some(at + 1 + found + close.len())
}

fn quoted_end(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// A character literal, not a lifetime: it closes after one character or begins with an escape.
fn is_char(rest: &[u8]) -> bool {
    let Some(&first) = rest.get(1) else {
        return false;
    };
    let length = match first {
        b'\\' => return true,
        0..=0x7f => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    };
    rest.get(1 + length) == Some(&b'\'')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_code_stays() {
        let text =
            "a // unsafe\n/* unsafe /* x */ */ b \"un\\\"safe\" r#\"un\"safe\"# 'x' '\\'' <'a> c";
        let code = code_only(text);
        assert!(!code.contains("safe"), "{code}");
        for kept in ["a ", " b ", "<'a>", " c"] {
            assert!(code.contains(kept), "{kept:?} in {code}");
        }
        assert_eq!(code.len(), text.len());
        assert_eq!(code.lines().count(), text.lines().count());
    }

    #[test]
    fn a_name_that_ends_in_r_does_not_open_a_raw_string() {
        assert_eq!(code_only("for\"x\" unsafe"), "for    unsafe");
    }

    #[test]
    fn tests_are_blanked_and_what_follows_stays() {
        let code = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { {} } }\nfn c() {}\n#[cfg(test)]\nmod more;\nfn d() {}";
        let left = without_tests(code);
        for (name, kept) in [
            ("a", true),
            ("b", false),
            ("c", true),
            ("more", false),
            ("d", true),
        ] {
            let pattern = if name == "more" {
                "more".to_owned()
            } else {
                format!("fn {name}")
            };
            assert_eq!(left.contains(&pattern), kept, "{name} in {left}");
        }
    }
}
