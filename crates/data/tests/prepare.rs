//! From text files to a dataset.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    ops::ControlFlow,
    path::Path,
    sync::{Mutex, atomic::AtomicU32, atomic::Ordering},
};

use muster_data::{
    Dataset, DocumentUnit, Existing, InvalidUtf8, Phase, PrepareError, PrepareOptions, Split,
    TokenizerChoice, TokenizerKind,
};
use support::{documents, files, json_lines, options, prepare, text, tokens, write};

const BPE: TokenizerChoice = TokenizerChoice::TrainBpe { vocab_size: 400 };

fn corpus(dir: &Path) {
    let line = text(7, 3);
    let lines: Vec<String> = (0..150).map(|n| format!("{n} {line}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    write(
        dir,
        &[
            ("b/one.txt", text(1, 300).as_bytes()),
            ("a.txt", text(2, 200).as_bytes()),
            ("c.jsonl", json_lines(&lines).as_bytes()),
            ("b/empty.txt", b""),
            ("b/read.me", b"not text"),
        ],
    );
}

#[test]
fn output_does_not_depend_on_the_number_of_threads() {
    let root = tempfile::tempdir().unwrap();
    let input = root.path().join("in");
    corpus(&input);
    for tokenizer in [TokenizerChoice::Bytes, BPE] {
        let made = |threads: usize| {
            let out = root.path().join(format!("out-{tokenizer}-{threads}"));
            let options = PrepareOptions {
                threads,
                shard_tokens: 40_000,
                ..options(&input, &out, tokenizer.clone())
            };
            (prepare(&options).unwrap().digest, files(&out))
        };
        let one = made(1);
        assert!(one.1.len() > 8, "several data shards: {:?}", one.1.keys());
        assert!(
            one == made(2) && one == made(5),
            "{tokenizer}: the files differ"
        );
    }
}

#[test]
fn documents_joined_are_the_text_again() {
    let root = tempfile::tempdir().unwrap();
    let huge_line = "漢🦀é ".repeat(300_000);
    let inputs: [(&str, &[u8]); 8] = [
        ("a-plain.txt", b"one line without an end"),
        ("b-crlf.txt", b"first\r\n\r\nsecond\r\n\r\n\r\n"),
        ("c-emoji.txt", "👩‍👩‍👧‍👦 and 🏳️‍🌈\n\n漢字とかな\n".as_bytes()),
        ("d-huge.txt", huge_line.as_bytes()),
        ("e-special.txt", b"the <|endoftext|> of \x00 text\n"),
        ("f-many.txt", &text(3, 60).into_bytes()),
        ("g-empty.txt", b""),
        ("h-blank.txt", b" \n\n\t\n"),
    ];
    write(&root.path().join("in"), &inputs);
    let whole: String = inputs[..6]
        .iter()
        .map(|(_, bytes)| std::str::from_utf8(bytes).unwrap())
        .collect();
    for (tokenizer, kind) in [
        (TokenizerChoice::Bytes, TokenizerKind::Bytes),
        (BPE, TokenizerKind::TrainBpe),
    ] {
        let out = root.path().join(kind.to_string());
        let options = PrepareOptions {
            validation_fraction: 0.0,
            ..options(&root.path().join("in"), &out, tokenizer)
        };
        let summary = prepare(&options).unwrap();
        assert!(
            documents(&out, Split::Train).concat() == whole,
            "{kind}: the text is another"
        );
        assert_eq!((summary.empty_documents, summary.files), (1, 8));
        assert_eq!(summary.train.text_bytes, whole.len() as u64);
        assert_eq!(summary.validation, Default::default());
        let dataset = Dataset::open(&out).unwrap();
        assert_eq!(
            (dataset.index().tokenizer.kind, dataset.digest()),
            (kind, summary.digest)
        );
        assert_eq!(dataset.documents(Split::Train), summary.train.documents);
        assert_eq!(
            dataset.tokens(Split::Train),
            tokens(&out, Split::Train).concat().len() as u64
        );
    }
}

#[test]
fn json_lines_are_documents() {
    let root = tempfile::tempdir().unwrap();
    let lines = "{\"body\": \"a\\n\\nb\", \"text\": 1}\n\n{\"body\":\"🦀\"}\r\n{\"body\": \"  \"}\n{\"body\": \"last\"}";
    write(root.path(), &[("in.jsonl", lines.as_bytes())]);
    let out = root.path().join("out");
    let options = PrepareOptions {
        text_key: "body".into(),
        validation_fraction: 0.0,
        ..options(&root.path().join("in.jsonl"), &out, TokenizerChoice::Bytes)
    };
    let summary = prepare(&options).unwrap();
    assert_eq!(documents(&out, Split::Train), ["a\n\nb", "🦀", "last"]);
    assert_eq!(summary.empty_documents, 1);
    let error = prepare(&PrepareOptions {
        text_key: "text".into(),
        out: root.path().join("no"),
        ..options
    })
    .unwrap_err();
    assert!(error.to_string().contains("in.jsonl, line 1: "), "{error}");
}

#[test]
fn the_split_is_each_documents_own() {
    let root = tempfile::tempdir().unwrap();
    let split = |out: &str, files: &[(&str, String)]| {
        let input = root.path().join(format!("{out}-in"));
        files
            .iter()
            .for_each(|(name, text)| write(&input, &[(name, text.as_bytes())]));
        let out = root.path().join(out);
        let options = PrepareOptions {
            validation_fraction: 0.1,
            ..options(&input, &out, TokenizerChoice::Bytes)
        };
        prepare(&options).unwrap();
        let set = |split| documents(&out, split).into_iter().collect::<BTreeSet<_>>();
        (set(Split::Train), set(Split::Validation))
    };
    let (train, held_out) = split("few", &[("a.txt", text(1, 400))]);
    let share = held_out.len() as f64 / (train.len() + held_out.len()) as f64;
    assert!((0.03..0.2).contains(&share), "{share}");
    let (more_train, more_held_out) =
        split("more", &[("z.txt", text(1, 400)), ("b.txt", text(9, 300))]);
    assert!(train.is_subset(&more_train) && held_out.is_subset(&more_held_out));
    assert!(more_held_out.len() > held_out.len());
}

#[test]
fn whole_files_can_be_documents() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        &[("in/a.txt", b"a\n\nb\n"), ("in/b.txt", b"c")],
    );
    let out = root.path().join("out");
    let options = PrepareOptions {
        document_unit: DocumentUnit::File,
        validation_fraction: 0.0,
        ..options(&root.path().join("in"), &out, TokenizerChoice::Bytes)
    };
    prepare(&options).unwrap();
    assert_eq!(documents(&out, Split::Train), ["a\n\nb\n", "c"]);
}

