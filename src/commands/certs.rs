use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::Subcommand;
use jiff::Timestamp;
use muster_access::{
    ANY_NODE, Authority, AuthorityError, Certificate, Identity, Role, Subject, Validity, is_a_name,
};
use serde_json::json;

use crate::{
    failure::Failure,
    output::{self, Output},
};

/// The authority's own directory, which stays where it was made.
const AUTHORITY: &str = "ca";
/// The coordinator's.
const COORDINATOR: &str = "coordinator";
/// The authority outlives what it signs.
const AUTHORITY_DAYS: u32 = 3650;

/// Arguments of `muster certs`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster certs init certs --host head.cluster --host 10.0.0.5
  muster coordinator --listen 0.0.0.0:7070 --tls certs/coordinator
  muster agent --coordinator https://head.cluster:7070 --credentials certs/node
  muster jobs --coordinator https://head.cluster:7070 --credentials certs/admin
  muster certs issue certs anna --role submitter
  muster certs issue certs node --any-node --renew
  muster certs show certs/anna

Each directory is one party's: hand over that one, and keep ca/ca.key to yourself. The files are named as in a Kubernetes \
TLS secret, and any authority will do whose certificates say O=muster:ROLE and CN=NAME.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an authority, and certificates of the coordinator, of an admin and of nodes
    #[command(after_help = "\
Examples:
  muster certs init certs --host head.cluster --host 10.0.0.5")]
    Init {
        /// Where they go: DIR/ca, DIR/coordinator, DIR/admin, DIR/node
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// A name or address at which the coordinator is reached, beside localhost; may be repeated
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        /// How long they hold; the authority itself holds ten years
        #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// How to print what was made
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Make one more certificate, in DIR/NAME
    #[command(after_help = "\
Examples:
  muster certs issue certs anna --role submitter
  muster certs issue certs node-7 --role node
  muster certs issue certs coordinator --host head.cluster --renew")]
    Issue {
        /// Where `muster certs init` made the authority
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// Whom it makes of its holder: a user, or a node of that name; `coordinator` with --host
        #[arg(value_name = "NAME")]
        name: String,
        /// viewer, submitter, admin or node
        #[arg(long, required_unless_present_any = ["hosts", "any_node"], conflicts_with = "hosts")]
        role: Option<Role>,
        /// For agents, whatever their node is called
        #[arg(long, conflicts_with_all = ["hosts", "role"])]
        any_node: bool,
        /// A name or address at which the coordinator is reached, beside localhost; may be repeated
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        /// How long it holds
        #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// Replace one that is there; agents and workers use the new one from their next connection on
        #[arg(long)]
        renew: bool,
        /// How to print what was made
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Show what certificates say, and how long they hold
    #[command(after_help = "\
Examples:
  muster certs show certs/anna certs/coordinator
  muster certs show certs/* -o json | jq '.[] | select(.valid_now | not)'")]
    Show {
        /// Credentials directories, or certificate files
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<PathBuf>,
        /// How to print them
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

/// Makes or shows certificates.
pub fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::Init {
            directory,
            hosts,
            days,
            output,
        } => init(&directory, hosts, days, output),
        Command::Issue {
            directory,
            name,
            role,
            any_node,
            hosts,
            days,
            renew,
            output,
        } => {
            let subject = match role {
                Some(role) => caller(&name, role),
                None if any_node => caller(ANY_NODE, Role::Node),
                None => server(hosts),
            };
            let out = directory.join(&name);
            if !is_a_name(&name) || name == AUTHORITY {
                let message = format!("{name:?} cannot be a certificate's name");
                return Err(Failure::usage(message).help("use letters, digits, dots and dashes"));
            }
            if out.join("tls.crt").exists() && !renew {
                let message = format!("{} holds a certificate already", out.display());
                return Err(Failure::usage(message).help("pass --renew to replace it"));
            }
            let authority = Authority::open(&directory.join(AUTHORITY)).map_err(failure)?;
            issue(&authority, &subject, days, &out)?;
            match output {
                Output::Json => output::json_line(&json!({ "directory": out })),
                Output::Table => output::line(out.display()),
            }
        }
        Command::Show { paths, output } => show(&paths, output),
    }
}

fn init(directory: &Path, hosts: Vec<String>, days: u32, output: Output) -> Result<(), Failure> {
    let validity = Validity {
        from: SystemTime::now(),
        days: AUTHORITY_DAYS,
    };
    let authority = Authority::create(&directory.join(AUTHORITY), validity).map_err(failure)?;
    let parties = [
        (COORDINATOR, server(hosts), "for `muster coordinator --tls`"),
        (
            "admin",
            caller("admin", Role::Admin),
            "for whoever runs the cluster",
        ),
        (
            "node",
            caller(ANY_NODE, Role::Node),
            "for agents, whatever their node is called",
        ),
    ];
    let mut table = output::pairs();
    let mut made = vec![directory.join(AUTHORITY)];
    let key = directory.join(AUTHORITY).join("ca.key");
    table.add_row([
        key.display().to_string(),
        "signs certificates: keep it to yourself".into(),
    ]);
    for (name, subject, purpose) in parties {
        let out = directory.join(name);
        issue(&authority, &subject, days, &out)?;
        table.add_row([out.display().to_string(), purpose.to_owned()]);
        made.push(out);
    }
    match output {
        Output::Json => output::json_line(&json!({ "directories": made })),
        Output::Table => output::line(table),
    }
}

fn issue(authority: &Authority, subject: &Subject, days: u32, out: &Path) -> Result<(), Failure> {
    let validity = Validity {
        from: SystemTime::now(),
        days,
    };
    authority.issue(subject, validity, out).map_err(failure)
}

fn caller(name: &str, role: Role) -> Subject {
    Subject::Caller(Identity {
        name: name.to_owned(),
        role,
    })
}

/// A coordinator is always reached from its own machine, too.
fn server(given: Vec<String>) -> Subject {
    let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".into(), "::1".into()];
    for host in given {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    Subject::Server { hosts }
}

fn show(paths: &[PathBuf], output: Output) -> Result<(), Failure> {
    let now = Timestamp::now();
    let mut table = output::table(["CERTIFICATE", "NAME", "ROLE", "HOSTS", "HOLDS UNTIL"]);
    let mut objects = Vec::new();
    for path in paths {
        let file = match path.is_dir() {
            true => ["tls.crt", "ca.crt"]
                .map(|name| path.join(name))
                .into_iter()
                .find(|it| it.exists()),
            false => None,
        };
        let file = file.unwrap_or_else(|| path.clone());
        let certificate = Certificate::read(&file).map_err(Failure::operation)?;
        let role = match &certificate.identity {
            Some(identity) => identity.role.as_str(),
            None if certificate.is_authority => "authority",
            None if !certificate.hosts.is_empty() => "server",
            None => "none",
        };
        let wrong = certificate.wrong_time(now);
        objects.push(json!({
            "path": file,
            "name": certificate.name,
            "role": role,
            "hosts": certificate.hosts,
            "not_before": certificate.not_before.to_string(),
            "not_after": certificate.not_after.to_string(),
            "valid_now": wrong.is_none(),
        }));
        table.add_row([
            file.display().to_string(),
            certificate.name,
            role.to_owned(),
            certificate.hosts.join(" "),
            wrong.unwrap_or_else(|| certificate.not_after.to_string()),
        ]);
    }
    match output {
        Output::Json => output::json(&objects),
        Output::Table => output::line(table),
    }
}

fn failure(error: AuthorityError) -> Failure {
    match error {
        AuthorityError::Exists { .. } => Failure::usage(error),
        _ => Failure::operation(error),
    }
}
