use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

/// Bytes of a log that travel in one message.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;

/// The last at most `bytes` of a file, cut at the beginning of a line where there is one, as text.
pub(crate) fn tail_text(path: &Path, bytes: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let start = length.saturating_sub(bytes);
        file.seek(SeekFrom::Start(start))?;
        let mut content = Vec::new();
        file.take(bytes).read_to_end(&mut content)?;
        if start > 0
            && let Some(newline) = content.iter().position(|byte| *byte == b'\n')
            && newline + 1 < content.len()
        {
            content.drain(..=newline);
        }
        Ok(content)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// Where reading of a log begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    First,
    /// So many lines before the end.
    Tail(u32),
    /// At this byte, or at the end where that comes before.
    Offset(u64),
}

/// Opens a log; the byte that is read next.
pub(crate) fn open(path: &Path, start: Start) -> io::Result<(File, u64)> {
    let mut file = File::open(path)?;
    match start {
        Start::First => {}
        Start::Tail(0) => drop(file.seek(SeekFrom::End(0))?),
        Start::Tail(lines) => seek_to_tail(&mut file, lines)?,
        Start::Offset(offset) => {
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(offset.min(end)))?;
        }
    }
    let position = file.stream_position()?;
    Ok((file, position))
}

fn seek_to_tail(file: &mut File, lines: u32) -> io::Result<()> {
    let mut end = file.metadata()?.len();
    let mut missing = u64::from(lines);
    let mut window = vec![0; CHUNK_BYTES];
    let mut is_last_byte = true;
    while end > 0 {
        let start = end.saturating_sub(CHUNK_BYTES as u64);
        let piece = &mut window[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(piece)?;
        for (offset, byte) in piece.iter().enumerate().rev() {
            // A newline at the very end closes the last line; it begins no further one.
            if *byte == b'\n' && !is_last_byte {
                missing -= 1;
                if missing == 0 {
                    file.seek(SeekFrom::Start(start + offset as u64 + 1))?;
                    return Ok(());
                }
            }
            is_last_byte = false;
        }
        end = start;
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(content: &str, start: Start) -> String {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, content).unwrap();
        let mut text = String::new();
        let (mut file, position) = open(&path, start).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(position as usize, content.len() - text.len());
        text
    }

    fn tail(content: &str, lines: u32) -> String {
        read(content, Start::Tail(lines))
    }

    #[test]
    fn the_tail_counts_lines() {
        assert_eq!(tail("a\nb\nc\n", 0), "");
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(tail("a\nb\nc", 2), "b\nc");
        assert_eq!(tail("a\nb\nc\n", 3), "a\nb\nc\n");
        assert_eq!(tail("a\nb\nc\n", 9), "a\nb\nc\n");
        assert_eq!(tail("", 2), "");
    }

    #[test]
    fn a_log_is_read_from_the_first_line_or_from_any_byte() {
        assert_eq!(read("a\nb\n", Start::First), "a\nb\n");
        assert_eq!(read("a\nb\n", Start::Offset(2)), "b\n");
        assert_eq!(read("a\nb\n", Start::Offset(9)), "");
    }

    #[test]
    fn the_tail_reaches_over_several_windows() {
        let line = format!("{}\n", "x".repeat(1000));
        let content = line.repeat(200);
        assert_eq!(tail(&content, 150).len(), 150 * line.len());
    }

    #[test]
    fn the_tail_of_bytes_begins_with_a_whole_line() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "first\nsecond\nthird\n").unwrap();
        assert_eq!(tail_text(&path, 10), "third\n");
        assert_eq!(tail_text(&path, 100), "first\nsecond\nthird\n");
        assert_eq!(tail_text(&dir.path().join("none"), 10), "");
    }
}
