#![allow(clippy::unwrap_used)]

use std::fs;

use muster_types::{JobId, Timestamp};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{Entry, Journal, JournalError};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    text: String,
}

fn job(last: u8) -> JobId {
    format!("01890a5d-ac96-774b-bcce-b302099a80{last:02x}")
        .parse()
        .unwrap()
}

fn entry(job_id: Option<JobId>, text: &str) -> Entry<Note> {
    Entry {
        sequence: 0,
        at: Timestamp(1_700_000_000_000_001),
        job: job_id,
        kind: "note".into(),
        body: Note { text: text.into() },
    }
}

fn texts(journal: &Journal<Note>) -> Vec<(u64, String)> {
    let mut seen = Vec::new();
    journal
        .replay(|sequence, note| seen.push((sequence, note.text)))
        .unwrap();
    seen
}

#[test]
fn what_was_appended_is_replayed_in_order_after_a_reopen() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.sqlite");
    let mut journal = Journal::open(&path).unwrap();
    assert_eq!(
        journal
            .append(&[entry(None, "a"), entry(Some(job(1)), "b")])
            .unwrap(),
        2
    );
    assert_eq!(journal.append(&[entry(Some(job(2)), "c")]).unwrap(), 3);
    drop(journal);
    let mut journal = Journal::open(&path).unwrap();
    assert_eq!(journal.append(&[entry(None, "d")]).unwrap(), 4);
    let expected = ["a", "b", "c", "d"]
        .iter()
        .zip(1..)
        .map(|(t, s)| (s, t.to_string()));
    assert_eq!(texts(&journal), expected.collect::<Vec<_>>());
}

#[test]
fn a_copy_of_the_files_taken_after_an_append_holds_it() {
    // What a SIGKILL right after `append` leaves is exactly the files as they are now: nothing is closed or checkpointed.
    let dir = TempDir::new().unwrap();
    let mut journal = Journal::open(dir.path().join("journal.sqlite")).unwrap();
    journal.append(&[entry(None, "kept")]).unwrap();
    let copy = TempDir::new().unwrap();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    let revived = Journal::open(copy.path().join("journal.sqlite")).unwrap();
    assert_eq!(texts(&revived), [(1, "kept".to_owned())]);
}

#[test]
fn events_are_those_of_one_job_after_a_sequence_number() {
    let dir = TempDir::new().unwrap();
    let mut journal = Journal::open(dir.path().join("journal.sqlite")).unwrap();
    let entries = ["a", "b", "c", "d", "e"]
        .iter()
        .enumerate()
        .map(|(i, text)| entry(Some(job(i as u8 % 2)), text))
        .collect::<Vec<_>>();
    let reader = journal.reader().unwrap();
    journal.append(&entries).unwrap();
    let seen = |after, limit| {
        let found = reader.events(job(0), after, limit).unwrap();
        found
            .into_iter()
            .map(|e| (e.sequence, e.body.text))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        seen(0, 10),
        [(1, "a".into()), (3, "c".into()), (5, "e".into())]
    );
    assert_eq!(seen(1, 1), [(3, "c".into())]);
    assert_eq!(seen(5, 10), []);
}

