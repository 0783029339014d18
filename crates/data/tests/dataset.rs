//! Reading a dataset, whole and damaged.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use muster_data::{Dataset, DatasetError, PrepareOptions, Split, TokenizerChoice, inspect};
use support::{documents, options, prepare, text, tokens, write};

/// A dataset of three data shards of more than one block, and its directory.
fn dataset() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &[("in/a.txt", text(5, 3000).as_bytes())]);
    let out = root.path().join("out");
    let options = PrepareOptions {
        shard_tokens: 900_000,
        validation_fraction: 0.05,
        ..options(&root.path().join("in"), &out, TokenizerChoice::Bytes)
    };
    prepare(&options).unwrap();
    (root, out)
}

fn alter(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn samples_are_the_tokens() {
    let (_root, out) = dataset();
    let dataset = Dataset::open(&out).unwrap();
    for split in Split::ALL {
        let shards = tokens(&out, split);
        for context_length in [1u32, 7, 256, 100_000] {
            let samples = dataset.shard_samples(split, context_length);
            assert_eq!(samples.len(), shards.len());
            for (shard, (tokens, &samples)) in shards.iter().zip(&samples).enumerate() {
                let length = context_length as usize;
                assert_eq!(
                    samples,
                    (tokens.len() as u64 - 1) / u64::from(context_length)
                );
                for index in [0, samples / 2, samples.saturating_sub(1)] {
                    let mut sample = vec![];
                    let read = dataset.read_sample(
                        split,
                        shard as u32,
                        index,
                        context_length,
                        &mut sample,
                    );
                    if samples == 0 {
                        assert!(matches!(read, Err(DatasetError::NoSuchSample { .. })));
                        continue;
                    }
                    read.unwrap();
                    let start = index as usize * length;
                    let expected: Vec<i64> = tokens[start..=start + length]
                        .iter()
                        .map(|&token| token.into())
                        .collect();
                    assert!(
                        sample == expected,
                        "{split} {shard} {index} at {context_length}"
                    );
                }
                let beyond =
                    dataset.read_sample(split, shard as u32, samples, context_length, &mut vec![]);
                assert!(matches!(beyond, Err(DatasetError::NoSuchSample { .. })));
            }
        }
    }
    assert_eq!(
        dataset.shard_samples(Split::Train, 0),
        vec![0; dataset.index().split(Split::Train).shards.len()]
    );
    let error = dataset
        .read_sample(Split::Train, 99, 0, 1, &mut vec![])
        .unwrap_err();
    assert!(error.to_string().contains("data shard 99"), "{error}");
    dataset.verify().unwrap();
}

#[test]
fn threads_may_share_a_dataset() {
    let (_root, out) = dataset();
    let dataset = Dataset::open(&out).unwrap();
    let samples = dataset.shard_samples(Split::Train, 1000)[0];
    let read = || {
        let mut all = vec![];
        (0..samples).for_each(|index| {
            dataset
                .read_sample(Split::Train, 0, index, 1000, &mut all)
                .unwrap()
        });
        all
    };
    let expected = read();
    thread::scope(|scope| {
        let others: Vec<_> = (0..4).map(|_| scope.spawn(read)).collect();
        others
            .into_iter()
            .for_each(|other| assert!(other.join().unwrap() == expected));
    });
}

#[test]
fn a_missing_dataset_is_named() {
    let root = tempfile::tempdir().unwrap();
    let missing = Dataset::open(&root.path().join("none")).unwrap_err();
    assert!(
        matches!(missing, DatasetError::NotFound { .. })
            && missing.to_string().contains("muster data prepare")
    );
    assert!(matches!(
        Dataset::open(root.path()),
        Err(DatasetError::NotADataset { .. })
    ));
}

#[test]
fn a_truncated_or_missing_data_shard_is_named() {
    let (_root, out) = dataset();
    let shard = out.join("train-00001.tokens");
    let whole = fs::metadata(&shard).unwrap().len();
    alter(&shard, |bytes| bytes.truncate(bytes.len() - 1));
    let error = Dataset::open(&out).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, DatasetError::WrongLength { expected_bytes, found_bytes, .. }
        if expected_bytes == whole && found_bytes == whole - 1)
    );
    assert!(
        text.contains("train-00001.tokens") && text.contains(&whole.to_string()),
        "{text}"
    );
    alter(&shard, |bytes| bytes.extend([0, 0]));
    assert!(matches!(
        Dataset::open(&out),
        Err(DatasetError::WrongLength { .. })
    ));
    fs::remove_file(&shard).unwrap();
    let error = Dataset::open(&out).unwrap_err();
    assert!(
        matches!(&error, DatasetError::Unreadable { path, .. } if *path == shard),
        "{error}"
    );
}

