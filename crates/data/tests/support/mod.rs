//! What the tests of datasets share: text to prepare, and the written files read without the code under test.
#![allow(clippy::unwrap_used, dead_code)]

use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use muster_data::{
    Dataset, Index, PrepareError, PrepareOptions, Split, Summary, TokenDtype, TokenizerChoice,
};

/// Paragraphs of made-up words that differ from each other, some of them odd.
pub fn text(seed: u64, paragraphs: usize) -> String {
    const WORDS: [&str; 12] = [
        "the",
        "ship",
        "sailed",
        "into",
        "a",
        "storm",
        "and",
        "night",
        "漢字かな",
        "naïve",
        "🦀🚢",
        "1,234",
    ];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut text = String::new();
    for _ in 0..paragraphs {
        for _ in 0..20 + next(200) {
            text.push_str(WORDS[next(WORDS.len())]);
            text.push_str([" ", " ", " ", ", ", ".\n", ".\r\n"][next(6)]);
        }
        text.push_str(["\n\n", "\r\n\r\n", "\n\n\n"][next(3)]);
    }
    text
}

/// Writes files below a directory.
pub fn write(dir: &Path, files: &[(&str, &[u8])]) {
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// As JSON lines under the key `text`.
pub fn json_lines(texts: &[&str]) -> String {
    texts
        .iter()
        .map(|text| serde_json::json!({ "id": 1, "text": text }).to_string() + "\n")
        .collect()
}

/// Options for the whole of `input`.
pub fn options(input: &Path, out: &Path, tokenizer: TokenizerChoice) -> PrepareOptions {
    PrepareOptions::new(vec![input.into()], out.into(), tokenizer)
}

/// Prepares without watching.
pub fn prepare(options: &PrepareOptions) -> Result<Summary, PrepareError> {
    muster_data::prepare(options, &|_| ControlFlow::Continue(()))
}

/// Every file of a directory tree.
pub fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(
                files(&path)
                    .into_iter()
                    .map(|(name, bytes)| (Path::new(path.file_name().unwrap()).join(name), bytes)),
            );
        } else {
            found.insert(path.file_name().unwrap().into(), fs::read(&path).unwrap());
        }
    }
    found
}

/// The tokens of each data shard of a split, read as the format says.
pub fn tokens(dir: &Path, split: Split) -> Vec<Vec<u32>> {
    let index: Index = serde_json::from_slice(&fs::read(dir.join("index.json")).unwrap()).unwrap();
    let shards = index.split(split).shards.iter();
    shards
        .map(|shard| {
            let bytes = fs::read(dir.join(&shard.file)).unwrap();
            match index.dtype {
                TokenDtype::U16 => bytes
                    .chunks(2)
                    .map(|b| u32::from(u16::from_le_bytes(b.try_into().unwrap())))
                    .collect(),
                TokenDtype::U32 => bytes
                    .chunks(4)
                    .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
                    .collect(),
            }
        })
        .collect()
}

/// The decoded documents of a split, in order.
pub fn documents(dir: &Path, split: Split) -> Vec<String> {
    let dataset = Dataset::open(dir).unwrap();
    let tokenizer = dataset.tokenizer().unwrap();
    let mut documents = vec![];
    for (tokens, shard) in tokens(dir, split)
        .iter()
        .zip(&dataset.index().split(split).shards)
    {
        let offsets: Vec<usize> = fs::read(dir.join(&shard.docs_file))
            .unwrap()
            .chunks(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()) as usize)
            .chain([tokens.len()])
            .collect();
        for span in offsets.windows(2) {
            let (end_of_text, text) = tokens[span[0]..span[1]].split_last().unwrap();
            assert_eq!(*end_of_text, dataset.end_of_text());
            assert!(!text.contains(end_of_text));
            documents.push(tokenizer.decode(text).unwrap());
        }
    }
    documents
}
