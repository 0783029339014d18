use std::{net::SocketAddr, path::PathBuf};

use muster_agent::survey_gpus;

use crate::{
    client::{Coordinator, DEFAULT_LISTEN, DEFAULT_URL},
    commands::agent::{host_name, own_address},
    doctor::{self, Finding, Verdict, readings},
    failure::Failure,
    output::{self, Output},
};

/// Arguments of `muster doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster doctor                                         # this machine
  muster doctor --coordinator http://head:7070          # as a node of that cluster
  muster doctor -o json | jq -r '.[] | select(.verdict != \"ok\").fix'

Exit code 1 if something fails; what is only warned about may be as you want it.")]
pub struct Args {
    /// A coordinator to reach from here
    #[arg(long, value_name = "URL", env = "MUSTER_COORDINATOR")]
    coordinator: Option<String>,
    /// Directory of what proves who calls it, as agents and commands would
    #[arg(long, value_name = "DIR", env = "MUSTER_CREDENTIALS")]
    credentials: Option<PathBuf>,
    /// The address that a coordinator here would listen on
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_LISTEN)]
    listen: SocketAddr,
    /// The data directory that a coordinator or an agent here would have
    #[arg(long, value_name = "DIR", default_value = "muster-data")]
    data_dir: PathBuf,
    /// How to print what was found
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
const PROTOCOL: &str = env!("MUSTER_PROTOCOL");

/// Looks this machine over.
pub async fn run(args: Args) -> Result<(), Failure> {
    let asked = args.coordinator.map(|url| Coordinator {
        url,
        credentials: args.credentials,
    });
    let url = asked.as_ref().map(Coordinator::full_url).transpose()?;
    let worker = readings::worker().await;
    let survey = survey_gpus();
    let gpus = survey.as_ref().map_or(0, |survey| survey.gpus.len());

    let mut findings = vec![doctor::judge_worker(&worker, VERSION)];
    findings.extend(doctor::judge_gpus(&survey, readings::has_nvidia_driver()));
    findings.push(doctor::judge_nccl(&survey, worker.report()));
    if let (Some(url), Some(asked)) = (&url, &asked) {
        let reading = readings::coordinator(asked).await;
        findings.push(doctor::judge_coordinator(url, &reading, VERSION, PROTOCOL));
        findings.extend(reading.ok().as_ref().map(doctor::judge_clock));
    }
    let port = readings::port(args.listen);
    findings.push(doctor::judge_port(args.listen, &port));
    findings.push(doctor::judge_name(&host_name()));
    let url = url.as_deref().unwrap_or(DEFAULT_URL);
    findings.push(doctor::judge_address(&own_address(url), url));
    let free = readings::free_space(&args.data_dir);
    findings.push(doctor::judge_data_dir(&args.data_dir, &free));
    match readings::limits() {
        Ok(limits) => findings.extend(doctor::judge_limits(limits, gpus)),
        Err(reason) => {
            let found = format!("/proc/self/limits: {reason}");
            findings.push(Finding::warn("limits", found, "see `ulimit -a`"));
        }
    }
    findings.push(doctor::judge_shm(&readings::free_shm(), gpus));
    tell(&findings, args.output)
}

fn tell(findings: &[Finding], output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        output::json(&findings)?;
    } else {
        let mut table = output::table(["CHECK", "VERDICT", "FOUND"]);
        for finding in findings {
            table.add_row([finding.check, finding.verdict.as_str(), &finding.found]);
        }
        output::line(table)?;
        for finding in findings.iter().filter(|it| !it.fix.is_empty()) {
            output::line(format_args!("\n{}: {}", finding.check, finding.fix))?;
        }
    }
    match findings.iter().any(|it| it.verdict == Verdict::Fail) {
        true => Err(Failure::told()),
        false => Ok(()),
    }
}
