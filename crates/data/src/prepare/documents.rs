use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    mem,
    path::Path,
    sync::Arc,
};

use super::{
    DocumentUnit, PrepareError,
    sources::{Source, SourceKind},
};

/// The largest document that is taken as a whole: a few of them are in memory at a time, many times over as tokens.
pub(super) const MAX_DOCUMENT_BYTES: u64 = 16 << 20;
/// A run of paragraphs without a blank line is cut here, after a line if there is one.
const MAX_PARAGRAPHS_BYTES: usize = 1 << 20;
/// The byte order mark that some editors put in front.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A document as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawDocument {
    pub(super) source: Arc<Source>,
    /// Of its first byte, counted from 1.
    pub(super) line: u64,
    /// Of its first byte, counted from 0.
    pub(super) byte: u64,
    pub(super) bytes: Vec<u8>,
}

/// All documents of some files, in order, in bounded memory. Ends after the first error.
pub(super) struct Documents {
    sources: std::vec::IntoIter<Arc<Source>>,
    unit: DocumentUnit,
    open: Option<OpenFile<BufReader<File>>>,
}

impl Documents {
    pub(super) fn new(sources: &[Source], unit: DocumentUnit) -> Self {
        let sources: Vec<_> = sources.iter().cloned().map(Arc::new).collect();
        Self {
            sources: sources.into_iter(),
            unit,
            open: None,
        }
    }

    fn try_next(&mut self) -> Result<Option<RawDocument>, PrepareError> {
        loop {
            if let Some(open) = &mut self.open {
                if let Some(document) = open.next(self.unit)? {
                    return Ok(Some(document));
                }
                self.open = None;
            }
            let Some(source) = self.sources.next() else {
                return Ok(None);
            };
            let file = File::open(&source.path).map_err(|error| unreadable(&source.path, error))?;
            self.open = Some(OpenFile::new(
                source,
                BufReader::with_capacity(1 << 17, file),
            )?);
        }
    }
}

impl Iterator for Documents {
    type Item = Result<RawDocument, PrepareError>;
    fn next(&mut self) -> Option<Self::Item> {
        let next = self.try_next();
        if next.is_err() {
            (self.sources, self.open) = (vec![].into_iter(), None);
        }
        next.transpose()
    }
}

struct OpenFile<R> {
    source: Arc<Source>,
    reader: R,
    /// Read, but not yet part of a document.
    pending: Vec<u8>,
    /// Of the first pending byte.
    line: u64,
    byte: u64,
}

impl<R: BufRead> OpenFile<R> {
    fn new(source: Arc<Source>, mut reader: R) -> Result<Self, PrepareError> {
        let mut pending = Vec::new();
        (&mut reader)
            .take(BYTE_ORDER_MARK.len() as u64)
            .read_to_end(&mut pending)
            .map_err(|error| unreadable(&source.path, error))?;
        let mut byte = 0;
        if pending == BYTE_ORDER_MARK {
            byte = pending.len() as u64;
            pending.clear();
        }
        Ok(Self {
            source,
            reader,
            pending,
            line: 1,
            byte,
        })
    }

    fn next(&mut self, unit: DocumentUnit) -> Result<Option<RawDocument>, PrepareError> {
        match (self.source.kind, unit) {
            (SourceKind::JsonLines, _) => self.next_line(),
            (SourceKind::Text, DocumentUnit::File) => self.rest(),
            (SourceKind::Text, DocumentUnit::Paragraphs { min_bytes }) => {
                let min_bytes = usize::try_from(min_bytes).unwrap_or(usize::MAX);
                self.next_paragraphs(min_bytes.min(MAX_PARAGRAPHS_BYTES))
            }
        }
    }

    /// The whole file.
    fn rest(&mut self) -> Result<Option<RawDocument>, PrepareError> {
        self.fill(MAX_DOCUMENT_BYTES + 1, |reader, into| {
            reader.read_to_end(into)
        })?;
        self.check_size()?;
        Ok(self.cut(self.pending.len()))
    }

