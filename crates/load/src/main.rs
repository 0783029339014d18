//! Plays nodes and workers against a real coordinator, over real gRPC, and says what that costs. Part of `bench/`; not shipped.
//!
//! It waits until a job is placed on its nodes, lets all workers but one get warm, then that one, and measures from there: the
//! forming of the generation, a while of training in which each worker reports once a second, and what the death of a worker
//! costs. The figures go to stdout as one JSON object; a line before says when the nodes are there.

mod figures;
mod node;
mod probe;
mod usage;
mod worker;
mod world;

use std::{
    error::Error,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use clap::Parser;
use muster_proto::v1::{StatusView, job_service_client::JobServiceClient};
use tokio::sync::{Notify, mpsc};

use figures::{Figures, Lost, percentile};
use node::Nodes;
use probe::{Probe, connect};
use usage::{Usage, journal_bytes, memory_mib};
use world::{How, Mark, World};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(180);
/// What is under way when the last worker attaches is over after this.
const SETTLE: Duration = Duration::from_secs(1);
/// Between two deaths, in which all train.
const BETWEEN: Duration = Duration::from_secs(5);
/// So often the whole status is asked for.
const FULL_STATUSES: usize = 10;

#[derive(Debug, Parser)]
struct Options {
    /// Where it listens, as http://ADDRESS:PORT
    #[arg(long)]
    coordinator: String,
    /// Its process, on this machine
    #[arg(long)]
    pid: u32,
    /// Its data directory
    #[arg(long)]
    data_dir: PathBuf,
    #[arg(long, default_value_t = 1250)]
    nodes: usize,
    #[arg(long, default_value_t = 8)]
    slots: u32,
    /// Workers' streams that share an HTTP/2 connection
    #[arg(long, default_value_t = 100)]
    streams: usize,
    /// How long training is measured
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// So many workers die, one after the other
    #[arg(long, default_value_t = 3)]
    deaths: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let figures = runtime.block_on(measure(&options))?;
    println!("{}", serde_json::to_string(&figures)?);
    // Whoever still runs has nobody to tell.
    runtime.shutdown_background();
    Ok(())
}

/// What the workers come to, as they come to it.
struct Marks(mpsc::UnboundedReceiver<Mark>);

impl Marks {
    /// Waits until so many marks of a kind have come; what else comes meanwhile is passed over. Returns when the last came.
    async fn wait(
        &mut self,
        what: &str,
        count: usize,
        is_one: impl Fn(Mark) -> bool,
    ) -> Result<Instant, String> {
        let mut left = count;
        let waiting = async {
            while left > 0 {
                match self.0.recv().await {
                    Some(mark) => left -= usize::from(is_one(mark)),
                    None => return Err("nobody is left".to_owned()),
                }
            }
            Ok(Instant::now())
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!(
                "{left} of {count} {what} are missing after {} s",
                PATIENCE.as_secs()
            )),
        }
    }

    async fn formed(&mut self, generation: u64, count: usize) -> Result<Instant, String> {
        let is_one = |mark| matches!(mark, Mark::Formed { generation: it, .. } if it == generation);
        self.wait("workers that are told of their generation", count, is_one)
            .await
    }

    async fn training(&mut self, generation: u64) -> Result<Instant, String> {
        let is_one = |mark| mark == Mark::Training { generation };
        self.wait("generations that train", 1, is_one).await
    }
}