#[test]
fn case_13_a_second_coordinator_is_refused_while_the_first_lives() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.sqlite");
    let first = Journal::<Note>::open(&path).unwrap();
    let error = Journal::<Note>::open(&path).unwrap_err();
    assert!(matches!(error, JournalError::Locked { .. }), "{error}");
    assert!(
        error.to_string().contains("in use by another coordinator"),
        "{error}"
    );
    drop(first);
    Journal::<Note>::open(&path).unwrap();
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.sqlite");
    Journal::open(&path)
        .unwrap()
        .append(&[entry(None, "a")])
        .unwrap();
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 7)
        .unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = Journal::<Note>::open(&path).unwrap_err();
    assert!(error.to_string().contains("format version 7"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn what_is_no_journal_is_refused_and_left_alone() {
    let dir = TempDir::new().unwrap();
    let text = dir.path().join("text");
    std::fs::write(&text, "this is a letter, not a database. ".repeat(100)).unwrap();
    let error = Journal::<Note>::open(&text).unwrap_err();
    assert!(matches!(error, JournalError::Corrupt { .. }), "{error}");
    assert!(
        std::fs::read_to_string(&text)
            .unwrap()
            .starts_with("this is a letter")
    );

    let foreign = dir.path().join("foreign");
    Connection::open(&foreign)
        .unwrap()
        .execute_batch("CREATE TABLE t (x)")
        .unwrap();
    let error = Journal::<Note>::open(&foreign).unwrap_err();
    assert!(matches!(error, JournalError::Foreign { .. }), "{error}");
}

#[test]
fn a_damaged_page_a_missing_record_and_a_torn_body_are_found() {
    let dir = TempDir::new().unwrap();
    let make = |name: &str| {
        let path = dir.path().join(name);
        let mut journal = Journal::open(&path).unwrap();
        let entries = (0..200)
            .map(|i| entry(None, &format!("record {i}")))
            .collect::<Vec<_>>();
        journal.append(&entries).unwrap();
        path
    };
    let page = make("page");
    let mut bytes = std::fs::read(&page).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle - 3000..middle + 3000].fill(0xa5);
    std::fs::write(&page, bytes).unwrap();
    let error = Journal::<Note>::open(&page)
        .and_then(|journal| journal.replay(|_, _| {}))
        .unwrap_err();
    assert!(matches!(error, JournalError::Corrupt { .. }), "{error}");

    for (name, damage, words) in [
        (
            "missing",
            "DELETE FROM records WHERE sequence = 9",
            "record 9 is missing",
        ),
        (
            "torn",
            "UPDATE records SET body = '{\"text\":' WHERE sequence = 4",
            "record 4:",
        ),
    ] {
        let path = make(name);
        Connection::open(&path)
            .unwrap()
            .execute_batch(damage)
            .unwrap();
        let error = Journal::<Note>::open(&path)
            .unwrap()
            .replay(|_, _| {})
            .unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_copy_is_of_one_instant_and_replaces_nothing() {
    let dir = TempDir::new().unwrap();
    let (path, copy) = (dir.path().join("journal.sqlite"), dir.path().join("copy"));
    let mut journal = Journal::open(&path).unwrap();
    journal
        .append(&[entry(None, "a"), entry(Some(job(1)), "b")])
        .unwrap();
    // While it is open for writing.
    let reader = journal.reader().unwrap();
    reader.check().unwrap();
    reader.backup(&copy).unwrap();
    journal.append(&[entry(None, "c")]).unwrap();
    let error = reader.backup(&copy).unwrap_err();
    assert!(matches!(error, JournalError::Io { .. }), "{error}");
    assert_eq!(
        fs::read_dir(dir.path())
            .unwrap()
            .filter(|e| e
                .as_ref()
                .unwrap()
                .path()
                .extension()
                .is_some_and(|x| x == "part"))
            .count(),
        0
    );

    // It is a journal like any other.
    let mut copied = Journal::<Note>::open(&copy).unwrap();
    assert_eq!(texts(&copied), [(1, "a".into()), (2, "b".into())]);
    assert_eq!(copied.append(&[entry(None, "d")]).unwrap(), 3);
    copied.reader().unwrap().check().unwrap();
}

#[test]
fn a_reader_finds_what_is_missing() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.sqlite");
    let mut journal = Journal::open(&path).unwrap();
    let all: Vec<_> = ["a", "b", "c"].map(|text| entry(None, text)).into();
    journal.append(&all).unwrap();
    let reader = journal.reader().unwrap();
    let sql = Connection::open(&path).unwrap();
    sql.execute("DELETE FROM records WHERE sequence = 2", [])
        .unwrap();
    let error = reader.replay(|_| {}).unwrap_err();
    assert!(error.to_string().contains("record 2 is missing"), "{error}");
    sql.pragma_update(None, "user_version", 99).unwrap();
    let error = reader.check().unwrap_err();
    assert!(
        matches!(error, JournalError::Newer { found: 99, .. }),
        "{error}"
    );
}

#[test]
fn what_is_forgotten_is_not_missed_and_what_is_lost_is() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.sqlite");
    let mut journal = Journal::open(&path).unwrap();
    let all: Vec<_> = ["a", "b", "c", "d"].map(|text| entry(None, text)).into();
    journal.append(&all).unwrap();
    // In whatever order, from the beginning and next to one another.
    assert_eq!(journal.replace(&[entry(None, "e")], &[2, 1]).unwrap(), 5);
    assert_eq!(journal.replace(&[], &[3]).unwrap(), 5);
    let left = [(4, "d".to_owned()), (5, "e".to_owned())];
    assert_eq!(texts(&journal), left);
    drop(journal);
    let mut journal = Journal::open(&path).unwrap();
    assert_eq!(texts(&journal), left);

    // All or nothing: one that is not there, and one with none after it.
    for superseded in [[4, 1], [4, 6]] {
        let error = journal.replace(&[entry(None, "f")], &superseded);
        assert!(matches!(error, Err(JournalError::Sqlite { .. })));
        assert_eq!(texts(&journal), left);
    }
    let sql = Connection::open(&path).unwrap();
    for (damage, words) in [
        (
            "UPDATE records SET forgotten = 4",
            "counts more forgotten ones",
        ),
        ("UPDATE records SET forgotten = 2", "record 3 is missing"),
        (
            "UPDATE records SET forgotten = 0; DELETE FROM records WHERE sequence = 4",
            "record 1 is missing",
        ),
    ] {
        sql.execute_batch(damage).unwrap();
        let error = journal.replay(|_, _| {}).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_journal_of_the_first_format_is_read_as_it_is_and_brought_up_when_written() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.sqlite");
    Journal::open(&path)
        .unwrap()
        .append(&[entry(None, "a"), entry(None, "b")])
        .unwrap();
    let sql = Connection::open(&path).unwrap();
    sql.execute_batch("ALTER TABLE records DROP COLUMN forgotten; PRAGMA user_version = 1")
        .unwrap();
    let version = || -> i64 {
        sql.pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap()
    };
    let reader = super::JournalReader::<Note>::open(&path).unwrap();
    reader.check().unwrap();
    let mut seen = Vec::new();
    reader.replay(|entry| seen.push(entry.body.text)).unwrap();
    assert_eq!((seen, version()), (vec!["a".into(), "b".into()], 1));

    let mut journal = Journal::open(&path).unwrap();
    journal.replace(&[entry(None, "c")], &[1]).unwrap();
    assert_eq!(texts(&journal), [(2, "b".into()), (3, "c".into())]);
    assert_eq!(version(), 3);
}