#[test]
fn a_failure_leaves_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let input = root.path().join("in");
    corpus(&input);
    let before = files(root.path());
    let fails = |options: &PrepareOptions| {
        let error = prepare(options).unwrap_err();
        assert_eq!(
            fs::read_dir(root.path()).unwrap().count(),
            1,
            "after {error}"
        );
        error
    };
    let base = || {
        options(
            &input,
            &root.path().join("deep/out"),
            TokenizerChoice::Bytes,
        )
    };

    assert!(matches!(
        fails(&PrepareOptions {
            inputs: vec![root.path().join("none")],
            ..base()
        }),
        PrepareError::Input { .. }
    ));
    assert!(matches!(
        fails(&PrepareOptions {
            validation_fraction: 1.5,
            ..base()
        }),
        PrepareError::Option { .. }
    ));
    let no_tokenizer = TokenizerChoice::File(input.join("b/read.me"));
    assert!(
        fails(&PrepareOptions {
            tokenizer: no_tokenizer,
            ..base()
        })
        .to_string()
        .contains("read.me")
    );
    let blank = PrepareOptions {
        inputs: vec![input.join("b/empty.txt")],
        ..base()
    };
    assert!(matches!(fails(&blank), PrepareError::NoText { files: 1 }));
    let held_out = fails(&PrepareOptions {
        validation_fraction: 1.0 - f64::EPSILON,
        ..base()
    });
    assert!(
        matches!(held_out, PrepareError::NoTrainingText { .. }),
        "{held_out}"
    );
    assert_eq!(files(root.path()), before);

    // The last line of the last file is bad: everything before it had been written already.
    let mut lines = fs::read(input.join("c.jsonl")).unwrap();
    lines.extend(b"{\"text\": \n");
    fs::write(input.join("c.jsonl"), &lines).unwrap();
    for tokenizer in [TokenizerChoice::Bytes, BPE] {
        let error = fails(&PrepareOptions {
            tokenizer,
            threads: 3,
            ..base()
        });
        assert!(
            matches!(error, PrepareError::JsonLine { line: 151, .. }),
            "{error}"
        );
    }
    fs::write(input.join("a.txt"), b"good\n\nbad \xff\n").unwrap();
    assert!(matches!(
        fails(&base()),
        PrepareError::Utf8 { byte: 10, .. }
    ));
}