async fn measure(options: &Options) -> Result<Figures, Box<dyn Error>> {
    let workers = options.nodes * options.slots as usize;
    let (world, marks) = World::new();
    let (world, mut marks) = (Arc::new(world), Marks(marks));
    let mut channels = Vec::new();
    for _ in 0..workers.div_ceil(options.streams) {
        channels.push(connect(&options.coordinator).await?);
    }
    let connections = channels.len();
    let hold = Arc::new(Notify::new());
    let nodes = Nodes::new(Arc::clone(&world), channels, (workers, Arc::clone(&hold)));
    let nodes = Arc::new(nodes);
    for number in 0..options.nodes {
        tokio::spawn(Arc::clone(&nodes).run(number, options.slots));
    }
    marks
        .wait("nodes", options.nodes, |mark| mark == Mark::Node)
        .await?;
    println!("nodes: {}", options.nodes);

    let submitted = Instant::now();
    let welcomed = marks
        .wait("welcomes", workers, |mark| mark == Mark::Welcomed)
        .await?;
    let attaching_s = welcomed.duration_since(submitted).as_secs_f64();
    tokio::time::sleep(SETTLE).await;
    let (begun, told) = (Instant::now(), world.said.load(Ordering::Relaxed));
    hold.notify_one();
    let forming_s = (marks.formed(1, workers).await? - begun).as_secs_f64();
    let training_s = (marks.training(1).await? - begun).as_secs_f64();
    let forming_messages = world.said.load(Ordering::Relaxed) - told;

    // The first steps come while the last ones are still saying that they are ready.
    tokio::time::sleep(SETTLE * 2).await;
    let probe = Probe::start(options.coordinator.clone(), nodes.job());
    let (before, own) = (Usage::of(options.pid)?, Usage::of(std::process::id())?);
    let (said, bytes) = (
        world.said.load(Ordering::Relaxed),
        journal_bytes(&options.data_dir),
    );
    tokio::time::sleep(Duration::from_secs(options.seconds)).await;
    let cores = Usage::of(options.pid)?.cores_since(before);
    let own_cores = Usage::of(std::process::id())?.cores_since(own);
    let (memory, largest) = memory_mib(options.pid)?;
    let said = world.said.load(Ordering::Relaxed) - said;
    let grown = journal_bytes(&options.data_dir).saturating_sub(bytes);
    let mut summaries = probe.finish()?;
    summaries.sort_by(f64::total_cmp);
    let full_status_ms = full_statuses(options, &nodes.job()).await?;

    let (mut lost, mut generation) = (Vec::new(), 1);
    for number in 0..options.deaths {
        lost.push(lose_one(&nodes, &mut marks, generation, workers, number).await?);
        generation += 2;
        tokio::time::sleep(BETWEEN).await;
    }
    Ok(Figures {
        workers,
        nodes: options.nodes,
        connections,
        streams: options.streams,
        attaching_s,
        forming_s,
        forming_messages,
        training_s,
        seconds: options.seconds,
        messages_per_second: said as f64 / options.seconds as f64,
        cores,
        own_cores,
        memory_mib: memory,
        largest_mib: memory_mib(options.pid)?.1.max(largest),
        journal_bytes_per_second: grown as f64 / options.seconds as f64,
        summaries: summaries.len(),
        summary_median_ms: percentile(&summaries, 0.5),
        summary_p99_ms: percentile(&summaries, 0.99),
        summary_largest_ms: percentile(&summaries, 1.0),
        full_status_ms,
        lost,
    })
}

/// The median time of the whole status, with each worker in it.
async fn full_statuses(options: &Options, job: &str) -> Result<f64, Box<dyn Error>> {
    let channel = connect(&options.coordinator).await?;
    let mut client = JobServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let mut took = Vec::new();
    for _ in 0..FULL_STATUSES {
        let begun = Instant::now();
        probe::status(&mut client, job, StatusView::Full).await?;
        took.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    took.sort_by(f64::total_cmp);
    Ok(percentile(&took, 0.5))
}

/// Kills a worker: the others form a generation without it at once, and one with its replacement as soon as that is warm.
async fn lose_one(
    nodes: &Nodes,
    marks: &mut Marks,
    generation: u64,
    workers: usize,
    number: usize,
) -> Result<Lost, Box<dyn Error>> {
    let victim = nodes.worker(workers / 2 + 7 * number);
    let victim = victim.ok_or("nobody is left")?;
    let begun = Instant::now();
    nodes.kill(&victim).await;
    nodes.world.stop(generation, How::Broken);
    let survivors = marks.formed(generation + 1, workers - 1).await?;
    let all = marks.formed(generation + 2, workers).await?;
    let training = marks.training(generation + 2).await?;
    Ok(Lost {
        survivors_formed_s: (survivors - begun).as_secs_f64(),
        all_formed_s: (all - begun).as_secs_f64(),
        all_training_s: (training - begun).as_secs_f64(),
    })
}