    /// The next line that is not blank.
    fn next_line(&mut self) -> Result<Option<RawDocument>, PrepareError> {
        loop {
            if !self.pending.contains(&b'\n') {
                self.fill(MAX_DOCUMENT_BYTES + 1, |reader, into| {
                    reader.read_until(b'\n', into)
                })?;
            }
            let end = self
                .pending
                .iter()
                .position(|&byte| byte == b'\n')
                .map_or(self.pending.len(), |at| at + 1);
            if end as u64 > MAX_DOCUMENT_BYTES {
                self.check_size()?;
            }
            match self.cut(end) {
                Some(line) if line.bytes.iter().all(u8::is_ascii_whitespace) => {}
                line => return Ok(line),
            }
        }
    }

    /// At least `min_bytes`, up to and with the blank lines that follow.
    fn next_paragraphs(&mut self, min_bytes: usize) -> Result<Option<RawDocument>, PrepareError> {
        // Where the current line began, and whether the line before it was blank.
        let (mut scanned, mut after_blank) = (0, false);
        loop {
            let line_end = self.pending[scanned..]
                .iter()
                .position(|&byte| byte == b'\n')
                .map(|at| scanned + at + 1);
            let Some(line_end) = line_end else {
                if self.pending.len() >= MAX_PARAGRAPHS_BYTES {
                    return Ok(self.cut(forced_cut(&self.pending, scanned)));
                }
                let room = MAX_PARAGRAPHS_BYTES - self.pending.len();
                if self.fill(room as u64, |reader, into| reader.read_until(b'\n', into))? == 0 {
                    let last_line_is_text =
                        !self.pending[scanned..].iter().all(u8::is_ascii_whitespace);
                    let end = if after_blank && scanned >= min_bytes && last_line_is_text {
                        scanned
                    } else {
                        self.pending.len()
                    };
                    return Ok(self.cut(end));
                }
                continue;
            };
            let blank = self.pending[scanned..line_end]
                .iter()
                .all(u8::is_ascii_whitespace);
            if after_blank && !blank && scanned >= min_bytes {
                return Ok(self.cut(scanned));
            }
            (scanned, after_blank) = (line_end, blank);
        }
    }

    /// Reads at most `limit` bytes more.
    fn fill(
        &mut self,
        limit: u64,
        read: impl FnOnce(&mut io::Take<&mut R>, &mut Vec<u8>) -> io::Result<usize>,
    ) -> Result<usize, PrepareError> {
        read(&mut (&mut self.reader).take(limit), &mut self.pending)
            .map_err(|error| unreadable(&self.source.path, error))
    }

    fn check_size(&self) -> Result<(), PrepareError> {
        if self.pending.len() as u64 <= MAX_DOCUMENT_BYTES {
            return Ok(());
        }
        let path = self.source.path.clone();
        Err(PrepareError::TooLarge {
            path,
            line: self.line,
            limit_bytes: MAX_DOCUMENT_BYTES,
        })
    }

    /// Makes a document of the first pending bytes; none if there are none.
    fn cut(&mut self, end: usize) -> Option<RawDocument> {
        if end == 0 {
            return None;
        }
        let rest = self.pending.split_off(end);
        let bytes = mem::replace(&mut self.pending, rest);
        let (line, byte) = (self.line, self.byte);
        self.line += bytes.iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.byte += bytes.len() as u64;
        Some(RawDocument {
            source: Arc::clone(&self.source),
            line,
            byte,
            bytes,
        })
    }
}

/// Where to cut what has no blank line: after its last whole line, or before its last character begins.
fn forced_cut(bytes: &[u8], last_line: usize) -> usize {
    if last_line > 0 {
        return last_line;
    }
    let continued = bytes
        .iter()
        .rev()
        .take(3)
        .take_while(|&&byte| byte & 0b1100_0000 == 0b1000_0000)
        .count();
    bytes.len() - continued - 1
}

