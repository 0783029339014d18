use std::{
    any::Any,
    collections::BTreeMap,
    panic::{self, AssertUnwindSafe},
    thread,
};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{PrepareError, documents::RawDocument};

/// Raw bytes that go to a thread at a time.
const BATCH_BYTES: usize = 256 << 10;

type Raw = Result<Vec<RawDocument>, PrepareError>;

/// Sends documents through `encode` on some threads, and what comes out through `sink` on this one, in the documents' order.
/// The first error in that order ends it all, and is returned.
///
/// A batch needs a ticket from its reading to its writing; there are two a thread and two more, so that many batches are in
/// memory at most, also while one slow batch holds up those behind it.
pub(super) fn run<T: Send>(
    documents: impl Iterator<Item = Result<RawDocument, PrepareError>> + Send,
    threads: usize,
    encode: impl Fn(RawDocument) -> Result<T, PrepareError> + Sync,
    mut sink: impl FnMut(Vec<T>) -> Result<(), PrepareError>,
) -> Result<(), PrepareError> {
    let in_flight = threads * 2 + 2;
    let (give_ticket, take_ticket) = bounded(in_flight);
    let (give_work, take_work) = bounded(in_flight);
    let (give_done, take_done) = bounded(in_flight);
    let encode = &encode;
    thread::scope(|scope| {
        let spawn_error = |error: std::io::Error| PrepareError::Threads(error.to_string());
        // Each side ends when the other's end of its channel is gone. Those held here must go when this closure returns.
        let take_done = take_done;
        let give_ticket = give_ticket;
        for _ in 0..in_flight {
            let _ = give_ticket.send(());
        }
        let reader = thread::Builder::new().name("read".into());
        reader
            .spawn_scoped(scope, move || read(documents, &take_ticket, &give_work))
            .map_err(spawn_error)?;
        for number in 0..threads {
            let (take_work, give_done) = (take_work.clone(), give_done.clone());
            let worker = thread::Builder::new().name(format!("tokenize-{number}"));
            worker
                .spawn_scoped(scope, move || work(&take_work, &give_done, encode))
                .map_err(spawn_error)?;
        }
        drop((take_work, give_done));

        let mut waiting = BTreeMap::new();
        let mut next = 0;
        for (number, batch) in &take_done {
            waiting.insert(number, batch);
            while let Some(batch) = waiting.remove(&next) {
                sink(batch?)?;
                next += 1;
                let _ = give_ticket.send(());
            }
        }
        Ok(())
    })
}

/// Puts documents into numbered batches. An error is a batch of its own, and the last.
fn read(
    mut documents: impl Iterator<Item = Result<RawDocument, PrepareError>>,
    take_ticket: &Receiver<()>,
    give_work: &Sender<(u64, Raw)>,
) {
    let mut failure = None;
    for number in 0.. {
        if take_ticket.recv().is_err() {
            return;
        }
        let batch = match failure.take() {
            Some(error) => Err(error),
            None => Ok(batch(&mut documents, &mut failure)),
        };
        let last = batch.as_ref().map_or(true, Vec::is_empty) && failure.is_none();
        if give_work.send((number, batch)).is_err() || last {
            return;
        }
    }
}

/// The documents of one batch; none at the end. Those before an error still count.
fn batch(
    documents: &mut impl Iterator<Item = Result<RawDocument, PrepareError>>,
    failure: &mut Option<PrepareError>,
) -> Vec<RawDocument> {
    let (mut batch, mut bytes) = (vec![], 0);
    while bytes < BATCH_BYTES {
        match documents.next() {
            Some(Ok(document)) => {
                bytes += document.bytes.len();
                batch.push(document);
            }
            Some(Err(error)) => {
                *failure = Some(error);
                break;
            }
            None => break,
        }
    }
    batch
}

