use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf};

use muster_coordinator::{Coordinator, CoordinatorError, Options, UserQuotas};

use serde_json::json;

use crate::{
    client::DEFAULT_LISTEN,
    failure::Failure,
    limits,
    output::{self, Output},
    signals::Signals,
};

/// Arguments of `muster coordinator`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster coordinator --data-dir /var/lib/muster
  muster coordinator --listen 0.0.0.0:7070 --tls certs/coordinator --data-dir /var/lib/muster
  muster coordinator --listen 0.0.0.0:7070 --tokens tokens.toml --data-dir /var/lib/muster
  muster coordinator --user-quota 8 --user-quota anna=16 --data-dir /var/lib/muster

It ends on Ctrl-C or SIGTERM. Agents, workers and jobs go on without it, and find it again when it is back.")]
pub struct Args {
    /// Address to listen on; port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_LISTEN)]
    listen: SocketAddr,
    /// Holds the journal and the jobs' files
    #[arg(long, value_name = "DIR", default_value = "muster-data/coordinator")]
    data_dir: PathBuf,
    /// Serve over TLS with the tls.crt and tls.key in DIR; callers prove who they are by certificates of the ca.crt there
    #[arg(long, value_name = "DIR", env = "MUSTER_TLS")]
    tls: Option<PathBuf>,
    /// Callers prove who they are by tokens of this file, which `muster token` writes
    #[arg(long, value_name = "FILE", env = "MUSTER_TOKENS")]
    tokens: Option<PathBuf>,
    /// Accept that everyone who reaches the address may submit jobs; needed beyond loopback without certificates and tokens
    #[arg(long)]
    insecure: bool,
    /// Slots that the jobs of each user may hold, or with NAME=N those of one user; 0: any number. May be repeated
    #[arg(long = "user-quota", value_name = "[NAME=]N", value_parser = quota)]
    user_quotas: Vec<(Option<String>, u32)>,
    /// How to print where it listens; JSON is one line
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Reads `N` or `NAME=N`.
fn quota(text: &str) -> Result<(Option<String>, u32), String> {
    let (user, number) = match text.rsplit_once('=') {
        Some((user, number)) => (Some(user.to_owned()), number),
        None => (None, text),
    };
    let slots = number.parse().map_err(|_| {
        format!("{number:?} is no number of slots; give N for everyone, or NAME=N, such as anna=8")
    })?;
    Ok((user, slots))
}

/// All quotas together; each user has one.
fn quotas(given: Vec<(Option<String>, u32)>) -> Result<UserQuotas, Failure> {
    let mut quotas = UserQuotas::default();
    let mut seen = BTreeSet::new();
    for (user, slots) in given {
        if !seen.insert(user.clone()) {
            let whose = user.map_or_else(|| "everyone".to_owned(), |user| format!("{user:?}"));
            let message = format!("--user-quota is given twice for {whose}");
            return Err(Failure::usage(message).help("give each user one quota"));
        }
        match user {
            Some(user) => drop(quotas.named.insert(user, slots)),
            None => quotas.everyone = slots,
        }
    }
    Ok(quotas)
}

/// Serves until asked to end.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let mut options = Options::new(args.listen, args.data_dir);
    options.tls = args.tls;
    options.tokens = args.tokens;
    options.insecure = args.insecure;
    options.user_quotas = quotas(args.user_quotas)?;
    limits::raise_open_files();
    let mut handle = Coordinator::start(options).await.map_err(failure)?;
    match args.output {
        Output::Json => output::json_line(&json!({ "url": handle.url() }))?,
        Output::Table => output::line(format_args!("coordinator: {}", handle.url()))?,
    }
    let outcome = tokio::select! {
        outcome = handle.join() => outcome,
        () = signals.next() => Ok(()),
    };
    outcome.and(handle.shutdown().await).map_err(failure)
}

/// What the coordinator says, as a command's failure.
pub fn failure(error: CoordinatorError) -> Failure {
    match error {
        CoordinatorError::Exposed { .. }
        | CoordinatorError::Credentials(_)
        | CoordinatorError::Tokens(_) => Failure::usage(error),
        _ => Failure::operation(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_quota_is_everyones_or_one_users() {
        assert_eq!(quota("8"), Ok((None, 8)));
        assert_eq!(quota("anna=0"), Ok((Some("anna".into()), 0)));
        assert_eq!(quota("a=b=3"), Ok((Some("a=b".into()), 3)));
        for wrong in ["", "anna", "anna=", "-1", "anna=many"] {
            assert!(quota(wrong).unwrap_err().contains("anna=8"), "{wrong}");
        }
    }

    #[test]
    fn nobody_has_two_quotas() {
        let anna = || Some("anna".to_owned());
        let both = quotas(vec![(None, 4), (anna(), 8)]).unwrap();
        assert_eq!((both.of("anna"), both.of("eve")), (Some(8), Some(4)));
        assert!(quotas(vec![(anna(), 4), (anna(), 8)]).is_err());
        assert!(quotas(vec![(None, 4), (None, 4)]).is_err());
    }
}