fn unreadable(path: &Path, source: io::Error) -> PrepareError {
    PrepareError::Input {
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn read(
        kind: SourceKind,
        unit: DocumentUnit,
        bytes: &[u8],
    ) -> Result<Vec<RawDocument>, PrepareError> {
        let source = Arc::new(Source {
            path: "input".into(),
            kind,
            bytes: bytes.len() as u64,
        });
        let mut file = OpenFile::new(source, bytes)?;
        let mut documents = vec![];
        while let Some(document) = file.next(unit)? {
            documents.push(document);
        }
        Ok(documents)
    }

    fn paragraphs(min_bytes: u64, text: &str) -> Vec<String> {
        let documents = read(
            SourceKind::Text,
            DocumentUnit::Paragraphs { min_bytes },
            text.as_bytes(),
        )
        .unwrap();
        documents
            .into_iter()
            .map(|document| String::from_utf8(document.bytes).unwrap())
            .collect()
    }

    #[test]
    fn text_is_cut_at_blank_lines() {
        assert_eq!(
            paragraphs(1, "a\nb\n\n\nc\n\nd"),
            ["a\nb\n\n\n", "c\n\n", "d"]
        );
        assert_eq!(paragraphs(5, "a\nb\n\n\nc\n\nd"), ["a\nb\n\n\n", "c\n\nd"]);
        assert_eq!(paragraphs(1, "a\r\n\r\nb\r\n"), ["a\r\n\r\n", "b\r\n"]);
        assert_eq!(paragraphs(1, "\n\n \n"), ["\n\n \n"]);
        assert_eq!(paragraphs(1, "a\n\n  "), ["a\n\n  "]);
        assert_eq!(paragraphs(1, ""), [""; 0]);
        assert_eq!(paragraphs(1, "\u{feff}a"), ["a"]);
        assert_eq!(paragraphs(u64::MAX, "a\n\nb"), ["a\n\nb"]);
    }

    #[test]
    fn places_are_those_in_the_file() {
        let documents = read(
            SourceKind::Text,
            DocumentUnit::Paragraphs { min_bytes: 1 },
            "\u{feff}a\n\nb\nc\n\nd".as_bytes(),
        );
        let places: Vec<_> = documents
            .unwrap()
            .iter()
            .map(|document| (document.line, document.byte))
            .collect();
        assert_eq!(places, [(1, 3), (3, 6), (6, 11)]);
        let lines = read(
            SourceKind::JsonLines,
            DocumentUnit::File,
            b"{}\n\n \n{\"a\":1}",
        )
        .unwrap();
        let places: Vec<_> = lines
            .iter()
            .map(|document| (document.line, document.byte))
            .collect();
        assert_eq!(places, [(1, 0), (4, 6)]);
    }

    #[test]
    fn one_huge_line_is_cut_between_characters() {
        let text = "漢".repeat(MAX_PARAGRAPHS_BYTES);
        let documents = paragraphs(2048, &text);
        assert_eq!(documents.len(), 4);
        assert_eq!(documents.concat(), text);
        let lines = "0123456789\n".repeat(MAX_PARAGRAPHS_BYTES / 8);
        let documents = paragraphs(2048, &lines);
        assert!(
            documents
                .iter()
                .all(|document| document.len() <= MAX_PARAGRAPHS_BYTES && document.ends_with('\n'))
        );
        assert_eq!(documents.concat(), lines);
    }

    #[test]
    fn too_large_a_document_is_refused_without_reading_it_all() {
        let bytes = vec![b'x'; MAX_DOCUMENT_BYTES as usize + 100];
        for kind in [SourceKind::Text, SourceKind::JsonLines] {
            let error = read(kind, DocumentUnit::File, &bytes).unwrap_err();
            assert!(
                matches!(error, PrepareError::TooLarge { line: 1, .. }),
                "{error}"
            );
        }
        assert_eq!(
            read(
                SourceKind::Text,
                DocumentUnit::File,
                &bytes[..MAX_DOCUMENT_BYTES as usize]
            )
            .unwrap()
            .len(),
            1
        );
    }

    proptest! {
        #[test]
        fn documents_joined_are_the_file(text in "[a漢\n\r ]{0,200}", min_bytes in 0u64..40) {
            let documents = paragraphs(min_bytes, &text);
            prop_assert_eq!(documents.concat(), text);
            let (_, all_but_last) = documents.split_last().unzip();
            for document in all_but_last.unwrap_or_default() {
                prop_assert!(document.len() as u64 >= min_bytes);
            }
        }
    }
}
