use std::{net::UdpSocket, path::PathBuf, time::Duration};

use muster_agent::{Agent, AgentError, Options, Pinning, SlotsOption};
use serde_json::json;

use crate::{
    client::{self, Coordinator},
    commands,
    failure::Failure,
    limits,
    output::{self, Output},
    signals::Signals,
    worker_binary,
};

/// How long workers that have not left in good order may take to end; then they are killed.
const END_GRACE: Duration = Duration::from_secs(2);

/// Arguments of `muster agent`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster agent --coordinator http://head:7070 --name node-1 --data-dir /var/lib/muster
  muster agent --coordinator http://head:7070 --slots 4 --advertise 10.0.0.5
  muster agent --coordinator https://head:7070 --credentials /etc/muster/node

It ends on Ctrl-C or SIGTERM, and its workers with it, unless --leave-workers is given. Before, it \
has them leave in good order for up to --grace seconds: their jobs go on with workers of other nodes \
without losing a step, and one that cannot saves a checkpoint, waits, and resumes by itself when \
there is room for it. A second signal ends them at once. Where the agent is killed or crashes, its \
workers train on, and the next agent on the same data directory takes them over.")]
pub struct Args {
    #[command(flatten)]
    coordinator: Coordinator,
    /// Slots to offer: dealt over the GPUs, or so many CPU slots without a GPU [default: one a GPU, or one CPU slot]
    #[arg(long, value_name = "N")]
    slots: Option<u32>,
    /// The node's name; no two nodes have the same [default: the host's name]
    #[arg(long)]
    name: Option<String>,
    /// Holds the workers' logs and what is known of them; on a disk of this machine
    #[arg(long, value_name = "DIR", default_value = "muster-data/agent")]
    data_dir: PathBuf,
    /// Host or IP at which other nodes reach this one's workers [default: the address that this machine reaches the
    /// coordinator from]
    #[arg(long, value_name = "ADDR")]
    advertise: Option<String>,
    /// How long workers may take to leave in good order when the agent is to end: to move elsewhere or to save; then they are
    /// ended. Five seconds less than what Slurm and Kubernetes leave by default. 0: end them at once
    #[arg(long, value_name = "SECONDS", default_value_t = 25, value_parser = clap::value_parser!(u32).range(..=86_400))]
    grace: u32,
    /// Let the kernel move workers over all cores. Otherwise several CPU slots share the cores out, each of one NUMA node where
    /// that can be, and a worker on a GPU stays near it
    #[arg(long)]
    no_pin: bool,
    /// On Ctrl-C or SIGTERM, let the workers train on until the next agent on this data directory takes them over, as for an
    /// upgrade
    #[arg(long)]
    leave_workers: bool,
    /// How to print what it offers; JSON is one line
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Serves until asked to end.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let url = args.coordinator.full_url()?;
    let name = args.name.unwrap_or_else(host_name);
    let advertise = args.advertise.unwrap_or_else(|| own_address(&url));
    let mut options = Options::new(
        url,
        &name,
        args.data_dir,
        worker_binary::find()?,
        commands::shim::command()?,
    );
    options.credentials = args.coordinator.credentials;
    options.advertise.clone_from(&advertise);
    if args.no_pin {
        options.pinning = Pinning::Never;
    }
    options.slots = args.slots.map_or(SlotsOption::Auto, SlotsOption::Count);
    limits::raise_open_files();
    let handle = Agent::start(options).await.map_err(failure)?;
    let devices: Vec<_> = handle.slots().iter().map(|it| it.device.as_str()).collect();
    match args.output {
        Output::Json => {
            let offer = json!({ "node": name, "address": advertise, "slots": devices });
            output::json_line(&offer)?;
        }
        Output::Table => output::line(format_args!(
            "agent: {name} at {advertise} offers {} slots: {}",
            devices.len(),
            devices.join(" ")
        ))?,
    }
    signals.next().await;
    if args.leave_workers {
        handle.leave().await;
        return Ok(());
    }
    let grace = Duration::from_secs(args.grace.into());
    let end = async {
        if !grace.is_zero() {
            handle.drain(grace).await;
        }
        handle.shutdown(END_GRACE).await;
    };
    tokio::select! {
        () = end => Ok(()),
        // Dropping the handle kills what still runs.
        () = signals.next() => Err(Failure::operation("ended before all workers had left; they were killed")),
    }
}

/// What the agent says, as a command's failure.
pub fn failure(error: AgentError) -> Failure {
    match error {
        AgentError::Dial(error) => client::failure(error),
        AgentError::Slots { .. } | AgentError::Name { .. } => Failure::usage(error),
        AgentError::WorkerBinary { .. } | AgentError::DataDir { .. } | AgentError::Busy { .. } => {
            Failure::operation(error)
        }
    }
}

/// The host's name, with what a node's name cannot hold left out.
pub fn host_name() -> String {
    let name = nix::sys::utsname::uname().map_or_else(
        |_| String::new(),
        |names| names.nodename().to_string_lossy().into_owned(),
    );
    let plain: String = name
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
        .collect();
    match plain.trim_start_matches('.') {
        "" => "node".to_owned(),
        plain => plain.to_owned(),
    }
}

/// The address of this machine on the way to the coordinator. Nothing is sent: connecting a datagram socket only picks it.
pub fn own_address(url: &str) -> String {
    let place = muster_access::place(url);
    let find = |local: &str| {
        let socket = UdpSocket::bind(local).ok()?;
        socket.connect(place).ok()?;
        Some(socket.local_addr().ok()?.ip().to_string())
    };
    find("0.0.0.0:0")
        .or_else(|| find("[::]:0"))
        .unwrap_or_else(|| "127.0.0.1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_on_loopback_is_reached_from_loopback() {
        assert_eq!(own_address("http://127.0.0.1:7070"), "127.0.0.1");
        assert_eq!(own_address("https://127.0.0.1:7070/"), "127.0.0.1");
    }
}