#[test]
fn preparing_can_be_cancelled_in_each_phase() {
    let root = tempfile::tempdir().unwrap();
    corpus(&root.path().join("in"));
    for phase in [
        Phase::TrainingTokenizer,
        Phase::Tokenizing,
        Phase::Finishing,
    ] {
        let options = options(&root.path().join("in"), &root.path().join("out"), BPE);
        let calls = AtomicU32::new(0);
        let error = muster_data::prepare(&options, &|progress| {
            if progress.phase != phase {
                return ControlFlow::Continue(());
            }
            calls.fetch_add(1, Ordering::SeqCst);
            ControlFlow::Break(())
        });
        assert!(matches!(error, Err(PrepareError::Cancelled)), "{phase}");
        assert!(calls.into_inner() > 0);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}

#[test]
fn progress_reaches_the_end() {
    let root = tempfile::tempdir().unwrap();
    corpus(&root.path().join("in"));
    let seen = Mutex::new(vec![]);
    let summary = muster_data::prepare(
        &options(&root.path().join("in"), &root.path().join("out"), BPE),
        &|progress| {
            seen.lock().unwrap().push(progress);
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    let seen = seen.into_inner().unwrap();
    let last = *seen.last().unwrap();
    assert_eq!(
        (last.phase, last.bytes_done, last.bytes_total),
        (Phase::Finishing, summary.bytes, summary.bytes)
    );
    assert_eq!(
        last.documents,
        summary.train.documents + summary.validation.documents
    );
    assert_eq!(
        last.tokens,
        summary.train.tokens + summary.validation.tokens
    );
    let tokenizing: Vec<_> = seen
        .iter()
        .filter(|progress| progress.phase == Phase::Tokenizing)
        .collect();
    assert!(tokenizing.len() > 1 && tokenizing.is_sorted_by_key(|progress| progress.bytes_done));
    assert_eq!(tokenizing.last().unwrap().bytes_done, summary.bytes);
}

#[test]
fn a_dataset_is_replaced_only_when_asked() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &[("in/a.txt", b"first")]);
    let out = root.path().join("out");
    let base = || PrepareOptions {
        validation_fraction: 0.0,
        ..options(&root.path().join("in"), &out, TokenizerChoice::Bytes)
    };
    prepare(&base()).unwrap();
    let first = files(&out);
    write(root.path(), &[("in/a.txt", b"second")]);
    assert!(matches!(prepare(&base()), Err(PrepareError::Exists { .. })));
    // A failed replacement leaves the old one.
    let fails = PrepareOptions {
        existing: Existing::Replace,
        inputs: vec![root.path().join("none")],
        ..base()
    };
    prepare(&fails).unwrap_err();
    assert_eq!(files(&out), first);
    // An open dataset can still be read after it was replaced.
    let open = Dataset::open(&out).unwrap();
    prepare(&PrepareOptions {
        existing: Existing::Replace,
        ..base()
    })
    .unwrap();
    assert_eq!(documents(&out, Split::Train), ["second"]);
    let mut sample = vec![];
    open.read_sample(Split::Train, 0, 0, 5, &mut sample)
        .unwrap();
    assert_eq!(sample, [102, 105, 114, 115, 116, 256]);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
}

#[test]
fn invalid_utf8_can_be_replaced() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        &[
            ("in/a.txt", b"caf\xe9\n"),
            ("in/b.jsonl", b"{\"text\": \"caf\xe9\"}"),
        ],
    );
    let out = root.path().join("out");
    let options = PrepareOptions {
        invalid_utf8: InvalidUtf8::Replace,
        validation_fraction: 0.0,
        ..options(&root.path().join("in"), &out, TokenizerChoice::Bytes)
    };
    assert_eq!(prepare(&options).unwrap().repaired_documents, 2);
    assert_eq!(
        documents(&out, Split::Train),
        ["caf\u{fffd}\n", "caf\u{fffd}"]
    );
}