#[test]
fn a_corrupt_block_is_found_when_touched_and_only_then() {
    let (_root, out) = dataset();
    let shard = out.join("train-00000.tokens");
    // One bit, in the second block.
    alter(&shard, |bytes| bytes[(1 << 20) + 100] ^= 1);
    let dataset = Dataset::open(&out).unwrap();
    let mut sample = vec![7];
    dataset
        .read_sample(Split::Train, 0, 0, 256, &mut sample)
        .unwrap();
    assert_eq!(sample.len(), 258);
    // u16 tokens: the second block begins with token 524,288, and sample 2047 ends with it.
    for index in [2047, 2048, 2500] {
        let error = dataset
            .read_sample(Split::Train, 0, index, 256, &mut sample)
            .unwrap_err();
        assert!(
            matches!(&error, DatasetError::CorruptBlock { block: 1, path, .. } if *path == shard),
            "{error}"
        );
        assert_eq!(sample.len(), 258);
    }
    dataset
        .read_sample(Split::Train, 0, 2046, 256, &mut sample)
        .unwrap();
    dataset
        .read_sample(Split::Train, 1, 0, 256, &mut sample)
        .unwrap();
    assert!(matches!(
        dataset.verify(),
        Err(DatasetError::CorruptBlock { block: 1, .. })
    ));
    assert!(matches!(
        inspect(&out, 1),
        Err(DatasetError::CorruptBlock { block: 1, .. })
    ));
}

#[test]
fn another_tokenizer_is_a_mismatch() {
    let (_root, out) = dataset();
    alter(&out.join("tokenizer.json"), |bytes| bytes.push(b'\n'));
    let error = Dataset::open(&out).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("tokenizer/dataset mismatch: "),
        "{error}"
    );
}

#[test]
fn changed_document_offsets_are_found() {
    let (_root, out) = dataset();
    alter(&out.join("validation-00000.docs"), |bytes| bytes[8] ^= 1);
    let dataset = Dataset::open(&out).unwrap();
    let error = dataset.verify().unwrap_err();
    assert!(
        matches!(&error, DatasetError::CorruptDocuments { path } if path.ends_with("validation-00000.docs"))
    );
}

#[test]
fn an_index_that_lies_is_refused() {
    let (_root, out) = dataset();
    let index = out.join("index.json");
    let good = fs::read_to_string(&index).unwrap();
    for (from, to, hint) in [
        (
            "\"format_version\": 1",
            "\"format_version\": 2",
            "format version 2",
        ),
        (
            "\"vocab_size\": 257",
            "\"vocab_size\": 70000",
            "does not fit",
        ),
        ("\"id\": 256", "\"id\": 257", "outside the vocabulary"),
        (
            "\"train-00000.tokens\"",
            "\"../train-00000.tokens\"",
            "not a plain file name",
        ),
        ("\"dtype\": \"u16\"", "\"dtype\": \"u24\"", "u24"),
        ("{", "", "expected"),
    ] {
        assert!(good.contains(from), "{from}");
        fs::write(&index, good.replacen(from, to, 1)).unwrap();
        let error = Dataset::open(&out).unwrap_err().to_string();
        assert!(
            error.contains(hint) && error.contains("index.json"),
            "{error}"
        );
    }
    // A vocabulary too small for the tokens, in an index that agrees with itself.
    fs::write(
        &index,
        good.replacen("\"vocab_size\": 257", "\"vocab_size\": 200", 1)
            .replacen("\"id\": 256", "\"id\": 199", 1),
    )
    .unwrap();
    let dataset = Dataset::open(&out).unwrap();
    let mut into = vec![5];
    let error = dataset
        .read_sample(Split::Train, 0, 0, 10_000, &mut into)
        .unwrap_err();
    assert!(
        matches!(
            error,
            DatasetError::TokenOutsideVocabulary {
                vocab_size: 200,
                token: 200..,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(into, [5]);
}

#[test]
fn inspection_counts_and_shows() {
    let (_root, out) = dataset();
    let inspection = inspect(&out, 5).unwrap();
    let train = tokens(&out, Split::Train).concat();
    let total = train.len() as f64;
    let entropy: f64 = (0..257u32)
        .map(|token| train.iter().filter(|&&found| found == token).count() as f64 / total)
        .filter(|&p| p > 0.0)
        .map(|p| -p * p.ln())
        .sum();
    assert!((inspection.unigram_entropy_nats - entropy).abs() < 1e-9);
    let texts = documents(&out, Split::Train);
    assert_eq!(
        (inspection.train.documents, inspection.train.tokens),
        (texts.len() as u64, train.len() as u64)
    );
    assert!(inspection.train.shards > 1 && inspection.validation.documents > 0);
    assert_eq!(inspection.samples.len(), 5);
    let dataset = Dataset::open(&out).unwrap();
    for (number, sample) in inspection.samples.iter().enumerate() {
        let before: u64 = dataset.index().split(Split::Train).shards[..sample.shard as usize]
            .iter()
            .map(|shard| shard.documents)
            .sum();
        let document = (before + sample.document) as usize;
        assert_eq!(document, number * texts.len() / 5);
        assert_eq!(sample.tokens, texts[document].len() as u64 + 1);
        let beginning =
            String::from_utf8_lossy(&texts[document].as_bytes()[..256.min(texts[document].len())]);
        assert_eq!(sample.text, beginning);
    }
    assert_eq!(inspect(&out, 0).unwrap().samples, []);
    let json = serde_json::to_value(&inspection).unwrap();
    assert_eq!(json["tokenizer"], "bytes");
    assert!(inspect(&out, 1 << 40).unwrap().samples.len() == texts.len());
}