fn work<T>(
    take_work: &Receiver<(u64, Raw)>,
    give_done: &Sender<(u64, Result<Vec<T>, PrepareError>)>,
    encode: &(impl Fn(RawDocument) -> Result<T, PrepareError> + Sync),
) {
    for (number, batch) in take_work {
        let done = batch.and_then(|batch| {
            batch
                .into_iter()
                .map(|document| guarded(document, encode))
                .collect()
        });
        if give_done.send((number, done)).is_err() {
            return;
        }
    }
}

/// Makes an error of a panic: a batch that never came back would hold up the others for ever.
fn guarded<T>(
    document: RawDocument,
    encode: &impl Fn(RawDocument) -> Result<T, PrepareError>,
) -> Result<T, PrepareError> {
    let (path, line) = (document.source.path.clone(), document.line);
    panic::catch_unwind(AssertUnwindSafe(|| encode(document))).unwrap_or_else(|panic| {
        Err(PrepareError::Document {
            path,
            line,
            reason: message(panic.as_ref()),
        })
    })
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use super::*;
    use crate::prepare::sources::{Source, SourceKind};

    /// Documents of one batch each, numbered by line.
    fn documents(count: u64) -> impl Iterator<Item = Result<RawDocument, PrepareError>> + Send {
        let source = Arc::new(Source {
            path: "in.txt".into(),
            kind: SourceKind::Text,
            bytes: 0,
        });
        (0..count).map(move |line| {
            Ok(RawDocument {
                source: Arc::clone(&source),
                line,
                byte: 0,
                bytes: vec![b'x'; BATCH_BYTES],
            })
        })
    }

    fn failure(line: u64) -> PrepareError {
        PrepareError::TooLarge {
            path: "in.txt".into(),
            line,
            limit_bytes: 0,
        }
    }

    #[test]
    fn order_is_kept_and_memory_is_bounded() {
        let (read, written, most) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let counted = documents(100).inspect(|_| {
            let in_flight =
                read.fetch_add(1, Ordering::SeqCst) + 1 - written.load(Ordering::SeqCst);
            most.fetch_max(in_flight, Ordering::SeqCst);
        });
        let mut lines = vec![];
        let slow_first = |document: RawDocument| {
            // The first batch is done only when the reader has got as far ahead as it ever may.
            while document.line == 0 && read.load(Ordering::SeqCst) < 8 {
                thread::yield_now();
            }
            Ok(document.line)
        };
        run(counted, 3, slow_first, |batch| {
            lines.extend(batch);
            written.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .unwrap();
        assert_eq!(lines, (0..100).collect::<Vec<_>>());
        assert_eq!(most.into_inner(), 8);
    }

    #[test]
    fn the_first_error_in_order_is_returned() {
        let mut seen = vec![];
        let encode = |document: RawDocument| match document.line {
            20.. => Err(failure(document.line)),
            line => Ok(line),
        };
        let error = run(documents(1000), 4, encode, |batch| {
            seen.extend(batch);
            Ok(())
        });
        assert!(matches!(
            error,
            Err(PrepareError::TooLarge { line: 20, .. })
        ));
        assert_eq!(seen, (0..20).collect::<Vec<_>>());

        let broken = documents(5).chain([Err(failure(77))]).chain(documents(5));
        let error = run(broken, 2, |document| Ok(document.line), |_| Ok(()));
        assert!(matches!(
            error,
            Err(PrepareError::TooLarge { line: 77, .. })
        ));
    }

    #[test]
    fn a_panic_and_a_full_disk_end_it_too() {
        let panics = |document: RawDocument| match document.line {
            3 => panic!("boom"),
            line => Ok(line),
        };
        let error = run(documents(1000), 2, panics, |_| Ok(())).unwrap_err();
        assert!(
            matches!(&error, PrepareError::Document { line: 3, reason, .. } if reason == "boom"),
            "{error}"
        );
        let error = run(
            documents(1000),
            2,
            |document| Ok(document.line),
            |_| Err(PrepareError::Cancelled),
        );
        assert!(matches!(error, Err(PrepareError::Cancelled)));
    }
}