#[test]
fn what_a_user_should_know_is_noted() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        &[("a.txt", b"few words, few words, few words")],
    );
    let out = root.path().join("out");
    let summary = prepare(&options(&root.path().join("a.txt"), &out, BPE)).unwrap();
    assert!(summary.vocab_size >= 257 && summary.vocab_size < 400);
    assert_eq!(summary.notes.len(), 2, "{:?}", summary.notes);
    let dataset = Dataset::open(&out).unwrap();
    assert_eq!(dataset.vocab_size(), summary.vocab_size);
    assert_eq!(dataset.shard_samples(Split::Validation, 4), [0u64; 0]);
}

#[test]
fn a_given_tokenizer_is_used_as_it_is_without_padding_or_truncation() {
    let root = tempfile::tempdir().unwrap();
    let words = 70_000;
    let mut vocab: serde_json::Map<String, serde_json::Value> =
        (0..words).map(|n| (format!("w{n}"), n.into())).collect();
    vocab.insert("<unk>".into(), words.into());
    // Ids with a hole: 70,001 is nobody's.
    vocab.insert("</s>".into(), (words + 2).into());
    let json = serde_json::json!({
        "version": "1.0",
        "truncation": { "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 },
        "padding": { "strategy": { "Fixed": 8 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                     "pad_type_id": 0, "pad_token": "w0" },
        "added_tokens": [{ "id": words + 2, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
                           "normalized": false, "special": true }],
        "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" }
    });
    let file = root.path().join("tokenizer.json");
    fs::write(&file, json.to_string()).unwrap();
    write(root.path(), &[("in/a.txt", b"w5 w69999 w0 strange w7")]);
    let out = root.path().join("out");
    let options = PrepareOptions {
        validation_fraction: 0.0,
        ..options(
            &root.path().join("in"),
            &out,
            TokenizerChoice::File(file.clone()),
        )
    };
    let summary = prepare(&options).unwrap();
    assert_eq!(summary.vocab_size, 70_003);
    assert_eq!(
        tokens(&out, Split::Train),
        [[5, 69_999, 0, 70_000, 7, 70_002]]
    );
    let dataset = Dataset::open(&out).unwrap();
    assert_eq!(
        fs::read(dataset.tokenizer_path()).unwrap(),
        fs::read(file).unwrap()
    );
    let mut sample = vec![-1];
    dataset
        .read_sample(Split::Train, 0, 1, 2, &mut sample)
        .unwrap();
    assert_eq!(sample, [-1, 0, 70_000, 7]);
}
