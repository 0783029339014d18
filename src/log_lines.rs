//! Logs come in pieces that end anywhere, several at a time; what is shown of each ends with a line.

use std::collections::BTreeMap;

use muster_proto::v1::LogChunk;

/// What is this long without an end is shown as it is.
const LONGEST_LINE: usize = 1 << 20;

/// Lines of logs that are not whole yet, by worker.
#[derive(Debug, Default)]
pub struct LogLines {
    begun: BTreeMap<String, LogChunk>,
}

impl LogLines {
    /// Takes a piece; gives the lines of its worker that are whole with it.
    pub fn take(&mut self, piece: &LogChunk) -> Vec<u8> {
        let begun = self
            .begun
            .entry(piece.worker_id.clone())
            .or_insert_with(|| LogChunk {
                data: Vec::new(),
                ..piece.clone()
            });
        begun.data.extend_from_slice(&piece.data);
        let end = match begun.data.iter().rposition(|byte| *byte == b'\n') {
            Some(newline) => newline + 1,
            None if begun.data.len() > LONGEST_LINE => begun.data.len(),
            None => 0,
        };
        let rest = begun.data.split_off(end);
        std::mem::replace(&mut begun.data, rest)
    }

    /// The lines that never ended; each gets its end.
    pub fn rest(self) -> impl Iterator<Item = LogChunk> {
        let begun = self.begun.into_values();
        begun
            .filter(|piece| !piece.data.is_empty())
            .map(|mut piece| {
                piece.data.push(b'\n');
                piece
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(worker: &str, data: &str) -> LogChunk {
        LogChunk {
            worker_id: worker.into(),
            data: data.into(),
            node: "node-a".into(),
        }
    }

    #[test]
    fn lines_of_several_logs_are_put_together_each_by_itself() {
        let mut lines = LogLines::default();
        let mut take = |worker, data| String::from_utf8(lines.take(&piece(worker, data)));
        assert_eq!(take("w-1", "one\ntw"), Ok("one\n".into()));
        assert_eq!(take("w-2", "ei"), Ok(String::new()));
        assert_eq!(take("w-1", "o\nthree\nfo"), Ok("two\nthree\n".into()));
        assert_eq!(take("w-2", "ns\n"), Ok("eins\n".into()));
        let rest: Vec<_> = lines.rest().collect();
        assert_eq!(rest, [piece("w-1", "fo\n")]);
    }

    #[test]
    fn a_line_that_never_ends_is_not_kept_for_ever() {
        let mut lines = LogLines::default();
        let long = "x".repeat(LONGEST_LINE);
        assert!(lines.take(&piece("w-1", &long)).is_empty());
        assert_eq!(lines.take(&piece("w-1", "y")).len(), LONGEST_LINE + 1);
        assert_eq!(lines.rest().count(), 0);
    }
}
